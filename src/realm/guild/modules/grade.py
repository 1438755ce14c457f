"""Marking of a module's answers: exact, numeric, json, regex, set (realm-rules §14), strict by realm-rules §4.

    grade(Grader(type="numeric", tolerance=0.01), prompt, golden="3.14", response="3.142")

The whole response is the answer: an empty one, an echo of the prompt, a list of candidates, the answer given twice and
talk around the answer are wrong whatever the grader. No grader can be made to run long: numbers, JSON and sets are
read with limits, and regular expressions run in linear time (see `pattern`).
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation, localcontext
from functools import lru_cache
from typing import Any

from realm.guild.modules.manifest import Grader
from realm.guild.modules.pattern import Pattern
from realm.guild.skills.base import Grade

JSON_AT_MOST = 20_000  # characters
MEMBERS_AT_MOST = 500
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,20}|[0-9]{1,60})(?:\.[0-9]{1,60})?(?:[eE][+-]?[0-9]{1,3})?")
_RIGHT = Grade(True, 1.0, "right")


def grade(grader: Grader, prompt: str, golden: str, response: str) -> Grade:
    """Marks `response`. Raises ValueError where the golden answer or the pattern itself cannot be used."""
    answer = response.strip()
    if not answer:
        return _wrong("empty answer")
    if answer == prompt.strip():
        return _wrong("the answer repeats the prompt")
    return _GRADERS[grader.type](grader, golden.strip(), answer)


def faults(grader: Grader, prompt: str, golden: str, others: list[str]) -> list[str]:
    """What is wrong with a problem under this grader: its golden answer fails, or a cheat passes. Empty when sound.

    Args:
        others: golden answers of other problems, for the list of candidates.
    """
    try:
        right = grade(grader, prompt, golden, golden)
    except ValueError as error:
        return [str(error)]
    if not right.correct:
        return [f"its own golden answer fails ({right.reason})"]
    different = [other for other in others if other.strip() != golden.strip()]
    cheats = {"an empty answer": " \n", "an echo of the prompt": prompt,
              "the answer given twice": f"{golden}\n{golden}",
              "talk around the answer": f"I think it is {golden}, is it not?"}  # fmt: skip
    if different:
        cheats["a list of candidates"] = "\n".join([*different[:5], golden])
    return [f"{name} passes: {text[:60]!r}" for name, text in cheats.items()
            if grade(grader, prompt, golden, text).correct]  # fmt: skip


def _exact(grader: Grader, golden: str, answer: str) -> Grade:
    same = answer == golden or grader.ignore_case and answer.casefold() == golden.casefold()
    return _RIGHT if same else _wrong(f"expected {golden[:80]!r}")


def _numeric(grader: Grader, golden: str, answer: str) -> Grade:
    wanted, given = _decimal(golden), _decimal(answer)
    if wanted is None:
        raise ValueError(f"golden answer {golden[:40]!r} is no number; use another grader or correct the row")
    if given is None:
        return _wrong("wrong format: the answer must be one number and nothing else")
    with localcontext(prec=1_200):  # exact for everything that _NUMBER lets through but 1e999 beside 1e-999
        near = abs(wanted - given) <= Decimal(repr(grader.tolerance))
    return _RIGHT if near else _wrong(f"expected {golden[:80]}")


def _decimal(text: str) -> Decimal | None:
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None


def _json(grader: Grader, golden: str, answer: str) -> Grade:
    try:
        wanted = _load(golden)
    except ValueError as error:
        raise ValueError(f"golden answer {golden[:40]!r} is no JSON ({error}); correct the row") from error
    try:
        given = _load(answer)
    except ValueError as error:
        return _wrong(f"wrong format: no JSON value ({error})")
    return _RIGHT if _same(wanted, given) else _wrong(f"expected {golden[:80]}")


def _load(text: str) -> Any:
    if len(text) > JSON_AT_MOST:
        raise ValueError(f"{len(text)} characters, at most {JSON_AT_MOST}")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice")
    return made


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _same(a: Any, b: Any) -> bool:
    """JSON equality: the order of keys does not matter, 1 is 1.0, true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    both_numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return (both_numbers or type(a) is type(b)) and a == b


def _regex(grader: Grader, golden: str, answer: str) -> Grade:
    made = pattern_of(grader.pattern or "", golden if "{golden}" in (grader.pattern or "") else "", grader.ignore_case)
    return _RIGHT if made.matches(answer) else _wrong(f"expected an answer of the form {grader.pattern!r:.80}")


@lru_cache(maxsize=256)
def pattern_of(pattern: str, golden: str = "", ignore_case: bool = False) -> Pattern:
    """The pattern with the golden answer's own text for `{golden}`. Raises PatternError."""
    escaped = "".join(c if c.isalnum() or c.isspace() else "\\" + c for c in golden)
    return Pattern(pattern.replace("{golden}", f"(?:{escaped})"), ignore_case)


def _set(grader: Grader, golden: str, answer: str) -> Grade:
    wanted, given = _members(grader, golden), _members(grader, answer)
    if wanted is None:
        raise ValueError(f"golden answer {golden[:40]!r} is no set: members between {grader.separator!r} on one line, "
                         "each once; correct the row")  # fmt: skip
    if given is None:
        return _wrong(f"wrong format: members between {grader.separator!r} on one line, each once")
    if wanted == given:
        return _RIGHT
    right = len(wanted & given) / len(wanted | given)
    return Grade(False, round(0.5 * right, 3), f"{len(wanted - given)} members are missing, {len(given - wanted)} are "
                 "too many")  # fmt: skip


def _members(grader: Grader, text: str) -> frozenset[str] | None:
    if "\n" in text and "\n" not in grader.separator:
        return None
    parts = [part.strip() for part in text.split(grader.separator)]
    if grader.ignore_case:
        parts = [part.casefold() for part in parts]
    if not all(parts) or len(set(parts)) < len(parts) or len(parts) > MEMBERS_AT_MOST:
        return None
    return frozenset(parts)


def _wrong(reason: str) -> Grade:
    return Grade(False, 0.0, reason)


_GRADERS = {"exact": _exact, "numeric": _numeric, "json": _json, "regex": _regex, "set": _set}

"""Which grader marks these answers: tried in a fixed order, each verified on the answers, the first one wins.

    numeric   every answer is one number (none with leading zeros: those are codes)
    json      every answer is a JSON object or list
    set       members between one separator, at least two in 80 % of the answers, and their order says nothing
    regex     a few short answers that come with and without a full stop or in several cases: `{golden}[.!]?`
    exact     short answers: at most 8 words and 80 characters in 95 % of the rows, or answers that occur often

A candidate is verified with the module's own marking: it accepts every golden answer, rejects every answer of another
row that is not the same by its own normal form, an echo of the question, the empty answer, a list of candidates and
talk around the answer. Free text that none of them marks is refused: it can be imitated as a file quest, not graded.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from realm.guild.forge.rows import ForgeError, Item, plain
from realm.guild.modules.grade import _decimal, _load, _members, faults, grade  # the one reading of answers
from realm.guild.modules.manifest import Grader

SEPARATORS = (", ", "; ", "|", ",", ";", " / ")
SET_SHARE = 0.8  # of the answers have two members or more
LONG_WORDS, LONG_CHARS, SHORT_SHARE = 8, 80, 0.95
REPEATED = 0.5  # distinct answers per row, below which answers occur again and again
FEW = 20  # distinct answers of a regex candidate
OTHERS = 40  # answers of other rows that each row is marked against
CHECKED = 400  # rows that are marked against others; every row is marked against its own answer


@dataclass(frozen=True)
class Choice:
    """The grader, the items with the answers it marks, and what was tried."""

    grader: Grader
    items: list[Item]
    tried: list[dict[str, Any]]


def choose(items: Sequence[Item], determined: bool = False) -> Choice:
    """The first candidate that fits and is verified.

    Args:
        determined: an expression computes every answer from its question, so that even a long one is the only one.

    Raises:
        ForgeError: free_text: none does, with the reason of each.
    """
    tried: list[dict[str, Any]] = []
    for name, propose in _CANDIDATES.items():
        found = propose(items, determined)
        if isinstance(found, str):
            tried.append({"grader": name, "fits": False, "why": found})
            continue
        grader, marked = found
        wrong = verify(grader, marked)
        tried.append({"grader": name, "fits": not wrong, "why": "; ".join(wrong[:3]) or "verified",
                      "settings": grader.model_dump(exclude_defaults=True)})  # fmt: skip
        if not wrong:
            return Choice(grader, marked, tried)
    reasons = "; ".join(f"{t['grader']}: {t['why']}" for t in tried)
    raise ForgeError("free_text", f"no grader marks these answers ({reasons}). Free text can be imitated, not graded: "
                     "drop the file into the inbox, where it is trained as a file quest and proved by its held-out "
                     "loss", {"tried": tried})  # fmt: skip


def verify(grader: Grader, items: Sequence[Item]) -> list[str]:
    """What is wrong with a grader on these rows; empty when nothing is."""
    form = _FORMS[grader.type](grader)
    firsts: dict[Hashable, str] = {}
    for item in items:
        verdict = _marked(grader, item, item.golden)
        if verdict is not True:
            return [f"{item.file}:{item.line}: rejects its own answer {item.golden[:40]!r} ({verdict})"]
        firsts.setdefault(form(item.golden), item.golden)
    others, found = list(firsts.items()), []
    step = max(1, len(items) // CHECKED)
    for place, item in enumerate(items[::step]):
        own = form(item.golden)
        near = [others[(place * 7 + k) % len(others)] for k in range(min(OTHERS, len(others)))]
        for key, other in near:
            if key != own and _marked(grader, item, other) is True:
                found.append(f"{item.file}:{item.line}: accepts {other[:40]!r} for {item.golden[:40]!r}")
        found += [f"{item.file}:{item.line}: {fault}" for fault in
                  faults(grader, item.prompt, item.golden, [other for key, other in near if key != own])]  # fmt: skip
        if len(found) >= 5:
            break
    return found


def _marked(grader: Grader, item: Item, answer: str) -> bool | str:
    try:
        verdict = grade(grader, item.prompt, item.golden, answer)
    except ValueError as error:
        return str(error)
    return True if verdict.correct else verdict.reason


# --- candidates: a grader with the items as it marks them, or why it does not fit -------------------------------------

Found = tuple[Grader, list[Item]] | str


def _numeric(items: Sequence[Item], determined: bool) -> Found:
    for item in items:
        if _decimal(item.golden) is None:
            return f"{item.golden[:40]!r} ({item.file}:{item.line}) is no number"
        whole = item.golden.lstrip("+-").partition(".")[0]
        if len(whole) > 1 and whole.startswith("0"):
            return f"{item.golden[:40]!r} has leading zeros: a code, not a number"
    return Grader(type="numeric"), list(items)


def _json(items: Sequence[Item], determined: bool) -> Found:
    for item in items:
        try:
            value = _load(item.golden)
        except ValueError:
            return f"{item.golden[:40]!r} ({item.file}:{item.line}) is no JSON"
        if not isinstance(value, dict | list):
            return f"{item.golden[:40]!r} is a single JSON value, not an object or a list"
    return Grader(type="json"), list(items)


def _set(items: Sequence[Item], determined: bool) -> Found:
    why = "no separator divides the answers"
    for separator in SEPARATORS:
        grader = Grader(type="set", separator=separator)
        members = [_members(grader, item.golden) for item in items]
        if any(found is None for found in members):
            continue
        if sum(len(found) > 1 for found in members if found) < SET_SHARE * len(items):
            continue
        if any(len(member.split()) > 4 for found in members if found for member in found):
            why = f"parts between {separator!r} are phrases, not members"
            continue
        order = _order(items, separator)
        if order is None:
            return grader, list(items)
        return f"{order}: the order may be part of the answer"
    return why


def _order(items: Sequence[Item], separator: str) -> str | None:
    """What the order of the members follows in (nearly) all answers, or None where it follows nothing."""
    tallies: Counter[str] = Counter()
    several = 0
    for item in items:
        members = [part.strip() for part in item.golden.split(separator)]
        if len(members) < 2:
            continue
        several += 1
        numbers = [_decimal(member) for member in members]
        keys: list[Any] = [n for n in numbers if n is not None] if all(n is not None for n in numbers) else [
            member.casefold() for member in members]  # fmt: skip
        places = [item.prompt.find(member) for member in members]
        tallies["members in ascending order"] += keys == sorted(keys)
        tallies["members in descending order"] += keys == sorted(keys, reverse=True)
        tallies["members in the order of the question"] += min(places) >= 0 and places == sorted(places)
        tallies["members in the reverse order of the question"] += min(places) >= 0 and places == sorted(
            places, reverse=True)  # fmt: skip
    return next((name for name, count in tallies.items() if count >= 0.98 * several), None)


def _bare(text: str) -> str:
    return text.rstrip(" .!")


def _regex(items: Sequence[Item], determined: bool) -> Found:
    forms = {plain(_bare(item.golden)) for item in items}
    surfaces = {item.golden for item in items}
    if not 2 <= len(forms) <= FEW:
        return f"{len(forms)} different answers; this one is for 2 to {FEW} that are written in several ways"
    dressed = {surface for surface in surfaces if surface != _bare(surface)}
    if not dressed:
        return "every answer is written in one way"
    if any(len(form) > 40 for form in forms):
        return "answers of more than 40 characters"
    marked = [replace(item, golden=_bare(item.golden)) for item in items]
    return Grader(type="regex", pattern="{golden}[.!]?", ignore_case=True), marked


def _exact(items: Sequence[Item], determined: bool) -> Found:
    texts = [item.golden for item in items]
    distinct = {plain(text) for text in texts}
    short = sum(len(text.split()) <= LONG_WORDS and len(text) <= LONG_CHARS for text in texts) / len(texts)
    if not determined and short < SHORT_SHARE and len(distinct) > REPEATED * len(texts):
        return (f"{1 - short:.0%} of the answers have more than {LONG_WORDS} words or {LONG_CHARS} characters and "
                f"{len(distinct) / len(texts):.0%} occur once: there is more than one way to say them")  # fmt: skip
    words = [word for text in texts for word in text.split()]
    if not determined and len(distinct) > 0.9 * len(texts) and len(words) / len(texts) > 5:
        return (f"answers of {len(words) / len(texts):.1f} words that nearly all differ: there is more than one way "
                "to say them")  # fmt: skip
    return Grader(type="exact", ignore_case=len({text.strip() for text in texts}) > len(distinct)), list(items)


_CANDIDATES: dict[str, Callable[[Sequence[Item], bool], Found]] = {
    "numeric": _numeric, "json": _json, "set": _set, "regex": _regex, "exact": _exact}  # fmt: skip


def _canonical_json(text: str) -> str:
    return json.dumps(_load(text), sort_keys=True)


_FORMS: dict[str, Callable[[Grader], Callable[[str], Hashable]]] = {
    "numeric": lambda grader: lambda text: (_decimal(text) or Decimal(0)).normalize(),
    "json": lambda grader: _canonical_json,
    "set": lambda grader: lambda text: _members(grader, text),
    "regex": lambda grader: lambda text: plain(_bare(text)),
    "exact": lambda grader: (lambda text: text.strip().casefold()) if grader.ignore_case else str.strip,
}  # fmt: skip
"""{grader: the normal form by which two answers are the same}; kept apart from the marking that it verifies."""


def right(grader: Grader, item: Item, answer: str) -> bool:
    """Whether the answer is marked as right."""
    return _marked(grader, item, answer) is True

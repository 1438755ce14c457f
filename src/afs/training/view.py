"""Rows in a readable form: `afs training view FILE --where domain=asm`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from afs.jsonl import BadRow, read_rows
from afs.step import StepError, UsageError, safe_text
from afs.training.converters import ConversionError, detect, to_messages
from afs.training.health import existing_file

_CUT = 2000
_OPERATORS = ("!=", ">=", "<=", "=", ">", "<")


@dataclass(frozen=True)
class Seen:
    """A row to show; `reason` instead of a value when it is bad."""

    line: int
    offset: int
    format: str | None
    value: dict[str, Any] | None
    reason: str = ""


@dataclass
class View:
    """Chosen rows of a file."""

    path: Path
    rows: list[Seen]

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"path": str(self.path), "rows": [vars(row) for row in self.rows]}

    def summary(self, cut: int = _CUT) -> str:
        """The rows as text for a terminal: control characters shown as escapes, long texts cut."""
        return "\n\n".join(_rendered(self.path, row, cut) for row in self.rows)


def view_rows(
    path: Path | str,
    line: int | None = None,
    count: int = 3,
    sample: bool = False,
    where: str | Sequence[str] | None = None,
    seed: int = 42,
) -> View:
    """Rows from a line on, or drawn at random (every matching row with the same chance).

    Args:
        where: "domain=asm", "quality_score>=0.8", "_metadata.skill!=bin"; several must all hold.

    Raises:
        UsageError: no such file, a line or count below 1, or a condition that cannot be read.
        StepError: no row matches.
    """
    path = existing_file(path)
    if count < 1 or (line is not None and line < 1):
        raise UsageError(f"--line and --count must be 1 or more, not {count if count < 1 else line}")
    tests = [_condition(text) for text in ([where] if isinstance(where, str) else where or [])]
    chosen: list[Seen] = []
    waiting: list[Seen] = []

    def bad(row: BadRow) -> None:
        if not tests and not sample and row.line >= (line or 1) and len(chosen) + len(waiting) < count:
            waiting.append(Seen(row.line, row.offset, None, None, row.reason))

    rng = np.random.default_rng(seed)
    matched = 0
    for row in read_rows(path, bad):
        chosen += waiting
        waiting.clear()
        if not sample and len(chosen) >= count:
            break
        if row.line < (line or 1) or not all(_holds(row.value, test) for test in tests):
            continue
        seen = Seen(row.line, row.offset, detect(row.value), row.value)
        matched += 1
        if not sample or len(chosen) < count:
            chosen.append(seen)
        elif (at := int(rng.integers(matched))) < count:  # reservoir: memory of `count` rows
            chosen[at] = seen
    chosen = sorted(chosen + waiting, key=lambda s: s.line)[:count]
    if not chosen:
        raise StepError(f"no row of {path} matches" + (f" {where!r}" if where else f" from line {line or 1} on"))
    return View(path, chosen)


def _condition(text: str) -> tuple[str, str, str]:
    for operator in _OPERATORS:
        key, found, value = text.partition(operator)
        if found and key.strip():
            return key.strip(), operator, value.strip()
    raise UsageError(f"condition {text!r} must be KEY=VALUE (or !=, >=, <=, >, <), for example domain=asm")


def _holds(row: dict[str, Any], test: tuple[str, str, str]) -> bool:
    key, operator, wanted = test
    value: Any = row
    for part in [key] if key in row else key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if operator in ("=", "!="):
        words = {True: "true", False: "false", None: "null"}
        text = value if isinstance(value, str) else words[value] if value is None or isinstance(value, bool) else (
            repr(value))  # fmt: skip
        equal = text == wanted or (_number(value) is not None and _number(value) == _number(wanted))
        return equal == (operator == "=")
    left, right = _number(value), _number(wanted)
    if left is None or right is None:
        return False
    return {">=": left >= right, "<=": left <= right, ">": left > right, "<": left < right}[operator]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None or isinstance(value, list | dict):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _rendered(path: Path, row: Seen, cut: int) -> str:
    head = f"── {path.name}:{row.line} (byte {row.offset})"
    if row.value is None:
        return f"{head} ── bad row: {row.reason}"
    value = row.value
    facts = [f"{key} {safe_text(str(value[key]))}" for key in ("domain", "source", "sample_id", "quality_score")
             if value.get(key) not in (None, "", 0.0)]  # fmt: skip
    lines = [" · ".join([f"{head} ── {row.format or 'unknown format'}", *facts])]
    for role, text in _spoken(value, row.format):
        text = safe_text(text)
        more = f"\n… {len(text) - cut:,} more characters" if len(text) > cut else ""
        lines.append(f"[{role}]\n{text[:cut]}{more}")
    return "\n".join(lines)


def _spoken(value: dict[str, Any], form: str | None) -> list[tuple[str, str]]:
    if form == "preference":
        return [(key, _words(value[key])) for key in ("prompt", "chosen", "rejected") if key in value]
    try:
        messages = to_messages(value, form)["messages"] if form else []
    except ConversionError:
        messages = []
    if not messages:
        return [("row", orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())]
    found = [(message["role"], message["content"]) for message in messages]
    if isinstance(value.get("thinking"), str) and value["thinking"]:
        found.insert(-1, ("thinking", value["thinking"]))
    return found


def _words(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()

"""Sections, pipe tables and numbered steps of Markdown texts.

    for section in sections(text):
        for table in tables(section.body): ...

A reader for mining documents, not a renderer: code fences are opaque, and everything else stays as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.+?)(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r"^\s*(?:>\s*)*(`{3,}|~{3,})(.*)$")
_RULER = re.compile(r"^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$")
_STEP = re.compile(r"^( {0,3})(\d{1,4})[.)]\s+(\S.*)$")


@dataclass(frozen=True)
class Section:
    """A heading and the text below it, up to the next heading; `trail` holds the headings above, outermost first."""

    title: str
    level: int
    trail: tuple[str, ...]
    body: str
    line: int


class Table(NamedTuple):
    """A pipe table: cells of the header row (may be empty texts), rows of as many cells, line of each row in the text
    (from 1)."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    lines: list[int]


class _Fences:
    """Feeds on lines; `inside(line)` is True for fences and what is in them."""

    def __init__(self) -> None:
        self.mark = ""

    def inside(self, row: str) -> bool:
        if "```" not in row and "~~~" not in row:
            return bool(self.mark)
        found = _FENCE.match(row)
        if not found:
            return bool(self.mark)
        mark, info = found.groups()
        if not self.mark:
            # "```code```" on one line is a code span, no fence.
            self.mark = "" if mark[0] == "`" and "`" in info else mark
            return bool(self.mark)
        # A fence is closed by the same character, at least as often, with nothing behind it.
        if mark[0] == self.mark[0] and len(mark) >= len(self.mark) and not info.strip():
            self.mark = ""
        return True


def sections(text: str) -> Iterator[Section]:
    """The sections of a Markdown text. Lines in code fences are never headings; text above the first heading is in no
    section."""
    fences = _Fences()
    above: list[tuple[int, str]] = []
    title, level, line = "", 0, 1
    body: list[str] = []
    for number, row in enumerate(text.splitlines(), 1):
        heading = None if fences.inside(row) or "#" not in row else _HEADING.match(row)
        if not heading:
            body.append(row)
            continue
        if level:
            yield Section(title, level, tuple(t for _, t in above), "\n".join(body).strip(), line)
        new = len(heading.group(1))
        above = [*above, (level, title)] if level else above
        above = [(deep, t) for deep, t in above if deep < new]
        title, level, line, body = heading.group(2), new, number, []
    if level:
        yield Section(title, level, tuple(t for _, t in above), "\n".join(body).strip(), line)


def cells(row: str) -> tuple[str, ...]:
    r"""The cells of a table row: split at `|`, not at `\|`, outer pipes dropped, `\|` read as `|`."""
    text = row.strip().removeprefix("|")
    if "\\" not in text:
        return tuple(part.strip() for part in text.removesuffix("|").split("|"))
    parts, cell, at = [], [], 0
    while at < len(text):
        if text.startswith("\\|", at):
            cell.append("|")
            at += 2
        elif text[at] == "|":
            parts.append("".join(cell).strip())
            cell = []
            at += 1
        else:
            cell.append(text[at])
            at += 1
    if cell or not text.endswith("|") or text.endswith("\\|"):
        parts.append("".join(cell).strip())
    return tuple(parts)


def tables(text: str) -> list[Table]:
    """The pipe tables of a text: a row of cells, a row of dashes with as many cells, then rows until one has no pipe.

    Rows of pipes without a row of dashes are no table. Cells that are missing are empty; more cells than the header
    has are joined to the last one.
    """
    if "|" not in text:
        return []
    found: list[Table] = []
    fences = _Fences()
    table: Table | None = None
    before = ""
    for number, row in enumerate(text.splitlines(), 1):
        if fences.inside(row) or "|" not in row:
            table, before = None, ""
        elif table is not None:
            table.rows.append(_fitted(cells(row), len(table.header)))
            table.lines.append(number)
        elif before and "-" in row and _RULER.match(row) and len(cells(row)) == len(header := cells(before)):
            table = Table(header, [], [])
            found.append(table)
        else:
            before = row
    return found


def _fitted(row: tuple[str, ...], width: int) -> tuple[str, ...]:
    if len(row) > width:
        return (*row[: width - 1], " | ".join(cell for cell in row[width - 1 :] if cell))
    return (*row, *[""] * (width - len(row)))


def steps(text: str) -> list[list[str]]:
    """The numbered lists of a text, each a list of its items with what is indented below them.

    A number that is not larger than the one before begins a new list; so does a paragraph between them.
    """
    lists: list[list[str]] = []
    fences = _Fences()
    last, base, open_item = 0, 0, False
    for row in text.splitlines():
        fenced = fences.inside(row)
        item = None if fenced or not row[:5].strip() else _STEP.match(row)
        # An indented number belongs to the item above.
        if item and open_item and len(item.group(1)) > base + 1:
            item = None
        if item:
            number = int(item.group(2))
            if not lists or not open_item or number <= last:
                lists.append([])
                base = len(item.group(1))
            lists[-1].append(item.group(3).rstrip())
            last, open_item = number, True
        elif open_item and (not row.strip() or fenced or row[0].isspace()):
            lists[-1][-1] += "\n" + row.rstrip()
        else:
            open_item = False
    return [[item.rstrip() for item in found] for found in lists]


def plain(text: str) -> str:
    """A cell or title without the marks of code, strong and emphasis, in one line."""
    text = text.strip()
    if text.isalnum():
        return text
    for mark in ("**", "__", "`", "*", "~~"):
        if text[-1:] in "*_`~" and text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
            inner = text[len(mark) : -len(mark)]
            if mark not in inner:
                text = inner.strip()
    return " ".join(text.split())

"""What the documents of a code base say: sections, table rows, memory maps, quests. A document's part in this follows
from its name, wherever it lies below the documents' folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from afs.generators.markdown import Section, Table, plain, sections, steps, tables

MIN_BODY = 40
"""Characters below which a section says too little to be an answer."""
_ADDRESS_COLUMN = re.compile(r"\b(address|addr|location|offset|ram|wram|sram)\b", re.IGNORECASE)
_NAME_COLUMN = re.compile(r"\b(label|name|variable|symbol|flag|register)\b", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:\$|0x)([0-9A-Fa-f]{2,6})\b(?:[:/]([0-9A-Fa-f]{4})\b)?")
_LONE_ADDRESS = re.compile(r"(?:\$|0x)[0-9A-Fa-f]{2,6}(?:[:/][0-9A-Fa-f]{4})?\+?$")
_BULLET = re.compile(r"^[-*+][ \t]+(\S.*)$")
_TELLING = {"", "description", "notes", "note", "purpose", "meaning"}
"""Columns whose cells need no title in an answer."""
_CHAPTER = re.compile(r"\b(chapter|quest|act|part|step|stage)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Document:
    """A Markdown document: `path` relative to the code base, `title` its first heading of level 1 or its name."""

    path: str
    title: str
    sections: tuple[Section, ...]

    @property
    def kind(self) -> str:
        """"memory", "quest", "architecture" or "" by the document's name."""
        return kind_of(self.path)

    def topic(self, section: Section) -> tuple[str, str]:
        """The section's title, and where it stands: document and headings above, joined by “›”."""
        above = [plain(title) for title in section.trail]
        if not above or above[0] != self.title:
            above = [self.title, *above]
        if section.level == 1 and plain(section.title) == self.title:
            above = [PurePosixPath(self.path).stem]
        return plain(section.title), " › ".join(above)


class Place(NamedTuple):
    """A row of a memory map."""

    name: str
    address: str
    note: str
    where: str
    line: int


class Quest(NamedTuple):
    """A chapter or side quest: its steps in order, and where it stands."""

    title: str
    where: str
    text: str
    steps: list[str]
    line: int


def kind_of(path: str) -> str:
    """Part of a document by its file name: digits, dashes and case do not matter (`05_quest-flow.md` is a quest)."""
    name = re.sub(r"[^a-z]", "", PurePosixPath(path).stem.lower())
    if "memorymap" in name or name in ("rammap", "srammap", "wram", "sram"):
        return "memory"
    if "quest" in name or "walkthrough" in name:
        return "quest"
    if name.startswith("system") or "architecture" in name:
        return "architecture"
    return ""


def parse(path: str, text: str) -> Document:
    """The document in a text. One without any heading is a single section under the file's name."""
    found = tuple(sections(text))
    stem = PurePosixPath(path).stem
    if not found and text.strip():
        found = (Section(stem, 1, (), text.strip(), 1),)
    title = next((plain(s.title) for s in found if s.level == 1), stem)
    return Document(path, title or stem, found)


def answer(section: Section) -> str:
    """A section's text as an answer, without a closing ruler."""
    return re.sub(r"\n\s*(?:-{3,}|\*{3,}|_{3,})\s*$", "", section.body).strip()


def is_memory(table: Table, document: Document) -> tuple[int, int] | None:
    """Indices of the address and the name column; None when the table is no memory map.

    In documents that are no memory map by name, the addresses must be of work RAM or save RAM ($7E, $7F, $70), so
    that tables of routines are not taken for variables.
    """
    place = [i for i, title in enumerate(table.header) if _ADDRESS_COLUMN.search(title)]
    named = [i for i, title in enumerate(table.header) if _NAME_COLUMN.search(title) and i not in place[:1]]
    if not place or not named:
        return None
    if document.kind != "memory":
        found = [m.group(1) for row in table.rows if (m := _ADDRESS.search(row[place[0]]))]
        if not found or not all(len(a) == 6 and a[:2].upper() in ("7E", "7F", "70") for a in found):
            return None
    return place[0], named[0]


def places(document: Document) -> Iterator[Place]:
    """The rows of the document's memory maps that have a name and an address."""
    for section in document.sections:
        for table in tables(section.body):
            columns = is_memory(table, document)
            if columns is None:
                continue
            at, called = columns
            for row, line in zip(table.rows, table.lines, strict=True):
                address, name = plain(row[at]), plain(row[called])
                if not _LONE_ADDRESS.match(address) or not any(map(str.isalnum, name)):
                    continue
                note = "; ".join(
                    cell if title.lower() in _TELLING else f"{title}: {cell}"
                    for i, (title, cell) in enumerate(zip(map(plain, table.header), row, strict=True))
                    if i not in (at, called) and any(map(str.isalnum, cell))
                )
                topic, above = document.topic(section)
                yield Place(name, hexadecimal(address), note, f"{above} › {topic}", section.line + line)


def hexadecimal(address: str) -> str:
    """`0x7ef36c`, `$7E:F36C` and `$7EF36C` are all written `$7EF36C`."""
    found = _ADDRESS.search(address)
    return "$" + (found.group(1) + (found.group(2) or "")).upper() if found else address


def rows(document: Document) -> Iterator[tuple[Section, Table, int]]:
    """Section, table and row index of every table row that is no memory map's and says something."""
    for section in document.sections:
        for table in tables(section.body):
            columns = is_memory(table, document)
            for index, row in enumerate(table.rows):
                if columns and _LONE_ADDRESS.match(plain(row[columns[0]])) and any(map(str.isalnum, row[columns[1]])):
                    continue
                if sum(any(map(str.isalnum, cell)) for cell in row) >= 2:
                    yield section, table, index


def quests(document: Document) -> Iterator[Quest]:
    """The sections that tell steps: numbered lists of two and more, or, under a chapter's or quest's title, bullets."""
    for section in document.sections:
        found = max(steps(section.body), key=len, default=[])
        if len(found) < 2 and (section.level >= 3 or _CHAPTER.search(section.title)):
            found = found or [m.group(1) for row in section.body.splitlines() if (m := _BULLET.match(row))]
        text = answer(section)
        if len(found) >= 2 or (found and section.level >= 3 and len(text) >= MIN_BODY):
            title, where = document.topic(section)
            yield Quest(title, where, text, found, section.line)

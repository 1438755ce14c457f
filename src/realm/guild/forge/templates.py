"""Questions that are one template filled in: found by cutting them into numbers, words, signs and blanks.

Questions with the same sequence of token kinds share a template. Tokens that never change are its text; numbers, words
and lists of numbers that do are its slots. "What is 12 + 7?" and "What is 3 + 40?" give `What is {a} + {b}?`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["int", "word", "list"]
Value = int | str | list
_TOKEN = re.compile(r"\d+|[^\W\d_]+|\s+|.", re.DOTALL)
_NAMES = "abcdefghijkm"  # no l: it reads like a 1
MAX_SLOTS = 8
MAX_TEMPLATES = 8
MAX_DIGITS = 12  # the largest whole number of a module's variable is 10 ** 12


@dataclass(frozen=True, slots=True)
class Token:
    """`kind`: int | list | word | sign | blank; `value` is set for int, list and word."""

    kind: str
    text: str
    value: Value | None = None


@dataclass(frozen=True)
class Slot:
    """A part that changes: its name and its value in every row."""

    name: str
    kind: Kind
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Template:
    """`parts`: texts and slot names in order, (True, name) for a slot. `rows`: places of its questions in the data."""

    parts: tuple[tuple[bool, str], ...]
    slots: tuple[Slot, ...]
    rows: tuple[int, ...]

    @property
    def wording(self) -> str:
        """As a module's prompt: `{name}` is a slot, braces of the text are doubled."""
        return "".join(f"{{{text}}}" if slot else text.replace("{", "{{").replace("}", "}}")
                       for slot, text in self.parts)  # fmt: skip

    def environments(self) -> list[dict[str, Value]]:
        """The slots' values of every row."""
        return [{slot.name: slot.values[i] for slot in self.slots} for i in range(len(self.rows))]

    def fixed(self, names: Sequence[str]) -> list[Template]:
        """One template for each combination of values of these slots, whose texts then stand in the wording."""
        columns = {slot.name: slot.values for slot in self.slots}
        places: dict[tuple, list[int]] = defaultdict(list)
        for place in range(len(self.rows)):
            places[tuple(columns[name][place] for name in names)].append(place)
        made = []
        for values, mine in places.items():
            said = dict(zip(names, values, strict=True))
            parts = tuple((False, str(said[text])) if slot and text in said else (slot, text)
                          for slot, text in self.parts)  # fmt: skip
            kept = tuple(Slot(s.name, s.kind, tuple(s.values[p] for p in mine)) for s in self.slots
                         if s.name not in said)  # fmt: skip
            made.append(Template(parts, kept, tuple(self.rows[p] for p in mine)))
        return made


def tokens(text: str, lists: bool) -> list[Token]:
    """The tokens of a text; with `lists`, numbers between ", " are one list."""
    made: list[Token] = []
    for part in _TOKEN.findall(text):
        if part[0].isascii() and part[0].isdigit() and part.isascii() and part.isdigit():
            _add_number(made, part)
        elif part.isspace():
            made.append(Token("blank", part))
        elif part.isalpha():
            made.append(Token("word", part, part))
        else:
            made.append(Token("sign", part))
    return _joined(made) if lists else made


def _add_number(made: list[Token], digits: str) -> None:
    if len(digits) > MAX_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        made.append(Token("word", digits, digits))  # a code: its digits are not a quantity
        return
    before = [token for token in made[:-1] if token.kind != "blank"]
    minus = bool(made) and made[-1].text == "-" and not (
        before and (before[-1].kind in ("int", "list") or before[-1].text in ")]"
                    or (len(made) > 1 and made[-2].kind == "word")))  # fmt: skip
    if minus and digits != "0":
        made[-1] = Token("int", f"-{digits}", -int(digits))
    else:
        made.append(Token("int", digits, int(digits)))


def _joined(parts: list[Token]) -> list[Token]:
    made: list[Token] = []
    at = 0
    while at < len(parts):
        end = at
        while (parts[end].kind == "int" and end + 3 < len(parts) + 0 and parts[end + 1].text == ","
               and parts[end + 2].text == " " and parts[end + 3].kind == "int"):  # fmt: skip
            end += 3
        if end > at:
            numbers = [part.value for part in parts[at : end + 1] if part.kind == "int"]
            made.append(Token("list", ", ".join(map(str, numbers)), numbers))
        else:
            made.append(parts[at])
        at = end + 1
    return made


def discover(texts: Sequence[str], lists: bool) -> list[Template] | str:
    """The templates of these questions, or why there are none (every question must belong to one)."""
    rows = [tokens(text, lists) for text in texts]
    shapes: dict[tuple, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        shapes[tuple(_shape(token) for token in row)].append(place)
    if len(shapes) > MAX_TEMPLATES:
        return f"{len(shapes)} different forms of questions, at most {MAX_TEMPLATES} are looked at"
    made = []
    for places in shapes.values():
        found = _template([rows[place] for place in places], places)
        if isinstance(found, str):
            return found
        made.append(found)
    return made


def _shape(token: Token) -> str:
    return token.text if token.kind == "blank" else "sign" if token.kind == "sign" else token.kind


def _template(rows: list[list[Token]], places: list[int]) -> Template | str:
    parts: list[tuple[bool, str]] = []
    slots: list[Slot] = []
    for column in zip(*rows, strict=True):
        texts = {token.text for token in column}
        if len(texts) == 1:
            parts.append((False, column[0].text))
            continue
        if len(slots) == MAX_SLOTS:
            return f"more than {MAX_SLOTS} parts change: the questions are no template"
        kind: Kind = column[0].kind if column[0].kind in ("int", "list") else "word"  # type: ignore[assignment]
        name = _NAMES[len(slots)]
        slots.append(Slot(name, kind, tuple(t.value if t.value is not None else t.text for t in column)))
        parts.append((True, name))
    return Template(tuple(parts), tuple(slots), tuple(places))

"""How BIN writes numbers, expressions and symbol keys, and how it reads them back.

Digits are circled (⓪ ①), expressions are prefix: `add(①⓪①, ①①)`. A symbol key replaces the two digits and the names of
the operations in use, so that the pattern is learnt and not the glyph. Every key symbol is one character; translating
between the two languages is therefore a character map.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from realm.guild.skills.bin.operations import OPERATIONS, Link, valid

ZERO, ONE = "⓪", "①"
DIGITS = ZERO + ONE
_CIRCLED = str.maketrans("01", DIGITS)
_ASCII = {ord(ZERO): "0", ord(ONE): "1"}
# Glyphs that symbol keys draw from: shapes stand for digits, Greek letters for operations.
KEY_DIGITS = "○●□■△▲◇◆☆★"
KEY_NAMES = "αβγδελμπσφψω"
BLANK, HOLE = "_", "?"
LONGEST_CHAIN = 8
_CALL = re.compile(r"([a-z_0-9]+)\(")


@dataclass(frozen=True, slots=True)
class SymbolKey:
    """A private language: `zero` and `one` are glyphs, `names` maps operation names to letters, in order of use."""

    zero: str
    one: str
    names: tuple[tuple[str, str], ...]

    def header(self) -> str:
        """The line that explains the key: `Key: ◇=⓪ ◆=① φ=add`."""
        parts = [f"{self.zero}={ZERO}", f"{self.one}={ONE}", *(f"{letter}={name}" for name, letter in self.names)]
        return "Key: " + " ".join(parts)

    def to_plain(self, text: str) -> str:
        """Key language to plain BIN."""
        table = {ord(self.zero): ZERO, ord(self.one): ONE, **{ord(letter): name for name, letter in self.names}}
        return text.translate(table)

    def from_plain(self, text: str) -> str:
        """Plain BIN to key language."""
        letters = dict(self.names)
        text = _CALL.sub(lambda call: f"{letters.get(call[1], call[1])}(", text)
        return text.translate({ord(ZERO): self.zero, ord(ONE): self.one})

    def foreign(self, text: str) -> bool:
        """Whether `text` uses plain digits or names that this key has replaced."""
        letters = dict(self.names)
        return any(digit in text for digit in DIGITS) or any(call[1] in letters for call in _CALL.finditer(text))


_HEADER = re.compile(r"Key: (\S)=⓪ (\S)=①((?: \S=[a-z_0-9]+)*)")


def parse_header(line: str) -> SymbolKey | None:
    """The key that a header line states, or None where it is no valid key."""
    match = _HEADER.fullmatch(line)
    if not match:
        return None
    names = tuple((name, letter) for letter, _, name in (part.partition("=") for part in match[3].split()))
    glyphs = [match[1], match[2], *(letter for _, letter in names)]
    known = all(g in KEY_DIGITS for g in glyphs[:2]) and all(g in KEY_NAMES for g in glyphs[2:])
    if not known or len(set(glyphs)) < len(glyphs) or any(name not in OPERATIONS for name, _ in names):
        return None
    return SymbolKey(match[1], match[2], names)


def natural(value: int) -> str:
    """Circled digits without leading zeros."""
    return format(value, "b").translate(_CIRCLED)


def padded(value: int, width: int) -> str:
    """Circled digits, exactly `width` of them."""
    return format(value, f"0{width}b").translate(_CIRCLED)


def show(value: int | bool, kind: str, width: int = 0) -> str:
    """A value of this kind as text."""
    if kind == "b":
        return "true" if value else "false"
    if kind == "d":
        return str(int(value))
    return padded(int(value), width) if kind == "w" else natural(int(value))


def read_number(text: str, kind: str) -> tuple[int, int] | None:
    """(value, number of digits) of a number of this kind, or None where the text is not in the demanded format."""
    if kind == "d":
        ok = text.isascii() and text.isdigit() and (len(text) == 1 or text[0] != "0") and len(text) <= 40
        return (int(text), len(text)) if ok else None
    if not text or text.strip(DIGITS) or len(text) > 256:
        return None
    if kind == "n" and len(text) > 1 and text[0] == ZERO:
        return None
    return int(text.translate(_ASCII), 2), len(text)


def show_link(link: Link, first: str | None = None, hidden: int | None = None) -> str:
    """`op(a, b)`; `first` replaces the first operand (a nested expression), `hidden` is shown as `?`."""
    op = OPERATIONS[link.op]
    parts = [show(value, kind, link.width) for value, kind in zip(link.args, op.kinds, strict=True)]
    if first is not None:
        parts[0] = first
    if hidden is not None:
        parts[hidden] = HOLE
    return f"{link.op}({', '.join(parts)})"


def show_value(link: Link) -> str:
    """The value of a link as text."""
    return show(link.value, OPERATIONS[link.op].result, link.width)


def show_chain(links: tuple[Link, ...]) -> str:
    """The nested expression of a chain, innermost link first in `links`."""
    text = show_link(links[0])
    for link in links[1:]:
        text = show_link(link, first=text)
    return text


def parse_chain(text: str) -> tuple[Link, ...] | None:
    """The links of an expression, innermost first, or None where it is not a valid BIN expression."""
    names = []
    while match := _CALL.match(text):
        names.append(match[1])
        text = text[match.end():]
    if not 1 <= len(names) <= LONGEST_CHAIN or any(name not in OPERATIONS for name in names):
        return None
    parts = text.split(")")
    if len(parts) != len(names) + 1 or parts[-1]:
        return None
    links: list[Link] = []
    for name, part in zip(reversed(names), parts[:-1], strict=True):
        link = _parse_link(name, part, links[-1] if links else None)
        if link is None:
            return None
        links.append(link)
    return tuple(links)


def _parse_link(name: str, part: str, inner: Link | None) -> Link | None:
    op = OPERATIONS[name]
    texts = part.split(", ") if part else []
    args: list[int] = []
    widths: set[int] = set()
    if inner is not None:
        if OPERATIONS[inner.op].result != op.kinds[0] or texts[:1] not in ([], [""]):
            return None
        args.append(int(inner.value))
        widths.add(inner.width)
        texts = texts[1:]
    if len(args) + len(texts) != len(op.kinds):
        return None
    for text, kind in zip(texts, op.kinds[len(args):], strict=True):
        number = read_number(text, kind)
        if number is None:
            return None
        args.append(number[0])
        if kind == "w":
            widths.add(number[1])
    if op.word and len(widths) != 1:
        return None
    link = Link(name, tuple(args), widths.pop() if op.word else 0)
    # A wild shift count would build a number of a billion digits; no level shifts by more than its own width.
    if name.startswith("shift") and link.args[1] > 64:
        return None
    return link if valid(link) else None

"""Finding the exam problems of a skill in any text, whatever they are dressed in (contracts B1).

    python3 -c "from realm.temple.heldout import held_out, readings; help(held_out)"

A text is read in up to five ways: as it stands; without typography and transport (no-break and wide letters, curly
quotes, invisible characters, JSON and HTML escapes); with look-alike letters made Latin; and
both in small letters. In each,
a problem may be the whole text, a line, a header and its question, or stand behind an introduction on its line.

What cannot be found: a problem told in other words or another language, in base64 or a compressed form, with its
symbols renamed or separated otherwise (`1,2,3` for `1 2 3`), or cut into turns. A problem whose symbols are told apart
by their case (mem_compose, mem_context) is lost with its case, and is another problem then.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from realm.guild.skills import Skill

HELD_OUT = ("trial", "probe")
_SENTENCE = re.compile(r"[.!?:;,>)\]][\"'”»)]*\s+")  # behind it something new may begin
_DRESS = " \t\"'`*>#|-•“”«»"  # around a problem in lists, quotations and markup
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|([ntr\"/]))")  # once or many times escaped JSON
_ESCAPED = {"n": "\n", "r": "\n", "t": " ", '"': '"', "/": "/"}
_BREAK = re.compile(r"<br ?/?>|</?(?:p|div|li|code|pre|b|i|em|strong|span)>", re.I)
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_BLANKS = re.compile(r"[ \t]{2,}|\t")
# Cyrillic and Greek letters that look like Latin ones (Unicode TR39, the common ones), and typographers' signs.
_ALIKE = str.maketrans("аеорсухіјѕԁһкмтвнАВЕКМНОРСТХУІЈЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧανορυι",
                       "aeopcyxijsdhkmtbhABEKMHOPCTXYIJSABEZHIKMNOPTYXavopui")  # fmt: skip
_LOOKS = re.compile(f"[{''.join(map(chr, _ALIKE))}]")


@cache
def _typography() -> dict[int, str]:
    """Characters that say the same in another dress; circled digits are no dress, BIN's numbers are made of them."""
    table = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: "-", 0x2212: "-",
             0x2026: "...", 0x3001: ",", 0x3002: ".", 0x2028: "\n", 0x2029: "\n"}  # fmt: skip
    table |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    for code in (*range(0x80, 0x10000), *range(0x1D100, 0x1D800), *range(0xE0000, 0xE01F0)):
        kind = unicodedata.category(chr(code))
        if kind == "Zs":
            table[code] = " "
        elif kind == "Cf" or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code:
            table[code] = ""
        elif 0x1D400 <= code <= 0x1D7FF:  # mathematical letters and digits
            table[code] = unicodedata.normalize("NFKC", chr(code))
    return table


def _plain(text: str) -> str:
    """Only the runs that are no ASCII are translated: most texts are nearly all ASCII, and that is ten times faster."""
    return _FOREIGN.sub(lambda found: found[0].translate(_typography()), text)


def _unescape(found: re.Match[str]) -> str:
    if not found[1]:
        return _ESCAPED[found[2]]
    code = int(found[1], 16)
    return "" if 0xD800 <= code < 0xE000 else chr(code)  # half a character cannot be hashed


def readings(text: str) -> list[str]:
    """The ways to read a text: itself first, the last two with Latin letters, in their case and in small letters."""
    plain = text if text.isascii() else _plain(text)
    if "\\" in plain:
        plain = _ESCAPE.sub(_unescape, plain)
    if "&" in plain or "<" in plain:
        plain = html.unescape(_BREAK.sub("\n", html.unescape(plain)))
    plain = _BLANKS.sub(" ", plain)
    if not plain.isascii():  # what stood behind an escape
        plain = _plain(plain)
    latin = plain if _LOOKS.search(plain) is None else plain.translate(_ALIKE)
    small = [] if latin is plain else [plain.lower()]
    return [*dict.fromkeys((text, plain, *small)), latin, latin.lower()]


def held_out(skill: Skill, text: str, read: Sequence[str] | None = None) -> str | None:
    """The held-out split whose problem stands somewhere in a text, or None.

    Args:
        read: `readings(text)` where they are known already; 30 skills ask about every turn of a file.
    """
    read = readings(text) if read is None else read
    header = getattr(skill, "header", None)  # skills whose prompts all begin alike need no look at the lines
    if header is not None and header.lower() not in read[-1]:
        return None
    # Where every line is asked about one by one, case is left alone: it would double the time of the whole gate.
    thorough = header is not None or hasattr(skill, "splits_within")
    for reading in dict.fromkeys(read if thorough else (read[0], read[-2])):
        if split := _in(skill, reading):
            return split
    return None


def _in(skill: Skill, text: str) -> str | None:
    if (split := skill.split_of(text)) in HELD_OUT:
        return split
    within = getattr(skill, "splits_within", None)
    if within is not None:
        found = within(text)
        return next((split for split in HELD_OUT if split in found), None)
    before: list[str] = []
    for line in text.splitlines():
        if not line or line.isspace():
            continue
        heads, parts = _openings(line), _endings(line)
        pairs = [f"{header}\n{parts[0]}" for header in before]
        pairs += [f"{head}\n{part}" for head, part in zip(heads, parts[1:], strict=True)]  # folded into one line
        for part in (*parts, *pairs):
            if (split := skill.split_of(part)) in HELD_OUT:
                return split
        before = parts
    return None


def _endings(line: str) -> list[str]:
    """The line without its dress, and what is left of it behind each sign that ends a clause."""
    line = line.strip(_DRESS).rstrip(".")
    return [line, *(line[sign.end() :].lstrip(_DRESS) for sign in _SENTENCE.finditer(line))]


def _openings(line: str) -> list[str]:
    """What stands before each of the clauses that `_endings` gives behind the line itself."""
    line = line.strip(_DRESS).rstrip(".")
    return [line[: sign.start() + 1] for sign in _SENTENCE.finditer(line)]

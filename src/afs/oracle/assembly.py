"""What an assembly file defines: routines and data by their labels, `!names`, equates, macros and structs.

    found = parse("Core/sram.asm", text)
    found.routines[0].name, found.routines[0].comments

Written for asar's syntax; labels, equates and comments of ca65, WLA and the older disassemblies are read as well.
A label is a label: never a comment, an address mark (`#_0080B5:`), an instruction before asar's `:`, or a line of a
macro's body.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

MNEMONICS = frozenset(
    """ADC AND ASL BCC BCS BEQ BIT BMI BNE BPL BRA BRK BRL BVC BVS CLC CLD CLI CLV CMP COP CPX CPY DEC DEX DEY EOR INC
    INX INY JML JMP JSL JSR LDA LDX LDY LSR MVN MVP NOP ORA PEA PEI PER PHA PHB PHD PHK PHP PHX PHY PLA PLB PLD PLP
    PLX PLY REP ROL ROR RTI RTL RTS SBC SEC SED SEI SEP STA STP STX STY STZ TAX TAY TCD TCS TDC TRB TSB TSC TSX TXA
    TXS TXY TYA TYX WAI WDM XBA XCE""".split()
)
_WORD = re.compile(r"[#?]?([A-Za-z_]\w*)")
_ADDRESS_MARK = re.compile(r"#?_?[0-9A-Fa-f]{6}$")
_DEFINE = re.compile(r"!\^?([A-Za-z_]\w*)[ \t]*(\?=|:=|#=|=)[ \t]*(\S.*)$")
_EQUATE = re.compile(r"([A-Za-z_][\w.]*)[ \t]*(?::?=|[ \t]equ[ \t])[ \t]*([^=\s].*)$", re.IGNORECASE)
_MACRO = re.compile(r"macro[ \t]+(\w+)[ \t]*(\([^)]*\))?", re.IGNORECASE)
_STRUCT = re.compile(r"struct[ \t]+(\w+)(?:[ \t]+extends[ \t]+(\w+))?(?:[ \t]+(\$[0-9A-Fa-f]+|\d+))?", re.IGNORECASE)
_FIELD = re.compile(r"\.(\w+)(?:\[\w*\])?:?[ \t]*(?:skip[ \t]+(\S+))?[ \t]*$", re.IGNORECASE)
_SKIP = re.compile(r"skip[ \t]+(\S+)[ \t]*$", re.IGNORECASE)
_RULE = re.compile(r"^[=*\-#~_+/\\.]{2,}[ \t]*|[ \t]*[=*\-#~_+/\\]{2,}$")
_RULES = frozenset("=*-#~_+/\\.|")
_RANGE = re.compile(r"^\*?\$[0-9A-Fa-f]{4,6}[ \t]*(?:-[ \t]*\$[0-9A-Fa-f]{4,6})?(?:[ \t]+[A-Z]{3,}( [A-Z]{3,})*)?$")
_FREE = re.compile(r"FREE (?:RAM|ROM|SPACE)\b")
_OLD_CODE = re.compile(
    r"([A-Z]{3})(?:\.[bwlBWL]\b|[ \t]+[#$(\[!%.]|[ \t]+\w+[ \t]*,[ \t]*[XYS]\b|[ \t]*:|[ \t]*$)"
    r"|(?:J[SM][LRP]|B(?:RA|RL|EQ|NE|CC|CS|PL|MI|VC|VS)|LD[AXY]|ST[AXYZ])[ \t]+[.\w]+[ \t]*$"
    r"|d[bwld][ \t]+[$%\d-]|(?:incsrc|incbin|org|pushpc|pullpc|endmacro)\b|!?\w+[ \t]*:?=[ \t]*[$%\d]|[.\w]+:$|%\w+\("
)


_AFTER_MNEMONIC = ("", " ", ".", "\t")
_CLOSERS = {"org", "incsrc", "incbin", "pushpc", "pullpc", "namespace", "freecode", "freedata", "bank", "warnpc"}
"""Directives after which code belongs to no label above."""


class Equate(NamedTuple):
    """A name with a value: `define` tells `!name = value` from `NAME = value`. `heading` is the comment that titles
    the group it stands in, `note` what is said about it; either may be empty."""

    name: str
    value: str
    define: bool
    note: str
    heading: str
    line: int


@dataclass(slots=True)
class Routine:
    """A label and what follows it, up to the next one. `start` and `end` are indices into the file's lines."""

    name: str
    line: int
    comments: list[str]
    start: int
    end: int = 0


class Macro(NamedTuple):
    """A macro's name, arguments as written ("(a, b)" or ""), comments above it and body lines."""

    name: str
    arguments: str
    comments: list[str]
    body: list[str]
    line: int


@dataclass(slots=True)
class Struct:
    """A struct: base address or None, fields as (name, offset or None, size as written, note)."""

    name: str
    base: int | None
    parent: str
    comments: list[str]
    line: int
    fields: list[tuple[str, int | None, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Assembly:
    """Everything that one file defines, in the order of its lines."""

    path: str
    lines: list[str]
    routines: list[Routine] = field(default_factory=list)
    equates: list[Equate] = field(default_factory=list)
    macros: list[Macro] = field(default_factory=list)
    structs: list[Struct] = field(default_factory=list)


def split_comment(line: str) -> tuple[str, str]:
    """Code and comment of a line; a `;` or `//` in quotes begins no comment."""
    at = line.find(";")
    if at < 0:
        at = line.find("//")
        if at < 0:
            return line, ""
    if '"' in line[:at]:
        quoted = False
        for at, char in enumerate(line):
            if char == '"':
                quoted = not quoted
            elif not quoted and (char == ";" or line.startswith("//", at)):
                break
        else:
            return line, ""
    return line[:at], line[at:]


def comment_text(comment: str) -> str:
    """The words of a comment; "" for rulers, address marks and code that is commented out."""
    text = comment.lstrip(";/ \t").rstrip()
    if text and (text[0] in _RULES or text[-1] in _RULES):
        text = _RULE.sub("", _RULE.sub("", text)).strip(" \t|")
    if not any(map(str.isalnum, text)) or _RANGE.match(text) or _FREE.match(text):
        return ""
    old = _OLD_CODE.match(text)
    return "" if old and (old.group(1) or "LDA") in MNEMONICS else text


def number(text: str) -> int | None:
    """The value of `$1F`, `%101`, `0x1F` or `31`; None for anything else."""
    text = text.strip()
    try:
        if text.startswith("$"):
            return int(text[1:], 16)
        if text.startswith("%"):
            return int(text[1:], 2)
        return int(text, 0)
    except ValueError:
        return None


def is_equate(code: str) -> bool:
    """True for a line of code that gives a name a value."""
    return bool(_DEFINE.match(code) or _EQUATE.match(code))


class _Comments:
    """The comment lines above the line that is read, and the heading of the group it stands in."""

    def __init__(self) -> None:
        self.pending: list[str] = []
        self.indent = self.blanks = 0
        self.closed = self.ruled = False
        self.heading = ""

    def add(self, comment: str, indent: int) -> None:
        text = comment_text(comment)
        if not text:
            # A ruler ends a block; a short block between two rulers titles what follows.
            if not any(map(str.isalnum, comment)):
                if self.ruled and self.pending and not self.closed and len(self.pending) <= 3:
                    self.heading = self.pending[0]
                self.closed, self.ruled = bool(self.pending), True
            return
        if self.closed or self.blanks > 1 or (self.pending and indent < self.indent):
            self.pending = []
        self.closed, self.blanks = False, 0
        if not self.pending:
            self.indent = indent
        self.pending.append(text)

    def take(self, indent: int) -> list[str]:
        """The comments that belong to a definition with this indent. One indented deeper belongs to the code above;
        two empty lines part it from what follows."""
        found = self.pending if self.blanks <= 1 and self.indent <= indent else []
        self.forget()
        return found

    def directly_above(self, indent: int) -> list[str]:
        """As `take`, but an empty line or a ruler parts as well."""
        if self.blanks or self.closed:
            self.forget()
            return []
        return self.take(indent)

    def forget(self) -> None:
        self.pending, self.closed, self.ruled, self.blanks = [], False, False, 0


def parse(path: str, text: str) -> Assembly:
    """Everything that a file defines (see `Assembly`)."""
    return _Parser(path, text.split("\n")).run()


class _Parser:
    def __init__(self, path: str, lines: list[str]) -> None:
        self.found = Assembly(path, lines)
        self.comments = _Comments()
        self.macro: Macro | None = None
        self.struct: Struct | None = None
        self.offset: int | None = 0
        # Labels whose code has not ended yet: several when they stand one below the other.
        self.open: list[Routine] = []
        self.code = False

    def run(self) -> Assembly:
        comments = self.comments
        for index, raw in enumerate(self.found.lines):
            line = raw.strip()
            if not line:
                comments.blanks += 1
                continue
            first = line[0]
            if self.macro is not None:
                if line[:8].lower() == "endmacro":
                    self.macro = None
                else:
                    self.macro.body.append(raw)
                continue
            if first == ";" or (first == "/" and line[1:2] == "/"):
                comments.add(line, len(raw) - len(raw.lstrip()))
                continue
            if self.struct is not None:
                self._in_struct(line, raw)
                continue
            if first in "{}" and len(line) == 1:
                continue
            # Most lines are instructions; a name or a label has no blank, dot or end behind its third letter.
            if line[3:4] in _AFTER_MNEMONIC and line[:3].upper() in MNEMONICS and "=" not in line:
                self.code = True
                if comments.pending or comments.ruled or comments.blanks:
                    comments.forget()
                continue
            if not self._definition(line, first, index, raw):
                self.code = True
                comments.forget()
        self._close(len(self.found.lines))
        return self.found

    def _definition(self, line: str, first: str, index: int, raw: str) -> bool:
        if first == "!":
            return "=" in line and self._define(line, index, raw)
        word = _WORD.match(line)
        if not word:
            return False
        name, after = word.group(1), line[word.end() : word.end() + 2]
        if after[:1] == ":" and after != ":=" and after != "::":
            return self._label(line, word, index, raw)
        if "=" in line or " equ" in line.lower():
            return self._equate(line, index, raw)
        low = name.lower()
        if low in _CLOSERS:
            self._close(index)
        if low == "macro":
            return self._begin_macro(line, index, raw)
        if low == "struct":
            return self._begin_struct(line, index, raw)
        return False

    def _label(self, line: str, word: re.Match[str], index: int, raw: str) -> bool:
        mark, name = word.group(), word.group(1)
        if _ADDRESS_MARK.match(mark) or mark[0] == "?" or name.upper() in MNEMONICS:
            return False
        if self.code:
            self._close(index)
        told = self.comments.take(len(raw) - len(raw.lstrip()))
        if not told and self.open:
            told = self.open[-1].comments
        self.open.append(Routine(name, index + 1, told, index))
        self.found.routines.append(self.open[-1])
        self.code = bool(split_comment(line[line.index(":") + 1 :])[0].strip(" \t{"))
        return True

    def _close(self, index: int) -> None:
        for routine in self.open:
            routine.end = index
        self.open = []
        self.code = False

    def _define(self, line: str, index: int, raw: str) -> bool:
        code, comment = split_comment(line)
        match = _DEFINE.match(code.rstrip())
        return bool(match) and self._add_equate(match.group(1), match.group(3), True, comment, index, raw)

    def _equate(self, line: str, index: int, raw: str) -> bool:
        code, comment = split_comment(line)
        match = _EQUATE.match(code.rstrip())
        if not match or match.group(1).lower() in ("if", "elseif", "while", "assert", "for"):
            return False
        return self._add_equate(match.group(1), match.group(2), False, comment, index, raw)

    def _add_equate(self, name: str, value: str, define: bool, comment: str, index: int, raw: str) -> bool:
        note = comment_text(comment) if comment else ""
        above = self.comments.directly_above(len(raw) - len(raw.lstrip()))
        if not note:
            note = " ".join(above)
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        self.found.equates.append(Equate(name, value, define, note, self.comments.heading, index + 1))
        return True

    def _begin_macro(self, line: str, index: int, raw: str) -> bool:
        match = _MACRO.match(line)
        if not match:
            return False
        self._close(index)
        above = self.comments.take(len(raw) - len(raw.lstrip()))
        self.macro = Macro(match.group(1), match.group(2) or "", above, [], index + 1)
        self.found.macros.append(self.macro)
        return True

    def _begin_struct(self, line: str, index: int, raw: str) -> bool:
        match = _STRUCT.match(line)
        if not match:
            return False
        self._close(index)
        base = number(match.group(3)) if match.group(3) else None
        above = self.comments.take(len(raw) - len(raw.lstrip()))
        self.struct = Struct(match.group(1), base, match.group(2) or "", above, index + 1)
        self.found.structs.append(self.struct)
        self.offset = 0
        return True

    def _in_struct(self, line: str, raw: str) -> None:
        code, comment = split_comment(line)
        code = code.strip()
        if code[:9].lower() == "endstruct":
            self.struct = None
            self.comments.forget()
            return
        above = self.comments.directly_above(len(raw) - len(raw.lstrip()))
        entry = _FIELD.match(code)
        bare = None if entry else _SKIP.match(code)
        size = entry.group(2) if entry else bare.group(1) if bare else None
        if entry:
            note = comment_text(comment) or " ".join(above)
            self.struct.fields.append((entry.group(1), self.offset, size or "", note))
        if size is not None and self.offset is not None:
            width = number(size)
            # A size that is a name leaves the offsets behind it unknown.
            self.offset = None if width is None else self.offset + width

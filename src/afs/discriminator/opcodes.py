"""The 65816's 256 opcodes, and whether a line of assembly can be one of them.

    check("STX $10,X")    # Verdict("invalid", "STX has no mode dp,x")
    check("STX $10,Y")    # Verdict("valid", "")

Only what the processor's table decides is judged: mnemonic, addressing mode, width of a literal operand, form of the
operand. Whether a name exists is for an assembler. What the table cannot decide (macros, defines in odd places, an
assembler's own extensions) is "unknown", never "invalid". Source: WDC's W65C816S data sheet, table of opcodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

# One line per sixteen opcodes. Modes: s implied, A accumulator, # immediate of the width of M or X, #b one byte, d
# direct page, a absolute, l long, r and rl relative, (…) and […] indirect, xyc two banks.
_MATRIX = """
BRK #b|ORA (d,x)|COP #b|ORA d,s|TSB d|ORA d|ASL d|ORA [d]|PHP s|ORA #|ASL A|PHD s|TSB a|ORA a|ASL a|ORA l
BPL r|ORA (d),y|ORA (d)|ORA (d,s),y|TRB d|ORA d,x|ASL d,x|ORA [d],y|CLC s|ORA a,y|INC A|TCS s|TRB a|ORA a,x|ASL a,x|ORA l,x
JSR a|AND (d,x)|JSL l|AND d,s|BIT d|AND d|ROL d|AND [d]|PLP s|AND #|ROL A|PLD s|BIT a|AND a|ROL a|AND l
BMI r|AND (d),y|AND (d)|AND (d,s),y|BIT d,x|AND d,x|ROL d,x|AND [d],y|SEC s|AND a,y|DEC A|TSC s|BIT a,x|AND a,x|ROL a,x|AND l,x
RTI s|EOR (d,x)|WDM #b|EOR d,s|MVP xyc|EOR d|LSR d|EOR [d]|PHA s|EOR #|LSR A|PHK s|JMP a|EOR a|LSR a|EOR l
BVC r|EOR (d),y|EOR (d)|EOR (d,s),y|MVN xyc|EOR d,x|LSR d,x|EOR [d],y|CLI s|EOR a,y|PHY s|TCD s|JML l|EOR a,x|LSR a,x|EOR l,x
RTS s|ADC (d,x)|PER rl|ADC d,s|STZ d|ADC d|ROR d|ADC [d]|PLA s|ADC #|ROR A|RTL s|JMP (a)|ADC a|ROR a|ADC l
BVS r|ADC (d),y|ADC (d)|ADC (d,s),y|STZ d,x|ADC d,x|ROR d,x|ADC [d],y|SEI s|ADC a,y|PLY s|TDC s|JMP (a,x)|ADC a,x|ROR a,x|ADC l,x
BRA r|STA (d,x)|BRL rl|STA d,s|STY d|STA d|STX d|STA [d]|DEY s|BIT #|TXA s|PHB s|STY a|STA a|STX a|STA l
BCC r|STA (d),y|STA (d)|STA (d,s),y|STY d,x|STA d,x|STX d,y|STA [d],y|TYA s|STA a,y|TXS s|TXY s|STZ a|STA a,x|STZ a,x|STA l,x
LDY #|LDA (d,x)|LDX #|LDA d,s|LDY d|LDA d|LDX d|LDA [d]|TAY s|LDA #|TAX s|PLB s|LDY a|LDA a|LDX a|LDA l
BCS r|LDA (d),y|LDA (d)|LDA (d,s),y|LDY d,x|LDA d,x|LDX d,y|LDA [d],y|CLV s|LDA a,y|TSX s|TYX s|LDY a,x|LDA a,x|LDX a,y|LDA l,x
CPY #|CMP (d,x)|REP #b|CMP d,s|CPY d|CMP d|DEC d|CMP [d]|INY s|CMP #|DEX s|WAI s|CPY a|CMP a|DEC a|CMP l
BNE r|CMP (d),y|CMP (d)|CMP (d,s),y|PEI (d)|CMP d,x|DEC d,x|CMP [d],y|CLD s|CMP a,y|PHX s|STP s|JML [a]|CMP a,x|DEC a,x|CMP l,x
CPX #|SBC (d,x)|SEP #b|SBC d,s|CPX d|SBC d|INC d|SBC [d]|INX s|SBC #|NOP s|XBA s|CPX a|SBC a|INC a|SBC l
BEQ r|SBC (d),y|SBC (d)|SBC (d,s),y|PEA a|SBC d,x|INC d,x|SBC [d],y|SED s|SBC a,y|PLX s|XCE s|JSR (a,x)|SBC a,x|INC a,x|SBC l,x
"""  # noqa: E501


class Opcode(NamedTuple):
    code: int
    mnemonic: str
    mode: str


OPCODES: tuple[Opcode, ...] = tuple(
    Opcode(code, *entry.split()) for code, entry in enumerate(_MATRIX.strip().replace("\n", "|").split("|"))
)
"""All 256, by code."""

# Names that assemblers take for the same opcodes.
_ALIASES = {"BLT": "BCC", "BGE": "BCS", "CPA": "CMP", "TAD": "TCD", "TAS": "TCS", "TDA": "TDC", "TSA": "TSC",
            "SWA": "XBA"}  # fmt: skip


def _modes() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for opcode in OPCODES:
        found.setdefault(opcode.mnemonic, set()).add(opcode.mode)
    found["DEA"], found["INA"] = {"s"}, {"s"}
    found.update({alias: found[name] for alias, name in _ALIASES.items()})
    # Both spellings of a jump take both widths in the assemblers seen (asar, ca65).
    found["JMP"] |= {"l", "[a]"}
    found["JSR"] |= {"l"}
    found["JML"] |= {"a"}
    return {name: frozenset(modes) for name, modes in found.items()}


MODES: dict[str, frozenset[str]] = _modes()
"""Addressing modes of each mnemonic, aliases included."""

# Assembler words that look like instructions; none is a mistake.
DIRECTIVES = frozenset(
    """org base db dw dl dd fill pad padbyte align skip incsrc incbin include macro endmacro if elseif else endif while
    endwhile for endfor struct endstruct namespace pushpc pullpc pushbase pullbase warnpc assert print error warn
    warnings bank lorom hirom exlorom exhirom sa1rom fullsa1rom sfxrom norom arch table cleartable optimize function
    freecode freedata freespace freespacebyte autoclean autoclear prot reset check dpbase spcblock endspcblock
    startpos rep undef global undefine equ define byte word long text ascii""".split()
)
_REPEATABLE = frozenset("ASL LSR ROL ROR INC DEC INX INY DEX DEY NOP PHA PLA INA DEA".split())


class Verdict(NamedTuple):
    """`kind`: "valid" or "invalid" instruction, "unknown" (not decidable here), or "other" (label, directive, none)."""

    kind: str
    reason: str = ""


OTHER = Verdict("other")
VALID = Verdict("valid")
UNKNOWN = Verdict("unknown")


@dataclass(frozen=True)
class Statement:
    """An instruction within a line; `start`, `middle` and `end` are the places of mnemonic, operand and its end."""

    mnemonic: str
    suffix: str
    operand: str
    start: int
    middle: int
    end: int


_LABELS = re.compile(
    r"\s*(?:#?[.@?]*[A-Za-z_][\w.]*\s*:(?![:=])|[.?]+[A-Za-z_]\w*(?=\s|$)|[+-]+:?(?=\s|$)|:(?=\s|$))\s*"
)
_HEAD = re.compile(r"\s*([A-Za-z_]\w*)(?:\.([BWLbwl]))?(?=\s|$)[ \t]*")
_EQUATE = re.compile(r"\s*!?[\w.]+\s*(?:[:?+#]?=|\bequ\b)", re.IGNORECASE)


def split_comment(line: str) -> tuple[str, str]:
    """The code and the comment (with its mark) of a line; marks inside quotes do not count."""
    quote = ""
    for at, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char == '"' or (char == "'" and line[at + 2 : at + 3] == "'"):
            quote = char
        elif char == ";" or line.startswith("//", at):
            return line[:at], line[at:]
    return line, ""


def statements(line: str) -> Iterator[Statement | Verdict]:
    """What a line holds: instructions, or a verdict on what is none."""
    code, _ = split_comment(line)
    at = 0
    for piece in re.split(r"(?<=\s):(?=\s)", code):
        yield _statement(piece, at)
        at += len(piece) + 1


def _statement(piece: str, at: int) -> Statement | Verdict:
    place = 0
    while (label := _LABELS.match(piece, place)) and label.end() > place:
        word = label.group().strip()
        if word.startswith(".") and word[1:].lower() in DIRECTIVES:
            return OTHER
        place = label.end()
    rest = piece[place:]
    if not rest.strip() or _EQUATE.match(rest):
        return OTHER
    head = _HEAD.match(rest)
    if not head:
        return OTHER if rest.strip()[0] in "%!.@{}<" else UNKNOWN
    word = head.group(1)
    if word.upper() not in MODES:
        if word.lower() in DIRECTIVES:
            return OTHER
        operand = rest[head.end() :].strip()
        if len(word) == 3 and word.isalpha() and (not operand or _shape(operand).kind not in ("bad", "odd")):
            return Verdict("invalid", f"no instruction {word}")
        return UNKNOWN
    operand = rest[head.end() :].rstrip()
    start = at + place + head.start(1)
    middle = at + place + head.end()
    return Statement(word, head.group(2) or "", operand, start, middle, middle + len(operand))


def check(line: str) -> Verdict:
    """The worst verdict on the instructions of a line ("invalid" before "unknown" before "valid" before "other")."""
    found = [judge(s) if isinstance(s, Statement) else s for s in statements(line)]
    return min(found, key=lambda v: ("invalid", "unknown", "valid", "other").index(v.kind), default=OTHER)


def judge(statement: Statement) -> Verdict:
    """Whether an instruction is in the table."""
    return _judge(statement.mnemonic.upper(), statement.suffix.lower(), statement.operand.strip())


class Shape(NamedTuple):
    """Form of an operand: `kind` as in the table with e for the expression, or "bad" (with the reason) or "odd"."""

    kind: str
    expression: str = ""
    reason: str = ""


@lru_cache(maxsize=1 << 14)
def _judge(name: str, suffix: str, operand: str) -> Verdict:
    modes = MODES[name]
    shape = _shape(operand)
    if shape.kind == "odd":
        return UNKNOWN
    if shape.kind == "bad":
        return Verdict("invalid", f"{name}: {shape.reason}")
    if shape.kind == "s":
        alone = modes & {"s", "A"} or name in ("BRK", "COP", "WDM")
        return VALID if alone else Verdict("invalid", f"{name} without operand")
    if shape.kind == "A":
        return VALID if "A" in modes or name in ("DEA", "INA") else UNKNOWN if "a" in modes else _no(name, "A")
    if "xyc" in modes:
        return VALID if shape.kind == "e,e" else UNKNOWN if shape.kind in ("e", "#e") else _no(name, shape.kind)
    if shape.kind == "e,e":
        return Verdict("invalid", f"{name}: no index register in {operand!r}")
    if shape.kind == "#e":
        return _immediate(name, modes, suffix, shape.expression)
    return _memory(name, modes, suffix, shape)


def _no(name: str, mode: str) -> Verdict:
    return Verdict("invalid", f"{name} has no mode {mode}")


def _immediate(name: str, modes: frozenset[str], suffix: str, expression: str) -> Verdict:
    if not modes & {"#", "#b"}:
        return UNKNOWN if name in _REPEATABLE or name == "PEA" else _no(name, "#")
    widest = 2 if "#" in modes else 1
    if suffix == "l":
        return Verdict("invalid", f"{name}: an immediate is never long")
    size = _size(expression)
    if size and size > widest:
        return Verdict("invalid", f"{name}: {expression} is wider than {widest} byte" + "s" * (widest > 1))
    return VALID


_WIDTHS = {"d": 1, "a": 2, "l": 3}


def _memory(name: str, modes: frozenset[str], suffix: str, shape: Shape) -> Verdict:
    if shape.kind == "e":
        if modes & {"r", "rl"}:
            return VALID if not suffix else UNKNOWN
        if "#b" in modes and name in ("BRK", "COP", "WDM"):
            return VALID if (_size(shape.expression) or 1) <= 1 else Verdict("invalid", f"{name}: wider than one byte")
        if name == "PEI":
            return UNKNOWN
    fitting = [width for mark, width in _WIDTHS.items() if shape.kind.replace("e", mark) in modes]
    if not fitting:
        # asar and ca65 differ on these spellings.
        return UNKNOWN if shape.kind == "(e)" and (name == "JML" or modes & {"r", "rl"}) else _no(name, shape.kind)
    if suffix:
        wanted = {"b": 1, "w": 2, "l": 3}[suffix]
        if name in ("JMP", "JSR", "JML", "JSL") or wanted in fitting:
            return VALID
        return Verdict("invalid", f"{name}.{suffix} has no mode {shape.kind} of that width")
    size = _size(shape.expression)
    if size and size > max(fitting):
        return Verdict("invalid", f"{name}: {shape.expression} is wider than mode {shape.kind} allows")
    return VALID


_LITERAL = re.compile(r"\$([0-9A-Fa-f]+)|(\d+)|%([01]+)")


def _size(expression: str) -> int | None:
    """Bytes that a lone literal needs at least; 4 for more than three; None when it is no lone literal."""
    found = _LITERAL.fullmatch(expression.strip())
    if not found:
        return None
    digits, decimal, binary = found.groups()
    value = int(digits, 16) if digits else int(decimal) if decimal else int(binary, 2)
    return min((max(value.bit_length(), 1) + 7) // 8, 4)


@lru_cache(maxsize=1 << 14)
def _shape(operand: str) -> Shape:
    if not operand:
        return Shape("s")
    if operand in ("A", "a"):
        return Shape("A")
    if re.fullmatch(r"[+-]+|:[+-]+", operand):
        return Shape("e", operand)
    parts = _commas(operand)
    if operand[0] == "#" and len(parts) == 1:
        return _expression("#e", operand[1:])
    if operand[0] in "([":
        end = _closing(operand)
        if end is None:
            return Shape("bad", operand, f"bracket left open in {operand!r}")
        inner, rest = operand[1:end], operand[end + 1 :].strip()
        found = _bracketed(operand[0], inner, rest)
        if found:
            return found
    if len(parts) == 1:
        return _expression("e", re.sub(r"^[azfAZF]:(?!:)", "", operand))
    if len(parts) == 2:
        register = parts[1].strip().lower()
        if register in ("x", "y", "s") and operand[0] == "#":
            return Shape("bad", operand, "an immediate takes no index register")
        if register in ("x", "y", "s"):
            return _expression(f"e,{register}", re.sub(r"^[azfAZF]:(?!:)", "", parts[0]))
        both = [_expression("e", part.strip().removeprefix("#")) for part in parts]
        wrong = [part for part in both if part.kind != "e"]
        return wrong[0] if wrong else Shape("e,e", operand)
    return Shape("odd" if "%" in operand else "bad", operand, f"too many commas in {operand!r}")


def _bracketed(mark: str, inner: str, rest: str) -> Shape | None:
    """The form of an operand that begins with a bracket; None when the bracket only groups an expression."""
    pair = "()" if mark == "(" else "[]"
    after = rest.replace(" ", "").replace("\t", "").lower()
    index = re.search(r",\s*([XxSs])\s*$", inner)
    core = inner[: index.start()] if index else inner
    register = "," + index.group(1).lower() if index else ""
    if after == "":
        return _expression(f"{pair[0]}e{register}{pair[1]}", core)
    if after in (",y", ",x", ",s"):
        return _expression(f"{pair[0]}e{register}{pair[1]}{after}", core)
    if after.startswith(",") or mark == "[":
        return Shape("bad", rest, f"no such register after the bracket: {rest!r}")
    return None


def _closing(operand: str) -> int | None:
    depth = 0
    for at, char in enumerate(operand):
        depth += (char in "([") - (char in ")]")
        if not depth:
            return at
    return None


def _commas(operand: str) -> list[str]:
    parts, depth, last = [], 0, 0
    for at, char in enumerate(operand):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(operand[last:at])
            last = at + 1
    return [*parts, operand[last:]]


_TOKEN = re.compile(
    r"\s*(?:(?P<value>\$[0-9A-Fa-f]+(?!\w)|%[01]+(?!\w)|\d+(?![\w])|'.'|\"[^\"]*\"|\*(?=\s*(?:[-+)]|$)))"
    r"|(?P<name>[.@?!]*[A-Za-z_][\w.@?]*(?:::\w+)*)|(?P<hole>!\{|<\w+>|!<)|(?P<binary><<|>>|\*\*|[*/&|=%])"
    r"|(?P<sign>[-+~<>^!])|(?P<open>[(\[])|(?P<close>[)\]]))"
)


def _expression(kind: str, text: str) -> Shape:
    """The shape with its expression checked: operands and operators alternate, brackets close, numbers are numbers."""
    text = text.strip()
    if not text:
        return Shape("bad", text, "an operand is missing")
    if re.fullmatch(r"[+-]+|:[+-]+", text):
        return Shape(kind, text)
    at, depth, wanted, call = 0, 0, True, False
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            rest = text[at:].strip()
            if not rest:
                break
            if rest[0] in "$%" or rest[0].isdigit():
                return Shape("bad", text, f"{rest!r} is no number")
            return Shape("bad", text, "comma without an operand") if rest[0] == "," and wanted else Shape("odd", text)
        token = found.lastgroup
        if token == "hole":
            return Shape("odd", text)
        if token in ("value", "name"):
            if not wanted:
                return Shape("bad", text, f"no operator before {found.group().strip()!r}")
            wanted, call = False, token == "name"
        elif token == "open":
            if not wanted:
                # A function's arguments are not looked into.
                return Shape("odd", text) if call else Shape("bad", text, "no operator before a bracket")
            depth += 1
        elif token == "close":
            depth -= 1
            if wanted or depth < 0:
                return Shape("bad", text, "a bracket closes too early")
        elif token == "binary":
            if wanted:
                return Shape("odd", text)
            wanted = True
        else:
            wanted = True
        at = found.end()
    if depth:
        return Shape("bad", text, "a bracket is left open")
    return Shape("bad", text, "an operand is missing at the end") if wanted else Shape(kind, text)


def instructions(text: str) -> int:
    """How many instructions of the table a text holds."""
    return sum(isinstance(s, Statement) for line in text.splitlines() for s in statements(line))


def faults(text: str) -> list[tuple[int, str]]:
    """(line, reason) of each line that cannot be 65816 assembly."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        verdict = check(line)
        if verdict.kind == "invalid":
            found.append((number, verdict.reason))
    return found

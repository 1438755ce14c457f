"""Broken twins of real assembly, each verified to be invalid.

    made = corrupt(block, "mode", rng, known)     # Corruption(text, "mode", [(4, "STA #$12")]) or None

Kinds: opcode (no such mnemonic), mode (an addressing mode that the instruction does not have), width (a literal wider
than the mode allows), syntax (brackets, commas, digits), operand (one missing or one too many), label (the target of
a jump within the block misspelt to a name that the whole project does not have). The first five are invalid by the
opcode table (afs.discriminator.opcodes), the last by the project's own names. Letter case stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np

from afs.discriminator.opcodes import DIRECTIVES, MODES, Statement, check, judge, statements

KINDS = ("opcode", "mode", "width", "syntax", "operand", "label")
SHARE = 0.15
"""At most this share of a block's instructions is broken, and at least one."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_HEX = re.compile(r"\$[0-9A-Fa-f]+")
_NAME = re.compile(r"[.@]?[A-Za-z_]\w*")
_DEFINED = re.compile(r"^\s*#?([.@]*[A-Za-z_]\w*)(?=:(?![:=])|\s*$)", re.MULTILINE)


@dataclass(frozen=True)
class Corruption:
    """A broken block: its kind, and the changed lines as (1-based line of the block, new text)."""

    text: str
    kind: str
    changes: tuple[tuple[int, str], ...]


def corrupt(text: str, kind: str, rng: np.random.Generator, known: Collection[str]) -> Corruption | None:
    """The block with some instructions broken in one way; None when this way cannot be applied to it.

    Args:
        known: every word of the project in lower case; a broken mnemonic or label is none of them.

    Raises:
        KeyError: no such kind.
    """
    make = _MAKERS[kind]
    lines = text.split("\n")
    targets = {name for name in _DEFINED.findall(text)} if kind == "label" else set()
    places = [(at, s) for at, line in enumerate(lines) for s in statements(line)
              if isinstance(s, Statement) and judge(s).kind == "valid"]  # fmt: skip
    wanted = 1 + int(rng.integers(max(1, int(len(places) * SHARE))))
    changed: dict[int, str] = {}
    for pick in rng.permutation(len(places)):
        at, statement = places[pick]
        if at in changed or check(lines[at]).kind != "valid":
            continue
        for new in make(statement, rng, known, targets):
            line = _replaced(lines[at], statement, new)
            if kind == "label" or check(line).kind == "invalid":
                changed[at] = line
                break
        if len(changed) >= wanted:
            break
    if not changed:
        return None
    broken = "\n".join(changed.get(at, line) for at, line in enumerate(lines))
    return Corruption(broken, kind, tuple((at + 1, changed[at].strip()) for at in sorted(changed)))


def _replaced(line: str, s: Statement, new: tuple[str, str]) -> str:
    """The line with another mnemonic and operand; the gap between them stays, with at least one space."""
    mnemonic, operand = new
    gap = line[s.start + len(s.mnemonic) : s.middle] if s.operand else (f".{s.suffix}" if s.suffix else "")
    if operand and not gap.endswith((" ", "\t")):
        gap += " "
    return line[: s.start] + mnemonic + (gap if operand else gap.rstrip()) + operand + line[s.end :]


Made = Iterator[tuple[str, str]]


def _like(letter: str, model: str) -> str:
    return letter.lower() if model.islower() else letter.upper()


def _shuffled(rng: np.random.Generator, items: list) -> list:
    return [items[i] for i in rng.permutation(len(items))]


def _opcode(s: Statement, rng: np.random.Generator, known: Collection[str], _: Collection[str]) -> Made:
    name = s.mnemonic
    for _try in range(40):
        at = int(rng.integers(len(name)))
        new = name[:at] + _like(_LETTERS[rng.integers(26)], name[at]) + name[at + 1 :]
        if new.upper() not in MODES and new.lower() not in DIRECTIVES and new.lower() not in known:
            yield new, s.operand


_FORMS = ("#{}", "({})", "({}),{y}", "({},{x})", "[{}]", "[{}],{y}", "{},{x}", "{},{y}", "{},{s}", "({},{s}),{y}",
          "({}),{x}", "[{}],{x}", "({},{y})")  # fmt: skip
_CORE = re.compile(r"^[#(\[]?\s*([^#()\[\],]+?)\s*(?:,\s*[XxSs])?\s*[)\]]?\s*(?:,\s*[XxYySs])?$")


def _mode(s: Statement, rng: np.random.Generator, *_: Collection[str]) -> Made:
    found = _CORE.match(s.operand)
    if not found or found.group(1) in ("A", "a", "+", "-"):
        return
    registers = {r: _like(r, s.mnemonic) for r in "xys"}
    for form in _shuffled(rng, list(_FORMS)):
        new = form.format(found.group(1), **registers)
        if new != s.operand:
            yield s.mnemonic, new


def _width(s: Statement, rng: np.random.Generator, *_: Collection[str]) -> Made:
    found = _HEX.search(s.operand)
    if not found:
        return
    digits = found.group()[1:]
    chars = "0123456789" + ("abcdef" if digits.islower() else "ABCDEF")
    for total in range(len(digits) + 1, 9):
        more = "".join(chars[1 + rng.integers(len(chars) - 1)] for _try in range(total - len(digits)))
        yield s.mnemonic, s.operand[: found.start() + 1] + more + digits + s.operand[found.end() :]


def _syntax(s: Statement, rng: np.random.Generator, *_: Collection[str]) -> Made:
    made = [s.operand[:at] + s.operand[at + 1 :] for at, char in enumerate(s.operand) if char in "()[],"]
    made += [s.operand.replace(",", new, 1) for new in (",,", " ") if "," in s.operand]
    found = _HEX.search(s.operand)
    if found:
        at = int(rng.integers(found.start() + 1, found.end()))
        bad = _like("GHIJKLMNOPQRSTUVWZ"[rng.integers(18)], s.mnemonic)
        made += [s.operand[:at] + bad + s.operand[at + 1 :], s.operand[: found.start() + 1] + s.operand[found.end() :]]
    for new in _shuffled(rng, made):
        yield s.mnemonic, new


def _operand(s: Statement, rng: np.random.Generator, *_: Collection[str]) -> Made:
    if s.operand.strip():
        yield s.mnemonic, ""
    else:
        byte, word = rng.integers(256), rng.integers(0x10000)
        for new in _shuffled(rng, [f"${byte:02X}", f"${word:04X}", f"#${byte:02X}"]):
            yield s.mnemonic, new


def _label(s: Statement, rng: np.random.Generator, known: Collection[str], targets: Collection[str]) -> Made:
    found = _NAME.fullmatch(s.operand.strip())
    if not found or found.group() not in targets or len(found.group()) < 4:
        return
    name = found.group()
    first = 1 if name[0] in ".@" else 0
    for _try in range(20):
        at = int(rng.integers(first, len(name) - 1))
        new = (name[:at] + name[at + 1] + name[at] + name[at + 2 :], name[:at] + name[at + 1 :],
               name[:at] + name[at] + name[at:])[rng.integers(3)]  # fmt: skip
        if new != name and new.lstrip(".@").lower() not in known and new.lstrip(".@")[:1].isalpha():
            yield s.mnemonic, new


_MAKERS: dict[str, Callable[..., Made]] = {
    "opcode": _opcode, "mode": _mode, "width": _width, "syntax": _syntax, "operand": _operand, "label": _label,
}  # fmt: skip

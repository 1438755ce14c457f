"""Pieces of 65816 assembly: in source files, in fenced blocks of an answer, in answers that are code themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from afs.discriminator.opcodes import Statement, check, instructions, statements

ASM_LANGUAGES = frozenset("asm assembly assembler 65816 65c816 asm65816 asar ca65 snes 6502 65asm nasm s".split())
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^`]*$")
_LABEL = re.compile(r"^[A-Za-z_]\w*:(?![:=])")
_PROSE = re.compile(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}")


@dataclass(frozen=True)
class Block:
    """A piece of assembly and the 1-based line of the text where it begins."""

    text: str
    line: int
    language: str = ""


def code_blocks(text: str) -> list[Block]:
    """The assembly in an answer: every fenced block that is marked as assembly or reads like it; without any fence the
    whole text when it reads like assembly. A fence that is never closed ends with the text."""
    fences = list(_fences(text))
    if fences:
        return [b for b in fences if b.text.strip() and (b.language in ASM_LANGUAGES or
                (not b.language or b.language in ("text", "code")) and reads_like_assembly(b.text))]  # fmt: skip
    return [Block(text.strip("\n"), 1)] if reads_like_assembly(text) else []


def _fences(text: str) -> Iterator[Block]:
    mark, language, start, kept = "", "", 0, []
    for number, line in enumerate(text.splitlines(), 1):
        found = _FENCE.match(line)
        if not mark:
            if found:
                mark, language, start, kept = found.group(1), found.group(2).strip("{}.").lower(), number + 1, []
        elif found and found.group(1)[0] == mark[0] and len(found.group(1)) >= len(mark) and not found.group(2):
            yield Block("\n".join(kept), start, language)
            mark = ""
        else:
            kept.append(line)
    if mark:
        yield Block("\n".join(kept), start, language)


def reads_like_assembly(text: str) -> bool:
    """At least two instructions, and instructions, labels and directives on more than half of the lines."""
    code = total = found = 0
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith((";", "//")):
            continue
        total += 1
        if _PROSE.search(stripped.split(";")[0]):
            continue
        verdict = check(line)
        code += verdict.kind in ("valid", "other", "invalid") and not stripped.startswith(("- ", "* ", "#"))
        found += verdict.kind == "valid"
    return found >= 2 and code * 2 > total


def pieces(text: str, max_lines: int) -> list[str]:
    """A block cut into parts of at most `max_lines` lines, of about equal length."""
    lines = text.splitlines()
    if len(lines) <= max_lines:
        return [text]
    parts = -(-len(lines) // max_lines)
    size = -(-len(lines) // parts)
    return ["\n".join(lines[at : at + size]) for at in range(0, len(lines), size)]


def source_blocks(text: str, min_lines: int, max_lines: int) -> Iterator[Block]:
    """Routines of a source file: cut at top-level labels and blank lines, at most `max_lines` long.

    A routine with fewer than `min_lines` instructions is joined with what follows; the last ones of a file may be left
    over. Lines are as in the file, without spaces at their ends.
    """
    kept: list[str] = []
    start, count = 1, 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.rstrip()
        border = not line or bool(_LABEL.match(line))
        if kept and ((border and count >= min_lines) or len(kept) >= max_lines):
            if count >= min_lines:
                yield Block("\n".join(kept).rstrip("\n"), start)
            kept, count = [], 0
        if not kept:
            if not line:
                continue
            start = number
        kept.append(line)
        count += sum(isinstance(s, Statement) for s in statements(line))
    if kept and count >= min_lines:
        yield Block("\n".join(kept).rstrip("\n"), start)


__all__ = ["ASM_LANGUAGES", "Block", "code_blocks", "instructions", "pieces", "reads_like_assembly", "source_blocks"]

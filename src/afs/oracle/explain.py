"""What a routine does, in words: its comments, and what can be read off its code without running it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from afs.oracle.assembly import MNEMONICS, Assembly, Macro, Routine, Struct, comment_text, is_equate, split_comment

LISTED = 24
"""Lines of code up to which an answer shows the code itself."""
_SHOWN = 8  # names of one kind in a list
_INSTRUCTION = re.compile(r"(?<![\w.!$#])([A-Za-z]{3})(?:\.[bwlBWL])?(?![\w.=])[ \t]*([^\s:;,{}]*)")
_DATA = re.compile(r"(?<![\w.])(db|dw|dl|dd|\.byte|\.word|\.db|\.dw)[ \t]+(.*)", re.IGNORECASE)
_NAME = re.compile(r"[!.]?[A-Za-z_][\w.]*")
_ADDRESS = re.compile(r"\$[0-9A-Fa-f]{2,6}$")
_USED = re.compile(r"%([A-Za-z_]\w*)\(")
_INNER = re.compile(r"[ \t]*(\.[A-Za-z_]\w*)(?::|[ \t]*$|[ \t]+[^=\s])")
_CALLS = {"JSR", "JSL"}
_JUMPS = {"JMP", "JML"}
_WRITES = {"STA", "STX", "STY", "STZ", "TSB", "TRB", "INC", "DEC", "ASL", "LSR", "ROL", "ROR"}
_READS = {"LDA", "LDX", "LDY", "CMP", "CPX", "CPY", "ADC", "SBC", "AND", "ORA", "EOR", "BIT"}
_ENDS = {"RTS": "returns with RTS, so it is called with JSR", "RTL": "returns with RTL, so it is called with JSL",
         "RTI": "returns from an interrupt with RTI"}  # fmt: skip


def routine_answer(source: Assembly, routine: Routine) -> str | None:
    """A description of a routine or data table; None when there is neither a comment nor enough code to describe."""
    lines = source.lines[routine.start : routine.end]
    # What stands between this label's code and the next definition is not about the label.
    while lines and (not (code := split_comment(lines[-1].strip())[0].strip()) or is_equate(code)):
        lines.pop()
    code, notes = _parts(lines)
    told = sentences(routine.comments)
    found = [(op.upper(), operand) for op, operand in _INSTRUCTION.findall(code) if op.upper() in MNEMONICS]
    data = [] if found else _DATA.findall(code)
    if not found and not (data and (told or notes)) and not told:
        return None
    if not told and not notes and len(found) < 3:
        return None
    what = _kind(found, data)
    parts = [f"`{routine.name}` is {what} in `{source.path}` (line {routine.line})."]
    if told:
        parts[0] += f" {told}"
    facts = list(_facts(found, code))
    if facts:
        parts.append("\n".join(f"- {fact}" for fact in facts))
    if notes:
        parts.append("Comments in the code: " + "; ".join(notes[:12]) + ".")
    shown = [line for line in lines if line.strip()]
    if found and len(shown) <= LISTED:
        parts.append("```asm\n" + "\n".join(line.rstrip() for line in shown) + "\n```")
    return "\n\n".join(parts)


def _parts(lines: list[str]) -> tuple[str, list[str]]:
    """Code without comments, and the comments' words."""
    code, notes = [], []
    for line in lines:
        if ";" not in line and "//" not in line:
            code.append(line)
            continue
        body, comment = split_comment(line)
        code.append(body)
        text = comment_text(comment)
        if text:
            notes.append(text.rstrip("."))
    return "\n".join(code), list(dict.fromkeys(notes))


def _kind(found: list[tuple[str, str]], data: list[tuple[str, str]]) -> str:
    if found:
        return f"a routine of {len(found)} instruction{'s' if len(found) > 1 else ''}"
    if data:
        values = sum(row.count(",") + 1 for _, row in data)
        return f"a table of {values} value{'s' if values > 1 else ''} (`{data[0][0].lower()}`)"
    return "a label"


def _facts(found: list[tuple[str, str]], code: str) -> Iterable[str]:
    calls = _names(operand for op, operand in found if op in _CALLS)
    jumps = _names(operand for op, operand in found if op in _JUMPS)
    reads = _names(operand for op, operand in found if op in _READS)
    writes = _names(operand for op, operand in found if op in _WRITES)
    macros = list(dict.fromkeys("%" + name for name in _USED.findall(code)))
    inner = list(dict.fromkeys(m.group(1) for line in code.split("\n") if (m := _INNER.match(line))))
    for title, names in (("Calls", calls), ("Jumps to", jumps), ("Reads", reads), ("Writes", writes),
                         ("Uses the macros", macros), ("Labels inside", inner)):  # fmt: skip
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            yield f"{title}: {', '.join(f'`{name}`' for name in names[:_SHOWN])}{more}."
    last = next((op for op, _ in reversed(found) if op in _ENDS), None)
    if last:
        yield f"It {_ENDS[last]}."


def _names(operands: Iterable[str]) -> list[str]:
    """Names and addresses that operands refer to; immediates and local marks (`+`) are none."""
    found = {}
    for operand in operands:
        text = operand.strip("()[]")
        if text and text[0] not in "#+-" and (_ADDRESS.match(text) or (_NAME.match(text) and text.upper() != "A")):
            found[text] = None
    return list(found)


def sentences(comments: list[str]) -> str:
    """Comment lines as running text that begins with a capital and ends with a stop."""
    text = " ".join(comments).strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?:)" else ".")


def sized(size: str) -> str:
    """A struct field's size as written, with its unit."""
    return "1 byte" if size == "1" else f"{size} bytes"


def macro_answer(source: Assembly, macro: Macro) -> str | None:
    """A description of a macro with its body; None for an empty one."""
    body = [line.rstrip() for line in macro.body if line.strip()]
    if not body:
        return None
    told = sentences(macro.comments)
    arguments = [a.strip() for a in macro.arguments.strip("()").split(",") if a.strip()]
    takes = f"takes {', '.join(f'`{a}`' for a in arguments)}" if arguments else "takes no arguments"
    text = f"`%{macro.name}{macro.arguments or '()'}` is a macro in `{source.path}` (line {macro.line}); it {takes}."
    if told:
        text += f" {told}"
    shown, more = body[:LISTED], len(body) - LISTED
    text += " It expands to:\n\n```asm\n" + "\n".join(shown) + "\n```"
    return text + (f"\n\n… and {more} more lines." if more > 0 else "")


def struct_answer(source: Assembly, struct: Struct) -> str | None:
    """The layout of a struct; None for an empty one."""
    if not struct.fields:
        return None
    where = f" at `${struct.base:06X}`" if struct.base is not None else ""
    parent = f" that extends `{struct.parent}`" if struct.parent else ""
    text = f"`{struct.name}` is a struct{where}{parent} in `{source.path}` (line {struct.line})."
    told = sentences(struct.comments)
    rows = []
    for name, offset, size, note in struct.fields:
        place = f"offset {offset}" if offset is not None else "offset not fixed"
        if offset is not None and struct.base is not None:
            place += f" (`${struct.base + offset:06X}`)"
        place += f", {sized(size)}" if size else ""
        rows.append(f"- `{struct.name}.{name}`: {place}" + (f": {note}" if note else ""))
    return text + (f" {told}" if told else "") + " Its fields:\n\n" + "\n".join(rows)

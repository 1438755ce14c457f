"""The 65816 table against itself, against corruptions, and against a real assembler."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from asm_kit import write_code_base
from hypothesis import given, settings
from hypothesis import strategies as st

from afs.discriminator.blocks import code_blocks, pieces, source_blocks
from afs.discriminator.corrupt import KINDS, corrupt
from afs.discriminator.opcodes import MODES, OPCODES, check, faults, instructions, split_comment

OPERANDS = {
    "s": "", "A": "A", "#": "#$12", "#b": "#$12", "d": "$12", "a": "$1234", "l": "$123456", "r": "*", "rl": "*",
    "d,s": "$12,S", "d,x": "$12,X", "d,y": "$12,Y", "a,x": "$1234,X", "a,y": "$1234,Y", "l,x": "$123456,X",
    "(d)": "($12)", "(d,x)": "($12,X)", "(d),y": "($12),Y", "[d]": "[$12]", "[d],y": "[$12],Y", "(d,s),y": "($12,S),Y",
    "(a)": "($1234)", "(a,x)": "($1234,X)", "[a]": "[$1234]", "xyc": "#$12,#$34",
}  # fmt: skip


def test_all_256_opcodes_are_valid_and_no_two_alike():
    assert [o.code for o in OPCODES] == list(range(256)) and len({o[1:] for o in OPCODES}) == 256
    for opcode in OPCODES:
        line = f"    {opcode.mnemonic.lower()} {OPERANDS[opcode.mode]} ; comment"
        assert check(line).kind == "valid", line


@pytest.mark.parametrize("line", [
    "LDA #$10", "label: STA $2100", ".loop LDA.w $10,x", "- BNE -", "+: INC A", "INC", "lda $10 : sta $12",
    "JMP ($1234)", "JML [$1234]", "LDA.l Table+2,x", "LDX.b #size", "MVN $7E,$7F", "pei ($10)", "PEA $1234",
    "LDA ($10,S),Y", "LDA #'a'", "LDA #<Label", "LDA #(1<<3)|2", "ADC (Base+4)*2,X", "BRK", "COP #$12", "LDA f:Table,x",
    "BRA .next", "@loop: lda #1", "LDA a:$10", "LDA #%00101", "LDA Label::Inner",
])  # fmt: skip
def test_valid_lines(line):
    assert check(line).kind == "valid", check(line)


@pytest.mark.parametrize("line", [
    "STX $10,X", "LDB $10", "STA #$10", "LDA ($10),X", "LDA #$123456", "STX $7E0010", "REP #$1234", "LDA ($10",
    "LDA $1G", "LDA $", "LDA", "RTS $10", "LDA $10,,X", "LDA $10 X", "LDA #$10,X", "LDA $10,Z", "TAX #$10",
    "LDA [$1234]", "JSR ($1234)", "PEA $123456", "MVN ($10),Y", "LDA $10)", "STZ.l $123456", "LDA #", "LDA $12 $34",
])  # fmt: skip
def test_invalid_lines(line):
    assert check(line).kind == "invalid"


@pytest.mark.parametrize("line", ["", "; LDB $10", "Label:", ".sub", "!x = $10", "name = $7E0010", "%macro(LDB)",
                                  "org $8000", "db $10, $20", ".byte 1", "incsrc \"LDB.asm\"", "{", "+"])  # fmt: skip
def test_lines_that_are_no_instructions(line):
    assert check(line).kind == "other"


@pytest.mark.parametrize("line", ["LDA !define", "LDA <argument>", "LDA read1($8000)", "SomeMacro 1, 2", "LSR #4",
                                  "LDA !{x}"])  # fmt: skip
def test_what_the_table_cannot_decide_is_never_invalid(line):
    assert check(line).kind in ("unknown", "valid")


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_gets_a_verdict(line):
    assert check(line).kind in ("valid", "invalid", "unknown", "other")
    code, comment = split_comment(line)
    assert code + comment == line
    code_blocks(line)


@pytest.mark.skipif(shutil.which("ca65") is None, reason="no ca65: scripts/bootstrap_dev.sh with SYSTEM=1")
def test_the_table_agrees_with_ca65(tmp_path):
    """Every mnemonic in every mode, in one file: ca65 refuses exactly the lines that the table calls invalid."""
    own_ways = {"BRK", "COP", "WDM", "MVN", "MVP", "BLT", "BGE", "DEA", "INA"}  # spellings that ca65 2.18 lacks
    lines = [f"{name} {OPERANDS[mode]}".strip() for name in sorted(MODES) for mode in OPERANDS
             if name not in own_ways and not (MODES[name] & {"r", "rl"} and mode not in ("r", "s", "A"))]  # fmt: skip
    source = tmp_path / "all.s"
    source.write_text("\n".join(lines) + "\n")
    done = subprocess.run(["ca65", "--cpu", "65816", "-o", tmp_path / "all.o", source], capture_output=True, text=True)
    refused = {int(line.split("(")[1].split(")")[0]) for line in done.stderr.splitlines() if ": Error:" in line}
    wrong = [line for number, line in enumerate(lines, 1)
             if check(line).kind != "unknown" and (check(line).kind == "invalid") != (number in refused)]  # fmt: skip
    assert len(lines) > 1700 and wrong == []


def kit(tmp_path, files=4, routines=8):
    root = write_code_base(tmp_path / "code", files, routines)
    return [block.text for path in sorted(root.rglob("*.asm")) for block in source_blocks(path.read_text(), 3, 50)]


def test_corruptions_are_what_they_say(tmp_path):
    blocks = kit(tmp_path)
    known = {word for text in blocks for word in text.lower().replace("\n", " ").split()}
    known |= {w.strip(":") for w in known}
    made = {kind: 0 for kind in KINDS}
    for number, text in enumerate(blocks):
        assert faults(text) == [], "the real block has no fault"
        for kind in KINDS:
            found = corrupt(text, kind, np.random.default_rng(number), known)
            if found is None:
                continue
            made[kind] += 1
            before, after = text.split("\n"), found.text.split("\n")
            changed = [n for n, (a, b) in enumerate(zip(before, after, strict=True), 1) if a != b]
            assert changed == [n for n, _ in found.changes] and len(changed) <= max(1, 0.15 * instructions(text))
            assert kind == "label" or [n for n, _ in faults(found.text)] == changed, found
            if kind == "label":
                assert all(after[n - 1].split()[-1].lower() not in known for n in changed)
            if text.isupper() and kind != "width":
                assert found.text.isupper(), "letter case is kept"
            assert found == corrupt(text, kind, np.random.default_rng(number), known), "same seed, same corruption"
    assert min(made.values()) > len(blocks) / 4, made


@pytest.mark.skipif(shutil.which("ca65") is None, reason="no ca65: scripts/bootstrap_dev.sh with SYSTEM=1")
def test_ca65_takes_the_real_blocks_and_refuses_the_corrupted_lines(tmp_path):
    blocks = [text for text in kit(tmp_path, 2, 6)]
    known = {word.strip(":") for text in blocks for word in text.lower().split()}
    for kind in set(KINDS) - {"label"}:
        lines = []
        for number, text in enumerate(blocks):
            found = corrupt(text, kind, np.random.default_rng(number), known)
            lines += [line.split(";")[0] for _, line in found.changes] if found else []
        source = tmp_path / f"{kind}.s"
        source.write_text(".a16\n.i16\n" + "\n".join(lines) + "\n")
        command = ["ca65", "--cpu", "65816", "-U", "-o", tmp_path / "x.o", source]
        done = subprocess.run(command, capture_output=True, text=True)
        refused = {int(line.split("(")[1].split(")")[0]) - 2 for line in done.stderr.splitlines() if ": Error:" in line}
        taken = [line for number, line in enumerate(lines, 1) if number not in refused]
        assert lines and taken == [], kind


def test_blocks_in_answers():
    text = ("Look:\n```asm\nLDA #$10\nSTA $20\n```\n~~~\nlda $10\nrts\n~~~\n```python\nx = 1\n```\n"
            "```\njust words here\n```\n```asm\nNOP")  # fmt: skip
    found = code_blocks(text)
    assert [(b.line, b.text) for b in found] == [(3, "LDA #$10\nSTA $20"), (7, "lda $10\nrts"), (17, "NOP")]
    assert all(text.splitlines()[b.line - 1] == b.text.splitlines()[0] for b in found)
    assert code_blocks("LDA loads the accumulator.\nSTA stores it.") == [] and code_blocks("") == []


@given(st.integers(0, 400), st.integers(1, 60))
def test_pieces_are_whole(lines, most):
    text = "\n".join(f"line {n}" for n in range(lines))
    cut = pieces(text, most)
    assert "\n".join(cut) == text and max(len(p.splitlines()) for p in cut) <= most

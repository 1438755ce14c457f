"""asar and ca65 as judges of assembly: every block, sandboxed, with structured errors."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import sys
import time
from pathlib import Path

import pytest

from afs.step import UsageError
from afs.training.asar import NO_CODE, AsarConfig, AsarScorer, AsarValidator, categorise, refused
from afs.training.signals import Item, Scorer

GOOD = "Main:\n    LDA #$10\n    STA $7E0010\n    RTS"
BAD = "Main:\n    LDA #$10\n    STX $7E0010\n    RTS"


def fenced(*blocks: str) -> str:
    return "Here it is.\n\n" + "\n\nand\n\n".join(f"```asm\n{block}\n```" for block in blocks) + "\n"


@pytest.fixture
def tool(tmp_path) -> Path:
    """The stand-in as an executable of its own, so that the right Python runs it."""
    path = tmp_path / "bin" / "asar"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("fake_asar.py")}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def game(tmp_path) -> Path:
    root = tmp_path / "game"
    (root / "Core").mkdir(parents=True)
    (root / "Core" / "symbols.asm").write_text("!HP = $7EF36D\nmacro wait(n)\nendmacro\nPlaySound:\n")
    (root / "Core" / "data.bin").write_bytes(b"\1\2")
    return root


def test_every_block_is_assembled(tool):
    judge = AsarValidator(AsarConfig(path=tool))
    assert judge.validate(fenced(GOOD, GOOD)).verdict == "passed"
    found = judge.validate(fenced(GOOD, BAD))
    assert found.verdict == "failed" and [b.verdict for b in found.blocks] == ["passed", "failed"]
    (error,) = found.errors
    assert fenced(GOOD, BAD).splitlines()[error.line - 1].strip() == "STX $7E0010", "the line is one of the answer"
    assert error.category == "instruction" and "STX" in error.message and error.file == ""
    assert judge.validate(GOOD).verdict == "passed", "an answer that is code itself"
    prose = judge.validate("LDA loads the accumulator with a value from memory.")
    assert (prose.verdict, prose.reason, prose.blocks) == ("skipped", NO_CODE, ())


def test_other_languages_are_not_assembled(tool):
    text = "```python\nprint('lda')\n```\n" + fenced(GOOD)
    assert len(AsarValidator(AsarConfig(path=tool)).validate(text).blocks) == 1


def test_context_defines_and_stubs(tool, game):
    code = ("Main:\n    LDA !HP\n    %wait(3)\n    JSL PlaySound\n    LDA !Unknown\n    JSR Elsewhere\n    BNE .lost\n"
            "    RTS")  # fmt: skip
    alone = AsarValidator(AsarConfig(path=tool)).validate(code.replace("    BNE .lost\n", ""))
    assert alone.verdict == "skipped" and "wait" in alone.reason, "a macro that only the project has says nothing"
    config = AsarConfig(path=tool, include_paths=(game,), prelude=("Core/symbols.asm",))
    found = AsarValidator(config).validate(code)
    assert found.verdict == "failed" and [e.message for e in found.errors] == ["Label '.lost' wasn't found."]
    whole = AsarValidator(config).validate(code.replace(".lost", "Main"))
    assert whole.verdict == "passed" and set(whole.blocks[0].stubbed) == {"!Unknown", "Elsewhere"}
    strict = AsarConfig(path=tool, include_paths=(game,), prelude=("Core/symbols.asm",), stub_undefined=False)
    assert AsarValidator(strict).validate(code.replace(".lost", "Main")).verdict == "failed"
    given = AsarConfig(path=tool, defines=(("HP", "$7EF36D"),), stub_undefined=False)
    assert AsarValidator(given).validate("Main:\n LDA !HP\n RTS").verdict == "passed"


@pytest.mark.parametrize("line", [
    'incbin "/etc/hostname"', "incsrc /etc/hostname", 'incsrc "../secret.asm"', 'incbin "missing.bin"',
    'db readfile1("x", 0)',
    'NOP : incbin "/etc/hostname"', '!x = incbin', "!x", '!{a}bin "f"', "inc!x", '!x = "NOP : inc"', 'table "a.txt"',
    "LDA #filesize(\"a\")", "<a> \"f\"", "inc<a> f", '.include "/etc/hostname"', '.incbin "/etc/hostname"',
    ".macpack longbranch", 'incsrc "C:\\x.asm"', "db re!x", 'if 1 : incbin "f"',
    "inc\\",
])  # fmt: skip
def test_nothing_outside_the_context_is_read(line, tool, game):
    code = f"Main:\n    LDA #$10\n    STA $10\n    {line}\n    RTS"
    assert [number for number, _ in refused(code, [game])] == [4]
    found = AsarValidator(AsarConfig(path=tool, include_paths=(game,))).validate(fenced(code))
    assert found.verdict == "failed" and found.errors[0].category == "forbidden"


@pytest.mark.parametrize("end", ["\f", "\v", "\x1c", "\x85", "\u2028"])
def test_checker_and_assembler_see_the_same_lines(end, tool, game, tmp_path):
    seen = tmp_path / "seen.asm"
    spy = tmp_path / "spy"
    spy.write_text(f'#!/bin/sh\nfor at; do case "$at" in *main.asm) cat "$at" >> {seen};; esac; done\n')
    spy.chmod(0o755)
    # One line for the assembler (a text, then a command); to the checker the second half is a comment.
    code = f'Main:\n    LDA #$10\n    STA $10\n    db "a{end}; " : incbin "/etc/hostname"\n    RTS'
    AsarValidator(AsarConfig(path=spy, include_paths=(game,))).validate(code)
    lines = [line for line in seen.read_bytes().decode().split("\n") if "incbin" in line]
    assert lines and all(line.lstrip().startswith(";") for line in lines)


def test_files_of_the_context_may_be_read_and_links_out_of_it_not(tool, game, tmp_path):
    (tmp_path / "secret.asm").write_text("NOP\n")
    (game / "link.asm").symlink_to(tmp_path / "secret.asm")
    judge = AsarValidator(AsarConfig(path=tool, include_paths=(game,)))
    code = 'Main:\n    LDA #$10\n    STA $10\n    {}\n    RTS'
    assert judge.validate(code.format('incsrc "Core/symbols.asm"')).verdict == "passed"
    assert judge.validate(code.format("incbin Core/data.bin")).verdict == "passed"
    assert judge.validate(code.format('incsrc "link.asm"')).verdict == "failed"


@pytest.mark.parametrize("line", ["!speed = $10", "LDA !speed", "%wait(4)", "LDA #!speed+1", "db $10,$20 ; incbin here",
                                  ".loop", "- : BNE -", "assert !speed != 3", "LDA <speed"])  # fmt: skip
def test_ordinary_lines_are_not_refused(line):
    assert refused(line, []) == []


def test_a_hanging_assembler_is_ended_and_leaves_nothing(tool, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    began = time.monotonic()
    found = AsarValidator(AsarConfig(path=tool, timeout=0.7)).validate(GOOD + " ; hang")
    assert found.verdict == "failed" and found.errors[0].category == "timeout"
    assert time.monotonic() - began < 10
    assert list((tmp_path / "tmp").iterdir()) == []


def test_warnings_are_no_errors(tool):
    assert AsarValidator(AsarConfig(path=tool)).validate(GOOD + " ; chatter").verdict == "passed"


def test_order_does_not_depend_on_workers(tool):
    texts = [fenced(GOOD), fenced(BAD), "prose only", fenced(GOOD, BAD), GOOD, BAD]
    one = AsarValidator(AsarConfig(path=tool)).validate_all(texts)
    four = AsarValidator(AsarConfig(path=tool, workers=4)).validate_all(texts)
    assert one == four and [v.verdict for v in one] == ["passed", "failed", "skipped", "failed", "passed", "failed"]


def test_without_asar_the_signal_is_absent_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    scorer = AsarScorer()
    assert "asar is not on PATH" in scorer.missing() and isinstance(scorer, Scorer)
    with pytest.raises(UsageError, match="not on PATH"):
        AsarValidator().validate(GOOD)
    assert "apt-get install cc65" in AsarValidator(AsarConfig(tool="ca65")).missing()
    assert "no program" in AsarValidator(AsarConfig(path=tmp_path / "nothing")).missing()


def test_scorer(tool, game):
    scorer = AsarScorer(AsarConfig(path=tool, include_paths=(game,)))
    assert scorer.missing() == "" and scorer.version.startswith("1+asar1.91-")
    found = pickle.loads(pickle.dumps(scorer)).score([Item("q", fenced(GOOD)), Item("q", BAD), Item("q", "words")])
    assert found.values[:2] == [1.0, 0.0] and math.isnan(found.values[2]) and found.why == ["", "", NO_CODE]
    (game / "Core" / "symbols.asm").write_text("!HP = $7EF36E\n")
    other = AsarScorer(AsarConfig(path=tool, include_paths=(game,)))
    assert other.version != scorer.version, "another context may give another verdict"


def test_copies_of_a_context_have_one_key(tool, game, tmp_path):
    def key(root):
        return AsarValidator(AsarConfig(path=tool, include_paths=(root,))).context_key()

    copy = Path(shutil.copytree(game, tmp_path / "copy"))
    os.utime(copy / "Core/symbols.asm", (1, 1))
    (copy / ".git").mkdir()
    (copy / ".git/index").write_bytes(b"x")
    assert key(copy) == key(game)
    (copy / "Core/symbols.asm").write_text("!HP = $7EF36E\nmacro wait(n)\nendmacro\nPlaySound:\n")  # same length
    os.utime(copy / "Core/symbols.asm", (1, 1))
    assert key(copy) != key(game)


def test_settings_are_checked(tmp_path):
    for wrong in ({"tool": "nasm"}, {"timeout": 0}, {"workers": 0}, {"mapping": "rom"}):
        with pytest.raises(UsageError):
            AsarConfig(**wrong)
    with pytest.raises(UsageError, match="include path"):
        AsarValidator(AsarConfig(path=sys.executable, include_paths=(tmp_path / "no",))).validate(GOOD)


def test_categories():
    assert categorise("Unknown command.") == "instruction"
    assert categorise("Label 'x' wasn't found.") == "label" and categorise("Define 'x' wasn't found.") == "define"
    assert categorise("Illegal addressing mode") == "addressing" and categorise("Mismatched parentheses.") == "syntax"
    assert categorise("Relative branch out of bounds. (Distance is 200).") == "range"


needs_ca65 = pytest.mark.skipif(shutil.which("ca65") is None, reason="no ca65: scripts/bootstrap_dev.sh with SYSTEM=1")


@needs_ca65
def test_ca65_checks_syntax():
    judge = AsarValidator(AsarConfig(tool="ca65", workers=2))
    good = "main:\n    lda #$1020\n    sta $7e0010\n    jsr elsewhere\n    rts"
    bad = {"stx $7e0010": "range addressing", "lda ($10),x": "addressing syntax", "ldb $10": "instruction syntax",
           "lda $1g": "syntax", "lda ($10": "syntax"}  # fmt: skip
    found = judge.validate_all([fenced(good), *(fenced(good.replace("jsr elsewhere", line)) for line in bad)])
    assert [v.verdict for v in found] == ["passed"] + ["failed"] * len(bad)
    for (line, categories), verdict in zip(bad.items(), found[1:], strict=True):
        assert verdict.errors[0].category in categories.split(), (line, verdict.errors)
        assert verdict.errors[0].line == 7, "the fourth line of the block, in lines of the answer"
    assert AsarScorer(AsarConfig(tool="ca65")).version.startswith("1+ca652.")


@needs_ca65
def test_ca65_runs_with_an_empty_environment_and_no_host_files():
    code = 'main:\n lda #$10\n sta $10\n .incbin "/etc/hostname"\n rts'
    found = AsarValidator(AsarConfig(tool="ca65")).validate(code)
    assert found.errors[0].category == "forbidden" and os.path.exists("/etc/hostname")

"""The Oracle generator on two miniature code bases, one in each layout of documents, and on what goes wrong."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from benchmarks.code_bases import make_code_base
from hypothesis import given
from hypothesis import strategies as st

from afs.generators.base import SampleError, TrainingSample, load_samples
from afs.generators.markdown import cells, plain, sections, steps, tables
from afs.oracle import assembly, documents
from afs.oracle.command import generate_oracle
from afs.oracle.training_generator import OracleTrainingGenerator
from afs.step import How, StepError, UsageError

FIXTURES = Path(__file__).parent / "fixtures" / "oracle_mini"
LAYOUTS = ("classic", "atlas")
SIX = ("docs", "asm", "memory", "quest", "architecture", "constant")


@pytest.fixture
def classic(tmp_path) -> Path:
    """A copy of the classic code base, to which tests may add what is broken."""
    return Path(shutil.copytree(FIXTURES / "classic", tmp_path / "lantern-of-tides"))


def made(root: Path, **how) -> dict[str, list[TrainingSample]]:
    found: dict[str, list[TrainingSample]] = {}
    for kind, sample in OracleTrainingGenerator(root, **how).samples():
        found.setdefault(kind, []).append(sample)
    return found


def answers(root: Path, kind: str) -> dict[str, str]:
    return {s.instruction: s.output for s in made(root)[kind]}


# --- kinds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_kinds_come_from_both_layouts(layout):
    found = made(FIXTURES / layout)
    assert all(found[kind] for kind in (*SIX, "table")), {k: len(v) for k, v in found.items()}
    every = [s for samples in found.values() for s in samples]
    assert len({s.instruction for s in every}) == len(every), "no question is asked twice"
    assert len({s.sample_id for s in every}) == len(every)
    for sample in every:
        assert (FIXTURES / layout / sample.source).is_file()
        lines = (FIXTURES / layout / sample.source).read_text().splitlines()
        assert 1 <= sample.metadata["line"] <= len(lines)
        assert sample.domain.startswith("oracle_") and len(sample.output) >= 10
        assert "Archive" not in sample.source and "Planning" not in sample.source
        assert "heading" not in sample.instruction, "a # in a code fence is no heading"


def test_labels_are_labels_in_every_tree():
    """Comment lines, address marks, instructions and macro bodies are none; so much for the trees and endings."""
    names = {layout: [(s.metadata["what"], s.metadata["name"]) for s in made(FIXTURES / layout)["asm"]]
             for layout in LAYOUTS}  # fmt: skip
    assert names["classic"] == [
        ("macro", "StorySet"), ("macro", "WaitForTide"), ("struct", "Float"), ("struct", "Bottle"),
        ("routine", "Tide_Step"), ("routine", "Tide_Wait"), ("routine", "Tide_Heights"), ("routine", "Tide_Tiny"),
        ("routine", "Menu_DrawOil"), ("routine", "Keeper_Main"), ("routine", "Keeper_Talk"),
    ]  # fmt: skip
    assert names["atlas"] == [("routine", "Crab_Walk"), ("routine", "Vector_Reset"), ("routine", "Engine_Clear"),
                              ("routine", "Engine_Loop")]  # fmt: skip


def test_explanations_tell_comments_and_structure():
    found = answers(FIXTURES / "classic", "asm")
    step = found["What does `Tide_Step` do in Lantern of Tides?"]
    assert step.startswith("`Tide_Step` is a routine of 8 instructions in `Core/tide.asm` (line 6). Moves the water "
                           "one step and tells the floats about it. A = speed of the tide.\n\n"
                           "- Calls: `Float_MoveAll`.")  # fmt: skip
    assert "- Reads: `TideTimer`." in step and "- Labels inside: `.turn`." in step and "called with JSL" in step
    assert "Comments in the code: start again." in step, "code that is commented out is no comment"
    assert step.endswith("  RTL\n}\n```")
    assert "Heights of the water for each level." in found["What does `Tide_Heights` do in Lantern of Tides?"]
    gauge = found["What does `Menu_DrawOil` do in Lantern of Tides?"]
    assert "It is a bar of eight tiles." in gauge and "\r" not in gauge and "namespace" not in gauge
    assert "- Uses the macros: `%StorySet`." in found["What does `Keeper_Main` do in Lantern of Tides?"]
    assert "FREE ROM" not in found["What does `Tide_Wait` do in Lantern of Tides?"]
    macro = found["What does the macro `%StorySet` do in Lantern of Tides?"]
    assert "takes `address`, `bit`. Sets a bit of the story." in macro and "ORA.b #<bit>" in macro
    struct = found["What is the layout of the struct `Float` in Lantern of Tides?"]
    assert "- `Float.Tide`: offset 32 (`$7E0BC0`), $20 bytes" in struct and "offset not fixed" in struct
    crab = answers(FIXTURES / "atlas", "asm")
    assert "A crab that walks sideways." in crab["What does `Crab_Walk` do in Atlas?"]
    assert "Max_Actors" not in crab["What does `Engine_Loop` do in Atlas?"]


def test_memory_is_looked_up_both_ways():
    found = answers(FIXTURES / "classic", "memory")
    assert found["What address stores `TideLevel` in Lantern of Tides?"].startswith(
        "`TideLevel` is at `$7E0731` (work RAM). Low, rising or high; see `Tide | Level`.")
    assert found["What is stored at `$7E36E` in Lantern of Tides?".replace("7E36E", "7EF36E")].startswith(
        "`$7EF36E` (work RAM) holds `LanternOil`. Drops of oil left (max 128).")
    assert "under “Tide Clock”" in found["What address stores `LanternOil` in Lantern of Tides?"]
    assert "Counts frames until the tide turns" in found[
        "What address stores `TideTimer` in Lantern of Tides? (Core/ram.asm)"]
    assert "hardware register" in found["What address stores `VRAM_PORT` in Lantern of Tides?"]
    assert "`$7E0BB0`" in found["What address stores `Float.Height` in Lantern of Tides?"]
    assert found["What address stores `LampLit` in Lantern of Tides?"].startswith("`LampLit` is at `$7EF3C5`")
    assert not any("Nowhere" in ask or "OldTideLevel" in ask or "TideLimit" in ask for ask in found)
    atlas = answers(FIXTURES / "atlas", "memory")
    assert "`$7E001A`" in atlas["What address stores `Frame` in Atlas?"], "0x… is the same address"
    assert "`$7E0E20`" in atlas["What address stores `Actor type` in Atlas?"], "and so is bank:address"


def test_constants_have_their_values():
    found = answers(FIXTURES / "classic", "constant")
    assert found["What is the value of `!Story_LampLit` in Lantern of Tides?"] == (
        "`!Story_LampLit` is `$02`. Bit 1 - the great lamp burns. It is defined in `Core/defines.asm` under "
        "“Story bits”.")
    assert "is `3`" in found["What is the value of `!TideSpeed` in Lantern of Tides?"]
    assert "is `Ahoy; sailor`" in found["What is the value of `!Greeting` in Lantern of Tides?"]
    both = found["What is the value of `!Story_Harbor` in Lantern of Tides?"]
    assert "more than once" in both and "`$04`" in both and "`$08`" in both
    assert "is `12`" in found["What is the value of `TideLimit` in Lantern of Tides?"]
    assert not any("Removed" in ask or "define" in ask for ask in found)
    atlas = answers(FIXTURES / "atlas", "constant")
    assert {"What is the value of `!Dark` in Atlas?", "What is the value of `Max_Actors` in Atlas?"} < set(atlas)


def test_quests_have_their_steps():
    found = made(FIXTURES / "classic")["quest"]
    asked = [s for s in found if s.instruction.startswith("How do I progress")]
    assert [s.metadata["quest"] for s in asked] == ["Chapter 1: The Dark Lamp", "Chapter 2: The Flood",
                                                    "The Lost Bottle"]  # fmt: skip
    assert [s.metadata["steps"] for s in asked] == [3, 2, 1]
    after = answers(FIXTURES / "classic", "quest")
    ask = ("In “Chapter 1: The Dark Lamp” (Quest Flow › 1. The Story) of Lantern of Tides, what comes after step 2, "
           "“Action: Talk to the keeper.”?")  # fmt: skip
    assert after[ask] == "Step 3: **Reward:** The lantern."
    docs = [s.metadata["section"] for s in made(FIXTURES / "classic")["docs"]]
    assert "Chapter 1: The Dark Lamp" not in docs, "a chapter is told once"


def test_titles_carry_their_document():
    found = made(FIXTURES / "classic")
    overviews = [s for kind in ("docs", "architecture") for s in found[kind] if s.metadata["section"] == "Overview"]
    assert sorted(s.instruction for s in overviews) == [
        "How does “Overview” in “System Architecture” of Lantern of Tides work?",
        "What is “Overview” in “Water” of Lantern of Tides?",
        "What is “Overview” in “Water” of Lantern of Tides? (Docs/Core/Water.md)",
    ]
    assert "What is “Floats” in “Floats” of Lantern of Tides?" in answers(FIXTURES / "classic", "docs")


def test_a_table_row_is_one_sample_with_its_section():
    found = answers(FIXTURES / "classic", "table")
    assert found["In Lantern of Tides, what does the table under “Memory Map › Banks” say about Bank “$21”?"] == (
        "Bank $21: Purpose: Maps | and charts.")
    assert found["In Lantern of Tides, what does the table under “Water › Overview › Colours” say about “deep”?"] == (
        "deep: blue.")
    assert not any("$22" in ask or "no ruler" in ask or "neither" in ask for ask in found)


# --- running --------------------------------------------------------------------------------------------------------


def test_order_does_not_depend_on_the_disk(classic, tmp_path):
    """Files made in another order, in folders made in another order: the same bytes."""
    other = tmp_path / "other" / classic.name
    files = [p for p in classic.rglob("*") if p.is_file()]
    random.Random(3).shuffle(files)
    for path in files:
        target = other / path.relative_to(classic)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    one = [s.to_json() for s in OracleTrainingGenerator(classic).generate()]
    assert one == [s.to_json() for s in OracleTrainingGenerator(other).generate()] and len(one) > 60
    generator = OracleTrainingGenerator(classic)
    assert one == [s.to_json() for s in generator.generate()] == [s.to_json() for s in generator.generate()]


@given(st.integers(1, 100))
def test_a_limit_is_shared_evenly(limit):
    """No kind gets two more than another that still had something to give."""
    whole = Counter(kind for kind, _ in OracleTrainingGenerator(FIXTURES / "classic").samples())
    part = Counter(kind for kind, _ in OracleTrainingGenerator(FIXTURES / "classic").samples(limit))
    assert sum(part.values()) == min(limit, sum(whole.values()))
    open_kinds = [part[kind] for kind in whole if part[kind] < whole[kind]]
    assert not open_kinds or max(part.values()) <= min(open_kinds) + 1


class Mine(OracleTrainingGenerator):
    """The guide's example."""

    def generate_sprite_samples(self) -> Iterator[TrainingSample]:
        sprite_docs = self.docs_path / "Sprites"
        for sprite_file in sorted(sprite_docs.rglob("*.md")):
            for _ in range(2):
                yield TrainingSample(
                    instruction="How do I create a new sprite in Oracle?", output="...", domain="oracle_sprites",
                    source=str(sprite_file.relative_to(self.oracle_path)),
                )  # fmt: skip

    def generate_quest_samples(self) -> Iterator[TrainingSample]:
        return iter(())


def test_hooks_of_subclasses_are_found(monkeypatch, tmp_path):
    """By their name, with `~` in the path, beside the built-in ones; an override takes the built-in one's place."""
    monkeypatch.setenv("HOME", str(FIXTURES))
    generator = Mine(oracle_path=Path("~/classic"))
    assert list(generator.hooks()) == ["docs", "table", "asm", "memory", "quest", "architecture", "constant", "sprite"]
    found = list(generator.generate())
    assert [s.source for s in found if s.domain == "oracle_sprites"] == ["Docs/Sprites/Floats.md"] * 2
    assert not [s for s in found if s.domain == "oracle_quest"] and len(found) > 50
    result = generator.write(tmp_path / "mine.jsonl", limit=14)
    assert result.samples == 14 and result.by_domain["oracle_sprites"] == 2
    monkeypatch.setattr(Mine, "generate_sprite_samples", lambda self: iter([{"instruction": "x"}]))
    with pytest.raises(SampleError, match="generate_sprite_samples gave dict"):
        list(generator.generate())


def test_strict_stops_at_the_first_bad_file(classic, tmp_path):
    (classic / "Core/binary.asm").write_bytes(b"\0")
    with pytest.raises(StepError, match="binary.asm"):
        generate_oracle(classic, tmp_path / "o.jsonl", how=How(strict=True))
    assert not (tmp_path / "o.jsonl").exists()


def test_archives_are_read_only_when_asked(classic):
    generator = OracleTrainingGenerator(classic)
    list(generator.generate())
    assert generator.left_out["files in archive and planning folders"] == 2
    more = {s.source for s in OracleTrainingGenerator(classic, include_archive=True).generate()}
    assert {"Docs/Archive/OldWater.md", "Docs/Planning/Ideas.md"} < more


def test_a_plain_disassembly_will_do(classic):
    shutil.rmtree(classic / "Docs")
    (classic / "README.md").unlink()
    found = made(classic)
    assert set(found) == {"asm", "memory", "constant"}
    assert found["asm"][0].instruction == "What does the macro `%StorySet` do in Lantern of Tides?", "the folder's name"
    assert not OracleTrainingGenerator(classic).docs_path.exists()


def test_bad_files_are_named_and_the_rest_is_read(classic, tmp_path):
    before = len(list(OracleTrainingGenerator(classic).generate()))
    (tmp_path / "outside.asm").write_text("; a secret of another project\nOutside_Main:\n  LDA #$01\n  NOP\n  RTS\n")
    (classic / "Core/outside.asm").symlink_to(tmp_path / "outside.asm")
    (classic / "Core/loop").symlink_to(classic)
    (classic / "Core/self.asm").symlink_to("self.asm")
    (classic / "Core/again.asm").symlink_to("tide.asm")
    (classic / "Menu/folder").symlink_to(tmp_path)
    (classic / "Core/binary.asm").write_bytes(b"LDA #$01\n\0\x01\x02")
    (classic / "Core/latin.asm").write_bytes(
        "; für den Mond\nMoon_Rise:\n  LDA #$01\n  TAX\n  RTS\n\n; plain\nMoon_Set:\n  RTS\n".encode("latin-1"))
    (classic / "Core/empty.asm").write_bytes(b"")
    os.mkfifo(classic / "Core/pipe.asm")
    (Path(os.fsdecode(os.fsencode(classic) + b"/Core/\xff.asm"))).write_text("Name_Main: ; odd\n  RTS\n")
    generator = OracleTrainingGenerator(classic)
    samples = list(generator.generate())
    assert len(samples) == before + 1 and not any("Outside" in s.output for s in samples)
    assert [s.metadata["name"] for s in samples if s.source == "Core/latin.asm"] == ["Moon_Set"]
    assert generator.left_out["samples that would hold bytes that are no UTF-8"] == 1
    named = {row.file: row.reason for row in generator.problems}
    assert len(generator.problems) == len(named)
    for file, words in {
        "Core/outside.asm": "leads out of the code base", "Core/loop": "circle", "Core/self.asm": "nowhere",
        "Core/again.asm": "read where it lies", "Menu/folder": "leads out", "Core/binary.asm": "NUL byte",
        "Core/latin.asm": "no UTF-8", "Core/pipe.asm": "no plain file", "Core/\ufffd.asm": "name is no UTF-8",
    }.items():  # fmt: skip
        assert words in named.pop(file)
    assert not named
    latin = next(row for row in generator.problems if row.file == "Core/latin.asm")
    assert (latin.line, latin.offset, latin.raw) == (1, 0, "; für den Mond".encode("latin-1"))


def test_no_code_base_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        OracleTrainingGenerator(tmp_path / "none")
    with pytest.raises(UsageError, match="is no folder"):
        generate_oracle(tmp_path / "none", tmp_path / "o.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StepError, match="no sample in .* 0 assembly files"):
        generate_oracle(tmp_path / "empty", tmp_path / "o.jsonl")
    with pytest.raises(UsageError, match="--limit 0"):
        generate_oracle(FIXTURES / "classic", tmp_path / "o.jsonl", 0)
    assert not (tmp_path / "o.jsonl").exists()


def test_the_report_counts_every_kind(classic, tmp_path):
    """Raw and good samples per kind; what was left out; bad files in quarantine; a second run does nothing."""
    (classic / "Core/binary.asm").write_bytes(b"\0")
    result = generate_oracle(classic, tmp_path / "o.jsonl")
    rows = load_samples(tmp_path / "o.jsonl")
    assert sum(result.raw.values()) == len(rows) == result.report.counts.out
    assert all(0 <= result.good[kind] <= n for kind, n in result.raw.items()) and 0 < sum(result.good.values())
    text = result.summary()
    assert all(kind in text for kind in result.raw) and "> 0.6" in text
    assert "left out: 2 files in archive and planning folders" in text
    bad = [orjson.loads(x) for x in (tmp_path / "o.quarantine.jsonl").read_bytes().splitlines()]
    assert [b["file"] for b in bad] == ["Core/binary.asm"]
    before = (tmp_path / "o.jsonl").read_bytes()
    again = generate_oracle(classic, tmp_path / "o.jsonl")
    assert again.report.current and again.raw == result.raw and (tmp_path / "o.jsonl").read_bytes() == before
    (classic / "Core/new.asm").write_text("!Moon = 4\n")
    assert generate_oracle(classic, tmp_path / "o.jsonl").raw["constant"] == result.raw["constant"] + 1
    dry = generate_oracle(classic, tmp_path / "dry.jsonl", how=How(dry_run=True))
    assert sum(dry.raw.values()) == len(rows) + 1 and not (tmp_path / "dry.jsonl").exists()


def test_redaction_is_there_when_asked_for(classic, tmp_path):
    (classic / "Docs/mail.md").write_text("# Mail\n\nWrite to keeper.of.lamp@harbour-mail.org when the lamp is dark.\n")
    generate_oracle(classic, tmp_path / "plain.jsonl")
    generate_oracle(classic, tmp_path / "clean.jsonl", redact=True)
    assert "keeper.of.lamp@" in (tmp_path / "plain.jsonl").read_text()
    clean = load_samples(tmp_path / "clean.jsonl")
    assert not any("keeper.of.lamp@" in s.output for s in clean) and len({s.sample_id for s in clean}) == len(clean)


def test_command(tmp_path):
    """As the guide writes it."""
    def run(*args: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "afs.oracle.training_generator", *args], capture_output=True,
                              text=True, timeout=60)  # fmt: skip

    out = tmp_path / "deep" / "majora_v1_raw.jsonl"
    done = run("--oracle-path", str(FIXTURES / "classic"), "--output", str(out), "--limit", "14")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert len(load_samples(out)) == 14 and "total" in done.stdout
    shown = run("--oracle-path", str(FIXTURES / "atlas"), "--output", str(out), "--json", "--force")
    assert json.loads(shown.stdout)["details"]["raw"]["quest"] == 3
    assert run("--oracle-path", str(tmp_path / "none"), "--output", str(out)).returncode == 2
    (tmp_path / "empty").mkdir()
    assert run("--oracle-path", str(tmp_path / "empty"), "--output", str(out)).returncode == 1
    assert len(load_samples(out)) == sum(json.loads(shown.stdout)["details"]["raw"].values()), "outputs stay"


# --- parsing --------------------------------------------------------------------------------------------------------

CELL = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)
CELL = CELL.map(str.strip).filter(lambda c: not c.endswith("\\") and not any(x in c for x in ("\\|", "```", "~~~")))


@given(st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=5), st.lists(CELL, min_size=2, max_size=2),
       st.booleans())  # fmt: skip
def test_a_table_comes_back_as_it_was_written(rows, header, outer):
    def line(cells: list[str]) -> str:
        text = " | ".join(c.replace("|", "\\|") for c in cells)
        return f"| {text} |" if outer or not all(cells) else text

    text = "\n".join(["before", "", line(header), "|---|:-:|", *map(line, rows), "", "after | all"])
    (found,) = tables(text)
    assert found.header == tuple(header)
    assert found.rows == [tuple(row) for row in rows]
    assert found.lines == list(range(5, 5 + len(rows)))


def test_what_is_no_table():
    assert tables("| a | b |\n| c | d |") == []
    assert tables("```\n| a | b |\n|---|---|\n| c | d |\n```") == []
    assert tables("| a | b |\n|---|\n| c | d |") == []
    (found,) = tables("| a | b |\n|---|---|\n| c |\n| d | e | f |\nend\n| x | y |")
    assert found.rows == [("c", ""), ("d", "e | f")]
    assert cells(r"| a \| b |  |") == ("a | b", "") and cells("a|b") == ("a", "b")


WORDS = st.text("ab c", min_size=1, max_size=9).map(str.strip).filter(bool)


@given(st.lists(WORDS, min_size=1, max_size=5), st.integers(1, 9))
def test_numbered_steps_come_back(items, first):
    written = "\n".join(f"{n}. {item}\n   more" for n, item in enumerate(items, first))
    text = f"intro\n\n{written}\n\ndone\n\n1. new"
    assert steps(text) == [[f"{item}\n   more" for item in items], ["new"]]


@given(st.text("#`~ a\n", max_size=60))
def test_sections_never_fail_and_lose_no_line(text):
    found = list(sections(text))
    for section in found:
        row = text.splitlines()[section.line - 1]
        assert row.lstrip().startswith("#" * section.level + " ") and section.title in row


def test_fences_are_closed_by_their_like_only():
    text = "# A\n````\n```\n# no\n```\n````\n# B\n~~~ x\n# no\n```\n# no\n~~~\n## C\n```a` b\n# D\n```\n# no"
    assert [s.title for s in sections(text)] == ["A", "B", "C", "D"]
    assert plain("**`x`**  y") == "**`x`** y" and plain("**`x`**") == "x" and plain("*") == "*"


@given(st.text("LDA:;.# $!=+-{}\"\n\tmacrostuendw01", max_size=120))
def test_any_text_can_be_parsed(text):
    found = assembly.parse("x.asm", text)
    lines = text.split("\n")
    for routine in found.routines:
        assert routine.start == routine.line - 1 < routine.end <= len(lines)
        assert lines[routine.start].strip().lstrip("#?").startswith(routine.name + ":")
    for equate in found.equates:
        assert equate.name in lines[equate.line - 1] and equate.value.strip('"') in lines[equate.line - 1]


@pytest.mark.parametrize(("line", "name"), [
    ("Name:", "Name"), ("  Name: ; c", "Name"), ("#Name:", "Name"), ("Name: RTS", "Name"), ("; Name:", None),
    ("#_0080B5: LDA.b #$01", None), ("LDA: RTS", None), (".name:", None), ("+ LDA $10", None), ("BNE Name : RTS", None),
    ("?Name:", None), ("Name::", None), ("Name := 3", None), ("// Name:", None), ("-:", None),
])  # fmt: skip
def test_what_is_a_label(line, name):
    assert [r.name for r in assembly.parse("x.asm", line).routines] == ([name] if name else [])


def test_labels_below_one_another_share_comments_and_code():
    text = "; moves up\nMove_Z:\nMove_Up:\n{\n  INC.b $20\n  RTL\n}\nNext: RTS\nOrg_After:\norg $8000\n  LDA $10\n"
    found = assembly.parse("x.asm", text).routines
    assert [(r.name, r.comments, r.start, r.end) for r in found] == [
        ("Move_Z", ["moves up"], 1, 7), ("Move_Up", ["moves up"], 2, 7), ("Next", [], 7, 8), ("Org_After", [], 8, 9),
    ]  # fmt: skip


@pytest.mark.parametrize(("line", "found"), [
    ("!a = $01", ("a", "$01", True)), ("!a ?= 2 ; note", ("a", "2", True)), ("!a #= 1+2", ("a", "1+2", True)),
    ('!a = "x ; y"', ("a", "x ; y", True)), ("!a += 1", None), ("A = $0B7C", ("A", "$0B7C", False)),
    ("A equ $10", ("A", "$10", False)), ("if !a == 1", None), ("; A = 1", None), ("%mac(a=1)", None), ("LDA !a", None),
])  # fmt: skip
def test_what_is_an_equate(line, found):
    made = [(e.name, e.value, e.define) for e in assembly.parse("x.asm", line).equates]
    assert made == ([found] if found else [])


def test_kinds_of_documents_by_name():
    names = {"Docs/Core/MemoryMap.md": "memory", "Docs/a/07_quest-flow.md": "quest", "Docs/SystemInteractions.md":
             "architecture", "Docs/00_system_architecture.md": "architecture", "Docs/Ecosystem.md": "",
             "Docs/Quests/Water.md": ""}  # fmt: skip
    assert {path: documents.kind_of(path) for path in names} == names


def test_the_made_code_base_has_every_kind(tmp_path):
    """What the benchmark reads is no empty shell, and equal seeds give equal bytes."""
    make_code_base(tmp_path / "a", 0.5)
    make_code_base(tmp_path / "b", 0.5)
    one = [s.output for s in OracleTrainingGenerator(tmp_path / "a", project="X").generate()]
    assert one == [s.output for s in OracleTrainingGenerator(tmp_path / "b", project="X").generate()]
    assert all(made(tmp_path / "a")[kind] for kind in SIX)
    size = sum(p.stat().st_size for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert 150 < size / len(one) < 350


def test_a_renamed_document_is_read_anew(classic, tmp_path):
    generate_oracle(classic, tmp_path / "o.jsonl")
    assert generate_oracle(classic, tmp_path / "o.jsonl").report.current
    path = sorted((classic / "Docs").rglob("*.md"))[-1]
    path.rename(path.with_name(path.stem + "-2.md"))  # same contents in the same order
    assert not generate_oracle(classic, tmp_path / "o.jsonl").report.current
    assert any(s.source.endswith(f"{path.stem}-2.md") for s in load_samples(tmp_path / "o.jsonl"))

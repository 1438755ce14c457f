"""The `afs` command: light to start, every command works on a real file, exit codes and messages."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from afs.cli import build_parser, main
from afs.generators.base import TrainingSample, write_samples

WORDS = ("alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec "
         "romeo sierra tango uniform victor whiskey xray yankee zulu").split()  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a data set of 60 different rows."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    rows = []
    for n in range(60):
        text = " ".join(WORDS[(n * 7 + k * (n % 5 + 1)) % 26] + str(n * k % 17) for k in range(20))
        rows.append(TrainingSample(instruction=f"question {n}", output=text, domain=f"d{n % 3}",
                                   source=f"src{n % 2}_{n}", quality_score=n / 59))  # fmt: skip
    write_samples(rows, work / "in.jsonl")
    new = [" ".join(WORDS[(n * k + 3) % 26] for k in range(9, 30)) for n in range(26)]
    write_samples([TrainingSample(instruction=f"new {n}", output=x) for n, x in enumerate(new)], work / "new.jsonl")
    (work / "recipe.toml").write_text('[[source]]\nname = "in"\ninput = "in.jsonl"\n[dedup]\n')
    (work / "notes").mkdir()
    (work / "notes" / "a.md").write_text("# Title\n\n" + "A sentence that is long enough to be a body. " * 2)
    return work


COMMANDS = (
    "training score --input in.jsonl --output scored.jsonl --score-profile generic --no-asar --no-electra "
    "--batch-size 8",
    "training dedup --input in.jsonl --output unique.jsonl --near 0.8",
    "training rebalance --input in.jsonl --output mixed.jsonl --weight src0=0.5 --weight src1=0.5 "
    "--min-quality-score 0.1",
    "training rebalance --input in.jsonl --output over.jsonl --weight d0=0.8 --weight d1=0.2 --group-by domain "
    "--allow-oversample",
    "training prepare --input in.jsonl --output splits --train-ratio 0.8 --val-ratio 0.1 --stratify-by domain "
    "--seed 42",
    "training convert --input splits/train.jsonl --format sharegpt",
    "training rehearsal-build --input in.jsonl --version v1 --output buffer.jsonl --top-ratio 0.3",
    "training rehearsal-mix --buffer buffer.jsonl --new-data new.jsonl --rehearsal-ratio 0.1 --output both.jsonl",
    "training validate --input in.jsonl", "training stats --input in.jsonl --input mixed.jsonl",
    "training diff in.jsonl mixed.jsonl", "training view in.jsonl --count 2", "training run recipe.toml",
    "training generate --generator docs --path notes --output notes.jsonl",
    "training registry-create --name one --model m --framework unsloth --dataset in.jsonl --tag a",
    "training registry-list", "status", "context discover --path .", "config show",
)  # fmt: skip


def test_every_command_on_a_real_file(place, capsys):
    """In this order, as text and as JSON; what a command makes is there afterwards."""
    for command in COMMANDS:
        words = command.split()
        code = main(words)
        shown = capsys.readouterr()
        assert code == (1 if words[:2] == ["context", "discover"] else 0), f"{command}\n{shown.out}\n{shown.err}"
        assert shown.out.strip(), command
        if "--output" in words:
            assert (place / words[words.index("--output") + 1]).exists(), command
        if words[1:2] != ["registry-create"]:
            main([*words, "--json"])
            json.loads(capsys.readouterr().out)
    assert (place / "splits" / "train_sharegpt.jsonl").exists()
    [listed] = _json(capsys, "training registry-list --json")
    name = listed["id"]
    assert main(["training", "registry-update", name, "--status", "running", "--metric", "loss=0.5"]) == 0
    capsys.readouterr()
    shown = _json(capsys, f"training registry-show {name} --json")
    assert shown["status"] == "running" and shown["metrics"]["loss"] == 0.5
    assert main(["training", "registry-compare", name]) == 0
    assert main(["training", "registry-delete", name]) == 0
    capsys.readouterr()
    assert _json(capsys, "training registry-list --json") == []


def _json(capsys, command: str):
    assert main(command.split()) == 0
    return json.loads(capsys.readouterr().out)


def test_reports_in_json_hold_the_counts(place, capsys):
    found = _json(capsys, "training score --input in.jsonl --output s.jsonl --min-quality-score 0.4 --json")
    counts = found["counts"]
    assert counts["read"] == 60 == counts["out"] + counts["filtered"] and not found["current"]
    assert _json(capsys, "training score --input in.jsonl --output s.jsonl --min-quality-score 0.4 --json")["current"]
    dry = _json(capsys, "training convert --input in.jsonl --output no.jsonl --dry-run --json")
    assert dry["dry_run"] and dry["counts"]["out"] == 60 and not (place / "no.jsonl").exists()


@pytest.mark.parametrize(("command", "code", "part"), [
    ("training convert --input no.jsonl", 2, "no.jsonl does not exist"),
    ("training convert --input in.jsonl --output in.jsonl", 2, "also an input"),
    ("training convert --input in.jsonl --format nope", 2, "nope"),
    ("training rebalance --input in.jsonl --output o.jsonl --weight nothing=1", 2, "nothing"),
    ("training rebalance --input in.jsonl --output o.jsonl --weight a", 2, "must be NAME=NUMBER"),
    ("training rebalance --input in.jsonl --output o.jsonl --weight a=b", 2, "is no number"),
    ("training rebalance --input in.jsonl --output o.jsonl --weight a=1 --weight a=2", 2, "given twice"),
    ("training prepare --input in.jsonl --output s --stratify-by nope", 2, "nope"),
    ("training prepare --input in.jsonl --output s --train-ratio 1.5", 2, "1.5"),
    ("training score --input in.jsonl --output o.jsonl --score-profile nope", 2, "generic"),
    ("training score --input in.jsonl --output o.jsonl --min-quality-score 2", 2, "2"),
    ("training rehearsal-mix --buffer in.jsonl --new-data in.jsonl --output o.jsonl --rehearsal-ratio 7", 2, "7"),
    ("training registry-show nope", 2, "nope"), ("training dedup --input in.jsonl", 2, "--output"),
    ("training run no.toml", 2, "no.toml"), ("training convert --input in.jsonl --workers -1", 2, "workers"),
])  # fmt: skip
def test_what_cannot_be_is_said_with_an_exit_code(place, capsys, command, code, part):
    before = sorted(p.name for p in place.rglob("*"))
    assert main(command.split()) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("afs: ") and part in shown.err and "Traceback" not in shown.err
    assert sorted(p.name for p in place.rglob("*")) == before, "nothing was written"
    main([*command.split(), "--json"])
    assert part in json.loads(capsys.readouterr().out)["error"]


def test_bad_rows_are_named_and_the_rest_goes_on(place, capsys):
    lines = (place / "in.jsonl").read_bytes().splitlines()
    (place / "bad.jsonl").write_bytes(b"\n".join([*lines[:3], b"{oops", *lines[3:]]))
    assert main("training convert --input bad.jsonl --output o.jsonl".split()) == 0
    assert "1 quarantined" in capsys.readouterr().out
    [record] = [orjson.loads(x) for x in (place / "o.quarantine.jsonl").read_bytes().splitlines()]
    assert record["line"] == 4 and record["raw"] == "{oops"
    assert main("training validate --input bad.jsonl".split()) == 1
    assert "bad.jsonl:4" in capsys.readouterr().out
    assert main("training convert --input bad.jsonl --output p.jsonl --strict".split()) == 1
    assert "bad.jsonl:4 (byte" in capsys.readouterr().err and not (place / "p.jsonl").exists()


def test_help_of_every_command(capsys):
    def walk(parser: argparse.ArgumentParser, words: list[str]):
        yield words
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, inner in action.choices.items():
                    yield from walk(inner, [*words, name])

    found = list(walk(build_parser(), []))
    assert len(found) > 25
    for words in found:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0 and "usage: afs" in capsys.readouterr().out


def test_start_up_is_light():
    """No step is imported for help, and nothing heavy ever for a step without a model."""
    program = ("import sys\nfrom afs.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
               "print([m for m in ('torch', 'pandas', 'pyarrow', 'numpy', 'transformers', 'ray', 'duckdb', 'pydantic') "
               "if m in sys.modules])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_step_imports_no_torch_pandas_or_pyarrow(place):
    program = ("import sys\nfrom afs.cli import main\ncode = main(sys.argv[1:])\nassert code == 0\n"
               "print([m for m in ('torch', 'pandas', 'pyarrow', 'ray') if m in sys.modules])")  # fmt: skip
    for command in COMMANDS[:2]:
        done = subprocess.run([sys.executable, "-c", program, *command.split()], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_console_script_and_the_module_are_one_program(tmp_path):
    env = os.environ | {"COLUMNS": "100"}
    module = subprocess.run([sys.executable, "-m", "afs", "--help"], capture_output=True, text=True, env=env)
    script = Path(sys.executable).parent / "afs"
    assert script.exists(), "installed with the package; run scripts/bootstrap_dev.sh again"
    other = subprocess.run([str(script), "--help"], capture_output=True, text=True, env=env)
    assert module.stdout == other.stdout and module.returncode == other.returncode == 0


def test_settings_are_the_defaults_of_the_options(place, capsys, monkeypatch):
    """Flags over environment over file over defaults, for the commands themselves and not only in `config show`."""
    home = place / "home"
    (home / ".afs").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    (home / ".afs" / "config.toml").write_text(
        '[training]\nseed = 7\nscore_profile = "dialogue"\n'
        '[registry]\npath = "~/mine.sqlite"\n[models]\nelectra = "~/m"\n')

    def seed(*more: str) -> int:
        assert main(["training", "prepare", "--input", "in.jsonl", "--output", "splits", "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)["seed"]

    assert seed() == 7
    monkeypatch.setenv("AFS_TRAINING_SEED", "8")
    assert seed() == 8 and seed("--seed", "9") == 9
    found = _json(capsys, "training score --input in.jsonl --output s.jsonl --no-electra --no-asar --json")
    assert found["parameters"]["max_output_length"] == 2000
    assert main("training score --input in.jsonl --output s.jsonl".split()) == 2
    assert str(home / "m") in capsys.readouterr().err
    assert main("training registry-create --name a --model b".split()) == 0
    assert (home / "mine.sqlite").exists()
    monkeypatch.setenv("AFS_TRAINING_WORKERS", "many")
    assert main("training dedup --input in.jsonl --output u.jsonl".split()) == 2
    assert "AFS_TRAINING_WORKERS" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])


def test_the_folders_of_the_settings_are_exported(place, capsys, monkeypatch):
    for folder in ("root/memory", "other"):
        (place / folder).mkdir(parents=True)
        (place / folder / "a.json").write_text(json.dumps({"question": f"in {folder}?", "answer": "yes " * 30}))
    monkeypatch.setenv("AFS_CONTEXT_MEMORY", str(place / "other"))

    def asked(*flags: str) -> str:
        code = main(["training", "memory-export", "--output", "m.jsonl", *flags])
        assert code == 0, capsys.readouterr().err
        return (place / "m.jsonl").read_text()

    assert "in other?" in asked()
    assert "in root/memory?" in asked("--memory-root", "root/memory")


def test_generate_names_the_files_that_it_skipped(place, capsys):
    (place / "notes" / "latin.md").write_bytes(b"# Caf\xe9\n")
    assert main("training generate --generator docs --path notes --output g.jsonl".split()) == 0
    assert "skipped latin.md: " in capsys.readouterr().out


def test_registry_update_changes_all_or_nothing(place, capsys):
    main("training registry-create --name a --model b --registry r.sqlite".split())
    capsys.readouterr()
    for wrong in ("--metric loss", "--metric loss=x", "--artifact gone"):
        assert main(f"training registry-update a --registry r.sqlite --status running {wrong}".split()) == 2
        assert "weight" not in capsys.readouterr().err
    assert _json(capsys, "training registry-show a --registry r.sqlite --json")["status"] == "pending"
    assert main("training registry-delete a nope --registry r.sqlite".split()) == 2
    assert main("training registry-show a --registry r.sqlite".split()) == 0


def test_a_weight_may_name_a_source_with_an_equals_sign(place, capsys):
    rows = [TrainingSample(instruction=f"q{n}", output="a", source="k=v") for n in range(5)]
    write_samples(rows, place / "eq.jsonl")
    assert main("training rebalance --input eq.jsonl --output o.jsonl --weight k=v=1".split()) == 0


def test_names_in_the_data_do_not_command_the_terminal(place, capsys):
    names = {"source": "\x1b[2Jsrc", "domain": "\x1b]0;x\x07d"}
    rows = [TrainingSample(instruction=f"q{n}", output="a", **names) for n in range(9)]
    write_samples(rows, place / "esc.jsonl")
    for command in ("stats --input esc.jsonl", "rebalance --input esc.jsonl --output e.jsonl",
                    "prepare --input esc.jsonl --output e",
                    "rebalance --input esc.jsonl --output f.jsonl --weight x=1"):  # fmt: skip
        main(["training", *command.split()])
        shown = capsys.readouterr()
        assert "\x1b" not in shown.out + shown.err and "\\x1b" in shown.out + shown.err


def test_a_reader_that_has_seen_enough_is_no_error(place):
    rows = [TrainingSample(instruction=f"q{n}", output="a" * 200_000) for n in range(3)]
    write_samples(rows, place / "long.jsonl")
    command = f"{sys.executable} -m afs training view long.jsonl --json | head -c 10; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"path": "', "")


def test_an_export_takes_its_settings_from_a_named_file(place, capsys):
    memory = place / "elsewhere" / "memory"
    memory.mkdir(parents=True)
    (memory / "a.jsonl").write_bytes(orjson.dumps({"instruction": "q", "output": "an answer"}) + b"\n")
    (place / "other.toml").write_text(f'[context]\nroot = "{place / "elsewhere"}"\n')
    assert main("training memory-export --output m.jsonl --config other.toml".split()) == 0
    assert orjson.loads((place / "m.jsonl").read_bytes())["output"] == "an answer"
    assert main("training memory-export --output n.jsonl --config=none.toml".split()) == 2
    assert "none.toml" in capsys.readouterr().err

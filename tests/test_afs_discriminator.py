"""The discriminator from sources to scores, with a tiny ELECTRA trained here."""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from asm_kit import write_code_base
from hypothesis import given, settings
from hypothesis import strategies as st

from afs.cli import discriminator as commands
from afs.discriminator import metrics, train
from afs.discriminator.baselines import NgramModel, length_scores, random_scores, rule_scores
from afs.discriminator.corrupt import KINDS
from afs.discriminator.data import Example, load_examples, make_data, split_groups
from afs.step import How, StepError, UsageError


def afs(*words: object) -> int:
    """The command line of the discriminator."""
    parser = argparse.ArgumentParser()
    commands.register_parsers(parser.add_subparsers())
    args = parser.parse_args(["discriminator", *map(str, words)])
    return args.func(args)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discriminator")
    write_code_base(folder / "game", files=12, routines=7)
    assert afs("data", "--sources", folder / "game", "--output", folder / "data.jsonl", "--no-progress") == 0
    return folder


@pytest.fixture(scope="module")
def model(work):
    """A model of two short epochs; what it is worth is not asked here."""
    assert afs("train", "--input", work / "data.jsonl", "--output", work / "models" / "electra", "--base-model", "tiny",
               "--epochs", 2, "--max-length", 96, "--device", "cpu") == 0  # fmt: skip
    return work / "models" / "electra"


# --- data -----------------------------------------------------------------------------------------------------------


def test_data_is_balanced_and_twins_stay_together(work):
    rows = [json.loads(line) for line in open(work / "data.jsonl")]
    split_of = {}
    for row in rows:
        assert split_of.setdefault(row["group"], row["split"]) == row["split"], "a source file is in one split"
    for split in ("train", "val", "test"):
        mine = [row for row in rows if row["split"] == split]
        assert Counter(row["label"] for row in mine)[0] == len(mine) / 2 > 0
        kinds = Counter(row["corruption"] for row in mine if row["label"])
        assert set(kinds) == set(KINDS) and max(kinds.values()) - min(kinds.values()) <= 1
    for real, fake in zip(rows[::2], rows[1::2], strict=True):
        assert (real["label"], fake["label"]) == (0, 1) and real["line"] == fake["line"]
        assert real["text"] != fake["text"] and real["group"] == fake["group"]


def test_data_is_the_same_again_and_current(work, tmp_path):
    again = make_data([work / "game"], tmp_path / "data.jsonl")
    assert (tmp_path / "data.jsonl").read_bytes() == (work / "data.jsonl").read_bytes()
    assert not again.report.current and make_data([work / "game"], tmp_path / "data.jsonl").report.current
    other = make_data([work / "game"], tmp_path / "other.jsonl", seed=7)
    assert (tmp_path / "other.jsonl").read_bytes() != (work / "data.jsonl").read_bytes() and not other.report.current


@pytest.mark.parametrize("ratio", [0.2, 0.75])
def test_fake_ratio(work, tmp_path, ratio):
    make_data([work / "game"], tmp_path / "d.jsonl", fake_ratio=ratio)
    found = load_examples(tmp_path / "d.jsonl")
    assert abs(np.mean([e.label for e in found]) - ratio) < 0.03


def test_repeats_binaries_links_and_old_code_pages_are_counted(work, tmp_path, monkeypatch):
    root = tmp_path / "src"
    write_code_base(root, files=4, routines=4, seed=3)
    (root / "copy.asm").write_bytes((root / "bank_00" / "part_00.asm").read_bytes().replace(b"\n", b" ; copy\n"))
    (root / "rom.asm").write_bytes(b"\0\1\2")
    (root / "old.asm").write_bytes(b"; caf\xe9\nold_one:\n lda #$01\n sta $02\n rts\n\n")
    (root / "link.asm").symlink_to(root / "copy.asm")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.asm")  # reading it would wait for ever
    (root / "locked.asm").write_text("nop\n")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("locked.asm"))
    found = make_data([root], tmp_path / "d.jsonl").details["left"]
    assert found["binary file"] == 1 and found["symbolic link"] == 1 and found["repeated routine"] >= 4
    assert found["no plain file (a pipe, socket or device)"] == found["file that may not be read"] == 1
    assert found["file not in UTF-8 (read as Latin-1)"] == 1
    assert any("caf\xe9" in e.text for e in load_examples(tmp_path / "d.jsonl"))


def test_data_errors(tmp_path):
    (tmp_path / "a.asm").write_text("; nothing here\n")
    with pytest.raises(UsageError, match="does not exist"):
        make_data([tmp_path / "no"], tmp_path / "d.jsonl")
    with pytest.raises(UsageError, match="fake-ratio"):
        make_data([tmp_path], tmp_path / "d.jsonl", fake_ratio=1.0)
    with pytest.raises(StepError, match="no routine"):
        make_data([tmp_path], tmp_path / "d.jsonl")
    assert not (tmp_path / "d.jsonl").exists()
    with pytest.raises(UsageError, match="afs discriminator data"):
        load_examples(tmp_path / "no.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"text": "LDA", "label": 0}\n{"text": 1}\n')
    with pytest.raises(StepError, match="bad.jsonl:2"):
        load_examples(tmp_path / "bad.jsonl")


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 50), max_size=30), st.integers(0, 5))
@settings(deadline=None)
def test_groups_get_one_split_and_none_is_empty(sizes, seed):
    found = split_groups(sizes, seed)
    assert set(found) == set(sizes) and found == split_groups(dict(reversed(list(sizes.items()))), seed)
    assert set(found.values()) == ({"train", "val", "test"} if len(sizes) >= 3 else {"train"} if sizes else set())


# --- metrics --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=1, max_size=40))
def test_auc_is_the_share_of_ordered_pairs(rows):
    scores, labels = [s for s, _ in rows], [y for _, y in rows]
    pairs = [(a > b) + (a == b) / 2 for a, x in rows for b, y in rows if x == 0 and y == 1]
    found = metrics.auc(scores, labels)
    assert math.isnan(found) if not pairs else found == pytest.approx(sum(pairs) / len(pairs))


def test_precision_calibration_temperature_and_intervals():
    assert metrics.average_precision([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]) == 1.0
    assert metrics.average_precision([0.1, 0.2, 0.3], [1, 0, 1]) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.average_precision([0.5] * 4, [0, 1, 0, 0]) == 0.25, "ties are taken together"
    assert metrics.calibration_error([1.0, 1.0, 0.0], [0, 0, 1]) == 0
    assert metrics.calibration_error([0.9] * 10, [0] * 5 + [1] * 5) == pytest.approx(0.4)
    rng = np.random.default_rng(0)
    margin = rng.normal(size=4000)
    labels = (rng.random(4000) > 1 / (1 + np.exp(-margin))).astype(int)
    assert metrics.fit_temperature(margin * 3, labels) == pytest.approx(3, rel=0.1)
    groups = [str(n % 20) for n in range(4000)]
    low, high = metrics.auc_interval(margin, labels, groups, 200)
    assert low < metrics.auc(margin, labels) < high and high - low < 0.1
    assert metrics.auc_interval(margin, labels, groups, 200) == (low, high)
    assert all(map(math.isnan, metrics.auc_interval([1, 2], [0, 1], ["a", "a"])))


def test_baselines(work):
    found = load_examples(work / "data.jsonl")
    train, test = [e for e in found if e.split == "train"], [e for e in found if e.split == "test"]
    labels = [e.label for e in test]
    rule = rule_scores(test)
    assert all((score == 1) == (e.label == 0 or e.corruption == "label") for score, e in zip(rule, test, strict=True))
    grams = NgramModel(train)
    assert metrics.auc(grams.scores(test), labels) > 0.55
    assert (grams.scores(test) == NgramModel(train).scores(test)).all(), "the same on every run"
    assert 0.3 < metrics.auc(random_scores(test, 1), labels) < 0.7
    assert metrics.auc(length_scores(train, train), [e.label for e in train]) >= 0.5
    empty = [Example("", 0, "", "g", "train"), Example("x", 1, "", "g", "train")]
    assert np.isfinite(NgramModel(empty, steps=2).scores(empty)).all() and len(NgramModel([], steps=2).scores([])) == 0


@pytest.mark.parametrize(("model_auc", "rows", "groups", "fit"), [
    (0.95, 100, 5, True), (0.92, 100, 5, True), (0.91, 100, 5, False), (0.99, 20, 5, False), (0.99, 100, 1, False),
])  # fmt: skip
def test_a_model_below_the_rule_is_no_default(model_auc, rows, groups, fit):
    from afs.discriminator.evaluate import MODEL, RULE, Line, _verdict

    nan = float("nan")
    lines = [Line(MODEL, model_auc, nan, nan, nan, nan, {}), Line(RULE, 0.92, nan, nan, nan, nan, {})]
    default, verdict = _verdict(lines, rows, groups)
    assert default is fit and verdict.startswith("fit" if fit else "NOT fit")


# --- training -------------------------------------------------------------------------------------------------------


def test_card_says_what_the_model_is(model, work):
    card = json.loads((model / "card.json").read_text())
    assert card["data"]["rows"]["train"] > card["data"]["rows"]["test"] > 0 and len(card["data"]["sha256"]) == 64
    lines = {line["scorer"]: line for line in card["evaluation"]["lines"]}
    assert set(lines) == {"electra", "opcode table", "n-grams", "length", "random"}
    assert lines["opcode table"]["by_kind"]["mode"] == 1 and lines["opcode table"]["by_kind"]["label"] == 0.5
    assert set(lines["n-grams"]["left_out"]) == set(KINDS) and lines["electra"]["low"] <= lines["electra"]["high"]
    assert card["default"] is False and "too few to tell" in card["verdict"]
    assert card["calibration"]["ece_after"] >= 0 and card["temperature"] > 0
    readme = (model / "README.md").read_text()
    assert card["verdict"] in readme and card["version"] in readme
    assert not (model.parent / "electra.training").exists()


def test_evaluate_prints_the_table_of_the_card(model, work, capsys):
    assert afs("evaluate", "--model", model, "--input", work / "data.jsonl", "--output", work / "table.json") == 0
    said = capsys.readouterr().out
    assert "opcode table" in said and "default use" in said and "n-grams, kind left out" in said
    card, table = json.loads((model / "card.json").read_text()), json.loads((work / "table.json").read_text())
    assert [round(line["auc"], 6) for line in table["lines"]] == [line["auc"] for line in card["evaluation"]["lines"]]
    with pytest.raises(UsageError, match="split 'best'"):
        afs("evaluate", "--model", model, "--input", work / "data.jsonl", "--split", "best")


def test_training_twice_gives_the_same_weights_and_resume_goes_on(work, tmp_path, monkeypatch):
    """A run that stops after its first epoch and is resumed ends with the bytes of one that ran through."""
    from transformers import Trainer

    from afs.discriminator import train as training

    rows = [line for line in open(work / "data.jsonl") if json.loads(line)["split"] == "train"][:80]
    (tmp_path / "few.jsonl").write_text("".join(rows))
    config = training.TrainConfig(base_model="tiny", epochs=2, batch_size=16, max_length=64, device="cpu")
    straight = training.train_discriminator(tmp_path / "few.jsonl", tmp_path / "a", config=config)
    assert not straight.default and straight.evaluation is None and "nothing was held out" in straight.card["verdict"]

    real = Trainer._save_checkpoint

    def stop(self, *args, **kwargs):
        real(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        training.train_discriminator(tmp_path / "few.jsonl", tmp_path / "b", config=config)
    monkeypatch.undo()
    assert not (tmp_path / "b").exists()
    with pytest.raises(UsageError, match="--resume"):
        training.train_discriminator(tmp_path / "few.jsonl", tmp_path / "b", config=config)
    other = training.TrainConfig(base_model="tiny", epochs=3, batch_size=16, max_length=64, device="cpu")
    with pytest.raises(UsageError, match="other data or settings"):
        training.train_discriminator(tmp_path / "few.jsonl", tmp_path / "b", config=other, resume=True)
    resumed = training.train_discriminator(tmp_path / "few.jsonl", tmp_path / "b", config=config, resume=True)
    assert resumed.card["version"] == straight.card["version"]
    with pytest.raises(UsageError, match="already holds a model"):
        training.train_discriminator(tmp_path / "few.jsonl", tmp_path / "a", config=config)


def test_training_errors(work, tmp_path, monkeypatch):
    from afs.discriminator import TrainConfig, train_discriminator

    reals = [line for line in open(work / "data.jsonl") if json.loads(line)["label"] == 0]
    (tmp_path / "reals.jsonl").write_text("".join(reals))
    with pytest.raises(StepError, match="real .* and fake"):
        train_discriminator(tmp_path / "reals.jsonl", tmp_path / "m")
    with pytest.raises(UsageError, match="no such folder"):
        train_discriminator(work / "data.jsonl", tmp_path / "m", config=TrainConfig(base_model=str(tmp_path / "no")))

    def unreachable(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", unreachable)
    with pytest.raises(UsageError, match="--base-model tiny"):
        train_discriminator(work / "data.jsonl", tmp_path / "m", config=TrainConfig(base_model="nobody/nothing"))
    monkeypatch.undo()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="bert model"):
        train_discriminator(work / "data.jsonl", tmp_path / "m", config=TrainConfig(base_model=str(tmp_path / "bert")))
    assert not list(tmp_path.glob("m*")), "a base model that does not exist leaves nothing behind"
    with pytest.raises(UsageError, match="--max-length"):
        TrainConfig(max_length=5000)
    with pytest.raises(UsageError, match="--device"):
        train_discriminator(work / "data.jsonl", tmp_path / "m2", config=TrainConfig(base_model="tiny", device="tpu"))


# --- scoring --------------------------------------------------------------------------------------------------------


def rows_file(path, work):
    texts = [e.text for e in load_examples(work / "data.jsonl")][:6]
    answers = [f"So:\n```asm\n{texts[0]}\n```", texts[1], "Only words, no code at all, but many of them are here.", "",
               f"```asm\n{texts[2]}\n```\nor\n```asm\n{texts[3]}\n```"]  # fmt: skip
    lines = [json.dumps({"instruction": "q", "output": a, "n": 1.50}, separators=(",", ":")) for a in answers]
    lines[2:2] = ["", "   "]
    path.write_text("\n".join([*lines, "{broken", '{"instruction": "q"}',
                               '{"instruction": "q", "output": "x", "_metadata": 3}']) + "\n")  # fmt: skip
    return path, answers


def test_score_adds_both_scores_and_counts_everything(model, work, tmp_path):
    from afs.discriminator import ASMElectra, score_jsonl

    source, answers = rows_file(tmp_path / "raw.jsonl", work)
    found = score_jsonl(model, source, tmp_path / "scored.jsonl", how=How(workers=3))
    c = found.report.counts
    assert (c.read, c.out, c.quarantined, c.blank) == (8, 5, 3, 2)
    assert (found.details["scored"], found.details["without_code"]) == (3, 2) and "no 65816 assembly" in found.summary()
    lines = (tmp_path / "scored.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all('"n":1.5' in line for line in lines) and [r["output"] for r in rows] == answers
    loaded = ASMElectra.load(model, "cpu")
    assert rows[0]["_electra_score"] == rows[0]["quality_score"] == pytest.approx(
        loaded.score(answers[0].split("```asm\n")[1].split("\n```")[0]), abs=1e-3)  # fmt: skip
    both = [loaded.score(part.split("\n```")[0]) for part in answers[4].split("```asm\n")[1:]]
    assert rows[4]["_electra_score"] == pytest.approx(min(both), abs=1e-3), "the lowest of the blocks"
    assert rows[2]["_electra_score"] is None and 0 < rows[2]["quality_score"] <= 1, "from the signals that apply"
    key = f"electra@{loaded.version}"
    assert [row["_metadata"]["quality_components"][key] for row in rows] == [row["_electra_score"] for row in rows]
    bad = [json.loads(line) for line in open(tmp_path / "scored.quarantine.jsonl")]
    assert [b["line"] for b in bad] == [8, 9, 10] and "_metadata" in bad[2]["reason"]


def test_filter_conserves_rows(model, work, tmp_path):
    from afs.discriminator import filter_jsonl

    source, _ = rows_file(tmp_path / "raw.jsonl", work)
    found = filter_jsonl(model, source, tmp_path / "good.jsonl", rejected=tmp_path / "rest.jsonl", min_score=0.0)
    assert (found.report.counts.out, found.report.counts.filtered) == (3, 2)
    rest = [json.loads(line) for line in open(tmp_path / "rest.jsonl")]
    assert [row["_electra_score"] for row in rest] == [None, None] and "quality_score" not in rest[0]
    kept = filter_jsonl(model, source, tmp_path / "all.jsonl", min_score=0.0, keep_unscored=True)
    assert kept.report.counts.out == 5
    assert filter_jsonl(model, source, tmp_path / "all.jsonl", min_score=0.0, keep_unscored=True).report.current
    with pytest.raises(StepError, match="none of 5 rows reaches"):
        filter_jsonl(model, source, tmp_path / "none.jsonl", min_score=1.0)
    assert not (tmp_path / "none.jsonl").exists()
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(StepError, match="0 read, 0 bad, 2 blank"):
        filter_jsonl(model, tmp_path / "empty.jsonl", tmp_path / "x.jsonl")


def test_scores_do_not_depend_on_neighbours(model, work):
    from afs.discriminator import ASMElectra

    texts = [e.text for e in load_examples(work / "data.jsonl")][:40]
    whole = ASMElectra.load(model, "cpu").score_batch(texts, batch_size=8)
    turned = ASMElectra.load(model, "cpu").score_batch(texts[::-1], batch_size=3)[::-1]
    assert whole == pytest.approx(turned, abs=1e-4) and len(set(np.round(whole, 6))) > 5
    long = "\n".join(texts[:20])
    one = ASMElectra.load(model, "cpu")
    assert one.score(long) <= 1 and len(one._known) > 1, "cut into parts"


def test_missing_model_names_the_command(tmp_path, work, model):
    from afs.discriminator import score_jsonl

    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="afs discriminator train"):
            score_jsonl(folder, work / "data.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match="one of"):
        afs("score", "--model", model, "--input", work / "data.jsonl")


def test_score_of_a_text(model, capsys):
    assert afs("score", "--model", model, "--text", "LDA #$10\nSTA $12\nRTS", "--json") == 0
    assert 0 <= json.loads(capsys.readouterr().out)["electra_score"] <= 1


def test_scorer_follows_the_protocol(model, work):
    from afs.discriminator import ElectraScorer
    from afs.training.signals import Item, Scorer

    scorer = ElectraScorer(model, "cpu")
    assert isinstance(scorer, Scorer) and scorer.missing() == "" and scorer.name == "electra"
    code = load_examples(work / "data.jsonl")[0].text
    found = pickle.loads(pickle.dumps(scorer)).score([Item("q", code), Item("q", "words")])
    assert 0 <= found.values[0] <= 1 and math.isnan(found.values[1])
    assert found.why[0] == "" and "assembly" in found.why[1]


def test_nothing_heavy_is_imported_before_a_model_is_loaded():
    code = ("import sys, argparse\nimport afs.discriminator, afs.cli.discriminator, afs.training.asar\n"
            "import afs.discriminator.rows, afs.discriminator.evaluate, afs.discriminator.train\n"
            "found = {'torch', 'transformers', 'tokenizers'} & set(sys.modules)\nassert not found, found")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_leave_one_out_and_a_model_that_has_learnt(tmp_path, capsys):
    write_code_base(tmp_path / "game", files=20, routines=40)
    make_data([tmp_path / "game"], tmp_path / "data.jsonl")
    assert afs("train", "--input", tmp_path / "data.jsonl", "--output", tmp_path / "m", "--base-model", "tiny",
               "--max-length", 128, "--device", "cpu") == 0  # fmt: skip
    card = json.loads((tmp_path / "m" / "card.json").read_text())
    assert card["evaluation"]["lines"][0]["auc"] > 0.6, card["evaluation"]["lines"][0]
    assert afs("train", "--input", tmp_path / "data.jsonl", "--output", tmp_path / "n", "--base-model", tmp_path / "m",
               "--epochs", 1, "--max-length", 128, "--device", "cpu", "--leave-one-out") == 0  # fmt: skip
    assert set(json.loads((tmp_path / "n" / "card.json").read_text())["left_out"]) == set(KINDS)
    assert "electra, kind left out" in capsys.readouterr().out


class Saved:
    """Stands for a trained model and its tokenizer."""

    card: dict = {}

    def save_pretrained(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(b"new")

    model = tokenizer = property(lambda self: self)


def test_folders_of_others_beside_the_model_stay(work, tmp_path):
    for name in ("electra", "electra.old", "electra2.training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        train.train_discriminator(work / "data.jsonl", tmp_path / "electra2", force=True)
    assert (tmp_path / "electra2.training/mine.txt").exists()
    card = {"temperature": 1.0, "max_length": 8, "max_lines": 5, "base_model": "tiny", "trained": "", "verdict": "v",
            "data": {"name": "d", "sha256": "", "rows": {}}, "evaluation": None}  # fmt: skip
    (tmp_path / "work").mkdir()
    train._publish(Saved(), card, tmp_path / "electra", tmp_path / "work")
    assert (tmp_path / "electra/model.safetensors").read_bytes() == b"new"
    assert (tmp_path / "electra.old/mine.txt").exists() and not (tmp_path / "work").exists()


def test_evaluate_never_overwrites_its_input(work, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_bytes((work / "data.jsonl").read_bytes())
    with pytest.raises(UsageError, match="also the input"):
        afs("evaluate", "--model", tmp_path, "--input", data, "--output", tmp_path / "." / "data.jsonl")
    assert data.read_bytes() == (work / "data.jsonl").read_bytes()

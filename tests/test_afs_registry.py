"""The experiment registry: nothing is lost, nothing is taken on trust, every change is checked."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from afs.training.registry import NEXT, STATUSES, ModelRegistry, RegistryError, list_table, parse_metrics

SOURCE = Path(__file__).parent.parent / "src"


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "deep" / "registry.sqlite")


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": 2}\r\n{"a": 3}')
    return path


def test_the_guides_experiment(registry, dataset):
    made = registry.create("majora-v2-baseline", "unsloth/Qwen2.5-Coder-7B", "unsloth", dataset,
                           tags=["majora", "oracle"], notes="First v2", config={"lr": 2e-4, "rank": 16})  # fmt: skip
    assert len(made.id) == 8 and int(made.id, 16) >= 0
    assert made.dataset_sha256 == hashlib.sha256(dataset.read_bytes()).hexdigest()
    assert made.dataset_rows == 3, "a blank line is no row"
    assert made.dataset_bytes == dataset.stat().st_size
    assert made.tags == ("majora", "oracle") and made.config == {"lr": 2e-4, "rank": 16}
    assert registry.get(made.id) == made
    assert registry.get(made.id[:5]) == made and registry.get("majora-v2-baseline") == made
    assert json.loads(json.dumps(made.to_dict()))["dataset_rows"] == 3
    assert "3 rows" in made.summary() and made.id in list_table(registry.list())


def test_the_data_set_must_be_there(registry, tmp_path):
    with pytest.raises(RegistryError, match=r"nowhere\.jsonl does not exist"):
        registry.create("a", "m", "mlx", tmp_path / "nowhere.jsonl")
    assert registry.list() == []
    made = registry.create("a", "m", "mlx", tmp_path / "nowhere.jsonl", allow_missing=True)
    assert made.dataset_sha256 is None and made.dataset_path.endswith("nowhere.jsonl")


def test_a_folder_of_splits_is_hashed_by_its_rows_only(registry, dataset, tmp_path):
    folder = tmp_path / "splits"
    folder.mkdir()
    for name in ("train.jsonl", "val.jsonl"):
        (folder / name).write_bytes(dataset.read_bytes())
    first = registry.create("a", "m", dataset=folder)
    (folder / "manifest.json").write_text("{}")
    (folder / "splits.quarantine.jsonl").write_text("{}\n")
    assert registry.create("b", "m", dataset=folder).dataset_sha256 == first.dataset_sha256
    assert first.dataset_rows == 6
    (folder / "val.jsonl").write_text('{"a": 9}\n')
    assert registry.create("c", "m", dataset=folder).dataset_sha256 != first.dataset_sha256


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    ModelRegistry().create("a", "m")
    assert (tmp_path / ".afs" / "registry.sqlite").is_file()


def test_git_revision(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert registry.create("a", "m").git_revision is None
    run = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "code.py").write_text("1\n")
    for command in (["init", "-q"], ["add", "code.py"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*run, *command], check=True, cwd=tmp_path)
    made = registry.create("b", "m")
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert (made.git_revision, made.git_changed) == (head, False)
    (tmp_path / "code.py").write_text("2\n")
    assert registry.create("c", "m").git_changed is True


@pytest.mark.parametrize("old", STATUSES)
def test_only_allowed_changes_of_status(registry, old):
    for new in STATUSES:
        key = registry.create("a", "m", status=old).id
        if new == old or new in NEXT[old]:
            found = registry.update(key, status=new)
            assert found.status == new
            if new != old:
                assert (found.completed_at is not None) == (new in ("completed", "failed", "cancelled"))
        else:
            with pytest.raises(RegistryError, match=f"is {old} and cannot become {new}"):
                registry.update(key, status=new, notes="lost?")
            assert registry.get(key).notes == "", "a refused change leaves nothing behind"
    with pytest.raises(RegistryError, match="no status 'done'; known: pending"):
        registry.update(key, status="done")


def test_tags_and_notes(registry):
    key = registry.create("a", "m", tags=["x", "y"]).id
    found = registry.update(key, add_tags=["z", "x"], remove_tags=["y"], notes="n")
    assert found.tags == ("x", "z") and found.notes == "n"
    with pytest.raises(RegistryError, match="has no tag 'q'; it has: x, z"):
        registry.update(key, remove_tags=["q"])


def test_the_newest_metric_counts_and_the_history_stays(registry):
    key = registry.create("a", "m").id
    registry.record_metrics(key, {"loss": 0.5, "rouge/l": 0.2})
    assert registry.record_metrics(key, loss=0.25).metrics == {"loss": 0.25, "rouge/l": 0.2}
    assert registry.record_metrics(key, loss=0.75).metrics["loss"] == 0.75
    assert [value for _time, value in registry.history(key, "loss")] == [0.5, 0.25, 0.75]
    for bad in (float("nan"), float("inf"), "0.5", True, None):
        with pytest.raises(RegistryError, match="metric 'loss' must be a finite number"):
            registry.record_metrics(key, loss=bad)
    with pytest.raises(RegistryError, match="no metric given"):
        registry.record_metrics(key)


def test_metrics_of_a_command_line():
    assert parse_metrics(["loss=0.5", "a=b=-1e-3"]) == {"loss": 0.5, "a=b": -0.001}
    for bad in ("loss", "loss=", "=1", "loss=low"):
        with pytest.raises(RegistryError, match="must look like NAME=NUMBER"):
            parse_metrics([bad])


def test_artifacts_are_hashed(registry, tmp_path):
    key = registry.create("a", "m").id
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "weights.bin").write_bytes(b"\1\2\3")
    first = registry.add_artifact(key, adapter).artifacts[0]
    assert first.bytes == 3 and first.kind == "model"
    (adapter / "weights.bin").write_bytes(b"\1\2\4")
    assert registry.add_artifact(key, adapter, "adapter").artifacts[1].sha256 != first.sha256
    with pytest.raises(RegistryError, match="does not exist"):
        registry.add_artifact(key, tmp_path / "none")


def test_list_by_properties(registry):
    a = registry.create("a", "m", "mlx", tags=["t1"], ab_group="g", ab_variant="one")
    b = registry.create("b", "m", "unsloth", tags=["t1", "t2"], status="running")
    assert [e.id for e in registry.list()] == [a.id, b.id]
    assert [e.id for e in registry.list(tag=["t2", "t9"])] == [b.id]
    assert [e.id for e in registry.list(tag="t1", framework="mlx")] == [a.id]
    assert [e.id for e in registry.list(ab_group="g")] == [a.id]
    assert [e.id for e in registry.list(status="running")] == [b.id]
    with pytest.raises(RegistryError, match="no status"):
        registry.list(status="runing")


def test_compare(registry):
    a, b = registry.create("a", "m").id, registry.create("b", "m").id
    registry.record_metrics(a, loss=0.5, bleu=0.1)
    registry.record_metrics(b, loss=0.25)
    found = registry.compare([b, a])
    assert [(r["name"], r["loss"], r["bleu"]) for r in found.rows] == [("b", 0.25, None), ("a", 0.5, 0.1)]
    lines = found.table().splitlines()
    assert len(lines) == 3 and lines[0].split()[-2:] == ["bleu", "loss"] and lines[1].split()[-2:] == ["—", "0.25"]
    one = registry.compare([a], ["loss"]).columns
    assert one[-1] == "loss" and "bleu" not in one
    with pytest.raises(RegistryError, match="none of these has metric 'los'; they have: bleu, loss"):
        registry.compare([a, b], ["los"])


def test_delete_gives_back_what_it_removed(registry):
    key = registry.create("keeper", "m", tags=["t"]).id
    registry.record_metrics(key, loss=1.0)
    with pytest.raises(RegistryError, match=f"no experiment 'keepr'; near: keeper \\({key}\\)"):
        registry.delete("keepr")
    gone = registry.delete(key)
    assert gone.metrics == {"loss": 1.0} and gone.tags == ("t",)
    assert registry.list() == []
    with pytest.raises(RegistryError, match="no experiment"):
        registry.get(key)


def test_a_name_used_twice_is_not_guessed(registry):
    one, two = registry.create("same", "m").id, registry.create("same", "m").id
    with pytest.raises(RegistryError, match=f"'same' means 2 experiments: {one}, {two}"):
        registry.get("same")


def test_import_of_the_old_registry(registry, tmp_path):
    old = tmp_path / "model_registry.json"
    entry = {"experiment_id": "abcd1234", "run_name": "v1", "base_model": "qwen", "framework": "mlx",
             "status": "completed", "created_at": "2026-01-01T00:00:00", "completed_at": "2026-01-02T00:00:00",
             "dataset_path": "x.jsonl", "output_dir": "out", "config": {"lr": 1}, "ab_group": None,
             "ab_variant": None, "tags": ["a"], "notes": "n",
             "metrics": {"final_loss": 0.5, "perplexity": None, "rouge_scores": {"rouge1": 0.3},
                         "custom_metrics": {"mine": 2}}}  # fmt: skip
    old.write_text(json.dumps({"version": "1.0", "updated_at": "x", "experiments": [entry]}))
    assert registry.import_json(old) == {"imported": 1, "skipped": 0}
    assert registry.import_json(old) == {"imported": 0, "skipped": 1}
    found = registry.get("abcd1234")
    assert found.metrics == {"final_loss": 0.5, "mine": 2.0, "rouge1": 0.3}
    assert found.config == {"lr": 1, "output_dir": "out"} and found.tags == ("a",) and found.status == "completed"
    # Another experiment with the same id gets a new one; a bad entry leaves everything as it was.
    old.write_text(json.dumps({"experiments": [{**entry, "run_name": "other"}]}))
    assert registry.import_json(old)["imported"] == 1 and len(registry.list()) == 2
    old.write_text(json.dumps({"experiments": [{**entry, "experiment_id": "ffff0000"}, {"run_name": "half"}]}))
    with pytest.raises(RegistryError, match="is no model_registry.json"):
        registry.import_json(old)
    assert len(registry.list()) == 2


def test_files_that_are_no_registry(tmp_path):
    path = tmp_path / "registry.sqlite"
    path.write_bytes(b"this is not a database, but longer than its header" * 10)
    with pytest.raises(RegistryError, match="cannot be used: file is not a database"):
        ModelRegistry(path).list()
    import sqlite3

    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RegistryError, match="newer version"):
        ModelRegistry(path).create("a", "m")


@pytest.mark.parametrize("wrong", [{"name": " "}, {"model": ""}, {"framework": ""}, {"ab_variant": "x"},
                                   {"config": {"x": float("nan")}}, {"status": "new"}])  # fmt: skip
def test_wrong_experiments_are_refused(registry, wrong):
    with pytest.raises(RegistryError):
        registry.create(**{"name": "a", "model": "m", **wrong})
    assert registry.list() == []


WRITER = """
import sys
from afs.training.registry import ModelRegistry
registry = ModelRegistry(sys.argv[1])
for i in range(50):
    made = registry.create(f"run-{sys.argv[2]}-{i}", "m", tags=[sys.argv[2]])
    registry.record_metrics(made.id, loss=i)
"""


def test_four_processes_lose_nothing(tmp_path):
    """200 experiments from 4 processes that start on a registry that does not exist yet."""
    path = tmp_path / "registry.sqlite"
    environment = {"PYTHONPATH": str(SOURCE), "PATH": "/nowhere"}  # no git: the test is about the file
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)], env=environment, cwd=tmp_path,
                                stderr=subprocess.PIPE, text=True) for n in range(4)]  # fmt: skip
    for process in running:
        _out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    found = ModelRegistry(path).list()
    assert {e.name for e in found} == {f"run-{n}-{i}" for n in range(4) for i in range(50)}
    assert len({e.id for e in found}) == len(found) == 200
    assert all(e.metrics == {"loss": float(e.name.rpartition("-")[2])} for e in found)


def test_an_update_is_whole_or_not_at_all(registry, tmp_path):
    key = registry.create("a", "m").id
    for wrong in ({"metrics": {"loss": float("nan")}}, {"artifacts": [tmp_path / "gone"]}, {"remove_tags": ["no"]}):
        with pytest.raises(RegistryError):
            registry.update(key, status="running", notes="n", **wrong)
        assert (registry.get(key).status, registry.get(key).notes) == ("pending", "")
    found = registry.update(key, status="running", metrics={"loss": 0.5}, artifacts=[registry.path])
    assert found.metrics == {"loss": 0.5} and len(found.artifacts) == 1


def test_several_are_deleted_or_none(registry):
    first, second = registry.create("a", "m").id, registry.create("b", "m").id
    with pytest.raises(RegistryError, match="nope"):
        registry.delete_all([first, "nope"])
    assert len(registry.list()) == 2
    assert [e.id for e in registry.delete_all([first, "b", first])] == [first, second] and not registry.list()


def test_a_name_goes_before_the_beginning_of_another_id(registry):
    other = registry.create("other", "m").id
    named = registry.create(other[:4], "m").id
    assert registry.get(other[:4]).id == named

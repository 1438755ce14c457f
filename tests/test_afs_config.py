"""Settings by authority, status with next actions, discovery that follows no links."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from afs import config
from afs.step import UsageError


@pytest.fixture
def user(tmp_path, monkeypatch):
    home = tmp_path / "user"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    for name in [n for n in os.environ if n.startswith("AFS_") or n in ("CLAUDE_CONFIG_DIR", "CODEX_HOME")]:
        monkeypatch.delenv(name)
    return home


def write(home: Path, text: str) -> Path:
    path = home / ".afs" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults_lie_in_the_home(user):
    found = config.resolve()
    assert found["context.rehearsal"] == user / ".context/training/rehearsal"
    assert found["context.memory"] == user / ".context/memory" and found["training.workers"] == 1
    assert {v.origin for v in found.values.values()} == {"default"} and not found.file_exists
    assert "not there" in found.summary()


def test_flags_over_environment_over_file_over_default(user):
    path = write(user, '[training]\nworkers = 2\nseed = 7\nmin_quality_score = 1\n[context]\nroot = "~/ctx"\n')
    environ = {"AFS_TRAINING_WORKERS": "3", "AFS_TRAINING_SEED": "9", "AFS_DEBUG": "x"}
    found = config.resolve(flags={"training.workers": 4, "training.seed": None}, environ=environ)
    assert found["training.workers"] == 4 and found.origin("training.workers") == "flag"
    assert found["training.seed"] == 9 and found.origin("training.seed") == "environment AFS_TRAINING_SEED"
    assert found["training.min_quality_score"] == 1.0 and found.origin("context.root") == f"file {path}"
    assert found["context.memory"] == user / "ctx/memory" and found.origin("context.memory") == "default"
    assert found.to_dict()["settings"]["training.seed"] == {
        "value": 9, "origin": "environment AFS_TRAINING_SEED", "text": "seed of random choices"}  # fmt: skip
    with pytest.raises(AttributeError):
        found.values = {}


@pytest.mark.parametrize("text,words", [
    ("[training]\nworker = 2\n", "unknown key 'training.worker'; did you mean 'training.workers'"),
    ("[trainings]\nseed = 2\n", r"did you mean \[training\]"),
    ("seed = 2\n", "unknown section or key 'seed'"),
    ('[training]\nworkers = "2"\n', "training.workers must be an integer, not '2'"),
    ("[training]\nworkers = true\n", "must be an integer, not True"),
    ("[training]\nmin_quality_score = 1.5\n", "from 0.0 to 1.0, not 1.5"),
    ('[training]\nengine = "spark"\n', "one of local, ray"),
    ("[training\n", "is not TOML"),
])  # fmt: skip
def test_mistakes_in_the_file_are_named(user, text, words):
    path = write(user, text)
    with pytest.raises(UsageError, match=words) as error:
        config.resolve(environ={})
    assert str(path) in str(error.value)


@pytest.mark.parametrize("environ,words", [
    ({"AFS_TRAINING_WORKRES": "2"}, "did you mean AFS_TRAINING_WORKERS"),
    ({"AFS_TRAINING_WORKERS": "two"}, "must be an integer"),
    ({"AFS_TRAINING_WORKERS": "-1"}, "from 0 to 1024"),
    ({"AFS_CONTEXT_ROOT": ""}, "must not be empty"),
    ({"AFS_CONFIG": "/nowhere/x.toml"}, "does not exist"),
])  # fmt: skip
def test_mistakes_in_the_environment_are_named(user, environ, words):
    with pytest.raises(UsageError, match=words):
        config.resolve(environ=environ)
    with pytest.raises(UsageError, match="did you mean 'training.seed'"):
        config.resolve(flags={"training.sed": 1}, environ={})


def test_status_says_what_to_do_about_each_missing_thing(user, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "asar").write_text("#!/bin/sh\n")
    (tools / "asar").chmod(0o755)
    (user / ".context/memory").mkdir(parents=True)
    (user / ".claude/projects").mkdir(parents=True)
    found = config.status(environ={"PATH": str(tools), "VAST_API_KEY": "k"})
    by_name = {item.name: item for item in found.items}
    for name in ("context.memory", "claude", "tools.asar", "vast.ai key"):
        assert by_name[name].found, name
    assert by_name["tools.asar"].where == str(tools / "asar")
    for name in ("context.history", "tools.restic", "tools.rclone", "models.electra", "codex"):
        assert not by_name[name].found and by_name[name].action, name
    assert "rehearsal-build" in by_name["context.rehearsal"].action
    text = found.summary()
    assert all(item.action in text for item in found.missing) and f"{len(found.missing)} missing" in text
    assert "k" not in [item.where for item in found.items]
    assert set(found.to_dict()["missing"]) == {item.name for item in found.missing}


def test_discovery_is_sorted_bounded_and_follows_no_links(tmp_path):
    root = tmp_path / "src"
    for name in ("b/.context/memory", "a/.context", "a/.git", "b/deep/er/.context", "c/.claude/projects",
                 "node_modules/x/.context", "a/sub/.context/history"):  # fmt: skip
        (root / name).mkdir(parents=True)
    (root / "b/loop").symlink_to(root)
    (root / "b/.codex").symlink_to(tmp_path)
    (root / "tree/.context").mkdir(parents=True)
    (root / "tree/.git").write_text("gitdir: elsewhere\n")
    found = config.discover(root, max_depth=2)
    assert [(f.kind, f.path.relative_to(root).as_posix()) for f in found.found] == [
        ("context", "a/.context"), ("context", "a/sub/.context"), ("context", "b/.context"),
        ("claude logs", "c/.claude"), ("context", "tree/.context")]  # fmt: skip
    inside = {f.path.relative_to(root).as_posix(): f for f in found.found}
    assert inside["a/.context"].repository == root / "a" == inside["a/sub/.context"].repository
    assert inside["tree/.context"].repository == root / "tree" and inside["b/.context"].holds == ("memory",)
    assert inside["b/.context"].repository is None
    assert len(config.discover(root, max_depth=3).found) == 6
    assert found and "memory" in found.summary()
    nothing = config.discover(root / "a/.git")
    assert not nothing and "--max-depth" in nothing.summary()
    assert config.discover(root / "a/.context").found[0].path == root / "a/.context"
    with pytest.raises(UsageError, match="is no folder"):
        config.discover(root / "nowhere")


def test_nothing_heavy_is_imported():
    code = ("import sys, afs.config; afs.config.status()\n"
            "heavy = {'torch', 'ray', 'duckdb', 'numpy', 'pyarrow', 'pandas', 'datasets', 'rich'} & set(sys.modules)\n"
            "assert not heavy, heavy")  # fmt: skip
    src = str(Path(config.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": src})  # fmt: skip
    assert done.returncode == 0, done.stderr

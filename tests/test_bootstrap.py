"""`scripts/bootstrap_dev.sh` with a stand-in for Python that notes what it is asked: no network, no installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = f"""\
#!/bin/sh
here="$(dirname "$0")"
echo "$*" >> "$CALLS"
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; touch .venv/with-pip ;;
  "-m pip --version") [ -f "$here/../with-pip" ] ;;
  "-c import sys; print(sys.prefix)") (cd "$here/.." && pwd) ;;
  "-c from realm"*) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the script reads, and `run(**environment)` → the words Python was called with."""
    root = tmp_path / "checkout"
    (root / "scripts").mkdir(parents=True)
    for name in ("scripts/bootstrap_dev.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root / name)
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    calls = tmp_path / "calls"
    kept = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "REALM_HOME")}

    def run(cwd=root, **environ) -> list[str]:
        calls.write_text("")
        env = {**kept, "PYTHON": str(python), "CALLS": str(calls), "PYTHONPATH": str(ROOT / "src"), **environ}
        subprocess.run([root / "scripts/bootstrap_dev.sh"], cwd=cwd, env=env, check=True, capture_output=True)
        return calls.read_text().splitlines()

    run.root = root
    return run


def installs(calls: list[str]) -> list[str]:
    return [words.split()[-1] for words in calls if "pip install" in words]


def test_playing_after_testing_installs_nothing_again(checkout):
    first = installs(checkout(EXTRAS="training", DOCTOR="0"))
    assert len(first) == 2 and first[0].startswith("torch==") and first[1] == ".[training]"
    assert installs(checkout(EXTRAS="training", DOCTOR="0")) == []
    assert installs(checkout(DOCTOR="0"))[1:] == [".[training,guild,dev]"]
    for extras in ("training", "training,guild,dev", "dev"):
        assert installs(checkout(EXTRAS=extras, DOCTOR="0")) == [], extras
    assert installs(checkout(EXTRAS="training,gpu", DOCTOR="0")) != []
    with open(checkout.root / "constraints.txt", "a") as file:
        file.write("# changed\n")
    assert installs(checkout(EXTRAS="training", DOCTOR="0")) != []


def test_another_source_of_torch_is_installed_once(checkout):
    source = {"EXTRAS": "training", "DOCTOR": "0", "TORCH_INDEX": "https://wheels.invalid/cu130"}
    checkout(EXTRAS="training", DOCTOR="0")
    assert any("wheels.invalid" in words for words in checkout(**source))
    assert installs(checkout(**source)) == installs(checkout(EXTRAS="training", DOCTOR="0")) == []


def test_an_environment_without_pip_is_made_anew(checkout):
    checkout(DOCTOR="0")
    (checkout.root / ".venv/with-pip").unlink()
    again = checkout(DOCTOR="0")
    assert "-m venv .venv" in again and len(installs(again)) == 2
    assert "-m venv .venv" not in checkout(DOCTOR="0")


def test_the_noted_home_is_absolute_and_only_noted_with_doctor(checkout, tmp_path):
    marker = checkout.root / ".realm-home"
    checkout(REALM_HOME="here", DOCTOR="0")
    assert not marker.exists(), "REALM_HOME=... make test must not bind the checkout to that home"
    away = tmp_path / "away"
    away.mkdir()
    calls = checkout(cwd=away, REALM_HOME="mine")
    assert marker.read_text() == f"{away / 'mine'}\n" and "-m training doctor --fix" in calls
    checkout()
    assert marker.read_text() == f"{away / 'mine'}\n"

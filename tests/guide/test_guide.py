"""Every code block of the guide is listed and run: `docs/TRAINING_INFRASTRUCTURE.md` against `blocks.toml`.

Kinds: `run` (as it stands), `fixture` (as it stands, on data made here), `fake` (against a local stand-in of a service
that costs money), `illustrative` (a diagram; at most six). All blocks share one home, one working folder and one Python
namespace, in the order of the page, as a reader would work through it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import orjson
import pytest
from guide.home import make_home

from afs.generators.base import TrainingSample

ROOT = Path(__file__).parent.parent.parent
GUIDE = ROOT / "docs" / "TRAINING_INFRASTRUCTURE.md"
LISTED = tomllib.loads((Path(__file__).parent / "blocks.toml").read_text(encoding="utf-8"))["block"]
KINDS = ("run", "fixture", "fake", "illustrative")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)


def first(body: str) -> str:
    """The block's first two lines."""
    return "\n".join(body.strip().splitlines()[:2]).strip()


def test_every_block_is_listed_in_order():
    assert [first(body) for _, body in BLOCKS] == [item["first"].strip() for item in LISTED]
    assert all(item["kind"] in KINDS and item["why"] for item in LISTED)
    assert sum(item["kind"] == "illustrative" for item in LISTED) <= 6


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """(home, working folder, environment, Python namespace) of somebody who works through the page."""
    home = tmp_path_factory.mktemp("reader")
    work = make_home(home)
    shims = home / "bin"
    shims.mkdir()
    for name, call in (("afs", " -m afs"), ("python3", "")):
        (shims / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
        (shims / name).chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AFS_", "REALM_"))}
    env = kept | {"HOME": str(home), "PATH": f"{shims}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
                  "HF_HUB_OFFLINE": "1"}  # fmt: skip
    # What `register_parsers` has at hand where the guide says to add a command.
    return home, work, env, {"training_sub": argparse.ArgumentParser().add_subparsers()}


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=lambda n: f"{n:02d}-{BLOCKS[n][0] or 'text'}")
def test_block(reader, monkeypatch, number):
    home, work, env, names = reader
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    (language, body), item = BLOCKS[number], LISTED[number]
    if item["kind"] == "illustrative":
        assert language == "", "a diagram has no language"
    elif language == "python":
        exec(compile(body, f"{GUIDE.name} block {number}", "exec", dont_inherit=True), names)
    elif language == "json":
        row = orjson.loads(body)
        assert TrainingSample.from_dict(row).to_dict().items() >= row.items()
    else:
        assert language == "bash"
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", body], cwd=work, env=env, capture_output=True,
                              text=True, timeout=280)  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    for check in item.get("then", []):
        assert eval(check, names | {"rows": rows, "home": home, "work": work, "Path": Path}), check


def rows(path: Path | str) -> list[dict]:
    """The rows of a file that a block made."""
    return [orjson.loads(line) for line in Path(path).expanduser().read_bytes().splitlines()]

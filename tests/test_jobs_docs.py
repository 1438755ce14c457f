"""docs/JOBS.md tells the truth: its table is that of the kinds, its commands and limits exist."""

from __future__ import annotations

import re
from pathlib import Path

from realm.cli.jobs import jobs_app
from realm.jobs import board, depot, kinds
from realm.settings import Settings

PAGE = (Path(__file__).resolve().parents[1] / "docs/JOBS.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_kinds():
    rows = [f"| {k.school.capitalize()} | `{k.name}` | {k.what} | {k.timeout_s:.0f} s | {k.max_pending} | "
            f"{'yes' if k.anywhere else ''} |".replace("|  |", "| |") for k in kinds.KINDS.values()]  # fmt: skip
    assert [line for line in PAGE.splitlines() if re.match(r"\| \w+ \| `", line)] == rows


def test_commands_payloads_and_limits_of_the_page_exist():
    commands = {command.name for command in jobs_app.registered_commands}
    assert set(re.findall(r"training jobs (\w+)", PAGE)) == commands
    for kind, words in re.findall(r"jobs submit (\w+) ((?:\w+=\S+ ?|'.*?' ?)+)", PAGE):
        assert {word.split("=")[0] for word in words.replace("'", "").split() if "=" in word} <= set(
            kinds.KINDS[kind].payload.model_fields)  # fmt: skip
    assert "jobs_ray" in Settings.model_fields
    assert all(folder in PAGE for folder in depot.FOLDERS)
    assert f"after {board.BACKOFF_S[1]:.0f} s, then {board.BACKOFF_S[2]:.0f} s" in PAGE
    assert kinds.MAX_ATTEMPTS == 3 and "three in all" in PAGE
    assert kinds.SLOTS == {"torch": 1, "process": 1, "thread": 8} and "eight at a time" in PAGE

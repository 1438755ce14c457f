"""docs/TEMPLE.md tells the truth: its tables are those of the orders, its commands exist, its numbers are ours."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from realm.arena.commands import HANDLERS
from realm.cli import app
from realm.temple import blessing, verdicts
from realm.temple.ceremony import AT_ONCE
from realm.temple.orders import ORDERS

PAGE = (Path(__file__).resolve().parents[1] / "docs/TEMPLE.md").read_text(encoding="utf-8")


def test_the_table_is_the_registry():
    rows = re.findall(r"^\| (\w+) \| .* \| (yes|no) \|$", PAGE, re.M)
    assert rows == [(order.id, "yes" if order.critical else "no") for order in ORDERS]


def test_what_is_asked_when():
    [after] = re.findall(r"^\| after each quest \| ([\w, ]+) \|", PAGE, re.M)
    assert tuple(after.split(", ")) == AT_ONCE
    assert (verdicts.EVERY_S, verdicts.AGAIN_S, verdicts.STALE_S) == (3600, 300, 86_400)
    assert "every hour" in PAGE and "5 minutes after a failure" in PAGE and "verdict of the\nlast day" in PAGE


def test_the_numbers_of_the_blessing():
    assert f"| {blessing.BLESSED} and above | blessed" in PAGE
    assert f"| {blessing.PARTIAL} to {blessing.BLESSED} | partial" in PAGE and f"| below {blessing.PARTIAL} |" in PAGE


def test_every_command_of_the_page_exists():
    group = typer.main.get_command(app)
    lines = re.findall(r"^python3 -m training ([^#\n]+)", PAGE, re.M)
    assert len(lines) >= 10
    for line in lines:
        words, command = line.split(), group
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {name for each in command.params for name in each.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
        named = [word for word in words if command.name == "temple" and not word.startswith("-")]
        assert set(named) <= {order.id for order in ORDERS}, line
    assert {"temple.run", "temple.record", "vault.condemn"} <= set(HANDLERS)

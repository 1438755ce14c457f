"""BIN's published face: the page, the pinned examples, and a person's spot checks of worked answers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from realm.guild.skills import get_skill
from realm.guild.skills.bin.operations import Link
from realm.guild.skills.bin.work import work

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "bin_examples.jsonl"
BIN = get_skill("bin")


def test_the_page_says_what_the_skill_does():
    spec = importlib.util.spec_from_file_location("render_bin_doc", ROOT / "scripts" / "render_bin_doc.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (ROOT / "docs" / "BIN.md").read_text(encoding="utf-8") == script.render()


def test_pinned_problems_come_out_byte_for_byte():
    """A change here changes every hero's data: raise BinSkill.version when problems or splits change."""
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        made = BIN.generate(row["level"], row["extra"]["index"] + 1, row["extra"]["seed"], row["split"])[-1].to_dict()
        del row["extra"], made["extra"]
        assert made == row


@pytest.mark.parametrize(("link", "columns"), [
    (Link("add", (5, 3)), "①①:①⓪ ⓪①:①⓪ ①⓪:①⓪"),
    (Link("subtract", (9, 3)), "①①:⓪⓪ ⓪①:①① ⓪⓪:①① ①⓪:⓪⓪"),
    (Link("increment", (3,)), "①:①⓪ ①:①⓪"),
    (Link("decrement", (4,)), "⓪:①① ⓪:①① ①:⓪⓪"),
    (Link("add_signed", (3, 7), 3), "①①:①⓪ ①①:①① ⓪①:①⓪"),
    (Link("negate", (5,), 4), "①⓪①⓪ ⓪:⓪① ①:⓪① ⓪:⓪⓪ ①:⓪①"),
    (Link("absolute_value", (9,), 4), "①- ⓪①①⓪ ⓪:⓪① ①:⓪① ①:⓪① ⓪:⓪⓪"),
    (Link("absolute_value", (2,), 4), "⓪+"),
    (Link("multiply", (5, 3)), "①⓪①+①⓪①⓪=①①①①"),
    (Link("multiply", (5, 0)), "⓪"),
    (Link("multiply_signed", (3, 3), 3), "⓪①①+①①⓪=⓪⓪①"),
    (Link("lessthan", (2, 5)), "⓪①< ①⓪> ⓪①<"),
    (Link("equals", (0, 0)), "⓪⓪="),
    (Link("and", (6, 3)), "⓪①:⓪ ①①:① ①⓪:⓪"),
    (Link("not", (1,), 3), "①:⓪ ⓪:① ⓪:①"),
    (Link("shift_left", (5, 2)), "①⓪①|⓪⓪"),
    (Link("shift_right", (11, 2)), "①⓪|①①"),
    (Link("shift_right", (1, 3)), "⓪|⓪⓪①"),
    (Link("divide_by_2", (5,)), "①⓪|①"),
    (Link("tobinary", (13,)), "13:6① 6:3⓪ 3:1① 1:0①"),
    (Link("tobinary", (0,)), "0:0⓪"),
    (Link("todecimal", (5,)), "①:1 ⓪:1 ①:5"),
])
def test_columns_as_a_person_would_write_them(link, columns):
    assert work(link) == columns

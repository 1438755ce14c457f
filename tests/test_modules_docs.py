"""docs/MODULES.md tells the truth: its tables are those of the models, its example is a sound module."""

from __future__ import annotations

import re
from pathlib import Path

import module_kit as kit

from realm.cli.module import module_app
from realm.guild.modules import archive, expression, pattern
from realm.guild.modules.reference import document
from realm.guild.modules.validate import check

PAGE = (Path(__file__).resolve().parents[1] / "docs/MODULES.md").read_text(encoding="utf-8")


def test_reference_is_printed_from_the_models():
    assert PAGE.split("<!-- reference -->\n")[1] == document(), \
        "print it again: python3 -m realm.guild.modules.reference"


def test_the_example_is_a_sound_drill(tmp_path):
    blocks = re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.S)
    assert [name for name, _ in blocks] == ["manifest.yaml", "skills/half-drill.yaml"]
    report = check(kit.folder(tmp_path, {name: text.encode() for name, text in blocks}, "half-drill"))
    assert report.errors == [] and report.warnings == []
    assert [level["closed"] for level in report.levels["module:half-drill"]] == [500, None]


def test_commands_and_limits_of_the_page_exist():
    commands = {command.name for command in module_app.registered_commands}
    assert set(re.findall(r"training module (\w+)", PAGE)) <= commands
    assert commands == {"list", "info", "validate", "install", "export", "compose", "remove"}
    text = " ".join(PAGE.split())
    for said in (f"{expression.TEXT_AT_MOST} characters, {expression.NODES_AT_MOST} parts, {expression.DEPTH_AT_MOST} "
                 f"deep, exponents up to {expression.EXPONENT_AT_MOST}, numbers of {expression.BITS_AT_MOST} bits",
                 f"lists of {expression.LIST_AT_MOST} members, {expression.STEPS_AT_MOST:,} steps",
                 f"at most {pattern.STATES_AT_MOST} states", f"more than {pattern.TEXT_AT_MOST:,} characters",
                 f"more than {archive.RATIO_AT_MOST} times", f"{archive.FILES_AT_MOST:,} files",
                 f"{archive.BYTES_AT_MOST >> 20} MB"):
        assert said in text, said

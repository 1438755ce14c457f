"""docs/PHYSICS.md tells the truth: its table is that of the modes, its commands work."""

from __future__ import annotations

import re
from pathlib import Path

from realm.arena import physics, vram
from realm.heroes import modes

PAGE = (Path(__file__).resolve().parents[1] / "docs/PHYSICS.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_modes():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.M))
    assert list(rows) == list(modes.MODES)
    for name, keys in modes.MODES.items():
        said = dict(re.findall(r"`([\w.]+): ([^`]+)`", rows[name]))
        assert said["training_mode"] == keys["training_mode"]
        assert (said.get("load_in_4bit") == "true") == keys["load_in_4bit"]
        assert said.get("deepspeed_config", "") == keys["deepspeed_config"]
        assert said.get("optimizer.type", "adamw") == keys["optimizer"]["type"]


def test_its_commands_work_and_its_numbers_are_those_of_the_code(run):
    lines = re.findall(r"^python3 -m training (vram .*)$", PAGE, re.M)
    assert len(lines) == 3
    for line in lines:
        if "--dry-run" not in line:  # tests/test_vram.py
            code, out, err = run(*line.split())
            assert code == 0 and out, err
    text = " ".join(PAGE.split())
    for said in (f"keys and values of {physics.TRIAL_ROWS} answers", f"fragmentation ({physics.FRAGMENTATION:.0%}",
                 f"median of the last {vram.PAIRS_USED} ratios", f"factor of {vram.ALIKE:g}",
                 f"{physics.LOGITS_FORWARD} bytes each", f"and {physics.LOGITS} when",
                 f"Above {modes.FUSED_ABOVE_B:g}e9 parameters"):  # fmt: skip
        assert said in text.replace(" %", "%"), said

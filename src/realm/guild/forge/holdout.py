"""The held-out split: rows that only trials see, whole groups, every level represented (`afs training prepare`).

Equal and nearly equal questions, and rows of one session, are one group and stay on one side (`rows.groups_of`).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from afs.step import StepError
from afs.training.splitter import split_dataset
from realm.guild.forge.rows import ForgeError, Item, groups_of

SHARE = 0.3
LEAST = 5  # held-out rows of a level


def hold_out(items: Sequence[Item], levels: Sequence[int], seed: int) -> tuple[list[bool], dict[str, Any]]:
    """(whether each row is held out, evidence).

    Raises:
        ForgeError: whole groups cannot be held out: (nearly) all rows belong together.
    """
    groups = groups_of(items)
    with tempfile.TemporaryDirectory(prefix="forge-") as folder:
        source = Path(folder) / "rows.jsonl"
        with open(source, "wb") as out:
            for place, (item, level) in enumerate(zip(items, levels, strict=True)):
                row = {"instruction": item.prompt, "output": item.golden, "forge_row": place,
                       "forge_group": f"g{groups[place]}", "forge_level": f"{level}"}  # fmt: skip
                out.write(orjson.dumps(row) + b"\n")
        try:
            made = split_dataset(source, Path(folder) / "split", 1 - SHARE, SHARE, 0.0, stratify_by="forge_level",
                                 seed=seed, near=None, group_by=("forge_group",), fresh=True)  # fmt: skip
        except StepError as error:
            raise ForgeError("split", f"the rows cannot be split: {error}") from error
        lines = (Path(folder) / "split" / "val.jsonl").read_bytes().splitlines()
    held = {orjson.loads(line)["forge_row"] for line in lines}
    if any(made.leaks.values()) or made.total != len(items):
        raise ForgeError("split", f"the split lost or shared rows ({made.leaks}, {made.total} of {len(items)}); report "
                         "this as a bug, with the data")  # fmt: skip
    chosen = [place in held for place in range(len(items))]
    _check(chosen, levels, groups)
    by_level = Counter(level for level, mine in zip(levels, chosen, strict=True) if mine)
    return chosen, {
        "share": SHARE, "held_out": sum(chosen), "by_level": {str(n): count for n, count in sorted(by_level.items())},
        "groups": len(set(groups)), "largest_group": max(Counter(groups).values()),
        "kept_together": "equal and nearly equal questions, sessions and groups named by the rows"}  # fmt: skip


def _check(chosen: list[bool], levels: Sequence[int], groups: Sequence[int]) -> None:
    torn = {g for g, c in zip(groups, chosen, strict=True) if c} & {
        g for g, c in zip(groups, chosen, strict=True) if not c}  # fmt: skip
    assert not torn, f"groups {sorted(torn)[:5]} are on both sides of the split"
    for level in sorted(set(levels)):
        mine = [c for c, n in zip(chosen, levels, strict=True) if n == level]
        if sum(mine) < LEAST or len(mine) - sum(mine) < LEAST:
            raise ForgeError("one_group", f"level {level}: {sum(mine)} of {len(mine)} rows can be held out, at least "
                             f"{LEAST} must be, and as many remain: its rows are near-duplicates or one session and "
                             "belong on one side; add data that differs, or ask for fewer --levels",
                             {"level": level, "rows": len(mine), "held_out": sum(mine)})  # fmt: skip

"""Two optimizer steps on the longest batch, to see what memory they really take. Nothing is saved.

Started by `python3 -m training vram --hero HERO --dry-run`; reads its order as JSON from standard input and prints one
line of JSON: {"measured": bytes, "longest": tokens, "tokens_per_s": ...} or {"error": reason}.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from realm.heroes.profile import HeroProfile, merge, parse_profile, weights_folder
from realm.settings import RealmHome


def measure(home: RealmHome, profile: HeroProfile, data: Path | None) -> dict[str, Any]:
    """Train two steps; rows of a file are taken longest first, without one every row has `max_length` tokens."""
    from realm.heroes.model import Hero, make_embedded, peak_memory
    from realm.schools import scribe
    from realm.schools.chassis import OptimizerState, Segment

    folder = make_embedded(profile, home) if profile.embedded else weights_folder(profile, home)
    hero = Hero.load(profile, folder)
    rows = _longest(hero, profile, data)
    clock: list[float] = []
    tokens: list[int] = []

    def on_step(facts: Any) -> bool:
        clock.append(time.perf_counter())
        tokens.append(facts.tokens)
        return True

    with tempfile.TemporaryDirectory() as scratch:
        segment = Segment("dry-run", "dry-run", profile.seed, 0, 2)
        scribe.train(hero, rows, segment, OptimizerState(), Path(scratch), on_step)
    return {"measured": peak_memory(), "longest": max(len(row.ids) for row in rows),
            "tokens_per_s": round(tokens[1] / (clock[1] - clock[0]), 1)}  # fmt: skip


def _longest(hero: Any, profile: HeroProfile, data: Path | None) -> list[Any]:
    from realm.heroes.chat import Rendered

    if data is None:
        ids = [i % len(hero.tokenizer) for i in range(profile.training_defaults.max_length)]
        return [Rendered(ids, [True] * len(ids))] * profile.rows_per_step
    found = [json.loads(line)["messages"] for line in data.read_bytes().splitlines() if line.strip()]
    rows, dropped = hero.render(found)
    if not rows:
        raise ValueError(f"{data}: no row can be trained on; the first: {dropped[0][2] if dropped else 'it is empty'}")
    # The stream shuffles what it is given, so it is given the longest batch only.
    return sorted(rows, key=lambda row: len(row.ids), reverse=True)[: profile.training_defaults.batch_size]


def main() -> None:
    """One order from standard input, one answer to standard output."""
    order = json.loads(sys.stdin.read())
    load = {key: order["load"][key] for key in ("batch_size", "max_length", "gradient_accumulation",
                                                "gradient_checkpointing")}  # fmt: skip
    profile = parse_profile(merge(order["profile"], {"training_defaults": load}))
    try:
        told = measure(RealmHome(order["home"]), profile, Path(order["data"]) if order["data"] else None)
    except Exception as error:  # the process is the boundary: its caller prints the reason
        told = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(told))


if __name__ == "__main__":
    main()

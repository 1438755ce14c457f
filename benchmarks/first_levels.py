"""How fast does the shipped embedded hero climb? The real hero loop in a fresh home, once per seed.

Clock: wall seconds from the first optimizer step to the event that a level is mastered, trials and quest changes
included. `python -m benchmarks first_levels --seeds 0,1,2 --minutes 15`; the hero's own cap is a result, not a failure.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from benchmarks.registry import Options
from benchmarks.table import Row
from realm import db
from realm.guild.skills import get_skill
from realm.settings import RealmHome

BUDGET_S = {1: 90.0, "open": 900.0}
STOP_WAIT_S = 60


@dataclass(frozen=True)
class Climb:
    """One run. `mastered`: {level: seconds after the first step}; `last`: {level: (correct, n)}, newest trials."""

    seed: int
    mastered: dict[int, float]
    last: dict[int, tuple[int, int]]
    steps: int
    seconds: float


def climb(seed: int, minutes: float, until_level: int | None = None, hero: str = "") -> Climb:
    """Run one seed for at most `minutes`, or until `until_level` is mastered.

    Args:
        hero: YAML laid over the shipped recipe of PIP, for trying other sizes; empty = as shipped.
    """
    with tempfile.TemporaryDirectory(prefix="climb") as folder:
        home = RealmHome(folder)
        db.migrate(home)
        # The seed decides data and order; the hero's birth is seeded by the same number.
        birth = f"id: pip\nseed: {seed}\nmodel: {{architecture: {{seed: {seed}}}}}\n"
        (home.heroes / "pip.yaml").write_text(hero.replace("SEED", str(seed)) or birth)
        environ = {**os.environ, "REALM_HOME": folder, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        with open(home.logs / "loop.log", "wb") as log:
            loop = subprocess.Popen([sys.executable, "-m", "realm.arena.hero_loop", "--home", folder],
                                    env=environ, stdout=log, stderr=log)  # fmt: skip
        engine = db.connect(home)
        try:
            return _watch(home, engine, loop, seed, minutes, until_level)
        finally:
            if loop.poll() is None:
                loop.terminate()
                loop.wait(STOP_WAIT_S)
            engine.dispose()


def _watch(home: RealmHome, engine, loop, seed: int, minutes: float, until_level: int | None) -> Climb:
    first = None
    mastered: dict[int, float] = {}
    begun = time.monotonic()
    while True:
        time.sleep(0.5)
        if loop.poll() is not None:
            raise RuntimeError(f"the hero loop ended early:\n{Path(home.logs / 'loop.log').read_text()[-2000:]}")
        with db.read(engine) as connection:
            first = first or connection.execute(sa.select(sa.func.min(db.metrics.c.t))).scalar()
            rows = connection.execute(sa.select(db.levels.c.level, db.levels.c.mastered_at)).all()
            steps = connection.execute(sa.select(sa.func.max(db.metrics.c.step))).scalar() or 0
            trials = connection.execute(sa.select(db.trials).order_by(db.trials.c.started_at)).mappings().all()
        for row in rows:
            if row.level not in mastered:
                mastered[row.level] = row.mastered_at - first
                print(f"  seed {seed}: L{row.level} after {mastered[row.level]:.0f} s", file=sys.stderr, flush=True)
        elapsed = time.time() - first if first else 0.0
        if elapsed > minutes * 60 or (until_level and until_level in mastered) or time.monotonic() - begun > 7200:
            last = {t["level"]: (t["correct"], t["n"]) for t in trials}
            return Climb(seed, mastered, last, steps, elapsed)


def first_open_level() -> int:
    skill = get_skill("bin")
    return next(level for level in range(1, skill.max_level + 1) if not skill.closed(level))


def measure(seeds: list[int], minutes: float, hero: str = "") -> list[Climb]:
    """One climb per seed, one after the other."""
    return [climb(seed, minutes, first_open_level(), hero) for seed in seeds]


def rows(climbs: list[Climb]) -> list[Row]:
    """The table. A level that was not reached counts as infinitely late, so it stays in the median."""
    open_level = first_open_level()
    wanted = (
        ("BIN L1 (closed) mastered", 1, BUDGET_S[1]),
        ("all closed levels mastered", open_level - 1, None),
        (f"first open level (L{open_level}) mastered", open_level, BUDGET_S["open"]),
    )
    found = []
    for name, level, budget in wanted:
        times = [c.mastered.get(level) for c in climbs]
        each = ", ".join("never" if t is None else f"{t:.0f} s" for t in times)
        middle = statistics.median(math.inf if t is None else t for t in times)
        value = f"not within {climbs[0].seconds:.0f} s" if math.isinf(middle) else f"{middle:.0f} s"
        verdict = "" if budget is None else "yes" if middle <= budget else "no"
        found.append(Row(name, against="" if budget is None else f"≤ {budget:.0f} s", verdict=verdict,
                         text=f"median {value} (seeds: {each})"))  # fmt: skip
    for c in climbs:
        newest = ", ".join(f"L{level} {k}/{n}" for level, (k, n) in sorted(c.last.items()))
        found.append(Row(f"seed {c.seed}: {c.steps} steps", text=f"newest trials {newest}"))
    return found


def run(options: Options) -> list[Row]:
    """`--seeds 0,1,2 --minutes 15 --hero FILE` (YAML laid over the shipped recipe)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks first_levels")
    parser.add_argument("--seeds", default="0" if options.quick else "0,1,2")
    parser.add_argument("--minutes", type=float, default=1.0 if options.quick else 15.0)
    parser.add_argument("--hero", type=Path)
    given = parser.parse_args(options.more)
    hero = given.hero.read_text(encoding="utf-8") if given.hero else ""
    return rows(measure([int(seed) for seed in given.seeds.split(",")], given.minutes, hero))

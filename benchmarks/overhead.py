"""What the Realm adds to training: events, strain, metrics and orders of every optimizer step, on against off.

Both sides are the battle child's own code on the same quest; "off" leaves out what `Pulse.step` does, so the school and
the library's Trainer remain. Runs are interleaved and counted in CPU seconds. The same work is also timed directly from
inside, which noise of the machine hardly touches. What the other processes spend meanwhile is a row of `memory`.
"""

from __future__ import annotations

import time

from benchmarks.battle_speed import field_of
from benchmarks.proving_ground import Ground, battle_worker, ground, open_level, timed_pulse
from benchmarks.registry import Options
from benchmarks.table import Row
from realm.heroes.model import Hero

BUDGET = 3.0  # per cent of training CPU time


def battle(where: Ground, silent: bool) -> tuple[float, float, float]:
    """CPU seconds (of the steps after the first, of the realm's step work in them, of the whole battle)."""
    ends: list[float] = []
    inside: list[float] = []
    with battle_worker(where, timed_pulse(ends, inside, silent)) as worker:
        begun = time.process_time()
        where.serve(worker)
        whole = time.process_time() - begun
    return ends[-1] - ends[0], sum(inside[1:]), whole


def rendering(where: Ground) -> float:
    """CPU seconds of turning the quest's conversations into ids and masks."""
    hero, conversations = Hero.load(where.profile, where.base()), where.conversations
    begun = time.process_time()
    hero.render(conversations)
    return time.process_time() - begun


def run(options: Options) -> list[Row]:
    """The hero's first quest, whose short steps make the Realm's share largest, and one with an open level."""
    steps, pairs = (8, 4) if options.quick else (16, 6)
    quests = (("first quest", 0),) if options.quick else (("first quest", 0), ("open level", open_level() - 1))
    found = []
    for name, mastered in quests:
        with ground(steps, mastered) as where:
            found += compare(where, pairs, name)
    return found


def compare(where: Ground, pairs: int, name: str) -> list[Row]:
    """On and off in turn, each first in every other pair."""
    battle(where, silent=False)  # imports, first database pages
    on, off = [], []
    for turn in range(pairs):
        for silent in (False, True) if turn % 2 == 0 else (True, False):
            (off if silent else on).append(battle(where, silent))
    more = tuple(100 * (a[0] / b[0] - 1) for a, b in zip(on, off, strict=True))
    direct = tuple(100 * inside / (steps - inside) for steps, inside, _ in on)
    step_ms = tuple(1000 * steps / (where.steps - 1) for steps, _, _ in off)
    beside = tuple(whole - steps * where.steps / (where.steps - 1) for steps, _, whole in on)
    tokens = sum(field_of(where).tokens)
    rendered = rendering(where)
    limit = f"≤ {BUDGET:.0f} % of training CPU"
    return [
        Row(f"{name}: one optimizer step, everything off", step_ms, "CPU-ms"),
        Row(f"{name}: on against off", more, "%", "low", limit, BUDGET),
        Row(f"{name}: timed from inside", direct, "%", "low", limit, BUDGET),
        Row(f"{name}: per step, timed from inside", tuple(1000 * i / (where.steps - 1) for _, i, _ in on), "CPU-ms"),
        Row(f"{name}: rendering rows to ids and mask", (1e6 * rendered / tokens,), "CPU-µs/token",
            against="part of every training, once a quest"),
        Row(f"{name}: loading, rendering, first step's set-up, checkpoint", beside, "CPU-s", against="once a battle"),
    ]  # fmt: skip

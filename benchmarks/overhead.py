"""What the Realm adds to training: events, strain, metrics and orders of every optimizer step, on against off.

Both sides are the battle child's own code on the same quest; "off" leaves out what `Pulse.step` does, so the school and
the library's Trainer remain. Runs are interleaved and counted in CPU seconds. The same work is also timed directly from
inside, which noise of the machine hardly touches. What the other processes spend meanwhile is a row of `memory`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.battle_speed import field_of
from benchmarks.proving_ground import Ground, battle_worker, ground, open_level, timed_pulse
from benchmarks.registry import Options
from benchmarks.table import Row
from realm.heroes.model import Hero

BUDGET = 3.0  # per cent of training CPU time


@dataclass(frozen=True)
class Fought:
    """CPU seconds of one battle: of each step after the first, of the realm's own work in it, and of the whole."""

    steps: list[float]
    inside: list[float]
    whole: float


def battle(where: Ground, silent: bool) -> Fought:
    """The quest from the base weights, with the realm's step work or without it."""
    ends: list[float] = []
    inside: list[float] = []
    with battle_worker(where, timed_pulse(ends, inside, silent)) as worker:
        begun = time.process_time()
        where.serve(worker)
        whole = time.process_time() - begun
    return Fought([b - a for a, b in pairwise(ends)], inside[1:], whole)


def added(on: Sequence[Fought], off: Sequence[Fought]) -> float:
    """Per cent that "on" took more. Step n does the same arithmetic in every battle, so its median over the battles is
    taken first: what another program did to one battle is no cost of the Realm."""
    cost = [sum(statistics.median(times) for times in zip(*[f.steps for f in side], strict=True)) for side in (on, off)]
    return 100 * (cost[0] / cost[1] - 1)


def each_left_out(on: Sequence[Fought], off: Sequence[Fought]) -> tuple[float, ...]:
    """`added` with each pair left out in turn: how far one pair can move it."""
    return tuple(added([*on[:i], *on[i + 1 :]], [*off[:i], *off[i + 1 :]]) for i in range(len(on)))


def rendering(where: Ground) -> float:
    """CPU seconds of turning the quest's conversations into ids and masks."""
    hero, conversations = Hero.load(where.profile, where.base()), where.conversations
    hero.render(conversations[:1])  # compiles the template, once for each loaded hero
    begun = time.process_time()
    hero.render(conversations)
    return time.process_time() - begun


def run(options: Options) -> list[Row]:
    """The hero's first quest, whose short steps make the Realm's share largest, and one with an open level."""
    steps, pairs = (8, 5) if options.quick else (12, 8)
    quests = (("first quest", 0),) if options.quick else (("first quest", 0), ("open level", open_level() - 1))
    found = []
    for name, mastered in quests:
        with ground(steps, mastered) as where:
            found += compare(where, pairs, name)
    return found


def compare(where: Ground, pairs: int, name: str) -> list[Row]:
    """On and off in turn, each first in every other pair."""
    battle(where, silent=False)  # imports, first database pages
    on: list[Fought] = []
    off: list[Fought] = []
    for turn in range(pairs):
        for silent in (False, True) if turn % 2 == 0 else (True, False):
            (off if silent else on).append(battle(where, silent))
    direct = tuple(100 * sum(f.inside) / (sum(f.steps) - sum(f.inside)) for f in on)
    beside = tuple(f.whole - sum(f.steps) - statistics.median(f.steps) for f in on)
    tokens = sum(field_of(where).tokens)
    rendered = [rendering(where) for _ in range(3)]
    trained = statistics.median(sum(f.steps) for f in off) * where.steps / (where.steps - 1)
    limit = f"≤ {BUDGET:.0f} % of training CPU"
    return [
        Row(f"{name}: one optimizer step, everything off", tuple(1000 * statistics.mean(f.steps) for f in off),
            "CPU-ms"),
        Row(f"{name}: on against off", each_left_out(on, off), "%", "low", limit, BUDGET),
        Row(f"{name}: timed from inside", direct, "%", "low", limit, BUDGET),
        Row(f"{name}: per step, timed from inside", tuple(1000 * statistics.mean(f.inside) for f in on), "CPU-ms"),
        Row(f"{name}: rendering rows to ids and mask", tuple(1e6 * r / tokens for r in rendered), "CPU-µs/token",
            against="once a quest"),
        Row(f"{name}: rendering, beside the quest's training CPU", tuple(100 * r / trained for r in rendered), "%"),
        Row(f"{name}: loading, rendering, set-up, checkpoint", beside, "CPU-s", against="once a battle"),
    ]  # fmt: skip

"""Builds the data of the shipped quest module `pattern-master`: sequences to be continued, in five levels.

    python scripts/build_pattern_master.py            # writes src/realm/quests/modules/pattern-master/{data,eval}/

The rows are our own: every one is made here from a keyed stream, so the same script always gives the same bytes (a test
holds the committed files to it). Training and evaluation rows are different problems, not only different wordings.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from afs.jsonl import write_rows
from realm.guild.skills.base import keyed_rng

TARGET = Path(__file__).resolve().parents[1] / "src/realm/quests/modules/pattern-master"
SEED = 1
TRAIN, HELD_OUT = 300, 330  # rows of a level; 20 of 30 held-out rows are for trials, and a trial asks up to 200
WORDS = ("red", "blue", "green", "gold", "sun", "moon", "star", "oak", "fox", "owl", "salt", "iron")
MOTIFS = ("ab", "aab", "abb", "abc", "aabb", "abac", "abcb", "abca", "abcd", "aabc", "abbc", "aaab")
WORDINGS = ("Continue: {shown}. Write `next:` and the next item.",
            "What comes next after {shown}? Write `next:` and the item.",
            "{shown}, … Write `next:` and the item that follows.")  # fmt: skip

Series = tuple[str, list[str], str]  # canonical rule, items, what follows


def steps(rng: random.Random) -> Series:
    """L1: the same number is added each time."""
    start, step, shown = rng.randint(0, 60), rng.choice([n for n in range(-9, 13) if n]), rng.randint(4, 6)
    return _numbers(f"step {start} {step}", [start + step * i for i in range(shown + 1)])


def motifs(rng: random.Random) -> Series:
    """L2: a motif of words repeats."""
    motif, words = rng.choice(MOTIFS), rng.sample(WORDS, 4)
    cut = rng.randrange(len(motif))
    shown = 2 * len(motif) + cut
    items = [words["abcd".index(motif[i % len(motif)])] for i in range(shown + 1)]
    return f"motif {motif} {cut} {' '.join(words[: len(set(motif))])}", items[:-1], items[-1]


def growth(rng: random.Random) -> Series:
    """L3: each number is the one before, times a factor, plus a constant."""
    start, factor, more, shown = rng.randint(1, 20), rng.choice((2, 3, 4)), rng.randint(-5, 12), rng.randint(4, 5)
    numbers = [start]
    for _ in range(shown):
        numbers.append(numbers[-1] * factor + more)
    return _numbers(f"growth {start} {factor} {more}", numbers)


def woven(rng: random.Random) -> Series:
    """L4: two series take turns, each with a step of its own."""
    starts, both = (rng.randint(1, 30), rng.randint(1, 30)), rng.sample([n for n in range(-6, 10) if n], 2)
    shown = rng.randint(6, 8)
    numbers = [starts[i % 2] + both[i % 2] * (i // 2) for i in range(shown + 1)]
    return _numbers(f"woven {starts[0]} {both[0]} {starts[1]} {both[1]}", numbers)


def bends(rng: random.Random) -> Series:
    """L5: the step itself changes, by a constant, or each number is the sum of the two before."""
    start, step, shown = rng.randint(0, 20), rng.randint(1, 9), rng.randint(5, 6)
    if rng.random() < 0.5:
        bend = rng.choice((-2, -1, 1, 2, 3, 4))
        numbers = [start + step * i + bend * (i * (i - 1) // 2) for i in range(shown + 1)]
        return _numbers(f"bend {start} {step} {bend}", numbers)
    numbers = [start, step]
    while len(numbers) <= shown:
        numbers.append(numbers[-1] + numbers[-2])
    return _numbers(f"sums {start} {step}", numbers)


LEVELS: tuple[Callable[[random.Random], Series], ...] = (steps, motifs, growth, woven, bends)


def _numbers(rule: str, numbers: list[int]) -> Series:
    return rule, [str(number) for number in numbers[:-1]], str(numbers[-1])


def problems(level: int, count: int) -> list[dict]:
    """`count` rows of a level, no rule twice and no question twice."""
    make, rng = LEVELS[level - 1], keyed_rng("pattern-master", SEED, level)
    found: dict[str, dict] = {}
    asked: set[str] = set()
    for _ in range(100 * count):
        if len(found) == count:
            return list(found.values())
        rule, items, following = make(rng)
        shown = ", ".join(items)
        if rule in found or shown in asked:
            continue
        asked.add(shown)
        found[rule] = {"prompt": rng.choice(WORDINGS).format(shown=shown), "golden": f"next: {following}",
                       "level": level, "operation": rule.split()[0], "canonical": rule}  # fmt: skip
    raise SystemExit(f"level {level}: {len(found)} rules, {count} are wanted; widen its ranges")


def build(target: Path) -> None:
    """Write `data/level<n>.jsonl` and `eval/level<n>.jsonl` below `target`."""
    for level in range(1, len(LEVELS) + 1):
        rows = problems(level, TRAIN + HELD_OUT)
        keyed_rng("pattern-master", SEED, level, "held out").shuffle(rows)
        for folder, part in (("eval", rows[:HELD_OUT]), ("data", rows[HELD_OUT:])):
            write_rows(target / folder / f"level{level}.jsonl", _iterate(part))


def _iterate(rows: list[dict]) -> Iterator[dict]:
    yield from rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=Path, default=TARGET)
    build(parser.parse_args().target)

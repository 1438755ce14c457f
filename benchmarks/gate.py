"""Calibration of the gate: how often a hero of a known true accuracy is promoted, by the code that promotes it.

    python -m benchmarks gate

Every simulated hero answers each problem right with its true accuracy, independently, from a keyed random stream, and
sits a whole trial through `arena/trial.run`: drawing, looks, grading and verdict are the game's own. Beside it stand
the exact values of `guild/levels.odds`, and two naive rules on the same kind of answers: a point estimate of 0.80 or
more on 20 problems, and reasoning-gym's curriculum rule (mean of the last 20 training scores above 0.70), which is
given the hero's true accuracy as its training accuracy. Seconds of CPU; needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.registry import Options
from benchmarks.table import Row
from realm.arena import trial
from realm.guild.levels import LOOKS, THRESHOLD, odds
from realm.guild.skills import Grade, LevelInfo, Problem
from realm.guild.skills.base import keyed_rng

ACCURACIES = (0.70, 0.75, 0.80, 0.90)
TRIALS, BATCHES = 20_000, 10
FAR = 4.0  # standard errors between simulation and exact value that no honest simulation shows
RETRIES = 5
NAIVE_N, NAIVE_NEED = 20, 16  # point estimate ≥ 0.80
GYM_N, GYM_NEED = 20, 15  # mean of the last 20 scores > 0.70


class CoinSkill:
    """A skill of one open level whose problems are numbers; "1" is the right answer to each."""

    id, name, version, description, max_level, threshold = "coin", "Coin", "1", "", 1, THRESHOLD

    def __init__(self) -> None:
        self.problems = [
            Problem("coin", 1, "easy", "coin", "coin", str(i), "1", str(i), str(i), "trial") for i in range(LOOKS[-1])
        ]
        self._levels = [LevelInfo(1, "coin", "", False, None, 1)]

    def levels(self) -> list[LevelInfo]:
        return self._levels

    def generate(self, level: int, count: int, seed: int, split: str = "trial") -> list[Problem]:
        return self.problems[:count]

    def grade(self, problem: Problem, response: str) -> Grade:
        return Grade(response == problem.golden, float(response == problem.golden), "")


@dataclass(frozen=True)
class Simulated:
    """Counts over the trials of one true accuracy."""

    trials: int
    promoted: tuple[int, ...]  # per batch
    problems: int

    @property
    def share(self) -> float:
        return sum(self.promoted) / self.trials


def simulate(accuracy: float, trials: int, batches: int = BATCHES) -> Simulated:
    """Sit that many promotion trials; the stream of each is keyed by (accuracy, its number)."""
    skill, promoted, problems = CoinSkill(), [0] * batches, 0
    for number in range(trials):
        rng = keyed_rng("gate", accuracy, number)
        spec = trial.TrialSpec("promotion", "coin", 1, False, THRESHOLD, number, LOOKS[-1])

        def answer(chats, room, rng=rng):
            return [("1" if rng.random() < accuracy else "0", 1) for _ in chats]

        result = trial.run(spec, skill, answer)
        promoted[number * batches // trials] += result.verdict == "pass"
        problems += len(result.items)
    return Simulated(trials, tuple(promoted), problems)


def at_least(need: int, n: int, accuracy: float) -> float:
    """Probability of `need` or more right answers of n."""
    return sum(math.comb(n, k) * accuracy**k * (1 - accuracy) ** (n - k) for k in range(need, n + 1))


def within(share: float, tries: int = RETRIES) -> float:
    """Probability of at least one promotion in so many tries on fresh problems."""
    return 1 - (1 - share) ** tries


def run(options: Options) -> list[Row]:
    """Promotion probabilities in per cent; a span is over batches of equal size."""
    trials = 4_000 if options.quick else TRIALS
    found = [(accuracy, simulate(accuracy, trials)) for accuracy in ACCURACIES]
    rows = []
    for a, s in found:
        told = f"exact {100 * odds(a).passed:.2f} %, {s.trials:,} trials: {100 * s.share:.2f} %"
        batches = tuple(100 * p * BATCHES / s.trials for p in s.promoted)
        rows.append(Row(f"true accuracy {a:.2f}: promoted, simulated trials", batches, "%", against=told))
    errors = tuple(distance(a, s) for a, s in found)
    rows.append(Row("largest distance of a simulated share from its exact value", (max(errors),), "standard errors",
                    "low", f"≤ {FAR:.0f}", FAR))  # fmt: skip
    rows += [Row(f"true accuracy {a:.2f}: problems asked", (s.problems / s.trials,), "",
                 against=f"exact {odds(a).problems:.1f}") for a, s in found]  # fmt: skip
    rows += peers(ACCURACIES)
    return rows


def distance(accuracy: float, found: Simulated) -> float:
    """|simulated − exact| in standard errors of the exact value."""
    exact = odds(accuracy).passed
    return abs(found.share - exact) / math.sqrt(exact * (1 - exact) / found.trials)


def peers(accuracies: Sequence[float]) -> list[Row]:
    """The naive rules, exactly, and all rules when a hero comes back after each refusal."""
    rows = []
    for a in accuracies:
        ours = odds(a).passed
        rules = (("point estimate ≥ 0.80 at n = 20", at_least(NAIVE_NEED, NAIVE_N, a)),
                 ("reasoning-gym's rule: 20 training scores > 0.70", at_least(GYM_NEED, GYM_N, a)))  # fmt: skip
        for name, share in rules:
            rows.append(Row(f"true accuracy {a:.2f}: {name}", (100 * share,), "%",
                            against=f"ours: {100 * ours:.2f} %"))  # fmt: skip
        told = "; ".join(f"{name} {100 * within(share):.1f} %" for name, share in (("ours", ours), *rules))
        rows.append(Row(f"true accuracy {a:.2f}: promoted within {RETRIES} tries", text=told))
    return rows

"""When a forged skill is accepted: the rule, as pure functions of counts.

Accepted when both hold, with z = 1.96 (97.5 % one-sided confidence each):

1. The gain is real: the lower bound of (accuracy after - accuracy before) is above 0. Interval: Newcombe's hybrid score
   (Newcombe 1998, Stat. Med. 17:873, method 10). It treats the two measurements as independent; they are taken on the
   same questions, so the true interval is narrower and the rule errs on the careful side.
2. It is more than the answers alone: the lower Wilson bound after training is above the share of the most common answer
   among the questions asked. A hero that learns nothing but how answers look goes from 0 to at most that share, which
   is a real gain and no skill. Answers drawn without regard to the questions cannot be beaten by more.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from realm.guild.levels import Z_PROMOTE, wilson

LEAST_ASKED = 40


@dataclass(frozen=True)
class Share:
    """Right answers out of n, with the Wilson interval."""

    correct: int
    n: int
    lower: float
    upper: float

    @classmethod
    def of(cls, correct: int, n: int) -> Share:
        return cls(correct, n, *wilson(correct, n))


@dataclass(frozen=True)
class Verdict:
    """`why` is one sentence for a person."""

    accepted: bool
    why: str
    before: Share
    after: Share
    gain: dict[str, float]
    chance: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def difference(before: Share, after: Share) -> tuple[float, float, float]:
    """(after - before, lower, upper): Newcombe's method 10 with z = 1.96."""
    one, two = before.correct / before.n, after.correct / after.n
    lower = math.hypot(two - after.lower, before.upper - one)
    upper = math.hypot(after.upper - two, one - before.lower)
    return two - one, max(-1.0, two - one - lower), min(1.0, two - one + upper)


def judge(before: int, after: int, n: int, answer: str, common: int) -> Verdict:
    """The verdict by the rule above.

    Args:
        before, after: right answers of n, on the same questions.
        answer, common: the most common answer among them, and how many of them it answers.

    Raises:
        ValueError: no question was asked.
    """
    if n < 1:
        raise ValueError(f"{n} questions: nothing was measured; hold out at least {LEAST_ASKED}")
    was, now = Share.of(before, n), Share.of(after, n)
    value, lower, upper = difference(was, now)
    chance = {"answer": answer, "share": common / n}
    gain = {"value": value, "lower": lower, "upper": upper, "z": Z_PROMOTE}
    if n < LEAST_ASKED:
        return Verdict(False, f"{n} held-out questions are too few to decide (at least {LEAST_ASKED})", was, now, gain,
                       chance)  # fmt: skip
    if lower <= 0:
        why = f"the gain of {value:+.3f} may be luck: its lower bound is {lower:+.3f}, it must be above 0"
        return Verdict(False, why, was, now, gain, chance)
    if now.lower <= chance["share"]:
        why = (f"always answering {answer[:40]!r} would be right for {chance['share']:.3f}; the accuracy after "
               f"training is at least {now.lower:.3f} and must be above that: what was learnt may be the answers "
               "alone")  # fmt: skip
        return Verdict(False, why, was, now, gain, chance)
    why = (f"held-out accuracy rose from {before / n:.3f} to {after / n:.3f} (gain at least {lower:+.3f}), above the "
           f"{chance['share']:.3f} of the most common answer")  # fmt: skip
    return Verdict(True, why, was, now, gain, chance)

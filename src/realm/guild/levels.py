"""The one level rule: when a trial promotes, when a mastered level counts as regressed or lost (contracts B2, B4).

Pure functions of counts; no clock, no database. `docs/LEVELS.md` is printed from here:
`python3 -m realm.guild.levels > docs/LEVELS.md` (a test holds the two equal).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

LOOKS = (40, 80, 120, 160, 200)
"""Numbers of fresh problems after which a trial of an open level may end; asking in between decides nothing."""
THRESHOLD = 0.80
CLOSED_THRESHOLD = 0.90
CLOSED_MAX_TABLE = 400
"""A closed level is examined whole, or by this many problems of it."""
Z_PROMOTE = 1.96
Z_RETENTION = 2.58
RETENTION_MIN_N = 80
LOST_BELOW = 0.50
CHECK_MAX_AGE = 5
"""A retention check counts for the clause while it is at most this many quests old."""
WAIT_AFTER_FAIL = 1
"""Quests of training between a failed promotion trial and the next one at that level."""

OpenVerdict = Literal["pass", "fail", "continue", "undecided"]
ClosedVerdict = Literal["pass", "fail"]
RetentionVerdict = Literal["held", "regression", "lost", "measured"]


def wilson(correct: int, n: int, z: float = Z_PROMOTE) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927): (lower, upper), both in [0, 1].

    Nothing measured (n = 0) gives (0, 1).

    Raises:
        ValueError: counts that cannot be (negative, or more correct than asked), or z that is not positive.
    """
    if n < 0 or not 0 <= correct <= n:
        raise ValueError(f"{correct} correct of {n}: needs 0 <= correct <= n; pass the trial's own counts")
    if not z > 0:
        raise ValueError(f"z = {z}: a confidence bound needs z > 0, for example {Z_PROMOTE} for 95 %")
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    middle = share + z * z / (2 * n)
    scale = 1 + z * z / n
    # At 0 and n correct the bound is exactly 0 and 1; rounding may leave 1e-17.
    lower = 0.0 if correct == 0 else max(0.0, (middle - spread) / scale)
    upper = 1.0 if correct == n else min(1.0, (middle + spread) / scale)
    return lower, upper


def judge_open(correct: int, n: int, threshold: float = THRESHOLD) -> OpenVerdict:
    """Verdict of a trial of an open level after n fresh problems.

    Only the `LOOKS` decide: between them the answer is "continue", so that looking more often cannot help a hero.
    "undecided" comes only at the last look and does not promote.

    Raises:
        ValueError: impossible counts, or more problems than the last look.
    """
    lower, upper = wilson(correct, n)
    if n > LOOKS[-1]:
        raise ValueError(f"n = {n}: a trial ends at {LOOKS[-1]} problems; judge it at its last look")
    if n not in LOOKS:
        return "continue"
    if lower >= threshold:
        return "pass"
    if upper < threshold:
        return "fail"
    return "undecided" if n == LOOKS[-1] else "continue"


def judge_closed(correct: int, n: int, threshold: float = CLOSED_THRESHOLD) -> ClosedVerdict:
    """Verdict of the examination of a closed level: recall of a table of n, or of 400 drawn from it.

    Raises:
        ValueError: impossible counts, or an empty table.
    """
    wilson(correct, n)  # refuses impossible counts
    if n == 0:
        raise ValueError("a closed level was examined with 0 problems; its table must not be empty")
    return "pass" if correct >= threshold * n - 1e-9 else "fail"


def judge_retention(correct: int, n: int, threshold: float = THRESHOLD) -> RetentionVerdict:
    """Verdict of a retention check of one mastered level on one checkpoint (contracts B4).

    Fewer than 80 problems are only "measured". z is 2.58 here, not 1.96, because up to 6 levels are checked per quest:
    a hero that still has 0.80 is called regressed in 0.6 % of the checks of 80 problems.
    """
    _, upper = wilson(correct, n, Z_RETENTION)
    if n < RETENTION_MIN_N:
        return "measured"
    if upper < LOST_BELOW:
        return "lost"
    return "regression" if upper < threshold else "held"


def needed(n: int, threshold: float = THRESHOLD, closed: bool = False) -> int | None:
    """Smallest number of right answers that passes at n problems, or None when even all of them do not."""
    for correct in range(n + 1):
        if (correct >= CLOSED_THRESHOLD * n - 1e-9) if closed else wilson(correct, n)[0] >= threshold:
            return correct
    return None


@dataclass(frozen=True)
class Check:
    """The newest retention check of one mastered level; `quests_ago` = quests finished since it was made."""

    skill: str
    level: int
    verdict: str
    quests_ago: int


@dataclass(frozen=True)
class Promotion:
    """May a passed trial raise the level, and if not why, in one sentence."""

    allowed: bool
    reason: str


def regressed(checks: Iterable[Check], max_age: int = CHECK_MAX_AGE) -> list[Check]:
    """The checks, at most `max_age` quests old, that found a regression or a lost level."""
    return [c for c in checks if c.quests_ago <= max_age and c.verdict in ("regression", "lost")]


def may_promote(checks: Sequence[Check], quests_since_fail: int | None = None) -> Promotion:
    """Retention clause and waiting time (realm-rules §5).

    Args:
        checks: newest retention check of every mastered (skill, level), any skill.
        quests_since_fail: quests trained since the last failed promotion trial at this level; None = never failed.
    """
    if quests_since_fail is not None and quests_since_fail < WAIT_AFTER_FAIL:
        return Promotion(False, f"the last trial at this level failed; train at least {WAIT_AFTER_FAIL} quest first")
    bad = regressed(checks)
    if bad:
        names = ", ".join(f"{c.skill} L{c.level}" for c in sorted(bad, key=lambda c: (c.skill, c.level)))
        return Promotion(False, f"{names} in regression: rehearse first (maintenance before conquest)")
    return Promotion(True, "no mastered level is in regression")


# --- What the rule does, computed exactly -------------------------------------------------------------------------

@dataclass(frozen=True)
class Odds:
    """What the rule does to a hero of one true accuracy: probabilities sum to 1; `problems` is the expected number."""

    accuracy: float
    passed: float
    failed: float
    undecided: float
    problems: float


def _binomial(n: int, p: float) -> list[float]:
    """P(k right of n), k = 0…n."""
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def odds(accuracy: float, threshold: float = THRESHOLD, looks: Sequence[int] = LOOKS) -> Odds:
    """Exact pass / fail / undecided probabilities of a trial, by dynamic programming over the looks.

    The state is the number of right answers of the trials that are still going on; each look adds a binomial batch
    and removes the states that the rule decides. Takes ~10 ms.
    """
    alive = {0: 1.0}
    passed = failed = problems = 0.0
    done = 0
    for n in looks:
        batch = _binomial(n - done, accuracy)
        following: dict[int, float] = {}
        for correct, weight in alive.items():
            for more, chance in enumerate(batch):
                following[correct + more] = following.get(correct + more, 0.0) + weight * chance
        alive, done = {}, n
        for correct, weight in following.items():
            lower, upper = wilson(correct, n)
            if lower >= threshold:
                passed, problems = passed + weight, problems + weight * n
            elif upper < threshold:
                failed, problems = failed + weight, problems + weight * n
            else:
                alive[correct] = weight
    undecided = sum(alive.values())
    return Odds(accuracy, passed, failed, undecided, problems + undecided * done)


def retention_odds(accuracy: float, n: int = RETENTION_MIN_N, threshold: float = THRESHOLD) -> dict[str, float]:
    """Exact probabilities of "held", "regression" and "lost" for one check of n problems at a true accuracy."""
    found = {"held": 0.0, "regression": 0.0, "lost": 0.0}
    for correct, chance in enumerate(_binomial(n, accuracy)):
        verdict = judge_retention(correct, n, threshold)
        found[verdict] = found.get(verdict, 0.0) + chance
    return found


ACCURACIES = (0.60, 0.70, 0.75, 0.78, 0.80, 0.82, 0.84, 0.85, 0.86, 0.88, 0.90, 0.92, 0.95, 0.98)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def document() -> str:
    """The whole of `docs/LEVELS.md`."""
    lines = [_INTRODUCTION]
    lines += ["| problems asked | promotes at (right answers) | fails at or below |", "|---:|---:|---:|"]
    for n in LOOKS:
        most = max(c for c in range(n + 1) if wilson(c, n)[1] < THRESHOLD)
        lines.append(f"| {n} | {needed(n)} | {most} |")
    lines += [_ODDS, "| true accuracy | promotes | fails | undecided (no promotion) | problems asked on average |",
              "|---:|---:|---:|---:|---:|"]  # fmt: skip
    for accuracy in ACCURACIES:
        o = odds(accuracy)
        lines.append(
            f"| {accuracy:.2f} | {_percent(o.passed)} | {_percent(o.failed)} | {_percent(o.undecided)} "
            f"| {o.problems:.0f} |"
        )
    lines += [_RETENTION, "| true accuracy | held | regression | lost |", "|---:|---:|---:|---:|"]
    for accuracy in (0.30, 0.40, 0.50, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90):
        r = retention_odds(accuracy)
        shares = " | ".join(_percent(r[verdict]) for verdict in ("held", "regression", "lost"))
        lines.append(f"| {accuracy:.2f} | {shares} |")
    lines.append(_CLAUSE)
    return "\n".join(lines) + "\n"


_INTRODUCTION = f"""# Levels: when a hero is promoted

This page is printed by `python3 -m realm.guild.levels`; every number on it is computed by the rule the game uses.

**Open levels.** A trial asks fresh problems of the trial bucket, which training never saw, and looks at the result
after {", ".join(map(str, LOOKS))} problems. It promotes when the Wilson lower bound (z = {Z_PROMOTE}) of the accuracy
reaches {THRESHOLD:.2f}, and fails when the upper bound is below {THRESHOLD:.2f}. Still between the two after
{LOOKS[-1]} problems is "undecided", which does not promote. After a failed trial the hero trains at least
{WAIT_AFTER_FAIL} quest before the next.

**Closed levels** have fewer than 2,000 distinct problems. They are tables to be known: training may use all of the
table, the trial examines the whole table (or {CLOSED_MAX_TABLE} of it), and the level is mastered at
{CLOSED_THRESHOLD:.2f}. They are shown as "closed: recall of a table of n" and never used in headline claims.

## What a trial needs
"""
_ODDS = """
## What the rule does to a hero

Exact, by dynamic programming over the looks.
"""
_RETENTION = f"""
## Retention

Mastered levels are checked again, up to 6 per quest, oldest check first, {RETENTION_MIN_N} problems each. A level is
in regression when the Wilson upper bound (z = {Z_RETENTION}) is below {THRESHOLD:.2f}, lost when it is below
{LOST_BELOW:.2f}; fewer than {RETENTION_MIN_N} problems are only measured. One check of {RETENTION_MIN_N} problems says:
"""
_CLAUSE = f"""
**Retention clause.** No promotion while any mastered level is in regression by a check at most {CHECK_MAX_AGE} quests
old: rehearse first ("maintenance before conquest").

A regression does not take the level away: the mastered level is what was once proved, the regression is shown beside
it until a check finds the level held again."""


if __name__ == "__main__":
    print(document(), end="")

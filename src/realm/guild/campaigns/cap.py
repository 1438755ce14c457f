"""The level cap: where it costs more to keep what was learnt than to learn on (realm-rules §6). Found, never asserted.

*Maintenance multiplier* of a level of a skill = (new + kept) / new, both in effort (strain summed over steps):

- counted are the battles of the quests that taught the skill, after its last promotion up to the battle of this one;
- `kept` is all effort of a rehearsal quest, and of any other quest the share of its rows that is practice of mastered
  levels: of its own skill, of other skills, and of old files out of the rehearsal buffer;
- `new` is the rest: the level in training and its look-ahead. A quest that teaches several skills is divided among
  them by their new rows, its rehearsal with it. Files without a skill count to neither.

A skill is **maxed out** when (a) the multiplier was 5 or more at two consecutive levels; the second may still be in
training, once it has cost as much effort as the level before it; or (b) the campaign's budget is spent, its next level
is not passed, and in the last 3 quests (or all there are) the rehearsal share was at its limit. A campaign is maxed
out when a skill is and every other goal skill is maxed out or complete.

Pure functions; the verdict is kept in `campaigns.verdict` by `lifecycle.note_verdict` and told by
`python3 -m training campaign report`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from realm.guild.campaigns import seed_of
from realm.guild.campaigns.climb import positions
from realm.guild.campaigns.facts import Fight, Stage
from realm.guild.campaigns.forgetting import percentile_interval
from realm.guild.curriculum import MAX_REHEARSAL, REHEARSALS_IN_A_ROW

MAXED_OUT = 5.0
CONSECUTIVE = 2
ROUNDING = 1e-9  # the curriculum's own ceiling is exactly the limit
AT_LIMIT_QUESTS = 3
SHARE_TOLERANCE = 0.01  # row counts are whole numbers: a share of 0.40 may be planned as 0.395
FORECAST_MIN = 3
FORECAST_COVERAGE = 0.80
RESAMPLES = 1000


@dataclass(frozen=True)
class Segment:
    """What one level of one skill cost. `passed` False = still in training. `shares`: rehearsal share of each quest,
    oldest first (1 = a rehearsal quest)."""

    skill: str
    level: int
    passed: bool
    new: float
    kept: float
    shares: tuple[float, ...] = ()

    @property
    def effort(self) -> float:
        return self.new + self.kept

    @property
    def multiplier(self) -> float | None:
        """None when no effort went to the new level (it was learnt as look-ahead of the one before)."""
        return self.effort / self.new if self.new > 0 else None

    @property
    def at_limit(self) -> bool:
        """Whether the last quests left no room for more rehearsal."""
        last = self.shares[-AT_LIMIT_QUESTS:]
        return bool(last) and min(last) >= MAX_REHEARSAL - SHARE_TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        return {"skill": self.skill, "level": self.level, "passed": self.passed, "new": self.new, "kept": self.kept,
                "multiplier": self.multiplier, "quests": len(self.shares),
                "rehearsal_share": list(self.shares[-AT_LIMIT_QUESTS:])}  # fmt: skip


def ceiling() -> float:
    """The highest multiplier that the curriculum can produce when every quest costs the same effort: after at most
    `REHEARSALS_IN_A_ROW` rehearsal quests comes one with at least 1 - `MAX_REHEARSAL` of new rows."""
    return (REHEARSALS_IN_A_ROW + 1) / (1 - MAX_REHEARSAL)


def fresh_parts(fight: Fight, mastered: Mapping[str, int]) -> dict[str, float]:
    """{skill: share of a battle's rows that teach it something new, 0…1}: what is above its mastered level.

    A rehearsal quest teaches nothing new; what is not in any skill's share is practice of what is mastered.
    """
    if fight.skill is None:
        return {}
    if fight.kind == "rehearsal":
        return {fight.skill: 0.0}
    every = {fight.skill: fight.mix, **fight.others}
    whole = sum(share for mix in every.values() for share in mix.values()) + fight.buffer
    if not whole:
        return {fight.skill: 1.0}
    found = {skill: sum(share for level, share in mix.items() if level > mastered.get(skill, 0))
             for skill, mix in every.items()}  # fmt: skip
    return {skill: share / whole for skill, share in found.items() if share or skill == fight.skill}


def segments(stages: Sequence[Stage], fights: Sequence[Fight]) -> dict[str, list[Segment]]:
    """{skill: its levels in order, the one in training last (when it has cost anything)}.

    The effort of a quest that teaches several skills is divided among them by their new rows; each bears that share
    of its rehearsal too, so that the quest has one multiplier.
    """
    ends: dict[str, list[int]] = {}
    for stage, at in zip(stages, positions(stages, fights), strict=True):
        ends.setdefault(stage.skill, []).append(at)
    rows: dict[str, list[list[tuple[Fight, float, float]]]] = {}
    for index, fight in enumerate(fights):
        mastered = {skill: sum(end < index for end in own) for skill, own in ends.items()}
        parts = fresh_parts(fight, mastered)
        new = sum(parts.values())
        for skill, part in parts.items():
            own = rows.setdefault(skill, [[] for _ in range(len(ends.get(skill, ())) + 1)])
            weight = part / new if new else 1.0
            own[mastered.get(skill, 0)].append((fight, weight * fight.effort, 1.0 - new))
    found = {}
    for skill in sorted({*ends, *rows}):
        passed = len(ends.get(skill, ()))
        own = rows.get(skill, [[] for _ in range(passed + 1)])
        built = [_segment(skill, level, level <= passed, row) for level, row in enumerate(own, 1)]
        found[skill] = built if built[-1].shares else built[:-1]
    return found


def _segment(skill: str, level: int, passed: bool, rows: Sequence[tuple[Fight, float, float]]) -> Segment:
    """Of (battle, effort of it for this skill, share of its rows that was rehearsal)."""
    quests = {fight.quest_id: part for fight, _, part in rows}  # a quest that was interrupted has several battles
    new = sum(effort * (1 - part) for _, effort, part in rows)
    kept = sum(effort * part for _, effort, part in rows)
    return Segment(skill, level, passed, new, kept, tuple(quests.values()))


@dataclass(frozen=True)
class SkillVerdict:
    """`state`: capped | climbing | complete | not begun. `cap`: the highest level held when it was found."""

    skill: str
    state: str
    cap: int | None
    rule: str | None
    reason: str
    evidence: tuple[Segment, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "evidence": [segment.to_dict() for segment in self.evidence]}


def judge_skill(skill: str, levels: Sequence[Segment], budget_spent: bool, last_level: int | None) -> SkillVerdict:
    """Whether one skill is maxed out, and by which rule.

    Args:
        levels: its segments in order.
        last_level: the level at which it is complete (the skill's last, or the campaign's goal); None = unknown.
    """
    mastered = sum(segment.passed for segment in levels)
    if last_level is not None and mastered >= last_level:
        return SkillVerdict(skill, "complete", None, None, f"all {last_level} levels asked for are mastered")
    if not levels:
        return SkillVerdict(skill, "not begun", None, None, "it was not practised yet")
    heavy = _heavy(levels)
    if heavy:
        words = " and ".join(f"{s.multiplier:.1f} at L{s.level}" for s in heavy)
        return SkillVerdict(skill, "capped", mastered, "multiplier",
                            f"the maintenance multiplier was {words} (limit {MAXED_OUT:g})", heavy)  # fmt: skip
    now = levels[-1]
    if budget_spent and not now.passed and now.at_limit:
        shares = ", ".join(f"{share:.0%}" for share in now.shares[-AT_LIMIT_QUESTS:])
        return SkillVerdict(
            skill, "capped", mastered, "budget",
            f"L{now.level} was not passed within the budget while rehearsal was at its limit of {MAX_REHEARSAL:.0%} "
            f"(last quests: {shares})", (now,))  # fmt: skip
    return SkillVerdict(skill, "climbing", None, None, _why_not(levels, budget_spent))


def _heavy(levels: Sequence[Segment]) -> tuple[Segment, ...]:
    """The first two consecutive levels whose multiplier is at the limit, else nothing."""
    for before, after in zip(levels, levels[1:], strict=False):
        pair = before, after
        counts = after.passed or after.effort >= before.effort
        if counts and all(s.multiplier is not None and s.multiplier >= MAXED_OUT - ROUNDING for s in pair):
            return pair
    return ()


def _why_not(levels: Sequence[Segment], budget_spent: bool) -> str:
    now = levels[-1]
    known = [segment for segment in levels if segment.multiplier is not None]
    top = max(known, key=lambda segment: segment.multiplier, default=None)
    highest = "no maintenance multiplier can be computed yet" if top is None else (
        f"the highest maintenance multiplier is {top.multiplier:.1f} at L{top.level} (limit {MAXED_OUT:g} over "
        f"{CONSECUTIVE} levels in a row)")  # fmt: skip
    if budget_spent and not now.passed:
        return (f"{highest}; the budget was spent before L{now.level} was passed, but rehearsal was not at its limit, "
                "so more training might still pass it")  # fmt: skip
    return highest


def judge(
    levels: Mapping[str, Sequence[Segment]], goals: Sequence[str], budget_spent: bool,
    last_levels: Mapping[str, int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The campaign's verdict with its evidence.

    Args:
        levels: of `segments`.
        goals: skills that the campaign plays.
        last_levels: {skill: level at which it is complete}.

    Returns:
        {state: capped | climbing | complete, reason, skills: {skill: verdict}}.
    """
    names = [*goals, *(skill for skill in levels if skill not in goals)]
    found = {skill: judge_skill(skill, levels.get(skill, ()), budget_spent, (last_levels or {}).get(skill))
             for skill in names}  # fmt: skip
    states = [found[skill].state for skill in (goals or names)]
    capped = [verdict for verdict in found.values() if verdict.state == "capped"]
    if capped and all(state in ("capped", "complete") for state in states):
        state, reason = "capped", "; ".join(f"{v.skill} L{v.cap}: {v.reason}" for v in capped)
    elif states and all(one == "complete" for one in states):
        state, reason = "complete", "every goal is reached; no cap was met on the way"
    else:
        open_ones = [v for v in found.values() if v.state in ("climbing", "not begun")]
        state = "climbing"
        reason = "; ".join(f"{v.skill}: {v.reason}" for v in open_ones) or "nothing was practised yet"
    return {"state": state, "reason": reason, "skills": {skill: v.to_dict() for skill, v in found.items()}}


def forecast(
    levels: Sequence[Segment], last_level: int, key: object = "forecast", resamples: int = RESAMPLES
) -> dict[str, Any]:  # fmt: skip
    """At which level the maintenance multiplier will reach its limit, as a band: a straight line through
    log(multiplier) over the passed levels, bootstrapped over the levels (80 % band).

    Extrapolation, not knowledge: it says "not yet" with fewer than 3 levels, and tells the share of resamples in
    which no level up to `last_level` reaches the limit.

    Returns:
        {state: "not yet" | "no sign" | "forecast", levels, low, middle, high (None = beyond the last level), beyond}.
    """
    points = [(s.level, math.log(s.multiplier)) for s in levels if s.passed and s.multiplier is not None]
    base = {"levels": len(points), "low": None, "middle": None, "high": None, "beyond": None}
    if len(points) < FORECAST_MIN:
        return {"state": "not yet", **base, "reason": f"{len(points)} of the {FORECAST_MIN} levels that it takes"}
    rng = random.Random(seed_of("forecast", key))
    drawn = []
    for _ in range(resamples):
        sample = rng.choices(points, k=len(points))
        level = _crossing(sample, math.log(MAXED_OUT))
        drawn.append(math.inf if level is None or level > last_level else max(level, points[-1][0]))
    beyond = sum(map(math.isinf, drawn)) / len(drawn)
    low, high = percentile_interval(drawn, FORECAST_COVERAGE)
    middle = sorted(drawn)[len(drawn) // 2]
    told = {name: None if math.isinf(value) else round(value, 1)
            for name, value in (("low", low), ("middle", middle), ("high", high))}  # fmt: skip
    state = "no sign" if math.isinf(low) else "forecast"
    return {"state": state, **base, **told, "beyond": beyond, "reason": f"log-linear over {len(points)} levels"}


def _crossing(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """Where the least-squares line through the points reaches the target; None when it does not rise."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    return mean_x + (target - mean_y) / slope if slope > 1e-12 else None

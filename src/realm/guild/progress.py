"""What a hero has achieved, read from the tables and nowhere kept twice: levels, accuracy, effort, experience, step.

The hero loop, the CLI and the live state read the same functions. All of them only read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
from realm.guild.campaigns.line import Line, line_of, quest_starts, trials_of
from realm.guild.levels import Check, wilson
from realm.guild.skills import Skill, SkillError, all_skills, get_skill

STEPS_PER_LEVEL = 1000  # the hero's clock level (realm-rules §1)
CHECK_KINDS = ("promotion", "retention")
TRIAL_KINDS = ("promotion", "retention", "scout", "manual")


@dataclass(frozen=True)
class SkillProgress:
    """Where a hero stands in one skill. `accuracy`, `n`, `lower_bound`: newest trial at the training level, or None."""

    mastered_level: int
    training_level: int
    accuracy: float | None
    n: int
    lower_bound: float | None
    closed: bool


@dataclass(frozen=True)
class HeroProgress:
    """Sums over a campaign; `level` is the clock (steps // 1000), `total_level` the sum of mastered skill levels."""

    step: int
    level: int
    total_level: int
    xp: float
    effort: float
    mastered: Mapping[str, int]
    skills: Mapping[str, SkillProgress]


def mastered_levels(connection: sa.Connection, campaign_id: str, up_to_step: int | None = None) -> dict[str, int]:
    """{skill: highest level mastered without a gap from 1}; with `up_to_step`, as it was at that campaign step."""
    table = db.levels
    query = sa.select(table.c.skill, table.c.level).where(table.c.campaign_id == campaign_id)
    if up_to_step is not None:
        query = query.where(table.c.step <= up_to_step)
    found: dict[str, set[int]] = {}
    for skill, level in connection.execute(query):
        found.setdefault(skill, set()).add(level)
    return {skill: contiguous(levels) for skill, levels in found.items()}


def contiguous(levels: set[int]) -> int:
    """Highest n for which 1…n are all there; 0 when 1 is missing."""
    top = 0
    while top + 1 in levels:
        top += 1
    return top


def skill_progress(connection: sa.Connection, campaign_id: str, skills: list[Any]) -> dict[str, SkillProgress]:
    """{skill id: SkillProgress} for these skills (objects with `id`, `max_level` and `closed(level)`)."""
    mastered, line = mastered_levels(connection, campaign_id), line_of(connection, campaign_id)
    found = {}
    for skill in skills:
        done = mastered.get(skill.id, 0)
        training = min(done + 1, skill.max_level)
        trial = newest_trial(connection, campaign_id, skill.id, training, line=line)
        correct, n = (trial["correct"], trial["n"]) if trial else (0, 0)
        found[skill.id] = SkillProgress(
            mastered_level=done, training_level=training, accuracy=correct / n if n else None, n=n,
            lower_bound=wilson(correct, n)[0] if n else None, closed=bool(skill.closed(training)))  # fmt: skip
    return found


def newest_trial(
    connection: sa.Connection, campaign_id: str, skill: str, level: int, kinds: tuple[str, ...] = TRIAL_KINDS,
    before_step: int | None = None, line: Line | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """The last trial at one (skill, level) on the weights that the hero goes on with, or None.

    Args:
        before_step: of a checkpoint at an earlier or that same step.
        line: the weights, where the caller knows them.
    """
    table = db.trials
    where = [table.c.skill == skill, table.c.level == level, table.c.kind.in_(kinds), table.c.n > 0]
    if before_step is not None:
        where.append(table.c.step <= before_step)
    row = next(trials_of(connection, campaign_id, tuple(table.c.keys()), *where, line=line), None)
    return {name: row[name] for name in table.c.keys()} if row else None


def step_reached(connection: sa.Connection, campaign_id: str) -> int:
    """Campaign step: the furthest step of the newest run that has any."""
    runs, metrics, checkpoints = db.runs, db.metrics, db.checkpoints
    run_ids = connection.execute(sa.select(runs.c.id).where(runs.c.campaign_id == campaign_id)
                                 .order_by(runs.c.created_at.desc(), runs.c.id.desc())).scalars()  # fmt: skip
    for run_id in run_ids.all():
        steps = [connection.execute(sa.select(sa.func.max(t.c.step)).where(t.c.run_id == run_id)).scalar()
                 for t in (metrics, checkpoints)]  # fmt: skip
        if any(step is not None for step in steps):
            return max(step for step in steps if step is not None)
    return 0


def effort_of(connection: sa.Connection, campaign_id: str) -> float:
    """Effort of the campaign: the sum of strain over all its optimizer steps."""
    query = sa.select(sa.func.coalesce(sa.func.sum(db.metrics.c.effort), 0.0)).where(
        db.metrics.c.run_id.in_(sa.select(db.runs.c.id).where(db.runs.c.campaign_id == campaign_id)))  # fmt: skip
    return float(connection.execute(query).scalar_one())


def xp_of(connection: sa.Connection, campaign_id: str) -> float:
    """Experience: the sum over blessings, and nothing else."""
    query = sa.select(sa.func.coalesce(sa.func.sum(db.blessings.c.xp), 0.0))
    return float(connection.execute(query.where(db.blessings.c.campaign_id == campaign_id)).scalar_one())


def hero_progress(connection: sa.Connection, campaign_id: str, skills: list[Any] | None = None) -> HeroProgress:
    """Everything about the campaign's hero at once; `skills` default: the shipped ones."""
    skills = all_skills() if skills is None else skills
    per_skill = skill_progress(connection, campaign_id, skills)
    mastered = mastered_levels(connection, campaign_id)
    step = step_reached(connection, campaign_id)
    return HeroProgress(
        step=step, level=step // STEPS_PER_LEVEL, total_level=sum(mastered.values()),
        xp=xp_of(connection, campaign_id), effort=effort_of(connection, campaign_id), mastered=mastered,
        skills=per_skill)  # fmt: skip


def quests_trained(connection: sa.Connection, campaign_id: str, after: float | None = None) -> int:
    """Quests whose training is in the hero's weights; with `after`, those that began after that time.

    The beginning counts, not the end: the quest that a trial examines ends after its own trial. Quests that a rollback
    gave up do not count: neither does a check grow old by them, nor is the wait after a failed trial over.
    """
    starts = quest_starts(connection, campaign_id)
    return len(starts) - (0 if after is None else bisect_right(starts, after))


def quest_battles(
    connection: sa.Connection, quest_id: str, campaign_id: str, since: float | None = None
) -> list[str]:  # fmt: skip
    """Ids of a quest's battles in one campaign; with `since` (the quest's `started_at`), without those of an earlier
    time that it was done."""
    table = db.battles
    query = sa.select(table.c.id).where(table.c.quest_id == quest_id, table.c.campaign_id == campaign_id)
    if since is not None:
        query = query.where(table.c.started_at >= since)
    return list(connection.execute(query.order_by(table.c.started_at, table.c.id)).scalars())


def quest_steps_in(connection: sa.Connection, battles: list[str], run_id: str, step: int) -> int:
    """Optimizer steps of these battles that are part of the weights at `step` of a run, whatever came between."""
    table, found = db.metrics, 0
    for run, last in campaigns.lineage(connection, run_id, step):
        query = sa.select(sa.func.coalesce(sa.func.sum(table.c.steps), 0))
        found += connection.execute(query.where(
            table.c.battle_id.in_(battles), table.c.run_id == run, table.c.step <= last)).scalar_one()  # fmt: skip
    return int(found)


@dataclass(frozen=True)
class Book:
    """What the trials held on the hero's weights say, read in one look (12,000 trials: 0.1 s) and asked often.

    `trials`: {(skill, level): its trials, newest first}; `starts`: when the quests in the weights began, rising.
    """

    mastered: Mapping[str, int]
    trials: Mapping[tuple[str, int], list[Mapping[str, Any]]] = field(default_factory=dict)
    starts: list[float] = field(default_factory=list)

    def since(self, t: float) -> int:
        """Quests begun after a time."""
        return len(self.starts) - bisect_right(self.starts, t)

    def newest(self, skill: str, level: int) -> Mapping[str, Any] | None:
        """The last trial at one place that has a result."""
        return next((t for t in self.trials.get((skill, level), ()) if t["n"] > 0), None)

    def checks(self) -> list[Check]:
        """The newest trial that says something about retention of every mastered (skill, level).

        A level's own promotion counts as its first check, so that "oldest first" has a beginning.
        """
        found = []
        for skill, top in sorted(self.mastered.items()):
            for level in range(1, top + 1):
                last = next((t for t in self.trials.get((skill, level), ()) if t["kind"] in CHECK_KINDS), None)
                if last is not None:
                    verdict = last["verdict"] if last["kind"] == "retention" else "held"
                    found.append(Check(skill, level, verdict, self.since(last["started_at"])))
        return found

    def holds(self, skill: str) -> dict[int, int]:
        """{mastered level: retention checks in a row, up to now, that found it held}."""
        found = {}
        for level in range(1, self.mastered.get(skill, 0) + 1):
            found[level] = 0
            for trial in self.trials.get((skill, level), ()):
                if trial["kind"] == "retention" and trial["verdict"] in ("regression", "lost"):
                    break
                found[level] += trial["kind"] == "retention" and trial["verdict"] == "held"
        return found

    def since_fail(self, skill: str, level: int) -> int | None:
        """Quests trained since the last failed promotion trial at this level; None when there was none."""
        for trial in self.trials.get((skill, level), ()):
            if trial["kind"] == "promotion" and trial["verdict"] in ("fail", "undecided"):
                return self.since(trial["started_at"])
        return None


def read_book(connection: sa.Connection, campaign_id: str) -> Book:
    """The campaign's trials as the curriculum and the retention clause ask for them."""
    table, line = db.trials, line_of(connection, campaign_id)
    columns = ("skill", "level", "kind", "verdict", "correct", "n", "started_at")
    trials: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in trials_of(connection, campaign_id, columns, table.c.skill.is_not(None), table.c.level.is_not(None),
                         table.c.kind.in_(TRIAL_KINDS), line=line):  # fmt: skip
        trials.setdefault((row["skill"], row["level"]), []).append(row)
    return Book(mastered_levels(connection, campaign_id), trials, quest_starts(connection, campaign_id, line))


def retention_checks(connection: sa.Connection, campaign_id: str) -> list[Check]:
    """`Book.checks` of the campaign as it stands."""
    return read_book(connection, campaign_id).checks()


def played_skills(connection: sa.Connection, campaign: Mapping[str, Any]) -> list[Skill]:
    """Skills that a campaign's pages speak of: its goals, else its hero's priorities, and those with a level or quest.

    One that cannot be loaded (a module that was removed) is left out.
    """
    priorities = (campaign["config"] or {}).get("skill_priorities") or {}
    wanted = list((campaign["method"] or {}).get("goals") or [skill for skill, weight in priorities.items() if weight])
    for table in (db.levels, db.quests):
        query = sa.select(table.c.skill).where(table.c.campaign_id == campaign["id"], table.c.skill.is_not(None))
        wanted += sorted(connection.execute(query.distinct()).scalars())
    found = []
    for skill_id in dict.fromkeys(wanted):
        try:
            found.append(get_skill(skill_id))
        except SkillError:
            continue  # its levels still count in the sums; what it is can no longer be told
    return found


def quests_since_fail(connection: sa.Connection, campaign_id: str, skill: str, level: int) -> int | None:
    """`Book.since_fail` of the campaign as it stands."""
    return read_book(connection, campaign_id).since_fail(skill, level)

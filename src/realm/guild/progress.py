"""What a hero has achieved, read from the tables and nowhere kept twice: levels, accuracy, effort, experience, step.

The hero loop, the CLI and the live state read the same functions. All of them only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
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
    mastered = mastered_levels(connection, campaign_id)
    found = {}
    for skill in skills:
        done = mastered.get(skill.id, 0)
        training = min(done + 1, skill.max_level)
        trial = newest_trial(connection, campaign_id, skill.id, training)
        correct, n = (trial["correct"], trial["n"]) if trial else (0, 0)
        found[skill.id] = SkillProgress(
            mastered_level=done, training_level=training, accuracy=correct / n if n else None, n=n,
            lower_bound=wilson(correct, n)[0] if n else None, closed=bool(skill.closed(training)))  # fmt: skip
    return found


def newest_trial(
    connection: sa.Connection, campaign_id: str, skill: str, level: int, kinds: tuple[str, ...] = TRIAL_KINDS,
    before_step: int | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """The last trial at one (skill, level), or None; `before_step`: of a checkpoint at an earlier or that same step."""
    table = db.trials
    query = sa.select(table).where(table.c.campaign_id == campaign_id, table.c.skill == skill, table.c.level == level,
                                   table.c.kind.in_(kinds), table.c.n > 0)  # fmt: skip
    if before_step is not None:
        query = query.where(table.c.step <= before_step)
    row = connection.execute(query.order_by(*_newest_first()).limit(1)).mappings().first()
    return dict(row) if row else None


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


def _newest_first():
    return db.trials.c.started_at.desc(), db.trials.c.id.desc()


def quests_trained(connection: sa.Connection, campaign_id: str, after: float | None = None) -> int:
    """Quests of the campaign that were trained to their end; with `after`, those that began after that time.

    The beginning counts, not the end: the quest that a trial examines ends after its own trial.
    """
    table = db.quests
    query = sa.select(sa.func.count()).where(table.c.campaign_id == campaign_id, table.c.state == "done")
    if after is not None:
        query = query.where(table.c.started_at > after)
    return int(connection.execute(query).scalar_one())


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


def retention_checks(connection: sa.Connection, campaign_id: str) -> list[Check]:
    """The newest trial that says something about retention of every mastered (skill, level).

    A level's own promotion counts as its first check, so that "oldest first" has a beginning.
    """
    table, found = db.trials, []
    for skill, top in sorted(mastered_levels(connection, campaign_id).items()):
        for level in range(1, top + 1):
            query = sa.select(table.c.verdict, table.c.kind, table.c.started_at).where(
                table.c.campaign_id == campaign_id, table.c.skill == skill, table.c.level == level,
                table.c.kind.in_(CHECK_KINDS))  # fmt: skip
            row = connection.execute(query.order_by(*_newest_first()).limit(1)).first()
            if row is not None:
                verdict = row.verdict if row.kind == "retention" else "held"
                found.append(Check(skill, level, verdict, quests_trained(connection, campaign_id, row.started_at)))
    return found


def holds(connection: sa.Connection, campaign_id: str, skill: str, mastered: int) -> dict[int, int]:
    """{mastered level: retention checks in a row, up to now, that found it held}."""
    table, found = db.trials, dict.fromkeys(range(1, mastered + 1), 0)
    query = sa.select(table.c.level, table.c.verdict).where(
        table.c.campaign_id == campaign_id, table.c.skill == skill, table.c.kind == "retention",
        table.c.level <= mastered)  # fmt: skip
    for level, verdict in connection.execute(query.order_by(table.c.started_at, table.c.id)):
        found[level] = found[level] + 1 if verdict == "held" else 0 if verdict in ("regression", "lost") else (
            found[level])  # fmt: skip
    return found


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
    """Quests trained since the last failed promotion trial at this level; None when there was none."""
    table = db.trials
    query = sa.select(table.c.started_at).where(
        table.c.campaign_id == campaign_id, table.c.skill == skill, table.c.level == level,
        table.c.kind == "promotion", table.c.verdict.in_(("fail", "undecided")))  # fmt: skip
    last = connection.execute(query.order_by(*_newest_first()).limit(1)).scalar()
    return None if last is None else quests_trained(connection, campaign_id, last)

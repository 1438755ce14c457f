"""What a hero has mastered by the weights that it descends from (the line itself: `guild/campaigns/line.py`)."""

from __future__ import annotations

import sqlalchemy as sa

from realm import db
from realm.guild.campaigns.line import NO_END, Line, line_of
from realm.guild.progress import contiguous, mastered_levels

__all__ = ["NO_END", "Line", "held_on", "line_of", "mastered_by"]


def mastered_by(connection: sa.Connection, campaign_id: str, run_id: str, step: int) -> dict[str, int]:
    """{skill: mastered level} as proved by the weights at `step` of a run and their ancestors.

    A level that was mastered on weights given up counts again once a retention check on this line found it held; one
    whose trial or checkpoint is not in the database counts by its step number.
    """
    line = line_of(connection, campaign_id, run_id, step)
    if line.unbroken:
        return mastered_levels(connection, campaign_id, step)
    lv, t, c = db.levels.c, db.trials.c, db.checkpoints.c
    query = sa.select(lv.skill, lv.level, lv.step, c.run_id, c.step.label("at")).select_from(
        db.levels.outerjoin(db.trials, t.id == lv.trial_id).outerjoin(db.checkpoints, c.id == t.checkpoint_id)
    ).where(lv.campaign_id == campaign_id)  # fmt: skip
    found: dict[str, set[int]] = {}
    for r in connection.execute(query):
        if line.has(r.run_id, r.at) if r.run_id is not None else r.step <= step:
            found.setdefault(r.skill, set()).add(r.level)
    for skill, level in held_on(connection, campaign_id, line):
        found.setdefault(skill, set()).add(level)
    return {skill: contiguous(levels) for skill, levels in found.items()}


def held_on(connection: sa.Connection, campaign_id: str, line: Line) -> set[tuple[str, int]]:
    """Mastered (skill, level)s that a retention check found held on checkpoints of the line."""
    lv, t, c = db.levels.c, db.trials.c, db.checkpoints.c
    query = sa.select(t.skill, t.level, c.run_id, c.step).select_from(
        db.trials.join(db.checkpoints, c.id == t.checkpoint_id).join(
            db.levels, sa.and_(lv.campaign_id == t.campaign_id, lv.skill == t.skill, lv.level == t.level))
    ).where(t.campaign_id == campaign_id, t.kind == "retention", t.verdict == "held")  # fmt: skip
    return {(r.skill, r.level) for r in connection.execute(query) if line.has(r.run_id, r.step)}

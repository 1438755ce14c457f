"""Which weights the hero descends from: after a rollback, what was measured on weights given up says nothing about it.

A run is an unbroken line of optimizer steps; a rollback begins a new run at an earlier checkpoint (contracts A8).
Steps of the old run beyond that checkpoint have the same numbers as steps of the new one, but are other weights, so
comparing step numbers alone is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
from realm.guild.progress import contiguous, mastered_levels

NO_END = 2**62  # last step of the run that goes on


class Line(NamedTuple):
    """{run id: last step of it that the weights descend from}. `unbroken`: one run, so nothing was ever given up."""

    last: Mapping[str, int]
    unbroken: bool = True

    def has(self, run_id: str, step: int) -> bool:
        """Whether a checkpoint of this run and step is among the ancestors (or is it itself)."""
        return step <= self.last.get(run_id, -1)


def line_of(connection: sa.Connection, campaign_id: str, run_id: str | None = None, step: int = NO_END) -> Line:
    """The line that ends at `step` of a run; default: the campaign's newest run as far as it goes."""
    runs = db.runs.c
    ids = list(connection.execute(sa.select(runs.id).where(runs.campaign_id == campaign_id)
                                  .order_by(runs.created_at.desc(), runs.id.desc())).scalars())  # fmt: skip
    if run_id is None:
        if not ids:
            return Line({})
        run_id = ids[0]
    return Line(dict(campaigns.lineage(connection, run_id, step)), len(ids) < 2)


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

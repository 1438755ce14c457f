"""Which weights the hero descends from: after a rollback, what was measured on weights given up says nothing about it.

A run is an unbroken line of optimizer steps; a rollback begins a new run at an earlier checkpoint (contracts A8).
Steps of the old run beyond that checkpoint have the same numbers as steps of the new one, but are other weights, so
comparing step numbers alone is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
from realm.guild.progress import contiguous

NO_END = 2**62  # last step of the run that goes on


@dataclass(frozen=True)
class Line:
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

    A level whose trial or checkpoint is not in the database counts by its step number.
    """
    line = line_of(connection, campaign_id, run_id, step)
    lv, t, c = db.levels.c, db.trials.c, db.checkpoints.c
    query = sa.select(lv.skill, lv.level, c.run_id, c.step).select_from(
        db.levels.outerjoin(db.trials, t.id == lv.trial_id).outerjoin(db.checkpoints, c.id == t.checkpoint_id)
    ).where(lv.campaign_id == campaign_id, lv.step <= step)  # fmt: skip
    found: dict[str, set[int]] = {}
    for skill, level, proved_run, proved_step in connection.execute(query):
        if proved_run is None or line.has(proved_run, proved_step):
            found.setdefault(skill, set()).add(level)
    return {skill: contiguous(levels) for skill, levels in found.items()}

"""Which weights the hero descends from: after a rollback, what was measured on weights given up says nothing about it.

    line = line_of(connection, campaign_id)
    line.has(checkpoint_run, checkpoint_step)

A run is an unbroken line of optimizer steps; a rollback begins a new run at an earlier checkpoint (contracts A8).
Steps of the old run beyond that checkpoint have the same numbers as steps of the new one, but are other weights, so
comparing step numbers alone is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns

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


def trials_of(
    connection: sa.Connection, campaign_id: str, columns: tuple[str, ...], *where: Any, line: Line | None = None,
) -> Iterator[Mapping[str, Any]]:  # fmt: skip
    """Trials of the campaign that were held on weights of the line, newest first, with these columns.

    A trial whose checkpoint is not in the ledger cannot be told from one of the line and counts.
    """
    line = line_of(connection, campaign_id) if line is None else line
    trials, table = db.trials, db.checkpoints
    query = sa.select(*(trials.c[name] for name in columns)).where(trials.c.campaign_id == campaign_id, *where)
    query = query.order_by(trials.c.started_at.desc(), trials.c.id.desc())
    if line.unbroken:
        yield from connection.execute(query).mappings()
        return
    query = query.add_columns(table.c.run_id.label("_run"), table.c.step.label("_at"))
    query = query.outerjoin(table, table.c.id == trials.c.checkpoint_id)
    for row in connection.execute(query).mappings():
        if row["_run"] is None or line.has(row["_run"], row["_at"]):
            yield row


def quest_starts(connection: sa.Connection, campaign_id: str, line: Line | None = None) -> list[float]:
    """When the finished quests whose training is in the line began, rising."""
    line = line_of(connection, campaign_id) if line is None else line
    quests, battles = db.quests, db.battles
    query = sa.select(quests.c.id, quests.c.started_at).where(
        quests.c.campaign_id == campaign_id, quests.c.state == "done", quests.c.started_at.is_not(None))  # fmt: skip
    starts = dict(connection.execute(query).all())
    if not line.unbroken:
        query = sa.select(battles.c.quest_id, battles.c.run_id, battles.c.step).where(
            battles.c.campaign_id == campaign_id, battles.c.quest_id.is_not(None), battles.c.outcome == "trained",
            battles.c.step.is_not(None)).order_by(battles.c.started_at, battles.c.id)  # fmt: skip
        ends = {quest_id: (run_id, step) for quest_id, run_id, step in connection.execute(query)}
        starts = {quest: at for quest, at in starts.items() if quest not in ends or line.has(*ends[quest])}
    return sorted(starts.values())

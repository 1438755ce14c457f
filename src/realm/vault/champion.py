"""The champion: which checkpoint is the best, by one rule (contracts B3).

Maximum of (total mastered level, mean accuracy over the mastered levels, -step) over checkpoints that are live, whose
hashes verified, that sat at least one trial and whose own quest is not cursed. Never by training loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from realm import db
from realm.guild.progression.lineage import mastered_by

# The probe bucket decides where it was asked; until then the held-out trials on that very checkpoint.
_KINDS = ("probe", "promotion", "retention")


@dataclass(frozen=True)
class Candidate:
    """One checkpoint as the rule sees it; `accuracy` is the mean over mastered levels that it was asked, else 0."""

    checkpoint_id: str
    step: int
    total_level: int
    accuracy: float

    @property
    def rank(self) -> tuple[int, float, int]:
        return self.total_level, self.accuracy, -self.step


def candidates(connection: sa.Connection, campaign_id: str) -> list[Candidate]:
    """Live checkpoints of the campaign with a trial of their own, best first."""
    table, trials = db.checkpoints, db.trials
    examined = sa.select(trials.c.checkpoint_id).where(trials.c.campaign_id == campaign_id)
    blessings = db.blessings.c
    cursed = sa.select(blessings.battle_id).where(
        blessings.campaign_id == campaign_id, blessings.verdict == "cursed")  # fmt: skip
    query = sa.select(table.c.id, table.c.run_id, table.c.step).where(
        table.c.campaign_id == campaign_id, table.c.state == "live", table.c.id.in_(examined),
        sa.func.coalesce(table.c.battle_id, "").not_in(cursed))  # fmt: skip
    found = []
    for checkpoint_id, run_id, step in connection.execute(query).all():
        mastered = mastered_by(connection, campaign_id, run_id, step)
        accuracy = _accuracy(connection, checkpoint_id, mastered)
        found.append(Candidate(checkpoint_id, step, sum(mastered.values()), accuracy))
    return sorted(found, key=lambda c: (c.rank, c.checkpoint_id), reverse=True)


def _accuracy(connection: sa.Connection, checkpoint_id: str, mastered: dict[str, int]) -> float:
    trials = db.trials
    query = sa.select(trials.c.skill, trials.c.level, trials.c.kind, trials.c.correct, trials.c.n).where(
        trials.c.checkpoint_id == checkpoint_id, trials.c.kind.in_(_KINDS), trials.c.n > 0)  # fmt: skip
    best: dict[tuple[str, int], tuple[int, float]] = {}
    for skill, level, kind, correct, n in connection.execute(query):
        if level <= mastered.get(skill, 0):
            seen = (-_KINDS.index(kind), correct / n)
            best[skill, level] = max(best.get((skill, level), (-len(_KINDS), 0.0)), seen)
    return sum(value for _, value in best.values()) / len(best) if best else 0.0


def champion(
    connection: sa.Connection, campaign_id: str, verifies: Callable[[str], bool] | None = None
) -> Candidate | None:
    """The champion of a campaign, or None while no checkpoint sat a trial.

    Args:
        verifies: checkpoint id -> do its hashes verify? Asked from the best candidate on until one does; default:
            the ledger's word (a checkpoint found corrupt is not live any more).
    """
    for candidate in candidates(connection, campaign_id):
        if verifies is None or verifies(candidate.checkpoint_id):
            return candidate
    return None


def crowned(connection: sa.Connection, campaign_id: str | None) -> str | None:
    """Checkpoint that the arena last crowned in this campaign, while it is still live."""
    query = sa.select(db.events.c.payload).where(db.events.c.kind == "champion").order_by(db.events.c.id.desc())
    for payload in connection.execute(query.limit(20)).scalars():
        named = payload.get("checkpoint_id")
        table = db.checkpoints
        found = connection.execute(sa.select(table.c.id).where(
            table.c.id == named, table.c.campaign_id == campaign_id, table.c.state == "live")).scalar()  # fmt: skip
        if found:
            return found
    return None

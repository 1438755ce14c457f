"""Combat: what single steps and whole quests look like on the stage. Cosmetic: nothing here gives experience or levels.

A hit is 1 / the step's loss (floored at 1e-4); it is critical above the 99th percentile of the last 500 hits of the
same quest. A quest's result comes from its blessing and from the trials sat after it, both held-out.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from realm import db

HIT_FLOOR = 1e-4
HITS = 500  # how many of the quest's last hits a new one is measured against
HITS_MIN = 100  # fewer hits have no 99th percentile worth the name

Result = Literal["Victory", "Hard-won", "Stalemate", "Defeat", "Retreat"]
RESULTS: dict[Result, str] = {
    "Victory": "the quest is blessed, and none of its retention checks found a regression",
    "Hard-won": "blessed in part, or blessed while a retention check of the quest found a regression",
    "Stalemate": "unproven: nothing held out improved enough, so no experience",
    "Defeat": "cursed (bad data or a damaged checkpoint), or the quest failed three times",
    "Retreat": "the player skipped the quest",
}


class Hits:
    """Hits of a quest and whether one is critical: above the 99th percentile of the last 500 before it.

    Args:
        values: the last hits, oldest first, as a checkpoint inside the quest left them.
    """

    def __init__(self, values: Sequence[float] | None = None) -> None:
        self.window: deque[float] = deque(values or [], maxlen=HITS)
        self._sorted = sorted(self.window)

    def add(self, loss: float) -> tuple[float, bool]:
        """The step's hit and whether it is critical, judged against the hits before it."""
        hit = 1 / max(loss, HIT_FLOOR)
        n = len(self._sorted)
        critical = n >= HITS_MIN and hit > self._sorted[min(n - 1, int(0.99 * n))]
        if n == HITS:
            del self._sorted[bisect.bisect_left(self._sorted, self.window[0])]
        self.window.append(hit)
        bisect.insort(self._sorted, hit)
        return hit, critical


@dataclass(frozen=True)
class Blows:
    """All hits of a quest. `best` is the strongest, None without a step; `exact` is false once old steps were thinned
    to their lowest loss, so that critical hits can no longer be counted (`criticals` None)."""

    steps: int
    best: float | None
    criticals: int | None
    exact: bool


def blows(steps: Iterable[tuple[float, float | None, int]]) -> Blows:
    """Hits of a quest from its metrics rows in order: (loss, lowest loss, steps that the row covers)."""
    hits, criticals, count, best, exact = Hits(), 0, 0, None, True
    for loss, lowest, covers in steps:
        hit, critical = hits.add(loss)
        criticals += critical
        count += covers
        exact = exact and covers == 1
        strongest = 1 / max(loss if lowest is None else min(loss, lowest), HIT_FLOOR)
        best = max(hit, strongest, best or 0.0)
    return Blows(count, best, criticals if exact else None, exact)


def result_of(state: str, verdict: str | None, retention: Sequence[str] = ()) -> Result | None:
    """Result of a quest from its state, its blessing's verdict and the verdicts of its retention checks; None while it
    is not over."""
    if verdict == "cursed" or (verdict is None and state == "failed"):
        return "Defeat"
    if verdict in ("blessed", "partial"):
        fell = any(v in ("regression", "lost") for v in retention)
        return "Victory" if verdict == "blessed" and not fell else "Hard-won"
    if verdict == "unproven":
        return "Stalemate"
    return "Retreat" if state == "skipped" else None


@dataclass(frozen=True)
class Fight:
    """One finished quest as the saga tells it. `levels`: [(skill, level)] that its trials won; `xp` as blessed."""

    quest_id: str
    quest: str
    t: float
    result: Result
    quality: float | None
    xp: float
    levels: tuple[tuple[str, int], ...]
    steps: int
    best_hit: float | None
    criticals: int | None
    evidence: tuple[str, ...]


def fights(connection: sa.Connection, campaign_id: str, limit: int = 20) -> list[Fight]:
    """The newest finished quests of a campaign, newest first. One done more than once has a fight for each blessing."""
    ended = [*_blessed(connection, campaign_id, limit), *_unblessed(connection, campaign_id, limit)]
    ended.sort(key=lambda row: (row["t"], row["id"]), reverse=True)
    return [_fight(connection, campaign_id, row) for row in ended[:limit]]


def _blessed(connection: sa.Connection, campaign_id: str, limit: int) -> list[dict[str, Any]]:
    b, q = db.blessings.c, db.quests.c
    query = sa.select(
        b.id, b.t, b.quest_id, b.battle_id, b.verdict, b.quality, b.xp, b.parts, q.name, q.state
    ).select_from(db.blessings.outerjoin(db.quests, q.id == b.quest_id)).where(b.campaign_id == campaign_id)
    return [dict(row) for row in connection.execute(query.order_by(b.t.desc(), b.id.desc()).limit(limit)).mappings()]


def _unblessed(connection: sa.Connection, campaign_id: str, limit: int) -> list[dict[str, Any]]:
    q = db.quests.c
    query = sa.select(q.id, q.finished_at.label("t"), q.id.label("quest_id"), q.name, q.state).where(
        q.campaign_id == campaign_id, q.state.in_(("failed", "skipped")), q.finished_at.is_not(None))
    rows = connection.execute(query.order_by(q.finished_at.desc(), q.id.desc()).limit(limit)).mappings()
    return [{**row, "battle_id": None, "verdict": None, "quality": None, "xp": 0.0, "parts": {}} for row in rows]


def _fight(connection: sa.Connection, campaign_id: str, row: dict[str, Any]) -> Fight:
    battles = (row["parts"] or {}).get("battles")
    if not battles:
        query = sa.select(db.battles.c.id).where(
            db.battles.c.quest_id == row["quest_id"], db.battles.c.campaign_id == campaign_id)  # fmt: skip
        battles = list(connection.execute(query.order_by(db.battles.c.started_at, db.battles.c.id)).scalars())
    m, t, lv = db.metrics.c, db.trials.c, db.levels.c
    steps = sa.select(m.loss, m.loss_min, m.steps).where(m.battle_id.in_(battles)).order_by(m.step, m.run_id)
    struck = blows(tuple(r) for r in connection.execute(steps))
    sat = connection.execute(sa.select(t.id, t.kind, t.verdict).where(
        t.battle_id.in_(battles), t.campaign_id == campaign_id).order_by(t.started_at, t.id)).all()  # fmt: skip
    won = connection.execute(sa.select(lv.skill, lv.level).where(
        lv.campaign_id == campaign_id, lv.trial_id.in_([r.id for r in sat])).order_by(lv.skill, lv.level))  # fmt: skip
    result = result_of(row["state"] or "", row["verdict"], [r.verdict for r in sat if r.kind == "retention"])
    return Fight(
        row["quest_id"], row["name"] or "a quest that was removed", row["t"], result or "Stalemate", row["quality"],
        row["xp"], tuple((r.skill, r.level) for r in won), struck.steps, struck.best, struck.criticals,
        tuple(x for x in (row["id"] if row["verdict"] else None, *(r.id for r in sat)) if x))  # fmt: skip

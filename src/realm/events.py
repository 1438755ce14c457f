"""The event log: every fact that matters is told once, in the transaction that makes it true (contracts A1, A2).

`emit(connection, …)` inside `db.write` appends; `after(connection, id)` reads on; readers wait with `Watcher`, which
looks at SQLite's `data_version` and so costs one pragma when nothing happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from realm import db

Level = Literal["deed", "info", "trouble"]

# Every kind that may be emitted, with what its payload says. One list, so that a typo is an error and the
# stream's clients have a reference.
KINDS: dict[str, str] = {
    "battle": "battle_id, run, quest_id, state, phase?, reason?, outcome?",
    "quest": "quest_id, name, lane, state, reason?",
    "queue": "high, normal, low, inbox: counts",
    "cleric": "quest_id, file, verdict, rows_in, rows_out, quarantined",
    "trial": "trial_id, skill, level, checkpoint_id, correct, n, needed, try, verdict, closed, kind",
    "level": "kind: clock|skill, skill?, from, to, closed?, trial_id?",
    "regression": "skill, level, trial_id, accuracy, verdict",
    "drift": "suite, part, measure: accuracy|loss, checkpoint_id, change: what the passives lost since the first time",
    "blessing": "battle_id, quest_id, effort, quality, xp, verdict, parts",
    "checkpoint": "checkpoint_id, run, step, bytes, why",
    "champion": "checkpoint_id, step, total_level, accuracy",
    "vault": "act, checkpoint_ids, zone?, bytes?, reason?: what was done with checkpoints",
    "groundskeeper": "task, items, bytes: what was cleared away",
    "curriculum": "action, reason, skill, level: what the hints and trials changed",
    "optimizer": "battle_id, reset: bool, reason: optimizer state carried over or not",
    "lesson": "battle_id, school, what, and its counts: what a school worked out (sparring, teacher, pass rates ...)",
    "zone": "battle_id, step, from, to",
    "hint": "battle_id, step, action, reason, confidence: what the strain suggests to the curriculum",
    "crit": "battle_id, step, hit, loss",
    "command": "command_id, kind, state, result",
    "campaign": "campaign_id, state, name",
    "alert": "alert_id, code, what, why, fix, action?: {kind, payload} of the command that mends it",
    "incident": "code, what, evidence",
    "temple": "order, status: asked | verdict, critical?, by?, fails?, warns?",
    "service": "service, state, detail",
    "mode": "mode: train|rest, reason",
    "job": "job_id, kind, state: pending|running|succeeded|failed|cancelled, attempt, worker?, error?",
}


@dataclass(frozen=True)
class Event:
    """One row of the log. `id` rises without gaps being promised; `t` is Unix seconds."""

    id: int
    t: float
    kind: str
    level: Level
    text: str
    payload: dict[str, Any]


def emit(connection: sa.Connection, kind: str, text: str, level: Level = "info", /, **payload: Any) -> int:
    """Append one event in the caller's transaction and return its id.

    Args:
        text: one plain sentence in standard terms, shown in the log's mortal view.

    Raises:
        ValueError: a kind that is not listed in `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"event kind {kind!r} is not listed in realm.events.KINDS; add it there with its payload")
    row = {"t": db.now(), "kind": kind, "level": level, "text": text, "payload": payload}
    return int(connection.execute(sa.insert(db.events).values(**row)).inserted_primary_key[0])


def after(connection: sa.Connection, last_id: int, limit: int = 1000, kinds: list[str] | None = None) -> list[Event]:
    """Events with id > `last_id`, oldest first."""
    query = sa.select(db.events).where(db.events.c.id > last_id).order_by(db.events.c.id).limit(limit)
    if kinds:
        query = query.where(db.events.c.kind.in_(kinds))
    return [Event(**row) for row in connection.execute(query).mappings()]


def newest(connection: sa.Connection, limit: int = 60, levels: tuple[str, ...] = ()) -> list[Event]:
    """The last `limit` events, newest first."""
    query = sa.select(db.events).order_by(db.events.c.id.desc()).limit(limit)
    if levels:
        query = query.where(db.events.c.level.in_(levels))
    return [Event(**row) for row in connection.execute(query).mappings()]


def last_id(connection: sa.Connection) -> int:
    """Id of the newest event, 0 when there is none."""
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.max(db.events.c.id), 0))).scalar_one())


class Watcher:
    """Tells whether another connection has committed since the last look (SQLite `PRAGMA data_version`)."""

    def __init__(self, engine: sa.Engine) -> None:
        self._connection = engine.connect()
        self._version = -1

    def changed(self) -> bool:
        """True at the first call and whenever the database changed since the call before."""
        version = self._connection.exec_driver_sql("PRAGMA data_version").scalar_one()
        changed, self._version = version != self._version, version
        return changed

    def close(self) -> None:
        self._connection.close()

"""Builds `RealmSnapshot` from the database, in one read transaction. Writes nothing, imports no web framework.

    from realm.state.reader import read_snapshot
    print(read_snapshot(RealmHome()).battle.state)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.guild import campaigns, progress
from realm.quests import board
from realm.settings import RealmHome
from realm.state import machine
from realm.state.snapshot import Battle, Campaign, Gpu, Hero, Queue, RealmSnapshot, SkillState, Vault
from realm.vault.champion import crowned

OPEN = ("arming", "training", "pausing", "paused", "stopping", "trial")
DAMAGE_FLOOR = 1e-4  # loss floor of damage and hits (realm-rules §1)
PACE_STEPS = 20  # steps over which pace and tokens per second are averaged


@dataclass(frozen=True)
class Pace:
    """Means over the last steps of a battle."""

    step_s: float
    tokens_per_s: float


def read_snapshot(home: RealmHome, engine: sa.Engine | None = None) -> RealmSnapshot:
    """The realm now.

    Args:
        engine: an open one to read with; default: opened and closed here.

    Raises:
        realm.db.SchemaError: there is no database, or one of another schema version.
    """
    made = db.connect(home) if engine is None else engine
    try:
        with db.read(made) as connection:
            return snapshot(connection, home)
    finally:
        if engine is None:
            made.dispose()


def snapshot(connection: sa.Connection, home: RealmHome) -> RealmSnapshot:
    """The same inside a caller's `db.read`, so that more can be read from the very same state."""
    event_id = events.last_id(connection)
    campaign = campaigns.active(connection)
    mode = campaigns.value(connection, "mode", "train")
    hero, skills = None, {}
    if campaign:
        reached = progress.hero_progress(connection, campaign["id"], progress.played_skills(connection, campaign))
        hero = Hero(
            id=campaign["hero_id"], name=(campaign["config"] or {}).get("name") or campaign["hero_id"],
            level=reached.level, step=reached.step, total_level=reached.total_level, xp=reached.xp,
            effort=reached.effort)  # fmt: skip
        skills = {
            key: SkillState(mastered_level=s.mastered_level, training_level=s.training_level, accuracy=s.accuracy,
                            n=s.n, lower_bound=s.lower_bound, closed=s.closed)
            for key, s in reached.skills.items()
        }  # fmt: skip
    return RealmSnapshot(
        event_id=event_id, t=db.now(), mode="rest" if mode == "rest" else "train", hero=hero,
        battle=_battle(connection), skills=skills, queue=Queue(**board.counts(connection, home)),
        campaign=Campaign(id=campaign["id"] if campaign else None), vault=_vault(connection, campaign), gpu=_gpu(),
    )  # fmt: skip


def newest_battle(connection: sa.Connection) -> dict[str, Any] | None:
    """The battle to speak of: the open one, else the last that was fought; None before the first."""
    query = sa.select(db.battles).order_by(db.battles.c.id.desc()).limit(1)
    row = connection.execute(query.where(db.battles.c.state.in_(OPEN))).mappings().first()
    row = row or connection.execute(query).mappings().first()
    return dict(row) if row else None


def shown_state(battle: Mapping[str, Any] | None) -> str:
    """State to show. A finished battle is `done` until the arena has drawn its conclusions, then the hero is idle;
    a failed one stays `failed` until the next begins."""
    if battle is None:
        return "idle"
    if battle["state"] == "done" and battle["settled_at"] is not None:
        return "idle"
    if battle["state"] in ("training", "trial", "paused") and battle["desired"] in ("pause", "stop", "skip"):
        # Asked for, but the step is not over yet: the child has not written its answer.
        wanted = "pausing" if battle["desired"] == "pause" else "stopping"
        return battle["state"] if battle["state"] == "paused" and wanted == "pausing" else wanted
    return battle["state"]


def quest_steps(battle: Mapping[str, Any]) -> tuple[int | None, int | None, int]:
    """(steps done in the quest, steps the quest asks for, campaign step at which the quest's count is 0)."""
    config = battle["config"] or {}
    asked = config.get("steps") or battle["total_steps"]
    if not asked or battle["start_step"] is None:
        return (None, asked or None, battle["start_step"] or 0)
    # A battle resumed inside a quest does only what is left: total_steps < the quest's own steps.
    here = asked if battle["total_steps"] is None else battle["total_steps"]
    zero = battle["start_step"] + here - asked
    reached = battle["step"] if battle["step"] is not None else battle["start_step"]
    return max(0, reached - zero), asked, zero


def last_metric(connection: sa.Connection, battle_id: str) -> dict[str, Any] | None:
    """Newest metrics row of a battle."""
    table = db.metrics
    query = sa.select(table).where(table.c.battle_id == battle_id).order_by(table.c.step.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return dict(row) if row else None


def pace(connection: sa.Connection, battle_id: str) -> Pace | None:
    """Mean seconds per step and tokens per second over the battle's last steps; None before its first."""
    table = db.metrics
    query = sa.select(table.c.step_s, table.c.tokens, table.c.steps).where(table.c.battle_id == battle_id)
    rows = connection.execute(query.order_by(table.c.step.desc()).limit(PACE_STEPS)).all()
    seconds = sum(row.step_s for row in rows)
    if not rows or seconds <= 0:
        return None
    return Pace(step_s=seconds / sum(row.steps for row in rows), tokens_per_s=sum(row.tokens for row in rows) / seconds)


def quest_effort(connection: sa.Connection, battle: Mapping[str, Any]) -> float:
    """Effort so far in the battle's quest, over all its battles (a resumed quest has several)."""
    table = db.metrics
    ids: Any = [battle["id"]]
    if battle["quest_id"]:
        ids = sa.select(db.battles.c.id).where(db.battles.c.quest_id == battle["quest_id"])
    query = sa.select(sa.func.coalesce(sa.func.sum(table.c.effort), 0.0)).where(table.c.battle_id.in_(ids))
    return float(connection.execute(query).scalar_one())


def damage(loss: float | None) -> float | None:
    """1 / loss, the loss floored at 1e-4."""
    return None if loss is None else 1 / max(loss, DAMAGE_FLOOR)


def quest_name(connection: sa.Connection, quest_id: str | None) -> str | None:
    if quest_id is None:
        return None
    return connection.execute(sa.select(db.quests.c.name).where(db.quests.c.id == quest_id)).scalar()


def _battle(connection: sa.Connection) -> Battle:
    row = newest_battle(connection)
    state = shown_state(row)
    if row is None or state == "idle":
        return Battle()
    done, asked, _ = quest_steps(row)
    last = last_metric(connection, row["id"])
    known: dict[str, Any] = {}
    if last:
        speed = pace(connection, row["id"])
        left = asked - done if asked is not None and done is not None else None
        known = {
            "loss": last["loss_ema"], "loss_raw": last["loss"], "strain": last["strain"],
            "strain_rate": last["strain_rate"], "zone": last["zone"], "hint": last["hint"],
            "damage": damage(last["loss_ema"]), "effort": quest_effort(connection, row),
            "tokens_per_s": speed.tokens_per_s if speed else None,
            "eta_s": left * speed.step_s if speed and left is not None and state == "training" else None,
        }  # fmt: skip
    return Battle(state=state, school=row["school"], quest=quest_name(connection, row["quest_id"]), step=done,
                  total_steps=asked, **known)  # fmt: skip


def _vault(connection: sa.Connection, campaign: Mapping[str, Any] | None) -> Vault:
    count = connection.execute(sa.select(sa.func.count()).where(db.checkpoints.c.state == "live")).scalar_one()
    return Vault(checkpoints=count, champion=crowned(connection, campaign["id"]) if campaign else None)


def _gpu() -> Gpu | None:
    found = machine.gpus()
    if not found:
        return None
    heat = [gpu.temp for gpu in found if gpu.temp is not None]
    return Gpu(used=sum(g.used for g in found), total=sum(g.total for g in found), temp=max(heat) if heat else None)

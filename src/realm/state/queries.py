"""Longer answers than the snapshot: board, log, curves, trials, skills, checkpoints. Read only, no web framework.

Every function takes a connection inside `db.read` and returns plain JSON values; API and pages show the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.guild import campaigns, progress
from realm.guild.levels import CLOSED_THRESHOLD, LOOKS, needed, wilson
from realm.guild.skills import Skill, all_skills
from realm.quests import board
from realm.settings import RealmHome
from realm.state.reader import newest_battle, quest_steps, shown_state

LOG_MAX = 500
FINISHED_MAX = 30
SERIES = ("step", "t", "loss", "loss_ema", "strain", "floor", "effort", "lr", "grad_norm", "tokens", "step_s")


# --- board --------------------------------------------------------------------------------------------------------


def quest_fact(row: Mapping[str, Any]) -> dict[str, Any]:
    """One quest as the API tells it."""
    names = ("id", "name", "kind", "lane", "state", "school", "skill", "level", "rows", "tokens", "steps", "attempts",
             "format", "report", "error", "created_at", "started_at", "finished_at", "path")  # fmt: skip
    return {name: row[name] for name in names}


def quests(connection: sa.Connection, home: RealmHome) -> dict[str, Any]:
    """The board: files in the inbox, waiting quests in the order of their turn, the one in battle, the newest ended."""
    table = db.quests
    running = connection.execute(sa.select(table).where(table.c.state == "training")).mappings().all()
    ended = sa.select(table).where(table.c.state.in_(("done", "failed", "skipped", "refused")))
    ended = ended.order_by(sa.func.coalesce(table.c.finished_at, table.c.created_at).desc(), table.c.id.desc())
    inbox = [{"name": path.name, "lane": lane, "bytes": path.stat().st_size} for lane, path in _files(home)]
    return {
        "inbox_path": str(home.inbox), "inbox": inbox, "counts": board.counts(connection, home),
        "waiting": [quest_fact(row) for row in board.waiting(connection)],
        "training": [quest_fact(row) for row in running],
        "ended": [quest_fact(row) for row in connection.execute(ended.limit(FINISHED_MAX)).mappings()],
    }  # fmt: skip


def _files(home: RealmHome) -> Iterator[tuple[str, Any]]:
    for lane, path in board.quest_files(home):
        if path.is_file():  # the Cleric may take it at any moment
            yield lane, path


# --- log ----------------------------------------------------------------------------------------------------------


def log(
    connection: sa.Connection, after: int | None = None, before: int | None = None, levels: Sequence[str] = (),
    limit: int = 60, kinds: Sequence[str] = (), battle_id: str | None = None,
) -> list[events.Event]:  # fmt: skip
    """Events newest first; with `after`, those above that id; with `before`, those below it (paging back)."""
    table = db.events
    query = sa.select(table).order_by(table.c.id.desc()).limit(max(1, min(limit, LOG_MAX)))
    if after is not None:
        query = query.where(table.c.id > after)
    if before is not None:
        query = query.where(table.c.id < before)
    if levels:
        query = query.where(table.c.level.in_(levels))
    if kinds:
        query = query.where(table.c.kind.in_(kinds))
    if battle_id:
        query = query.where(sa.func.json_extract(table.c.payload, "$.battle_id") == battle_id)
    return [events.Event(**row) for row in connection.execute(query).mappings()]


# --- battles ------------------------------------------------------------------------------------------------------


def battle(connection: sa.Connection, key: str | None = None) -> dict[str, Any] | None:
    """A battle by its own id or its run's (then the newest of that run); without a key the current or last one."""
    if key is None:
        return newest_battle(connection)
    table = db.battles
    query = sa.select(table).where(sa.or_(table.c.id == key, table.c.run_id == key)).order_by(table.c.id.desc())
    row = connection.execute(query.limit(1)).mappings().first()
    return dict(row) if row else None


def battle_fact(row: Mapping[str, Any]) -> dict[str, Any]:
    """One battle as the API tells it, without its whole configuration."""
    done, asked, zero = quest_steps(row)
    names = ("id", "campaign_id", "run_id", "quest_id", "hero_id", "school", "outcome", "start_step", "loss_before",
             "loss_after", "checkpoint_id", "phase", "started_at", "ended_at", "error")  # fmt: skip
    state = shown_state(row) if row["ended_at"] is None else row["state"]
    return {**{name: row[name] for name in names}, "state": state, "step": done,
            "total_steps": asked, "zero": zero, "campaign_step": row["step"]}  # fmt: skip


def battles(connection: sa.Connection, campaign_id: str | None, limit: int = 20) -> list[dict[str, Any]]:
    """The newest battles, with their quest's name."""
    table, quest = db.battles, db.quests
    query = sa.select(table, quest.c.name.label("quest")).outerjoin(quest, quest.c.id == table.c.quest_id)
    query = query.where(table.c.campaign_id == campaign_id).order_by(table.c.id.desc()).limit(limit)
    return [{**battle_fact(row), "quest": row["quest"]} for row in connection.execute(query).mappings()]


def series(connection: sa.Connection, battle_id: str, points: int = 600) -> dict[str, Any]:
    """A battle's curves as columns, thinned to at most `points` steps (0 = all).

    Of each bin the steps of lowest and highest loss and of highest gradient norm stay, so no spike vanishes; every
    point is a real step. `step` counts campaign steps, `zero` is the one before the quest's first.
    """
    table = db.metrics
    query = sa.select(*(table.c[name] for name in SERIES)).where(table.c.battle_id == battle_id)
    rows = connection.execute(query.order_by(table.c.step)).all()
    row = battle(connection, battle_id)
    kept = rows if points <= 0 else thin(rows, points)
    columns = {name: [r[i] for r in kept] for i, name in enumerate(SERIES)}
    return {"battle_id": battle_id, "zero": quest_steps(row)[2] if row else 0, "steps": len(rows), **columns}


def token_maps(connection: sa.Connection, battle_id: str) -> dict[str, Any]:
    """Some rows of a battle's quest as the hero saw them, the most surprising first; no rows: never looked at.

    Each is {row, text, trained, weight, surprisal, entropy}, a list per token; surprisal and entropy in nats.
    """
    table = db.token_maps
    query = sa.select(table).where(table.c.battle_id == battle_id).order_by(table.c.idx)
    found = connection.execute(query).mappings().all()
    step, policy = (found[0]["step"], found[0]["policy"]) if found else (None, None)
    return {"battle_id": battle_id, "step": step, "policy": policy,
            "rows": [{"row": each["row"], **each["tokens"]} for each in found]}  # fmt: skip


def thin(rows: Sequence[Any], points: int) -> list[Any]:
    """At most `points` (10 or more) of the rows, in order, the first and the last among them."""
    points = max(points, 10)
    if len(rows) <= points:
        return list(rows)
    bins = (points - 2) // 3
    kept = {0, len(rows) - 1}
    for number in range(bins):
        part = range(number * len(rows) // bins, (number + 1) * len(rows) // bins)
        kept.add(min(part, key=lambda i: rows[i].loss))
        kept.add(max(part, key=lambda i: rows[i].loss))
        kept.add(max(part, key=lambda i: rows[i].grad_norm or 0.0))
    return [rows[i] for i in sorted(kept)]


def all_steps(connection: sa.Connection, battle_id: str) -> Iterator[tuple]:
    """Every step of a battle in the columns of `SERIES`, one row at a time (for CSV)."""
    table = db.metrics
    query = sa.select(*(table.c[name] for name in SERIES)).where(table.c.battle_id == battle_id)
    yield from (tuple(row) for row in connection.execute(query.order_by(table.c.step)))


# --- trials and skills --------------------------------------------------------------------------------------------


def trial_fact(row: Mapping[str, Any]) -> dict[str, Any]:
    """One trial as the API tells it, with the 95 % Wilson interval of its accuracy and the count that would pass."""
    names = ("id", "battle_id", "quest_id", "checkpoint_id", "step", "kind", "skill", "level", "closed", "n",
             "correct", "threshold", "verdict", "suspicious", "loss", "tokens", "by_difficulty", "started_at",
             "seconds")  # fmt: skip
    n, correct = row["n"], row["correct"]
    low, high = wilson(correct, n) if n and row["skill"] else (None, None)
    wanted = CLOSED_THRESHOLD if row["closed"] else row["threshold"]
    return {
        **{name: row[name] for name in names},
        "accuracy": correct / n if n and row["skill"] else None, "lower": low, "upper": high,
        "threshold": wanted if row["skill"] else row["threshold"],
        "needed": needed(n, row["threshold"] or 0.8, bool(row["closed"])) if n and row["skill"] else None,
    }  # fmt: skip


def trials(
    connection: sa.Connection, campaign_id: str | None, skill: str | None = None, limit: int = 50,
    battle_id: str | None = None, kinds: Sequence[str] = (), level: int | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """The newest trials first."""
    table = db.trials
    query = sa.select(table).where(table.c.campaign_id == campaign_id)
    if skill:
        query = query.where(table.c.skill == skill)
    if battle_id:
        query = query.where(table.c.battle_id == battle_id)
    if kinds:
        query = query.where(table.c.kind.in_(kinds))
    if level is not None:
        query = query.where(table.c.level == level)
    query = query.order_by(table.c.started_at.desc(), table.c.id.desc()).limit(max(1, min(limit, LOG_MAX)))
    return [trial_fact(row) for row in connection.execute(query).mappings()]


def last_exam(connection: sa.Connection, campaign_id: str | None) -> dict[str, Any] | None:
    """The newest trial of a skill with a result, of the kinds that speak of what the hero can do."""
    found = trials(connection, campaign_id, limit=1, kinds=progress.TRIAL_KINDS)
    return found[0] if found else None


def skills(connection: sa.Connection, campaign_id: str | None) -> list[dict[str, Any]]:
    """Every skill that is played (before the first campaign: every shipped one) with its levels, the hero's place in
    it, its last trials at the training level and regressions."""
    campaign = campaigns.get(connection, campaign_id) if campaign_id else None
    shown = progress.played_skills(connection, campaign) if campaign else all_skills()
    reached = progress.skill_progress(connection, campaign_id or "", shown)
    checks = progress.retention_checks(connection, campaign_id or "")
    return [_skill(connection, campaign_id, skill, reached[skill.id], checks) for skill in shown]


def _skill(
    connection: sa.Connection, campaign_id: str | None, skill: Skill, at: progress.SkillProgress,
    checks: list[progress.Check],
) -> dict[str, Any]:  # fmt: skip
    # Of the training level alone: retention trials of the levels below would push it out, and mix two curves in one.
    recent = trials(connection, campaign_id, skill.id, 8, kinds=progress.TRIAL_KINDS, level=at.training_level)
    names = ("level", "name", "description", "closed", "distinct")
    return {
        "id": skill.id, "name": skill.name, "description": skill.description, "version": skill.version,
        "max_level": skill.max_level, "threshold": skill.threshold, "looks": list(LOOKS),
        "mastered_level": at.mastered_level, "training_level": at.training_level, "accuracy": at.accuracy, "n": at.n,
        "lower_bound": at.lower_bound, "closed": at.closed,
        "levels": [{name: getattr(info, name) for name in names} for info in skill.levels()],
        "retention": [{"level": c.level, "verdict": c.verdict, "quests_ago": c.quests_ago} for c in checks
                      if c.skill == skill.id],
        "trials": recent,
    }  # fmt: skip


# --- vault and temple ---------------------------------------------------------------------------------------------


def checkpoints(connection: sa.Connection, campaign_id: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
    """Checkpoints, newest first, with the trials that were sat on each."""
    table = db.checkpoints
    names = ("id", "hero_id", "campaign_id", "run_id", "step", "quest_id", "battle_id", "path", "manifest_sha256",
             "bytes", "state", "resumable", "pinned", "created_at")  # fmt: skip
    query = sa.select(*(table.c[name] for name in names)).order_by(table.c.created_at.desc(), table.c.id.desc())
    if campaign_id:
        query = query.where(table.c.campaign_id == campaign_id)
    found = [dict(row) for row in connection.execute(query.limit(limit)).mappings()]
    sat = sa.select(db.trials).where(db.trials.c.checkpoint_id.in_([c["id"] for c in found]), db.trials.c.n > 0)
    exams: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute(sat.order_by(db.trials.c.started_at)).mappings():
        exams.setdefault(row["checkpoint_id"], []).append(
            {key: row[key] for key in ("kind", "skill", "level", "correct", "n", "verdict")})  # fmt: skip
    return [{**c, "trials": exams.get(c["id"], [])} for c in found]


def blessings(connection: sa.Connection, campaign_id: str | None, limit: int = 50) -> list[dict[str, Any]]:
    """Blessings, newest first, with their quest's name."""
    table, quest = db.blessings, db.quests
    query = sa.select(table, quest.c.name.label("quest")).outerjoin(quest, quest.c.id == table.c.quest_id)
    query = query.where(table.c.campaign_id == campaign_id).order_by(table.c.t.desc(), table.c.id.desc())
    return [dict(row) for row in connection.execute(query.limit(limit)).mappings()]


def quest_gain(connection: sa.Connection, row: Mapping[str, Any] | None) -> float | None:
    """Plastic gain of a battle: held-out loss before minus after, once both were measured."""
    if row is None or row["loss_before"] is None or row["loss_after"] is None:
        return None
    return row["loss_before"] - row["loss_after"]

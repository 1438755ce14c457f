"""What the Vault holds: list, show, compare, lineage, and which checkpoints nothing may take away. Read only.

    python3 -m training vault list
    python3 -m training vault show CHECKPOINT
    python3 -m training vault compare CHECKPOINT OTHER
    python3 -m training vault lineage CHECKPOINT
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
from realm.guild.progression.lineage import mastered_by
from realm.settings import RealmHome
from realm.vault import archive, checkpoints, places

GONE = "gone"


class VaultError(ValueError):
    """Something the Vault will not do; the message names the value, the rule and the next action."""


def row_of(connection: sa.Connection, checkpoint_id: Any) -> dict[str, Any]:
    """The ledger's row of a checkpoint, by its whole id: never by step or prefix, so step 10 is never step 100.

    Raises:
        VaultError: there is none.
    """
    wanted = str(checkpoint_id).encode("utf-8", "backslashreplace").decode()
    row = connection.execute(sa.select(db.checkpoints).where(db.checkpoints.c.id == wanted)).mappings().one_or_none()
    if row is None:
        raise VaultError(f"no checkpoint {wanted[:60]}; `python3 -m training vault list` names them")
    return dict(row)


def listing(
    connection: sa.Connection, *, campaign_id: str | None = None, states: Iterable[str] = (), tag: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Checkpoints, newest first, with the trials that were sat on each; deleted ones only when `states` asks."""
    table = db.checkpoints
    query = sa.select(table).order_by(table.c.created_at.desc(), table.c.id.desc())
    states = tuple(states)
    query = query.where(table.c.state.in_(states) if states else table.c.state != GONE)
    if campaign_id:
        query = query.where(table.c.campaign_id == campaign_id)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    rows = [{**row, "tags": row["tags"] or []} for row in rows]
    if tag is not None:
        rows = [row for row in rows if tag in row["tags"]]
    rows = rows[:limit]
    exams: dict[str, list[dict[str, Any]]] = {}
    sat = sa.select(db.trials).where(db.trials.c.checkpoint_id.in_([row["id"] for row in rows]), db.trials.c.n > 0)
    for trial in connection.execute(sat.order_by(db.trials.c.started_at)).mappings():
        exams.setdefault(trial["checkpoint_id"], []).append(
            {key: trial[key] for key in ("id", "kind", "skill", "level", "correct", "n", "verdict")})  # fmt: skip
    return [{**row, "trials": exams.get(row["id"], [])} for row in rows]


# --- protection ---------------------------------------------------------------------------------------------------


def protected(connection: sa.Connection) -> dict[str, list[str]]:
    """{checkpoint id: why it may not be taken away}: champion, latest, promoted, pinned, and what is used now."""
    table, why = db.checkpoints, {}

    def keep(checkpoint_id: str | None, reason: str) -> None:
        if checkpoint_id and reason not in why.setdefault(checkpoint_id, []):
            why[checkpoint_id].append(reason)

    crowned = sa.select(db.realm_values.c.value).where(db.realm_values.c.key.like("champion:%"))
    for (checkpoint_id,) in connection.execute(crowned):
        keep(checkpoint_id, "champion")
    marked = sa.select(table.c.id, table.c.promoted, table.c.pinned).where(sa.or_(table.c.promoted, table.c.pinned))
    for checkpoint_id, promoted, _pinned in connection.execute(marked):
        keep(checkpoint_id, "promoted" if promoted else "pinned")
    for (campaign_id,) in connection.execute(sa.select(db.runs.c.campaign_id).distinct()).all():
        latest = campaigns.parent_checkpoint(connection, campaign_id)
        keep(latest["id"] if latest else None, "latest of its campaign")
    for checkpoint_id, reason in _in_use(connection):
        keep(checkpoint_id, reason)
    return why


def _in_use(connection: sa.Connection) -> list[tuple[str | None, str]]:
    battles, orders = db.battles, db.commands
    over = ("done", "failed")
    open_ones = sa.select(battles.c.id, battles.c.config, battles.c.checkpoint_id).where(
        sa.or_(battles.c.state.not_in(over), battles.c.settled_at.is_(None)))  # fmt: skip
    found = []
    for battle_id, config, checkpoint_id in connection.execute(open_ones):
        reason = f"used by battle {battle_id}"
        found += [((config or {}).get("parent_checkpoint_id"), reason), (checkpoint_id, reason)]
    jobs = sa.select(db.jobs.c.id, db.jobs.c.kind, db.jobs.c.payload).where(db.jobs.c.state.in_(("pending", "running")))
    for job_id, kind, payload in connection.execute(jobs):
        if kind != "archive":  # that one takes it away itself
            found += [(payload.get(name), f"used by job {job_id}") for name in ("checkpoint", "against")]
    waiting = sa.select(orders.c.payload).where(
        orders.c.state == "pending", orders.c.kind.in_(("hero.rollback", "campaign.new")))  # fmt: skip
    for (payload,) in connection.execute(waiting):
        named = payload if isinstance(payload, Mapping) else {}
        found.append((named.get("checkpoint_id") or named.get("checkpoint"), "named by a waiting order"))
    return [(key if isinstance(key, str) else None, reason) for key, reason in found]


# --- one checkpoint -----------------------------------------------------------------------------------------------


def show(home: RealmHome, connection: sa.Connection, checkpoint_id: str) -> dict[str, Any]:
    """Everything the ledger and the manifest say of one checkpoint."""
    row = row_of(connection, checkpoint_id)
    [listed] = [r for r in listing(connection, campaign_id=row["campaign_id"], states=(row["state"],))
                if r["id"] == row["id"]]  # fmt: skip
    metric = _metric(connection, row)
    return {
        **listed, "place": str(_now_at(home, row)), "reachable": places.reachable(home, row["zone"]),
        "protected": protected(connection).get(row["id"], []),
        "mastered": mastered_by(connection, row["campaign_id"], row["run_id"], row["step"]),
        "loss": metric["loss_ema"] if metric else None, "strain": metric["strain"] if metric else None,
        "manifest": manifest_of(home, row),
    }  # fmt: skip


def _now_at(home: RealmHome, row: Mapping[str, Any]):
    return places.trash_of(home, row) if row["state"] == "trash" else places.place_of(home, row)


def manifest_of(home: RealmHome, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest as it lies with the checkpoint; None when it cannot be read or is not the one that was recorded."""
    at = _now_at(home, row)
    try:
        raw = archive.read_member(at, checkpoints.MANIFEST) if row["zone"] == "deep" else (
            at / checkpoints.MANIFEST).read_bytes()  # fmt: skip
    except (OSError, archive.ArchiveError):
        return None
    if archive.digest(raw) != row["manifest_sha256"]:
        return None
    return json.loads(raw)


def _metric(connection: sa.Connection, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    m = db.metrics.c
    query = sa.select(db.metrics).where(m.run_id == row["run_id"], m.step <= row["step"])
    return connection.execute(query.order_by(m.step.desc()).limit(1)).mappings().first()


def config_of(home: RealmHome, connection: sa.Connection, row: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved configuration that trained the checkpoint: of its battle, else of its manifest, else empty."""
    query = sa.select(db.battles.c.config).where(db.battles.c.id == row["battle_id"])
    config = connection.execute(query).scalar()
    return config or (manifest_of(home, row) or {}).get("config") or {}


# --- lineage ------------------------------------------------------------------------------------------------------


def lineage(connection: sa.Connection, checkpoint_id: str) -> dict[str, Any]:
    """Which runs, quests, data and trials made a checkpoint, oldest first.

    `quests`: those with optimizer steps among the weights' ancestors, with the sha256 of their data and how many of
    their steps count; `trials`: those sat on ancestors that won a level; `parents`: where each run began.
    """
    row = row_of(connection, checkpoint_id)
    line = campaigns.lineage(connection, row["run_id"], row["step"])[::-1]
    quests, trials, parents = [], [], []
    for run_id, last in line:
        quests += _quests_in(connection, run_id, last)
        run = connection.execute(sa.select(db.runs).where(db.runs.c.id == run_id)).mappings().first()
        if run is not None:
            parents.append({"run_id": run_id, "from": run["parent_checkpoint_id"], "reason": run["reason"], "to": last})
        trials += _won_in(connection, run_id, last)
    return {"checkpoint_id": row["id"], "hero_id": row["hero_id"], "step": row["step"], "runs": parents,
            "quests": quests, "trials": trials,
            "data": sorted({q["sha256"] for q in quests if q["sha256"]})}  # fmt: skip


def _quests_in(connection: sa.Connection, run_id: str, last: int) -> list[dict[str, Any]]:
    m, b, q = db.metrics.c, db.battles.c, db.quests.c
    steps = sa.func.sum(m.steps).label("steps")
    query = (
        sa.select(q.id, q.name, q.kind, q.skill, q.level, q.content_sha256, q.rows, b.school, b.config, steps,
                  sa.func.min(m.step).label("first"))
        .select_from(db.metrics).join(db.battles, b.id == m.battle_id).join(db.quests, q.id == b.quest_id)
        .where(m.run_id == run_id, m.step <= last).group_by(b.id).order_by(sa.func.min(m.step))
    )  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for row in connection.execute(query).mappings():
        data = (row["config"] or {}).get("data") or {}
        entry = found.setdefault(row["id"], {
            "quest_id": row["id"], "name": row["name"], "kind": row["kind"], "skill": row["skill"],
            "level": row["level"], "school": row["school"], "rows": row["rows"], "steps": 0,
            "sha256": data.get("sha256") or row["content_sha256"]})  # fmt: skip
        entry["steps"] += row["steps"]
    return list(found.values())


def _won_in(connection: sa.Connection, run_id: str, last: int) -> list[dict[str, Any]]:
    t, c, lv = db.trials.c, db.checkpoints.c, db.levels.c
    query = sa.select(t.id, t.skill, t.level, t.correct, t.n, t.step, t.checkpoint_id).join(
        db.levels, lv.trial_id == t.id).join(db.checkpoints, c.id == t.checkpoint_id).where(
        c.run_id == run_id, c.step <= last).order_by(t.step, t.skill, t.level)  # fmt: skip
    return [{"trial_id": r.id, "skill": r.skill, "level": r.level, "correct": r.correct, "n": r.n, "step": r.step,
             "checkpoint_id": r.checkpoint_id} for r in connection.execute(query)]  # fmt: skip


# --- two checkpoints ----------------------------------------------------------------------------------------------


def compare(home: RealmHome, connection: sa.Connection, one: str, other: str) -> dict[str, Any]:
    """Where two checkpoints differ: configuration, metrics, trials and data. Each value is [first, second]."""
    rows = [row_of(connection, one), row_of(connection, other)]
    configs = [_flat(_recipe(config_of(home, connection, row))) for row in rows]
    metrics = [_facts_of(connection, row) for row in rows]
    exams = [_exams_of(connection, row["id"]) for row in rows]
    made = [lineage(connection, row["id"]) for row in rows]
    quests = [{q["quest_id"]: q for q in each["quests"]} for each in made]
    both = quests[0].keys() & quests[1].keys()
    return {
        "checkpoints": [{key: row[key] for key in ("id", "hero_id", "campaign_id", "run_id", "step", "bytes", "state")}
                        for row in rows],
        "config": _differences(*configs), "metrics": _pairs(*metrics), "trials": _pairs(*exams),
        "data": {"shared": len(both),
                 "only": [[q for key, q in each.items() if key not in both] for each in quests]},
    }  # fmt: skip


def _recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a battle's configuration is method, not bookkeeping."""
    return {key: config[key] for key in ("hero", "school", "seed", "steps", "skill", "level") if key in config}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: pair for key, pair in _pairs(one, other).items() if pair[0] != pair[1]}


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [one.get(key), other.get(key)] for key in sorted({*one, *other})}


def _facts_of(connection: sa.Connection, row: Mapping[str, Any]) -> dict[str, Any]:
    metric = _metric(connection, row)
    mastered = mastered_by(connection, row["campaign_id"], row["run_id"], row["step"])
    line = campaigns.lineage(connection, row["run_id"], row["step"])
    m = db.metrics.c
    effort = sum(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(m.effort), 0.0)).where(
        m.run_id == run_id, m.step <= last)).scalar_one() for run_id, last in line)  # fmt: skip
    return {"step": row["step"], "bytes": row["bytes"], "total level": sum(mastered.values()), "effort": effort,
            "loss": metric["loss_ema"] if metric else None, "strain": metric["strain"] if metric else None,
            **{f"{skill} level": level for skill, level in mastered.items()}}  # fmt: skip


def _exams_of(connection: sa.Connection, checkpoint_id: str) -> dict[str, str]:
    """{skill, level and kind: correct of n} of the newest such trial on it."""
    t = db.trials.c
    query = sa.select(db.trials).where(t.checkpoint_id == checkpoint_id, t.n > 0, t.skill.is_not(None))
    return {f"{r['skill']} L{r['level']} {r['kind']}": f"{r['correct']}/{r['n']}"
            for r in connection.execute(query.order_by(t.started_at)).mappings()}  # fmt: skip


# --- disk ---------------------------------------------------------------------------------------------------------


def disk(home: RealmHome, connection: sa.Connection) -> list[dict[str, Any]]:
    """Each zone: where, reachable, how many checkpoints the ledger has there, bytes in use, in the trash and free."""
    table = db.checkpoints
    query = sa.select(table.c.zone, sa.func.count()).where(table.c.state.in_(("live", "corrupt", "deep")))
    counts = dict(connection.execute(query.group_by(table.c.zone)).all())
    found = []
    for zone in places.ZONES:
        folder, there = places.root(home, zone), places.reachable(home, zone)
        trash = places.size_of(folder / places.TRASH) if there else 0
        found.append({
            "zone": zone, "path": str(folder), "reachable": there, "checkpoints": counts.get(zone, 0),
            "bytes": places.size_of(folder) - trash if there else None, "trash": trash if there else None,
            "free": shutil.disk_usage(folder).free if there else None,
        })  # fmt: skip
    return found

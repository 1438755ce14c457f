"""Told of jobs: lists, one job with its trail, counts, workers. Reads only; API, CLI and pages tell the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from realm import db, services
from realm.guild import campaigns
from realm.jobs import board, kinds, orders
from realm.jobs.kinds import SLOTS, JobError
from realm.settings import RealmHome

STATES = ("pending", "running", "succeeded", "failed", "cancelled")
PAGE, PAGE_MAX = 50, 200
HOUR_S, DAY_S = 3600.0, 86400.0
_PRIORITY = {number: word for word, number in kinds.PRIORITIES.items()}

jobs = db.jobs


def fact(row: Mapping[str, Any]) -> dict[str, Any]:
    """One job as the API tells it."""
    kind = kinds.KINDS.get(row["kind"])
    names = ("id", "kind", "payload", "state", "attempts", "max_attempts", "worker", "created_at", "started_at",
             "finished_at", "error_code", "error", "result")  # fmt: skip
    return {**{name: row[name] for name in names}, "school": kind.school if kind else None,
            "priority": _PRIORITY.get(row["priority"], "normal"), "noted": False}  # fmt: skip


def _noted(command: Mapping[str, Any]) -> dict[str, Any]:
    """An order that the arena has not read yet, as a job that waits."""
    name = command["kind"].removeprefix(orders.SUBMIT)
    order, kind = command["payload"] or {}, kinds.KINDS.get(name)
    refused = (command["result"] or {}).get("reason")
    return {"id": command["id"], "kind": name, "payload": order.get("payload"), "attempts": 0, "worker": None,
            "state": "failed" if command["state"] == "failed" else "pending", "created_at": command["t"],
            "max_attempts": kind.max_attempts if kind else 0, "started_at": None,
            "finished_at": command["finished_at"], "error_code": "refused" if refused else None, "error": refused,
            "result": None, "school": kind.school if kind else None, "priority": order.get("priority", "normal"),
            "noted": True}  # fmt: skip


def listing(
    connection: sa.Connection, state: str | None = None, kind: str | None = None, cursor: str | None = None,
    limit: int = PAGE,
) -> dict[str, Any]:  # fmt: skip
    """{"jobs": newest first, "next": cursor of the page after, or None}. Orders not read yet come first.

    Raises:
        JobError: a cursor that is no job.
    """
    where = []
    if state:
        where.append(jobs.c.state == state)
    if kind:
        where.append(jobs.c.kind == kind)
    found = []
    if cursor:
        at = connection.execute(sa.select(jobs.c.created_at).where(jobs.c.id == cursor)).scalar()
        if at is None:
            raise JobError("refused", f"cursor {cursor[:80]!r} is no job; begin without one")
        where.append(sa.tuple_(jobs.c.created_at, jobs.c.id) < sa.tuple_(at, cursor))
    elif state in (None, "pending"):
        noted = orders.commands
        query = sa.select(noted).where(noted.c.state == "pending", noted.c.kind.startswith(orders.SUBMIT))
        query = query if kind is None else query.where(noted.c.kind == orders.SUBMIT + kind)
        query = query.order_by(noted.c.t.desc()).limit(limit)
        found = [_noted(row) for row in connection.execute(query).mappings()]
    query = sa.select(jobs).where(*where).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit + 1)
    rows = [fact(row) for row in connection.execute(query).mappings()]
    return {"jobs": found + rows[:limit], "next": rows[limit - 1]["id"] if len(rows) > limit else None}


def one(connection: sa.Connection, job_id: str) -> dict[str, Any]:
    """A job with its audit trail.

    Raises:
        JobError: neither a job nor an order for one.
    """
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).mappings().first()
    if row is None:
        noted = orders.commands
        query = sa.select(noted).where(noted.c.id == job_id, noted.c.kind.startswith(orders.SUBMIT))
        command = connection.execute(query).mappings().first()
        if command is None:
            board.find(connection, job_id)  # says that there is none
        return {**_noted(command), "trail": []}
    trail = sa.select(*(db.job_audit.c[n] for n in ("t", "what", "attempt", "worker", "detail")))
    trail = trail.where(db.job_audit.c.job_id == job_id).order_by(db.job_audit.c.id)
    return {**fact(row), "trail": [dict(line) for line in connection.execute(trail).mappings()]}


def counts(connection: sa.Connection) -> dict[str, Any]:
    """Jobs pending, running, succeeded in the last hour; and of those that ended in a day, how many failed."""
    by_state = dict(connection.execute(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)).all())
    noted = orders.commands
    waiting = connection.execute(sa.select(sa.func.count()).where(
        noted.c.state == "pending", noted.c.kind.startswith(orders.SUBMIT))).scalar_one()  # fmt: skip

    def ended(state: str, within: float) -> int:
        query = sa.select(sa.func.count()).where(jobs.c.state == state, jobs.c.finished_at >= db.now() - within)
        return connection.execute(query).scalar_one()

    failed, done = ended("failed", DAY_S), ended("succeeded", DAY_S)
    oldest = connection.execute(sa.select(sa.func.min(jobs.c.created_at)).where(jobs.c.state == "pending")).scalar()
    return {"pending": by_state.get("pending", 0) + waiting, "running": by_state.get("running", 0),
            "succeeded_hour": ended("succeeded", HOUR_S), "failed_day": failed, "ended_day": failed + done,
            "oldest_pending": oldest}  # fmt: skip


def workers(connection: sa.Connection, home: RealmHome) -> list[dict[str, Any]]:
    """Machines that work: this one, and those of a cluster as the arena last saw them.

    Each: name, schools, slots, alive, seen (Unix seconds of the last sign of life, None: never), running (job ids).
    """
    at = connection.execute(sa.select(jobs.c.id, jobs.c.worker).where(jobs.c.state == "running")).all()
    alive = services.noted(home, "arena") is not None
    cluster = bool(home.settings.jobs_ray)
    mine = sorted({kind.school for kind in kinds.KINDS.values() if not (cluster and kind.anywhere)})
    found = [{"name": "this machine", "schools": mine, "slots": sum(SLOTS.values()), "alive": alive,
              "seen": db.now() if alive else None}]  # fmt: skip
    told = campaigns.value(connection, board.WORKERS) or {"t": None, "workers": []}
    if cluster and not told["workers"]:
        away = sorted({kind.school for kind in kinds.KINDS.values() if kind.anywhere})
        found.append({"name": f"the cluster at {home.settings.jobs_ray}", "schools": away, "slots": 0, "alive": False,
                      "seen": None})  # fmt: skip
    if cluster:
        found += [{**worker, "alive": worker["alive"] and alive, "seen": worker.get("seen", told["t"])}
                  for worker in told["workers"]]  # fmt: skip
    return [{**worker, "running": [row.id for row in at if row.worker == worker["name"]]} for worker in found]


def health(count: Mapping[str, Any], found: list[dict[str, Any]]) -> str:
    """One line in words: what keeps jobs waiting, or that nothing does."""
    here = next(worker for worker in found if worker["name"] == "this machine")
    if not here["alive"]:
        wait = f"{_jobs(count['pending'], 'waits', 'wait')}; " if count["pending"] else ""
        return f"{wait}the arena does not run, so nothing is worked: `python3 -m training start-all`."
    gone = [worker["name"] for worker in found if not worker["alive"]]
    if gone:
        return f"No word from {', '.join(gone)}: what ran there goes to others, and waits while there are none."
    if count["ended_day"] >= 5 and count["failed_day"] > count["ended_day"] / 5:
        return f"{count['failed_day']} of {count['ended_day']} jobs failed in a day: look at their errors."
    told = [_jobs(count["running"], "is worked", "are worked")] if count["running"] else []
    told += [_jobs(count["pending"], "waits", "wait")] if count["pending"] else []
    return f"{', '.join(told)}." if told else "Nothing waits."


def _jobs(count: int, single: str, many: str) -> str:
    return f"1 job {single}" if count == 1 else f"{count} jobs {many}"

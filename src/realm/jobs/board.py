"""The job table: every change of a job's state, with its line in the audit trail and its event, in one transaction.

pending → running → succeeded | failed | cancelled. `claim` gives an attempt a token; only the attempt whose token the
row holds may finish it, so a worker that comes back too late is refused. Written by the job executor only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.jobs import kinds
from realm.jobs.kinds import LOST, Kind

BACKOFF_S = (0.0, 5.0, 30.0)  # before the second, third, … attempt of a job that was not simply lost
OPEN = ("pending", "running")
FINISHED = ("succeeded", "failed", "cancelled")
ERROR_CHARS = 4000
WORKERS = "job_workers"  # in realm_values: machines of a cluster, as the executor sees them

jobs, audit = db.jobs, db.job_audit
# With its values as parameters a statement is compiled once; `.values()` would be looked through every time.
_CHANGE = sa.update(jobs).where(jobs.c.id == sa.bindparam("job"))
_ONE = sa.select(jobs).where(jobs.c.id == sa.bindparam("job"))


@dataclass(frozen=True)
class Claimed:
    """One attempt that may begin."""

    job_id: str
    kind: str
    payload: dict[str, Any]
    token: str
    attempt: int


def add(connection: sa.Connection, job_id: str, kind: Kind, payload: Mapping[str, Any], priority: int) -> None:
    """A new job that waits."""
    connection.execute(sa.insert(jobs), {
        "id": job_id, "kind": kind.name, "payload": dict(payload), "priority": priority, "state": "pending",
        "attempts": 0, "max_attempts": kind.max_attempts, "not_before": 0.0, "created_at": db.now()})  # fmt: skip
    _note(connection, job_id, "submitted", 0)  # the order's own event tells it


def find(connection: sa.Connection, job_id: str) -> dict[str, Any]:
    """A job's row.

    Raises:
        JobError: there is none.
    """
    row = connection.execute(_ONE, {"job": job_id}).mappings().first()
    if row is None:
        raise kinds.JobError("refused", f"no job {str(job_id)[:80]}; `python3 -m training jobs list` names them")
    return dict(row)


def claimable(connection: sa.Connection, names: Collection[str], limit: int) -> list[dict[str, Any]]:
    """Pending jobs of these kinds whose waiting time is over: high priority first, then the oldest."""
    query = sa.select(jobs).where(jobs.c.state == "pending", jobs.c.kind.in_(names), jobs.c.not_before <= db.now())
    query = query.order_by(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def claim(connection: sa.Connection, row: Mapping[str, Any], worker: str) -> Claimed:
    """Begin an attempt of a pending job."""
    token, attempt = db.new_id(), row["attempts"] + 1
    _change(connection, row["id"], state="running", attempts=attempt, token=token, worker=worker, started_at=db.now(),
            finished_at=None, error=None, error_code=None)  # fmt: skip
    _note(connection, row["id"], "started", attempt, worker)
    _tell(connection, row["id"], row["kind"], "running", attempt, worker=worker)
    return Claimed(row["id"], row["kind"], row["payload"], token, attempt)


def finish(
    connection: sa.Connection, job_id: str, token: str, write: Callable[[sa.Connection], Mapping[str, Any]],
    worker: str | None = None,
) -> bool:  # fmt: skip
    """Keep the result of an attempt. False, and one line in the trail, when the attempt no longer holds the job.

    Args:
        write: makes the result, and writes what else follows from it; called only when it counts.
    """
    row = _held(connection, job_id, token, "its result", worker)
    if row is None:
        return False
    _close(connection, row, "succeeded", result=dict(write(connection)), worker=worker or row["worker"])
    return True


def fail(
    connection: sa.Connection, job_id: str, token: str, code: str, text: str, worker: str | None = None
) -> bool:  # fmt: skip
    """An attempt failed or was lost: another one waits when the kind says that this error is worth it and attempts
    are left, else the job failed. False when the attempt no longer counts."""
    row = _held(connection, job_id, token, f"its error ({code})", worker)
    if row is None:
        return False
    kind = kinds.KINDS.get(row["kind"])
    again = row["attempts"] < row["max_attempts"] and kind is not None and code in kind.retryable
    text = text[:ERROR_CHARS]
    if not again:
        tried = f" (attempt {row['attempts']} of {row['max_attempts']})" if row["attempts"] > 1 else ""
        _close(connection, row, "failed", error_code=code, error=text + tried, worker=worker or row["worker"])
        return True
    wait = 0.0 if code == LOST else BACKOFF_S[min(row["attempts"], len(BACKOFF_S) - 1)]
    _change(connection, job_id, state="pending", token=None, error_code=code, error=text, not_before=db.now() + wait)
    _note(connection, job_id, "lost", row["attempts"], worker or row["worker"], f"{code}: {text}")
    _tell(connection, job_id, row["kind"], "pending", row["attempts"], error=f"{code}: {text}")
    return True


def release(connection: sa.Connection, job_id: str, token: str, why: str) -> None:
    """Give a running job back without blame (the arena is being stopped): the attempt is not counted."""
    row = find(connection, job_id)
    if row["state"] != "running" or row["token"] != token:
        return
    _change(connection, job_id, state="pending", token=None, attempts=row["attempts"] - 1)
    _note(connection, job_id, "released", row["attempts"], row["worker"], why)
    _tell(connection, job_id, row["kind"], "pending", row["attempts"] - 1)


def cancel(connection: sa.Connection, job_id: str) -> str | None:
    """Cancel a job at any time; returns the token of the attempt that must be ended, if one runs.

    Raises:
        JobError: no such job, or it is over.
    """
    row = find(connection, job_id)
    if row["state"] not in OPEN:
        raise kinds.JobError("refused", f"job {job_id} is {row['state']} already; there is nothing to cancel")
    _close(connection, row, "cancelled", error_code="cancelled", error="cancelled by a person", worker=row["worker"])
    return row["token"]


def retry(connection: sa.Connection, job_id: str) -> None:
    """Let a failed or cancelled job wait again, with as many new attempts as its kind allows.

    Raises:
        JobError: no such job, of a kind that is gone, or it neither failed nor was cancelled.
    """
    row = find(connection, job_id)
    kind = kinds.get(row["kind"])
    if row["state"] not in ("failed", "cancelled"):
        raise kinds.JobError("refused", f"job {job_id} is {row['state']}; only failed and cancelled ones are retried")
    _change(connection, job_id, state="pending", max_attempts=row["attempts"] + kind.max_attempts, not_before=0.0,
            error=None, error_code=None, finished_at=None, result=None)  # fmt: skip
    _note(connection, job_id, "retried", row["attempts"])
    _tell(connection, job_id, row["kind"], "pending", row["attempts"])


def running(connection: sa.Connection) -> list[dict[str, Any]]:
    """Jobs that an attempt holds."""
    return [dict(r) for r in connection.execute(sa.select(jobs).where(jobs.c.state == "running")).mappings()]


def old(connection: sa.Connection, before: float) -> list[str]:
    """Jobs that ended before that time."""
    query = sa.select(jobs.c.id).where(jobs.c.state.in_(FINISHED), jobs.c.finished_at < before)
    return list(connection.execute(query).scalars())


def prune(connection: sa.Connection, before: float) -> list[str]:
    """Forget jobs that ended before that time, with their trails; returns their ids (folders `jobs/<id>/`)."""
    gone = old(connection, before)
    for job_id in gone:
        connection.execute(sa.delete(audit).where(audit.c.job_id == job_id))
        connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
    return gone


def _held(
    connection: sa.Connection, job_id: str, token: str, what: str, worker: str | None
) -> dict[str, Any] | None:  # fmt: skip
    """The row when this attempt still holds the job; else None and the refusal is on record."""
    row = find(connection, job_id)
    if row["state"] == "running" and row["token"] == token:
        return row
    _note(connection, job_id, "refused", row["attempts"], worker,
          f"{what} came too late: attempt {token} no longer holds the job, which is {row['state']}")  # fmt: skip
    return None


def _close(connection: sa.Connection, row: Mapping[str, Any], state: str, **columns: Any) -> None:
    kept = {"error": None, "error_code": None, "worker": row["worker"], "result": None, **columns}
    _change(connection, row["id"], state=state, token=None, finished_at=db.now(), **kept)
    error = columns.get("error") if state == "failed" else None
    _note(connection, row["id"], state, row["attempts"], columns.get("worker"), columns.get("error"))
    more = {name: value for name, value in (("worker", columns.get("worker")), ("error", error)) if value}
    _tell(connection, row["id"], row["kind"], state, row["attempts"], **more)


def _change(connection: sa.Connection, job_id: str, **columns: Any) -> None:
    connection.execute(_CHANGE, {"job": job_id, **columns})


def _note(
    connection: sa.Connection, job_id: str, what: str, attempt: int, worker: str | None = None,
    detail: str | None = None,
) -> None:  # fmt: skip
    connection.execute(sa.insert(audit), {"job_id": job_id, "t": db.now(), "what": what, "attempt": attempt,
                                          "worker": worker, "detail": detail})  # fmt: skip


def _tell(connection: sa.Connection, job_id: str, kind: str, state: str, attempt: int, **more: Any) -> None:
    again = state == "pending" and more.get("error")
    text = f"Job {kind} {'waits for another attempt' if again else state}"
    text += f": {more['error']}" if more.get("error") else "."
    events.emit(connection, "job", text, "trouble" if state == "failed" else "info", job_id=job_id, kind=kind,
                state=state, attempt=attempt, **more)  # fmt: skip

"""What the Jobs page prints: how it stands in words, jobs, workers, the form for a trial; and one job."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns, progress
from realm.jobs import kinds
from realm.jobs import queries as jobs
from realm.state import queries
from realm.tavern.views.home import Facts

ROWS = 40
CHECKPOINTS = 20
LATE_S, LOST_S = 30.0, 120.0  # a worker's last sign of life: amber, red
TRIAL_ITEMS = (100, 200, 400)


def board(
    connection: sa.Connection, f: Facts, state: str | None = None, kind: str | None = None, cursor: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Jobs and workers. JobError when the cursor is no job."""
    found = jobs.listing(connection, state, kind, cursor, ROWS)
    count, workers = jobs.counts(connection), jobs.workers(connection, f.home)
    now = db.now()
    return {
        "jobs": [{**job, "age": max(0.0, now - job["created_at"]), "took": _took(job, now),
                  "open": job["state"] in ("pending", "running"), "again": job["state"] in ("failed", "cancelled")
                  and not job["noted"]} for job in found["jobs"]],
        "older": _query(state, kind, found["next"]) if found["next"] else None, "newest": _query(state, kind),
        "paged": cursor is not None, "state": state, "kind": kind, "query": _query(state, kind, cursor),
        "filters": [("all", None, _query(None, kind)), *((s, s, _query(s, kind)) for s in jobs.STATES)],
        "counts": count, "health": jobs.health(count, workers),
        "workers": [{**worker, "age": None if worker["seen"] is None else max(0.0, now - worker["seen"]),
                     "tone": _tone(worker, now)} for worker in workers],
    }  # fmt: skip


def _took(job: dict[str, Any], now: float) -> float | None:
    if job["started_at"] is None or job["state"] == "pending":
        return None
    return max(0.0, (job["finished_at"] or now) - job["started_at"])


def _tone(worker: dict[str, Any], now: float) -> str:
    if not worker["alive"]:
        return "fail"
    age = now - worker["seen"]
    return "fail" if age > LOST_S else "undecided" if age > LATE_S else "pass"


def _query(state: str | None, kind: str | None, cursor: str | None = None) -> str:
    asked = {name: value for name, value in (("state", state), ("kind", kind), ("cursor", cursor)) if value}
    return f"?{urlencode(asked)}" if asked else ""


def form(connection: sa.Connection, f: Facts) -> dict[str, Any]:
    """What a new trial can be of: skills that are played with their levels, checkpoints, newest first."""
    campaign = campaigns.value(connection, campaigns.ACTIVE)
    played = progress.played_skills(connection, f.campaign) if f.campaign else []
    live = [c for c in queries.checkpoints(connection) if c["state"] == "live"][:CHECKPOINTS]
    champion = campaigns.value(connection, f"champion:{campaign}")
    return {
        "skills": [{"id": skill.id, "levels": skill.max_level} for skill in played],
        "checkpoints": [{"id": c["id"], "step": c["step"], "hero": c["hero_id"], "champion": c["id"] == champion}
                        for c in live],
        "sizes": TRIAL_ITEMS, "room": kinds.KINDS["eval"].max_pending,
    }  # fmt: skip


def one(connection: sa.Connection, job_id: str) -> dict[str, Any]:
    """A job with its trail, its payload and result as text. JobError when there is none."""
    found = jobs.one(connection, job_id)
    result = dict(found["result"] or {})
    files = result.pop("files", {})
    return {**found, "payload_text": _text(found["payload"]), "result_text": _text(result) if result else "",
            "files": [{"name": name, **facts} for name, facts in files.items()],
            "open": found["state"] in ("pending", "running"),
            "again": found["state"] in ("failed", "cancelled") and not found["noted"]}  # fmt: skip


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)

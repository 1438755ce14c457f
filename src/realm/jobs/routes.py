"""`/api/jobs` and `/api/workers`.

    curl -X POST http://localhost:8888/api/jobs -H 'content-type: application/json' \\
         -d '{"kind": "eval", "payload": {"checkpoint": "latest", "skill": "bin", "level": 2}}'
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, HTTPException, Query
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict

from realm import db
from realm.jobs import kinds, orders, queries
from realm.jobs.depot import inside
from realm.jobs.kinds import JobError
from realm.settings import RealmHome
from realm.state.orders import OrderError
from realm.state.stream import Hub

Key = Annotated[str | None, Header(alias="Idempotency-Key")]
State = Literal["pending", "running", "succeeded", "failed", "cancelled"]


class NewJob(BaseModel):
    """What is to be done; `payload` depends on the kind (`GET /api/jobs/kinds`)."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    payload: dict[str, Any] = {}
    priority: Literal["high", "normal", "low"] = "normal"


class Submitted(BaseModel):
    """The order was noted. The job's id is the order's: `GET /api/jobs/{job_id}` follows it."""

    command_id: str
    job_id: str


def add(router: APIRouter, home: RealmHome, hub: Hub) -> None:
    """Put the routes on the API's router."""
    _reads(router, home, hub)
    _orders(router, home, hub)


def _reads(router: APIRouter, home: RealmHome, hub: Hub) -> None:
    @router.get("/jobs")
    def jobs(
        state: State | None = None, kind: str | None = None, cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=queries.PAGE_MAX)] = queries.PAGE,
    ) -> dict[str, Any]:  # fmt: skip
        with db.read(hub.engine) as connection:
            try:
                found = queries.listing(connection, state, kind, cursor, limit)
            except JobError as error:
                raise HTTPException(422, str(error)) from error
            return {**found, "counts": queries.counts(connection)}

    @router.get("/jobs/kinds")
    def job_kinds() -> list[dict[str, Any]]:
        return [{"kind": k.name, "school": k.school, "what": k.what, "timeout_s": k.timeout_s, "lane": k.lane,
                 "max_pending": k.max_pending, "max_attempts": k.max_attempts, "retryable": sorted(k.retryable),
                 "anywhere": k.anywhere, "payload": k.payload.model_json_schema()}
                for k in kinds.KINDS.values()]  # fmt: skip

    @router.get("/jobs/{job_id}")
    def job(job_id: str) -> dict[str, Any]:
        return _one(hub, job_id)

    @router.get("/jobs/{job_id}/files/{name}")
    def job_file(job_id: str, name: str) -> FileResponse:
        facts = ((_one(hub, job_id)["result"] or {}).get("files") or {}).get(name)
        path = inside(home.root, facts["path"]) if facts else None
        if path is None or not path.is_file():
            raise HTTPException(404, f"job {job_id} has no file {name[:80]!r}; its result names them")
        return FileResponse(path, filename=name, media_type="application/octet-stream")

    @router.get("/workers")
    def workers() -> list[dict[str, Any]]:
        with db.read(hub.engine) as connection:
            return queries.workers(connection, home)


def _one(hub: Hub, job_id: str) -> dict[str, Any]:
    with db.read(hub.engine) as connection:
        try:
            return queries.one(connection, job_id)
        except JobError as error:
            raise HTTPException(404, str(error)) from error


def _orders(router: APIRouter, home: RealmHome, hub: Hub) -> None:
    @router.post("/jobs", status_code=202)
    def submit(body: NewJob, key: Key = None) -> Submitted:
        """429 with Retry-After when too many of the kind wait."""
        try:
            job_id = orders.submit(hub.engine, home, body.kind, body.payload, body.priority, key)
        except orders.QueueFull as error:
            raise HTTPException(429, str(error), {"Retry-After": str(error.retry_after)}) from error
        except (JobError, OrderError) as error:
            raise HTTPException(422, str(error)) from error
        return Submitted(command_id=job_id, job_id=job_id)

    @router.post("/jobs/{job_id}/{order}", status_code=202)
    def about(job_id: str, order: Literal["cancel", "retry"], key: Key = None) -> Submitted:
        give = orders.cancel if order == "cancel" else orders.retry
        try:
            return Submitted(command_id=give(hub.engine, job_id, key), job_id=job_id)
        except JobError as error:
            raise HTTPException(404, str(error)) from error
        except OrderError as error:
            raise HTTPException(422, str(error)) from error

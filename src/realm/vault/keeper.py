"""VaultKeeper: the Vault over HTTP, on its own port (8767) and, same-origin, on the Tavern's.

    curl http://localhost:8767/api/vault
    curl http://localhost:8767/api/vault/retention
    curl -X POST http://localhost:8767/api/vault/CHECKPOINT/pin

Reading answers at once; an order answers 202 with its `command_id`, is carried out by the arena, and its result is
`GET /api/vault/orders/COMMAND_ID`. A checkpoint is named by its whole id and a file by its name in the manifest: no
part of a request is ever taken as a path. With `Idempotency-Key` a repeated order is given once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Body, FastAPI, Header, HTTPException, Query
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from realm import db
from realm.settings import RealmHome
from realm.vault import catalog, checkpoints, places, portable, retention, trash
from realm.vault.catalog import VaultError

Key = Annotated[str | None, Header(alias="Idempotency-Key")]
Engine = Callable[[], sa.Engine]  # asked at each request: a database that is missing is an answer, not a crash
Give = Callable[[sa.Engine, str, dict[str, Any], str | None], str]
"""(engine, kind, payload, idempotency key) → command id; ValueError when the key cannot be taken."""
State = Literal["live", "corrupt", "deep", "trash", "gone"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Tags(_Body):
    add: list[str] = Field(default_factory=list, max_length=50)
    drop: list[str] = Field(default_factory=list, max_length=50)


class Move(_Body):
    zone: Literal["hot", "warm", "deep"]


class Export(_Body):
    format: Literal["hf", "merged", "gguf", "gguf-ids"] = "hf"
    quantize: Literal["f32", "f16", "q8_0"] = "f32"


class Delete(_Body):
    """`confirm`: the checkpoint's id once more."""

    confirm: str


class Apply(_Body):
    """`going`: how many checkpoints the dry run named; another number means that something changed meanwhile."""

    going: int = Field(ge=0)


class Import(_Body):
    """`name`: a folder in `imports/` of the realm home; never a path."""

    name: str
    hero_id: str


class Accepted(BaseModel):
    """The order was noted."""

    command_id: str


def make_router(home: RealmHome, made: Engine, give: Give) -> APIRouter:
    """All routes under `/api/vault`."""
    router = APIRouter(prefix="/api/vault")
    _reads(router, home, made)
    _orders(router, home, made, give)
    _one(router, home, made)
    _one_orders(router, made, give)
    return router


def _asked(made: Engine, question: Callable[[sa.Connection], Any]) -> Any:
    try:
        with db.read(made()) as connection:
            return question(connection)
    except VaultError as error:
        missing = str(error).startswith("no checkpoint")
        raise HTTPException(404 if missing else 422, str(error)) from error


def _reads(router: APIRouter, home: RealmHome, made: Engine) -> None:
    @router.get("")
    def listing(
        campaign: str | None = None, state: State | None = None, tag: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> dict[str, Any]:  # fmt: skip
        """Checkpoints, newest first, each with its trials and with what protects it; deleted ones when asked for."""

        def ask(connection: sa.Connection) -> dict[str, Any]:
            rows = catalog.listing(connection, campaign_id=campaign, states=(state,) if state else (), tag=tag,
                                   limit=limit)  # fmt: skip
            why = catalog.protected(connection)
            return {"checkpoints": [{**row, "protected": why.get(row["id"], [])} for row in rows]}

        return _asked(made, ask)

    @router.get("/disk")
    def disk() -> dict[str, Any]:
        """Bytes in use, in the trash and free, by zone."""
        return {"zones": _asked(made, lambda connection: catalog.disk(home, connection))}

    @router.get("/retention")
    def retention_now() -> dict[str, Any]:
        """What retention would move to the trash now, with the reason for every checkpoint. Changes nothing."""
        return _asked(made, lambda connection: retention.plan(home, connection).to_dict())

    @router.get("/exports")
    def exports() -> dict[str, Any]:
        """Records of the exports that are whole."""
        return {"exports": portable.exports(home)}

    @router.get("/compare")
    def compare(one: str, other: str) -> dict[str, Any]:
        """Where two checkpoints differ: configuration, metrics, trials, data."""
        return _asked(made, lambda connection: catalog.compare(home, connection, one, other))

    @router.get("/orders/{command_id}")
    def order(command_id: str) -> dict[str, Any]:
        """What became of an order: pending, done or failed, with its result."""
        table = db.commands
        row = _asked(made, lambda connection: connection.execute(
            sa.select(table).where(table.c.id == command_id)).mappings().first())  # fmt: skip
        if row is None:
            raise HTTPException(404, f"no order {command_id[:80]}; it was never given here")
        return {"command_id": row["id"], "kind": row["kind"], "state": row["state"], "result": row["result"]}


def _given(made: Engine, give: Give, act: str, payload: dict[str, Any], key: str | None) -> Accepted:
    try:
        return Accepted(command_id=give(made(), f"vault.{act}", payload, key))
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


def _orders(router: APIRouter, home: RealmHome, made: Engine, give: Give) -> None:
    @router.post("/retention", status_code=202)
    def apply(body: Apply, key: Key = None) -> Accepted:
        """Carry out what the dry run (GET) showed."""
        now = len(_asked(made, lambda connection: retention.plan(home, connection)).going)
        if now != body.going:
            raise HTTPException(409, f"{now} checkpoints would go now, not {body.going}; look at the dry run again")
        return _given(made, give, "retention", {}, key)

    @router.post("/trash/empty", status_code=202)
    def empty(key: Key = None) -> Accepted:
        """Remove deleted checkpoints for good."""
        return _given(made, give, "empty", {}, key)

    @router.post("/verify", status_code=202)
    def verify_all(key: Key = None) -> Accepted:
        """Hash every checkpoint: what is damaged goes out of use, what is whole again comes back."""
        return _given(made, give, "verify", {}, key)

    @router.post("/import", status_code=202)
    def take_in(body: Import, key: Key = None) -> Accepted:
        """Make a checkpoint of a folder in `imports/`."""
        _asked(made, lambda connection: portable.may_import(connection, home, body.model_dump()))
        return _given(made, give, "import", body.model_dump(), key)


def _one(router: APIRouter, home: RealmHome, made: Engine) -> None:
    @router.get("/{checkpoint_id}")
    def show(checkpoint_id: str) -> dict[str, Any]:
        """Everything the ledger and the manifest say."""
        return _asked(made, lambda connection: catalog.show(home, connection, checkpoint_id))

    @router.get("/{checkpoint_id}/lineage")
    def lineage(checkpoint_id: str) -> dict[str, Any]:
        """Runs, quests, data hashes and trials that made it."""
        return _asked(made, lambda connection: catalog.lineage(connection, checkpoint_id))

    @router.get("/{checkpoint_id}/files/{name:path}")
    def file(checkpoint_id: str, name: str) -> FileResponse:
        """One file, by its name in the manifest; the sha256 to compare with is in the header `x-sha256`."""
        row = _asked(made, lambda connection: catalog.row_of(connection, checkpoint_id))
        if row["state"] != "live" or not places.reachable(home, row["zone"]):
            raise HTTPException(409, f"checkpoint {row['id']} is {row['state']} in zone {row['zone']}; only a live one "
                                "in reach is served")  # fmt: skip
        manifest = catalog.manifest_of(home, row)
        if manifest is None:
            raise HTTPException(409, f"the manifest of checkpoint {row['id']} is not the ledger's; order a verify")
        listed = {**manifest["files"], **manifest[checkpoints.RESUME]}
        if name == checkpoints.MANIFEST:
            digest = row["manifest_sha256"]
        elif name in listed:
            digest = listed[name]["sha256"]
        else:
            raise HTTPException(404, f"checkpoint {row['id']} has no file {name[:80]!r}; its manifest names them")
        path = places.place_of(home, row) / name
        if not path.is_file() or path.is_symlink():
            raise HTTPException(409, f"{name} is not with checkpoint {row['id']} (pruned or damaged); order a verify")
        return FileResponse(path, headers={"x-sha256": digest}, media_type="application/octet-stream")


def _one_orders(router: APIRouter, made: Engine, give: Give) -> None:
    def known(checkpoint_id: str) -> dict[str, Any]:
        return _asked(made, lambda connection: catalog.row_of(connection, checkpoint_id))

    @router.post("/{checkpoint_id}/move", status_code=202)
    def move(checkpoint_id: str, body: Move, key: Key = None) -> Accepted:
        return _given(made, give, "move", {"checkpoint_id": known(checkpoint_id)["id"], "zone": body.zone}, key)

    @router.post("/{checkpoint_id}/export", status_code=202)
    def export(checkpoint_id: str, body: Annotated[Export | None, Body()] = None, key: Key = None) -> Accepted:
        chosen = body or Export()
        return _given(made, give, "export", {"checkpoint_id": known(checkpoint_id)["id"], **chosen.model_dump()}, key)

    @router.post("/{checkpoint_id}/{act}", status_code=202)
    def plain(
        checkpoint_id: str, act: Literal["promote", "demote", "pin", "unpin", "verify", "restore"], key: Key = None
    ) -> Accepted:
        payload = {"checkpoint_id": known(checkpoint_id)["id"]}
        if act in ("pin", "unpin"):
            payload["pinned"] = act == "pin"
        return _given(made, give, act.removeprefix("un"), payload, key)

    @router.patch("/{checkpoint_id}/tags", status_code=202)
    def tag(checkpoint_id: str, body: Tags, key: Key = None) -> Accepted:
        return _given(made, give, "tag", {"checkpoint_id": known(checkpoint_id)["id"], **body.model_dump()}, key)

    @router.delete("/{checkpoint_id}", status_code=202)
    def delete(checkpoint_id: str, body: Delete, key: Key = None) -> Accepted:
        """Move it to the trash. The id is asked for twice, so that no slip of the hand deletes another."""
        row = known(checkpoint_id)
        if body.confirm != row["id"]:
            raise HTTPException(422, f"confirm = {body.confirm[:60]!r} is not the checkpoint's id; repeat the whole id")
        _asked(made, lambda connection: trash.may_delete(connection, row))
        return _given(made, give, "delete", {"checkpoint_id": row["id"]}, key)


def create_app(home: RealmHome, give: Give) -> FastAPI:
    """The application of the Vault's own port; the caller adds the guard (host, origin, token)."""
    app = FastAPI(title="VaultKeeper", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.include_router(make_router(home, cache(partial(db.connect, home)), give))

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.exception_handler(db.SchemaError)
    async def no_database(_: Any, error: db.SchemaError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503)

    return app

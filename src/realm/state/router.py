"""`/api/*`: the realm's state, its event stream, and orders to it. Mounted on the state port and on the Tavern's.

    curl http://localhost:8866/api/state
    curl -N http://localhost:8866/api/stream
    curl -X POST http://localhost:8866/api/battle/pause
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, FastAPI, Header, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict

from realm import db, events, schools
from realm.guild import campaigns
from realm.guild.skills import SkillError, get_skill
from realm.heroes.profile import ProfileError
from realm.jobs import routes as jobs
from realm.settings import RealmHome
from realm.state import orders, queries, uploads, vram_asked
from realm.state.guard import Guard
from realm.state.momentum import Momentum, find, momentum
from realm.state.progression import Progression, progression
from realm.state.reader import snapshot
from realm.state.snapshot import RealmSnapshot
from realm.state.stream import EventStream, Hub, hub_of
from realm.state.temple import TempleState, temple
from realm.temple.orders import ORDERS
from realm.vault.champion import crowned

Key = Annotated[str | None, Header(alias="Idempotency-Key")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Mode(_Body):
    mode: Literal["train", "rest"]


class Move(_Body):
    lane: Literal["high", "normal", "low"]


class School(_Body):
    school: str


class Hold(_Body):
    hold: bool = True


class Trial(_Body):
    level: int | None = None


class Ask(_Body):
    fix: bool = False


class Accepted(BaseModel):
    """An order was noted; its result comes as a `command` event with this id."""

    command_id: str


def make_router(home: RealmHome, hub: Hub) -> APIRouter:
    """All routes under `/api`."""
    router = APIRouter(prefix="/api")
    _reads(router, home, hub)
    _battle_reads(router, hub)
    _memory(router, home, hub)
    _orders(router, hub)
    _quest_orders(router, hub)
    _inbox(router, home)
    _temple(router, home, hub)
    jobs.add(router, home, hub)
    return router


def _reads(router: APIRouter, home: RealmHome, hub: Hub) -> None:
    @router.get("/state")
    def state() -> RealmSnapshot:
        with db.read(hub.engine) as connection:
            return snapshot(connection, home)

    @router.get("/stream")
    async def stream(
        last_event_id: Annotated[str | None, Header()] = None,
        after: Annotated[int | None, Query(alias="last_event_id", ge=0)] = None,
    ):
        """Server-sent events. `Last-Event-ID` (or `?last_event_id=`) replays what came after it."""
        known = after
        if last_event_id:
            if not last_event_id.isdigit():
                raise HTTPException(422, f"Last-Event-ID {last_event_id[:40]!r} is no event id; send a whole number")
            known = int(last_event_id)
        return EventStream(hub, known)

    @router.get("/quests")
    def quests() -> dict[str, Any]:
        with db.read(hub.engine) as connection:
            return {**queries.quests(connection, home), "limits": uploads.limits(home)}

    @router.get("/log")
    def log(
        after: Annotated[int | None, Query(ge=0)] = None, before: Annotated[int | None, Query(ge=1)] = None,
        level: Literal["deed", "info", "trouble"] | None = None, limit: Annotated[int, Query(ge=1, le=500)] = 60,
    ) -> dict[str, Any]:  # fmt: skip
        with db.read(hub.engine) as connection:
            found = queries.log(connection, after, before, (level,) if level else (), limit)
            newest = events.last_id(connection)
        rows = [{"id": e.id, "t": e.t, "kind": e.kind, "level": e.level, "text": e.text, "payload": e.payload}
                for e in found]  # fmt: skip
        return {"last_id": newest, "events": rows}

    @router.get("/trials")
    def trials(skill: str | None = None, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> list[dict[str, Any]]:
        with db.read(hub.engine) as connection:
            return queries.trials(connection, snapshot(connection, home).campaign.id, skill, limit)

    @router.get("/skills")
    def skills() -> list[dict[str, Any]]:
        with db.read(hub.engine) as connection:
            return queries.skills(connection, snapshot(connection, home).campaign.id)

    @router.get("/progression")
    def progression_now() -> Progression:
        """Title, debuffs, achievements and combat results of the active campaign's hero."""
        with db.read(hub.engine) as connection:
            return progression(connection, campaigns.value(connection, campaigns.ACTIVE))

    @router.get("/checkpoints")
    def checkpoints() -> dict[str, Any]:
        with db.read(hub.engine) as connection:
            campaign = snapshot(connection, home).campaign.id
            return {"champion": crowned(connection, campaign), "checkpoints": queries.checkpoints(connection)}

    @router.get("/commands/{command_id}")
    def command(command_id: str) -> dict[str, Any]:
        found = orders.outcome(hub.engine, command_id)
        if found is None:
            raise HTTPException(404, f"no order {command_id}; it was never given here")
        return found


def _memory(router: APIRouter, home: RealmHome, hub: Hub) -> None:
    @router.get("/vram")
    def memory(ask: Annotated[vram_asked.Ask, Query()]) -> dict[str, Any]:
        """What memory training a hero takes, by the one formula; see `training vram`."""
        try:
            return vram_asked.answer(home, hub.engine, ask)
        except ProfileError as error:
            raise HTTPException(422, str(error)) from error


def _battle_reads(router: APIRouter, hub: Hub) -> None:
    @router.get("/battles/{battle_id}")
    def battle(battle_id: str) -> dict[str, Any]:
        with db.read(hub.engine) as connection:
            return queries.battle_fact(_battle(connection, battle_id))

    @router.get("/battles/{battle_id}/series")
    def series(battle_id: str, points: Annotated[int, Query(ge=0, le=20000)] = 600) -> dict[str, Any]:
        with db.read(hub.engine) as connection:
            return queries.series(connection, _battle(connection, battle_id)["id"], points)

    @router.get("/battles/{battle_id}/tokens")
    def tokens(battle_id: str) -> dict[str, Any]:
        """Mask, weight, surprisal and entropy of every token of some rows."""
        with db.read(hub.engine) as connection:
            return queries.token_maps(connection, _battle(connection, battle_id)["id"])

    @router.get("/battles/{battle_id}/series.csv")
    def series_csv(battle_id: str) -> StreamingResponse:
        with db.read(hub.engine) as connection:
            found = _battle(connection, battle_id)["id"]
        headers = {"content-disposition": f'attachment; filename="battle-{found}.csv"'}
        return StreamingResponse(_csv(hub, found), media_type="text/csv; charset=utf-8", headers=headers)


def _battle(connection, battle_id: str) -> dict[str, Any]:
    found = queries.battle(connection, None if battle_id == "current" else battle_id)
    if found is None:
        raise HTTPException(404, f"no battle {battle_id}; /api/battles/current is the newest")
    return found


def _csv(hub: Hub, battle_id: str) -> Iterator[str]:
    with db.read(hub.engine) as connection:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(queries.SERIES)
        for number, row in enumerate(queries.all_steps(connection, battle_id)):
            writer.writerow(row)
            if number % 500 == 499:
                yield text.getvalue()
                text.seek(0)
                text.truncate()
        yield text.getvalue()


def _give(hub: Hub, kind: str, payload: dict[str, Any], key: str | None) -> Accepted:
    try:
        return Accepted(command_id=orders.give(hub.engine, kind, payload, key))
    except orders.OrderError as error:
        raise HTTPException(422, str(error)) from error


def _orders(router: APIRouter, hub: Hub) -> None:
    @router.post("/battle/{order}", status_code=202)
    def battle_order(order: Literal["pause", "resume", "stop", "skip", "save"], key: Key = None) -> Accepted:
        return _give(hub, f"battle.{order}", {}, key)

    @router.post("/checkpoints/{checkpoint_id}/rollback", status_code=202)
    def rollback(checkpoint_id: str, key: Key = None) -> Accepted:
        return _give(hub, "hero.rollback", {"checkpoint_id": checkpoint_id}, key)

    @router.post("/mode", status_code=202)
    def mode(body: Mode, key: Key = None) -> Accepted:
        return _give(hub, "mode", {"mode": body.mode}, key)

    @router.post("/skills/{skill_id}/trial", status_code=202)
    def trial(skill_id: str, body: Annotated[Trial | None, Body()] = None, key: Key = None) -> Accepted:
        payload = _skill_level(skill_id, body)
        return _give(hub, "trial.run", payload, key)

    @router.post("/skills/{skill_id}/generate", status_code=202)
    def generate(skill_id: str, body: Annotated[Trial | None, Body()] = None, key: Key = None) -> Accepted:
        return _give(hub, "idle.generate", _skill_level(skill_id, body), key)


def _skill_level(skill_id: str, body: Trial | None) -> dict[str, Any]:
    try:
        skill = get_skill(skill_id)
    except SkillError as error:
        raise HTTPException(404, str(error)) from error
    if body is None or body.level is None:
        return {"skill": skill_id}
    if not 1 <= body.level <= skill.max_level:
        raise HTTPException(422, f"level {body.level}: {skill_id} has levels 1 to {skill.max_level}; choose one")
    return {"skill": skill_id, "level": body.level}


def _quest_orders(router: APIRouter, hub: Hub) -> None:
    @router.post("/quests/{quest_id}/retry", status_code=202)
    def retry(quest_id: str, key: Key = None) -> Accepted:
        return _give(hub, "quest.retry", _known(hub, quest_id), key)

    @router.post("/quests/{quest_id}/move", status_code=202)
    def move(quest_id: str, body: Move, key: Key = None) -> Accepted:
        return _give(hub, "quest.move", {**_known(hub, quest_id), "lane": body.lane}, key)

    @router.post("/quests/{quest_id}/school", status_code=202)
    def school(quest_id: str, body: School, key: Key = None) -> Accepted:
        try:
            chosen = schools.entry(body.school).id
        except schools.SchoolError as error:
            raise HTTPException(422, str(error)) from error
        return _give(hub, "quest.school", {**_known(hub, quest_id), "school": chosen}, key)

    @router.post("/quests/{quest_id}/hold", status_code=202)
    def hold(quest_id: str, body: Annotated[Hold | None, Body()] = None, key: Key = None) -> Accepted:
        kind = "quest.hold" if body is None or body.hold else "quest.unhold"
        return _give(hub, kind, _known(hub, quest_id), key)

    @router.delete("/quests/{quest_id}", status_code=202)
    def delete(quest_id: str, key: Key = None) -> Accepted:
        return _give(hub, "quest.delete", _known(hub, quest_id), key)


def _known(hub: Hub, quest_id: str) -> dict[str, str]:
    table = db.quests
    with db.read(hub.engine) as connection:
        if connection.execute(table.select().where(table.c.id == quest_id)).first() is None:
            raise HTTPException(404, f"no quest {quest_id}; /api/quests names them")
    return {"quest_id": quest_id}


def _temple(router: APIRouter, home: RealmHome, hub: Hub) -> None:
    @router.get("/temple")
    def temple_now() -> TempleState:
        """The nine orders with their newest verdicts, and the ledger of blessings with its sum."""
        with db.read(hub.engine) as connection:
            return temple(connection)

    @router.post("/temple/{order}", status_code=202)
    def ask(order: str, body: Annotated[Ask | None, Body()] = None, key: Key = None) -> Accepted:
        """Ask one order, or `all`; its verdict comes as a `temple` event."""
        if order != "all" and order not in [each.id for each in ORDERS]:
            raise HTTPException(404, f"no order {order}; the nine are {', '.join(each.id for each in ORDERS)}, or all")
        return _give(hub, "temple.run", {"order": order, "fix": bool(body and body.fix)}, key)

    @router.get("/momentum")
    def momentum_now() -> Momentum:
        """What stands in the way: what was tried, why it failed, how to mend it, and the order that does."""
        with db.read(hub.engine) as connection:
            return momentum(connection, home)

    @router.post("/momentum/{blocker_id}", status_code=202)
    def act(blocker_id: str, key: Key = None) -> Accepted:
        """Give the order that a blocker carries."""
        with db.read(hub.engine) as connection:
            blocker = find(connection, home, blocker_id)
        if blocker is None:
            raise HTTPException(404, "this stands in the way no more; /api/momentum names what does")
        if blocker.act is None:
            raise HTTPException(409, f"no order mends this: {blocker.fix} {blocker.command or ''}".strip())
        return _give(hub, blocker.act.kind, blocker.act.payload, key)


def _inbox(router: APIRouter, home: RealmHome) -> None:
    @router.post("/inbox", status_code=201)
    async def inbox(request: Request, lane: str = "normal"):
        """Multipart upload, streamed into `inbox/<lane>/`. A browser without script is sent on to the board."""
        found = await uploads.receive(home, request.headers, request.stream(), lane)
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/quests", status_code=303)
        return {"files": [vars(each) for each in found]}


def _plain_errors(app: FastAPI) -> None:
    """Errors under /api are `{"detail": one sentence}`."""

    @app.exception_handler(uploads.UploadError)
    async def upload(_: Request, error: uploads.UploadError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": invalid_words(error)}, 422)


def invalid_words(error: RequestValidationError) -> str:
    """What was wrong with a request's parameters, in one line."""
    return "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())


def mount(app: FastAPI, home: RealmHome) -> Hub:
    """Give an application the API, its error form and the guard; returns the hub all of the home's apps share."""
    hub = hub_of(home)
    app.include_router(make_router(home, hub))
    _plain_errors(app)
    app.add_middleware(Guard, settings=home.settings)
    app.state.hub = hub
    return hub


def create_state_app(home: RealmHome) -> FastAPI:
    """The application of the state port (8866)."""
    app = FastAPI(title="RealmState", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    mount(app, home)
    return app



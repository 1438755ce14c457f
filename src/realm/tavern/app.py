"""The Tavern's application: pages and their panels on port 8888, with the realm's API on the same origin.

    python3 -m training serve tavern
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException

from realm import db, events
from realm.jobs.kinds import JobError
from realm.settings import RealmHome
from realm.state import machine, orders, queries, router, vram_asked
from realm.state.stream import Hub
from realm.tavern import oracle
from realm.tavern.views import home as home_views
from realm.tavern.views import jobs, pages, words
from realm.tavern.views import vault as vault_views
from realm.tavern.views.home import Facts
from realm.vault import catalog, keeper

STATIC = Path(__file__).parent / "static"
NAV = (
    ("/", "Tavern", "mug"), ("/battle", "Battle", "swords"), ("/quests", "Quests", "scroll"),
    ("/jobs", "Jobs", "anvil"), ("/oracle", "Oracle", "orb"), ("/vault", "Vault", "chest"),
    ("/guild", "Guild", "guild"), ("/temple", "Temple", "temple"), ("/campaign", "Campaign", "map"),
    ("/settings", "Settings", "cog"),
)  # fmt: skip
TABS = tuple(NAV[i] for i in (0, 1, 2, 6))
JobState = Literal["pending", "running", "succeeded", "failed", "cancelled"]
Show = Literal["deeds", "all", "trouble"]


@cache
def version() -> str:
    """Changes with the package's version and with every static script, so that open pages notice an upgrade."""
    digest = hashlib.sha256()
    for path in sorted((STATIC / "js").glob("*.js")):
        digest.update(path.read_bytes())
    try:
        number = metadata.version("realm-of-training")
    except metadata.PackageNotFoundError:
        number = "source"
    return f"{number}-{digest.hexdigest()[:8]}"


@cache
def environment() -> Environment:
    """Jinja with autoescape for every template and an error for every misspelt name; one per process."""
    made = Environment(loader=PackageLoader("realm.tavern"), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    made.filters.update(
        num=words.number, pct=words.percent, gb=words.gigabytes, size=words.size, dur=words.duration,
        clock=words.clock, iso=words.iso, compact=words.compact, pace=words.pace, skill_level=words.skill_level,
    )  # fmt: skip
    made.globals.update(nav=NAV, tabs=TABS, term=words.term, version=version(), kinds=" ".join(events.KINDS))
    # Macros are globals, so that every template and included panel has them without import lines.
    made.globals["ic"] = made.get_template("icons.j2").module.ic
    macros = made.get_template("macros.j2").module
    made.globals.update({name: getattr(macros, name) for name in ("w", "live", "bar", "when", "order", "empty")})
    return made


class Tavern:
    """Renders pages and panels of one realm home."""

    def __init__(self, home: RealmHome, hub: Hub) -> None:
        self.home, self.hub = home, hub
        self.templates = environment()

    def render(self, template: str, build: Callable[[sa.Connection, Facts], dict[str, Any]], status: int = 200,
               **extra: Any) -> HTMLResponse:  # fmt: skip
        """One template from one consistent read of the database."""
        with db.read(self.hub.engine) as connection:
            facts = home_views.facts(connection, self.home)
            values = {**self.shared(connection, facts), **build(connection, facts), **extra}
        text = self.templates.get_template(template).render(values)
        return HTMLResponse(text, status, headers={"cache-control": "no-store"})

    def shared(self, connection: sa.Connection, f: Facts) -> dict[str, Any]:
        """What every page's frame needs."""
        shot = f.snapshot
        counts = shot.queue
        day = 0 if f.campaign is None else int((shot.t - f.campaign["created_at"]) // 86400) + 1
        return {
            "snapshot": shot, "event_id": shot.event_id, "state": shot.battle.state, "mode": shot.mode,
            "waiting": counts.high + counts.normal + counts.low + counts.inbox, "campaign": f.campaign,
            "campaign_day": day, "hero_name": f.hero, "profile": f.profile, "arena_alive": f.arena_alive,
            "idle_generation": self.home.settings.idle_generation, "page": "", "notice": None, "freeze": False,
        }  # fmt: skip


def _home(connection: sa.Connection, f: Facts) -> dict[str, Any]:
    strain = home_views.strain_panel(connection, f)
    loss = f.snapshot.battle.loss
    if loss is None and f.battle:
        last = home_views.reader.last_metric(connection, f.battle["id"])
        loss = last["loss_ema"] if last else None
    board = home_views.quests_panel(connection, f)
    return {
        "hero": home_views.hero_panel(connection, f), "stage": home_views.stage_panel(connection, f), "strain": strain,
        "board": board, "board_waiting": board["waiting"], "forge": home_views.forge_panel(f),
        "log": home_views.log_panel(connection, f), "notice": home_views.notice(connection, f),
        "last_loss": loss, "last_damage": home_views.reader.damage(loss),
    }  # fmt: skip


def _stage(connection: sa.Connection, f: Facts) -> dict[str, Any]:
    board = home_views.quests_panel(connection, f)
    return {"stage": home_views.stage_panel(connection, f), "board_waiting": board["waiting"]}


PANELS: dict[str, Callable[[sa.Connection, Facts], dict[str, Any]]] = {
    "hero": lambda c, f: {"hero": home_views.hero_panel(c, f)},
    "quests": lambda c, f: {"board": home_views.quests_panel(c, f)},
    "stage": _stage,
    "strain": lambda c, f: {"strain": home_views.strain_panel(c, f)},
    "notice": lambda c, f: {"notice": home_views.notice(c, f)},
    "mode": lambda c, f: {},
    "guild": lambda c, f: {"guild": pages.guild(c, f)},
    "board": lambda c, f: {"board": pages.quest_board(c, f)},
    "vault": lambda c, f: {"vault": vault_views.vault(c, f)},
    "temple": lambda c, f: {"temple": pages.temple(c, f)},
}  # fmt: skip


@contextmanager
def found() -> Iterator[None]:
    """A job that is not there is a page that is not there."""
    try:
        yield
    except JobError as error:
        raise HTTPException(404, str(error)) from error


def _panels(app: FastAPI, tavern: Tavern) -> None:
    @app.get("/ui/panels/log", response_class=HTMLResponse)
    def log_panel(show: Show = "deeds"):
        return tavern.render("panels/log.j2", lambda c, f: {"log": home_views.log_panel(c, f, show)})

    @app.get("/ui/panels/rail", response_class=HTMLResponse)
    def rail(page: str = ""):
        return tavern.render("panels/rail.j2", lambda c, f: {}, page=page)

    @app.get("/ui/panels/battle", response_class=HTMLResponse)
    def battle_panel(id: str):
        with db.read(tavern.hub.engine) as connection:
            if queries.battle(connection, id) is None:
                raise HTTPException(404, f"no battle {id}")
        return tavern.render("panels/battle.j2", lambda c, f: {"battle": pages.battle(c, f, id)})

    @app.get("/ui/panels/vram", response_class=HTMLResponse)
    def vram_panel(ask: Annotated[vram_asked.Ask, Query()]):
        return tavern.render("panels/vram.j2", lambda c, f: _vram(tavern, f, ask))

    @app.get("/ui/panels/anchor", response_class=HTMLResponse)
    def anchor_panel(id: str, other: str | None = None):
        return _anchor(tavern, "panels/anchor.j2", id, other)

    @app.get("/ui/panels/jobs", response_class=HTMLResponse)
    def jobs_panel(state: JobState | None = None, kind: str | None = None, cursor: str | None = None):
        with found():
            return tavern.render("panels/jobs.j2", lambda c, f: {"board": jobs.board(c, f, state, kind, cursor)})

    @app.get("/ui/panels/job", response_class=HTMLResponse)
    def job_panel(id: str):
        with found():
            return tavern.render("panels/job.j2", lambda c, f: {"job": jobs.one(c, id)})

    @app.get("/ui/panels/{name}", response_class=HTMLResponse)
    def panel(name: str):
        if name not in PANELS:
            raise HTTPException(404, f"no panel {name}")
        return tavern.render(f"panels/{name}.j2", PANELS[name])


def _vram(tavern: Tavern, f: Facts, ask: vram_asked.Ask) -> dict[str, Any]:
    return {"vram": pages.vram(f, tavern.hub.engine, ask)}


def _anchor(tavern: Tavern, template: str, checkpoint_id: str, other: str | None, **extra: Any) -> HTMLResponse:
    try:
        return tavern.render(template, lambda c, f: {"a": vault_views.anchor(c, f, checkpoint_id, other)}, **extra)
    except catalog.VaultError as error:
        raise HTTPException(404, str(error)) from error


def _pages(app: FastAPI, tavern: Tavern) -> None:
    @app.get("/", response_class=HTMLResponse)
    def home():
        return tavern.render("pages/home.j2", _home, title="Tavern", page="/")

    @app.get("/guild", response_class=HTMLResponse)
    def guild():
        return tavern.render("pages/guild.j2", PANELS["guild"], title="Guild", page="/guild")

    @app.get("/quests", response_class=HTMLResponse)
    def quests():
        return tavern.render("pages/quests.j2", PANELS["board"], title="Quests", page="/quests")

    @app.get("/saga", response_class=HTMLResponse)
    def saga(show: Show = "deeds", before: int | None = None):
        return tavern.render("pages/saga.j2", lambda c, f: {"saga": pages.saga(c, f, show, before)}, title="Saga",
                             page="/saga")  # fmt: skip

    @app.get("/battle", response_class=HTMLResponse)
    @app.get("/battle/{key}", response_class=HTMLResponse)
    def battle(key: str | None = None):
        with db.read(tavern.hub.engine) as connection:
            if key is not None and queries.battle(connection, key) is None:
                raise HTTPException(404, f"No battle {key} is in the chronicle.")
        return tavern.render("pages/battle.j2", lambda c, f: {"battle": pages.battle(c, f, key)}, title="Battle",
                             page="/battle")  # fmt: skip

    @app.get("/settings", response_class=HTMLResponse)
    def settings(ask: Annotated[vram_asked.Ask, Query()]):
        return tavern.render("pages/settings.j2", lambda c, f: {"table": pages.settings(f), **_vram(tavern, f, ask)},
                             title="Settings", page="/settings")  # fmt: skip

    @app.get("/vault/{checkpoint_id}", response_class=HTMLResponse)
    def anchor(checkpoint_id: str, other: str | None = None):
        return _anchor(tavern, "pages/anchor.j2", checkpoint_id, other, title="Checkpoint", page="/vault")

    @app.get("/jobs", response_class=HTMLResponse)
    def all_jobs(state: JobState | None = None, kind: str | None = None, cursor: str | None = None):
        with found():
            return tavern.render("pages/jobs.j2", lambda c, f: {
                "board": jobs.board(c, f, state, kind, cursor), "form": jobs.form(c, f),
                "battles": queries.battles(c, f.snapshot.campaign.id)}, title="Jobs", page="/jobs")  # fmt: skip

    @app.get("/jobs/{job_id}", response_class=HTMLResponse)
    def one_job(job_id: str):
        with found():
            return tavern.render("pages/job.j2", lambda c, f: {"job": jobs.one(c, job_id)}, title="Job", page="/jobs")

    simple = {"vault": PANELS["vault"], "temple": PANELS["temple"],
              "campaign": lambda c, f: {"story": pages.campaign(c, f)},
              "oracle": lambda c, f: {"oracle": oracle.page(c, f, tavern.hub.engine)}}  # fmt: skip
    for name, build in simple.items():
        app.add_api_route(f"/{name}", _simple(tavern, name, build), response_class=HTMLResponse)


def _simple(tavern: Tavern, name: str, build: Callable[[sa.Connection, Facts], dict[str, Any]]) -> Callable:
    def page() -> HTMLResponse:
        return tavern.render(f"pages/{name}.j2", build, title=name.capitalize(), page=f"/{name}")

    return page


def _errors(app: FastAPI, tavern: Tavern) -> None:
    """People get a page, programs get JSON. The page needs no database: it may be what failed."""

    def page(status: int, heading: str, text: str) -> HTMLResponse:
        body = tavern.templates.get_template("pages/error.j2").render(status=status, heading=heading, text=text)
        return HTMLResponse(body, status, headers={"cache-control": "no-store"})

    def wants_page(request: Request) -> bool:
        return not request.url.path.startswith(("/api/", "/static/")) and "hx-request" not in request.headers

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if not wants_page(request):
            return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)
        known = error.detail if error.detail != "Not Found" else "No page has this address."
        return page(error.status_code, "This door leads nowhere" if error.status_code == 404 else "That cannot be done",
                    str(known))  # fmt: skip

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        said = router.invalid_words(error)
        return page(422, "That cannot be asked", said) if wants_page(request) else JSONResponse({"detail": said}, 422)

    @app.exception_handler(db.SchemaError)
    async def no_database(request: Request, error: db.SchemaError) -> Response:
        if not wants_page(request):
            return JSONResponse({"detail": str(error)}, 503)
        return page(503, "The chronicle cannot be read", str(error))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        said = f"{type(error).__name__}: {error}"
        if not wants_page(request):
            return JSONResponse({"detail": said}, 500)
        return page(500, "Reality tears", said)


def create_app(home: RealmHome) -> FastAPI:
    """The Tavern of one realm home; carries the API too, so that browsers need this port only."""
    app = FastAPI(title="Tavern", docs_url=None, redoc_url=None, openapi_url=None)
    hub = router.mount(app, home)
    app.include_router(keeper.make_router(home, lambda: hub.engine, orders.give))
    machine.sample(home.root)  # processor load is measured between two looks: this is the first
    tavern = Tavern(home, hub)
    oracle.mount(app, home)
    _panels(app, tavern)
    _pages(app, tavern)
    _errors(app, tavern)
    app.mount("/static", Static(directory=STATIC), name="static")
    return app


class Static(StaticFiles):
    """Package files: fonts and pictures keep their names for ever, the rest is asked for again each time (304)."""

    def file_response(self, full_path, stat_result, scope, status_code: int = 200) -> Response:
        answer = super().file_response(full_path, stat_result, scope, status_code)
        lasting = str(full_path).endswith((".woff2", ".webp"))
        answer.headers["cache-control"] = "public, max-age=31536000, immutable" if lasting else "no-cache"
        return answer

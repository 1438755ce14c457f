"""A skill over HTTP: the same objects as in process, behind `create_app(skill)`.

    uvicorn --factory --host 127.0.0.1 --port 8090 "realm.guild.skills.server:bin_app"

Generation and marking run in one worker process, so that ten thousand problems never hold up the event loop (which the
skill shares with the Tavern when both live in one server). The pool starts with the first request; the app's lifespan
ends it, and a host that mounts the app without its lifespan calls `close(app)`.

Over HTTP only train and public problems are given out. Trial and probe problems decide levels; a hero that could fetch
them could learn them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from multiprocessing import connection, get_context, parent_process
from threading import Lock, Thread
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from realm.guild.skills import get_skill
from realm.guild.skills.base import OPEN_SPLITS, Problem, Skill, SkillError, check_level

COUNT_AT_MOST = 10_000
RESPONSE_AT_MOST = 100_000
EVAL_COUNT = 50
EVAL_SEED = 0


class GenerateRequest(BaseModel):
    """Body of POST /generate."""

    model_config = ConfigDict(extra="forbid")

    level: int
    count: int = Field(default=10, ge=1, le=COUNT_AT_MOST)
    seed: int = 0
    split: str = "train"


class GradeRequest(BaseModel):
    """Body of POST /grade: a problem as /generate or /eval sent it, and the hero's answer."""

    model_config = ConfigDict(extra="forbid")

    problem: dict[str, Any]
    response: str = Field(max_length=RESPONSE_AT_MOST)


class ForbiddenSplit(SkillError):
    """A split that is not given out over HTTP."""


def _end_with_parent() -> None:
    """Runs in the worker process: a server killed without warning must not leave it behind."""
    def wait() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(0)

    Thread(target=wait, daemon=True).start()


class Worker:
    """A lazily started process that generates and marks; `run` is awaited, `close` ends the process."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._lock = Lock()

    @property
    def started(self) -> bool:
        return self._pool is not None

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """The function's result from the worker process; a worker that died is replaced once."""
        loop = asyncio.get_running_loop()
        pool = self._open()
        try:
            return await loop.run_in_executor(pool, function, *args)
        except BrokenProcessPool:
            self._drop(pool)
            return await loop.run_in_executor(self._open(), function, *args)

    def _open(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                # spawn: a forked child would inherit the server's sockets and the locks of its threads
                self._pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"),
                                                 initializer=_end_with_parent)
            return self._pool

    def _drop(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Ends the worker process; a later `run` starts a new one."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _generate(skill: Skill, level: int, count: int, seed: int, split: str) -> list[dict[str, Any]]:
    """Runs in the worker process."""
    return [problem.to_dict() for problem in skill.generate(level, count, seed, split)]


def _grade(skill: Skill, row: dict[str, Any], response: str) -> dict[str, Any]:
    """Runs in the worker process."""
    return skill.grade(Problem.from_dict(row), response).to_dict()


def create_app(skill: Skill, worker: Worker | None = None) -> FastAPI:
    """The ASGI app of one skill. `skill` must be picklable: it travels to the worker process with every request."""
    hands = worker or Worker()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(hands.close)

    app = FastAPI(title=f"Skill {skill.id}: {skill.name}", version=skill.version, description=skill.description,
                  lifespan=lifespan)
    app.state.worker = hands
    _add_error_handlers(app)
    _add_read_routes(app, skill, hands)
    _add_work_routes(app, skill, hands)
    return app


def close(app: FastAPI) -> None:
    """Ends the app's worker process; for hosts that mount the app without its lifespan."""
    app.state.worker.close()


def bin_app() -> FastAPI:
    """BIN as an app of its own."""
    return create_app(get_skill("bin"))


def _add_read_routes(app: FastAPI, skill: Skill, hands: Worker) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "skill": skill.id, "version": skill.version}

    @app.get("/info")
    async def info() -> dict[str, Any]:
        return {"skill": skill.id, "name": skill.name, "version": skill.version, "description": skill.description,
                "min_level": 1, "max_level": skill.max_level, "threshold": skill.threshold,
                "splits": list(OPEN_SPLITS), "count_at_most": COUNT_AT_MOST}

    @app.get("/levels")
    async def levels() -> dict[str, Any]:
        return {"skill": skill.id, "levels": [info.to_dict() for info in skill.levels()]}

    async def public_set(level: int) -> dict[str, Any]:
        check_level(skill.id, level, skill.max_level)
        rows = await hands.run(_generate, skill, level, EVAL_COUNT, EVAL_SEED, "public")
        return {"skill": skill.id, "level": level, "split": "public", "threshold": skill.threshold, "problems": rows}

    @app.get("/eval")
    async def evaluation_by_query(level: int) -> dict[str, Any]:
        return await public_set(level)

    @app.get("/eval/{level}")
    async def evaluation(level: int) -> dict[str, Any]:
        return await public_set(level)


def _add_work_routes(app: FastAPI, skill: Skill, hands: Worker) -> None:
    @app.post("/generate")
    async def generate(request: GenerateRequest) -> dict[str, Any]:
        if request.split in ("trial", "probe"):
            raise ForbiddenSplit(f"split {request.split!r}: trial and probe problems are not given out over HTTP, or a "
                                 f"hero could learn its own exam; ask for split 'train' or 'public'")
        check_level(skill.id, request.level, skill.max_level)
        rows = await hands.run(_generate, skill, request.level, request.count, request.seed, request.split)
        return {"skill": skill.id, "level": request.level, "split": request.split, "seed": request.seed,
                "samples": rows}

    @app.post("/grade")
    async def grade(request: GradeRequest) -> dict[str, Any]:
        return await hands.run(_grade, skill, request.problem, request.response)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(SkillError)
    async def refused(_: Request, error: SkillError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=403 if isinstance(error, ForbiddenSplit) else 422)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        texts = [f"{'.'.join(map(str, e['loc'][1:])) or 'body'} {str(e.get('input'))[:80]!r}: {e['msg']}"
                 for e in error.errors()]
        return JSONResponse({"error": "; ".join(texts) + "; correct the request, GET /openapi.json shows its form"},
                            status_code=422)

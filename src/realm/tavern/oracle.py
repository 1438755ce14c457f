"""The Oracle on the Tavern's own origin: `/api/oracle/*` is handed on to the Oracle service, streams included.

A browser speaks to the Tavern only; hanging up here hangs up there, which ends the writing. Also public problems of
the skills to ask a checkpoint with, and their marks (never trial or probe problems).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import sqlalchemy as sa
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from realm import services
from realm.guild.skills import SkillError, get_skill
from realm.oracle import catalog, wire
from realm.settings import RealmHome
from realm.tavern.views.home import Facts

STATUS_S = 5.0
ANSWER_S = 600.0  # without a byte: a large model is loaded meanwhile
SAMPLES = 3


class Answered(BaseModel):
    """A problem and what a checkpoint said to it."""

    model_config = ConfigDict(extra="forbid")
    skill: str
    prompt: str = Field(max_length=100_000)
    response: str = Field(max_length=100_000)


def page(connection: sa.Connection, f: Facts, database: sa.Engine) -> dict[str, Any]:
    """What the page shows before any script runs: the names that can be asked, and three questions to begin with."""
    skills = sorted(f.snapshot.skills) or [name for name in (f.profile.skill_priorities if f.profile else ()) if
                                           ":" not in name][:1]
    skills = [name for name in skills if not name.startswith("url:")]  # another machine may take its time
    levels = {name: max(1, f.snapshot.skills[name].training_level or 1) if name in f.snapshot.skills else 1
              for name in skills}  # fmt: skip
    try:
        samples = [p["prompt"] for p in items(skills[0], levels[skills[0]], SAMPLES, 0)] if skills else []
    except HTTPException:
        # A skill on somebody's server that is down: the page has no samples then.
        samples = []
    return {"models": catalog.listing(f.home, database), "skills": levels, "samples": samples,
            "servers": f.home.settings.oracle_servers, "keep_free": f.home.settings.oracle_min_free}  # fmt: skip


def items(skill: str, level: int, n: int, seed: int) -> list[dict[str, Any]]:
    """Public problems, which anybody may see."""
    try:
        found = get_skill(skill).generate(level=level, count=n, seed=seed, split="public")
    except SkillError as error:
        raise HTTPException(404, str(error)) from error
    return [{"skill": p.skill, "level": p.level, "prompt": p.prompt, "golden": p.golden} for p in found]


def mount(app: FastAPI, home: RealmHome) -> None:
    """Add the routes."""

    @app.get("/api/oracle")
    async def status() -> dict[str, Any]:
        """The service's own status; `running` is False, with the reason, while it does not answer."""
        try:
            async with _client(home, STATUS_S) as client:
                answer = await client.get("/oracle")
                return {"running": answer.status_code == 200, **answer.json()}
        except (httpx.HTTPError, ValueError) as error:
            return {"running": False, "detail": _silent(home, error)}

    @app.post("/api/oracle/chat")
    async def chat(request: Request) -> Response:
        return await _hand_on(home, request, "POST", "/v1/chat/completions")

    @app.post("/api/oracle/compare")
    async def compare(request: Request) -> Response:
        return await _hand_on(home, request, "POST", "/oracle/compare")

    @app.post("/api/oracle/load")
    async def load(request: Request) -> Response:
        return await _hand_on(home, request, "POST", "/oracle/load")

    @app.delete("/api/oracle/loaded/{name}")
    async def unload(request: Request, name: str) -> Response:
        return await _hand_on(home, request, "DELETE", f"/oracle/loaded/{name}")

    @app.get("/api/trials/items")
    async def trial_items(
        skill: str, level: Annotated[int, Query(ge=1)] = 1, n: Annotated[int, Query(ge=1, le=20)] = 1,
        seed: Annotated[int, Query(ge=0)] = 0,
    ) -> list[dict[str, Any]]:  # fmt: skip
        return await asyncio.to_thread(items, skill, level, n, seed)

    @app.post("/api/trials/mark")
    async def mark(body: Answered) -> dict[str, Any]:
        def marked():
            skill = get_skill(body.skill)
            return skill.grade(skill.problem_of(body.prompt), body.response)

        try:
            grade = await asyncio.to_thread(marked)
        except SkillError as error:
            raise HTTPException(422, str(error)) from error
        return {"correct": grade.correct, "score": grade.score, "reason": grade.reason}


def _client(home: RealmHome, timeout_s: float) -> httpx.AsyncClient:
    host = services.reachable_host(home.settings)
    address = f"[{host}]" if ":" in host else host
    # In the address: a header takes Latin-1 only, a token may hold anything.
    params = {"token": home.settings.token} if home.settings.token else None
    return httpx.AsyncClient(base_url=f"http://{address}:{home.settings.port('oracle')}", params=params,
                             timeout=httpx.Timeout(timeout_s, connect=STATUS_S), trust_env=False)  # fmt: skip


def _silent(home: RealmHome, error: Exception) -> str:
    return (f"the Oracle does not answer on port {home.settings.port('oracle')} ({type(error).__name__}); "
            "`python3 -m training start-all` starts it")  # fmt: skip


async def _hand_on(home: RealmHome, request: Request, method: str, path: str) -> Response:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > wire.BODY_BYTES:
            raise HTTPException(413, f"the conversation is larger than {wire.BODY_BYTES:,} bytes; begin a new one")
    stack = contextlib.AsyncExitStack()
    try:
        client = await stack.enter_async_context(_client(home, ANSWER_S))
        answer = await client.send(client.build_request(method, path, content=bytes(body)), stream=True)
    except httpx.HTTPError as error:
        await stack.aclose()
        return JSONResponse({"error": {"message": _silent(home, error), "code": "silent"}}, 503)
    stack.push_async_callback(answer.aclose)

    async def pieces() -> AsyncIterator[bytes]:
        try:
            async for piece in answer.aiter_bytes():
                yield piece
        except httpx.HTTPError:
            # The service went away in the middle: the stream ends without its last line, which the page calls cut off.
            return

    passed = {name: answer.headers[name] for name in ("content-type", "retry-after") if name in answer.headers}
    return _Relay(pieces(), answer.status_code, {**passed, "cache-control": "no-store"}, stack)


class _Relay(StreamingResponse):
    """Closes the line to the service however this one ends."""

    def __init__(self, pieces: AsyncIterator[bytes], status: int, headers: dict[str, str],
                 stack: contextlib.AsyncExitStack) -> None:  # fmt: skip
        super().__init__(pieces, status, headers)
        self._stack = stack

    async def __call__(self, scope, receive, send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)

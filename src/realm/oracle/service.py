"""The Oracle service (port 8765): OpenAI's interface over the realm's checkpoints, and comparing them.

    python3 -m training serve oracle
    curl http://localhost:8765/v1/models
    curl http://localhost:8765/v1/completions -d '{"model": "current", "prompt": "hi", "max_tokens": 8}'

Torch comes with the first question. Beyond loopback every client must send the realm's token as its API key.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from realm import db
from realm.oracle import catalog, memory, wire
from realm.oracle.backends import remote
from realm.oracle.engine import Engine, Loaded
from realm.oracle.errors import OracleError
from realm.oracle.replies import Reply
from realm.oracle.rows import Row, Told, rows_for
from realm.settings import RealmHome

LOOK_S = 0.25  # how often a request that waits looks whether its client is still there
IDLE_LOOK_S = 15.0
SSE = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Json(Response):
    """orjson: answers with log probabilities are large, and NaN becomes null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


class Stream(StreamingResponse):
    """Server-sent events that clean up even when the client was gone before the first one."""

    def __init__(self, frames: AsyncIterator[bytes], release: Callable[[], None]) -> None:
        super().__init__(frames, media_type="text/event-stream", headers=SSE)
        self._release = release

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


class Ticket:
    """One question under way: its place in the queue, its model and its rows. `release` may be called twice."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle, self._open, self._lock = oracle, True, threading.Lock()
        self.rows: list[Row] = []
        self.entry: Loaded | None = None

    def hold(self, found: catalog.Found) -> Loaded:
        """Load the model and keep it until `release`; blocks. Who hung up meanwhile holds nothing."""
        entry = self._oracle.engine.acquire(found)
        with self._lock:
            if self._open:
                self.entry = entry
                return entry
        self._oracle.engine.release(entry)
        raise OracleError(499, "the client hung up while the model was loaded", "gone")

    def release(self) -> None:
        """Cut off what is still being written and give everything back."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        for row in self.rows:
            row.cancelled = True
        if self.entry is not None:
            self._oracle.engine.release(self.entry)
        self._oracle.busy -= 1


class Oracle:
    """What the routes share. All of it runs in one event loop; models work in the engine's thread."""

    def __init__(self, home: RealmHome) -> None:
        self.home, self.engine = home, Engine(home)
        self.busy = 0
        self._database = None

    @property
    def database(self):
        if self._database is None:
            self._database = db.connect(self.home)
        return self._database

    def close(self) -> None:
        self.engine.close()
        if self._database is not None:
            self._database.dispose()

    def admit(self) -> Ticket:
        """A place for one question.

        Raises:
            OracleError: 429, all of them are taken.
        """
        limit = self.home.settings.oracle_queue
        if self.busy >= limit:
            raise OracleError(429, f"{self.busy} questions are being answered or wait, {limit} are taken at once "
                              "(oracle_queue); ask again in a moment", "queue_full", retry_after=2)  # fmt: skip
        self.busy += 1
        return Ticket(self)

    async def prepare(self, ticket: Ticket, request: Any, chat: bool) -> Reply:
        """Find, verify and load the model, and make the rows.

        Raises:
            OracleError: see catalog, memory and rows.
        """
        found = await asyncio.to_thread(catalog.resolve, self.home, self.database, request.model)
        model = (await asyncio.to_thread(ticket.hold, found)).model

        def rows() -> list[Row]:
            if chat:
                prompts = [model.chat_ids([message.plain() for message in request.messages])]
            else:
                prompts = [model.text_ids(p) if isinstance(p, str) else p for p in request.prompts]
            return rows_for(request, prompts, model)

        ticket.rows = await asyncio.to_thread(rows)
        return Reply(request.model, model, request, chat)

    async def whole(self, ticket: Ticket, reply: Reply, gone: Callable) -> dict[str, Any]:
        """The finished answer; `gone()` tells whether the client hung up, then nobody waits for it."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        left = len(ticket.rows)

        def ended() -> None:
            nonlocal left
            left -= 1
            if not left:
                over.set()

        def on_piece(row: Row, _text: str, _told: list[Told]) -> None:
            if row.over:
                loop.call_soon_threadsafe(ended)

        self._submit(ticket, on_piece)
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), LOOK_S)
            if not over.is_set() and await gone():
                return {}
        for row in ticket.rows:
            if row.error is not None:
                raise row.error
        return reply.whole(ticket.rows)

    async def chunks(self, ticket: Ticket, reply: Reply) -> AsyncIterator[dict[str, Any]]:
        """The answer piece by piece.

        Raises:
            OracleError: the model failed on the way.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[Row, str, list[Told], bool]] = asyncio.Queue()

        def on_piece(row: Row, text: str, told: list[Told]) -> None:
            # Whether this is the row's last piece is only known now: the row goes on while the piece is under way.
            loop.call_soon_threadsafe(pieces.put_nowait, (row, text, told, row.over))

        self._submit(ticket, on_piece)
        left = len(ticket.rows)
        while left:
            row, text, told, last = await pieces.get()
            if row.error is not None:
                raise row.error
            left -= last
            for chunk in reply.piece(row, text, told, last):
                yield chunk
        for chunk in reply.last(ticket.rows):
            yield chunk

    def _submit(self, ticket: Ticket, on_piece: Callable) -> None:
        for row in ticket.rows:
            row.on_piece = on_piece
        self.engine.submit(ticket.entry.model, ticket.rows)


def sse(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


async def read_body(request: Request) -> dict[str, Any]:
    """The request's JSON object.

    Raises:
        OracleError: 413 when it is larger than BODY_BYTES, read no further; 400 when it is no JSON object.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > wire.BODY_BYTES:
            raise OracleError(413, f"the body is larger than {wire.BODY_BYTES:,} bytes; send a shorter conversation",
                              "body_too_large")  # fmt: skip
    return wire.parse_json(bytes(body))


def _named(body: dict[str, Any]) -> str:
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise OracleError(400, f"model = {str(name)[:80]!r}: name a checkpoint, `current`, `champion` or `base`; "
                          "/v1/models lists what there is", "invalid_value", "model")  # fmt: skip
    return name


async def _relay(oracle: Oracle, ticket: Ticket, server: str, path: str, body: dict[str, Any]) -> Response:
    """Hand a question on to another server and its answer back as it comes."""
    stack = contextlib.AsyncExitStack()
    response = await stack.enter_async_context(remote.answer(oracle.home, server, path, body))

    async def pieces() -> AsyncIterator[bytes]:
        async with stack:
            async for piece in response.aiter_bytes():
                yield piece

    made = Stream(pieces(), ticket.release)
    made.status_code = response.status_code
    made.headers["content-type"] = response.headers.get("content-type", "application/json")
    return made


async def _frames(oracle: Oracle, ticket: Ticket, reply: Reply) -> AsyncIterator[bytes]:
    try:
        async for chunk in oracle.chunks(ticket, reply):
            yield sse(chunk)
    except OracleError as error:
        yield sse(error.body())
        return
    yield b"data: [DONE]\n\n"


async def _answer(oracle: Oracle, request: Request, model: type, path: str) -> Response:
    body = await read_body(request)
    name = _named(body)
    elsewhere = remote.split(oracle.home, name)
    asked = None if elsewhere else wire.check(model, body)
    ticket = oracle.admit()
    try:
        if elsewhere:
            return await _relay(oracle, ticket, elsewhere[0], path, {**body, "model": elsewhere[1]})
        reply = await oracle.prepare(ticket, asked, chat=model is wire.ChatRequest)
        if asked.stream:
            return Stream(_frames(oracle, ticket, reply), ticket.release)
        answer = Json(await oracle.whole(ticket, reply, request.is_disconnected))
    except BaseException:
        ticket.release()
        raise
    ticket.release()
    return answer


async def _channel(oracle: Oracle, asked: wire.CompareRequest, name: str) -> AsyncIterator[dict[str, Any]]:
    """The chunks of one of the compared models."""
    elsewhere = remote.split(oracle.home, name)
    ticket = oracle.admit()
    try:
        if elsewhere:
            async for chunk in remote.chunks(oracle.home, elsewhere[0], asked.single(elsewhere[1])):
                yield chunk
            return
        reply = await oracle.prepare(ticket, wire.check(wire.ChatRequest, asked.single(name)), chat=True)
        async for chunk in oracle.chunks(ticket, reply):
            yield chunk
    finally:
        ticket.release()


async def compared(oracle: Oracle, asked: wire.CompareRequest) -> AsyncIterator[bytes]:
    """All models' chunks as they come: `{"channel": name, "chunk"|"error": …}`; one that fails stops no other."""
    pieces: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def follow(name: str) -> None:
        try:
            async with contextlib.aclosing(_channel(oracle, asked, name)) as chunks:
                async for chunk in chunks:
                    pieces.put_nowait({"channel": name, "chunk": chunk})
        except OracleError as error:
            pieces.put_nowait({"channel": name, **error.body()})
        finally:
            pieces.put_nowait(None)

    tasks = [asyncio.create_task(follow(name)) for name in asked.models]
    try:
        left = len(tasks)
        while left:
            piece = await pieces.get()
            left -= piece is None
            if piece is not None:
                yield sse(piece)
        yield b"data: [DONE]\n\n"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _openai_routes(app: FastAPI, oracle: Oracle) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _answer(oracle, request, wire.ChatRequest, "chat/completions")

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(oracle, request, wire.CompletionRequest, "completions")

    @app.get("/v1/models")
    async def models() -> Response:
        return Json({"object": "list", "data": await _models(oracle)})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        for entry in await _models(oracle):
            if entry["id"] == name:
                return Json(entry)
        remote.split(oracle.home, name)
        await asyncio.to_thread(catalog.resolve, oracle.home, oracle.database, name)
        raise OracleError(404, f"no model {name[:80]!r}; see /v1/models", "model_not_found", "model")


async def _models(oracle: Oracle) -> list[dict[str, Any]]:
    found = await asyncio.to_thread(catalog.listing, oracle.home, oracle.database)
    servers = oracle.home.settings.oracle_servers
    for more in await asyncio.gather(*(remote.models(oracle.home, name) for name in servers)):
        found += more
    return found


def _own_routes(app: FastAPI, oracle: Oracle) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        loaded = len(oracle.engine.status())
        return {"status": "ok", "home": str(oracle.home.root), "loaded": loaded, "busy": oracle.busy}

    @app.get("/oracle")
    async def status() -> Response:
        """What is loaded, what could be, and how much memory there is."""
        settings = oracle.home.settings
        return Json({
            "models": await _models(oracle), "loaded": oracle.engine.status(), "busy": oracle.busy,
            "limit": settings.oracle_queue, "free": await asyncio.to_thread(memory.free_memory),
            "keep_free": settings.oracle_min_free,
        })  # fmt: skip

    @app.post("/oracle/load")
    async def load(request: Request) -> Response:
        """Load a model now, so that its first answer comes at once."""
        name = _named(await read_body(request))
        if remote.split(oracle.home, name):
            raise OracleError(400, f"{name} lives on another machine and is loaded there", "invalid_value", "model")
        ticket = oracle.admit()
        try:
            found = await asyncio.to_thread(catalog.resolve, oracle.home, oracle.database, name)
            await asyncio.to_thread(ticket.hold, found)
        finally:
            ticket.release()
        return Json({"id": found.id, "loaded": oracle.engine.status()})

    @app.delete("/oracle/loaded/{name:path}")
    async def unload(name: str) -> Response:
        if not await asyncio.to_thread(oracle.engine.unload, name):
            loaded = ", ".join(entry["id"] for entry in oracle.engine.status()) or "nothing"
            raise OracleError(404, f"{name[:80]!r} is not loaded; loaded: {loaded}", "not_loaded")
        return Json({"loaded": oracle.engine.status()})

    @app.post("/oracle/compare")
    async def compare(request: Request) -> Response:
        """Two to four models on the same conversation, as one stream with a channel for each."""
        asked = wire.check(wire.CompareRequest, await read_body(request))
        for name in asked.models:  # refused as a whole before anything is written
            if not remote.split(oracle.home, name):
                await asyncio.to_thread(catalog.resolve, oracle.home, oracle.database, name)
        return Stream(compared(oracle, asked), lambda: None)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(OracleError)
    async def refused(_: Request, error: OracleError) -> Response:
        headers = {"retry-after": str(error.retry_after)} if error.retry_after else None
        return JSONResponse(error.body(), error.status, headers=headers)

    @app.exception_handler(db.SchemaError)
    async def no_database(_: Request, error: db.SchemaError) -> Response:
        return JSONResponse(OracleError(503, str(error), "no_realm").body(), 503)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        text = f"{error.detail}; there are /v1/chat/completions, /v1/completions, /v1/models, /oracle"
        return JSONResponse(OracleError(error.status_code, text, "not_found").body(), error.status_code,
                            headers=error.headers)  # fmt: skip

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse(OracleError(500, f"{type(error).__name__}: {error}", "failed").body(), 500)


def create_app(home: RealmHome) -> FastAPI:
    """The application of the Oracle's port; whoever serves it to a network puts the guard around it."""
    oracle = Oracle(home)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        async def forget() -> None:
            while True:
                await asyncio.sleep(IDLE_LOOK_S)
                await asyncio.to_thread(oracle.engine.unload_idle, home.settings.oracle_keep_s)

        task = asyncio.create_task(forget())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.to_thread(oracle.close)

    app = FastAPI(title="Oracle", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    _openai_routes(app, oracle)
    _own_routes(app, oracle)
    _errors(app)
    app.state.oracle = oracle
    return app

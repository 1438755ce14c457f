"""The event stream: one tailing thread per realm home and process, frames encoded once, fanned out to every client.

Durable events carry their rising id and are replayed from SQLite after `Last-Event-ID` without limit; ticks, machine
samples and state changes without an event (`shown`) have no id and are never replayed; ticks come at most 10 times a
second (contracts A2). A client that
does not read is dropped, not buffered: it comes back and is replayed what it missed.

The thread starts with the first client and ends with the last, so no application needs a lifespan for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from starlette.responses import Response

from realm import db, events, services
from realm.settings import RealmHome
from realm.state import machine
from realm.state.reader import newest_battle, quest_effort, quest_steps, shown_state, snapshot

log = logging.getLogger(__name__)

TICK_S = 0.1  # contracts A2: at most 10 ticks per second
MACHINE_S = 2.0
KEEP_ALIVE_S = 15.0
RETRY_MS = 1000
PAGE = 500  # events per query while replaying
QUEUE_FRAMES = 600  # a client this far behind the newest frame is dropped
MAX_HITS = 60  # hits in one tick; the extremes stay
PACE_STEPS = 20
GRACE_S = 1.0
KEEP_ALIVE = b": keep-alive\n\n"


def frame(kind: str, data: Any, event_id: int | None = None) -> bytes:
    """One server-sent event. JSON has no raw line breaks, so one `data:` line always holds it."""
    head = b"" if event_id is None else b"id: %d\n" % event_id
    return head + b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


def event_data(event: events.Event) -> dict[str, Any]:
    """What a durable event's frame carries; the payload's own keys lie under `payload`."""
    return {"id": event.id, "t": event.t, "kind": event.kind, "level": event.level, "text": event.text,
            "payload": event.payload}  # fmt: skip


def shown_frame(battle: dict[str, Any] | None) -> dict[str, Any]:
    """State to show and campaign step reached of a battle, as the `shown` frame tells it."""
    return {"battle": battle["id"] if battle else None, "state": shown_state(battle),
            "at": (battle["step"] or 0) if battle else 0}  # fmt: skip


class Client:
    """One open stream. `frames` holds (event id or None, bytes); `gone` is set when it is dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.frames: deque[tuple[int | None, bytes]] = deque()
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()

    def put(self, batch: list[tuple[int | None, bytes]]) -> None:
        """Called in the client's own event loop."""
        if self.gone.is_set():
            return
        self.frames.extend(batch)
        if len(self.frames) > QUEUE_FRAMES:
            log.warning("a stream client is %d frames behind and was dropped; it may reconnect", len(self.frames))
            self.drop()
        self.ready.set()

    def drop(self) -> None:
        """Send the client away; it may come back and be replayed. Called in its own event loop."""
        self.frames.clear()
        self.gone.set()
        self.ready.set()  # wakes whoever waits for frames


class Tail:
    """Follows the newest battle's metrics and turns new rows into one tick. Used by the hub's thread only."""

    def __init__(self) -> None:
        self.battle_id: str | None = None
        self.step = -1
        self.seq = 0
        self.pace: deque[tuple[float, int, int]] = deque(maxlen=PACE_STEPS)
        self.effort = 0.0
        self.shown: tuple[str | None, str] = (None, "")

    def turned(self, connection: sa.Connection) -> dict[str, Any] | None:
        """`shown_frame` when the state to show has changed since the last call; some changes are no event of
        their own, for example that a pause was asked for while a long step is still running."""
        data = shown_frame(newest_battle(connection))
        now = (data["battle"], data["state"])
        changed, self.shown = now != self.shown, now
        return data if changed else None

    def prime(self, connection: sa.Connection) -> None:
        """Begin at the newest row that is already there: what was before the first client is not news."""
        battle = newest_battle(connection)
        self.turned(connection)
        if battle:
            self._turn_to(connection, battle)

    def tick(self, connection: sa.Connection, crits: set[int]) -> dict[str, Any] | None:
        """The tick of all rows since the last call, or None. `crits`: steps whose hit was called critical."""
        battle = newest_battle(connection)
        if battle is None:
            return None
        if battle["id"] != self.battle_id:
            self._turn_to(connection, battle, fresh=True)
        table = db.metrics
        query = sa.select(table).where(table.c.battle_id == battle["id"], table.c.step > self.step)
        rows = connection.execute(query.order_by(table.c.step)).mappings().all()
        if not rows:
            return None
        self.effort += sum(row["effort"] for row in rows)
        self.pace.extend((row["step_s"], row["tokens"], row["steps"]) for row in rows)
        self.step, self.seq = rows[-1]["step"], self.seq + 1
        return self._data(battle, rows, crits)

    def _turn_to(self, connection: sa.Connection, battle: dict[str, Any], fresh: bool = False) -> None:
        self.battle_id, self.step = battle["id"], -1
        self.pace.clear()
        self.effort = quest_effort(connection, battle)
        table = db.metrics
        if fresh:  # its rows so far are news, so their effort is added with the tick
            mine = sa.select(sa.func.coalesce(sa.func.sum(table.c.effort), 0.0)).where(
                table.c.battle_id == battle["id"])  # fmt: skip
            self.effort -= float(connection.execute(mine).scalar_one())
            return
        query = sa.select(table.c.step, table.c.step_s, table.c.tokens, table.c.steps).where(
            table.c.battle_id == battle["id"])  # fmt: skip
        rows = connection.execute(query.order_by(table.c.step.desc()).limit(PACE_STEPS)).all()
        if rows:
            self.step = rows[0].step
            self.pace.extend((row.step_s, row.tokens, row.steps) for row in reversed(rows))

    def _data(self, battle: dict[str, Any], rows: Any, crits: set[int]) -> dict[str, Any]:
        last = rows[-1]
        done, asked, zero = quest_steps({**battle, "step": last["step"]})
        seconds = sum(s for s, _, _ in self.pace)
        steps = sum(n for _, _, n in self.pace)
        step_s = seconds / steps if steps else last["step_s"]
        left = None if asked is None or done is None else asked - done
        return {
            "seq": self.seq, "run": battle["run_id"], "battle": battle["id"], "step": done, "total": asked,
            "campaign_step": last["step"], "zero": zero, "loss": last["loss"], "loss_ema": last["loss_ema"],
            "lr": last["lr"], "grad_norm": last["grad_norm"],
            "tok_s": sum(t for _, t, _ in self.pace) / seconds if seconds else None, "step_s": step_s,
            "eta_s": None if left is None else left * step_s, "strain": last["strain"],
            "strain_rate": last["strain_rate"], "floor": last["floor"], "zone": last["zone"], "hint": last["hint"],
            "effort": self.effort, "hits": hits(rows, crits),
        }  # fmt: skip


def hits(rows: Any, crits: set[int]) -> list[dict[str, Any]]:
    """`{step (of the campaign), loss, ema, crit}` of each row; of more than 60 the lowest and highest of each bin."""
    found = [{"step": r["step"], "loss": r["loss"], "ema": r["loss_ema"], "crit": r["step"] in crits} for r in rows]
    if len(found) <= MAX_HITS:
        return found
    size = -(-len(found) // (MAX_HITS // 2 - 1))
    kept: list[dict[str, Any]] = []
    for start in range(0, len(found), size):
        part = found[start : start + size]
        ends = {id(x): x for x in (min(part, key=lambda x: x["loss"]), max(part, key=lambda x: x["loss"]))}
        kept += sorted(ends.values(), key=lambda x: x["step"])
    return kept


class Hub:
    """The one tailing thread of a realm home in this process. `subscribe` starts it, the last `leave` ends it."""

    def __init__(self, home: RealmHome) -> None:
        self.home = home
        self._clients: set[Client] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._engine: sa.Engine | None = None
        self.position = 0  # newest durable event id that was fanned out

    @property
    def engine(self) -> sa.Engine:
        """The process's one engine on this home's database, opened at first use.

        Raises:
            realm.db.SchemaError: no database, or another schema version.
        """
        with self._lock:
            if self._engine is None:
                self._engine = db.connect(self.home)
            return self._engine

    @property
    def clients(self) -> int:
        """Open streams now."""
        with self._lock:
            return len(self._clients)

    def subscribe(self, client: Client) -> None:
        """From now on the client gets every live frame; what was before, it must replay."""
        engine = self.engine
        with self._lock:
            if self._thread is None:
                # Here, not in the thread: what is written after this call must reach the client.
                tail = Tail()
                with db.read(engine) as connection:
                    self.position = events.last_id(connection)
                    tail.prime(connection)
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._follow, args=(engine, self._stop, tail), name="realm-tail", daemon=True)  # fmt: skip
                self._thread.start()
            self._clients.add(client)

    def leave(self, client: Client) -> None:
        with self._lock:
            self._clients.discard(client)
            if not self._clients and self._thread is not None:
                self._stop.set()
                self._thread = None

    def close(self) -> None:
        """End every stream and the thread, close the database; the hub may be used again afterwards."""
        with self._lock:
            clients, thread, made = list(self._clients), self._thread, self._engine
            self._clients.clear()
            self._stop.set()
            self._thread = self._engine = None
        for client in clients:
            _in_loop(client.loop, client.drop)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)
        if made is not None:
            made.dispose()

    def _follow(self, engine: sa.Engine, stop: threading.Event, tail: Tail) -> None:
        watcher = events.Watcher(engine)
        machine_at = 0.0
        try:
            while not stop.is_set():
                begun = time.monotonic()
                batch: list[tuple[int | None, bytes]] = []
                if watcher.changed():
                    with db.read(engine) as connection:
                        batch += self._news(connection, tail)
                if begun - machine_at >= MACHINE_S:
                    machine_at = begun
                    batch.append((None, frame("forge", self._machine())))
                self._fan_out(batch)
                stop.wait(max(0.01, TICK_S - (time.monotonic() - begun)))
        except Exception:
            # Clients must not hang on a dead thread: they are sent away and come back to a fresh one.
            log.exception("the event tail of %s ended; streams are closed and may reconnect", self.home.root)
            with self._lock:
                clients = list(self._clients) if self._stop is stop else []
                if self._stop is stop:
                    self._clients.clear()
                    self._thread = None
            for client in clients:
                _in_loop(client.loop, client.drop)
        finally:
            watcher.close()

    def _machine(self) -> dict[str, Any]:
        """The machine's numbers, and whether the hero loop lives."""
        alive = services.noted(self.home, "arena") is not None
        return {**machine.sample(self.home.root).to_dict(), "arena": alive}

    def _news(self, connection: sa.Connection, tail: Tail) -> list[tuple[int | None, bytes]]:
        batch: list[tuple[int | None, bytes]] = []
        crits: set[int] = set()
        while True:
            found = events.after(connection, self.position, PAGE)
            for event in found:
                batch.append((event.id, frame(event.kind, event_data(event), event.id)))
                if event.kind == "crit":
                    crits.add(event.payload.get("step", -1))
            if found:
                self.position = found[-1].id
            if len(found) < PAGE:
                break
        shown = tail.turned(connection)
        if shown is not None:
            batch.append((None, frame("shown", shown)))
        data = tail.tick(connection, crits)
        if data is not None:
            batch.append((None, frame("tick", data)))
        return batch

    def _fan_out(self, batch: list[tuple[int | None, bytes]]) -> None:
        if not batch:
            return
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            _in_loop(client.loop, client.put, batch)


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable, *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        log.debug("a stream's event loop is closed already")


_hubs: dict[Path, Hub] = {}
_hubs_lock = threading.Lock()


def hub_of(home: RealmHome) -> Hub:
    """The hub of this home in this process, one for all applications."""
    with _hubs_lock:
        if home.root not in _hubs:
            _hubs[home.root] = Hub(home)
        return _hubs[home.root]


async def frames(hub: Hub, client: Client, last_event_id: int | None) -> AsyncIterator[bytes]:
    """All bytes of one stream: retry line, snapshot or replay, then live frames until the client is gone.

    Args:
        client: a new one; it is subscribed once the replay has caught up.
        last_event_id: newest durable event the client has; None = it has nothing and gets a snapshot first.
    """
    yield b"retry: %d\n\n" % RETRY_MS
    last = last_event_id
    if last is not None:
        oldest, newest = await asyncio.to_thread(_range, hub)
        if last > newest or (oldest and last and last < oldest - 1):
            # Another database than the client knew, or events that are no longer kept: begin anew.
            yield frame("reset", {"reason": f"event {last} is not in the log ({oldest} to {newest})"})
            last = None
    if last is None:
        shot = await asyncio.to_thread(_snapshot, hub)
        last = shot.event_id
        yield frame("snapshot", shot.model_dump(mode="json"), last)
    async for part, last_sent in _replay(hub, last):
        last = last_sent
        yield part
    await asyncio.to_thread(hub.subscribe, client)
    try:
        # Between the last page and the subscription more may have been written.
        async for part, last_sent in _replay(hub, last):
            last = last_sent
            yield part
        # Steps that were taken before the subscription make no tick: the client hears how far the battle is.
        yield frame("shown", await asyncio.to_thread(_present, hub))
        async for part in _live(client, last):
            yield part
    finally:
        hub.leave(client)


async def _live(client: Client, last: int) -> AsyncIterator[bytes]:
    while not client.gone.is_set():
        if not client.frames:
            client.ready.clear()
            try:
                await asyncio.wait_for(client.ready.wait(), KEEP_ALIVE_S)
            except TimeoutError:
                yield KEEP_ALIVE
            continue
        out = []
        while client.frames:
            event_id, data = client.frames.popleft()
            if event_id is not None:
                if event_id <= last:
                    continue
                last = event_id
            out.append(data)
        if out:
            yield b"".join(out)


async def _replay(hub: Hub, last: int) -> AsyncIterator[tuple[bytes, int]]:
    while True:
        found = await asyncio.to_thread(_page, hub, last)
        if not found:
            return
        last = found[-1].id
        yield b"".join(frame(event.kind, event_data(event), event.id) for event in found), last


def _page(hub: Hub, last: int) -> list[events.Event]:
    with db.read(hub.engine) as connection:
        return events.after(connection, last, PAGE)


def _present(hub: Hub) -> dict[str, Any]:
    """`{battle, state, at}` now; `at` is the campaign step of the newest battle."""
    with db.read(hub.engine) as connection:
        return shown_frame(newest_battle(connection))


def _range(hub: Hub) -> tuple[int, int]:
    """(oldest, newest) id of the log; the sequence remembers ids of deleted rows too."""
    with db.read(hub.engine) as connection:
        oldest = connection.execute(sa.select(sa.func.coalesce(sa.func.min(db.events.c.id), 0))).scalar_one()
        return int(oldest), events.last_id(connection)


def _snapshot(hub: Hub):
    with db.read(hub.engine) as connection:
        return snapshot(connection, hub.home)


class EventStream(Response):
    """ASGI response that streams `frames` and lets go of clients that neither read nor leave."""

    def __init__(self, hub: Hub, last_event_id: int | None) -> None:
        super().__init__(media_type="text/event-stream")
        self.hub, self.last_event_id = hub, last_event_id

    async def __call__(self, scope, receive, send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"),
                   (b"x-accel-buffering", b"no")]  # fmt: skip
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        client = Client(asyncio.get_running_loop())
        writer = asyncio.create_task(self._write(client, send))
        left = asyncio.create_task(_disconnected(receive))
        gone = asyncio.create_task(client.gone.wait())
        try:
            await asyncio.wait({writer, left, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not writer.done():
                # A client that still reads gets a clean end; one that does not is cut off.
                await asyncio.wait({writer, left}, timeout=GRACE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writer, left, gone):
                task.cancel()
            results = await asyncio.gather(writer, left, gone, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _write(self, client: Client, send) -> None:
        async with aclosing(frames(self.hub, client, self.last_event_id)) as parts:
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""The models in memory and the one thread that writes answers.

Rows that wait for the same model begin together as one batch; batches that run take turns, one token each, so a new
question is answered at once and a long answer does not hold up the rest. Models are loaded on first use, after their
hashes and the free memory were checked, and leave when they are idle. Torch is imported by the first load.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from realm.oracle import memory
from realm.oracle.catalog import Found
from realm.oracle.errors import OracleError
from realm.oracle.rows import Row
from realm.settings import RealmHome

if TYPE_CHECKING:
    from realm.oracle.backends.local import Generation, LocalModel

ROWS_AT_ONCE = 128
SMALL_CACHE = 64_000_000  # bytes of a batch's cache that are not worth asking the kernel about
WAIT_TO_END_S = 10.0


@dataclass
class Loaded:
    """A model in memory; `users` are the requests that hold it now."""

    model: LocalModel
    size: int
    users: int = 0
    used_at: float = field(default_factory=time.monotonic)


class Engine:
    """All of one process's models. Every method may be called from any thread."""

    def __init__(self, home: RealmHome) -> None:
        self.home = home
        self._loaded: dict[str, Loaded] = {}
        self._lock = threading.Lock()  # guards the table above
        self._loading = threading.Lock()  # one load at a time: two could each find room for themselves only
        self._turn = threading.Condition()  # guards what follows
        self._waiting: list[tuple[LocalModel, Row]] = []
        self._running: list[Generation] = []
        self._closed = False
        self._thread: threading.Thread | None = None

    # --- models

    def has(self, found: Found) -> bool:
        """Whether a lease would load nothing."""
        with self._lock:
            return found.id in self._loaded

    @contextmanager
    def lease(self, found: Found) -> Iterator[LocalModel]:
        """The model, loaded if need be and kept while the block runs; a load blocks the calling thread.

        Raises:
            OracleError: a byte differs, or there is no room.
        """
        entry = self.acquire(found)
        try:
            yield entry.model
        finally:
            self.release(entry)

    def acquire(self, found: Found) -> Loaded:
        """`lease` in two halves, for who cannot hold a block open."""
        entry = self._known(found)
        if entry is None:
            with self._loading:
                entry = self._known(found) or self._load(found)
        return entry

    def release(self, entry: Loaded) -> None:
        with self._lock:
            entry.users -= 1
            entry.used_at = time.monotonic()

    def _known(self, found: Found) -> Loaded | None:
        with self._lock:
            entry = self._loaded.get(found.id)
            if entry is not None and entry.model.found != found:
                del self._loaded[found.id]  # other weights stand behind this name now
                return None
            if entry is not None:
                entry.users += 1
            return entry

    def _load(self, found: Found) -> Loaded:
        found.verify()
        need = memory.model_bytes(found.folder)
        settings = self.home.settings
        from realm.oracle.backends import local

        while len(self._loaded) >= settings.oracle_models and self._drop_oldest():
            pass
        while True:
            free, where = local.free_memory()
            if need + settings.oracle_min_free <= free or not self._drop_oldest():
                break
        with self._lock:
            others = list(self._loaded)
        if len(others) >= settings.oracle_models:
            raise OracleError(503, f"{len(others)} models are loaded and all of them answer just now (oracle_models = "
                              f"{settings.oracle_models}); ask again in a moment", "busy", "model", 5)  # fmt: skip
        memory.refuse_unless_room(found.id, need, free, settings.oracle_min_free, where, others)
        try:
            model = local.LocalModel(found, self.home)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            raise OracleError(503, f"{found.id} could not be loaded from {found.folder}: {type(error).__name__}: "
                              f"{error}", "load_failed", "model") from error  # fmt: skip
        entry = Loaded(model, model.size, users=1)
        with self._lock:
            self._loaded[found.id] = entry
        return entry

    def _drop_oldest(self) -> bool:
        """Unload the model that was idle for longest; False when every one is in use."""
        with self._lock:
            idle = [(entry.used_at, key) for key, entry in self._loaded.items() if not entry.users]
            if not idle:
                return False
            self._loaded.pop(min(idle)[1])
        self._give_back()
        return True

    @staticmethod
    def _give_back() -> None:
        from realm.oracle.backends import local

        local.give_back()

    def unload(self, name: str) -> bool:
        """Take a model out of memory; False when it is not loaded.

        Raises:
            OracleError: 409, it answers just now.
        """
        with self._lock:
            entry = self._loaded.get(name)
            if entry is None:
                return False
            if entry.users:
                raise OracleError(409, f"{name} answers {entry.users} requests just now; stop them or wait", "busy")
            del self._loaded[name]
        self._give_back()
        return True

    def unload_idle(self, seconds: float) -> list[str]:
        """Unload what nobody asked for so long; returns the ids."""
        before = time.monotonic() - seconds
        with self._lock:
            gone = [key for key, entry in self._loaded.items() if not entry.users and entry.used_at < before]
            for key in gone:
                del self._loaded[key]
        if gone:
            self._give_back()
        return gone

    def status(self) -> list[dict[str, Any]]:
        """What is loaded: id, step, bytes, how many requests use it, seconds since the last one."""
        now = time.monotonic()
        with self._lock:
            return [{"id": key, "hero": e.model.found.profile.id, "step": e.model.found.step, "bytes": e.size,
                     "users": e.users, "idle_s": 0.0 if e.users else round(now - e.used_at, 1)}
                    for key, e in self._loaded.items()]  # fmt: skip

    # --- answers

    def submit(self, model: LocalModel, rows: list[Row]) -> None:
        """Have these rows written; each tells its `on_piece` what it has, from the worker thread."""
        with self._turn:
            if self._closed:
                raise OracleError(503, "the Oracle is shutting down; ask again when it is back", "closing")
            self._waiting += [(model, row) for row in rows]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="oracle", daemon=True)
                self._thread.start()
            self._turn.notify()

    def close(self) -> None:
        """End the worker; what is being written is cut off."""
        with self._turn:
            self._closed = True
            self._turn.notify()
        if self._thread is not None:
            self._thread.join(WAIT_TO_END_S)
        with self._lock:
            self._loaded.clear()

    def _work(self) -> None:
        while True:
            with self._turn:
                while not (self._waiting or self._running or self._closed):
                    self._turn.wait()
                if self._closed:
                    return
                begun = self._take()
            for model, rows in begun:
                self._begin(model, rows)
            self._running = [generation for generation in self._running if self._step(generation)]

    def _take(self) -> list[tuple[LocalModel, list[Row]]]:
        """Waiting rows that may begin now, by model, oldest first."""
        self._waiting = [(model, row) for model, row in self._waiting if not row.over]
        room = ROWS_AT_ONCE - sum(not row.over for generation in self._running for row in generation.rows)
        taken, self._waiting = self._waiting[:max(0, room)], self._waiting[max(0, room):]  # fmt: skip
        groups: dict[int, tuple[LocalModel, list[Row]]] = {}
        for model, row in taken:
            groups.setdefault(id(model), (model, []))[1].append(row)
        return list(groups.values())

    def _begin(self, model: LocalModel, rows: list[Row]) -> None:
        from realm.oracle.backends import local

        size = model.token_bytes * max(len(row.prompt) + row.limit for row in rows)
        many = len(rows)
        if size * many > SMALL_CACHE:
            free = local.free_memory()[0] - self.home.settings.oracle_min_free
            many = min(many, max(0, free) // size)
        if not many and not self._running:
            text = (f"an answer of up to {rows[0].limit:,} tokens needs {size / 1e6:,.0f} MB, more than may be taken "
                    "beside training; lower max_tokens")  # fmt: skip
            rows[0].fail(OracleError(503, text, "insufficient_memory"))
            many = 1
        with self._turn:  # the rest waits at the head of the line
            self._waiting[:0] = [(model, row) for row in rows[many:]]
        if many:
            self._running.append(local.Generation(model, rows[:many]))

    def _step(self, generation: Generation) -> bool:
        """One token; whatever goes wrong ends these rows, never the thread."""
        try:
            return generation.step()
        except Exception as error:
            told = error if isinstance(error, OracleError) else OracleError(
                500, f"writing failed: {type(error).__name__}: {error}", "generation_failed")  # fmt: skip
            for row in generation.rows:
                if not row.over:
                    row.fail(told)
            return False

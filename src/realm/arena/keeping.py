"""The Vault's work in the arena: orders of a person one after another, and the groundskeeper once an hour.

A thread of its own does it (hashing and copying release the interpreter), so that neither the game nor the next order
waits for a move of many GB. Whatever is under way when the process dies is still pending in `commands` and is done
again at the next start; every act may be repeated.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.arena import commands, tending
from realm.settings import RealmHome
from realm.vault import groundskeeper, orders
from realm.vault.catalog import VaultError
from realm.vault.checkpoints import CheckpointError

FIRST_ROUND_S = 60.0  # after the start, when the first battle is under way
ROUND_S = 3600.0
log = logging.getLogger("realm.arena.keeping")


class Keeping:
    """What the hero loop asks at every tick; never waits."""

    def __init__(self, home: RealmHome, made: sa.Engine, first_round_s: float = FIRST_ROUND_S) -> None:
        self.home, self.engine = home, made
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="keeper")
        self._job: tuple[dict[str, Any] | None, Future] | None = None
        self._look = True
        self._next_round = time.monotonic() + first_round_s

    def look(self) -> None:
        """Something in the database changed: there may be an order."""
        self._look = True

    def tick(self) -> None:
        if self._job is not None:
            command, future = self._job
            if not future.done():
                return
            self._job, self._look = None, True
            self._answer(command, future)
        elif self._look:
            self._look = False
            with db.read(self.engine) as connection:
                waiting = commands.wishes(connection, commands.VAULT)[:1]
            if waiting:
                self._job = waiting[0], self._pool.submit(self._do, waiting[0]["kind"], waiting[0]["payload"] or {})
        if self._job is None and time.monotonic() >= self._next_round:
            self._next_round = time.monotonic() + ROUND_S
            self._job = None, self._pool.submit(self._do, "groundskeeper.tend", {})

    def _do(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        """In the thread: one order; returns its answer."""
        if kind == "groundskeeper.tend":
            return groundskeeper.tend(self.home, self.engine, tending.tasks(self.home), only=payload.get("task"))
        return orders.carry_out(self.home, self.engine, kind.removeprefix("vault."), payload)

    def _answer(self, command: dict[str, Any] | None, future: Future) -> None:
        error = future.exception()
        if error is not None and not isinstance(error, (VaultError, CheckpointError)):
            log.error("%s failed", command["kind"] if command else "the groundskeeper", exc_info=error)
        if command is None:
            if error is not None:
                self._alert(error)
            return
        state, result = ("done", future.result()) if error is None else (
            "failed", {"reason": str(error) if str(error) else repr(error)})  # fmt: skip
        with db.write(self.engine) as connection:
            commands.finish(connection, command, state, result)

    def _alert(self, error: BaseException) -> None:
        with db.write(self.engine) as connection:
            events.emit(connection, "alert", f"The groundskeeper stumbled: {error}", "trouble",
                        alert_id=f"groundskeeper:{db.new_id()}", code="groundskeeper", what="clearing away",
                        why=repr(error), fix="Read logs/arena.log, mend the cause, then run `python3 -m training "
                        "groundskeeper --dry-run`.")  # fmt: skip

    def close(self) -> None:
        """At shutdown; what is under way is finished first."""
        self._pool.shutdown(wait=True, cancel_futures=True)

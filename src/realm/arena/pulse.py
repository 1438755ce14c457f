"""A battle's line to the database: step metrics out, orders in. Torch-free.

At each optimizer step the child asks one prepared SELECT what is desired (about 15 µs) and buffers the step's row;
buffered rows, the battle's step and the events that happened leave together in one transaction per 250 ms at most.
"""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from realm import db, events
from realm.arena.token_maps import MassWatch
from realm.guild.progression.combat import HITS, Hits
from realm.guild.strain import Reading, StrainTracker
from realm.settings import RealmHome
from realm.vault.checkpoints import disk_full

log = logging.getLogger("realm.battle")
FLUSH_S = 0.25
POLL_S = 0.05
BEAT_S = 60.0  # inside a long trial, between two signs of life
FULL_S = 1.0  # between two tries to write to a full disk
CLOCK_STEPS = 1000  # optimizer steps per hero level

Order = Literal["run", "stop", "skip"]


class StepLike(Protocol):
    """What a school reports of one optimizer step (`schools.chassis.StepFacts`)."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    trained_tokens: int
    facts: Mapping[str, float]


class Orders:
    """What the arena, the operating system and the parent process want of this child."""

    def __init__(self, home: RealmHome, parent_pid: int) -> None:
        self._raw = sqlite3.connect(home.database, timeout=db.BUSY_TIMEOUT_S, isolation_level=None)
        self._parent = parent_pid
        self.terminated = False

    def listen(self) -> None:
        """Treat SIGTERM and SIGINT as "stop: checkpoint, then exit"."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: Any) -> None:
        self.terminated = True

    @property
    def leaving(self) -> bool:
        """The child must end: it was told to, or the process that started it is gone."""
        return self.terminated or os.getppid() != self._parent

    def read(self, battle_id: str) -> tuple[str, int]:
        """(desired, save_requests) of a battle."""
        row = self._raw.execute("SELECT desired, save_requests FROM battles WHERE id = ?", (battle_id,)).fetchone()
        return row if row else ("stop", 0)

    def close(self) -> None:
        self._raw.close()


class Pulse:
    """One battle's state, metrics and events.

    Args:
        tracker, hits: fresh, or as a checkpoint inside the same quest left them.
        save: writes a checkpoint now, for the reason given.
    """

    def __init__(self, engine: sa.Engine, orders: Orders, battle: dict[str, Any], tracker: StrainTracker, hits: Hits,
                 save: Callable[[str], None]) -> None:  # fmt: skip
        self.engine, self.orders, self.battle = engine, orders, battle
        self.tracker, self.hits, self.save = tracker, hits, save
        self.reading: Reading | None = None
        self.state = "arming"
        self._shown = "arming"  # the state in the database; another one than `state` while a full disk is waited out
        self.order: Order = "run"  # the last answer of `poll`
        self._rows: list[dict[str, Any]] = []
        self._events: list[tuple[str, str, str, dict[str, Any]]] = []
        self._columns: dict[str, Any] = {}  # of the battle's row, not written yet because the disk was full
        self._words = ""  # the phase as it was last told
        self._flushed = self._stepped = self._looked = self._beat = time.monotonic()
        self._saves = orders.read(battle["id"])[1]
        self._hint: str | None = None
        self._hint_step = 0
        self._mass = MassWatch()

    def step(self, facts: StepLike) -> Order:
        """Take note of one optimizer step; returns what is wanted now, after waiting out a pause."""
        now = time.monotonic()
        before = self.reading
        reading = self.reading = self.tracker.update(facts.loss)
        self._rows.append({
            "run_id": self.battle["run_id"], "step": facts.step, "battle_id": self.battle["id"], "t": db.now(),
            "loss": facts.loss, "loss_ema": reading.loss_ema, "lr": facts.lr, "grad_norm": facts.grad_norm,
            "tokens": facts.tokens, "trained_tokens": facts.trained_tokens, "step_s": now - self._stepped,
            "floor": reading.floor, "strain": reading.strain, "strain_rate": reading.strain_rate,
            "zone": reading.zone, "hint": reading.hint.action, "effort": reading.strain, "steps": 1,
            "loss_min": facts.loss, "loss_max": facts.loss, "facts": dict(facts.facts) or None,
        })  # fmt: skip
        self._notice(facts, reading, before)
        if now - self._flushed >= FLUSH_S:
            self.flush()
        order = self.poll()
        self._stepped = time.monotonic()  # a pause is no part of the next step
        return order

    def poll(self) -> Order:
        """What is wanted now. Serves save requests; on "pause" it waits here until it is told something else."""
        order = self._look()
        if order == "pause":
            state = self.state
            self.enter("paused")
            while order == "pause":
                time.sleep(POLL_S)
                order = self._look()
            if order == "run":
                self.enter(state)
        self.order = order
        return order

    def leaving(self) -> bool:
        """Whether anything but going on is wanted; serves nothing and waits for nothing."""
        return self.orders.leaving or self.orders.read(self.battle["id"])[0] in ("stop", "skip")

    def restore(self) -> None:
        """Show the battle's state again after it was shown as waiting (disk full)."""
        if self._shown != self.state or self._columns.get("state", self.state) != self.state:
            self.flush(state=self.state, phase=None)

    def interrupted(self) -> bool:
        """For loops that are no training: polls at most every 50 ms; True means stop or skip.

        A trial writes nothing until it is over: once a minute its phase says that it goes on, or the arena would take
        the child for dead.
        """
        now = time.monotonic()
        if now - self._looked < POLL_S:
            return False
        if now - max(self._beat, self._flushed) >= BEAT_S:
            self._beat, words = now, self._words
            self.flush(phase=f"{words} ({time.strftime('%H:%M', time.localtime(db.now()))})")
            self._words = words
        return self.poll() != "run"

    def _look(self) -> str:
        self._looked = time.monotonic()
        if self.orders.leaving:
            return "stop"
        desired, saves = self.orders.read(self.battle["id"])
        if saves > self._saves and self.state in ("training", "paused"):
            self._saves = saves
            self.flush()
            self.save("asked for")
        return desired

    def begin(self, connection: sa.Connection, **columns: Any) -> None:
        """Into training, inside the caller's transaction."""
        self.state = self._shown = "training"
        self._columns.clear()
        connection.execute(sa.update(db.battles).where(db.battles.c.id == self.battle["id"])
                           .values(state="training", **columns))  # fmt: skip
        self.tell(connection, "training", {})

    def enter(self, state: str, **columns: Any) -> None:
        """Change the battle's state, with its event and everything buffered, in one transaction.

        On a full disk it waits for space; a child that must end meanwhile leaves the row to the arena.
        """
        self.state = state
        while not self.flush(state=state, **columns) and not self.orders.leaving:
            time.sleep(FULL_S)

    def flush(self, state: str | None = None, **columns: Any) -> bool:
        """Write what is buffered; one transaction, nothing when there is nothing to say.

        False: the disk is full. Everything stays in memory and goes with the next flush.
        """
        self._flushed = time.monotonic()
        rows, told = self._rows, self._events
        if rows:
            columns["step"] = rows[-1]["step"]
        if state is not None:
            columns["state"] = state
        self._words = columns.get("phase") or self._words
        self._columns |= columns
        if not (rows or told or self._columns):
            return True
        try:
            self._write(rows, told, self._columns)
        except sa.exc.OperationalError as error:
            if not disk_full(error):
                raise
            log.error("the disk is full: %d metric rows and %d events wait in memory", len(rows), len(told))
            return False
        self._shown = self._columns.get("state", self._shown)
        self._rows, self._events, self._columns = [], [], {}
        return True

    def _write(self, rows: list[dict[str, Any]], told: list[Any], columns: dict[str, Any]) -> None:
        with db.write(self.engine) as connection:
            if rows:
                connection.execute(sa.insert(db.metrics), rows)
            if columns:
                connection.execute(sa.update(db.battles).where(db.battles.c.id == self.battle["id"]).values(**columns))
            for kind, text, level, payload in told:
                events.emit(connection, kind, text, level, **payload)
            if "state" in columns:
                self.tell(connection, columns["state"], columns)

    def tell(self, connection: sa.Connection, state: str, columns: dict[str, Any]) -> None:
        """The "battle" event of a state change."""
        outcome, why = columns.get("outcome"), columns.get("error")
        text = f"Battle {state}" + (f": {why}" if why else f" ({outcome})" if outcome else "") + "."
        extra = {name: value for name, value in (("outcome", outcome), ("reason", why)) if value}
        level = "trouble" if state == "failed" else "info"
        events.emit(connection, "battle", text, level, battle_id=self.battle["id"], run=self.battle["run_id"],
                    quest_id=self.battle["quest_id"], state=state, **extra)  # fmt: skip

    def _notice(self, facts: StepLike, reading: Reading, before: Reading | None) -> None:
        """Collect the events of one step: zone, hint, critical hit, clock level."""
        battle_id = self.battle["id"]
        if before is not None and reading.zone != before.zone:
            self.note("zone", f"Strain zone: {before.zone} → {reading.zone} at step {facts.step:,}.", "info",
                       battle_id=battle_id, step=facts.step, **{"from": before.zone, "to": reading.zone})  # fmt: skip
        hint = reading.hint
        # A hint that flickers at a threshold is told at most every 20 steps.
        if hint.action not in ("wait", self._hint) and facts.step - self._hint_step >= 20:
            self._hint, self._hint_step = hint.action, facts.step
            self.note("hint", f"Hint: {hint.action.replace('_', ' ')}. {hint.reason}.", "info", battle_id=battle_id,
                       step=facts.step, action=hint.action, reason=hint.reason, confidence=hint.confidence)  # fmt: skip
        hit, critical = self.hits.add(facts.loss)
        if critical:
            self.note("crit", f"Step loss {facts.loss:.4f} is the best 1 % of the last {HITS} steps.", "info",
                       battle_id=battle_id, step=facts.step, hit=hit, loss=facts.loss)  # fmt: skip
        if self._mass.add(facts.facts.get("top_mass")):
            text = (f"Half of the weight sits on 5 % of the tokens: {facts.facts['effective_tokens']:,.0f} of "
                    f"{facts.trained_tokens:,} tokens count")  # fmt: skip
            self.note("alert", f"{text}.", "trouble", alert_id=f"eye:{battle_id}", code="lopsided_weights",
                       what="weighing tokens", why=text, fix="Usually some labels are wrong: look at the tokens of the "
                       "battle's page, mend the rows, or set oracle_eye.policy: uniform.")  # fmt: skip
        if facts.step % CLOCK_STEPS == 0:
            level = facts.step // CLOCK_STEPS
            self.note("level", f"{facts.step:,} optimizer steps: hero level {level}.", "deed", kind="clock",
                       **{"from": level - 1, "to": level})  # fmt: skip

    def note(self, kind: str, text: str, level: str, /, **payload: Any) -> None:
        """An event that goes with the next flush."""
        self._events.append((kind, text, level, payload))

"""The Temple's hours: orders are asked every hour, a failing one every five minutes, and when a person says so.

Each asking is a process of its own, `python3 -m training temple …` at the lowest priority: it may take minutes, load a
model or crash, and the hero loop only looks whether it is over. One at a time; killed with the arena.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from realm import db
from realm.arena import commands
from realm.arena.child import ENVIRONMENT
from realm.settings import RealmHome
from realm.temple import verdicts

log = logging.getLogger("realm.arena.rites")

FIRST_S = 60.0  # after the start: the first quest needs the processor more
LOOK_S = 15.0  # between two looks at what is due
LIMIT_S = 1800.0
AFTER_CRASH_S = 300.0
NICE = 19

Command = Callable[[str, bool, bool], list[str]]


def front_door(order: str, fix: bool, scheduled: bool) -> list[str]:
    """The same command that a person types."""
    return [sys.executable, "-m", "training", "temple", *([] if order == "all" else [order]), "--json", "--no-record",
            *(["--fix"] if fix else []), *(["--sparing"] if scheduled else [])]  # fmt: skip


class Rites:
    """Asks orders without waiting for them.

    Args:
        first_s: seconds until the first hourly asking.
        command: (order, fix, scheduled) -> command line (tests put a stand-in here).
    """

    def __init__(
        self, home: RealmHome, engine: sa.Engine, command: Command = front_door, first_s: float = FIRST_S
    ) -> None:
        self.home, self.engine, self.command = home, engine, command
        self._next = time.monotonic() + first_s
        self._process: subprocess.Popen | None = None
        self._ask: dict[str, Any] = {}
        self._wished = True  # commands may wait from before the start

    def wished(self) -> None:
        """The database changed: a person may have asked."""
        self._wished = True

    def step(self) -> None:
        """One look; costs two comparisons while nothing is to be done."""
        if self._process is not None:
            if self._process.poll() is not None:
                self._finish()
            elif time.monotonic() > self._ask["deadline"]:
                self._kill()
                self._finish(f"it took longer than {LIMIT_S:.0f} s")
            return
        if self._wished:
            self._wished = False
            with db.read(self.engine) as connection:
                wish = next(iter(commands.wishes(connection, "temple")), None)
            if wish is not None:
                self._start(wish["result"]["order"], wish["result"]["fix"], wish)
                return
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOOK_S
            with db.read(self.engine) as connection:
                due = verdicts.due(verdicts.newest(connection), db.now())
            if due:
                self._start("deep" if "deep" in due else due[0], False, None)

    def _start(self, order: str, fix: bool, wish: Mapping[str, Any] | None) -> None:
        self.home.logs.mkdir(parents=True, exist_ok=True)
        environ = {**os.environ, **ENVIRONMENT, "REALM_HOME": str(self.home.root)}
        with open(self._answer, "wb") as told, open(self.home.logs / "temple.log", "ab") as errors:
            # A session of its own: its children end with it, and Ctrl-C in the terminal is the arena's to answer.
            process = subprocess.Popen(self.command(order, fix, wish is None), stdin=subprocess.DEVNULL, stdout=told,
                                       stderr=errors, env=environ, start_new_session=True)  # fmt: skip
        try:
            psutil.Process(process.pid).nice(NICE)
        except psutil.Error as error:  # it ended already
            log.debug("the asking keeps its priority: %s", error)
        self._process = process
        self._ask = {"order": order, "wish": wish, "deadline": time.monotonic() + LIMIT_S}

    @property
    def _answer(self) -> Path:
        return self.home.run / "temple.json"

    def _finish(self, fault: str | None = None) -> None:
        process, ask = self._process, self._ask
        self._process, self._wished = None, True
        found: list[dict[str, Any]] = []
        try:
            found = [] if fault else json.loads(self._answer.read_bytes())["verdicts"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            fault = f"it gave no verdict (exit code {process.returncode}, {type(error).__name__}); see logs/temple.log"
        wish = ask["wish"]
        with db.write(self.engine) as connection:
            for verdict in found:
                try:
                    verdicts.keep(connection, verdict, "person" if wish else "hour")
                except ValueError as error:
                    fault = str(error)
            if wish is not None:
                told = {"reason": fault} if fault else {
                    "order": ask["order"], "verdicts": {v["order"]: v["status"] for v in found}}
                commands.finish(connection, wish, "failed" if fault else "done", told)
        if fault:
            log.error("the Temple was asked for %s: %s", ask["order"], fault)
            self._next = time.monotonic() + AFTER_CRASH_S

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            log.debug("the asking had ended")
        self._process.wait()

    def close(self) -> None:
        """End a running asking; a person's stays noted and is asked again at the next start."""
        if self._process is not None:
            self._kill()
            self._process = None

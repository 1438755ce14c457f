"""The job executor: the only writer of the job table. A thread of the arena, so that it never holds the loop's tick.

Each round it takes orders, keeps what ended, gives up what took too long, and begins what there is room for, all in
one transaction; processes are started and ended after it. A kill at any instant leaves jobs as running, and the next
executor counts those attempts as lost.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from realm import db, events
from realm.arena.commands import finish as answer_command
from realm.guild import campaigns
from realm.jobs import board, kinds, orders, settle
from realm.jobs.bench import Task
from realm.jobs.kinds import DISK_FULL, LOST, TIMEOUT, JobError
from realm.jobs.local import Ended, LocalRunner, end_leftovers, folder_of
from realm.settings import RealmHome
from realm.vault.checkpoints import disk_full

log = logging.getLogger("realm.jobs")

TICK_S = 0.01
SPRINT, YIELD_S = 4, 0.25  # rounds in a row without a pause for other writers, and the longest pause
LOOK_S = 1.0  # for what only time brings: waiting times, timeouts, workers that came
FAULT_WAIT_S = 2.0
WORKERS_S = 15.0


class Runner(Protocol):
    """A place where attempts are worked. All calls come from the executor's thread and return at once."""

    name: str

    def room(self) -> list[tuple[frozenset[str], int]]: ...
    def start(self, task: Task) -> None: ...
    def ended(self) -> list[Ended]: ...
    def kill(self, token: str) -> None: ...
    def workers(self) -> list[dict[str, Any]]: ...
    def close(self) -> None: ...


@dataclass
class _Running:
    task: Task
    runner: Runner
    deadline: float


@dataclass
class _Round:
    """What one transaction decided, to be done after it."""

    begin: list[tuple[Task, Runner]] = field(default_factory=list)
    end: list[str] = field(default_factory=list)
    tidy: list[Task] = field(default_factory=list)


class Executor:
    """Runs until `stop` is set.

    Args:
        runners: where work is done; default: this machine, and the cluster that the settings name.
    """

    def __init__(
        self, home: RealmHome, stop: threading.Event | None = None,
        runners: Callable[[threading.Event], Sequence[Runner]] | None = None,
    ) -> None:  # fmt: skip
        self.home, self.engine = home, db.connect(home)
        self.stop = stop or threading.Event()
        self._wake = threading.Event()
        self._make = runners or (lambda wake: default_runners(home, wake))
        self._runners: Sequence[Runner] = ()
        self._running: dict[str, _Running] = {}
        self._ended: list[Ended] = []  # not kept yet: the database was full or locked
        self._watch = events.Watcher(self.engine)
        self._look_at = 0.0
        self._seen: tuple[list[dict[str, Any]], float] = ([], 0.0)

    def run(self) -> None:
        """Work until told to stop; then give back what runs."""
        ready, in_a_row = False, 0
        try:
            while not self.stop.is_set():
                try:
                    if not ready:
                        self.recover()
                        ready = True
                    begun = time.monotonic()
                    in_a_row = in_a_row + 1 if self.step() else 0
                    if in_a_row < SPRINT:
                        self._wake.wait(TICK_S)
                    else:
                        # SQLite's lock is not fair: who waits looks for it every 100 ms. At most half the time is ours.
                        self.stop.wait(min(YIELD_S, time.monotonic() - begun))
                    self._wake.clear()
                except Exception:
                    # A full disk or a locked database must not end the work for good; what ended is kept in memory.
                    log.exception("the job executor stumbled; trying again in %.0f s", FAULT_WAIT_S)
                    self.stop.wait(FAULT_WAIT_S)
        finally:
            self.close()

    def recover(self) -> None:
        """Attempts of an executor that is gone are lost; their processes are ended before others begin."""
        end_leftovers(self.home)
        with db.write(self.engine) as connection:
            for row in board.running(connection):
                board.fail(connection, row["id"], row["token"], LOST, "the arena ended while the job ran")
        self._runners = self._make(self._wake)

    def step(self) -> bool:
        """One round; True when something was done. Costs one pragma while nothing happens."""
        for runner in self._runners:
            self._ended += runner.ended()
        now = time.monotonic()
        if not (self._ended or self._watch.changed() or now >= self._look_at):
            return False
        self._look_at = now + LOOK_S
        ended = {task.token for task, _ in self._ended}
        late = [one for token, one in self._running.items() if now > one.deadline and token not in ended]
        self._tell_workers()
        if not (self._ended or late or self._waiting()):
            return False
        judged = [(task, outcome, self._judge(task, outcome)) for task, outcome in self._ended]
        todo = _Round()
        with db.write(self.engine) as connection:
            todo.end += orders.work(connection, answer_command)
            for task, outcome, verdict in judged:
                self._keep(connection, task, outcome, verdict, todo)
            for one in late:
                self._give_up(connection, one, todo)
            self._claim(connection, todo)
        self._ended = []
        for token in ended:
            self._running.pop(token, None)
        self._act(todo)
        return True

    def _waiting(self) -> bool:
        """Whether an order or a job can be taken now."""
        with db.read(self.engine) as connection:
            return bool(orders.pending(connection, 1)) or any(
                room > 0 and board.claimable(connection, names, 1)
                for runner in self._runners for names, room in runner.room())  # fmt: skip

    def _judge(self, task: Task, outcome: dict[str, Any]) -> settle.Write | JobError:
        if outcome["state"] != "succeeded":
            return JobError(outcome["code"], outcome["text"])
        try:
            return settle.judge(self.home, task, outcome, folder_of(self.home, task))
        except JobError as error:
            return error
        except Exception as error:
            # A result of the wrong form is that worker's fault; it must not hold up the results of others.
            log.exception("the result of job %s %s cannot be used", task.kind, task.job_id)
            return JobError("mismatch", f"its result cannot be used: {type(error).__name__}: {error}")

    def _keep(self, connection: sa.Connection, task: Task, outcome: dict[str, Any], verdict: settle.Write | JobError,
              todo: _Round) -> None:  # fmt: skip
        worker = outcome.get("worker")
        if not isinstance(verdict, JobError):
            connection.exec_driver_sql("SAVEPOINT job_result")
            try:
                if not board.finish(connection, task.job_id, task.token, verdict, worker):
                    todo.tidy.append(task)
            except sa.exc.OperationalError:
                raise  # full or locked: the result is kept later
            except Exception as error:
                connection.exec_driver_sql("ROLLBACK TO job_result")
                log.exception("the result of job %s %s could not be kept", task.kind, task.job_id)
                verdict = JobError(DISK_FULL if disk_full(error) else "error", f"its result was not kept: {error!r}")
            connection.exec_driver_sql("RELEASE job_result")
        if isinstance(verdict, JobError):
            board.fail(connection, task.job_id, task.token, verdict.code, str(verdict), worker)
            todo.tidy.append(task)

    def _give_up(self, connection: sa.Connection, one: _Running, todo: _Round) -> None:
        limit = kinds.KINDS[one.task.kind].timeout_s
        board.fail(connection, one.task.job_id, one.task.token, TIMEOUT, f"no result within {limit:.0f} s")
        todo.end.append(one.task.token)

    def _claim(self, connection: sa.Connection, todo: _Round) -> None:
        for runner in self._runners:
            for names, room in runner.room():
                for row in board.claimable(connection, names, room) if room > 0 else ():
                    got = board.claim(connection, row, runner.name)
                    todo.begin.append((Task(got.job_id, got.kind, got.payload, got.token, got.attempt), runner))

    def _act(self, todo: _Round) -> None:
        for token in todo.end:
            one = self._running.pop(token, None)
            if one is not None:
                one.runner.kill(token)
        for task, runner in todo.begin:
            deadline = time.monotonic() + kinds.KINDS[task.kind].timeout_s
            self._running[task.token] = _Running(task, runner, deadline)
            try:
                runner.start(task)
            except OSError as error:
                # No process, no room on the disk: this attempt is lost, the executor goes on.
                self._ended.append((task, {"state": "failed", "code": LOST, "text": f"it could not begin: {error}"}))
                self._wake.set()
        for task in todo.tidy:
            shutil.rmtree(folder_of(self.home, task), ignore_errors=True)
        if todo.begin:
            self._look_at = 0.0  # there may be more than one lane held

    def _tell_workers(self) -> None:
        """Keep what the pages show of a cluster's machines; nothing is written where there is none."""
        found = [worker for runner in self._runners for worker in runner.workers()]
        known, at = self._seen
        if not (found or known) or (found == known and time.monotonic() - at < WORKERS_S):
            return
        self._seen = (found, time.monotonic())
        with db.write(self.engine) as connection:
            campaigns.set_value(connection, board.WORKERS, {"t": db.now(), "workers": found})

    def close(self) -> None:
        """Give back what runs, uncounted, and end it."""
        try:
            if self._running:
                with db.write(self.engine) as connection:
                    for one in self._running.values():
                        board.release(connection, one.task.job_id, one.task.token, "the arena was stopped")
        except (sa.exc.OperationalError, sqlite3.OperationalError):
            log.exception("running jobs could not be given back; the next start counts their attempts as lost")
        finally:
            for runner in self._runners:
                runner.close()
            self._watch.close()
            self.engine.dispose()


def default_runners(home: RealmHome, wake: threading.Event) -> list[Runner]:
    """This machine for everything; or, where the settings name a cluster, that for what can be done anywhere."""
    away = frozenset(name for name, kind in kinds.KINDS.items() if kind.anywhere)
    address = home.settings.jobs_ray
    if not address:
        return [LocalRunner(home, frozenset(kinds.KINDS), wake)]
    from realm.jobs.cluster import RayRunner

    return [LocalRunner(home, frozenset(kinds.KINDS) - away, wake), RayRunner(home, away, wake, address)]

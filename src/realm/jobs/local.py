"""This machine as a worker: one child process per job that loads weights or reads large files, threads for the rest.

A child (`python -m realm.jobs.child FOLDER`) reads `task.json` and leaves `outcome.json`; it ends when the arena does.
Threads cannot be ended: an attempt that was revoked works on unheard, and its slot is free at once.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm import services
from realm.arena.child import ENVIRONMENT
from realm.jobs import kinds
from realm.jobs.bench import Bench, Task, failed, perform
from realm.jobs.depot import HomeDepot
from realm.settings import RealmHome

MAX_ABANDONED = 16  # threads that work on although nobody waits for them; beyond, no thread is begun
TASK, OUTCOME = "task.json", "outcome.json"
LOG_TAIL = 600

Ended = tuple[Task, dict[str, Any]]


def child_command(folder: Path) -> list[str]:
    """The command line of a job's process."""
    return [sys.executable, "-m", "realm.jobs.child", str(folder)]


@dataclass
class _Child:
    task: Task
    process: subprocess.Popen
    folder: Path


class LocalRunner:
    """Works jobs on the arena's machine.

    Args:
        names: the kinds that it takes.
        slots: how many attempts at once in each lane.
    """

    name = "this machine"

    def __init__(
        self, home: RealmHome, names: frozenset[str], wake: threading.Event, slots: dict[str, int] = kinds.SLOTS,
        command: Callable[[Path], list[str]] = child_command,
    ) -> None:  # fmt: skip
        self.home, self.names, self.slots, self.command = home, names, slots, command
        self._wake = wake
        self._children: dict[str, _Child] = {}
        self._threads: dict[str, threading.Event] = {}  # token → set when nobody waits any more
        self._abandoned = 0
        self._lock = threading.Lock()
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()

    def room(self) -> list[tuple[frozenset[str], int]]:
        """(kinds, how many more attempts of them may begin) of each lane."""
        busy = {"thread": len(self._threads), "torch": 0, "process": 0}
        for child in self._children.values():
            busy[kinds.KINDS[child.task.kind].lane] += 1
        if self._abandoned >= MAX_ABANDONED:
            busy["thread"] = self.slots["thread"]
        return [(frozenset(n for n in self.names if kinds.KINDS[n].lane == lane), slots - busy[lane])
                for lane, slots in self.slots.items()]  # fmt: skip

    def start(self, task: Task) -> None:
        """Begin an attempt."""
        folder = folder_of(self.home, task)
        folder.mkdir(parents=True)
        if kinds.KINDS[task.kind].lane == "thread":
            gone = self._threads[task.token] = threading.Event()
            threading.Thread(target=self._work, args=(task, folder, gone), name=f"job-{task.token}",
                             daemon=True).start()  # fmt: skip
            return
        told = {"task": task.to_dict(), "home": str(self.home.root), "parent": os.getpid()}
        (folder / TASK).write_text(json.dumps(told), encoding="utf-8")
        with open(folder / "log.txt", "ab") as log:
            process = subprocess.Popen(self.command(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env={**os.environ, **ENVIRONMENT}, start_new_session=True)  # fmt: skip
        self._children[task.token] = _Child(task, process, folder)
        try:
            services.leave_note(self.home, f"job-{task.token}", process.pid)
        except OSError:
            self.kill(task.token)  # a process that no later arena could find must not go on
            raise

    def _work(self, task: Task, folder: Path, gone: threading.Event) -> None:
        outcome = perform(Bench(task, HomeDepot(self.home), folder, self.home, gone.is_set))
        with self._lock:
            if self._threads.pop(task.token, None) is None:
                self._abandoned -= 1
        self._ended.put((task, outcome))
        self._wake.set()

    def ended(self) -> list[Ended]:
        """Attempts that ended since the last call."""
        found = []
        while not self._ended.empty():
            found.append(self._ended.get())
        for token, child in list(self._children.items()):
            code = child.process.poll()
            if code is not None:
                del self._children[token]
                (self.home.run / f"job-{token}.json").unlink(missing_ok=True)
                found.append((child.task, _outcome(child.folder, code)))
        return found

    def kill(self, token: str) -> None:
        """End an attempt whose result nobody waits for."""
        with self._lock:
            gone = self._threads.pop(token, None)
            if gone is not None:
                gone.set()
                self._abandoned += 1
                return
        child = self._children.pop(token, None)
        if child is not None:
            _kill(child.process)
            (self.home.run / f"job-{token}.json").unlink(missing_ok=True)
            shutil.rmtree(child.folder, ignore_errors=True)

    def workers(self) -> list[dict[str, Any]]:
        """This machine is shown as long as the arena lives; nothing is kept."""
        return []

    def close(self) -> None:
        """End every attempt."""
        for token in [*self._threads, *self._children]:
            self.kill(token)


def folder_of(home: RealmHome, task: Task) -> Path:
    """The folder of one attempt's files; it is the job's for good when the attempt's result counts."""
    return home.root / "jobs" / task.job_id / task.token


def end_leftovers(home: RealmHome) -> int:
    """End job processes of an arena that crashed; returns how many. A pid counts only with its start time."""
    found = 0
    for note in home.run.glob("job-*.json"):
        process = services.noted(home, note.stem)
        if process is not None:
            process.kill()
            process.wait(10)
            found += 1
        note.unlink(missing_ok=True)
    return found


def _kill(process: subprocess.Popen) -> None:
    """The child and what it began: it leads a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended just now
    process.wait()


def _outcome(folder: Path, code: int) -> dict[str, Any]:
    """What a child left; without a whole outcome the attempt was lost."""
    path = folder / OUTCOME
    if path.is_file():
        told = json.loads(path.read_text(encoding="utf-8"))
        for name in (OUTCOME, TASK):  # a trial's answers are in its table, and nowhere else
            (folder / name).unlink()
        return told
    tail = (folder / "log.txt").read_bytes()[-LOG_TAIL:].decode("utf-8", "replace").strip()
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return failed("lost", f"its process ended with {how}" + (f"; log: {tail}" if tail else ""))

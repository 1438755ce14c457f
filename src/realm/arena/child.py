"""The battle child as the arena sees it: start it, know whether it lives, end it, clear one left by a crash.

The child (`python -m realm.arena.battle --home HOME --worker TOKEN`) holds torch and the model; it serves the battles
rows that carry its token. Only its process is handled here; the two talk through the database alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from realm import db
from realm.settings import RealmHome

MAX_QUESTS = 50  # a child is replaced after so many battles: memory returns, leaks stay small (contracts A5)
TERM_WAIT_S = 10.0
LOG_TAIL = 4000
# Two OpenMP threads beside a busy process run 20-100 times slower (notes: feasibility C); one thread, passive waits.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false",
               "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}  # fmt: skip

Command = Callable[[RealmHome, str], list[str]]


def battle_command(home: RealmHome, worker: str) -> list[str]:
    """The command line of the real child."""
    return [sys.executable, "-m", "realm.arena.battle", "--home", str(home.root), "--worker", worker]


@dataclass
class Child:
    """One running battle child. `served` counts battles given to it; `key` is the configuration it holds."""

    process: subprocess.Popen
    worker: str
    key: str
    served: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def fits(self, key: str) -> bool:
        """Whether it can take another battle of this configuration."""
        return self.alive and self.key == key and self.served < MAX_QUESTS


def start(
    home: RealmHome, key: str, command: Command = battle_command, environ: Mapping[str, str] | None = None
) -> Child:
    """Start a child with a fresh token; its output is appended to `logs/battle.log`, its pid noted in `run/`."""
    worker = db.new_id()
    values = {**os.environ, **ENVIRONMENT, **(environ or {})}
    home.logs.mkdir(parents=True, exist_ok=True)
    with open(home.logs / "battle.log", "ab") as log:
        # A session of its own: Ctrl-C in the terminal reaches the arena, which then asks the child for a checkpoint.
        process = subprocess.Popen(command(home, worker), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env=values, start_new_session=True)  # fmt: skip
    _note(home, process.pid, worker)
    return Child(process, worker, key)


def _note_path(home: RealmHome) -> Path:
    return home.run / "battle-child.json"


def _note(home: RealmHome, pid: int, worker: str) -> None:
    note = {"pid": pid, "started": psutil.Process(pid).create_time(), "worker": worker}
    temporary = _note_path(home).with_suffix(".tmp")
    temporary.write_text(json.dumps(note), encoding="utf-8")
    os.replace(temporary, _note_path(home))


def end(child: Child, wait_s: float = TERM_WAIT_S) -> None:
    """SIGTERM (the child saves and leaves), then SIGKILL after `wait_s` seconds."""
    if child.alive:
        child.process.send_signal(signal.SIGTERM)
        try:
            child.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            child.process.kill()
    child.process.wait()


def end_leftover(home: RealmHome, wait_s: float = TERM_WAIT_S) -> int | None:
    """End the child of an arena that crashed, if it still runs; returns its pid.

    A child ends by itself when its parent is gone, but only at its next step end; two writers of one run must not be.
    The pid counts only with the same start time, so a recycled pid is never signalled.
    """
    path = _note_path(home)
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        process = psutil.Process(note["pid"])
        if abs(process.create_time() - note["started"]) > 1.0 or process.status() == psutil.STATUS_ZOMBIE:
            return None
        process.terminate()
        try:
            process.wait(wait_s)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(wait_s)
        return note["pid"]
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    finally:
        path.unlink(missing_ok=True)


def log_tail(home: RealmHome, lines: int = 6) -> str:
    """The last lines of `logs/battle.log`, for the error of a battle whose child died."""
    path = home.logs / "battle.log"
    try:
        with open(path, "rb") as log:
            log.seek(max(0, path.stat().st_size - LOG_TAIL))
            text = log.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.strip().splitlines()[-lines:])

"""Parts for tests of jobs: kinds of their own, an executor in a thread, a child process that knows those kinds.

As a program (`python jobs_kit.py FOLDER`) it is that child.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from realm import db
from realm.jobs import board, kinds, orders
from realm.jobs.bench import Bench, Result
from realm.jobs.executor import Executor
from realm.jobs.kinds import JobError, Kind, Payload
from realm.jobs.local import LocalRunner


class Word(Payload):
    """Says a word after a while, if the file `wait` names is there; notes each time that it was said."""

    word: str = "done"
    wait: str | None = None
    fail: str | None = None


def say(payload: Word, bench: Bench) -> Result:
    """The work of the test kinds: `said.txt` in the realm home gets one line per time it is done."""
    with open(bench.at_home().root / "begun.txt", "a", encoding="utf-8") as log:
        log.write(f"{bench.task.job_id} {os.getpid()} {bench.task.attempt}\n")
    while payload.wait and not Path(payload.wait).exists() and not bench.cancelled():
        time.sleep(0.01)
    if payload.fail:
        raise JobError(payload.fail, f"told to fail with {payload.fail}")
    (bench.folder / "word.txt").write_text(payload.word, encoding="utf-8")
    return Result({"word": payload.word, "pid": os.getpid()}, files=("word.txt",))


def count(payload: Payload, bench: Bench) -> Result:
    """Next to no work."""
    return Result({})


def register() -> None:
    """Add the test kinds to the table."""
    for name, lane in (("thread_word", "thread"), ("child_word", "process"), ("torch_word", "torch")):
        kinds.KINDS[name] = Kind(name, "analytics", Word, "jobs_kit:say", lane, 900, 100)
    kinds.KINDS["quick_word"] = Kind("quick_word", "analytics", Word, "jobs_kit:say", "thread", 0.3, 100)
    kinds.KINDS["two_words"] = Kind("two_words", "analytics", Word, "jobs_kit:say", "thread", 60, 2)
    kinds.KINDS["count"] = Kind("count", "analytics", Payload, "jobs_kit:count", "thread", 60, 100_000)


def child_command(folder: Path) -> list[str]:
    return [sys.executable, __file__, str(folder)]


class Desk:
    """Orders and questions to one home's jobs."""

    def __init__(self, home) -> None:
        self.home, self.engine = home, db.connect(home)

    def submit(self, kind: str, priority: str = "normal", key: str | None = None, **payload) -> str:
        return orders.submit(self.engine, self.home, kind, payload, priority, key)

    def job(self, job_id: str) -> dict:
        with db.read(self.engine) as connection:
            return board.find(connection, job_id)

    def trail(self, job_id: str) -> list[str]:
        table = db.job_audit
        with db.read(self.engine) as connection:
            query = sa.select(table.c.what).where(table.c.job_id == job_id).order_by(table.c.id)
            return list(connection.execute(query).scalars())

    def until(self, job_id: str, *states: str, wait_s: float = 150.0) -> dict:
        """The job once it is in one of these states."""
        deadline = time.monotonic() + wait_s
        table = db.jobs
        while time.monotonic() < deadline:
            with db.read(self.engine) as connection:
                row = connection.execute(sa.select(table).where(table.c.id == job_id)).mappings().first()
            if row is not None and row["state"] in states:
                return dict(row)
            time.sleep(0.01)
        raise AssertionError(f"job {job_id} is not {states} after {wait_s} s but {row and dict(row)}")

    def begun(self, job_id: str, times: int = 1, wait_s: float = 150.0) -> list[int]:
        """Process ids of the attempts once so many have begun their work."""
        deadline = time.monotonic() + wait_s
        file = self.home.root / "begun.txt"
        while time.monotonic() < deadline:
            lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            found = [int(line.split()[1]) for line in lines if line.startswith(f"{job_id} ")]
            if len(found) >= times:
                return found
            time.sleep(0.01)
        raise AssertionError(f"job {job_id} did not begin {times} times")

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def executing(home, slots: dict[str, int] | None = None, runners=None):
    """An executor in a thread; it is stopped in the end."""
    slots = slots or {"torch": 1, "process": 1, "thread": 4}
    made = runners or (lambda wake: [LocalRunner(home, frozenset(kinds.KINDS), wake, slots, child_command)])
    executor = Executor(home, runners=made)
    thread = threading.Thread(target=executor.run)
    thread.start()
    try:
        yield executor
    finally:
        executor.stop.set()
        thread.join(60)
        assert not thread.is_alive()


if __name__ == "__main__":
    from realm.jobs import child

    sys.modules["jobs_kit"] = sys.modules["__main__"]
    register()
    child.main(Path(sys.argv[1]))

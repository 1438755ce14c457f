"""Where one attempt of a job is worked: what it gets, what it gives, and how its end is told as plain JSON.

`perform` is the one way in for every place that works: a thread, a child process, a task on a cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from realm import db
from realm.guild.campaigns import seed_of
from realm.guild.skills import SkillError
from realm.jobs import kinds
from realm.jobs.depot import Depot, data_path
from realm.jobs.kinds import JobError
from realm.settings import RealmHome
from realm.vault.checkpoints import disk_full, sha256

log = logging.getLogger("realm.jobs")


@dataclass(frozen=True)
class Task:
    """One attempt, as it travels to whoever works it. `seed` is the job's: the same in every attempt."""

    job_id: str
    kind: str
    payload: dict[str, Any]
    token: str
    attempt: int

    @property
    def seed(self) -> int:
        given = self.payload.get("seed")
        return seed_of("job", self.job_id) if given is None else given

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Result:
    """What work gives back.

    Attributes:
        summary: kept in the job's row; plain JSON, small.
        facts: for the arena alone, which draws rows of other tables from it (the items of a trial).
        files: names of the files in the attempt's folder that are part of the result.
    """

    summary: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bench:
    """What an attempt works with.

    Attributes:
        depot: checkpoints by id.
        folder: its own empty folder for files.
        home: the realm home, None on another machine.
        cancelled: whether nobody waits for the result any more; long work asks it now and then.
    """

    task: Task
    depot: Depot
    folder: Path
    home: RealmHome | None = None
    cancelled: Callable[[], bool] = lambda: False

    def source(self, ref: str) -> Path:
        """The file that a payload's source names."""
        engine = db.connect(self.at_home())
        try:
            with db.read(engine) as connection:
                return data_path(connection, self.at_home(), ref)
        finally:
            engine.dispose()

    def at_home(self) -> RealmHome:
        """The realm home, for work that only the machine of the realm can do."""
        if self.home is None:
            raise JobError("refused", f"{self.task.kind} works in the realm home; it cannot run on another machine")
        return self.home


def perform(bench: Bench) -> dict[str, Any]:
    """Work one attempt. Never raises: the outcome says how it ended.

    Returns:
        {"state": "succeeded", "summary", "facts", "files": {name: {"sha256", "bytes"}}} or
        {"state": "failed", "code", "text"}.
    """
    task = bench.task
    try:
        kind = kinds.get(task.kind)
        result = kind.function()(kinds.parse(task.kind, task.payload), bench)
        files = {name: {"sha256": sha256(bench.folder / name), "bytes": (bench.folder / name).stat().st_size}
                 for name in result.files}  # fmt: skip
        return {"state": "succeeded", "summary": dict(result.summary), "facts": dict(result.facts), "files": files}
    except JobError as error:
        return failed(error.code, str(error))
    except SkillError as error:
        return failed("refused", str(error))
    except Exception as error:
        # Whatever work trips over is the job's error and never the worker's end; the traceback is in the log.
        log.exception("job %s %s failed", task.kind, task.job_id)
        return failed("disk_full" if disk_full(error) else "error", f"{type(error).__name__}: {error}")


def failed(code: str, text: str) -> dict[str, Any]:
    """The outcome of an attempt that failed."""
    return {"state": "failed", "code": code, "text": text}

"""A real realm to measure: `LiveRealm` is the tests' own, with its own home, free ports and an end by pid."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import sqlalchemy as sa

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from live import LiveRealm  # noqa: E402

from realm import db  # noqa: E402

# A word of the command line, and the role it gives away.
ROLES = (("realm.arena.battle", "battle"), ("supervisor.supervisord", "supervisor"), ("arena", "arena"),
         ("tavern", "realm"), ("oracle", "oracle"))  # fmt: skip
TRAINING_WAIT_S = 180.0


@contextlib.contextmanager
def live_realm(hero_yaml: str = "") -> Iterator[LiveRealm]:
    """A realm that is not started yet; whatever runs of it is ended afterwards.

    Args:
        hero_yaml: `heroes/pip.yaml` of its home, laid over the shipped recipe, for tests; empty: as shipped.
    """
    live = LiveRealm()
    try:
        if hero_yaml:
            (live.home.create().heroes / "pip.yaml").write_text(hero_yaml, encoding="utf-8")
        yield live
    finally:
        live.close()


def role_of(command: Sequence[str]) -> str:
    """battle | arena | realm | supervisor, or "other", from a command line."""
    return next((role for word, role in ROLES if word in command), "other")


def cpu_seconds(live: LiveRealm) -> dict[str, float]:
    """CPU seconds so far of every living process of this realm, by role."""
    found: dict[str, float] = {}
    for process in live.processes():
        try:
            times, role = process.cpu_times(), role_of(process.cmdline())
        except psutil.NoSuchProcess:
            continue  # ended between listing and asking
        found[role] = found.get(role, 0.0) + times.user + times.system
    return found


def scalar(live: LiveRealm, query: sa.Select) -> object:
    """One value from the realm's database, read beside the running realm; None while there is no database."""
    if db.schema_version(live.home.database) is None:
        return None
    engine = db.engine(live.home.database)
    try:
        with db.read(engine) as connection:
            return connection.execute(query).scalar()
    finally:
        engine.dispose()


def first_step_at(live: LiveRealm) -> float | None:
    """Unix seconds at the end of the first optimizer step, or None before it."""
    return scalar(live, sa.select(sa.func.min(db.metrics.c.t)))


def steps_done(live: LiveRealm) -> int:
    """Optimizer steps whose metrics are in the database."""
    return scalar(live, sa.select(sa.func.count()).select_from(db.metrics)) or 0

"""Keeps a realm that is played for weeks from growing for ever: hourly in the arena, or by hand.

    python3 -m training groundskeeper --dry-run    # what it would clear away, and why
    python3 -m training groundskeeper

Each task says what it found and why; a dry run finds the same and changes nothing. Facts are never cleared away: of the
step metrics sums, lowest and highest loss stay exact (contracts A2), the rows of deleted checkpoints stay.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.settings import RealmHome
from realm.vault import checkpoints, places, retention, trash, zones

DAY_S = 86_400.0
KEPT_LOGS = 2  # rotated copies of a log file
THIN_STEPS = 50  # optimizer steps that one thinned metrics row covers
CHUNK = 2_000  # rows deleted in one transaction: the writers of a battle wait no longer than that
LEFTOVER_S = 3_600.0
VACUUM_SHARE, VACUUM_BYTES = 0.2, 16_000_000
VACUUM_AT_REST = 1_000_000_000  # a larger database is vacuumed only while no battle runs: it takes seconds


class GroundskeeperError(RuntimeError):
    """Some task failed; the others were done. The message names each with its reason."""


@dataclass(frozen=True)
class Found:
    """Something to clear away. `bytes` 0 where it is not known (rows of the database)."""

    what: str
    bytes: int
    reason: str


@dataclass(frozen=True)
class Task:
    """One duty: `run(home, engine, dry_run)` tells what it found, and unless it is a dry run clears it away."""

    name: str
    about: str
    run: Callable[[RealmHome, sa.Engine, bool], list[Found]]


def tend(
    home: RealmHome, made: sa.Engine, extra: Sequence[Task] = (), *, dry_run: bool = False, only: str | None = None
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Do every task, or the one named `only`; returns {task: what was found}.

    Raises:
        GroundskeeperError: tasks failed (after all others were done), or no task has that name.
    """
    tasks = [task for task in (*TASKS, *extra) if only in (None, task.name)]
    if not tasks:
        known = ", ".join(task.name for task in (*TASKS, *extra))
        raise GroundskeeperError(f"no task {only!r}; known: {known}")
    told, failed = {}, []
    for task in tasks:
        try:
            found = task.run(home, made, dry_run)
        except Exception as error:  # the others are done all the same; told below
            failed.append((task.name, error))
            continue
        told[task.name] = [asdict(each) for each in found]
        if found and not dry_run:
            size = sum(each.bytes for each in found)
            with db.write(made) as connection:
                events.emit(connection, "groundskeeper", f"Cleared away: {task.about}: {len(found)}"
                            + (f", {size / 1e6:,.1f} MB." if size else "."), "info", task=task.name,
                            items=len(found), bytes=size)  # fmt: skip
    if failed:
        said = "; ".join(f"{name}: {error!r}" for name, error in failed)
        raise GroundskeeperError(f"not done: {said}") from failed[0][1]
    return told


# --- checkpoints --------------------------------------------------------------------------------------------------


def _retention(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    if not home.settings.retention:
        return []
    with db.read(made) as connection:
        wanted = retention.plan(home, connection)
    if not dry_run:
        retention.apply(home, made, wanted)
    return [Found(f"checkpoint {d.id} at step {d.step}", d.bytes, d.reason) for d in wanted.going]


def _trash(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    if not dry_run:
        trash.settle_trash(home, made)
    with db.read(made) as connection:
        over = trash.due(home, connection)
    found = [Found(f"deleted checkpoint {row['id']} at step {row['step']}",
                   places.size_of(places.trash_of(home, row)), reason) for row, reason in over]  # fmt: skip
    if not dry_run:
        trash.empty(home, made, [row for row, _ in over])
    return found + _unclaimed_trash(home, made, dry_run)


def _unclaimed_trash(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    """In the trash without a row that says so: training came past that place and wrote it anew."""
    with db.read(made) as connection:
        claimed = set(connection.execute(sa.select(db.checkpoints.c.id).where(
            db.checkpoints.c.state == "trash")).scalars())  # fmt: skip
    found = []
    for zone in places.ZONES:
        for path in sorted((places.root(home, zone) / places.TRASH).glob("*")):
            if path.name not in claimed and _age(path) > LEFTOVER_S:
                found.append(Found(_name(home, path), places.size_of(path), "no deleted checkpoint lies there"))
                if not dry_run:
                    places.remove(path)
    return found


def _leftovers(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    """What killed processes left half written."""
    patterns = ("models/.*-*", "exports/.tmp-*", "imports/.tmp-*", "run/*.tmp", "heroes/*.tmp", "logs/*.tmp")
    paths = [path for pattern in patterns for path in sorted(home.root.glob(pattern)) if _age(path) > LEFTOVER_S]
    paths += checkpoints.abandoned(home)
    found = [Found(_name(home, path), places.size_of(path), "left half written by a process that ended")
             for path in paths]  # fmt: skip
    if not dry_run:
        for path in paths:
            places.remove(path)
    strays = zones.settle_places(home, made, LEFTOVER_S, dry_run=True)
    found += [Found(_name(home, path), places.size_of(path), "no row of the ledger points here") for path in strays]
    if not dry_run:
        zones.settle_places(home, made, LEFTOVER_S)
    return found


def _age(path: Path) -> float:
    """Seconds since the last change; 0 when it is gone."""
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _name(home: RealmHome, path: Path) -> str:
    return path.relative_to(home.root).as_posix() if path.is_relative_to(home.root) else str(path)


# --- logs ---------------------------------------------------------------------------------------------------------


def _logs(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    """Rotate large log files, remove old copies. The supervisor rotates those of the processes it started."""
    limit, days = home.settings.max_log_bytes, home.settings.keep_log_days
    found = []
    for path in sorted(home.logs.glob("*.log")):
        size = path.stat().st_size
        if size > limit:
            found.append(Found(_name(home, path), size, f"rotated: above {limit / 1e6:g} MB (max_log_bytes)"))
            if not dry_run:
                rotate(path)
    for path in sorted(home.logs.glob("*.log.*")):
        if path.suffix != ".tmp" and _age(path) > days * DAY_S:
            found.append(Found(_name(home, path), path.stat().st_size, f"older than {days:g} days (keep_log_days)"))
            if not dry_run:
                path.unlink(missing_ok=True)
    return found


def rotate(path: Path, keep: int = KEPT_LOGS) -> None:
    """`x.log` becomes `x.log.1`, that becomes `x.log.2`, and so on; the file itself is emptied where it lies.

    Its writers keep it open for appending, so they go on at its new end; renaming it would take it from under them.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(path, temporary)
        for number in range(keep, 1, -1):
            older = path.with_name(f"{path.name}.{number - 1}")
            if older.exists():
                os.replace(older, path.with_name(f"{path.name}.{number}"))
        os.replace(temporary, path.with_name(f"{path.name}.1"))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    os.truncate(path, 0)


# --- database -----------------------------------------------------------------------------------------------------


def _old_rows(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    """Events and answered orders beyond their time."""
    days = home.settings.keep_log_days
    before = db.now() - days * DAY_S
    found = []
    for table, key, where in (
        # The newest champion of a campaign is read from its event, however long ago it was crowned.
        (db.events, db.events.c.id, sa.and_(db.events.c.t < before, db.events.c.kind != "champion")),
        (db.commands, db.commands.c.id, sa.and_(db.commands.c.state != "pending",
                                                db.commands.c.finished_at < before)),
    ):  # fmt: skip
        with db.read(made) as connection:
            count = connection.execute(sa.select(sa.func.count()).select_from(table).where(where)).scalar_one()
        if not count:
            continue
        found.append(Found(f"{count:,} {table.name}", 0, f"older than {days:g} days (keep_log_days)"))
        while not dry_run:
            with db.write(made) as connection:
                some = sa.select(key).where(where).limit(CHUNK).scalar_subquery()
                if not connection.execute(sa.delete(table).where(key.in_(some))).rowcount:
                    break
    return found


def _metrics(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    """Thin the step metrics of old battles."""
    days = home.settings.keep_metrics_days
    found = []
    for battle_id, run_id in list(_thick(made, db.now() - days * DAY_S)):
        with db.write(made) if not dry_run else db.read(made) as connection:
            rows, fewer = _thinned(connection, battle_id, run_id)
            if len(fewer) >= len(rows):
                continue
            if not dry_run:
                connection.execute(sa.delete(db.metrics).where(db.metrics.c.battle_id == battle_id))
                connection.execute(sa.insert(db.metrics), fewer)
        found.append(Found(f"battle {battle_id}: {len(rows):,} metrics rows to {len(fewer):,}", 0,
                           f"ended more than {days:g} days ago (keep_metrics_days)"))  # fmt: skip
    return found


def _thick(made: sa.Engine, before: float) -> Iterator[tuple[str, str]]:
    """(battle, run) whose metrics can still be thinned."""
    b, m = db.battles.c, db.metrics.c
    query = sa.select(b.id, b.run_id).join(db.metrics, m.battle_id == b.id).where(
        b.ended_at < before, b.settled_at.is_not(None)).group_by(b.id).having(
        sa.func.count() > 2 + sa.func.sum(m.steps) / THIN_STEPS)  # fmt: skip
    with db.read(made) as connection:
        yield from ((row.id, row.run_id) for row in connection.execute(query).all())


def _thinned(
    connection: sa.Connection, battle_id: str, run_id: str
) -> tuple[list[Mapping[str, Any]], list[dict[str, Any]]]:  # fmt: skip
    """(rows of a battle as they are, rows that say the same in fewer).

    No row reaches across a checkpoint: a run may go on from there, and what was trained up to it must add up exactly.
    """
    m, c = db.metrics.c, db.checkpoints.c
    rows = connection.execute(sa.select(db.metrics).where(m.battle_id == battle_id).order_by(m.step)).mappings().all()
    borders = set(connection.execute(sa.select(c.step).where(c.run_id == run_id)).scalars())
    fewer, group, covered = [], [], 0
    for row in rows:
        group.append(row)
        covered += row["steps"]
        if covered >= THIN_STEPS or row["step"] in borders:
            fewer.append(_merged(group))
            group, covered = [], 0
    if group:
        fewer.append(_merged(group))
    return list(rows), fewer


def _merged(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row for several: sums, means, extremes; what is a state (loss_ema, strain, zone, …) is that of the last."""
    if len(group) == 1:
        return dict(group[0])
    steps = sum(row["steps"] for row in group)

    def mean(name: str) -> float:
        return math.fsum(row[name] * row["steps"] for row in group) / steps

    def extreme(best: Callable[[Iterable[float]], float], name: str) -> float:
        return best(row["loss"] if row[name] is None else row[name] for row in group)

    norms = [row["grad_norm"] for row in group if row["grad_norm"] is not None]
    return {
        **group[-1], "steps": steps, "loss": mean("loss"), "step_s": mean("step_s"),
        "tokens": sum(row["tokens"] for row in group), "trained_tokens": sum(row["trained_tokens"] for row in group),
        "effort": math.fsum(row["effort"] for row in group), "grad_norm": max(norms, default=None),
        "loss_min": extreme(min, "loss_min"), "loss_max": extreme(max, "loss_max"),
    }  # fmt: skip


def _vacuum(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    """Give the pages back that deleted rows left free in the database file."""
    with made.connect() as connection:
        pages, free, size = (connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                             for name in ("page_count", "freelist_count", "page_size"))  # fmt: skip
        if not dry_run:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
        if free * size < VACUUM_BYTES or free < VACUUM_SHARE * pages:
            return []
        if pages * size > VACUUM_AT_REST and _in_battle(connection):
            return []
        if shutil.disk_usage(home.root).free < 2 * (pages - free) * size:
            return []  # a vacuum writes the whole file anew before it gives anything back
        if not dry_run:
            connection.exec_driver_sql("VACUUM")
    return [Found(home.database.name, free * size, f"{free / pages:.0%} of its pages are free")]


def _in_battle(connection: sa.Connection) -> bool:
    table = db.battles
    query = sa.select(table.c.id).where(table.c.state.not_in(("done", "failed")))
    return connection.execute(query.limit(1)).first() is not None


TASKS = (
    Task("retention", "checkpoints that nothing protects, into the trash", _retention),
    Task("trash", "deleted checkpoints whose time is over", _trash),
    Task("leftovers", "what killed processes left half written", _leftovers),
    Task("logs", "log files", _logs),
    Task("rows", "old events and orders", _old_rows),
    Task("metrics", "step metrics of old battles, thinned", _metrics),
    Task("vacuum", "free pages of the database", _vacuum),
)

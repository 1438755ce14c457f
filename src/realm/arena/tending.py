"""What the groundskeeper clears away beside the Vault's own: things of packages that the Vault may not import."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns, progress
from realm.jobs import board
from realm.quests import sparring
from realm.settings import RealmHome
from realm.vault import places
from realm.vault.groundskeeper import DAY_S, Found, Task

JOBS_DAYS = 30  # as long as events are kept


def tasks(home: RealmHome) -> tuple[Task, ...]:
    """Tasks that are added to the groundskeeper's own."""
    return (Task("sparring", "sparring rows that show nothing of the hero any more", _stale_sparring),
            Task("lessons", "what schools worked out for quests that are over", _old_lessons),
            Task("jobs", f"jobs that ended over {JOBS_DAYS} days ago, with their files", _old_jobs))  # fmt: skip


def _stale_sparring(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    table = db.campaigns
    with db.read(made) as connection:
        played = connection.execute(sa.select(table.c.id).where(table.c.state != "archived")).scalars().all()
        reached = {key: (campaigns.current_run(connection, key)["id"], progress.step_reached(connection, key))
                   for key in played}  # fmt: skip
    stale = sparring.stale_files(home, reached)
    if not dry_run:
        sparring.delete_stale(home, stale)
    return [Found(file.path, file.bytes, file.reason) for file in stale]


def _old_lessons(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    """Folders of quests that are done, or were given up long ago (a retry goes on with them until then), and answers of
    teachers that nobody asked since."""
    days, table = home.settings.keep_log_days, db.quests
    with db.read(made) as connection:
        over = {row.id: row for row in connection.execute(sa.select(table.c.id, table.c.state, table.c.finished_at))}
    found = []
    for path in sorted((home.queue / "live").glob("*")):
        quest = over.get(path.name)
        if quest is None and _days(path) > 1:
            found.append((path, "no quest of the board"))
        elif quest is not None and quest.state == "done":
            found.append((path, "its quest is done"))
        elif quest is not None and quest.finished_at and db.now() - quest.finished_at > days * DAY_S:
            found.append((path, f"its quest was given up more than {days:g} days ago (keep_log_days)"))
    found += [(path, f"not asked for {days:g} days (keep_log_days)")
              for path in sorted((home.queue / "answers").glob("*.jsonl")) if _days(path) > days]  # fmt: skip
    told = [Found(path.relative_to(home.root).as_posix(), places.size_of(path), why) for path, why in found]
    if not dry_run:
        for path, _ in found:
            places.remove(path)
    return told


def _days(path: Path) -> float:
    return (time.time() - path.stat().st_mtime) / DAY_S


def _old_jobs(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    before = db.now() - JOBS_DAYS * 86_400
    with db.read(made) as connection:
        old = board.old(connection, before)
    found = [Found(f"jobs/{job_id}", sum(path.stat().st_size for path in (home.root / "jobs" / job_id).rglob("*")
                                         if path.is_file()), f"it ended over {JOBS_DAYS} days ago")
             for job_id in old]  # fmt: skip
    if not dry_run and old:
        with db.write(made) as connection:
            board.prune(connection, before)
        for job_id in old:
            shutil.rmtree(home.root / "jobs" / job_id, ignore_errors=True)
    return found

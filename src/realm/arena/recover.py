"""At the start of the hero loop: close what a crash left open, so that every quest goes on from its checkpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path

import sqlalchemy as sa

from realm import db
from realm.arena import child as children
from realm.arena import plan
from realm.arena.settle import close_lost, settle, tidy_file
from realm.quests import board
from realm.settings import LANES, RealmHome
from realm.vault import checkpoints

_OURS = re.compile(r"^[0-9A-HJKMNP-TV-Z]{26}-")  # a quest id (ULID) and a dash
RECENT = 200  # finished quests whose files are looked after; older ones were at earlier starts


def recover(home: RealmHome, made: sa.Engine) -> None:
    """Close open battles, settle what was not settled, give quests back, put files where they belong."""
    children.end_leftover(home)
    checkpoints.sweep(home)
    with db.write(made) as connection:
        while (battle := plan.open_battle(connection)) is not None:
            close_lost(connection, battle["id"], "the hero loop ended while the battle ran")
        table = db.battles
        unsettled = connection.execute(
            sa.select(table.c.id).where(table.c.state.in_(("done", "failed")), table.c.settled_at.is_(None))
            .order_by(table.c.id)).scalars().all()  # fmt: skip
    for battle_id in unsettled:
        settle(home, made, battle_id, count_attempt=False)
    with db.write(made) as connection:
        left = connection.execute(sa.select(db.quests.c.id).where(db.quests.c.state == "training")).scalars().all()
        for quest_id in left:
            board.back_to_head(connection, quest_id, "the hero loop ended before its battle began")
    _tidy(home, made)


def _tidy(home: RealmHome, made: sa.Engine) -> None:
    table = db.quests
    with db.read(made) as connection:
        query = sa.select(table.c.id).where(table.c.path.is_not(None)).order_by(table.c.created_at.desc())
        recent = connection.execute(query.limit(RECENT)).scalars().all()
    for quest_id in recent:
        tidy_file(home, made, quest_id)
    for lane in LANES:
        for path in sorted((home.queue / lane).glob("*")):
            _stray(home, made, lane, path)


def _stray(home: RealmHome, made: sa.Engine, lane: str, path: Path) -> None:
    """A file in `queue/` that no quest claims: half-made copies of ours go, a person's file goes through the gate."""
    if not path.is_file():
        return
    if board.is_partial(path.name):
        path.unlink()
        return
    with db.read(made) as connection:
        claimed = sa.select(db.quests.c.id).where(db.quests.c.path == path.relative_to(home.root).as_posix())
        if connection.execute(claimed).first() is not None:
            return
    if _OURS.match(path.name):
        # Written before its quest was recorded: the original is still in the inbox, idle rows can be made again.
        path.unlink()
    else:
        target = home.inbox / lane / path.name
        if not target.exists():
            os.rename(path, target)

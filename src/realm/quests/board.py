"""The quest board: one queue in the database, whose files lie in `queue/`, `completed/` and `failed/` (realm-rules §9).

Lanes are high > normal > low; inside a lane the smaller `position` is earlier. Every function takes a connection inside
`db.write` (or `db.read` for questions) and tells its event in the same transaction. Files are named
`<quest id>-<name>.jsonl`, so that `locate` finds one wherever a crash left it.
See it with `python3 -m training quest list`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from realm import db, events, schools
from realm.settings import LANES, RealmHome

quests = db.quests
MAX_ATTEMPTS = 3
WAITING = ("queued", "hold")
QUEST_SUFFIX = ".jsonl"
# From which states a person may send a quest where.
RETRY_FROM = ("failed", "skipped", "refused", "done")
_LANE_ORDER = sa.case({lane: rank for rank, lane in enumerate(LANES)}, value=quests.c.lane, else_=len(LANES))


class BoardError(ValueError):
    """A quest that cannot be moved as asked; the message names quest, state and rule."""


@dataclass(frozen=True)
class NewQuest:
    """What `enqueue` needs. `path` is relative to the realm home; `steps` optimizer steps, None = the hero's epochs."""

    name: str
    kind: str  # file | idle | rehearsal
    lane: str = "normal"
    school: str = "scribe"
    campaign_id: str | None = None
    path: str | None = None
    rows: int = 0
    tokens: int | None = None
    steps: int | None = None
    skill: str | None = None
    level: int | None = None
    mix: Mapping[Any, float] | None = None
    rehearsal: Mapping[str, Any] | None = None
    content_sha256: str | None = None
    format: str | None = None
    report: dict[str, Any] | None = None
    origin: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    state: str = "queued"
    id: str | None = None


def file_name(quest_id: str, name: str) -> str:
    """`<id>-<name>.jsonl` with the name made safe for every file system (at most 80 letters, 200 bytes)."""
    stem = name.removesuffix(".jsonl")
    safe = re.sub(r"[^\w.-]+", "_", stem)[:80].encode()[:200].decode("utf-8", "ignore").strip("._") or "quest"
    return f"{quest_id}-{safe}.jsonl"


def enqueue(connection: sa.Connection, quest: NewQuest) -> str:
    """Put a quest at the end of its lane and return its id.

    Raises:
        BoardError: a lane that does not exist.
    """
    if quest.lane not in LANES:
        raise BoardError(f"lane {quest.lane!r} does not exist; use one of {', '.join(LANES)}")
    quest_id = quest.id or db.new_id()
    values = {name: getattr(quest, name) for name in NewQuest.__dataclass_fields__ if name not in ("id", "mix")}
    # JSON keys are strings.
    mix = {str(level): share for level, share in quest.mix.items()} if quest.mix else None
    finished = db.now() if quest.state in ("refused",) else None
    connection.execute(sa.insert(quests).values(
        **values, id=quest_id, mix=mix, position=_end_of(connection, quest.lane), attempts=0,
        created_at=db.now(), finished_at=finished))  # fmt: skip
    _tell(connection, quest_id, quest.name, quest.lane, quest.state, quest.error)
    return quest_id


def _end_of(connection: sa.Connection, lane: str) -> float:
    last = connection.execute(sa.select(sa.func.max(quests.c.position)).where(quests.c.lane == lane)).scalar()
    return 1.0 if last is None else last + 1.0


def _start_of(connection: sa.Connection, lane: str) -> float:
    query = sa.select(sa.func.min(quests.c.position)).where(quests.c.lane == lane)
    first = connection.execute(query).scalar()
    return 0.0 if first is None else first - 1.0


def _tell(
    connection: sa.Connection, quest_id: str, name: str, lane: str, state: str, reason: str | None = None
) -> None:
    text = f"Quest {name}: {state}" + (f" ({reason})" if reason else "")
    level = {"failed": "trouble", "refused": "trouble", "done": "deed"}.get(state, "info")
    more = {"reason": reason} if reason else {}
    events.emit(connection, "quest", text, level, quest_id=quest_id, name=name, lane=lane, state=state, **more)
    events.emit(connection, "queue", "The board changed", **counts(connection))


def get(connection: sa.Connection, quest_id: str) -> dict[str, Any]:
    """One quest as a dict.

    Raises:
        BoardError: no such quest.
    """
    row = connection.execute(sa.select(quests).where(quests.c.id == quest_id)).mappings().one_or_none()
    if row is None:
        raise BoardError(f"no quest {quest_id}; `python3 -m training quest list --all` names them")
    return dict(row)


def head(
    connection: sa.Connection, kinds: tuple[str, ...] | None = None, campaign_id: str | None = None
) -> dict[str, Any] | None:  # fmt: skip
    """The quest that is next, or None when nothing waits.

    Args:
        campaign_id: the campaign that is played; quests that were made for another one (idle, rehearsal) wait for it.
    """
    query = sa.select(quests).where(quests.c.state == "queued")
    if kinds:
        query = query.where(quests.c.kind.in_(kinds))
    if campaign_id:
        query = query.where(sa.or_(quests.c.kind == "file", quests.c.campaign_id == campaign_id))
    row = connection.execute(query.order_by(_LANE_ORDER, quests.c.position, quests.c.id).limit(1)).mappings().first()
    return dict(row) if row else None


def waiting(connection: sa.Connection) -> list[dict[str, Any]]:
    """Every quest that waits or is held, in the order in which it would be taken."""
    query = sa.select(quests).where(quests.c.state.in_(WAITING))
    return [dict(r) for r in connection.execute(query.order_by(_LANE_ORDER, quests.c.position, quests.c.id)).mappings()]


def counts(connection: sa.Connection, home: RealmHome | None = None) -> dict[str, int]:
    """Waiting quests per lane; with `home` also `inbox`: files that lie there."""
    query = sa.select(quests.c.lane, sa.func.count()).where(quests.c.state == "queued").group_by(quests.c.lane)
    found = {lane: n for lane, n in connection.execute(query)}
    numbers = {lane: int(found.get(lane, 0)) for lane in LANES}
    if home is not None:
        numbers["inbox"] = sum(1 for _ in quest_files(home))
    return numbers


def inbox_files(home: RealmHome):
    """Visible files of the inbox and its lanes: (lane, path); a file dropped in `inbox/` itself is lane normal."""
    for folder, lane in [(home.inbox, "normal"), *((home.inbox / lane, lane) for lane in LANES)]:
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.is_file() and not is_partial(path.name):
                    yield lane, path


def quest_files(home: RealmHome):
    """The inbox files that the Cleric will read: (lane, path). Others are left alone, and told once as an alert."""
    return ((lane, path) for lane, path in inbox_files(home) if is_quest_file(path.name))


def is_quest_file(name: str) -> bool:
    """Whether the inbox takes a file of this name."""
    return name.lower().endswith(QUEST_SUFFIX) and not is_partial(name)


def not_a_quest(name: str) -> str:
    """What to say to whoever brings another file."""
    if is_partial(name):
        return f"{name} has a name of files that are still being written, which the inbox leaves alone; rename it"
    return (f"{name} is no {QUEST_SUFFIX} file: the Cleric reads {QUEST_SUFFIX} files only, one JSON object per line; "
            "convert it and bring it again")  # fmt: skip


def is_partial(name: str) -> bool:
    """Names of files that are still being written: dot files, `.part`, `.tmp`, `.crdownload`, a trailing `~`."""
    return name.startswith(".") or name.endswith((".part", ".tmp", ".crdownload", ".filepart", "~"))


def by_content(connection: sa.Connection, sha256: str) -> list[dict[str, Any]]:
    """Quests whose file had these very bytes, newest first."""
    query = sa.select(quests).where(quests.c.content_sha256 == sha256).order_by(quests.c.created_at.desc())
    return [dict(row) for row in connection.execute(query).mappings()]


def set_state(connection: sa.Connection, quest_id: str, state: str, reason: str | None = None, **values: Any) -> None:
    """Change a quest's state with its event; `values` are further columns."""
    connection.execute(sa.update(quests).where(quests.c.id == quest_id).values(state=state, **values))
    quest = get(connection, quest_id)
    _tell(connection, quest_id, quest["name"], quest["lane"], state, reason)


def back_to_head(connection: sa.Connection, quest_id: str, reason: str, attempt_lost: bool = False) -> str:
    """Queue an interrupted quest again, before all others of its lane; returns its new state.

    With `attempt_lost` the attempt counts: after 3 lost attempts the quest fails instead.
    """
    quest = get(connection, quest_id)
    attempts = quest["attempts"] + (1 if attempt_lost else 0)
    if attempts >= MAX_ATTEMPTS:
        set_state(connection, quest_id, "failed", reason, attempts=attempts, error=reason, finished_at=db.now())
        return "failed"
    position = _start_of(connection, quest["lane"])
    set_state(connection, quest_id, "queued", reason, attempts=attempts, position=position,
              error=reason if attempt_lost else quest["error"])  # fmt: skip
    return "queued"


def move(connection: sa.Connection, quest_id: str, lane: str, first: bool = False) -> None:
    """Put a waiting quest at the end (or the head) of a lane."""
    if lane not in LANES:
        raise BoardError(f"lane {lane!r} does not exist; use one of {', '.join(LANES)}")
    quest = _in_state(connection, quest_id, WAITING, "moved")
    position = _start_of(connection, lane) if first else _end_of(connection, lane)
    set_state(connection, quest_id, quest["state"], f"moved to lane {lane}", lane=lane, position=position)


def hold(connection: sa.Connection, quest_id: str) -> None:
    """Keep a waiting quest from being taken."""
    _in_state(connection, quest_id, ("queued",), "held")
    set_state(connection, quest_id, "hold", "held by the player")


def unhold(connection: sa.Connection, quest_id: str) -> None:
    """Let a held quest be taken again, at its old place."""
    quest = _in_state(connection, quest_id, ("hold",), "released")
    if not schools.open_to(quest["school"]):
        raise BoardError(f"quest {quest['name']} waits for the school {quest['school']}, which is not open yet")
    set_state(connection, quest_id, "queued", "released")


def assign(connection: sa.Connection, quest_id: str, school: str, options: Mapping[str, Any]) -> None:
    """Give a waiting quest to a school, with the quest's own options for it.

    Raises:
        BoardError: the quest does not wait any more, or it has begun with its school.
        schools.SchoolError: there is no such school.
    """
    quest = _in_state(connection, quest_id, WAITING, "given to another school")
    schools.entry(school)
    if quest["started_at"] is not None and quest["school"] != school:
        raise BoardError(f"quest {quest['name']} has begun in the school {quest['school']}; skip it, then retry it in "
                         "another")  # fmt: skip
    if quest["format"] == "preference" and school != "judge":
        raise BoardError(f"quest {quest['name']} holds pairs of answers; only the Judge trains on them")
    origin = {**(quest["origin"] or {}), "options": dict(options)}
    told = f"school {school}" + (f" with {', '.join(f'{k}={v}' for k, v in options.items())}" if options else "")
    set_state(connection, quest_id, quest["state"], told, school=school, origin=origin)


def retry(connection: sa.Connection, quest_id: str) -> None:
    """Queue a quest again with all its attempts (`refused` files go through the inbox again).

    A failed or skipped one goes on where it was; a done one begins anew, as if its file had been dropped once more.
    """
    quest = _in_state(connection, quest_id, RETRY_FROM, "retried")
    if quest["path"] is None:
        raise BoardError(f"quest {quest['name']} has no file any more; it cannot be trained again")
    started = None if quest["state"] == "done" else quest["started_at"]
    set_state(connection, quest_id, "queued", "tried again", attempts=0, error=None, finished_at=None,
              started_at=started, position=_end_of(connection, quest["lane"]))  # fmt: skip


def again(connection: sa.Connection, quest_id: str, reason: str) -> None:
    """Queue a done quest anew, before all others of its lane."""
    quest = _in_state(connection, quest_id, ("done",), "trained again")
    set_state(connection, quest_id, "queued", reason, attempts=0, error=None, finished_at=None, started_at=None,
              position=_start_of(connection, quest["lane"]))  # fmt: skip


def withdraw(connection: sa.Connection, quest_id: str) -> None:
    """Take a waiting quest off the board ("delete"); its file is kept in `failed/`."""
    _in_state(connection, quest_id, WAITING, "taken off the board")
    set_state(connection, quest_id, "skipped", "taken off the board by the player", finished_at=db.now())


def _in_state(connection: sa.Connection, quest_id: str, states: tuple[str, ...], verb: str) -> dict[str, Any]:
    quest = get(connection, quest_id)
    if quest["state"] not in states:
        raise BoardError(
            f"quest {quest['name']} is {quest['state']}; only a quest that is {' or '.join(states)} can be {verb}"
        )
    return quest


# --- files --------------------------------------------------------------------------------------------------------

def folder_for(quest: Mapping[str, Any]) -> str | None:
    """Where a quest's file belongs now, relative to the home; None: it stays where it is."""
    state = quest["state"]
    if state in (*WAITING, "training"):
        return f"queue/{quest['lane']}"
    return {"done": "completed", "failed": "failed", "skipped": "failed", "refused": "failed"}.get(state)


def locate(home: RealmHome, quest: Mapping[str, Any]) -> Path | None:
    """The quest's file: where the table says, else wherever a crash between two steps left it."""
    if not quest["path"]:
        return None
    path = home.root / quest["path"]
    if path.is_file():
        return path
    for folder in (*(f"queue/{lane}" for lane in LANES), "completed", "failed"):
        candidate = home.root / folder / path.name
        if candidate.is_file():
            return candidate
    return None


def settle_file(connection: sa.Connection, home: RealmHome, quest_id: str) -> Path | None:
    """Move the quest's file to the folder of its state and note its path; safe to repeat after a crash.

    The rename comes before the commit: a crash between the two leaves a file that `locate` finds.
    """
    quest = get(connection, quest_id)
    path, folder = locate(home, quest), folder_for(quest)
    if path is None or folder is None:
        return path
    target = home.root / folder / path.name
    if target != path:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, target)
    relative = target.relative_to(home.root).as_posix()
    if relative != quest["path"]:
        connection.execute(sa.update(quests).where(quests.c.id == quest_id).values(path=relative))
    return target

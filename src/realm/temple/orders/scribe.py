"""Order of the Scribe: evaluation, data and logs: trials agree with their answers, data is what the Cleric passed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from afs.jsonl import file_sha256
from realm import db
from realm.guild.progression.verdicts import verdict_written
from realm.quests import board
from realm.temple.orders.check import Asked, Check, Order

TRIALS = 50  # the newest ones; `training ledger recompute` judges all
FRESH_S = 3600.0  # an error in a log counts for so long
LOG_TAIL = 64_000
LOGS_LARGE = 500_000_000
REFUSED = 86_400.0  # a refused file is told for a day


def _trials(asked: Asked) -> Iterator[Check]:
    table, items = db.trials, db.trial_items
    query = sa.select(table).where(table.c.skill.is_not(None)).order_by(table.c.started_at.desc()).limit(TRIALS)
    if asked.ceremony:
        query = query.where(table.c.battle_id == asked.ceremony.battle_id)
    with db.read(asked.engine) as connection:
        rows = connection.execute(query).mappings().all()
        counted = sa.select(items.c.trial_id, sa.func.count(), sa.func.sum(sa.cast(items.c.correct, sa.Integer)))
        counted = counted.where(items.c.trial_id.in_([row["id"] for row in rows])).group_by(items.c.trial_id)
        answers = {key: (int(n), int(right or 0)) for key, n, right in connection.execute(counted)}
    if not rows:
        yield Check("trials", "skip", "no trial was held yet")
        return
    wrong = [fault for row in rows if (fault := _fault(row, answers.get(row["id"], (0, 0))))]
    if wrong:
        yield Check("trials", "fail", "; ".join(wrong[:3]), "such a trial counts for nothing; see all of them: python3 "
                    "-m training ledger recompute")  # fmt: skip
        return
    odd = [row for row in rows if row["suspicious"]]
    if odd:
        row = odd[0]
        yield Check("trials", "warn", f"nothing right in {row['skill']} L{row['level']} at a low training loss: the "
                    "examination itself may be wrong", f"examine again: python3 -m training trial run --skill "
                    f"{row['skill']} --level {row['level']}")  # fmt: skip
        return
    yield Check("trials", "ok", f"{len(rows)} trials agree with their {sum(n for n, _ in answers.values()):,} answers")


def _fault(row: Mapping[str, Any], answers: tuple[int, int]) -> str | None:
    name = f"trial {row['id']} of {row['skill']} L{row['level']}"
    if answers != (row["n"], row["correct"]):
        return f"{name} says {row['correct']} of {row['n']}, its answers say {answers[1]} of {answers[0]}"
    try:
        verdict = verdict_written(row)
    except ValueError as error:
        return f"{name}: {error}"
    return f"{name} says {row['verdict']}, its counts say {verdict}" if verdict not in (None, row["verdict"]) else None


def _data(asked: Asked) -> Iterator[Check]:
    """Files that will be trained are those that the Cleric passed; files that it refused are named."""
    if asked.ceremony:
        return  # the quest's own file is weighed by the blessing
    table = db.quests
    with db.read(asked.engine) as connection:
        waiting = connection.execute(sa.select(table).where(
            table.c.state.in_(("queued", "training", "hold")), table.c.path.is_not(None))).mappings().all()  # fmt: skip
        refused = connection.execute(sa.select(table).where(
            table.c.state == "refused", table.c.created_at > db.now() - REFUSED, table.c.path.is_not(None),
        ).order_by(table.c.created_at.desc())).mappings().all()  # fmt: skip
    sound = 0
    for quest in waiting:
        fault = _changed(asked, quest)
        if fault is None:
            sound += 1
            continue
        yield Check(f"data {quest['name']}", "fail", fault, f"drop the right file into {asked.home.inbox} and take "
                    "this quest off the board (Quests page); --fix holds it back meanwhile",
                    _hold(asked, quest["id"]) if quest["state"] == "queued" else None)  # fmt: skip
    for quest in refused[:5]:
        yield Check(f"data {quest['name']}", "warn", f"the Cleric refused it: {quest['error'] or 'see its report'}",
                    f"python3 -m training quest report {quest['id']}; mend the file, then drop it into "
                    f"{asked.home.inbox} again")  # fmt: skip
    if sound or not (waiting or refused):
        yield Check("data", "ok", f"{sound} waiting files are as the Cleric passed them")


def _hold(asked: Asked, quest_id: str) -> Callable[[], str]:
    return lambda: asked.order("quest.hold", {"quest_id": quest_id})


def _changed(asked: Asked, quest: Mapping[str, Any]) -> str | None:
    path = board.locate(asked.home, quest)
    if path is None:
        return f"its file {quest['path']} is not there"
    wanted = (quest["report"] or {}).get("sha256") or quest["content_sha256"]
    if wanted and file_sha256(path) != wanted:
        return f"{path} changed after the Cleric checked it"
    return None


def _logs(asked: Asked) -> Iterator[Check]:
    if asked.ceremony:
        return
    files = sorted(asked.home.logs.glob("*.log*"))
    size = sum(path.stat().st_size for path in files)
    fresh = [path for path in files if path.suffix == ".log" and time.time() - path.stat().st_mtime < FRESH_S]
    for path in fresh:
        if (line := _error(path)) is not None:
            yield Check(f"log {path.name}", "warn", f"an error was logged in the last hour: {line}",
                        f"read the end of {path}; python3 -m training doctor")  # fmt: skip
            return
    if size > LOGS_LARGE:
        yield Check("logs", "warn", f"{size / 1e6:,.0f} MB of logs in {asked.home.logs}", "delete old ones")
    else:
        yield Check("logs", "ok", f"{len(files)} logs, {size / 1e6:.1f} MB")


def _error(path: Path) -> str | None:
    """The last line of the newest traceback near the end of a log that is dated within the last hour.

    A line's own date decides where it has one; a log is appended to for days.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL))
        lines = file.read().decode("utf-8", "replace").splitlines()
    found, dated, inside = None, None, False
    for line in lines:
        try:
            dated = time.mktime(time.strptime(line[:19], "%Y-%m-%d %H:%M:%S"))
            inside = False
        except ValueError:
            if line.startswith("Traceback"):
                inside = True
            elif inside and line and not line.startswith((" ", "\t")):
                inside = False
                if dated is not None and time.time() - dated < FRESH_S:
                    found = line
    return found


SCRIBE = Order("scribe", "Scribe", "evaluation, data and logs", False, (_trials, _data, _logs))

"""When the newest checkpoint is corrupt: go on from the one before it, in a new run, and lose no quest (contracts A8).

The old run stays in the tables as it was, so what was counted from it stays true; files whose training was in the
lost steps are queued again. Without any whole checkpoint the realm rests: it never begins at the base weights unasked.
"""

from __future__ import annotations

from typing import Any, Literal

import sqlalchemy as sa

from realm import db, events
from realm.arena import commands
from realm.guild import campaigns
from realm.quests import board
from realm.settings import RealmHome

Line = Literal["whole", "fell back", "lost"]


def mend(home: RealmHome, made: sa.Engine, campaign_id: str) -> Line:
    """See that the campaign goes on from its newest checkpoint; "lost" = it rests and an alert says what to do."""
    with db.read(made) as connection:
        newest = campaigns.parent_checkpoint(connection, campaign_id, ("live", "corrupt"))
    if newest is None or newest["state"] == "live":
        return "whole"
    with db.write(made) as connection:
        parent = campaigns.parent_checkpoint(connection, campaign_id)
        if parent is not None:
            _fall_back(connection, home, campaign_id, newest, parent)
            return "fell back"
        if newest["step"] == 0:
            return "whole"  # nothing was trained yet: the base weights are the same
        _rest(connection, newest)
        return "lost"


def _rest(connection: sa.Connection, newest: dict[str, Any]) -> None:
    what = f"no whole checkpoint is left (the newest, at step {newest['step']:,}, is corrupt)"
    commands.set_mode(connection, "rest", what)
    events.emit(connection, "alert", f"Training rests: {what}", "trouble", alert_id=f"line:{db.new_id()}",
                code="no_checkpoint", what="going on with the campaign", why=what,
                fix=f"Restore the folder {newest['path']} from a backup, run `python3 -m training vault verify "
                    f"{newest['id']}`, then resume.", action={"kind": "battle.resume", "payload": {}})  # fmt: skip


def _fall_back(
    connection: sa.Connection, home: RealmHome, campaign_id: str, newest: dict[str, Any], parent: dict[str, Any]
) -> None:  # fmt: skip
    run_id = campaigns.new_run(connection, campaign_id, parent["id"], f"checkpoint {newest['id']} is corrupt")
    again, gone = queue_lost(connection, home, campaign_id, run_id, parent["step"],
                             "its training was lost with a corrupt checkpoint")  # fmt: skip
    text = (f"The checkpoint at step {newest['step']:,} is corrupt: a new run goes on from step {parent['step']:,}"
            + (f"; queued again: {', '.join(again)}" if again else "")
            + (f"; their files are gone: {', '.join(gone)}" if gone else ""))  # fmt: skip
    events.emit(connection, "alert", text, "trouble", alert_id=f"fallback:{run_id}", code="fell_back",
                what="going on with the campaign", why=text,
                fix="Nothing to do: lost files are trained again, and practice is made anew where it is needed.")


def queue_lost(
    connection: sa.Connection, home: RealmHome, campaign_id: str, run_id: str, step: int, reason: str,
    hold: bool = False,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Queue the files again whose training is not in a run that goes on from `step`: (names queued, names of files
    that are gone), in the order in which they were trained. With `hold` they wait for the player's word."""
    again, gone = [], []
    for quest in reversed(lost_quests(connection, campaign_id, campaigns.lineage(connection, run_id, step))):
        if board.locate(home, quest) is None:
            gone.append(quest["name"])
            continue
        board.again(connection, quest["id"], reason)
        if hold:
            board.hold(connection, quest["id"])
        board.settle_file(connection, home, quest["id"])
        again.append(quest["name"])
    return again[::-1], gone[::-1]


def lost_quests(
    connection: sa.Connection, campaign_id: str, line: list[tuple[str, int]]
) -> list[dict[str, Any]]:  # fmt: skip
    """Done file quests whose last training is not in this line of steps, in the order in which they were trained.

    Idle quests are left out: what the hero now lacks is practised next by the curriculum.
    """
    quests, battles = db.quests, db.battles
    query = sa.select(quests, battles.c.run_id, battles.c.step).join(battles, battles.c.quest_id == quests.c.id).where(
        quests.c.campaign_id == campaign_id, quests.c.kind == "file", quests.c.state == "done",
        battles.c.campaign_id == campaign_id, battles.c.outcome == "trained")  # fmt: skip
    last = {row["id"]: dict(row) for row in connection.execute(query.order_by(battles.c.started_at)).mappings()}
    reached = dict(line)
    found = [q for q in last.values() if q["step"] is not None and q["step"] > reached.get(q["run_id"], -1)]
    return sorted(found, key=lambda quest: quest["finished_at"] or 0.0)

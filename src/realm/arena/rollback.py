"""Going back to an earlier checkpoint: a new run whose parent it is (contracts A8), by the collapse guard or a person.

The old run stays in the tables as it was. A decision, its run and its events are one transaction, so a kill at any
instant leaves all of it or nothing; hashes are compared before. The battle that follows takes the checkpoint's own
optimizer state, or begins it anew and says why (as after any change of the line).

By hand: `python3 -m training vault rollback CHECKPOINT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.arena import commands, fallback
from realm.guild import campaigns, collapse
from realm.guild.campaigns.line import line_of
from realm.quests import board
from realm.settings import RealmHome
from realm.vault import champion as champions
from realm.vault import checkpoints


@dataclass(frozen=True)
class Guarded:
    """What the guard did: none | stayed (the newest checkpoint is the champion) | rolled back | lost (no champion)."""

    verdict: collapse.Verdict
    act: str = "none"
    run_id: str | None = None
    rests: bool = False


# --- the collapse guard -------------------------------------------------------------------------------------------


def guard(home: RealmHome, made: sa.Engine, campaign_id: str) -> Guarded:
    """Judge the campaign's last idle quests and, on collapse, go back to the champion."""
    with db.read(made) as connection:
        kept = collapse.notes(connection, campaign_id)
        generations = collapse.history(connection, campaign_id, kept["generations"])
        run = campaigns.current_run(connection, campaign_id)
    verdict = collapse.judge(generations)
    measured = {g.quest_id: g.to_dict() for g in generations}
    if verdict.state != "collapse":
        if measured != kept["generations"]:
            with db.write(made) as connection:
                campaigns.set_value(connection, collapse.key_of(campaign_id), {**kept, "generations": measured})
        return Guarded(verdict)
    champion = _champion(home, made, campaign_id)
    with db.write(made) as connection:
        if campaigns.current_run(connection, campaign_id)["id"] != run["id"]:
            return Guarded(verdict)  # somebody has gone elsewhere since; the count has begun anew
        return _act(connection, home, campaign_id, verdict, champion)


def _champion(home: RealmHome, made: sa.Engine, campaign_id: str) -> dict[str, Any] | None:
    """The best checkpoint that the hero descends from and whose hashes verify now; bad finds are taken out of use.

    One of weights that a person (or an earlier alarm) gave up is not gone back to.
    """
    bad: list[tuple[dict[str, Any], list[str]]] = []
    rows: dict[str, dict[str, Any]] = {}
    with db.read(made) as connection:
        line = line_of(connection, campaign_id)

        def verifies(checkpoint_id: str) -> bool:
            rows[checkpoint_id] = row = _checkpoint(connection, checkpoint_id)
            if not line.has(row["run_id"], row["step"]) and row["campaign_id"] == campaign_id:
                return False
            faults = checkpoints.verify(home.root / row["path"], row["manifest_sha256"])
            if faults:
                bad.append((row, faults))
            return not faults

        found = champions.champion(connection, campaign_id, verifies)
    for row, faults in bad:
        checkpoints.condemn(made, row, faults)
    return rows[found.checkpoint_id] if found else None


def _checkpoint(connection: sa.Connection, checkpoint_id: str) -> dict[str, Any] | None:
    query = sa.select(db.checkpoints).where(db.checkpoints.c.id == checkpoint_id)
    row = connection.execute(query).mappings().one_or_none()
    return dict(row) if row else None


def _act(
    connection: sa.Connection, home: RealmHome, campaign_id: str, verdict: collapse.Verdict,
    champion: Mapping[str, Any] | None,
) -> Guarded:  # fmt: skip
    kept = collapse.notes(connection, campaign_id)
    quests = collapse.idle_quests(connection, campaign_id)
    rests = champion is None or collapse.must_rest(kept["acts"], quests)
    newest = campaigns.parent_checkpoint(connection, campaign_id)
    withdrawn = _withdraw_idle(connection, home, campaign_id)
    run_id, told = None, ""
    if champion is None:
        act, did = "lost", "no checkpoint verifies that it could go back to"
    elif newest is not None and newest["id"] == champion["id"]:
        act, did = "stayed", f"the newest checkpoint (step {newest['step']:,}) is the champion, so the hero stays there"
    else:
        act = "rolled back"
        did = f"a new run goes on from the champion at step {champion['step']:,}"
        run_id, told = _go_back(connection, home, campaign_id, champion, f"collapse: {verdict.reason}")
    note = {"t": db.now(), "act": act, "quests": quests, "run_id": run_id, "from": newest["id"] if newest else None,
            "to": champion["id"] if champion else None, "reason": verdict.reason}  # fmt: skip
    acts = [*kept["acts"], note][-collapse.WITHIN :]
    campaigns.set_value(connection, collapse.key_of(campaign_id), {"generations": {}, "acts": acts})
    _tell(connection, verdict, note, did + told, withdrawn, rests)
    return Guarded(verdict, act, run_id, rests)


def _withdraw_idle(connection: sa.Connection, home: RealmHome, campaign_id: str) -> int:
    """Practice that was made for the collapsed hero is not trained any more; new practice is made for the champion."""
    table = db.quests
    query = sa.select(table.c.id).where(
        table.c.campaign_id == campaign_id, table.c.state == "queued", table.c.kind.in_(collapse.IDLE_KINDS))
    found = connection.execute(query).scalars().all()
    for quest_id in found:
        board.set_state(connection, quest_id, "skipped", "made for a hero that had collapsed", finished_at=db.now())
        board.settle_file(connection, home, quest_id)
    return len(found)


def _tell(
    connection: sa.Connection, verdict: collapse.Verdict, note: Mapping[str, Any], did: str, withdrawn: int, rests: bool
) -> None:  # fmt: skip
    what = "keeping the hero from collapse"
    evidence = {**verdict.to_dict(), **{key: note[key] for key in ("act", "from", "to", "run_id")}}
    events.emit(connection, "incident", f"Collapse: {verdict.reason}; {did}", "trouble", code="collapse", what=what,
                evidence=evidence)  # fmt: skip
    if withdrawn:
        did += f"; {withdrawn} idle quests were taken off the board"
    if rests:
        often = "" if note["act"] == "lost" else (
            f"; it is the second alarm within {collapse.WITHIN} idle quests, so another try would end the same way")
        commands.set_mode(connection, "rest", f"collapse: {did}")
        fix = ("Look at the hero's answers (`python3 -m training vault guard`), change what it practises "
               "(skill_priorities, its learning rate) or bring files, then resume.")  # fmt: skip
        action: dict[str, Any] = {"kind": "battle.resume", "payload": {}}
    else:
        often, fix = "", "Nothing to do: practice goes on with fresh rows. To undo it, go back to the newer checkpoint."
        action = {"kind": "hero.rollback", "payload": {"checkpoint_id": note["from"]}}
        if note["act"] != "rolled back":
            action = {"kind": "battle.stop", "payload": {}}
            fix = "Rest and look at the hero's answers: `python3 -m training vault guard`."
    events.emit(connection, "alert", f"The hero's own practice made it worse: {did}{often}", "trouble",
                alert_id=f"collapse:{db.new_id()}", code="collapse", what=what, why=verdict.reason, fix=fix,
                action=action)  # fmt: skip


# --- both ---------------------------------------------------------------------------------------------------------


def _go_back(
    connection: sa.Connection, home: RealmHome, campaign_id: str, parent: Mapping[str, Any], reason: str,
    hold: bool = False,
) -> tuple[str, str]:  # fmt: skip
    """(new run, what to say of the files whose training is not in it)."""
    run_id = campaigns.new_run(connection, campaign_id, parent["id"], reason)
    again, gone = fallback.queue_lost(connection, home, campaign_id, run_id, parent["step"], reason, hold)
    told = f"; {'held on the board' if hold else 'queued again'}: {', '.join(again)}" if again else ""
    return run_id, told + (f"; their files are gone: {', '.join(gone)}" if gone else "")


def to_checkpoint(home: RealmHome, made: sa.Engine, command: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out `hero.rollback`: verify, then run, answer and events in one transaction. Returns the answer.

    A person goes back because something after the checkpoint was bad, so files that were trained since are held on
    the board, not trained again by themselves. Levels stay as they were proved; retention checks find what is missing.
    """
    checkpoint_id = command["result"]["checkpoint_id"]
    with db.read(made) as connection:
        row = _checkpoint(connection, checkpoint_id)
    faults = checkpoints.verify(home.root / row["path"], row["manifest_sha256"])
    if faults:
        checkpoints.condemn(made, row, faults)
    with db.write(made) as connection:
        reason = f"checkpoint {checkpoint_id} stays out of use: " + "; ".join(faults[:3]) if faults else _not_now(
            connection, row)  # fmt: skip
        if reason:
            answer: dict[str, Any] = {"reason": reason}
        else:
            answer = _by_hand(connection, home, row)
        commands.finish(connection, command, "failed" if reason else "done", answer)
    return answer


def _not_now(connection: sa.Connection, row: Mapping[str, Any]) -> str | None:
    """What may have changed between the order and now."""
    campaign = campaigns.active(connection)
    if campaign is None or campaign["id"] != row["campaign_id"]:
        return f"checkpoint {row['id']} is of another campaign than the one that is played"
    if _checkpoint(connection, row["id"])["state"] != "live":
        return f"checkpoint {row['id']} is not live any more"
    return None


def _by_hand(connection: sa.Connection, home: RealmHome, row: Mapping[str, Any]) -> dict[str, Any]:
    campaign_id = row["campaign_id"]
    newest = campaigns.parent_checkpoint(connection, campaign_id)
    if newest is not None and newest["id"] == row["id"]:
        return {"checkpoint_id": row["id"], "note": "the hero is there already; nothing was changed"}
    run_id, told = _go_back(connection, home, campaign_id, row, f"back to checkpoint {row['id']} by the player", True)
    table = db.levels
    later = connection.execute(sa.select(table.c.skill, table.c.level).where(
        table.c.campaign_id == campaign_id, table.c.step > row["step"]).order_by(table.c.skill, table.c.level)).all()
    levels = [f"{skill} L{level}" for skill, level in later]
    told += f"; mastered later, to be checked again: {', '.join(levels)}" if levels else ""
    campaign = campaigns.get(connection, campaign_id)
    events.emit(connection, "campaign", f"A new run goes on from step {row['step']:,}{told}", "info",
                campaign_id=campaign_id, state=campaign["state"], name=campaign["name"])  # fmt: skip
    return {"checkpoint_id": row["id"], "run_id": run_id, "step": row["step"], "levels_after": levels}

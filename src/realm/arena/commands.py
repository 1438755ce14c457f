"""Commands of a person (CLI, Tavern): taken from the `commands` table, answered there and in the event log.

A command has two moments. `accept` acts at once (at most one poll after it was inserted): it changes the board, the
mode, or what the open battle is asked to do. Most are then done. Those that ask something of the battle stay pending,
with `result.accepted`, until `outcome` sees the effect: paused, resumed, ended, saved. Both read only the database,
so a command survives a restart of the arena.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from realm import db, events, schools
from realm.arena import physics, plan
from realm.guild import campaigns, progress
from realm.guild.campaigns import lifecycle, method
from realm.guild.skills import SkillError, get_skill
from realm.heroes import modes
from realm.heroes.profile import change, changed, load_profile, weights_folder
from realm.quests import board
from realm.settings import RealmHome, SettingsError
from realm.temple import verdicts
from realm.temple.orders import ORDERS
from realm.vault import catalog, checkpoints, orders, zones

MODE = "mode"  # train | rest, in realm_values
PAUSED = "paused"  # true while a person holds the battle; survives a restart
HERO = "hero"  # id of the hero that plays
VAULT = "vault"  # what an order wants that `keeping.py` carries out
TIMEOUT_S = 900.0  # a command whose effect never comes fails with that reason

commands = db.commands
log = logging.getLogger("realm.arena.commands")


class Refused(ValueError):
    """A command that cannot be carried out; the message is its result."""


@dataclass(frozen=True)
class Done:
    """A finished command."""

    result: dict[str, Any]


@dataclass(frozen=True)
class Later:
    """A command that was accepted and whose effect is awaited; `note` is kept in its result."""

    note: dict[str, Any]


Answer = Done | Later
Handler = Callable[[sa.Connection, RealmHome, Mapping[str, Any]], Answer]


def mode(connection: sa.Connection) -> str:
    """train | rest."""
    return campaigns.value(connection, MODE, "train")


def set_mode(connection: sa.Connection, new: str, reason: str) -> None:
    """Change the mode, with its event; nothing happens when it is that already."""
    if mode(connection) == new:
        return
    campaigns.set_value(connection, MODE, new)
    events.emit(connection, "mode", f"Mode {new}: {reason}", "info", mode=new, reason=reason)


def pending(connection: sa.Connection) -> list[dict[str, Any]]:
    """Commands of the loop without an answer, oldest first; those of jobs are the job executor's."""
    mine = commands.c.state == "pending", ~commands.c.kind.startswith("job.")
    query = sa.select(commands).where(*mine).order_by(commands.c.t, commands.c.id)
    return [dict(row) for row in connection.execute(query).mappings()]


def work(connection: sa.Connection, home: RealmHome) -> bool:
    """Accept new commands and finish those whose effect came. True when the loop has something new to look at.

    Each command has a savepoint of its own: one that trips over anything fails with that reason and leaves nothing
    half done, the others are carried out all the same.
    """
    acted = False
    for command in pending(connection):
        connection.exec_driver_sql("SAVEPOINT command")
        try:
            answer = _step(connection, home, command)
        except sa.exc.OperationalError:
            raise  # full or locked: the command stays pending until something can be written again
        except Exception as error:
            connection.exec_driver_sql("ROLLBACK TO command")
            connection.exec_driver_sql("RELEASE command")
            finish(connection, command, "failed", {"reason": _reason(command, error)})
            acted = True
            continue
        connection.exec_driver_sql("RELEASE command")
        if isinstance(answer, Done):
            finish(connection, command, "done", answer.result)
            acted = True
        elif command["result"] is None:
            note = {"accepted": True, "t": db.now(), **answer.note}
            connection.execute(sa.update(commands).where(commands.c.id == command["id"]).values(result=note))
            acted = True
    return acted


def _reason(command: Mapping[str, Any], error: Exception) -> str:
    """Why a command failed, for the person who gave it; what was not foreseen is also logged with its traceback."""
    text = str(error)
    if not isinstance(error, (Refused, board.BoardError, SkillError, SettingsError, catalog.VaultError)):
        log.error("command %s %s failed", command["kind"], command["id"], exc_info=error)
        text = f"{type(error).__name__}: {error}; see logs/arena.log"
    # What a person typed may hold half a surrogate pair, which no database takes.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def finish(connection: sa.Connection, command: Mapping[str, Any], state: str, result: dict[str, Any]) -> None:
    """Write a command's answer and tell it."""
    connection.execute(sa.update(commands).where(commands.c.id == command["id"])
                       .values(state=state, result=result, finished_at=db.now()))  # fmt: skip
    text = f"{command['kind']} {state}" + (f": {result['reason']}" if result.get("reason") else "")
    events.emit(connection, "command", text, "trouble" if state == "failed" else "info", command_id=command["id"],
                kind=command["kind"], state=state, result=result)  # fmt: skip


def _step(connection: sa.Connection, home: RealmHome, command: dict[str, Any]) -> Answer:
    if command["kind"] not in HANDLERS:
        raise Refused(f"no command {command['kind']!r}; known: {', '.join(sorted(HANDLERS))}")
    if command["result"] is None:
        return HANDLERS[command["kind"]](connection, home, command["payload"] or {})
    waiting = OUTCOMES.get(command["kind"])
    answer = waiting(connection, command["result"]) if waiting else None
    if answer is None and db.now() - command["result"]["t"] > TIMEOUT_S and command["kind"] not in OWN_TIME:
        raise Refused(f"nothing happened within {TIMEOUT_S:.0f} s; see logs/battle.log")
    return answer or Later(command["result"])


# --- battle -------------------------------------------------------------------------------------------------------

def _open(connection: sa.Connection) -> dict[str, Any]:
    battle = plan.open_battle(connection)
    if battle is None:
        raise Refused("no battle is running")
    return battle


def _not_ending(battle: Mapping[str, Any]) -> None:
    """An order to end the battle stands: nothing may take its place."""
    if battle["desired"] in ("stop", "skip"):
        raise Refused(f"the battle is already asked to {battle['desired']}; wait for the next one")


def _desire(connection: sa.Connection, battle: Mapping[str, Any], desired: str) -> None:
    connection.execute(sa.update(db.battles).where(db.battles.c.id == battle["id"]).values(desired=desired))


def _pause(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    battle = _open(connection)
    _not_ending(battle)
    campaigns.set_value(connection, PAUSED, True)
    _desire(connection, battle, "pause")
    return Later({"battle_id": battle["id"]})


def _resume(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    campaigns.set_value(connection, PAUSED, False)
    set_mode(connection, "train", "resumed by the player")
    battle = plan.open_battle(connection)
    if battle is None:
        return Done({"mode": "train"})
    if battle["desired"] in ("stop", "skip"):
        raise Refused(f"the battle is already asked to {battle['desired']}; the next one starts by itself")
    _desire(connection, battle, "run")
    return Later({"battle_id": battle["id"]})


def _stop(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    set_mode(connection, "rest", "stopped by the player")
    campaigns.set_value(connection, PAUSED, False)
    battle = plan.open_battle(connection)
    if battle is None:
        return Done({"mode": "rest"})
    _desire(connection, battle, "stop")
    return Later({"battle_id": battle["id"]})


def _skip(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    battle = _open(connection)
    _not_ending(battle)
    campaigns.set_value(connection, PAUSED, False)
    _desire(connection, battle, "skip")
    return Later({"battle_id": battle["id"]})


def _save(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    battle = _open(connection)
    newest = _newest_checkpoint(connection, battle["run_id"])
    raised = battle["save_requests"] + 1
    connection.execute(sa.update(db.battles).where(db.battles.c.id == battle["id"]).values(save_requests=raised))
    return Later({"battle_id": battle["id"], "run_id": battle["run_id"], "before": newest})


def _newest_checkpoint(connection: sa.Connection, run_id: str) -> str | None:
    table = db.checkpoints
    query = sa.select(table.c.id).where(table.c.run_id == run_id)
    return connection.execute(query.order_by(table.c.step.desc()).limit(1)).scalar()


def _battle(connection: sa.Connection, note: Mapping[str, Any]) -> dict[str, Any]:
    row = connection.execute(sa.select(db.battles).where(db.battles.c.id == note["battle_id"])).mappings().one()
    return dict(row)


def _over(battle: Mapping[str, Any]) -> bool:
    return battle["state"] in ("done", "failed")


def _paused(connection: sa.Connection, note: Mapping[str, Any]) -> Answer | None:
    battle = _battle(connection, note)
    if battle["state"] == "paused":
        return Done({"battle_id": battle["id"], "step": battle["step"]})
    if _over(battle):
        # It ended before a step end came: the wish is kept, the next battle pauses after its first step.
        now = plan.open_battle(connection)
        if now is None:
            return Done({"battle_id": battle["id"], "note": "the battle ended first; the next one will be paused"})
        return Done({"battle_id": now["id"]}) if now["state"] == "paused" else None
    return None


def _resumed(connection: sa.Connection, note: Mapping[str, Any]) -> Answer | None:
    battle = _battle(connection, note)
    going = battle["state"] in ("training", "trial", "arming") or _over(battle)
    return Done({"battle_id": battle["id"], "step": battle["step"]}) if going else None


def _ended(connection: sa.Connection, note: Mapping[str, Any]) -> Answer | None:
    battle = _battle(connection, note)
    if not _over(battle) or battle["settled_at"] is None:
        return None
    return Done({"battle_id": battle["id"], "outcome": battle["outcome"], "checkpoint_id": battle["checkpoint_id"]})


def _saved(connection: sa.Connection, note: Mapping[str, Any]) -> Answer | None:
    newest = _newest_checkpoint(connection, note["run_id"])
    if newest is not None and newest != note["before"]:
        return Done({"battle_id": note["battle_id"], "checkpoint_id": newest})
    if _over(_battle(connection, note)):
        raise Refused("the battle ended without another checkpoint")
    return None


# --- mode, quests, trials, hero -----------------------------------------------------------------------------------

def _set_mode(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    wanted = payload.get("mode")
    if wanted not in ("train", "rest"):
        raise Refused(f"mode {wanted!r} does not exist; use train or rest")
    set_mode(connection, wanted, "set by the player")
    return Done({"mode": wanted})


def _quest_id(payload: Mapping[str, Any]) -> str:
    if not isinstance(payload.get("quest_id"), str):
        raise Refused("the command needs quest_id; `python3 -m training quest list` names the quests")
    return payload["quest_id"]


def _retry(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    quest = board.get(connection, _quest_id(payload))
    if quest["state"] == "refused":
        return Done({"quest_id": quest["id"], "inbox": _back_to_inbox(connection, home, quest)})
    if quest["state"] != "queued" and quest["path"] and board.locate(home, quest) is None:
        raise Refused(f"the file of quest {quest['name']} is not there any more; drop it into the inbox again")
    board.retry(connection, quest["id"])
    board.settle_file(connection, home, quest["id"])
    return Done({"quest_id": quest["id"]})


def _back_to_inbox(connection: sa.Connection, home: RealmHome, quest: Mapping[str, Any]) -> str:
    """A refused file goes through the gate again, as a new quest; the refused row stays as the record."""
    path = board.locate(home, quest)
    if path is None:
        raise Refused(f"the file of quest {quest['name']} is not in failed/ any more; drop it into the inbox again")
    target = home.inbox / quest["lane"] / f"{quest['name'].removesuffix('.jsonl')}.jsonl"
    if target.exists():
        raise Refused(f"{target} is there already; it is examined first")
    os.rename(path, target)
    os.utime(target)  # a new time makes it a new file for the inbox, which knows the old one by name and time
    connection.execute(sa.update(db.quests).where(db.quests.c.id == quest["id"]).values(path=None))
    return target.relative_to(home.root).as_posix()


def _move(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    quest_id = _quest_id(payload)
    board.move(connection, quest_id, str(payload.get("lane")), bool(payload.get("first")))
    board.settle_file(connection, home, quest_id)
    return Done({"quest_id": quest_id, "lane": payload.get("lane")})


def _hold(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    board.hold(connection, _quest_id(payload))
    return Done({"quest_id": payload["quest_id"]})


def _unhold(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    board.unhold(connection, _quest_id(payload))
    return Done({"quest_id": payload["quest_id"]})


def _assign(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    quest_id, (school, options) = _quest_id(payload), _school(payload)
    board.assign(connection, quest_id, school, options)
    return Done({"quest_id": quest_id, "school": school, "options": options})


def _school(payload: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    school, options = payload.get("school") or "scribe", payload.get("options") or {}
    if not isinstance(options, dict):
        raise Refused(f"options {options!r}: write them as {{name: value}}")
    return schools.entry(school).id, options


def _withdraw(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    board.withdraw(connection, _quest_id(payload))
    board.settle_file(connection, home, payload["quest_id"])
    return Done({"quest_id": payload["quest_id"]})


def _skill_level(payload: Mapping[str, Any]) -> tuple[str, int | None]:
    skill, level = get_skill(payload.get("skill", "bin")), payload.get("level")
    if level is not None and (not isinstance(level, int) or not 1 <= level <= skill.max_level):
        raise Refused(f"level {level!r}: skill {skill.id} has levels 1 to {skill.max_level}")
    return skill.id, level


def _someone_plays(connection: sa.Connection) -> None:
    if campaigns.between(connection):
        raise Refused("no campaign is active: the last one was archived; activate one, make a new one, or resume to "
                      "begin the hero's next")  # fmt: skip


def _trial(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    skill, level = _skill_level(payload)
    _someone_plays(connection)
    return Later({"skill": skill, "level": level, "wants": "trial"})


def _idle(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    skill, level = _skill_level(payload)
    _someone_plays(connection)
    campaign = campaigns.active(connection)
    mastered = progress.mastered_levels(connection, campaign["id"]) if campaign else {}
    plan.check_requirements(get_skill(skill), mastered)
    more = dict(zip(("school", "options"), _school(payload), strict=True)) if payload.get("school") else {}
    return Later({"skill": skill, "level": level, "wants": "idle", **more})


def _hero(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    hero_id = str(payload.get("hero_id", ""))
    model = str(payload["model"]) if payload.get("model") else None
    keys = modes.mode_keys(str(payload["mode"]), load_profile(hero_id, home)) if payload.get("mode") else None
    profile = changed(home, hero_id, model, keys)
    physics.check(profile, home)  # refused here, with what to do, not in a lost battle
    if not profile.embedded:
        weights_folder(profile, home)  # refused here, with the command that fetches them, not in a lost battle
    if model or keys:
        change(home, hero_id, model, keys)  # only now: a refused command changes nothing
    campaigns.set_value(connection, HERO, profile.id)
    campaigns.set_between(connection, False)
    _end_battle(connection)
    return Later({"hero_id": profile.id})


def _end_battle(connection: sa.Connection) -> str | None:
    """Ask the open battle for a checkpoint and its end; returns its id. One that is being skipped ends anyway."""
    battle = plan.open_battle(connection)
    if battle is None:
        return None
    if battle["desired"] != "skip":
        _desire(connection, battle, "stop")
    return battle["id"]


def _playing(connection: sa.Connection, note: Mapping[str, Any]) -> Answer | None:
    campaign = campaigns.active(connection)
    if campaign is None or campaign["hero_id"] != note["hero_id"] or plan.open_battle(connection) is not None:
        return None
    return Done({"hero_id": note["hero_id"], "campaign_id": campaign["id"]})


def _revive(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    """A corrupt checkpoint whose folder was restored is used again, when every hash is the ledger's."""
    checkpoint_id = payload.get("checkpoint_id")
    row = connection.execute(sa.select(db.checkpoints).where(db.checkpoints.c.id == checkpoint_id)).mappings().first()
    if row is None:
        raise Refused(f"no checkpoint {checkpoint_id}; `python3 -m training vault list` names them")
    faults = zones.faults_of(home, row)
    if faults:
        raise Refused(f"checkpoint {checkpoint_id} stays out of use: " + "; ".join(faults[:3]))
    return Done({"checkpoint_id": checkpoint_id, "revived": checkpoints.revive(connection, checkpoint_id)})


def _vault(act: str) -> Handler:
    """An order to the Vault: marks are done at once, the rest by `keeping.py` in a thread of its own."""

    def handle(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
        answer = orders.accept(connection, home, act, payload)
        return Later({"wants": VAULT}) if answer is None else Done(answer)

    return handle


def _rollback(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    """Go back to a checkpoint: a running battle is asked to stop first, the loop does the rest (`rollback.py`)."""
    checkpoint_id, campaign = payload.get("checkpoint_id"), campaigns.active(connection)
    row = connection.execute(sa.select(db.checkpoints).where(db.checkpoints.c.id == checkpoint_id)).mappings().first()
    if row is None:
        raise Refused(f"no checkpoint {checkpoint_id}; `python3 -m training vault list` names them")
    if campaign is None or row["campaign_id"] != campaign["id"]:
        raise Refused(f"checkpoint {checkpoint_id} belongs to another campaign than the one that is played; "
                      "activate that one first")  # fmt: skip
    if row["state"] != "live":
        raise Refused(f"checkpoint {checkpoint_id} is {row['state']}; `python3 -m training vault verify "
                      f"{checkpoint_id}` takes it into use again once its folder is whole")  # fmt: skip
    battle = plan.open_battle(connection)
    if battle is not None and battle["desired"] not in ("stop", "skip"):
        campaigns.set_value(connection, PAUSED, False)
        _desire(connection, battle, "stop")
    return Later({"checkpoint_id": checkpoint_id, "wants": "rollback"})


# --- temple -------------------------------------------------------------------------------------------------------

def _ask_temple(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    """An order is asked in a process of its own (`rites.py`); the answer is here when it has given its verdict."""
    order = payload.get("order", "all")
    if order != "all" and order not in [each.id for each in ORDERS]:
        raise Refused(f"no order {order!r}; the nine are {', '.join(each.id for each in ORDERS)}")
    events.emit(connection, "temple", f"The Temple is asked: {order}.", "info", order=order, status="asked")
    return Later({"order": order, "fix": bool(payload.get("fix")), "wants": "temple"})


def _record_verdicts(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    """Verdicts that were given in a terminal; they count as those that the arena asked for."""
    given = payload.get("verdicts")
    if not isinstance(given, list) or len(given) > len(ORDERS):
        raise Refused("the command needs `verdicts`, a list; give `python3 -m training temple`")
    try:
        kept = [verdict["order"] for verdict in given if verdicts.keep(connection, verdict, "terminal")]
    except ValueError as error:
        raise Refused(str(error)) from error
    return Done({"kept": kept})


def _condemn(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    """Take a checkpoint out of use whose bytes are not the ledger's; a whole one stays."""
    checkpoint_id = payload.get("checkpoint_id")
    row = connection.execute(sa.select(db.checkpoints).where(db.checkpoints.c.id == checkpoint_id)).mappings().first()
    if row is None:
        raise Refused(f"no checkpoint {checkpoint_id}; `python3 -m training vault list` names them")
    faults = zones.faults_of(home, row)
    if not faults:
        raise Refused(f"checkpoint {checkpoint_id} is whole: every byte is as the ledger has it")
    return Done({"checkpoint_id": checkpoint_id, "condemned": checkpoints.condemn_in(connection, row, faults)})


# --- campaigns ----------------------------------------------------------------------------------------------------

def _named_campaign(connection: sa.Connection, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The campaign that a command names, by id or name; without one the active one."""
    if payload.get("campaign") is not None:
        return lifecycle.find(connection, payload["campaign"])
    found = campaigns.active(connection)
    if found is None:
        raise Refused("no campaign is active; name one of `python3 -m training campaign list`")
    return found


def _new_campaign(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    made = lifecycle.create(connection, home, payload)
    told = {"campaign_id": made["id"], "name": made["name"],
            "differences": ((made["method"] or {}).get("origin") or {}).get("differences", [])}  # fmt: skip
    return _play(connection, home, made, told) if payload.get("activate") else Done(told)


def _activate(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    return _play(connection, home, _named_campaign(connection, payload), {})


def _play(
    connection: sa.Connection, home: RealmHome, campaign: dict[str, Any], told: dict[str, Any]
) -> Answer:  # fmt: skip
    """Make a campaign the one that is played: the loop switches once the battle has ended with a checkpoint."""
    lifecycle.trainable(campaign)
    told = {**told, "campaign_id": campaign["id"], "name": campaign["name"]}
    profile = load_profile(campaign["hero_id"], home)
    if not profile.embedded:
        weights_folder(profile, home)  # refused here, with the command that fetches them, not in a lost battle
    campaigns.choose(connection, campaign)
    campaigns.set_value(connection, HERO, campaign["hero_id"])
    campaigns.set_between(connection, False)
    set_mode(connection, "train", f"campaign {campaign['name']} is activated")
    battle = plan.open_battle(connection)
    if battle is not None and battle["campaign_id"] != campaign["id"]:
        campaigns.set_value(connection, PAUSED, False)
        _end_battle(connection)
    return Later(told)


def _activated(connection: sa.Connection, note: Mapping[str, Any]) -> Answer | None:
    wanted, now = campaigns.get(connection, note["campaign_id"]), campaigns.active(connection)
    next_one = campaigns.chosen(connection, campaigns.value(connection, HERO) or "")
    if next_one is None or next_one["id"] != wanted["id"]:
        raise Refused(f"another campaign or hero was chosen before {wanted['name']} had its turn")
    if now is None or now["id"] != wanted["id"] or now["state"] != "active":
        return None
    return Done({key: value for key, value in note.items() if key not in ("accepted", "t")})


def _pause_campaign(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    campaign = _named_campaign(connection, payload)
    lifecycle.set_state(connection, campaign, "paused")
    told = {"campaign_id": campaign["id"], "name": campaign["name"]}
    battle = _leave(connection, home, campaign, "paused")
    return Later({**told, "battle_id": battle}) if battle else Done(told)


def _leave(connection: sa.Connection, home: RealmHome, campaign: Mapping[str, Any], word: str) -> str | None:
    """Rest when this campaign would be played on (and no other was just chosen); end its battle; returns its id."""
    following = campaigns.chosen(connection, campaigns.value(connection, HERO) or home.settings.default_hero)
    if following is not None and following["id"] == campaign["id"]:
        set_mode(connection, "rest", f"campaign {campaign['name']} is {word}")
    battle = plan.open_battle(connection)
    if battle is None or battle["campaign_id"] != campaign["id"]:
        return None
    campaigns.set_value(connection, PAUSED, False)
    return _end_battle(connection)


def _archive(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    """The loop writes the report and archives, once no battle runs."""
    campaign = _named_campaign(connection, payload)
    told = {"campaign_id": campaign["id"], "name": campaign["name"]}
    if campaign["state"] == "archived":
        return Done({**told, "note": "it is archived already"})
    _leave(connection, home, campaign, "being archived")
    return Later({**told, "wants": "archive"})


def _restore(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    campaign = _named_campaign(connection, payload)
    told = {"campaign_id": campaign["id"], "name": campaign["name"]}
    restored = lifecycle.restore(connection, campaign)
    return Done(told if restored else {**told, "note": f"it is not archived but {campaign['state']}"})


def _budget(connection: sa.Connection, home: RealmHome, payload: Mapping[str, Any]) -> Answer:
    campaign = _named_campaign(connection, payload)
    given = {key: payload.get(key) for key in ("tokens", "steps")}
    budget = lifecycle.set_budget(connection, campaign, given)
    lifecycle.note_verdict(connection, campaign["id"])  # a cap that was found by the old budget may be none now
    return Done({"campaign_id": campaign["id"], "name": campaign["name"], "budget": budget})


def halt_over_budget(connection: sa.Connection, campaign_id: str) -> bool:
    """Rest, with one alert, when the campaign's budget is spent. True when it is."""
    campaign = campaigns.get(connection, campaign_id)
    spent = method.spent_words(campaign, connection)
    if spent is None:
        return False
    if mode(connection) != "rest":
        set_mode(connection, "rest", f"the budget of campaign {campaign['name']} is spent")
        events.emit(connection, "alert", f"The budget of campaign {campaign['name']} is spent: {spent}", "trouble",
                    alert_id=f"budget:{db.new_id()}", code="budget_spent", what=f"campaign {campaign['name']}",
                    why=f"{spent} are spent", fix="Archive the campaign with its report, or give it more: "
                    f"`python3 -m training campaign budget {campaign['name']} --tokens N --steps N`, then resume.",
                    action={"kind": "campaign.archive", "payload": {"campaign": campaign_id}})  # fmt: skip
    return True


def wishes(connection: sa.Connection, wants: str) -> list[dict[str, Any]]:
    """Accepted commands that the loop itself carries out ("trial", "idle", "rollback", "archive"), oldest first."""
    return [c for c in pending(connection) if c["result"] and c["result"].get("wants") == wants]


HANDLERS: dict[str, Handler] = {
    "battle.pause": _pause, "battle.resume": _resume, "battle.stop": _stop, "battle.skip": _skip,
    "battle.save": _save, "mode": _set_mode, "quest.retry": _retry, "quest.move": _move, "quest.hold": _hold,
    "quest.unhold": _unhold, "quest.school": _assign,
    "quest.delete": _withdraw, "trial.run": _trial, "idle.generate": _idle,
    "hero.use": _hero, "vault.revive": _revive, "hero.rollback": _rollback,
    "campaign.new": _new_campaign, "campaign.activate": _activate, "campaign.pause": _pause_campaign,
    "temple.run": _ask_temple, "temple.record": _record_verdicts, "vault.condemn": _condemn,
    "campaign.archive": _archive, "campaign.restore": _restore, "campaign.budget": _budget,
    **{f"vault.{act}": _vault(act) for act in (*orders.QUICK, *orders.ACTS)},
    "groundskeeper.tend": lambda connection, home, payload: Later({"wants": VAULT}),
}  # fmt: skip
OUTCOMES: dict[str, Callable[[sa.Connection, Mapping[str, Any]], Answer | None]] = {
    "battle.pause": _paused, "battle.resume": _resumed, "battle.stop": _ended, "battle.skip": _ended,
    "battle.save": _saved, "hero.use": _playing, "campaign.new": _activated, "campaign.activate": _activated,
    "campaign.pause": _ended,
}  # fmt: skip
# These wait for a free moment of the loop, which may be a whole quest away.
OWN_TIME = ("trial.run", "idle.generate", "hero.rollback", "campaign.archive", "temple.run",
            "groundskeeper.tend", *(f"vault.{act}" for act in orders.ACTS))  # fmt: skip

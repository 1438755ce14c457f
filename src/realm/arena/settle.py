"""After a battle: what its trials and checkpoints mean for levels, blessing, champion and quest (arena only).

The child's word is not taken for it: verdicts are judged again from the counts, counts are compared with the answers
that were stored, the checkpoint's hashes and the quest's data are verified. Everything of one battle is one
transaction, marked by `battles.settled_at`; a crash before it leaves the battle to be settled at the next start.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from afs.jsonl import file_sha256
from realm import db, events
from realm.guild import campaigns, passives, progress
from realm.guild.campaigns.line import trials_of
from realm.guild.levels import THRESHOLD, may_promote
from realm.guild.progression.verdicts import judge_trial
from realm.guild.skills import SkillError, get_skill
from realm.quests import board
from realm.settings import RealmHome
from realm.state import machine
from realm.temple import ceremony, verdicts
from realm.temple.blessing import Blessing, CeremonyCheck, LevelEvidence, ProbeEvidence, bless, ceremony_factor
from realm.temple.orders import ORDERS, Asked, Ceremony
from realm.vault import champion as champions
from realm.vault import checkpoints

EVIDENCE_KINDS = ("promotion", "retention", "scout", "probe")


@dataclass(frozen=True)
class Settled:
    """What became of a battle. `promoted`: [(skill, level)]; `failed`: why it came to nothing, also when it was trained
    but its checkpoint is not whole."""

    battle_id: str
    outcome: str
    quest_state: str | None
    promoted: tuple[tuple[str, int], ...] = ()
    failed: str | None = None


def close_lost(connection: sa.Connection, battle_id: str, reason: str) -> None:
    """Close the row of a battle whose child is gone (the arena's one right on the child's columns)."""
    table = db.battles
    changed = connection.execute(
        sa.update(table).where(table.c.id == battle_id, table.c.state.not_in(("done", "failed")))
        .values(state="failed", outcome="failed", error=reason, ended_at=db.now())).rowcount  # fmt: skip
    if changed:
        row = connection.execute(sa.select(table).where(table.c.id == battle_id)).mappings().one()
        events.emit(connection, "battle", f"Battle lost: {reason}", "trouble", battle_id=battle_id, run=row["run_id"],
                    quest_id=row["quest_id"], state="failed", reason=reason, outcome="failed")  # fmt: skip


def settle(home: RealmHome, made: sa.Engine, battle_id: str, count_attempt: bool = True) -> Settled:
    """Settle one battle that is done or failed; a second call changes nothing.

    Args:
        count_attempt: whether a failure is the quest's (its child died) or not (the arena itself was stopped).
    """
    with db.read(made) as connection:
        battle = _battle(connection, battle_id)
        quest = board.get(connection, battle["quest_id"]) if battle["quest_id"] else None
        checkpoint = _checkpoint(connection, battle)
        outcome, fault = _outcome(connection, battle, quest, checkpoint)
    if battle["settled_at"] is not None:
        return Settled(battle_id, battle["outcome"], quest["state"] if quest else None, ())
    # Hashing is slow for large heroes: it is done before the transaction.
    faults = checkpoints.verify(home.root / checkpoint["path"], checkpoint["manifest_sha256"]) if checkpoint else []
    if faults:
        told = checkpoints.condemn(made, checkpoint, faults)
        fault = fault or told
    _ask_early(made, battle_id)
    checks = _ceremony(home, made, battle, quest, checkpoint, faults) if quest and outcome == "trained" else []
    with db.write(made) as connection:
        if _battle(connection, battle_id)["settled_at"] is not None:
            return Settled(battle_id, outcome, quest["state"] if quest else None, ())
        trials = _own_trials(connection, battle_id)
        sound = [t for t in trials if _sound(connection, t)]
        _tell_regressions(connection, sound)
        passives.tell_drift(connection, battle["campaign_id"], sound)
        if checks:
            checks.append(_examined(quest, sound))
        # A level is true of weights that are there, from data that is sound: what is cursed promotes nothing.
        cursed = bool(faults) or ceremony_factor(checks) == 0
        promoted = [] if cursed else _promote(connection, battle, sound)
        state = None
        if quest is not None:
            if outcome == "trained":
                state = _finish(connection, battle, quest, sound, checks)
            else:
                state = _hand_back(connection, quest, outcome, fault, count_attempt)
        bad = _crown(connection, home, battle["campaign_id"], {checkpoint["id"]} if checkpoint else set())
        connection.execute(sa.update(db.battles).where(db.battles.c.id == battle_id).values(settled_at=db.now()))
    for row, found in bad:
        checkpoints.condemn(made, row, found)
    if quest is not None:
        tidy_file(home, made, quest["id"])
    return Settled(battle_id, outcome, state, tuple(promoted), fault)


def _ask_early(made: sa.Engine, battle_id: str) -> None:
    """Have the skills of a battle's trials read their facts now: one on a server may take seconds, and the database
    must not be locked meanwhile. What fails here fails at once there."""
    with db.read(made) as connection:
        skills = {trial["skill"] for trial in _own_trials(connection, battle_id) if trial["skill"]}
    for skill_id in sorted(skills):
        with suppress(SkillError):
            get_skill(skill_id).levels()


def _battle(connection: sa.Connection, battle_id: str) -> dict[str, Any]:
    return dict(connection.execute(sa.select(db.battles).where(db.battles.c.id == battle_id)).mappings().one())


def _checkpoint(connection: sa.Connection, battle: Mapping[str, Any]) -> dict[str, Any] | None:
    query = sa.select(db.checkpoints).where(db.checkpoints.c.id == battle["checkpoint_id"])
    row = connection.execute(query).mappings().one_or_none()
    return dict(row) if row else None


def _outcome(
    connection: sa.Connection, battle: Mapping[str, Any], quest: Mapping[str, Any] | None,
    checkpoint: Mapping[str, Any] | None,
) -> tuple[str, str | None]:  # fmt: skip
    """(outcome, fault): the child's outcome unless the tables say otherwise."""
    if battle["state"] == "failed" or battle["outcome"] not in ("trained", "stopped", "skipped"):
        return "failed", battle["error"] or f"the battle ended as {battle['outcome']!r} without an error text"
    if quest is not None and battle["outcome"] == "trained":
        if checkpoint is None:
            return "failed", "the battle says it is trained but recorded no checkpoint"
        battles, wanted = _quest_battles(connection, battle, quest), battle["config"]["steps"]
        done = progress.quest_steps_in(connection, battles, checkpoint["run_id"], checkpoint["step"])
        if done < wanted:
            return "failed", (f"the battle says it is trained but its checkpoint at step {checkpoint['step']} holds "
                              f"{done} of the quest's {wanted} steps")  # fmt: skip
    return battle["outcome"], None


def _own_trials(connection: sa.Connection, battle_id: str) -> list[dict[str, Any]]:
    query = sa.select(db.trials).where(db.trials.c.battle_id == battle_id)
    return [dict(r) for r in connection.execute(query.order_by(db.trials.c.started_at, db.trials.c.id)).mappings()]


def _sound(connection: sa.Connection, trial: Mapping[str, Any]) -> bool:
    """Whether a trial's counts agree with its stored answers; a lie is an incident and counts for nothing."""
    if trial["skill"] is None:
        return True
    items = db.trial_items
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(sa.cast(items.c.correct, sa.Integer)), 0))
    n, correct = connection.execute(query.where(items.c.trial_id == trial["id"])).one()
    if (n, correct) == (trial["n"], trial["correct"]) and n > 0:
        return True
    what = (f"trial {trial['id']} of {trial['skill']} L{trial['level']} says {trial['correct']} of {trial['n']}, its "
            f"answers say {correct} of {n}; it counts for nothing")  # fmt: skip
    events.emit(connection, "incident", what, "trouble", code="trial_counts", what=what,
                evidence={"trial_id": trial["id"], "told": [trial["correct"], trial["n"]], "stored": [correct, n]})
    return False


def _tell_regressions(connection: sa.Connection, trials: list[dict[str, Any]]) -> None:
    for trial in trials:
        if trial["kind"] == "retention" and (verdict := judge_trial(trial)) in ("regression", "lost"):
            accuracy = trial["correct"] / trial["n"]
            text = f"{trial['skill']} L{trial['level']} {verdict}: {trial['correct']} of {trial['n']} right"
            events.emit(connection, "regression", text, "trouble", skill=trial["skill"], level=trial["level"],
                        trial_id=trial["id"], accuracy=accuracy, verdict=verdict)  # fmt: skip


def _promote(
    connection: sa.Connection, battle: Mapping[str, Any], trials: list[dict[str, Any]]
) -> list[tuple[str, int]]:
    """Levels that this battle's promotion trials earned, by the one level rule."""
    campaign_id, promoted = battle["campaign_id"], []
    for trial in trials:
        if trial["kind"] != "promotion" or trial["suspicious"]:
            continue
        skill, level = trial["skill"], trial["level"]
        try:
            verdict, closed = judge_trial(trial), get_skill(skill).closed(level)
        except SkillError as error:
            # The skill went while it was examined (a module removed, a server down): the battle is settled all the
            # same, and the level is examined again after the next quest of the skill.
            _held(connection, skill, level, f"the skill cannot be asked for its rule: {error}")
            continue
        if verdict != "pass":
            continue
        if level != progress.mastered_levels(connection, campaign_id).get(skill, 0) + 1:
            continue
        if _failed_before(connection, trial):
            continue  # the same weights on other problems: the wait after a fail is not over (contracts B2)
        decision = may_promote(progress.retention_checks(connection, campaign_id))
        if not decision.allowed:
            _held(connection, skill, level, decision.reason)
            continue
        connection.execute(sa.insert(db.levels).values(
            campaign_id=campaign_id, skill=skill, level=level, closed=closed, mastered_at=db.now(),
            step=trial["step"], trial_id=trial["id"]))  # fmt: skip
        how = f"closed: recall of a table of {trial['n']}" if closed else f"{trial['correct']} of {trial['n']} held out"
        events.emit(connection, "level", f"{skill} L{level} mastered ({how})", "deed", kind="skill",
                    **{"from": level - 1, "to": level}, skill=skill, closed=closed, trial_id=trial["id"])  # fmt: skip
        promoted.append((skill, level))
    return promoted


def _held(connection: sa.Connection, skill: str, level: int, reason: str) -> None:
    text = f"{skill} L{level} is not promoted by its trial: {reason}"
    events.emit(connection, "curriculum", text, "trouble", action="promotion_held", reason=reason, skill=skill,
                level=level)  # fmt: skip


def _failed_before(connection: sa.Connection, trial: Mapping[str, Any]) -> bool:
    """Whether this very checkpoint has failed an earlier promotion trial at the level."""
    table = db.trials
    query = sa.select(table.c.id).where(
        table.c.checkpoint_id == trial["checkpoint_id"], table.c.skill == trial["skill"],
        table.c.level == trial["level"], table.c.kind == "promotion", table.c.id != trial["id"],
        table.c.started_at <= trial["started_at"], table.c.verdict.in_(("fail", "undecided")))  # fmt: skip
    return connection.execute(query.limit(1)).first() is not None


def _hand_back(
    connection: sa.Connection, quest: Mapping[str, Any], outcome: str, fault: str | None, count_attempt: bool
) -> str:
    if outcome == "skipped":
        board.set_state(connection, quest["id"], "skipped", "skipped by the player", finished_at=db.now())
        return "skipped"
    if outcome == "stopped":
        return board.back_to_head(connection, quest["id"], "stopped; it goes on from its checkpoint")
    state = board.back_to_head(connection, quest["id"], fault or "battle failed", attempt_lost=count_attempt)
    if state == "failed":
        events.emit(connection, "alert", f"Quest {quest['name']} failed {board.MAX_ATTEMPTS} times", "trouble",
                    alert_id=f"quest:{quest['id']}", code="quest_failed", what=f"training quest {quest['name']}",
                    why=fault, fix="Read logs/battle.log, mend the cause, then retry the quest.",
                    action={"kind": "quest.retry", "payload": {"quest_id": quest["id"]}})  # fmt: skip
    return state


def _finish(
    connection: sa.Connection, battle: Mapping[str, Any], quest: Mapping[str, Any], trials: list[dict[str, Any]],
    checks: list[CeremonyCheck],
) -> str:  # fmt: skip
    battles = _quest_battles(connection, battle, quest)
    lessons = _lessons(connection, battles)
    more = {"report": {**(quest["report"] or {}), "lessons": lessons}} if lessons else {}
    board.set_state(connection, quest["id"], "done", finished_at=db.now(), error=None, **more)
    blessing = _bless(connection, battle, quest, battles, trials, checks)
    parts = {**blessing.parts, "battles": battles}  # whose effort it is; a quest may be done more than once
    connection.execute(sa.insert(db.blessings).values(
        id=db.new_id(), campaign_id=battle["campaign_id"], quest_id=quest["id"], battle_id=battle["id"], t=db.now(),
        ceremony=blessing.ceremony, evidence=blessing.evidence, quality=blessing.quality, effort=blessing.effort,
        xp=blessing.xp, verdict=blessing.verdict, parts=parts))  # fmt: skip
    if blessing.verdict == "cursed":
        _tell_curse(connection, quest, checks)
    text = f"Quest {quest['name']} {blessing.verdict}: quality {blessing.quality:.2f}, experience {blessing.xp:+.1f}"
    level = "trouble" if blessing.verdict == "cursed" else "deed"
    events.emit(connection, "blessing", text, level, battle_id=battle["id"], quest_id=quest["id"],
                effort=blessing.effort, quality=blessing.quality, xp=blessing.xp, verdict=blessing.verdict,
                parts=parts)  # fmt: skip
    return "done"


def _tell_curse(connection: sa.Connection, quest: Mapping[str, Any], checks: list[CeremonyCheck]) -> None:
    """The Deed of a cursed quest: what failed, what it cost, what to do."""
    bad = next(check for check in checks if check.critical and check.status == "fail")
    order = bad.name if bad.name in [each.id for each in ORDERS] else {"checkpoint": "champion"}.get(bad.name, "scribe")
    events.emit(connection, "alert", f"Quest {quest['name']} is cursed: {bad.name}: {bad.details}", "trouble",
                alert_id=f"cursed:{quest['id']}", code="cursed", what=f"blessing quest {quest['name']}",
                why=f"{bad.details}: no experience, and no level from its trials",
                fix=bad.remedy or f"Mend it, then ask: `python3 -m training temple {order}`.",
                action={"kind": "temple.run", "payload": {"order": order, "fix": True}})  # fmt: skip


def _quest_battles(connection: sa.Connection, battle: Mapping[str, Any], quest: Mapping[str, Any]) -> list[str]:
    return progress.quest_battles(connection, quest["id"], battle["campaign_id"], quest["started_at"])


def _lessons(connection: sa.Connection, battles: list[str]) -> list[dict[str, Any]]:
    """What the quest's school worked out before it trained (asked, wrong, made), for the quest's report."""
    table = db.events
    query = sa.select(table.c.payload).where(
        table.c.kind == "lesson", sa.func.json_extract(table.c.payload, "$.battle_id").in_(battles))  # fmt: skip
    return [dict(payload) for payload in connection.execute(query.order_by(table.c.id)).scalars()]


def _effort(connection: sa.Connection, battles: list[str]) -> float:
    """Sum of strain over all steps of a quest, whichever of its battles trained them."""
    query = sa.select(sa.func.coalesce(sa.func.sum(db.metrics.c.effort), 0.0))
    return float(connection.execute(query.where(db.metrics.c.battle_id.in_(battles))).scalar_one())


def _bless(
    connection: sa.Connection, battle: Mapping[str, Any], quest: Mapping[str, Any], battles: list[str],
    trials: list[dict[str, Any]], checks: list[CeremonyCheck],
) -> Blessing:  # fmt: skip
    trained = {(quest["skill"], int(level)) for level in quest["mix"] or ()}
    for skill, mix in (quest["rehearsal"] or {}).items():
        trained |= {(skill, int(level)) for level in mix} if isinstance(mix, Mapping) else set()
    evidence = {}
    for trial in trials:
        wanted = trial["kind"] in EVIDENCE_KINDS and trial["skill"] is not None and (
            (trial["skill"], trial["level"]) in trained if trained else trial["skill"] == quest["skill"])  # fmt: skip
        if wanted:
            before = _accuracy_before(connection, battle["campaign_id"], trial, quest["started_at"])
            evidence[trial["skill"], trial["level"]] = LevelEvidence(
                trial["skill"], trial["level"], trial["correct"] / trial["n"], _threshold(trial), before)  # fmt: skip
    probe = None
    if not evidence and battle["loss_before"] is not None and battle["loss_after"] is not None:
        rows = int((battle["config"].get("probe") or {}).get("rows", 0))
        probe = ProbeEvidence(_first_loss(connection, battles, battle), battle["loss_after"], rows)
    kept = [judge_trial(t) for t in trials if t["kind"] == "retention"]
    return bless(_effort(connection, battles), checks, list(evidence.values()), probe, kept)


def _examined(quest: Mapping[str, Any], trials: list[dict[str, Any]]) -> CeremonyCheck:
    told = any(t["skill"] is not None or t["kind"] == "file" and t["quest_id"] == quest["id"] for t in trials)
    status = "ok" if told else "fail" if quest["skill"] else "skip"
    return CeremonyCheck("trial", status, False, "a held-out trial was recorded" if told else "no trial recorded")


def _threshold(trial: Mapping[str, Any]) -> float:
    try:
        return get_skill(trial["skill"]).threshold
    except SkillError:
        return THRESHOLD  # the skill is gone; what it asked for is not known any more


def _first_loss(connection: sa.Connection, battles: list[str], battle: Mapping[str, Any]) -> float:
    """Probe loss before the quest's first battle: a resumed quest must not lose the gain of its first part."""
    query = sa.select(db.battles.c.loss_before).where(
        db.battles.c.id.in_(battles), db.battles.c.loss_before.is_not(None))  # fmt: skip
    first = connection.execute(query.order_by(db.battles.c.started_at).limit(1)).scalar()
    return battle["loss_before"] if first is None else first


def _accuracy_before(
    connection: sa.Connection, campaign_id: str, trial: Mapping[str, Any], started_at: float | None
) -> float | None:
    """Accuracy before the quest of the weights that it began with; a rollback's abandoned ones say nothing."""
    table = db.trials
    row = next(trials_of(connection, campaign_id, ("correct", "n"), table.c.skill == trial["skill"],
                         table.c.level == trial["level"], table.c.n > 0,
                         table.c.started_at < (started_at or trial["started_at"])), None)  # fmt: skip
    return row["correct"] / row["n"] if row else None


def _ceremony(
    home: RealmHome, made: sa.Engine, battle: Mapping[str, Any], quest: Mapping[str, Any],
    checkpoint: Mapping[str, Any] | None, faults: list[str],
) -> list[CeremonyCheck]:  # fmt: skip
    """The quest's data, its checkpoint, and the orders (realm-rules §10, contracts B8); `faults` the checkpoint's."""
    found = [_data(home, battle, quest)]
    verdict = (quest["report"] or {}).get("verdict")
    status = {"accepted": "ok", "accepted-with-warnings": "warn"}.get(verdict, "fail")
    found.append(CeremonyCheck("cleric", status, False, f"the Cleric's verdict: {verdict}"))
    if checkpoint is None:
        found.append(CeremonyCheck("checkpoint", "fail", True, "no checkpoint was recorded"))
    else:
        details = faults[0] if faults else "every hash of the manifest verified"
        found.append(CeremonyCheck("checkpoint", "fail" if faults else "ok", True, details))
    scope = Ceremony(battle["id"], ceremony.skills_of(quest), frozenset([checkpoint["id"]] if checkpoint else []))
    asked = Asked(home, partial(machine.sample, home.root), ceremony=scope)
    with db.read(made) as connection:
        kept, trials = verdicts.newest(connection), _own_trials(connection, battle["id"])
    found += ceremony.hold(asked, kept, trials)
    asked.close()
    return found


def _data(home: RealmHome, battle: Mapping[str, Any], quest: Mapping[str, Any]) -> CeremonyCheck:
    path, data = board.locate(home, quest), battle["config"]["data"] or {}
    again = f"drop the right file into {home.inbox}: it is trained as a new quest"
    if path is None:
        return CeremonyCheck("data", "fail", True, "the quest's file is not there", again)
    if file_sha256(path) != data.get("sha256"):
        return CeremonyCheck("data", "fail", True, f"{path.name} changed after the Cleric checked it", again)
    return CeremonyCheck("data", "ok", True, "sha256 as checked by the Cleric")


def _crown(
    connection: sa.Connection, home: RealmHome, campaign_id: str, verified: set[str]
) -> list[tuple[dict[str, Any], list[str]]]:  # fmt: skip
    """Tell when the champion changes; who it is follows from the tables, the value kept here is only the last told.

    Args:
        verified: checkpoints whose hashes were just compared (a bad one is not live any more).

    Returns:
        [(ledger row, what is wrong)] of candidates whose hashes do not verify; they were passed over.
    """
    key, bad = f"champion:{campaign_id}", []
    told = campaigns.value(connection, key)

    def verifies(checkpoint_id: str) -> bool:
        if checkpoint_id == told or checkpoint_id in verified:
            return True
        query = sa.select(db.checkpoints).where(db.checkpoints.c.id == checkpoint_id)
        row = dict(connection.execute(query).mappings().one())
        faults = checkpoints.verify(home.root / row["path"], row["manifest_sha256"])
        if faults:
            bad.append((row, faults))
        return not faults

    found = champions.champion(connection, campaign_id, verifies)
    if found is None or told == found.checkpoint_id:
        return bad
    campaigns.set_value(connection, key, found.checkpoint_id)
    text = f"Champion: step {found.step:,}, total level {found.total_level}, accuracy {found.accuracy:.2f}"
    events.emit(connection, "champion", text, "deed", checkpoint_id=found.checkpoint_id, step=found.step,
                total_level=found.total_level, accuracy=found.accuracy)  # fmt: skip
    return bad


def tidy_file(home: RealmHome, made: sa.Engine, quest_id: str) -> None:
    """Put a quest's file where its state says; the file of a finished idle quest goes, its order makes it again."""
    with db.write(made) as connection:
        quest = board.get(connection, quest_id)
        path = board.locate(home, quest)
        if quest["kind"] in ("idle", "rehearsal") and quest["state"] == "done":
            connection.execute(sa.update(db.quests).where(db.quests.c.id == quest_id).values(path=None))
        else:
            board.settle_file(connection, home, quest_id)
            path = None
    if path is not None:
        path.unlink(missing_ok=True)

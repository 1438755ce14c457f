"""What the arena does next: skill states from the tables, idle quests, the configuration of a battle.

The rules themselves are pure and live in `guild/curriculum.py`; here they are fed from the database.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.guild import campaigns, progress
from realm.guild.curriculum import (
    Knobs,
    QuestSpec,
    Seen,
    SkillState,
    choose_skill,
    make_trial,
    next_quest,
    plan_trials,
    row_counts,
)
from realm.guild.skills import Skill, all_skills, get_skill
from realm.heroes.profile import HeroProfile
from realm.quests import board, idle
from realm.settings import RealmHome
from realm.temple import cleric

MAX_IDLE_STEPS = 200  # contracts A9: an idle quest is 100-200 optimizer steps
OPEN_STATES = ("arming", "training", "pausing", "paused", "stopping", "trial")


def skill_state(connection: sa.Connection, campaign_id: str, skill: Skill) -> SkillState:
    """What the tables know about one skill of one campaign."""
    mastered = progress.mastered_levels(connection, campaign_id).get(skill.id, 0)
    training = min(mastered + 1, skill.max_level)
    seen = {}
    for level in range(1, min(training + 3, skill.max_level) + 1):
        trial = progress.newest_trial(connection, campaign_id, skill.id, level)
        if trial:
            seen[level] = Seen(trial["correct"] / trial["n"], trial["n"], trial["kind"])
    closed = frozenset(n for n in range(1, min(training + 3, skill.max_level) + 1) if skill.closed(n))
    return SkillState(
        skill=skill.id, max_level=skill.max_level, mastered=mastered, closed=closed, threshold=skill.threshold,
        seen=seen, checks=tuple(progress.retention_checks(connection, campaign_id)),
        quests_since_fail=progress.quests_since_fail(connection, campaign_id, skill.id, training))  # fmt: skip


def serials(connection: sa.Connection, campaign_id: str, skill: str) -> dict[int, int]:
    """{level: trials held so far}; it keys the seed of the next trial, so that its problems are fresh."""
    table = db.trials
    query = sa.select(table.c.level, sa.func.count()).where(table.c.campaign_id == campaign_id, table.c.skill == skill)
    return {level: n for level, n in connection.execute(query.group_by(table.c.level))}


def last_idle(connection: sa.Connection, campaign_id: str, skill: str) -> tuple[Knobs, int, int]:
    """(knobs of the last idle quest, rehearsal quests in a row, idle quests so far) of one skill."""
    table = db.quests
    made_here = table.c.kind.in_(("idle", "rehearsal"))
    query = sa.select(table.c.kind, table.c.origin).where(
        table.c.campaign_id == campaign_id, table.c.skill == skill, made_here)  # fmt: skip
    rows = connection.execute(query.order_by(table.c.created_at.desc(), table.c.id.desc())).all()
    if not rows:
        return Knobs(), 0, 0
    in_a_row = next((i for i, row in enumerate(rows) if row.kind != "rehearsal"), len(rows))
    knobs = Knobs(**(rows[0].origin or {}).get("knobs", {}))
    return knobs, in_a_row, len(rows)


def last_hint(connection: sa.Connection, campaign_id: str) -> str | None:
    """The strain hint at the end of the campaign's newest training."""
    battles, metrics = db.battles, db.metrics
    query = sa.select(battles.c.id).where(battles.c.campaign_id == campaign_id, battles.c.quest_id.is_not(None))
    for battle_id in connection.execute(query.order_by(battles.c.id.desc()).limit(5)).scalars().all():
        query = sa.select(metrics.c.hint).where(metrics.c.battle_id == battle_id)
        found = connection.execute(query.order_by(metrics.c.step.desc()).limit(1)).first()
        if found is not None:
            return found.hint
    return None


def idle_spec(
    connection: sa.Connection, campaign_id: str, profile: HeroProfile, skill_id: str | None = None
) -> tuple[QuestSpec, int] | None:
    """(what to practise next, idle quests of that skill so far), or None when the hero has no skill to practise."""
    states = {skill.id: skill_state(connection, campaign_id, skill) for skill in all_skills()}
    practised = {skill: last_idle(connection, campaign_id, skill)[2] for skill in states}
    chosen = skill_id or choose_skill(profile.skill_priorities, states, practised)
    if chosen is None:
        return None
    if chosen not in states:
        get_skill(chosen)  # raises with the nearest id
    knobs, in_a_row, serial = last_idle(connection, campaign_id, chosen)
    return next_quest(states[chosen], knobs, last_hint(connection, campaign_id), in_a_row), serial


def one_level(spec: QuestSpec, level: int) -> QuestSpec:
    """The spec of a person who asked for one level and nothing else."""
    return QuestSpec(spec.skill, level, "idle", {level: 1.0}, 0.0, spec.knobs, f"asked for level {level}")


@dataclass(frozen=True)
class Draft:
    """The file of an idle quest that is not on the board yet: made ahead, while the battle before it still runs."""

    order: idle.IdleOrder
    path: Path
    facts: Mapping[str, Any]
    report: Mapping[str, Any]


def idle_order(
    campaign: Mapping[str, Any], profile: HeroProfile, spec: QuestSpec, serial: int
) -> tuple[idle.IdleOrder, int]:
    """(rows to make, optimizer steps) of an idle quest: `epochs` passes over the rows, 200 steps at the most."""
    skill = get_skill(spec.skill)
    wanted = profile.idle_generation.samples * profile.epochs / profile.rows_per_step
    steps = min(MAX_IDLE_STEPS, max(1, round(wanted)))
    rows = math.ceil(steps * profile.rows_per_step / profile.epochs)
    seed = campaigns.seed_of(campaign["seed"], "idle", spec.skill, serial)
    return idle.IdleOrder(skill.id, skill.version, row_counts(spec.mix, rows), seed, spec.knobs.ease), steps


def write_draft(home: RealmHome, order: idle.IdleOrder) -> Draft:
    """Write and check the rows of an order; the file's name starts with a dot, so nobody takes it for a quest.

    Raises:
        idle.IdleError, cleric.GateError: rows that must not be trained on.
    """
    path = home.queue / "low" / ".draft.jsonl"
    skill = get_skill(order.skill)
    facts = idle.write(order, path, skill)
    return Draft(order, path, facts, cleric.check_idle(path, skill))


def make_idle(
    home: RealmHome, made: sa.Engine, campaign: Mapping[str, Any], profile: HeroProfile, spec: QuestSpec, serial: int,
    draft: Draft | None = None,
) -> str:  # fmt: skip
    """Enqueue one idle quest and return its id; its rows are the draft's when that was made for the same order.

    Raises:
        idle.IdleError, cleric.GateError: rows that must not be trained on.
    """
    order, steps = idle_order(campaign, profile, spec, serial)
    if draft is None or draft.order != order or not draft.path.exists():
        draft = write_draft(home, order)
    quest_id = db.new_id()
    name = f"{order.skill}-L{spec.level}-{serial + 1}"
    path = home.queue / "low" / board.file_name(quest_id, name)
    os.replace(draft.path, path)
    origin = order.to_origin(knobs=asdict(spec.knobs), distinct=draft.facts["distinct"], reason=spec.reason)
    with db.write(made) as connection:
        board.enqueue(connection, board.NewQuest(
            id=quest_id, name=name, kind=spec.kind, lane="low", campaign_id=campaign["id"],
            path=path.relative_to(home.root).as_posix(), rows=draft.facts["rows"], steps=steps, skill=order.skill,
            level=spec.level, mix={str(n): s for n, s in spec.mix.items()}, content_sha256=draft.facts["sha256"],
            format="messages", report=draft.report, origin=origin))  # fmt: skip
        for action in spec.actions:
            text = f"Curriculum of {order.skill}: {action.reason}"
            events.emit(connection, "curriculum", text, "info", action=action.action, reason=action.reason,
                        skill=order.skill, level=spec.level)  # fmt: skip
    return quest_id


def quest_trials(connection: sa.Connection, campaign: Mapping[str, Any], quest: Mapping[str, Any]) -> list[dict]:
    """The trials after a quest; a quest without a skill is followed by retention checks of every skill."""
    plans = []
    for skill in all_skills():
        if quest["skill"] not in (None, skill.id):
            continue
        state = skill_state(connection, campaign["id"], skill)
        mix = [int(level) for level in quest["mix"]] if quest["mix"] else [state.training] if quest["skill"] else []
        knobs = Knobs(**(quest["origin"] or {}).get("knobs", {}))
        plans += plan_trials(state, mix, knobs, campaign["seed"], serials(connection, campaign["id"], skill.id),
                             _tried(connection, campaign["id"], quest, skill.id))  # fmt: skip
    return [plan.to_dict() for plan in plans]


def _tried(connection: sa.Connection, campaign_id: str, quest: Mapping[str, Any], skill: str) -> set[int]:
    """Levels at which a quest that was interrupted has finished its promotion trial."""
    if quest.get("started_at") is None:
        return set()
    table = db.trials
    query = sa.select(table.c.level).where(
        table.c.campaign_id == campaign_id, table.c.quest_id == quest["id"], table.c.skill == skill,
        table.c.kind == "promotion", table.c.started_at >= quest["started_at"])  # fmt: skip
    return set(connection.execute(query).scalars())


def single_trial(
    connection: sa.Connection, campaign: Mapping[str, Any], skill_id: str, level: int | None, kind: str
) -> dict[str, Any]:
    """One trial on the present checkpoint. A person's trial ("manual") promotes nothing, so asking often helps nobody.

    Raises:
        SkillError: no such skill or level.
    """
    skill = get_skill(skill_id)
    state = skill_state(connection, campaign["id"], skill)
    level = state.training if level is None else level
    if not 1 <= level <= skill.max_level:
        from realm.guild.skills import SkillError

        raise SkillError(f"level {level}: skill {skill_id} has levels 1 to {skill.max_level}; ask for one of these")
    if level not in state.closed and skill.closed(level):
        state = SkillState(**{**vars(state), "closed": state.closed | {level}})
    serial = serials(connection, campaign["id"], skill_id).get(level, 0)
    return make_trial(kind, state, level, campaign["seed"], serial).to_dict()


def quest_steps(quest: Mapping[str, Any], profile: HeroProfile) -> int:
    """Optimizer steps of a quest: its own number, else `epochs` passes over the rows that the battle makes of its file.

    Those are more than the file's where the hero's template makes a row of every assistant turn; the Cleric counted
    them. Without a count (no tokenizer at hand) the file's rows are taken.
    """
    if quest["steps"]:
        return int(quest["steps"])
    rows = ((quest["report"] or {}).get("rows") or {}).get("rendered") or quest["rows"]
    return max(1, math.ceil(rows * profile.epochs / profile.rows_per_step))


def quest_start(
    connection: sa.Connection, campaign_id: str, quest: Mapping[str, Any], parent: Mapping[str, Any] | None
) -> int:  # fmt: skip
    """Campaign step at which the quest would have begun, had it been trained without a break up to the checkpoint.

    Other quests may have been trained since it was interrupted, and a fall-back may have lost some of its steps: what
    counts is how many of its own steps are in the checkpoint that it goes on from.
    """
    reached = parent["step"] if parent else 0
    if parent is None or quest["started_at"] is None:
        return reached
    battles = progress.quest_battles(connection, quest["id"], campaign_id, quest["started_at"])
    return reached - progress.quest_steps_in(connection, battles, parent["run_id"], parent["step"])


def floor_of(quest: Mapping[str, Any]) -> float | None:
    """Irreducible loss (nats per token) when it is known: 0 for deterministic answers; None = running envelope."""
    if not quest["skill"] or not quest["mix"]:
        return None
    levels = get_skill(quest["skill"]).levels()
    return 0.0 if all(levels[int(level) - 1].entropy_floor == 0 for level in quest["mix"]) else None


def battle_config(
    connection: sa.Connection, campaign: Mapping[str, Any], profile: HeroProfile, quest: Mapping[str, Any] | None,
    trials: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The `battles.config` of a quest, or of a trial-only battle when `quest` is None."""
    run = campaigns.current_run(connection, campaign["id"])
    parent = campaigns.parent_checkpoint(connection, campaign["id"])
    reached = parent["step"] if parent else 0
    config: dict[str, Any] = {
        "hero": profile.model_dump(mode="json"), "school": quest["school"] if quest else "scribe",
        "campaign_id": campaign["id"], "run_id": run["id"], "seed": campaign["seed"],
        "parent_checkpoint_id": parent["id"] if parent else None, "quest_id": None, "data": None, "steps": 0,
        "quest_start_step": reached, "floor": None, "skill": None, "level": None, "trials": trials, "probe": None,
    }  # fmt: skip
    if quest is None:
        config["skill"], config["level"] = (trials[0]["skill"], trials[0]["level"]) if trials else (None, None)
        return config
    report = quest["report"] or {}
    return config | {
        "quest_id": quest["id"], "steps": quest_steps(quest, profile), "floor": floor_of(quest),
        "quest_start_step": quest_start(connection, campaign["id"], quest, parent),
        "data": {"path": quest["path"], "sha256": report.get("sha256") or quest["content_sha256"],
                 "rows": quest["rows"]},
        "skill": quest["skill"], "level": quest["level"], "probe": report.get("probe"),
    }  # fmt: skip


def child_key(config: Mapping[str, Any]) -> str:
    """What a battle child holds on to: hero, school and physics. Another key needs another child."""
    text = json.dumps([config["hero"], config["school"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def open_battle(connection: sa.Connection) -> dict[str, Any] | None:
    """The battle that is not over, newest first, or None."""
    query = sa.select(db.battles).where(db.battles.c.state.in_(OPEN_STATES))
    row = connection.execute(query.order_by(db.battles.c.id.desc()).limit(1)).mappings().first()
    return dict(row) if row else None


def start_battle(
    connection: sa.Connection, worker: str, config: dict[str, Any], quest: Mapping[str, Any] | None,
    desired: str = "run",
) -> str:  # fmt: skip
    """Insert the battle's row and put its quest into training; returns the battle's id."""
    battle_id, now = db.new_id(), db.now()
    connection.execute(sa.insert(db.battles).values(
        id=battle_id, campaign_id=config["campaign_id"], run_id=config["run_id"], quest_id=config["quest_id"],
        hero_id=config["hero"]["id"], school=config["school"], worker=worker, state="arming", desired=desired,
        save_requests=0, config=config, started_at=now))  # fmt: skip
    if quest is not None:
        started = quest["started_at"] or now
        board.set_state(connection, quest["id"], "training", campaign_id=config["campaign_id"], started_at=started)
    what = f"quest {quest['name']}" if quest else "a trial"
    events.emit(connection, "battle", f"Battle arming for {what}", "info", battle_id=battle_id, run=config["run_id"],
                quest_id=config["quest_id"], state="arming")  # fmt: skip
    return battle_id

"""What the arena does next: skill states from the tables, idle quests, the configuration of a battle.

The rules themselves are pure and live in `guild/curriculum.py`; here they are fed from the database.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from realm import db, events, schools
from realm.guild import campaigns, passives, primitives, progress
from realm.guild.campaigns import method
from realm.guild.curriculum import (
    BUFFER,
    Knobs,
    Memory,
    Practice,
    QuestSpec,
    Seen,
    SkillState,
    choose_skill,
    interleaved,
    next_quest,
    practice_weights,
    row_counts,
)
from realm.guild.exams import follow_up, make_trial, plan_trials
from realm.guild.modules.skill import ModuleSkill
from realm.guild.skills import Skill, SkillError, get_skill, skill_ids
from realm.heroes.profile import HeroProfile
from realm.quests import board, diversity, idle
from realm.quests import memory as old_files
from realm.settings import RealmHome
from realm.temple import cleric

log = logging.getLogger("realm.arena")

MAX_IDLE_STEPS = 200  # contracts A9: an idle quest is 100-200 optimizer steps
OPEN_STATES = ("arming", "training", "pausing", "paused", "stopping", "trial")


def skill_state(
    connection: sa.Connection, campaign_id: str, skill: Skill, goal: int | None = None,
    book: progress.Book | None = None,
) -> SkillState:  # fmt: skip
    """What the tables know about one skill of one campaign.

    Args:
        book: what its trials say, where the caller asks for many skills.
    """
    book = progress.read_book(connection, campaign_id) if book is None else book
    mastered = book.mastered.get(skill.id, 0)
    training = min(mastered + 1, skill.max_level)
    shown = range(1, min(training + 3, skill.max_level) + 1)
    seen = {}
    for level in shown:
        trial = book.newest(skill.id, level)
        if trial:
            seen[level] = Seen(trial["correct"] / trial["n"], trial["n"], trial["kind"])
    return SkillState(
        skill=skill.id, max_level=skill.max_level, mastered=mastered, threshold=skill.threshold, seen=seen,
        closed=frozenset(n for n in shown if skill.closed(n)), goal=goal, checks=tuple(book.checks()),
        holds=book.holds(skill.id), quests_since_fail=book.since_fail(skill.id, training))  # fmt: skip


def check_requirements(skill: Skill, mastered: Mapping[str, int]) -> None:
    """A quest module may need skills or levels first; others need nothing.

    Raises:
        SkillError: what the campaign lacks for it.
    """
    lacking = skill.lacking(dict(mastered)) if isinstance(skill, ModuleSkill) else []
    if lacking:
        raise SkillError("; ".join(lacking))


def skill_states(
    connection: sa.Connection, campaign_id: str, priorities: Mapping[str, float]
) -> dict[str, SkillState]:  # fmt: skip
    """States of the skills that the hero plays: those with a priority, and those in which it has mastered a level.

    A priority for a skill that is not there (a module that was removed) is passed over, and one for a module whose
    requirements are not met waits until they are; what was mastered in one is
    not forgotten, but it cannot be examined any more.
    """
    wanted = [skill for skill, weight in priorities.items() if weight > 0]
    book = progress.read_book(connection, campaign_id)
    mastered = book.mastered
    goals = method.targets(campaigns.get(connection, campaign_id))
    found = {}
    for skill_id in dict.fromkeys([*wanted, *mastered]):
        try:
            if skill_id not in mastered:
                check_requirements(get_skill(skill_id), mastered)
            found[skill_id] = skill_state(connection, campaign_id, get_skill(skill_id), goals.get(skill_id), book)
        except SkillError as error:
            log.warning("skill %s is passed over: %s", skill_id, error)
    return found


def serials(connection: sa.Connection, campaign_id: str) -> dict[tuple[str, int], int]:
    """{(skill, level): trials held so far}; it keys the seed of the next trial, so that its problems are fresh."""
    table = db.trials
    query = sa.select(table.c.skill, table.c.level, sa.func.count()).where(
        table.c.campaign_id == campaign_id, table.c.skill.is_not(None))  # fmt: skip
    return {(skill, level): n for skill, level, n in connection.execute(query.group_by(table.c.skill, table.c.level))}


def practice(connection: sa.Connection, campaign_id: str, skills: Iterable[str]) -> dict[str, Practice]:
    """{skill: how often and how long ago it was practised} over the campaign's idle quests."""
    table = db.quests
    query = sa.select(table.c.skill, table.c.kind).where(
        table.c.campaign_id == campaign_id, table.c.kind.in_(("idle", "rehearsal")))  # fmt: skip
    rows = connection.execute(query.order_by(table.c.created_at, table.c.id)).all()
    found = {skill: Practice(since=len(rows)) for skill in skills}
    ordinary, then = 0, {}  # quests that learnt something new: so far, and at the last quest of each skill
    for index, (skill, kind) in enumerate(rows):
        again, done = kind == "rehearsal", found.get(skill, Practice())
        ordinary += not again
        lately = done.lately if then.get(skill) == ordinary else 0
        found[skill] = Practice(done.quests + 1, len(rows) - 1 - index, done.rehearsals_in_a_row + 1 if again else 0,
                                lately + 1 if again else 0)  # fmt: skip
        then[skill] = ordinary
    return {skill: done if then.get(skill) == ordinary else replace(done, lately=0) for skill, done in found.items()}


def last_knobs(connection: sa.Connection, campaign_id: str, skill: str) -> Knobs:
    """Knobs of the newest idle quest of a skill."""
    table = db.quests
    query = sa.select(table.c.origin).where(
        table.c.campaign_id == campaign_id, table.c.skill == skill, table.c.kind.in_(("idle", "rehearsal")))
    origin = connection.execute(query.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(1)).scalar()
    return Knobs(**(origin or {}).get("knobs", {}))


def last_hint(connection: sa.Connection, campaign_id: str, skill: str) -> str | None:
    """The strain hint at the end of the campaign's newest training of a skill, by a school whose loss is a strain."""
    battles, metrics, quests = db.battles, db.metrics, db.quests
    telling = [entry.id for entry in schools.SCHOOLS.values() if entry.nats]
    query = sa.select(battles.c.id).join(quests, quests.c.id == battles.c.quest_id).where(
        battles.c.campaign_id == campaign_id, quests.c.skill == skill, battles.c.school.in_(telling))  # fmt: skip
    for battle_id in connection.execute(query.order_by(battles.c.id.desc()).limit(5)).scalars().all():
        query = sa.select(metrics.c.hint).where(metrics.c.battle_id == battle_id)
        found = connection.execute(query.order_by(metrics.c.step.desc()).limit(1)).first()
        if found is not None:
            return found.hint
    return None


def weak_skills(connection: sa.Connection, campaign_id: str, states: Mapping[str, SkillState]) -> set[str]:
    """Skills of the hero that a weak primitive prescribes (contracts B10)."""
    mastered = {name: state.mastered for name, state in states.items()}
    top = {name: state.last for name, state in states.items()}
    found = primitives.prescribe(primitives.profile(connection, campaign_id), mastered, top)
    return {cure.skill for cure in found}


def answer_length(skill_id: str, level: int) -> float:
    """Mean length of a level's golden answers in characters; 0 where the skill can make none now."""
    try:
        return _answer_length(skill_id, get_skill(skill_id).version, level)
    except SkillError:
        return 0.0


@lru_cache(maxsize=1024)
def _answer_length(skill_id: str, version: str, level: int) -> float:
    made = get_skill(skill_id).generate(level, 32, 0)
    return sum(len(problem.golden) for problem in made) / len(made)


def idle_spec(
    connection: sa.Connection, campaign_id: str, profile: HeroProfile, skill_id: str | None = None,
    memory: Memory = Memory(), without: Collection[str] = (),
) -> tuple[QuestSpec, int] | None:  # fmt: skip
    """(what to practise next, idle quests of that skill so far), or None when the hero has no skill to practise.

    Args:
        without: skills that cannot make rows now; neither practised nor rehearsed, unless asked for by `skill_id`.
    """
    priorities = dict(profile.skill_priorities)
    states = {name: state for name, state in skill_states(connection, campaign_id, priorities).items()
              if name not in without}  # fmt: skip
    if skill_id is not None and skill_id not in states:
        states[skill_id] = skill_state(connection, campaign_id, get_skill(skill_id))  # raises with the nearest id
    done, beside = practice(connection, campaign_id, states), None
    weights = practice_weights(priorities, states, weak_skills(connection, campaign_id, states))
    chosen = skill_id or choose_skill(weights, states, done)
    if chosen is None:
        return None
    if skill_id is None:
        lengths = {name: answer_length(name, states[name].training) for name in weights}
        beside = interleaved(chosen, weights, states, lengths)
    others = [state for name, state in states.items() if name != chosen]
    spec = next_quest(states[chosen], last_knobs(connection, campaign_id, chosen),
                      last_hint(connection, campaign_id, chosen), done[chosen].streak(states[chosen].complete),
                      others, memory, beside)  # fmt: skip
    return spec, done[chosen].quests


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
    made: idle.IdleOrder  # the order, with rows of its skill where the rehearsal buffer had too few
    campaign_id: str | None = None  # whose last questions it avoids, and whose old files it rehearses


def idle_order(
    campaign: Mapping[str, Any], profile: HeroProfile, spec: QuestSpec, serial: int
) -> tuple[idle.IdleOrder, int]:
    """(rows to make, optimizer steps) of an idle quest: `epochs` passes over the rows, 200 steps at the most."""
    wanted = profile.idle_generation.samples * profile.epochs / profile.rows_per_step
    steps = min(MAX_IDLE_STEPS, max(1, round(wanted)))
    rows = math.ceil(steps * profile.rows_per_step / profile.epochs)
    shares = {(spec.skill, level): share for level, share in spec.mix.items()}
    shares |= {(skill, level): share for skill, mix in spec.others.items() for level, share in mix.items()}
    counts = row_counts({**shares, **({BUFFER: spec.buffer} if spec.buffer else {})}, rows)
    remembered = counts.pop(BUFFER, 0)
    own: dict[int, int] = {}
    others: dict[str, dict[int, int]] = {}
    for (skill, level), count in counts.items():
        (own if skill == spec.skill else others.setdefault(skill, {}))[level] = count
    versions = {skill: get_skill(skill).version for skill in (spec.skill, *others)}
    seed = campaigns.seed_of(campaign["seed"], "idle", spec.skill, serial)
    return idle.IdleOrder(spec.skill, versions.pop(spec.skill), own, seed, spec.knobs.ease, others, versions,
                          remembered), steps  # fmt: skip


def write_draft(
    home: RealmHome, order: idle.IdleOrder, campaign_id: str | None = None, made: sa.Engine | None = None
) -> Draft:  # fmt: skip
    """Write and check the rows of an order; the file's name starts with a dot, so nobody takes it for a quest.

    Args:
        campaign_id: whose last quests the questions should differ from.
        made: with it, rows out of the campaign's rehearsal buffer are drawn where the order asks for them.

    Raises:
        idle.IdleError, cleric.GateError: rows that must not be trained on.
    """
    path = home.queue / "low" / ".draft.jsonl"
    past = diversity.recent(home, campaign_id) if campaign_id else frozenset()
    rows: list[dict[str, Any]] = []
    if order.buffer and campaign_id and made is not None:
        examiners = [get_skill(name) for name in {*skill_ids(), order.skill, *order.others, passives.SKILL}]
        rows = old_files.recall(home, made, campaign_id, order.buffer, order.seed, partial(_holds_no_exam, examiners))
    filled = _filled(order, len(rows))
    facts = idle.write(filled, path, past=past, remembered=rows)
    told = {key: value for key, value in facts["diversity"].items() if key != "replaced"}
    report = {**cleric.check_idle(path, get_skill(order.skill)), "origins": facts["origins"], "diversity": told}
    return Draft(order, path, facts, report, filled, campaign_id)


def _holds_no_exam(skills: Iterable[Skill], row: Mapping[str, Any]) -> bool:
    """A skill that came after an old file may examine what stands in it."""
    return not any(cleric.held_out(skill, m["content"]) for skill in skills for m in row["messages"])


def _filled(order: idle.IdleOrder, remembered: int) -> idle.IdleOrder:
    """Where the buffer has fewer rows than ordered, the level with most rows makes up for them."""
    short = order.buffer - remembered
    if short <= 0 or not order.counts:
        return replace(order, buffer=remembered)
    most = max(order.counts, key=lambda level: (order.counts[level], level))
    return replace(order, counts={**order.counts, most: order.counts[most] + short}, buffer=remembered)


def make_idle(
    home: RealmHome, made: sa.Engine, campaign: Mapping[str, Any], profile: HeroProfile, spec: QuestSpec, serial: int,
    draft: Draft | None = None, school: str = "scribe", options: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """Enqueue one idle quest and return its id; its rows are the draft's when that was made for the same order.

    Args:
        options: the quest's own, for its school.

    Raises:
        idle.IdleError, cleric.GateError: rows that must not be trained on.
    """
    order, steps = idle_order(campaign, profile, spec, serial)
    # Two campaigns may have one seed and thus equal orders (a replayed method), but not one past and one buffer.
    same = draft is not None and (draft.order, draft.campaign_id) == (order, campaign["id"])
    if not same or not draft.path.exists():
        draft = write_draft(home, order, campaign["id"], made)
    quest_id = db.new_id()
    name = f"{order.skill}-L{spec.level}-{serial + 1}"
    path = home.queue / "low" / board.file_name(quest_id, name)
    os.replace(draft.path, path)
    found = {"replaced": draft.facts["diversity"].get("replaced", {}), "version": diversity.VERSION}
    origin = draft.made.to_origin(knobs=asdict(spec.knobs), distinct=draft.facts["distinct"], reason=spec.reason,
                                  diversity=found, **({"options": dict(options)} if options else {}))  # fmt: skip
    diversity.remember(home, campaign["id"], quest_id, draft.facts["questions"])
    with db.write(made) as connection:
        board.enqueue(connection, board.NewQuest(
            id=quest_id, name=name, kind=spec.kind, lane="low", campaign_id=campaign["id"],
            path=path.relative_to(home.root).as_posix(), rows=draft.facts["rows"], steps=steps, skill=order.skill,
            level=spec.level, mix=spec.mix, rehearsal=_rehearsed(spec), content_sha256=draft.facts["sha256"],
            school=school, format="messages", report=draft.report, origin=origin))  # fmt: skip
        for action in spec.actions:
            text = f"Curriculum of {order.skill}: {action.reason}"
            events.emit(connection, "curriculum", text, "info", action=action.action, reason=action.reason,
                        skill=order.skill, level=spec.level)  # fmt: skip
        _tell_once(connection, campaign["id"], draft.facts["diversity"].get("alert"))
    return quest_id


def _tell_once(connection: sa.Connection, campaign_id: str, alert: Mapping[str, Any] | None) -> None:
    """Tell a missed floor of the diversity filter once per campaign, skill and level."""
    if not alert:
        return
    alert_id, table = f"{alert['code']}:{campaign_id}:{alert['what']}", db.events
    told = sa.select(table.c.id).where(
        table.c.kind == "alert", sa.func.json_extract(table.c.payload, "$.alert_id") == alert_id)  # fmt: skip
    if connection.execute(told.limit(1)).first() is None:
        events.emit(connection, "alert", f"{alert['what']}: {alert['why']}", "trouble", alert_id=alert_id, **alert)


def _rehearsed(spec: QuestSpec) -> dict[str, Any] | None:
    """`quests.rehearsal`: what of other skills and of old files is among the rows."""
    found: dict[str, Any] = {skill: {str(n): s for n, s in mix.items()} for skill, mix in spec.others.items()}
    if spec.buffer:
        found["buffer"] = spec.buffer
    return found or None


def quest_trials(
    connection: sa.Connection, campaign: Mapping[str, Any], quest: Mapping[str, Any], profile: HeroProfile
) -> list[dict]:  # fmt: skip
    """The trials after a quest; one without a skill is followed by retention checks and the probe."""
    priorities = dict(profile.skill_priorities)
    if quest["skill"] is not None:
        get_skill(quest["skill"])  # raises where the skill of a quest is gone
        priorities.setdefault(quest["skill"], 1.0)
    states = skill_states(connection, campaign["id"], priorities)
    state = states.pop(quest["skill"], None) if quest["skill"] else None
    mix = [int(level) for level in quest["mix"]] if quest["mix"] else [state.training] if state else []
    knobs = Knobs(**(quest["origin"] or {}).get("knobs", {}))
    tried = _tried(connection, campaign["id"], quest) if state else ()
    plans = plan_trials(state, mix, knobs, campaign["seed"], serials(connection, campaign["id"]), tried,
                        list(states.values()), _trained_beside(quest))  # fmt: skip
    may_promote = any(plan.kind == "promotion" for plan in plans)
    return [*(plan.to_dict() for plan in plans), *passives.plans(connection, campaign["id"], may_promote)]


def _trained_beside(quest: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """{other skill: its levels among a quest's rows}."""
    return {skill: tuple(int(level) for level in mix) for skill, mix in (quest.get("rehearsal") or {}).items()
            if isinstance(mix, Mapping)}  # fmt: skip


def _tried(connection: sa.Connection, campaign_id: str, quest: Mapping[str, Any]) -> set[tuple[str, int]]:
    """(skill, level) pairs at which a quest that was interrupted has finished its promotion trial."""
    if quest.get("started_at") is None:
        return set()
    table = db.trials
    query = sa.select(table.c.skill, table.c.level).where(
        table.c.campaign_id == campaign_id, table.c.quest_id == quest["id"], table.c.kind == "promotion",
        table.c.started_at >= quest["started_at"])  # fmt: skip
    return {(skill, level) for skill, level in connection.execute(query)}


def follow_ups(
    connection: sa.Connection, campaign: Mapping[str, Any], promoted: Iterable[tuple[str, int]]
) -> list[tuple[str, int]]:  # fmt: skip
    """The next (skill, level) after each that was just promoted, when the campaign's last quest has trained it too.

    A battle of trials alone has no quest: those promoted by it go on from the quest before.
    """
    table, goals = db.quests, method.targets(campaign)
    query = sa.select(table).where(table.c.campaign_id == campaign["id"], table.c.state == "done")
    quest = connection.execute(query.order_by(table.c.finished_at.desc()).limit(1)).mappings().first()
    if quest is None:
        return []
    trained = _trained_beside(quest) | ({quest["skill"]: tuple(map(int, quest["mix"] or ()))} if quest["skill"] else {})
    found = []
    for skill_id in dict.fromkeys(skill for skill, _ in promoted):
        try:
            state = skill_state(connection, campaign["id"], get_skill(skill_id), goals.get(skill_id))
        except SkillError:
            continue  # it went since: nothing is examined at once
        level = follow_up(state, trained.get(skill_id, ()))
        if level is not None:
            found.append((skill_id, level))
    return found


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
        raise SkillError(f"level {level}: skill {skill_id} has levels 1 to {skill.max_level}; ask for one of these")
    if level not in state.closed and skill.closed(level):
        state = SkillState(**{**vars(state), "closed": state.closed | {level}})
    serial = serials(connection, campaign["id"]).get((skill_id, level), 0)
    return make_trial(kind, state, level, campaign["seed"], serial).to_dict()


def quest_steps(quest: Mapping[str, Any], profile: HeroProfile) -> int:
    """Optimizer steps of a quest: its own number, else `epochs` passes over the rows that the battle makes of its file.

    Those are more than the file's where the hero's template makes a row of every assistant turn; the Cleric counted
    them. Without a count (no tokenizer at hand) the file's rows are taken.
    """
    if quest["steps"]:
        return int(quest["steps"])
    rows = ((quest["report"] or {}).get("rows") or {}).get("rendered") or quest["rows"]
    return max(1, math.ceil(rows * profile.epochs / schools.rows_per_step(quest["school"], profile)))


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
    rehearsed = dict(quest["rehearsal"] or {})
    if rehearsed.pop("buffer", 0):
        return None
    for skill, mix in ((quest["skill"], quest["mix"]), *rehearsed.items()):
        try:
            levels = get_skill(skill).levels()
        except SkillError:
            return None  # a rehearsed skill went since its rows were made; they are still worth training on
        if any(levels[int(level) - 1].entropy_floor for level in mix):
            return None
    return 0.0


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
        "options": (quest["origin"] or {}).get("options", {}),
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

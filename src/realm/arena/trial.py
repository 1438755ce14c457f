"""One trial: a checkpoint is examined at one (skill, level) on problems that training never saw (contracts B1-B4).

Open levels are asked in looks of 40/80/120/160/200 fresh problems and end early both ways by `guild/levels.py`; closed
levels are asked whole, or 400 drawn from their table. Every problem and answer is stored, so anyone can grade again.
Torch-free: the hero is a pair of functions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.guild import levels
from realm.guild.skills import Problem, Skill
from realm.guild.skills.base import keyed_rng

CANARY_LOSS = 0.05  # nats per token; a hero that low on its training data and at 0 % here was examined wrongly
LOOKING = ("promotion", "manual", "scout", "job")  # kinds that end early at a look
Z = {"retention": levels.Z_RETENTION}

Messages = list[dict[str, str]]
Answer = Callable[[list[Messages], int], list[tuple[str, int]]]
"""(conversations up to the user's turn, max new tokens) → (text, tokens written) each."""
GoldenLoss = Callable[[list[Messages]], float]
"""Conversations with their golden answers → mean nats per trained token."""


class Interrupted(Exception):
    """The trial was told to stop; nothing of it is kept."""


@dataclass(frozen=True)
class TrialSpec:
    """What the arena orders, see `battles.config["trials"]`."""

    kind: str  # promotion | retention | scout | manual | probe | passive | job
    skill: str
    level: int
    closed: bool
    threshold: float
    seed: int
    max_n: int
    after_pass: bool = False  # held only when a promotion trial of the same battle passed

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> TrialSpec:
        return cls(**{"after_pass": False, **{name: values[name] for name in cls.__dataclass_fields__
                                              if name in values or name != "after_pass"}})  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """Who is examined, for the trial's row. `train_loss`: smoothed training loss, None when unknown."""

    campaign_id: str
    checkpoint_id: str
    step: int
    battle_id: str | None = None
    quest_id: str | None = None
    train_loss: float | None = None


@dataclass
class Item:
    """One problem asked."""

    problem: Problem
    response: str
    correct: bool
    reason: str


@dataclass
class Result:
    """A finished trial. `loss` is nats per trained token of the golden answers."""

    spec: TrialSpec
    verdict: str
    items: list[Item]
    tokens: int
    loss: float | None
    started_at: float
    seconds: float
    suspicious: bool = False
    bounds: tuple[float, float] = field(default=(0.0, 1.0))

    @property
    def correct(self) -> int:
        return sum(item.correct for item in self.items)

    def shares(self, tags: Callable[[Problem], Sequence[str]]) -> dict[str, list[int]]:
        """{tag: [correct, asked]}."""
        found: dict[str, list[int]] = {}
        for item in self.items:
            for tag in tags(item.problem):
                count = found.setdefault(tag, [0, 0])
                count[0] += item.correct
                count[1] += 1
        return dict(sorted(found.items()))


def draw(spec: TrialSpec, skill: Skill) -> list[Problem]:
    """The problems of a trial, none twice, in the order they are asked.

    Raises:
        ValueError: the skill cannot make a single problem for it.
    """
    if spec.kind == "passive":
        return list(skill.table(spec.level))[: spec.max_n]  # every item once, in the suite's own order
    if spec.closed:
        table = list(skill.table(spec.level))
        keyed_rng("trial", spec.skill, spec.level, spec.seed).shuffle(table)
        limit = levels.CLOSED_MAX_TABLE if spec.kind in ("promotion", "manual", "job") else spec.max_n
        return table[: min(limit, spec.max_n)]
    split = "probe" if spec.kind == "probe" else "trial"
    found: dict[str, Problem] = {}
    count = spec.max_n
    # A narrow level repeats itself; the longer call's prefix is the shorter call, so the order never changes.
    while len(found) < spec.max_n and count <= 8 * spec.max_n:
        for problem in skill.generate(spec.level, count, spec.seed, split):
            found.setdefault(problem.canonical, problem)
        count *= 2
    if not found:
        raise ValueError(f"skill {spec.skill} level {spec.level} made no {split} problems; run its conformance test")
    return list(found.values())[: spec.max_n]


def run(spec: TrialSpec, skill: Skill, answer: Answer, golden_loss: GoldenLoss | None = None,
        train_loss: float | None = None) -> Result:  # fmt: skip
    """Examine until the rule has decided.

    Raises:
        Interrupted: from `answer`, when the battle was told to stop.
    """
    started, clock = db.now(), time.perf_counter()
    problems = draw(spec, skill)
    room = skill.levels()[spec.level - 1].max_new_tokens
    items: list[Item] = []
    tokens, verdict = 0, "continue"
    for look in _looks(spec, len(problems)):
        asked = problems[len(items) : look]
        for problem, (text, written) in zip(asked, answer([p.messages[:-1] for p in asked], room), strict=True):
            grade = skill.grade(problem, text)
            items.append(Item(problem, text, grade.correct, grade.reason))
            tokens += written
        verdict = judge(spec, sum(i.correct for i in items), len(items), last=len(items) == len(problems))
        if verdict != "continue":
            break
    result = Result(spec, verdict, items, tokens, None, started, 0.0)
    if golden_loss is not None and spec.kind == "passive":
        result.loss = _item_losses(items, golden_loss)
    elif golden_loss is not None:
        loss = golden_loss([item.problem.messages for item in items])
        result.loss = loss if math.isfinite(loss) else None
    result.bounds = levels.wilson(result.correct, len(items), Z.get(spec.kind, levels.Z_PROMOTE))
    # Nothing of the passives is ever trained, so 0 right says nothing about the examination.
    trained = spec.kind != "passive" and train_loss is not None and train_loss < CANARY_LOSS
    result.suspicious = trained and result.correct == 0
    result.seconds = time.perf_counter() - clock
    return result


def _item_losses(items: list[Item], golden_loss: GoldenLoss) -> float | None:
    """Notes every item's own loss in its problem's `extra`, for paired comparisons, and returns their mean."""
    found = []
    for item in items:
        loss = golden_loss([item.problem.messages])
        if math.isfinite(loss):
            found.append(loss)
            item.problem = replace(item.problem, extra={**item.problem.extra, "loss": loss})
    return sum(found) / len(found) if found else None


def _looks(spec: TrialSpec, available: int) -> list[int]:
    if spec.closed or spec.kind not in LOOKING:
        return [available]
    return [*(n for n in levels.LOOKS if n < available), available]


def judge(spec: TrialSpec, correct: int, n: int, last: bool) -> str:
    """The verdict of `guild/levels.py` for this kind of trial; "continue" never at the last problem."""
    if spec.kind in ("probe", "passive"):
        return "measured"
    if spec.kind == "retention":
        return levels.judge_retention(correct, n, spec.threshold)
    if spec.closed:
        return levels.judge_closed(correct, n, spec.threshold)
    verdict = levels.judge_open(correct, n, spec.threshold)
    return "undecided" if last and verdict == "continue" else verdict


def record(connection: sa.Connection, result: Result, subject: Subject) -> str:
    """Write trial, items and events inside the caller's transaction; returns the trial's id."""
    spec, n = result.spec, len(result.items)
    trial_id = db.new_id()
    attempt = _attempt(connection, spec, subject.campaign_id)
    connection.execute(sa.insert(db.trials).values(
        id=trial_id, campaign_id=subject.campaign_id, battle_id=subject.battle_id, quest_id=subject.quest_id,
        checkpoint_id=subject.checkpoint_id, step=subject.step, kind=spec.kind, skill=spec.skill, level=spec.level,
        closed=spec.closed, n=n, correct=result.correct, lower=result.bounds[0], upper=result.bounds[1],
        threshold=spec.threshold, verdict=result.verdict, suspicious=result.suspicious, loss=result.loss,
        tokens=result.tokens, by_difficulty=result.shares(lambda p: (p.difficulty,)),
        by_primitive=result.shares(lambda p: p.primitives), started_at=result.started_at,
        seconds=result.seconds))  # fmt: skip
    connection.execute(sa.insert(db.trial_items), [
        {"trial_id": trial_id, "idx": i, "problem": item.problem.to_dict(), "response": item.response,
         "correct": item.correct, "reason": item.reason} for i, item in enumerate(result.items)])  # fmt: skip
    needed = levels.needed(n, spec.threshold, spec.closed)
    events.emit(connection, "trial", _text(result, needed), "deed" if result.verdict == "pass" else "info",
                trial_id=trial_id, skill=spec.skill, level=spec.level, checkpoint_id=subject.checkpoint_id,
                correct=result.correct, n=n, needed=needed, verdict=result.verdict, closed=spec.closed, kind=spec.kind,
                **{"try": attempt})  # fmt: skip
    if result.suspicious:
        what = (f"Trial of {spec.skill} level {spec.level}: 0 of {n} right while the training loss is "
                f"{subject.train_loss:.3f}; the evaluation itself is suspect.")  # fmt: skip
        events.emit(connection, "incident", what, "trouble", code="trial_canary", what=what,
                    evidence={"trial_id": trial_id, "train_loss": subject.train_loss, "n": n})  # fmt: skip
    return trial_id


def record_probe(connection: sa.Connection, subject: Subject, rows: int, loss: float, before: float | None,
                 started_at: float) -> str:  # fmt: skip
    """The trial row of a file quest: the loss of its held-out rows, which no answer is asked of."""
    trial_id = db.new_id()
    connection.execute(sa.insert(db.trials).values(
        id=trial_id, campaign_id=subject.campaign_id, battle_id=subject.battle_id, quest_id=subject.quest_id,
        checkpoint_id=subject.checkpoint_id, step=subject.step, kind="file", closed=False, n=rows, correct=0,
        verdict="measured", suspicious=False, loss=loss, started_at=started_at,
        seconds=db.now() - started_at))  # fmt: skip
    moved = "" if before is None else f" (before: {before:.3f})"
    events.emit(connection, "trial", f"Held-out rows of the quest: loss {loss:.3f}{moved} over {rows} rows.", "info",
                trial_id=trial_id, skill=None, level=None, checkpoint_id=subject.checkpoint_id, correct=0, n=rows,
                needed=None, verdict="measured", closed=False, kind="file", **{"try": 1})  # fmt: skip
    return trial_id


def _attempt(connection: sa.Connection, spec: TrialSpec, campaign_id: str) -> int:
    table = db.trials
    before = connection.execute(
        sa.select(sa.func.count()).where(table.c.campaign_id == campaign_id, table.c.skill == spec.skill,
                                         table.c.level == spec.level, table.c.kind == spec.kind)
    ).scalar_one()  # fmt: skip
    return before + 1


def _text(result: Result, needed: int | None) -> str:
    spec, n = result.spec, len(result.items)
    kind = {"promotion": "Trial", "retention": "Retention check", "scout": "Scouting trial"}.get(spec.kind, "Trial")
    closed = f", closed: recall of a table of {n}" if spec.closed else ""
    goal = f"needed {needed}" if needed is not None else f"no count passes at {n}"
    if spec.kind == "retention":
        goal = f"upper bound {result.bounds[1]:.2f}"
    if spec.kind == "passive":
        loss = "" if result.loss is None else f", loss {result.loss:.3f}"
        return f"Passives, part {spec.level}: {result.correct} of {n} right{loss}: measured, never practised."
    counts = f"{result.correct} of {n} right ({goal}{closed})"
    return f"{kind} of {spec.skill} level {spec.level}: {counts}: {result.verdict}."

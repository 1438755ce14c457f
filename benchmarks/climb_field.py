"""Where the arms of the climb benchmark compete: one hero, one home, the game's own code, one purse that pays for all.

A `Field` makes quests and fights them with the battle child's own `Worker` and the arena's own `settle`, in this
process. Every arm starts from the same hero and draws from the same skills; what an arm asks (trials, scores) is paid
from the same budget as what it trains. Only the fixed probe is free: 500 problems of every level, the same for all
arms, never used for a decision (contracts B5).
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.arena import plan
from realm.arena.settle import Settled, settle
from realm.guild import campaigns, skills
from realm.guild.curriculum import Knobs, QuestSpec
from realm.guild.skills import LevelInfo, Problem, Skill, get_skill
from realm.heroes.profile import HeroProfile, load_profile
from realm.settings import RealmHome

WORKER = "climb"
PROBE_N = 500
PROBE_SEED = 5_005
QUEST_STEPS = 100

Task = tuple[str, int]
"""(skill, level)."""


class OpenLevels:
    """The open levels of a skill as a ladder of its own: level 1 is the first that is no closed table."""

    def __init__(self, skill: Skill, count: int) -> None:
        self._skill = skill
        first = next(n for n in range(1, skill.max_level + 1) if not skill.closed(n))
        self._shift = first - 1
        self.max_level = min(count, skill.max_level - self._shift)
        self.id, self.name, self.version = skill.id, skill.name, skill.version
        self.description, self.threshold = skill.description, skill.threshold
        self.grade, self.problem_of, self.split_of = skill.grade, skill.problem_of, skill.split_of

    def levels(self) -> list[LevelInfo]:
        own = self._skill.levels()[self._shift : self._shift + self.max_level]
        return [replace(info, level=info.level - self._shift) for info in own]

    def generate(self, level: int, count: int, seed: int, split: Any = "train") -> list[Problem]:
        made = self._skill.generate(level + self._shift, count, seed, split)
        return [replace(problem, level=level) for problem in made]

    def closed(self, level: int) -> bool:
        return self._skill.closed(level + self._shift)

    def table(self, level: int) -> list[Problem]:
        return self._skill.table(level + self._shift)


@contextlib.contextmanager
def ladders(names: tuple[str, ...], levels: int) -> Iterator[dict[str, OpenLevels]]:
    """These skills reduced to their first open levels, for every module of this process that asks for them."""
    made = {name: OpenLevels(get_skill(name), levels) for name in names}
    before = dict(skills._LOADED)
    skills._LOADED.update(made)
    try:
        yield made
    finally:
        skills._LOADED.clear()
        skills._LOADED.update(before)


@dataclass
class Purse:
    """What a run may spend and has spent. Tokens: under the loss mask, plus those the hero wrote in exams."""

    tokens: int
    cpu_s: float
    trained: int = 0
    asked: int = 0
    processed: int = 0  # non-padding tokens of training, told beside it
    used_s: float = 0.0

    @property
    def spent(self) -> int:
        return self.trained + self.asked

    @property
    def empty(self) -> bool:
        return self.spent >= self.tokens or self.used_s >= self.cpu_s

    @contextlib.contextmanager
    def clock(self) -> Iterator[None]:
        begun = time.process_time()
        try:
            yield
        finally:
            self.used_s += time.process_time() - begun


@dataclass
class Field:
    """One run's ground. `fight` and `ask` are paid from `purse`; `probe` is free."""

    home: RealmHome
    engine: sa.Engine
    profile: HeroProfile
    campaign: dict[str, Any]
    ladder: dict[str, OpenLevels]
    purse: Purse
    worker: Any
    quests: int = 0
    _probes: dict[Task, list[Problem]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[Task]:
        """Every (skill, level) of the ladders, easiest levels first."""
        top = max(skill.max_level for skill in self.ladder.values())
        return [(name, level) for level in range(1, top + 1) for name, skill in self.ladder.items()
                if level <= skill.max_level]  # fmt: skip

    def fight(self, spec: QuestSpec, trials: list[dict[str, Any]] | None = None) -> Settled:
        """Train one quest and sit the trials, as the hero loop does; `trials` None = those that the Guild plans.

        Raises:
            RuntimeError: the battle did not end as trained.
        """
        with self.purse.clock():
            quest_id = plan.make_idle(self.home, self.engine, self.campaign, self.profile, spec, self.quests)
            self.quests += 1
            with db.read(self.engine) as connection:
                quest = dict(connection.execute(
                    sa.select(db.quests).where(db.quests.c.id == quest_id)).mappings().one())  # fmt: skip
                if trials is None:
                    trials = plan.quest_trials(connection, self.campaign, quest, self.profile)
            return self._battle(quest, trials)

    def hold(self, trials: list[dict[str, Any]]) -> Settled:
        """Trials without training."""
        with self.purse.clock():
            return self._battle(None, trials)

    def _battle(self, quest: dict[str, Any] | None, trials: list[dict[str, Any]]) -> Settled:
        with db.write(self.engine) as connection:
            config = plan.battle_config(connection, self.campaign, self.profile, quest, trials)
            battle_id = plan.start_battle(connection, WORKER, config, quest)
            row = dict(connection.execute(sa.select(db.battles).where(db.battles.c.id == battle_id)).mappings().one())
        self.worker.serve(row)
        done = settle(self.home, self.engine, battle_id)
        if done.outcome != "trained":
            raise RuntimeError(f"battle ended as {done.outcome}: {done.failed}")
        metrics, held = db.metrics, db.trials
        with db.read(self.engine) as connection:
            sums = connection.execute(sa.select(
                sa.func.coalesce(sa.func.sum(metrics.c.trained_tokens), 0),
                sa.func.coalesce(sa.func.sum(metrics.c.tokens), 0)).where(metrics.c.battle_id == battle_id)).one()
            asked = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(held.c.tokens), 0)).where(
                held.c.battle_id == battle_id)).scalar_one()  # fmt: skip
        self.purse.trained += sums[0]
        self.purse.processed += sums[1]
        self.purse.asked += asked
        return done

    def ask(self, problems: list[Problem]) -> list[bool]:
        """Which of these the hero answers right now; paid. The hero must have fought before."""
        with self.purse.clock():
            right, tokens = self._answers(problems)
            self.purse.asked += tokens
            return right

    def probe(self, tasks: list[Task], n: int = PROBE_N) -> dict[Task, float]:
        """Accuracy on the first n problems of each task's fixed probe; free, and no arm decides anything by it."""
        found = {}
        for task in tasks:
            if task not in self._probes:
                self._probes[task] = _fixed(self.ladder[task[0]], task[1])
            right, _ = self._answers(self._probes[task][:n])
            found[task] = sum(right) / len(right)
        return found

    def _answers(self, problems: list[Problem]) -> tuple[list[bool], int]:
        """(right or wrong each, tokens written); problems of one skill are answered together."""
        right: list[bool] = []
        tokens = 0
        for start in range(0, len(problems), 250):
            part = problems[start : start + 250]
            skill = self.ladder[part[0].skill]
            room = max(skill.levels()[p.level - 1].max_new_tokens for p in part)
            answers = self.worker.held.hero.answer([p.messages[:-1] for p in part], room)
            right += [skill.grade(p, text).correct for p, (text, _) in zip(part, answers, strict=True)]
            tokens += sum(written for _, written in answers)
        return right, tokens


def _fixed(skill: OpenLevels, level: int) -> list[Problem]:
    """500 different problems of the probe bucket, or as many as there are in 8,000 draws."""
    found: dict[str, Problem] = {}
    for problem in skill.generate(level, 8_000, PROBE_SEED, "probe"):
        found.setdefault(problem.canonical, problem)
        if len(found) == PROBE_N:
            break
    return list(found.values())


@contextlib.contextmanager
def opened(names: tuple[str, ...], levels: int, seed: int, purse: Purse) -> Iterator[Field]:
    """A fresh home with the shipped hero, born from `seed`, and the ladders of these skills."""
    from realm.arena import battle

    with tempfile.TemporaryDirectory(prefix="climb") as folder, ladders(names, levels) as ladder:
        home = RealmHome(Path(folder) / "realm", {})
        db.migrate(home)
        engine = db.connect(home)
        shipped = load_profile("pip", home)
        born = shipped.model.model_copy(update={
            "architecture": shipped.model.architecture.model_copy(update={"seed": seed})})  # fmt: skip
        idle = shipped.idle_generation.model_copy(update={"samples": QUEST_STEPS * shipped.rows_per_step})
        profile = shipped.model_copy(update={
            "seed": seed, "model": born, "idle_generation": idle, "skill_priorities": dict.fromkeys(names, 1.0)})
        with db.write(engine) as connection:
            made = campaigns.ensure_active(connection, profile.id, profile.model_dump(mode="json"), seed=seed)
            campaign = campaigns.get(connection, made)
        worker = battle.Worker(home, WORKER)
        try:
            yield Field(home, engine, profile, campaign, ladder, purse, worker)
        finally:
            worker.orders.close()
            worker.engine.dispose()
            engine.dispose()


def mixture(shares: dict[Task, float], reason: str) -> QuestSpec:
    """A quest of any mixture of tasks; the first task's skill gives it its name."""
    whole = sum(shares.values())
    first = next(iter(shares))[0]
    mine = {level: share / whole for (skill, level), share in shares.items() if skill == first}
    others: dict[str, dict[int, float]] = {}
    for (skill, level), share in shares.items():
        if skill != first:
            others.setdefault(skill, {})[level] = share / whole
    return QuestSpec(first, min(mine), "idle", mine, 0.0, Knobs(), reason, (), others)

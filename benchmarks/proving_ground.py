"""Battles of the shipped hero in a home of their own, served in this process by the battle child's own code."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.arena import plan
from realm.guild import campaigns
from realm.guild.curriculum import SkillState, next_quest
from realm.guild.skills import get_skill
from realm.heroes.profile import HeroProfile, load_profile
from realm.settings import RealmHome

WORKER = "benchmark"


@dataclass(frozen=True)
class Ground:
    """A home with one campaign and one idle quest of `steps` optimizer steps."""

    home: RealmHome
    engine: sa.Engine
    profile: HeroProfile
    campaign: dict[str, Any]
    quest: dict[str, Any]
    steps: int

    @property
    def conversations(self) -> list[list[dict[str, str]]]:
        """The quest's rows as its file has them."""
        lines = (self.home.root / self.quest["path"]).read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["messages"] for line in lines]

    def serve(self, worker: Any) -> str:
        """Fight the quest from the base weights, in this process; returns the run's id.

        Raises:
            RuntimeError: the battle did not end as trained.
        """
        with db.write(self.engine) as connection:
            run_id = campaigns.new_run(connection, self.campaign["id"], None, "benchmark")
            config = plan.battle_config(connection, self.campaign, self.profile, self.quest, [])
            battle_id = plan.start_battle(connection, WORKER, config, self.quest)
            query = sa.select(db.battles).where(db.battles.c.id == battle_id)
            row = dict(connection.execute(query).mappings().one())
        worker.serve(row)
        with db.read(self.engine) as connection:
            ended = connection.execute(query).mappings().one()
        if ended["outcome"] != "trained":
            raise RuntimeError(f"battle ended as {ended['outcome']}: {ended['error']}")
        return run_id

    def losses(self, run_id: str) -> list[float]:
        """Loss of every optimizer step, nats per trained token, as the metrics table has it."""
        table = db.metrics
        query = sa.select(table.c.loss).where(table.c.run_id == run_id).order_by(table.c.step)
        with db.read(self.engine) as connection:
            return list(connection.execute(query).scalars())

    def base(self) -> Path:
        """Folder of the hero's base weights."""
        from realm.heroes.model import make_embedded

        return make_embedded(self.profile, self.home)


@contextlib.contextmanager
def ground(steps: int, mastered: int, change: Callable[[HeroProfile], HeroProfile] = lambda p: p) -> Iterator[Ground]:
    """A fresh home with an idle quest of BIN as the curriculum makes it once `mastered` levels are mastered.

    Args:
        change: another hero than the shipped one, for tests.
    """
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        home = RealmHome(Path(folder) / "realm", {})
        db.migrate(home)
        engine = db.connect(home)
        try:
            shipped = change(load_profile("pip", home))
            idle = shipped.idle_generation.model_copy(update={"samples": steps * shipped.rows_per_step})
            profile = shipped.model_copy(update={"idle_generation": idle})
            skill = get_skill("bin")
            closed = frozenset(n for n in range(1, skill.max_level + 1) if skill.closed(n))
            spec = next_quest(SkillState(skill.id, skill.max_level, mastered, closed, skill.threshold))
            with db.write(engine) as connection:
                campaign_id = campaigns.ensure_active(connection, profile.id, profile.model_dump(mode="json"))
                campaign = campaigns.get(connection, campaign_id)
            quest_id = plan.make_idle(home, engine, campaign, profile, spec, 0)
            with db.read(engine) as connection:
                query = sa.select(db.quests).where(db.quests.c.id == quest_id)
                quest = dict(connection.execute(query).mappings().one())
            yield Ground(home, engine, profile, campaign, quest, steps)
        finally:
            engine.dispose()


def open_level() -> int:
    """The first level of BIN that is no closed table; most of a campaign's time goes to levels like it."""
    skill = get_skill("bin")
    return next(n for n in range(1, skill.max_level + 1) if not skill.closed(n))


@contextlib.contextmanager
def battle_worker(ground: Ground, pulse: type) -> Iterator[Any]:
    """The battle child's `Worker` in this process, with another class in the place of `Pulse`."""
    from realm.arena import battle

    worker, real = battle.Worker(ground.home, WORKER), battle.Pulse
    battle.Pulse = pulse
    try:
        yield worker
    finally:
        battle.Pulse = real
        worker.orders.close()
        worker.engine.dispose()


def timed_pulse(ends: list[float], inside: list[float], silent: bool = False) -> type:
    """`Pulse` that notes CPU seconds: `ends` at each step's end, `inside` spent in the realm's own step work.

    Args:
        silent: the step's work is left out; what remains is the school and the library's Trainer.
    """
    from realm.arena.pulse import Pulse

    class Timed(Pulse):
        def step(self, facts: Any) -> str:
            begun = time.process_time()
            order = "run" if silent else super().step(facts)
            ends.append(time.process_time())
            inside.append(ends[-1] - begun)
            return order

    return Timed

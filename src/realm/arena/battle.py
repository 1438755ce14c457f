"""The battle child: trains one hero on one quest after another and examines it, in a process of its own.

Started by the arena: `python -m realm.arena.battle --home HOME --worker TOKEN`. The two talk only through the
database: the child serves `battles` rows that carry its token, oldest first, and obeys their `desired` within one
optimizer step. It keeps the loaded hero and its optimizer between battles, checkpoints before it reports anything as
done, and ends when it is told to (SIGTERM: checkpoint first) or when its parent is gone.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from realm import db, schools
from realm.arena import physics, token_maps, trial, vram
from realm.arena.pulse import POLL_S, Hits, Order, Orders, Pulse
from realm.guild import campaigns
from realm.guild.skills import Skill, attach, get_skill
from realm.guild.strain import StrainTracker
from realm.heroes.profile import HeroProfile, ProfileError, parse_profile, weights_folder
from realm.settings import RealmHome
from realm.temple import cleric
from realm.vault import checkpoints
from realm.vault.checkpoints import CheckpointError, Place

if TYPE_CHECKING:
    from realm.heroes.chat import Rendered
    from realm.heroes.model import Hero
    from realm.schools.chassis import Context, OptimizerState

log = logging.getLogger("realm.battle")
STATE_FORMAT = 1
DISK_RETRY_S = 1.0


class BattleFailed(RuntimeError):
    """This battle cannot go on; `code` names the alert, the text says what happened and what to do."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Leaving(Exception):
    """The child was told to end while the battle was arming or between two trials."""


@dataclass
class Held:
    """What the child keeps between battles: the hero exactly as the checkpoint `checkpoint_id` has it."""

    hero: Hero
    optimizer: OptimizerState
    step: int
    checkpoint_id: str | None  # None: base weights
    state: dict[str, Any] | None  # resume/state.json of that checkpoint
    moved: bool = False  # trained since: the weights in memory are no longer the checkpoint's


@dataclass
class Quest:
    """The data side of one battle: the school's rows and where to go on in them."""

    rows: list[Any] = field(default_factory=list)
    context: Context | None = None
    start_step: int = 0
    steps: int = 0
    cursor: int = 0
    same_quest: bool = False  # the parent checkpoint was taken inside this very quest


class Worker:
    """The child's loop. One instance per process."""

    def __init__(self, home: RealmHome, token: str) -> None:
        self.home, self.token = home, token
        self.engine = db.connect(home)
        self.orders = Orders(home, os.getppid())
        self.held: Held | None = None
        self.measured = False  # its peak of memory was noted

    def run(self) -> None:
        """Serve battles until told to leave."""
        self.orders.listen()
        checkpoints.sweep(self.home)
        while not self.orders.leaving:
            row = self._next()
            if row is None:
                _warm_up()  # the imports take seconds; a child without work does them now
                time.sleep(POLL_S)
                continue
            self.serve(row)
        self.orders.close()
        self.engine.dispose()

    def _next(self) -> dict[str, Any] | None:
        table = db.battles
        query = sa.select(table).where(table.c.worker == self.token, table.c.state == "arming")
        with self.engine.connect() as connection:
            row = connection.execute(query.order_by(table.c.started_at, table.c.id).limit(1)).mappings().first()
        return dict(row) if row else None

    def serve(self, row: dict[str, Any]) -> None:
        """One battle from arming to done or failed; never raises for anything that belongs to the battle."""
        battle = _Battle(self, row)
        try:
            battle.fight()
        except _Leaving:
            battle.leave()
        except (BattleFailed, CheckpointError, ProfileError, schools.SchoolError) as error:
            battle.fail(getattr(error, "code", "profile"), str(error))
        except Exception as error:  # the process is the boundary: the arena must read why, not see a dead child
            traceback.print_exc(file=sys.stderr)
            code = getattr(error, "code", "battle_failed")
            battle.fail(code if isinstance(code, str) else "battle_failed", f"{type(error).__name__}: {error}")


def _warm_up(school: str = "scribe") -> None:
    """Import torch and the school, once. With the collector off it takes a fifth less (3.6 instead of 4.5 CPU-s), and
    what is there for good is frozen, or each full collection would walk over 700,000 objects again (0.3 s)."""
    if schools.entry(school).module in sys.modules:
        return
    gc.disable()
    try:
        schools.load(school)
    finally:
        gc.freeze()
        gc.enable()


class _Battle:
    """One battle. Its life is the sequence in `fight`."""

    def __init__(self, worker: Worker, row: dict[str, Any]) -> None:
        self.worker, self.row, self.config = worker, row, row["config"]
        self.home, self.engine = worker.home, worker.engine
        self.pulse = Pulse(self.engine, worker.orders, row, StrainTracker(self.config["floor"]), Hits(), self._save_now)
        self.quest = Quest()
        self.cursor = 0
        self.loss_before: float | None = None
        self._examiners: list[Skill] | None = None
        self._last_good: tuple[int, str | None] = (0, self.config["parent_checkpoint_id"])  # (step, checkpoint)

    # --- the whole battle, top to bottom ---

    def fight(self) -> None:
        self.profile: HeroProfile = parse_profile(self.config["hero"], "battle.config.hero")
        physics.check(self.profile, self.home)
        self._phase("loading libraries")
        _warm_up(self.config["school"])
        self.school = schools.load(self.config["school"])
        self._phase("loading weights")
        held = self._load()
        probe = self._read_probe()
        self._phase("reading the quest")
        order = self._prepare_quest(held)
        if self.quest.steps > 0 and order == "run":
            order = self._train(held, probe)
        checkpoint = self._finish_training(held, order)
        if order in ("run", "skip"):  # nobody asks for it again; a quest that goes on keeps what its school worked out
            shutil.rmtree(self._live_folder(), ignore_errors=True)
        if order == "run":
            order = self._examine(held, checkpoint, probe)
        outcome = {"stop": "stopped", "skip": "skipped"}.get(order, "trained")
        self.pulse.enter("done", outcome=outcome, ended_at=db.now(), checkpoint_id=checkpoint, phase=None)

    def leave(self) -> None:
        """End as stopped with the newest checkpoint there is."""
        _, checkpoint = self._last_good
        self.pulse.enter("done", outcome="stopped", ended_at=db.now(), checkpoint_id=checkpoint, phase=None)

    def fail(self, code: str, text: str) -> None:
        """End the battle as failed. What is in memory is not trusted afterwards."""
        self.worker.held = None
        if code == "nan":
            step, checkpoint = self._last_good
            text += f". Last good checkpoint: {checkpoint or 'the base weights'} at step {step:,}"
        log.error("battle %s failed: %s", self.row["id"], text)
        fix = "Read the reason and put it right; "
        fix += "the quest is tried three times." if self.row["quest_id"] else "then ask for the trial again."
        self.pulse.note("alert", text, "trouble", alert_id=f"battle:{self.row['id']}", code=code, why=text, fix=fix,
                        what="training a quest" if self.row["quest_id"] else "holding a trial")  # fmt: skip
        self.pulse.enter("failed", outcome="failed", ended_at=db.now(), error=text, phase=None)

    def _write(self, work: Callable[[sa.Connection], Any]) -> Any:
        """One transaction; on a full disk it waits for space, with everything that was reached in memory."""
        while True:
            try:
                with db.write(self.engine) as connection:
                    return work(connection)
            except sa.exc.OperationalError as error:
                if not checkpoints.disk_full(error) or self.worker.orders.leaving:
                    raise
                log.error("the disk is full: waiting for space")
                time.sleep(DISK_RETRY_S)

    # --- arming ---

    def _phase(self, words: str) -> None:
        if self.worker.orders.leaving:
            raise _Leaving  # nothing was trained yet, so nothing is lost
        self.pulse.flush(phase=words)

    def _load(self) -> Held:
        """The hero as the parent checkpoint has it: from memory when it is the same, else from disk."""
        from realm.heroes.model import Hero, make_embedded
        from realm.schools import chassis

        parent, held = self.config["parent_checkpoint_id"], self.worker.held
        if held and not held.moved and held.checkpoint_id == parent and held.hero.profile == self.profile:
            self._last_good = held.step, parent
            return held
        self.worker.held = None  # frees the old weights before new ones are loaded
        if parent is None:
            folder = weights_folder(self.profile, self.home)
            if self.profile.embedded:
                folder = make_embedded(self.profile, self.home)
            held = Held(Hero.load(self.profile, folder), chassis.OptimizerState(), 0, None, None)
        else:
            found = checkpoints.load(self.home, self.engine, parent)
            optimizer = chassis.OptimizerState()
            if found.state is not None:
                optimizer = chassis.load_optimizer(found.folder / checkpoints.RESUME, found.state["optimizer"])
            folder = found.folder
            held = Held(Hero.load(self.profile, folder), optimizer, found.place.step, parent, found.state)
        checkpoints.point_current(self.home, folder)
        self.worker.held, self._last_good = held, (held.step, parent)
        return held

    def _prepare_quest(self, held: Held) -> Order:
        """Rows, and where in them to begin; contracts A9. What is wanted afterwards."""
        config, quest = self.config, self.quest
        state = held.state or {}
        quest.start_step = held.step
        before = max(0, held.step - config["quest_start_step"])  # steps of this quest that the weights have had
        quest.steps = max(0, config["steps"] - before)
        quest.cursor = before * schools.rows_per_step(config["school"], self.profile)
        if before and config["quest_id"] is not None and state.get("quest_id") == config["quest_id"]:
            quest.same_quest, quest.cursor = True, state["cursor"]
            self.pulse.tracker = StrainTracker.from_state(state["tracker"])
            self.pulse.hits = Hits(state["hits"])
            self.loss_before = state["loss_before"]
        self.cursor = quest.cursor
        if quest.steps == 0 or config["data"] is None:
            quest.steps = 0
            return self.pulse.poll()
        from realm.schools import chassis

        quest.context = self._context(held, fresh=before == 0)
        try:
            self._prepare_rows(held.hero, self._read_rows(config["data"]), config["data"]["path"])
        except chassis.Interrupted:
            quest.steps = 0
            return self.pulse.order
        except chassis.NothingToLearn as nothing:
            quest.steps = 0
            self._school_note("lesson", f"Nothing to learn in this quest: {nothing}.", "trouble", what="nothing")
        except chassis.TrainingError as error:
            raise BattleFailed(error.code, str(error)) from error
        return self.pulse.poll()

    def _context(self, held: Held, fresh: bool) -> Context:
        """What the school may use; the quest's folder is empty when the quest begins."""
        from realm.schools import chassis

        folder = self._live_folder()
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return chassis.Context(
            folder=folder, fresh=fresh, seed=self.config["seed"], step=held.step, checkpoint_id=held.checkpoint_id,
            steps=self.quest.steps, held_out=self._held_out,
            campaign_id=self.config["campaign_id"], run_id=self.config["run_id"], quest_id=self.config["quest_id"],
            home=self.home, options=self.config.get("options") or {}, interrupted=self.pulse.interrupted,
            phase=self._phase, note=self._school_note,
        )  # fmt: skip

    def _live_folder(self) -> Path:
        return self.home.queue / "live" / str(self.config["quest_id"])

    def _held_out(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """Which exam a row would give away that a school wrote itself, or None: the Cleric's word in the child."""
        if self._examiners is None:
            self._examiners = cleric.examiners(self.profile.skill_priorities)
        return cleric.exam_within(self._examiners, messages)

    def _school_note(self, kind: str, text: str, level: str, /, **payload: Any) -> None:
        self.pulse.note(kind, text, level, battle_id=self.row["id"], school=self.config["school"], **payload)

    def _read_rows(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        path = self.home.root / data["path"]
        if not path.is_file():
            raise BattleFailed("data_missing", f"{path} is missing; drop the file into the inbox again")
        raw = path.read_bytes()
        found = hashlib.sha256(raw).hexdigest()
        if data.get("sha256") and found != data["sha256"]:
            raise BattleFailed("data_changed", f"{path}: sha256 {found[:12]}… is not the {data['sha256'][:12]}… that "
                               "the Cleric checked; drop the file into the inbox again")  # fmt: skip
        return [json.loads(line) for line in raw.splitlines() if line.strip()]

    def _prepare_rows(self, hero: Hero, raw: list[dict[str, Any]], path: str) -> None:
        rows, dropped = self.school.prepare(hero, raw, self.quest.context)
        if not rows:
            raise BattleFailed("no_rows", f"{path}: none of {len(raw)} rows can be trained on; "
                               f"the first: {dropped[0][2] if dropped else 'the file is empty'}")  # fmt: skip
        if dropped:
            codes = sorted({code for _, code, _ in dropped})
            text = (f"{path}: {len(dropped)} of {len(raw)} rows left out ({', '.join(codes)}); "
                    f"row {dropped[0][0] + 1}: {dropped[0][2]}")  # fmt: skip
            self.pulse.note("alert", text, "trouble", alert_id=f"dropped:{self.row['id']}", code="rows_dropped",
                            what="rendering a quest", why=text,
                            fix="Shorten or mend these rows; the others are trained on.")  # fmt: skip
        self.quest.rows = rows

    def _read_probe(self) -> list[Rendered]:
        if not self.config.get("probe"):
            return []
        path = self.home.root / self.config["probe"]["path"]
        if not path.is_file():
            raise BattleFailed("data_missing", f"{path} is missing, the held-out rows that prove this quest; put it "
                               "back, or drop the file into the inbox again")  # fmt: skip
        return self._render_probe(path)

    def _render_probe(self, path: Path) -> list[Rendered]:
        from realm.heroes import chat

        conversations = [json.loads(line)["messages"] for line in path.read_bytes().splitlines() if line.strip()]
        hero = self.worker.held.hero
        rows, _ = chat.render_rows(conversations, hero.tokenizer, max_length=self.profile.training_defaults.max_length,
                                   thinking=self.profile.chat.thinking)  # fmt: skip
        return rows

    # --- training ---

    def _train(self, held: Held, probe: list[Rendered]) -> Order:
        from realm.schools import chassis

        self._carry_over(held)
        if probe and self.loss_before is None:  # a quest that goes on was measured when it began
            self.loss_before = held.hero.loss(probe)
        self._begin()
        self._look_at_tokens(held)
        quest, order = self.quest, "run"

        def on_step(facts: chassis.StepFacts) -> bool:
            nonlocal order
            self.cursor, held.step = facts.cursor, facts.step
            order = self.pulse.step(facts)
            last = facts.step == quest.start_step + quest.steps
            if order == "run" and not last and facts.step % self.profile.training_defaults.save_steps == 0:
                self._save_now("every save_steps")
            return order == "run"

        segment = chassis.Segment(self.config["campaign_id"], self.config["quest_id"], self.config["seed"],
                                  quest.start_step, quest.steps, quest.cursor)  # fmt: skip
        held.moved = True
        try:
            self.school.train(held.hero, quest.rows, segment, held.optimizer, self.home.run / "trainer", on_step,
                              quest.context)  # fmt: skip
        except chassis.TrainingError as error:
            raise BattleFailed(error.code, str(error)) from error
        self._note_memory(held)
        self._look_at_tokens(held)
        return order

    def _look_at_tokens(self, held: Held) -> None:
        """Keep how the hero sees some rows now, for the battle's page."""
        from realm.schools import oracle_eye

        eye = oracle_eye.eye_of(self.profile, self.quest.context.options)
        maps = oracle_eye.hardest(held.hero, self.quest.rows, eye)
        self._write(lambda connection: token_maps.record(connection, self.row["id"], held.step, maps))

    def _note_memory(self, held: Held) -> None:
        """The first quest of this process tells the calculator what it really took; later peaks may be a trial's."""
        from realm.heroes.model import peak_memory

        longest = max((len(row.ids) for row in self.quest.rows if hasattr(row, "ids")), default=0)
        if self.worker.measured or not longest or held.step - self.quest.start_step < 2:
            return
        self.worker.measured = True
        vram.note_battle(self.home, self.profile, longest, peak_memory())

    def _carry_over(self, held: Held) -> None:
        """Keep the optimizer when school family, physics and parameters match; else begin it anew and say why."""
        from realm.schools import chassis

        now = chassis.physics(self.profile, held.hero.model, self.school.FAMILY)
        if held.optimizer.physics:
            reasons = chassis.differences(held.optimizer.physics, now)
        else:
            reasons = ["first training of this hero" if held.step == 0 else "the checkpoint holds no resume state"]
        if reasons:
            held.optimizer.close()
            held.optimizer = chassis.OptimizerState()
        text = "Optimizer state begins anew: " + "; ".join(reasons) if reasons else "Optimizer state carried over"
        self.pulse.note("optimizer", text + ".", "info", battle_id=self.row["id"], reset=bool(reasons),
                        reason="; ".join(reasons) or "same school family, physics and parameters")  # fmt: skip
        self.pulse.flush()

    def _begin(self) -> None:
        """Into training; rows of an earlier attempt beyond the checkpoint go in the same transaction."""
        quest, row, table = self.quest, self.row, db.metrics
        beyond = sa.delete(table).where(table.c.run_id == row["run_id"], table.c.step > quest.start_step)

        def begin(connection: sa.Connection) -> None:
            connection.execute(beyond)
            self.pulse.begin(connection, phase=None, start_step=quest.start_step, step=quest.start_step,
                             total_steps=quest.steps, loss_before=self.loss_before)  # fmt: skip

        self._write(begin)

    def _save_now(self, why: str) -> str:
        """Checkpoint of the present step; returns its id. On a full disk it waits for space with the run in memory."""
        told = False
        while True:
            try:
                # The steps first: a checkpoint must not be ahead of the rows that say whose steps it holds.
                if self.pulse.flush():
                    return self._save(why)
                full = CheckpointError("disk_full", f"{self.home.database}: the disk is full; free some space")
            except (CheckpointError, sa.exc.OperationalError) as error:
                if getattr(error, "code", "") != "disk_full" and not checkpoints.disk_full(error):
                    raise
                full = error
            if self.pulse.leaving():
                raise full
            if not told:
                told = True
                self._tell_disk_full(str(full))
            time.sleep(DISK_RETRY_S)

    def _tell_disk_full(self, text: str) -> None:
        log.error("%s", text)
        self.pulse.note("alert", text, "trouble", alert_id=f"disk:{self.row['id']}", code="disk_full",
                        what="writing a checkpoint", why=text,
                        fix="Free some space: training waits and goes on by itself. Stop gives up the steps since the "
                            "last checkpoint.")  # fmt: skip
        self.pulse.flush(state="paused", phase="the disk is full: waiting for space")

    def _save(self, why: str) -> str:
        from realm.schools import chassis

        held = self.worker.held
        hero = held.hero

        def write_resume(folder: Path) -> dict[str, Any]:
            return self._state(held, chassis.save_optimizer(held.optimizer, hero.model, folder))

        place = Place(self.profile.id, self.config["campaign_id"], self.config["run_id"], held.step)
        made = checkpoints.save(
            self.home, self.engine, place, why=why, facts=self._facts(), quest_id=self.config["quest_id"],
            battle_id=self.row["id"], need_bytes=3 * hero.trainable_bytes, write_resume=write_resume,
            write_weights=hero.save,
        )  # fmt: skip
        held.state = made.state
        self._last_good = (held.step, made.id)
        self.pulse.restore()
        checkpoints.prune_resume(self.home, self.engine, self.config["campaign_id"], self._protected())
        return made.id

    def _finish_training(self, held: Held, order: Order) -> str:
        """The checkpoint this battle ends with: a new one when it trained, else the parent."""
        trained = held.step > self.quest.start_step
        if not trained and held.checkpoint_id is not None:
            return held.checkpoint_id
        if order != "run":
            self.pulse.enter("stopping")
        why = {"stop": "stopped", "skip": "skipped"}.get(order, "quest done" if trained else "before the first step")
        held.checkpoint_id, held.moved = self._save_now(why), False
        return held.checkpoint_id

    def _state(self, held: Held, optimizer: dict[str, Any]) -> dict[str, Any]:
        """resume/state.json: everything but tensors that the next step depends on."""
        return {
            "format": STATE_FORMAT, "school": self.config["school"], "step": held.step,
            "quest_id": self.config["quest_id"], "quest_start_step": self.config["quest_start_step"],
            "cursor": self.cursor, "loss_before": self.loss_before,
            "schedule": {"type": self.profile.scheduler, "warmup_steps": self.profile.training_defaults.warmup_steps},
            "rng": {"scheme": "keyed by hash(seed, campaign, step)", "seed": self.config["seed"]},
            "tracker": self.pulse.tracker.state_dict(), "hits": list(self.pulse.hits.window), "optimizer": optimizer,
        }  # fmt: skip

    def _facts(self) -> dict[str, Any]:
        """What the manifest tells about how this checkpoint came to be."""
        import torch
        import transformers

        campaign = self.config["campaign_id"]
        with db.read(self.engine) as connection:
            mastered = connection.execute(
                sa.select(db.levels.c.skill, db.levels.c.level, db.levels.c.trial_id)
                .where(db.levels.c.campaign_id == campaign).order_by(db.levels.c.skill, db.levels.c.level)
            ).all()  # fmt: skip
        return {
            "parent_checkpoint_id": self.config["parent_checkpoint_id"], "config": self.config,
            "data": self.config["data"], "levels": [{"skill": m.skill, "level": m.level} for m in mastered],
            "trials": [m.trial_id for m in mastered],
            "versions": {"python": sys.version.split()[0], "torch": torch.__version__,
                         "transformers": transformers.__version__},
        }  # fmt: skip

    def _protected(self) -> set[str]:
        """The champion of the campaign keeps its resume state."""
        with self.engine.connect() as connection:
            champion = campaigns.value(connection, f"champion:{self.config['campaign_id']}")
        return {champion} if champion else set()

    # --- trials ---

    def _examine(self, held: Held, checkpoint_id: str, probe: list[Rendered]) -> Order:
        """The probe of a file quest, then the trials in their order; returns the order that ended them."""
        specs = [trial.TrialSpec.from_config(values) for values in self.config["trials"]]
        if not (specs or probe or self.config.get("old_probes")):
            return "run"
        self.pulse.enter("trial", phase="trial")
        subject = trial.Subject(self.config["campaign_id"], checkpoint_id, held.step, self.row["id"],
                                self.config["quest_id"], self._train_loss(held.step))  # fmt: skip
        if probe:
            started = db.now()
            after = held.hero.loss(probe)
            self._write(lambda connection: trial.record_probe(
                connection, subject, len(probe), after, self.loss_before, started))  # fmt: skip
            self.pulse.flush(loss_after=after)
        for old in self.config.get("old_probes", ()):
            self._measure_old(held, subject, old)
            if (order := self.pulse.poll()) != "run":
                return order
        passed = False
        for spec in specs:
            if spec.after_pass and not passed:
                continue
            self._phase(f"{spec.kind} trial of {spec.skill} level {spec.level}")
            try:
                result = trial.run(spec, get_skill(spec.skill), self._answer, self._golden_loss, subject.train_loss)
            except trial.Interrupted:
                return self.pulse.order
            passed = passed or (spec.kind == "promotion" and result.verdict == "pass")
            self._write(partial(trial.record, result=result, subject=subject))
            order = self.pulse.poll()
            if order != "run":
                return order
        return "run"

    def _measure_old(self, held: Held, subject: trial.Subject, old: dict[str, Any]) -> None:
        """What is left of an older file: the loss of its held-out rows now (contracts B7)."""
        path = self.home.root / old["path"]
        if not path.is_file():
            log.warning("%s is gone; what its quest had taught cannot be measured any more", path)
            return
        self._phase("held-out rows of an older file")
        started, rows = db.now(), self._render_probe(path)
        if rows:
            loss, of = held.hero.loss(rows), replace(subject, quest_id=old["quest_id"])
            self._write(lambda connection: trial.record_probe(connection, of, len(rows), loss, None, started))

    def _answer(self, conversations: list[Any], max_new_tokens: int) -> list[tuple[str, int]]:
        stopped = False

        def interrupted() -> bool:
            nonlocal stopped
            stopped = stopped or self.pulse.interrupted()
            return stopped

        answers = self.worker.held.hero.answer(conversations, max_new_tokens, interrupted)
        if stopped:
            raise trial.Interrupted
        return answers

    def _golden_loss(self, conversations: list[Any]) -> float:
        rows, _ = self.worker.held.hero.render(conversations)
        return self.worker.held.hero.loss(rows)

    def _train_loss(self, step: int) -> float | None:
        """Smoothed loss of the answers at the checkpoint's step; None where a school with another loss trained last."""
        reading, school = self.pulse.reading, self.config["school"]
        loss = reading.loss_ema if reading else None
        if reading is None:  # a battle without training
            m, b = db.metrics.c, db.battles.c
            query = sa.select(m.loss_ema, b.school).join(db.battles, b.id == m.battle_id).where(
                m.run_id == self.row["run_id"], m.step <= step)  # fmt: skip
            with self.engine.connect() as connection:
                found = connection.execute(query.order_by(m.step.desc()).limit(1)).first()
            loss, school = found if found else (None, school)
        return loss if schools.entry(school).nats else None


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser(prog="realm.arena.battle", description=__doc__.splitlines()[0])
    parser.add_argument("--home", required=True, help="realm home")
    parser.add_argument("--worker", required=True, help="token of the battles rows to serve")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    home = RealmHome(given.home)
    attach(home.root)
    Worker(home, given.worker).run()


if __name__ == "__main__":
    main()

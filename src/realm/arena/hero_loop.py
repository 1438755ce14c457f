"""The hero loop: quest → battle → trial → level → checkpoint → next quest, without a person (realm-rules §13).

`python -m realm.arena.hero_loop --home HOME` runs it; one per home. It takes commands (within 100 ms), watches the
inbox, chooses or makes the next quest, gives it to the battle child and draws the conclusions. It never imports torch.
Everything it knows is in the database: killed at any instant, the next one closes what was left open and goes on from
the newest checkpoint.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout

from realm import db, events, services
from realm.arena import child as children
from realm.arena import commands, fallback, plan, practice, rollback, turn
from realm.arena.keeping import Keeping
from realm.arena.recover import recover
from realm.arena.rites import Rites
from realm.arena.settle import Settled, close_lost, settle
from realm.guild import campaigns
from realm.guild.campaigns import lifecycle, method, report
from realm.guild.skills import SkillError, attach
from realm.heroes.profile import HeroProfile, ProfileError, load_profile
from realm.jobs.executor import Executor
from realm.quests import board, memory
from realm.quests import origin as origins
from realm.quests.inbox import Inbox
from realm.settings import RealmHome
from realm.temple import cleric
from realm.temple.tokens import TokensMissing, token_counter
from realm.vault import checkpoints

log = logging.getLogger("realm.arena")

TICK_S = 0.05
INBOX_S = 0.25
LOOK_S = 1.0  # without any change of the database, for what only time brings: stalls, waiting times
STALL_S = 900.0  # without any sign of life from the child: the battle is lost
STOP_WAIT_S = 45.0  # at shutdown, for the child's last checkpoint
MAX_FAULTS = 5  # errors of the loop itself in a row
FAULT_WAIT_S = 5.0
DRAFT_AFTER = 0.6  # of a battle's steps; later, the hint that decides the next mix is nearer to the final one
MAX_FAILURES = 5  # battles lost in a row, then mode rest and an alert
FAINT_S = 60.0  # a skill that could make no rows (a server that is down) is left out of practice so long
BACKOFF_S = (0.0, 1.0, 5.0, 20.0, 60.0)


class AlreadyRunning(RuntimeError):
    """Another hero loop holds this home; the message names its pid."""


class HeroLoop:
    """The loop's state between ticks; whatever must survive is in the database.

    Args:
        child_command: command line of the battle child (tests put a stand-in here).
        stall_s: seconds without a sign of life after which a battle is given up.
    """

    def __init__(
        self, home: RealmHome, child_command: children.Command = children.battle_command, stall_s: float = STALL_S,
        inbox_stable_s: float = 0.5,
    ) -> None:  # fmt: skip
        self.home, self.engine = home, db.connect(home)
        self.child_command, self.stall_s = child_command, stall_s
        self.child: children.Child | None = None
        self.profile: HeroProfile | None = None
        self.campaign: dict[str, Any] | None = None
        self.failures = 0
        self.stop = threading.Event()
        self._inbox = Inbox(home, self.engine, self._gate, inbox_stable_s)
        self._watch = events.Watcher(self.engine)
        self._workshop = ThreadPoolExecutor(1, thread_name_prefix="workshop")
        self._job: tuple[str, Future, Any] | None = None
        self._not_before = 0.0
        self._sign: tuple[Any, float] = (None, time.monotonic())
        self._follow: list[tuple[str, int]] = []
        self._told: set[str] = set()
        self._draft: plan.Draft | None = None
        self._drafted = ""  # id of the battle during which the last draft was made
        self._faint: dict[str, float] = {}  # {skill that could make no rows: until when the hero does without it}
        self._dirty, self._look_again = True, 0.0
        self._turn: turn.Turn | None = None
        self._rites = Rites(home, self.engine)
        self._keeping = Keeping(home, self.engine)

    # --- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until `stop` is set. Then the battle is asked for a checkpoint and its quest goes back to the board."""
        inbox = threading.Thread(target=self._inbox_loop, name="inbox", daemon=True)
        jobs = threading.Thread(target=self._jobs_loop, name="jobs", daemon=True)
        try:
            with db.write(self.engine) as connection:
                events.emit(connection, "service", "The hero loop started", "info", service="arena", state="started",
                            detail=f"pid {os.getpid()}")  # fmt: skip
            self._hero()
            recover(self.home, self.engine)
            if self.campaign is not None:
                # A kill may have come between a quest's end and what is drawn from it.
                self._start_job("guard", self._catch_up, self.campaign["id"])
            inbox.start()
            jobs.start()
            faults = 0
            while not self.stop.wait(TICK_S):
                try:
                    self.tick()
                    faults = 0
                except Exception as error:
                    # One bad quest or a full disk must not end the game; a fault that stays ends the process, and
                    # the supervisor starts it again.
                    faults, self._dirty = faults + 1, True
                    log.exception("the hero loop stumbled (%d of %d)", faults, MAX_FAULTS)
                    if faults >= MAX_FAULTS:
                        raise
                    self._alert("hero_loop", "running the hero loop", repr(error),
                                "Read logs/arena.log; `python3 -m training doctor` names what is broken.")  # fmt: skip
                    self.stop.wait(FAULT_WAIT_S)
        finally:
            self.stop.set()
            self._shut_down()
            self._keeping.close()
            for thread in (inbox, jobs):
                if thread.ident:
                    thread.join(10)
            self._watch.close()
            self.engine.dispose()

    def tick(self) -> None:
        """One look at everything; never waits. Costs one pragma while nothing happens."""
        if self._watch.changed():
            self._dirty = True
            self._commands()
            self._rites.wished()
            self._keeping.look()
        self._rites.step()
        self._keeping.tick()
        if self._job is not None:
            if self._job[1].done():
                kind, future, context = self._job
                self._job, self._dirty = None, True
                getattr(self, f"_after_{kind}")(future, context)
            return
        lost = self.child is not None and not self.child.alive
        if not (self._dirty or lost or time.monotonic() >= self._look_again):
            return
        self._dirty, self._look_again = False, time.monotonic() + LOOK_S
        with db.read(self.engine) as connection:
            battle = plan.open_battle(connection)
            unsettled = self._unsettled(connection)
        if unsettled:
            self._start_job("settle", self._settle, unsettled)
        elif battle is not None:
            self._supervise(battle)
            self._draft_ahead(battle)
        else:
            self._next()

    def _commands(self) -> None:
        with db.read(self.engine) as connection:
            waiting = bool(commands.pending(connection))
        if waiting:
            with db.write(self.engine) as connection:
                commands.work(connection, self.home)

    def _start_job(self, kind: str, work: Callable[..., Any], *arguments: Any, context: Any = None) -> None:
        self._job = (kind, self._workshop.submit(work, *arguments), context)

    def _unsettled(self, connection: sa.Connection) -> str | None:
        table = db.battles
        query = sa.select(table.c.id).where(table.c.state.in_(("done", "failed")), table.c.settled_at.is_(None))
        return connection.execute(query.order_by(table.c.id).limit(1)).scalar()

    def _shut_down(self) -> None:
        with db.write(self.engine) as connection:
            battle = plan.open_battle(connection)
            if battle is not None:
                connection.execute(sa.update(db.battles).where(db.battles.c.id == battle["id"]).values(desired="stop"))
        deadline = time.monotonic() + STOP_WAIT_S
        while battle is not None and self.child and self.child.alive and time.monotonic() < deadline:
            time.sleep(TICK_S)
            with db.read(self.engine) as connection:
                battle = plan.open_battle(connection)
        if self.child is not None:
            children.end(self.child)
        self._rites.close()
        self._workshop.shutdown(wait=True)
        if battle is not None:
            with db.write(self.engine) as connection:
                close_lost(connection, battle["id"], "the hero loop was ended before the battle could save")
        with db.read(self.engine) as connection:
            unsettled = self._unsettled(connection)
        if unsettled:
            settle(self.home, self.engine, unsettled, count_attempt=False)
        with db.write(self.engine) as connection:
            events.emit(connection, "service", "The hero loop ended", "info", service="arena", state="stopped",
                        detail=f"pid {os.getpid()}")  # fmt: skip

    # --- inbox --------------------------------------------------------------------------------------------------

    def _inbox_loop(self) -> None:
        while not self.stop.wait(INBOX_S):
            try:
                self._inbox.poll()
            except Exception:
                # A full disk or a locked database must not end the watch for good; the next look tries again.
                log.exception("the inbox could not be read; trying again in 5 s")
                self.stop.wait(5)

    def _jobs_loop(self) -> None:
        Executor(self.home, self.stop).run()

    def _gate(
        self, source: Path, target: Path, quarantine: Path, probe: Path, name: str, seed: int
    ) -> dict[str, Any]:
        """The Temple's gate for one inbox file, with the tokenizer of the hero that plays."""
        counter, missing = None, ""
        try:
            counter = token_counter(self.profile or load_profile(self._hero_id(), self.home), self.home)
        except (TokensMissing, ProfileError) as error:
            missing = str(error)
        # What is examined must not be practised, whoever sends it.
        skills = cleric.examiners(self.profile.skill_priorities if self.profile else ())
        return cleric.examine(source, target, quarantine, name=name, skills=skills, tokens=counter,
                              tokens_missing=missing, probe=probe, seed=seed,
                              caps=origins.caps_of(self.home.settings))  # fmt: skip

    # --- the hero -----------------------------------------------------------------------------------------------

    def _hero_id(self) -> str:
        with db.read(self.engine) as connection:
            return campaigns.value(connection, commands.HERO) or self.home.settings.default_hero

    def _hero(self) -> bool:
        """Make the hero that plays ready: its recipe read, its campaign the active one. False when that fails.

        `self.campaign` is None while a resting realm waits for its next campaign.
        """
        with db.read(self.engine) as connection:
            now = turn.look(connection, self.home)
        if now == self._turn:
            return True
        try:
            profile = load_profile(now.hero_id, self.home)
        except ProfileError as error:
            self.profile = self._turn = None
            self._alert("hero_profile", "loading the hero's recipe", str(error), "Mend the recipe or use another hero.")
            return False
        with db.write(self.engine) as connection:
            self.campaign, self.profile = turn.take(connection, now, profile)
            self._turn = turn.look(connection, self.home)
        self._follow, self._draft = [], None
        return True

    # --- a running battle ---------------------------------------------------------------------------------------

    def _supervise(self, battle: dict[str, Any]) -> None:
        if self.child is None or battle["worker"] != self.child.worker:
            self._lose(battle, "its battle process belongs to an earlier hero loop")
            return
        code = self.child.process.poll()
        if code is not None:
            tail = children.log_tail(self.home)
            self._lose(battle, f"the battle process ended with exit code {code}" + (f"; log: {tail}" if tail else ""))
            return
        with db.read(self.engine) as connection:
            query = sa.select(sa.func.max(db.metrics.c.step)).where(db.metrics.c.battle_id == battle["id"])
            trials = sa.select(sa.func.count()).where(db.trials.c.battle_id == battle["id"])
            sign = (battle["id"], battle["state"], battle["phase"], battle["step"],
                    connection.execute(query).scalar(), connection.execute(trials).scalar())  # fmt: skip
        if sign != self._sign[0] or battle["state"] == "paused" or self._disk_full():
            self._sign = (sign, time.monotonic())
        elif time.monotonic() - self._sign[1] > self.stall_s:
            self._lose(battle, f"no sign of life for {self.stall_s:.0f} s (state {battle['state']})")

    def _disk_full(self) -> bool:
        """A child that waits for space cannot even write that it waits."""
        try:
            checkpoints.check_space(self.home, 0)
        except checkpoints.CheckpointError:
            return True
        return False

    def _lose(self, battle: dict[str, Any], reason: str) -> None:
        if self.child is not None:
            # Ended first: a child that still runs must not write into a run that another goes on with.
            children.end(self.child, 2.0)
            self.child = None
        with db.write(self.engine) as connection:
            close_lost(connection, battle["id"], reason)

    def _settle(self, battle_id: str) -> tuple[Settled, str, list[tuple[str, int]]]:
        """In the workshop: (what became of a battle, its campaign, the levels to examine at once)."""
        done = settle(self.home, self.engine, battle_id)
        with db.read(self.engine) as connection:
            table = db.battles
            query = sa.select(table.c.campaign_id).where(table.c.id == battle_id)
            campaign = campaigns.get(connection, connection.execute(query).scalar_one())
            follow = [] if done.failed else plan.follow_ups(connection, campaign, done.promoted)
        if not done.failed:
            self._judge_cap(campaign["id"])
        return done, campaign["id"], follow

    def _after_settle(self, future: Future, _context: Any) -> None:
        done, campaign_id, follow = future.result()
        if done.failed:
            self.failures += 1
            self._not_before = time.monotonic() + BACKOFF_S[min(self.failures, len(BACKOFF_S)) - 1]
            if self.failures >= MAX_FAILURES:
                self._give_up(done.failed)
            return
        self.failures = 0
        if self.campaign is not None and self.campaign["id"] == campaign_id and done.promoted:
            self._follow = follow
        with db.read(self.engine) as connection:
            champion = campaigns.value(connection, f"champion:{campaign_id}")
        checkpoints.prune_resume(self.home, self.engine, campaign_id, [champion] if champion else [])
        if done.quest_state == "done":
            self._start_job("guard", self._look_back, campaign_id)

    def _judge_cap(self, campaign_id: str) -> None:
        """Keep the cap verdict; drawing it up takes 0.9 s after 2,000 quests, so it is done outside the write lock."""
        with db.read(self.engine) as connection:
            campaign = campaigns.get(connection, campaign_id)
            verdict = lifecycle.verdict(connection, campaign)
        if verdict["state"] == "capped" or campaign["verdict"] is not None:
            with db.write(self.engine) as connection:
                lifecycle.keep_verdict(connection, campaign_id, verdict)

    def _catch_up(self, campaign_id: str) -> rollback.Guarded:
        self._judge_cap(campaign_id)
        return self._look_back(campaign_id)

    def _look_back(self, campaign_id: str) -> rollback.Guarded:
        """After a quest: keep rows of finished files for rehearsal, then judge what idle practice does to the hero."""
        for trouble in memory.catch_up(self.home, self.engine, campaign_id):
            self._alert("rehearsal", "keeping rows for rehearsal", trouble, "Free some space on the disk, or mend the "
                        "file; the next quest tries again.")  # fmt: skip
        return rollback.guard(self.home, self.engine, campaign_id)

    def _after_guard(self, future: Future, _context: Any) -> None:
        if future.result().act != "none":
            self._draft, self._follow = None, []  # both were meant for the hero that is left behind

    def _give_up(self, reason: str) -> None:
        self.failures = 0
        with db.write(self.engine) as connection:
            commands.set_mode(connection, "rest", f"{MAX_FAILURES} battles failed in a row")
            events.emit(connection, "alert", f"Training stopped after {MAX_FAILURES} failed battles", "trouble",
                        alert_id=f"battles:{db.new_id()}", code="battles_failed", what="training", why=reason,
                        fix="Read logs/battle.log and mend the cause (`python3 -m training doctor`), then resume.",
                        action={"kind": "battle.resume", "payload": {}})  # fmt: skip

    # --- the next one -------------------------------------------------------------------------------------------

    def _next(self) -> None:
        if time.monotonic() < self._not_before:
            return
        with db.read(self.engine) as connection:
            archive = commands.wishes(connection, "archive")[:1]
        if archive:
            self._start_job("archive", report.archive, self.home, self.engine, archive[0]["result"]["campaign_id"],
                            context=archive[0])  # fmt: skip
            return
        if not self._hero():
            self._not_before = time.monotonic() + 2.0
            return
        if self.campaign is None:
            self._rest()
            return
        with db.read(self.engine) as connection:
            resting = commands.mode(connection) == "rest"
            over = not resting and method.spent_words(self.campaign, connection)
            trial, idle, back = (commands.wishes(connection, wants)[:1] for wants in ("trial", "idle", "rollback"))
            campaign_id = self.campaign["id"]
            quest = board.head(connection, ("file",)) or board.head(connection, campaign_id=campaign_id)
        if back:
            self._draft, self._follow = None, []
            self._start_job("rollback", rollback.to_checkpoint, self.home, self.engine, back[0], context=back[0])
        elif idle:
            self._make_idle(idle[0])
        elif trial:
            self._hold_trial(trial[0])
        elif resting:
            self._rest()
        elif over:
            with db.write(self.engine) as connection:
                commands.halt_over_budget(connection, campaign_id)
        elif self._follow:
            wanted, self._follow = self._follow, []
            try:
                with db.read(self.engine) as connection:
                    plans = [plan.single_trial(connection, self.campaign, *each, "promotion") for each in wanted]
            except SkillError as error:
                log.warning("%s are not examined at once: %s", wanted, error)
                self._dirty = True
                return
            self._battle(None, plans)
        elif quest is not None:
            self._take(quest)
        elif self.home.settings.idle_generation:
            self._ready_child()  # it loads its libraries while the quest is being made
            self._make_idle(None)

    def _after_archive(self, future: Future, command: dict[str, Any]) -> None:
        error = future.exception()
        told = {key: value for key, value in command["result"].items() if key in ("campaign_id", "name")}
        state, result = ("failed", {"reason": str(error) or repr(error)}) if error else (
            "done", {**told, "report": future.result()})  # fmt: skip
        if error:
            log.error("campaign %s could not be archived", told.get("name"), exc_info=error)
        with db.write(self.engine) as connection:
            commands.finish(connection, command, state, result)

    def _take(self, quest: dict[str, Any]) -> None:
        """Give a quest of the board to the battle child; one that cannot be trained fails with the reason."""
        try:
            if board.locate(self.home, quest) is None:
                raise board.BoardError(f"the file of quest {quest['name']} is not there; drop it into the inbox again")
            with db.read(self.engine) as connection:
                trials = plan.quest_trials(connection, self.campaign, quest, self.profile)
        except (board.BoardError, SkillError) as error:
            with db.write(self.engine) as connection:
                board.set_state(connection, quest["id"], "failed", str(error), error=str(error), finished_at=db.now())
            return
        self._battle(quest, trials)

    def _rest(self) -> None:
        """Nothing to do: a child that holds a model is let go, so that resting frees its memory."""
        if self.child is not None:
            children.end(self.child)
            self.child = None

    def _make_idle(self, command: dict[str, Any] | None) -> None:
        draft, self._draft = self._draft, None
        wish = command["result"] if command else None
        self._start_job("idle", practice.practise, self.home, self.engine, self.campaign, self.profile, wish, draft,
                        self._missing(), context=command)  # fmt: skip

    def _missing(self) -> frozenset[str]:
        """Skills that lately could make no rows; each is tried again after a while."""
        now = time.monotonic()
        self._faint = {skill: until for skill, until in self._faint.items() if until > now}
        return frozenset(self._faint)

    def _no_skill(self) -> None:
        self._not_before = time.monotonic() + 1.0
        if self._missing():
            return  # the alert of each has told; it is tried again
        profile = self.profile
        self._alert("no_skill", "choosing a skill to practise",
                    f"hero {profile.id} has no skill_priorities for a shipped skill",
                    f"Add `skill_priorities: {{bin: 1.0}}` to {self.home.heroes / (profile.id + '.yaml')}, or drop "
                    "a file into the inbox.")  # fmt: skip

    def _draft_ahead(self, battle: dict[str, Any]) -> None:
        """Late in a battle with an empty board: write the rows of the quest that will most likely follow.

        Only a draft: the next quest is decided after the trials, and takes the draft when it asks for the same rows.
        """
        late = battle["state"] == "training" and battle["quest_id"] and battle["step"] is not None and (
            battle["step"] - battle["start_step"] >= DRAFT_AFTER * battle["total_steps"])  # fmt: skip
        if not late or self._drafted == battle["id"] or not self.home.settings.idle_generation:
            return
        self._drafted = battle["id"]
        with db.read(self.engine) as connection:
            if board.head(connection, campaign_id=self.campaign["id"]) or commands.mode(connection) == "rest":
                return
        self._start_job("draft", practice.draft_next, self.home, self.engine, self.campaign, self.profile,
                        self._missing())  # fmt: skip

    def _after_draft(self, future: Future, _context: Any) -> None:
        # A draft that failed is told when the quest itself is made; the battle goes on meanwhile.
        self._draft = None if future.exception() else future.result()

    def _after_idle(self, future: Future, command: dict[str, Any] | None) -> None:
        error = future.exception()
        if error is not None and command is None:
            self._alert("idle_generation", "making an idle quest", str(error) or repr(error),
                        "Mend the skill that is named, or switch idle generation off in settings.yaml.")  # fmt: skip
            culprits = error.skills if isinstance(error, practice.PracticeError) else ()
            self._faint |= dict.fromkeys(culprits, time.monotonic() + FAINT_S)
            # Another skill is practised meanwhile; without a culprit the same would only fail again.
            self._not_before = time.monotonic() + (0.0 if culprits else 30.0)
        elif command is None and future.result() is None:
            self._no_skill()
        if command is not None:
            made = None if error else future.result()
            state, result = ("done", {"quest_id": made}) if made else (
                "failed", {"reason": str(error or "the hero has no skill to practise")})  # fmt: skip
            with db.write(self.engine) as connection:
                commands.finish(connection, command, state, result)

    def _after_rollback(self, future: Future, command: dict[str, Any]) -> None:
        if (error := future.exception()) is not None:
            with db.write(self.engine) as connection:
                commands.finish(connection, command, "failed", {"reason": str(error) or repr(error)})

    def _hold_trial(self, command: dict[str, Any]) -> None:
        """A person's trial. It promotes nothing: only the loop's own trials keep the waiting time."""
        note = command["result"]
        try:
            with db.read(self.engine) as connection:
                plans = [plan.single_trial(connection, self.campaign, note["skill"], note["level"], "manual")]
        except SkillError as error:
            with db.write(self.engine) as connection:
                commands.finish(connection, command, "failed", {"reason": str(error)})
            return
        battle_id = self._battle(None, plans)
        with db.write(self.engine) as connection:
            if battle_id is not None:
                commands.finish(connection, command, "done", {"battle_id": battle_id, "trial": plans[0]})
            elif commands.mode(connection) == "rest":
                commands.finish(connection, command, "failed", {"reason": "no whole checkpoint could be examined"})

    def _ready_child(self, config: dict[str, Any] | None = None) -> children.Child:
        """A child that fits the configuration, started or replaced when needed."""
        if config is None:
            with db.read(self.engine) as connection:
                config = plan.battle_config(connection, self.campaign, self.profile, None, [])
        key = plan.child_key(config)
        if self.child is not None and not self.child.fits(key):
            children.end(self.child)
            self.child = None
        if self.child is None:
            self.child = children.start(self.home, key, self.child_command)
        return self.child

    def _battle(self, quest: dict[str, Any] | None, trials: list[dict[str, Any]]) -> str | None:
        """Start a battle and return its id; None when the hero first had to fall back to an older checkpoint."""
        if fallback.mend(self.home, self.engine, self.campaign["id"]) != "whole":
            self._dirty, self._draft = True, None
            return None
        with db.read(self.engine) as connection:
            config = plan.battle_config(connection, self.campaign, self.profile, quest, trials)
            if quest is not None:
                config["old_probes"] = memory.due_probes(connection, self.home, self.campaign["id"], quest["id"])
            held = bool(campaigns.value(connection, commands.PAUSED, False))
        child = self._ready_child(config)
        with db.write(self.engine) as connection:
            battle_id = plan.start_battle(connection, child.worker, config, quest, "pause" if held else "run")
        child.served += 1
        self._sign = (None, time.monotonic())
        return battle_id

    def _alert(self, code: str, what: str, why: str, fix: str) -> None:
        """Say once (per start and reason) what blocks the loop and how to mend it."""
        if f"{code}:{why}" in self._told:
            return
        self._told.add(f"{code}:{why}")
        with db.write(self.engine) as connection:
            events.emit(connection, "alert", f"{what}: {why}", "trouble", alert_id=f"{code}:{db.new_id()}", code=code,
                        what=what, why=why, fix=fix)  # fmt: skip


def hold_lock(home: RealmHome) -> FileLock:
    """The lock that makes a hero loop the only one of its home.

    Raises:
        AlreadyRunning: another one holds it.
    """
    home.run.mkdir(parents=True, exist_ok=True)
    lock, pid_file = FileLock(home.run / "arena.lock"), home.run / "arena.pid"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        pid = pid_file.read_text(encoding="utf-8").strip() if pid_file.exists() else "unknown"
        raise AlreadyRunning(f"a hero loop already runs for {home.root} (pid {pid}); use that one, or end it with "
                             "`python3 -m training stop-all`") from error  # fmt: skip
    pid_file.write_text(str(os.getpid()), encoding="utf-8")
    return lock


def main(arguments: list[str] | None = None) -> None:
    """Run the hero loop until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m realm.arena.hero_loop", description=__doc__.split("\n")[0])
    parser.add_argument("--home", help="realm home; default: $REALM_HOME or the usual one")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    home = RealmHome(options.home).create()
    attach(home.root)
    try:
        lock = hold_lock(home)
    except AlreadyRunning as error:
        sys.exit(str(error))
    try:
        services.leave_note(home, "arena")
        loop = HeroLoop(home)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.stop.set())
        loop.run()
    finally:
        lock.release()


if __name__ == "__main__":
    main()

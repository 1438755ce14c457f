"""A realm played by hand: the rows and events that arena and battle child write, in their order, without training.

Numbers come from a fixed curve and a fixed seed, so a page test sees the same ones every time; the strain numbers come
from the real tracker, levels and intervals from the real rules.
"""

from __future__ import annotations

import math
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
import uvicorn

from realm import db, events
from realm.arena.pulse import Hits
from realm.guild import campaigns
from realm.guild.levels import needed, wilson
from realm.guild.strain import StrainTracker
from realm.heroes.profile import load_profile
from realm.quests import board
from realm.settings import RealmHome

STEP_S = 0.05
TOKENS = 640
_template: list[bytes] = []


def fresh_home(root: Path) -> RealmHome:
    """A new realm home; its empty database is migrated once and copied afterwards (0.6 s against 2 ms)."""
    made = RealmHome(root).create()
    if not _template:
        db.migrate(made)
        engine = db.connect(made)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        engine.dispose()
        _template.append(made.database.read_bytes())
    elif not made.database.exists():
        made.database.write_bytes(_template[0])
    return made


class Play:
    """Writes one campaign into a home's database, as if it were played."""

    def __init__(self, home: RealmHome, hero: str = "pip") -> None:
        self.home, self.engine = home, db.connect(home)
        self.rng = random.Random(7)
        profile = load_profile(hero, home).model_dump(mode="json")
        with db.write(self.engine) as connection:
            self.campaign = campaigns.ensure_active(connection, hero, profile)
            campaigns.set_value(connection, "mode", "train")
            self.run = campaigns.current_run(connection, self.campaign)["id"]
        self.hero = hero
        self.step = 0
        self.battle: str | None = None
        self.quest: str | None = None
        self.tracker, self.hits = StrainTracker(0.0), Hits()

    def close(self) -> None:
        self.engine.dispose()

    def mode(self, mode: str) -> None:
        with db.write(self.engine) as connection:
            campaigns.set_value(connection, "mode", mode)
            events.emit(connection, "mode", f"Mode {mode}.", mode=mode, reason="asked for")

    def add_quest(self, name: str = "bin-L3-1", lane: str = "low", steps: int = 200, skill: str | None = "bin",
                  level: int | None = 3, state: str = "queued", **more) -> str:  # fmt: skip
        with db.write(self.engine) as connection:
            new = board.NewQuest(name=name, kind="idle" if skill else "file", lane=lane, rows=steps * 64, steps=steps,
                                 skill=skill, level=level, campaign_id=self.campaign, state=state, format="messages",
                                 path=f"queue/{lane}/{name}.jsonl", **more)  # fmt: skip
            return board.enqueue(connection, new)

    def arm(self, quest: str | None = None, steps: int = 200, trials: list[dict] | None = None,
            phase: str | None = None, level: int = 3) -> str:  # fmt: skip
        """A battle that is arming; without a quest a new one is put on the board and taken."""
        self.quest = quest or self.add_quest(f"bin-L{level}-{self.step}", steps=steps, level=level)
        self.battle, self.steps = db.new_id(), steps
        self.tracker, self.hits = StrainTracker(0.0), Hits()
        config = {"hero": load_profile(self.hero, self.home).model_dump(mode="json"), "school": "scribe",
                  "campaign_id": self.campaign, "quest_id": self.quest, "run_id": self.run, "seed": 1,
                  "parent_checkpoint_id": None, "steps": steps, "quest_start_step": self.step, "floor": 0.0,
                  "skill": "bin", "level": level, "trials": trials or [], "probe": None, "data": None}  # fmt: skip
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.battles).values(
                id=self.battle, campaign_id=self.campaign, run_id=self.run, quest_id=self.quest, hero_id=self.hero,
                school="scribe", worker="w", state="arming", desired="run", save_requests=0, config=config,
                phase=phase, started_at=db.now()))  # fmt: skip
            board.set_state(connection, self.quest, "training", started_at=db.now())
            self._tell(connection, "arming")
        return self.battle

    def begin(self) -> None:
        self.enter("training", start_step=self.step, step=self.step, total_steps=self.steps, phase=None)

    def enter(self, state: str, **columns) -> None:
        with db.write(self.engine) as connection:
            table = db.battles
            connection.execute(sa.update(table).where(table.c.id == self.battle).values(state=state, **columns))
            self._tell(connection, state, columns.get("outcome"), columns.get("error"))

    def desire(self, desired: str) -> None:
        with db.write(self.engine) as connection:
            connection.execute(sa.update(db.battles).where(db.battles.c.id == self.battle).values(desired=desired))

    def _tell(self, connection, state, outcome=None, reason=None) -> None:
        extra = {k: v for k, v in (("outcome", outcome), ("reason", reason)) if v}
        events.emit(connection, "battle", f"Battle {state}.", "trouble" if state == "failed" else "info",
                    battle_id=self.battle, run=self.run, quest_id=self.quest, state=state, **extra)  # fmt: skip

    def loss_at(self, step: int) -> float:
        return max(0.02, (0.12 + 0.9 * math.exp(-step / 70)) * math.exp(self.rng.gauss(0, 0.12)))

    def train(self, steps: int, loss: float | None = None, batch: int = 5) -> None:
        """Optimizer steps in batches of one transaction, as the child flushes them."""
        done = 0
        while done < steps:
            count = min(batch, steps - done)
            done += count
            with db.write(self.engine) as connection:
                self._batch(connection, count, loss)

    def _batch(self, connection, count: int, fixed: float | None) -> None:
        for _ in range(count):
            self.step += 1
            loss = self.loss_at(self.step) if fixed is None else fixed
            before = self.tracker.zone if self.tracker.steps else None
            r = self.tracker.update(loss)
            connection.execute(sa.insert(db.metrics).values(
                run_id=self.run, step=self.step, battle_id=self.battle, t=db.now(), loss=loss, loss_ema=r.loss_ema,
                lr=0.003, grad_norm=0.8, tokens=TOKENS, trained_tokens=300, step_s=STEP_S, floor=r.floor,
                strain=r.strain, strain_rate=r.strain_rate, zone=r.zone, hint=r.hint.action, effort=r.strain, steps=1,
                loss_min=loss, loss_max=loss))  # fmt: skip
            if before and before != r.zone:
                events.emit(connection, "zone", f"Strain zone: {before} to {r.zone} at step {self.step}.",
                            battle_id=self.battle, step=self.step, **{"from": before, "to": r.zone})  # fmt: skip
            hit, critical = self.hits.add(loss)
            if critical:
                events.emit(connection, "crit", f"Step loss {loss:.4f} is the best 1 % of the last 500 steps.",
                            battle_id=self.battle, step=self.step, hit=hit, loss=loss)  # fmt: skip
            if self.step % 1000 == 0:
                level = self.step // 1000
                events.emit(connection, "level", f"{self.step:,} optimizer steps: hero level {level}.", "deed",
                            kind="clock", **{"from": level - 1, "to": level})  # fmt: skip
        connection.execute(sa.update(db.battles).where(db.battles.c.id == self.battle).values(step=self.step))

    def token_map(self, *texts: str, answer: int = 3) -> None:
        """A map of one row of the current battle; its last `answer` tokens are trained, the first of them most."""
        n = len(texts)
        trained = [i >= n - answer for i in range(n)]
        weight = [round(2.0 / (1 + i - (n - answer)), 4) if on else None for i, on in enumerate(trained)]
        tokens = {"text": list(texts), "trained": trained, "weight": weight,
                  "surprisal": [None, *(0.25 * i for i in range(1, n))], "entropy": [None, *([0.5] * (n - 1))]}
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.token_maps).values(
                battle_id=self.battle, idx=0, row=12, step=self.step, policy="dft", tokens=tokens))  # fmt: skip

    def checkpoint(self, why: str = "asked for") -> str:
        key = db.new_id()
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.checkpoints).values(
                id=key, hero_id=self.hero, campaign_id=self.campaign, run_id=self.run, step=self.step,
                quest_id=self.quest, battle_id=self.battle, path=f"vault/{self.hero}/{key}", manifest_sha256="0" * 64,
                bytes=2_000_000, state="live", resumable=True, pinned=False, created_at=db.now()))  # fmt: skip
            events.emit(connection, "checkpoint", f"Checkpoint of step {self.step} saved.", "deed", checkpoint_id=key,
                        run=self.run, step=self.step, bytes=2_000_000, why=why)  # fmt: skip
        return key

    def trial(self, level: int, correct: int, n: int, checkpoint: str, closed: bool = False, kind: str = "promotion",
              verdict: str | None = None, loss: float | None = 0.2) -> str:  # fmt: skip
        key = db.new_id()
        low, high = wilson(correct, n)
        passed = correct / n >= 0.9 if closed else low >= 0.8
        said = verdict or ("pass" if passed else "fail")
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.trials).values(
                id=key, campaign_id=self.campaign, battle_id=self.battle, quest_id=self.quest, checkpoint_id=checkpoint,
                step=self.step, kind=kind, skill="bin", level=level, closed=closed, n=n, correct=correct, lower=low,
                upper=high, threshold=0.8, verdict=said, loss=loss, tokens=900, started_at=db.now(), seconds=2.0,
                by_difficulty={"easy": [correct // 2, n // 2]}, by_primitive={}))  # fmt: skip
            events.emit(connection, "trial", f"bin level {level}: {correct} of {n}, {said}.",
                        "deed" if said == "pass" else "info", trial_id=key, skill="bin", level=level,
                        checkpoint_id=checkpoint, correct=correct, n=n, needed=needed(n, 0.8, closed), verdict=said,
                        closed=closed, kind=kind, **{"try": 1})  # fmt: skip
        return key

    def level_up(self, level: int, trial_id: str, closed: bool = False) -> None:
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.levels).values(
                campaign_id=self.campaign, skill="bin", level=level, closed=closed, mastered_at=db.now(),
                step=self.step, trial_id=trial_id))  # fmt: skip
            events.emit(connection, "level", f"bin level {level} is mastered.", "deed", kind="skill", skill="bin",
                        closed=closed, trial_id=trial_id, **{"from": level - 1, "to": level})  # fmt: skip

    def bless(self, quality: float = 0.92, effort: float = 40.0) -> None:
        verdict = "blessed" if quality >= 0.8 else "partial" if quality >= 0.3 else "unproven"
        xp = effort if quality >= 0.8 else effort * quality if quality >= 0.3 else 0.0
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.blessings).values(
                id=db.new_id(), campaign_id=self.campaign, quest_id=self.quest, battle_id=self.battle, ceremony=1.0,
                evidence=quality, quality=quality, effort=effort, xp=xp, verdict=verdict,
                parts={"checks": [], "levels": []}, t=db.now()))  # fmt: skip
            events.emit(connection, "blessing", f"Blessing {quality:.2f}: {verdict}.", "deed", battle_id=self.battle,
                        quest_id=self.quest, effort=effort, quality=quality, xp=xp, verdict=verdict,
                        parts={})  # fmt: skip

    def crown(self, checkpoint: str, total_level: int = 2) -> None:
        with db.write(self.engine) as connection:
            events.emit(connection, "champion", "A new champion.", "deed", checkpoint_id=checkpoint, step=self.step,
                        total_level=total_level, accuracy=0.95)  # fmt: skip

    def finish(self, outcome: str = "trained", quest_state: str = "done") -> None:
        self.enter("done", outcome=outcome, ended_at=db.now())
        with db.write(self.engine) as connection:
            table = db.battles
            connection.execute(sa.update(table).where(table.c.id == self.battle).values(settled_at=db.now()))
            board.set_state(connection, self.quest, quest_state, finished_at=db.now())

    def won_battle(self, level: int = 1, steps: int = 120, correct: int = 190, n: int = 193,
                   closed: bool = True) -> str:  # fmt: skip
        """A whole quest: trained, examined, mastered, blessed; returns the checkpoint."""
        self.arm(steps=steps, level=level)
        self.begin()
        self.train(steps, batch=40)
        checkpoint = self.checkpoint("end of quest")
        self.enter("trial")
        trial = self.trial(level, correct, n, checkpoint, closed)
        self.finish()
        self.level_up(level, trial, closed)
        self.bless()
        self.crown(checkpoint)
        return checkpoint


    def commands(self) -> list[tuple[str, dict]]:
        """(kind, payload) of every order so far, oldest first."""
        with db.read(self.engine) as connection:
            rows = connection.execute(sa.select(db.commands).order_by(db.commands.c.t)).all()
        return [(row.kind, row.payload) for row in rows]

    def answer(self, state: str = "done", reason: str = "") -> None:
        """What the arena does with pending orders, in words only: the rows are closed with their event."""
        with db.write(self.engine) as connection:
            table = db.commands
            for row in connection.execute(sa.select(table).where(table.c.state == "pending")).all():
                result = {"reason": reason} if reason else {}
                connection.execute(sa.update(table).where(table.c.id == row.id).values(
                    state=state, result=result, finished_at=db.now()))  # fmt: skip
                events.emit(connection, "command", f"{row.kind}: {state}.", "info" if state == "done" else "trouble",
                            command_id=row.id, kind=row.kind, state=state, result=result)  # fmt: skip

    def write(self):
        """`with play.write() as connection`: one transaction, as the arena would make it."""
        return db.write(self.engine)

    def checkpoint_of_last_win(self) -> str:
        """The newest checkpoint's id."""
        table = db.checkpoints
        with db.read(self.engine) as connection:
            return connection.execute(sa.select(table.c.id).order_by(table.c.id.desc()).limit(1)).scalar_one()

    def emit(self, kind: str, text: str, level: str = "info", /, **payload) -> None:
        with db.write(self.engine) as connection:
            events.emit(connection, kind, text, level, **payload)


class Server:
    """An application on a real uvicorn server in a thread; may be stopped and started again on the same port."""

    def __init__(self, make_app: Callable[[], object], port: int = 0) -> None:
        self.make_app, self.port = make_app, port
        self.start()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", self.port))
        self.port = self._socket.getsockname()[1]
        self.app = self.make_app()
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_level="error", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self._server.started, "the test server did not start"

    def stop(self) -> None:
        self._server.should_exit = True  # closes the listening socket first: nobody comes back in between
        self._thread.join(timeout=0.5)  # idle connections end at once; streams would wait for their time-out
        self.app.state.hub.close()
        self._thread.join(timeout=10)
        assert not self._thread.is_alive(), "the test server did not stop"


@contextmanager
def served(app, port: int = 0):
    """The application on a real server; yields its base address."""
    server = Server(lambda: app, port)
    try:
        yield server.base
    finally:
        server.stop()

"""A stand-in for the battle child: speaks the database protocol without torch, and can lie, stall and die.

`run/fake.json` of the home says what it does: {"battles": ["ok", "die", …], "default": "ok", "step_s": 0.001,
"accuracy": {"1": 1.0}, "base": 0.0}. The n-th battle of the home takes the n-th word.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import sqlalchemy as sa

from realm import db, events
from realm.arena import trial
from realm.guild.skills import get_skill
from realm.guild.skills.base import keyed_hash
from realm.settings import RealmHome
from realm.vault import checkpoints


def weights_at(step: int) -> bytes:
    """A safetensors file of one whole number."""
    head = b'{"step":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}'
    return len(head).to_bytes(8, "little") + head + step.to_bytes(8, "little", signed=True)


class Leave(Exception):
    """The parent is gone or SIGTERM came."""


class Fake:
    def __init__(self, home: RealmHome, worker: str) -> None:
        self.home, self.worker, self.parent = home, worker, os.getppid()
        self.engine = db.connect(home)
        self.told = False
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "told", True))

    @property
    def leaving(self) -> bool:
        return self.told or os.getppid() != self.parent

    def run(self) -> None:
        table = db.battles
        query = sa.select(table).where(table.c.worker == self.worker, table.c.state == "arming")
        while not self.leaving:
            with db.read(self.engine) as connection:
                row = connection.execute(query.order_by(table.c.started_at)).mappings().first()
            if row is None:
                time.sleep(0.005)
                continue
            self.serve(dict(row))

    def plan(self, battle_id: str) -> tuple[str, dict]:
        file = self.home.run / "fake.json"
        wish = json.loads(file.read_text()) if file.exists() else {}
        with db.read(self.engine) as connection:
            ids = connection.execute(sa.select(db.battles.c.id).order_by(db.battles.c.started_at)).scalars().all()
        words = wish.get("battles", [])
        number = ids.index(battle_id)
        return (words[number] if number < len(words) else wish.get("default", "ok")), wish

    def set(self, **columns) -> None:
        with db.write(self.engine) as connection:
            connection.execute(sa.update(db.battles).where(db.battles.c.id == self.row["id"]).values(**columns))
            if "state" in columns:
                events.emit(connection, "battle", f"Battle {columns['state']}.", "info", battle_id=self.row["id"],
                            run=self.row["run_id"], quest_id=self.row["quest_id"], state=columns["state"])

    def desired(self) -> str:
        if self.leaving:
            return "stop"
        with db.read(self.engine) as connection:
            row = connection.execute(sa.select(db.battles.c.desired, db.battles.c.save_requests)
                                     .where(db.battles.c.id == self.row["id"])).one()
        if row.save_requests > self.saves:
            self.saves = row.save_requests
            self.save(self.step)
        if row.desired == "pause":
            self.set(state="paused")
            while (found := self.desired_now()) == "pause" and not self.leaving:
                time.sleep(0.005)
            if found == "run":
                self.set(state="training")
            return "stop" if self.leaving else found
        return row.desired

    def desired_now(self) -> str:
        with db.read(self.engine) as connection:
            return connection.execute(sa.select(db.battles.c.desired).where(db.battles.c.id == self.row["id"])).scalar()

    def save(self, step: int) -> str:
        place = checkpoints.Place(self.row["hero_id"], self.row["campaign_id"], self.row["run_id"], step)

        def weights(folder: Path) -> None:
            (folder / "model.safetensors").write_bytes(weights_at(step))
            (folder / "config.json").write_text("{}")

        made = checkpoints.save(
            self.home, self.engine, place, write_weights=weights, facts={}, why="fake",
            write_resume=lambda folder: {"quest_id": self.row["quest_id"]}, quest_id=self.row["quest_id"],
            battle_id=self.row["id"])
        return made.id

    def serve(self, row: dict) -> None:
        self.row, self.saves = row, row["save_requests"]
        word, wish = self.plan(row["id"])
        config = row["config"]
        if word == "die_arming":
            os._exit(3)
        if word == "stall":
            time.sleep(3600)
        if word == "fail":
            return self.set(state="failed", outcome="failed", error="the data made no sense", ended_at=db.now())
        parent, self.step = config["parent_checkpoint_id"], 0
        if parent:
            with db.read(self.engine) as connection:
                self.step = connection.execute(
                    sa.select(db.checkpoints.c.step).where(db.checkpoints.c.id == parent)).scalar_one()
        order = self.train(config, word, wish) if config["steps"] else "run"
        checkpoint = parent if parent and not config["steps"] else self.save(self.step)
        if word == "lie_checkpoint":
            checkpoint = None
        if word == "corrupt":
            with db.read(self.engine) as connection:
                path = connection.execute(
                    sa.select(db.checkpoints.c.path).where(db.checkpoints.c.id == checkpoint)).scalar_one()
            (self.home.root / path / "model.safetensors").write_bytes(weights_at(-1))
        if order == "run" and checkpoint:
            self.set(state="trial")
            for values in config["trials"]:
                if values.get("after_pass"):
                    continue
                self.examine(trial.TrialSpec.from_config(values), checkpoint, word, wish)
                if word == "stop_in_trials":
                    order = "stop"
                    break
            if config["probe"]:
                self.set(loss_before=2.0, loss_after=1.0)
        outcome = {"stop": "stopped", "skip": "skipped"}.get(order, "trained")
        self.set(state="done", outcome=outcome, checkpoint_id=checkpoint, ended_at=db.now())

    def train(self, config: dict, word: str, wish: dict) -> str:
        end = config["quest_start_step"] + config["steps"]
        if word == "lie_short":
            end -= 1
        data = self.home.root / config["data"]["path"]
        assert data.is_file() and data.read_bytes().count(b"\n") == config["data"]["rows"], data
        with db.write(self.engine) as connection:
            connection.execute(sa.delete(db.metrics).where(
                db.metrics.c.run_id == self.row["run_id"], db.metrics.c.step > self.step))
            connection.execute(sa.update(db.battles).where(db.battles.c.id == self.row["id"]).values(
                state="training", start_step=self.step, step=self.step, total_steps=max(0, end - self.step)))
        while self.step < end:
            time.sleep(wish.get("step_s", 0.0))
            if word == "die" and self.step >= config["quest_start_step"] + config["steps"] // 2:
                os._exit(9)
            self.step += 1
            loss = 3.0 / (1 + 0.05 * self.step)
            with db.write(self.engine) as connection:
                connection.execute(sa.insert(db.metrics).values(
                    run_id=self.row["run_id"], step=self.step, battle_id=self.row["id"], t=db.now(), loss=loss,
                    loss_ema=loss, lr=0.1, tokens=10, trained_tokens=5, step_s=0.001, floor=0.0, strain=loss,
                    zone="overload", hint=wish.get("hint", "continue"), effort=loss, steps=1))
                connection.execute(sa.update(db.battles).where(db.battles.c.id == self.row["id"])
                                   .values(step=self.step))
            order = self.desired()
            if order != "run":
                return order
        return "run"

    def examine(self, spec: trial.TrialSpec, checkpoint: str, word: str, wish: dict) -> None:
        skill = get_skill(spec.skill)
        golden = {p.prompt: p.golden for p in trial.draw(spec, skill)}
        accuracy = wish.get("accuracy", {}).get(str(spec.level), wish.get("base", 0.0)) if word != "right" else 1.0

        def answer(conversations, _room):
            texts = []
            for messages in conversations:
                prompt = messages[-1]["content"]
                right = keyed_hash("fake", spec.seed, prompt) % 1000 < 1000 * accuracy
                texts.append((golden[prompt] if right else "I do not know", 5))
            return texts

        result = trial.run(spec, skill, answer)
        if word == "lie_verdict":
            result.verdict = "pass"
        subject = trial.Subject(self.row["campaign_id"], checkpoint, self.step, self.row["id"], self.row["quest_id"])
        with db.write(self.engine) as connection:
            trial_id = trial.record(connection, result, subject)
            if word == "lie_counts":
                connection.execute(sa.update(db.trials).where(db.trials.c.id == trial_id)
                                   .values(correct=db.trials.c.n, verdict="pass"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", required=True)
    parser.add_argument("--worker", required=True)
    given = parser.parse_args()
    Fake(RealmHome(given.home), given.worker).run()
    sys.exit(0)

"""The battle child as a real process: orders within one step, kill -9 at any instant, SIGTERM, a parent that dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import hero_kit as kit
import pytest
import sqlalchemy as sa
from test_battle import fresh, two_quests

from realm import db


def rows_after(engine, run_id, t):
    m = db.metrics.c
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).where(m.run_id == run_id, m.t > t)).scalar()


def newest(engine):
    c = db.checkpoints.c
    with engine.connect() as connection:
        query = sa.select(c.id).where(c.state == "live").order_by(c.step.desc()).limit(1)
        return connection.execute(query).scalar()


def test_orders_are_obeyed_within_one_step(home, engine):
    profile = kit.micro_profile()
    ids, a, b = two_quests(home, engine, profile)
    many = 100_000
    with kit.RealChild(home) as child:
        first = kit.order_battle(engine, profile, ids, data=a, steps=many)
        kit.until(engine, first, lambda r: (r["step"] or 0) >= 5)

        kit.want(engine, first, desired="pause")
        asked = db.now()
        row = kit.until(engine, first, lambda r: r["state"] == "paused", 60)
        assert rows_after(engine, ids["run_id"], asked) <= 1, "more than the running step was done after the order"
        time.sleep(0.3)
        assert kit.battle_row(engine, first)["step"] == row["step"] == kit.curve(engine, ids["run_id"])[-1][0]

        kit.want(engine, first, desired="pause", save_requests=1)
        deadline = time.monotonic() + 60
        while newest(engine) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert newest(engine) is not None, "a save asked for during a pause must be served"

        kit.want(engine, first, desired="run")
        kit.until(engine, first, lambda r: r["state"] == "training" and r["step"] > row["step"] + 2, 60)
        kit.want(engine, first, desired="skip")
        asked = db.now()
        done = kit.until(engine, first, lambda r: r["state"] == "done", 60)
        assert done["outcome"] == "skipped" and rows_after(engine, ids["run_id"], asked) <= 1

        second = kit.order_battle(engine, profile, ids, data=b, steps=many, begin=done["step"],
                                  parent=done["checkpoint_id"])  # fmt: skip
        kit.until(engine, second, lambda r: (r["step"] or 0) >= done["step"] + 3)
        kit.want(engine, second, desired="stop")
        stopped = kit.until(engine, second, lambda r: r["state"] == "done", 60)
        assert stopped["outcome"] == "stopped" and stopped["checkpoint_id"] != done["checkpoint_id"]

        third = kit.order_battle(engine, profile, ids, data=b, steps=many, begin=done["step"],
                                 parent=stopped["checkpoint_id"])  # fmt: skip
        kit.until(engine, third, lambda r: (r["step"] or 0) >= stopped["step"] + 3)
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(60) == 0
    last = kit.battle_row(engine, third)
    assert (last["state"], last["outcome"]) == ("done", "stopped") and last["checkpoint_id"] == newest(engine)
    steps = [row[0] for row in kit.curve(engine, ids["run_id"])]
    assert steps == list(range(1, last["step"] + 1)), "no step may be missing or doubled"


def test_child_checkpoints_and_ends_when_its_parent_is_gone(home, engine):
    """The parent here is a throw-away process that is killed with -9 and so can tell nobody."""
    profile = kit.micro_profile()
    ids, a, _ = two_quests(home, engine, profile)
    battle = kit.order_battle(engine, profile, ids, data=a, steps=100_000)
    script = ("import subprocess, sys, time\n"
              "child = subprocess.Popen([sys.executable, '-m', 'realm.arena.battle', '--home', sys.argv[1], "
              "'--worker', 'W'])\nprint(child.pid, flush=True)\ntime.sleep(600)\n")  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(home.root)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    pid = int(parent.stdout.readline())
    try:
        kit.until(engine, battle, lambda r: (r["step"] or 0) >= 3)
        parent.kill()
        parent.wait()
        row = kit.until(engine, battle, lambda r: r["state"] == "done", 60)
        assert row["outcome"] == "stopped" and row["checkpoint_id"] == newest(engine)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            assert time.monotonic() < deadline, "the child outlived its parent"
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


def killed_run(tmp_path, kills: int, seed: int) -> None:
    """Train two quests while the process is killed with -9 at random instants; compare with the unkilled run."""
    profile = kit.micro_profile(training_defaults={"save_steps": 4, "gradient_accumulation": 2})
    steps = 14
    chance = random.Random(seed)

    def run(name, kills, window):
        home, engine = fresh(tmp_path, name)
        ids, a, b = two_quests(home, engine, profile)
        done_kills, begun = 0, time.monotonic()
        for data, begin in ((a, 0), (b, steps)):
            while True:
                battle = kit.order_battle(engine, profile, ids, data=data, steps=steps, begin=begin,
                                          parent=newest(engine))  # fmt: skip
                pid = kit.in_fork(home, battle)
                if done_kills < kills:
                    # Birth, loading, steps and checkpoints are all hit; what is left gets shorter with each save.
                    time.sleep(chance.uniform(0.02, window))
                    os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                row = kit.battle_row(engine, battle)
                if row["state"] == "done":
                    break
                assert status == signal.SIGKILL, f"battle ended without a kill: {row['error']}"
                done_kills += 1
                kit.want(engine, battle, state="failed", error="killed")  # as the arena closes it
        took = time.monotonic() - begun
        return took, done_kills, kit.curve(engine, ids["run_id"]), kit.weights_hash(home, engine, newest(engine)), home

    took, _, curve, weights, _ = run("whole", 0, 0)
    _, killed, curve_killed, weights_killed, home = run("killed", kills, 0.6 * took / 2)
    assert killed >= 2, "the instants missed the battle; choose others"
    assert [row[0] for row in curve] == list(range(1, 2 * steps + 1))
    assert curve_killed == curve
    assert weights_killed == weights
    from realm.vault import checkpoints

    checkpoints.sweep(home)
    assert not list(home.vault.glob("*/*/.tmp-*"))


def test_kill_9_at_random_instants_changes_nothing(tmp_path):
    killed_run(tmp_path, kills=8, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_kill_9_a_hundred_times_changes_nothing(tmp_path, seed):
    killed_run(tmp_path, kills=25, seed=seed)

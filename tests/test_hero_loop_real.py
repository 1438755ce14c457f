"""The hero loop with the real battle child and a micro hero: the closed loop, a kill, a file quest."""

import json
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa
from loop_kit import Tables, wait_for

from realm import db
from realm.settings import RealmHome
from realm.vault import checkpoints

pytestmark = pytest.mark.slow

HERO = """\
extends: pip
name: Micro
rpg_name: Micro the Mote
model:
  path_or_hub_id: embedded:micro
  architecture: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2, head_dim: 16,
                 intermediate_size: 64}
training_defaults: {batch_size: 8, save_steps: 100}
idle_generation: {samples: 240}
"""


@pytest.fixture
def micro(home):
    (home.heroes / "micro.yaml").write_text(HERO)
    (home.root / "settings.yaml").write_text("default_hero: micro\n")
    return RealmHome(home.root)


@pytest.fixture
def tables(home):
    made = Tables(home)
    yield made
    made.engine.dispose()


def start(home):
    command = [sys.executable, "-m", "realm.arena.hero_loop", "--home", str(home.root)]
    with open(home.logs / "arena.log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def end(process):
    if process.poll() is None:
        process.terminate()
        assert process.wait(60) == 0


def losses(tables):
    return {m["step"]: m["loss"] for m in tables.rows(db.metrics)}


def test_closed_loop_and_a_kill_that_changes_nothing(micro, tables):
    process = start(micro)
    try:
        wait_for(lambda: max(losses(tables), default=0) >= 42, 240, "12 steps into the second quest")
        pids = [process.pid, json.loads((micro.run / "battle-child.json").read_text())["pid"]]
        for pid in pids:
            subprocess.run(["kill", "-9", str(pid)], check=True)
        process.wait()
        before = losses(tables)
        quests = tables.quests()
        assert quests[0]["state"] == "done" and quests[1]["state"] == "training" and max(before) >= 42
        process = start(micro)
        wait_for(lambda: len(tables.quests(db.quests.c.state == "done")) >= 2, 240, "the second quest done")
    finally:
        end(process)
    after = losses(tables)
    assert {step: after[step] for step in before} == before, "the same losses, bit for bit"
    assert sorted(after)[:60] == list(range(1, 61))
    assert tables.quests()[1]["attempts"] == 0
    assert min(after[s] for s in range(50, 61)) < after[1], "it learns"
    kinds = {e["kind"] for e in tables.rows(db.events)}
    assert {"battle", "trial", "blessing", "checkpoint", "champion", "quest", "service", "campaign"} <= kinds
    blessings = tables.rows(db.blessings)
    assert len(blessings) >= 2 and all(b["ceremony"] == 1.0 for b in blessings)
    for row in tables.rows(db.checkpoints):
        assert checkpoints.verify(micro.root / row["path"], row["manifest_sha256"]) == []
    assert (micro.models / "current_model").resolve().is_dir()


def test_a_dropped_file_is_trained_probed_and_blessed(micro, tables):
    with db.write(tables.engine) as connection:
        connection.execute(sa.insert(db.realm_values).values(key="mode", value="train"))
    rows = [{"instruction": f"What comes after {n}?", "input": "", "output": f"After {n} comes {n + 1}."}
            for n in range(400)]  # fmt: skip
    (micro.inbox / "high" / "count.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + "{broken\n")
    process = start(micro)
    try:
        done = (db.quests.c.kind == "file", db.quests.c.state == "done")
        quest = wait_for(lambda: tables.quests(*done), 240, "the file quest done")[0]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    report = quest["report"]
    assert (report["format"], report["level"], report["rows"]["quarantined"]) == ("alpaca", "standard", 1)
    assert report["rows"]["train"] == quest["rows"] == 380 and report["tokens"]["total"] > 0
    blessing = next(b for b in tables.rows(db.blessings) if b["quest_id"] == quest["id"])
    probe = blessing["parts"]["probe"]
    assert probe["rows"] == 20 and probe["after"] < probe["before"] and blessing["verdict"] == "blessed"
    assert blessing["xp"] == pytest.approx(blessing["effort"]) and blessing["effort"] > 0

"""The closed loop on a live realm: what a person sees, what a file in the inbox does, what a kill costs."""

from __future__ import annotations

import json

import psutil
import pytest
import sqlalchemy as sa
from live import LiveRealm

from realm import db, services

pytestmark = pytest.mark.slow

# PIP made smaller, so that quests take seconds; everything else is the shipped recipe.
SMALL_PIP = """\
id: pip
model: {architecture: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2,
        head_dim: 16, intermediate_size: 64}}
training_defaults: {batch_size: 16, save_steps: 20}
idle_generation: {samples: 960}
"""
CHAT = [{"messages": [{"role": "user", "content": f"Say the word number {i}."},
                      {"role": "assistant", "content": f"word {i}"}]} for i in range(600)]  # fmt: skip


@pytest.fixture
def live():
    made = LiveRealm()
    made.home.create()
    (made.home.heroes / "pip.yaml").write_text(SMALL_PIP)
    yield made
    made.close()


def rows(live, query):
    engine = db.engine(live.home.database)
    try:
        with db.read(engine) as connection:
            return [dict(row) for row in connection.execute(query).mappings()]
    finally:
        engine.dispose()


def battle_child(live) -> psutil.Process | None:
    arena = services.noted(live.home, "arena")
    found = [p for p in arena.children() if "realm.arena.battle" in p.cmdline()] if arena else []
    return found[0] if found else None


def newest_metric(live) -> int:
    return rows(live, sa.select(sa.func.coalesce(sa.func.max(db.metrics.c.step), 0).label("step")))[0]["step"]


def test_the_loop_closes_and_survives(live):
    started = live.cli("start-all", "--until-battle", "120", timeout=180)
    assert f"http://localhost:{live.ports['tavern']}" in started.stdout and "is in battle" in started.stdout

    # The first quest ends with a checkpoint, a trial on held-out problems, a blessing and the next quest.
    first = live.wait("the first quest is done", lambda: rows(live, sa.select(db.quests).where(
        db.quests.c.state == "done").order_by(db.quests.c.created_at)), timeout=180)[0]  # fmt: skip
    assert rows(live, sa.select(db.checkpoints).where(db.checkpoints.c.quest_id == first["id"]))
    assert rows(live, sa.select(db.trials).where(db.trials.c.quest_id == first["id"]))
    assert rows(live, sa.select(db.blessings).where(db.blessings.c.quest_id == first["id"]))

    # A file in inbox/high is trained before any idle quest that had not begun, and its report is on the board.
    file = live.root / "chat.jsonl"
    lines = [json.dumps(row) for row in CHAT]
    file.write_text("\n".join([*lines[:300], "{broken", *lines[300:]]) + "\n")
    live.cli("quest", "add", str(file), "--lane", "high")
    mine = live.wait("the file is on the board", lambda: rows(live, sa.select(db.quests).where(
        db.quests.c.kind == "file")), timeout=30)[0]  # fmt: skip
    live.wait("the file is trained", lambda: rows(live, sa.select(db.quests).where(
        db.quests.c.id == mine["id"], db.quests.c.state == "done")), timeout=180)  # fmt: skip
    mine = rows(live, sa.select(db.quests).where(db.quests.c.id == mine["id"]))[0]
    later = rows(live, sa.select(db.quests).where(
        db.quests.c.kind == "idle", db.quests.c.started_at > mine["created_at"],
        db.quests.c.started_at < mine["started_at"]))  # fmt: skip
    assert later == [], "an idle quest began while a file waited in the high lane"
    report = json.loads(live.cli("quest", "report", mine["id"]).stdout)
    assert "301" in json.dumps(report), "the broken line's number is in the report"
    assert any("{broken" in p.read_text(errors="replace") for p in live.home.quarantine.rglob("*") if p.is_file())
    battle = rows(live, sa.select(db.battles).where(db.battles.c.quest_id == mine["id"]))[-1]
    assert battle["loss_after"] < battle["loss_before"]

    # kill -9 on the battle: the quest goes on from its last checkpoint.
    child = live.wait("a battle child", lambda: battle_child(live))
    at = newest_metric(live)
    child.kill()
    live.wait("training goes on", lambda: newest_metric(live) > at + 5, timeout=90)

    # kill -9 on everything, then start-all: it goes on where it was.
    before = rows(live, sa.select(sa.func.max(db.checkpoints.c.step).label("step")))[0]["step"]
    for process in live.processes():
        process.kill()
    live.wait("all are gone", lambda: not live.processes(), timeout=10)
    live.cli("start-all", "--until-battle", "120", timeout=180)
    assert live.status()["hero"]["step"] >= before
    live.wait("training goes on", lambda: newest_metric(live) > before + 5, timeout=90)
    live.wait("pages and command agree at rest", lambda: _agree(live), timeout=120)

    live.cli("stop-all")
    assert live.processes() == [] and not any(live.port_open(name) for name in live.ports)
    steps = [row["step"] for row in rows(live, sa.select(db.metrics.c.step).order_by(db.metrics.c.step))]
    assert steps == list(range(steps[0], steps[0] + len(steps))), "a step is missing or stands twice"


def _agree(live) -> bool:
    """Paused, `status --json`, `/api/state` and the database tell the same; False when the pause met a battle that
    had not done its first step, which has little to tell."""
    live.cli("battle", "pause")
    live.wait("paused", lambda: live.get("state", "/api/state")["battle"]["state"] == "paused", timeout=30)
    state, status = live.snapshot("tavern"), live.status()
    assert {key: status[key] for key in state} == state
    assert state["hero"]["step"] == newest_metric(live)
    live.cli("battle", "resume")
    return state["battle"]["step"] is not None

"""The battle child: exact resume, orders within one step, trials, failures that say why."""

from __future__ import annotations

import json

import hero_kit as kit
import pytest
import sqlalchemy as sa

from realm import db
from realm.settings import RealmHome

STEPS = 6


def fresh(tmp_path, name: str) -> tuple[RealmHome, sa.Engine]:
    home = RealmHome(tmp_path / name)
    db.migrate(home)
    return home, db.connect(home)


def two_quests(home, engine, profile):
    ids = kit.campaign(engine)
    kit.born(home, profile)
    return ids, kit.quest(home, engine, ids, "a", kit.conversations(9)), kit.quest(
        home, engine, ids, "b", kit.conversations(11, 50))  # fmt: skip


def whole(home, engine, profile):
    """Both quests in one process, never interrupted: the curve that every interrupted run must repeat."""
    from realm.arena.battle import Worker

    ids, a, b = two_quests(home, engine, profile)
    worker = Worker(home, "W")
    first = kit.order_battle(engine, profile, ids, data=a, steps=STEPS)
    worker.serve(dict(kit.battle_row(engine, first)))
    parent = kit.battle_row(engine, first)["checkpoint_id"]
    assert parent, kit.battle_row(engine, first)["error"]
    second = kit.order_battle(engine, profile, ids, data=b, steps=STEPS, begin=STEPS, parent=parent)
    held = worker.held
    worker.serve(dict(kit.battle_row(engine, second)))
    assert worker.held is held, "the second quest must use the hero in memory, not load it again"
    row = kit.battle_row(engine, second)
    assert (row["state"], row["outcome"], row["step"]) == ("done", "trained", 2 * STEPS)
    return kit.curve(engine, ids["run_id"]), kit.weights_hash(home, engine, row["checkpoint_id"])


@pytest.mark.parametrize("changes", [
    {},
    {"training_defaults": {"gradient_accumulation": 3, "batch_size": 2}},
    {"model": {"architecture": {"attention_dropout": 0.2}}},
    {"optimizer": {"type": "adamw"}},
], ids=["plain", "accumulation", "dropout", "adamw"])  # fmt: skip
def test_a_plus_b_equals_c(tmp_path, changes):
    """Interrupted inside a quest and at the quest boundary, each part in a new worker that reads from disk."""
    profile = kit.micro_profile(**changes)
    expected = whole(*fresh(tmp_path, "whole"), profile)

    home, engine = fresh(tmp_path, "parts")
    ids, a, b = two_quests(home, engine, profile)
    parent = None
    for data, begin, stops in ((a, 0, (2, None)), (b, STEPS, (1, 3, None))):
        for stop in stops:
            battle = kit.order_battle(engine, profile, ids, data=data, steps=STEPS, begin=begin, parent=parent)
            row = stop_after(home, engine, battle, None if stop is None else begin + stop)
            assert row["outcome"] == ("trained" if stop is None else "stopped"), row["error"]
            parent = row["checkpoint_id"]
    assert kit.curve(engine, ids["run_id"]) == expected[0]
    assert kit.weights_hash(home, engine, parent) == expected[1]


def stop_after(home, engine, battle, step):
    """Serve a battle and set desired = stop once it has reached the campaign step."""
    from realm.arena import pulse

    seen = pulse.Pulse.step

    def watching(self, facts):
        if step is not None and facts.step == step:
            kit.want(engine, battle, desired="stop")
        return seen(self, facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pulse.Pulse, "step", watching)
        return kit.serve_here(home, engine, battle)


def test_state_on_disk_is_json_and_safetensors(tmp_path):
    home, engine = fresh(tmp_path, "home")
    profile = kit.micro_profile()
    ids, a, _ = two_quests(home, engine, profile)
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=3))
    folder = (home.models / "current_model").resolve()
    with engine.connect() as connection:
        path = connection.execute(sa.select(db.checkpoints.c.path)).scalar_one()
    assert folder == home.root / path
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "manifest.json", "resume/state.json",
            "resume/optimizer.safetensors"} <= files  # fmt: skip
    assert {p.rpartition(".")[2] for p in files} <= {"json", "safetensors", "jinja"}
    state = json.loads((folder / "resume/state.json").read_text())
    assert (state["step"], state["cursor"], state["quest_id"]) == (3, 12, a["quest_id"])
    assert row["start_step"] == 0 and row["total_steps"] == 3

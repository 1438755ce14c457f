"""Token maps in a battle, in the database, on the command line; the alarm about lopsided weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import hero_kit as kit
import pytest
import sqlalchemy as sa

from realm import db
from realm.arena import token_maps
from realm.arena.token_maps import MassWatch


def fake_map(row=0, policy="dft"):
    tokens = {"text": ["a"], "trained": [True], "weight": [1.0], "surprisal": [None], "entropy": [None]}
    return SimpleNamespace(row=row, policy=policy, tokens=lambda: tokens)


@pytest.fixture
def engine(home):
    made = db.connect(home)
    yield made
    made.dispose()


def test_newer_maps_replace_older_ones_and_old_battles_go(engine, monkeypatch):
    monkeypatch.setattr(token_maps, "KEPT_BATTLES", 2)
    with db.write(engine) as connection:
        for battle in ("B1", "B2", "B3"):
            token_maps.record(connection, battle, 1, [fake_map(5), fake_map(6)])
        token_maps.record(connection, "B3", 9, [fake_map(7)])
    with db.read(engine) as connection:
        found = {battle: token_maps.of_battle(connection, battle) for battle in ("B1", "B2", "B3")}
    assert found["B1"] == {"battle_id": "B1", "step": None, "policy": None, "rows": []}
    assert [row["row"] for row in found["B2"]["rows"]] == [5, 6]
    assert (found["B3"]["step"], [row["row"] for row in found["B3"]["rows"]]) == (9, [7])


def test_the_alarm_is_raised_once_and_only_when_it_lasts():
    watch = MassWatch()
    assert not any(watch.add(0.9) for _ in range(token_maps.ALARM_STEPS - 1))
    assert not watch.add(0.49), "below half: the count begins anew"
    assert [watch.add(0.5) for _ in range(2 * token_maps.ALARM_STEPS)].count(True) == 1
    assert not any(MassWatch().add(None) for _ in range(100))


@pytest.fixture
def fought(home, engine):
    """A battle of six steps with a policy of the quest's own; returns its row."""
    profile = kit.micro_profile()
    kit.born(home, profile)
    ids = kit.campaign(engine)
    data = kit.quest(home, engine, ids, "a", kit.conversations(40))
    battle = kit.order_battle(engine, profile, ids, data=data, steps=6, options={"oracle_eye": {"policy": "surprisal"}})
    return kit.serve_here(home, engine, battle)


def test_a_battle_keeps_its_token_maps_and_what_the_weights_did(fought, engine):
    assert (fought["state"], fought["outcome"]) == ("done", "trained")
    with db.read(engine) as connection:
        found = token_maps.of_battle(connection, fought["id"])
        facts = connection.execute(sa.select(db.metrics.c.facts, db.metrics.c.trained_tokens)).all()
    assert (found["policy"], found["step"], len(found["rows"])) == ("surprisal", 6, 4)
    assert all({len(values) for name, values in row.items() if name != "row"} == {len(row["text"])}
               for row in found["rows"])  # fmt: skip
    assert len(facts) == 6
    assert all(1 <= f.facts["effective_tokens"] < f.trained_tokens and 0 < f.facts["top_mass"] < 1 for f in facts)


def test_a_wrong_policy_of_a_quest_fails_the_battle_with_the_nearest(home, engine):
    profile = kit.micro_profile()
    kit.born(home, profile)
    ids = kit.campaign(engine)
    data = kit.quest(home, engine, ids, "a", kit.conversations(8))
    battle = kit.order_battle(engine, profile, ids, data=data, steps=2, options={"oracle_eye": {"policy": "dtf"}})
    row = kit.serve_here(home, engine, battle)
    assert row["state"] == "failed" and "'dft'" in row["error"]


def test_lopsided_weights_are_told_as_an_alert(home, engine, monkeypatch):
    monkeypatch.setattr(token_maps, "ALARM_STEPS", 2)
    monkeypatch.setattr(token_maps, "ALARM_MASS", 0.01)
    profile = kit.micro_profile(oracle_eye={"policy": "focal"})
    kit.born(home, profile)
    ids = kit.campaign(engine)
    data = kit.quest(home, engine, ids, "a", kit.conversations(8))
    kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=data, steps=6))
    with db.read(engine) as connection:
        table = db.events
        found = connection.execute(sa.select(table).where(table.c.kind == "alert")).mappings().all()
    assert [event["payload"]["code"] for event in found] == ["lopsided_weights"]
    assert "tokens count" in found[0]["text"] and json.dumps(found[0]["payload"])

"""Token maps in a battle, in the database, on the command line; the alarm about lopsided weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import hero_kit as kit
import pytest
import sqlalchemy as sa

from realm import db
from realm.arena import token_maps
from realm.arena.token_maps import LookError, MassWatch
from realm.state import queries


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
        found = {battle: queries.token_maps(connection, battle) for battle in ("B1", "B2", "B3")}
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
        found = queries.token_maps(connection, fought["id"])
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


# --- command line, API, page -----------------------------------------------------------------------------------------

def cli(home, monkeypatch, *words):
    from typer.testing import CliRunner

    from realm.cli import app

    monkeypatch.setenv("REALM_HOME", str(home.root))
    return CliRunner().invoke(app, ["battle", "tokens", *words])


def test_the_command_shows_the_stored_maps_and_looks_anew(fought, home, engine, monkeypatch):
    shown = cli(home, monkeypatch)
    assert shown.exit_code == 0 and "policy surprisal" in shown.output
    assert {line.split()[1] for line in shown.output.splitlines() if "<|im_end|>" in line} == {"trained", "masked"}
    stored = json.loads(cli(home, monkeypatch, fought["id"], "--json").output)
    with db.read(engine) as connection:
        assert stored == queries.token_maps(connection, fought["id"])
    number = stored["rows"][0]["row"]
    again = json.loads(cli(home, monkeypatch, "--row", str(number), "--policy", "dft", "--json").output)
    assert again["policy"] == "dft" and again["step"] == 6
    for name in ("text", "trained"):
        assert again["rows"][0][name] == stored["rows"][0][name]
    assert again["rows"][0]["surprisal"][1:] == pytest.approx(stored["rows"][0]["surprisal"][1:], abs=1e-3)
    assert again["rows"][0]["weight"] != stored["rows"][0]["weight"]


@pytest.mark.parametrize(("words", "said"), [
    (["--policy", "dft"], "--row 0"), (["nope"], "no battle nope"), (["--row", "40"], "rows 0 to 39"),
    (["--row", "-1"], "rows 0 to 39"), (["--row", "0", "--policy", "dtf"], "dft"),
])  # fmt: skip
def test_the_command_refuses_in_words(fought, home, monkeypatch, words, said):
    found = cli(home, monkeypatch, *words)
    assert found.exit_code != 0 and said in str(found.exception)


def test_rows_that_a_school_made_or_that_are_gone_are_refused(fought, home, engine):
    mirror = {**fought, "config": {**fought["config"], "school": "mirror"}}
    with pytest.raises(LookError, match="without --row"):
        token_maps.look(home, engine, mirror, 0)
    (home.root / fought["config"]["data"]["path"]).unlink()
    with pytest.raises(LookError, match="is gone"):
        token_maps.look(home, engine, fought, 0)


def test_api_and_page_show_the_map(tmp_path):
    from fastapi.testclient import TestClient
    from tavern_kit import Play, fresh_home

    from realm.tavern.app import create_app

    home = fresh_home(tmp_path / "realm")
    play = Play(home)
    play.won_battle()
    with TestClient(create_app(home), base_url="http://127.0.0.1") as client:
        assert client.get("/api/battles/current/tokens").json()["rows"] == []
        assert 'id="battle-tokens"' not in client.get("/battle").text
        play.token_map("<b>", "a b", "\n", "=", "7")
        told = client.get("/api/battles/current/tokens").json()
        page = client.get("/battle").text
        assert client.get("/api/battles/nope/tokens").status_code == 404
    play.close()
    assert (told["policy"], told["rows"][0]["text"][0]) == ("dft", "<b>")
    assert told["rows"][0]["weight"] == [None, None, 2.0, 1.0, 0.6667]
    assert "&lt;b&gt;, masked" in page and "<b>, masked" not in page
    assert "↵, trained, weight 2.000, surprisal 0.500, entropy 0.500 nats" in page and "a·b, masked" in page

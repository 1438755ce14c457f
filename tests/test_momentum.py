"""What stands in the way: told once, the same in command line, API and page, gone when it is mended."""

from __future__ import annotations

import json
import os

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from tavern_kit import Play

from realm import db, services
from realm.arena import commands
from realm.settings import RealmHome
from realm.state import momentum
from realm.state.router import create_state_app
from realm.state.stream import hub_of
from realm.temple import verdicts

BASE = "http://localhost"


@pytest.fixture
def play(home):
    services.leave_note(home, "arena", os.getpid())
    made = Play(home)
    yield made
    made.close()


@pytest.fixture
def client(home, play):
    with TestClient(create_state_app(home), base_url=BASE) as made:
        yield made
    hub_of(home).close()


def blockers(home, play) -> list[momentum.Blocker]:
    with db.read(play.engine) as connection:
        return list(momentum.momentum(connection, home).blockers)


def failed_quest(play) -> str:
    quest = play.add_quest("hard.jsonl", skill=None, level=None, state="failed", error="3 attempts")
    play.emit("alert", "Quest hard.jsonl failed 3 times", "trouble", alert_id=f"quest:{quest}", code="quest_failed",
              what="training quest hard.jsonl", why="out of memory", fix="Mend it, then retry.",
              action={"kind": "quest.retry", "payload": {"quest_id": quest}})  # fmt: skip
    return quest


def bad_order(play, order: str = "oracle", status: str = "fail") -> None:
    check = {"name": "inference", "status": status, "details": "no answer", "remedy": "start it"}
    with play.write() as connection:
        verdicts.keep(connection, {"order": order, "status": status, "t": db.now(), "seconds": 1, "checks": [check]},
                      "hour")  # fmt: skip


def test_nothing_in_the_way(home, play):
    assert blockers(home, play) == []


def test_an_alert_holds_until_its_cause_is_gone(home, play):
    quest = failed_quest(play)
    [found] = blockers(home, play)
    assert (found.what, found.why, found.fix) == ("training quest hard.jsonl", "out of memory", "Mend it, then retry.")
    assert (found.act.kind, found.act.payload, found.act.label) == (
        "quest.retry", {"quest_id": quest}, "Retry the quest")  # fmt: skip
    with play.write() as connection:
        connection.execute(sa.update(db.events).values(t=db.now() - 90_000))
    assert len(blockers(home, play)) == 1, "a quest that failed yesterday still stands there"
    with play.write() as connection:
        connection.execute(sa.update(db.quests).values(state="queued"))
    assert blockers(home, play) == []


def test_other_alerts_are_told_for_half_an_hour_and_once(home, play):
    for _ in range(3):
        play.emit("alert", "Rows were dropped.", "trouble", alert_id="dropped:1", code="rows_dropped", fix="Look.")
    assert [b.title for b in blockers(home, play)] == ["Rows were dropped."]
    with play.write() as connection:
        connection.execute(sa.update(db.events).values(t=db.now() - momentum.ALERT_S - 1))
    assert blockers(home, play) == []


def test_a_rest_for_trouble_is_a_stop_until_it_is_over(home, play):
    play.mode("rest")
    play.emit("alert", "Training stopped after 5 failed battles", "trouble", alert_id="battles:1",
              code="battles_failed", what="training", why="no memory", fix="Mend it.",
              action={"kind": "battle.resume", "payload": {}})  # fmt: skip
    found = blockers(home, play)
    assert [(b.code, b.weight) for b in found] == [("battles_failed", "stop"), ("rest", "note")]
    play.mode("train")
    play.mode("rest")
    assert [b.code for b in blockers(home, play)] == ["rest"], "it rests again, for another reason"


def test_order_of_weights_and_every_blocker_says_all(home, play, monkeypatch):
    play.mode("rest")
    failed_quest(play)
    bad_order(play, "weaver")
    bad_order(play, "oracle")
    bad_order(play, "guild", "warn")
    (home.run / "arena.json").unlink()
    full = {"max": 1, "free": 400_000_000, "keep_free": 500_000_000}
    monkeypatch.setattr("realm.state.uploads.limits", lambda home: full)
    found = blockers(home, play)
    assert [b.weight for b in found] == ["stop", "stop", "stop", "warn", "warn", "note"]
    assert {b.code for b in found} == {"arena", "disk", "temple_oracle", "temple_weaver", "quest_failed", "rest"}
    for each in found:
        assert each.what and each.why and each.fix and (each.command or each.act), each


def test_every_button_gives_an_order_that_the_arena_knows():
    assert set(momentum.LABELS) <= set(commands.HANDLERS)
    assert momentum.act_of({"kind": "format.disk", "payload": {}}) is None and momentum.act_of("x") is None


def test_one_click_over_http(client, play):
    quest = failed_quest(play)
    [told] = client.get("/api/momentum").json()["blockers"]
    answer = client.post(f"/api/momentum/{told['id']}", headers={"Idempotency-Key": "click-0001"})
    assert answer.status_code == 202 and answer.json()["command_id"] == "click-0001"
    assert client.post(f"/api/momentum/{told['id']}", headers={"Idempotency-Key": "click-0001"}).status_code == 202
    assert play.commands() == [("quest.retry", {"quest_id": quest})]
    assert client.post("/api/momentum/gone").status_code == 404
    play.emit("alert", "Odd.", "trouble", alert_id="odd", code="odd", fix="Think.")
    odd = client.get("/api/momentum").json()["blockers"][0]
    answer = client.post(f"/api/momentum/{odd['id']}")
    assert answer.status_code == 409 and "Think." in answer.json()["detail"]


def test_the_same_in_the_terminal(home, play, run):
    assert run("momentum")[:2] == (0, "nothing stands in the way\n")
    bad_order(play)
    code, out, _ = run("momentum")
    assert code == 1 and "remedy: start it" in out and "momentum --do temple-oracle" in out
    code, out, _ = run("momentum", "--json")
    assert json.loads(out)["blockers"][0]["id"] == "temple-oracle"
    code, out, _ = run("status")
    assert code == 0 and "blocked" in out and "inference: no answer" in out
    assert json.loads(run("status", "--json")[1])["blockers"][0]["code"] == "temple_oracle"
    (home.run / "arena.json").unlink()
    assert run("momentum", "--do", "temple-oracle")[0] == 0
    assert play.commands()[-1] == ("temple.run", {"order": "oracle", "fix": True})
    code, _, err = run("momentum", "--do", "nothing")
    assert code == 1 and "those that do: temple-oracle" in err


def test_an_empty_board_without_idle_practice(home, play):
    (home.root / "settings.yaml").write_text("idle_generation: false\n")
    [found] = blockers(RealmHome(home.root), play)
    assert found.code == "empty_board" and str(home.inbox) in found.fix


def test_the_temple_over_http(client, play):
    play.won_battle()
    bad_order(play)
    told = client.get("/api/temple").json()
    assert len(told["orders"]) == 9 and told["experience"] == 40.0 and told["count"] == 1
    oracle = next(o for o in told["orders"] if o["id"] == "oracle")
    assert oracle["status"] == "fail" and 0 <= oracle["age"] < 60 and oracle["command"].endswith("temple oracle")
    assert next(o for o in told["orders"] if o["id"] == "quick")["status"] is None
    answer = client.post("/api/temple/oracle", json={"fix": True})
    assert answer.status_code == 202 and play.commands() == [("temple.run", {"order": "oracle", "fix": True})]
    assert [o["id"] for o in client.get("/api/temple").json()["orders"] if o["asked"]] == ["oracle"]
    assert client.post("/api/temple/nobody").status_code == 404
    assert client.post("/api/temple/quick", json={"fxi": 1}).status_code == 422
    assert client.get("/api/temple/quick").status_code == 405

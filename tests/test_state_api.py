"""The API: orders, their idempotency, who may give them, uploads, curves."""

from __future__ import annotations

import csv
import io
import re

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from tavern_kit import Play, fresh_home

from realm import db
from realm.settings import RealmHome
from realm.state.reader import read_snapshot
from realm.state.router import create_state_app
from realm.state.stream import hub_of
from realm.state.uploads import UploadError, safe_name

BASE = "http://localhost:8866"


@pytest.fixture
def home(tmp_path):
    return fresh_home(tmp_path / "realm")


@pytest.fixture
def play(home):
    made = Play(home)
    yield made
    made.close()


@pytest.fixture
def client(home):
    with TestClient(create_state_app(home), base_url=BASE) as made:
        yield made
    hub_of(home).close()


def commands(engine) -> list[tuple[str, dict]]:
    with db.read(engine) as connection:
        return [(row.kind, row.payload) for row in connection.execute(sa.select(db.commands).order_by(db.commands.c.t))]


def test_state_is_the_readers_snapshot(home, play, client):
    play.won_battle()
    shown, read = client.get("/api/state").json(), read_snapshot(home).model_dump(mode="json")
    assert {**shown, "t": 0} == {**read, "t": 0}


def test_one_key_one_order(client, engine):
    key = {"Idempotency-Key": "0123456789abcdef"}
    first, again = client.post("/api/battle/pause", headers=key), client.post("/api/battle/pause", headers=key)
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json() == {"command_id": "0123456789abcdef"}
    assert commands(engine) == [("battle.pause", {})]
    other = client.post("/api/battle/stop", headers=key)
    assert other.status_code == 422 and "battle.pause" in other.json()["detail"]
    assert client.post("/api/battle/pause", headers={"Idempotency-Key": "x y"}).status_code == 422
    assert client.get("/api/commands/0123456789abcdef").json()["state"] == "pending"
    assert client.get("/api/commands/nothing-here").status_code == 404


def test_every_order_becomes_its_command(client, engine, play):
    quest = play.add_quest()
    for path, body, kind, payload in [
        ("battle/pause", None, "battle.pause", {}), ("battle/resume", None, "battle.resume", {}),
        ("battle/stop", None, "battle.stop", {}), ("battle/skip", None, "battle.skip", {}),
        ("battle/save", None, "battle.save", {}), ("mode", {"mode": "rest"}, "mode", {"mode": "rest"}),
        (f"quests/{quest}/retry", None, "quest.retry", {"quest_id": quest}),
        (f"quests/{quest}/move", {"lane": "high"}, "quest.move", {"quest_id": quest, "lane": "high"}),
        (f"quests/{quest}/school", {"school": "mirror"}, "quest.school", {"quest_id": quest, "school": "mirror"}),
        (f"quests/{quest}/hold", None, "quest.hold", {"quest_id": quest}),
        (f"quests/{quest}/hold", {"hold": False}, "quest.unhold", {"quest_id": quest}),
        ("skills/bin/trial", None, "trial.run", {"skill": "bin"}),
        ("skills/bin/trial", {"level": 4}, "trial.run", {"skill": "bin", "level": 4}),
        ("skills/bin/generate", {"level": 2}, "idle.generate", {"skill": "bin", "level": 2}),
    ]:  # fmt: skip
        answer = client.post(f"/api/{path}", json=body) if body else client.post(f"/api/{path}")
        assert answer.status_code == 202 and answer.json()["command_id"], (path, answer.text)
        assert commands(engine)[-1] == (kind, payload)
    assert client.delete(f"/api/quests/{quest}").status_code == 202
    assert commands(engine)[-1] == ("quest.delete", {"quest_id": quest})


@pytest.mark.parametrize(("path", "body", "status", "word"), [
    ("battle/explode", None, 422, "pause"), ("mode", {"mode": "sleep"}, 422, "train"), ("mode", {}, 422, "mode"),
    ("quests/nope/school", {"school": "jugde"}, 422, "did you mean 'judge'"),
    ("quests/nope/retry", None, 404, "/api/quests"), ("skills/bni/trial", None, 404, "bin"),
    ("skills/bin/trial", {"level": 31}, 422, "1 to 30"), ("skills/bin/trial", {"stage": 3}, 422, "stage"),
])  # fmt: skip
def test_wrong_orders_say_what_is_right(client, engine, path, body, status, word):
    answer = client.post(f"/api/{path}", json=body)
    assert answer.status_code == status and word in answer.json()["detail"]
    assert commands(engine) == []


def command_paths() -> list[str]:
    """Every POST or DELETE route of the API that does not also tell something, with parameters filled in."""
    app = create_state_app(RealmHome())
    found = app.openapi()["paths"]
    assert len(found) > 15
    return sorted({re.sub(r"\{\w+\}", "pause", path) for path, methods in found.items()
                   if {"post", "delete"} & set(methods) and "get" not in methods})


def test_get_on_an_order_is_405(client, engine):
    paths = command_paths()
    assert len(paths) >= 8
    for path in paths:
        assert client.get(path).status_code == 405, path
    assert commands(engine) == []


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 202), ({"Origin": BASE}, 202), ({"Sec-Fetch-Site": "same-origin", "Origin": BASE}, 202),
    ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:9999"}, 403),
    ({"Origin": "http://localhost:9999"}, 403),
    ({"Host": "evil.example"}, 421), ({"Host": "localhost.evil.example"}, 421), ({"Host": "127.0.0.1:1"}, 202),
])  # fmt: skip
def test_who_may_give_orders(client, engine, headers, status):
    assert client.post("/api/battle/pause", headers=headers).status_code == status
    assert len(commands(engine)) == (1 if status == 202 else 0)


def test_foreign_host_reads_nothing(client):
    assert client.get("/api/state", headers={"Host": "rebound.example"}).status_code == 421


def test_security_headers_on_answers_and_refusals(client):
    for answer in (client.get("/api/state"), client.get("/api/state", headers={"Host": "x"}), client.get("/nothing")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "script-src 'self'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_beyond_loopback_a_token_is_asked(home):
    wide = RealmHome(home.root, {"REALM_HOST": "0.0.0.0", "REALM_TOKEN": "open sesame"})
    with TestClient(create_state_app(wide), base_url="http://192.168.1.20:8866") as client:
        assert client.get("/api/state").status_code == 401
        assert client.get("/api/state", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/api/state", headers={"Authorization": "Bearer open sesame"}).status_code == 200
        assert client.get("/api/state?token=open sesame").status_code == 200
        assert client.get("/api/state").status_code == 200, "the cookie of the answer before should do"
        client.cookies.clear()
        assert client.get("/api/state").status_code == 401
    hub_of(wide).close()


# --- uploads ------------------------------------------------------------------------------------------------------


def test_upload_lands_whole_under_its_name(home, client):
    data = b'{"messages": []}\n' * 5000
    answer = client.post("/api/inbox?lane=high", files={"file": ("My quest.jsonl", data)})
    assert answer.status_code == 201
    (told,) = answer.json()["files"]
    assert told == {"name": "My quest.jsonl", "lane": "high", "bytes": len(data),
                    "path": str(home.inbox / "high" / "My quest.jsonl")}  # fmt: skip
    assert (home.inbox / "high" / "My quest.jsonl").read_bytes() == data
    assert [p.name for p in (home.inbox / "high").iterdir()] == ["My quest.jsonl"]


def test_same_name_twice_keeps_both(home, client):
    for body in (b"one", b"two", b"three"):
        assert client.post("/api/inbox", files={"file": ("q.jsonl", body)}).status_code == 201
    folder = home.inbox / "normal"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        "q.jsonl": b"one", "q-2.jsonl": b"two", "q-3.jsonl": b"three"}  # fmt: skip


def test_lane_field_and_several_files(home, client):
    files = [("lane", (None, "low")), ("file", ("a.jsonl", b"a")), ("file", ("b.jsonl", b"b"))]
    assert len(client.post("/api/inbox", files=files).json()["files"]) == 2
    assert {p.name for p in (home.inbox / "low").iterdir()} == {"a.jsonl", "b.jsonl"}


def test_plain_form_goes_back_to_the_board(client):
    answer = client.post("/api/inbox", files={"file": ("a.jsonl", b"a")}, headers={"Accept": "text/html"},
                         follow_redirects=False)  # fmt: skip
    assert (answer.status_code, answer.headers["location"]) == (303, "/quests")


@pytest.mark.parametrize(("name", "kept"), [
    ("../../etc/passwd", "passwd"), ("C:\\temp\\x.jsonl", "x.jsonl"), (".hidden.jsonl", "hidden.jsonl"),
    ("a\x00b\n.jsonl", "ab.jsonl"), ("x" * 300 + ".jsonl", "x" * 100 + ".jsonl"), ("naïve.jsonl", "naïve.jsonl"),
    ("backup.jsonl~", "backup.jsonl"), ("<img src=x>.jsonl", "img src=x.jsonl"),
])  # fmt: skip
def test_names_are_made_safe(name, kept):
    assert safe_name(name) == kept


@pytest.mark.parametrize("name", ["", "...", "/", "~"])
def test_names_without_substance_are_refused(name):
    with pytest.raises(UploadError):
        safe_name(name)


def leftovers(home) -> list[str]:
    return [p.name for p in home.inbox.rglob("*") if p.is_file()]


def test_refused_uploads_leave_nothing(home, client):
    small = RealmHome(home.root, {"REALM_MAX_INBOX_BYTES": "1000"})
    with TestClient(create_state_app(small), base_url=BASE) as limited:
        # Both by the announced length and, for a client that lies, by what has come.
        answer = limited.post("/api/inbox", files={"file": ("big.jsonl", b"x" * 5000)})
        assert answer.status_code == 413 and "1,000 bytes" in answer.json()["detail"]
        body = b'--b\r\ncontent-disposition: form-data; name="file"; filename="big.jsonl"\r\n\r\n' + b"x" * 5000
        lying = limited.post("/api/inbox", content=iter([body, b"\r\n--b--\r\n"]),
                             headers={"content-type": "multipart/form-data; boundary=b"})  # fmt: skip
        assert lying.status_code == 413
    full = RealmHome(home.root, {"REALM_MIN_FREE_DISK": str(10**18)})
    with TestClient(create_state_app(full), base_url=BASE) as limited:
        answer = limited.post("/api/inbox", files={"file": ("a.jsonl", b"a")})
        assert answer.status_code == 507 and "must stay free" in answer.json()["detail"]
    assert client.post("/api/inbox", content=b"{}").status_code == 415
    for name in ("a.json", "a.txt", "a.csv", "a.jsonl.gz", "jsonl"):
        answer = client.post("/api/inbox", files={"file": (name, b"{}")})
        assert answer.status_code == 422 and f"{name} is no .jsonl file" in answer.json()["detail"]
    assert client.post("/api/inbox?lane=urgent", files={"file": ("a.jsonl", b"a")}).status_code == 422
    assert client.post("/api/inbox", files={"lane": (None, "high")}).status_code == 422
    cut = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\nhalf of'
    answer = client.post("/api/inbox", content=cut, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code in (400, 422)
    assert leftovers(home) == []


def test_limits_are_told(home, client):
    told = client.get("/api/quests").json()
    assert told["limits"]["max"] == home.settings.max_inbox_bytes and told["limits"]["free"] > 0
    assert told["inbox_path"] == str(home.inbox)


# --- curves -------------------------------------------------------------------------------------------------------


def test_series_json_and_csv(client, play):
    play.arm()
    play.begin()
    play.train(40)
    told = client.get(f"/api/battles/{play.battle}/series?points=12").json()
    assert len(told["step"]) <= 12 and told["steps"] == 40 and told["zero"] == 0
    assert client.get("/api/battles/current/series").json()["battle_id"] == play.battle
    assert client.get("/api/battles/nope/series").status_code == 404
    rows = list(csv.DictReader(io.StringIO(client.get(f"/api/battles/{play.battle}/series.csv").text)))
    assert [int(row["step"]) for row in rows] == list(range(1, 41)) and float(rows[0]["loss"]) > 0


def test_lists_answer(client, play):
    champion = play.won_battle()
    assert client.get("/api/trials?skill=bin").json()[0]["verdict"] == "pass"
    assert client.get("/api/skills").json()[0]["mastered_level"] == 1
    told = client.get("/api/checkpoints").json()
    assert told["champion"] == champion == told["checkpoints"][0]["id"] and told["checkpoints"][0]["trials"]
    log = client.get("/api/log?level=deed&limit=3").json()
    assert len(log["events"]) == 3 and all(e["level"] == "deed" for e in log["events"])
    newer = client.get(f"/api/log?after={log['last_id'] - 2}").json()["events"]
    assert [e["id"] for e in newer] == [log["last_id"], log["last_id"] - 1]

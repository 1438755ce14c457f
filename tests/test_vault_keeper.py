"""VaultKeeper over HTTP: answers, orders, and requests that try to reach a file they should not."""

from __future__ import annotations

import hashlib

import hero_kit
import pytest
import sqlalchemy as sa
import vault_kit as kit
from fastapi.testclient import TestClient

from realm import db, services
from realm.serve import APPS
from realm.vault import trash


@pytest.fixture
def three(home, engine):
    ids = hero_kit.campaign(engine)
    return [kit.saved(home, engine, ids, step, hours=100 - step / 10) for step in (1, 10, 100)]


@pytest.fixture
def client(home, three):
    with TestClient(APPS["vault"](home), base_url="http://localhost:8767") as made:
        yield made


def orders(engine) -> list[tuple]:
    with db.read(engine) as connection:
        rows = connection.execute(sa.select(db.commands).order_by(db.commands.c.t, db.commands.c.id)).mappings()
        return [(row["kind"], row["payload"]) for row in rows]


def test_it_is_a_service_with_a_port(home):
    service = services.by_name("vault")
    assert (service.title, service.process, home.settings.port("vault")) == ("VaultKeeper", "realm", 8767)


def test_reading(client, home, engine, three):
    assert client.get("/health").json() == {"status": "ok"}
    listed = client.get("/api/vault").json()["checkpoints"]
    assert [row["id"] for row in listed] == three[::-1] and listed[0]["protected"] == ["latest of its campaign"]
    assert client.get("/api/vault?limit=1").json()["checkpoints"][0]["step"] == 100
    assert client.get(f"/api/vault/{three[0]}").json()["manifest"]["step"] == 1
    assert client.get(f"/api/vault/{three[0]}/lineage").json()["step"] == 1
    assert client.get(f"/api/vault/compare?one={three[0]}&other={three[1]}").json()["metrics"]["step"] == [1, 10]
    assert [zone["zone"] for zone in client.get("/api/vault/disk").json()["zones"]] == ["hot", "warm", "deep"]
    plan = client.get("/api/vault/retention").json()
    assert plan["going"] == 0 and len(plan["decisions"]) == 3 and plan["decisions"][0]["reason"]
    assert client.get("/api/vault/exports").json() == {"exports": []}
    for path in ("/api/vault/nope", "/api/vault/10", "/api/vault/nope/lineage", "/api/vault/orders/x",
                 f"/api/vault/compare?one={three[0]}&other=1"):
        answer = client.get(path)
        assert answer.status_code == 404 and answer.json()["detail"], path
    trash.delete(home, engine, {three[0]: "test"})
    assert client.get("/api/vault?state=trash").json()["checkpoints"][0]["id"] == three[0]


def test_every_order_is_noted_once_and_read_only_ones_are_not(client, engine, three):
    key = {"Idempotency-Key": "the-same-key"}
    one = client.post(f"/api/vault/{three[0]}/pin", headers=key)
    assert one.status_code == 202 and client.post(f"/api/vault/{three[0]}/pin", headers=key).json() == one.json()
    assert client.get(f"/api/vault/orders/{one.json()['command_id']}").json()["state"] == "pending"
    assert client.post(f"/api/vault/{three[1]}/pin", headers=key).status_code == 422
    named = {"checkpoint_id": three[0]}
    for call, expected in (
        (("POST", f"{three[0]}/unpin", None), ("vault.pin", {**named, "pinned": False})),
        (("POST", f"{three[0]}/promote", None), ("vault.promote", named)),
        (("POST", f"{three[0]}/demote", None), ("vault.demote", named)),
        (("POST", f"{three[0]}/verify", None), ("vault.verify", named)),
        (("POST", f"{three[0]}/restore", None), ("vault.restore", named)),
        (("POST", f"{three[0]}/move", {"zone": "deep"}), ("vault.move", {**named, "zone": "deep"})),
        (("POST", f"{three[0]}/export", {"format": "gguf"}), ("vault.export", {**named, "format": "gguf",
                                                                              "quantize": "f32"})),
        (("PATCH", f"{three[0]}/tags", {"add": ["x"]}), ("vault.tag", {**named, "add": ["x"], "drop": []})),
        (("DELETE", three[0], {"confirm": three[0]}), ("vault.delete", named)),
        (("POST", "retention", {"going": 0}), ("vault.retention", {})), (("POST", "trash/empty", None),
                                                                        ("vault.empty", {})),
        (("POST", "verify", None), ("vault.verify", {})),
    ):
        method, path, body = call
        answer = client.request(method, f"/api/vault/{path}", json=body)
        assert answer.status_code == 202, (call, answer.text)
        assert orders(engine)[-1] == expected


def test_what_is_refused_is_not_noted(client, engine, three):
    for method, path, body, status in (
        ("DELETE", three[2], {"confirm": three[2]}, 422), ("DELETE", three[0], {"confirm": three[1]}, 422),
        ("DELETE", three[0], None, 422), ("DELETE", "10", {"confirm": "10"}, 404),
        ("POST", f"{three[0]}/move", {"zone": "../../etc"}, 422), ("POST", "retention", {"going": 5}, 409),
        ("POST", f"{three[0]}/export", {"format": "pickle"}, 422), ("POST", f"{three[0]}/eat", None, 422),
        ("PATCH", f"{three[0]}/tags", {"add": "x"}, 422), ("POST", "import", {"name": "../x", "hero_id": "pip"}, 422),
        ("POST", "import", {"name": "/etc", "hero_id": "pip"}, 422), ("GET", f"{three[0]}/pin", None, 405),
        ("GET", "trash/empty", None, 405),
    ):
        answer = client.request(method, f"/api/vault/{path}", json=body)
        assert answer.status_code == status and answer.json()["detail"], (method, path, answer.status_code, answer.text)
    assert orders(engine) == []


def test_files_are_served_by_their_name_in_the_manifest_and_no_other(client, home, engine, three):
    weights = home.root / kit.row(engine, three[0])["path"] / "model.safetensors"
    answer = client.get(f"/api/vault/{three[0]}/files/model.safetensors")
    assert answer.content == weights.read_bytes()
    assert answer.headers["x-sha256"] == hashlib.sha256(answer.content).hexdigest()
    assert client.get(f"/api/vault/{three[0]}/files/resume/state.json").status_code == 200
    manifest = client.get(f"/api/vault/{three[0]}/files/manifest.json")
    assert manifest.headers["x-sha256"] == hashlib.sha256(manifest.content).hexdigest()
    (home.root / "settings.yaml").write_text("token: secret\n")
    for name in ("../manifest.json", "..%2f..%2f..%2f..%2fsettings.yaml", "%2e%2e/%2e%2e/settings.yaml", "/etc/passwd",
                 "%2fetc%2fpasswd", "resume", "", "model.safetensors%00", "....//settings.yaml"):
        answer = client.get(f"/api/vault/{three[0]}/files/{name}")
        assert answer.status_code in (404, 405) and b"secret" not in answer.content, name
    weights.unlink()
    weights.symlink_to(home.root / "settings.yaml")
    assert client.get(f"/api/vault/{three[0]}/files/model.safetensors").status_code == 409


def test_other_sites_and_other_hosts_are_kept_out(client, engine, three):
    path = f"/api/vault/{three[0]}/pin"
    assert client.post(path, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/api/vault", headers={"Host": "evil.example"}).status_code == 421
    assert orders(engine) == []


def test_beyond_this_machine_a_token_is_asked_for(home, three):
    kit.set_settings(home, host="192.0.2.1", token="word")
    with TestClient(APPS["vault"](home), base_url="http://192.0.2.1:8767") as client:
        assert client.get("/api/vault").status_code == 401
        assert client.get("/api/vault", headers={"Authorization": "Bearer word"}).status_code == 200


def test_every_route_is_in_the_schema(client):
    schema = client.get("/api/openapi.json").json()
    assert len(schema["paths"]) >= 16 and "/api/vault/{checkpoint_id}/files/{name}" in schema["paths"]


def test_a_missing_database_is_an_answer(tmp_path):
    from realm.settings import RealmHome

    home = RealmHome(tmp_path / "empty").create()
    with TestClient(APPS["vault"](home), base_url="http://localhost:8767") as client:
        answer = client.get("/api/vault")
        assert answer.status_code == 503 and "doctor --fix" in answer.json()["detail"]

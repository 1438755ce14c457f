"""Exports that prove themselves, imports that hold no code, and what the groundskeeper clears away."""

from __future__ import annotations

import json
import os
import time

import hero_kit
import pytest
import sqlalchemy as sa
import vault_kit as kit

from realm import db
from realm.vault import groundskeeper, places, portable
from realm.vault.catalog import VaultError


@pytest.fixture
def ids(engine):
    return hero_kit.campaign(engine)


# --- out and in ------------------------------------------------------------------------------------------------------

def test_a_folder_export_is_the_checkpoint_byte_for_byte_and_comes_back(home, engine, ids):
    made = kit.saved(home, engine, ids, 10)
    record = portable.export(home, engine, made, "hf")
    folder = home.exports / f"pip-step10-{made[-6:].lower()}-hf"
    assert record["path"] == str(folder) and portable.exports(home) == [{**record, "path": str(folder)}]
    source = home.root / kit.row(engine, made)["path"]
    assert (folder / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert not (folder / "resume").exists() and "step 10" in (folder / "README.md").read_text()
    assert portable.export(home, engine, made, "hf")["files"] == record["files"], "a second time replaces the first"
    name = portable.put_in(home, folder)
    told = portable.take_in(home, engine, name, "pip")
    row = kit.row(engine, told["checkpoint_id"])
    assert (row["state"], row["resumable"], row["step"]) == ("live", False, 0)
    assert (home.root / row["path"] / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert (home.models / "current_model").resolve() == source.resolve(), "the game goes on where it was"
    assert not list(home.imports.iterdir())
    with db.read(engine) as connection:
        assert connection.execute(sa.select(db.campaigns.c.state).where(
            db.campaigns.c.id == row["campaign_id"])).scalar() == "archived"


def test_a_damaged_checkpoint_is_not_exported(home, engine, ids):
    made = kit.saved(home, engine, ids, 10)
    kit.flip(home.root / kit.row(engine, made)["path"] / "model.safetensors")
    with pytest.raises(VaultError, match="model.safetensors has another sha256"):
        portable.export(home, engine, made, "hf")
    assert kit.files_under(home.exports) == []


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "could run code"),
    (lambda f: (f / "modeling_x.py").write_text("x"), "could run code"),
    (lambda f: (f / "config.json").write_text('{"auto_map": {"AutoModel": "x.X"}}'), "auto_map"),
    (lambda f: (f / "config.json").write_text("[1]"), "auto_map"),
    (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    (lambda f: (f / "config.json").unlink(), "needs config.json"),
    (lambda f: (f / "model.safetensors").write_bytes(b"short"), "no whole safetensors"),
    (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 100), "no whole safetensors"),
    (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-1]), "no whole"),
    (lambda f: os.symlink("/etc/passwd", f / "notes.txt"), "link or a folder"),
    (lambda f: (f / "sub").mkdir(), "link or a folder"),
])  # fmt: skip
def test_what_could_run_code_or_is_half_is_not_taken_in(home, tmp_path, spoil, says):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(kit.tensors(500))
    assert portable.inspect(folder) > 500
    spoil(folder)
    with pytest.raises(VaultError, match=says):
        portable.put_in(home, folder)
    assert not home.imports.exists() or not list(home.imports.iterdir())


@pytest.mark.slow
def test_gguf_answers_as_the_checkpoint_does_or_does_not_count(home, tmp_path):
    """Read back through transformers: 20 of 20 answers; other tokens or other answers leave no export."""
    from realm.heroes import model
    from realm.heroes.profile import load_profile
    from realm.vault import convert

    folder = model.make_embedded(load_profile("pip", home), home)
    (tmp_path / "ids").mkdir()
    proof = convert.write(folder, tmp_path / "ids", "gguf-ids", "f32", {}, "pip")
    assert (proof["asked"], proof["same"]) == (20, 20)
    (tmp_path / "text").mkdir()
    with pytest.raises(VaultError, match="20 of 20 prompts into other tokens"):
        convert.write(folder, tmp_path / "text", "gguf", "f32", {}, "pip")
    with pytest.raises(VaultError, match="no adapter"):
        convert.write(folder, tmp_path / "text", "merged", "f32", {}, "pip")


# --- groundskeeper ---------------------------------------------------------------------------------------------------

def test_a_dry_run_finds_the_same_and_changes_nothing(home, engine, ids):
    kit.set_settings(home, retention_keep=1, retention_daily=0, max_log_bytes=100, min_free_disk=0)
    for step in (1, 2, 3):
        kit.saved(home, engine, ids, step, hours=50 - step)
    (home.logs / "battle.log").write_bytes(b"x" * 500)
    left = home.exports / ".tmp-999999999-X"
    left.mkdir(parents=True)
    os.utime(left, (1, 1))
    before = kit.files_under(home.vault) + kit.files_under(home.logs)
    found = groundskeeper.tend(home, engine, dry_run=True)
    assert kit.files_under(home.vault) + kit.files_under(home.logs) == before and left.exists()
    assert kit.told(engine, "groundskeeper") == []
    assert groundskeeper.tend(home, engine) == found
    assert {name: len(each) for name, each in found.items() if each} == {"retention": 2, "leftovers": 1, "logs": 1}
    assert not left.exists() and (home.logs / "battle.log").stat().st_size == 0
    assert (home.logs / "battle.log.1").read_bytes() == b"x" * 500
    assert {e["payload"]["task"] for e in kit.told(engine, "groundskeeper")} == {"retention", "leftovers", "logs"}


def test_rotation_keeps_writers_that_hold_the_file_open(tmp_path):
    path = tmp_path / "battle.log"
    with open(path, "ab", buffering=0) as log:
        for word in (b"one", b"two", b"three", b"four"):
            log.write(word)
            groundskeeper.rotate(path)
        log.write(b"five")
    assert path.read_bytes() == b"five"
    assert [(tmp_path / f"battle.log.{n}").read_bytes() for n in (1, 2)] == [b"four", b"three"]
    assert not (tmp_path / "battle.log.3").exists()


def test_old_events_and_orders_go_and_the_champion_is_remembered(home, engine, ids):
    old = db.now() - 31 * 86400
    with db.write(engine) as connection:
        for kind in ("battle", "champion"):
            connection.execute(sa.insert(db.events).values(t=old, kind=kind, level="info", text="x", payload={}))
        for key, state in (("a", "done"), ("b", "pending")):
            connection.execute(sa.insert(db.commands).values(id=key, t=old, kind="mode", payload={}, state=state,
                                                             finished_at=old if state == "done" else None))
    groundskeeper.tend(home, engine, only="rows")
    with db.read(engine) as connection:
        kinds = connection.execute(sa.select(db.events.c.kind).where(db.events.c.t <= old)).scalars().all()
        left = connection.execute(sa.select(db.commands.c.id)).scalars().all()
    assert kinds == ["champion"] and left == ["b"]


def test_thinned_metrics_keep_sums_extremes_and_the_borders_of_checkpoints(home, engine, ids):
    from test_vault import trained

    battle = trained(engine, ids, ids["run_id"], "Q1", 1, 230, "aaa")
    kit.saved(home, engine, ids, 75)
    sums = ("steps", "tokens", "trained_tokens", "effort")
    m = db.metrics.c

    def measured(*where):
        with db.read(engine) as connection:
            return tuple(connection.execute(sa.select(*(sa.func.sum(m[name]) for name in sums), sa.func.count()).where(
                m.battle_id == battle, *where)).one())

    whole, part = measured(), measured(m.step <= 75)
    with db.write(engine) as connection:
        connection.execute(sa.update(db.battles).values(ended_at=db.now() - 6 * 86400))
    assert groundskeeper.tend(home, engine, only="metrics")["metrics"] == [], "younger than 7 days"
    with db.write(engine) as connection:
        connection.execute(sa.update(db.battles).values(ended_at=db.now() - 8 * 86400))
    groundskeeper.tend(home, engine, only="metrics")
    now, now_part = measured(), measured(m.step <= 75)
    assert now[:4] == pytest.approx(whole[:4]) and now_part[:4] == pytest.approx(part[:4])
    assert (now[0], now[4]) == (230, 6) and now_part[4] == 2
    with db.read(engine) as connection:
        first = connection.execute(sa.select(db.metrics).order_by(m.step)).mappings().first()
    assert (first["step"], first["steps"], first["loss_max"], first["loss_min"]) == (50, 50, 1.0, 1 / 50)
    assert groundskeeper.tend(home, engine, only="metrics")["metrics"] == [], "nothing is left to thin"


def test_one_task_that_fails_does_not_keep_the_others_from_theirs(home, engine, ids):
    def broken(*_):
        raise OSError("no such disk")

    (home.logs / "battle.log.1").write_text("x")
    os.utime(home.logs / "battle.log.1", (1, 1))
    with pytest.raises(groundskeeper.GroundskeeperError, match="mine: OSError.*no such disk"):
        groundskeeper.tend(home, engine, (groundskeeper.Task("mine", "test", broken),))
    assert not (home.logs / "battle.log.1").exists()


def test_trash_that_no_row_claims_goes_after_an_hour(home, engine, ids):
    stray = places.root(home, "hot") / places.TRASH / db.new_id()
    stray.mkdir(parents=True)
    assert groundskeeper.tend(home, engine, only="trash")["trash"] == []
    os.utime(stray, (time.time() - 7200,) * 2)
    groundskeeper.tend(home, engine, only="trash")
    assert not stray.exists() and json.dumps(kit.told(engine, "groundskeeper")[0]["payload"])

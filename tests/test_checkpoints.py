"""Checkpoints: whole or not at all, hashed, refused when a byte differs, never a pickle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import hero_kit as kit
import pytest
import sqlalchemy as sa

from realm import db
from realm.vault import checkpoints
from realm.vault.checkpoints import CheckpointError, Place


@pytest.fixture
def ids(engine):
    return kit.campaign(engine)


def place(ids, step=10, run=None):
    return Place("pip", ids["campaign_id"], run or ids["run_id"], step)


def save(home, engine, where, size=1000, why="test", weights=None, **more):
    def write_weights(folder):
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(os.urandom(size))

    def write_resume(folder):
        (folder / "optimizer.safetensors").write_bytes(os.urandom(size))
        return {"step": where.step, "cursor": 7}

    return checkpoints.save(home, engine, where, write_weights=weights or write_weights, write_resume=write_resume,
                            facts={"config": {"a": 1}, "data": None}, why=why, **more)  # fmt: skip


def all_rows(engine):
    with engine.connect() as connection:
        return connection.execute(sa.select(db.checkpoints)).mappings().all()


def events_of(engine, kind):
    with engine.connect() as connection:
        return connection.execute(sa.select(db.events).where(db.events.c.kind == kind)).mappings().all()


def test_saved_checkpoint_has_row_event_link_and_reads_back(home, engine, ids):
    made = save(home, engine, place(ids))
    assert made.folder == home.root / "vault/pip" / ids["campaign_id"] / f"{ids['run_id']}-10"
    assert checkpoints.verify(made.folder) == []
    [row] = all_rows(engine)
    assert (row["id"], row["state"], row["resumable"], row["step"]) == (made.id, "live", True, 10)
    assert row["bytes"] == sum(p.stat().st_size for p in made.folder.rglob("*") if p.is_file()) - (
        made.folder / "manifest.json").stat().st_size  # fmt: skip
    [event] = events_of(engine, "checkpoint")
    assert event["payload"]["checkpoint_id"] == made.id and event["payload"]["bytes"] == row["bytes"]
    link = home.models / "current_model"
    assert link.resolve() == made.folder and not os.path.isabs(os.readlink(link))
    read = checkpoints.load(home, engine, made.id)
    assert read.state == {"step": 10, "cursor": 7} and read.manifest["config"] == {"a": 1}
    weights = "model.safetensors"
    assert read.manifest["files"][weights]["sha256"] == checkpoints.sha256(made.folder / weights)


def test_saving_the_same_step_again_returns_the_first(home, engine, ids):
    first = save(home, engine, place(ids))
    again = save(home, engine, place(ids))
    assert again.id == first.id and first.fresh and not again.fresh and len(all_rows(engine)) == 1


@pytest.mark.parametrize(("damage", "says"), [
    (lambda f: flip(f / "model.safetensors"), "model.safetensors has another sha256"),
    (lambda f: flip(f / "resume/optimizer.safetensors"), "optimizer.safetensors has another sha256"),
    (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    (lambda f: (f / "model.safetensors").write_bytes(b"short"), "instead of 1,000"),
    (lambda f: (f / "extra.bin").write_bytes(b"x"), "extra.bin is not in the manifest"),
    (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
    (lambda f: edit(f / "manifest.json"), "not the manifest that the ledger recorded"),
    (shutil.rmtree, "manifest.json is missing"),
])  # fmt: skip
def test_damage_is_named_refused_and_marked(home, engine, ids, damage, says):
    older = save(home, engine, place(ids, 5))
    made = save(home, engine, place(ids, 10))
    damage(made.folder)
    with pytest.raises(CheckpointError) as error:
        checkpoints.load(home, engine, made.id)
    assert says in str(error.value) and error.value.code == "corrupt"
    assert f"{older.id} at step 5" in str(error.value), "the message must name what to go on from"
    assert {r["id"]: r["state"] for r in all_rows(engine)} == {older.id: "live", made.id: "corrupt"}
    [alert] = events_of(engine, "alert")
    assert alert["payload"]["code"] == "checkpoint_corrupt" and alert["payload"]["fix"]
    assert checkpoints.load(home, engine, older.id).place.step == 5


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def edit(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 11}))


def test_unknown_id_is_missing(home, engine):
    with pytest.raises(CheckpointError, match="not in the ledger"):
        checkpoints.load(home, engine, "NOPE")


def test_pickle_formats_cannot_be_written(home, engine, ids):
    def pickle(folder):
        (folder / "training_args.bin").write_bytes(b"x")

    with pytest.raises(CheckpointError, match="pickle"):
        save(home, engine, place(ids), weights=pickle)
    assert all_rows(engine) == [] and not list(home.vault.rglob("*.bin"))


def test_folder_without_a_row_gives_way(home, engine, ids):
    """A kill between rename and transaction leaves such a folder; training comes past again and writes it anew."""
    where = place(ids)
    folder = home.root / where.relative
    folder.mkdir(parents=True)
    (folder / "half").write_text("x")
    made = save(home, engine, where)
    assert checkpoints.verify(made.folder) == [] and not (folder / "half").exists()


@pytest.mark.parametrize("stage", ["weights", "seal", "rename", "row"])
def test_a_save_that_dies_leaves_the_older_one(home, engine, ids, monkeypatch, stage):
    older = save(home, engine, place(ids, 5))

    def die(*_args, **_kwargs):
        raise KeyboardInterrupt

    if stage == "weights":
        with pytest.raises(KeyboardInterrupt):
            save(home, engine, place(ids, 10), weights=die)
    else:
        target = {"seal": (checkpoints, "_seal"), "rename": (checkpoints, "_take_place"), "row": (db, "write")}[stage]
        real = getattr(*target)
        calls = []

        def at_second(*args, **kwargs):
            calls.append(1)
            # db.write is used once before (is there a checkpoint already?) and once for the row
            return die() if stage != "row" or len(calls) == 2 else real(*args, **kwargs)

        monkeypatch.setattr(*target, at_second)
        with pytest.raises(KeyboardInterrupt):
            save(home, engine, place(ids, 10))
        monkeypatch.undo()
    assert [r["id"] for r in all_rows(engine)] == [older.id]
    assert (home.models / "current_model").resolve() == older.folder
    assert checkpoints.verify(older.folder) == []
    checkpoints.sweep(home)
    assert not list(home.vault.glob("*/*/.tmp-*"))
    assert checkpoints.verify(save(home, engine, place(ids, 10)).folder) == []


# --- Full disk -----------------------------------------------------------------------------------------------------

def test_preflight_refuses_below_min_free_disk(home, engine, ids, monkeypatch):
    older = save(home, engine, place(ids, 5))
    usage = shutil.disk_usage(home.vault)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage._replace(free=600_000_000))
    with pytest.raises(CheckpointError, match="600 MB free, a checkpoint needs 200 MB and 500 MB must stay") as error:
        save(home, engine, place(ids, 10), need_bytes=200_000_000)
    assert error.value.code == "disk_full" and [r["id"] for r in all_rows(engine)] == [older.id]
    save(home, engine, place(ids, 10), need_bytes=50_000_000)


def test_real_disk_full_leaves_nothing_and_keeps_the_older(tmp_path, engine, home, ids):
    """ENOSPC from the kernel: the vault is a file system of 300 KB (as root), or a file-size limit stands in for it."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(home.vault)],
                             capture_output=True).returncode == 0  # fmt: skip
    try:
        object.__setattr__(home.settings, "min_free_disk", 0)
        older = save(home, engine, place(ids, 5), size=20_000)
        if mounted:
            with pytest.raises(CheckpointError, match="the disk is full") as error:
                save(home, engine, place(ids, 10), size=400_000)
        else:
            error = _limited(home, engine, ids)
        assert error.value.code == "disk_full" and "Older checkpoints are untouched" in str(error.value)
        assert [r["id"] for r in all_rows(engine)] == [older.id]
        assert checkpoints.verify(older.folder) == []
        assert [p.name for p in (home.vault / "pip" / ids["campaign_id"]).iterdir()] == [older.folder.name]
        assert save(home, engine, place(ids, 10), size=20_000).fresh, "it works again once there is room"
    finally:
        if mounted:
            subprocess.run(["umount", str(home.vault)], check=True)


def _limited(home, engine, ids):
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # Larger than the database, so that only the weights meet it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
        with pytest.raises(CheckpointError, match="the disk is full") as error:
            save(home, engine, place(ids, 10), size=4_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    return error


# --- Resume state --------------------------------------------------------------------------------------------------

def test_resume_is_kept_for_latest_champion_and_pinned_only(home, engine, ids):
    made = {step: save(home, engine, place(ids, step)) for step in (1, 2, 3, 4, 10, 100)}
    with db.write(engine) as connection:
        connection.execute(sa.update(db.checkpoints).where(db.checkpoints.c.step == 2).values(pinned=True))
    gone = checkpoints.prune_resume(home, engine, ids["campaign_id"], protected={made[3].id})
    assert set(gone) == {made[1].id, made[4].id, made[10].id}
    for step, checkpoint in made.items():
        kept = step in (2, 3, 100)
        assert (checkpoint.folder / "resume").is_dir() is kept
        assert checkpoints.verify(checkpoint.folder) == [], "a pruned checkpoint is still whole"
        assert (checkpoints.load(home, engine, checkpoint.id).state is not None) is kept
    assert {r["step"]: r["resumable"] for r in all_rows(engine)} == {
        1: False, 2: True, 3: True, 4: False, 10: False, 100: True}  # fmt: skip
    assert checkpoints.prune_resume(home, engine, ids["campaign_id"], protected={made[3].id}) == []


def test_half_a_resume_folder_is_damage(home, engine, ids):
    made = save(home, engine, place(ids))
    (made.folder / "resume/optimizer.safetensors").unlink()
    assert "optimizer.safetensors is missing" in checkpoints.verify(made.folder)[0]


def test_sweep_spares_the_living(home, engine, ids):
    campaign = home.vault / "pip" / ids["campaign_id"]
    dead, alive = campaign / ".tmp-999999999-X", campaign / f".tmp-{os.getppid()}-Y"
    dead.mkdir(parents=True)
    alive.mkdir()
    assert checkpoints.sweep(home) == 1
    assert alive.exists() and not dead.exists()


def test_current_model_is_swapped_not_recreated(home, engine, ids):
    one = save(home, engine, place(ids, 1))
    two = save(home, engine, place(ids, 2))
    link = home.models / "current_model"
    assert link.resolve() == two.folder
    checkpoints.point_current(home, one.folder)
    assert link.resolve() == one.folder
    assert [p.name for p in home.models.iterdir()] == ["current_model"]


def test_vault_verify_asks_for_a_restored_checkpoint_and_for_no_other(home, engine, ids, monkeypatch, capsys):
    """The CLI compares with the ledger's hash of the manifest, not only with the manifest that lies in the folder."""
    import sys

    from realm import cli

    made = save(home, engine, place(ids))
    with db.write(engine) as connection:
        checkpoints.mark_corrupt(connection, made.id, "broken")
    good = (made.folder / "manifest.json").read_bytes()

    def verify():
        monkeypatch.setattr(sys, "argv", ["training", "vault", "verify", made.id])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().out

    (made.folder / "manifest.json").write_bytes(good + b" ")
    code, said = verify()
    assert code == 1 and "not the manifest that the ledger recorded" in said
    with engine.connect() as connection:
        assert connection.execute(sa.select(db.commands)).first() is None
    (made.folder / "manifest.json").write_bytes(good)
    assert verify()[0] == 0
    with engine.connect() as connection:
        row = connection.execute(sa.select(db.commands)).mappings().one()
    assert (row["kind"], row["payload"]) == ("vault.revive", {"checkpoint_id": made.id})
    alert = events_of(engine, "alert")[0]["payload"]
    assert f"vault verify {made.id}" in alert["fix"]


def test_a_ledger_without_room_is_a_full_disk_and_the_next_try_succeeds(home, engine, ids):
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        # Fill what is left of the pages that there are.
        with pytest.raises(sa.exc.OperationalError, match="full"):
            for number in range(10_000):
                connection.exec_driver_sql(
                    "INSERT INTO realm_values VALUES (?, ?)", (f"filler{number}", json.dumps("x" * 900)))  # fmt: skip
    with pytest.raises(CheckpointError) as full:
        save(home, engine, place(ids), why="long " * 2000)
    assert full.value.code == "disk_full" and all_rows(engine) == []
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {2**30}")
    made = save(home, engine, place(ids))
    assert made.fresh and checkpoints.verify(made.folder) == []

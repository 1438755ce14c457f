"""The Vault: zones, trash, retention, marks, lineage; kills, flipped bytes, full disks, what may never be touched."""

from __future__ import annotations

import json
import os
import subprocess

import hero_kit
import pytest
import sqlalchemy as sa
import vault_kit as kit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realm import db
from realm.guild import campaigns
from realm.vault import archive, catalog, checkpoints, marks, places, retention, trash, zones
from realm.vault.catalog import VaultError
from realm.vault.checkpoints import CheckpointError


@pytest.fixture
def ids(engine):
    return hero_kit.campaign(engine)


@pytest.fixture
def three(home, engine, ids):
    """Steps 1, 10 and 100 of one run; the last one is the latest."""
    return [kit.saved(home, engine, ids, step, hours=100 - step / 10) for step in (1, 10, 100)]


def value(engine, key, new):
    with db.write(engine) as connection:
        campaigns.set_value(connection, key, new)


# --- zones ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("way", [("warm", "hot"), ("deep", "hot"), ("warm", "deep", "warm"), ("deep", "warm", "hot")])
def test_a_round_trip_through_the_zones_changes_no_byte(home, engine, three, way):
    before = kit.row(engine, three[0])
    folder = home.root / before["path"]
    bytes_before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for zone in way:
        told = zones.move(home, engine, three[0], zone)
        now = kit.row(engine, three[0])
        assert told["zone"] == now["zone"] == zone
        assert now["state"] == ("deep" if zone == "deep" else "live")
        assert zones.faults_of(home, now) == []
        assert [p for p in zones.strays(home) if p.name.startswith(f"{before['run_id']}-1.")
                or p.name == f"{before['run_id']}-1"] == [places.place_of(home, now)], "one copy, where the ledger says"
    at = places.place_of(home, kit.row(engine, three[0]))
    assert {p.relative_to(at): p.read_bytes() for p in at.rglob("*") if p.is_file()} == bytes_before
    assert kit.row(engine, three[0])["resumable"] == before["resumable"]
    assert [e["payload"]["zone"] for e in kit.told(engine, "vault")] == list(way)


def test_a_warm_checkpoint_loads_and_a_deep_one_says_how_it_could(home, engine, three):
    zones.move(home, engine, three[0], "warm")
    assert checkpoints.load(home, engine, three[0]).state["cursor"] == 7
    zones.move(home, engine, three[0], "deep")
    with pytest.raises(CheckpointError, match=f"state deep.*vault move {three[0]} hot"):
        checkpoints.load(home, engine, three[0])
    assert kit.row(engine, three[0])["state"] == "deep", "asked for, not condemned"


def test_zones_elsewhere_that_are_not_mounted_lose_nothing(home, engine, three, tmp_path):
    disk = tmp_path / "nas"
    kit.set_settings(home, vault_warm=str(disk))
    zones.move(home, engine, three[0], "warm")
    assert kit.row(engine, three[0])["path"].startswith(str(disk))
    disk.rename(tmp_path / "unplugged")
    disk.mkdir()  # an empty mount point
    row = kit.row(engine, three[0])
    for act in (lambda: zones.faults_of(home, row), lambda: zones.move(home, engine, three[0], "hot"),
                lambda: trash.delete(home, engine, {three[0]: "test"})):
        with pytest.raises(VaultError, match="cannot be reached now; connect"):
            act()
    with pytest.raises(CheckpointError, match="cannot be reached now"):
        checkpoints.load(home, engine, three[0])
    assert kit.row(engine, three[0])["state"] == "live"
    with db.read(engine) as connection:
        plan = retention.plan(home, connection, db.now() + 1000 * 86400)
    assert [d.keep for d in plan.decisions if d.id == three[0]] == [True]
    disk.rmdir()
    (tmp_path / "unplugged").rename(disk)
    assert zones.faults_of(home, kit.row(engine, three[0])) == []


@pytest.mark.parametrize("zone", ["warm", "deep"])
def test_kill_9_at_every_instant_of_a_move_leaves_one_whole_checkpoint(home, engine, ids, zone):
    kit.saved(home, engine, ids, 500)
    step = 0
    while True:
        step += 1
        made = kit.saved(home, engine, ids, step)
        killed = kit.killed_at(home, step, lambda engine, made=made: zones.move(home, engine, made, zone))
        row = kit.row(engine, made)
        assert zones.faults_of(home, row) == [], f"killed at {step}: the ledger points at a whole one"
        checkpoints.sweep(home)
        zones.settle_places(home, engine, 0.0)
        assert [p for p in zones.strays(home) if p.name.removesuffix(".tar.zst") == f"{ids['run_id']}-{step}"] == [
            places.place_of(home, row)]
        assert zones.move(home, engine, made, zone)["zone"] == zone
        assert zones.faults_of(home, kit.row(engine, made)) == []
        if not killed:
            break
    assert step > 4, "there were instants to be killed at"
    assert not list(home.root.rglob(".tmp-*"))


def test_a_flipped_byte_stops_a_move_and_is_named(home, engine, three):
    weights = home.root / kit.row(engine, three[0])["path"] / "model.safetensors"
    kit.flip(weights)
    with pytest.raises(VaultError, match="model.safetensors has another sha256"):
        zones.move(home, engine, three[0], "deep")
    assert kit.row(engine, three[0])["state"] == "corrupt"
    assert kit.files_under(places.root(home, "deep")) == []
    assert kit.told(engine, "alert")[-1]["payload"]["code"] == "checkpoint_corrupt"


def test_every_byte_of_an_archive_counts(home, engine, three):
    """One flipped byte anywhere in the archive is found, and what cannot be trusted is never unpacked into place."""
    zones.move(home, engine, three[0], "deep")
    at = places.place_of(home, kit.row(engine, three[0]))
    good = at.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 60)):
        raw = bytearray(good)
        raw[place] ^= 0x10
        at.write_bytes(raw)
        assert archive.verify(at, kit.row(engine, three[0])["manifest_sha256"]), f"byte {place} of {len(good)}"
    at.write_bytes(good[: len(good) // 2])
    with pytest.raises(VaultError, match="damaged"):
        zones.move(home, engine, three[0], "hot")
    assert kit.row(engine, three[0])["state"] == "corrupt"
    at.write_bytes(good)
    with db.write(engine) as connection:
        assert checkpoints.revive(connection, three[0])
    assert kit.row(engine, three[0])["state"] == "deep"
    assert zones.move(home, engine, three[0], "hot")["zone"] == "hot"


def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path):
    import tarfile

    import zstandard

    evil = tmp_path / "evil.tar.zst"
    (tmp_path / "x").write_text("x")
    with open(evil, "wb") as file, zstandard.ZstdCompressor().stream_writer(file) as stream:
        with tarfile.open(fileobj=stream, mode="w|") as tar:
            tar.add(tmp_path / "x", arcname="../outside")
    with pytest.raises(archive.ArchiveError, match="leads out"):
        archive.unpack(evil, tmp_path / "in" / "side")
    assert not (tmp_path / "in" / "outside").exists()


@pytest.mark.parametrize("zone", ["warm", "deep"])
def test_a_full_disk_leaves_no_half_copy_and_says_so(home, engine, ids, three, zone):
    """ENOSPC from the kernel where a file system may be mounted, else a limit on file sizes."""
    big = kit.saved(home, engine, ids, 50, size=400_000)
    kit.set_settings(home, min_free_disk=0)
    root = places.root(home, zone)
    root.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(root)],
                             capture_output=True).returncode == 0
    assert mounted or os.geteuid() != 0, "root can mount"
    try:
        with pytest.raises(CheckpointError) as error:
            if mounted:
                zones.move(home, engine, big, zone)
            else:
                _limited(lambda: zones.move(home, engine, big, zone))
        assert error.value.code == "disk_full" and "free some space" in str(error.value).lower()
        assert kit.files_under(root) == []
        row = kit.row(engine, big)
        assert (row["zone"], row["state"]) == ("hot", "live") and zones.faults_of(home, row) == []
    finally:
        if mounted:
            subprocess.run(["umount", str(root)], check=True)


def _limited(act):
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        act()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_in_the_middle_of_a_copy(home, engine, ids, three, monkeypatch):
    """Enough room by the check beforehand, none when it is written."""
    import errno
    import shutil

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(CheckpointError, match="the disk is full; checkpoint .* stays in zone hot and nothing") as error:
        zones.move(home, engine, three[0], "warm")
    assert error.value.code == "disk_full" and kit.files_under(places.root(home, "warm")) == []


def test_what_is_needed_may_not_become_an_archive(home, engine, ids, three):
    with pytest.raises(VaultError, match="latest of its campaign: an archive cannot be trained from"):
        zones.move(home, engine, three[2], "deep")
    value(engine, f"champion:{ids['campaign_id']}", three[1])
    with pytest.raises(VaultError, match="champion"):
        zones.move(home, engine, three[1], "deep")
    with pytest.raises(VaultError, match="zone 'cellar' does not exist; use hot, warm, deep"):
        zones.move(home, engine, three[0], "cellar")
    zones.move(home, engine, three[2], "warm")
    assert (home.models / "current_model").resolve() == places.place_of(home, kit.row(engine, three[2])).resolve()


def test_what_a_battle_uses_stays_where_it_is(home, engine, ids, three):
    with db.write(engine) as connection:
        connection.execute(sa.insert(db.battles).values(
            id="B", campaign_id=ids["campaign_id"], run_id=ids["run_id"], hero_id="pip", school="scribe", worker="w",
            state="arming", config={"parent_checkpoint_id": three[0]}, started_at=1.0))
    for act in (lambda: zones.move(home, engine, three[0], "warm"),
                lambda: trash.delete(home, engine, {three[0]: "test"})):
        with pytest.raises(VaultError, match="used by battle B"):
            act()


def test_a_move_while_it_is_read_is_no_damage(home, engine, three, monkeypatch):
    real, moved = checkpoints.verify, []

    def verify(folder, manifest_sha256=None):
        if not moved:
            moved.append(1)
            zones.move(home, engine, three[0], "warm")
        return real(folder, manifest_sha256)

    monkeypatch.setattr(checkpoints, "verify", verify)
    loaded = checkpoints.load(home, engine, three[0])
    assert loaded.folder.is_relative_to(places.root(home, "warm")) and kit.row(engine, three[0])["state"] == "live"


# --- trash ----------------------------------------------------------------------------------------------------------

def test_deleting_step_10_never_touches_1_and_100(home, engine, three):
    kept = {key: kit.files_under(home.root / kit.row(engine, key)["path"]) for key in (three[0], three[2])}
    trash.delete(home, engine, {three[1]: "test"})
    deleted = kit.row(engine, three[1])
    assert deleted["state"] == "trash" and not (home.root / deleted["path"]).exists()
    for key, files in kept.items():
        assert kit.row(engine, key)["state"] == "live"
        assert kit.files_under(home.root / kit.row(engine, key)["path"]) == files != []
    for wrong in ("10", three[1][:-1], three[1] + "0", "../..", "", None, 10, "\ud800"):
        with pytest.raises(VaultError, match="no checkpoint"):
            trash.delete(home, engine, {wrong: "test"})


def test_restore_brings_every_byte_back(home, engine, three):
    at = home.root / kit.row(engine, three[0])["path"]
    before = {p.relative_to(at): p.read_bytes() for p in at.rglob("*") if p.is_file()}
    trash.delete(home, engine, {three[0]: "test"})
    with pytest.raises(CheckpointError, match="state trash.*vault restore"):
        checkpoints.load(home, engine, three[0])
    with pytest.raises(VaultError, match="deleted already"):
        trash.delete(home, engine, {three[0]: "test"})
    assert trash.restore(home, engine, three[0]) == {"checkpoint_id": three[0], "state": "live"}
    assert {p.relative_to(at): p.read_bytes() for p in at.rglob("*") if p.is_file()} == before
    assert kit.row(engine, three[0])["resumable"] and checkpoints.load(home, engine, three[0]).state["cursor"] == 7
    with pytest.raises(VaultError, match="not in the trash"):
        trash.restore(home, engine, three[0])
    trash.delete(home, engine, {three[0]: "test"})
    kit.flip(places.trash_of(home, kit.row(engine, three[0])) / "model.safetensors")
    with pytest.raises(VaultError, match="stays in the trash.*model.safetensors"):
        trash.restore(home, engine, three[0])


def test_the_trash_is_emptied_when_its_time_is_over_or_the_disk_is_full(home, engine, three, monkeypatch):
    trash.delete(home, engine, {three[0]: "test"})
    with db.read(engine) as connection:
        assert trash.due(home, connection) == []
        [(row, why)] = trash.due(home, connection, db.now() + 6.1 * kit.HOUR)
        assert row["id"] == three[0] and "6.1 h in the trash (trash_hours 6)" in why
        monkeypatch.setattr(trash, "free_of", lambda home: home.settings.min_free_disk)
        [(_, why)] = trash.due(home, connection)
        assert "min_free_disk" in why
    assert trash.empty(home, engine, [row]) > 4_000
    assert kit.row(engine, three[0])["state"] == "gone" and not places.trash_of(home, row).exists()
    with pytest.raises(VaultError, match="is gone, not in the trash"):
        trash.restore(home, engine, three[0])
    with db.read(engine) as connection:
        assert catalog.lineage(connection, three[0])["step"] == 1, "its row stays"
        assert three[0] not in [r["id"] for r in catalog.listing(connection)]


@pytest.mark.parametrize("protect", ["champion", "latest", "promoted", "pinned"])
def test_protected_ones_are_never_deleted(home, engine, ids, three, protect):
    wanted = three[2] if protect == "latest" else three[0]
    if protect == "champion":
        value(engine, f"champion:{ids['campaign_id']}", wanted)
    elif protect == "promoted":
        marks.promote(home, engine, wanted)
    elif protect == "pinned":
        with db.write(engine) as connection:
            marks.pin(connection, wanted, True)
    with pytest.raises(VaultError, match=f"protected: {protect}"):
        trash.delete(home, engine, {wanted: "test"})
    assert trash.delete(home, engine, {wanted: "test", three[1]: "test"}) == [three[1]]
    assert kit.row(engine, wanted)["state"] == "live"


@pytest.mark.parametrize("act", ["delete", "retention", "empty"])
def test_kill_9_at_every_instant_of_a_deletion(home, engine, ids, act):
    """Ledger and disk agree after the next start, whatever came between; what stays is whole."""
    kit.set_settings(home, retention_keep=1, retention_daily=0)
    moment = 0
    while True:
        moment += 1
        made = [kit.saved(home, engine, ids, 100 * moment + n, hours=50 - n) for n in range(3)]
        kept = kit.saved(home, engine, ids, 100 * moment + 50)
        if act == "empty":
            trash.delete(home, engine, {made[0]: "test"})
        doing = {"delete": lambda e, made=made: trash.delete(home, e, {made[0]: "test"}),
                 "retention": lambda e: retention.apply(home, e),
                 "empty": lambda e, made=made: trash.empty(home, e, [kit.row(e, made[0])])}[act]
        killed = kit.killed_at(home, moment, doing)
        trash.settle_trash(home, engine)
        for key in (*made, kept):
            row = kit.row(engine, key)
            at = {"live": places.place_of(home, row), "trash": places.trash_of(home, row), "gone": None}[row["state"]]
            for place in (places.place_of(home, row), places.trash_of(home, row)):
                assert place.exists() == (place == at), (moment, row["state"], place)
            assert row["state"] == "gone" or zones.faults_of(home, row) == []
        assert kit.row(engine, kept)["state"] == "live"
        if act == "retention":
            retention.apply(home, engine)  # the next hour's round
            assert [kit.row(engine, key)["state"] for key in made] == ["trash"] * 3
        if not killed:
            break
    assert moment > 1


# --- retention ------------------------------------------------------------------------------------------------------

def decisions(home, engine, now=None):
    with db.read(engine) as connection:
        return {d.step: d for d in retention.plan(home, connection, now).decisions}


def test_retention_by_count_age_and_day_with_reasons(home, engine, ids):
    kit.set_settings(home, retention_keep=2, retention_daily=14, retention_days=30)
    # At noon, so that "hours ago" and days are the same on every clock.
    now = (db.now() // 86400) * 86400 + 86400 / 2
    ages = {1: 24 * 40, 2: 24 * 20, 3: 24 * 3 + 1, 4: 24 * 3, 5: 3, 6: 2, 7: 0.5}
    for step, hours in ages.items():
        key = kit.saved(home, engine, ids, step)
        with db.write(engine) as connection:
            connection.execute(sa.update(db.checkpoints).where(db.checkpoints.c.id == key).values(
                created_at=now - hours * 3600))
    found = decisions(home, engine, now)
    assert {step: d.keep for step, d in found.items()} == {
        1: False, 2: False, 3: False, 4: True, 5: False, 6: True, 7: True}
    said = {step: d.reason for step, d in found.items()}
    assert said[7] == "latest of its campaign" and said[6] == "number 2 of the newest 2"
    assert said[5] == "number 3 of its campaign (retention_keep 2)" and said[4] == "last of its day"
    assert "20" in said[2] or "number 6" in said[2]
    assert said[1] == "40.0 days old (retention_days 30)"
    before = kit.files_under(home.vault)
    assert [r["state"] for r in _rows(engine)] == ["live"] * 7 and kit.files_under(home.vault) == before, "a dry run"
    with db.read(engine) as connection:
        plan = retention.plan(home, connection, now)
    retention.apply(home, engine, plan)
    assert sorted(r["step"] for r in _rows(engine) if r["state"] == "trash") == [1, 2, 3, 5]
    assert kit.told(engine, "vault")[-1]["payload"]["act"] == "retention"


def _rows(engine):
    with db.read(engine) as connection:
        return connection.execute(sa.select(db.checkpoints).order_by(db.checkpoints.c.step)).mappings().all()


def test_retention_by_size_takes_the_oldest_first_and_stops_when_it_fits(home, engine, ids):
    for step in range(1, 7):
        kit.saved(home, engine, ids, step, hours=10 - step, size=100_000)
    kit.set_settings(home, retention_keep=100, retention_bytes=700_000)
    found = decisions(home, engine)
    assert {step: d.keep for step, d in found.items()} == {1: False, 2: False, 3: False, 4: True, 5: True, 6: True}
    assert found[1].reason == "above 0.0007 GB (retention_bytes): the oldest go first"
    kit.set_settings(home, retention_bytes=1)
    assert [step for step, d in decisions(home, engine).items() if d.keep] == [6], "the latest stays even then"
    kit.set_settings(home, retention_bytes=0)
    assert all(d.keep for d in decisions(home, engine).values())


def test_a_nearly_full_disk_makes_retention_take_more(home, engine, ids, monkeypatch):
    for step in range(1, 7):
        kit.saved(home, engine, ids, step, hours=10 - step, size=100_000)
    kit.set_settings(home, retention_keep=100, min_free_disk=1_000_000)
    monkeypatch.setattr(trash, "free_of", lambda home: 1_700_000)
    found = decisions(home, engine)
    assert {step for step, d in found.items() if not d.keep} == {1, 2}
    assert found[1].reason == "the disk is nearly full: the oldest go first"


def test_young_ones_stay_whatever_the_rules_say(home, engine, ids):
    for step in range(1, 5):
        kit.saved(home, engine, ids, step)
    kit.set_settings(home, retention_keep=1, retention_bytes=1, retention_days=0.0001)
    assert all(d.keep for d in decisions(home, engine).values())
    kit.set_settings(home, retention_min_hours=0)
    assert [step for step, d in decisions(home, engine, db.now() + 60).items() if d.keep] == [4]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_retention_never_names_what_is_protected(home, engine, ids, data):
    """Whatever the settings and the ages: champion, latest, promoted and pinned stay, and every row has one verdict."""
    table = db.checkpoints
    rows = data.draw(st.lists(st.tuples(st.floats(0, 5000), st.booleans(), st.booleans(),
                                        st.sampled_from(["live", "corrupt"])), min_size=1, max_size=12))
    champion = data.draw(st.integers(0, len(rows) - 1))
    kit.set_settings(home, retention_keep=data.draw(st.integers(1, 5)), retention_daily=data.draw(st.integers(0, 3)),
                     retention_days=data.draw(st.floats(0, 100)), retention_bytes=data.draw(st.integers(0, 50_000)),
                     retention_min_hours=data.draw(st.floats(0, 10)))
    with db.write(engine) as connection:
        connection.execute(sa.delete(table))
        for step, (hours, pinned, promoted, state) in enumerate(rows, 1):
            connection.execute(sa.insert(table).values(
                id=f"{step:026d}", hero_id="pip", campaign_id=ids["campaign_id"], run_id=ids["run_id"], step=step,
                path=f"vault/x/{step}", manifest_sha256="x", bytes=10_000, state=state, resumable=True, pinned=pinned,
                promoted=promoted, created_at=db.now() - hours * 3600))
        campaigns.set_value(connection, f"champion:{ids['campaign_id']}", f"{champion + 1:026d}")
    with db.read(engine) as connection:
        plan = retention.plan(home, connection)
        latest = campaigns.parent_checkpoint(connection, ids["campaign_id"])
    assert sorted(d.step for d in plan.decisions) == list(range(1, len(rows) + 1))
    gone = {d.step for d in plan.going}
    assert champion + 1 not in gone and (latest is None or latest["step"] not in gone)
    assert not [step for step in gone if rows[step - 1][1] or rows[step - 1][2]]
    assert all(d.reason for d in plan.decisions)


def test_what_became_protected_after_the_plan_stays(home, engine, ids, three):
    kit.set_settings(home, retention_keep=1, retention_daily=0)
    with db.read(engine) as connection:
        plan = retention.plan(home, connection)
    assert {d.id for d in plan.going} == {three[0], three[1]}
    with db.write(engine) as connection:
        marks.pin(connection, three[0], True)
    retention.apply(home, engine, plan)
    assert kit.row(engine, three[0])["state"] == "live" and kit.row(engine, three[1])["state"] == "trash"


# --- marks ----------------------------------------------------------------------------------------------------------

def test_one_promoted_checkpoint_per_hero_and_a_link_to_it(home, engine, three):
    link = home.models / "promoted-pip"
    marks.promote(home, engine, three[0])
    marks.promote(home, engine, three[1])
    assert [kit.row(engine, key)["promoted"] for key in three] == [False, True, False]
    assert link.resolve() == places.place_of(home, kit.row(engine, three[1])).resolve()
    assert not os.path.isabs(os.readlink(link))
    zones.move(home, engine, three[1], "warm")
    assert (link / "model.safetensors").is_file(), "the link follows a move"
    with db.write(engine) as connection:
        told = marks.demote(connection, three[1])
    zones.point_promoted(home, engine, told["hero_id"])
    assert not link.is_symlink()
    kit.flip(home.root / kit.row(engine, three[0])["path"] / "config.json")
    with pytest.raises(VaultError, match="config.json"):
        marks.promote(home, engine, three[0])


def test_tags_are_words(home, engine, three):
    with db.write(engine) as connection:
        assert marks.tag(connection, three[0], ["best so far", "v1"])["tags"] == ["best so far", "v1"]
        assert marks.tag(connection, three[0], ["a"], ["v1"])["tags"] == ["a", "best so far"]
        for bad in ("", " x", "x" * 40, "a/b", "<b>", "x\n", 3):
            with pytest.raises(VaultError, match="tag"):
                marks.tag(connection, three[0], [bad])
        with pytest.raises(VaultError, match="20 are the most"):
            marks.tag(connection, three[0], [f"t{n}" for n in range(25)])
        assert [r["id"] for r in catalog.listing(connection, tag="a")] == [three[0]]


# --- lineage and comparison -----------------------------------------------------------------------------------------

def trained(engine, ids, run, quest, first, last, sha):
    """One battle that trained steps first..last of a run with a quest's data."""
    battle = db.new_id()
    with db.write(engine) as connection:
        connection.execute(sa.insert(db.quests).values(
            id=quest, campaign_id=ids["campaign_id"], name=f"{quest}.jsonl", kind="file", lane="high", position=0.0,
            state="done", content_sha256=sha, created_at=1.0))
        connection.execute(sa.insert(db.battles).values(
            id=battle, campaign_id=ids["campaign_id"], run_id=run, quest_id=quest, hero_id="pip", school="scribe",
            worker="w", state="done", outcome="trained", config={"data": {"sha256": sha}, "seed": first},
            started_at=1.0, ended_at=2.0, settled_at=2.0))
        for step in range(first, last + 1):
            connection.execute(sa.insert(db.metrics).values(
                run_id=run, step=step, battle_id=battle, t=1.0, loss=1 / step, loss_ema=1 / step, lr=0.1, tokens=10,
                trained_tokens=5, step_s=0.1, floor=0.0, strain=1 / step, zone="recovery", effort=1 / step))
    return battle


def test_lineage_names_quests_data_and_trials_across_a_rollback(home, engine, ids):
    trained(engine, ids, ids["run_id"], "Q1", 1, 10, "aaa")
    trained(engine, ids, ids["run_id"], "Q2", 11, 30, "bbb")  # given up from step 20 on
    parent = kit.saved(home, engine, ids, 20)
    with db.write(engine) as connection:
        run = campaigns.new_run(connection, ids["campaign_id"], parent, "rolled back")
    trained(engine, ids, run, "Q3", 21, 25, "ccc")
    made = kit.saved(home, engine, ids, 25, run=run)
    with db.read(engine) as connection:
        told = catalog.lineage(connection, made)
    assert [(q["quest_id"], q["steps"], q["sha256"]) for q in told["quests"]] == [
        ("Q1", 10, "aaa"), ("Q2", 10, "bbb"), ("Q3", 5, "ccc")]
    assert told["data"] == ["aaa", "bbb", "ccc"]
    assert [(r["run_id"], r["from"], r["to"]) for r in told["runs"]] == [(ids["run_id"], None, 20), (run, parent, 25)]
    with db.read(engine) as connection:
        compared = catalog.compare(home, connection, parent, made)
        shown = catalog.show(home, connection, made)
    assert compared["metrics"]["step"] == [20, 25] and compared["data"]["shared"] == 2
    assert [[q["quest_id"] for q in side] for side in compared["data"]["only"]] == [[], ["Q3"]]
    assert compared["metrics"]["loss"] == [pytest.approx(1 / 20), pytest.approx(1 / 25)]
    assert shown["manifest"]["config"]["seed"] == 1 and shown["protected"] == ["latest of its campaign"]
    assert json.dumps(shown) and json.dumps(compared), "for programs"


def test_disk_use_by_zone(home, engine, three):
    zones.move(home, engine, three[0], "warm")
    trash.delete(home, engine, {three[1]: "test"})
    with db.read(engine) as connection:
        hot, warm, deep = catalog.disk(home, connection)
    assert (hot["checkpoints"], warm["checkpoints"], deep["checkpoints"]) == (1, 1, 0)
    assert hot["trash"] > 4_000 and warm["bytes"] > 4_000 and not deep["reachable"]


def test_strays_go_and_foreign_files_stay(home, engine, ids, three):
    """A folder that no row points at goes after an hour; whatever has no checkpoint's name is left alone."""
    campaign = home.vault / "pip" / ids["campaign_id"]
    stray, foreign = campaign / f"{db.new_id()}-7", campaign / "my notes"
    for folder in (stray, foreign):
        folder.mkdir()
        (folder / "file").write_text("x")
    assert zones.settle_places(home, engine) == []
    assert zones.settle_places(home, engine, 0.0, dry_run=True) == [stray] and stray.exists()
    assert zones.settle_places(home, engine, 0.0) == [stray]
    assert foreign.exists() and not stray.exists()
    assert all((home.root / kit.row(engine, key)["path"]).exists() for key in three)

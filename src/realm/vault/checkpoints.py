"""Checkpoints: written whole or not at all, hashed, and refused when a byte differs (contracts A8).

A checkpoint is a folder `vault/<hero>/<campaign>/<run>-<step>/` in Hugging Face layout (safetensors only) with
`resume/optimizer.safetensors`, `resume/state.json` and a `manifest.json` that holds the sha256 of every file. It is
written under a temporary name, fsynced and renamed; then its row and its event are one transaction; then
`models/current_model` is swapped. A kill at any point leaves the older checkpoint as it was.

No pickle is read or written here. Torch-free: the caller hands in functions that write weights and optimizer state.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from realm import db, events
from realm.settings import RealmHome
from realm.vault import places

MANIFEST = "manifest.json"
RESUME = "resume"
STATE = f"{RESUME}/state.json"
FORMAT = 1
FORBIDDEN = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")  # formats that can run code when read


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written or must not be read. `code`: disk_full | corrupt | missing."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Place:
    """Where in training a checkpoint stands; unique in the ledger. `step` is the campaign's optimizer step."""

    hero_id: str
    campaign_id: str
    run_id: str
    step: int

    @property
    def relative(self) -> Path:
        """Folder relative to the realm home. The run id has a fixed length, so step 10 is no prefix of step 100."""
        return Path("vault") / self.hero_id / self.campaign_id / f"{self.run_id}-{self.step}"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was written or verified just now. `state` is resume/state.json, None when it was pruned."""

    id: str
    place: Place
    folder: Path
    manifest: dict[str, Any]
    state: dict[str, Any] | None
    fresh: bool = False  # written by this call


def save(
    home: RealmHome,
    engine: sa.Engine,
    place: Place,
    *,
    write_weights: Callable[[Path], None],
    write_resume: Callable[[Path], dict[str, Any]] | None,
    facts: dict[str, Any],
    why: str,
    quest_id: str | None = None,
    battle_id: str | None = None,
    need_bytes: int = 0,
    current: bool = True,
) -> Checkpoint:
    """Write a checkpoint, its row and its event, and make it the current model.

    When the ledger already has a live checkpoint at this place (a stop right after a save) that one is returned.

    Args:
        write_weights: writes config, weights and tokenizer into the folder it is given.
        write_resume: writes optimizer tensors into the folder it is given and returns the state for state.json;
            None: weights only, nothing can be resumed from them.
        facts: goes into the manifest: resolved config, data hashes, levels, trials, versions.
        need_bytes: expected size, for the check of free space beforehand.
        current: whether `models/current_model` is to lead here.

    Raises:
        CheckpointError: disk_full; nothing of the attempt is left on disk and older checkpoints are untouched.
    """
    there = _existing(home, engine, place)
    if there is not None:
        return there
    check_space(home, need_bytes)
    target = home.root / place.relative
    temporary = target.parent / f".tmp-{os.getpid()}-{db.new_id()}"
    checkpoint_id = db.new_id()
    state = None
    try:
        temporary.mkdir(parents=True)
        if write_resume is not None:
            (temporary / RESUME).mkdir()
        write_weights(temporary)
        if write_resume is not None:
            state = write_resume(temporary / RESUME)
            _write_json(temporary / STATE, state)
        manifest = _seal(temporary, {"checkpoint_id": checkpoint_id, **_place_facts(place), **facts})
        _take_place(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if disk_full(error):
            raise CheckpointError("disk_full", _full_text(home, place)) from error
        raise
    size = sum(f["bytes"] for part in ("files", RESUME) for f in manifest[part].values())
    row = {
        "id": checkpoint_id, **_place_facts(place), "quest_id": quest_id, "battle_id": battle_id,
        "path": place.relative.as_posix(), "manifest_sha256": sha256(target / MANIFEST), "bytes": size,
        "state": "live", "resumable": write_resume is not None, "pinned": False, "created_at": db.now(),
    }  # fmt: skip
    try:
        with db.write(engine) as connection:
            connection.execute(sa.insert(db.checkpoints).values(**row))
            text = f"Checkpoint at step {place.step:,} written ({size / 1e6:.1f} MB, {why})."
            events.emit(connection, "checkpoint", text, "deed", checkpoint_id=checkpoint_id, run=place.run_id,
                        step=place.step, bytes=size, why=why)  # fmt: skip
    except sa.exc.OperationalError as error:
        if disk_full(error):  # the folder without a row gives way to the next try
            raise CheckpointError("disk_full", _full_text(home, place)) from error
        raise
    if current:
        point_current(home, target)
    return Checkpoint(checkpoint_id, place, target, manifest, state, fresh=True)


def load(home: RealmHome, engine: sa.Engine, checkpoint_id: str) -> Checkpoint:
    """A checkpoint of the ledger, after every hash was compared.

    Raises:
        CheckpointError: missing or corrupt; the row is then marked and an alert says what to do.
    """
    row = _row(engine, checkpoint_id)
    if row["state"] in ("deep", "trash", "gone"):
        fix = {"deep": f"`vault move {checkpoint_id} hot` unpacks it", "gone": "choose another one of `vault list`",
               "trash": f"`vault restore {checkpoint_id}` takes it out"}[row["state"]]  # fmt: skip
        raise CheckpointError("missing", f"checkpoint {checkpoint_id} cannot be read (state {row['state']}); {fix}")
    if not places.reachable(home, row["zone"]):
        raise CheckpointError("missing", places.unreachable_words(home, row))
    folder = home.root / row["path"]
    problems = verify(folder, row["manifest_sha256"])
    if problems:
        if _row(engine, checkpoint_id)["path"] != row["path"]:
            return load(home, engine, checkpoint_id)  # it was moved into another zone while it was read
        raise CheckpointError("corrupt", condemn(engine, row, problems))
    place = Place(row["hero_id"], row["campaign_id"], row["run_id"], row["step"])
    state = json.loads((folder / STATE).read_text()) if (folder / STATE).is_file() else None
    return Checkpoint(checkpoint_id, place, folder, json.loads((folder / MANIFEST).read_text()), state)


def _row(engine: sa.Engine, checkpoint_id: str) -> Mapping[str, Any]:
    query = sa.select(db.checkpoints).where(db.checkpoints.c.id == checkpoint_id)
    with db.read(engine) as connection:
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise CheckpointError("missing", f"checkpoint {checkpoint_id} is not in the ledger; choose one of `vault list`")
    return row


def verify(folder: Path, manifest_sha256: str | None = None) -> list[str]:
    """What is wrong with a checkpoint folder, one sentence per finding that names the file; empty when all is well.

    A `resume/` that is gone as a whole is no finding: it is kept only for latest, champion and pinned checkpoints.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return [f"{file} is missing; the folder is no whole checkpoint: restore it from a backup or delete the folder"]
    if manifest_sha256 is not None and sha256(file) != manifest_sha256:
        return [f"{file} is not the manifest that the ledger recorded; restore the folder from a backup"]
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        listed = dict(manifest["files"])
        if (folder / RESUME).is_dir():
            listed |= manifest[RESUME]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{file} cannot be read ({error}); restore it from a backup"]
    found = []
    for name, facts in listed.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{path} is missing; restore it from a backup")
        elif path.stat().st_size != facts["bytes"]:
            found.append(f"{path} has {path.stat().st_size:,} bytes instead of {facts['bytes']:,}; "
                         "restore it from a backup")  # fmt: skip
        elif sha256(path) != facts["sha256"]:
            found.append(f"{path} has another sha256 than the manifest; restore it from a backup")
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    found += [f"{folder / name} is not in the manifest; remove it" for name in sorted(present - set(listed))]
    return found


def condemn(engine: sa.Engine, row: Mapping[str, Any], problems: list[str]) -> str:
    """Take the checkpoint of this ledger row out of use for what `verify` found; returns the text of the alert."""
    with db.write(engine) as connection:
        return condemn_in(connection, row, problems)


def condemn_in(connection: sa.Connection, row: Mapping[str, Any], problems: list[str]) -> str:
    """The same inside a caller's transaction."""
    text = f"checkpoint {row['id']} (step {row['step']:,}) cannot be used: " + "; ".join(problems[:3])
    text += _instead(connection, row)
    mark_corrupt(connection, row["id"], text, row["path"])
    return text


def revive(connection: sa.Connection, checkpoint_id: str) -> bool:
    """Take a checkpoint into use again after its folder was restored and verified; True when it was out of use."""
    table = db.checkpoints
    row = connection.execute(sa.select(table).where(table.c.id == checkpoint_id)).mappings().one()
    if row["state"] != "corrupt":
        return False
    state = "deep" if row["zone"] == "deep" else "live"
    connection.execute(sa.update(table).where(table.c.id == checkpoint_id).values(state=state))
    events.emit(connection, "checkpoint", f"Checkpoint at step {row['step']:,} is whole again.", "deed",
                checkpoint_id=checkpoint_id, run=row["run_id"], step=row["step"], bytes=row["bytes"],
                why="restored and verified")  # fmt: skip
    return True


def mark_corrupt(connection: sa.Connection, checkpoint_id: str, text: str, path: str | None = None) -> None:
    """Take a checkpoint out of use and raise an alert, in the caller's transaction.

    Args:
        path: the place where it was found damaged, as in the ledger; one that was moved meanwhile is left alone.
    """
    table = db.checkpoints
    where = [table.c.id == checkpoint_id, table.c.state.in_(("live", "deep"))]
    where += [] if path is None else [table.c.path == path]
    changed = connection.execute(sa.update(table).where(*where).values(state="corrupt")).rowcount
    if changed:
        fix = ("Training goes on from the checkpoint before it. To use this one again, restore its folder from a "
               f"backup, then `python3 -m training vault verify {checkpoint_id}`.")  # fmt: skip
        events.emit(connection, "alert", text, "trouble", alert_id=f"corrupt:{checkpoint_id}",
                    code="checkpoint_corrupt", what="reading a checkpoint", why=text, fix=fix)  # fmt: skip


def prune_resume(home: RealmHome, engine: sa.Engine, campaign_id: str, protected: Iterable[str] = ()) -> list[str]:
    """Drop `resume/` of checkpoints that are not the campaign's latest, not pinned and not `protected` (champion).

    Returns the ids that can no longer be resumed from. Their weights stay.
    """
    keep = set(protected)
    table = db.checkpoints
    with db.write(engine) as connection:
        rows = connection.execute(
            sa.select(table.c.id, table.c.path, table.c.pinned)
            .where(table.c.campaign_id == campaign_id, table.c.state == "live", table.c.resumable)
            .order_by(table.c.created_at.desc(), table.c.id.desc())
        ).all()
        gone = [row for row in rows[1:] if not row.pinned and row.id not in keep]
        if gone:
            ids = [row.id for row in gone]
            connection.execute(sa.update(table).where(table.c.id.in_(ids)).values(resumable=False))
    for row in gone:
        folder = home.root / row.path / RESUME
        # Renamed first: a kill inside rmtree must not leave half a resume/ that verify would call corrupt.
        trash = (home.root / row.path).parent / f".tmp-{os.getpid()}-{row.id}"
        try:
            os.rename(folder, trash)
        except FileNotFoundError:
            continue
        shutil.rmtree(trash, ignore_errors=True)
    return [row.id for row in gone]


def sweep(home: RealmHome) -> int:
    """Remove temporary folders and files of writers that are no longer alive; returns how many."""
    left = abandoned(home)
    for path in left:
        places.remove(path)
    return len(left)


def abandoned(home: RealmHome) -> list[Path]:
    """Temporary folders and files in the zones whose writer is no longer alive (or was this process)."""
    found = []
    for zone in places.ZONES:
        for path in sorted(places.root(home, zone).glob("*/*/.tmp-*")):
            pid = path.name.split("-")[1]
            if not pid.isdigit() or int(pid) == os.getpid() or not psutil.pid_exists(int(pid)):
                found.append(path)
    return found


def point_current(home: RealmHome, folder: Path) -> None:
    """Swap the relative symlink `models/current_model` to `folder` by rename; readers see the old or the new one."""
    link = home.models / "current_model"
    target = os.path.relpath(folder, home.models)
    if link.is_symlink() and os.readlink(link) == target:
        return
    temporary = home.models / f".current-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target, target_is_directory=True)
    os.replace(temporary, link)


def check_space(home: RealmHome, need_bytes: int) -> None:
    """Refuse before writing when less than `min_free_disk` would stay free.

    Raises:
        CheckpointError: disk_full, with the numbers.
    """
    free = shutil.disk_usage(home.vault).free
    floor = home.settings.min_free_disk
    if free - need_bytes < floor:
        raise CheckpointError(
            "disk_full",
            f"{home.vault}: {free / 1e6:,.0f} MB free, a checkpoint needs {need_bytes / 1e6:,.0f} MB and "
            f"{floor / 1e6:,.0f} MB must stay free (min_free_disk); free some space, then resume",
        )


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _existing(home: RealmHome, engine: sa.Engine, place: Place) -> Checkpoint | None:
    table = db.checkpoints
    with db.write(engine) as connection:
        row = connection.execute(
            sa.select(table).where(
                table.c.hero_id == place.hero_id, table.c.campaign_id == place.campaign_id,
                table.c.run_id == place.run_id, table.c.step == place.step)
        ).mappings().one_or_none()  # fmt: skip
        if row is None:
            return None
        folder = home.root / row["path"]
        if row["state"] == "live" and row["resumable"] and not verify(folder, row["manifest_sha256"]):
            manifest = json.loads((folder / MANIFEST).read_text())
            return Checkpoint(row["id"], place, folder, manifest, json.loads((folder / STATE).read_text()))
        # Corrupt or pruned: training has come past this place again and writes it anew.
        connection.execute(sa.delete(table).where(table.c.id == row["id"]))
    return None


def _seal(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Hash and fsync every file, write the manifest last, fsync the folders; returns the manifest."""
    listed: dict[str, dict[str, Any]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix in FORBIDDEN:
            raise CheckpointError("corrupt", f"{name}: pickle formats have no place in a checkpoint; write safetensors")
        _fsync(path)
        listed[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    in_resume = {name: f for name, f in listed.items() if name.startswith(f"{RESUME}/")}
    manifest = {
        "format": FORMAT, "created_at": db.now(), **facts,
        "files": {name: f for name, f in listed.items() if name not in in_resume}, RESUME: in_resume,
    }  # fmt: skip
    _write_json(folder / MANIFEST, manifest)
    _fsync(folder / MANIFEST)
    for path in (*((folder / RESUME,) if in_resume else ()), folder):
        _fsync(path)
    return manifest


def _take_place(temporary: Path, target: Path) -> None:
    """Rename into place. What stands there without a ledger row is the remains of a killed save, and gives way."""
    if target.exists():
        remains = target.parent / f".tmp-{os.getpid()}-{db.new_id()}"
        os.rename(target, remains)
        shutil.rmtree(remains, ignore_errors=True)
    os.rename(temporary, target)
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def _place_facts(place: Place) -> dict[str, Any]:
    return {"hero_id": place.hero_id, "campaign_id": place.campaign_id, "run_id": place.run_id, "step": place.step}


def disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room: of the file system, of safetensors or of SQLite."""
    if isinstance(error, sa.exc.OperationalError):
        return getattr(error.orig, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return full or "No space left" in str(error) or "StorageFull" in str(error)


def _full_text(home: RealmHome, place: Place) -> str:
    free = shutil.disk_usage(home.vault).free
    return (
        f"{home.vault}: the disk is full ({free / 1e6:,.1f} MB free); the checkpoint at step {place.step:,} was not "
        "written and nothing of it is left. Older checkpoints are untouched. Free some space, then resume"
    )


def _instead(connection: sa.Connection, row: Any) -> str:
    table = db.checkpoints
    other = connection.execute(
        sa.select(table.c.id, table.c.step)
        .where(table.c.run_id == row["run_id"], table.c.state == "live", table.c.id != row["id"],
               table.c.step <= row["step"]).order_by(table.c.step.desc()).limit(1)
    ).first()  # fmt: skip
    if other is None:
        return ". This run has no older checkpoint; restore the folder from a backup or start a new run"
    return f". The newest other checkpoint of this run is {other.id} at step {other.step:,}"

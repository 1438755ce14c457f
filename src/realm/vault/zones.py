"""Moving checkpoints between hot, warm and deep zone, and verifying them wherever they lie. Done by the arena.

A move copies under a temporary name, reads every byte of the copy back and compares it with the manifest that the
ledger recorded, renames, notes the new place in one transaction, and only then removes the old place. A kill at any
point leaves one whole checkpoint that the ledger points at; `settle_places` removes what a killed move left behind.

    python3 -m training vault move CHECKPOINT deep
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.settings import RealmHome
from realm.vault import archive, catalog, checkpoints, places
from realm.vault.catalog import VaultError
from realm.vault.checkpoints import CheckpointError

IN_USE = ("live", "deep")
_OURS = re.compile(r"[0-9A-Z]{26}-\d+(\.tar\.zst)?")


def faults_of(home: RealmHome, row: Mapping[str, Any]) -> list[str]:
    """What is wrong with a checkpoint in whatever zone it lies; empty when every hash is the ledger's.

    Raises:
        VaultError: its zone cannot be reached now, so nothing can be said.
    """
    if not places.reachable(home, row["zone"]):
        raise VaultError(places.unreachable_words(home, row))
    at = places.trash_of(home, row) if row["state"] == "trash" else places.place_of(home, row)
    if row["state"] == "trash" and not at.exists():
        at = places.place_of(home, row)  # the kill came between the ledger and the rename
    check = archive.verify if row["zone"] == "deep" else checkpoints.verify
    return check(at, row["manifest_sha256"])


def may_move(connection: sa.Connection, row: Mapping[str, Any], zone: str) -> None:
    """Raises VaultError with the reason when a checkpoint may not go to a zone."""
    if zone not in places.ZONES:
        raise VaultError(f"zone {str(zone)[:40]!r} does not exist; use {', '.join(places.ZONES)}")
    if row["state"] not in IN_USE:
        raise VaultError(f"checkpoint {row['id']} is {row['state']}; only a whole one can be moved (`vault verify`, "
                         "`vault restore`)")  # fmt: skip
    why = catalog.protected(connection).get(row["id"], [])
    used = [reason for reason in why if reason.startswith(("used by", "named by"))]
    if used:
        raise VaultError(f"checkpoint {row['id']} is {used[0]}; move it when that is over")
    needed = [reason for reason in why if reason in ("champion", "latest of its campaign", "promoted")]
    if zone == "deep" and needed:
        raise VaultError(f"checkpoint {row['id']} is {needed[0]}: an archive cannot be trained from or asked; "
                         "choose the warm zone")  # fmt: skip


def move(home: RealmHome, made: sa.Engine, checkpoint_id: str, zone: str) -> dict[str, Any]:
    """Carry a checkpoint into another zone; a second call (after a kill) goes on where the first one was.

    Raises:
        VaultError: it may not be moved, it is damaged, or its zone cannot be reached.
        CheckpointError: disk_full; nothing of the attempt is left and the checkpoint stays where it was.
    """
    with db.read(made) as connection:
        row = catalog.row_of(connection, checkpoint_id)
        may_move(connection, row, zone)
    if row["zone"] == zone:
        return {"checkpoint_id": row["id"], "zone": zone, "note": "it is there already"}
    if not places.reachable(home, row["zone"]):
        raise VaultError(places.unreachable_words(home, row))
    source, target = places.place_of(home, row), places.target_in(home, row, zone)
    faults = faults_of(home, row)
    if faults:
        raise VaultError(checkpoints.condemn(made, row, faults))
    folder = places.open_zone(home, zone)
    _check_room(home, folder, places.size_of(source))
    try:
        _copy(row, source, target, zone)
    except (OSError, archive.ArchiveError) as error:
        if checkpoints.disk_full(error):
            raise CheckpointError("disk_full", f"{folder}: the disk is full; checkpoint {row['id']} stays in zone "
                                  f"{row['zone']} and nothing of the move is left. Free some space, then repeat"
                                  ) from error  # fmt: skip
        raise VaultError(f"checkpoint {row['id']} could not be moved to {zone}: {error}; it stays in zone "
                         f"{row['zone']}") from error  # fmt: skip
    size = places.size_of(target)
    _note(home, made, row, zone, target, size)
    _lead_there(home, made, row, source, target)
    places.remove(source)
    return {"checkpoint_id": row["id"], "zone": zone, "from": row["zone"], "bytes": size}


def _check_room(home: RealmHome, folder: Path, need: int) -> None:
    free, floor = shutil.disk_usage(folder).free, home.settings.min_free_disk
    if free - need < floor:
        raise CheckpointError("disk_full", f"{folder}: {free / 1e6:,.0f} MB free, the checkpoint needs "
                              f"{need / 1e6:,.0f} MB and {floor / 1e6:,.0f} MB must stay free (min_free_disk); free "
                              "some space, then repeat")  # fmt: skip


def _copy(row: Mapping[str, Any], source: Path, target: Path, zone: str) -> None:
    """Make the verified copy stand at `target`; nothing of it is left when this fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if zone == "deep":
        archive.pack(source, target, row["manifest_sha256"])
        return
    temporary = target.parent / f".tmp-{os.getpid()}-{row['id']}"
    places.remove(temporary)
    try:
        if row["zone"] == "deep":
            archive.unpack(source, temporary)
        else:
            shutil.copytree(source, temporary, copy_function=_copy_file)
        faults = checkpoints.verify(temporary, row["manifest_sha256"])
        if faults:
            raise archive.ArchiveError("; ".join(faults[:3]))
        for folder in (*(p for p in temporary.rglob("*") if p.is_dir()), temporary):
            places.fsync(folder)
        places.remove(target)  # what a killed move left: the ledger points elsewhere
        os.rename(temporary, target)
    except BaseException:
        places.remove(temporary)
        raise
    places.fsync(target.parent)


def _copy_file(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    places.fsync(Path(target))


def _note(home: RealmHome, made: sa.Engine, row: Mapping[str, Any], zone: str, target: Path, size: int) -> None:
    table = db.checkpoints
    deep = zone == "deep"
    resumable = row["resumable"] if deep else (target / checkpoints.STATE).is_file()
    try:
        with db.write(made) as connection:
            now = catalog.row_of(connection, row["id"])
            may_move(connection, now, zone)
            if now["path"] != row["path"]:
                raise VaultError(f"checkpoint {row['id']} was moved meanwhile; look again with `vault show`")
            connection.execute(sa.update(table).where(table.c.id == row["id"]).values(
                zone=zone, path=places.as_path(home, target), state="deep" if deep else "live", bytes=size,
                resumable=resumable))  # fmt: skip
            text = f"Checkpoint at step {row['step']:,} moved from {row['zone']} to {zone} ({size / 1e6:.1f} MB)."
            events.emit(connection, "vault", text, "info", act="move", checkpoint_ids=[row["id"]], zone=zone,
                        bytes=size)  # fmt: skip
    except BaseException:
        places.remove(target)
        raise


def _lead_there(home: RealmHome, made: sa.Engine, row: Mapping[str, Any], source: Path, target: Path) -> None:
    """Links of `models/` that led to the old place lead to the new one."""
    link = home.models / "current_model"
    if link.is_symlink() and link.resolve() == source.resolve() and target.is_dir():
        checkpoints.point_current(home, target)
    if row["promoted"]:
        point_promoted(home, made, row["hero_id"])


def point_promoted(home: RealmHome, made: sa.Engine, hero_id: str) -> None:
    """Make `models/promoted-<hero>` lead to the hero's promoted checkpoint, or to nothing."""
    table = db.checkpoints
    with db.read(made) as connection:
        row = connection.execute(sa.select(table).where(
            table.c.hero_id == hero_id, table.c.promoted)).mappings().first()  # fmt: skip
    link = home.models / f"promoted-{hero_id}"
    if row is None:
        link.unlink(missing_ok=True)
        return
    temporary = home.models / f".promoted-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(places.place_of(home, row), home.models), target_is_directory=True)
    os.replace(temporary, link)


def settle_places(home: RealmHome, made: sa.Engine, min_age_s: float = 3600.0, dry_run: bool = False) -> list[Path]:
    """Remove what killed saves and moves left in the zones: folders and archives that no row points at.

    A place whose own row lies elsewhere goes only when that row's checkpoint is whole there. Names that are not ours
    are never touched. Returns what was (or would be) removed.
    """
    with db.read(made) as connection:
        rows = {row["id"]: dict(row) for row in connection.execute(sa.select(db.checkpoints)).mappings()}
    by_place = {places.place_of(home, row): row for row in rows.values()}
    by_key = {(r["hero_id"], r["campaign_id"], f"{r['run_id']}-{r['step']}"): r for r in rows.values()}
    found = []
    for path in strays(home):
        if path in by_place and by_place[path]["state"] != "gone":
            continue
        if db.now() - path.stat().st_mtime < min_age_s:
            continue  # a save that is between its rename and its row
        row = by_key.get((path.parent.parent.name, path.parent.name, path.name.removesuffix(places.ARCHIVE)))
        if row is not None and row["state"] in IN_USE and (
                not places.reachable(home, row["zone"]) or faults_of(home, row)):  # fmt: skip
            continue  # this may be the only whole copy
        found.append(path)
        if not dry_run:
            places.remove(path)
    return found


def strays(home: RealmHome) -> Iterator[Path]:
    """Every folder and archive in a reachable zone that bears a checkpoint's name."""
    for zone in places.ZONES:
        if places.reachable(home, zone):
            for path in sorted(places.root(home, zone).glob("*/*/*")):
                if _OURS.fullmatch(path.name) and not path.is_symlink() and places.TRASH not in path.parts:
                    yield path

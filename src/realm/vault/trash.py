"""Deleting checkpoints: into the trash by rename, restorable for `trash_hours`, then really gone. Done by the arena.

The ledger is written first and the disk follows, so a kill at any point is finished by `settle_trash`. The row stays
for ever (state `gone`): runs, trials and levels refer to it.

    python3 -m training vault delete CHECKPOINT
    python3 -m training vault restore CHECKPOINT
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.settings import RealmHome
from realm.vault import catalog, places, zones
from realm.vault.catalog import VaultError

LAST_RESORT = 2  # below so many times min_free_disk the trash is emptied whatever its age


def may_delete(connection: sa.Connection, row: Mapping[str, Any]) -> None:
    """Raises VaultError with the reason when a checkpoint may not be deleted."""
    if row["state"] in ("trash", "gone"):
        raise VaultError(f"checkpoint {row['id']} is deleted already (state {row['state']})")
    why = catalog.protected(connection).get(row["id"], [])
    if why:
        raise VaultError(f"checkpoint {row['id']} at step {row['step']:,} is protected: {', '.join(why)}; unpin it, "
                         "promote another, or choose another checkpoint")  # fmt: skip


def delete(home: RealmHome, made: sa.Engine, reasons: Mapping[str, str], act: str = "delete") -> list[str]:
    """Move checkpoints to the trash, each with its reason; returns the ids. One transaction, then the renames.

    What was protected, deleted or moved since it was chosen is left alone.

    Raises:
        VaultError: the only one that was named may not be deleted.
    """
    table, done, size = db.checkpoints, [], 0
    with db.write(made) as connection:
        why = catalog.protected(connection)
        for checkpoint_id in reasons:
            row = catalog.row_of(connection, checkpoint_id)
            if len(reasons) == 1:
                may_delete(connection, row)
            if row["state"] in ("trash", "gone") or row["id"] in why or not places.reachable(home, row["zone"]):
                continue
            connection.execute(sa.update(table).where(table.c.id == row["id"]).values(
                state="trash", trashed_at=db.now(), resumable=False))  # fmt: skip
            done.append(row["id"])
            size += places.size_of(places.place_of(home, row))
        if len(reasons) == 1 and not done:
            raise VaultError(places.unreachable_words(home, row))
        if done:
            what = f"checkpoint at step {row['step']:,}" if len(done) == 1 else f"{len(done)} checkpoints"
            reason = next(iter(reasons.values())) if len(done) == 1 else "retention"
            text = (f"{what[0].upper()}{what[1:]} moved to the trash ({size / 1e6:,.1f} MB; {reason}); "
                    f"{home.settings.trash_hours:g} h to restore.")  # fmt: skip
            events.emit(connection, "vault", text, "info", act=act, checkpoint_ids=done, bytes=size, reason=reason)
    settle_trash(home, made)
    return done


def restore(home: RealmHome, made: sa.Engine, checkpoint_id: str) -> dict[str, Any]:
    """Take a deleted checkpoint out of the trash, after its hashes were compared.

    Raises:
        VaultError: it is not in the trash, or it is damaged there.
    """
    table = db.checkpoints
    with db.read(made) as connection:
        row = catalog.row_of(connection, checkpoint_id)
    if row["state"] != "trash":
        raise VaultError(f"checkpoint {row['id']} is {row['state']}, not in the trash; nothing was changed")
    faults = zones.faults_of(home, row)
    if faults:
        raise VaultError(f"checkpoint {row['id']} stays in the trash: " + "; ".join(faults[:3]))
    bin_, place = places.trash_of(home, row), places.place_of(home, row)
    if bin_.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            raise VaultError(f"{place} is there again (training came past it); delete that one first")
        os.rename(bin_, place)
    with db.write(made) as connection:
        state = "deep" if row["zone"] == "deep" else "live"
        resumable = state == "live" and (place / "resume" / "state.json").is_file()
        connection.execute(sa.update(table).where(table.c.id == row["id"]).values(
            state=state, trashed_at=None, resumable=resumable))  # fmt: skip
        events.emit(connection, "vault", f"Checkpoint at step {row['step']:,} restored from the trash.", "info",
                    act="restore", checkpoint_ids=[row["id"]])  # fmt: skip
    return {"checkpoint_id": row["id"], "state": state}


def settle_trash(home: RealmHome, made: sa.Engine) -> None:
    """Make the disk what the ledger says: deleted checkpoints lie in the trash, those that are gone nowhere."""
    table = db.checkpoints
    lying = [path for zone in places.ZONES for path in (places.root(home, zone) / places.TRASH).glob("*")]
    with db.read(made) as connection:
        rows = connection.execute(sa.select(table).where(table.c.state == "trash")).mappings().all()
        gone = set(connection.execute(sa.select(table.c.id).where(
            table.c.id.in_([path.name for path in lying]), table.c.state == "gone")).scalars())  # fmt: skip
    for path in lying:
        if path.name in gone:
            places.remove(path)
    for row in rows:
        bin_, place = places.trash_of(home, row), places.place_of(home, row)
        if places.reachable(home, row["zone"]) and place.exists():
            bin_.parent.mkdir(parents=True, exist_ok=True)
            places.remove(bin_)
            os.rename(place, bin_)


def due(home: RealmHome, connection: sa.Connection, now: float | None = None) -> list[tuple[dict[str, Any], str]]:
    """Deleted checkpoints whose time in the trash is over, with the reason; all of it when the disk is nearly full."""
    table, settings = db.checkpoints, home.settings
    now = db.now() if now is None else now
    rows = [dict(r) for r in connection.execute(sa.select(table).where(table.c.state == "trash")
                                                .order_by(table.c.trashed_at)).mappings()]  # fmt: skip
    tight = free_of(home) < LAST_RESORT * settings.min_free_disk
    found = []
    for row in rows:
        age = (now - (row["trashed_at"] or 0.0)) / 3600
        if age >= settings.trash_hours:
            found.append((row, f"{age:,.1f} h in the trash (trash_hours {settings.trash_hours:g})"))
        elif tight:
            found.append((row, f"less than {LAST_RESORT} × min_free_disk is free"))
    return found


def free_of(home: RealmHome) -> int:
    """Free bytes of the hot zone's disk."""
    import shutil

    return shutil.disk_usage(home.vault).free


def empty(home: RealmHome, made: sa.Engine, rows: Sequence[Mapping[str, Any]]) -> int:
    """Remove deleted checkpoints for good; returns the bytes that came free."""
    table, ids = db.checkpoints, [row["id"] for row in rows]
    size = sum(places.size_of(places.trash_of(home, row)) for row in rows)
    if not ids:
        return 0
    with db.write(made) as connection:
        gone = connection.execute(sa.update(table).where(table.c.id.in_(ids), table.c.state == "trash").values(
            state="gone")).rowcount  # fmt: skip
        events.emit(connection, "vault", f"{gone} deleted checkpoints are gone ({size / 1e6:,.1f} MB).", "info",
                    act="empty", checkpoint_ids=ids, bytes=size)  # fmt: skip
    settle_trash(home, made)
    return size

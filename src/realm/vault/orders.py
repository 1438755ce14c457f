"""What a person may order of the Vault, from CLI, page or HTTP: checked when it is given, carried out by the arena.

`accept` answers quick marks at once and refuses at once what cannot be; `carry_out` does the rest, in the arena's own
thread, and may be called again after a kill.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.settings import RealmHome
from realm.vault import catalog, checkpoints, marks, portable, retention, trash, zones
from realm.vault.catalog import VaultError

Payload = Mapping[str, Any]
_one_at_a_time = threading.Lock()


def accept(connection: sa.Connection, home: RealmHome, act: str, payload: Payload) -> dict[str, Any] | None:
    """The answer of an order that is done at once; None when `carry_out` is to do it.

    Raises:
        VaultError: it cannot be carried out.
    """
    if act == "pin":
        return marks.pin(connection, payload.get("checkpoint_id"), payload.get("pinned", True) is True)
    if act == "tag":
        return marks.tag(connection, payload.get("checkpoint_id"), _words(payload, "add"), _words(payload, "drop"))
    if act in ("promote", "demote", "move", "delete", "restore", "export"):
        row = catalog.row_of(connection, payload.get("checkpoint_id"))
        if act == "delete":
            trash.may_delete(connection, row)
        elif act == "move":
            zones.may_move(connection, row, payload.get("zone"))
        elif act == "export":
            portable.may_export(row, payload.get("format", "hf"), payload.get("quantize", "f32"))
    elif act == "verify" and payload.get("checkpoint_id") is not None:
        catalog.row_of(connection, payload["checkpoint_id"])
    elif act == "import":
        portable.may_import(connection, home, payload)
    return None


def _words(payload: Payload, key: str) -> list[str]:
    given = payload.get(key) or []
    if not isinstance(given, list):
        raise VaultError(f"{key} = {given!r:.60}: a list of words is needed")
    return given


def carry_out(home: RealmHome, made: sa.Engine, act: str, payload: Payload) -> dict[str, Any]:
    """Do it; returns what to answer. One at a time in this process, whichever thread asks.

    Raises:
        VaultError, CheckpointError: with the reason it cannot be done.
    """
    with _one_at_a_time:
        return ACTS[act](home, made, payload)


def _promote(home: RealmHome, made: sa.Engine, payload: Payload) -> dict[str, Any]:
    return marks.promote(home, made, payload["checkpoint_id"])


def _demote(home: RealmHome, made: sa.Engine, payload: Payload) -> dict[str, Any]:
    with db.write(made) as connection:
        told = marks.demote(connection, payload["checkpoint_id"])
    zones.point_promoted(home, made, told["hero_id"])
    return told


def _move(home: RealmHome, made: sa.Engine, payload: Payload) -> dict[str, Any]:
    return zones.move(home, made, payload["checkpoint_id"], payload["zone"])


def _delete(home: RealmHome, made: sa.Engine, payload: Payload) -> dict[str, Any]:
    with db.read(made) as connection:
        done_before = catalog.row_of(connection, payload["checkpoint_id"])["state"] == "trash"
    if done_before:
        trash.settle_trash(home, made)  # a kill came between the ledger and the rename
        return {"checkpoint_ids": [payload["checkpoint_id"]]}
    return {"checkpoint_ids": trash.delete(home, made, {payload["checkpoint_id"]: "deleted by the player"})}


def _restore(home: RealmHome, made: sa.Engine, payload: Payload) -> dict[str, Any]:
    return trash.restore(home, made, payload["checkpoint_id"])


def _empty(home: RealmHome, made: sa.Engine, payload: Payload) -> dict[str, Any]:
    table = db.checkpoints
    with db.read(made) as connection:
        rows = connection.execute(sa.select(table).where(table.c.state == "trash")).mappings().all()
    return {"checkpoints": len(rows), "bytes": trash.empty(home, made, rows)}


def _retention(home: RealmHome, made: sa.Engine, payload: Payload) -> dict[str, Any]:
    done = retention.apply(home, made)
    return {"deleted": [{"id": d.id, "step": d.step, "reason": d.reason} for d in done.going], "bytes": done.freed}


def _verify(home: RealmHome, made: sa.Engine, payload: Payload) -> dict[str, Any]:
    """Hash one checkpoint, or all: what is damaged goes out of use, what is whole again comes back into use."""
    table, one = db.checkpoints, payload.get("checkpoint_id")
    query = sa.select(table).where(table.c.id == one if one else table.c.state.in_(("live", "deep", "corrupt")))
    with db.read(made) as connection:
        rows = connection.execute(query.order_by(table.c.created_at)).mappings().all()
    told: dict[str, Any] = {"whole": 0, "revived": [], "damaged": {}, "unreachable": []}
    for row in rows:
        if row["state"] == "gone":
            raise VaultError(f"checkpoint {row['id']} is gone; there is nothing to verify")
        try:
            faults = zones.faults_of(home, row)
        except VaultError:
            told["unreachable"].append(row["id"])
            continue
        if faults:
            told["damaged"][row["id"]] = faults[:3]
            if row["state"] in zones.IN_USE:
                checkpoints.condemn(made, row, faults)
            continue
        told["whole"] += 1
        if row["state"] == "corrupt":
            with db.write(made) as connection:
                if checkpoints.revive(connection, row["id"]):
                    told["revived"].append(row["id"])
    return told


def _export(home: RealmHome, made: sa.Engine, payload: Payload) -> dict[str, Any]:
    return portable.export_apart(home, payload["checkpoint_id"], payload.get("format", "hf"),
                                 payload.get("quantize", "f32"))  # fmt: skip


def _import(home: RealmHome, made: sa.Engine, payload: Payload) -> dict[str, Any]:
    return portable.take_in(home, made, payload["name"], payload["hero_id"])


ACTS: dict[str, Callable[[RealmHome, sa.Engine, Payload], dict[str, Any]]] = {
    "promote": _promote, "demote": _demote, "move": _move, "delete": _delete, "restore": _restore, "empty": _empty,
    "retention": _retention, "verify": _verify, "export": _export, "import": _import,
}  # fmt: skip
QUICK = ("pin", "tag")

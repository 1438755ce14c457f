"""Order of the Champion (critical): the checkpoint that the hero plays with: its bytes, its form, its ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
from realm.temple.orders.check import Asked, Check, Order
from realm.vault import checkpoints, zones
from realm.vault.catalog import VaultError

NONE = "nothing is trained yet"


def current(asked: Asked) -> Mapping[str, Any] | None:
    """The ledger's row of the newest checkpoint of the campaign that is played, corrupt ones included."""
    with db.read(asked.engine) as connection:
        campaign = campaigns.active(connection)
        if campaign is None:
            return None
        return campaigns.parent_checkpoint(connection, campaign["id"], ("live", "corrupt"))


def _crowned(asked: Asked, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The champion's row, where that is another checkpoint."""
    with db.read(asked.engine) as connection:
        told = campaigns.value(connection, f"champion:{row['campaign_id']}")
        table = db.checkpoints
        found = connection.execute(sa.select(table).where(table.c.id == told, table.c.id != row["id"])).mappings()
        return found.first()


def broken(asked: Asked, name: str, row: Mapping[str, Any]) -> Check:
    """Every hash of one checkpoint against its manifest, and the manifest's against the ledger."""
    said = f"checkpoint {row['id']} (step {row['step']:,})"
    folder = asked.home.root / row["path"]
    try:
        faults = zones.faults_of(asked.home, row)
    except VaultError as error:
        return Check(name, "warn", f"{said}: {error}", f"connect the disk of zone {row['zone']}, then ask again")
    if row["state"] == "corrupt" and not faults:
        return Check(name, "warn", f"{said} is out of use, but every byte is right again",
                     f"take it into use: python3 -m training vault verify {row['id']}",
                     _order(asked, "vault.revive", row["id"]))  # fmt: skip
    if faults:
        remedy = (f"restore {folder} from a backup, then python3 -m training vault verify {row['id']}; without a "
                  "backup training goes on from the checkpoint before it")  # fmt: skip
        mend = _order(asked, "vault.condemn", row["id"]) if row["state"] == "live" else None
        return Check(name, "fail", f"{said}: " + "; ".join(faults[:3]), remedy, mend)
    return Check(name, "ok", f"{said}: every byte is as the ledger has it")


def _order(asked: Asked, kind: str, checkpoint_id: str) -> Callable[[], str]:
    return lambda: asked.order(kind, {"checkpoint_id": checkpoint_id})


def _hashes(asked: Asked) -> Iterator[Check]:
    row = current(asked)
    if row is None:
        yield Check("hashes", "skip", NONE)
        return
    verified = asked.ceremony.verified if asked.ceremony else frozenset()
    if row["id"] in verified:
        yield Check("hashes", "ok", f"checkpoint {row['id']} was verified just now")
    else:
        yield broken(asked, "hashes", row)
    best = None if asked.ceremony else _crowned(asked, row)
    if best is not None:
        yield broken(asked, "champion's hashes", best)


def _loads(asked: Asked) -> Iterator[Check]:
    """Its files are of the form that a loader takes. The Oracle's order lets it speak."""
    row = current(asked)
    if row is None:
        yield Check("loads", "skip", NONE)
        return
    folder = asked.home.root / row["path"]
    faults = _form(folder)
    if faults:
        yield Check("loads", "fail", "; ".join(faults[:3]), f"restore {folder} from a backup, or go back: "
                    "python3 -m training vault rollback ID")  # fmt: skip
    else:
        yield Check("loads", "ok", "configuration, tokenizer and tensors have their form")


def _form(folder: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    faults = []
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        faults.append(f"{folder} has no config.json")
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            faults.append(f"{path} is no JSON: {error}")
    tensors = sorted(folder.glob("*.safetensors"))
    if not tensors:
        faults.append(f"{folder} has no *.safetensors")
    for path in tensors:
        try:
            with safe_open(path, framework="numpy") as opened:
                if not opened.keys():
                    faults.append(f"{path} holds no tensor")
        except (SafetensorError, OSError) as error:
            faults.append(f"{path} cannot be opened: {error}")
    return faults


def _link(asked: Asked) -> Iterator[Check]:
    """`models/current_model` is what other programs load; the child swaps it right after the row is written."""
    link = asked.home.models / "current_model"
    row = current(asked)
    if row is None:
        yield Check("current model", "skip", NONE)
        return
    there = link.resolve() if link.is_symlink() else None
    if there == (asked.home.root / row["path"]).resolve() or row["state"] != "live":
        yield Check("current model", "ok", "models/current_model is the newest checkpoint")
        return
    says = "does not exist" if there is None else f"leads to {there.name}"
    yield Check("current model", "warn", f"models/current_model {says}, the newest checkpoint is step {row['step']:,}",
                "python3 -m training temple champion --fix", _point(asked))  # fmt: skip


def _point(asked: Asked) -> Callable[[], str]:
    def mend() -> str:
        row = current(asked)
        folder = asked.home.root / row["path"]
        if not folder.is_dir():
            return "nothing: the checkpoint's folder is not there"
        checkpoints.point_current(asked.home, folder)
        return "models/current_model leads to the newest checkpoint"

    return mend


def _ledger(asked: Asked) -> Iterator[Check]:
    row = current(asked)
    if row is None:
        yield Check("ledger", "skip", NONE)
        return
    file = asked.home.root / row["path"] / checkpoints.MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield Check("ledger", "fail", f"{file} cannot be read: {error}", "restore the folder from a backup")
        return
    wrong = [f"{name} is {manifest.get(key)!r} in the manifest and {row[name]!r} in the ledger"
             for name, key in (("id", "checkpoint_id"), ("hero_id", "hero_id"), ("campaign_id", "campaign_id"),
                               ("run_id", "run_id"), ("step", "step")) if manifest.get(key) != row[name]]  # fmt: skip
    if wrong:
        yield Check("ledger", "fail", "; ".join(wrong), "restore the folder or the database from a backup")
    else:
        yield Check("ledger", "ok", f"manifest and ledger agree on step {row['step']:,}")


CHAMPION = Order("champion", "Champion", "the current checkpoint loads, its hashes verify, the ledger agrees", True,
                 (_hashes, _loads, _link, _ledger))  # fmt: skip

"""School of the Vault: zones, retention, and whether ledger and folders agree."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from realm import db
from realm.jobs import kinds
from realm.jobs.bench import Bench, Result
from realm.jobs.kinds import JobError
from realm.vault import catalog, checkpoints, orders
from realm.vault import retention as rules


def archive(payload: kinds.Archive, bench: Bench) -> Result:
    """Move a checkpoint to another zone."""
    return Result(_order(bench, "move", {"checkpoint_id": payload.checkpoint, "zone": payload.zone}))


def retention(payload: kinds.Retention, bench: Bench) -> Result:
    """What the rules would let go, and why; without `dry_run` it goes to the trash."""
    home = bench.at_home()
    engine = db.connect(home)
    try:
        with db.read(engine) as connection:
            plan = rules.plan(home, connection)
    finally:
        engine.dispose()
    told = {"rule": plan.rule, "bytes": plan.freed,
            "going": [{"id": d.id, "step": d.step, "reason": d.reason} for d in plan.going]}  # fmt: skip
    if not payload.dry_run:
        told["deleted"] = _order(bench, "retention", {})["deleted"]
    return Result(told)


def _order(bench: Bench, act: str, payload: dict[str, Any]) -> dict[str, Any]:
    home = bench.at_home()
    engine = db.connect(home)
    try:
        return orders.carry_out(home, engine, act, payload)
    except catalog.VaultError as error:
        raise JobError("refused", str(error)) from error
    except checkpoints.CheckpointError as error:
        raise JobError(error.code, str(error)) from error
    finally:
        engine.dispose()


def sync(payload: kinds.Sync, bench: Bench) -> Result:
    """Every hash of every live checkpoint, and what only one of ledger and disk knows. Changes nothing."""
    home = bench.at_home()
    table = db.checkpoints
    engine = db.connect(home)
    try:
        with db.read(engine) as connection:
            rows = connection.execute(sa.select(table.c.id, table.c.path, table.c.manifest_sha256, table.c.state)).all()
    finally:
        engine.dispose()
    wanted = [r for r in rows if r.state == "live" and payload.checkpoint in (None, r.id)]
    damaged = {}
    for row in wanted:
        if problems := checkpoints.verify(home.root / row.path, row.manifest_sha256):
            damaged[row.id] = problems
    known = {row.path for row in rows}
    strays = sorted(path.parent.relative_to(home.root).as_posix() for path in home.vault.glob("*/*/*/manifest.json"))
    return Result({"checked": len(wanted), "damaged": damaged,
                   "without_row": [path for path in strays if path not in known]})  # fmt: skip

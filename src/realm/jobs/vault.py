"""School of the Vault: zones, retention, and whether ledger and folders agree. What changes facts is done in a thread
of the arena, one at a time with what the Vault's own orders do (`vault/orders.py`)."""

from __future__ import annotations

import sqlalchemy as sa

from realm import db
from realm.jobs import kinds
from realm.jobs.bench import Bench, Result
from realm.jobs.kinds import JobError
from realm.vault import catalog, orders, retention, zones
from realm.vault.catalog import VaultError
from realm.vault.checkpoints import CheckpointError


def archive(payload: kinds.Archive, bench: Bench) -> Result:
    """Move a checkpoint to another zone (`vault/zones.py`); a second attempt goes on where the first one was."""
    return _carry_out(bench, "move", {"checkpoint_id": payload.checkpoint, "zone": payload.zone})


def keep_rules(payload: kinds.Retention, bench: Bench) -> Result:
    """What the Vault's rules let go, with reasons; it goes to the trash unless this is a dry run."""
    home = bench.at_home()
    if not payload.dry_run:
        return _carry_out(bench, "retention", {})
    engine = db.connect(home)
    try:
        with db.read(engine) as connection:
            return Result({"dry_run": True, **retention.plan(home, connection).to_dict()})
    finally:
        engine.dispose()


def _carry_out(bench: Bench, act: str, order: dict) -> Result:
    engine = db.connect(bench.at_home())
    try:
        with db.read(engine) as connection:
            orders.accept(connection, bench.at_home(), act, order)
        return Result(orders.carry_out(bench.at_home(), engine, act, order))
    except CheckpointError as error:
        raise JobError(error.code, str(error)) from error
    except VaultError as error:
        raise JobError("refused", str(error)) from error
    finally:
        engine.dispose()


def sync(payload: kinds.Sync, bench: Bench) -> Result:
    """Every hash of every checkpoint in use, in whatever zone, and what only one of ledger and disk knows. Changes
    nothing: `training vault verify` takes what is damaged out of use."""
    home = bench.at_home()
    engine = db.connect(home)
    try:
        with db.read(engine) as connection:
            if payload.checkpoint:
                rows = [catalog.row_of(connection, payload.checkpoint)]
            else:
                query = sa.select(db.checkpoints).where(db.checkpoints.c.state.in_(zones.IN_USE))
                rows = [dict(row) for row in connection.execute(query).mappings()]
            known = {(home.root / path).resolve() for path in connection.execute(
                sa.select(db.checkpoints.c.path)).scalars()}  # fmt: skip
    finally:
        engine.dispose()
    damaged, unreachable = {}, []
    for row in rows:
        try:
            if problems := zones.faults_of(home, row):
                damaged[row["id"]] = problems
        except VaultError:
            unreachable.append(row["id"])
    strays = [] if payload.checkpoint else [str(p) for p in zones.strays(home) if p.resolve() not in known]
    return Result({"checked": len(rows) - len(unreachable), "damaged": damaged, "unreachable": unreachable,
                   "without_row": strays})  # fmt: skip

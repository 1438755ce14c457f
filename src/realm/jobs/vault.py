"""School of the Vault: zones, retention, and whether ledger and folders agree."""

from __future__ import annotations

import sqlalchemy as sa

from realm import db
from realm.jobs import kinds
from realm.jobs.bench import Bench, Result
from realm.jobs.kinds import JobError
from realm.vault import checkpoints


def archive(payload: kinds.Archive, bench: Bench) -> Result:
    """Move a checkpoint to another zone."""
    raise JobError("refused", "the Vault has no zones yet; update the program")


def retention(payload: kinds.Retention, bench: Bench) -> Result:
    """What the rules would let go."""
    raise JobError("refused", "the Vault has no retention rules yet; update the program")


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

"""Parts for tests of the Vault: checkpoints of random bytes with a row, and kills at any instant of an act."""

from __future__ import annotations

import json
import os
import signal
import time

import sqlalchemy as sa

from realm import db
from realm.vault import checkpoints, places
from realm.vault.checkpoints import Place

HOUR = 3600.0


def saved(home, engine, ids, step=10, *, hours=0.0, size=2_000, run=None, campaign=None, **columns):
    """One checkpoint as a battle would save it, so many hours ago."""
    where = Place("pip", campaign or ids["campaign_id"], run or ids["run_id"], step)

    def write_weights(folder):
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(tensors(size))

    def write_resume(folder):
        (folder / "optimizer.safetensors").write_bytes(tensors(size))
        return {"step": step, "cursor": 7}

    made = checkpoints.save(home, engine, where, write_weights=write_weights, write_resume=write_resume,
                            facts={"config": {"hero": {"id": "pip"}, "seed": 1}, "data": None}, why="test")
    if hours or columns:
        with db.write(engine) as connection:
            connection.execute(sa.update(db.checkpoints).where(db.checkpoints.c.id == made.id).values(
                created_at=db.now() - hours * HOUR, **columns))
    return made.id


def tensors(size: int) -> bytes:
    """A whole safetensors file with one tensor of random bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + os.urandom(size)


def row(engine, checkpoint_id) -> dict:
    with db.read(engine) as connection:
        query = sa.select(db.checkpoints).where(db.checkpoints.c.id == checkpoint_id)
        return dict(connection.execute(query).mappings().one())


def told(engine, kind) -> list[dict]:
    with db.read(engine) as connection:
        query = sa.select(db.events).where(db.events.c.kind == kind).order_by(db.events.c.id)
        return [dict(r) for r in connection.execute(query).mappings()]


def flip(path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def files_under(root) -> list[str]:
    """Everything below a folder but markers and what is empty."""
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p.name != places.MARKER)


def set_settings(home, **values) -> None:
    """Change settings of a home whose settings were read already."""
    for name, value in values.items():
        object.__setattr__(home.settings, name, value)


# --- kill -9 --------------------------------------------------------------------------------------------------------

MOMENTS = ((os, "rename"), (os, "replace"), (places, "fsync"), (places, "remove"), (db, "write"))


def killed_at(home, moment: int, act) -> bool:
    """Do `act(engine)` in a child process that dies by SIGKILL just before its n-th step on disk or ledger.

    Returns whether it was killed: False when the act has fewer steps and came to its end.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            count = [0]

            def watched(real):
                def step(*args, **kwargs):
                    count[0] += 1
                    if count[0] == moment:
                        os.kill(os.getpid(), signal.SIGKILL)
                        time.sleep(10)
                    return real(*args, **kwargs)
                return step

            for owner, name in MOMENTS:
                setattr(owner, name, watched(getattr(owner, name)))
            act(db.connect(home))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the act itself failed"
    return os.WIFSIGNALED(status)

"""A person's marks on checkpoints: promoted, pinned, tags. Done by the arena.

The promoted checkpoint is the one a person chose to use outside the game: at most one per hero, protected, and
`models/promoted-<hero>` leads to it.

    python3 -m training vault promote CHECKPOINT
    python3 -m training vault pin CHECKPOINT
    python3 -m training vault tag CHECKPOINT best-so-far
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.settings import RealmHome
from realm.vault import catalog, checkpoints, zones
from realm.vault.catalog import VaultError

TAG = re.compile(r"[\w][\w .+-]{0,38}")
MAX_TAGS = 20


def pin(connection: sa.Connection, checkpoint_id: str, pinned: bool) -> dict[str, Any]:
    """Protect a checkpoint, or no longer."""
    row = _markable(connection, checkpoint_id)
    _set(connection, row, "pin" if pinned else "unpin", pinned=pinned)
    return {"checkpoint_id": row["id"], "pinned": pinned}


def tag(
    connection: sa.Connection, checkpoint_id: str, add: Iterable[str] = (), drop: Iterable[str] = ()
) -> dict[str, Any]:  # fmt: skip
    """Put tags on a checkpoint and take tags off it.

    Raises:
        VaultError: a tag of another form, or too many.
    """
    row = _markable(connection, checkpoint_id)
    add = list(add)
    for word in add:
        if not isinstance(word, str) or not TAG.fullmatch(word):
            raise VaultError(f"tag {str(word)[:60]!r}: use 1 to 39 letters, digits, blanks or . _ + -")
    tags = sorted({*(row["tags"] or []), *add} - set(drop))
    if len(tags) > MAX_TAGS:
        raise VaultError(f"checkpoint {row['id']} would have {len(tags)} tags; {MAX_TAGS} are the most, drop some")
    _set(connection, row, "tag", tags=tags)
    return {"checkpoint_id": row["id"], "tags": tags}


def promote(home: RealmHome, made: sa.Engine, checkpoint_id: str) -> dict[str, Any]:
    """Make a checkpoint its hero's promoted one, after its hashes were compared.

    Raises:
        VaultError: not live, or damaged (it is then marked).
    """
    table = db.checkpoints
    with db.read(made) as connection:
        row = catalog.row_of(connection, checkpoint_id)
    if row["state"] != "live":
        raise VaultError(f"checkpoint {row['id']} is {row['state']}; only a live one can be promoted")
    faults = zones.faults_of(home, row)
    if faults:
        raise VaultError(checkpoints.condemn(made, row, faults))
    with db.write(made) as connection:
        row = catalog.row_of(connection, checkpoint_id)
        if row["state"] != "live":
            raise VaultError(f"checkpoint {row['id']} is {row['state']}; only a live one can be promoted")
        others = sa.update(table).where(table.c.hero_id == row["hero_id"], table.c.id != row["id"], table.c.promoted)
        connection.execute(others.values(promoted=False))
        _set(connection, row, "promote", promoted=True)
    zones.point_promoted(home, made, row["hero_id"])
    return {"checkpoint_id": row["id"], "model": f"models/promoted-{row['hero_id']}"}


def demote(connection: sa.Connection, checkpoint_id: str) -> dict[str, Any]:
    """Take the promotion back; its link goes with `zones.point_promoted`."""
    row = catalog.row_of(connection, checkpoint_id)
    _set(connection, row, "demote", promoted=False)
    return {"checkpoint_id": row["id"], "hero_id": row["hero_id"]}


def _markable(connection: sa.Connection, checkpoint_id: str) -> dict[str, Any]:
    row = catalog.row_of(connection, checkpoint_id)
    if row["state"] in ("trash", "gone"):
        raise VaultError(f"checkpoint {row['id']} is deleted (state {row['state']}); restore it first")
    return row


def _set(connection: sa.Connection, row: dict[str, Any], act: str, **values: Any) -> None:
    table = db.checkpoints
    if all(row[key] == value for key, value in values.items()):
        return
    connection.execute(sa.update(table).where(table.c.id == row["id"]).values(**values))
    words = {"pin": "pinned", "unpin": "no longer pinned", "promote": "promoted", "demote": "no longer promoted",
             "tag": f"tagged {', '.join(values.get('tags', [])) or 'nothing'}"}[act]  # fmt: skip
    events.emit(connection, "vault", f"Checkpoint at step {row['step']:,} is {words}.", "info", act=act,
                checkpoint_ids=[row["id"]], **{k: v for k, v in values.items() if k == "tags"})  # fmt: skip

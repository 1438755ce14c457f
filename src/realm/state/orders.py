"""Orders to the arena: one row in `commands`, whose id is the idempotency key (contracts A1). Results are events."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from realm import db

KEY = re.compile(r"[A-Za-z0-9._:-]{8,64}")


class OrderError(ValueError):
    """An order that cannot be noted; the message names the value, the rule and the next action."""


def give(
    engine: sa.Engine, kind: str, payload: dict[str, Any], key: str | None = None,
    admit: Callable[[sa.Connection], None] | None = None,
) -> str:  # fmt: skip
    """Note an order and return its id. The same key again returns the same id and notes nothing.

    Args:
        admit: asked in the same transaction before a new order is noted; raises when it must not be.

    Raises:
        OrderError: a key of the wrong form, or one that was used for another order.
    """
    if key is not None and not KEY.fullmatch(key):
        raise OrderError(f"Idempotency-Key {key[:80]!r}: needs 8 to 64 letters, digits or . _ : - ; make a new one")
    command_id = key or db.new_id()
    table = db.commands
    with db.write(engine) as connection:
        known = connection.execute(sa.select(table.c.kind, table.c.payload).where(table.c.id == command_id)).first()
        if known is None:
            if admit is not None:
                admit(connection)
            connection.execute(sa.insert(table).values(
                id=command_id, t=db.now(), kind=kind, payload=payload, state="pending"))  # fmt: skip
        elif (known.kind, known.payload) != (kind, payload):
            raise OrderError(f"Idempotency-Key {command_id!r} was used for {known.kind}; send a new key with {kind}")
    return command_id


def outcome(engine: sa.Engine, command_id: str) -> dict[str, Any] | None:
    """`{command_id, kind, state, result}` of an order, or None when there is none with this id."""
    table = db.commands
    with db.read(engine) as connection:
        row = connection.execute(sa.select(table).where(table.c.id == command_id)).mappings().first()
    if row is None:
        return None
    return {"command_id": row["id"], "kind": row["kind"], "state": row["state"], "result": row["result"]}

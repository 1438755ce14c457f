"""What the Oracle's Eye sees, kept for people: token maps of a battle's rows, and the alarm about lopsided weights.

Torch-free; the maps are made by `schools/oracle_eye.py`. See them with `python3 -m training battle tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from realm import db

KEPT_BATTLES = 30  # a battle's maps are about 20 kB of JSON
ALARM_MASS = 0.5  # of the weight, on the heaviest 5 % of the tokens
ALARM_STEPS = 20  # in a row


def record(connection: sa.Connection, battle_id: str, step: int, maps: Sequence[Any]) -> None:
    """Put a battle's maps in the place of its older ones; the maps of long-gone battles go.

    Args:
        maps: `schools.oracle_eye.TokenMap`, the most surprising row first.
    """
    table = db.token_maps
    connection.execute(sa.delete(table).where(table.c.battle_id == battle_id))
    if maps:
        connection.execute(sa.insert(table), [
            {"battle_id": battle_id, "idx": i, "row": m.row, "step": step, "policy": m.policy, "tokens": m.tokens()}
            for i, m in enumerate(maps)])  # fmt: skip
    newest = sa.select(table.c.battle_id).distinct().order_by(table.c.battle_id.desc()).limit(KEPT_BATTLES)
    connection.execute(sa.delete(table).where(table.c.battle_id.not_in(newest)))


def of_battle(connection: sa.Connection, battle_id: str) -> dict[str, Any]:
    """{battle_id, step, policy, rows: [{row, text, trained, weight, surprisal, entropy}]}; no rows: never looked at."""
    table = db.token_maps
    found = connection.execute(
        sa.select(table).where(table.c.battle_id == battle_id).order_by(table.c.idx)).mappings().all()  # fmt: skip
    first = found[0] if found else {"step": None, "policy": None}
    return {"battle_id": battle_id, "step": first["step"], "policy": first["policy"],
            "rows": [{"row": each["row"], **each["tokens"]} for each in found]}  # fmt: skip


class MassWatch:
    """Says once when half of the weight has sat on 5 % of the tokens for some steps: usually wrong labels."""

    def __init__(self) -> None:
        self.steps, self.told = 0, False

    def add(self, top_mass: float | None) -> bool:
        """Whether to raise the alarm now; `top_mass` None: tokens are not weighed."""
        self.steps = self.steps + 1 if top_mass is not None and top_mass >= ALARM_MASS else 0
        if self.told or self.steps < ALARM_STEPS:
            return False
        self.told = True
        return True

"""What the Oracle's Eye sees, kept for people: token maps of a battle's rows, and the alarm about lopsided weights.

Torch-free; the maps are made by `schools/oracle_eye.py`. See them with `python3 -m training battle tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.heroes.profile import parse_profile, weights_folder
from realm.settings import RealmHome, SettingsError
from realm.vault import checkpoints

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


def look(
    home: RealmHome, engine: sa.Engine, battle: Mapping[str, Any], row: int, policy: str | None = None
) -> dict[str, Any]:  # fmt: skip
    """One row of a battle's quest through the hero that the battle left behind; imports torch, writes nothing.

    Args:
        battle: a row of `battles`.
        row: of the quest's trainable rows, from 0, as stored maps count them.
        policy: of the Eye; None: the battle's own.

    Returns:
        As `state.queries.token_maps` tells stored ones.

    Raises:
        LookError: there is no such row, or the school makes its rows in battle.
        ProfileError, CheckpointError: the hero cannot be loaded.
    """
    config = battle["config"]
    if config["school"] != "scribe" or not config.get("data"):
        raise LookError(f"battle {battle['id']} has no rows of its own file (school {config['school']}); its stored "
                        "maps are shown without --row")  # fmt: skip
    path = home.root / config["data"]["path"]
    if not path.is_file():
        raise LookError(f"{path} is gone; only the stored maps are left, shown without --row")
    from realm.heroes.model import Hero, make_embedded
    from realm.schools import oracle_eye

    profile = parse_profile(config["hero"], "battle.config.hero")
    checkpoint = battle["checkpoint_id"] or config["parent_checkpoint_id"]
    if checkpoint:
        found = checkpoints.load(home, engine, checkpoint)
        folder, step = found.folder, found.place.step
    else:
        folder, step = make_embedded(profile, home) if profile.embedded else weights_folder(profile, home), 0
    hero = Hero.load(profile, folder)
    raw = [json.loads(line)["messages"] for line in path.read_bytes().splitlines() if line.strip()]
    rows, _ = hero.render(raw)
    if not 0 <= row < len(rows):
        raise LookError(f"row {row}: the quest has rows 0 to {len(rows) - 1} that can be trained on")
    eye = oracle_eye.eye_of(profile, {"oracle_eye": policy} if policy else config.get("options") or {})
    seen = oracle_eye.inspect(hero, {row: rows[row]}, eye)[0]
    return {"battle_id": battle["id"], "step": step, "policy": seen.policy, "rows": [{"row": row, **seen.tokens()}]}


class LookError(SettingsError):
    """Nothing to look at; the message says why and what to do."""


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

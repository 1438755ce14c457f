"""Which checkpoints can be asked, and by which names; strict: a name that is not here is an error that lists what is.

Names: a checkpoint's id, `current` (the hero's current weights), `champion`, and `base` (the weights it began with).
Torch-free; nothing of a checkpoint is read here but its manifest.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
from realm.heroes.profile import HeroProfile, ProfileError, load_profile, parse_profile, weights_folder
from realm.oracle.errors import OracleError
from realm.settings import RealmHome, nearest
from realm.vault import checkpoints
from realm.vault.champion import crowned

ALIASES = ("current", "champion", "base")
LISTED_AT_MOST = 20  # names in the error for an unknown one


@dataclass(frozen=True)
class Found:
    """One set of weights that can be asked. `manifest_sha256` is None for base weights, which no ledger row covers."""

    id: str
    profile: HeroProfile
    folder: Path
    step: int
    created_at: float
    manifest_sha256: str | None

    def verify(self) -> None:
        """Compare every byte with the ledger.

        Raises:
            OracleError: a file differs; it is named and nothing of the checkpoint is loaded.
        """
        if self.manifest_sha256 is None:
            return
        problems = checkpoints.verify(self.folder, self.manifest_sha256)
        if problems:
            raise OracleError(
                503, f"checkpoint {self.id} (step {self.step:,}) is not served: {'; '.join(problems[:3])}; then "
                f"`python3 -m training vault verify {self.id}`, and ask another one meanwhile", "checkpoint_corrupt",
                "model")  # fmt: skip


def listing(home: RealmHome, engine: sa.Engine) -> list[dict[str, Any]]:
    """Every name that can be asked, aliases first, then checkpoints from the newest: rows of `/v1/models`."""
    with db.read(engine) as connection:
        rows = _live(connection)
        named = {alias: _alias(home, connection, alias) for alias in ALIASES}
    found = []
    for alias, target in named.items():
        if target is not None:
            found.append(_entry(alias, target["hero_id"], target["step"], target["created_at"], target["bytes"],
                                of=target["id"]))  # fmt: skip
    found += [_entry(r["id"], r["hero_id"], r["step"], r["created_at"], r["bytes"], campaign=r["campaign_id"])
              for r in rows]  # fmt: skip
    return found


def _entry(name: str, hero: str, step: int, created: float, size: int, **more: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(created), "owned_by": "realm", "hero": hero, "step": step,
            "bytes": size, **more}  # fmt: skip


def resolve(home: RealmHome, engine: sa.Engine, name: str) -> Found:
    """The weights behind a name; nothing is verified or loaded yet.

    Raises:
        OracleError: 404, with the names there are.
    """
    with db.read(engine) as connection:
        row = _alias(home, connection, name) if name in ALIASES else _by_id(connection, name)
        if row is None:
            raise _unknown(home, connection, name)
        if "manifest_sha256" not in row:
            return _base(home, row)
    folder = home.root / row["path"]
    return Found(row["id"], _profile(folder, row), folder, row["step"], row["created_at"], row["manifest_sha256"])


def _unknown(home: RealmHome, connection: sa.Connection, name: str) -> OracleError:
    ids = [alias for alias in ALIASES if _alias(home, connection, alias)] + [r["id"] for r in _live(connection)]
    shown = name if len(name) <= 80 else name[:80] + "…"
    known = ", ".join(ids[:LISTED_AT_MOST]) + (f" and {len(ids) - LISTED_AT_MOST} more" if len(ids) > LISTED_AT_MOST
                                               else "")  # fmt: skip
    table = db.checkpoints.c
    state = connection.execute(sa.select(table.state).where(table.id == name)).scalar()
    if state is not None:
        why = f"checkpoint {shown!r} is in state {state!r} and only live ones can be asked"
    elif name == "champion":
        why = "no champion is crowned yet: one needs a checkpoint that sat a trial"
    else:
        why = f"no model {shown!r}"
    hint = nearest(name, ids).partition("; known")[0] if ids and len(name) <= 80 else ""
    return OracleError(404, f"{why}{hint}; there are: {known or 'none yet'} (see /v1/models)", "model_not_found",
                       "model")  # fmt: skip


def _live(connection: sa.Connection) -> list[dict[str, Any]]:
    table = db.checkpoints
    query = sa.select(table).where(table.c.state == "live").order_by(table.c.created_at.desc(), table.c.id.desc())
    return [dict(row) for row in connection.execute(query).mappings()]


def _by_id(connection: sa.Connection, name: str) -> dict[str, Any] | None:
    table = db.checkpoints
    row = connection.execute(sa.select(table).where(table.c.id == name, table.c.state == "live")).mappings().first()
    return dict(row) if row else None


def _alias(home: RealmHome, connection: sa.Connection, alias: str) -> dict[str, Any] | None:
    """Ledger row of an alias, or what `_base_row` gives; None when there is nothing of that name."""
    if alias == "champion":
        champion = crowned(connection, campaigns.value(connection, campaigns.ACTIVE))
        return _by_id(connection, champion) if champion else None
    if alias == "current":
        link = home.models / "current_model"
        if link.is_symlink():
            target = Path(os.path.normpath(home.models / os.readlink(link)))
            table = db.checkpoints
            if target.is_relative_to(home.vault):
                row = connection.execute(sa.select(table).where(
                    table.c.path.in_([target.relative_to(home.root).as_posix(), str(target)]),
                    table.c.state == "live")).mappings().first()  # fmt: skip
                return dict(row) if row else None
    return _base_row(home, connection)


def _base_row(home: RealmHome, connection: sa.Connection) -> dict[str, Any] | None:
    campaign = campaigns.active(connection)
    hero = campaign["hero_id"] if campaign else home.settings.default_hero
    try:
        profile = load_profile(hero, home)
        folder = weights_folder(profile, home)
    except ProfileError:
        # No recipe or no weights on this machine: then there is nothing to ask under this name.
        return None
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {"id": f"base:{hero}", "hero_id": hero, "step": 0, "created_at": 0.0, "bytes": size}


def _base(home: RealmHome, row: dict[str, Any]) -> Found:
    profile = load_profile(row["hero_id"], home)
    return Found(row["id"], profile, weights_folder(profile, home), 0, 0.0, None)


def _profile(folder: Path, row: dict[str, Any]) -> HeroProfile:
    """The recipe that the checkpoint was trained with, from its manifest."""
    file = folder / checkpoints.MANIFEST
    if not file.is_file():
        raise OracleError(503, f"{file} is missing; restore the folder from a backup, then "
                          f"`python3 -m training vault verify {row['id']}`", "checkpoint_corrupt", "model")  # fmt: skip
    try:
        return parse_profile(json.loads(file.read_text(encoding="utf-8"))["config"]["hero"], str(file))
    except (ValueError, KeyError, TypeError) as error:
        raise OracleError(503, f"{file} holds no hero recipe ({error}); restore it from a backup", "checkpoint_corrupt",
                          "model") from error  # fmt: skip

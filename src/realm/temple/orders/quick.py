"""Order of the Quick: what everything else needs: imports, database, configuration, folders, disk."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
from realm.heroes.profile import ProfileError, load_profile, missing_weights, weights_folder
from realm.settings import HOME_FOLDERS, SettingsError, load_settings
from realm.temple.orders.check import Asked, Check, Order

NEEDED = ("fastapi", "uvicorn", "jinja2", "pydantic", "sqlalchemy", "alembic", "httpx", "numpy", "yaml")
TO_TRAIN = ("torch", "transformers", "safetensors", "tokenizers", "accelerate")


def _imports(asked: Asked) -> Iterator[Check]:
    """Looked up, not imported: torch alone takes seconds and half a gigabyte."""
    missing = [name for name in (*NEEDED, *TO_TRAIN) if importlib.util.find_spec(name) is None]
    if missing:
        yield Check("imports", "fail", f"not installed: {', '.join(missing)}",
                    'install them: pip install -e ".[training,guild]"')  # fmt: skip
    else:
        yield Check("imports", "ok", f"{len(NEEDED) + len(TO_TRAIN)} packages are installed")


def _folders(asked: Asked) -> Iterator[Check]:
    missing = [name for name in HOME_FOLDERS if not (asked.home.root / name).is_dir()]
    if missing:
        yield Check("folders", "fail", f"{asked.home.root} lacks {', '.join(missing)}",
                    "python3 -m training doctor --fix", _make_folders(asked))  # fmt: skip
    elif not os.access(asked.home.root, os.W_OK):
        yield Check("folders", "fail", f"{asked.home.root} cannot be written",
                    "give yourself the right to write there, or choose another REALM_HOME")  # fmt: skip
    else:
        yield Check("folders", "ok", f"{len(HOME_FOLDERS)} folders are there")


def _make_folders(asked: Asked):
    def mend() -> str:
        asked.home.create()
        return "made the folders"

    return mend


def _database(asked: Asked) -> Iterator[Check]:
    try:
        with db.read(asked.engine) as connection:
            events = connection.execute(sa.select(sa.func.max(db.events.c.id))).scalar()
    except (db.SchemaError, sa.exc.DatabaseError) as error:
        yield Check("database", "fail", str(getattr(error, "orig", error)), "python3 -m training doctor --fix")
        return
    if os.access(asked.home.database, os.W_OK):
        yield Check("database", "ok", f"schema {db.SCHEMA_VERSION}, {events or 0:,} events")
    else:
        yield Check("database", "fail", f"{asked.home.database} cannot be written", "give yourself the right to write")


def _configuration(asked: Asked) -> Iterator[Check]:
    try:
        settings = load_settings(asked.home.root)
    except SettingsError as error:
        yield Check("configuration", "fail", str(error), f"mend {asked.home.root / 'settings.yaml'}")
        return
    hero = settings.default_hero
    if asked.home.database.exists():
        with db.read(asked.engine) as connection:
            hero = campaigns.value(connection, "hero") or hero
    try:
        profile = load_profile(hero, asked.home)
    except ProfileError as error:
        yield Check("configuration", "fail", str(error), f"mend the recipe {asked.home.heroes / (hero + '.yaml')}, or "
                    "python3 -m training hero use pip")  # fmt: skip
        return
    try:
        weights_folder(profile, asked.home)
    except ProfileError:
        text, *how = missing_weights(profile, asked.home).splitlines()
        yield Check("configuration", "fail", text, "; ".join(how))
        return
    yield Check("configuration", "ok", f"settings and the recipe of {profile.name} are sound")


def _disk(asked: Asked) -> Iterator[Check]:
    yield disk(asked, shutil.disk_usage(asked.home.root).free)


def disk(asked: Asked, free: int) -> Check:
    """Free bytes against `min_free_disk`, below which every checkpoint is refused."""
    floor = asked.home.settings.min_free_disk
    said = f"{free / 1e6:,.0f} MB are free on the disk of {asked.home.root}; {floor / 1e6:,.0f} MB must stay free"
    room = f"make room on the disk of {asked.home.root}, or lower min_free_disk in settings.yaml; training goes on then"
    if free < floor:
        return Check("disk", "fail", said + ": checkpoints are refused", room)
    return Check("disk", "warn" if free < 2 * floor else "ok", said, room if free < 2 * floor else "")


QUICK = Order("quick", "Quick", "imports, database, configuration, disk", False,
              (_imports, _folders, _database, _configuration, _disk))  # fmt: skip

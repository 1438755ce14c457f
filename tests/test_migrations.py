"""A database of an earlier release is brought up to date with its rows, and becomes what a new one is."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa

from realm import db
from realm.settings import RealmHome

FIRST = Path(__file__).parent / "fixtures" / "schema_0001.sql"
ROWS = """
INSERT INTO campaigns (id, name, hero_id, state, created_at, seed, config) VALUES ('C', 'pip-1', 'pip', 'active', 1, 7, '{}');
INSERT INTO checkpoints (id, hero_id, campaign_id, run_id, step, path, manifest_sha256, bytes, state, resumable, pinned,
    created_at) VALUES ('K', 'pip', 'C', 'R', 10, 'vault/pip/C/R-10', 'abc', 5, 'live', 1, 1, 2.0);
"""  # noqa: E501


def old_home(tmp_path) -> RealmHome:
    made = RealmHome(tmp_path / "old").create()
    connection = sqlite3.connect(made.database)
    connection.executescript(FIRST.read_text() + ROWS)
    connection.close()
    return made


def columns(home: RealmHome) -> dict[str, set[str]]:
    engine = db.connect(home)
    inspector = sa.inspect(engine)
    found = {table: {c["name"] for c in inspector.get_columns(table)} for table in inspector.get_table_names()}
    engine.dispose()
    return found


def test_the_first_schema_is_brought_up_to_date_and_keeps_its_rows(tmp_path, home):
    old = old_home(tmp_path)
    assert db.schema_version(old.database) == "0001"
    db.migrate(old)
    assert db.schema_version(old.database) == db.SCHEMA_VERSION
    assert columns(old) == columns(home)
    engine = db.connect(old)
    with db.read(engine) as connection:
        row = connection.execute(sa.select(db.checkpoints)).mappings().one()
    engine.dispose()
    assert (row["id"], row["step"], row["pinned"], row["state"]) == ("K", 10, True, "live")
    assert (row["zone"], row["promoted"], row["tags"], row["trashed_at"]) == ("hot", False, None, None)
    db.migrate(old)  # a second time changes nothing
    assert columns(old) == columns(home)


def test_there_is_one_head_and_it_is_the_programs_version():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(db.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [db.SCHEMA_VERSION]

"""What every command uses: refusals, tables, the database, and orders to the arena."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from realm.settings import RealmHome

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class Refused(Exception):
    """A command cannot be done; printed without a traceback, exit code 1."""


def say(data: Any, as_json: bool, text: str) -> None:
    print(json.dumps(data, indent=2, default=str) if as_json else text)


def table(rows: list[list[Any]], head: list[str]) -> str:
    """Plain aligned columns; readable in a pipe and by a screen reader."""
    cells = [head, *[["" if value is None else " ".join(str(value).split()) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
                     for row in cells)  # fmt: skip


def open_db(home: RealmHome):
    """Engine of the realm's database; only `start-all` and `doctor --fix` make one (contracts A1)."""
    from realm import db

    if not home.database.exists():
        raise Refused(f"no realm at {home.root} yet; `python3 -m training start-all` makes one (or set REALM_HOME)")
    return db.connect(home)


def order(kind: str, payload: dict | None = None, as_json: bool = False, wait_s: float = 10.0) -> None:
    """Insert a command for the arena and wait for its result while the arena runs."""
    import sqlalchemy as sa

    from realm import db

    home = RealmHome()
    engine = open_db(home)
    command_id = db.new_id()
    with db.write(engine) as connection:
        connection.execute(sa.insert(db.commands).values(
            id=command_id, t=db.now(), kind=kind, payload=payload or {}, state="pending"))  # fmt: skip
    await_command(home, engine, command_id, as_json, wait_s)


def await_command(home: RealmHome, engine, command_id: str, as_json: bool = False, wait_s: float = 10.0) -> None:
    """Wait for a command's result while the arena runs, and say it."""
    import sqlalchemy as sa

    from realm import db, services

    alive = services.noted(home, "arena") is not None
    deadline = time.monotonic() + (wait_s if alive else 0)
    c = db.commands.c
    query = sa.select(c.kind, c.state, c.result).where(c.id == command_id)
    while True:
        with db.read(engine) as connection:
            kind, state, result = connection.execute(query).one()
        if state != "pending" or time.monotonic() >= deadline:
            break
        time.sleep(0.05)
    if state == "failed":
        raise Refused(f"{kind}: {(result or {}).get('reason', result)}")
    word = "done" if state == "done" else "waiting for the arena" if alive else "noted; the arena acts when it starts"
    say({"command_id": command_id, "state": state, "result": result}, as_json, f"{kind}: {word} ({command_id})")


def skill_named(name: str):
    from realm.guild.skills import SkillError, get_skill

    try:
        return get_skill(name)
    except SkillError as error:
        raise Refused(str(error)) from error

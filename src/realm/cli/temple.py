"""`training temple [ORDER] [--fix] [--json]`: ask the nine orders what is wrong here, and what to do about it."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Annotated, Any

import typer

from realm.cli.common import Json, Refused, open_db, say
from realm.settings import RealmHome

temple_app = typer.Typer()


@temple_app.command()
def temple(
    order: Annotated[str | None, typer.Argument(help="One of the nine orders; default: all but deep.")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what is safe to mend; the arena changes facts.")] = False,
    as_json: Json = False,
    listed: Annotated[bool, typer.Option("--list", help="Only show the newest verdicts and their age.")] = False,
    sparing: Annotated[bool, typer.Option("--sparing", hidden=True)] = False,
    record: Annotated[bool, typer.Option("--record/--no-record", hidden=True)] = True,
) -> None:
    """Examine the realm: forge, champion, oracle (critical), quick, api, weaver, guild, scribe; deep does everything.

    Works with every service down. Exit code 1 when an order fails.
    """
    from realm.temple import orders

    home = RealmHome()
    if listed:
        _list(home, as_json)
        return
    try:
        wanted = orders.chosen(order)
    except KeyError as error:
        raise Refused(error.args[0]) from error
    found = []
    asked = _asked(home, sparing)
    for each in wanted:
        verdict = each.examine(asked, fix)
        found.append(verdict)
        if not as_json:
            _print(each, verdict)
    asked.close()
    if record:
        _record(home, found)
    failed = [verdict.order for verdict in found if verdict.status == "fail"]
    if as_json:
        say({"home": str(home.root), "ok": not failed, "verdicts": [verdict.to_dict() for verdict in found]}, True, "")
    else:
        print(f"\nfailed: {', '.join(failed)}" if failed else "\nno order fails")
    raise typer.Exit(1 if failed else 0)


def _asked(home: RealmHome, sparing: bool):
    from realm.serve import APPS
    from realm.state import machine
    from realm.temple.orders import Asked

    return Asked(home, partial(machine.sample, home.root), APPS, sparing=sparing)


def _print(order: Any, verdict: Any) -> None:
    star = "*" if order.critical else " "
    print(f"{verdict.status.upper():5}{star} {order.title}: {order.purpose} ({verdict.seconds:.1f} s)", flush=True)
    for check in verdict.checks:
        print(f"        {check.status:5} {check.name}: {check.details}")
        if check.remedy:
            print(f"              remedy: {check.remedy}")


def _record(home: RealmHome, found: list[Any]) -> None:
    """Hand the verdicts to the arena, which keeps them for pages and blessings. A realm whose database cannot be
    written has just been told why."""
    import sqlalchemy as sa

    from realm import db

    if not home.database.exists():
        return
    with contextlib.suppress(db.SchemaError, sa.exc.DatabaseError):
        engine = db.connect(home)
        payload = {"verdicts": [verdict.to_dict() for verdict in found]}
        with db.write(engine) as connection:
            connection.execute(sa.insert(db.commands).values(
                id=db.new_id(), t=db.now(), kind="temple.record", payload=payload, state="pending"))  # fmt: skip
        engine.dispose()


def _list(home: RealmHome, as_json: bool) -> None:
    from realm import db
    from realm.temple import verdicts
    from realm.temple.orders import ORDERS

    engine = open_db(home)
    with db.read(engine) as connection:
        kept = verdicts.newest(connection)
    engine.dispose()
    lines = []
    for order in ORDERS:
        known = kept.get(order.id)
        name = order.title + ("*" if order.critical else "")
        if known is None:
            lines.append(f"{'-':5} {name}: no verdict yet; python3 -m training temple {order.id}")
            continue
        age = time.time() - known["t"]
        lines.append(f"{known['status']:5} {name}: {len(known['checks'])} checks, {age / 60:,.0f} min ago"
                     + (" (stale)" if age > verdicts.STALE_S else ""))  # fmt: skip
        for check in known["checks"]:
            if check["status"] in ("warn", "fail"):
                lines.append(f"        {check['status']:5} {check['name']}: {check['details']}\n"
                             f"              remedy: {check['remedy']}")  # fmt: skip
    say(kept, as_json, "\n".join(lines))

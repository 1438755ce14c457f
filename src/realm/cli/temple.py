"""`training temple [ORDER] [--fix] [--json]`: ask the nine orders what is wrong here, and what to do about it."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Annotated, Any

import typer

from realm.cli.common import Json, Refused, open_db, say
from realm.cli.common import order as give_order
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


@temple_app.command()
def momentum(
    do: Annotated[str | None, typer.Option("--do", metavar="ID", help="Give the order of this blocker.")] = None,
    as_json: Json = False,
) -> None:
    """Print what stands in the way: what was tried, why it failed, how to mend it. Exit code 1 when something does."""
    from realm import db
    from realm.state.momentum import momentum as look

    home = RealmHome()
    engine = open_db(home)
    with db.read(engine) as connection:
        found = look(connection, home).blockers
    engine.dispose()
    if do is not None:
        chosen = next((blocker for blocker in found if blocker.id == do), None)
        if chosen is None or chosen.act is None:
            known = ", ".join(blocker.id for blocker in found if blocker.act) or "none"
            raise Refused(f"no blocker {do!r} carries an order; those that do: {known}")
        give_order(chosen.act.kind, chosen.act.payload, as_json)
        return
    text = "\n".join(blocker_lines(blocker) for blocker in found) or "nothing stands in the way"
    say({"blockers": [blocker.model_dump() for blocker in found]}, as_json, text)
    raise typer.Exit(1 if any(blocker.weight != "note" for blocker in found) else 0)


def blocker_lines(blocker: Any) -> str:
    """One blocker as `momentum` and `status` print it."""
    lines = [f"{blocker.weight:<10} {blocker.plain}"]
    lines += [f"           {name}: {text}" for name, text in (("tried", blocker.what), ("why", blocker.why),
                                                            ("remedy", blocker.fix), ("command", blocker.command))
              if text]  # fmt: skip
    if blocker.act:
        lines.append(f"           {blocker.act.label}: python3 -m training momentum --do {blocker.id}")
    return "\n".join(lines)


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

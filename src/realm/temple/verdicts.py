"""The newest verdict of each order, kept as a small fact of the realm (`realm_values`, written by the arena alone).

Pages, the ceremony of the blessing and `training temple --list` read them; how old one is, is part of what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.guild import campaigns
from realm.temple.orders import ORDERS, by_id
from realm.temple.orders.check import TEXT_AT_MOST, WORST

PREFIX = "temple:"
EVERY_S = 3600.0  # a verdict is renewed every hour …
AGAIN_S = 300.0  # … and a bad one sooner, so that a remedy counts soon
STALE_S = 86_400.0  # older than this a verdict says nothing
CHECKS_AT_MOST = 60


def newest(connection: sa.Connection) -> dict[str, dict[str, Any]]:
    """{order id: verdict} of the orders that were asked so far."""
    table = db.realm_values
    query = sa.select(table.c.key, table.c.value).where(table.c.key.in_([PREFIX + order.id for order in ORDERS]))
    return {key.removeprefix(PREFIX): value for key, value in connection.execute(query)}


def keep(connection: sa.Connection, verdict: Mapping[str, Any], by: str) -> bool:
    """Keep a verdict (as `Verdict.to_dict` makes it) if it is the newest of its order; tells it when it changed.

    Args:
        by: who asked: hour | quest | person | terminal.

    Raises:
        ValueError: it is no verdict.
    """
    kept = _sound(verdict) | {"by": by}
    known = newest(connection).get(kept["order"])
    if known is not None and known["t"] >= kept["t"]:
        return False
    campaigns.set_value(connection, PREFIX + kept["order"], kept)
    bad = [check for check in kept["checks"] if check["status"] in ("warn", "fail")]
    title = by_id(kept["order"]).title
    text = f"Order of the {title}: {kept['status']}" + (f": {bad[0]['name']}: {bad[0]['details']}" if bad else "")
    worse = kept["status"] == "fail" and (known is None or known["status"] != "fail")
    events.emit(connection, "temple", text[:TEXT_AT_MOST], "trouble" if worse else "info", order=kept["order"],
                status=kept["status"], critical=kept["critical"], by=by,
                fails=sum(check["status"] == "fail" for check in bad),
                warns=sum(check["status"] == "warn" for check in bad))  # fmt: skip
    return True


def due(kept: Mapping[str, Mapping[str, Any]], now: float) -> list[str]:
    """Orders whose verdict is to be renewed now."""
    def old(order_id: str) -> bool:
        known = kept.get(order_id)
        if known is None:
            return True
        return now - known["t"] >= (AGAIN_S if known["status"] == "fail" else EVERY_S)

    return [order.id for order in ORDERS if old(order.id)]


def _sound(verdict: Any) -> dict[str, Any]:
    """The verdict with nothing in it but what a verdict has; what a terminal sent may be anything."""
    try:
        order = by_id(verdict["order"])
        checks = [{"name": str(c["name"])[:120], "status": c["status"], "details": str(c["details"])[:TEXT_AT_MOST],
                   "remedy": str(c.get("remedy", ""))[:TEXT_AT_MOST], "mendable": bool(c.get("mendable"))}
                  for c in verdict["checks"][:CHECKS_AT_MOST]]  # fmt: skip
        found = {"order": order.id, "status": verdict["status"], "critical": order.critical,
                 "t": min(float(verdict["t"]), db.now()), "seconds": float(verdict["seconds"]), "checks": checks}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"no verdict of an order ({type(error).__name__}: {error})") from error
    if any(each not in WORST for each in (found["status"], *(c["status"] for c in checks))):
        raise ValueError(f"a verdict says one of {', '.join(WORST)}")
    return found

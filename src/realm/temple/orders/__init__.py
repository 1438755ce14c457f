"""The nine orders of the Temple (realm-rules §10): one registry, one file per order.

    python3 -m training temple [ORDER] [--fix] [--json]

Each order is a set of checks; an order's verdict is its worst check. Forge, Champion and Oracle are critical: a quest
is cursed when one of them fails, and one that could not run is a warning, never a pass.
"""

from __future__ import annotations

from realm.temple.orders.api import API
from realm.temple.orders.champion import CHAMPION
from realm.temple.orders.check import Asked, Ceremony, Check, Order, Verdict
from realm.temple.orders.deep import DEEP
from realm.temple.orders.forge import FORGE
from realm.temple.orders.guild import GUILD
from realm.temple.orders.oracle import ORACLE
from realm.temple.orders.quick import QUICK
from realm.temple.orders.scribe import SCRIBE
from realm.temple.orders.weaver import WEAVER

__all__ = ["ORDERS", "Asked", "Ceremony", "Check", "Order", "Verdict", "by_id", "chosen"]

ORDERS: tuple[Order, ...] = (FORGE, CHAMPION, ORACLE, QUICK, API, WEAVER, GUILD, SCRIBE, DEEP)


def by_id(order_id: str) -> Order:
    """Raises KeyError with the known names."""
    for order in ORDERS:
        if order.id == order_id:
            return order
    raise KeyError(f"no order {order_id!r}; the nine are {', '.join(order.id for order in ORDERS)}")


def chosen(order_id: str | None) -> tuple[Order, ...]:
    """What is examined when somebody asks: one order; with none all but Deep, whose cost grows with the realm's size;
    with Deep all nine."""
    if order_id == DEEP.id:
        return ORDERS
    return (by_id(order_id),) if order_id else tuple(order for order in ORDERS if order is not DEEP)

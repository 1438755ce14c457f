"""The Temple as one object: `GET /api/temple` and the page: the nine orders with the age of their verdicts, and the
ledger of blessings with its sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from realm import db
from realm.guild import campaigns, progress
from realm.state import queries
from realm.temple import verdicts
from realm.temple.orders import ORDERS, Order

BLESSINGS = 50
Status = Literal["ok", "warn", "fail", "skip"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckState(_Part):
    """One check. `mendable`: asking with `fix` does something about it."""

    name: str
    status: Status
    details: str
    remedy: str
    mendable: bool


class OrderState(_Part):
    """One order. Status, time and the rest are null before its first verdict; `stale`: older than a day."""

    id: str
    title: str
    purpose: str
    critical: bool
    command: str = Field(description="the same in a terminal")
    status: Status | None = None
    t: float | None = Field(None, description="Unix seconds of the verdict")
    age: float | None = Field(None, description="seconds since then")
    stale: bool = False
    seconds: float | None = Field(None, description="how long it took")
    by: str | None = Field(None, description="who asked: hour, person or terminal")
    asked: bool = Field(False, description="it is being asked now")
    checks: tuple[CheckState, ...] = ()


class Rite(_Part):
    """What a check of the ceremony said when it was not well."""

    name: str
    status: Status
    critical: bool
    details: str
    remedy: str = ""


class BlessingState(_Part):
    """One blessing. quality = ceremony × evidence; `rites`: what cost something; `why`: why there is no evidence."""

    id: str
    quest_id: str
    quest: str | None
    battle_id: str
    t: float
    ceremony: float
    evidence: float
    quality: float
    effort: float
    xp: float
    verdict: str
    rites: tuple[Rite, ...]
    why: str = ""


class TempleState(_Part):
    """`experience` is the sum over all blessings of the campaign, not only those that are listed (newest first)."""

    orders: tuple[OrderState, ...]
    campaign_id: str | None
    experience: float
    count: int
    blessings: tuple[BlessingState, ...]


def temple(connection: sa.Connection, limit: int = BLESSINGS) -> TempleState:
    """The Temple now, inside a caller's `db.read`."""
    kept, asked, now = verdicts.newest(connection), _asked(connection), db.now()
    campaign_id = campaigns.value(connection, campaigns.ACTIVE)
    counted = sa.select(sa.func.count()).where(db.blessings.c.campaign_id == campaign_id)
    found = queries.blessings(connection, campaign_id, limit) if campaign_id else []
    return TempleState(
        orders=tuple(_order(order, kept.get(order.id), order.id in asked, now) for order in ORDERS),
        campaign_id=campaign_id, experience=progress.xp_of(connection, campaign_id) if campaign_id else 0.0,
        count=connection.execute(counted).scalar_one(), blessings=tuple(_blessing(row) for row in found))  # fmt: skip


def _order(order: Order, known: Mapping[str, Any] | None, asked: bool, now: float) -> OrderState:
    facts = {name: getattr(order, name) for name in ("id", "title", "purpose", "critical")}
    facts |= {"command": f"python3 -m training temple {order.id}", "asked": asked}
    if known is None:
        return OrderState(**facts)
    age = max(0.0, now - known["t"])
    return OrderState(**facts, age=age, stale=age > verdicts.STALE_S, checks=tuple(known["checks"]),
                      **{name: known[name] for name in ("status", "t", "seconds", "by")})  # fmt: skip


def _asked(connection: sa.Connection) -> set[str]:
    """Orders that somebody asked for and that have not answered yet."""
    table = db.commands
    query = sa.select(table.c.payload).where(table.c.kind == "temple.run", table.c.state == "pending")
    wanted = {payload.get("order", "all") for payload in connection.execute(query).scalars()}
    return {order.id for order in ORDERS} if wanted & {"all", "deep"} else wanted


def _blessing(row: Mapping[str, Any]) -> BlessingState:
    names = ("id", "quest_id", "quest", "battle_id", "t", "ceremony", "evidence", "quality", "effort", "xp", "verdict")
    parts = row["parts"] if isinstance(row["parts"], dict) else {}
    checks = [check for check in parts.get("checks") or () if isinstance(check, dict)]
    costly = [check for check in checks if check.get("status") in ("warn", "fail")
              or check.get("critical") and check.get("status") == "skip"]  # fmt: skip
    rites = tuple(Rite(**{name: check[name] for name in Rite.model_fields if name in check}) for check in costly)
    return BlessingState(**{name: row[name] for name in names}, rites=rites, why=str(parts.get("why") or ""))

"""Which checkpoints stay: by count, age and size, always with a reason, never a protected one. Applied hourly.

Protected are the champion, the latest, the promoted and the pinned one, and what is used now. Of the others the newest
`retention_keep` of each campaign stay, and the last one of each day for `retention_daily` days; any older than
`retention_days` goes, and the oldest go while hot and warm zone together take more than `retention_bytes` (or the disk
has less than twice `min_free_disk` free). One younger than `retention_min_hours` stays. What goes, goes to the trash.

    python3 -m training vault retention            # what would go, and why
    python3 -m training vault retention --apply
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.settings import RealmHome, Settings
from realm.vault import catalog, places, trash


@dataclass(frozen=True)
class Decision:
    """One checkpoint: whether it stays and why. `bytes` as they lie on the disk now."""

    id: str
    hero_id: str
    campaign_id: str
    step: int
    created_at: float
    bytes: int
    keep: bool
    reason: str


@dataclass(frozen=True)
class Plan:
    """What retention would do now, newest checkpoint first."""

    decisions: tuple[Decision, ...]
    rule: str

    @property
    def going(self) -> tuple[Decision, ...]:
        return tuple(d for d in self.decisions if not d.keep)

    @property
    def freed(self) -> int:
        return sum(d.bytes for d in self.going)

    def to_dict(self) -> dict[str, Any]:
        return {"rule": self.rule, "freed": self.freed, "going": len(self.going),
                "staying": len(self.decisions) - len(self.going),
                "decisions": [asdict(d) for d in self.decisions]}  # fmt: skip


def rule_words(settings: Settings) -> str:
    """The rule in one sentence."""
    parts = [f"the newest {settings.retention_keep} of each campaign stay"]
    if settings.retention_daily:
        parts.append(f"the last of each day for {settings.retention_daily} days")
    if settings.retention_days:
        parts.append(f"none longer than {settings.retention_days:g} days")
    if settings.retention_bytes:
        parts.append(f"at most {settings.retention_bytes / 1e9:g} GB in all")
    by_itself = "" if settings.retention else " (retention is off: nothing is deleted by itself)"
    return ", ".join(parts) + "; champion, latest, promoted and pinned always" + by_itself


def plan(home: RealmHome, connection: sa.Connection, now: float | None = None) -> Plan:
    """Decide for every checkpoint in the hot and warm zone; changes nothing."""
    settings, now = home.settings, db.now() if now is None else now
    table = db.checkpoints
    query = sa.select(table).where(table.c.state.in_(("live", "corrupt")))
    query = query.order_by(table.c.created_at.desc(), table.c.id.desc())
    rows = [dict(r) for r in connection.execute(query).mappings()]
    why = catalog.protected(connection)
    ranks: dict[str, int] = {}
    days: set[tuple[str, str]] = set()
    verdicts: list[tuple[dict[str, Any], int, bool, str]] = []
    for row in rows:
        at = ranks[row["campaign_id"]] = ranks.get(row["campaign_id"], 0) + 1
        day = (row["campaign_id"], time.strftime("%Y-%m-%d", time.gmtime(row["created_at"])))
        keep, reason = _judge(home, row, why.get(row["id"], []), at, day not in days, now)
        days.add(day)
        verdicts.append((row, places.size_of(places.place_of(home, row)), keep, reason))
    verdicts = _fit(home, verdicts, why, now)
    return Plan(tuple(Decision(r["id"], r["hero_id"], r["campaign_id"], r["step"], r["created_at"], size, keep, reason)
                      for r, size, keep, reason in verdicts), rule_words(settings))  # fmt: skip


def _judge(
    home: RealmHome, row: dict[str, Any], protected: list[str], rank: int, last_of_day: bool, now: float
) -> tuple[bool, str]:  # fmt: skip
    """(stays, why) of one checkpoint, before the size of all is looked at."""
    settings, hours = home.settings, (now - row["created_at"]) / 3600
    if protected:
        return True, ", ".join(protected)
    if not places.reachable(home, row["zone"]):
        return True, f"its zone {row['zone']} cannot be reached"
    if hours < settings.retention_min_hours:
        return True, f"younger than {settings.retention_min_hours:g} h"
    if settings.retention_days and hours >= 24 * settings.retention_days:
        return False, f"{hours / 24:,.1f} days old (retention_days {settings.retention_days:g})"
    if rank <= settings.retention_keep:
        return True, f"number {rank} of the newest {settings.retention_keep}"
    if last_of_day and hours < 24 * settings.retention_daily:
        return True, "last of its day"
    return False, f"number {rank} of its campaign (retention_keep {settings.retention_keep})"


def _fit(
    home: RealmHome, verdicts: list[tuple[dict[str, Any], int, bool, str]], why: dict[str, list[str]], now: float
) -> list[tuple[dict[str, Any], int, bool, str]]:  # fmt: skip
    """Let the oldest unprotected go while the rest takes more than is allowed."""
    settings = home.settings
    used = sum(size for _, size, keep, _ in verdicts if keep)
    limits = []
    if settings.retention_bytes:
        limits.append((settings.retention_bytes, f"above {settings.retention_bytes / 1e9:g} GB (retention_bytes)"))
    short = trash.LAST_RESORT * settings.min_free_disk - trash.free_of(home)
    going = sum(size for row, size, keep, _ in verdicts if not keep and row["zone"] == "hot")
    if short - going > 0:
        limits.append((used - (short - going), "the disk is nearly full"))
    if not limits:
        return verdicts
    limit, reason = min(limits)
    fitted = list(verdicts)
    for index in range(len(fitted) - 1, -1, -1):
        row, size, keep, _ = fitted[index]
        young = (now - row["created_at"]) / 3600 < settings.retention_min_hours
        if used <= limit:
            break
        if keep and not young and row["id"] not in why and places.reachable(home, row["zone"]):
            fitted[index] = (row, size, False, f"{reason}: the oldest go first")
            used -= size
    return fitted


def apply(home: RealmHome, made: sa.Engine, chosen: Plan | None = None) -> Plan:
    """Move what the plan names to the trash; returns the plan that was carried out. Protection is looked at again."""
    if chosen is None:
        with db.read(made) as connection:
            chosen = plan(home, connection)
    if chosen.going:
        trash.delete(home, made, {d.id: d.reason for d in chosen.going}, act="retention")
    return chosen

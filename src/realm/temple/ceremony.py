"""The ceremony of the blessing: what the orders say about one finished quest (contracts B8).

Quick, Forge, Champion, Guild and Scribe are asked at once, about what the quest touched; the others count with the
verdict they gave within the last hour. A critical order without a verdict is a warning, never a pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from realm import db
from realm.temple.blessing import CeremonyCheck
from realm.temple.orders import ORDERS, Asked
from realm.temple.verdicts import STALE_S

AT_ONCE = ("forge", "champion", "quick", "guild", "scribe")
LEVELS_AT_MOST = 3  # of each skill: the hardest that the quest trained; all are examined every hour


def skills_of(quest: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """{skill: levels} that a quest trained. Skills on other servers are left out: they are asked every hour."""
    found: dict[str, set[int]] = {}
    if quest["skill"]:
        found[quest["skill"]] = {int(level) for level in quest["mix"] or (quest["level"] or 1,)}
    for skill, mix in (quest["rehearsal"] or {}).items():
        if isinstance(mix, Mapping):
            found.setdefault(skill, set()).update(int(level) for level in mix)
    return {skill: tuple(sorted(levels)[-LEVELS_AT_MOST:]) for skill, levels in found.items()
            if levels and not skill.startswith("url:")}  # fmt: skip


def hold(
    asked: Asked, kept: Mapping[str, Mapping[str, Any]], trials: Sequence[Mapping[str, Any]]
) -> list[CeremonyCheck]:
    """One check for each order.

    Args:
        asked: with the `ceremony` of the quest.
        kept: newest verdicts of the realm.
        trials: of the quest's battle; a hero that sat one has answered, which is what the Order of the Oracle asks.
    """
    found = []
    for order in ORDERS:
        if order.id in AT_ONCE:
            verdict = order.examine(asked)
            remedy = next((c.remedy for c in verdict.checks if c.status == verdict.status and c.remedy), "")
            found.append(CeremonyCheck(order.id, verdict.status, order.critical, verdict.said(), remedy))
            continue
        known = kept.get(order.id)
        if known is not None and db.now() - known["t"] < STALE_S:
            found.append(_remembered(known))
        elif order.id == "oracle" and (answered := sum(t["n"] for t in trials if t["tokens"])):
            found.append(CeremonyCheck(order.id, "ok", True, f"{answered} questions were answered in its trials"))
        else:
            found.append(CeremonyCheck(order.id, "skip", order.critical, "it was not asked within the last day"))
    return found


def _remembered(known: Mapping[str, Any]) -> CeremonyCheck:
    status, bad = known["status"], [c for c in known["checks"] if c["status"] == known["status"] != "ok"]
    said = f"{bad[0]['name']}: {bad[0]['details']}" if bad else f"{len(known['checks'])} checks"
    age = (db.now() - known["t"]) / 60
    return CeremonyCheck(known["order"], status, known["critical"], f"{said} ({age:.0f} min ago)",
                         bad[0]["remedy"] if bad else "")  # fmt: skip

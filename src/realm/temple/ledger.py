"""Experience audited: every blessing computed again from its stored parts and from the metrics (realm-rules §10)."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from realm import db
from realm.temple.blessing import recompute

TOLERANCE = 1e-6  # relative; metrics may have been thinned, which keeps effort sums up to rounding


def audit(connection: sa.Connection, campaign_id: str | None = None) -> dict[str, Any]:
    """Recompute the experience of a campaign (or of all).

    Returns:
        {"xp": stored sum, "recomputed": sum, "blessings": n, "differences": [{quest_id, what, stored, found}]}.
    """
    table = db.blessings
    query = sa.select(table).order_by(table.c.t)
    if campaign_id is not None:
        query = query.where(table.c.campaign_id == campaign_id)
    stored = recomputed = 0.0
    differences = []
    rows = connection.execute(query).mappings().all()
    for row in rows:
        parts = row["parts"] if isinstance(row["parts"], dict) else {}
        battles = parts.get("battles") or sa.select(db.battles.c.id).where(
            db.battles.c.quest_id == row["quest_id"], db.battles.c.campaign_id == row["campaign_id"])  # fmt: skip
        effort = float(connection.execute(
            sa.select(sa.func.coalesce(sa.func.sum(db.metrics.c.effort), 0.0))
            .where(db.metrics.c.battle_id.in_(battles))).scalar_one())  # fmt: skip
        try:
            again = recompute(effort, row["parts"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            stored += row["xp"]
            differences.append({"quest_id": row["quest_id"], "what": "parts", "stored": "unreadable",
                                "found": f"{type(error).__name__}: {error}"})  # fmt: skip
            continue
        stored, recomputed = stored + row["xp"], recomputed + again.xp
        for what, old, new in (("effort", row["effort"], effort), ("quality", row["quality"], again.quality),
                               ("xp", row["xp"], again.xp)):  # fmt: skip
            if abs(old - new) > TOLERANCE * max(1.0, abs(old)):
                differences.append({"quest_id": row["quest_id"], "what": what, "stored": old, "found": new})
    return {"xp": stored, "recomputed": recomputed, "blessings": len(rows), "differences": differences}

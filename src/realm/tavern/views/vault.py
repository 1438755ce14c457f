"""What the Vault's pages print: disk by zone, retention with its dry run, every checkpoint, and one of them."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from realm.state import uploads
from realm.tavern.views.home import Facts
from realm.vault import catalog, places, retention

LIMIT = 200
GOING = 12  # decisions that the page shows; the command lists them all
TERMINAL = "python3 -m training vault"


def vault(connection: sa.Connection, f: Facts) -> dict[str, Any]:
    """Zones, retention and all checkpoints; the trash apart."""
    rows = catalog.listing(connection, limit=LIMIT)
    why = catalog.protected(connection)
    zones = catalog.disk(f.home, connection)
    plan = retention.plan(f.home, connection)
    shown = [{**row, "protected": why.get(row["id"], []), "reachable": True} for row in rows]
    reach = {zone["zone"]: zone["reachable"] for zone in zones}
    for row in shown:
        row["reachable"] = reach[row["zone"]]
    live = [row for row in shown if row["state"] != "trash"]
    return {
        "checkpoints": live, "trash": [row for row in shown if row["state"] == "trash"], "zones": zones,
        "champion": f.snapshot.vault.champion, "live": sum(row["state"] == "live" for row in live),
        "used": sum(zone["bytes"] or 0 for zone in zones), "limits": uploads.limits(f.home), "path": str(f.home.vault),
        "plan": plan, "going": plan.going[:GOING], "apply": json.dumps({"going": len(plan.going)}),
        "trash_hours": f.home.settings.trash_hours, "by_itself": f.home.settings.retention, "terminal": TERMINAL,
    }  # fmt: skip


def anchor(connection: sa.Connection, f: Facts, checkpoint_id: str, other: str | None = None) -> dict[str, Any]:
    """One checkpoint with what may be done to it, its lineage, and how it differs from another one.

    Raises:
        VaultError: no such checkpoint.
    """
    told = catalog.show(f.home, connection, checkpoint_id)
    others = [row for row in catalog.listing(connection, limit=LIMIT) if row["id"] != told["id"]]
    bytes_now = places.size_of(f.home.root / told["path"]) if told["state"] != "trash" else told["bytes"]
    return {
        **told, "bytes_now": bytes_now, "acts": _acts(told), "made_of": catalog.lineage(connection, told["id"]),
        "others": others, "other": other, "champion": f.snapshot.vault.champion == told["id"],
        "difference": catalog.compare(f.home, connection, told["id"], other) if other else None, "terminal": TERMINAL,
        "confirm": json.dumps({"confirm": told["id"]}),
    }  # fmt: skip


def _acts(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Buttons in order: path and body of the order, words, the same in the terminal, and why one is off."""
    key, state = told["id"], told["state"]

    def act(label: str, path: str, command: str, body: dict[str, Any] | None = None, off: str = "") -> dict[str, Any]:
        return {"label": label, "path": f"vault/{key}/{path}", "command": f"{TERMINAL} {command}", "off": off,
                "body": json.dumps(body) if body else ""}  # fmt: skip

    if state == "trash":
        return [act("Restore", "restore", f"restore {key}")]
    if state == "gone":
        return []
    whole = "" if state == "live" else f"it is {state}"
    deep = next((why for why in told["protected"] if why in ("champion", "latest of its campaign", "promoted")), "")
    acts = [
        act("Take the promotion back", "demote", f"promote {key} --undo") if told["promoted"] else
        act("Promote", "promote", f"promote {key}", off=whole),
        act("Unpin", "unpin", f"unpin {key}") if told["pinned"] else act("Pin", "pin", f"pin {key}"),
        act("Verify", "verify", f"verify {key}"),
        *(act(f"Move to {zone}", "move", f"move {key} {zone}", {"zone": zone},
              f"it is the {deep}" if zone == "deep" and deep else whole if state == "corrupt" else "")
          for zone in places.ZONES if zone != told["zone"]),
        act("Export as a folder", "export", f"export {key}", {"format": "hf"}, whole),
        act("Export as GGUF", "export", f"export {key} --format gguf", {"format": "gguf"}, whole),
    ]  # fmt: skip
    return acts

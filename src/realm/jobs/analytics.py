"""School of Analytics: a campaign in numbers, its report as files, and the Temple's checks. Reads the realm only."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from realm import db
from realm.guild import campaigns
from realm.guild.campaigns import lifecycle
from realm.guild.campaigns import report as reports
from realm.jobs import kinds
from realm.jobs.bench import Bench, Result
from realm.jobs.kinds import JobError
from realm.state import machine
from realm.temple import orders
from realm.temple.orders import Asked

TOLD = ("campaign", "headline", "maintenance", "cap", "champion", "unknown")


def analytics(payload: kinds.Analytics, bench: Bench) -> Result:
    """The numbers of a campaign's report, without its tables of trials."""
    found = _report(payload, bench)
    summary = found["forgetting"]["summary"]
    return Result({**{name: found[name] for name in TOLD}, "forgetting": summary, "rungs": len(found["climb"])})


def report(payload: kinds.Report, bench: Bench) -> Result:
    """report.md and report.json, as archiving a campaign writes them."""
    found = _report(payload, bench)
    (bench.folder / "report.md").write_text(reports.text_of(found), encoding="utf-8")
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (bench.folder / "report.json").write_text(text, encoding="utf-8")
    return Result({"campaign": found["campaign"]["name"], "headline": found["headline"]},
                  files=("report.md", "report.json"))  # fmt: skip


def _report(payload: kinds.Analytics, bench: Bench) -> dict[str, Any]:
    engine = db.connect(bench.at_home())
    try:
        with db.read(engine) as connection:
            found = lifecycle.find(connection, payload.campaign) if payload.campaign else campaigns.active(connection)
            if found is None:
                raise JobError("refused", "no campaign is active; name one of `python3 -m training campaign list`")
            return reports.build(connection, found)
    finally:
        engine.dispose()


def health_check(payload: kinds.HealthCheck, bench: Bench) -> Result:
    """One order of the Temple, or with `deep` all nine; the arena keeps the verdicts. May load a model: in a child."""
    home = bench.at_home()
    asked = Asked(home, partial(machine.sample, home.root), sparing=True)
    try:
        verdicts = [order.examine(asked).to_dict() for order in orders.chosen(payload.order)]
    finally:
        asked.close()
    told = {v["order"]: v["status"] for v in verdicts}
    bad = [{"order": v["order"], **{name: c[name] for name in ("name", "status", "details", "remedy")}}
           for v in verdicts for c in v["checks"] if c["status"] in ("warn", "fail")]  # fmt: skip
    return Result({"orders": told, "ok": "fail" not in told.values(), "bad": bad}, {"verdicts": verdicts})

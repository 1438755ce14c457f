"""`training ledger …`: what experience, levels and titles are made of, and whether they still follow from the facts."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from realm.cli.common import Json, Refused, open_db, say, table
from realm.settings import RealmHome

ledger_app = typer.Typer(no_args_is_help=True, help="The ledger: experience, levels, titles; computed again.")
Which = Annotated[str | None, typer.Argument(help="Campaign id or name; default: the one that is played.")]


def _chosen(connection: Any, which: str | None) -> str:
    """Id of the campaign that is meant."""
    import sqlalchemy as sa

    from realm import db
    from realm.guild import campaigns

    if which is None:
        active = campaigns.value(connection, campaigns.ACTIVE)
        if active is None:
            raise Refused("no campaign yet; `python3 -m training start-all` begins the first")
        return active
    c = db.campaigns.c
    rows = connection.execute(sa.select(c.id, c.name).order_by(c.created_at)).all()
    found = [row.id for row in rows if which in (row.id, row.name)]
    if len(found) > 1:
        raise Refused(f"campaign name {which!r} is not unique; give one of these ids: {', '.join(found)}")
    if not found:
        raise Refused(f"no campaign {which!r}; known: {', '.join(row.name for row in rows) or 'none yet'}")
    return found[0]


@ledger_app.command("show")
def ledger_show(campaign: Which = None, as_json: Json = False) -> None:
    """Print a campaign's ledger: blessings with the experience they gave, levels with their trials, deeds."""
    from realm import db
    from realm.state.progression import progression

    engine = open_db(RealmHome())
    with db.read(engine) as connection:
        campaign_id = _chosen(connection, campaign)
        blessings, levels = _rows(connection, campaign_id)
        drawn = progression(connection, campaign_id)
    engine.dispose()
    data = {"campaign_id": campaign_id, "xp": sum(b["xp"] for b in blessings), "blessings": blessings,
            "levels": levels, "progression": drawn.model_dump(mode="json")}  # fmt: skip
    if as_json:
        say(data, True, "")
        return
    total, lines = 0.0, []
    for b in blessings:
        total += b["xp"]
        lines.append([_when(b["t"]), b["quest"], b["verdict"], f"{b['quality']:.2f}", f"{b['effort']:.1f}",
                      f"{b['xp']:+.1f}", f"{total:.1f}"])  # fmt: skip
    print(table(lines, ["when", "quest", "verdict", "quality", "effort", "xp", "sum"]) if lines else "no blessing yet")
    if levels:
        climbed = [[_when(x["mastered_at"]), f"{x['skill']} L{x['level']}", "closed" if x["closed"] else "open",
                    x["step"], x["trial_id"]] for x in levels]  # fmt: skip
        print("\n" + table(climbed, ["when", "mastered", "kind", "step", "trial"]))
    print("\n" + _deeds(drawn))


def _rows(connection: Any, campaign_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    import sqlalchemy as sa

    from realm import db

    b, q = db.blessings, db.quests
    query = sa.select(b.c.id, b.c.t, b.c.quest_id, q.c.name.label("quest"), b.c.verdict, b.c.ceremony, b.c.evidence,
                      b.c.quality, b.c.effort, b.c.xp).select_from(b.outerjoin(q, q.c.id == b.c.quest_id))
    blessings = connection.execute(query.where(b.c.campaign_id == campaign_id).order_by(b.c.t, b.c.id)).mappings()
    table = db.levels
    levels = connection.execute(sa.select(table).where(table.c.campaign_id == campaign_id).order_by(
        table.c.mastered_at, table.c.skill, table.c.level)).mappings()  # fmt: skip
    return [dict(row) for row in blessings], [dict(row) for row in levels]


@ledger_app.command("recompute")
def ledger_recompute(
    campaign: Which = None,
    regrade: Annotated[bool, typer.Option("--regrade", help="Mark every stored answer again (minutes).")] = False,
    as_json: Json = False,
) -> None:
    """Compute experience, verdicts, levels, champion and titles again from the facts; never writes.

    Exit code 1 when anything stored differs; every difference comes with its next action.
    """
    from realm import db
    from realm.state.progression import progression
    from realm.temple.audit import audit

    engine = open_db(RealmHome())
    with db.read(engine) as connection:
        campaign_id = _chosen(connection, campaign)
        report = audit(connection, campaign_id, regrade)
        drawn = progression(connection, campaign_id)
    engine.dispose()
    bad = report.differences
    if as_json:
        say({**report.to_dict(), "same": not bad, "progression": drawn.model_dump(mode="json")}, True, "")
        raise typer.Exit(1 if bad else 0)
    print(f"campaign     {report.name} ({report.campaign_id})")
    print(f"experience   {report.xp:.1f} stored, {report.recomputed_xp:.1f} computed from {report.blessings} blessings")
    print(f"levels       {report.levels} stored, each judged again by its trial")
    graded = f", {report.answers} answers marked again" if regrade else "; --regrade marks the answers again too"
    print(f"trials       {report.trials} judged again{graded}")
    print(_deeds(drawn))
    for line in report.unchecked:
        print(f"not checked  {line}")
    for each in bad:
        print(f"\nDIFFERENT    {each.about}: {each.what}\n  stored     {each.stored}\n  computed   {each.found}\n"
              f"  next       {each.action}")  # fmt: skip
    print(f"\n{len(bad)} differences" if bad else "\nnothing differs")
    raise typer.Exit(1 if bad else 0)


def _deeds(drawn: Any) -> str:
    earned = [a for a in drawn.achievements if a.t is not None]
    lines = [f"title        {drawn.title.shown} (total level {drawn.title.total_level})",
             f"achievements {len(earned)} of {len(drawn.achievements)}"
             + (f": {', '.join(a.name for a in earned)}" if earned else "")]  # fmt: skip
    lines += [f"debuff       {d.name}: {d.why}; cure: {d.cure}" for d in drawn.debuffs] or ["debuffs      none"]
    return "\n".join(lines)


def _when(t: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(t))

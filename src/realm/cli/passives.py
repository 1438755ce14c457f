"""`training passives …`: what a hero lost beside its skills, measured on a frozen suite that is never practised."""

from __future__ import annotations

from typing import Annotated

import typer

from realm.cli.common import Json, Refused, open_db, say, table
from realm.settings import RealmHome

passives_app = typer.Typer(no_args_is_help=True, help="The frozen canary suite: measurements and drift.")
Campaign = Annotated[str | None, typer.Option(help="Id or name; default: the active campaign.")]


@passives_app.command("show")
def passives_show(
    campaign: Campaign = None,
    items: Annotated[bool, typer.Option(help="List the items of the suite instead.")] = False,
    as_json: Json = False,
) -> None:
    """Every measurement of a campaign, and the drift from the first to the newest."""
    from realm import db
    from realm.guild import passives

    if items:
        rows = [{"part": part, **item} for part in passives.PARTS for item in passives.suite()[part]]
        cells = [[row["part"], row["id"], row["prompt"][:70], row["golden"][:40]] for row in rows]
        return say(rows, as_json, table(cells, ["part", "item", "prompt", "golden answer"]))
    with db.read(open_db(RealmHome())) as connection:
        campaign_id = _campaign_id(connection, campaign)
        found = passives.history(connection, campaign_id)
        changes = passives.drift(connection, campaign_id)
        why = passives.due(connection, campaign_id)
    told = {"campaign_id": campaign_id, "suite": passives.PassiveSuite().version, "measured": found,
            "drift": [change.to_dict() for change in changes], "due": why}  # fmt: skip
    text = table([[row["checkpoint_id"], row["step"], row["part"], f"{row['correct']} of {row['n']}",
                   None if row["loss"] is None else f"{row['loss']:.3f}"] for row in found],
                 ["checkpoint", "step", "part", "right", "loss"])  # fmt: skip
    if not found:
        text = "not measured yet: the suite is held after the first quest of a campaign"
    if changes:
        text += "\n\nsince the first measurement:\n" + _words(changes)
    say(told, as_json, text)


@passives_app.command("compare")
def passives_compare(
    checkpoint_a: str, checkpoint_b: str, campaign: Campaign = None, as_json: Json = False
) -> None:  # fmt: skip
    """What changed from one checkpoint to another, item by item, with 99 % intervals."""
    from realm import db
    from realm.guild import passives

    with db.read(open_db(RealmHome())) as connection:
        try:
            changes = passives.compare(connection, _campaign_id(connection, campaign), checkpoint_a, checkpoint_b)
        except passives.PassivesError as error:
            raise Refused(str(error)) from error
    say([change.to_dict() for change in changes], as_json, _words(changes))


def _campaign_id(connection, name: str | None) -> str:
    from realm.guild import campaigns
    from realm.guild.campaigns import lifecycle

    if name is None:
        found = campaigns.active(connection)
        if found is None:
            raise Refused("no campaign is active; name one with --campaign, `training campaign list` shows them")
        return found["id"]
    try:
        return lifecycle.find(connection, name)["id"]
    except lifecycle.CampaignError as error:
        raise Refused(str(error)) from error


def _words(changes) -> str:
    cells = []
    for change in changes:
        low, high = change.accuracy_interval
        loss = "not measured"
        if change.loss is not None and change.loss_interval is not None:
            loss = f"{change.loss_before:.3f} → {change.loss_after:.3f} ({change.loss_interval[0]:+.3f} to "
            loss += f"{change.loss_interval[1]:+.3f})"
        cells.append([change.part, f"{change.before} → {change.after} of {change.n}",
                      f"{change.accuracy:+.3f} ({low:+.3f} to {high:+.3f})", loss,
                      ", ".join(change.drifted) or "no"])  # fmt: skip
    return table(cells, ["part", "right", "change (99 % interval)", "loss (99 % interval)", "drifted"])

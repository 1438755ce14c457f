"""`training campaign …`: one hero's climb after another, from the first level to the Hall of Legends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from realm.cli.common import Json, Refused, open_db, order, say, table
from realm.settings import RealmHome

campaign_app = typer.Typer(no_args_is_help=True, help="Campaigns: a hero's climb, its report and its cap.")
Named = Annotated[str | None, typer.Argument(help="Name or id; default: the active campaign.")]


@campaign_app.command("new")
def campaign_new(
    hero: Annotated[str, typer.Option(help="Hero that plays it; `hero list` names them.")],
    name: Annotated[str | None, typer.Argument(help="Name, used once for ever; default HERO-N.")] = None,
    method: Annotated[str | None, typer.Option(help="Campaign, or exported file, whose method is played.")] = None,
    goal: Annotated[list[str] | None, typer.Option(help="SKILL, SKILL=WEIGHT or SKILL=WEIGHT@LEVEL; repeat.")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="Training and trial tokens.")] = None,
    budget_steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Root of every seed; default: the method's, or of the name.")] = None,
    school: Annotated[list[str] | None, typer.Option(help="Idle quests take turns in these; repeat, also one.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Checkpoint to start from; default: base weights.")] = None,
    activate: Annotated[bool, typer.Option("--activate", help="Play it at once.")] = False,
    as_json: Json = False,
) -> None:
    """Make a campaign; `campaign activate` plays it."""
    from realm.guild.campaigns import lifecycle
    from realm.guild.skills import SkillError
    from realm.settings import SettingsError

    payload: dict[str, Any] = {"hero_id": hero.lower(), "name": name, "method": _method(method),
                               "goals": _goals(goal), "seed": seed, "schools": school or None,
                               "checkpoint": checkpoint}  # fmt: skip
    if budget_tokens is not None or budget_steps is not None:
        payload["budget"] = {"tokens": budget_tokens, "steps": budget_steps}
    payload = {key: value for key, value in payload.items() if value is not None}
    home = RealmHome()
    with _reading(home) as connection:
        try:
            lifecycle.check_new(connection, home, payload)
        except (SettingsError, SkillError) as error:
            raise Refused(str(error)) from error
    order("campaign.new", {**payload, **({"activate": True} if activate else {})}, as_json)


def _method(given: str | None) -> Any:
    """A file's values, or the campaign's name as it is."""
    from realm.guild.campaigns import method

    if given is None:
        return None
    path = Path(given).expanduser()
    if not path.is_file() and path.suffix not in (".yaml", ".yml", ".json"):
        return given
    try:
        return method.read_file(path)
    except method.MethodError as error:
        raise Refused(str(error)) from error


def _goals(given: list[str] | None) -> dict[str, dict] | None:
    """{skill: {weight, level}} of `SKILL=WEIGHT@LEVEL` words; a skill's id may hold a colon."""
    found: dict[str, dict] = {}
    for word in given or ():
        skill, _, rest = word.partition("=")
        weight, _, level = rest.partition("@")
        if not rest:
            skill, _, level = skill.partition("@")
        try:
            found[skill] = {"weight": float(weight) if weight else 1.0, "level": int(level) if level else None}
        except ValueError as error:
            raise Refused(f"goal {word!r}: write SKILL, SKILL=WEIGHT or SKILL=WEIGHT@LEVEL, for example "
                          "bin=1.0@10") from error  # fmt: skip
    return found or None


@campaign_app.command("list")
def campaign_list(as_json: Json = False) -> None:
    """Campaigns that can be played, newest first; the archived ones are in `campaign hall`."""
    from realm.guild.campaigns import lifecycle

    with _reading(RealmHome()) as connection:
        rows = lifecycle.listing(connection)
    shown = [[r["name"], r["hero_id"], r["state"], r["total_level"], f"{r['steps']:,}", f"{r['tokens']:,}",
              _caps(r["cap"])] for r in rows]  # fmt: skip
    head = ["name", "hero", "state", "total level", "steps", "tokens", "cap"]
    say(rows, as_json, table(shown, head) if rows else "No campaign yet; `python3 -m training start-all` begins one.")


@campaign_app.command("hall")
def campaign_hall(as_json: Json = False) -> None:
    """The Hall of Legends: archived campaigns, newest first."""
    from realm.guild.campaigns import lifecycle
    from realm.guild.campaigns.report_text import day

    with _reading(RealmHome()) as connection:
        rows = lifecycle.hall(connection)
    shown = [[r["name"], r["hero"], r["total_level"], _caps(r["cap"]), f"{r['battle_s'] / 3600:.1f} h",
              f"{r['steps']:,}", day(r["archived_at"]), f"campaigns/{r['name']}/report.md"] for r in rows]  # fmt: skip
    head = ["name", "hero", "total level", "cap", "in battle", "steps", "archived", "report"]
    say(rows, as_json, table(shown, head) if rows else "The Hall of Legends is empty.")


def _caps(caps: dict[str, int] | None) -> str:
    return ", ".join(f"{skill} L{level}" for skill, level in (caps or {}).items()) or "not found"


@campaign_app.command("activate")
def campaign_activate(campaign: str, as_json: Json = False) -> None:
    """Play a campaign; a running battle is stopped with a checkpoint first."""
    _order("activate", campaign, as_json)


@campaign_app.command("pause")
def campaign_pause(campaign: Named = None, as_json: Json = False) -> None:
    """Rest: stop the battle with a checkpoint. `activate` (or resuming the battle) goes on where it was."""
    _order("pause", campaign, as_json)


@campaign_app.command("archive")
def campaign_archive(campaign: Named = None, as_json: Json = False) -> None:
    """Write the report and move the campaign to the Hall of Legends; nothing is deleted."""
    _order("archive", campaign, as_json)


@campaign_app.command("restore")
def campaign_restore(campaign: str, as_json: Json = False) -> None:
    """Bring an archived campaign back; it is paused until it is activated."""
    _order("restore", campaign, as_json)


@campaign_app.command("budget")
def campaign_budget(
    campaign: Named = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Training and trial tokens in all; default: any.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps in all; default: any.")] = None,
    as_json: Json = False,
) -> None:
    """Set what a campaign may cost in all; without numbers it has no limit."""
    _order("budget", campaign, as_json, tokens=tokens, steps=steps)


@campaign_app.command("report")
def campaign_report(
    campaign: Named = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead.")] = None,
    as_json: Json = False,
) -> None:
    """Method, climb, forgetting, maintenance, cap, champion, repairs, and what is not known; Markdown or JSON."""
    import json

    from realm.guild.campaigns import report

    with _reading(RealmHome()) as connection:
        found = report.build(connection, _found(connection, campaign))
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n" if as_json else report.text_of(found)
    _hand_out(text, out)


@campaign_app.command("export-method")
def campaign_export_method(
    campaign: Named = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file; YAML, or JSON by its name.")] = None,
    as_json: Json = False,
) -> None:
    """The method as a file that `campaign new --method FILE` plays with another hero."""
    import json

    import yaml

    from realm.guild.campaigns import method

    with _reading(RealmHome()) as connection:
        found = method.export(connection, _found(connection, campaign)).model_dump(mode="json")
    as_json = as_json or (out is not None and out.suffix == ".json")
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n" if as_json else (
        yaml.safe_dump(found, sort_keys=False, allow_unicode=True))  # fmt: skip
    _hand_out(text, out)


def _hand_out(text: str, out: Path | None) -> None:
    from realm.guild.campaigns.report import save_text

    if out is None:
        print(text, end="")
        return
    try:
        save_text(out, text)
    except OSError as error:
        raise Refused(f"{out}: {error.strerror or error}; choose another file") from error
    print(f"written to {out}")


def _order(verb: str, campaign: str | None, as_json: bool, **more: Any) -> None:
    """Send a command; one that names no campaign, or an unknown one, is refused before it is noted."""
    with _reading(RealmHome()) as connection:
        found = _found(connection, campaign)
    payload = {"campaign": found["id"], **{key: value for key, value in more.items() if value is not None}}
    order(f"campaign.{verb}", payload, as_json, wait_s=30.0)


def _found(connection: Any, campaign: str | None) -> dict[str, Any]:
    from realm.guild import campaigns
    from realm.guild.campaigns import lifecycle

    if campaign is None:
        found = campaigns.active(connection)
        if found is None:
            raise Refused("no campaign is active; name one of `python3 -m training campaign list`")
        return found
    try:
        return lifecycle.find(connection, campaign)
    except lifecycle.CampaignError as error:
        raise Refused(str(error)) from error


def _reading(home: RealmHome):
    from realm import db

    return db.read(open_db(home))

"""A campaign's life: made, paused, archived to the Hall of Legends, restored (realm-rules §6, contracts C5).

Nothing is ever deleted: an archived campaign keeps its checkpoints, trials and ledger, and a written report in
`$REALM_HOME/campaigns/<name>/`. It cannot be trained until it is restored. All functions take a connection inside
`db.write` (arena only) or, for questions, `db.read`; see them at work with `python3 -m training campaign list`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from realm import db, events
from realm.guild import campaigns, progress
from realm.guild.campaigns import cap, facts, method
from realm.guild.skills import SkillError, get_skill
from realm.heroes.profile import HeroProfile, load_profile
from realm.settings import RealmHome, SettingsError, nearest
from realm.vault import checkpoints

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # also a folder's name
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}", re.IGNORECASE)


class CampaignError(SettingsError):
    """A campaign that cannot be made or changed as asked; the message names it, the rule and the next action."""


def find(connection: sa.Connection, key: Any) -> dict[str, Any]:
    """A campaign by its id or its name.

    Raises:
        CampaignError: none; the message names the nearest.
    """
    table, text = db.campaigns, _typed(key)
    row = connection.execute(sa.select(table).where(table.c.id == text)).mappings().first()
    found = dict(row) if row else campaigns.named(connection, text)
    if found is None:
        names = list(connection.execute(sa.select(table.c.name)).scalars())
        hint = nearest(text, names) if names else ""
        raise CampaignError(f"no campaign {text!r}{hint}; `python3 -m training campaign list` names them")
    return found


def _typed(key: Any) -> str:
    """What a person typed, as text that a database takes (it may hold half a surrogate pair)."""
    return str(key).encode("utf-8", "backslashreplace").decode("utf-8")


def check_new(connection: sa.Connection, home: RealmHome, values: Mapping[str, Any]) -> dict[str, Any]:
    """What `create` needs, from a command's payload, or the reason why it cannot be.

    Args:
        values: {hero_id, name?, method? (campaign, or an exported method's values), goals? {skill: {weight, level}},
            budget? {tokens, steps}, seed?, checkpoint?}. Goals, budget and seed win over the method's.

    Raises:
        CampaignError, method.MethodError, ProfileError, SkillError: what is wrong, and what to do.
    """
    known = {"hero_id", "name", "method", "goals", "budget", "seed", "schools", "checkpoint", "activate"}
    for key in sorted(set(values) - known):
        raise CampaignError(f"campaign.new: unknown key {key!r}{nearest(key, sorted(known))}")
    if not isinstance(values.get("hero_id"), str):
        raise CampaignError("a campaign needs a hero; `python3 -m training hero list` names them")
    profile = load_profile(values["hero_id"], home)
    found, origin = _method(connection, values)
    start = _start_checkpoint(connection, profile, values.get("checkpoint"))
    seed = found.pop("seed", None)
    name = _name(connection, values.get("name"), profile.id)
    return {"profile": profile, "name": name, "seed": seed, "method": {**found, "origin": origin}, "start": start}


def _method(connection: sa.Connection, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(method without its records, where it comes from)."""
    source, origin = values.get("method"), None
    if isinstance(source, str):
        played = find(connection, source)
        source = method.export(connection, played).model_dump(mode="json")
    base = method.parse(source if source is not None else {})
    if source is not None:
        origin = {**(base.origin or {}), "program": base.program, "differences": method.differences(base)}
    over = {key: values[key] for key in ("goals", "budget", "seed", "schools") if values.get(key) is not None}
    played_keys = {"goals", "budget", "seed", "schools", "idle_generation"}
    merged = base.model_dump(mode="json", include=played_keys) | over
    return method.parse(merged, "campaign.new").model_dump(mode="json", include=played_keys), origin


def _name(connection: sa.Connection, name: Any, hero_id: str) -> str:
    if name is None:
        return campaigns.free_name(connection, hero_id)
    if not isinstance(name, str) or not NAME.fullmatch(name) or _ID.fullmatch(name):
        raise CampaignError(f"campaign name {name!r}: 1 to 64 letters, digits, '.', '_' and '-', beginning with a "
                            "letter or digit, and not like an id; choose another")  # fmt: skip
    taken = campaigns.named(connection, name)
    if taken is not None:
        raise CampaignError(f"campaign name {name!r} is taken by a campaign of {taken['hero_id']} ({taken['state']}); "
                            "choose another: names are never used twice")  # fmt: skip
    return name


def _start_checkpoint(connection: sa.Connection, profile: HeroProfile, checkpoint_id: Any) -> dict[str, Any] | None:
    """The ledger's row of the checkpoint to start from; None = the hero's base weights."""
    if checkpoint_id is None:
        return None
    table = db.checkpoints
    row = connection.execute(sa.select(table).where(table.c.id == _typed(checkpoint_id))).mappings().first()
    if row is None:
        raise CampaignError(f"no checkpoint {_typed(checkpoint_id)}; `python3 -m training vault list` names them")
    if row["state"] != "live":
        raise CampaignError(f"checkpoint {row['id']} is {row['state']}; choose a live one of `vault list`")
    if row["hero_id"] != profile.id:
        raise CampaignError(f"checkpoint {row['id']} is of hero {row['hero_id']}, not {profile.id}; choose one of "
                            f"{profile.id}, or start from its base weights")  # fmt: skip
    return dict(row)


def create(connection: sa.Connection, home: RealmHome, values: Mapping[str, Any]) -> dict[str, Any]:
    """Make a campaign (paused; `activate` plays it) and return its row. Raises as `check_new`, and:

    Raises:
        CampaignError: the start checkpoint's files are not what the ledger recorded.
    """
    found = check_new(connection, home, values)
    profile, start = found["profile"], found["start"]
    if start is not None:
        faults = checkpoints.verify(home.root / start["path"], start["manifest_sha256"])
        if faults:
            raise CampaignError(f"checkpoint {start['id']} cannot be started from: " + "; ".join(faults[:3]))
        # Retention must leave it: a line of steps hangs on it.
        connection.execute(sa.update(db.checkpoints).where(db.checkpoints.c.id == start["id"]).values(pinned=True))
    campaign_id, seed = db.new_id(), found["seed"]
    if seed is None:
        seed = campaigns.seed_of("campaign", profile.id, profile.seed, found["name"])
    connection.execute(sa.insert(db.campaigns).values(
        id=campaign_id, name=found["name"], hero_id=profile.id, state="paused", created_at=db.now(), seed=seed,
        config=method.played(profile, found).model_dump(mode="json"), method=found["method"]))  # fmt: skip
    parent, reason = (start["id"], f"starts from checkpoint {start['id']} at step {start['step']:,}") if start else (
        None, "campaign started")  # fmt: skip
    campaigns.new_run(connection, campaign_id, parent, reason)
    _tell(connection, campaign_id, found["name"], "created", f"Campaign {found['name']} of hero {profile.id} is made")
    return campaigns.get(connection, campaign_id)


def _tell(connection: sa.Connection, campaign_id: str, name: str, state: str, text: str) -> None:
    events.emit(connection, "campaign", text, "deed", campaign_id=campaign_id, state=state, name=name)


def trainable(campaign: Mapping[str, Any]) -> None:
    """Raises CampaignError for an archived campaign: it is restored first."""
    if campaign["state"] == "archived":
        raise CampaignError(f"campaign {campaign['name']} is archived; `python3 -m training campaign restore "
                            f"{campaign['name']}` first")  # fmt: skip


def set_state(connection: sa.Connection, campaign: Mapping[str, Any], state: str) -> bool:
    """active → paused and back, with its event; False when it is that already. Archived ones are refused."""
    trainable(campaign)
    if campaign["state"] == state:
        return False
    connection.execute(sa.update(db.campaigns).where(db.campaigns.c.id == campaign["id"]).values(state=state))
    _tell(connection, campaign["id"], campaign["name"], state, f"Campaign {campaign['name']} is {state}")
    return True


def archive(connection: sa.Connection, campaign: Mapping[str, Any]) -> bool:
    """Move a campaign to the Hall of Legends; False when it is there. The caller has seen that no battle runs and has
    written the report. When it was the active one, none is active afterwards."""
    if campaign["state"] == "archived":
        return False
    table = db.campaigns
    connection.execute(sa.update(table).where(table.c.id == campaign["id"])
                       .values(state="archived", archived_at=db.now()))  # fmt: skip
    if campaigns.value(connection, campaigns.ACTIVE) == campaign["id"]:
        campaigns.set_value(connection, campaigns.ACTIVE, None)
        campaigns.set_between(connection, True)
    _tell(connection, campaign["id"], campaign["name"], "archived",
          f"Campaign {campaign['name']} of hero {campaign['hero_id']} entered the Hall of Legends")  # fmt: skip
    return True


def restore(connection: sa.Connection, campaign: Mapping[str, Any]) -> bool:
    """Bring an archived campaign back, paused; False when it is not archived. Its report stays where it is."""
    if campaign["state"] != "archived":
        return False
    table = db.campaigns
    connection.execute(sa.update(table).where(table.c.id == campaign["id"]).values(state="paused", archived_at=None))
    _tell(connection, campaign["id"], campaign["name"], "restored", f"Campaign {campaign['name']} is restored")
    return True


def set_budget(connection: sa.Connection, campaign: Mapping[str, Any], budget: Mapping[str, Any]) -> dict[str, Any]:
    """Give a campaign another budget (None = without limit) and return it.

    Raises:
        method.MethodError: not a budget.
    """
    trainable(campaign)
    values = {**(campaign["method"] or {}), "budget": dict(budget)}
    new = method.validate(values, "campaign.budget").model_dump(mode="json")
    connection.execute(sa.update(db.campaigns).where(db.campaigns.c.id == campaign["id"]).values(method=new))
    _tell(connection, campaign["id"], campaign["name"], "budget",
          f"Campaign {campaign['name']} has the budget {new['budget']}")  # fmt: skip
    return new["budget"]


# --- the cap ------------------------------------------------------------------------------------------------------


def last_levels(campaign: Mapping[str, Any], skills: list[str]) -> dict[str, int]:
    """{skill: level at which it is complete}: the campaign's goal, else the skill's last; unknown skills left out."""
    targets, found = method.targets(campaign), {}
    for skill_id in skills:
        try:
            found[skill_id] = targets.get(skill_id, get_skill(skill_id).max_level)
        except SkillError:
            continue  # a module that was removed: what was mastered in it stays, how far it goes is not known
    return found


def verdict(
    connection: sa.Connection, campaign: Mapping[str, Any], known: facts.Facts | None = None
) -> dict[str, Any]:  # fmt: skip
    """`cap.judge` on a campaign's tables."""
    known = facts.read(connection, campaign) if known is None else known
    levels, goals = cap.segments(known.stages, known.fights), list(method.goals_of(campaign))
    over = method.over_budget(campaign, facts.spent(connection, campaign["id"]))
    found = cap.judge(levels, goals, over is not None, last_levels(campaign, sorted({*levels, *goals})))
    return {**found, "budget_spent": over}


def note_verdict(connection: sa.Connection, campaign_id: str) -> dict[str, Any] | None:
    """After a battle was settled: keep the cap verdict once there is one, tell it once, and take it back when the
    campaign has climbed on since. Returns the verdict that is kept now."""
    return keep_verdict(connection, campaign_id, verdict(connection, campaigns.get(connection, campaign_id)))


def keep_verdict(connection: sa.Connection, campaign_id: str, found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The second half of `note_verdict`; `found` may have been drawn up outside the write transaction, since it takes
    0.6 s after 2,000 quests and 300,000 steps."""
    campaign = campaigns.get(connection, campaign_id)
    kept = campaign["verdict"]
    if found["state"] != "capped":
        if kept is not None:
            _keep(connection, campaign_id, None)
            _tell(connection, campaign_id, campaign["name"], "cap_withdrawn",
                  f"Campaign {campaign['name']} has climbed on: its cap verdict is withdrawn ({found['reason']})")
        return None
    caps = {skill: one["cap"] for skill, one in found["skills"].items() if one["state"] == "capped"}
    if kept is not None and kept.get("caps") == caps:
        return kept
    new = {**found, "caps": caps, "t": db.now(), "step": progress.step_reached(connection, campaign_id)}
    _keep(connection, campaign_id, new)
    where = ", ".join(f"{skill} L{level}" for skill, level in caps.items())
    _tell(connection, campaign_id, campaign["name"], "capped", f"Level cap found: {where} ({found['reason']})")
    events.emit(connection, "alert", f"Campaign {campaign['name']} has met its level cap at {where}", "deed",
                alert_id=f"cap:{campaign_id}:{where}", code="level_cap", what=f"climbing on with {campaign['name']}",
                why=found["reason"], fix="Archive the campaign: its report keeps the method for the next hero.",
                action={"kind": "campaign.archive", "payload": {"campaign": campaign_id}})  # fmt: skip
    return new


def _keep(connection: sa.Connection, campaign_id: str, new: dict[str, Any] | None) -> None:
    column = sa.null() if new is None else new
    connection.execute(sa.update(db.campaigns).where(db.campaigns.c.id == campaign_id).values(verdict=column))


# --- lists --------------------------------------------------------------------------------------------------------


def listing(connection: sa.Connection, archived: bool = False) -> list[dict[str, Any]]:
    """Campaigns, newest first, as pages and the CLI show them; with `archived` the Hall of Legends instead."""
    table = db.campaigns
    state = table.c.state == "archived" if archived else table.c.state != "archived"
    order = table.c.archived_at.desc() if archived else table.c.created_at.desc()
    rows = connection.execute(sa.select(table).where(state).order_by(order, table.c.id.desc())).mappings()
    return [_listed(connection, row) for row in rows]


def _listed(connection: sa.Connection, campaign: Mapping[str, Any]) -> dict[str, Any]:
    mastered = progress.mastered_levels(connection, campaign["id"])
    spent = facts.spent(connection, campaign["id"])
    battles = db.battles
    first, last, seconds = connection.execute(sa.select(
        sa.func.min(battles.c.started_at), sa.func.max(battles.c.ended_at),
        sa.func.coalesce(sa.func.sum(battles.c.ended_at - battles.c.started_at), 0.0),
    ).where(battles.c.campaign_id == campaign["id"])).one()  # fmt: skip
    return {
        **{key: campaign[key] for key in ("id", "name", "hero_id", "state", "created_at", "archived_at")},
        "hero": (campaign["config"] or {}).get("name") or campaign["hero_id"],
        "total_level": sum(mastered.values()), "mastered": mastered, "steps": spent.steps, "tokens": spent.charged,
        "effort": spent.effort, "goals": {k: g.model_dump() for k, g in method.goals_of(campaign).items()},
        "budget": method.of(campaign).budget.model_dump(), "cap": (campaign["verdict"] or {}).get("caps"),
        "first_battle": first, "last_battle": last, "battle_s": seconds,
    }  # fmt: skip


def hall(connection: sa.Connection) -> list[dict[str, Any]]:
    """The Hall of Legends: archived campaigns with hero, total level, cap, duration (`battle_s`, seconds) and steps."""
    return listing(connection, archived=True)

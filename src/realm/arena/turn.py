"""Whose turn it is: which hero plays, in which campaign, by which recipe. The hero loop asks before each quest.

A campaign that a person paused stays paused while the realm rests and is active again when it plays on. After the
active campaign was archived a resting realm waits: it begins no campaign unasked (`training campaign activate|new`,
`training hero use` or playing on choose one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from realm.arena import commands
from realm.guild import campaigns
from realm.guild.campaigns import method
from realm.heroes.profile import HeroProfile
from realm.settings import RealmHome


@dataclass(frozen=True)
class Turn:
    """What a turn depends on; an equal one needs no work. `campaign`: (id, state, method) of the one that is chosen.

    `waits`: no campaign is played. `rests`: a paused campaign is left paused.
    """

    hero_id: str
    recipe: int | None  # modification time of the person's own recipe, ns
    campaign: tuple[str, str, str] | None
    waits: bool
    rests: bool


def look(connection: sa.Connection, home: RealmHome) -> Turn:
    """The turn as the tables have it now."""
    hero_id = campaigns.value(connection, commands.HERO) or home.settings.default_hero
    own = home.heroes / f"{hero_id}.yaml"
    found = campaigns.chosen(connection, hero_id)
    resting = commands.mode(connection) == "rest"
    active = campaigns.value(connection, campaigns.ACTIVE)
    rests = resting and found is not None and found["id"] == active and found["state"] == "paused"
    state = None if found is None else (found["id"], found["state"], str(found["method"]))
    return Turn(hero_id, own.stat().st_mtime_ns if own.exists() else None, state,
                resting and campaigns.between(connection), rests)  # fmt: skip


def take(
    connection: sa.Connection, turn: Turn, profile: HeroProfile
) -> tuple[dict[str, Any] | None, HeroProfile]:  # fmt: skip
    """(campaign that is played now or None, the recipe as it plays it); makes the campaign the active one."""
    if turn.waits:
        return None, profile
    campaign_id = turn.campaign[0] if turn.rests else (
        campaigns.ensure_active(connection, turn.hero_id, profile.model_dump(mode="json")))  # fmt: skip
    campaign = campaigns.get(connection, campaign_id)
    return campaign, method.played(profile, campaign)

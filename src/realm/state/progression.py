"""What a hero has earned and suffers from, as one object: `GET /api/progression`, pages and `training status`.

Drawn from the ledger's facts each time by `guild/progression`; nothing of it is stored. The JSON schema is committed
beside this file: `python -m realm.state.progression > src/realm/state/progression.schema.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from realm import db, lore
from realm.guild import progress
from realm.guild.progression import achievements, combat, debuffs, titles
from realm.guild.progression.history import read_history

SCHEMA_FILE = Path(__file__).with_name("progression.schema.json")
FIGHTS = 20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SkillTitle(_Part):
    """A title in one skill; `level` is the mastered level that it is given for."""

    skill: str
    title: str
    level: int = Field(ge=1)
    mastered: int = Field(ge=1)


class Title(_Part):
    """`shown` is the short form for a card: rank and the title of the furthest skill."""

    shown: str
    rank: str
    total_level: int = Field(ge=0)
    next_rank: str | None = Field(None, description="null at the last rank")
    next_at: int | None = Field(None, description="total level of the next rank")
    skills: tuple[SkillTitle, ...] = ()


class Kind(_Part):
    """The hero's lore: race by model family, stature by size, class by origin of the weights."""

    race: str
    stature: str
    rpg_class: str


class Achievement(_Part):
    """`t` and `evidence` (ids of trials, blessings or runs) are null and empty until it is earned."""

    id: str
    name: str
    about: str = Field(description="the exact rule")
    t: float | None = Field(None, description="Unix seconds at which it became true")
    evidence: tuple[str, ...] = ()


class Debuff(_Part):
    """Active now. `evidence` holds ids of trials, battles or blessings."""

    id: str
    name: str
    ml: str = Field(description="the standard term")
    why: str
    cure: str
    about: str = Field(description="the exact rule")
    since: float
    evidence: tuple[str, ...]


class Fight(_Part):
    """One finished quest. Hits are cosmetic; `criticals` is null once old metrics were thinned."""

    quest_id: str
    quest: str
    t: float
    result: Literal["Victory", "Hard-won", "Stalemate", "Defeat", "Retreat"]
    quality: float | None
    xp: float
    levels: tuple[tuple[str, int], ...] = Field((), description="(skill, level) that its trials won")
    steps: int
    best_hit: float | None = Field(None, description="1 / the lowest step loss, floored at 1e-4")
    criticals: int | None = None
    evidence: tuple[str, ...] = ()


class Progression(_Part):
    """Everything drawn from the ledger for one campaign."""

    campaign_id: str | None = None
    title: Title
    kind: Kind | None = Field(None, description="null before the first campaign")
    debuffs: tuple[Debuff, ...] = ()
    achievements: tuple[Achievement, ...] = ()
    fights: tuple[Fight, ...] = Field((), description="newest first")


def title(connection: sa.Connection, campaign_id: str | None) -> titles.Title:
    """The hero's title; before the first campaign that of a beginner."""
    return titles.title_of(progress.mastered_levels(connection, campaign_id) if campaign_id else {})


def active_debuffs(connection: sa.Connection, campaign_id: str | None) -> tuple[Debuff, ...]:
    """What is wrong with the present weights, the gravest first."""
    if campaign_id is None:
        return ()
    found = debuffs.active(debuffs.read_present(connection, campaign_id))
    rules = {rule.id: rule for rule in debuffs.DEBUFFS}
    return tuple(
        Debuff(id=key, name=rules[key].name, ml=rules[key].ml, why=now.why, cure=rules[key].cure,
               about=rules[key].about, since=now.t, evidence=now.evidence)
        for key, now in found.items()
    )  # fmt: skip


def achieved(connection: sa.Connection, campaign_id: str | None) -> tuple[Achievement, ...]:
    """Every achievement, earned or not, in the order of the rules."""
    found = achievements.earned(read_history(connection, campaign_id)) if campaign_id else {}
    return tuple(
        Achievement(id=a.id, name=a.name, about=a.about, t=found[a.id].t if a.id in found else None,
                    evidence=found[a.id].evidence if a.id in found else ())
        for a in achievements.ACHIEVEMENTS
    )  # fmt: skip


def kind_of(config: Mapping[str, Any]) -> Kind | None:
    """Lore of a hero from its recipe; None where the recipe lacks what it follows from."""
    model = config.get("model") or {}
    family, size = str(model.get("family") or "").lower(), model.get("size_b")
    if not family or not isinstance(size, int | float):
        return None
    origin = str(config.get("origin") or "base")
    return Kind(race=lore.RACES.get(family, family.capitalize()), stature=lore.stature(size),
                rpg_class=lore.CLASSES.get(origin, lore.CLASSES["base"]))  # fmt: skip


def progression(connection: sa.Connection, campaign_id: str | None) -> Progression:
    """Everything for one campaign, inside a caller's `db.read`."""
    if campaign_id is None:
        return Progression(title=_title(titles.title_of({})), achievements=achieved(connection, None))
    config = connection.execute(sa.select(db.campaigns.c.config).where(db.campaigns.c.id == campaign_id)).scalar()
    return Progression(
        campaign_id=campaign_id, title=_title(title(connection, campaign_id)), kind=kind_of(config or {}),
        debuffs=active_debuffs(connection, campaign_id), achievements=achieved(connection, campaign_id),
        fights=tuple(Fight(**vars(f)) for f in combat.fights(connection, campaign_id, FIGHTS)))  # fmt: skip


def _title(found: titles.Title) -> Title:
    return Title(shown=found.shown, rank=found.rank, total_level=found.total_level, next_rank=found.next_rank,
                 next_at=found.next_at, skills=tuple(SkillTitle(**s._asdict()) for s in found.skills))  # fmt: skip


def schema_text() -> str:
    """The JSON schema as committed in `progression.schema.json`."""
    return json.dumps(Progression.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")

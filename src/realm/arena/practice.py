"""The next idle quest, chosen and made in the workshop of the hero loop, so that commands never wait for it.

A skill that cannot make rows (a server that is down, a module that was removed) is named, and the hero practises the
others meanwhile. See what was chosen, and why, with `python3 -m training quest list --all`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from realm import db, schools
from realm.arena import plan
from realm.guild import primitives
from realm.guild.campaigns import method
from realm.guild.curriculum import QuestSpec
from realm.guild.skills import SkillError, get_skill
from realm.heroes.profile import HeroProfile
from realm.quests import idle
from realm.quests import memory as old_files
from realm.settings import RealmHome
from realm.temple import cleric


class PracticeError(RuntimeError):
    """No idle quest could be made. `skills`: those that cannot make rows now; the message is the first reason."""

    def __init__(self, message: str, skills: Collection[str]) -> None:
        super().__init__(message)
        self.skills = frozenset(skills)


def practise(
    home: RealmHome, made: sa.Engine, campaign: Mapping[str, Any], profile: HeroProfile,
    wish: Mapping[str, Any] | None = None, draft: plan.Draft | None = None, without: Collection[str] = (),
) -> str | None:  # fmt: skip
    """Choose what is practised next and put it on the board: its quest's id, or None when there is no skill.

    Args:
        wish: of a person: {skill, level, school, options}.
        without: as `idle_spec`.

    Raises:
        PracticeError: a skill that cannot make rows; which one, so that the next quest does without it.
    """
    wish = wish or {}
    spec = None
    try:
        with db.read(made) as connection:
            memory = old_files.facts(connection, home, campaign["id"])
            found = plan.idle_spec(connection, campaign["id"], profile, wish.get("skill"), memory, without)
        if found is None:
            return None
        spec, serial = found
        spec = plan.one_level(spec, wish["level"]) if wish.get("level") else spec
        school, options = wish.get("school") or school_of(campaign, serial), wish.get("options") or {}
        if school == "mirror" and "weak" not in options:
            with db.read(made) as connection:
                weak = primitives.weak(primitives.profile(connection, campaign["id"]))
            options = {**options, "weak": [spoke.name for spoke in weak]}
        return plan.make_idle(home, made, campaign, profile, spec, serial, draft, school, options)
    except (SkillError, idle.IdleError, cleric.GateError) as error:
        raise PracticeError(str(error), _culprits(spec) if spec else [wish.get("skill") or ""]) from error


def school_of(campaign: Mapping[str, Any], serial: int) -> str:
    """The school of an idle quest: those of the campaign's recipe take turns, skill by skill."""
    named = method.of(campaign).schools
    able = [school for school in named if schools.open_to(school) and schools.entry(school).practice]
    return able[serial % len(able)] if able else "scribe"


def _culprits(spec: QuestSpec) -> set[str]:
    """Which skills of a quest cannot make a row now; where each of them can, those from elsewhere (a module, a server),
    else its own."""
    found = set()
    for skill_id, mix in {spec.skill: spec.mix, **spec.others}.items():
        for level in mix:
            try:
                skill = get_skill(skill_id)
                made = skill.generate(level, 1, 0)[0]
                sound = skill.grade(made, made.golden).correct
            except SkillError:
                sound = False
            if not sound:
                found.add(skill_id)
                break
    foreign = {skill_id for skill_id in (spec.skill, *spec.others) if ":" in skill_id}
    return found or foreign or {spec.skill}


def draft_next(
    home: RealmHome, made: sa.Engine, campaign: Mapping[str, Any], profile: HeroProfile, without: Collection[str] = ()
) -> plan.Draft | None:  # fmt: skip
    """The draft of what would be practised next as things stand, or None when there is no skill."""
    with db.read(made) as connection:
        memory = old_files.facts(connection, home, campaign["id"])
        found = plan.idle_spec(connection, campaign["id"], profile, None, memory, without)
    if found is None:
        return None
    order, _ = plan.idle_order(campaign, profile, *found)
    return plan.write_draft(home, order, campaign["id"], made)

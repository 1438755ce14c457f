"""Titles: a rank by total mastered level, one title per skill by its mastered level, and the lore of the hero's kind.

A title follows from levels alone, so a passed trial is the only way to one; it is never taken away, since a mastered
level is what was once proved (a regression is shown beside it, as a debuff).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# (total mastered level from which on, rank)
RANKS = ((0, "Untrained"), (1, "Novice"), (3, "Apprentice"), (10, "Journeyman"), (25, "Adept"), (50, "Expert"),
         (100, "Master"), (200, "Grandmaster"))  # fmt: skip
# (mastered level from which on, title); a skill without a row of its own has the last one's titles with its own name.
SKILL_TITLES: dict[str, tuple[tuple[int, str], ...]] = {
    "bin": ((1, "Digit Squire"), (3, "Bit Counter"), (5, "Binary Arithmetician"), (10, "Bit Master"),
            (20, "Keeper of Bits"), (30, "Grand Alchemist of Bits")),
    "sy": ((1, "Word Student"), (5, "Word Weaver"), (15, "Syllable Sage"), (30, "Lexicon Lord"),
           (50, "Loremaster of Words")),
}  # fmt: skip
OTHER_TITLES = ((1, "Initiate of {}"), (3, "Practitioner of {}"), (5, "Adept of {}"), (10, "Master of {}"))


class SkillTitle(NamedTuple):
    """The title of one skill, with the mastered level that it was given for."""

    skill: str
    title: str
    level: int
    mastered: int


class Title(NamedTuple):
    """`shown` is what a card says: the rank and the title of the furthest skill. `next_at`: total level of the next
    rank, None at the last."""

    rank: str
    total_level: int
    next_rank: str | None
    next_at: int | None
    skills: tuple[SkillTitle, ...]
    shown: str


def rank_of(total_level: int) -> str:
    """The rank of a total mastered level."""
    return [name for at, name in RANKS if at <= total_level][-1] if total_level > 0 else RANKS[0][1]


def skill_title(skill: str, mastered: int) -> SkillTitle | None:
    """The title of a mastered level in one skill; None before the first."""
    rows = SKILL_TITLES.get(skill, OTHER_TITLES)
    reached = [(at, name) for at, name in rows if at <= mastered]
    if not reached:
        return None
    level, name = reached[-1]
    return SkillTitle(skill, name.format(skill), level, mastered)


def title_of(mastered: Mapping[str, int]) -> Title:
    """The title of a hero from {skill: mastered level}. Among skills the highest level counts, then the skill's id."""
    total = sum(mastered.values())
    found = [title for skill in sorted(mastered) if (title := skill_title(skill, mastered[skill]))]
    best = max(found, key=lambda title: title.mastered, default=None)
    ahead = next(((at, name) for at, name in RANKS if at > total), (None, None))
    rank = rank_of(total)
    return Title(rank, total, ahead[1], ahead[0], tuple(found), f"{rank}, {best.title}" if best else rank)

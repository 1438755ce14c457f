"""The 29 primitives as skills, one module per group. `skill("seq_reverse")` is one of them.

    python -c "from realm.guild.skills.primitives import skill; print(skill('seq_reverse').generate(1, 3, seed=0))"
"""

from __future__ import annotations

from importlib import import_module

from realm.guild.primitives import PRIMITIVES, group_of
from realm.guild.skills.base import SkillError, Split
from realm.guild.skills.primitives.engine import PrimitiveSkill

__all__ = ["PrimitiveSkill", "skill", "skill_of"]

_LOADED: dict[str, PrimitiveSkill] = {}


def skill(name: str) -> PrimitiveSkill:
    """The primitive with this name as a skill. Raises SkillError where there is none."""
    if name not in _LOADED:
        if name not in PRIMITIVES:
            raise SkillError(f"primitive {name!r}: there are {len(PRIMITIVES)}; use one of {', '.join(PRIMITIVES)}")
        found = import_module(f"{__name__}.{group_of(name)}").ALL
        _LOADED.update({primitive.name: PrimitiveSkill(primitive) for primitive in found})
    return _LOADED[name]


def skill_of(prompt: str) -> PrimitiveSkill | None:
    """The primitive whose header a text has; whether it is a problem is for `split_of` to say."""
    name, colon, _ = prompt.lstrip()[:40].partition(": ")
    return skill(name) if colon and name in PRIMITIVES else None


def split_of(prompt: str) -> Split | None:
    """The split of any primitive's prompt, with one look for all 29; None for every other text."""
    owner = skill_of(prompt)
    return owner.split_of(prompt) if owner else None

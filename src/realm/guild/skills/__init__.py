"""The Guild's skills: the registry and the contract that a skill fulfils.

`get_skill("bin")` returns the skill; `all_skills()` lists what is shipped, in a stable order.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from realm.guild.primitives import PRIMITIVES
from realm.guild.skills.base import (
    CLOSED_BELOW,
    SPLITS,
    Grade,
    LevelInfo,
    Problem,
    Skill,
    SkillError,
    Split,
)

__all__ = ["CLOSED_BELOW", "SPLITS", "Grade", "LevelInfo", "Problem", "Skill", "SkillError", "Split", "all_skills",
           "attach", "get_skill", "skill_ids"]


def _bin() -> Skill:
    from realm.guild.skills.bin import BinSkill

    return BinSkill()


def _sy() -> Skill:
    from realm.guild.skills.sy import SySkill

    return SySkill()


def _primitive(name: str) -> Skill:
    from realm.guild.skills.primitives import skill

    return skill(name)


def _reasoning_gym(name: str) -> Skill:
    from realm.guild.skills.reasoning_gym import make

    return make(name)


def _remote(name: str) -> Skill:
    from realm.guild.skills.remote import make

    return make(name, _HOME[0] if _HOME else None)


def _module(name: str) -> Skill:
    from realm.guild.modules.shelf import open_skill

    return open_skill(_modules(), name)


def _passives() -> Skill:
    from realm.guild.passives import PassiveSuite

    return PassiveSuite()


# One line per shipped skill: deleting the line and the folder removes the skill.
_FACTORIES: dict[str, Callable[[], Skill]] = {"bin": _bin, "sy": _sy}
_FACTORIES |= {name: partial(_primitive, name) for name in PRIMITIVES}
# Skills that are examined and never practised: no quest is made of them, no page lists them as a goal.
_EXAMS: dict[str, Callable[[], Skill]] = {"passives": _passives}
# Skills with a prefix in their id are made from the rest of it: `rg:chain_sum`, `module:pattern-master`, `url:name`.
_SOURCES: dict[str, Callable[[str], Skill]] = {"rg": _reasoning_gym, "url": _remote, "module": _module}
_LOADED: dict[str, Skill] = {}


_HOME: list[Path] = []  # the realm home whose modules count: none, or one


def attach(home: Path | None) -> None:
    """From now on the modules installed in this realm home (a folder) are skills too; None: of no home.

    Every process that has a home says so once, when it starts: the arena, the battle child, the services, a command.
    """
    _HOME[:] = [] if home is None else [Path(home)]


def _modules() -> Path | None:
    return _HOME[0] / "modules" if _HOME else None


def skill_ids() -> list[str]:
    """The ids of the shipped skills and of installed modules, in a stable order."""
    folder = _modules()
    if folder is None or not folder.is_dir():
        return sorted(_FACTORIES)
    from realm.guild.modules.shelf import skill_ids as of_modules

    return sorted([*_FACTORIES, *of_modules(folder)])


def is_exam(skill_id: str) -> bool:
    """Whether a skill is examined and never practised, so that it can be nobody's goal."""
    return skill_id in _EXAMS


def get_skill(skill_id: str) -> Skill:
    """The skill with this id. Raises SkillError with the nearest id where there is none."""
    if str(skill_id).startswith(("module:", "url:")):
        return _make(str(skill_id))  # of one home; the shelf keeps a module, and sees when it is installed again
    if skill_id not in _LOADED:
        _LOADED[skill_id] = _make(str(skill_id))
    return _LOADED[skill_id]


def _make(skill_id: str) -> Skill:
    factory = _FACTORIES.get(skill_id) or _EXAMS.get(skill_id)
    if factory is not None:
        return factory()
    prefix, colon, name = skill_id.partition(":")
    if colon and prefix in _SOURCES:
        return _SOURCES[prefix](name)
    near = get_close_matches(skill_id, skill_ids(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(skill_ids())}"
    raise SkillError(f"skill {skill_id!r}: no skill has this id; {hint}")


def all_skills() -> list[Skill]:
    """Every shipped skill, and those of installed modules."""
    return [get_skill(skill_id) for skill_id in skill_ids()]

"""SY, "Word Weaving": syllable puzzles as a skill of 50 levels. `SySkill` is the entry point; see docs/SY.md."""

from realm.guild.skills.sy.skill import SySkill

__all__ = ["SySkill"]

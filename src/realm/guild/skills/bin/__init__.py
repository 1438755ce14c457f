"""BIN, "Binary Alchemy": binary arithmetic as a skill of 30 levels. `BinSkill` is the entry point."""

from realm.guild.skills.bin.skill import BinSkill

__all__ = ["BinSkill"]

"""The Skill Forge: from data to a proposed skill, with levels, a held-out trial, a grader, and the evidence of each.

    python3 -m training forge skill --from DATA --no-hero      # a folder or JSONL → a quest module and a report
    python3 -m training forge accept FOLDER                    # a short campaign with it decides, then a person

Modules in the order of the work: `rows` (read, duplicates) · `learn` (is there anything to learn?) · `difficulty`
(levels) · `holdout` (the split) · `templates`, `search`, `rule` (does an expression compute the answers?) · `graders` ·
`tags` (primitives) · `build` (all of it, and the module's files) · `report`. What every rule says, with its numbers:
docs/FORGE.md. The acceptance trains a hero and lives in `realm.arena.forging`.
"""

from realm.guild.forge.rows import ForgeError

__all__ = ["ForgeError"]

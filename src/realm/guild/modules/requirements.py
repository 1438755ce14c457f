"""What a campaign must have reached before a module is used: `requirements` of the manifest (realm-rules §14)."""

from __future__ import annotations

from realm.guild.modules.manifest import Manifest


def unmet(manifest: Manifest, mastered: dict[str, int]) -> list[str]:
    """What a campaign lacks for this module: a line each, empty when it may be used.

    Args:
        mastered: {skill id: mastered level} of the campaign.
    """
    found = []
    total = sum(mastered.values())
    if total < manifest.requirements.min_level:
        found.append(f"module {manifest.id} needs a total level of {manifest.requirements.min_level}, the campaign has "
                     f"{total}; master {manifest.requirements.min_level - total} levels more")  # fmt: skip
    for name in manifest.requirements.prerequisites:
        head, _, tail = name.rpartition(":")
        skill, level = (head, int(tail)) if head and tail.isdigit() else (name, 1)
        have = mastered.get(skill, 0)
        if have < level:
            found.append(f"module {manifest.id} needs {skill} at level {level}, the campaign has {have}; train {skill} "
                         "first")  # fmt: skip
    return found

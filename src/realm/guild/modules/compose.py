"""Several modules in one training file, by weight: exact counts, no row twice, the same file for the same order.

    python3 -m training module compose pattern-master=2 carry-drill=1 --rows 300

The file is dropped into the inbox like any other, so the Cleric gates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afs.jsonl import AtomicWriter
from afs.training.mixing import largest_remainder
from realm.guild.modules.manifest import ModuleError
from realm.guild.modules.skill import ModuleSkill
from realm.guild.skills.base import Problem, SkillError, keyed_hash, keyed_rng

ROWS_AT_MOST = 1_000_000
STALLS_AT_MOST = 6  # doublings of a call that bring nothing new before a level counts as exhausted


@dataclass(frozen=True)
class Composed:
    """What was written. `counts` is {skill id: {level: rows}}."""

    path: Path
    rows: int
    sha256: str
    counts: Mapping[str, Mapping[int, int]]


def plan(skills: Mapping[str, Sequence[ModuleSkill]], weights: Mapping[str, float], rows: int,
         levels: range | None = None) -> dict[str, dict[int, int]]:  # fmt: skip
    """{skill id: {level: rows}}: rows by weight over modules, then evenly over their skills and over levels, each by
    largest remainder, so that the counts add up exactly.

    Args:
        skills: {module: its skills}.
        levels: only these levels; default all.

    Raises:
        ModuleError: no rows, a weight that is not positive, or no level of a module in the range.
    """
    if not 1 <= rows <= ROWS_AT_MOST:
        raise ModuleError(f"rows {rows}: a file has 1 to {ROWS_AT_MOST} rows; ask for such a number")
    wrong = {name: weight for name, weight in weights.items() if not 0 < weight < float("inf")}
    if wrong or not weights:
        raise ModuleError(f"weights {wrong or 'none'}: every module needs a weight above 0; write module=weight")
    made: dict[str, dict[int, int]] = {}
    for module, share in largest_remainder(weights, rows).items():
        places = {f"{skill.id}\n{level}": 1.0 for skill in skills[module] for level in range(1, skill.max_level + 1)
                  if levels is None or level in levels}  # fmt: skip
        if not places:
            raise ModuleError(f"module {module} has no level in {levels[0]} to {levels[-1]}; ask for others"
                              if levels else f"module {module} has no levels; validate it")  # fmt: skip
        for place, count in largest_remainder(places, share).items():
            skill_id, level = place.split("\n")
            made.setdefault(skill_id, {})[int(level)] = count
    return made


def write(path: Path, skills: Mapping[str, Sequence[ModuleSkill]], weights: Mapping[str, float], rows: int,
          seed: int = 0, levels: range | None = None) -> Composed:  # fmt: skip
    """Write the file. All rows are of the training split; their order is keyed by the seed.

    Raises:
        ModuleError: a level has fewer different problems than its share; nothing is written then.
    """
    counts = plan(skills, weights, rows, levels)
    by_id = {skill.id: skill for group in skills.values() for skill in group}
    problems = [problem for skill_id, wanted in counts.items() for level, count in wanted.items()
                for problem in distinct(by_id[skill_id], level, count, seed)]  # fmt: skip
    keyed_rng("compose", seed, *sorted(counts)).shuffle(problems)
    with AtomicWriter(path) as out:
        for problem in problems:
            out.write(row(problem, by_id[problem.skill]))
    return Composed(path, out.rows, out.sha256, counts)


def distinct(skill: ModuleSkill, level: int, count: int, seed: int) -> list[Problem]:
    """`count` training problems of a level, none twice.

    Raises:
        ModuleError: the level has fewer.
    """
    found: dict[str, Problem] = {}
    wanted, stalls, key = count, 0, keyed_hash("compose", seed) >> 65
    while len(found) < count and stalls < STALLS_AT_MOST:
        before = len(found)
        try:
            for problem in skill.generate(level, wanted, key, "train"):
                found.setdefault(problem.prompt, problem)
        except SkillError as error:
            raise ModuleError(str(error)) from error
        stalls = stalls + 1 if len(found) == before else 0
        if wanted >= 64 * count:
            break
        wanted *= 2
    if len(found) < count:
        raise ModuleError(f"{skill.id} level {level} has {len(found)} different training problems, its share is "
                          f"{count}; ask for fewer rows, give the module less weight or leave the level out")
    return list(found.values())[:count]


def row(problem: Problem, skill: ModuleSkill) -> dict[str, Any]:
    """One line of the file; `origin` names the module and its version."""
    return {"messages": problem.messages, "skill": problem.skill, "level": problem.level,
            "difficulty": problem.difficulty, "canonical": problem.canonical, "id": problem.id,
            "origin": f"module:{skill.manifest.id}@{skill.version}"}  # fmt: skip

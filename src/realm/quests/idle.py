"""Idle quests: training rows made by a skill when the board is empty (realm-rules §13).

A quest's file is a pure function of `IdleOrder`: the same order gives the same bytes, so the file of a finished quest
need not be kept. Rows are tagged with their origin ("procedural-verified": the golden answer comes from the generator
and a sample of rows is graded here by the skill's own grader).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from afs.jsonl import AtomicWriter
from realm.guild.campaigns import seed_of
from realm.guild.skills import Problem, Skill, get_skill

ORIGIN = "procedural-verified"
GRADED_EVERY = 50


class IdleError(RuntimeError):
    """A skill made rows that must not be trained on."""


@dataclass(frozen=True)
class IdleOrder:
    """Everything that decides the bytes of an idle quest. `counts` is {level: rows}; JSON keys may be strings."""

    skill: str
    version: str
    counts: Mapping[int, int]
    seed: int
    ease: float = 0.0

    def to_origin(self, **more: Any) -> dict[str, Any]:
        """The quest's `origin` column."""
        return {"kind": ORIGIN, **asdict(self), "counts": {str(n): c for n, c in self.counts.items()}, **more}

    @classmethod
    def from_origin(cls, origin: Mapping[str, Any]) -> IdleOrder:
        counts = {int(level): int(count) for level, count in origin["counts"].items()}
        return cls(origin["skill"], origin["version"], counts, int(origin["seed"]), float(origin.get("ease", 0.0)))


def problems(order: IdleOrder, skill: Skill | None = None) -> Iterator[Problem]:
    """The problems of an order, level by level (the battle draws them in its own keyed order).

    Raises:
        IdleError: the skill is of another version than the order, so the rows would be others.
    """
    skill = get_skill(order.skill) if skill is None else skill
    if skill.version != order.version:
        raise IdleError(f"skill {order.skill} is version {skill.version}, the order was made with {order.version}; "
                        "make a new idle quest")  # fmt: skip
    for level, count in sorted(order.counts.items()):
        made = skill.generate(level, count, seed_of(order.seed, level), "train")
        yield from _eased(made, order, skill, level) if order.ease else made


def _eased(made: list[Problem], order: IdleOrder, skill: Skill, level: int) -> Iterator[Problem]:
    """Replace the share `ease` of the harder problems by easy ones of the same level."""
    easy = iter([p for p in skill.generate(level, len(made), seed_of(order.seed, level, "ease"), "train")
                 if p.difficulty == "easy"])  # fmt: skip
    for index, problem in enumerate(made):
        swap = problem.difficulty != "easy" and seed_of(order.seed, level, "swap", index) % 1000 < order.ease * 1000
        yield next(easy, problem) if swap else problem


def row(problem: Problem) -> dict[str, Any]:
    """One line of the file."""
    return {"messages": problem.messages, "skill": problem.skill, "level": problem.level,
            "difficulty": problem.difficulty, "canonical": problem.canonical, "id": problem.id,
            "origin": ORIGIN}  # fmt: skip


def write(order: IdleOrder, path: Path, skill: Skill | None = None) -> dict[str, Any]:
    """Write the file of an order; returns {"rows", "sha256", "distinct": share of distinct questions}.

    Raises:
        IdleError: the grader rejects a golden answer, or a row is not of the training split.
    """
    skill = get_skill(order.skill) if skill is None else skill
    questions: set[str] = set()
    with AtomicWriter(path) as out:
        for index, problem in enumerate(problems(order, skill)):
            if problem.split != "train":
                raise IdleError(f"{problem.id} belongs to the {problem.split} split; idle quests train on train only")
            if index % GRADED_EVERY == 0:
                grade = skill.grade(problem, problem.golden)
                if not grade.correct:
                    raise IdleError(f"{problem.id}: the grader rejects the golden answer ({grade.reason}); "
                                    f"skill {skill.id} must be mended before it is trained on")  # fmt: skip
            questions.add(problem.id)
            out.write(row(problem))
    return {"rows": out.rows, "sha256": out.sha256, "distinct": len(questions) / max(1, out.rows)}

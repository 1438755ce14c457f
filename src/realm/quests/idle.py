"""Idle quests: training rows made by a skill when the board is empty (realm-rules §13).

A quest's file is a pure function of `IdleOrder` (and of the rehearsal buffer, where the order asks for rows of it): the
same order gives the same bytes, so the file of a finished quest need not be kept. Rows are tagged with their origin
("procedural-verified": the golden answer comes from the generator and a sample of rows is graded here by the skill's
own grader).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from afs.jsonl import AtomicWriter
from realm.guild.campaigns import seed_of
from realm.guild.skills import Problem, Skill, get_skill
from realm.quests import diversity
from realm.quests import origin as origins

ORIGIN = "procedural-verified"
GRADED_EVERY = 50


class IdleError(RuntimeError):
    """A skill made rows that must not be trained on."""


@dataclass(frozen=True)
class IdleOrder:
    """Everything that decides the bytes of an idle quest.

    `counts` is {level: rows}, `others` {skill: {level: rows}} rehearsed of other skills, `versions` theirs, `buffer`
    the rows out of the rehearsal buffer.
    """

    skill: str
    version: str
    counts: Mapping[int, int]
    seed: int
    ease: float = 0.0
    others: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    buffer: int = 0

    def to_origin(self, **more: Any) -> dict[str, Any]:
        """The quest's `origin` column (keys of JSON objects are strings)."""
        others = {skill: _texts(counts) for skill, counts in self.others.items()}
        return {"kind": ORIGIN, **asdict(self), "counts": _texts(self.counts), "others": others, **more}

    @classmethod
    def from_origin(cls, origin: Mapping[str, Any]) -> IdleOrder:
        others = {skill: _numbers(counts) for skill, counts in origin.get("others", {}).items()}
        return cls(origin["skill"], origin["version"], _numbers(origin["counts"]), int(origin["seed"]),
                   float(origin.get("ease", 0.0)), others, origin.get("versions", {}), int(origin.get("buffer", 0)))


def _texts(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(level): count for level, count in counts.items()}


def _numbers(counts: Mapping[str, int]) -> dict[int, int]:
    return {int(level): int(count) for level, count in counts.items()}


def problems(order: IdleOrder, skill: Skill | None = None) -> Iterator[Problem]:
    """The problems of an order, level by level (the battle draws them in its own keyed order), rehearsal last.

    Raises:
        IdleError: a skill is of another version than the order, so the rows would be others.
    """
    own = _right_version(get_skill(order.skill) if skill is None else skill, order.version)
    for level, count in sorted(order.counts.items()):
        made = own.generate(level, count, seed_of(order.seed, level), "train")
        yield from _eased(made, order, own, level) if order.ease else made
    for name, counts in sorted(order.others.items()):
        other = _right_version(get_skill(name), order.versions[name])
        for level, count in sorted(counts.items()):
            yield from other.generate(level, count, seed_of(order.seed, name, level), "train")


def _right_version(skill: Skill, version: str) -> Skill:
    if skill.version != version:
        raise IdleError(f"skill {skill.id} is version {skill.version}, the order was made with {version}; "
                        "make a new idle quest")  # fmt: skip
    return skill


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


def write(
    order: IdleOrder, path: Path, skill: Skill | None = None, past: Collection[int] = frozenset(),
    remembered: Sequence[Mapping[str, Any]] = (), replaced: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the file of an order, its questions made diverse; the rows out of the rehearsal buffer come last.

    Args:
        past: signatures of the questions of the last quests (`diversity.recent`).
        remembered: rows out of the buffer.
        replaced: `origin["diversity"]["replaced"]` of a quest whose file is to be made again, bit for bit.

    Returns:
        {"rows", "sha256", "distinct": share of distinct wordings, "diversity": report, "questions": signatures,
        "origins": {origin: rows}}.

    Raises:
        IdleError: the grader rejects a golden answer, or a row is not of the training split.
    """
    skill = get_skill(order.skill) if skill is None else skill
    skills = {order.skill: skill, **{name: get_skill(name) for name in order.others}}

    def fresh(name: str, level: int, count: int) -> Sequence[Problem]:
        return skills[name].generate(level, count, seed_of(order.seed, name, level, "fresh"), "train")

    if replaced is None:
        made, report = diversity.diverse(problems(order, skill), fresh, lambda name, level: skills[name].closed(level),
                                         past, seed=order.seed)  # fmt: skip
    else:
        made, report = diversity.replay(problems(order, skill), fresh, replaced), {}
    with AtomicWriter(path) as out:
        for index, problem in enumerate(made):
            if problem.split != "train":
                raise IdleError(f"{problem.id} belongs to the {problem.split} split; idle quests train on train only")
            if index % GRADED_EVERY == 0:
                grade = skills[problem.skill].grade(problem, problem.golden)
                if not grade.correct:
                    raise IdleError(f"{problem.id}: the grader rejects the golden answer ({grade.reason}); "
                                    f"skill {problem.skill} must be mended before it is trained on")  # fmt: skip
            out.write(row(problem))
        for old in remembered:
            out.write(dict(old))
    counts = origins.count(remembered)
    counts[ORIGIN] = counts.get(ORIGIN, 0) + len(made)
    return {"rows": out.rows, "sha256": out.sha256, "distinct": len({p.id for p in made}) / max(1, len(made)),
            "diversity": report, "questions": {diversity.question(p) for p in made}, "origins": counts}  # fmt: skip

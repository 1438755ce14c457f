"""A quest module as a skill: `get_skill("module:pattern-master")`, by the same contract as every other skill.

Where its problems come from, level by level:

* Rows: `data/` is training and nothing else; the rows of the evaluation are dealt to trial, probe and public (20, 5, 5
  of 30) by a hash of the problem. The level is open: training never sees what a trial asks. A trial asks each row once
  and ends where the rows end.
* Generators: a problem belongs to the split of its canonical form, as in every skill. A level with fewer than 2,000
  problems is closed: a table to be known.
* Both: each problem comes from the rows or from a generator, by their weights (the rows weigh 1).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

from realm.guild.modules.content import Content, Item, LevelContent, normal, read_content
from realm.guild.modules.expression import ExpressionError
from realm.guild.modules.generator import Drawn, GeneratorError, Made
from realm.guild.modules.grade import grade as grade_answer
from realm.guild.modules.manifest import Manifest, ModuleError, read_manifest
from realm.guild.modules.requirements import unmet
from realm.guild.skills.base import (
    Grade,
    LevelInfo,
    Problem,
    SkillError,
    Split,
    bucket,
    check_level,
    check_request,
    first_unseen,
    keyed_hash,
    keyed_rng,
    no_table,
)

CLOSED_THRESHOLD = 0.90
ATTEMPTS = 20_000  # draws until a problem of the split is found: at worst `where` holds for 5 %, and 5 % are probe's
SAMPLE = 100  # drawn answers that the room for an answer is estimated from
_DIFFICULTIES = ("easy", "medium", "hard", "expert")


class ModuleSkill:
    """One skill of a module. Reads its files when first asked for a problem; stateless after that."""

    def __init__(self, folder: Path, skill: str, manifest: Manifest | None = None) -> None:
        self.folder, self.skill = Path(folder), skill
        self.manifest = manifest or read_manifest(self.folder)
        entry = next((entry for entry in self.manifest.skills if entry.id == skill), None)
        if entry is None:
            names = ", ".join(e.id for e in self.manifest.skills)
            raise ModuleError(f"module {self.manifest.id} has no skill {skill!r}; it has {names}")
        self.id = self.manifest.skill_id(skill)
        self.name = self.manifest.name if len(self.manifest.skills) == 1 else f"{self.manifest.name}: {skill}"
        self.version = self.manifest.version
        self.description = self.manifest.description
        self.max_level = entry.max_level
        self.threshold = self.manifest.threshold

    def __reduce__(self) -> tuple[Any, ...]:
        """Only the place travels to a worker process, not the rows."""
        return ModuleSkill, (self.folder, self.skill, self.manifest)

    @cached_property
    def content(self) -> Content:
        """Rows and generators. Raises SkillError where the module's files are broken."""
        try:
            return read_content(self.folder, self.manifest, self.skill)
        except ModuleError as error:
            raise SkillError(f"{self.id}: its files at {self.folder} cannot be used: {error}; install it again") \
                from error

    def lacking(self, mastered: dict[str, int]) -> list[str]:
        """What a campaign with these {skill: mastered level} lacks for this module; empty when it may be used."""
        return unmet(self.manifest, mastered)

    # --- levels -------------------------------------------------------------------------------------------------------

    def levels(self) -> list[LevelInfo]:
        """Every level in order."""
        return [self._level_info(number) for number in range(1, self.max_level + 1)]

    def _level_info(self, number: int) -> LevelInfo:
        level, table = self.content.levels[number], self._table(number)
        held = sum(map(len, level.held.values()))
        parts = [f"{len(level.train)} rows of training, {held} held out"] if level.train or held else []
        parts += [f"{len(level.made)} generators"] if level.made else []
        what = f"closed: recall of a table of {len(table)}" if table else "open: " + ", ".join(parts)
        text = f"{level.entry.description}; {what}" if level.entry.description else what
        return LevelInfo(number, level.entry.name or f"level {number}", text, closed=table is not None,
                         distinct=len(table) if table else None, max_new_tokens=self._room(number),
                         threshold=max(CLOSED_THRESHOLD, self.threshold) if table else self.threshold)  # fmt: skip

    def _table(self, number: int) -> tuple[tuple[Made, Drawn], ...] | None:
        try:
            return self.content.levels[number].table
        except (GeneratorError, ExpressionError) as error:
            raise SkillError(f"{self.id} level {number}: {error}") from error

    def _room(self, number: int) -> int:
        """Tokens that every golden answer fits in: a byte is at most one token of the shipped tokenizer."""
        level = self.content.levels[number]
        goldens = [item.golden for item in level.train] + [i.golden for held in level.held.values() for i in held]
        longest = max((len(golden.encode()) for golden in goldens), default=0)
        for index, made in enumerate(level.made):
            rng = keyed_rng(self.id, self.version, "room", number, index)
            drawn = [d.golden for _ in range(SAMPLE) if (d := self._try(made, rng)) is not None]
            # A sample misses the longest answer: half as much again, and two digits for short ones.
            longest = max([longest, *(len(golden.encode()) * 3 // 2 + 2 for golden in drawn)])
        return longest + 4

    def closed(self, level: int) -> bool:
        """Whether the level is a table to be known."""
        check_level(self.id, level, self.max_level)
        return self._table(level) is not None

    def table(self, level: int) -> list[Problem]:
        """Every problem of a closed level once."""
        check_level(self.id, level, self.max_level)
        table = self._table(level)
        if table is None:
            raise no_table(level)
        return [self._made_problem(level, made, drawn, "train") for made, drawn in table]

    # --- problems -----------------------------------------------------------------------------------------------------

    def generate(self, level: int, count: int, seed: int, split: Split = "train") -> list[Problem]:
        """`count` problems of a level and split; rows repeat only when a call asks for more than there are."""
        check_request(self.id, level, count, seed, split, self.max_level)
        table = self._table(level)
        if table is not None and split != "train":
            order = _walk((self.id, self.version, level, seed, split), len(table), count)
            return [self._made_problem(level, *table[i], split) for i in order]
        return self._from_sources(level, count, seed, split)

    def _from_sources(self, number: int, count: int, seed: int, split: Split) -> list[Problem]:
        level = self.content.levels[number]
        rows = level.train if split == "train" else level.held[split]
        weights = [1.0 if rows else 0.0, *(made.source.weight for made in level.made)]
        if not any(weights):
            raise SkillError(f"{self.id} level {number} has no {split} problems; `training module validate "
                             f"{self.manifest.id}` says what is missing")  # fmt: skip
        key = (self.id, self.version, number, seed)
        picks = [keyed_rng(*key, index, "source").choices(range(len(weights)), weights)[0] for index in range(count)]
        order = iter(_walk((*key, split), len(rows), picks.count(0)))
        problems: list[Problem] = []
        seen: set[str] = set()
        for index, pick in enumerate(picks):
            if pick == 0:
                problem = self._row_problem(rows[next(order)], split)
                seen.add(problem.canonical)
            else:
                problem = self._fresh(level, number, level.made[pick - 1], (*key, index), split, seen)
            problems.append(problem)
        return problems

    def _fresh(self, level: LevelContent, number: int, made: Made, key: tuple, split: Split,
               seen: set[str]) -> Problem:  # fmt: skip
        return first_unseen(lambda redraw: self._draw(number, made, keyed_rng(*key, redraw), split),
                            attrgetter("canonical"), seen, split)  # fmt: skip

    def _draw(self, number: int, made: Made, rng: random.Random, split: Split) -> Problem:
        for _ in range(ATTEMPTS):
            drawn = self._try(made, rng, lambda canonical: self._split(canonical) == split)
            if drawn is None:
                continue
            again = self.content.recognise(drawn.prompt)
            if again is not None and again[2].canonical == drawn.canonical:
                return self._made_problem(number, made, drawn, split)
        raise SkillError(f"{self.id} level {number}: operation {made.source.operation} made no {split} problem in "
                         f"{ATTEMPTS} draws; widen its variables or its `where`")  # fmt: skip

    def _try(self, made: Made, rng: random.Random, accept: Callable[[str], bool] | None = None) -> Drawn | None:
        try:
            return made.draw(rng, accept)
        except (GeneratorError, ExpressionError) as error:
            raise SkillError(f"{self.id}: {error}; `training module validate {self.manifest.id}` checks it") from error

    def _split(self, canonical: str) -> Split:
        """The split of a made problem; those of closed levels are training's."""
        if canonical in self.content.closed_canonicals:
            return "train"
        return bucket(self.id, self.version, canonical)

    def _made_problem(self, number: int, made: Made, drawn: Drawn, split: Split) -> Problem:
        tags = made.source.primitives or self.manifest.primitives.required
        return self._problem(number, drawn.prompt, drawn.golden, drawn.canonical, split, made.source.difficulty,
                             "generated", made.source.operation, tags)  # fmt: skip

    def _row_problem(self, item: Item, split: Split) -> Problem:
        return self._problem(item.level, item.prompt, item.golden, item.canonical, split, item.difficulty, "row",
                             item.operation, item.primitives)  # fmt: skip

    def _problem(self, level: int, prompt: str, golden: str, canonical: str, split: Split, difficulty: float,
                 kind: str, operation: str, primitives: tuple[str, ...]) -> Problem:  # fmt: skip
        return Problem(
            skill=self.id, level=level, difficulty=_DIFFICULTIES[min(3, int(difficulty * 4))], kind=kind,
            operation=operation, prompt=prompt, golden=golden, canonical=canonical, split=split, primitives=primitives,
            id=f"{self.id}-{keyed_hash(self.version, level, prompt) >> 64:016x}", extra={"module": self.manifest.id})

    # --- prompts and answers ------------------------------------------------------------------------------------------

    def problem_of(self, prompt: str) -> Problem:
        """The problem behind a prompt; a made one has the lowest level that makes it."""
        row = self.content.index.get(normal(prompt))
        if row is not None:
            return self._row_problem(*row)
        found = self.content.recognise(prompt)
        if found is None:
            raise SkillError(f"prompt {prompt[:80]!r}: no problem of {self.id}; send a prompt made by generate()")
        number, made, drawn = found
        return self._made_problem(number, made, drawn, self._split(drawn.canonical))

    def split_of(self, prompt: str) -> Split | None:
        """The split that owns a prompt, None where it is no problem of this skill."""
        row = self.content.index.get(normal(prompt))
        if row is not None:
            return row[1]
        found = self.content.recognise(prompt)
        return None if found is None else self._split(found[2].canonical)

    def grade(self, problem: Problem, response: str) -> Grade:
        """Marks an answer by the golden answer that belongs to the prompt, whatever the problem says it is."""
        golden = self.problem_of(problem.prompt).golden
        try:
            return grade_answer(self.content.grader, problem.prompt, golden, response)
        except ValueError as error:
            raise SkillError(f"{self.id}: {problem.prompt[:60]!r} cannot be marked: {error}") from error


def _walk(key: tuple, size: int, count: int) -> list[int]:
    """`count` positions out of `size`: every one once before any comes again, in an order keyed lap by lap."""
    order: list[int] = []
    for lap in range(-(-count // size) if size else 0):
        positions = list(range(size))
        keyed_rng(*key, "walk", lap).shuffle(positions)
        order += positions
    return order[:count]

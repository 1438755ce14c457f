"""What a module holds, read once: training rows and evaluation rows by level, generators, graders.

    content = read_content(folder, manifest, "pattern-master", faults=[])    # faults: one line per finding

A row is one question and one answer: `{"prompt", "golden"}`, or any chat format that the Cleric knows with one user and
one assistant turn. It may name its `canonical`, `operation`, `difficulty` (0 to 1) and `primitives`; a row of the
evaluation names its `level` (and its `skill`, where the module has several).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from afs.jsonl import BadRow, read_rows
from afs.training.converters import ConversionError, detect, is_preference, to_messages
from realm.guild.modules.expression import ExpressionError
from realm.guild.modules.generator import ENUMERATE_AT_MOST, Drawn, GeneratorError, Made
from realm.guild.modules.manifest import Grader, LevelEntry, Manifest, ModuleError, SkillFile, read_skill_file
from realm.guild.skills.base import CLOSED_BELOW, Split, keyed_hash

LINE_AT_MOST = 1_000_000  # bytes of one row
TEXT_AT_MOST = 100_000  # characters of a question or an answer
HELD_OUT: tuple[tuple[Split, int], ...] = (("trial", 20), ("probe", 5), ("public", 5))  # shares of evaluation rows
_ENDINGS = " .!?:;"


@dataclass(frozen=True, slots=True)
class Item:
    """One row. `where` is file:line for people; `difficulty` is None where the row does not say."""

    prompt: str
    golden: str
    canonical: str
    level: int
    operation: str
    difficulty: float
    primitives: tuple[str, ...]
    where: str


@dataclass
class LevelContent:
    """The problems of one level. `train` and `held` are its rows, `made` its generators with their weights."""

    entry: LevelEntry
    train: list[Item] = field(default_factory=list)
    held: dict[Split, list[Item]] = field(default_factory=lambda: {split: [] for split, _ in HELD_OUT})
    made: list[Made] = field(default_factory=list)

    @cached_property
    def table(self) -> tuple[tuple[Made, Drawn], ...] | None:
        """Every problem of a closed level once; None for an open level and for one with rows.

        Raises:
            GeneratorError: `where` leaves so little of so much that the problems can neither be counted nor drawn.
        """
        if not self.made or self.train or any(self.held.values()) or _surely_open(self.made):
            return None
        for made in self.made:
            if made.combinations > ENUMERATE_AT_MOST:
                raise GeneratorError(f"operation {made.source.operation}: `where` excludes nearly all of "
                                     f"{made.combinations} combinations; narrow the variables instead")  # fmt: skip
        found: dict[str, tuple[Made, Drawn]] = {}
        for made in self.made:
            for drawn in made.enumerate():
                found.setdefault(drawn.canonical, (made, drawn))
                if len(found) >= CLOSED_BELOW:
                    return None
        return tuple(found.values())


def _surely_open(generators: list[Made]) -> bool:
    """Whether one generator alone makes as many problems as an open level has; cheap, wrong once in 10⁸ times."""
    return any(made.least >= CLOSED_BELOW or made.combinations > ENUMERATE_AT_MOST and made.shows(CLOSED_BELOW)
               for made in generators)  # fmt: skip


@dataclass
class Content:
    """Everything of one skill of a module. `index` finds a row by its normal text."""

    skill_id: str
    file: SkillFile
    levels: dict[int, LevelContent]
    index: dict[str, tuple[Item, Split]]

    @property
    def grader(self) -> Grader:
        return self.file.grader

    @cached_property
    def closed_canonicals(self) -> frozenset[str]:
        """The problems of all closed levels; they belong to training, at whatever level they are asked."""
        return frozenset(drawn.canonical for level in self.levels.values() for _, drawn in level.table or ())

    @cached_property
    def generators(self) -> list[tuple[int, Made]]:
        """(level, generator), lowest level first."""
        return [(number, made) for number, level in sorted(self.levels.items()) for made in level.made]

    def recognise(self, prompt: str) -> tuple[int, Made, Drawn] | None:
        """The first generator, from the lowest level up, that makes this prompt."""
        for text in dict.fromkeys((prompt, prompt.strip(), prompt.strip() + ".")):
            for number, made in self.generators:
                try:
                    drawn = made.parse(text)
                except (ExpressionError, GeneratorError):
                    continue  # these values have no answer, so the text is no problem of this generator
                if drawn is not None:
                    return number, made, drawn
        return None


def normal(text: str) -> str:
    """A text as it is compared: compatibility forms, case, blanks and closing signs do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(_ENDINGS)


def held_split(skill_id: str, version: str, canonical: str) -> Split:
    """The held-out split of an evaluation row: trial 20, probe 5, public 5 of 30."""
    point = keyed_hash("held-out", skill_id, version, canonical) % sum(share for _, share in HELD_OUT)
    for split, share in HELD_OUT:
        point -= share
        if point < 0:
            return split
    raise AssertionError("shares must add up")


def read_content(folder: Path, manifest: Manifest, skill: str, faults: list[str] | None = None) -> Content:
    """The content of one skill.

    Args:
        faults: findings are added here and reading goes on; without it the first ones are raised.

    Raises:
        ModuleError: something is wrong and no `faults` were given.
    """
    found: list[str] = []
    top = next(entry.max_level for entry in manifest.skills if entry.id == skill)
    file = _skill_file(folder, manifest, skill, top, found)
    levels = {n: LevelContent(file.level(n) or LevelEntry(level=n)) for n in range(1, top + 1)}
    for number, level in levels.items():
        for generator in level.entry.generators:
            try:
                level.made.append(Made(generator))
            except GeneratorError as error:
                found.append(f"skills/{skill}.yaml: level {number}: {error}")
    skill_id = manifest.skill_id(skill)
    content = Content(skill_id, file, levels, {})
    _add_rows(content, folder, manifest, skill, found)
    if faults is not None:
        faults += found
    elif found:
        raise ModuleError("\n".join(found))
    return content


def _skill_file(folder: Path, manifest: Manifest, skill: str, top: int, found: list[str]) -> SkillFile:
    try:
        file = read_skill_file(folder, skill)
    except ModuleError as error:
        found += str(error).split("\n")
        file = None
    file = file or SkillFile(name=manifest.name, description=manifest.description)
    for entry in file.levels:
        if entry.level > top:
            found.append(f"skills/{skill}.yaml: level {entry.level} is above max_level {top} of the manifest; correct "
                         "one of the two")  # fmt: skip
    return file


def _add_rows(content: Content, folder: Path, manifest: Manifest, skill: str, found: list[str]) -> None:
    primitives = manifest.primitives.required
    for entry in manifest.data:
        name, number = manifest.place(entry)
        if name == skill and number in content.levels and (folder / entry.path).is_file():
            for item in _items(folder, entry.path, found, primitives, entry.difficulty, fixed=number):
                content.levels[number].train.append(item)
                content.index.setdefault(normal(item.prompt), (item, "train"))
    for item in evaluation_items(folder, manifest, skill, found):
        if item.level in content.levels:
            split = held_split(content.skill_id, manifest.version, item.canonical)
            content.levels[item.level].held[split].append(item)
            # Held out wins over training: what stands in both is a leak, and validation says so.
            content.index[normal(item.prompt)] = (item, split)


def evaluation_files(folder: Path, manifest: Manifest) -> list[str]:
    """Paths of the evaluation's files that are there, in order."""
    if manifest.evaluation.eval_set is None:
        return []
    place = folder / manifest.evaluation.eval_set
    if place.is_dir():
        return sorted(path.relative_to(folder).as_posix() for path in place.rglob("*.jsonl") if path.is_file())
    return [manifest.evaluation.eval_set] if place.is_file() else []


def evaluation_items(folder: Path, manifest: Manifest, skill: str, found: list[str]) -> Iterator[Item]:
    """The evaluation rows of a skill."""
    several = len(manifest.skills) > 1
    for path in evaluation_files(folder, manifest):
        yield from _items(folder, path, found, manifest.primitives.required, 0.5, skill=skill if several else None)


def _items(folder: Path, path: str, found: list[str], primitives: tuple[str, ...], difficulty: float,
           fixed: int | None = None, skill: str | None = None) -> Iterator[Item]:  # fmt: skip
    """The rows of a file. `fixed`: their level, where the rows need not say; `skill`: only rows that name it."""

    def on_bad(row: BadRow) -> None:
        found.append(f"{path}:{row.line}: {row.reason}; mend the line or delete it")

    for row in read_rows(folder / path, on_bad, max_line=LINE_AT_MOST, name=path):
        where = f"{path}:{row.line}"
        if skill is not None and row.value.get("skill") != skill:
            continue  # another skill's row; validation looks for names that no skill has
        try:
            yield _item(row.value, where, primitives, difficulty, fixed)
        except ModuleError as error:
            found.append(str(error))


def _item(value: dict[str, Any], where: str, primitives: tuple[str, ...], difficulty: float,
          fixed: int | None) -> Item:  # fmt: skip
    prompt, golden = _question(value, where)
    level = value.get("level", fixed) if fixed is None else fixed
    if not isinstance(level, int) or isinstance(level, bool) or level < 1:
        raise ModuleError(f"{where}: level {level!r}: a row of the evaluation names its level, a whole number from 1 "
                          "up; add it")  # fmt: skip
    if fixed is not None and value.get("level", fixed) != fixed:
        raise ModuleError(f"{where}: the row says level {value['level']!r}, the manifest says {fixed} for this file; "
                          "correct one of the two")  # fmt: skip
    own = value.get("difficulty")
    tags = value.get("primitives")
    canonical = value.get("canonical")
    operation = value.get("operation")
    return Item(
        prompt=prompt, golden=golden, level=level, where=where,
        canonical=canonical if isinstance(canonical, str) and canonical else normal(prompt),
        operation=operation if isinstance(operation, str) and operation else "data",
        difficulty=own if isinstance(own, float) and 0 <= own <= 1 else difficulty,
        primitives=tuple(tags) if isinstance(tags, list) and all(isinstance(t, str) for t in tags) else primitives)


def _question(value: dict[str, Any], where: str) -> tuple[str, str]:
    prompt, golden = value.get("prompt"), value.get("golden")
    if not isinstance(prompt, str) or not isinstance(golden, str) or "messages" in value:
        name = detect(value)
        if name is None or is_preference(name):
            keys = ", ".join(sorted(map(str, value))[:8]) or "none"
            raise ModuleError(f"{where}: no question and answer (keys: {keys}); write {{\"prompt\": …, \"golden\": …}} "
                              "or messages of a user and an assistant turn")  # fmt: skip
        try:
            turns = to_messages(value, name)["messages"]
        except ConversionError as error:
            raise ModuleError(f"{where}: {error}; mend the line") from error
        if [turn["role"] for turn in turns] != ["user", "assistant"]:
            raise ModuleError(f"{where}: turns {[turn['role'] for turn in turns]}: a row of a module is one user and "
                              "one assistant turn; put any introduction into the question")  # fmt: skip
        prompt, golden = turns[0]["content"], turns[1]["content"]
    if not prompt.strip() or not golden.strip():
        raise ModuleError(f"{where}: the {'question' if not prompt.strip() else 'answer'} is empty; fill or delete it")
    if max(len(prompt), len(golden)) > TEXT_AT_MOST:
        raise ModuleError(f"{where}: a text of {max(len(prompt), len(golden))} characters, at most {TEXT_AT_MOST} are "
                          "allowed; shorten it")  # fmt: skip
    return prompt, golden

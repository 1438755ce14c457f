"""The skill contract: what every skill offers, in process and over HTTP, with the same objects.

A skill makes problems (`generate`), marks answers (`grade`) and tells which split any prompt belongs to (`split_of`).
Two rules keep its numbers honest:

* Randomness is keyed by a hash of (skill, version, level, seed, index, attempt). `Random(seed + index)` would make
  the streams of neighbouring seeds overlap, and a "fresh" trial would repeat problems of the last one.
* The split is a property of the canonical problem, not of the file or the call that made it. Train, trial, probe and
  public can therefore never share a problem, whatever level, wording or symbol key it is dressed in.

Try it: `python -c "from realm.guild.skills import get_skill; print(get_skill('bin').generate(3, 2, seed=0))"`
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

Drawn = TypeVar("Drawn")
Split = Literal["train", "trial", "probe", "public"]
SPLITS: tuple[Split, ...] = ("train", "trial", "probe", "public")
# Splits that are given out. Trial and probe problems decide levels: a hero that could see them could learn its exam.
OPEN_SPLITS: tuple[Split, ...] = ("train", "public")
# Percent of the hash space that each split owns, in the order of SPLITS.
SPLIT_SHARES: dict[Split, int] = {"train": 70, "trial": 20, "probe": 5, "public": 5}
# A level with fewer distinct canonical problems than this is a table to be known, not an algorithm to be learnt.
CLOSED_BELOW = 2_000
DEFAULT_THRESHOLD = 0.80


class SkillError(ValueError):
    """A request that a skill cannot serve; the text names the value, the rule and the next action."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with its golden answer.

    `canonical` identifies the mathematical content (it ignores level, verbosity tag, symbol key, question style and the
    order of commutative operands); `id` identifies this very wording. `entropy_floor` is the irreducible loss of the
    answer given the prompt, in nats per answer: 0 for a deterministic answer.
    """

    skill: str
    level: int
    difficulty: str
    kind: str
    operation: str
    prompt: str
    golden: str
    canonical: str
    id: str
    split: Split
    primitives: tuple[str, ...] = ()
    depth: int = 1
    entropy_floor: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat row a Scribe trains on."""
        return [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.golden}]

    def to_dict(self) -> dict[str, Any]:
        """The row as it travels over HTTP and into JSONL files; `messages` comes first."""
        row = asdict(self)
        row["primitives"] = list(self.primitives)
        return {"messages": self.messages, **row}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Problem:
        """The inverse of `to_dict`; unknown keys are ignored so that rows may carry provenance."""
        names = cls.__dataclass_fields__
        values = {name: row[name] for name in names if name in row}
        missing = [n for n in ("skill", "level", "difficulty", "kind", "operation", "prompt", "golden", "canonical",
                               "id", "split") if n not in values]
        if missing:
            raise SkillError(f"problem row lacks {missing}: a problem needs these fields; send rows made by generate()")
        wrong = [name for name, value in values.items() if not _KINDS[name](value)]
        if wrong:
            found = ", ".join(f"{name}: {type(values[name]).__name__}" for name in wrong)
            raise SkillError(f"problem row has fields of the wrong type ({found}); send rows made by generate()")
        values["primitives"] = tuple(values.get("primitives", ()))
        return cls(**values)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# What each field of a row may hold; rows come from files and over HTTP.
_KINDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("skill", "difficulty", "kind", "operation", "prompt", "golden", "canonical", "id"),
                    lambda value: isinstance(value, str)),
    **dict.fromkeys(("level", "depth"), _whole),
    "split": lambda value: isinstance(value, str) and value in SPLITS,
    "primitives": lambda value: isinstance(value, list | tuple) and all(isinstance(name, str) for name in value),
    "entropy_floor": lambda value: _whole(value) or isinstance(value, float),
    "extra": lambda value: isinstance(value, dict),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one answer: `correct` decides trials, `score` in [0, 1] is a reward, `reason` is for people."""

    correct: bool
    score: float
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LevelInfo:
    """What a level is. `distinct` counts canonical problems of a closed level and is None for an open one.

    `max_new_tokens` is enough for every golden answer of the level in the tokens of the shipped tokenizer.
    """

    level: int
    name: str
    description: str
    closed: bool
    distinct: int | None
    max_new_tokens: int
    threshold: float = DEFAULT_THRESHOLD
    entropy_floor: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@runtime_checkable
class Skill(Protocol):
    """The protocol. Implementations are stateless and deterministic: same arguments, same problems, byte for byte."""

    id: str
    name: str
    version: str
    description: str
    max_level: int
    threshold: float

    def levels(self) -> list[LevelInfo]:
        """Every level in order, from 1 to `max_level`."""
        ...

    def generate(self, level: int, count: int, seed: int, split: Split = "train") -> list[Problem]:
        """`count` problems, a prefix of any longer call with the same seed. SkillError on an impossible request."""
        ...

    def problem_of(self, prompt: str) -> Problem:
        """The problem behind a prompt text, so that an answer to it can be marked. SkillError where it is none."""
        ...

    def grade(self, problem: Problem, response: str) -> Grade:
        """Exact marking of `response`."""
        ...

    def split_of(self, prompt: str) -> Split | None:
        """The split that owns this prompt text, or None where the text is no problem of this skill."""
        ...

    def closed(self, level: int) -> bool:
        """Whether the level has fewer than CLOSED_BELOW distinct canonical problems."""
        ...

    def table(self, level: int) -> list[Problem]:
        """Every canonical problem of a closed level, once. Raises SkillError for an open level."""
        ...


def keyed_hash(*parts: object) -> int:
    """A 128-bit integer from the parts; the separator keeps ("a", "bc") and ("ab", "c") apart."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big")


def keyed_rng(*parts: object) -> random.Random:
    """A private random stream for these parts; no global seed is read or written."""
    return random.Random(keyed_hash(*parts))


def bucket(skill: str, version: str, canonical: str) -> Split:
    """The split that owns a canonical problem."""
    point = keyed_hash("split", skill, version, canonical) % 100
    for split in SPLITS:
        point -= SPLIT_SHARES[split]
        if point < 0:
            return split
    raise AssertionError("split shares must add up to 100")


REDRAWS = 20  # a held-out call avoids its own repetitions this often


def first_unseen(draw: Callable[[int], Drawn], canonical: Callable[[Drawn], str], seen: set[str], split: str) -> Drawn:
    """The first of `draw(0)`, `draw(1)` … whose canonical text is not in `seen` (20 at the most), and notes it there.

    Training may repeat a problem; an exam does so only when the call asks for more than there are.
    """
    drawn = draw(0)
    for redraw in range(1, REDRAWS if split != "train" else 0):
        if canonical(drawn) not in seen:
            break
        drawn = draw(redraw)
    seen.add(canonical(drawn))
    return drawn


def no_table(level: int) -> SkillError:
    """The refusal of `Skill.table` for an open level."""
    return SkillError(f"level {level}: only closed levels have a table, this one is open; use generate()")


def check_level(skill_id: str, level: int, max_level: int) -> None:
    """Refuses a level that does not exist."""
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= max_level:
        raise SkillError(f"level {level!r}: skill {skill_id!r} has levels 1 to {max_level}; ask for one of these")


def check_request(skill_id: str, level: int, count: int, seed: int, split: str, max_level: int) -> None:
    """Refuses impossible generate() arguments before any work is done."""
    check_level(skill_id, level, max_level)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise SkillError(f"count {count!r}: a count is a whole number from 0 up; ask for 1 or more problems")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SkillError(f"seed {seed!r}: a seed is a whole number; pass an int")
    if split not in SPLITS:
        raise SkillError(f"split {split!r}: a split is one of {', '.join(SPLITS)}; use one of these")

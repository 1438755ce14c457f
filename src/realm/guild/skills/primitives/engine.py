"""What all primitives share: drawing by split, reading a prompt back, marking. A primitive itself is a few functions.

A prompt is `name: body`, one line. Its content can be read back from the text alone, so marking and `split_of` need no
row: a forged golden answer or a relabelled file changes nothing. The header makes "not mine" one string comparison.

Symbols are single characters (or numbers) with blanks between them, so that every tokenizer sees one symbol at a time
and the answer stands at regular places; the answer begins with `= `, which no prompt holds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

from realm.guild.skills.base import (
    DEFAULT_THRESHOLD,
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

DIGITS = "0123456789"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALNUM = DIGITS + LETTERS
ANSWER = "= "
LONGEST_PROMPT = 2_000  # characters; no level comes near, and foreign text may be a whole book
LONGEST_EMBEDDED = 400  # characters of a body looked at inside other texts; the longest prompt of all levels has 250
LONGEST_RESPONSE = 20_000
DRAWS = 20_000  # the smallest splits own 5 %: 20 draws on average, so running out means an empty split
VERSION = "1.0.0"

_SPACES = re.compile(r"[ \t]+")
_ENDS = re.compile(r"\b|(?<=[^\w\s])(?=[^\w\s])")  # where a body may end: beside a word and between two signs
_COMMA = re.compile(r" ?, ?")


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of one level's problems; each primitive says what its numbers mean in `Primitive.level_text`.

    `n`: how long; `asked`: how many answers or columns; `depth`: steps on the way; `kinds`: which forms are drawn;
    `symbols`: what items are made of; `top`: largest number; `text`: more about the level, in words.
    """

    n: int
    asked: int = 1
    depth: int = 1
    kinds: tuple[str, ...] = ()
    symbols: str = DIGITS
    top: int = 9
    text: str = ""


@dataclass(frozen=True, slots=True)
class Primitive:
    """One primitive as functions of its content, a hashable value that says everything about a problem.

    `rule` tells a person what is asked and how it is written; `level_text` is a format string over a Shape's fields.
    `show` writes the prompt's body and `read` is its inverse (None, or ValueError, where the text is no body); `solve`
    gives the golden answer; `normal` is the content with everything that does not matter (the order of commutative
    parts) put in order, the identity by default; `fits` says whether a level could ask this content; `room` is an
    upper bound of the characters of a level's answers; `mark` replaces exact marking by one that parses the answer and
    returns why it is wrong, or None.
    """

    name: str
    title: str
    rule: str
    level_text: str
    shapes: tuple[Shape, ...]
    draw: Callable[[Shape, random.Random], Any]
    show: Callable[[Any], str]
    read: Callable[[str], Any]
    solve: Callable[[Any], str]
    fits: Callable[[Shape, Any], bool]
    room: Callable[[Shape], int]
    normal: Callable[[Any], Any] = lambda content: content
    also: tuple[str, ...] = ()
    kind: Callable[[Any], str] | None = None
    depth: Callable[[Any], int] = lambda content: 1
    mark: Callable[[Any, str], str | None] | None = None

    @property
    def header(self) -> str:
        """What every prompt begins with."""
        return f"{self.name}:"

    def prompt(self, content: Any) -> str:
        """The text the hero sees."""
        return f"{self.header} {self.show(content)}"

    def golden(self, content: Any) -> str:
        """The right answer; primitives with a format of their own write it without the sign."""
        return self.solve(content) if self.mark else ANSWER + self.solve(content)

    def parse(self, prompt: str) -> Any:
        """The content behind a prompt, or None where the text is none of this primitive's prompts. Never raises."""
        text = prompt.strip()
        if not text.startswith(self.header) or len(text) > LONGEST_PROMPT:
            return None
        text = _SPACES.sub(" ", text)
        try:
            content = self.read(text[len(self.header) + 1 :])
        except ValueError:
            return None
        # Reading may be generous as long as writing is not: only a text that is written back to itself is a prompt.
        return content if content is not None and self.prompt(content) == text else None


def symbols_of(text: str, allowed: str) -> tuple[str, ...]:
    """Single symbols with blanks between them. ValueError where one is not allowed, or there are none."""
    found = tuple(text.split(" "))
    if any(len(symbol) != 1 or symbol not in allowed for symbol in found):
        raise ValueError(f"{text[:40]!r}: not single symbols out of {allowed!r}")
    return found


def numbers_of(text: str) -> tuple[int, ...]:
    """Natural numbers with blanks between them, up to six digits each."""
    return tuple(map(number_of, text.split(" ")))


def number_of(text: str) -> int:
    """One natural number of up to six digits; a leading zero does not survive being written back."""
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise ValueError(f"{text[:40]!r}: not a natural number of up to six digits")
    return int(text)


def joined(items: Any) -> str:
    """Items with blanks between them."""
    return " ".join(map(str, items))


def listed(length: int, width: int = 1) -> int:
    """Characters of a list of so many items of this width, with its sign and blanks."""
    return len(ANSWER) + length * (width + 1)


class PrimitiveSkill:
    """A primitive as a skill: the contract of `realm.guild.skills.base`, every level open."""

    threshold = DEFAULT_THRESHOLD
    version = VERSION

    def __init__(self, primitive: Primitive) -> None:
        self.primitive = primitive
        self.id = primitive.name
        self.name = primitive.title
        self.max_level = len(primitive.shapes)
        self.header = primitive.header
        """A text without it holds no problem of this skill: gates may ask for it before they look at lines."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The functions of a primitive cannot be pickled; its name can, and the server's worker process looks it up.
        from realm.guild.skills.primitives import skill

        return skill, (self.id,)

    @property
    def description(self) -> str:
        from realm.guild.primitives import PRIMITIVES

        return f"Primitive: {PRIMITIVES[self.id]}."

    def levels(self) -> list[LevelInfo]:
        """Every level; the answers of a level fit into as many tokens as they have characters."""
        return [self._level_info(number, shape) for number, shape in enumerate(self.primitive.shapes, 1)]

    def _level_info(self, number: int, shape: Shape) -> LevelInfo:
        name = self._level_name(shape)
        return LevelInfo(number, name, f"{name}; open: fresh problems every trial", closed=False, distinct=None,
                         max_new_tokens=self.primitive.room(shape) + 2, threshold=self.threshold)

    def _level_name(self, shape: Shape) -> str:
        words = {"n": shape.n, "asked": shape.asked, "depth": shape.depth, "kinds": ", ".join(shape.kinds),
                 "symbols": len(shape.symbols), "top": shape.top, "text": shape.text}  # fmt: skip
        return self.primitive.level_text.format(**words)

    def closed(self, level: int) -> bool:
        """Never: the smallest level of every primitive has more than 2,000 distinct problems (counted in the tests)."""
        check_level(self.id, level, self.max_level)
        return False

    def table(self, level: int) -> list[Problem]:
        """Only closed levels have a table."""
        check_level(self.id, level, self.max_level)
        raise no_table(level)

    def generate(self, level: int, count: int, seed: int, split: Split = "train") -> list[Problem]:
        """`count` problems of a level and split; a held-out call repeats one only when it asks for more than there are.

        Raises:
            SkillError: an impossible request.
        """
        check_request(self.id, level, count, seed, split, self.max_level)
        seen: set[str] = set()
        drawn = (first_unseen(partial(self._draw, level, seed, index, split=split), itemgetter(1), seen, split)
                 for index in range(count))
        return [self._problem(level, content, split) for content, _ in drawn]

    def _draw(self, level: int, seed: int, index: int, redraw: int, split: Split) -> tuple[Any, str]:
        """The first drawn content that the split owns, and its canonical text."""
        rng = keyed_rng(self.id, self.version, level, seed, index, redraw)
        for _ in range(DRAWS):
            content = self.primitive.draw(self.primitive.shapes[level - 1], rng)
            canonical = self._canonical(content)
            if bucket(self.id, self.version, canonical) == split:
                return content, canonical
        raise SkillError(f"{self.id} level {level}: no {split} problem in {DRAWS} draws; the level is too small for "
                         "this split, widen its shape")  # fmt: skip

    def _canonical(self, content: Any) -> str:
        return self.primitive.show(self.primitive.normal(content))

    def _problem(self, level: int, content: Any, split: Split) -> Problem:
        primitive = self.primitive
        prompt = primitive.prompt(content)
        kind = primitive.kind(content) if primitive.kind else self.id.partition("_")[2]
        return Problem(
            skill=self.id, level=level, difficulty="easy", kind=kind, operation=self.id, prompt=prompt,
            golden=primitive.golden(content), canonical=self._canonical(content),
            id=f"{self.id}-{keyed_hash(self.version, level, prompt) >> 64:016x}", split=split,
            primitives=(self.id, *primitive.also), depth=primitive.depth(content))  # fmt: skip

    def problem_of(self, prompt: str) -> Problem:
        """The problem behind a prompt, at the lowest level that could ask it (the last where none could)."""
        content = self.primitive.parse(prompt)
        if content is None:
            raise SkillError(f"prompt {prompt[:80]!r}: no {self.id} problem; send a prompt made by generate()")
        shapes = enumerate(self.primitive.shapes, 1)
        level = next((number for number, shape in shapes if self.primitive.fits(shape, content)), self.max_level)
        return self._problem(level, content, bucket(self.id, self.version, self._canonical(content)))

    def split_of(self, prompt: str) -> Split | None:
        """The split that owns a prompt, or None where the text is no problem of this primitive."""
        if self.header not in prompt:  # 29 skills are asked about every line of every file
            return None
        content = self.primitive.parse(prompt)
        return None if content is None else bucket(self.id, self.version, self._canonical(content))

    def splits_within(self, text: str) -> set[Split]:
        """The splits of the problems that stand anywhere in a text, with words before and behind them.

        A problem goes as far as it can be read: the beginning of a list is a list too, and would be another problem.
        """
        found: set[Split] = set()
        before, *rest = text.split(self.header)
        for body in rest:
            if not before[-1:].isalnum() and (split := self._longest(body[:LONGEST_EMBEDDED])) is not None:
                found.add(split)
            before = body
        return found

    def _longest(self, body: str) -> Split | None:
        """The split of the longest beginning of the first line that is a problem's body; of all lines where none is."""
        for part in dict.fromkeys(" ".join(text.split()) for text in (body.partition("\n")[0], body)):
            for end in reversed([0, *(mark.start() for mark in _ENDS.finditer(part)), len(part)]):
                content = self.primitive.parse(f"{self.header} {part[:end].strip()}")
                if content is not None:
                    return bucket(self.id, self.version, self._canonical(content))
        return None

    def grade(self, problem: Problem, response: str) -> Grade:
        """Exact marking from the prompt alone."""
        content = self.primitive.parse(problem.prompt)
        if content is None:
            return _wrong(f"the prompt is no {self.id} problem; send a prompt made by generate()")
        if not response.strip():
            return _wrong("empty answer")
        if len(response) > LONGEST_RESPONSE:
            return _wrong(f"wrong format: {len(response)} characters are no short answer")
        why = self.primitive.mark(content, response) if self.primitive.mark else _exact(
            self.primitive.golden(content), response)  # fmt: skip
        return Grade(True, 1.0, "right") if why is None else _wrong(why)


def tidy(line: str) -> str:
    """An answer without the blanks that do not count."""
    line = _COMMA.sub(", ", _SPACES.sub(" ", line.strip()))
    return ANSWER + line[1:].lstrip(" ") if line.startswith("=") else line


def _exact(golden: str, response: str) -> str | None:
    line = tidy(response)
    if line == golden:
        return None
    if "\n" in line:
        return "wrong format: the answer is one line"
    if not line.startswith(ANSWER):
        return f"wrong format: the answer begins with '= ', got {line[:80]!r}"
    return f"wrong value: {line[:80]!r}, expected {golden!r}"


def _wrong(reason: str) -> Grade:
    return Grade(False, 0.0, reason)

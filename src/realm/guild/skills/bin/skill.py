"""BIN, "Binary Alchemy": the skill object. Level = bit width, difficulty = verbosity; see docs/BIN.md."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

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
from realm.guild.skills.bin.draw import draw_question
from realm.guild.skills.bin.grade import grade_prompt
from realm.guild.skills.bin.levels import (
    CHAIN_DEPTH,
    DIFFICULTIES,
    MAX_LEVEL,
    SYMBOLS_FROM_LEVEL,
    belongs_to_closed_level,
    bits,
    closed_table,
    mix,
)
from realm.guild.skills.bin.operations import OPERATIONS, Link
from realm.guild.skills.bin.questions import Question, embedded, parse_prompt
from realm.guild.skills.bin.tags import primitives


class BinSkill:
    """Binary arithmetic in circled digits. Stateless; the same arguments give the same problems."""

    id = "bin"
    name = "Binary Alchemy"
    version = "1"
    description = "Compute with circled binary digits: thirty bit widths, four degrees of shown work, symbol keys."
    max_level = MAX_LEVEL
    threshold = DEFAULT_THRESHOLD

    def levels(self) -> list[LevelInfo]:
        """The 30 levels."""
        return [self._level_info(level) for level in range(1, MAX_LEVEL + 1)]

    def _level_info(self, level: int) -> LevelInfo:
        table = closed_table(level)
        shares = " / ".join(f"{share} % {name}" for name, share in zip(DIFFICULTIES, mix(level), strict=True))
        symbols = ", 75 % with a symbol key" if level >= SYMBOLS_FROM_LEVEL else ""
        kind = f"closed: recall of a table of {len(table)}" if table else "open: fresh problems every trial"
        return LevelInfo(level, f"{bits(level)} bits", f"{bits(level)}-bit operands, {shares}{symbols}; {kind}",
                         closed=table is not None, distinct=len(table) if table else None,
                         max_new_tokens=max_new_tokens(level), threshold=self.threshold)

    def closed(self, level: int) -> bool:
        """Whether the level is a table to be known."""
        check_level(self.id, level, MAX_LEVEL)
        return closed_table(level) is not None

    def table(self, level: int) -> list[Problem]:
        """Every problem of a closed level once, as one link, easy or medium as the level mixes them."""
        check_level(self.id, level, MAX_LEVEL)
        links = closed_table(level)
        if links is None:
            raise no_table(level)
        return [self._problem(level, self._table_question(level, link), "train") for link in links]

    def _table_question(self, level: int, link: Link) -> Question:
        rng = keyed_rng(self.id, self.version, "table", level, link.canonical)
        if OPERATIONS[link.op].commutative and rng.random() < 0.5:
            link = Link(link.op, link.args[::-1], link.width)
        # A table entry is one link, so it is asked only in the difficulties whose chains may have one link: a depth
        # that training never shows under that tag would examine the tag, not the table.
        single = [d for d in DIFFICULTIES if CHAIN_DEPTH[d][0] == 1]
        weights = dict(zip(DIFFICULTIES, mix(level), strict=True))
        return Question((link,), rng.choices(single, [weights[d] for d in single])[0])

    def generate(self, level: int, count: int, seed: int, split: Split = "train") -> list[Problem]:
        """`count` problems of a level and split.

        Held-out splits of an open level hold no problem of a closed level and repeat a problem only when a call asks
        for far more than there are. On a closed level every held-out split walks through the whole table in an order
        that depends on the seed, and training may use all of the table.
        """
        check_request(self.id, level, count, seed, split, MAX_LEVEL)
        if split != "train" and self.closed(level):
            return self._from_table(level, count, seed, split)
        seen: set[str] = set()
        return [first_unseen(partial(self._draw, level, seed, index, split=split), attrgetter("canonical"), seen, split)
                for index in range(count)]

    def _draw(self, level: int, seed: int, index: int, redraw: int, split: Split) -> Problem:
        key = (self.id, self.version, level, seed, index, redraw)
        question = draw_question(level, keyed_rng(*key), lambda link: self._may_use(link, split),
                                 lambda attempt: keyed_rng(*key, attempt))
        return self._problem(level, question, split)

    def _may_use(self, link: Link, split: Split) -> bool:
        """Training owns its bucket and all closed tables; a held-out split owns its bucket without closed problems."""
        return link_split(self.id, self.version, link) == split

    def _from_table(self, level: int, count: int, seed: int, split: Split) -> list[Problem]:
        table = self.table(level)
        order: list[int] = []
        for lap in range(-(-count // len(table))):
            indices = list(range(len(table)))
            keyed_rng(self.id, self.version, "walk", level, seed, split, lap).shuffle(indices)
            order += indices
        return [self._relabel(table[i], split) for i in order[:count]]

    @staticmethod
    def _relabel(problem: Problem, split: Split) -> Problem:
        return Problem.from_dict({**problem.to_dict(), "split": split})

    def _problem(self, level: int, question: Question, split: Split) -> Problem:
        prompt = question.prompt()
        return Problem(
            skill=self.id, level=level, difficulty=question.difficulty, kind=question.style,
            operation=question.last.op, prompt=prompt, golden=question.golden(), canonical=question.canonical(),
            id=f"{self.id}-{keyed_hash(self.version, level, prompt) >> 64:016x}", split=split,
            primitives=primitives(question), depth=len(question.links), extra={"symbol_key": question.key is not None},
        )

    def problem_of(self, prompt: str) -> Problem:
        """The problem behind a prompt; its level is the lowest whose operands are wide enough."""
        question = parse_prompt(prompt)
        if question is None:
            raise SkillError(f"prompt {prompt[:80]!r}: no {self.id} problem; send a prompt made by generate()")
        # The first operand of every later link is the value of the one before it, which may be wider than the level.
        given = [arg for i, link in enumerate(question.links) for arg in link.args[1 if i else 0:]]
        width = max([link.width for link in question.links] + [arg.bit_length() for arg in given])
        level = next((n for n in range(1, MAX_LEVEL) if bits(n) >= width), MAX_LEVEL)
        return self._problem(level, question, self.split_of(prompt) or "train")

    def grade(self, problem: Problem, response: str) -> Grade:
        """Exact marking from the prompt alone."""
        return grade_prompt(problem.prompt, response)

    def split_of(self, prompt: str) -> Split | None:
        """The split that owns a prompt: that of its links.

        Problems of closed levels belong to training, which may use the whole table. A text whose links belong to
        different splits was not made here; it is held out as soon as one of its links is.
        """
        question = parse_prompt(prompt)
        return None if question is None else self._owner(question)

    def splits_within(self, text: str) -> set[Split]:
        """The splits of the problems that stand anywhere in a text, with words before and behind them."""
        return {self._owner(question) for question in embedded(text)}

    def _owner(self, question: Question) -> Split:
        splits = {link_split(self.id, self.version, link) for link in question.links}
        for split in ("trial", "probe", "public"):
            if split in splits:
                return split
        return "train"


def link_split(skill: str, version: str, link: Link) -> Split:
    """The split of one link; problems of closed levels are training's."""
    if belongs_to_closed_level(link):
        return "train"
    return bucket(skill, version, link.canonical)


def max_new_tokens(level: int) -> int:
    """Tokens that a golden answer fits in, with the shipped tokenizer (one token per glyph).

    The longest of 3,000 answers was 164 at 2 bits, 291 at 4, 616 at 7, 1,670 at 30 and 2,554 at 32 bits.
    """
    return 100 + 80 * bits(level)

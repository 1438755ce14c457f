"""SY, "Word Weaving": the skill object. Six dimensions of signal degrade with the level; see docs/SY.md.

What is the problem? A puzzle is a set of small ones, each of them "this hint means that word". So the split belongs to
the word, not to the set: every word family is in one bucket, and all words of a puzzle come from the same bucket, as
all links of a BIN chain do. If only the set counted, a trial would be made of hints and words that were practised one
by one, in any dressing, and would measure recall.
"""

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
    check_level,
    check_request,
    first_unseen,
    keyed_hash,
    keyed_rng,
    no_table,
)
from realm.guild.skills.sy.answers import golden, grade_prompt
from realm.guild.skills.sy.draw import draw_puzzle
from realm.guild.skills.sy.levels import DIFFICULTIES, MAX_LEVEL, ZIPF_REACH, level_at, mix
from realm.guild.skills.sy.lexicon import load, split_of_word
from realm.guild.skills.sy.puzzle import Puzzle, embedded, parse_prompt
from realm.guild.skills.sy.solver import Solution, solve

SPOKES = ("seq_transform", "attn_select", "mem_context", "fmt_structured")
FORMAT_SPOKE = {"json": "fmt_json", "list": "fmt_list", "comma": "fmt_list", "table": "fmt_table"}


class SySkill:
    """Syllable puzzles. Stateless; the same arguments give the same problems."""

    id = "sy"
    name = "Word Weaving"
    version = "1"
    description = "Weave words from syllable tiles and hints: fifty levels of fading signal, four answer formats."
    max_level = MAX_LEVEL
    threshold = DEFAULT_THRESHOLD

    def levels(self) -> list[LevelInfo]:
        """The 50 levels."""
        return [self._level_info(level) for level in range(1, MAX_LEVEL + 1)]

    def _level_info(self, level: int) -> LevelInfo:
        dims = level_at(level)
        shares = " / ".join(f"{share} % {name}" for name, share in zip(DIFFICULTIES, mix(level), strict=True))
        text = (f"{span(dims.words)} words of {span(dims.syllables)} syllables, Zipf {dims.zipf:g}, {dims.overlap} % "
                f"overlap, {span(dims.herrings)} red herrings, {dims.strong} % strong hints, {shares}")
        return LevelInfo(level, dims.name, text, closed=False, distinct=None, max_new_tokens=max_new_tokens(level),
                         threshold=self.threshold)

    def closed(self, level: int) -> bool:
        """No level is: the smallest pool of words (level 1, probe) still gives tens of thousands of puzzles."""
        check_level(self.id, level, MAX_LEVEL)
        return False

    def table(self, level: int) -> list[Problem]:
        """SY has no closed level, so no table."""
        check_level(self.id, level, MAX_LEVEL)
        raise no_table(level)

    def generate(self, level: int, count: int, seed: int, split: Split = "train") -> list[Problem]:
        """`count` problems of a level and split; held-out splits repeat a set of words only when they must."""
        check_request(self.id, level, count, seed, split, MAX_LEVEL)
        seen: set[str] = set()
        return [first_unseen(partial(self._draw, level, seed, index, split=split), attrgetter("canonical"), seen, split)
                for index in range(count)]

    def _draw(self, level: int, seed: int, index: int, redraw: int, split: Split) -> Problem:
        key = (self.id, self.version, level, seed, split, index, redraw)
        puzzle, solution = draw_puzzle(self.id, self.version, level, split, lambda attempt: keyed_rng(*key, attempt))
        return self._problem(level, puzzle, puzzle.prompt(), solution, split)

    def _problem(self, level: int, puzzle: Puzzle, prompt: str, solution: Solution, split: Split) -> Problem:
        kinds = sorted({clue.kind for clue in puzzle.clues})
        return Problem(
            skill=self.id, level=level, difficulty=puzzle.difficulty, kind=puzzle.answer_format, operation="weave",
            prompt=prompt, golden=golden(puzzle, solution), canonical=canonical(solution),
            id=f"{self.id}-{keyed_hash(self.version, level, prompt) >> 64:016x}", split=split,
            primitives=(*SPOKES, FORMAT_SPOKE[puzzle.answer_format]), depth=len(puzzle.clues),
            extra={"hints": kinds, "herrings": len(puzzle.tiles) - sum(len(placed.tiles) for placed in solution)},
        )

    def problem_of(self, prompt: str) -> Problem:
        """The problem behind a prompt; its level is the lowest that could have made it."""
        puzzle = parse_prompt(prompt)
        solution = solve(puzzle) if puzzle else None
        if puzzle is None or solution is None:
            raise SkillError(f"prompt {prompt[:80]!r}: no {self.id} problem; send a prompt made by generate()")
        return self._problem(lowest_level(puzzle, solution), puzzle, prompt, solution, self._owner(solution))

    def grade(self, problem: Problem, response: str) -> Grade:
        """Exact marking from the prompt alone."""
        return grade_prompt(problem.prompt, response)

    def split_of(self, prompt: str) -> Split | None:
        """The split that owns the words of a prompt, also where it stands inside another text.

        A text whose words belong to different splits was not made here; it is held out as soon as one of them is.
        Text without the name of the game is told apart by one search and costs about a microsecond.
        """
        found = self.splits_within(prompt)
        return next((split for split in ("trial", "probe", "public", "train") if split in found), None)

    def splits_within(self, text: str) -> set[Split]:
        """The splits of the puzzles that stand anywhere in a text."""
        return {self._owner(solution) for puzzle in embedded(text) if (solution := solve(puzzle)) is not None}

    def _owner(self, solution: Solution) -> Split:
        lexicon = load()
        found = {split_of_word(self.id, self.version, lexicon.by_text[placed.word]) for placed in solution}
        return next(split for split in ("trial", "probe", "public", "train") if split in found)


def canonical(solution: Solution) -> str:
    """The problem's identity: its set of words; hints, order, tiles left over, tag, format and level do not count."""
    return "+".join(sorted(placed.word for placed in solution))


def span(ends: tuple[int, int]) -> str:
    """A range as people write it."""
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"


def lowest_level(puzzle: Puzzle, solution: Solution) -> int:
    """The lowest level whose dimensions hold the puzzle; the highest where none does."""
    lexicon = load()
    words = [lexicon.by_text[placed.word] for placed in solution]
    herrings = len(puzzle.tiles) - sum(len(placed.tiles) for placed in solution)
    for level in range(1, MAX_LEVEL + 1):
        dims = level_at(level)
        if (dims.words[0] <= len(words) <= dims.words[1] and dims.herrings[0] <= herrings <= dims.herrings[1]
                and all(dims.syllables[0] <= len(word.syllables) <= dims.syllables[1] for word in words)
                and all(abs(word.zipf - dims.zipf) <= ZIPF_REACH + 1e-9 for word in words)
                and all(clue.kind in dims.kinds for clue in puzzle.clues)):
            return level
    return MAX_LEVEL


def max_new_tokens(level: int) -> int:
    """Tokens that a golden answer fits in, with the shipped tokenizer.

    The longest of 250 answers was 279 at level 1, 463 at 5, 911 at 10, 1,044 at 20 and 1,209 at 50.
    """
    return 150 + 110 * level_at(level).words[1]

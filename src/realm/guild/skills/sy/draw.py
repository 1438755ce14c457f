"""Draws a puzzle: words of one split, their hints, left-over tiles; drawn again until the solver finds one solution."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from realm.guild.skills.base import SkillError, Split
from realm.guild.skills.sy.levels import (
    DIFFICULTIES,
    STRONG_KINDS,
    ZIPF_REACH,
    Level,
    level_at,
    mix,
    shown_words,
)
from realm.guild.skills.sy.lexicon import LONG_KINDS, Word, load, split_of_word
from realm.guild.skills.sy.puzzle import BANKS, FORMATS, LABELS, Clue, Puzzle
from realm.guild.skills.sy.solver import Bank, Solution, solutions

DRAWS_AT_MOST = 200
WORD_TRIES = 60
HINT_ROUNDS = 8


@dataclass(frozen=True)
class Pool:
    """The words that a level may use in one split, and where each tile occurs among them."""

    words: tuple[Word, ...]
    by_tile: dict[str, tuple[Word, ...]]


@cache
def pool(skill: str, version: str, level: int, split: Split) -> Pool:
    """The words of a level and split: number of syllables, frequency and bucket decide."""
    dims = level_at(level)
    words = tuple(word for word in load().words
                  if dims.syllables[0] <= len(word.syllables) <= dims.syllables[1]
                  and abs(word.zipf - dims.zipf) <= ZIPF_REACH + 1e-9
                  and split_of_word(skill, version, word) == split)
    by_tile: dict[str, list[Word]] = defaultdict(list)
    for word in words:
        for tile in dict.fromkeys(word.syllables):
            by_tile[tile].append(word)
    return Pool(words, {tile: tuple(found) for tile, found in by_tile.items()})


def draw_puzzle(skill: str, version: str, level: int, split: Split,
                rng_of: Callable[[int], Random]) -> tuple[Puzzle, Solution]:
    """A puzzle with exactly one solution. `rng_of(attempt)` is the random stream of an attempt."""
    words = pool(skill, version, level, split)
    for attempt in range(DRAWS_AT_MOST):
        made = _try(level_at(level), words, rng_of(attempt))
        if made is not None:
            return made
    raise SkillError(f"level {level}, split {split!r}: no puzzle with one solution in {DRAWS_AT_MOST} draws; "
                     "report this level and use another one")


def _try(dims: Level, words: Pool, rng: Random) -> tuple[Puzzle, Solution] | None:
    difficulty = rng.choices(DIFFICULTIES, mix(dims.level))[0]
    answer_format = rng.choice(tuple(FORMATS))
    dress = (rng.randrange(2), rng.randrange(len(BANKS)), rng.randrange(len(LABELS)))
    chosen = _choose_words(dims, words, rng)
    if chosen is None:
        return None
    tiles = [tile for word in chosen for tile in word.syllables]
    herrings = _choose_herrings(dims, words, set(tiles), rng)
    if herrings is None:
        return None
    tiles += herrings
    rng.shuffle(tiles)
    answers = [word.text for word in chosen]
    clues = [_choose_clue(dims, word, answers, rng) for word in chosen]
    bank = Bank(tuple(tiles))
    for _ in range(HINT_ROUNDS):
        if None in clues:
            return None
        puzzle = Puzzle(tuple(tiles), tuple(clue for clue in clues if clue), difficulty, answer_format, dress)
        found = solutions(puzzle, bank=bank)
        if found is None or not found:
            return None
        if len(found) == 1:
            return puzzle, found[0]
        # Only the hints whose words differ between two solutions are vague: these are drawn again.
        for i, pair in enumerate(zip(*found, strict=True)):
            if pair[0] != pair[1]:
                clues[i] = _choose_clue(dims, chosen[i], answers, rng)
    return None


def _choose_words(dims: Level, words: Pool, rng: Random) -> list[Word] | None:
    """Words of different families; with the level's chance a word shares a tile with those before it, else it does not.
    """
    count = rng.randint(*dims.words)
    chosen = [rng.choice(words.words)]
    used = dict.fromkeys(chosen[0].syllables)
    while len(chosen) < count:
        word = _next_word(words, chosen, used, 100 * rng.random() < dims.overlap, rng)
        if word is None:
            return None
        chosen.append(word)
        used |= dict.fromkeys(word.syllables)
    rng.shuffle(chosen)  # the first word could not share; its place must not tell
    return chosen


def _next_word(words: Pool, chosen: list[Word], used: dict[str, None], share: bool, rng: Random) -> Word | None:
    families = {word.family for word in chosen}
    tiles = [tile for tile in used if len(words.by_tile[tile]) > 1] if share else []
    for _ in range(WORD_TRIES):
        word = rng.choice(words.by_tile[rng.choice(tiles)] if tiles else words.words)
        if word.family not in families and (tiles or not any(tile in used for tile in word.syllables)):
            return word
    return None


def _choose_herrings(dims: Level, words: Pool, used: set[str], rng: Random) -> list[str] | None:
    """Left-over tiles: syllables of other words, none that stands in an answer."""
    count, found = rng.randint(*dims.herrings), []
    for _ in range(WORD_TRIES * (count + 1)):
        if len(found) == count:
            return found
        tile = rng.choice(rng.choice(words.words).syllables)
        if tile not in used and tile not in found:
            found.append(tile)
    return None


def _choose_clue(dims: Level, word: Word, answers: list[str], rng: Random) -> Clue | None:
    """A hint at a word, of a kind that the level allows; none that holds an answer of the same puzzle."""
    kinds = [kind for kind in dims.kinds if kind in word.clues]
    strong = [kind for kind in kinds if kind in STRONG_KINDS]
    weak = [kind for kind in kinds if kind not in STRONG_KINDS]
    wanted = strong if not weak or 100 * rng.random() < dims.strong else weak
    for group in (wanted, strong):
        texts = [(kind, text) for kind in rng.sample(group, len(group)) for text in _shuffled(word.clues[kind], rng)]
        for kind, text in texts:
            if not any(answer in text for answer in answers):
                return Clue(len(word.syllables), kind, shown_words(text, dims.shown) if kind in LONG_KINDS else text)
    return None


def _shuffled(texts: tuple[str, ...], rng: Random) -> list[str]:
    return rng.sample(texts, len(texts))

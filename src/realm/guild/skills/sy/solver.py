"""Solves a puzzle from what a reader sees: the bank, the hints and the lexicon.

A solution gives every hint another word that the hint is true of, each written with the stated number of tiles, and
takes no tile oftener than the bank holds it. Any cutting of a word into tiles counts, not only its syllables. Two
solutions differ where a hint's word or its tiles differ; equal tiles are equal.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from realm.guild.skills.sy.lexicon import LONGEST_TILE, load
from realm.guild.skills.sy.puzzle import Clue, Puzzle

# A puzzle made here needs a few hundred steps at the most; a forged one that needs more is no puzzle of ours.
STEPS_AT_MOST = 20_000
CUTS_AT_MOST = 64


@dataclass(frozen=True, slots=True)
class Placed:
    """A word as a row of tiles."""

    word: str
    tiles: tuple[str, ...]


Solution = tuple[Placed, ...]


class Bank:
    """The tiles of a puzzle, and which words they can write; what is found out is kept for further hints."""

    def __init__(self, tiles: tuple[str, ...]) -> None:
        self.tiles = Counter(tiles)
        lexicon = load()
        nothing: frozenset[int] = frozenset()
        # A word that the bank can write begins with a tile and ends with one; most words fail this at no cost.
        self.writable = (nothing.union(*(lexicon.beginning.get(tile, nothing) for tile in self.tiles))
                         & nothing.union(*(lexicon.ending.get(tile, nothing) for tile in self.tiles)))
        self._placed: dict[tuple[int, int], list[Placed]] = {}

    def placements(self, clue: Clue) -> list[Placed]:
        """Every word that the hint is true of and that the bank can write, in the lexicon's order."""
        lexicon, found = load(), []
        for index in sorted(lexicon.holding(clue.kind, clue.text) & self.writable):
            key = (index, clue.tiles)
            if key not in self._placed:
                word = lexicon.words[index].text
                self._placed[key] = [Placed(word, tiles) for tiles in cuts(word, clue.tiles, self.tiles)]
            found += self._placed[key]
        return found


def cuts(word: str, count: int, bank: Counter[str]) -> list[tuple[str, ...]]:
    """Every way to write a word with exactly `count` tiles of the bank."""
    found: list[tuple[str, ...]] = []

    def cut(at: int, taken: tuple[str, ...]) -> None:
        left = count - len(taken)
        if left == 0 or len(found) >= CUTS_AT_MOST:
            if at == len(word) and left == 0:
                found.append(taken)
            return
        for end in range(at + 1, min(len(word) - left + 1, at + LONGEST_TILE) + 1):
            tile = word[at:end]
            if tile in bank and taken.count(tile) < bank[tile]:
                cut(end, (*taken, tile))

    cut(0, ())
    return found


def solutions(puzzle: Puzzle, at_most: int = 2, bank: Bank | None = None) -> list[Solution] | None:
    """Up to `at_most` solutions; None where the search was given up after STEPS_AT_MOST steps. `bank` is the puzzle's,
    where the caller tries several hints with the same tiles."""
    known = bank or Bank(puzzle.tiles)
    options = [known.placements(clue) for clue in puzzle.clues]
    if not all(options):
        return []
    order = sorted(range(len(options)), key=lambda i: len(options[i]))
    left = Counter(known.tiles)
    chosen: dict[int, Placed] = {}
    found: list[Solution] = []
    steps = 0

    def place(depth: int) -> bool:
        """False ends the search."""
        nonlocal steps
        if depth == len(order):
            found.append(tuple(chosen[i] for i in range(len(order))))
            return len(found) < at_most
        for option in options[order[depth]]:
            steps += 1
            if steps > STEPS_AT_MOST:
                return False
            if any(other.word == option.word for other in chosen.values()) or not _fits(option, left):
                continue
            left.subtract(option.tiles)
            chosen[order[depth]] = option
            goes_on = place(depth + 1)
            del chosen[order[depth]]
            left.update(option.tiles)
            if not goes_on:
                return False
        return True

    place(0)
    return None if steps > STEPS_AT_MOST else found


def _fits(option: Placed, left: Counter[str]) -> bool:
    return all(left[tile] >= option.tiles.count(tile) for tile in option.tiles)


@lru_cache(maxsize=1024)
def solve(puzzle: Puzzle) -> Solution | None:
    """The one solution of a puzzle, or None where it has none or several."""
    found = solutions(puzzle)
    return found[0] if found is not None and len(found) == 1 else None

"""The 50 levels of SY: six dimensions, each of which only ever gets harder, and the mix of difficulties.

Levels 1 to 10 are the game's own table. From 11 on it goes on in small steps: words and left-over tiles grow, words
get rarer, hints get weaker, and long hints fade: only their first words are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

MAX_LEVEL = 50
DIFFICULTIES = ("easy", "medium", "hard", "expert")
TAGS = {"easy": "", "medium": " [verify]", "hard": " [show-work]", "expert": " [trace]"}
# Percent of easy, medium, hard, expert; the key is the last level that the row holds for.
_MIXES = {10: (50, 35, 12, 3), 20: (40, 35, 20, 5), 30: (30, 35, 25, 10), 40: (25, 30, 30, 15), 50: (20, 30, 30, 20)}
STRONG_KINDS = ("definition", "synonym")
# Kinds of hints by the level that brings them; the strong ones say what the word means, the others what it is near.
KINDS_FROM = {"definition": 1, "synonym": 1, "category": 4, "example": 5, "hypernym": 6, "hyponym": 6, "antonym": 7,
              "domain": 7, "morphology": 8, "etymology": 9}  # fmt: skip
# Words are drawn within this distance of the level's Zipf frequency (log10 of uses per billion words).
ZIPF_REACH = 1.0
FADE_KEEPS_AT_LEAST = 4


@dataclass(frozen=True, slots=True)
class Level:
    """One level. Ranges are (least, most); `overlap` is the percentage of words that share a tile with a word before
    them; `strong` the percentage of strong hints; `shown` the percentage of a long hint's words that is shown."""

    level: int
    name: str
    words: tuple[int, int]
    syllables: tuple[int, int]
    zipf: float
    overlap: int
    herrings: tuple[int, int]
    strong: int
    shown: int = 100

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of hints that the level may use."""
        return tuple(kind for kind, first in KINDS_FROM.items() if self.level >= first)


_FIRST_TEN = (
    Level(1, "Beginner", (4, 4), (2, 3), 5.5, 0, (0, 0), 100),
    Level(2, "Easy", (4, 5), (2, 3), 5.0, 0, (0, 0), 100),
    Level(3, "Novice", (5, 5), (2, 4), 4.5, 10, (0, 0), 100),
    Level(4, "Learning", (5, 6), (3, 4), 4.0, 20, (0, 1), 90),
    Level(5, "Intermediate", (6, 6), (3, 5), 3.5, 30, (1, 2), 80),
    Level(6, "Competent", (6, 7), (3, 5), 3.0, 40, (1, 2), 70),
    Level(7, "Proficient", (7, 7), (4, 5), 2.8, 50, (2, 3), 60),
    Level(8, "Advanced", (7, 8), (4, 6), 2.5, 60, (3, 4), 50),
    Level(9, "Expert", (8, 9), (4, 6), 2.2, 70, (4, 5), 40),
    Level(10, "Master", (9, 10), (4, 6), 2.0, 80, (5, 6), 30),
)
_NAMES = {20: "Grandmaster", 30: "Sage", 40: "Oracle of Words", 50: "Weaver"}


@cache
def level_at(level: int) -> Level:
    """The dimensions of a level from 1 to 50."""
    if level <= len(_FIRST_TEN):
        return _FIRST_TEN[level - 1]
    decade, beyond = (level - 11) // 10, level - 10
    name = next(name for last, name in _NAMES.items() if level <= last)
    return Level(level, f"{name} {(level - 1) % 10 + 1}", (10 + decade // 2, 11 + decade // 2), (4, 6),
                 round(2.0 - 0.05 * decade, 2), min(100, 80 + (beyond + 1) // 2),
                 (6 + (beyond - 1) // 5, 7 + (beyond - 1) // 5), 30 - beyond // 2, 100 - (3 * beyond + 1) // 2)


def mix(level: int) -> tuple[int, int, int, int]:
    """Percent of each difficulty at this level."""
    return next(shares for last, shares in _MIXES.items() if level <= last)


def shown_words(text: str, share: int) -> str:
    """A long hint as a level shows it: its first words and `...`, or all of it where too few would go."""
    words = text.split(" ")
    keep = max(FADE_KEEPS_AT_LEAST, -(-len(words) * share // 100))
    return text if keep >= len(words) else " ".join(words[:keep]) + " ..."

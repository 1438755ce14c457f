"""The words of SY and what is true of them: syllables, frequency, hints, and who else a hint could mean.

`lexicon.json` is built by `scripts/build_lexicon.py`; its licences stand in `lexicon_licence.txt`. A hint is *true* of
a word where the lexicon says so of any of its senses, not only of the sense the hint was made from, so that a puzzle
with one solution has no second one that a reader could defend with the same book.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from realm.guild.skills.base import Split, bucket

_SHORT = {"s": "synonym", "k": "hypernym", "o": "hyponym", "a": "antonym", "d": "domain", "c": "category"}
LONG_KINDS = ("definition", "example")
FADED = " ..."
LONGEST_TILE = 8

SUFFIXES = ("tion", "sion", "ness", "ment", "able", "ible", "ally", "ity", "ous", "ive", "al", "ic", "er", "or", "ist",
            "ism", "ize", "ate", "ance", "ence", "ful", "less", "ship", "ary", "ing", "ed", "ly", "y")  # fmt: skip
PREFIXES = ("un", "in", "im", "dis", "re", "pre", "pro", "con", "com", "ex", "en", "over", "under", "sub", "per", "de")
# Classical word parts of five letters or more, or unmistakable ones: a word that begins (-x ends) so carries the part.
ROOTS = {
    "tele": "a Greek part that means far", "micro": "a Greek part that means small",
    "hydro": "a Greek part that means water", "photo": "a Greek part that means light",
    "psycho": "a Greek part that means mind", "electro": "a Greek part that means amber, now current",
    "thermo": "a Greek part that means heat", "hyper": "a Greek part that means over",
    "pseudo": "a Greek part that means false", "chron": "a Greek part that means time",
    "philo": "a Greek part that means loving", "archae": "a Greek part that means ancient",
    "-ology": "a Greek part that means study", "-graphy": "a Greek part that means writing",
    "-graph": "a Greek part that means writing", "-meter": "a Greek part that means measure",
    "-cracy": "a Greek part that means rule", "-phobia": "a Greek part that means fear",
    "-scope": "a Greek part that means looking", "-onym": "a Greek part that means name",
    "-pathy": "a Greek part that means feeling", "-metry": "a Greek part that means measuring",
    "inter": "a Latin part that means between", "trans": "a Latin part that means across",
    "super": "a Latin part that means above", "multi": "a Latin part that means many",
    "contra": "a Latin part that means against", "circum": "a Latin part that means around",
    "counter": "a Latin part that means against", "extra": "a Latin part that means outside",
    "intra": "a Latin part that means inside", "retro": "a Latin part that means backwards",
    "bene": "a Latin part that means well", "omni": "a Latin part that means all",
    "magni": "a Latin part that means great", "equi": "a Latin part that means equal",
    "-cide": "a Latin part that means killing", "-vorous": "a Latin part that means eating",
    "-ocular": "a Latin part that means eye", "-ferous": "a Latin part that means bearing",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Word:
    """One word. `clues` may be shown, by kind; `family` is the first word of those that share its stem."""

    index: int
    text: str
    syllables: tuple[str, ...]
    zipf: float
    family: str
    clues: dict[str, tuple[str, ...]]
    rivals: tuple[int, ...]


@dataclass(frozen=True)
class Lexicon:
    """All words; for every hint the indices of the words that it is true of; the words by their first and last letters,
    up to the longest tile."""

    words: tuple[Word, ...]
    by_text: dict[str, Word]
    holders: dict[tuple[str, str], frozenset[int]]
    long_texts: dict[str, list[str]] = field(repr=False)
    beginning: dict[str, frozenset[int]] = field(repr=False)
    ending: dict[str, frozenset[int]] = field(repr=False)

    def holding(self, kind: str, text: str) -> frozenset[int]:
        """Indices of the words that a hint is true of, faded hints included; empty for a hint that no word has."""
        if kind not in LONG_KINDS:
            return self.holders.get((kind, text), frozenset())
        if not text.endswith(FADED):
            return self.holders.get((kind, text), frozenset())
        start, texts = text.removesuffix(FADED) + " ", self.long_texts[kind]
        found: set[int] = set()
        for at in range(bisect_left(texts, start), len(texts)):
            if not texts[at].startswith(start):
                break
            found |= self.holders[kind, texts[at]]
        return frozenset(found)


def affixes(word: str) -> tuple[str, ...]:
    """The spelling hints of a word: its length and how it begins or ends."""
    return tuple([f"{len(word)} letters, ends in -{s}" for s in SUFFIXES if word.endswith(s) and len(word) > len(s) + 2]
                 + [f"{len(word)} letters, begins with {p}-" for p in PREFIXES if word.startswith(p)])


def roots(word: str) -> tuple[str, ...]:
    """The classical parts of a word."""
    return tuple(dict.fromkeys(meaning for part, meaning in ROOTS.items()
                               if (word.endswith(part[1:]) if part[0] == "-" else word.startswith(part))
                               and len(word) > len(part)))


def split_of_word(skill: str, version: str, word: Word) -> Split:
    """The split that owns a word: a family goes together, so that no trial asks for the noun of a practised verb."""
    return bucket(skill, version, word.family)


def raw_bytes() -> bytes:
    """The lexicon file as it is shipped."""
    return files("realm.guild.skills.sy").joinpath("lexicon.json").read_bytes()


@cache
def load() -> Lexicon:
    """The lexicon, read once per process (about a tenth of a second)."""
    data = json.loads(raw_bytes())
    rows, terms = data["words"], data["terms"]
    texts = [row[0].replace("-", "") for row in rows]
    holders: dict[tuple[str, str], set[int]] = defaultdict(set)
    words = tuple(_word(i, row, texts, terms, holders) for i, row in enumerate(rows))
    beginning, ending = defaultdict(set), defaultdict(set)
    for word in words:
        for length in range(1, min(len(word.text), LONGEST_TILE + 1)):
            beginning[word.text[:length]].add(word.index)
            ending[word.text[-length:]].add(word.index)
    long_texts = {kind: sorted(text for found, text in holders if found == kind) for kind in LONG_KINDS}
    return Lexicon(words, {word.text: word for word in words},
                   _frozen(holders), long_texts, _frozen(beginning), _frozen(ending))


def _frozen(sets: dict[Any, set[int]]) -> dict[Any, frozenset[int]]:
    return {key: frozenset(found) for key, found in sets.items()}


def _word(i: int, row: list[Any], texts: list[str], terms: list[str], holders: dict[tuple[str, str], set[int]]) -> Word:
    syllables, zipf, family, definitions, examples, short, rivals = row
    clues: dict[str, tuple[str, ...]] = {"definition": tuple(definitions)}
    if examples:
        clues["example"] = tuple(examples)
    for key, (shown, *more) in short.items():
        if shown:
            clues[_SHORT[key]] = tuple(terms[n] for n in shown)
        for number in (*shown, *(more[0] if more else ())):
            holders[_SHORT[key], terms[number]].add(i)
    for kind, found in (("morphology", affixes(texts[i])), ("etymology", roots(texts[i]))):
        if found:
            clues[kind] = found
            for text in found:
                holders[kind, text].add(i)
    for kind in LONG_KINDS:  # a long hint may be taken for a neighbour's: a word with nearly the same meaning
        for text in clues.get(kind, ()):
            holders[kind, text] |= {i, *rivals}
    return Word(i, texts[i], tuple(syllables.split("-")), zipf, texts[family], clues, tuple(rivals))

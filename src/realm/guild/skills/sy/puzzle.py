"""A SY puzzle: a bank of tiles and numbered hints, as data and as text, and the way back from text to data.

A prompt holds everything: `parse_prompt` gives the Puzzle, `solver.solve` its one solution. Marking and `split_of`
therefore need the prompt alone; a forged golden answer or a relabelled row changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from realm.guild.skills.sy.levels import DIFFICULTIES, TAGS

MARK = "Word Weaving"
FORMATS = {
    "json": 'Answer as JSON: {"solutions": {"1": {"word": "...", "syllables": ["...", "..."]}}}',
    "list": "Answer as a numbered list: 1. word",
    "comma": "Answer as a comma list: word, word",
    "table": "Answer as a Markdown table: | # | word | syllables |",
}
# Two ways to word each kind of hint, three ways to write the bank, three ways to number: dress, not content.
WORDINGS = {
    "definition": ("definition", "meaning"), "synonym": ("synonym", "another word for"),
    "category": ("category", "belongs to"), "example": ("example", "in use"), "hypernym": ("hypernym", "a kind of"),
    "hyponym": ("hyponym", "one kind of it"), "antonym": ("antonym", "the opposite of"), "domain": ("domain", "field"),
    "morphology": ("morphology", "its form"), "etymology": ("etymology", "its root"),
}  # fmt: skip
BANKS = (" | ", ", ", " ")
LABELS = ("{}.", "{})", "{}:")
TILES_AT_MOST, WORDS_AT_MOST, LINE_AT_MOST = 120, 16, 400

_KIND_OF = {wording: kind for kind, wordings in WORDINGS.items() for wording in wordings}
_DIFFICULTY_OF = {TAGS[difficulty]: difficulty for difficulty in DIFFICULTIES}
_FORMAT_OF = {text: name for name, text in FORMATS.items()}
_HEAD = re.compile(rf"{MARK}( \[[a-z-]+\])?: weave (\d\d?) words from (\d\d?\d?) tiles\.")
_CLUE = re.compile(r"(\d\d?)[.):] \((\d)\) ([a-z ]+): (\S.*)")
_TILES = re.compile(r"[a-z]+(?:(?: \| |, | )[a-z]+)*")
# Where a line begins: a puzzle that was folded into one line, or has blank lines in it, is laid out again.
_FOLD = re.compile(r"\s+[ \t>*#|-]*(?=Tiles: |\d\d?[.):] \(\d\) [a-z]|Answer as )")
_DRESS = " \t>*#|"


@dataclass(frozen=True, slots=True)
class Clue:
    """One hint: how many tiles its word takes, the kind of hint, and its text."""

    tiles: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Bank and hints, in the order shown. `dress` is (wording, bank, label): indices into the tables above."""

    tiles: tuple[str, ...]
    clues: tuple[Clue, ...]
    difficulty: str
    answer_format: str
    dress: tuple[int, int, int] = (0, 0, 0)

    def prompt(self) -> str:
        """The text that the hero sees."""
        wording, bank, label = self.dress
        head = f"{MARK}{TAGS[self.difficulty]}: weave {len(self.clues)} words from {len(self.tiles)} tiles."
        lines = [f"{LABELS[label].format(i)} ({clue.tiles}) {WORDINGS[clue.kind][wording]}: {clue.text}"
                 for i, clue in enumerate(self.clues, 1)]
        return "\n".join([head, "Tiles: " + BANKS[bank].join(self.tiles), *lines, FORMATS[self.answer_format]])


def parse_prompt(text: str) -> Puzzle | None:
    """The Puzzle that a prompt states, in plain dress, or None where the text is no SY prompt. Never raises."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return _parse(lines) if lines and lines[0].startswith(MARK) and lines[-1] in _FORMAT_OF else None


def embedded(text: str) -> list[Puzzle]:
    """Every puzzle that stands somewhere in a text, with words around it or signs of quotation before its lines."""
    if MARK not in text:
        if MARK.lower() not in text:
            return []
        for words in (MARK, "Tiles: ", *FORMATS.values()):  # all else is in small letters anyway
            text = text.replace(words.lower(), words)
    return _blocks(text.splitlines()) or _blocks(_FOLD.sub("\n", text).splitlines())


def _blocks(lines: list[str]) -> list[Puzzle]:
    found = []
    for at, line in enumerate(lines):
        if MARK + ":" not in line and MARK + " [" not in line:
            continue
        # The head says how many hints follow: bank, hints and the format line, and nothing else is looked at.
        head = _HEAD.search(line)
        if head is None:
            continue
        block = [head[0], *(other.strip().lstrip(_DRESS) for other in lines[at + 1:at + 3 + int(head[2])])]
        last = next((text for text in _FORMAT_OF if block[-1].startswith(text)), None)
        puzzle = _parse([*block[:-1], last]) if last else None
        if puzzle is not None:
            found.append(puzzle)
    return found


def _parse(lines: list[str]) -> Puzzle | None:
    head = _HEAD.fullmatch(lines[0])
    if head is None or (head[1] or "") not in _DIFFICULTY_OF or len(lines) != int(head[2]) + 3:
        return None
    if len(lines) > WORDS_AT_MOST + 3 or any(len(line) > LINE_AT_MOST for line in lines[2:]):
        return None
    bank = lines[1].removeprefix("Tiles: ")
    if bank == lines[1] or len(bank) > 10 * TILES_AT_MOST or not _TILES.fullmatch(bank):
        return None
    style = 0 if " | " in bank else 1 if ", " in bank else 2
    tiles = tuple(bank.split(BANKS[style]))
    clues = [_parse_clue(i, line) for i, line in enumerate(lines[2:-1], 1)]
    if len(tiles) != int(head[3]) or len(tiles) > TILES_AT_MOST or None in clues or not clues:
        return None
    return Puzzle(tiles, tuple(clue for clue in clues if clue), _DIFFICULTY_OF[head[1] or ""], _FORMAT_OF[lines[-1]])


def _parse_clue(number: int, line: str) -> Clue | None:
    match = _CLUE.fullmatch(line)
    if match is None or int(match[1]) != number or match[3] not in _KIND_OF:
        return None
    return Clue(int(match[2]), _KIND_OF[match[3]], match[4])

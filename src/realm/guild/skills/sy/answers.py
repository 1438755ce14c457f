"""Answers in the demanded format: writing the golden one and marking any.

The demanded form depends on format and tag:

  (none)       the answer in its format
  [verify]     the answer, then `Left over:` with the tiles that stay in the bank, or `none`
  [show-work]  a line `1: com + pu + ter = computer` per word, then the answer
  [trace]      the same lines, each ending in `, left: 5`, the answer, and the `Left over:` line

Blanks around signs, empty lines and upper case do not count, nor do the order of JSON keys and of left-over tiles, nor
the dashes of a table's rule. Everything else does, so that an echo, a list of candidates, a right answer in another
format and talk around an answer all fail. Every line must be right: the work is the skill.
"""

from __future__ import annotations

import json
import re
from typing import Any

from realm.guild.skills.base import Grade
from realm.guild.skills.sy.puzzle import Puzzle, parse_prompt
from realm.guild.skills.sy.solver import Solution, solve

NUMBERED = re.compile(r"([0-9]{1,3})\. ?([a-z]+)")  # no digits of other scripts, none that int() refuses
RULE = re.compile(r"\|(?: ?:?-+:? ?\|){3}")
_SPACES = re.compile(r"\s+")
_TIGHT = re.compile(r" ?([,|:+=-]) ?")


def tidy(line: str) -> str:
    """A line without what does not count."""
    return _TIGHT.sub(r"\1", _SPACES.sub(" ", line.strip())).lower()


def left_over(puzzle: Puzzle, solution: Solution) -> list[str]:
    """The tiles that no word takes, in alphabetical order."""
    rest = list(puzzle.tiles)
    for placed in solution:
        for tile in placed.tiles:
            rest.remove(tile)
    return sorted(rest)


def work_lines(puzzle: Puzzle, solution: Solution) -> list[str]:
    """One line per word; with the number of tiles left in a trace."""
    left, lines = len(puzzle.tiles), []
    for number, placed in enumerate(solution, 1):
        left -= len(placed.tiles)
        count = f", left: {left}" if puzzle.difficulty == "expert" else ""
        lines.append(f"{number}: {' + '.join(placed.tiles)} = {placed.word}{count}")
    return lines


def answer_text(answer_format: str, solution: Solution) -> str:
    """The words in one of the four formats."""
    if answer_format == "json":
        found = {str(i): {"word": x.word, "syllables": list(x.tiles)} for i, x in enumerate(solution, 1)}
        return json.dumps({"solutions": found})
    if answer_format == "list":
        return "\n".join(f"{i}. {placed.word}" for i, placed in enumerate(solution, 1))
    if answer_format == "comma":
        return ", ".join(placed.word for placed in solution)
    rows = [f"| {i} | {placed.word} | {'-'.join(placed.tiles)} |" for i, placed in enumerate(solution, 1)]
    return "\n".join(["| # | word | syllables |", "|---|---|---|", *rows])


def golden(puzzle: Puzzle, solution: Solution) -> str:
    """The answer that the hero should give."""
    lines = work_lines(puzzle, solution) if puzzle.difficulty in ("hard", "expert") else []
    lines.append(answer_text(puzzle.answer_format, solution))
    if puzzle.difficulty in ("medium", "expert"):
        lines.append("Left over: " + (", ".join(left_over(puzzle, solution)) or "none"))
    return "\n".join(lines)


def grade_prompt(prompt: str, response: str) -> Grade:
    """Marks `response` to `prompt`."""
    puzzle = parse_prompt(prompt)
    solution = solve(puzzle) if puzzle else None
    if puzzle is None or solution is None:
        return _wrong("the prompt is no SY problem; send a prompt made by generate()")
    return grade_puzzle(puzzle, solution, response)


def grade_puzzle(puzzle: Puzzle, solution: Solution, response: str) -> Grade:
    """Marks `response` against the one solution. `score` is 1, or half the share of right words in the right format."""
    lines = [line for line in response.splitlines() if line.strip()]
    if not lines:
        return _wrong("empty answer")
    if puzzle.difficulty in ("hard", "expert"):
        expected = work_lines(puzzle, solution)
        for line, model in zip(lines, expected, strict=False):
            if tidy(line) != tidy(model):
                return _wrong(f"work line {line[:120]!r}: expected {model!r}")
        lines = lines[len(expected):]
    if puzzle.difficulty in ("medium", "expert"):
        reason = _check_left_over(puzzle, solution, lines[-1] if lines else "")
        if reason:
            return _wrong(reason)
        lines = lines[:-1]
    given = _READERS[puzzle.answer_format](lines)
    if isinstance(given, str):
        return _wrong(f"wrong format: {given}")
    return _compare(given, solution)


def _check_left_over(puzzle: Puzzle, solution: Solution, line: str) -> str:
    """What is wrong with the last line, or nothing."""
    label, _, rest = tidy(line).partition(":")
    if label != "left over":
        return "wrong format: the last line must be `Left over: ...` with the tiles that stay, or none"
    tiles = left_over(puzzle, solution) or ["none"]
    return "" if sorted(rest.split(",")) == tiles else f"left over {rest[:120]!r}: expected {', '.join(tiles)!r}"


def _compare(given: list[tuple[str, tuple[str, ...] | None]], solution: Solution) -> Grade:
    if len(given) != len(solution):
        return _wrong(f"wrong format: {len(given)} words, the puzzle has {len(solution)} hints")
    wrong = [f"{i}: {word[:40]!r}, expected {placed.word!r}" for i, ((word, _), placed)
             in enumerate(zip(given, solution, strict=True), 1) if word != placed.word]
    if wrong:
        share = (len(solution) - len(wrong)) / len(solution)
        return Grade(False, round(0.5 * share, 4), "wrong word at " + "; ".join(wrong)[:400])
    for i, ((_, tiles), placed) in enumerate(zip(given, solution, strict=True), 1):
        if tiles is not None and tiles != placed.tiles:
            due = "-".join(placed.tiles)
            return Grade(False, 0.5, f"wrong tiles at {i}: {'-'.join(tiles)[:60]!r}, expected {due!r}")
    return Grade(True, 1.0, "right")


Given = list[tuple[str, "tuple[str, ...] | None"]]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON takes the last of two equal keys, which would let an answer list candidates."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def _read_json(lines: list[str]) -> Given | str:
    try:
        value = json.loads("\n".join(lines), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        return f"no JSON object of the demanded form ({str(error)[:80]})"
    if not isinstance(value, dict) or list(value) != ["solutions"] or not isinstance(value["solutions"], dict):
        return 'the JSON must be {"solutions": {...}} and nothing else'
    found = value["solutions"]
    if set(found) != {str(i) for i in range(1, len(found) + 1)}:
        return "the solutions must be numbered from 1 without gaps"
    given: Given = []
    for i in range(1, len(found) + 1):
        entry = found[str(i)]
        if not isinstance(entry, dict) or set(entry) != {"word", "syllables"}:
            return f'solution {i} must be {{"word": ..., "syllables": [...]}}'
        word, tiles = entry["word"], entry["syllables"]
        if not isinstance(word, str) or not isinstance(tiles, list) or not all(isinstance(t, str) for t in tiles):
            return f"solution {i} must hold a text and a list of texts"
        given.append((word.strip().lower(), tuple(tile.strip().lower() for tile in tiles)))
    return given


def _read_list(lines: list[str]) -> Given | str:
    given: Given = []
    for i, line in enumerate(map(tidy, lines), 1):
        match = NUMBERED.fullmatch(line)
        if match is None or int(match[1]) != i:
            return f"line {i} must be `{i}. word`, got {line[:80]!r}"
        given.append((match[2], None))
    return given


def _read_comma(lines: list[str]) -> Given | str:
    if len(lines) != 1:
        return f"a comma list is one line, got {len(lines)}"
    words = tidy(lines[0]).split(",")
    if not all(word.isalpha() for word in words):
        return "a comma list holds words and commas only"
    return [(word, None) for word in words]


def _read_table(lines: list[str]) -> Given | str:
    rows = [tidy(line) for line in lines]
    if len(rows) < 3 or rows[0] != "|#|word|syllables|" or not RULE.fullmatch(rows[1]):
        return "a table begins with `| # | word | syllables |` and `|---|---|---|`"
    given: Given = []
    for i, row in enumerate(rows[2:], 1):
        cells = row.split("|")
        if len(cells) != 5 or cells[0] or cells[4] or cells[1] != str(i):
            return f"row {i} must be `| {i} | word | syl-la-bles |`, got {row[:80]!r}"
        given.append((cells[2], tuple(cells[3].split("-"))))
    return given


_READERS = {"json": _read_json, "list": _read_list, "comma": _read_comma, "table": _read_table}


def _wrong(reason: str) -> Grade:
    return Grade(False, 0.0, reason)

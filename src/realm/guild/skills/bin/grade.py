"""Exact marking of BIN answers.

The prompt alone decides what is right. Allowed differences are blanks only (at line ends, around `=`, `:`, `;` and
after commas); everything else is the demanded format. What each tag demands:

  (none)       one line: `expression = value`
  [verify]     the steps of a chain, that line, and a `Check:` line with a decimal equation per link
  [show-work]  one worked line per link, then that line
  [trace]      the same, and every column and every intermediate value must be right

The number of lines is part of the format, so a list of candidates never passes.
"""

from __future__ import annotations

import re

from realm.guild.skills.base import Grade
from realm.guild.skills.bin.notation import DIGITS
from realm.guild.skills.bin.questions import Question, parse_prompt

_SPACES = re.compile(r"[ \t]+")
_TIGHT = re.compile(r" ?([=:;,()]) ?")
_VALUES = re.compile(rf"-?[0-9]+(?: \+ [0-9]+)*|[{DIGITS}]+|true|false")
_STEP = re.compile(r"([a-z_0-9]+\([^()]+\)):([⓪①0-9:<>=+|\- ]+)=([^= ]+)")
_WRAPS = re.compile(r",wraps to -?[0-9]+")


def tidy(line: str) -> str:
    """A line without the blanks that do not count."""
    return _TIGHT.sub(r"\1", _SPACES.sub(" ", line.strip()))


def grade_prompt(prompt: str, response: str) -> Grade:
    """Marks `response` to `prompt`."""
    question = parse_prompt(prompt)
    if question is None:
        return _wrong("the prompt is no BIN problem; send a prompt made by generate()")
    return grade_question(question, response)


def grade_question(question: Question, response: str) -> Grade:
    """Marks `response` against the question it answers."""
    lines = [line for line in map(tidy, response.strip().split("\n")) if line]
    if not lines:
        return _wrong("empty answer")
    if tidy(response.strip()) == tidy(question.prompt()) or lines == [tidy(x) for x in question.prompt().split("\n")]:
        return _wrong("the answer repeats the prompt")
    if question.key:
        if question.key.foreign(response):
            return _wrong("wrong format: the answer must use the symbols of the key, not plain digits or names")
        lines = [question.key.to_plain(line) for line in lines]
    expected = [tidy(line) for line in question.answer_lines()]
    if len(lines) != len(expected):
        return _wrong(f"wrong format: {len(lines)} lines, this question demands {len(expected)}")
    final = len(expected) - 2 if question.difficulty == "medium" else len(expected) - 1
    if lines[final] != expected[final]:
        return _wrong(_why(lines[final], expected[final]))
    return _steps(question, lines, expected, final)


def _steps(question: Question, lines: list[str], expected: list[str], final: int) -> Grade:
    """The lines around the final one, as strictly as the tag demands."""
    if lines == expected:
        return Grade(True, 1.0, "right")
    if question.difficulty == "expert":
        at = next(i for i, pair in enumerate(zip(lines, expected, strict=True)) if pair[0] != pair[1])
        return _wrong(f"line {at + 1} of the trace is wrong: {lines[at]!r}, expected {expected[at]!r}")
    for line, model in zip(lines[:final], expected[:final], strict=True):
        if not _looks_like_step(line, model, worked=question.difficulty == "hard"):
            return _wrong(f"wrong format: {line!r} is no step of the demanded form")
    if question.difficulty == "medium" and not _looks_like_check(lines[-1], expected[-1]):
        return _wrong(f"wrong format: [verify] demands a line like {expected[-1]!r}")
    return Grade(True, 1.0, "right; a step beside the final line is not")


def _shape(text: str) -> str:
    """The text with every number and truth value replaced by `#`; what is left is its form."""
    return _VALUES.sub("#", text)


def _looks_like_step(line: str, model: str, worked: bool) -> bool:
    """`operation(numbers): columns = value` (worked) or `operation(numbers) = value`, about as long as the real one."""
    if not worked:
        return _shape(line) == _shape(model)
    parts, real = _STEP.fullmatch(line), _STEP.fullmatch(model)
    same = parts and (_shape(parts[1]), _shape(parts[3])) == (_shape(real[1]), _shape(real[3]))
    return bool(same and len(line) <= 2 * len(model) + 16)


def _looks_like_check(line: str, model: str) -> bool:
    """The decimal equations of the real line with any numbers in them; whether a word wraps is left to the writer."""
    return _shape(_WRAPS.sub("", line)) == _shape(_WRAPS.sub("", model)) and len(line) <= 2 * len(model) + 16


def _why(line: str, expected: str) -> str:
    expression, _, value = expected.partition("=")
    head, found, given = line.partition("=")
    if not found:
        return f"wrong format: the final line must be `{expression} = value`, got {line[:120]!r}"
    if head != expression:
        return f"wrong format: the final line must repeat the expression {expression!r}, got {head[:120]!r}"
    return f"wrong value: {given[:120]!r}, expected {value!r}"


def _wrong(reason: str) -> Grade:
    return Grade(False, 0.0, reason)

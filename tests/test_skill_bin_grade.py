"""Exact marking of BIN answers: what passes, what does not, and why."""

from __future__ import annotations

import random

import pytest

from realm.guild.skills import Problem, get_skill
from realm.guild.skills.bin.levels import CHAIN_DEPTH, closed_table
from realm.guild.skills.bin.notation import SymbolKey
from realm.guild.skills.bin.operations import OPERATIONS, Link
from realm.guild.skills.bin.questions import Question

BIN = get_skill("bin")
LEVELS = range(1, 31)
FIVE_PLUS_THREE = Link("add", (5, 3))


def asked(question: Question) -> Problem:
    """A problem around a hand-made question."""
    return Problem("bin", 2, question.difficulty, question.style, question.last.op, question.prompt(),
                   question.golden(), question.canonical(), "x", "train")


def passes(question: Question, response: str) -> bool:
    return BIN.grade(asked(question), response).correct


@pytest.mark.parametrize("level", LEVELS)
def test_golden_passes_and_cheap_answers_fail_at_every_level(level):
    rng = random.Random(level)
    problems = BIN.generate(level, 120, 31)
    goldens = [p.golden for p in problems]
    for problem in problems:
        grade = BIN.grade(problem, problem.golden)
        assert grade.correct and grade.score == 1.0, (problem.prompt, grade)
        assert BIN.grade(problem, f"  {problem.golden} \n").correct
        body = problem.prompt.split(": ", 1)[-1]
        for cheap in ("", " \n", problem.prompt, body, f"{body} = ", problem.golden.split(" = ")[-1],
                      f"{problem.golden}\n{problem.golden}", "\n".join([*rng.sample(goldens, 5), problem.golden]),
                      f"The answer is {problem.golden}", f"{problem.golden} or so"):
            verdict = BIN.grade(problem, cheap)
            assert not verdict.correct and verdict.score == 0.0 and verdict.reason, (problem.prompt, cheap)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("difficulty", CHAIN_DEPTH)
def test_golden_passes_for_every_operation_and_difficulty(name, difficulty):
    link = next(link for link in reversed(closed_table(2)) if link.op == name)
    for key in (None, SymbolKey("◇", "◆", ((name, "φ"),))):
        question = Question((link,), difficulty, key=key)
        assert passes(question, question.golden())
        truncated = question.golden().split("\n")[0] if difficulty == "medium" else question.golden()[:-1]
        for bad in ("", question.prompt(), truncated):
            assert not passes(question, bad)


@pytest.mark.parametrize("level", [1, 3, 6, 9, 13, 22])
def test_every_wrong_digit_of_the_final_value_fails(level):
    for problem in BIN.generate(level, 80, 17):
        lines = problem.golden.split("\n")
        at = len(lines) - 2 if problem.difficulty == "medium" else len(lines) - 1
        start = lines[at].index(" = ") + 3
        zero, one = (problem.prompt[5], problem.prompt[9]) if problem.extra["symbol_key"] else "⓪①"
        swap = {zero: one, one: zero, "t": "f", "f": "t", **{str(d): str((d + 1) % 10) for d in range(10)}}
        for i in range(start, len(lines[at])):
            other = swap.get(lines[at][i])
            if other is None:
                continue
            mutated = [*lines[:at], lines[at][:i] + other + lines[at][i + 1:], *lines[at + 1:]]
            assert not BIN.grade(problem, "\n".join(mutated)).correct, (problem.prompt, mutated)


def test_trace_demands_every_intermediate():
    """Flipping any single digit anywhere in a trace fails; the same flip in shown work may pass."""
    chain = (FIVE_PLUS_THREE, Link("subtract", (8, 3)), Link("increment", (5,)))
    trace, shown = Question(chain, "expert"), Question(chain, "hard")
    golden = trace.golden()
    for i, char in enumerate(golden):
        if char in "⓪①":
            flipped = golden[:i] + ("①" if char == "⓪" else "⓪") + golden[i + 1:]
            assert not passes(trace, flipped), i
    column = golden.index(":") + 2
    flipped = golden[:column] + "⓪" + golden[column + 1:]
    assert "is wrong" in BIN.grade(asked(trace), flipped).reason
    grade = BIN.grade(asked(shown), flipped)
    assert grade.correct and "is not" in grade.reason


def test_verification_line_is_demanded_but_its_numbers_are_not_the_answer():
    question = Question((FIVE_PLUS_THREE,), "medium")
    assert question.golden() == "add(①⓪①, ①①) = ①⓪⓪⓪\nCheck: 5 + 3 = 8"
    assert passes(question, "add(①⓪①, ①①) = ①⓪⓪⓪\nCheck: 5 + 2 = 8")
    for bad in ("add(①⓪①, ①①) = ①⓪⓪⓪", "add(①⓪①, ①①) = ①⓪⓪⓪\nCheck:", "add(①⓪①, ①①) = ①⓪⓪⓪\nCheck: fine",
                "add(①⓪①, ①①) = ①⓪⓪①\nCheck: 5 + 3 = 8", "Check: 5 + 3 = 8\nadd(①⓪①, ①①) = ①⓪⓪⓪",
                "add(①⓪①, ①①) = ①⓪⓪⓪\nCheck: 5 + 3 = 8; 1 + 1 = 2; 7 = 7"):
        assert not passes(question, bad), bad


@pytest.mark.parametrize("response", [
    "add(①⓪①,①①)=①⓪⓪⓪", "  add(①⓪①, ①①)  =  ①⓪⓪⓪  ", "add( ①⓪①, ①① ) = ①⓪⓪⓪\n\n"])
def test_blanks_do_not_count(response):
    assert passes(Question((FIVE_PLUS_THREE,)), response)


@pytest.mark.parametrize(("response", "said"), [
    ("", "empty"),
    ("Compute: add(①⓪①, ①①)", "repeats the prompt"),
    ("①⓪⓪⓪", "wrong format"),
    ("add(①⓪①, ①①) = 1000", "wrong value"),
    ("add(①⓪①, ①①) = ⓪①⓪⓪⓪", "wrong value"),
    ("add(①⓪①, ①①) = 8", "wrong value"),
    ("add(①①, ①⓪①) = ①⓪⓪⓪", "must repeat the expression"),
    ("add(①⓪①, ①①) = ①⓪⓪⓪ = ①⓪⓪①", "wrong value"),
    ("add(①⓪①, ①①) = ①⓪⓪⓪, ①⓪⓪①", "wrong value"),
    ("add(①⓪①, ①①) = ①⓪⓪①\nadd(①⓪①, ①①) = ①⓪⓪⓪", "2 lines"),
    ("ADD(①⓪①, ①①) = ①⓪⓪⓪", "must repeat the expression"),
])
def test_wrong_answers_are_named(response, said):
    grade = BIN.grade(asked(Question((FIVE_PLUS_THREE,))), response)
    assert not grade.correct and said in grade.reason


def test_a_right_value_in_another_language_fails():
    question = Question((FIVE_PLUS_THREE,), key=SymbolKey("◇", "◆", (("add", "φ"),)))
    assert question.prompt() == "Key: ◇=⓪ ◆=① φ=add\nCompute: φ(◆◇◆, ◆◆)"
    assert passes(question, "φ(◆◇◆, ◆◆) = ◆◇◇◇")
    for bad in ("add(①⓪①, ①①) = ①⓪⓪⓪", "φ(◆◇◆, ◆◆) = ①⓪⓪⓪", "φ(◆◇◆, ◆◆) = ◇◆◆◆", "add(◆◇◆, ◆◆) = ◆◇◇◇"):
        assert not passes(question, bad), bad
    assert "symbols of the key" in BIN.grade(asked(question), "φ(◆◇◆, ◆◆) = ①⓪⓪⓪").reason


@pytest.mark.parametrize(("question", "golden"), [
    (Question((FIVE_PLUS_THREE,), style="true_false", claim="①⓪⓪①"), "add(①⓪①, ①①) = ①⓪⓪⓪, false"),
    (Question((FIVE_PLUS_THREE,), style="error_detection", claim="①⓪①⓪"), "add(①⓪①, ①①) = ①⓪⓪⓪, error at 2"),
    (Question((FIVE_PLUS_THREE,), style="error_detection", claim="①⓪⓪⓪"), "add(①⓪①, ①①) = ①⓪⓪⓪, no error"),
    (Question((FIVE_PLUS_THREE,), style="fill_blank", claim="①_⓪⓪"), "add(①⓪①, ①①) = ①⓪⓪⓪"),
    (Question((FIVE_PLUS_THREE,), style="comparison", claim="①①①"), "add(①⓪①, ①①) = ①⓪⓪⓪, greater"),
    (Question((FIVE_PLUS_THREE,), style="properties", argument="ones"), "add(①⓪①, ①①) = ①⓪⓪⓪, ones 1"),
    (Question((FIVE_PLUS_THREE,), style="properties", argument="length"), "add(①⓪①, ①①) = ①⓪⓪⓪, length 4"),
    (Question((FIVE_PLUS_THREE,), style="overflow", argument="3"), "add(①⓪①, ①①) = ①⓪⓪⓪, overflow"),
    (Question((FIVE_PLUS_THREE,), style="overflow", argument="4"), "add(①⓪①, ①①) = ①⓪⓪⓪, fits"),
    (Question((FIVE_PLUS_THREE,), style="reverse", argument="1"), "add(①⓪①, ①①) = ①⓪⓪⓪"),
    (Question((Link("add_signed", (3, 3), 3),), style="overflow", argument="3"),
     "add_signed(⓪①①, ⓪①①) = ①①⓪, overflow"),
    (Question((Link("negate", (4,), 3),), style="overflow", argument="3"), "negate(①⓪⓪) = ①⓪⓪, overflow"),
])
def test_auxiliary_answers(question, golden):
    assert question.golden() == golden
    assert passes(question, golden)
    assert not passes(question, golden.partition(",  ")[0][:-1])
    head, comma, verdict = golden.rpartition(", ")
    if question.verdict():
        assert not passes(question, head)
        assert not passes(question, f"{head}, true, false")


def test_the_verdict_comes_from_the_prompt_alone():
    problem = BIN.generate(5, 1, 3)[0]
    forged = Problem.from_dict({**problem.to_dict(), "golden": "yes", "canonical": "nothing"})
    assert BIN.grade(forged, problem.golden).correct
    assert not BIN.grade(forged, "yes").correct
    foreign = Problem.from_dict({**problem.to_dict(), "prompt": "What is love?"})
    assert "no BIN problem" in BIN.grade(foreign, problem.golden).reason

"""SY: marking. Every right answer in the demanded form passes; everything else fails, and says why."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.guild.skills import Problem, get_skill
from realm.guild.skills.sy.answers import answer_text, golden, grade_puzzle
from realm.guild.skills.sy.levels import DIFFICULTIES
from realm.guild.skills.sy.puzzle import FORMATS, Clue, Puzzle, parse_prompt
from realm.guild.skills.sy.solver import Placed, solve

SY = get_skill("sy")
SOLUTION = (Placed("kitten", ("kit", "ten")), Placed("computer", ("com", "pu", "ter")))
# The hints do not matter to marking: the solution is given.
PUZZLE = Puzzle(("ten", "ba", "com", "kit", "ter", "al", "pu"), (Clue(2, "synonym", "x"), Clue(3, "synonym", "y")),
                "easy", "json")  # fmt: skip
LISTED = "1. kitten\n2. computer"
COMMA = "kitten, computer"
TABLE = "| # | word | syllables |\n|---|---|---|\n| 1 | kitten | kit-ten |\n| 2 | computer | com-pu-ter |"
OBJECT = ('{"solutions": {"1": {"word": "kitten", "syllables": ["kit", "ten"]}, '
          '"2": {"word": "computer", "syllables": ["com", "pu", "ter"]}}}')  # fmt: skip
ANSWERS = {"json": OBJECT, "list": LISTED, "comma": COMMA, "table": TABLE}
WORK = "1: kit + ten = kitten\n2: com + pu + ter = computer"
TRACE = "1: kit + ten = kitten, left: 5\n2: com + pu + ter = computer, left: 2"


def mark(answer: str, answer_format: str = "json", difficulty: str = "easy"):
    return grade_puzzle(replace(PUZZLE, answer_format=answer_format, difficulty=difficulty), SOLUTION, answer)


def wrapped(answer: str, difficulty: str) -> str:
    """The answer with the work and the check that a tag demands, written by hand."""
    before = {"hard": WORK + "\n", "expert": TRACE + "\n"}.get(difficulty, "")
    return before + answer + ("\nLeft over: al, ba" if difficulty in ("medium", "expert") else "")


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("answer_format", FORMATS)
def test_golden_is_what_a_person_writes_and_no_other_form_passes(answer_format, difficulty):
    puzzle = replace(PUZZLE, answer_format=answer_format, difficulty=difficulty)
    assert golden(puzzle, SOLUTION) == wrapped(ANSWERS[answer_format], difficulty)
    for other_format, answer in ANSWERS.items():
        for other in DIFFICULTIES:
            grade = mark(wrapped(answer, other), answer_format, difficulty)
            assert grade.correct == ((other_format, other) == (answer_format, difficulty)), (other_format, other)


@pytest.mark.parametrize(("answer_format", "answer"), [
    ("json", json.dumps(json.loads(OBJECT), indent=2)),
    ("json", '{"solutions":{"2":{"syllables":["com","pu","ter"],"word":"COMPUTER"},'
             '"1":{"word":"Kitten","syllables":["KIT","ten"]}}}'),
    ("json", f"\n\n  {OBJECT}  \n"),
    ("list", " 1.  Kitten \n\n2. COMPUTER\n"), ("list", "1.kitten\r\n2.computer"),
    ("comma", "kitten,computer"), ("comma", "  KITTEN ,  Computer "),
    ("table", "|#|Word|Syllables|\n| :--- | :---: | ---: |\n|1|Kitten|kit - ten|\n|2|computer|com-pu-ter|"),
])
def test_what_does_not_count_does_not_fail(answer_format, answer):
    assert mark(answer, answer_format) == mark(ANSWERS[answer_format], answer_format)


def test_order_of_left_over_tiles_does_not_count_but_the_tiles_do():
    assert mark(f"{LISTED}\nleft over: ba,al", "list", "medium").correct
    for line in ("Left over: al", "Left over: al, ba, ba", "Left over: none", "Left over:", "Left: al, ba", "al, ba",
                 "Left over: al, bo"):
        assert not mark(f"{LISTED}\n{line}", "list", "medium").correct, line
    bare = replace(PUZZLE, tiles=("ten", "com", "kit", "ter", "pu"), answer_format="list", difficulty="medium")
    assert grade_puzzle(bare, SOLUTION, f"{LISTED}\nLeft over: none").correct
    assert not grade_puzzle(bare, SOLUTION, f"{LISTED}\nLeft over: al").correct


@pytest.mark.parametrize(("answer_format", "answer", "why"), [
    ("json", "", "empty"), ("list", " \n\t\n", "empty"), ("json", "null", "must be"), ("json", "[]", "must be"),
    ("json", OBJECT[:-1], "no JSON"), ("json", f"```json\n{OBJECT}\n```", "no JSON"), ("json", OBJECT * 2, "no JSON"),
    ("json", OBJECT.replace('{"solutions"', '{"note": 1, "solutions"'), "nothing else"),
    ("json", OBJECT.replace('"1": {"word": "kitten"', '"1": {"word": "puppy", "word": "kitten"'), "twice"),
    ("json", OBJECT.replace('"2":', '"3":'), "without gaps"), ("json", OBJECT.replace('"1":', '"01":'), "without gaps"),
    ("json", OBJECT.replace('["kit", "ten"]', '"kit-ten"'), "list of texts"),
    ("json", OBJECT.replace('["kit", "ten"]', '["kit", 10]'), "list of texts"),
    ("json", OBJECT.replace('["kit", "ten"]', '["ki", "tten"]'), "wrong tiles at 1"),
    ("json", OBJECT.replace('"word": "kitten", ', ""), "solution 1"),
    ("json", '{"solutions": {}}', "0 words"), ("json", '{"solutions": {"1": ["kitten"]}}', "solution 1"),
    ("json", '{"solutions":' + "[" * 100_000, "no JSON"), ("json", "NaN", "must be"), ("json", "9" * 9_000, "no JSON"),
    ("list", "kitten\ncomputer", "line 1"), ("list", "1) kitten\n2) computer", "line 1"),
    ("list", "1. kitten\n1. computer", "line 2"), ("list", "1. kitten, puppy\n2. computer", "line 1"),
    ("list", "2. computer\n1. kitten", "line 1"), ("list", LISTED + "\n3. puppy", "3 words"),
    ("list", "1. kitten", "1 words"), ("list", "Sure!\n" + LISTED, "line 1"), ("list", "1. kit-ten\n2. computer", "1"),
    ("comma", "kitten, computer.", "commas only"), ("comma", "kitten, computer,", "commas only"),
    ("comma", "kitten or puppy, computer", "commas only"), ("comma", "kitten\ncomputer", "one line"),
    ("comma", "computer, kitten", "wrong word at 1"), ("comma", "kitten, puppy, computer", "3 words"),
    ("comma", "kitten", "1 words"), ("comma", "kitten; computer", "commas only"),
    ("table", TABLE.replace("|---|---|---|\n", ""), "begins with"), ("table", TABLE.replace("# |", "n |"), "begins"),
    ("table", TABLE.replace("| 2 |", "| 1 |"), "row 2"), ("table", TABLE.replace("kit-ten", "kitten"), "wrong tiles"),
    ("table", TABLE.replace("| kit-ten |", "| kit-ten | yes |"), "row 1"), ("table", TABLE + "\nDone.", "row 3"),
])
def test_what_counts_fails_and_the_reason_says_what(answer_format, answer, why):
    grade = mark(answer, answer_format)
    assert not grade.correct and grade.score < 1 and why in grade.reason, grade


@pytest.mark.parametrize("work", [
    "", WORK.replace("kit + ten", "ki + tten"), WORK.splitlines()[0],
    "\n".join(WORK.splitlines()[::-1]), WORK + "\n" + WORK, TRACE, "1: kitten\n2: computer",
])
def test_shown_work_must_be_right_line_by_line(work):
    assert mark(f"{WORK}\n{LISTED}", "list", "hard").correct
    assert mark(f"{WORK.upper().replace(' ', '')}\n{LISTED}", "list", "hard").correct
    assert not mark(f"{work}\n{LISTED}", "list", "hard").correct
    assert not mark(f"{TRACE.replace('left: 5', 'left: 4')}\n{LISTED}\nLeft over: al, ba", "list", "expert").correct


def test_partial_score_has_a_slope_and_stays_below_a_right_answer():
    half, none = mark("kitten, banana", "comma"), mark("puppy, banana", "comma")
    assert (half.score, none.score, mark("puppy", "comma").score) == (0.25, 0.0, 0.0)
    assert mark(COMMA, "comma").score == 1.0


def problems_of(level: int, seed: int) -> list[Problem]:
    return SY.generate(level, 4, seed)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from((1, 3, 6, 10, 30)), st.integers(0, 10**6))
def test_golden_passes_echo_shotgun_and_doubling_fail(level, seed):
    rows = problems_of(level, seed)
    for row in rows:
        assert SY.grade(row, row.golden).correct
        bank = parse_prompt(row.prompt).tiles
        every = "\n".join(other.golden for other in rows)
        for answer in (row.prompt, f"{row.prompt}\n{row.golden}", f"{row.golden}\n{row.golden}", every, ", ".join(bank),
                       f"The answer is {row.golden}", f"{row.golden} ok?", f"<think></think>{row.golden}"):
            assert not SY.grade(row, answer).correct, answer


@settings(max_examples=40, deadline=None)
@given(st.sampled_from((1, 4, 10)), st.integers(0, 10**6), st.data())
def test_one_changed_letter_in_an_answer_fails(level, seed, data):
    row = problems_of(level, seed)[0]
    at = data.draw(st.sampled_from([i for i, sign in enumerate(row.golden) if sign.isalpha()]))
    sign = data.draw(st.sampled_from([s for s in "abcdefghijklmnopqrstuvwxyz" if s != row.golden[at].lower()]))
    assert not SY.grade(row, row.golden[:at] + sign + row.golden[at + 1:]).correct


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_swapped_words_fail(seed, data):
    row = problems_of(2, seed)[0]
    puzzle = parse_prompt(row.prompt)
    solution = solve(puzzle)
    order = data.draw(st.permutations(range(len(solution))))
    shuffled = tuple(solution[i] for i in order)
    answer = golden(puzzle, shuffled)
    assert SY.grade(row, answer).correct == (shuffled == solution)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_noise_fails_and_never_crashes(text):
    for row in problems_of(1, 0):
        assert not SY.grade(row, text).correct


def test_a_forged_golden_changes_nothing():
    row = SY.generate(4, 1, 0)[0]
    forged = replace(row, golden="anything", canonical="x", level=1)
    assert not SY.grade(forged, "anything").correct and SY.grade(forged, row.golden).correct
    assert answer_text("comma", solve(parse_prompt(row.prompt))).count(",") == row.depth - 1


@pytest.mark.parametrize("response", ["\u0661. kitten\n\u0662. computer", "9" * 5000 + ". kitten\n2. computer"])
def test_list_numbers_are_plain_and_short(response):
    """Arabic-Indic digits passed as 1 and 2; int() refuses more than 4,300 digits."""
    assert not grade_puzzle(replace(PUZZLE, answer_format="list"), SOLUTION, response).correct

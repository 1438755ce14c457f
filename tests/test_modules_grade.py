"""Graders of modules: right answers pass, cheats fail, and no pattern or answer takes long."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.guild.modules.grade import faults, grade
from realm.guild.modules.manifest import Grader
from realm.guild.modules.pattern import Pattern, PatternError

CASES = [
    (Grader(), "blue", ["blue", " blue\n"], ["Blue", "blue.", "blue blue", "is blue"]),
    (Grader(ignore_case=True), "Blue", ["blue", "BLUE"], ["blau"]),
    (Grader(type="numeric"), "1200", ["1200", "1,200", "1200.0", "+1200", "1.2e3"],
     ["1201", "1200 apples", "1200 1200", "12,00", "one", "0x4b0", "1200\n1200", "１２００", "1" * 61]),
    (Grader(type="numeric", tolerance=0.01), "3.14", ["3.145", "3.13"], ["3.1501", "3.12"]),
    (Grader(type="numeric"), "0.1", ["0.10", "1e-1"], ["0.1000000000000000000000000001"]),
    (Grader(type="json"), '{"a": [1, 2], "b": true}', ['{"b":true,"a":[1,2]}', '{"a":[1.0,2],"b":true}'],
     ['{"a":[2,1],"b":true}', '{"a":[1,2],"b":1}', '{"a":[1,2],"b":true,"c":0}', '{"a":[1,2],"b":true', "[" * 5000,
      '{"a":[1,2],"b":true,"b":true}', "NaN", "1" * 5000, '{"a":[1,2],"b":true}{"a":[1,2],"b":true}']),
    (Grader(type="regex", pattern=r"(yes|yep)( indeed)?[.!]?"), "yes", ["yes", "yep indeed!"],
     ["no", "yes yes", "Yes"]),
    (Grader(type="regex", pattern=r"x = {golden}"), "x = 7", [], ["x = 7", "x = 8"]),
    (Grader(type="set"), "red, blue", ["blue,red", " red , blue "],
     ["red", "red, blue, green", "red, red, blue", "red, blue\nred, blue", "red,, blue", "blue red"]),
]  # fmt: skip


@pytest.mark.parametrize(("grader", "golden", "right", "wrong"), CASES, ids=lambda v: getattr(v, "type", None))
def test_right_and_wrong(grader, golden, right, wrong):
    for answer in right:
        assert grade(grader, "Q?", golden, answer).correct, answer
    for answer in ["", " \n", "Q?", *wrong]:
        assert not grade(grader, "Q?", golden, answer).correct, answer


def test_golden_in_a_pattern_is_taken_literally():
    grader = Grader(type="regex", pattern="answer: {golden}")
    assert grade(grader, "Q?", "a.c*", "answer: a.c*").correct
    assert not grade(grader, "Q?", "a.c*", "answer: abccc").correct


def test_faults_name_what_passes():
    found = faults(Grader(type="regex", pattern=r"(.|\n)*"), "Q?", "yes", ["no"])
    assert any("talk around" in fault for fault in found) and any("list of candidates" in fault for fault in found)
    assert faults(Grader(), "Q?", "yes", ["no"]) == []
    assert "own golden answer fails" in faults(Grader(type="regex", pattern="no"), "Q?", "yes", [])[0]
    assert "is no number" in faults(Grader(type="numeric"), "Q?", "seven", [])[0]


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\d", r"\w", r"\.", "(?:ab)"])
PATTERNS = st.recursive(ATOMS, lambda p: st.one_of(
    st.tuples(p, p).map("".join), st.tuples(p, p).map(lambda x: f"({x[0]}|{x[1]})"),
    st.tuples(p, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}"])).map(lambda x: f"({x[0]}){x[1]}"),
), max_leaves=6)  # fmt: skip


@given(PATTERNS, st.text("ab1.", max_size=7))
@settings(max_examples=400, deadline=None)
def test_patterns_agree_with_re(pattern, text):
    assert Pattern(pattern).matches(text) is bool(re.fullmatch(pattern, text))


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a*)*b", "(.*)*(.*)*b", "(a?){50}a{50}b",
                                     "((a{1,9}){1,9}){1,2}b"])  # fmt: skip
def test_catastrophic_patterns_take_no_time(pattern):
    made, begun = Pattern(pattern), time.perf_counter()
    assert not made.matches("a" * 1_900)
    assert time.perf_counter() - begun < 5.0, "linear time"


@pytest.mark.parametrize("pattern", [
    "a**", "(a", "a)", "[a", "[z-a]", "(?=a)", "(?P<x>a)", r"\1", r"\b", "^a", "a$", "{2}", "a{3,1}", "a{999}", "a{x}",
    "(a{200}){200}", "((((){200}){200}){200}){200}", "(" * 50 + ")" * 50, "\\",
])  # fmt: skip
def test_patterns_outside_the_language_are_refused(pattern):
    with pytest.raises(PatternError):
        Pattern(pattern)


@given(st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_pattern_is_read_or_refused(pattern):
    try:
        Pattern(pattern).matches("aba")
    except PatternError:
        pass

"""The 29 primitives as skills: goldens against another way of finding them, splits, exact marking, levels, contract."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from functools import cache

import pytest
from fastapi.testclient import TestClient
from hypothesis import example, given, settings
from hypothesis import strategies as st
from primitive_reference import answer, closure

from realm.guild.primitives import GROUPS, PRIMITIVES, group_of
from realm.guild.skills import CLOSED_BELOW, SPLITS, Problem, Skill, SkillError, all_skills, get_skill
from realm.guild.skills.base import SPLIT_SHARES
from realm.guild.skills.conformance import check
from realm.guild.skills.primitives import skill, skill_of, split_of
from realm.guild.skills.server import Worker, create_app
from realm.temple.cleric import held_out

NAMES = tuple(PRIMITIVES)
FORMATS = tuple(name for name in NAMES if group_of(name) == "fmt")
LEVELS = range(1, 11)
EACH = pytest.mark.parametrize("name", NAMES)


@cache
def some(name: str, level: int, split: str = "train", count: int = 12) -> tuple[Problem, ...]:
    return tuple(skill(name).generate(level, count, 11, split))


def every(name: str) -> list[Problem]:
    return [problem for level in LEVELS for problem in some(name, level)]


def correct(problem: Problem, response: str) -> bool:
    return skill(problem.skill).grade(problem, response).correct


# --- The table ----------------------------------------------------------------------------------------------------


def test_there_are_twenty_nine_in_six_groups():
    sizes = Counter(map(group_of, NAMES))
    assert sizes == {"seq": 5, "logic": 5, "mem": 4, "fmt": 5, "attn": 5, "xfm": 5} and list(sizes) == list(GROUPS)
    assert len(set(PRIMITIVES.values())) == 29, "no two are described alike"


def test_each_is_a_registered_skill_of_its_own():
    registered = {found.id: found for found in all_skills()}
    for name in NAMES:
        found = registered[name]
        assert isinstance(found, Skill) and found is get_skill(name) and found.max_level == 10
        assert PRIMITIVES[name] in found.description and found.primitive.rule
        assert pickle.loads(pickle.dumps(found)) is found, "the server's worker looks it up by name"
    with pytest.raises(SkillError, match="seq_reverse"):
        get_skill("seq_revers")
    with pytest.raises(SkillError, match="use one of"):
        skill("nothing")


@EACH
def test_every_problem_is_tagged_with_its_primitive_first(name):
    for problem in every(name):
        assert problem.primitives[0] == name and set(problem.primitives) <= set(NAMES)
        assert len(set(problem.primitives)) == len(problem.primitives)
    assert get_skill("bin").generate(3, 1, 0)[0].primitives, "other skills tag theirs with the same names"


# --- Goldens ------------------------------------------------------------------------------------------------------


@EACH
def test_goldens_are_what_an_independent_reference_finds(name):
    for problem in every(name):
        given_answer = problem.golden if name in FORMATS else problem.golden.removeprefix("= ")
        assert given_answer == answer(problem.prompt), problem.prompt
        assert correct(problem, problem.golden), problem.prompt


@pytest.mark.parametrize("name", [name for name in NAMES if group_of(name) == "logic"])
def test_logic_answers_are_all_that_follows_and_nothing_else(name):
    """By trying all worlds; long chains connect too many letters for that."""
    for problem in every(name):
        if name != "logic_chain" or problem.level <= 4:
            literals = {part.replace("not ", "-") for part in problem.golden.removeprefix("= ").split(", ")}
            assert closure(problem.prompt) == literals, problem.prompt


@EACH
def test_goldens_stand_nowhere_in_the_prompt_and_fit_into_the_level(name):
    room = {info.level: info.max_new_tokens for info in skill(name).levels()}
    for problem in every(name):
        assert problem.golden not in problem.prompt
        assert len(problem.golden.encode()) + 1 <= room[problem.level], "bytes are an upper bound of any tokens"
        assert "\n" not in problem.prompt and problem.prompt == problem.prompt.strip() and problem.prompt.isascii()


# --- Marking ------------------------------------------------------------------------------------------------------


@EACH
def test_wrong_answers_fail(name):
    for level in LEVELS:
        problem, *others = some(name, level)
        candidates = "\n".join([*(other.golden for other in others if other.golden != problem.golden), problem.golden])
        bare = problem.golden if name not in FORMATS else problem.golden.replace(problem.golden[0], "", 1)
        for response in ("", " \n\t ", problem.prompt, candidates, f"{problem.golden}\n{problem.golden}",
                         f"{problem.golden} {problem.golden}", f"I think it is {problem.golden}, is it not?",
                         f"```\n{problem.golden}\n```", f"Answer: {problem.golden}", problem.golden + " 1",
                         bare.removeprefix("= "), problem.golden * 400, "=", "= ", "null", "[]", "(" * 9_000,
                         "[" * 9_000, "f(" * 2_000, "\x00", "= \ud800"):  # fmt: skip
            verdict = skill(name).grade(problem, response)
            assert not verdict.correct and verdict.score == 0 and verdict.reason, (problem.prompt, response[:80])


@EACH
def test_one_changed_sign_is_a_wrong_answer(name):
    for level in LEVELS:
        problem = some(name, level)[0]
        for place, sign in enumerate(problem.golden):
            if sign.isalnum():
                other = {"0": "7", "z": "y", "Z": "Y"}.get(sign, "0" if sign.isdigit() else chr(ord(sign) + 1))
                wrong = problem.golden[:place] + other + problem.golden[place + 1 :]
                assert not correct(problem, wrong), (problem.prompt, wrong)


@EACH
def test_a_missing_or_moved_item_is_a_wrong_answer(name):
    for level in LEVELS:
        for problem in some(name, level)[:3]:
            parts = problem.golden.split(" ")
            assert not correct(problem, " ".join(parts[:-1])), problem.prompt
            turned = " ".join([*parts[:1], *parts[:0:-1]])
            if name not in FORMATS and turned != problem.golden:
                assert not correct(problem, turned), problem.prompt


@EACH
def test_blanks_that_mean_nothing_do_not_count(name):
    for problem in (some(name, level)[0] for level in LEVELS):
        assert correct(problem, f"\n  {problem.golden} \n")
        if name not in FORMATS:
            assert correct(problem, problem.golden.replace("= ", "=", 1).replace(", ", " ,  "))
            assert correct(problem, problem.golden.replace(" ", "  "))


FREEDOM = [
    ("fmt_json: q 0, a x", '{"a":"x","q":0}', True),
    ("fmt_json: q 0, a x", '{\n  "q": 0,\n  "a": "x"\n}', True),
    ("fmt_json: q 0, a x", '{"q": "0", "a": "x"}', False),
    ("fmt_json: q 0, a x", '{"q": 0.0, "a": "x"}', False),
    ("fmt_json: q 0, a x", '{"q": false, "a": "x"}', False),
    ("fmt_json: q 0, a x", '{"q": 1, "a": "x", "q": 0}', False),
    ("fmt_json: q 0, a x", "{'q': 0, 'a': 'x'}", False),
    ("fmt_json: q 0, a x", '{"q": NaN, "a": "x"}', False),
    ("fmt_json: q true, a null", '{"q": true, "a": null}', True),
    ("fmt_json: q 1 2, b.c 3", '{"b": {"c": 3}, "q": [1, 2]}', True),
    ("fmt_json: q 1 2, b.c 3", '{"b": {"c": 3}, "q": [2, 1]}', False),
    ("fmt_table: o u; 1 3", "|o|u|\n|:--|---:|\n|1|3|", False),  # a ruler has three dashes
    ("fmt_table: o u; 1 3", "|o|u|\n|:---|---:|\n| 1|3 |", True),
    ("fmt_table: o u; 1 3", "| o | u |\n| 1 | 3 |", False),
    ("fmt_table: o u; 1 3", "o | u\n--- | ---\n1 | 3", False),
    ("fmt_table: o u; 1 3", "| u | o |\n| --- | --- |\n| 3 | 1 |", False),
    ("fmt_code: f 3 (g a 1)", "f( 3,g(a,1) )", True),
    ("fmt_code: f 3 (g a 1)", "f(3, g(a, 1)) # f(1)", False),
    ("fmt_code: f 3 (g a 1)", "f(3, g(a, 2))", False),
    ("fmt_code: f of a b is g a b", "def f(a, b): return g(a, b)", True),
    ("fmt_code: f of a b is g a b", "def f(a, b):\n\treturn g(a, b)", True),
    ("fmt_code: f of a b is g a b", "def f(a, b):\nreturn g(a, b)", False),
    ("fmt_code: x is f 1 2; f x 3", "x = f(1, 2)\nf(x, 3)", True),
    ("fmt_code: x is f 1 2; f x 3", "f(x, 3)\nx = f(1, 2)", False),
    ("fmt_list: bullets: a, b (c d)", "* a\n* b\n  * c\n  * d", True),
    ("fmt_list: bullets: a, b (c d)", "- a\n- b\n    + c\n    + d", True),
    ("fmt_list: bullets: a, b (c d)", "- a\n* b\n  - c\n  - d", False),
    ("fmt_list: bullets: a, b (c d)", "1. a\n2. b\n   - c\n   - d", False),
    ("fmt_list: bullets: a, b (c d)", "- a\n  - c\n  - d\n- b", False),
    ("fmt_list: numbers: a, b", "1. a\n1. b", False),
    ("fmt_list: numbers: a, b", "1) a\n2) b", False),
    ("fmt_structured: f.b 2, g.p 1", "g:\n  p: 1\nf:\n  b: 2", True),
    ("fmt_structured: f.b 2, g.p 1", "f:\n    b: 2\ng:\n    p: 1", False),
    ("fmt_structured: f.b 2, g.p 1", "f:\n  b: 2\n  p: 1", False),
    ("fmt_structured: f.b 2, g.p 1", "f:\n  b: 2\ng:\n  p: 1\nf:\n  b: 2", False),
]


@pytest.mark.parametrize(("prompt", "response", "right"), FREEDOM)
def test_formats_are_parsed_and_nothing_but_the_format_is_free(prompt, response, right):
    found = skill_of(prompt)
    assert found.grade(found.problem_of(prompt), response).correct is right


def test_a_forged_golden_changes_nothing():
    row = some("seq_reverse", 2)[0].to_dict()
    forged = Problem.from_dict({**row, "golden": "= 1 2 3 4 5"})
    assert not correct(forged, "= 1 2 3 4 5") and correct(forged, row["golden"])
    alien = Problem.from_dict({**row, "prompt": "what is 1 + 1?"})
    assert "no seq_reverse problem" in skill("seq_reverse").grade(alien, "2").reason


# --- Drawing and splits -------------------------------------------------------------------------------------------


@EACH
def test_the_same_arguments_give_the_same_problems_and_a_short_call_is_a_prefix(name):
    found = skill(name)
    for level in (1, 6, 10):
        for split in SPLITS:
            rows = found.generate(level, 12, 3, split)
            assert rows[:5] == found.generate(level, 5, 3, split) and {row.split for row in rows} == {split}
        assert [row.prompt for row in rows] != [row.prompt for row in found.generate(level, 12, 4, split)]
        assert found.generate(level, 0, 3) == []


@EACH
def test_splits_share_no_problem_at_any_level(name):
    owner: dict[str, str] = {}
    for split in SPLITS:
        for level in LEVELS:
            for problem in some(name, level, split):
                assert owner.setdefault(problem.canonical, split) == split
                assert skill(name).split_of(problem.prompt) == split == split_of(problem.prompt)
                again = skill(name).problem_of(problem.prompt)
                assert (again.golden, again.canonical, again.split) == (problem.golden, problem.canonical, split)
                assert again.level <= level, "the lowest level that could ask it"
    assert set(owner.values()) == set(SPLITS)


@EACH
def test_held_out_calls_do_not_repeat_themselves(name):
    for split in ("trial", "probe", "public"):
        rows = skill(name).generate(1, 60, 0, split)
        assert len({row.canonical for row in rows}) >= 58


@EACH
def test_levels_are_open_by_counting(name):
    """2,000 distinct problems seen are 2,000 distinct problems that exist."""
    assert {level: distinct(name, level) for level in LEVELS} == dict.fromkeys(LEVELS, CLOSED_BELOW)
    assert not any(map(skill(name).closed, LEVELS))


def distinct(name: str, level: int) -> int:
    """Distinct problems found in 20,000 draws, at most CLOSED_BELOW."""
    primitive, rng, seen = skill(name).primitive, random.Random(5), set()
    for _ in range(20_000):
        seen.add(primitive.show(primitive.normal(primitive.draw(primitive.shapes[level - 1], rng))))
        if len(seen) == CLOSED_BELOW:
            break
    return len(seen)


@EACH
def test_half_of_a_quest_at_the_first_level_is_different_questions(name):
    """The floor that the diversity filter raises an alert at; half of a PIP quest's 9,600 rows are of one level."""
    primitive, rng = skill(name).primitive, random.Random(6)
    drawn = int(4_800 / (SPLIT_SHARES["train"] / 100))
    seen = {primitive.show(primitive.normal(primitive.draw(primitive.shapes[0], rng))) for _ in range(drawn)}
    assert len(seen) > 0.5 * drawn


@EACH
def test_open_levels_say_so(name):
    infos = skill(name).levels()
    assert [info.level for info in infos] == list(LEVELS) and len({info.name for info in infos}) == 10
    assert all(not info.closed and info.distinct is None and info.entropy_floor == 0 for info in infos)
    with pytest.raises(SkillError, match="only closed levels"):
        skill(name).table(1)
    for wrong in ({"level": 0}, {"level": 11}, {"count": -1}, {"split": "exam"}, {"seed": "1"}, {"level": True}):
        with pytest.raises(SkillError):
            skill(name).generate(**{"level": 1, "count": 1, "seed": 0, **wrong})


SAME = [  # what does not change the answer does not make another problem
    ("mem_recall: a1 b2 c3; a b", "mem_recall: c3 b2 a1; b a"),
    ("mem_context: X a1 b2; Y a3 b4; Ya Xb", "mem_context: Y b4 a3; X b2 a1; Xb Ya"),
    ("mem_compose: aP bQ; P1 Q2; a b", "mem_compose: bQ aP; Q2 P1; b a"),
    ("mem_update: a1 b2; a5 b7; a b", "mem_update: b2 a1; b7 a5; b a"),
    ("attn_count: 1 2 in 1 2 3 1", "attn_count: 2 1 in 3 1 1 2"),
    ("attn_compare: 1 2 3 / 1 2 4", "attn_compare: 1 2 4 / 1 2 3"),
    ("attn_filter: even and above 3 in 4 5 6", "attn_filter: above 3 and even in 4 5 6"),
    ("attn_select: a b in a1 b2 c3", "attn_select: b a in a1 b2 c3"),
    ("attn_rank: up: 3 1 2", "attn_rank: up: 2 1 3"),
    ("xfm_substitute: a1 b2; a b", "xfm_substitute: b2 a1; a b"),
    ("logic_deduce: a > b, c > d; a, c", "logic_deduce: c > d, a > b; c, a"),
    ("logic_contrapose: a > b, c > d; not b", "logic_contrapose: c > d, a > b; not b"),
    ("logic_chain: a > b, b > c; a", "logic_chain: b > c, a > b; a"),
    ("logic_disjunct: a or b, c or d; not a, not d", "logic_disjunct: d or c, b or a; not d, not a"),
    ("logic_biconditional: a iff not b, c iff d; a", "logic_biconditional: d iff c, b iff not a; a"),
    ("fmt_json: a 1, b 2", "fmt_json: b 2, a 1"),
    ("fmt_structured: a.b 1, c.d 2", "fmt_structured: c.d 2, a.b 1"),
    ("seq_reverse: 1 2 3 4", "  seq_reverse:   1 2\t3 4 \n"),
]
OTHER = [  # and what does, does
    ("seq_reverse: 1 2 3 4", "seq_reverse: 4 3 2 1"), ("mem_update: a1; a5 a7; a", "mem_update: a1; a7 a5; a"),
    ("attn_filter: even in 4 5 6", "attn_filter: even in 6 5 4"), ("attn_rank: up: 3 1 2", "attn_rank: down: 3 1 2"),
    ("fmt_list: bullets: a, b", "fmt_list: bullets: b, a"), ("logic_chain: a > b; a", "logic_chain: b > a; b"),
    ("logic_biconditional: a iff not b; a", "logic_biconditional: a iff b; a"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "two"), SAME)
def test_commutative_parts_do_not_make_another_problem(one, two):
    found = skill_of(one)
    assert found.problem_of(one).canonical == found.problem_of(two).canonical
    assert found.split_of(one) == found.split_of(two) is not None


@pytest.mark.parametrize(("one", "two"), OTHER)
def test_what_changes_the_answer_makes_another_problem(one, two):
    assert skill_of(one).problem_of(one).canonical != skill_of(two).problem_of(two).canonical


NO_PROMPTS = [
    "seq_reverse:", "seq_reverse: ", "seq_reverse: 12 3", "seq_reverse 1 2 3", "seq_reverse: 1 2 ?", "reverse: 1 2",
    "seq_continue: 1 2 4 8 16", "seq_continue: 1 2", "seq_continue: 01 02 03 04", "seq_interleave: 1 2 / 3",
    "seq_transform: left: 1", "seq_transform: jump: 1 2 3", "seq_transform: drop, drop: 1 2 3",
    "seq_extract: 3 to 2 in 1 2 3", "seq_extract: 1 to 9 in 1 2 3", "seq_extract: every 1 from 1 in 1 2 3",
    "logic_deduce: a > b; b", "logic_deduce: a > b, a > c; a", "logic_deduce: a > a; a", "logic_deduce: a > b; a, b",
    "logic_contrapose: a > b; a", "logic_chain: a > b, b > a; a", "logic_chain: a > b; c",
    "logic_disjunct: a or b; a", "logic_disjunct: a or b; not a, not b", "logic_disjunct: a or b; not c",
    "logic_biconditional: a iff b, b iff a; a", "logic_biconditional: a iff a; a", "logic_biconditional: a iff b; a, b",
    "mem_recall: a1 a2; a", "mem_recall: a1; b", "mem_recall: a1 b2", "mem_context: X a1; Xa", "mem_compose: aP; Q1; a",
    "mem_update: a1; b2; a", "mem_update: a1; a", "mem_update: a1; a+; a",
    "fmt_json: a 1, a 2", "fmt_json: a 1, a.b 2", "fmt_json: a 01", "fmt_json: a", "fmt_table: a b; 1",
    "fmt_table: a a; 1 2", "fmt_table: a b", "fmt_code: f", "fmt_code: f (g 1", "fmt_code: f g 1)", "fmt_code: 3 1 2",
    "fmt_code: f of a a is g a a", "fmt_list: stars: a, b", "fmt_list: bullets: a (b", "fmt_structured: a 1",
    "fmt_structured: a.b 1, a.b 2", "fmt_structured: a.b 1, a.b.c 2", "attn_select: a in b1 c2",
    "attn_count: 1 1 in 1 2", "attn_count: 1", "attn_compare: 1 2 / 1", "attn_compare: 1 / 2 / 3",
    "attn_filter: above in 1 2", "attn_filter: even 3 in 1 2", "attn_filter: even and odd in 1 2",
    "attn_filter: above 03 in 1 2", "attn_filter: above 3 and above 4 in 1 2", "attn_rank: left: 1 2",
    "attn_rank: up: 1", "xfm_encode: 1 1", "xfm_decode: 0a", "xfm_decode: 1a 2a", "xfm_decode: a",
    "xfm_map: + 1 -: 1 2", "xfm_map: - 5: 3 9", "xfm_map: ^ 2: 3", "fmt_code: a b is f 1", "fmt_code: is f 1",
    "xfm_reduce: mean: 1 2", "xfm_reduce: sum: 1", "xfm_substitute: a1 b2; 3",
    "xfm_substitute: a1 a2; a", "seq_reverse: " + "1 " * 5_000 + "1", "attn_rank: up: " + "9" * 5_000 + " 1",
    "seq_reverse: ١ ٢ ٣", "attn_rank: up: ² ³", "fmt_code: " + "f (" * 600 + "f 1" + ")" * 600,
]  # fmt: skip


@pytest.mark.parametrize("text", NO_PROMPTS, ids=lambda text: text[:40])
def test_texts_that_are_no_problems_belong_to_nobody(text):
    assert split_of(text) is None and all(skill(name).split_of(text) is None for name in NAMES)
    name = text.partition(":")[0]
    if name in PRIMITIVES:
        with pytest.raises(SkillError, match=f"no {name} problem"):
            skill(name).problem_of(text)


@given(name=st.sampled_from(NAMES), level=st.integers(1, 10), place=st.floats(0, 1),
       noise=st.text(alphabet="abc XY129,;:/>()+-. \n=notifr", max_size=4), cut=st.integers(0, 3))  # fmt: skip
@example("fmt_code", 10, 0.5, "(((", 0)
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_or_refused_but_never_raises(name, level, place, noise, cut):
    prompt = some(name, level)[0].prompt
    at = int(place * len(prompt))
    text = prompt[:at] + noise + prompt[at + cut :]
    split = skill(name).split_of(text)
    if split is None:
        return
    problem = skill(name).problem_of(text)
    assert problem.split == split and correct(problem, problem.golden)
    assert skill(name).problem_of(problem.prompt) == problem, "what is recognised is read the same again"


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_foreign_text_is_nobodys(text):
    assert split_of(text) is None and all(skill(name).split_of(text) is None for name in NAMES)


@EACH
def test_the_gate_finds_exam_problems_wherever_they_stand(name):
    exam, practice = some(name, 2, "trial")[0].prompt, some(name, 2)[0].prompt
    for dress in ("{}", "Question: {}", "- `{}`", "Here it is.\n\n{}\n\nThink well."):
        assert held_out(skill(name), dress.format(exam)) == "trial"
        assert held_out(skill(name), dress.format(practice)) is None


# --- Guessing -----------------------------------------------------------------------------------------------------

GUESSES = 240


@EACH
@pytest.mark.parametrize("level", [1, 5, 10])
def test_guessing_stays_far_below_the_level(name, level):
    """Three guessers: the most common answer, another problem's answer, and the right form filled with the prompt's own
    symbols. None reaches half of the answers, none in logic a tenth."""
    rows = skill(name).generate(level, GUESSES, 2)
    limit = 0.10 if group_of(name) == "logic" else 0.50
    common = Counter(row.golden for row in rows).most_common(1)[0][1] / GUESSES
    shuffled = sum(correct(row, other.golden) for row, other in zip(rows, rows[1:], strict=False)) / GUESSES
    informed = sum(correct(row, _filled(row, random.Random(i))) for i, row in enumerate(rows)) / GUESSES
    assert max(common, shuffled, informed) < limit, (common, shuffled, informed)


def _filled(row: Problem, rng: random.Random) -> str:
    """The golden's form with every letter and digit drawn from those of the prompt's body."""
    body = row.prompt.partition(": ")[2].replace("not", "").replace("iff", "").replace("or", "").replace("none", "")
    pools = [[sign for sign in body if sign.isdigit()], [sign for sign in body if sign.islower()],
             [sign for sign in body if sign.isupper()]]  # fmt: skip

    def draw(sign: str) -> str:
        pool = pools[0] if sign.isdigit() else pools[2] if sign.isupper() else pools[1]
        return rng.choice(pool) if sign.isalnum() and pool else sign

    words = row.golden.split(" ")
    kept = ("not", "none", "def", "return", "---", "true", "false", "null")
    return " ".join(word if word.strip(",") in kept else "".join(map(draw, word)) for word in words)


# --- Over HTTP ----------------------------------------------------------------------------------------------------


class HereWorker(Worker):
    """Runs at once: 29 apps need no 29 processes."""

    async def run(self, function, *args):
        return function(*args)


@EACH
def test_the_contract_holds_over_http(name):
    with TestClient(create_app(skill(name), HereWorker())) as client:
        check(client, levels=[1])


@pytest.mark.slow
@EACH
def test_the_contract_holds_over_http_at_every_level(name):
    with TestClient(create_app(skill(name), HereWorker())) as client:
        check(client, levels=list(range(2, 11)))

"""BIN: arithmetic, splits, determinism, mixes and tags."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.guild.skills import Problem, Skill, SkillError, all_skills, get_skill
from realm.guild.skills.base import SPLITS, bucket
from realm.guild.skills.bin.levels import (
    AUXILIARY_SHARE,
    CHAIN_DEPTH,
    MAX_LEVEL,
    all_links,
    belongs_to_closed_level,
    bits,
    closed_table,
    mix,
)
from realm.guild.skills.bin.notation import SymbolKey, natural, padded, parse_chain, parse_header, show_chain
from realm.guild.skills.bin.operations import OPERATIONS, SOLVABLE, Link, solve_operand, valid
from realm.guild.skills.bin.questions import AUXILIARY, Question, parse_prompt
from realm.guild.skills.bin.tags import SPOKES

BIN = get_skill("bin")
HELD_OUT = ("trial", "probe", "public")


def digits(value: int, width: int = 0) -> str:
    """Circled digits, made without the skill's own code."""
    text = bin(value)[2:].zfill(width)
    return "".join("⓪①"[int(c)] for c in text)


def to_signed(value: int, width: int) -> int:
    return value - 2**width if value >= 2 ** (width - 1) else value


# ---------------------------------------------------------------------------------------------- registry and contract


def test_registry_names_the_nearest_skill():
    assert "bin" in [skill.id for skill in all_skills()]
    assert isinstance(BIN, Skill)
    with pytest.raises(SkillError, match="did you mean 'bin'"):
        get_skill("binn")


def test_row_round_trip_and_missing_fields():
    problem = BIN.generate(9, 1, 4)[0]
    row = problem.to_dict()
    assert row["messages"] == [{"role": "user", "content": problem.prompt},
                               {"role": "assistant", "content": problem.golden}]
    assert row["entropy_floor"] == 0.0
    assert Problem.from_dict({**row, "unknown": 1}) == problem
    for name, bad in [("prompt", 5), ("prompt", None), ("golden", ["x"]), ("level", "9"), ("level", True),
                      ("split", "dev"), ("primitives", "add"), ("extra", [])]:  # fmt: skip
        with pytest.raises(SkillError, match=f"wrong type .{name}: {type(bad).__name__}"):
            Problem.from_dict({**row, name: bad})
    del row["canonical"]
    with pytest.raises(SkillError, match="canonical"):
        Problem.from_dict(row)


@pytest.mark.parametrize("level", [1, 2, 9, 30])
def test_a_prompt_leads_back_to_its_problem(level):
    for problem in BIN.generate(level, 20, 3):
        found = BIN.problem_of(problem.prompt)
        assert (found.prompt, found.golden, found.canonical, found.difficulty) == (
            problem.prompt, problem.golden, problem.canonical, problem.difficulty)
        assert found.level <= level and BIN.grade(found, problem.golden).correct
    with pytest.raises(SkillError, match="'2 \\+ 2'.*generate"):
        BIN.problem_of("2 + 2")


@pytest.mark.parametrize(("arguments", "said"), [
    ((0, 1, 0, "train"), "levels 1 to 30"), ((31, 1, 0, "train"), "level 31"), ((1, -1, 0, "train"), "count -1"),
    ((1, 1, "x", "train"), "seed 'x'"), ((1, 1, 0, "exam"), "train, trial, probe, public"),
    ((True, 1, 0, "train"), "True"),
])
def test_impossible_requests_are_refused_with_the_rule(arguments, said):
    with pytest.raises(SkillError, match=said):
        BIN.generate(*arguments)


def test_levels_describe_widths_and_closed_tables():
    levels = BIN.levels()
    assert [info.level for info in levels] == list(range(1, 31))
    assert [bits(level) for level in (1, 7, 8, 29, 30)] == [2, 8, 9, 30, 32]
    assert [(info.closed, info.distinct) for info in levels[:3]] == [(True, 193), (True, 723), (False, None)]
    assert not any(info.closed for info in levels[2:])
    assert len(list(all_links(3))) == 2567
    with pytest.raises(SkillError, match="only closed levels have a table"):
        BIN.table(3)


def test_skill_imports_without_torch():
    code = "import sys, realm.guild.skills.server as s; s.bin_app(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


# ---------------------------------------------------------------------------------------------------------- arithmetic

_REFERENCE = {
    "add": lambda a, b: a + b, "subtract": lambda a, b: a - b, "multiply": lambda a, b: a * b,
    "increment": lambda a: a + 1, "decrement": lambda a: a - 1, "equals": lambda a, b: a == b,
    "lessthan": lambda a, b: a < b, "greaterthan": lambda a, b: a > b, "minimum": min, "maximum": max,
    "multiply_by_2": lambda a: a + a, "divide_by_2": lambda a: int(a // 2), "tobinary": int, "todecimal": int,
    "and": lambda a, b: int("".join("1" if x == y == "1" else "0" for x, y in _columns(a, b)), 2),
    "or": lambda a, b: int("".join("1" if "1" in (x, y) else "0" for x, y in _columns(a, b)), 2),
    "xor": lambda a, b: int("".join("1" if x != y else "0" for x, y in _columns(a, b)), 2),
    "shift_left": lambda a, k: a * 2**k, "shift_right": lambda a, k: a // 2**k,
}
_SIGNED_REFERENCE = {
    "add_signed": lambda a, b: a + b, "subtract_signed": lambda a, b: a - b, "multiply_signed": lambda a, b: a * b,
    "negate": lambda a: -a, "absolute_value": abs,
}


def _columns(a: int, b: int):
    return zip(f"{a:080b}", f"{b:080b}", strict=True)


@st.composite
def links(draw, names=tuple(OPERATIONS), max_bits=32):
    op = OPERATIONS[draw(st.sampled_from(names))]
    width = draw(st.integers(2, max_bits))
    args = [draw(st.integers(0, 2**width - 1)) for _ in op.kinds]
    if op.name == "subtract":
        args.sort(reverse=True)
    if op.name == "decrement":
        args[0] = max(args[0], 1)
    if op.family == "shift":
        args[1] %= width + 1
    return Link(op.name, tuple(args), width if op.word else 0)


@given(links())
@settings(max_examples=400, deadline=None)
def test_values_agree_with_plain_integers(link):
    assert valid(link)
    if link.op == "not":
        assert digits(link.value, link.width) == digits(link.args[0], link.width).translate(str.maketrans("⓪①", "①⓪"))
    elif link.op in _SIGNED_REFERENCE:
        exact = _SIGNED_REFERENCE[link.op](*(to_signed(a, link.width) for a in link.args))
        assert link.value == exact % 2**link.width
    else:
        assert link.value == _REFERENCE[link.op](*link.args)


@given(links(names=SOLVABLE), st.integers(0, 1))
@settings(max_examples=300, deadline=None)
def test_a_hidden_operand_is_found_again(link, which):
    hidden = which % len(link.args)
    args = tuple(None if i == hidden else a for i, a in enumerate(link.args))
    found = solve_operand(link.op, args, int(link.value), link.width)
    if link.op == "multiply" and link.args[1 - hidden] == 0:
        assert found is None
    else:
        assert found == link.args[hidden]


def test_golden_lines_hold_the_value_in_the_demanded_digits():
    """Every final line, recomputed from the prompt's text with independent parsing of numbers."""
    for level in (1, 2, 5, 7):
        for problem in BIN.generate(level, 300, 11):
            if problem.depth == 1 and problem.kind == "compute" and problem.operation in _REFERENCE:
                inside = problem.prompt[problem.prompt.index("(") + 1:-1].split(", ")
                args = [int(t.translate(str.maketrans("⓪①", "01")), 2) if t[0] in "⓪①" else int(t) for t in inside]
                value = _REFERENCE[problem.operation](*args)
                shown = str(value).lower() if isinstance(value, bool) else digits(value)
                shown = str(value) if problem.operation == "todecimal" else shown
                last = [line for line in problem.golden.split("\n") if not line.startswith("Check")][-1]
                assert last.split(" = ")[-1] == shown


# -------------------------------------------------------------------------------------------------- splits and closure


def check_disjoint(per_level: int) -> int:
    """Asserts that no link of any problem is seen in two splits on levels 1 to 12; returns the number of problems."""
    owner: dict[str, str] = {}
    total = 0
    for level in range(1, 13):
        for split, share in zip(SPLITS, (16, 2, 1, 1), strict=True) if level > 2 else [("train", 16)]:
            for problem in BIN.generate(level, per_level * share // 20, 1, split):
                total += 1
                for part in problem.canonical.split(">"):
                    assert owner.setdefault(part, split) == split, (part, owner[part], split)
    return total


def test_splits_are_disjoint():
    assert check_disjoint(1_000) > 11_000


@pytest.mark.slow
def test_splits_are_disjoint_over_a_hundred_thousand_problems():
    assert check_disjoint(9_000) > 100_000


def test_split_shares_of_the_hash_space():
    counts = Counter(bucket("bin", "1", f"add|{i},{i + 1}") for i in range(20_000))
    for split, share in zip(SPLITS, (0.70, 0.20, 0.05, 0.05), strict=True):
        assert abs(counts[split] / 20_000 - share) < 0.015


def test_held_out_splits_of_open_levels_hold_no_closed_problem():
    closed = {link.canonical for level in (1, 2) for link in closed_table(level)}
    for level in (3, 4, 8):
        for split in HELD_OUT:
            for problem in BIN.generate(level, 60, 2, split):
                assert not closed & set(problem.canonical.split(">"))


def test_closed_membership_agrees_with_the_tables():
    closed = {link.canonical for level in (1, 2) for link in closed_table(level)}
    for level in (1, 2, 3):
        for link in all_links(level):
            assert belongs_to_closed_level(link) == (link.canonical in closed)


def test_trial_of_a_closed_level_walks_through_the_whole_table():
    table = BIN.table(1)
    assert len({problem.canonical for problem in table}) == len(table) == 193
    assert all(problem.depth == 1 and problem.kind == "compute" for problem in table)
    trial = BIN.generate(1, 193, 5, "trial")
    assert {p.canonical for p in trial} == {p.canonical for p in table}
    assert [p.id for p in trial] != [p.id for p in BIN.generate(1, 193, 6, "trial")]
    assert all(p.split == "trial" for p in trial)
    assert len(BIN.generate(1, 400, 5, "trial")) == 400


def test_split_of_agrees_with_generation_for_every_wording():
    wordings = set()
    for level in (1, 2, 3, 6, 8, 10, 14, 30):
        for split in SPLITS:
            for problem in BIN.generate(level, 60, 3, split):
                expected = "train" if BIN.closed(level) else split
                assert BIN.split_of(problem.prompt) == expected, problem.prompt
                wordings.add((problem.kind, problem.difficulty, problem.extra["symbol_key"]))
    assert len(wordings) > 25


@pytest.mark.parametrize("text", [
    "", "hello", "Compute: add(①)", "Compute: add(①, ⓪①)", "Compute: plus(①, ①)", "Compute [loud]: add(①, ①)",
    "Compute: add(①, ①) ", "Compute: subtract(①, ①⓪)", "Key: ◇=⓪ ◇=① φ=add\nCompute: φ(◇, ◇)", "Compare: add(①, ①)",
    "Key: ◇=⓪ ◆=① φ=add\nCompute: add(①, ①)", "Solve: and(①, ?) = ①", "Compute: shift_left(①, 99999999)",
    "Find the error: add(①, ①) = ①①①", "Overflow in 3 bits: add_signed(⓪①, ⓪①)", "Compute: add(①, ①)\nadd(①, ①) = ①⓪",
])
def test_split_of_knows_what_is_no_problem(text):
    if text.endswith(" ") and text.strip():
        assert BIN.split_of(text) is not None  # blanks at the ends do not hide a problem
    else:
        assert BIN.split_of(text) is None


@given(st.text(max_size=80) | st.text(alphabet="Compute: add(①⓪, )not=[verify]\n", max_size=60))
@settings(max_examples=300, deadline=None)
def test_split_of_never_raises(text):
    assert BIN.split_of(text) in (None, *SPLITS)


@given(links(max_bits=12), st.sampled_from(["easy", "medium", "hard", "expert"]))
@settings(max_examples=200, deadline=None)
def test_split_ignores_tag_key_style_and_operand_order(link, difficulty):
    plain = Question((link,), "easy")
    key = SymbolKey("◇", "◆", ((link.op, "φ"),))
    prompts = [plain.prompt(), Question((link,), difficulty).prompt(), Question((link,), difficulty, key=key).prompt()]
    op = OPERATIONS[link.op]
    if op.result in "nw":
        prompts.append(Question((link,), difficulty, "properties", argument="parity").prompt())
    if op.commutative:
        prompts.append(Question((Link(link.op, link.args[::-1], link.width),), difficulty).prompt())
    assert len({BIN.split_of(prompt) for prompt in prompts}) == 1
    assert {parse_prompt(prompt).canonical() for prompt in prompts} == {plain.canonical()}


# -------------------------------------------------------------------------------------------------- determinism, mixes


def test_generation_is_deterministic_and_a_prefix_of_longer_calls():
    for level in (1, 4, 9):
        for split in ("train", "trial"):
            first = BIN.generate(level, 60, 7, split)
            assert first == BIN.generate(level, 60, 7, split)
            assert first[:20] == BIN.generate(level, 20, 7, split)
            assert first != BIN.generate(level, 60, 8, split)


def test_neighbouring_seeds_do_not_share_streams():
    first = [p.id for p in BIN.generate(12, 200, 100)]
    second = [p.id for p in BIN.generate(12, 200, 101)]
    assert len(set(first) & set(second)) <= 2  # Random(seed + index) would share 199


def test_generation_does_not_depend_on_the_hash_seed_of_the_process():
    code = ("from realm.guild.skills import get_skill\n"
            "skill = get_skill('bin')\n"
            "print([p.id for p in skill.generate(9, 5, 3)], skill.split_of('Compute: add(①⓪⓪①, ①)'))")
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True,
                              env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed}).stdout
               for seed in ("1", "2")}
    assert len(outputs) == 1
    assert repr([p.id for p in BIN.generate(9, 5, 3)]).encode() in outputs.pop()


@pytest.fixture(scope="module")
def twenty_thousand():
    return BIN.generate(6, 20_000, 5)


@pytest.mark.parametrize("level", [6, 9, 28])
def test_mix_of_difficulties_styles_depths_and_keys(level, twenty_thousand):
    """Every share within 4 standard errors: 1.4 points at n = 20,000."""
    problems = twenty_thousand if level == 6 else BIN.generate(level, 3_000, 5)
    total = len(problems)
    slack = 4 * (0.25 / total) ** 0.5
    counts = Counter(p.difficulty for p in problems)
    for name, share in zip(CHAIN_DEPTH, mix(level), strict=True):
        assert abs(counts[name] / total - share / 100) < slack
    assert abs(sum(p.kind != "compute" for p in problems) / total - AUXILIARY_SHARE) < slack
    keyed = sum(p.extra["symbol_key"] for p in problems) / total
    assert abs(keyed - (0.75 if level >= 8 else 0)) < slack
    for problem in problems:
        low, high = CHAIN_DEPTH[problem.difficulty]
        assert low <= problem.depth <= high and (problem.kind == "compute" or problem.depth == 1)
    assert {p.kind for p in problems} == {"compute", *AUXILIARY}
    assert {p.operation for p in problems} == set(OPERATIONS)


def test_operations_are_drawn_by_weight(twenty_thousand):
    easy = [p for p in twenty_thousand if p.difficulty == "easy" and p.kind == "compute"]
    weights = {op.name: op.weight for op in OPERATIONS.values()}
    counts = Counter(p.operation for p in easy)
    for name, weight in weights.items():
        assert abs(counts[name] / len(easy) - weight / sum(weights.values())) < 0.012, name


def test_operands_are_uniform_without_leading_zeros_and_intermediates_are_capped():
    values = Counter()
    for problem in BIN.generate(3, 8_000, 2):
        question = parse_prompt(problem.prompt)
        for link in question.links:
            assert not (len(question.links) > 1 and int(link.value) >= 2 ** (2 * bits(3)))
        if question.links[0].op == "add" and len(question.links) == 1:
            values.update(question.links[0].args)
    total = sum(values.values())
    assert set(values) == set(range(16)) and all(abs(n / total - 1 / 16) < 0.03 for n in values.values())


def test_multiplication_stays_out_of_chains_above_level_seven():
    for level in (7, 8):
        names = {link.op for p in BIN.generate(level, 1_200, 1) if p.depth > 1 for link in parse_prompt(p.prompt).links}
        assert ("multiply" in names, "multiply_signed" in names) == (level == 7, level == 7)


def test_symbol_keys_start_at_level_eight_and_are_read_back():
    assert not any(p.extra["symbol_key"] for p in BIN.generate(7, 500, 1))
    keys = {p.prompt.split("\n")[0] for p in BIN.generate(8, 500, 1) if p.extra["symbol_key"]}
    assert len(keys) > 300
    assert all(parse_header(header).header() == header for header in keys)


def test_primitives_name_spokes_and_finer_tags():
    problems = BIN.generate(9, 3_000, 1)
    seen = Counter(tag for p in problems for tag in p.primitives)
    assert set(SPOKES) <= set(seen)
    assert {"carry", "no_carry", "borrow", "no_borrow", "compare", "bitwise", "signed", "shift", "to_binary",
            "to_decimal", "multiply", "symbol_key"} <= set(seen)
    assert all(set(p.primitives) & {"logic_chain", "xfm_encode"} for p in problems)
    carry = next(p for p in problems if p.operation == "add" and p.depth == 1 and "carry" in p.primitives)
    first, second = parse_prompt(carry.prompt).last.args
    assert first & second


# ------------------------------------------------------------------------------------------------------------ notation


@given(st.lists(links(max_bits=10), min_size=1, max_size=1))
@settings(max_examples=200, deadline=None)
def test_expressions_are_read_back(chain):
    assert parse_chain(show_chain(tuple(chain))) == tuple(chain)


def test_every_generated_prompt_is_read_back_to_the_same_question():
    for level in (1, 7, 8, 19, MAX_LEVEL):
        for problem in BIN.generate(level, 300, 21):
            question = parse_prompt(problem.prompt)
            assert question.prompt() == problem.prompt
            assert question.golden() == problem.golden
            assert question.canonical() == problem.canonical


def test_numbers_are_written_in_circled_digits():
    assert (natural(0), natural(5), padded(5, 5)) == ("⓪", "①⓪①", "⓪⓪①⓪①")

"""SY: one solution per puzzle, splits that belong to words, determinism, levels that only get harder."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_skill_conformance import served

from realm.guild.skills import Problem, Skill, SkillError, all_skills, get_skill
from realm.guild.skills.base import SPLITS, bucket
from realm.guild.skills.conformance import check
from realm.guild.skills.server import create_app
from realm.guild.skills.sy.levels import (
    KINDS_FROM,
    MAX_LEVEL,
    STRONG_KINDS,
    ZIPF_REACH,
    level_at,
    mix,
    shown_words,
)
from realm.guild.skills.sy.lexicon import LONG_KINDS, load
from realm.guild.skills.sy.puzzle import BANKS, FORMATS, LABELS, WORDINGS, Clue, Puzzle, embedded, parse_prompt
from realm.guild.skills.sy.solver import Placed, solutions, solve

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "sy_examples.jsonl"
SY = get_skill("sy")
LEXICON = load()
SAMPLED = (1, 2, 3, 4, 6, 8, 10, 11, 25, 50)


@pytest.fixture(scope="module")
def problems() -> dict[int, list[Problem]]:
    return {level: SY.generate(level, 25, seed=5) for level in SAMPLED}


# ------------------------------------------------------------------------------------------------- registry, contract


def test_registry_and_protocol():
    assert "sy" in [skill.id for skill in all_skills()]
    assert isinstance(SY, Skill)
    assert not any(SY.closed(level) for level in range(1, MAX_LEVEL + 1))
    with pytest.raises(SkillError, match="this one is open"):
        SY.table(1)


@pytest.mark.parametrize(("arguments", "said"), [
    ((0, 1, 0, "train"), "levels 1 to 50"), ((51, 1, 0, "train"), "level 51"), ((1, -1, 0, "train"), "count -1"),
    ((1, 1, "x", "train"), "seed 'x'"), ((1, 1, 0, "exam"), "train, trial, probe, public"),
])
def test_impossible_requests_are_refused_with_the_rule(arguments, said):
    with pytest.raises(SkillError, match=said):
        SY.generate(*arguments)


def test_sy_keeps_the_contract_over_http():
    with served(create_app(SY)) as url:
        check(url, levels=[1])


@pytest.mark.slow
def test_the_high_levels_keep_the_contract_over_http():
    with served(create_app(SY)) as url:
        check(url, levels=[50])


def test_skill_imports_without_torch_and_reads_the_lexicon_only_when_asked():
    code = ("import sys, realm.guild.skills as s; k = s.get_skill('sy'); k.levels()\n"
            "from realm.guild.skills.sy import lexicon\n"
            "assert lexicon.load.cache_info().currsize == 0 and k.split_of('2 + 2') is None\n"
            "assert lexicon.load.cache_info().currsize == 0, 'foreign text opened the lexicon'\n"
            "sys.exit('torch' in sys.modules)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


# --------------------------------------------------------------------------------------------------------- one solution


def every_writing(word: str, count: int, tiles: list[str]) -> set[tuple[str, ...]]:
    """All ways to cut a word into `count` pieces that stand in the bank."""
    found = set()

    def cut(rest: str, taken: tuple[str, ...]) -> None:
        if len(taken) == count - 1:
            if rest and not Counter((*taken, rest)) - Counter(tiles):
                found.add((*taken, rest))
            return
        for at in (n for n in range(1, len(rest)) if rest[:n] in tiles):
            cut(rest[at:], (*taken, rest[:at]))

    cut(word, ())
    return found


def true_of(clue: Clue, index: int) -> bool:
    """Whether a hint is true of a word, looked up word by word."""
    text, word = clue.text, LEXICON.words[index]
    if clue.kind not in LONG_KINDS:
        return index in LEXICON.holders.get((clue.kind, text), ())
    start = text.removesuffix(" ...")
    shown = [t for other in (index, *owners(index)) for t in LEXICON.words[other].clues.get(clue.kind, ())]
    assert word.index == index
    return any(t == text or (text.endswith(" ...") and t.startswith(start + " ")) for t in shown)


RIVAL_OF: dict[int, list[int]] = {}
for _word in LEXICON.words:
    for _rival in _word.rivals:
        RIVAL_OF.setdefault(_rival, []).append(_word.index)


def owners(index: int) -> list[int]:
    """Words whose long hints may mean this one too."""
    return RIVAL_OF.get(index, [])


def brute_force(puzzle: Puzzle) -> list[tuple[tuple[str, tuple[str, ...]], ...]]:
    """All solutions, hint by hint in the order shown, over every word of the lexicon."""
    tiles = list(puzzle.tiles)
    letters = set("".join(tiles))
    near = [word for word in LEXICON.words if set(word.text) <= letters]
    options = [[(word.text, writing) for word in near if true_of(clue, word.index)
                for writing in every_writing(word.text, clue.tiles, tiles)] for clue in puzzle.clues]
    partial: list[tuple[tuple[str, tuple[str, ...]], ...]] = [()]
    for option in options:
        partial = [(*row, pair) for row in partial for pair in option if pair[0] not in [word for word, _ in row]
                   and not Counter(t for _, w in (*row, pair) for t in w) - Counter(tiles)]
    return partial


@pytest.mark.parametrize("level", SAMPLED)
def test_brute_force_finds_exactly_the_golden_solution(level, problems):
    for problem in problems[level][:2 if level > 6 else 5]:
        puzzle = parse_prompt(problem.prompt)
        found = brute_force(puzzle)
        assert len(found) == 1, problem.prompt
        assert [word for word, _ in found[0]] == [placed.word for placed in solve(puzzle)]
        assert sorted(word for word, _ in found[0]) == problem.canonical.split("+")


@settings(max_examples=60, deadline=None)
@given(level=st.integers(1, MAX_LEVEL), seed=st.integers(0, 10**9), split=st.sampled_from(SPLITS))
def test_any_drawn_puzzle_has_one_solution_which_is_golden(level, seed, split):
    problem = SY.generate(level, 1, seed, split)[0]
    found = solutions(parse_prompt(problem.prompt), at_most=5)
    assert len(found) == 1
    assert all(LEXICON.by_text[placed.word].syllables == placed.tiles for placed in found[0])
    assert SY.grade(problem, problem.golden).correct and SY.split_of(problem.prompt) == split


def test_the_solver_sees_second_solutions():
    """Two animals, two hints that fit both: whichever way round, it is a solution."""
    tiles = ("kit", "ten", "squir", "rel")
    vague = Clue(2, "category", "animal (noun)")
    assert len(solutions(Puzzle(tiles, (vague, vague), "easy", "list"), at_most=9)) == 2
    assert solve(Puzzle(tiles, (vague, vague), "easy", "list")) is None
    sharp = Clue(2, "definition", LEXICON.by_text["kitten"].clues["definition"][0])
    assert solve(Puzzle(tiles, (vague, sharp), "easy", "list")) == (
        Placed("squirrel", ("squir", "rel")), Placed("kitten", ("kit", "ten")))
    # the same word cut in two ways is two solutions; the same tile twice is none
    assert len(solutions(Puzzle(("kit", "ten", "kitt", "en"), (sharp,), "easy", "list"), at_most=9)) == 2
    assert len(solutions(Puzzle(("kit", "ten", "kit"), (sharp,), "easy", "list"), at_most=9)) == 1


def test_no_tile_is_used_twice_and_herrings_stay(problems):
    for level, rows in problems.items():
        for problem in rows:
            puzzle = parse_prompt(problem.prompt)
            used = Counter(tile for placed in solve(puzzle) for tile in placed.tiles)
            left = Counter(puzzle.tiles) - used
            assert not used - Counter(puzzle.tiles)
            low, high = level_at(level).herrings
            assert low <= left.total() <= high and left.total() == problem.extra["herrings"]
            assert not set(left) & set(used)


# --------------------------------------------------------------------------------------------------------------- splits


def test_no_word_and_no_family_is_in_two_splits_at_any_level():
    owner: dict[str, str] = {}
    for level in (1, 2, 3, 5, 7, 10, 50):
        for split in SPLITS:
            for problem in SY.generate(level, 80 if level < 5 else 15, level, split):
                assert problem.split == split
                for word in problem.canonical.split("+"):
                    family = LEXICON.by_text[word].family
                    assert owner.setdefault(family, split) == split, f"{word} of family {family}"
                    assert bucket(SY.id, SY.version, family) == split
    assert set(owner.values()) == set(SPLITS) and len(owner) > 1_500


def test_canonical_ignores_dress_level_order_hints_and_herrings(problems):
    puzzle = parse_prompt(problems[6][0].prompt)
    solution = solve(puzzle)
    herring = next(t for w in LEXICON.words for t in w.syllables if t not in puzzle.tiles and len(t) > 4)
    dressed = [replace(puzzle, dress=dress) for dress in ((1, 1, 1), (0, 2, 2))]
    dressed += [replace(puzzle, answer_format=name) for name in FORMATS]
    dressed += [replace(puzzle, difficulty="expert"), replace(puzzle, tiles=puzzle.tiles[::-1]),
                replace(puzzle, tiles=(*puzzle.tiles, herring)), replace(puzzle, clues=puzzle.clues[::-1])]
    meaning = tuple(Clue(len(p.tiles), "definition", LEXICON.by_text[p.word].clues["definition"][0]) for p in solution)
    dressed.append(replace(puzzle, clues=meaning))
    for other in dressed:
        found = SY.problem_of(other.prompt())
        assert (found.canonical, found.split) == (problems[6][0].canonical, "train")


def test_split_of_finds_a_puzzle_inside_other_text():
    problem = SY.generate(4, 1, 3, "trial")[0]
    quoted = "\n".join("> " + line for line in problem.prompt.splitlines())
    for text in (problem.prompt, f"Please solve:\n{problem.prompt}\nThanks!", f"Hi. {problem.prompt} Luck!", quoted,
                 problem.prompt.replace("\n", "\r\n"), f"{problem.prompt}\n{problem.golden}",
                 f"\n\n {problem.prompt} "):
        assert SY.split_of(text) == "trial", text
    train = SY.generate(4, 1, 3, "train")[0]
    assert SY.split_of(f"{train.prompt}\n\n{problem.prompt}") == "trial"
    assert SY.split_of(f"{train.prompt}\n\n{problem.golden}") == "train"


@pytest.mark.parametrize("text", [
    "", "2 + 2", "Word Weaving", "Word Weaving: weave 4 words from 9 tiles.", "Compute: add(①, ①)", "\x00", "𝔚 " * 99,
    "Word Weaving: weave 99 words from 999 tiles.\nTiles: a\n" + "1. (2) synonym: x\n" * 99 + FORMATS["list"],
    "Word Weaving: weave 1 words from 2 tiles.\nTiles: ti ger\n1. (2) synonym: no such hint\n" + FORMATS["list"],
    "Word Weaving [x]: weave 1 words from 1 tiles.\nTiles: a\n1. (1) synonym: x\n" + FORMATS["json"],
])
def test_foreign_text_belongs_to_no_split(text):
    assert SY.split_of(text) is None
    with pytest.raises(SkillError, match="no sy problem"):
        SY.problem_of(text)
    assert not SY.grade(replace(SY.generate(1, 1, 0)[0], prompt=text), "x").correct


def test_a_forged_bank_of_equal_letters_ends_soon():
    """Vague hints over many equal tiles: the search gives up instead of running for ever."""
    clue = Clue(5, "category", "word (adjective)")
    tiles = tuple(t for w in LEXICON.words for t in w.syllables if len(w.syllables) == 5)[:118]
    assert solve(Puzzle(tiles, (clue,) * 16, "easy", "list")) is None


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.integers(0, 400), st.integers(0, 400))
def test_damaged_prompts_never_crash(noise, start, end):
    prompt = SY.generate(2, 1, 1)[0].prompt
    text = prompt[:start] + noise + prompt[end:]
    assert SY.split_of(text) in (None, *SPLITS)
    assert len(embedded(text)) <= 3


# ---------------------------------------------------------------------------------------- determinism, round trip, tags


@pytest.mark.parametrize("level", [1, 9, 50])
def test_same_arguments_same_problems_and_a_short_call_is_a_prefix(level):
    first = SY.generate(level, 12, 4)
    assert first == SY.generate(level, 12, 4) and first[:5] == SY.generate(level, 5, 4)
    assert {p.canonical for p in first}.isdisjoint({p.canonical for p in SY.generate(level, 12, 5)})
    trial = SY.generate(level, 12, 4, "trial")
    assert trial[:5] == SY.generate(level, 5, 4, "trial")


def test_held_out_problems_do_not_repeat():
    for split in ("trial", "probe", "public"):
        rows = SY.generate(1, 200, 0, split)
        assert len({p.canonical for p in rows}) == 200


@pytest.mark.parametrize("level", SAMPLED)
def test_a_prompt_leads_back_to_its_problem(level, problems):
    for problem in problems[level]:
        found = SY.problem_of(problem.prompt)
        assert (found.prompt, found.golden, found.canonical, found.difficulty, found.kind) == (
            problem.prompt, problem.golden, problem.canonical, problem.difficulty, problem.kind)
        assert found.level <= level and Problem.from_dict(problem.to_dict()) == problem


def test_every_problem_carries_its_primitives(problems):
    spokes = {"json": "fmt_json", "list": "fmt_list", "comma": "fmt_list", "table": "fmt_table"}
    for rows in problems.values():
        for problem in rows:
            assert problem.primitives == ("seq_transform", "attn_select", "mem_context", "fmt_structured",
                                          spokes[problem.kind])
            assert problem.depth == len(problem.canonical.split("+"))


def test_every_dress_and_format_occurs_and_difficulties_follow_the_mix():
    rows = SY.generate(3, 800, 2)
    shown = Counter((row.kind, row.difficulty) for row in rows)
    for name in FORMATS:
        assert 0.2 < sum(n for (kind, _), n in shown.items() if kind == name) / 800 < 0.3
    for difficulty, share in zip(("easy", "medium", "hard", "expert"), mix(3), strict=True):
        assert abs(sum(n for (_, d), n in shown.items() if d == difficulty) / 8 - share) < 5
    text = "\n".join(row.prompt for row in rows)
    assert all(sign in text for sign in ("\n1. (", "\n1) (", "\n1: ("))
    assert all(f") {wording}: " in text for kind in STRONG_KINDS for wording in WORDINGS[kind])
    assert all(any(line.startswith("Tiles: ") and sign in line for line in text.splitlines()) for sign in BANKS)
    assert len(LABELS) == 3


# --------------------------------------------------------------------------------------------------------------- levels


def test_the_first_ten_levels_are_the_table_of_the_game():
    rows = [(d.name, d.words, d.syllables, d.zipf, d.overlap, d.herrings) for d in map(level_at, range(1, 11))]
    assert rows[0] == ("Beginner", (4, 4), (2, 3), 5.5, 0, (0, 0))
    assert rows[3] == ("Learning", (5, 6), (3, 4), 4.0, 20, (0, 1))
    assert rows[7] == ("Advanced", (7, 8), (4, 6), 2.5, 60, (3, 4))
    assert rows[9] == ("Master", (9, 10), (4, 6), 2.0, 80, (5, 6))
    assert level_at(1).kinds == ("definition", "synonym") and set(level_at(10).kinds) == set(KINDS_FROM)


def test_every_dimension_only_gets_harder():
    for low, high in pairwise(map(level_at, range(1, MAX_LEVEL + 1))):
        for name in ("words", "syllables", "herrings"):
            assert all(a <= b for a, b in zip(getattr(low, name), getattr(high, name), strict=True)), (high.level, name)
        assert low.zipf >= high.zipf and low.overlap <= high.overlap and set(low.kinds) <= set(high.kinds)
        assert low.strong >= high.strong and low.shown >= high.shown
        assert replace(low, level=0, name="") != replace(high, level=0, name=""), f"level {high.level} is no step"
    tokens = [info.max_new_tokens for info in SY.levels()]
    assert len(tokens) == MAX_LEVEL and tokens == sorted(tokens)


def test_what_is_drawn_lies_in_the_dimensions_and_degrades(problems):
    zipf, sharing = [], []
    for level, rows in problems.items():
        dims, shares, frequencies = level_at(level), [], []
        for problem in rows:
            puzzle = parse_prompt(problem.prompt)
            words = [LEXICON.by_text[word] for word in problem.canonical.split("+")]
            assert dims.words[0] <= len(words) <= dims.words[1]
            assert all(dims.syllables[0] <= len(word.syllables) <= dims.syllables[1] for word in words)
            assert all(abs(word.zipf - dims.zipf) <= ZIPF_REACH + 1e-9 for word in words)
            assert all(clue.kind in dims.kinds for clue in puzzle.clues)
            assert len({word.family for word in words}) == len(words)
            frequencies += [word.zipf for word in words]
            shares += [any(set(word.syllables) & set(other.syllables) for other in words if other is not word)
                       for word in words]
        zipf.append(sum(frequencies) / len(frequencies))
        sharing.append(sum(shares) / len(shares))
    assert all(a > b - 0.1 for a, b in pairwise(zipf)) and zipf[0] - zipf[-1] > 2
    assert sharing[0] == sharing[1] == 0 and sharing[-1] > 0.9 and all(a < b + 0.1 for a, b in pairwise(sharing))


def test_long_hints_fade_from_level_eleven_on(problems):
    assert shown_words("one two three four five six seven eight nine ten", 50) == "one two three four five ..."
    assert shown_words("one two three four five", 10) == "one two three four ..."
    assert shown_words("one two three", 10) == "one two three"
    faded = {level: sum(clue.text.endswith(" ...") for row in rows for clue in parse_prompt(row.prompt).clues)
             for level, rows in problems.items()}
    assert faded[10] == 0 and faded[50] > 10


def test_tokens_of_golden_answers_fit(problems):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(ROOT / "src/realm/heroes/tokenizer/tokenizer.json"))
    for level, rows in problems.items():
        assert max(len(tokenizer.encode(row.golden).ids) for row in rows) <= SY.levels()[level - 1].max_new_tokens


# ------------------------------------------------------------------------------------------------------ published face


def test_the_page_says_what_the_skill_does():
    spec = importlib.util.spec_from_file_location("render_sy_doc", ROOT / "scripts" / "render_sy_doc.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (ROOT / "docs" / "SY.md").read_text(encoding="utf-8") == script.render()


def test_pinned_problems_come_out_byte_for_byte():
    """A change here changes every hero's data: raise SySkill.version when problems or splits change."""
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        made = SY.generate(row["level"], row["index"] + 1, row["seed"], row["split"])[-1]
        assert (made.id, made.prompt, made.golden, made.canonical) == (
            row["id"], row["prompt"], row["golden"], row["canonical"])

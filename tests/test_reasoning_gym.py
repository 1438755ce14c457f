"""reasoning-gym tasks as skills: the sweep over all of them, splits, levels, grading, refusals, the page."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from realm.guild.skills import SkillError, get_skill, skill_ids
from realm.guild.skills import reasoning_gym as rg
from realm.guild.skills import reasoning_gym_survey as measured
from realm.guild.skills.base import CLOSED_BELOW, SPLITS, LevelInfo, Problem, Skill, bucket

ROOT = Path(__file__).resolve().parents[1]
USABLE = rg.task_names()
PLAIN = "rg:decimal_arithmetic"  # no closed level


# --- every task ---------------------------------------------------------------------------------------------------

def test_the_survey_names_every_task_of_the_package():
    from reasoning_gym.factory import DATASETS

    assert metadata.version("reasoning-gym") == rg.survey()["package"]
    assert set(rg.survey()["tasks"]) == set(DATASETS) and len(DATASETS) == 106
    assert len(USABLE) >= 70
    assert all(facts.get("refused") or facts["levels"] for facts in rg.survey()["tasks"].values())


@pytest.mark.parametrize("task", USABLE)
def test_first_level_of_every_usable_task(task):
    """Tiny counts: the problems of the survey, golden answers that pass, answers that must not."""
    skill = get_skill(f"rg:{task}")
    assert isinstance(skill, Skill)
    facts = rg.survey()["tasks"][task]
    assert measured.mark(task, facts["levels"][0]["index"], 1) == facts["marks"][0], "other problems than were measured"
    closed = skill.closed(1)
    train = skill.generate(1, 4, 11, "train")
    assert [p.id for p in train[:2]] == [p.id for p in skill.generate(1, 2, 11, "train")]
    for problem in train:
        assert problem.split == "train" and problem.canonical == rg.canonical_of(problem.prompt)
        assert closed or skill._split(problem.canonical) == "train"
        assert skill.split_of(problem.prompt) == "train"
        again = Problem.from_dict(json.loads(json.dumps(problem.to_dict())))
        golden = problem.golden
        assert skill.grade(again, golden).correct, golden
        for bad in ("", " \n", problem.prompt, f"{golden}\n{golden}", f"I think it is {golden}, is it not?",
                    "\n".join([*(p.golden for p in train if p.golden != golden), "and", golden])):  # fmt: skip
            assert not skill.grade(again, bad).correct, bad[:80]
        assert len(golden.encode()) <= skill.levels()[0].max_new_tokens


def test_primitive_tags_are_among_the_29():
    names = {f"{group}_{name}" for group, words in {
        "seq": "continue reverse transform interleave extract",
        "logic": "deduce contrapose chain disjunct biconditional",
        "mem": "recall context compose update", "fmt": "json table code list structured",
        "attn": "select count compare filter rank", "xfm": "encode decode map reduce substitute",
    }.items() for name in words.split()}  # fmt: skip
    assert len(names) == 29
    assert {tag for tags in rg.PRIMITIVES.values() for tag in tags} <= names
    assert set(rg.PRIMITIVES) <= set(rg.task_names(usable=False))


def test_two_processes_make_the_same_problems():
    code = ("from realm.guild.skills import get_skill\n"
            "for t in ('chain_sum','basic_arithmetic','zebra_puzzles','string_synthesis','tsumego','word_sorting'):\n"
            "    print([p.id for p in get_skill('rg:'+t).generate(1, 3, 5, 'trial')])")
    told = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120,
                           env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "src")}).stdout
            for seed in ("1", "77")]  # fmt: skip
    assert told[0] == told[1] and len(told[0].splitlines()) == 6


# --- splits -------------------------------------------------------------------------------------------------------

def test_splits_never_share_a_question_whatever_seed_and_level():
    skill = get_skill(PLAIN)
    found = {split: set() for split in SPLITS}
    for level in (1, 2):
        for seed in (0, 1, 2):
            for split in SPLITS:
                found[split] |= {rg.normal(p.prompt) for p in skill.generate(level, 60, seed, split)}
    for i, a in enumerate(SPLITS):
        assert len(found[a]) > 300
        for b in SPLITS[i + 1 :]:
            assert found[a].isdisjoint(found[b])


def test_problems_are_fresh_prefix_and_keyed():
    skill = get_skill(PLAIN)
    long = skill.generate(2, 150, 3, "trial")
    assert len({p.canonical for p in long}) == 150, "none twice"
    assert skill.generate(2, 40, 3, "trial") == long[:40]
    near = {p.canonical for p in skill.generate(2, 150, 4, "trial")}
    assert not near & {p.canonical for p in long}, "neighbouring seeds do not overlap"
    assert {bucket(skill.id, skill.version, p.canonical) for p in long} == {"trial"}


def test_closed_level_is_a_table_that_belongs_to_training():
    skill = get_skill("rg:chain_sum")
    assert skill.closed(1) and not skill.closed(2)
    table = skill.table(1)
    assert len({p.canonical for p in table}) == skill.levels()[0].distinct == 200 < CLOSED_BELOW
    assert {p.split for p in table} == {"train"}
    walk = skill.generate(1, 200, 4, "trial")
    assert {p.canonical for p in walk} == {p.canonical for p in table} and {p.split for p in walk} == {"trial"}
    assert skill.split_of(table[0].prompt) == "train"
    closed = {p.canonical for p in table}
    assert not closed & {p.canonical for p in skill.generate(2, 200, 1, "trial")}
    with pytest.raises(SkillError, match="only closed levels have a table"):
        skill.table(2)


def test_a_narrow_level_gives_again_what_it_has():
    skill = get_skill("rg:coin_flip")
    assert len(skill.generate(1, 50, 0, "train")) == 50
    assert len({p.canonical for p in skill.generate(1, 50, 0, "train")}) <= 8


# --- recognising a prompt -----------------------------------------------------------------------------------------

def test_a_copied_trial_question_is_known_in_a_process_that_never_made_it():
    made = get_skill("rg:chain_sum").generate(3, 30, 9, "trial")
    fresh = rg.ReasoningGymSkill("chain_sum")
    assert {fresh.split_of(p.prompt) for p in made} == {"trial"}
    assert fresh.split_of("  " + made[0].prompt.replace(" ", "\n ")) == "trial", "white space is folded"
    by_hand = "State the final answer to the following arithmetic problem: 98765 + 4 - 31 ="
    assert fresh.split_of(by_hand) == bucket(fresh.id, fresh.version, rg.canonical_of(by_hand))
    for other in ("What is 3 + 4?", "", "State the final answer", made[0].prompt + " And why?"):
        assert fresh.split_of(other) is None


def test_a_task_without_shared_words_is_known_only_where_it_was_made():
    task = next(t for t in USABLE if not rg.survey()["tasks"][t]["templates"])
    problem = get_skill(f"rg:{task}").generate(1, 1, 3, "trial")[0]
    assert get_skill(f"rg:{task}").split_of(problem.prompt) == "trial"
    assert rg.ReasoningGymSkill(task).split_of(problem.prompt) is None


# --- grading ------------------------------------------------------------------------------------------------------

def test_other_right_answers_pass_and_wrong_ones_do_not():
    skill = get_skill("rg:chain_sum")
    problem = skill.generate(2, 1, 0, "train")[0]
    number = int(problem.golden)
    assert skill.grade(problem, f"{number}.0").correct and skill.grade(problem, f" {number} \n").correct
    assert not skill.grade(problem, str(number + 1)).correct
    assert skill.grade(problem, "the sum of both").reason


def test_rows_of_another_content_are_refused():
    skill = get_skill(PLAIN)
    row = skill.generate(1, 1, 0, "train")[0].to_dict()
    for change in ({"prompt": "What is 1 + 1?"}, {"extra": {}}, {"extra": {"seed": -1, "item": 0}},
                   {"extra": {"seed": 1, "item": 10**9}}, {"extra": {"seed": True, "item": 0}}, {"skill": "bin"}):
        with pytest.raises(SkillError, match="send a row made by generate"):
            skill.grade(Problem.from_dict({**row, **change}), "1")
    with pytest.raises(SkillError, match="levels 1 to"):
        skill.grade(Problem.from_dict({**row, "level": 99}), "1")


@pytest.mark.parametrize("task", sorted(rg._LITERAL | rg._FORMULA))
@pytest.mark.parametrize("attack", [
    "__import__('os').system('touch HACKED')", "open('HACKED','w')", "(lambda: 1)()", "x.__class__", "9**9**9**9",
    "9**(9**9)", "((9**99)**99)**99**9", "exec('1')", "[].append(1)", "9999999999999999999999**99", "10**999",
    "factorial(99999)", "f'{1}'",
])  # fmt: skip
def test_answers_that_would_be_evaluated_are_data_first(task, attack):
    assert not rg.safe(task, attack, "2*x**2 + C")


@pytest.mark.parametrize(("task", "text"), [
    ("simple_integration", "x**3/3 + 2*x + C"), ("simple_integration", "-7*exp(x)/2 + C"), ("puzzle24", "(3+5)*3"),
    ("n_queens", "[['Q','_'],['_','Q']]"), ("spiral_matrix", "1 2 3"), ("spiral_matrix", "[1, 2, 3]"),
    ("string_insertion", "['A', 'B']"), ("string_insertion", "ABCDE"),
])  # fmt: skip
def test_honest_answers_reach_the_grader(task, text):
    assert rg.safe(task, text, "2*x + C")


# --- refusals and commands ----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "words"), [
    ("chain_sums", "did you mean 'chain_sum'"), ("codeio", "running code"), ("ransom_note", "not deterministic"),
    ("sokoban", "too slow"), ("", "write rg:chain_sum"),
])  # fmt: skip
def test_what_cannot_be_used_says_why(name, words):
    with pytest.raises(SkillError, match=words):
        get_skill(f"rg:{name}")


@pytest.mark.parametrize("found", [None, "0.1.24"])
def test_a_missing_or_other_package_names_the_command(monkeypatch, found):
    def version(_):
        if found is None:
            raise metadata.PackageNotFoundError("reasoning-gym")
        return found

    monkeypatch.setattr(rg.metadata, "version", version)
    with pytest.raises(SkillError, match="pip install reasoning-gym==0.1.25"):
        rg.make("chain_sum")


@pytest.mark.parametrize(("level", "count", "seed", "split"), [
    (0, 1, 0, "train"), (99, 1, 0, "train"), (1, -1, 0, "train"), (1, 1, "a", "train"), (1, 1, 0, "exam"),
])  # fmt: skip
def test_impossible_requests(level, count, seed, split):
    with pytest.raises(SkillError):
        get_skill(PLAIN).generate(level, count, seed, split)


def test_it_travels_to_a_worker_process_and_is_no_default_goal():
    skill = pickle.loads(pickle.dumps(get_skill(PLAIN)))
    assert skill.generate(1, 2, 0) == get_skill(PLAIN).generate(1, 2, 0) and skill.generate(1, 0, 0) == []
    assert not any(skill_id.startswith("rg:") for skill_id in skill_ids())
    assert all(isinstance(info, LevelInfo) and info.description for info in skill.levels())


def test_commands(home, monkeypatch):
    from realm.cli import app

    monkeypatch.setenv("REALM_HOME", str(home.root))
    listed = CliRunner().invoke(app, ["skill", "list", "--all"]).output
    assert "rg:chain_sum" in listed and "rg:codeio" not in listed
    assert "rg:" not in CliRunner().invoke(app, ["skill", "list"]).output
    assert "200" in CliRunner().invoke(app, ["skill", "levels", "rg:chain_sum"]).output
    lines = CliRunner().invoke(app, ["skill", "generate", "rg:chain_sum", "--level", "2", "--count", "2"]).output
    assert [json.loads(line)["split"] for line in lines.splitlines()] == ["train", "train"]


def test_the_page_is_printed_from_the_data():
    assert (ROOT / "docs" / "REASONING_GYM.md").read_text(encoding="utf-8") == measured.page(rg.survey())


def test_an_idle_quest_passes_the_gate(tmp_path):
    from realm.quests import idle
    from realm.temple import cleric

    for name in (PLAIN, f"rg:{next(t for t in USABLE if not rg.survey()['tasks'][t]['templates'])}"):
        skill = get_skill(name)
        order = idle.IdleOrder(name, skill.version, {1: 60}, 7)
        facts = idle.write(order, tmp_path / "quest.jsonl")
        assert facts["rows"] == 60
        assert cleric.check_idle(tmp_path / "quest.jsonl", skill)["verdict"] == "accepted"

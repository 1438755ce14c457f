"""Sparring: the three rows, balanced verdicts, near misses, expiry, the Cleric's word, the file of a session."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.guild.skills import get_skill
from realm.guild.skills.base import keyed_rng
from realm.quests import sparring
from realm.quests.origin import origin_of
from realm.quests.sparring import Corner, Score, SparringError

CORNER = Corner("C", "R", "CP", 400)


def some(skill="bin", level=3, count=40, seed=1, split="train"):
    return get_skill(skill).generate(level, count, seed, split)


def answers(problems, wrong=()):
    """A hero that says the golden answer, except for {index: text}."""
    by_prompt = {p.prompt: dict(wrong).get(i, p.golden) for i, p in enumerate(problems)}
    return lambda conversations, room: [(by_prompt[c[-1]["content"]], room) for c in conversations]


def distinct(problems):
    return list({p.prompt: p for p in problems}.values())


def file_of(home, quest):
    return home.queue / "live" / quest / sparring.FILE


def rows_of(bouts):
    return [row for three in sparring.reflections(bouts, CORNER) for row in three]


@pytest.mark.parametrize("skill,level", [("bin", 3), ("bin", 9), ("sy", 4), ("attn_count", 2), ("logic_chain", 3)])
def test_a_near_miss_is_wrong_and_near(skill, level):
    found = 0
    for problem in some(skill, level, 60):
        slip = sparring.near_miss(problem, get_skill(skill), keyed_rng("t", problem.id))
        if slip is not None:
            found += 1
            assert slip != problem.golden and not get_skill(skill).grade(problem, slip).correct
            assert abs(len(slip) - len(problem.golden)) <= 1
            assert sum(a != b for a, b in zip(slip, problem.golden, strict=False)) <= len(problem.golden)
    assert found >= 50, "a slip can be made in nearly every answer"


def test_a_slip_is_made_in_what_the_answer_adds_to_the_prompt():
    problem = next(p for p in some("bin", 5, 200) if p.operation == "add" and p.difficulty == "easy")
    stem = problem.golden.rpartition("=")[0]
    for i in range(20):
        assert sparring.near_miss(problem, get_skill("bin"), keyed_rng(i)).startswith(stem)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 29)), st.integers(0, 5))
def test_every_wrong_answer_gives_three_rows_and_the_verdicts_are_balanced(which, seed):
    problems = distinct(some(count=30))
    wrong = {i: problems[i].golden + "①" for i in which if i < len(problems)}
    bouts = sparring.spar(problems, answers(problems, wrong), seed)
    rows = rows_of(bouts)
    kinds, negatives = Counter(row["type"] for row in rows), sum(b.wrong is not None for b in bouts)
    assert kinds == dict.fromkeys(sparring.KINDS, negatives)
    assert negatives >= max(len(wrong), round(len(problems) * sparring.WANTED) - 1)
    for first, mend, confirm in sparring.reflections(bouts, CORNER):
        asked = [row["messages"][0]["content"] for row in (first, mend, confirm)]
        assert len({row["canonical"] for row in (first, mend, confirm)}) == 1, "both verdicts beside every problem"
        assert first["messages"][1]["content"] == sparring.WRONG and confirm["messages"][1]["content"] == sparring.RIGHT
        problem = next(p for p in problems if p.id == first["id"])
        assert all(problem.prompt in text for text in asked) and problem.golden in asked[2]
        assert mend["messages"][1]["content"] == problem.golden
    for bout in bouts:
        assert bout.wrong is None or not get_skill("bin").grade(bout.problem, bout.wrong).correct
        assert bout.correct or bout.source == "own", "no own wrong answer is passed over"


def test_a_hero_that_is_always_right_gets_near_misses_only():
    problems = distinct(some(count=40))
    bouts = sparring.spar(problems, answers(problems), 3)
    score = Score.of(bouts)
    assert (score.asked, score.wrong, score.own) == (len(problems), 0, 0)
    assert score.near_miss == round(len(problems) / 2)


@pytest.mark.parametrize("absurd", ["", "  \n", "zzzz", "①" * 400])
def test_absurd_answers_are_replaced_by_near_misses(absurd):
    problems = distinct(some(count=10))
    bouts = sparring.spar(problems, answers(problems, dict.fromkeys(range(10), absurd)), 3)
    score = Score.of(bouts)
    assert score.absurd == score.wrong == len(problems) and score.own == 0 and score.near_miss >= 4
    assert not any(absurd.strip() and absurd in row["messages"][0]["content"] for row in rows_of(bouts))


def test_the_same_answers_give_the_same_rows_and_another_seed_others():
    problems = distinct(some(count=30))
    wrong = {2: problems[2].golden + "⓪"}
    one, again, other = (rows_of(sparring.spar(problems, answers(problems, wrong), seed)) for seed in (1, 1, 2))
    assert one == again != other


def test_judge_gets_own_wrong_answers_against_the_golden_ones():
    problems = distinct(some(count=20))
    wrong = {i: problems[i].golden + "①" for i in (1, 5)}
    bouts = sparring.spar(problems, answers(problems, wrong), 1)
    pairs = sparring.duels(bouts, CORNER)
    assert {(p["prompt"], p["chosen"], p["rejected"]) for p in pairs} == {
        (problems[i].prompt, problems[i].golden, wrong[i]) for i in wrong}  # fmt: skip
    assert len(sparring.duels(bouts, CORNER, near_misses=True)) > 2
    assert all(p["checkpoint"] == "CP" and p["expires_step"] == 1400 for p in pairs)


# --- what is asked ------------------------------------------------------------------------------------------------


def test_half_of_the_questions_aim_at_a_weak_primitive():
    candidates = some("bin", 6, 400)
    chosen = sparring.aimed(candidates, ("shift",), 40)
    assert len(chosen) == len({p.canonical for p in chosen}) == 40
    assert sum("shift" in p.primitives for p in chosen) >= 20 > sum("shift" in p.primitives for p in candidates[:40])
    assert [p.id for p in sparring.aimed(candidates, (), 5)] == [p.id for p in candidates[:5]]


@pytest.mark.parametrize("split", ["trial", "probe", "public"])
def test_no_held_out_problem_is_ever_asked(split):
    held = some(count=3, split=split)
    honest = [p.to_dict() for p in some(count=3)]
    with pytest.raises(SparringError, match=f"row 4 is of the {split} split"):
        sparring.problems_of([*honest, held[0].to_dict()], "f")
    with pytest.raises(SparringError, match=f"{split} split"):  # a row that lies about its split
        sparring.problems_of([replace(held[0], split="train").to_dict()], "f")
    with pytest.raises(SparringError, match=f"{split} split"):
        sparring.problems_of([{"messages": held[0].messages, "skill": "bin", "level": 3}], "f")


def test_problems_are_read_from_whole_rows_and_from_prompts():
    problems = some(count=4)
    rows = [problems[0].to_dict(), {"messages": problems[1].messages, "skill": "bin", "level": 3},
            {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]},
            replace(problems[2], golden="①").to_dict() | {"id": "liar"}]  # fmt: skip
    found = sparring.problems_of(rows, "f")
    assert [p.prompt for p in found] == [p.prompt for p in problems[:2]], "a golden answer that is wrong is no problem"
    with pytest.raises(SparringError, match="none of its rows is a problem"):
        sparring.problems_of(rows[2:3], "f")


# --- expiry -------------------------------------------------------------------------------------------------------


def test_rows_expire():
    row = CORNER.marks()
    for step in (400, 401, 1399):
        assert sparring.expired(row, "C", "R", step) is None
    assert "expired at step 1,400" in sparring.expired(row, "C", "R", 1400)
    assert "the hero is at 399" in sparring.expired(row, "C", "R", 399)
    assert "run R" in sparring.expired(row, "C", "R2", 500)
    assert "campaign C" in sparring.expired(row, "D", "R", 500)
    for missing in ("step", "expires_step", "checkpoint"):
        assert sparring.expired({k: v for k, v in row.items() if k != missing}, "C", "R", 500)
    assert sparring.is_sparring(row) and sparring.is_sparring({"type": sparring.CONFIRM})
    assert not sparring.is_sparring({"messages": []})


def test_the_groundskeeper_finds_and_deletes_what_expired(home):
    problems = distinct(some(count=8))
    bouts = sparring.spar(problems, answers(problems), 1)
    corners = {"Q1": CORNER, "Q2": replace(CORNER, step=1500), "Q3": replace(CORNER, run_id="OLD"),
               "Q4": replace(CORNER, campaign_id="GONE")}  # fmt: skip
    for name, corner in corners.items():
        sparring.write_rows(file_of(home, name), sparring.reflections(bouts, corner), Score.of(bouts))
    file_of(home, "Q5").parent.mkdir()
    file_of(home, "Q5").write_bytes(b"not json\n")
    stale = sparring.stale_files(home, {"C": ("R", 1600)})
    assert {s.path for s in stale} == {f"queue/live/{name}/sparring.jsonl" for name in ("Q1", "Q3", "Q4", "Q5")}
    assert sparring.delete_stale(home, stale) == sum(s.bytes for s in stale) > 1000
    left = sorted(p.relative_to(home.queue).as_posix() for p in home.queue.rglob("*.js*"))
    assert left == ["live/Q2/sparring.json", "live/Q2/sparring.jsonl"]
    assert sparring.delete_stale(home, stale) and sparring.stale_files(home, {"C": ("R", 1600)}) == []


# --- the file -----------------------------------------------------------------------------------------------------


def test_a_session_is_read_back_and_a_changed_one_refused(home):
    problems = distinct(some(count=12))
    bouts = sparring.spar(problems, answers(problems, {0: problems[0].golden + "①"}), 1)
    path = file_of(home, "Q")
    assert sparring.read_session(path) is None
    bad = next(b for b in bouts if b.wrong is not None).problem.id
    groups = sparring.reflections(bouts, CORNER)

    def refused(row):
        return "long" if row["id"] == bad and row["type"] == sparring.CORRECT else None

    score = sparring.write_rows(path, groups, Score.of(bouts), refused)
    assert score.left_out == {"long": 1} and score.made == 3 * (len(groups) - 1), "a group is taken or left as one"
    rows, told = sparring.read_session(path)
    assert told == score and len(rows) == score.made and not any(row["id"] == bad for row in rows)
    assert Counter(row["messages"][1]["content"] == sparring.WRONG for row in rows)[True] * 3 == len(rows)
    assert {origin_of(row) for row in rows} == {"procedural-verified"}
    path.write_bytes(path.read_bytes().replace(b"incorrect", b"splendid", 1))
    with pytest.raises(SparringError, match="was changed since"):
        sparring.read_session(path)
    sparring.score_path(path).unlink()  # as a kill between the two files leaves it
    assert sparring.read_session(path) is None

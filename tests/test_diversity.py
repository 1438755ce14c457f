"""The diversity filter of generated rows."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.guild.skills import Problem, get_skill
from realm.quests import diversity, idle
from realm.quests.diversity import DRAWN, RECENT, Rules, diverse, filter_texts, question, replay

BIN = get_skill("bin")


def problem(number, level=4, operation="add", difficulty="easy", skill="toy", split="train"):
    return Problem(skill=skill, level=level, difficulty=difficulty, kind="compute", operation=operation,
                   prompt=f"{operation} {number} and {number + 1}", golden=str(number),
                   id=f"{skill}{number}{operation}", canonical=f"{operation}|{number}", split=split)  # fmt: skip


def fresh_from(start, **more):
    """Draws that nobody has seen: the numbers from `start` on."""
    return lambda skill, level, count: [problem(start + n, level, skill=skill, **more) for n in range(count)]


def never(skill, level, count):
    raise AssertionError("nothing had to be drawn")


def opened(skill, level):
    return False


def test_repeats_give_their_place_to_fresh_questions_of_the_same_kind():
    made = [problem(n % 50) for n in range(60)] + [problem(n, operation="sub") for n in range(60)]
    kept, report = diverse(made, fresh_from(1000), opened)
    assert len(kept) == 120 and len({question(p) for p in kept}) == 120
    assert [p.operation for p in kept] == [p.operation for p in made]
    assert kept[:50] == made[:50] and kept[60:] == made[60:] and kept[50].canonical == "add|1000"
    assert report["filtered"] == {"repeat": 10, "not_needed": DRAWN - 10} and report["repeats_by_design"] == {}
    assert report["made"] == 120 + DRAWN == report["kept"] + sum(report["filtered"].values())
    assert report["distinct"] == 1.0 and report["alert"] is None


def test_questions_of_the_last_quests_are_avoided():
    past = {question(problem(n)) for n in range(10)}
    kept, report = diverse([problem(n) for n in range(40)], fresh_from(1000), opened, past)
    assert not past & {question(p) for p in kept} and report["filtered"]["repeat_of_earlier"] == 10
    assert len(kept) == 40


def test_nothing_is_drawn_while_nothing_repeats():
    made = [problem(n) for n in range(40)]
    kept, report = diverse(iter(made), never, opened, {question(problem(99))})
    assert kept == made and report["filtered"] == {} and report["made"] == 40


def test_a_closed_level_is_a_table_whose_rows_repeat():
    made = [problem(n % 10) for n in range(60)]
    kept, report = diverse(made, never, lambda skill, level: level == 4, {question(problem(1))})
    assert kept == made and report["repeats_by_design"] == {"closed": 50}
    assert report["alert"] is None and report["distinct"] is None


def test_an_operation_with_few_questions_keeps_its_repeats():
    """Otherwise increments would vanish from practice, and the mix of operations with them."""
    made = [problem(n % 4, operation="increment") for n in range(20)] + [problem(n) for n in range(100)]
    kept, report = diverse(made, fresh_from(1000), opened)
    assert sum(p.operation == "increment" for p in kept) == 20
    assert report["repeats_by_design"] == {"few_questions": 16}


def test_a_fresh_question_that_is_known_or_of_another_split_is_no_help():
    made = [problem(0), problem(0), problem(0)]
    draws = [problem(0), problem(5), problem(5), problem(7, split="trial"), problem(6, difficulty="hard"), problem(8)]
    kept, report = diverse(made, lambda *_: draws, opened, {question(problem(8))})
    assert [p.canonical for p in kept] == ["add|0", "add|5", "add|0"]
    assert report["filtered"] == {"repeat": 1, "not_needed": 5}


def test_a_floor_that_cannot_be_reached_is_an_alert_not_a_smaller_quest():
    made = [problem(n % 4) for n in range(40)]
    kept, report = diverse(made, lambda skill, level, count: [problem(n % 4) for n in range(count)], opened)
    assert len(kept) == 40
    alert = report["alert"]
    assert {"code", "what", "why", "fix"} <= set(alert)
    assert "toy level 4" in alert["what"] and "4 different questions in 40 rows" in alert["why"]
    assert diverse(made[:DRAWN - 1], lambda *_: [], opened)[1]["alert"] is None, "too few rows to say"


def test_questions_that_differ_in_a_hair_only_miss_the_floor_of_word_pairs():
    made = [Problem(skill="toy", level=2, difficulty="easy", kind="k", operation="o", golden="1", canonical=str(n),
                    id=str(n), split="train", prompt="the very same words come again and again " * 20 + str(n))
            for n in range(100)]  # fmt: skip
    report = diverse(made, never, opened)[1]
    assert "word pairs" in report["alert"]["why"] and report["pairs"] < 0.02 and report["top_template"] == 1.0


@pytest.mark.parametrize("level", [3, 8, 30])
def test_the_shipped_skill_passes_its_own_filter(level):
    made = BIN.generate(level, 300, 7, "train")
    report = diverse(made, lambda s, n, count: BIN.generate(n, count, 8, "train"), lambda s, n: BIN.closed(n))[1]
    assert report["alert"] is None and report["distinct"] > 0.75


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["add", "sub"]), st.integers(1, 3)), max_size=80),
       st.sets(st.integers(0, 30)), st.integers(0, 40))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_nothing_disappears_and_the_mix_stays(numbers, earlier, offset):
    made = [problem(n, level, operation) for n, operation, level in numbers]
    past = {question(problem(n)) for n in earlier}

    def redraw(skill, level, count):
        return [problem(offset + n // 2, level, ("add", "sub")[n % 2], skill=skill) for n in range(count)]

    kept, report = diverse(made, redraw, lambda skill, level: level == 1, past)
    assert [(p.level, p.operation, p.difficulty) for p in kept] == [(p.level, p.operation, p.difficulty) for p in made]
    assert report["made"] == len(kept) + sum(report["filtered"].values())
    assert diverse(made, redraw, lambda skill, level: level == 1, past) == (kept, report), "the same again"
    assert replay(made, redraw, json.loads(json.dumps(report["replaced"]))) == kept
    before = len({question(p) for p in made})
    assert len({question(p) for p in kept}) >= before


# --- the quest's file ---------------------------------------------------------------------------------------------


def test_a_quest_is_made_again_from_what_its_origin_says(tmp_path):
    order = idle.IdleOrder("bin", BIN.version, {1: 30, 5: 200, 8: 100}, 11)
    past = {question(p) for p in BIN.generate(5, 2000, 3, "train")}
    facts = idle.write(order, tmp_path / "one.jsonl", past=past)
    report = facts["diversity"]
    assert facts["rows"] == 330 and report["filtered"]["repeat_of_earlier"] > 0
    replaced = json.loads(json.dumps(report["replaced"]))
    again = idle.write(order, tmp_path / "two.jsonl", replaced=replaced)
    assert again["sha256"] == facts["sha256"]
    assert idle.write(order, tmp_path / "three.jsonl")["sha256"] != facts["sha256"]


def test_rows_out_of_the_buffer_keep_their_origin(tmp_path):
    old = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "origin": "teacher", "rehearsal": "x"}]  # fmt: skip
    facts = idle.write(idle.IdleOrder("bin", BIN.version, {4: 20}, 1), tmp_path / "x.jsonl", remembered=old)
    assert facts["origins"] == {"teacher": 1, "procedural-verified": 20} and facts["rows"] == 21
    assert json.loads((tmp_path / "x.jsonl").read_text().splitlines()[-1]) == old[0]


def test_the_filter_is_cheap(tmp_path):
    """Well under a tenth of making the rows, draws included (measured: 1 to 9 %); the bound here leaves room."""
    started = time.process_time()
    made = BIN.generate(12, 800, 7, "train")
    making = time.process_time() - started
    past = {question(p) for p in BIN.generate(12, 3200, 9, "train")}
    started = time.process_time()
    diverse(made, lambda s, n, count: BIN.generate(n, count, 8, "train"), lambda s, n: False, past)
    assert time.process_time() - started < 0.5 * making


# --- the last quests ----------------------------------------------------------------------------------------------


def test_the_questions_of_the_last_quests_are_kept_small(home):
    for number in range(RECENT + 3):
        diversity.remember(home, "c", f"{number:026}", {number, 4_000_000_000 + number})
    found = diversity.recent(home, "c")
    assert found == {n for k in range(3, RECENT + 3) for n in (k, 4_000_000_000 + k)}
    files = list((home.root / "campaigns" / "c" / "questions").iterdir())
    assert len(files) == RECENT and all(f.stat().st_size == 8 for f in files)
    files[0].write_bytes(b"\1\0\0\0\2")
    assert 1 in diversity.recent(home, "c"), "a file that is cut short counts as far as it goes"
    assert diversity.recent(home, "another") == frozenset()


# --- text that a model wrote --------------------------------------------------------------------------------------


def said(text):
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]}


def test_near_duplicates_of_model_text_go():
    base = "Explain in your own words why the old bridge over the river was closed to heavy wagons during the winter"
    rows = [said(base), said(base.upper() + "  "), said(base + " months"), said("What does a miller do with the grain")]
    stay, report = filter_texts(rows)
    assert stay == [0, 3] and report["filtered"] == {"near_duplicate": 2}
    assert report["made"] == report["kept"] + sum(report["filtered"].values())


def words(seed, n=12):
    from realm.guild.skills.base import keyed_rng

    rng = keyed_rng("words", seed)
    return " ".join("".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(n))


def test_one_template_may_not_fill_the_quest():
    rows = [said(f"Add {n * 7919 % 99991} to {n * 104729 % 99991}") for n in range(80)]
    rows += [said(words(n)) for n in range(40)]
    stay, report = filter_texts(rows, Rules(near=1.0))
    template = [place for place in stay if place < 80]
    assert len(template) == 40 and len(stay) == 80 and report["filtered"]["template"] == 40
    assert template != list(range(40)) and filter_texts(rows, Rules(near=1.0))[0] == stay
    assert filter_texts(rows, Rules(near=1.0, template=1.0))[1]["kept"] == 120


@given(st.lists(st.text(max_size=60), max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_text_is_taken_or_counted(texts):
    stay, report = filter_texts([said(text) for text in texts])
    assert report["made"] == len(texts) == len(stay) + sum(report["filtered"].values()) and stay == sorted(set(stay))

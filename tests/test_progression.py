"""Titles, achievements, debuffs and combat: pure functions of the ledger's facts."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from tavern_kit import Play, fresh_home

from realm import db, lore
from realm.guild import campaigns, progress
from realm.guild.progression import achievements, combat, debuffs, document, titles
from realm.guild.progression.debuffs import Bout, Exam, Present, Ruling
from realm.guild.progression.history import BlessingFact, History, LevelFact, RunFact, TrialFact, read_history
from realm.guild.progression.lineage import line_of, mastered_by
from realm.heroes.profile import load_profile
from realm.state import progression as state
from realm.state.router import create_state_app
from realm.state.stream import hub_of
from realm.vault.champion import candidates, champion

ROOT = Path(__file__).parents[1]


@pytest.fixture
def home(tmp_path):
    return fresh_home(tmp_path / "realm")


@pytest.fixture
def play(home):
    made = Play(home)
    yield made
    made.close()


def drawn(play, campaign=None) -> state.Progression:
    with db.read(play.engine) as connection:
        return state.progression(connection, campaign or play.campaign)


def have(play) -> set[str]:
    return {a.id for a in drawn(play).achievements if a.t is not None}


def suffer(play) -> set[str]:
    return {d.id for d in drawn(play).debuffs}


# --- documents ----------------------------------------------------------------------------------------------------


def test_committed_page_and_schema_are_printed_by_the_code():
    assert (ROOT / "docs/PROGRESSION.md").read_text(encoding="utf-8") == document.document(), (
        "run: python3 -m realm.guild.progression > docs/PROGRESSION.md")  # fmt: skip
    assert state.SCHEMA_FILE.read_text(encoding="utf-8") == state.schema_text(), (
        "run: python -m realm.state.progression > src/realm/state/progression.schema.json")  # fmt: skip


def test_ids_and_names_are_unique_and_every_debuff_tells_its_cure():
    for rows in (achievements.ACHIEVEMENTS, debuffs.DEBUFFS):
        assert len({r.id for r in rows}) == len({r.name for r in rows}) == len(rows)
        assert all(r.about for r in rows)
    assert 25 <= len(achievements.ACHIEVEMENTS) <= 32
    assert all(d.cure and d.ml for d in debuffs.DEBUFFS)


@pytest.mark.parametrize("word", ["Title", "Achievement", "Debuff", "Critical hit", "Practice strain", "Trial strain",
                                  "Over-drilling", "Ledger", "Fragmented Thoughts"])  # fmt: skip
def test_glossary_knows_the_words(word):
    assert lore.GLOSSARY[word.lower()].ml


# --- titles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mastered", "shown"), [
    ({}, "Untrained"), ({"bin": 0}, "Untrained"), ({"bin": 1}, "Novice, Digit Squire"),
    ({"bin": 3}, "Apprentice, Bit Counter"), ({"bin": 10, "sy": 15}, "Adept, Syllable Sage"),
    ({"bin": 5, "sy": 5}, "Journeyman, Binary Arithmetician"), ({"seq_reverse": 2}, "Novice, Initiate of seq_reverse"),
    ({"bin": 30, "sy": 50, "x": 120}, "Grandmaster, Master of x"),
])  # fmt: skip
def test_title(mastered, shown):
    assert titles.title_of(mastered).shown == shown


@given(st.dictionaries(st.sampled_from(["bin", "sy", "a", "b"]), st.integers(0, 60)),
       st.sampled_from(["bin", "sy", "a", "b"]))  # fmt: skip
def test_titles_only_rise(mastered, skill):
    names = [name for _, name in titles.RANKS]
    before = titles.title_of(mastered)
    more = {**mastered, skill: mastered.get(skill, 0) + 1}
    after = titles.title_of(more)
    assert names.index(after.rank) >= names.index(before.rank)
    assert titles.title_of(dict(reversed(mastered.items()))) == before, "the order of skills says nothing"
    assert before.next_at is None or before.next_at > before.total_level


def test_kind_is_the_profiles_own(home):
    for hero in ("pip", "dio", "flo"):
        profile = load_profile(hero, home)
        kind = state.kind_of(profile.model_dump(mode="json"))
        assert (kind.race, kind.stature, kind.rpg_class) == (profile.race, profile.stature, profile.rpg_class)
    assert state.kind_of({}) is None
    assert state.kind_of({"model": {"family": "Nova", "size_b": 200}}).race == "Nova"


# --- achievements: laws -------------------------------------------------------------------------------------------

TIMES = st.integers(0, 40).map(float)
SKILLS = st.sampled_from(["bin", "sy", "rg:sum"])


@st.composite
def histories(draw) -> History:
    """Facts that a campaign might leave, dense enough for most rules to be true of some."""
    keys = draw(st.lists(st.tuples(SKILLS, st.integers(1, 7)), unique=True, max_size=14))
    levels = [LevelFact(s, n, draw(st.booleans()) and n < 3, draw(TIMES), draw(st.integers(0, 400)), f"p-{s}-{n}")
              for s, n in keys]  # fmt: skip
    quest = st.sampled_from([None, *"qrstuv"])
    trials = [TrialFact(f.trial_id, draw(TIMES), "promotion", f.skill, f.level, f.closed, 80, 78, "pass", False, 1, "c",
                        draw(quest), {"carry": (40, 40), "xfm_encode": (50, 50), "seq_x": (30, draw(st.just(30)))})
              for f in levels]  # fmt: skip
    for number in range(draw(st.integers(0, 16))):
        n = 80
        right = draw(st.integers(0, n))
        kind = draw(st.sampled_from(["promotion", "retention", "scout", "manual"]))
        verdict = draw(st.sampled_from(["held", "regression", "lost"] if kind == "retention" else ["pass", "fail"]))
        trials.append(TrialFact(f"t{number}", draw(TIMES), kind, draw(SKILLS), draw(st.integers(1, 7)), False, n, right,
                                verdict, draw(st.booleans()), 1, "c", draw(quest)))  # fmt: skip
    blessings = [
        BlessingFact(f"b{i}", draw(TIMES), f"quest{i}", draw(st.sampled_from(["blessed", "partial", "unproven"])), 0.9,
                     10.0, 9.0, draw(st.sampled_from(["file", "idle"])), None,
                     draw(st.sampled_from(["scribe", "mirror"])), draw(st.sampled_from([None, *"abcdef"])))
        for i in range(draw(st.integers(0, 30)))
    ]  # fmt: skip
    runs = [RunFact(f"r{i}", draw(TIMES), draw(st.sampled_from([None, 5, 90]))) for i in range(draw(st.integers(0, 3)))]
    return History.of(levels, trials, blessings, runs)


@settings(max_examples=80, deadline=None)
@given(histories(), TIMES)
def test_what_is_earned_stays_earned_and_looks_at_nothing_later(history, t):
    now, later = achievements.earned(history.until(t)), achievements.earned(history)
    assert now == {key: e for key, e in later.items() if e.t <= t}


@settings(max_examples=40, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_order_of_rows_says_nothing(history, rng):
    rows = [list(getattr(history, name)) for name in ("levels", "trials", "blessings", "runs")]
    for each in rows:
        rng.shuffle(each)
    assert achievements.earned(History.of(*rows)) == achievements.earned(history)


@settings(max_examples=40, deadline=None)
@given(histories(), st.lists(st.tuples(TIMES, SKILLS, st.integers(1, 7), st.integers(0, 80)), max_size=20))
def test_trials_ordered_by_hand_change_nothing(history, asked):
    more = [TrialFact(f"m{i}", t, "manual", skill, level, False, 80, right, "pass", False, 1, "c", "q",
                      {"carry": (80, 80)}) for i, (t, skill, level, right) in enumerate(asked)]  # fmt: skip
    farmed = History.of(history.levels, [*history.trials, *more], history.blessings, history.runs)
    assert achievements.earned(farmed) == achievements.earned(history)


@settings(max_examples=40, deadline=None)
@given(histories(), st.integers(1, 7), SKILLS)
def test_more_promotion_trials_or_compute_earn_nothing(history, level, skill):
    """Failed trials and blessings without experience are what asking often and training long leave."""
    fails = [TrialFact(f"x{i}", float(i), "promotion", skill, level, False, 40, 20, "fail", False, 1, "c", None)
             for i in range(41)]  # fmt: skip
    idle = [BlessingFact(f"y{i}", float(i), f"idle{i}", "unproven", 0.0, 1e6, 0.0, "idle") for i in range(41)]
    farmed = History.of(history.levels, [*history.trials, *fails], history.blessings, history.runs)
    # A leap is a gain between two trials of different weights, and made-up trials make one up.
    assert set(achievements.earned(farmed)) - {"leap"} <= set(achievements.earned(history))
    lazy = History.of(history.levels, (), idle, ())
    assert set(achievements.earned(lazy)) == set(achievements.earned(History.of(history.levels, (), (), ())))


def test_nothing_happened_nothing_earned():
    assert achievements.earned(History()) == {}


# --- achievements: each rule --------------------------------------------------------------------------------------


def climb(skill: str, top: int, start: float = 0.0, closed: int = 0) -> list[LevelFact]:
    return [LevelFact(skill, n, n <= closed, start + n, 10 * n, f"{skill}{n}") for n in range(1, top + 1)]


def sat(id: str, t: float, kind: str, level: int, verdict: str, correct: int = 78, quest: str | None = None,
        skill: str = "bin", **more) -> TrialFact:  # fmt: skip
    return TrialFact(id, t, kind, skill, level, False, 80, correct, verdict, False, 1, "c", quest, **more)


def blest(t: float, quest: str = "", verdict: str = "blessed", kind: str = "idle", **more) -> BlessingFact:
    return BlessingFact(f"b{t}", t, quest or f"q{t}", verdict, 0.9, 1.0, 1.0, kind, **more)


def test_levels_earn_by_their_sum_depth_and_breadth():
    found = achievements.earned(History.of([*climb("bin", 10, closed=2), *climb("sy", 5, 100.0)]))
    assert {"first_lesson", "into_the_open", "total_5", "total_10", "two_trades", "two_crafts", "depth_10",
            "open_10"} <= set(found)  # fmt: skip
    assert not {"total_20", "depth_20", "five_trades"} & set(found)
    assert found["into_the_open"].t == 3.0 and found["into_the_open"].evidence == ("bin3",)
    assert found["two_trades"].t == 101.0 and found["two_crafts"].t == 105.0


def test_a_gap_counts_when_it_is_closed():
    rows = [f for f in climb("bin", 6) if f.level != 3]
    assert "total_5" not in achievements.earned(History.of(rows))
    late = LevelFact("bin", 3, False, 50.0, 1, "late")
    assert achievements.earned(History.of([*rows, late]))["total_5"].t == 50.0


def test_unbroken_climb_needs_first_tries():
    levels = climb("bin", 4)
    first = [sat(f.trial_id, f.t, "promotion", f.level, "pass") for f in levels]
    assert achievements.earned(History.of(levels, first))["unbroken_3"].t == 3.0
    fail = sat("a", 1.5, "promotion", 2, "fail", 40)
    assert "unbroken_3" not in achievements.earned(History.of(levels, [*first, fail])), "L2 took two"


def test_memory_is_judged_on_the_first_check_that_is_old_enough():
    levels, quests = climb("bin", 1), [blest(2.0 + i) for i in range(6)]
    early = sat("e", 3.5, "retention", 1, "held")
    assert "kept_5" not in achievements.earned(History.of(levels, [early], quests)), "two quests old"
    fell, held = sat("f", 8.0, "retention", 1, "regression", 30), sat("h", 9.0, "retention", 1, "held")
    assert achievements.earned(History.of(levels, [held], quests))["kept_5"].evidence == ("bin1", "h")
    assert "kept_5" not in achievements.earned(History.of(levels, [fell, held], quests)), "the first one decides"


def test_fallen_levels_are_mended_by_a_quest_not_by_another_check():
    levels = climb("bin", 1)
    fell, held = sat("f", 3.0, "retention", 1, "lost", 20), sat("h", 5.0, "retention", 1, "held")
    assert not {"mended", "risen"} & set(achievements.earned(History.of(levels, [fell, held])))
    found = achievements.earned(History.of(levels, [fell, held], [blest(4.0)]))
    assert found["mended"].evidence == found["risen"].evidence == ("f", "h")
    only = sat("f", 3.0, "retention", 1, "regression", 50)
    assert "risen" not in achievements.earned(History.of(levels, [only, held], [blest(4.0)]))


def test_whole_memory_and_nothing_forgotten():
    levels = climb("bin", 5)
    holds = [sat(f"h{n}", n + 0.1, "retention", n, "held") for n in range(1, 6)]
    found = achievements.earned(History.of(levels, holds))
    assert found["whole_5"].t == 5.1
    assert "nothing_forgotten" not in found, "four checks among the five levels"
    more = [*holds, sat("again", 4.5, "retention", 1, "held")]
    assert achievements.earned(History.of(levels, more))["nothing_forgotten"].t == 5.0
    fell = sat("fell", 4.6, "retention", 1, "regression", 40)
    assert "nothing_forgotten" not in achievements.earned(History.of(levels, [*more, fell]))


def test_leap_needs_intervals_that_do_not_touch_and_one_quest():
    low, high = sat("l", 1.0, "scout", 3, "fail", 20, "q1"), sat("h", 3.0, "scout", 3, "fail", 60, "q2")
    assert "leap" not in achievements.earned(History.of((), [low, high])), "no quest between"
    assert achievements.earned(History.of((), [low, high], [blest(2.0)]))["leap"].evidence == ("l", "h")
    near = sat("h", 3.0, "scout", 3, "fail", 34, "q2")
    assert "leap" not in achievements.earned(History.of((), [low, near], [blest(2.0)]))
    assert "leap" not in achievements.earned(History.of((), [low, high], [blest(1.5), blest(2.5)])), "two quests"


def test_files_schools_and_primitives():
    files = [blest(float(i), kind="file", content=c, school="scribe") for i, c in enumerate("aabcde")]
    found = achievements.earned(History.of((), (), files))
    assert found["outside_teaching"].t == 0.0 and found["five_scrolls"].t == 5.0, "the same file twice is one"
    assert "two_schools" not in found
    assert "two_schools" in achievements.earned(History.of((), (), [*files, blest(9.0, school="mirror")]))
    tags = {f"{g}_x": (60, 60) for g in achievements.PRIMITIVE_GROUPS} | {"carry": (60, 60), "signed": (30, 60)}
    won = sat("bin1", 1.0, "promotion", 1, "pass", primitives=tags)
    other = sat("z", 0.5, "promotion", 1, "pass", primitives={"signed": (90, 90)})
    found = achievements.earned(History.of(climb("bin", 1), [won, other]))
    assert {"six_groups", "primitives_5", "carry"} <= set(found)
    assert "signed" not in found, "only trials that mastered a level count"


def test_second_path_counts_only_beyond_what_was_proved():
    back = RunFact("r2", 5.0, 20)
    again = LevelFact("sy", 1, False, 6.0, 30, "t")
    assert achievements.earned(History.of(climb("bin", 3), (), (), [back]))  # levels before the rollback
    assert "second_path" not in achievements.earned(History.of(climb("bin", 3), (), (), [back]))
    assert achievements.earned(History.of([*climb("bin", 3), again], (), (), [back]))["second_path"].t == 6.0


# --- debuffs ------------------------------------------------------------------------------------------------------


def exam(t: float, verdict: str = "fail", level: int = 3, correct: int = 30, trial=None, practice=None,
         **more) -> Exam:  # fmt: skip
    return Exam(f"e{t}", t, "bin", level, 80, correct, verdict, trial_strain=trial, practice_strain=practice, **more)


def drill(*pairs: tuple[float, float]) -> Present:
    exams = [exam(float(i), trial=held, practice=trained) for i, (held, trained) in enumerate(pairs)]
    return Present(exams=tuple(reversed(exams)))


@pytest.mark.parametrize(("now", "expected"), [
    (Present(), set()),
    (Present(fallen=(exam(1, "regression"),)), {"fragmented_thoughts"}),
    (Present(severed=(exam(1, "pass"),)), {"severed_thread"}),
    (Present(humbled=(exam(1),)), {"humbled"}),
    (drill((0.3, 0.3), (0.33, 0.2), (0.4, 0.1)), {"over_drilled"}),
    (drill((0.3, 0.3), (0.31, 0.2), (0.32, 0.1)), set()),  # too small a rise
    (drill((0.3, 0.3), (0.29, 0.2), (0.4, 0.1)), set()),  # not each time
    (drill((0.3, 0.1), (0.35, 0.2), (0.4, 0.3)), set()),  # both rise: too hard, not over-drilled
    (drill((0.3, 0.3), (0.4, 0.2)), set()),
    (Present(exams=(exam(1, correct=0, suspicious=True),)), {"hollow_words"}),
    (Present(exams=(exam(2), exam(1, correct=0, suspicious=True))), set()),
    (Present(exams=(exam(1),), repeated=("⓪", 40)), {"curse_of_repetition"}),
    (Present(exams=(exam(1),), repeated=("⓪", 39)), set()),
    (Present(blessings=(Ruling("b", 1, "cursed", True),)), {"corrupted_knowledge"}),
    (Present(blessings=(Ruling("c", 2, "blessed", True), Ruling("b", 1, "cursed", True))), set()),
    (Present(blessings=tuple(Ruling(str(i), i, "unproven", True) for i in (3, 2, 1))), {"dull_blade"}),
    (Present(blessings=tuple(Ruling(str(i), i, "unproven", i != 2) for i in (3, 2, 1))), set()),
    (Present(battles=(Bout("b", 1, True), Bout("a", 0, True))), {"exhaustion"}),
    (Present(battles=(Bout("b", 1, True), Bout("a", 0, False))), set()),
    (Present(battles=(Bout("b", 1, True, "Loss became NaN at step 7; lower the learning rate, then resume"),)),
     {"reality_tear"}),
    (Present(battles=(Bout("b", 1, False),), steps=((50.0, 0.2), *[(1.0, 0.2)] * 60)), {"wild_magic"}),
    (Present(battles=(Bout("b", 1, False),), steps=((50.0, 0.2), *[(1.0, 0.2)] * 20)), set()),
    (Present(battles=(Bout("b", 1, False),), steps=((0.0001, 0.5),) * 50), {"trance"}),
    (Present(battles=(Bout("b", 1, False),), steps=((0.0001, 0.01),) * 50), set()),  # nothing left to learn
    (Present(battles=(Bout("b", 1, False),), steps=((None, 0.5),) * 90), set()),
])  # fmt: skip
def test_debuff_rules(now, expected):
    found = debuffs.active(now)
    assert set(found) == expected
    assert all(each.why and each.evidence for each in found.values())


def test_regression_is_a_debuff_until_a_check_holds(play):
    checkpoint = play.won_battle()
    assert suffer(play) == set()
    fell = play.trial(1, 40, 80, checkpoint, kind="retention", verdict="regression")
    (debuff,) = drawn(play).debuffs
    assert (debuff.id, debuff.evidence) == ("fragmented_thoughts", (fell,)) and "rehearsal" in debuff.cure
    play.trial(1, 79, 80, checkpoint, kind="retention", verdict="held")
    assert suffer(play) == set()


def test_an_old_regression_does_not_count_as_the_clause_says(play):
    checkpoint = play.won_battle()
    play.trial(1, 40, 80, checkpoint, kind="retention", verdict="regression")
    for level in range(2, 9):
        play.arm(level=level)
        play.begin()
        play.finish()
    assert "fragmented_thoughts" not in suffer(play)


def test_failed_trial_humbles_until_a_quest_was_trained(play):
    checkpoint = play.won_battle()
    failed = play.trial(2, 20, 80, checkpoint, verdict="fail")
    assert [d.evidence for d in drawn(play).debuffs] == [(failed,)] and suffer(play) == {"humbled"}
    play.arm(level=2)
    play.begin()
    play.finish()
    assert suffer(play) == set()


def test_repeated_answers_are_read_from_the_newest_trial(play):
    checkpoint = play.won_battle()
    trial = play.trial(2, 10, 80, checkpoint, kind="scout", verdict="fail")
    with play.write() as connection:
        connection.execute(sa.insert(db.trial_items), [
            {"trial_id": trial, "idx": i, "problem": {}, "response": "right" if i < 10 else "⓪⓪" if i < 60 else str(i),
             "correct": i < 10, "reason": ""} for i in range(80)])  # fmt: skip
    (debuff,) = drawn(play).debuffs
    assert debuff.id == "curse_of_repetition" and "50 of 80" in debuff.why


# --- rollbacks ----------------------------------------------------------------------------------------------------


def roll_back(play, checkpoint: str, step: int) -> None:
    with play.write() as connection:
        play.run = campaigns.new_run(connection, play.campaign, checkpoint, "test")
    play.step = step


def test_only_the_present_line_of_weights_counts_where_it_matters(play):
    """L1 at step 120, L2 on weights that are given up: title and deeds stay, champion and debuffs follow the line."""
    first = play.won_battle(1)
    play.won_battle(2, correct=380, n=400)
    given_up = play.trial(1, 30, 80, play.checkpoint_of_last_win(), kind="retention", verdict="regression")
    assert suffer(play) == {"fragmented_thoughts"}
    roll_back(play, first, 120)
    found = {d.id: d for d in drawn(play).debuffs}
    assert set(found) == {"severed_thread"}, "the regression was of weights that are gone"
    assert given_up not in found["severed_thread"].evidence
    assert drawn(play).title.total_level == 2 and "first_lesson" in have(play), "what was proved stays proved"
    # The same step number on the new run is other weights: L2 is not theirs.
    play.arm(level=2)
    play.begin()
    play.train(400, batch=100)
    new = play.checkpoint()
    play.trial(1, 79, 80, new, kind="retention", verdict="held")
    with db.read(play.engine) as connection:
        assert mastered_by(connection, play.campaign, play.run, play.step) == {"bin": 1}
        assert mastered_by(connection, play.campaign, line_run(connection, given_up), 240) == {"bin": 2}
        ranks = {c.checkpoint_id: c.total_level for c in candidates(connection, play.campaign)}
        assert ranks[new] == 1 and champion(connection, play.campaign).total_level == 2
    play.trial(2, 79, 80, new, kind="retention", verdict="held")  # proved again on this line
    with db.read(play.engine) as connection:
        assert mastered_by(connection, play.campaign, play.run, play.step) == {"bin": 2}
    assert suffer(play) == set()


def line_run(connection, trial_id: str) -> str:
    t, c = db.trials.c, db.checkpoints.c
    return connection.execute(sa.select(c.run_id).join(db.trials, t.checkpoint_id == c.id).where(
        t.id == trial_id)).scalar_one()  # fmt: skip


def test_line_without_a_campaign_is_empty(play):
    with db.read(play.engine) as connection:
        assert not line_of(connection, "nobody").has("x", 0)
        assert debuffs.active(debuffs.read_present(connection, "nobody")) == {}


# --- combat -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-6, 20), min_size=1, max_size=700))
def test_hits_are_judged_against_the_percentile_of_those_before(losses):
    hits, window = combat.Hits(), deque(maxlen=combat.HITS)
    for loss in losses:
        hit, critical = hits.add(loss)
        assert hit == 1 / max(loss, combat.HIT_FLOOR)
        ranked = sorted(window)
        expected = len(ranked) >= combat.HITS_MIN and hit > ranked[min(len(ranked) - 1, int(0.99 * len(ranked)))]
        assert critical == expected
        window.append(hit)


def test_blows_of_thinned_steps_count_no_criticals():
    struck = combat.blows([(0.5, 0.1, 20), (0.4, None, 1)])
    assert (struck.steps, struck.best, struck.criticals, struck.exact) == (21, 10.0, None, False)
    assert combat.blows([]) == combat.Blows(0, None, 0, True)
    assert combat.blows([(1.0, 1.0, 1)] * 200 + [(0.1, 0.1, 1)]).criticals == 1


@pytest.mark.parametrize(("state_", "verdict", "retention", "result"), [
    ("done", "blessed", ["held"], "Victory"), ("done", "blessed", ["held", "lost"], "Hard-won"),
    ("done", "partial", [], "Hard-won"), ("done", "unproven", [], "Stalemate"), ("done", "cursed", [], "Defeat"),
    ("failed", None, [], "Defeat"), ("skipped", None, [], "Retreat"), ("training", None, [], None),
    ("queued", "blessed", [], "Victory"),  # an earlier time that it was done
])  # fmt: skip
def test_result_of_a_quest(state_, verdict, retention, result):
    assert combat.result_of(state_, verdict, retention) == result


def test_fights_tell_hits_levels_and_experience(play):
    play.won_battle(1, steps=150)
    play.arm(level=2)
    play.begin()
    play.train(20)
    play.finish("skipped", "skipped")
    lost, won = drawn(play).fights
    assert (lost.result, lost.xp, lost.levels, lost.steps) == ("Retreat", 0.0, (), 20)
    assert (won.result, won.xp, won.levels, won.steps) == ("Victory", 40.0, (("bin", 1),), 150)
    with db.read(play.engine) as connection:
        table = db.metrics.c
        least = connection.execute(sa.select(sa.func.min(table.loss)).where(table.step <= 150)).scalar_one()
        crits = connection.execute(sa.select(sa.func.count()).where(db.events.c.kind == "crit")).scalar_one()
    assert won.best_hit == pytest.approx(1 / least) and won.criticals == crits


# --- from the database --------------------------------------------------------------------------------------------


def long_game(play) -> None:
    for level in (1, 2):
        play.won_battle(level, correct=390, n=400)
    for level in (3, 4, 5):
        checkpoint = play.won_battle(level, correct=78, n=80, closed=False)
        play.trial(1, 70, 80, checkpoint, kind="retention", verdict="held")
    play.trial(2, 20, 80, checkpoint, kind="retention", verdict="lost")
    roll_back(play, checkpoint, play.step)
    play.won_battle(6, correct=78, n=80, closed=False)


def test_same_result_after_the_database_is_rebuilt(play, tmp_path):
    long_game(play)
    expected = drawn(play)
    assert {"first_lesson", "total_5", "unbroken_3", "second_path"} <= have(play)
    other = fresh_home(tmp_path / "other")
    engine, rng = db.connect(other), random.Random(3)
    with db.read(play.engine) as source, db.write(engine) as target:
        target.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        for table in db.metadata.sorted_tables:
            rows = [dict(row) for row in source.execute(sa.select(table)).mappings()]
            rng.shuffle(rows)
            if rows:
                target.execute(sa.insert(table), rows)
    with db.read(engine) as connection:
        assert state.progression(connection, play.campaign) == expected
    engine.dispose()


def test_history_is_what_the_tables_say(play):
    play.won_battle()
    with db.read(play.engine) as connection:
        history = read_history(connection, play.campaign)
        assert read_history(connection, "nobody") == History()
    assert [(f.skill, f.level, f.closed) for f in history.levels] == [("bin", 1, True)]
    assert [(t.kind, t.correct, t.n) for t in history.trials] == [("promotion", 190, 193)]
    assert [(b.verdict, b.kind, b.skill) for b in history.blessings] == [("blessed", "idle", "bin")]
    assert [r.parent_step for r in history.runs] == [None]
    assert history.until(0.0) == History()


def test_another_campaign_earns_nothing_from_this_one(play):
    play.won_battle()
    with play.write() as connection:
        other = campaigns.ensure_active(connection, "dio", {"model": {"family": "qwen", "size_b": 0.6}})
    found = drawn(play, other)
    assert found.title.shown == "Untrained" and not any(a.t for a in found.achievements) and found.fights == ()
    assert found.kind.stature == "Sprite"


def test_api_answers_the_same_object(home, play):
    play.won_battle()
    with TestClient(create_state_app(home), base_url="http://localhost:8866") as client:
        answer = client.get("/api/progression")
        assert answer.status_code == 200
        assert state.Progression.model_validate(answer.json()) == drawn(play)
    hub_of(home).close()


def test_api_before_the_first_campaign(home):
    with TestClient(create_state_app(home), base_url="http://localhost:8866") as client:
        answer = client.get("/api/progression").json()
    hub_of(home).close()
    assert answer["campaign_id"] is None and answer["title"]["shown"] == "Untrained" and answer["debuffs"] == []
    assert len(answer["achievements"]) == len(achievements.ACHIEVEMENTS)


def test_title_agrees_with_total_level(play):
    long_game(play)
    with db.read(play.engine) as connection:
        total = progress.hero_progress(connection, play.campaign).total_level
    assert drawn(play).title.total_level == total == 6

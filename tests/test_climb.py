"""The climb benchmark: what its numbers mean, what its arms may know; the committed page is the stored runs."""

import math

import pytest
from benchmarks import climb, climb_arms
from benchmarks.climb_field import PROBE_N, OpenLevels, Purse, ladders, mixture
from hypothesis import given
from hypothesis import strategies as st

from realm.guild.curriculum import Knobs, QuestSpec
from realm.guild.skills import get_skill


def look(tokens, **levels):
    """`levels`: skill = accuracies from its first level on."""
    probe = {f"{skill}:{n}": a for skill, found in levels.items() for n, a in enumerate(found, 1)}
    return {"tokens": tokens, "asked": 0, "cpu_s": 1.0, "probe": probe}


def made(arm, seed, *looks, stages=()):
    return {"arm": arm, "seed": seed, "curve": list(looks), "asked": 10, "trained": 90, "cpu_s": 3.0, "quests": 2,
            "code": "0",
            "stages": [{"task": t, "accuracy": a, "tokens": 1, "cpu_s": 1} for t, a in stages]}  # fmt: skip


def test_total_level_has_no_gaps():
    assert climb.total_level({"a:1": 0.8, "a:2": 0.79, "a:3": 1.0, "b:1": 0.9, "b:2": 0.8}) == 3
    assert climb.total_level({"a:1": 0.0, "a:2": 1.0}) == 0


def test_tokens_to_a_level_and_the_ratio_of_two_arms():
    slow = made("uniform", 0, look(100, a=[0.1, 0.1]), look(200, a=[0.9, 0.1]), look(300, a=[0.7, 0.1]))
    quick = made("guild", 0, look(120, a=[0.9, 0.1]), look(300, a=[0.9, 0.9]))
    assert climb.best_level(slow) == (1, 200), "the best it ever had, when it first had it"
    assert climb.tokens_to(slow, 2) == math.inf
    assert climb.speed_ratio([quick], [slow]) == [0.6]
    never = made("guild", 0, look(120, a=[0.1, 0.1]))
    assert climb.speed_ratio([never], [slow]) == [math.inf]
    assert climb.speed_ratio([made("guild", 1, look(1, a=[1]))], [slow]) == [], "only the same seed is compared"
    rows = climb.table([slow, never])
    assert [row.met for row in rows if "best level" in row.measure and row.met] == ["no"], "a miss is published"


def test_forgetting_is_from_the_end_of_the_stage():
    run = made("guild", 0, look(1, a=[1.0, 0.2]), look(2, a=[0.7, 0.9]), stages=[("a:1", 0.9), ("a:1", 0.5)])
    assert climb.forgetting(run) == [pytest.approx(0.2)], "the first end of a stage counts"
    assert climb.forgetting(run, peak=True) == [pytest.approx(0.3)]
    assert climb.forgetting(made("uniform", 0, look(1, a=[1.0]))) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_bootstrap_interval_holds_the_mean(values):
    low, high = climb.bootstrap(values, 200)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert climb.bootstrap(values, 200) == (low, high), "the same every time"


def test_a_purse_is_empty_by_tokens_or_by_time():
    assert not Purse(10, 1.0, trained=5, asked=4, used_s=0.9).empty
    assert Purse(10, 1.0, trained=5, asked=5).empty, "trials are paid like training"
    assert Purse(10, 1.0, used_s=1.0).empty


TASKS = st.dictionaries(st.tuples(st.sampled_from(["bin", "a", "b"]), st.integers(1, 4)), st.floats(0.01, 1),
                        min_size=1)  # fmt: skip


@given(TASKS)
def test_a_mixture_keeps_its_shares(shares):
    spec = mixture(shares, "x")
    found = {(spec.skill, n): share for n, share in spec.mix.items()}
    found |= {(skill, n): share for skill, mix in spec.others.items() for n, share in mix.items()}
    whole = sum(shares.values())
    assert found == pytest.approx({task: share / whole for task, share in shares.items()})


def test_without_rehearsal_nothing_mastered_is_trained():
    spec = QuestSpec("bin", 3, "idle", {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.1}, 0.4, Knobs(), "r", (),
                     {"a": {1: 0.05}, "b": {1: 0.05, 2: 0.1}}, 0.1)  # fmt: skip
    training = {"bin": 3, "a": 2, "b": 2}
    bare = climb_arms.without_rehearsal(spec, training)
    assert bare.mix == pytest.approx({3: 0.6, 4: 0.2}) and bare.others == {"b": {2: pytest.approx(0.2)}}
    assert bare.buffer == 0
    repair = QuestSpec("bin", 1, "rehearsal", {1: 0.7, 3: 0.3}, 1.0, Knobs(), "r")
    assert climb_arms.without_rehearsal(repair, training).mix == {3: 1.0}


def test_open_levels_are_the_skill_from_its_first_open_level():
    whole = get_skill("bin")
    with ladders(("bin",), 2) as found:
        skill = get_skill("bin")
        assert isinstance(skill, OpenLevels) and found["bin"] is skill and skill.max_level == 2
        assert [info.level for info in skill.levels()] == [1, 2] and not any(skill.closed(n) for n in (1, 2))
        mine, theirs = skill.generate(1, 20, 5), whole.generate(3, 20, 5)
        assert [p.prompt for p in mine] == [p.prompt for p in theirs] and {p.level for p in mine} == {1}
        assert all(skill.grade(p, p.golden).correct and skill.split_of(p.prompt) == "train" for p in mine)
    assert get_skill("bin") is whole, "the registry is as it was"


def test_the_committed_page_is_the_stored_runs():
    """Every arm, seed and number of docs/CLIMB.md follows from the files in benchmarks/climb_results, and what was not
    run is named."""
    runs = climb.load(climb.STORE)
    assert runs, "no stored run: `python -m benchmarks climb` makes them"
    every = {(arm, seed) for arm in climb_arms.ARMS for seed in climb.SEEDS}
    there = {(run["arm"], run["seed"]) for run in runs}
    assert there <= every and len(there) == len(runs)
    text = (climb.ROOT / "docs" / "CLIMB.md").read_text(encoding="utf-8")
    assert ("Not run yet" in text) == (there != every)
    assert all(f"{arm} {seed}" in text for arm, seed in every - there)
    for run in runs:
        assert run["budget"] == {"tokens": climb.TOKENS, "cpu_s": climb.CPU_MINUTES * 60}
        assert run["skills"] == list(climb.SKILLS) and run["levels"] == climb.LEVELS and run["probe_n"] == PROBE_N
        spent = run["trained"] + run["asked"]
        assert spent >= climb.TOKENS or run["cpu_s"] >= climb.CPU_MINUTES * 60, "it ended because its purse was empty"
        assert run["curve"][-1]["tokens"] == spent
    assert text == climb.page(runs)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # 60 seconds of CPU may be many on a busy machine
def test_one_arm_runs_for_a_minute(tmp_path, monkeypatch):
    """The Guild's arm for 60 CPU-seconds on two skills: it trains, examines, pays for both and can be told."""
    monkeypatch.setattr(climb, "SKILLS", ("seq_reverse", "attn_count"))
    monkeypatch.setattr(climb, "LEVELS", 2)
    run = climb.run_one("guild", 0, cpu_s=60.0)
    assert run["quests"] >= 1 and run["trained"] > 10_000 and run["asked"] > 0 and run["cpu_s"] >= 60
    assert set(run["curve"][-1]["probe"]) == {"seq_reverse:1", "seq_reverse:2", "attn_count:1", "attn_count:2"}
    assert climb.final_accuracy(run) > 0.05, "it learnt something"
    assert "guild" in climb.page([run]) and climb.table([run])

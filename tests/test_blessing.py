"""The blessing: ceremony times evidence, held-out only, and computable again from its parts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm.temple.blessing import (
    CeremonyCheck,
    LevelEvidence,
    ProbeEvidence,
    bless,
    ceremony_factor,
    recompute,
    retention_factor,
)


def check(status="ok", critical=False):
    return CeremonyCheck("c", status, critical, "")


def level(accuracy, before=None, number=1):
    return LevelEvidence("bin", number, accuracy, 0.8, before)


@pytest.mark.parametrize("checks,factor", [
    ([], 1.0), ([check()], 1.0), ([check("skip")], 1.0), ([check("warn")], 0.9), ([check("warn")] * 9, 0.7),
    ([check("fail")], 0.7), ([check("fail")] * 2, 0.4), ([check("fail")] * 3, 0.3), ([check("fail", True)], 0.0),
    ([check("fail"), check("warn")], 0.7), ([check("skip", True)], 0.9), ([check("ok", True)], 1.0),
])  # fmt: skip
def test_ceremony(checks, factor):
    assert ceremony_factor(checks) == pytest.approx(factor)


@pytest.mark.parametrize("evidence,value", [
    (level(0.8), 1.0), (level(1.0), 1.0), (level(0.4, 0.4), 0.5), (level(0.02), 0.4), (level(0.05), 1.0),
    (level(0.3, 0.275), 0.5), (level(0.2, 0.9), 0.25), (level(0.0), 0.0),
])  # fmt: skip
def test_evidence_of_a_level(evidence, value):
    assert evidence.value == pytest.approx(value)


def test_verdicts_and_experience():
    assert bless(100, [check()], [level(0.9)]).xp == 100
    partial = bless(100, [check()], [level(0.4, 0.4)])
    assert (partial.verdict, partial.quality, partial.xp) == ("partial", pytest.approx(0.5), pytest.approx(50))
    beginner = bless(100, [check()], [level(0.02, 0.02), level(0.0, 0.0)])
    assert (beginner.verdict, beginner.xp) == ("unproven", 0), "weak evidence is no curse"
    cursed = bless(100, [check("fail", True)], [level(1.0)])
    assert (cursed.verdict, cursed.quality, cursed.xp) == ("cursed", 0, 0)
    assert bless(100, [check("fail")] * 3, [level(1.0)]).verdict == "partial"


def test_mean_over_the_trained_levels():
    found = bless(10, [], [level(0.8, 0.8), level(0.0, 0.0, 2)])
    assert found.evidence == pytest.approx(0.5)


def test_file_quests_are_proved_by_their_probe():
    gained = bless(10, [], probe=ProbeEvidence(2.0, 1.8, 50))
    assert (gained.verdict, gained.evidence, gained.xp) == ("blessed", 1.0, 10)
    assert bless(10, [], probe=ProbeEvidence(2.0, 1.95, 50)).evidence == pytest.approx(0.5)
    worse = bless(10, [], probe=ProbeEvidence(2.0, 2.5, 50))
    assert (worse.evidence, worse.verdict) == (0.0, "unproven")
    small = bless(10, [], probe=ProbeEvidence(2.0, 1.0, 19))
    assert (small.verdict, small.xp) == ("unproven", 0) and "too small" in small.parts["why"]
    assert "nothing held out" in bless(10, []).parts["why"]


def test_what_was_forgotten_weighs_on_a_file_quest():
    assert retention_factor([]) == 1.0 and retention_factor(["measured"]) == 1.0
    assert retention_factor(["held", "regression", "lost", "held", "measured"]) == 0.5
    probe = ProbeEvidence(2.0, 1.0, 50)
    assert bless(10, [], probe=probe, retention=["held", "regression"]).evidence == 0.5


statuses = st.builds(CeremonyCheck, st.just("c"), st.sampled_from(["ok", "warn", "fail", "skip"]), st.booleans(),
                     st.just(""))  # fmt: skip
levels = st.builds(LevelEvidence, st.just("bin"), st.integers(1, 30), st.floats(0, 1), st.just(0.8),
                   st.none() | st.floats(0, 1))  # fmt: skip
probes = st.none() | st.builds(ProbeEvidence, st.floats(0, 10), st.floats(0, 10), st.integers(0, 300))


@given(st.floats(0, 1e6), st.lists(statuses, max_size=5), st.lists(levels, max_size=5), probes)
def test_bounds_and_recomputation(effort, checks, evidence, probe):
    found = bless(effort, checks, evidence, probe)
    assert 0 <= found.ceremony <= 1 and 0 <= found.evidence <= 1 and 0 <= found.xp <= effort
    assert found.quality == found.ceremony * found.evidence
    assert (found.xp > 0) <= (found.quality >= 0.3)
    again = recompute(effort, json.loads(json.dumps(found.parts)))
    assert again == found

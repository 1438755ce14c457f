"""The gate's calibration: the simulation runs the game's own trial, and agrees with the exact values."""

from __future__ import annotations

import pytest
from benchmarks import gate, registry
from hypothesis import given
from hypothesis import strategies as st

from realm.arena import trial
from realm.guild.levels import LOOKS, odds


def test_simulation_agrees_with_the_exact_values():
    for accuracy in (0.80, 0.86):
        found = gate.simulate(accuracy, 1_500)
        assert gate.distance(accuracy, found) <= gate.FAR and sum(found.promoted) / found.trials == found.share
        assert found.problems / found.trials == pytest.approx(odds(accuracy).problems, rel=0.05)


def test_streams_are_keyed_and_prefixes_agree():
    assert gate.simulate(0.85, 60, 6) == gate.simulate(0.85, 60, 6)
    assert gate.simulate(0.85, 60, 6).promoted[:3] == gate.simulate(0.85, 30, 3).promoted
    assert gate.simulate(0.85, 60, 6).promoted != gate.simulate(0.850001, 60, 6).promoted


def test_the_real_trial_is_run(monkeypatch):
    seen = []
    real = trial.judge
    monkeypatch.setattr(trial, "judge", lambda spec, correct, n, last: seen.append(n) or real(spec, correct, n, last))
    gate.simulate(0.8, 40)
    assert set(seen) == set(LOOKS), "the verdict comes from the looks of arena/trial.py"


@given(st.floats(0.01, 0.99), st.integers(1, 20))
def test_at_least_is_a_binomial_tail(p, need):
    assert 0 <= gate.at_least(need, 20, p) <= gate.at_least(need - 1, 20, p) <= 1 + 1e-12
    assert gate.at_least(0, 20, p) == pytest.approx(1)
    assert gate.at_least(20, 20, p) == pytest.approx(p**20)


def test_naive_rules_are_what_they_are_called():
    assert gate.NAIVE_NEED / gate.NAIVE_N == 0.80 and (gate.NAIVE_NEED - 1) / gate.NAIVE_N < 0.80
    assert gate.GYM_NEED / gate.GYM_N > 0.70 and (gate.GYM_NEED - 1) / gate.GYM_N <= 0.70
    assert gate.within(0.5, 2) == 0.75


def test_rows(monkeypatch):
    monkeypatch.setattr(gate, "TRIALS", 400)
    rows = gate.run(registry.Options())
    promoted = {r.measure: r for r in rows if "simulated trials" in r.measure}
    assert len(promoted) == len(gate.ACCURACIES)
    assert promoted["true accuracy 0.70: promoted, simulated trials"].median < 2.0
    assert promoted["true accuracy 0.90: promoted, simulated trials"].median > 90.0
    (check,) = [r for r in rows if r.bound is not None]
    assert check.met == "yes", check.values
    assert sum("reasoning-gym" in r.measure for r in rows) == 4

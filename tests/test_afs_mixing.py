"""Largest remainder and water-filling hold their axioms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afs.training.mixing import largest_remainder, water_fill

NAMES = st.text("abcdefgh", min_size=1, max_size=3)
WEIGHTS = st.dictionaries(NAMES, st.floats(0, 100), min_size=1, max_size=8).filter(lambda w: sum(w.values()) > 1e-6)
CAPACITIES = st.dictionaries(NAMES, st.integers(0, 50), min_size=1, max_size=8)


def test_the_guides_mix():
    """0.35 / 0.20 / 0.25 / 0.20 of 1003: two units are left and go to the two largest remainders."""
    weights = {"oracle": 0.35, "memory": 0.20, "toolbench": 0.25, "rehearsal": 0.20}
    assert largest_remainder(weights, 1003) == {"oracle": 351, "memory": 201, "toolbench": 251, "rehearsal": 200}
    assert largest_remainder({"b": 1, "a": 1, "c": 1}, 4) == {"b": 1, "a": 2, "c": 1}, "ties go by name"


@given(WEIGHTS, st.integers(0, 10_000))
def test_counts_are_exact_fair_and_independent_of_order(weights, total):
    counts = largest_remainder(weights, total)
    assert sum(counts.values()) == total
    whole = sum(weights.values())
    for name, count in counts.items():
        assert abs(count - weights[name] / whole * total) < 1 + 1e-6
    assert largest_remainder(dict(reversed(weights.items())), total) == counts
    assert all(count == 0 for name, count in counts.items() if weights[name] == 0)


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": float("nan")}, {"a": float("inf")}])
def test_bad_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weight"):
        largest_remainder(weights, 10)


@given(CAPACITIES, st.integers(0, 400))
def test_quotas_fill_evenly(capacities, total):
    quotas = water_fill(capacities, total)
    assert sum(quotas.values()) == min(total, sum(capacities.values()))
    open_ones = [quotas[n] for n in quotas if quotas[n] < capacities[n]]
    assert all(0 <= quotas[n] <= capacities[n] for n in quotas)
    if open_ones:
        assert max(open_ones) - min(open_ones) <= 1
        assert all(quotas[n] <= max(open_ones) + 1 for n in quotas), "a full group never has more than an open one"
    assert water_fill(dict(reversed(capacities.items())), total) == quotas


def test_the_shortfall_of_small_groups_goes_to_the_others():
    assert water_fill({"a": 5, "b": 1000, "c": 1000}, 300) == {"a": 5, "b": 148, "c": 147}

"""Strain against its formulas written out, zones and hints at their thresholds, state through JSON."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.guild import strain
from realm.guild.strain import StrainTracker, zone_of

losses = st.lists(st.floats(0, 12, allow_nan=False), min_size=1, max_size=120)


def reference(values, floor):
    """The formulas of the rules, from scratch at every step."""
    out = []
    for t in range(1, len(values) + 1):
        a = 2 / 51
        weights = [a * (1 - a) ** (t - 1 - i) for i in range(t)]
        ema = sum(w * x for w, x in zip(weights, values[:t], strict=True)) / sum(weights)
        low = min(values[max(0, t - 200) : t]) if floor is None else floor
        out.append((ema, max(0.0, ema - low)))
    return out


@settings(max_examples=60, deadline=None)
@given(losses, st.one_of(st.none(), st.floats(0, 2)))
def test_ema_strain_and_effort_are_the_formulas(values, floor):
    tracker = StrainTracker(floor)
    readings = [tracker.update(x) for x in values]
    for reading, (ema, expected) in zip(readings, reference(values, floor), strict=True):
        assert reading.loss_ema == pytest.approx(ema, rel=1e-9, abs=1e-12)
        assert reading.strain == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert readings[-1].effort == pytest.approx(sum(r.strain for r in readings))


def test_strain_rate_is_an_ema_of_differences():
    tracker = StrainTracker(0.0)
    values = [3.0, 2.5, 2.7, 2.0, 1.0]
    readings = [tracker.update(x) for x in values]
    rate = None
    for before, now in zip(readings, readings[1:], strict=False):
        change = now.strain - before.strain
        rate = change if rate is None else 0.9 * rate + 0.1 * change
        assert now.strain_rate == pytest.approx(rate)
    assert readings[0].strain_rate is None


@pytest.mark.parametrize(("value", "zone"), [
    (0.0, "recovery"), (math.nextafter(0.1, 0), "recovery"), (0.1, "productive"),
    (math.nextafter(0.3, 0), "productive"), (0.3, "stretch"), (0.5, "stretch"), (math.nextafter(0.5, 1), "overload"),
    (9.0, "overload"),
])  # fmt: skip
def test_zone_edges(value, zone):
    assert zone_of(value) == zone


def test_zone_changes_only_after_twenty_steps_in_a_row():
    tracker = StrainTracker(0.0)
    assert tracker.update(0.2).zone == "productive"
    low = 0.0
    zones = [tracker.update(low) for _ in range(400)]
    first_low = next(i for i, r in enumerate(zones) if r.strain < 0.1)
    changed = next(i for i, r in enumerate(zones) if r.zone == "recovery")
    assert changed == first_low + strain.HYSTERESIS - 1
    # A single step above the edge does not count as a change, and starts the count anew.
    spike = tracker.update(20.0)
    assert spike.strain > 0.1 and spike.zone == "recovery"


def test_interrupted_excursion_starts_the_count_anew():
    tracker = StrainTracker(0.0)
    tracker.zone = tracker._candidate = "productive"
    tracker.steps = 5
    for _ in range(strain.HYSTERESIS - 1):
        tracker._move_zone("stretch")
    tracker._move_zone("productive")
    tracker._move_zone("stretch")
    assert tracker.zone == "productive"
    for _ in range(strain.HYSTERESIS - 1):
        tracker._move_zone("stretch")
    assert tracker.zone == "stretch"


def settled(zone, rate, steps=60):
    """A tracker in a zone whose last ten rates are all `rate`."""
    tracker = StrainTracker(0.0)
    tracker.update({"recovery": 0.05, "productive": 0.2, "stretch": 0.4, "overload": 1.0}[zone])
    tracker.steps = steps
    tracker._rates.extend([rate] * strain.HINT_STEPS)
    return tracker


@pytest.mark.parametrize(("zone", "rate", "action"), [
    ("overload", 0.0, "back_off"), ("overload", 0.01, "back_off"), ("overload", -0.01, "continue"),
    ("stretch", -0.01, "continue"), ("stretch", 0.0, "continue"), ("stretch", 0.01, "back_off"),
    ("productive", -0.01, "continue"), ("productive", 0.01, "continue"),
    ("recovery", 0.0, "level_up"), ("recovery", -0.01, "continue"), ("recovery", 0.01, "continue"),
    ("recovery", -0.005, "level_up"), ("recovery", 0.005, "level_up"),
])  # fmt: skip
def test_hint_table(zone, rate, action):
    hint = settled(zone, rate).hint()
    assert hint.action == action
    assert zone in hint.reason and "strain" in hint.reason
    assert hint.confidence == 1.0


def test_hint_waits_for_ten_steps_and_grows_confident_over_fifty():
    tracker = StrainTracker(0.0)
    hints = [tracker.update(0.01).hint for _ in range(60)]
    assert [h.action for h in hints[:10]] == ["wait"] * 10 and "steps seen" in hints[3].reason
    assert hints[10].action == "level_up"
    confidences = [h.confidence for h in hints[10:]]
    assert confidences == sorted(confidences) and confidences[0] == pytest.approx(11 / 50) and confidences[-1] == 1.0


def test_running_lower_envelope_forgets_after_200_steps():
    tracker = StrainTracker(None)
    assert tracker.update(2.0).floor == 2.0
    assert tracker.update(0.5).floor == 0.5
    floors = [tracker.update(2.0).floor for _ in range(200)]
    assert floors[198] == 0.5 and floors[199] == 2.0


@settings(max_examples=40, deadline=None)
@given(losses, st.integers(0, 119), st.one_of(st.none(), st.just(0.25)))
def test_state_survives_json_bit_for_bit(values, cut, floor):
    cut = min(cut, len(values))
    whole, first = StrainTracker(floor), StrainTracker(floor)
    expected = [whole.update(x) for x in values]
    for x in values[:cut]:
        first.update(x)
    second = StrainTracker.from_state(json.loads(json.dumps(first.state_dict())))
    assert [second.update(x) for x in values[cut:]] == expected[cut:]
    assert second.state_dict() == whole.state_dict()


def test_not_a_number_is_refused_and_changes_nothing():
    tracker = StrainTracker(0.0)
    chance = random.Random(0)
    for _ in range(5):
        tracker.update(chance.random())
    before = tracker.state_dict()
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            tracker.update(bad)
    assert tracker.state_dict() == before
    with pytest.raises(ValueError, match="floor = -1"):
        StrainTracker(-1)

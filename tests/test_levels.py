"""The level rule: bounds, looks, closed and open levels, retention, and the published table."""

import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.guild import levels
from realm.guild.levels import LOOKS, Check, judge_closed, judge_open, judge_retention, may_promote, odds, wilson

DOC = Path(__file__).parents[1] / "docs" / "LEVELS.md"
counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.floats(0.5, 4))
def test_wilson_bounds_enclose_the_share_and_solve_the_score_equation(count, z):
    correct, n = count
    lower, upper = wilson(correct, n, z)
    share = correct / n
    assert 0 <= lower <= share <= upper <= 1
    for bound in (lower, upper):
        # The score interval is where |share - p| = z * sqrt(p (1 - p) / n).
        assert abs(share - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), abs=1e-7)


@given(counts, st.floats(0.5, 3), st.floats(0.1, 1))
def test_wilson_widens_with_confidence_and_narrows_with_n(count, z, more):
    correct, n = count
    lower, upper = wilson(correct, n, z)
    wide_lower, wide_upper = wilson(correct, n, z + more)
    assert wide_lower <= lower and upper <= wide_upper
    same_share = wilson(3 * correct, 3 * n, z)
    assert same_share[1] - same_share[0] < upper - lower


@given(counts)
def test_wilson_rises_with_every_right_answer_and_mirrors(count):
    correct, n = count
    lower, upper = wilson(correct, n)
    if correct < n:
        assert wilson(correct + 1, n)[0] > lower and wilson(correct + 1, n)[1] >= upper
    mirrored = wilson(n - correct, n)
    assert mirrored == pytest.approx((1 - upper, 1 - lower), abs=1e-9)


def test_wilson_known_values_and_nothing_measured():
    # 8 of 10 at 95 %: (0.490, 0.943), the textbook case (Brown, Cai, DasGupta 2001, section 3.1.1 formula).
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 7)[0] == 0.0 and wilson(7, 7)[1] == 1.0


@pytest.mark.parametrize("correct,n", [(-1, 5), (6, 5), (0, -1)])
def test_impossible_counts_are_refused(correct, n):
    for judge in (wilson, judge_open, judge_closed, judge_retention):
        with pytest.raises(ValueError, match="correct"):
            judge(correct, n)
    with pytest.raises(ValueError, match="z ="):
        wilson(1, 2, 0)


@given(st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.05, 0.95))
def test_open_verdict_says_exactly_what_the_bounds_say(count, threshold):
    correct, n = count
    verdict = judge_open(correct, n, threshold)
    lower, upper = wilson(correct, n)
    if n not in LOOKS:
        assert verdict == "continue"
        return
    assert (verdict == "pass") == (lower >= threshold)
    assert (verdict == "fail") == (upper < threshold)
    assert (verdict == "undecided") == (n == 200 and lower < threshold <= upper)


@given(st.sampled_from(LOOKS).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))))
def test_one_more_right_answer_never_hurts(count):
    correct, n = count
    order = {"fail": 0, "continue": 1, "undecided": 1, "pass": 2}
    assert order[judge_open(correct + 1, n)] >= order[judge_open(correct, n)]


def test_open_levels_at_the_edges():
    assert [levels.needed(n) for n in LOOKS] == [37, 72, 105, 138, 172]
    assert judge_open(36, 40) == "continue" and judge_open(37, 40) == "pass"
    assert judge_open(27, 40) == "fail" and judge_open(28, 40) == "continue"
    assert judge_open(171, 200) == "undecided" and judge_open(172, 200) == "pass"
    assert judge_open(39, 39) == "continue", "between looks nothing is decided"
    assert levels.needed(3) is None and levels.needed(50, closed=True) == 45
    with pytest.raises(ValueError, match="ends at 200"):
        judge_open(201, 201)


def test_closed_levels_need_nine_tenths():
    assert judge_closed(45, 50) == "pass" and judge_closed(44, 50) == "fail"
    assert judge_closed(174, 193) == "pass" and judge_closed(173, 193) == "fail"
    with pytest.raises(ValueError, match="0 problems"):
        judge_closed(0, 0)


@given(st.integers(0, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_retention_verdict_says_what_the_upper_bound_says(count):
    correct, n = count
    verdict = judge_retention(correct, n)
    upper = wilson(correct, n, 2.58)[1]
    if n < 80:
        assert verdict == "measured"
    else:
        assert verdict == ("lost" if upper < 0.5 else "regression" if upper < 0.8 else "held")


def test_retention_at_the_edges():
    borders = [max(c for c in range(81) if judge_retention(c, 80) == v) for v in ("lost", "regression")]
    assert borders == [28, 54]
    assert judge_retention(0, 79) == "measured"
    found = levels.retention_odds(0.80)
    assert sum(found.values()) == pytest.approx(1) and 0.001 < found["regression"] < 0.01
    assert levels.retention_odds(0.5)["held"] < 0.01


def test_promotion_waits_for_regressions_and_after_a_fail():
    fine = [Check("bin", 1, "held", 0), Check("bin", 2, "measured", 1)]
    assert may_promote(fine).allowed and may_promote([]).allowed
    for verdict in ("regression", "lost"):
        refused = may_promote([*fine, Check("bin", 2, verdict, 5)])
        assert not refused.allowed and "bin L2" in refused.reason and "rehearse" in refused.reason
        assert may_promote([Check("bin", 2, verdict, 6)]).allowed, "a check older than 5 quests says nothing"
    assert not may_promote(fine, quests_since_fail=0).allowed
    assert may_promote(fine, quests_since_fail=1).allowed


@pytest.mark.parametrize("accuracy,low,high", [(0.80, 0.055, 0.075), (0.90, 0.975, 0.99), (0.70, 0, 0.002)])
def test_published_pass_probabilities(accuracy, low, high):
    assert low <= odds(accuracy).passed <= high


@given(st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_odds_are_a_distribution(accuracy):
    found = odds(accuracy)
    assert found.passed + found.failed + found.undecided == pytest.approx(1)
    assert min(found.passed, found.failed, found.undecided) >= -1e-12
    assert 40 - 1e-6 <= found.problems <= 200 + 1e-6


def test_odds_agree_with_a_simulation_that_calls_the_rule():
    rng = random.Random(20261)
    runs = 4000
    for accuracy in (0.80, 0.85):
        seen = {"pass": 0, "fail": 0, "undecided": 0}
        asked = 0
        for _ in range(runs):
            correct = 0
            for n in range(1, 201):
                correct += rng.random() < accuracy
                verdict = judge_open(correct, n)
                if verdict != "continue":
                    break
            seen[verdict] += 1
            asked += n
        exact = odds(accuracy)
        # 4,000 runs: standard error at most 0.008; four of them.
        assert seen["pass"] / runs == pytest.approx(exact.passed, abs=0.032)
        assert seen["fail"] / runs == pytest.approx(exact.failed, abs=0.032)
        assert asked / runs == pytest.approx(exact.problems, abs=4)


def test_the_document_is_the_computation():
    assert DOC.read_text(encoding="utf-8") == levels.document(), "run python3 -m realm.guild.levels > docs/LEVELS.md"

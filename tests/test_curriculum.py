"""What is practised next and which trials are sat: shares, hints, rehearsal, follow-up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm.guild.curriculum import (
    BUFFER,
    Knobs,
    Memory,
    Practice,
    Seen,
    SkillState,
    choose_skill,
    deficits,
    interleaved,
    next_quest,
    practice_deficit,
    practice_weights,
    rehearsal_share,
    rehearsal_weights,
    row_counts,
    turn_knobs,
)
from realm.guild.exams import due_checks, follow_up, make_trial, plan_trials, probed
from realm.guild.levels import Check

HINTS = st.sampled_from([None, "wait", "continue", "level_up", "back_off", "level up", "back off"])
KNOBS = st.builds(Knobs, st.integers(1, 3), st.sampled_from([0.4, 0.5, 0.6]), st.sampled_from([0.0, 0.5]),
                  st.booleans(), st.floats(0, 0.4))  # fmt: skip


@st.composite
def states(draw):
    top = draw(st.integers(1, 12))
    mastered = draw(st.integers(0, top))
    seen = draw(st.dictionaries(st.integers(1, top), st.builds(Seen, st.floats(0, 1), st.integers(1, 400),
                                                               st.just("retention"))))  # fmt: skip
    checks = tuple(Check("bin", level, draw(st.sampled_from(["held", "regression", "lost", "measured"])),
                         draw(st.integers(0, 9))) for level in range(1, mastered + 1))  # fmt: skip
    return SkillState("bin", top, mastered, frozenset({1, 2}), seen=seen, checks=checks)


@given(states(), KNOBS, HINTS, st.integers(0, 3))
def test_every_quest_is_within_its_bounds(state, knobs, hint, rehearsals):
    spec = next_quest(state, knobs, hint, rehearsals)
    assert sum(spec.mix.values()) == pytest.approx(1)
    assert all(share > 0 for share in spec.mix.values())
    assert 1 <= min(spec.mix) and max(spec.mix) <= min(state.max_level, state.mastered + 1 + 3)
    assert 1 <= spec.knobs.lookahead <= 3 and spec.reason
    if spec.kind == "idle":
        assert spec.level == state.mastered + 1 and spec.mix[spec.level] > 0.2
        rehearsed = sum(share for level, share in spec.mix.items() if level <= state.mastered)
        assert rehearsed == pytest.approx(spec.rehearsal_share) and spec.rehearsal_share <= 0.40
        assert (rehearsed > 0) == (state.mastered > 0)
    counts = row_counts(spec.mix, 6400)
    assert sum(counts.values()) == 6400 and all(abs(counts.get(n, 0) - 6400 * s) < 1 for n, s in spec.mix.items())
    assert spec == next_quest(state, knobs, hint, rehearsals), "pure"


def test_a_closed_level_is_practised_alone_and_an_open_one_with_three_levels_ahead():
    spec = next_quest(SkillState("bin", 30, 0, frozenset({1, 2})))
    assert spec.level == 1 and spec.mix == {1: 1.0}
    assert spec.rehearsal_share == 0 and not spec.actions
    spec = next_quest(SkillState("bin", 30, 0))
    assert spec.level == 1 and spec.mix == {1: 1.0}, "a skill begins with its easiest level alone"
    for begun in (SkillState("bin", 30, 0, seen={1: Seen(0.5, 40, "promotion")}), SkillState("bin", 30, 1)):
        spec, at = next_quest(begun), begun.training
        new = {level: share / (1 - spec.rehearsal_share) for level, share in spec.mix.items() if level >= at}
        assert new == pytest.approx({at: 0.5, **dict.fromkeys((at + 1, at + 2, at + 3), 0.5 / 3)})
    assert next_quest(SkillState("bin", 30, 0, seen={1: Seen(0.45, 40, "promotion")})).mix == {1: 1.0}


def test_rehearsal_follows_the_worst_deficit():
    def state(*accuracies):
        return SkillState("bin", 30, len(accuracies),
                          seen={n: Seen(a, 80, "retention") for n, a in enumerate(accuracies, 1)})  # fmt: skip

    assert rehearsal_share(state(0.99, 0.95)) == pytest.approx(0.05)
    assert rehearsal_share(state(0.99, 0.80)) == pytest.approx(0.40)
    assert 0.05 < rehearsal_share(state(0.99, 0.90)) < 0.40
    assert rehearsal_share(state(1.0, 1.0), "back_off") == pytest.approx(0.15)
    assert deficits(state(1.0, 0.875)) == {1: 0.0, 2: pytest.approx(0.5)}
    spec = next_quest(state(0.99, 0.80))
    assert spec.mix[2] > 4 * spec.mix[1], "what is forgotten gets the larger part"
    assert [a.action for a in spec.actions] == ["rehearsal_share"]


def test_regression_is_restored_first_but_does_not_stop_everything():
    checks = (Check("bin", 1, "held", 1), Check("bin", 2, "regression", 0), Check("sy", 1, "lost", 0))
    state = SkillState("bin", 30, 3, checks=checks)
    spec = next_quest(state)
    assert spec.kind == "rehearsal" and spec.level == 2 and spec.mix[2] == pytest.approx(0.7)
    assert set(spec.mix) == {1, 2, 3, 4} and [a.action for a in spec.actions] == ["rehearsal"]
    assert next_quest(state, rehearsals_in_a_row=2).kind == "idle"
    old = SkillState("bin", 30, 3, checks=(Check("bin", 2, "regression", 6),))
    assert next_quest(old).kind == "idle"
    only = SkillState("bin", 1, 1, checks=(Check("bin", 1, "lost", 0),))
    assert next_quest(only).mix == {1: 1.0}


def test_hints_turn_the_knobs_and_say_why():
    knobs, actions = turn_knobs(Knobs(), "back_off")
    assert knobs == Knobs(2, 0.6, 0.5, True)
    assert {a.action for a in actions} == {"look_ahead", "mix", "difficulty", "trial_timing"}
    assert all("overload" in a.reason for a in actions)
    again, actions = turn_knobs(knobs, "back off")
    assert again == Knobs(1, 0.6, 0.5, False), "every other quest is still examined"
    assert turn_knobs(again, "back_off")[0].lookahead == 1
    knobs, actions = turn_knobs(again, "level_up")
    assert knobs == Knobs(2, 0.4, 0.0, False) and {a.action for a in actions} == {"look_ahead", "mix", "difficulty"}
    for hint in (None, "wait", "continue"):
        assert turn_knobs(Knobs(), hint) == (Knobs(), ())


def test_trials_of_a_quest():
    checks = (Check("bin", 1, "held", 4), Check("bin", 2, "regression", 0), Check("bin", 3, "held", 1))
    half_known = {4: Seen(0.5, 40, "scout")}
    state = SkillState("bin", 30, 3, frozenset({1, 2}), checks=checks, seen=half_known)
    plans = plan_trials(state, [1, 2, 3, 4, 5, 6], Knobs(), 7, {("bin", 4): 3})
    probes = [p for p in plans if p.kind == "probe"]
    assert [(p.level, p.max_n) for p in probes] == [(1, 30), (2, 30), (3, 30)]
    again = plan_trials(state, [4], Knobs(), 7, {("bin", n): 9 for n in (1, 2, 3)})
    assert [p for p in again if p.kind == "probe"] == probes, "the same problems every time"
    plans = [p for p in plans if p.kind != "probe"]
    assert [(p.kind, p.level) for p in plans] == [
        ("promotion", 4), ("scout", 5), ("scout", 6), ("retention", 2), ("retention", 1)]  # fmt: skip
    assert [(p.max_n, p.closed, p.threshold) for p in plans] == [
        (200, False, 0.8), (40, False, 0.8), (40, False, 0.8), (80, True, 0.8), (80, True, 0.8)]  # fmt: skip
    assert plans[0].to_dict().keys() == {"kind", "skill", "level", "closed", "threshold", "seed", "max_n"}
    assert plan_trials(state, [4, 5], Knobs(hold_trial=True), 7, {})[0].kind == "scout"
    assert plan_trials(state, [4, 5], Knobs(), 7, {}, tried={("bin", 4)})[0].kind == "scout", "it had its try"
    assert plan_trials(state, [4, 5], Knobs(), 7, {}, tried={("bin", 3)})[0].kind == "promotion"
    for seen in ({}, {4: Seen(0.45, 40, "promotion")}):
        kinds = [p.kind for p in plan_trials(SkillState("bin", 30, 3, seen=seen), [4, 5, 6], Knobs(), 7, {})]
        assert "promotion" in kinds and "scout" not in kinds, "nothing to see ahead yet"
    closed = make_trial("promotion", state, 2, 7, 0)
    assert (closed.closed, closed.threshold, closed.max_n) == (True, 0.9, 400)
    done = SkillState("bin", 2, 2)
    plans = [p for p in plan_trials(done, [1, 2], Knobs(), 7, {}) if p.kind != "probe"]
    assert [(p.kind, p.level) for p in plans] == [("retention", 1), ("retention", 2)]


def test_at_most_six_levels_are_probed():
    plans = plan_trials(SkillState("bin", 30, 9), [10], Knobs(), 7, {})
    assert [p.level for p in plans if p.kind == "probe"] == [4, 5, 6, 7, 8, 9]


def test_every_trial_has_a_seed_of_its_own():
    state = SkillState("bin", 30, 0)
    seeds = {make_trial(kind, state, level, campaign, serial).seed
             for kind in ("promotion", "scout") for level in (1, 2) for campaign in (1, 2) for serial in (0, 1)}
    assert len(seeds) == 16 and all(0 <= seed < 2**63 for seed in seeds)
    assert make_trial("scout", state, 1, 1, 0).seed == make_trial("scout", state, 1, 1, 0).seed


def test_at_most_six_checks_oldest_first():
    checks = tuple(Check("bin", n, "held", n) for n in range(1, 11))
    assert due_checks([SkillState("bin", 30, 11, checks=checks)]) == [("bin", n) for n in (10, 9, 8, 7, 6, 5)]
    assert due_checks([SkillState("bin", 30, 2, checks=checks)]) == [("bin", 2)], "checked 1 quest ago: not yet due"
    assert due_checks([SkillState("bin", 30, 2)]) == [("bin", 1), ("bin", 2)], "never checked"


def test_six_checks_and_six_probes_are_shared_by_all_skills():
    checks = (Check("sy", 2, "regression", 0), *(Check("bin", n, "held", n + 3) for n in range(1, 9)))
    states = [SkillState("bin", 30, 8, checks=checks), SkillState("sy", 50, 2, checks=checks)]
    due = due_checks(states)
    assert due[0] == ("sy", 2) and len(due) == 6, "what is in regression first"
    assert [level for skill, level in due if skill == "bin"] == [8, 7, 6, 5, 4]
    assert probed(states) == [("bin", 5), ("bin", 6), ("bin", 7), ("bin", 8), ("sy", 1), ("sy", 2)]
    plans = plan_trials(states[0], [9], Knobs(), 7, {}, others=states[1:])
    assert [(p.kind, p.skill) for p in plans if p.kind != "probe"] == [
        ("promotion", "bin"), ("retention", "sy"), *[("retention", "bin")] * 5]  # fmt: skip
    after_a_file = plan_trials(None, [], Knobs(), 7, {}, others=states)
    assert {p.kind for p in after_a_file} == {"retention", "probe"}


def test_after_a_promotion_the_next_level_is_tried_at_once():
    state = SkillState("bin", 30, 1, frozenset({1, 2}))
    assert follow_up(state, [1, 2, 3]) == 2
    assert follow_up(state, [1]) is None, "not trained yet"
    assert follow_up(SkillState("bin", 1, 1), [1]) is None, "no next level"
    failed = SkillState("bin", 30, 1, frozenset({1, 2}), quests_since_fail=0)
    assert follow_up(failed, [1, 2, 3]) is None, "wait one quest after a fail"

    def scouted(accuracy):
        return SkillState("bin", 30, 3, frozenset({1, 2}), seen={4: Seen(accuracy, 40, "scout")})

    assert follow_up(scouted(0.5), [4]) is None, "the scout already shows that it would fail"
    assert follow_up(scouted(0.8), [4]) == 4


def turns(priorities, states, quests):
    """Skills of the first quests, when nothing changes but whose turn it was."""
    done, order = {skill: Practice() for skill in states}, []
    for _ in range(quests):
        chosen = choose_skill(practice_weights(priorities, states), states, done)
        done = {skill: Practice(p.quests, p.since + 1) for skill, p in done.items()} | {
            chosen: Practice(done[chosen].quests + 1)}  # fmt: skip
        order.append(chosen)
    return order


def test_skills_take_turns_by_weight_and_deficit():
    states = {"bin": SkillState("bin", 30, 0), "sy": SkillState("sy", 50, 0)}
    assert turns({"bin": 1, "sy": 1}, states, 6) == ["bin", "sy"] * 3
    order = turns({"bin": 3, "sy": 1, "ghost": 9}, states, 40)
    assert order[0] == "bin" and order.count("bin") == 30
    assert practice_weights({"sy": 1, "bin": 0, "ghost": 5}, states) == {"sy": 1.0}
    assert choose_skill(practice_weights({"ghost": 1}, states), states, {}) is None
    half = {"bin": SkillState("bin", 30, 15), "sy": SkillState("sy", 50, 0)}
    held = {n: Seen(1.0, 80, "retention") for n in range(1, 16)}
    half["bin"] = SkillState("bin", 30, 15, seen=held)
    assert practice_deficit(half["bin"]) == 0.5 and practice_deficit(half["sy"]) == 1.0
    order = turns({"bin": 1, "sy": 1}, half, 30)
    assert order.count("sy") == 20, "what is further from its goal gets more"
    assert practice_deficit(SkillState("bin", 30, 15, seen=held, goal=15)) == 0.05, "a reached goal is only kept"
    assert practice_deficit(half["bin"], weak=True) == 0.75
    order = turns({"bin": 1, "sy": 0.01}, states, 300)
    assert order.count("sy") >= 2, "none starves"


def test_what_is_in_regression_is_practised_first_but_does_not_stop_the_rest():
    states = {"bin": SkillState("bin", 30, 0),
              "sy": SkillState("sy", 50, 1, checks=(Check("sy", 1, "lost", 0),))}  # fmt: skip
    done = {"bin": Practice(0, 50), "sy": Practice(50, 0, 0)}
    weights = practice_weights({"bin": 1, "sy": 1}, states)
    assert choose_skill(weights, states, done) == "sy"
    assert choose_skill(weights, states, done | {"sy": Practice(52, 0, 2)}) == "bin"


def test_open_levels_are_learnt_side_by_side_in_equal_shares_of_text():
    states = {"a": SkillState("a", 10, 0), "b": SkillState("b", 10, 0), "long": SkillState("long", 10, 0),
              "table": SkillState("table", 10, 0, closed=frozenset({1})), "done": SkillState("done", 3, 3)}  # fmt: skip
    weights, lengths = practice_weights(dict.fromkeys(states, 1.0), states), {"a": 5, "b": 5, "long": 20, "done": 5}
    parts = interleaved("a", weights, states, lengths | {"table": 5})
    assert parts == pytest.approx({"a": 4 / 9, "b": 4 / 9, "long": 1 / 9}), "four times the text: a quarter of the rows"
    assert len({round(part * lengths[skill], 9) for skill, part in parts.items()}) == 1
    assert interleaved("table", weights, states, lengths | {"table": 5}) == {"table": 1.0}, "a table by itself"
    assert interleaved("done", weights, states, lengths) == {"done": 1.0}, "what is complete is kept, nothing else"
    assert interleaved("a", weights, states, lengths | {"b": 0.0}).keys() == {"a", "long"}, "b can make no rows now"
    twice = interleaved("a", weights | {"b": 2.0}, states, lengths)
    assert twice["b"] == pytest.approx(2 * twice["a"])


def test_the_quest_of_several_skills_has_all_their_levels_and_trials():
    a = SkillState("a", 10, 1, seen={1: Seen(1.0, 80, "retention")})
    b = SkillState("b", 10, 0, seen={1: Seen(0.6, 40, "promotion")})
    spec = next_quest(a, others=[b], beside={"a": 0.6, "b": 0.4})
    share = spec.rehearsal_share
    assert 0 < share < 0.1 and sum(spec.mix.values()) + sum(spec.others["b"].values()) == pytest.approx(1)
    assert sum(part for level, part in spec.mix.items() if level > 1) == pytest.approx(0.6 * (1 - share))
    assert spec.others == {"b": pytest.approx({1: 0.2 * (1 - share), **dict.fromkeys(
        (2, 3, 4), 0.4 * 0.5 / 3 * (1 - share))})}  # fmt: skip
    assert "beside b L1" in spec.reason
    plans = plan_trials(a, list(spec.mix), Knobs(), 7, {}, others=[b], beside={"b": [1, 2, 3, 4]})
    assert [(p.skill, p.level) for p in plans if p.kind == "promotion"] == [("a", 2), ("b", 1)]
    assert not [p for p in plans if p.kind == "promotion" and p.skill == "b" and p.level > 1]
    again = plan_trials(a, list(spec.mix), Knobs(), 7, {}, {("b", 1)}, [b], {"b": [1, 2]})
    assert ("scout", "b", 1) in {(p.kind, p.skill, p.level) for p in again}, "the same weights had their try"
    rehearsed = plan_trials(a, list(spec.mix), Knobs(), 7, {}, others=[SkillState("b", 10, 2)], beside={"b": [1, 2]})
    assert {p.skill for p in rehearsed if p.kind == "promotion"} == {"a"}, "rehearsed, not taught anything new"


@st.composite
def worlds(draw):
    """A skill and others, each with its own past; the rehearsal buffer."""
    first = draw(states())
    others = [SkillState(f"s{i}", each.max_level, each.mastered, seen=each.seen,
                         holds={n: draw(st.integers(0, 5)) for n in range(1, each.mastered + 1)})
              for i, each in enumerate(draw(st.lists(states(), max_size=3)))]  # fmt: skip
    return first, others, draw(st.builds(Memory, st.integers(0, 4), st.floats(0, 1)))


@given(worlds(), HINTS, st.integers(0, 3))
def test_rehearsal_across_skills_stays_within_its_bounds(world, hint, rehearsals):
    state, others, memory = world
    spec = next_quest(state, None, hint, rehearsals, others, memory)
    whole = sum(spec.mix.values()) + sum(sum(mix.values()) for mix in spec.others.values()) + spec.buffer
    assert whole == pytest.approx(1)
    mastered = {each.skill: each.mastered for each in others}
    for skill, mix in spec.others.items():
        assert set(mix) <= set(range(1, mastered[skill] + 1)), "only what is mastered is rehearsed"
    if spec.kind == "idle":
        new = sum(share for level, share in spec.mix.items() if level > state.mastered)
        assert new >= 0.6 - 1e-9 and 1 - new == pytest.approx(spec.rehearsal_share)
        assert (spec.buffer > 0) == (memory.sources > 0)
        assert set(spec.others) == {each.skill for each in others if each.mastered}, "every skill, every time"
    if state.regressed and rehearsals < 2:
        assert sum(spec.mix.get(level, 0) for level in state.regressed) >= 0.7 - 1e-9


def test_a_level_that_was_never_checked_is_not_known_to_be_held():
    passed, checked = Seen(1.0, 40, "promotion"), Seen(1.0, 80, "retention")
    assert deficits(SkillState("bin", 30, 2, seen={1: passed, 2: checked})) == {1: 0.5, 2: 0.0}
    assert deficits(SkillState("bin", 30, 1, seen={1: Seen(0.8, 40, "promotion")})) == {1: 1.0}
    fresh, held = (rehearsal_share(SkillState("bin", 30, 1, seen={1: seen})) for seen in (passed, checked))
    assert fresh == pytest.approx(0.225) and held == pytest.approx(0.05)


def test_rehearsal_is_spaced():
    """What has held is rehearsed at growing intervals; a deficit counts in full, whatever the past."""
    def state(held, accuracy=0.97):
        return SkillState("bin", 30, 1, seen={1: Seen(accuracy, 80, "retention")}, holds={1: held})

    weights = [rehearsal_weights([state(held)])["bin", 1] for held in range(5)]
    assert weights == sorted(weights, reverse=True) and weights[0] == pytest.approx(0.2)
    assert weights[4] == pytest.approx(0.04), "one fifth of the rows: five times the interval"
    assert rehearsal_weights([state(9, 0.80)])["bin", 1] >= 1.0
    assert rehearsal_weights([], Memory(2, 0.5)) == {BUFFER: pytest.approx(0.9)}


@given(st.dictionaries(st.integers(1, 20), st.floats(0.001, 1), min_size=1), st.integers(0, 10_000))
def test_row_counts_are_exact(mix, rows):
    counts = row_counts(mix, rows)
    total = sum(mix.values())
    assert sum(counts.values()) == rows
    assert all(abs(counts.get(n, 0) - share * rows / total) < 1 + 1e-6 for n, share in mix.items())

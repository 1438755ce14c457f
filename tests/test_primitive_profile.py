"""Profile, weak list, prescriptions: from trials in a real database; the page; the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from realm import db
from realm.arena import trial
from realm.cli import app
from realm.guild import campaigns
from realm.guild.levels import wilson
from realm.guild.primitives import PRIMITIVES, Profile, Standing, prescribe, profile, weak
from realm.guild.skills import get_skill
from realm.guild.skills.primitives import page

TOP = {name: 10 for name in PRIMITIVES} | {"bin": 30}


@pytest.fixture
def realm(engine):
    with db.write(engine) as connection:
        return Realm(engine, campaigns.ensure_active(connection, "pip", {}, seed=1))


class Realm:
    def __init__(self, engine, campaign):
        self.engine, self.campaign, self.clock = engine, campaign, 0

    def trial(self, skill, level, shares, kind="promotion", campaign=None, **changed):
        """A trial with these [correct, asked] by primitive, later than the one before."""
        self.clock += 1
        n = max([pair[1] for pair in (shares or {}).values()], default=40)
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.trials).values(**{
                "id": db.new_id(), "campaign_id": campaign or self.campaign, "checkpoint_id": "c", "step": 1,
                "kind": kind, "skill": skill, "level": level, "closed": False, "n": n, "correct": 0, "verdict": "fail",
                "suspicious": False, "tokens": 0, "by_primitive": shares, "started_at": float(self.clock),
                "seconds": 0.1, **changed}))  # fmt: skip

    def profile(self, **options) -> Profile:
        with db.read(self.engine) as connection:
            return profile(connection, self.campaign, **options)


def test_without_trials_everything_is_unknown_and_nothing_weak(realm):
    found = realm.profile()
    assert list(found.spokes) == list(PRIMITIVES) and found.finer == {} and weak(found) == []
    for spoke in found.spokes.values():
        assert (spoke.n, spoke.accuracy, spoke.lower, spoke.upper) == (0, None, 0, 1)
    assert found.groups()["seq"] == (0, 0) and prescribe(found, {}, TOP) == []
    assert json.loads(json.dumps(found.to_dict()))["spokes"][0]["accuracy"] is None


def test_counts_bounds_places_and_finer_tags(realm):
    realm.trial("bin", 3, {"logic_chain": [30, 40], "carry": [1, 20]})
    realm.trial("logic_chain", 1, {"logic_chain": [10, 40], "logic_deduce": [10, 40]}, kind="retention")
    found = realm.profile()
    chain = found.spokes["logic_chain"]
    assert (chain.correct, chain.n, chain.accuracy) == (40, 80, 0.5)
    assert (chain.lower, chain.upper) == wilson(40, 80) and chain.newest == 2.0
    assert chain.places == {("bin", 3): (30, 40), ("logic_chain", 1): (10, 40)}
    assert found.finer["carry"].n == 20 and "carry" not in found.spokes
    assert found.groups()["logic"] == (50, 120)
    assert [spoke.name for spoke in weak(found)] == ["logic_deduce", "logic_chain"], "the weakest first, no finer tags"


def test_only_the_newest_trial_of_a_level_counts(realm):
    realm.trial("seq_reverse", 1, {"seq_reverse": [0, 40]})
    realm.trial("seq_reverse", 1, {"seq_reverse": [39, 40]})
    spoke = realm.profile().spokes["seq_reverse"]
    assert (spoke.correct, spoke.n) == (39, 40) and not spoke.weak
    assert realm.profile(before=2.0).spokes["seq_reverse"].correct == 0, "as it was before the second trial"


def test_the_window_closes_once_there_are_answers_enough(realm):
    for level in range(9, 0, -1):  # level 1 is the newest
        realm.trial("seq_reverse", level, {"seq_reverse": [80 if level < 4 else 0, 80]}, kind="retention")
    spoke = realm.profile().spokes["seq_reverse"]
    assert (spoke.correct, spoke.n) == (240, 240) and {level for _, level in spoke.places} == {1, 2, 3}


@pytest.mark.parametrize("changed", [
    {"kind": "probe"}, {"kind": "passive"}, {"kind": "file"}, {"closed": True}, {"suspicious": True}, {"n": 0},
    {"by_primitive": None}, {"by_primitive": {}}, {"by_primitive": {"seq_reverse": [0, 0]}},
])  # fmt: skip
def test_what_is_no_held_out_exam_does_not_count(realm, changed):
    realm.trial("seq_reverse", 1, **{"shares": {"seq_reverse": [0, 40]}, **changed})
    assert realm.profile().spokes["seq_reverse"].n == 0


def test_other_campaigns_do_not_count(realm):
    with db.write(realm.engine) as connection:
        other = connection.execute(sa.select(db.campaigns)).mappings().one()
        connection.execute(sa.insert(db.campaigns).values(**{**other, "id": "other"}))
    realm.trial("seq_reverse", 1, {"seq_reverse": [0, 40]}, campaign="other")
    assert realm.profile().spokes["seq_reverse"].n == 0


@pytest.mark.parametrize("pair", [[41, 40], [-1, 40], [1], [1.5, 40], ["1", "40"], [1, 2, 3], "12", None, 7])
def test_counts_that_cannot_be_name_their_trial(realm, pair):
    realm.trial("seq_reverse", 1, {"seq_reverse": [0, 40]}, by_primitive={"seq_reverse": pair})
    with pytest.raises(ValueError, match="trial .*not \\[correct, asked\\].*grade them again"):
        realm.profile()


def test_a_recorded_trial_is_found_again(realm):
    """The counts that the battle writes are those that the profile reads."""
    skill = get_skill("xfm_substitute")
    spec = trial.TrialSpec("manual", skill.id, 1, False, 0.8, 5, 40)

    def answer(conversations, room):
        return [(skill.problem_of(turns[-1]["content"]).golden if i % 4 else "no", 1)
                for i, turns in enumerate(conversations)]  # fmt: skip

    result = trial.run(spec, skill, answer)
    with db.write(realm.engine) as connection:
        trial.record(connection, result, trial.Subject(realm.campaign, "c", 1))
    spokes = realm.profile().spokes
    assert (spokes["xfm_substitute"].correct, spokes["xfm_substitute"].n) == (30, 40)
    assert (spokes["mem_recall"].correct, spokes["mem_recall"].n) == (30, 40), "its second tag"


# --- Weak and cured -----------------------------------------------------------------------------------------------


@given(correct=st.integers(0, 300), more=st.integers(0, 300))
def test_weak_is_a_rule_of_counts(correct, more):
    n = correct + more
    spoke = standing("seq_reverse", {("seq_reverse", 1): (correct, n)})
    assert spoke.weak == (n >= 20 and wilson(correct, n)[1] < 0.7)


def test_the_edges_of_weak():
    assert not standing("seq_reverse", {("bin", 3): (0, 19)}).weak, "19 answers are too few"
    assert standing("seq_reverse", {("bin", 3): (0, 20)}).weak
    assert not standing("seq_reverse", {("bin", 3): (17, 30)}).weak, "17 of 30 may be 0.73"
    assert standing("seq_reverse", {("bin", 3): (17, 44)}).weak, "17 of 44 is at most 0.53"


def standing(name, places):
    correct, n = (sum(pair[i] for pair in places.values()) for i in (0, 1))
    return Standing(name, correct, n, *wilson(correct, n), 1.0, places)


def profile_of(*standings) -> Profile:
    found = {name: standing(name, {}) for name in PRIMITIVES}
    return Profile({**found, **{spoke.name: spoke for spoke in standings}}, {})


def cure(places, mastered, top=TOP, name="logic_chain"):
    found = prescribe(profile_of(standing(name, places)), mastered, top)
    return (found[0].skill, found[0].level) if found else None


def test_a_weak_primitive_is_drilled_at_its_next_level():
    assert cure({("bin", 5): (5, 40)}, {"bin": 4}) == ("logic_chain", 1)
    assert cure({("bin", 5): (5, 40)}, {"bin": 4, "logic_chain": 3}) == ("logic_chain", 4)


def test_a_mastered_level_that_fails_now_comes_first():
    places = {("logic_chain", 1): (78, 80), ("logic_chain", 2): (20, 80), ("logic_chain", 4): (0, 40)}
    assert cure(places, {"logic_chain": 3}) == ("logic_chain", 2)
    reason = prescribe(profile_of(standing("logic_chain", places)), {"logic_chain": 3}, TOP)[0].reason
    assert "98 of 200 right" in reason and "level 2 was mastered and fails now" in reason


def test_where_the_drill_is_mastered_the_skill_that_fails_is_practised_within_reach():
    places = {("bin", 6): (2, 40), ("bin", 5): (3, 40), ("mem_compose", 1): (30, 80), ("logic_chain", 9): (80, 80)}
    mastered = {"logic_chain": 10, "bin": 5, "mem_compose": 0}
    assert cure({**places, ("logic_chain", 9): (30, 40)}, mastered) == ("bin", 5), "most answers are wrong there"
    assert cure({("bin", 9): (0, 40)}, {"logic_chain": 10, "bin": 5}) is None, "level 9 is out of reach"
    assert cure({("gone", 1): (0, 40)}, {"logic_chain": 10}) is None, "a skill that is not there any more"


def test_a_primitive_without_a_drill_is_practised_where_it_fails():
    assert cure({("bin", 2): (0, 40)}, {"bin": 1}, {"bin": 30}) == ("bin", 2)


@given(st.dictionaries(st.tuples(st.sampled_from(["bin", "logic_chain", "mem_compose"]), st.integers(1, 10)),
                       st.tuples(st.integers(0, 40), st.integers(40, 80)), max_size=6),
       st.dictionaries(st.sampled_from(["bin", "logic_chain", "mem_compose"]), st.integers(0, 10)))  # fmt: skip
def test_no_prescription_reaches_above_the_next_level(places, mastered):
    found = profile_of(standing("logic_chain", places))
    for made in prescribe(found, mastered, TOP):
        assert found.spokes[made.primitive].weak and made.primitive in made.reason
        assert 1 <= made.level <= min(mastered.get(made.skill, 0) + 1, TOP[made.skill])


# --- The page and the commands ------------------------------------------------------------------------------------


def test_the_page_is_what_the_primitives_print():
    committed = (Path(__file__).parents[1] / "docs" / "PRIMITIVES.md").read_text(encoding="utf-8")
    assert committed == page.document(), "python3 -m realm.guild.skills.primitives.page > docs/PRIMITIVES.md"
    assert all(f"\n### {name}\n" in committed and f"`{name}: " in committed for name in PRIMITIVES)


def run(home, *arguments):
    done = CliRunner().invoke(app, ["primitive", *arguments], env={"REALM_HOME": str(home.root)})
    return done.exit_code, done.output, done.exception


def test_the_commands_show_names_profile_and_weak(realm, home):
    code, text, _ = run(home, "list")
    assert code == 0 and all(name in text for name in PRIMITIVES)
    code, text, _ = run(home, "weak")
    assert code == 0 and "0 of 29 have the 20 answers" in text
    realm.trial("bin", 3, {"logic_chain": [3, 40], "xfm_encode": [39, 40], "carry": [3, 30]})
    code, text, _ = run(home, "profile")
    assert code == 0 and "not yet" in text and "carry" in text
    assert next(line for line in text.splitlines() if line.startswith("logic_chain")).split()[1:3] == ["8%", "40"]
    code, text, _ = run(home, "weak")
    assert code == 0 and text.startswith("logic_chain: practise logic_chain level 1. logic_chain: 3 of 40 right")
    rows = json.loads(run(home, "weak", "--json")[1])
    assert [(row["name"], row["practise"]) for row in rows] == [("logic_chain", {"skill": "logic_chain", "level": 1})]
    spokes = {spoke["name"]: spoke for spoke in json.loads(run(home, "profile", "--json")[1])["spokes"]}
    assert spokes["logic_chain"]["weak"] and not spokes["xfm_encode"]["weak"]
    assert {row["name"] for row in json.loads(run(home, "list", "--json")[1])} == set(PRIMITIVES)


def test_the_commands_say_what_is_missing(tmp_path, home):
    from realm.settings import RealmHome

    code, _, error = run(RealmHome(tmp_path / "nowhere"), "profile")
    assert code == 1 and "start-all" in str(error)

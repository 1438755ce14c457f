"""Passives: the frozen suite, when it is held, paired comparison, drift events, the commands."""

from __future__ import annotations

import json
import math

import hero_kit as kit
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from realm import db
from realm.arena import plan, settle, trial
from realm.arena.trial import Subject, TrialSpec
from realm.guild import campaigns, passives
from realm.guild.skills import Problem, SkillError, all_skills, get_skill
from realm.guild.skills.base import keyed_rng
from realm.heroes.profile import load_profile
from realm.quests import board

SUITE = get_skill("passives")


def spec(level=1, **changes):
    values = {"kind": "passive", "skill": "passives", "level": level, "closed": False, "threshold": 0.8, "seed": 0,
              "max_n": 500}  # fmt: skip
    return TrialSpec.from_config({**values, **changes})


def hold(engine, campaign_id, checkpoint, right=1.0, loss=2.0, levels=(1, 2), quest_id=None, spread=0.2):
    """The suite on a checkpoint: the share `right` of the items, chosen by their id; a loss that differs by item."""
    golden = {p.prompt: p.golden for level in levels for p in SUITE.table(level)}
    calm = keyed_rng("loss", checkpoint)

    def answer(rows, _room):
        return [(golden[m[-1]["content"]] if keyed_rng("right", m[-1]["content"]).random() < right else "-", 2)
                for m in rows]  # fmt: skip

    def golden_loss(rows):
        return loss + spread * (keyed_rng(rows[0][0]["content"]).random() - 0.5) + 0.01 * (calm.random() - 0.5)

    for level in levels:
        result = trial.run(spec(level), SUITE, answer, golden_loss, train_loss=0.001)
        with db.write(engine) as connection:
            trial.record(connection, result, Subject(campaign_id, checkpoint, 10, "B", quest_id))
    return result


@pytest.fixture
def campaign(engine):
    with db.write(engine) as connection:
        return campaigns.ensure_active(connection, "pip", {"seed": 0})


def ask(engine, function, *arguments):
    with db.read(engine) as connection:
        return function(connection, *arguments)


def finished_quest(engine, campaign_id):
    with db.write(engine) as connection:
        quest_id = board.enqueue(connection, board.NewQuest(name="q", kind="idle", campaign_id=campaign_id,
                                                            skill="bin", state="done"))  # fmt: skip
        connection.execute(sa.update(db.quests).where(db.quests.c.id == quest_id).values(
            started_at=db.now(), finished_at=db.now()))  # fmt: skip


# --- the suite ----------------------------------------------------------------------------------------------------

def test_suite_is_the_published_one_and_no_goal():
    assert len(SUITE.table(1)) == 147 and len(SUITE.table(2)) == 32
    assert passives.SHA256[:8] in SUITE.version
    assert "passives" not in {skill.id for skill in all_skills()}
    with pytest.raises(SkillError, match="examined and never practised"):
        SUITE.generate(1, 1, 0)


def test_another_text_is_refused(monkeypatch):
    monkeypatch.setattr(passives, "SHA256", "0" * 64)
    passives.suite.cache_clear()
    try:
        with pytest.raises(passives.PassivesError, match="changed suite"):
            passives.suite()
    finally:
        passives.suite.cache_clear()


def test_every_golden_passes_and_no_empty_looping_or_echoing_answer():
    for problem in SUITE.table(1):
        assert SUITE.grade(problem, problem.golden).correct, problem
        echo = problem.prompt if problem.difficulty != "greeting" else ""  # a greeting may be answered by itself
        for bad in ("", "  \n", echo, f"{problem.golden} " * 40, "zzz qqq vvv"):
            assert not SUITE.grade(problem, bad).correct, (problem.id, bad)
    for problem in SUITE.table(2):
        assert SUITE.grade(problem, problem.golden).correct and not SUITE.grade(problem, "zzz").correct


@pytest.mark.parametrize(("item", "good", "bad"), [
    ("copy-01", ["blue kettle"], ["Blue kettle", "blue kettle blue kettle", "blue  kettles"]),
    ("facts-04", ["Cairo.", "It is Cairo", "cairo"], ["Rome", "Cairo " * 20]),
    ("format-11", ['{"name":"Lea"}'], ["name: Lea", '{"name": "lea"}']),
    ("stop-01", ["stop", "Stop."], ["stop stop stop", "I will stop now"]),
    ("choose-08", ["Apple", "an apple"], ["chair", "pineapple"]),
    ("count_words-01", ["3", "There are 3 words."], ["13", "three words or 4"]),
])  # fmt: skip
def test_checks_of_single_items(item, good, bad):
    problem = next(p for p in SUITE.table(1) if p.canonical == item)
    assert [text for text in good if not SUITE.grade(problem, text).correct] == []
    assert [text for text in bad if SUITE.grade(problem, text).correct] == []


def test_items_in_a_file_are_known_as_held_out():
    for level in (1, 2):
        assert all(SUITE.split_of(p.prompt) == "probe" for p in SUITE.table(level))
    assert SUITE.split_of("What is 2 + 2?") is None


# --- a trial of it ------------------------------------------------------------------------------------------------

def test_trial_asks_every_item_once_and_keeps_each_loss(engine, campaign):
    hold(engine, campaign, "c1", right=0.5)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(db.trials).order_by(db.trials.c.level)).mappings().all()
        items = connection.execute(sa.select(db.trial_items)).mappings().all()
        kinds = connection.execute(sa.select(db.events.c.kind, db.events.c.text)).all()
    assert [(r["kind"], r["n"], r["verdict"], r["suspicious"]) for r in rows] == [
        ("passive", 147, "measured", False), ("passive", 32, "measured", False)]  # fmt: skip
    assert rows[0]["loss"] == pytest.approx(2.0, abs=0.05)
    assert len({i["problem"]["canonical"] for i in items}) == len(items) == 179
    assert all(math.isfinite(i["problem"]["extra"]["loss"]) for i in items)
    assert all(SUITE.grade(Problem.from_dict(i["problem"]), i["response"]).correct == i["correct"] for i in items)
    told = [text for kind, text in kinds if kind == "trial"]
    assert len(told) == 2 and all("never practised" in text for text in told)
    assert sum(n for _, n in rows[0]["by_difficulty"].values()) == 147


def test_nothing_right_is_no_incident(engine, campaign):
    hold(engine, campaign, "c1", right=0.0)
    with engine.connect() as connection:
        assert connection.execute(sa.select(db.events).where(db.events.c.kind == "incident")).first() is None


def test_a_loss_that_is_no_number_is_left_out():
    result = trial.run(spec(2), SUITE, lambda rows, _: [("", 0)] * len(rows), lambda rows: float("nan"))
    assert result.loss is None and all("loss" not in i.problem.extra for i in result.items)


# --- when ---------------------------------------------------------------------------------------------------------

def test_rule_of_when(engine, campaign):
    def planned(may_promote):
        return [(p["level"], p["after_pass"]) for p in ask(engine, passives.plans, campaign, may_promote)]

    assert planned(False) == [(1, False), (2, False)], "the first checkpoint is always measured"
    hold(engine, campaign, "c1")
    assert planned(False) == [] and planned(True) == [(1, True), (2, True)]
    for n in range(passives.EVERY_QUESTS - 1):
        assert planned(False) == [], n
        finished_quest(engine, campaign)
    assert planned(False) == [(1, False), (2, False)], "the tenth quest after the last"
    hold(engine, campaign, "c2")
    assert planned(False) == []


def test_a_measurement_that_was_cut_off_is_made_again(engine, campaign):
    hold(engine, campaign, "c1", levels=(1,))
    assert ask(engine, passives.due, campaign) == "the first measurement of the campaign"
    assert ask(engine, passives.drift, campaign) == []
    hold(engine, campaign, "c2", right=0.9)
    assert ask(engine, passives.due, campaign) is None
    hold(engine, campaign, "c3", right=0.1)
    whole = {m["part"]: m["correct"] for m in ask(engine, passives.history, campaign) if m["checkpoint_id"] == "c2"}
    found = {c.part: c.before for c in ask(engine, passives.drift, campaign)}
    assert found == whole and len(whole) == 2, "the first whole one is what drift is measured from"


def test_plan_of_a_quest_ends_with_the_suite(engine, campaign):
    quest = {"id": "q", "skill": "bin", "mix": {"1": 1.0}, "origin": {}, "started_at": None}
    row = ask(engine, campaigns.get, campaign)
    plans = ask(engine, plan.quest_trials, row, quest, load_profile("pip"))
    assert [p["kind"] for p in plans][-2:] == ["passive", "passive"] and plans[0]["kind"] == "promotion"
    assert [TrialSpec.from_config(json.loads(json.dumps(p))).max_n for p in plans[-2:]] == [147, 32]


# --- comparison ---------------------------------------------------------------------------------------------------

def test_compare_counts_item_by_item(engine, campaign):
    hold(engine, campaign, "c1", right=0.9, loss=2.0)
    hold(engine, campaign, "c2", right=0.4, loss=2.6)
    answers, text = ask(engine, passives.compare, campaign, "c1", "c2")
    assert answers.part == "answers" and answers.n == 147
    assert answers.after - answers.before == answers.gained - answers.lost and answers.gained == 0 < answers.lost
    low, high = answers.accuracy_interval
    assert answers.accuracy == (answers.after - answers.before) / 147 and low < answers.accuracy < high < -0.3
    assert text.loss == pytest.approx(0.6, abs=0.02) and text.loss_interval[0] < text.loss < text.loss_interval[1]
    assert set(answers.drifted) == {"accuracy", "loss"} and "loss" in text.drifted
    back = ask(engine, passives.compare, campaign, "c2", "c1")[0]
    assert back.accuracy == -answers.accuracy and back.drifted == ()


def test_the_same_twice_is_no_change_but_has_an_interval(engine, campaign):
    hold(engine, campaign, "c1", right=0.7)
    same = ask(engine, passives.compare, campaign, "c1", "c1")[0]
    assert (same.gained, same.lost, same.accuracy, same.loss) == (0, 0, 0.0, 0.0)
    low, high = same.accuracy_interval
    assert low < 0 < high and same.drifted == ()


def test_comparison_needs_two_measured_checkpoints(engine, campaign):
    with pytest.raises(passives.PassivesError, match="choose one of: none"):
        ask(engine, passives.compare, campaign, "a", "b")
    hold(engine, campaign, "c1")
    with pytest.raises(passives.PassivesError, match="'b': .* choose one of: c1"):
        ask(engine, passives.compare, campaign, "c1", "b")
    assert ask(engine, passives.drift, campaign) == []
    hold(engine, campaign, "c2", levels=(1,))
    assert [c.part for c in ask(engine, passives.compare, campaign, "c1", "c2")] == ["answers"]


def test_results_of_another_suite_are_not_compared(engine, campaign):
    hold(engine, campaign, "c1")
    with db.write(engine) as connection:
        for item in connection.execute(sa.select(db.trial_items)).mappings().all():
            other = {**item["problem"], "extra": {**item["problem"]["extra"], "suite": "0-00000000"}}
            connection.execute(sa.update(db.trial_items).where(
                db.trial_items.c.trial_id == item["trial_id"], db.trial_items.c.idx == item["idx"]
            ).values(problem=other))  # fmt: skip
    assert ask(engine, passives.history, campaign) == []
    assert ask(engine, passives.due, campaign) == "the first measurement of the campaign"


@pytest.mark.parametrize(("lost", "reached"), [(0, False), (7, False), (10, False), (40, True)])
def test_interval_of_paired_proportions(lost, reached):
    low, high = passives.paired_accuracy(0, lost, 147)
    assert -1 <= low < high <= 1 and (high < -passives.ANSWERS_LOST) == reached


def test_interval_covers_the_truth_as_often_as_it_says():
    """2,000 simulated pairs of measurements of heroes that lose a tenth of the answers: 99 % ± 1."""
    rng, hits = keyed_rng("coverage"), 0
    for _ in range(2000):
        draws = [rng.random() for _ in range(147)]
        gained, lost = sum(x < 0.05 for x in draws), sum(0.05 <= x < 0.20 for x in draws)
        low, high = passives.paired_accuracy(gained, lost, 147)
        hits += low <= -0.10 <= high
    assert hits / 2000 >= 0.98


# --- drift --------------------------------------------------------------------------------------------------------

def told(engine):
    with engine.connect() as connection:
        rows = connection.execute(sa.select(db.events).where(db.events.c.kind == "drift")).mappings().all()
    return [(row["payload"]["part"], row["payload"]["measure"], row["level"]) for row in rows]


def tell(engine, campaign_id, checkpoint):
    with db.write(engine) as connection:
        query = sa.select(db.trials).where(db.trials.c.checkpoint_id == checkpoint)
        passives.tell_drift(connection, campaign_id, connection.execute(query).mappings().all())


def test_drift_is_told_once_and_again_only_after_it_was_gone(engine, campaign):
    for checkpoint, loss in (("c1", 2.0), ("c2", 2.1), ("c3", 2.5), ("c4", 2.6), ("c5", 2.0), ("c6", 2.5)):
        hold(engine, campaign, checkpoint, right=0.5, loss=loss)
        tell(engine, campaign, checkpoint)
        expected = {"c1": 0, "c2": 0, "c3": 2, "c4": 2, "c5": 2, "c6": 4}[checkpoint]
        assert len(told(engine)) == expected, checkpoint
    assert set(told(engine)) == {("answers", "loss", "trouble"), ("human_text", "loss", "trouble")}


def test_settling_a_battle_tells_drift_and_does_not_touch_levels(home, engine):
    ids = kit.campaign(engine)
    hold(engine, ids["campaign_id"], "c1", right=0.9)
    hold(engine, ids["campaign_id"], "c2", right=0.2)
    with db.write(engine) as connection:
        connection.execute(sa.insert(db.battles).values(
            id="B", campaign_id=ids["campaign_id"], run_id=ids["run_id"], hero_id="pip", school="scribe", worker="W",
            state="done", outcome="trained", desired="run", save_requests=0, config={"trials": []}, started_at=1.0,
        ))  # fmt: skip
        connection.execute(sa.update(db.trials).where(db.trials.c.checkpoint_id == "c1").values(battle_id="A"))
    settle.settle(home, engine, "B")
    assert ("answers", "accuracy", "trouble") in told(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.select(db.levels)).first() is None


# --- the battle child ---------------------------------------------------------------------------------------------

def test_battle_child_holds_the_suite_only_after_a_pass(home, engine):
    profile = kit.micro_profile()
    kit.born(home, profile)
    ids = kit.campaign(engine)
    plans = [{**p, "max_n": 6} for p in ask(engine, passives.plans, ids["campaign_id"], True)]
    forced = kit.order_battle(engine, profile, ids, trials=plans)
    kit.serve_here(home, engine, forced)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(db.trials).order_by(db.trials.c.level)).mappings().all()
    assert [(r["level"], r["n"], r["kind"]) for r in rows] == [(1, 6, "passive"), (2, 6, "passive")]
    assert all(math.isfinite(r["loss"]) and r["loss"] > 0 for r in rows)
    waiting = ask(engine, passives.plans, ids["campaign_id"], True)
    assert all(p["after_pass"] for p in waiting)
    checkpoint = kit.battle_row(engine, forced)["checkpoint_id"]
    second = kit.order_battle(engine, profile, ids, trials=waiting, parent=checkpoint)
    kit.serve_here(home, engine, second)
    assert kit.battle_row(engine, second)["state"] == "done"
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(db.trials)).scalar() == 2


# --- commands -----------------------------------------------------------------------------------------------------

def command(home, monkeypatch, *arguments):
    from realm.cli import app

    monkeypatch.setenv("REALM_HOME", str(home.root))
    return CliRunner().invoke(app, ["passives", *arguments])


def test_commands(home, engine, campaign, monkeypatch):
    assert "not measured yet" in command(home, monkeypatch, "show").output
    hold(engine, campaign, "c1", right=0.9)
    hold(engine, campaign, "c2", right=0.2)
    shown = json.loads(command(home, monkeypatch, "show", "--json").output)
    assert [m["checkpoint_id"] for m in shown["measured"]] == ["c1", "c1", "c2", "c2"]
    assert shown["drift"][0]["drifted"] == ["accuracy"] and shown["suite"] == SUITE.version
    text = command(home, monkeypatch, "compare", "c1", "c2").output
    assert "answers" in text and "accuracy" in text
    found = command(home, monkeypatch, "compare", "c1", "c9")
    assert found.exit_code == 1 and "choose one of: c1, c2" in str(found.exception)
    assert len(json.loads(command(home, monkeypatch, "show", "--items", "--json").output)) == 179
    found = command(home, monkeypatch, "show", "--campaign", "nobody")
    assert found.exit_code == 1 and "no campaign 'nobody'" in str(found.exception)

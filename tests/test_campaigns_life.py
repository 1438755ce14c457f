"""Campaigns in a real database and under a real hero loop: made, played, switched, archived, restored, reported."""

import json
import os
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa
import yaml
from loop_kit import FAKE, HERO, Tables, running, tell, tiny_home, wait_for

from realm import db, events
from realm.arena import commands
from realm.guild import campaigns
from realm.guild.campaigns import cap, facts, lifecycle, method, report
from realm.guild.skills import SkillError
from realm.heroes.profile import load_profile
from realm.settings import SettingsError
from realm.vault import checkpoints


@pytest.fixture
def tables(home):
    made = Tables(home)
    yield made
    made.engine.dispose()


@pytest.fixture
def world(home, tables):
    return World(tiny_home(home), tables)


class World:
    """Questions and orders to a home without a loop: commands are worked here, as the loop would."""

    def __init__(self, home, tables):
        self.home, self.tables, self.engine = home, tables, tables.engine

    def do(self, kind, **payload):
        command_id = self.tables.send(kind, **payload)
        with db.write(self.engine) as connection:
            commands.work(connection, self.home)
        return self.tables.rows(db.commands, db.commands.c.id == command_id)[0]

    def play(self, hero="tiny"):
        with db.write(self.engine) as connection:
            profile = load_profile(hero, self.home).model_dump(mode="json")
            return campaigns.ensure_active(connection, hero, profile)

    def new(self, **values):
        with db.write(self.engine) as connection:
            return lifecycle.create(connection, self.home, {"hero_id": "tiny", **values})

    def ask(self, question, *arguments):
        with db.read(self.engine) as connection:
            return question(connection, *arguments)

    def write(self, act, *arguments):
        with db.write(self.engine) as connection:
            return act(connection, *arguments)

    def get(self, campaign_id):
        return self.ask(campaigns.get, campaign_id)

    def checkpoint(self, campaign_id, step, hero="tiny"):
        run = self.ask(campaigns.current_run, campaign_id)["id"]
        place = checkpoints.Place(hero, campaign_id, run, step)
        return checkpoints.save(self.home, self.engine, place, facts={}, why="test",
                                write_weights=lambda folder: (folder / "model.safetensors").write_bytes(b"weights"),
                                write_resume=lambda folder: {})

    def quest(self, campaign_id, at, effort=10.0, mix=None, kind="idle", skill="bin", tokens=100, trials=(), **more):
        """A finished quest with its battle, one metrics row of 10 steps, and trials (level, kind, correct, n)."""
        quest_id, battle_id = db.new_id(), db.new_id()
        run = self.ask(campaigns.current_run, campaign_id)["id"]
        step = int(at * 10)
        ids = []
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.quests).values(
                id=quest_id, campaign_id=campaign_id, name=f"q{at}", kind=kind, lane="low", position=at, skill=skill,
                state="done", mix={str(k): v for k, v in (mix or {1: 1.0}).items()}, created_at=at, finished_at=at,
                rows=40, content_sha256=f"hash{at}", school="scribe", attempts=0, origin={"skill": skill, "version": 1},
                **more))
            connection.execute(sa.insert(db.battles).values(
                id=battle_id, campaign_id=campaign_id, run_id=run, quest_id=quest_id, hero_id="tiny", school="scribe",
                worker="w", state="done", desired="run", config={}, outcome="trained", started_at=at, ended_at=at + 0.5,
                settled_at=at, step=step))
            connection.execute(sa.insert(db.metrics).values(
                run_id=run, step=step, battle_id=battle_id, t=at, loss=1, loss_ema=1, lr=1, tokens=tokens,
                trained_tokens=tokens // 2, step_s=0.1, floor=0, strain=1, zone="focus", effort=effort, steps=10))
            for number, (level, trial_kind, correct, n) in enumerate(trials):
                ids.append(f"t-{at}-{number}")
                connection.execute(sa.insert(db.trials).values(
                    id=ids[-1], campaign_id=campaign_id, battle_id=battle_id, quest_id=quest_id, checkpoint_id="c",
                    step=step, kind=trial_kind, skill=skill, level=level, n=n, correct=correct, verdict="measured",
                    tokens=n, started_at=at + 0.1 + number / 100, seconds=0.1))
        return ids

    def level(self, campaign_id, level, trial_id, at, skill="bin", closed=False):
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.levels).values(
                campaign_id=campaign_id, skill=skill, level=level, closed=closed, mastered_at=at, step=int(at * 10),
                trial_id=trial_id))


# --- made and named -----------------------------------------------------------------------------------------------

def test_names_and_ids_never_collide(world):
    first = world.play()
    a, b = world.new(name="Climb"), world.new()
    assert (a["name"], a["state"], b["name"]) == ("Climb", "paused", "tiny-3")
    world.write(lifecycle.archive, world.get(b["id"]))
    c = world.new()
    assert c["name"] == "tiny-4" and len({first, a["id"], b["id"], c["id"]}) == 4
    taken = world.new(name="tiny-6")
    assert taken["name"] == "tiny-6" and world.new()["name"] == "tiny-7", "a name that a person took is passed over"
    for name, word in (("climb", "taken"), ("TINY-3", "taken"), ("", "letters"), ("../x", "letters"),
                       ("a/b", "letters"), (".hidden", "letters"), ("x" * 65, "letters"), (db.new_id(), "like an id"),
                       (7, "letters"), ("ü", "letters"), ("a\n", "letters")):  # fmt: skip
        with pytest.raises(lifecycle.CampaignError, match=word):
            world.new(name=name)


@pytest.mark.parametrize(("values", "word"), [
    ({"hero_id": "nobody"}, "no hero 'nobody'"), ({"hero_id": None}, "needs a hero"), ({"gaols": {}}, "'goals'"),
    ({"goals": {"binn": {"weight": 1}}}, "'bin'"), ({"goals": {"bin": {"level": 99}}}, "levels 1 to 30"),
    ({"goals": {"bin": {"weight": 0}}}, "greater than 0"), ({"goals": {"bin": {"weight": float("inf")}}}, "finite"),
    ({"goals": []}, "goals"), ({"budget": {"steps": 0}}, "greater than 0"), ({"budget": {"step": 5}}, "'steps'"),
    ({"budget": {"tokens": "many"}}, "integer"), ({"seed": -1}, "seed"), ({"seed": 2**63}, "seed"),
    ({"method": "nope"}, "no campaign 'nope'"), ({"method": {"goal": {}}}, "'goals'"), ({"method": [1]}, "key: value"),
    ({"method": {"format": 2}}, "format"), ({"goals": {"passives": {}}}, "never practised"),
    ({"method": {"schools": ["scribbe"]}}, "'scribe'"), ({"goals": {1: {}}}, "valid string"),
    ({"method": {"hero": []}}, "hero"), ({"checkpoint": "nope"}, "no checkpoint nope"),
])  # fmt: skip
def test_what_cannot_be_is_refused_and_leaves_nothing(world, values, word):
    with pytest.raises((SettingsError, SkillError), match=word):
        world.new(**values)
    answer = world.do("campaign.new", **{"hero_id": "tiny", **values}) if not str(values).count("inf") else None
    assert answer is None or (answer["state"] == "failed" and answer["result"]["reason"])
    assert world.tables.rows(db.campaigns) == [] and world.tables.rows(db.runs) == []


def test_a_start_checkpoint_is_whole_of_this_hero_and_kept(world):
    source = world.play()
    saved = world.checkpoint(source, 50)
    made = world.new(checkpoint=saved.id)
    assert world.ask(campaigns.parent_checkpoint, made["id"])["id"] == saved.id
    assert world.tables.rows(db.checkpoints)[0]["pinned"] is True
    with pytest.raises(lifecycle.CampaignError, match="of hero tiny, not pip"):
        world.new(hero_id="pip", checkpoint=saved.id)
    (saved.folder / "model.safetensors").write_bytes(b"weightz")
    with pytest.raises(lifecycle.CampaignError, match="cannot be started from"):
        world.new(checkpoint=saved.id)
    world.write(lambda c: c.execute(sa.update(db.checkpoints).values(state="corrupt")))
    with pytest.raises(lifecycle.CampaignError, match="is corrupt"):
        world.new(checkpoint=saved.id)


# --- the method ---------------------------------------------------------------------------------------------------

def test_a_method_is_played_with_another_hero(world):
    source = world.new(name="first", goals={"bin": {"weight": 2.0, "level": 5}}, budget={"steps": 500}, seed=77)
    for way in ("first", source["id"], None):
        values = world.ask(method.export, source).model_dump(mode="json")
        values = yaml.safe_load(yaml.safe_dump(values)) if way is None else way
        made = world.new(hero_id="pip", method=values)
        assert (made["hero_id"], made["seed"]) == ("pip", 77) and made["id"] != source["id"]
        found = method.of(made)
        assert found.goals == {"bin": method.Goal(weight=2.0, level=5)} and found.budget.steps == 500
        assert found.origin["campaign"] == "first" and found.origin["differences"] == []
        assert found.idle_generation.samples == 40, "the size of idle quests belongs to the method"
        profile = load_profile("pip", world.home)
        played = method.played(profile, made)
        assert played.skill_priorities == {"bin": 2.0} and played.idle_generation.samples == 40
        assert played.training_defaults == profile.training_defaults, "physics is the hero's own"
    over = world.new(method="first", goals={"bin": {}}, budget={"tokens": 9}, seed=1)
    assert over["seed"] == 1 and method.of(over).budget == method.Budget(tokens=9)
    values["curriculum"]["max_rehearsal"] = 0.3
    told = method.of(world.new(method=values)).origin["differences"]
    assert told == ["max_rehearsal was 0.3, this program has 0.4"]


def test_without_goals_the_hero_s_own_priorities_are_played(world):
    made, profile = world.get(world.play()), load_profile("tiny", world.home)
    assert method.priorities(made, profile) == profile.skill_priorities and method.targets(made) == {}
    assert method.played(profile, made) == profile
    assert world.ask(method.export, made).goals == {"bin": method.Goal(weight=1.0)}


def test_a_goal_that_is_reached_gives_way_until_all_are():
    made = {"method": {"goals": {"bin": {"weight": 2, "level": 3}, "sy": {"weight": 1}}}}
    assert method.priorities(made, None) == {"bin": 2, "sy": 1}
    assert method.priorities(made, None, {"bin": 2}) == {"bin": 2, "sy": 1}
    assert method.priorities(made, None, {"bin": 3}) == {"sy": 1}
    made["method"]["goals"]["sy"]["level"] = 1
    assert method.priorities(made, None, {"bin": 4, "sy": 1}) == {"bin": 2, "sy": 1}, "all reached: all are kept up"
    assert method.targets(made) == {"bin": 3, "sy": 1}


@pytest.mark.parametrize("text", ["", "[1, 2]", "{a: ", "\x00", "x" * 1_100_000, "- !!python/object:os.system {}"])
def test_a_file_that_is_no_method(tmp_path, text):
    file = tmp_path / "m.yaml"
    file.write_text(text)
    with pytest.raises(method.MethodError, match=r"m\.yaml"):
        method.read_file(file)
    with pytest.raises(method.MethodError, match="cannot be read"):
        method.read_file(tmp_path / "gone.yaml")


# --- states -------------------------------------------------------------------------------------------------------

def test_archived_campaigns_rest_until_they_are_restored(world):
    campaign_id = world.play()
    world.checkpoint(campaign_id, 5)
    world.write(lifecycle.archive, world.get(campaign_id))
    assert world.ask(campaigns.active) is None and world.ask(lifecycle.listing) == []
    row = world.ask(lifecycle.hall)[0]
    assert (row["id"], row["hero"], row["total_level"], row["steps"]) == (campaign_id, "Tiny", 0, 0)
    for kind in ("activate", "pause", "budget"):
        answer = world.do(f"campaign.{kind}", campaign=campaign_id)
        assert answer["state"] == "failed" and "restore tiny-1" in answer["result"]["reason"], kind
    assert world.do("campaign.archive", campaign="tiny-1")["result"]["note"] == "it is archived already"
    assert "no campaign is active" in world.do("trial.run", skill="bin")["result"]["reason"]
    assert len(world.tables.rows(db.checkpoints)) == 1, "archiving deletes nothing"
    assert world.do("campaign.restore", campaign="TINY-1")["state"] == "done"
    again = world.do("campaign.restore", campaign="tiny-1")
    assert again["state"] == "done" and "not archived but paused" in again["result"]["note"]
    assert (world.get(campaign_id)["state"], world.get(campaign_id)["archived_at"]) == ("paused", None)
    assert world.ask(lifecycle.hall) == []


def test_ensure_active_keeps_the_campaign_that_was_chosen(world):
    first, profile = world.play(), load_profile("tiny", world.home).model_dump(mode="json")
    newer = world.new()
    assert world.write(campaigns.ensure_active, "tiny", profile) == first, "a newer one does not push it out"
    world.do("campaign.activate", campaign=newer["name"])
    assert world.write(campaigns.ensure_active, "tiny", profile) == newer["id"]
    other = world.write(campaigns.ensure_active, "pip", {"seed": 0})
    assert world.write(campaigns.ensure_active, "tiny", profile) == newer["id"], "as it was before the other hero"
    world.write(lifecycle.archive, world.get(newer["id"]))
    assert world.write(campaigns.ensure_active, "tiny", profile) == first, "archived: the next one"
    states = {r["id"]: r["state"] for r in world.tables.rows(db.campaigns)}
    assert states == {first: "active", newer["id"]: "archived", other: "paused"}


def test_refusals_name_the_campaign_and_the_next_action(world):
    world.play()
    for kind, payload, word in (("activate", {"campaign": "nope"}, "tiny-1"),
                                ("restore", {"campaign": "tiny1"}, "tiny-1"),
                                ("budget", {"tokens": -4}, "greater than 0"), ("new", {}, "hero list"),
                                ("pause", {"campaign": {"x": 1}}, "no campaign"), ("archive", {"campaign": 7}, "7"),
                                ("activate", {"campaign": "\ud800"}, "no campaign")):  # fmt: skip
        answer = world.do(f"campaign.{kind}", **payload)
        assert answer["state"] == "failed" and word in answer["result"]["reason"], (kind, answer["result"])


def test_archiving_after_another_was_chosen_does_not_stop_the_other(world):
    first, other = world.play(), world.new(name="other")
    world.do("campaign.activate", campaign="other")  # the loop has not switched yet
    world.do("campaign.archive", campaign=first)
    assert world.ask(commands.mode) == "train"
    report.archive(world.home, world.engine, first)
    assert world.play() == other["id"] and world.ask(campaigns.between) is False
    world.do("campaign.pause", campaign="other")
    assert world.ask(commands.mode) == "rest"
    world.new(name="third")
    world.do("campaign.pause", campaign="third")
    assert world.get(other["id"])["state"] == "paused"


def test_goals_of_a_new_campaign_are_in_its_resolved_recipe(world):
    made = world.new(goals={"bin": {"weight": 4}})
    assert made["config"]["skill_priorities"] == {"bin": 4.0}


def test_a_goal_whose_module_was_removed_does_not_lock_the_campaign(world):
    made = world.new()
    gone = {"goals": {"gone": {"weight": 1.0}}}
    world.write(lambda c: c.execute(sa.update(db.campaigns).values(method=gone)))
    assert world.do("campaign.budget", campaign=made["id"], steps=9)["state"] == "done"
    assert world.do("campaign.activate", campaign=made["id"])["state"] == "pending"
    found = world.ask(report.build, world.get(made["id"]))
    assert found["cap"]["skills"]["gone"]["state"] == "not begun" and "gone" in report.text_of(found)
    with pytest.raises(SkillError, match="'gone'"):
        world.new(method=made["id"])


# --- budget and cap -----------------------------------------------------------------------------------------------

def test_budget_counts_training_and_trials_and_rests_once(world):
    made = world.new(budget={"tokens": 250})
    world.do("campaign.activate", campaign=made["id"])
    campaign_id = world.play()
    world.quest(campaign_id, 1.0, trials=[(1, "promotion", 40, 40)])
    assert world.ask(facts.spent, campaign_id).charged == 140
    assert world.write(commands.halt_over_budget, campaign_id) is False
    world.quest(campaign_id, 2.0, trials=[(1, "scout", 10, 10)])
    assert world.ask(facts.spent, campaign_id) == facts.Spent(20, 200, 100, 50, 20.0)
    for _ in range(3):
        assert world.write(commands.halt_over_budget, campaign_id) is True
    assert world.ask(commands.mode) == "rest"
    alert, = world.tables.events("alert")
    assert alert["payload"]["code"] == "budget_spent" and "250 of 250 tokens" in alert["payload"]["why"]
    assert alert["payload"]["action"] == {"kind": "campaign.archive", "payload": {"campaign": campaign_id}}
    assert world.do("campaign.budget", tokens=400)["result"]["budget"] == {"tokens": 400, "steps": None}
    assert world.write(commands.halt_over_budget, campaign_id) is False
    assert method.of(world.get(campaign_id)).goals == {}, "the rest of the method is as it was"


def climb(world, campaign_id, heavy_from=2, levels=3):
    """Levels passed one a quest; from `heavy_from` on with rehearsal that costs 5 times the new level."""
    at = 1.0
    for level in range(1, levels + 1):
        if level >= heavy_from:
            world.quest(campaign_id, at, effort=50.0, mix={1: 1.0}, kind="rehearsal",
                        trials=[(1, "retention", 40 if level == heavy_from else 80, 80)])
            at += 1
        tried = world.quest(campaign_id, at, mix={level: 1.0}, trials=[(level, "promotion", 40, 40)])
        world.level(campaign_id, level, tried[0], at + 0.3, closed=level == 1)
        at += 1


def test_cap_verdict_is_told_once_and_withdrawn_when_the_hero_climbs_on(world):
    campaign_id = world.play()
    assert world.write(lifecycle.note_verdict, campaign_id) is None
    climb(world, campaign_id, levels=2)
    assert world.write(lifecycle.note_verdict, campaign_id) is None, "one heavy level is no cap"
    world.tables.rows(db.levels)
    with db.write(world.engine) as connection:
        for table in (db.levels, db.trials, db.metrics, db.battles, db.quests):
            connection.execute(sa.delete(table))
    climb(world, campaign_id, levels=3)
    for _ in range(3):
        kept = world.write(lifecycle.note_verdict, campaign_id)
    assert kept["caps"] == {"bin": 3} and kept["skills"]["bin"]["evidence"][0]["multiplier"] == pytest.approx(6.0)
    assert world.get(campaign_id)["verdict"] == kept
    alert, = [e for e in world.tables.events("alert") if e["payload"]["code"] == "level_cap"]
    assert alert["payload"]["action"]["payload"] == {"campaign": campaign_id}
    told = [e["payload"]["state"] for e in world.tables.events("campaign")]
    assert told.count("capped") == 1
    with db.write(world.engine) as connection:  # the rehearsal turns out to have cost less: no cap any more
        connection.execute(sa.update(db.metrics).values(effort=10.0))
    assert world.write(lifecycle.note_verdict, campaign_id) is None and world.get(campaign_id)["verdict"] is None
    assert world.tables.events("campaign")[-1]["payload"]["state"] == "cap_withdrawn"


def test_a_budget_that_runs_out_at_the_limit_of_rehearsal_is_a_cap(world):
    made = world.new(budget={"steps": 30})
    campaign_id = made["id"]
    tried = world.quest(campaign_id, 1.0, mix={1: 1.0}, trials=[(1, "promotion", 40, 40)])
    world.level(campaign_id, 1, tried[0], 1.3)
    for at in (2.0, 3.0):
        world.quest(campaign_id, at, mix={1: 0.4, 2: 0.6}, trials=[(2, "promotion", 10, 40)])
    kept = world.write(lifecycle.note_verdict, campaign_id)
    assert kept["caps"] == {"bin": 1} and "within the budget" in kept["reason"]
    world.do("campaign.budget", campaign=campaign_id, steps=60)
    assert world.get(campaign_id)["verdict"] is None, "with more to spend it may still be passed"


# --- the report ---------------------------------------------------------------------------------------------------

def test_report_tells_only_what_the_tables_hold(world, tmp_path):
    campaign_id = world.play()
    climb(world, campaign_id)
    world.checkpoint(campaign_id, 5)
    found = world.ask(report.build, world.get(campaign_id), 1e9)
    assert json.loads(json.dumps(found, allow_nan=False)) == found, "plain JSON"
    assert [(r["level"], r["closed"], r["correct"], r["n"]) for r in found["climb"]] == [
        (1, True, 40, 40), (2, False, 40, 40), (3, False, 40, 40)]
    assert found["headline"] == {"open": 2, "closed": 1, "highest_open": {"bin": 3}}
    assert found["campaign"]["spent"]["steps"] == 50 and found["climb"][-1]["total"]["steps"] == 50
    assert found["cap"]["state"] == "capped" and found["cap"]["kept"] is None
    assert found["cap"]["forecast"]["bin"]["levels"] == 3
    one, = found["repairs"]
    assert (one["level"], one["held"]) == (1, 1.0)
    assert found["data"]["quests"] == 5 and found["data"]["skills"] == {"bin": [1]}
    text = report.text_of(found)
    for words in ("# Campaign tiny-1 of Tiny", "2 open levels mastered (bin L3) and 1 closed", "Level cap found",
                  "bin L1 (closed)", "40/40", "| bin L2 | 10.0 | 50.0 | 6.00 | 2 |", "What is not known",
                  "Not examined since the last promotion, so not known now: bin L1, bin L2",
                  "No checkpoint was examined"):
        assert words in text, words
    headline = text.split("\n")[2]
    assert "L1" not in headline, "closed levels are in no claim"


def test_report_of_an_empty_campaign_and_of_broken_rows(world):
    campaign_id = world.play()
    found = world.ask(report.build, world.get(campaign_id))
    assert "No cap found yet" in report.text_of(found) and found["champion"] is None and found["climb"] == []
    world.level(campaign_id, 1, "no-such-trial", 5.0)
    world.level(campaign_id, 4, "another", 6.0, skill="gone-skill")
    found = world.ask(report.build, world.get(campaign_id))
    text = report.text_of(found)
    assert "not kept" in text and "is not in the tables" in text and found["campaign"]["total_level"] == 1


def test_report_keeps_its_tables_whatever_a_file_is_called(world):
    campaign_id = world.play()
    world.quest(campaign_id, 1.0, kind="file", skill=None)
    world.write(lambda c: c.execute(sa.update(db.quests).values(name="a|b\n# not a title")))
    text = report.text_of(world.ask(report.build, world.get(campaign_id)))
    assert "a\\|b # not a title" in text and "\n# not a title" not in text


def test_archive_writes_the_report_first_and_can_be_killed_at_any_point(world, monkeypatch):
    campaign_id = world.play()
    climb(world, campaign_id)
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "archive", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            report.archive(world.home, world.engine, campaign_id)
    assert world.get(campaign_id)["state"] == "active", "killed after the report: not archived yet"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
        with pytest.raises(OSError):
            report.archive(world.home, world.engine, campaign_id)
    assert world.get(campaign_id)["state"] == "active"
    folder = world.home.root / report.archive(world.home, world.engine, campaign_id)
    assert sorted(p.name for p in folder.iterdir()) == ["report.json", "report.md"], "and nothing half written"
    written = json.loads((folder / "report.json").read_text())
    assert written["campaign"]["state"] == "archived" and written["campaign"]["archived_at"]
    when = world.get(campaign_id)["archived_at"]
    assert report.archive(world.home, world.engine, campaign_id) == f"campaigns/{folder.name}"
    assert world.get(campaign_id)["archived_at"] == when, "a second time changes nothing"
    assert [e["payload"]["state"] for e in world.tables.events("campaign")].count("archived") == 1


# --- under the loop -----------------------------------------------------------------------------------------------

def in_battle_of(tables, campaign_id):
    def question():
        battle = tables.battles()[-1:]
        return battle and battle[0]["campaign_id"] == campaign_id and battle[0]["state"] == "training" and battle[0]
    return question


def test_the_loop_switches_campaigns_and_goes_on_where_each_was(home, tables):
    home = tiny_home(home, step_s=0.03)
    world = World(home, tables)
    with running(home):
        first = wait_for(lambda: tables.rows(db.campaigns), what="the first campaign")[0]["id"]
        wait_for(lambda: (in_battle_of(tables, first)() or {}).get("step") or 0, what="steps")
        made = tables.do("campaign.new", hero_id="tiny", name="second", activate=True, goals={"bin": {"weight": 3}})
        assert made["state"] == "done", made["result"]
        second = made["result"]["campaign_id"]
        stopped = next(b for b in tables.battles() if b["campaign_id"] == first)
        assert stopped["outcome"] == "stopped" and stopped["checkpoint_id"], "with a checkpoint, before the switch"
        battle = wait_for(in_battle_of(tables, second), what="a battle of the second")
        assert battle["config"]["parent_checkpoint_id"] is None
        assert battle["config"]["hero"]["skill_priorities"] == {"bin": 3}, "its own goals"
        wait_for(lambda: (tables.battles()[-1]["step"] or 0) >= 2)
        assert tables.do("campaign.activate", campaign="tiny-1")["state"] == "done"
        back = wait_for(in_battle_of(tables, first), what="the first again")
        assert back["config"]["parent_checkpoint_id"] == stopped["checkpoint_id"]
        assert back["quest_id"] == stopped["quest_id"] and back["start_step"] == stopped["step"]
        tell(home, step_s=0.0)
        wait_for(lambda: [b for b in tables.battles() if b["id"] == back["id"] and b["settled_at"]])
        done = tables.rows(db.quests, db.quests.c.id == back["quest_id"])[0]
        assert done["state"] == "done" and len(tables.rows(db.metrics, db.metrics.c.run_id == back["run_id"])) >= 10
        assert tables.do("campaign.activate", campaign="tiny-1")["state"] == "done", "again: nothing to do"
        again = tables.do("campaign.activate", campaign="second")
        assert again["state"] == "done"
        states = {r["name"]: r["state"] for r in tables.rows(db.campaigns)}
        assert states == {"tiny-1": "paused", "second": "active"}
    assert world.ask(campaigns.active)["name"] == "second"


def test_pause_rests_and_activate_or_resume_goes_on(home, tables):
    home = tiny_home(home, step_s=0.03)
    with running(home):
        first = wait_for(lambda: tables.rows(db.campaigns))[0]["id"]
        wait_for(in_battle_of(tables, first))
        paused = tables.do("campaign.pause")
        assert paused["state"] == "done" and paused["result"]["outcome"] == "stopped"
        wait_for(lambda: tables.rows(db.campaigns)[0]["state"] == "paused")
        with db.read(tables.engine) as connection:
            assert commands.mode(connection) == "rest"
        n = len(tables.battles())
        held = tables.do("trial.run", skill="bin", level=1)
        assert held["state"] == "done", "a trial may be held meanwhile"
        wait_for(lambda: tables.battles()[-1]["settled_at"])
        assert tables.rows(db.campaigns)[0]["state"] == "paused" and len(tables.battles()) == n + 1
        assert tables.do("campaign.pause")["state"] == "done", "twice is once"
        assert tables.do("battle.resume")["state"] == "done"
        wait_for(in_battle_of(tables, first))
        assert tables.rows(db.campaigns)[0]["state"] == "active"
        tables.do("campaign.pause")
        assert tables.do("campaign.activate", campaign="tiny-1")["state"] == "done"
        wait_for(in_battle_of(tables, first))


def test_archive_in_battle_then_the_next_campaign(home, tables):
    home = tiny_home(home, step_s=0.03, accuracy={"1": 1.0})
    with running(home):
        first = wait_for(lambda: tables.rows(db.campaigns))[0]["id"]
        wait_for(in_battle_of(tables, first))
        done = tables.do("campaign.archive")
        assert done["state"] == "done", done["result"]
        assert (home.root / done["result"]["report"] / "report.md").is_file()
        row, = tables.rows(db.campaigns)
        assert row["state"] == "archived" and tables.battles()[-1]["outcome"] == "stopped"
        n = len(tables.battles())
        assert "no campaign is active" in tables.do("campaign.pause")["result"]["reason"]
        assert "no campaign is active" in tables.do("idle.generate")["result"]["reason"]
        assert tables.do("campaign.archive", campaign="tiny-1")["result"]["note"]
        assert len(tables.battles()) == n and len(tables.rows(db.campaigns)) == 1, "it rests and begins nothing unasked"
        assert tables.do("battle.resume")["state"] == "done"
        second = wait_for(lambda: [r for r in tables.rows(db.campaigns) if r["state"] == "active"])[0]
        assert second["name"] == "tiny-2"
        wait_for(in_battle_of(tables, second["id"]))
        assert tables.do("campaign.restore", campaign="tiny-1")["state"] == "done"
        assert tables.do("campaign.activate", campaign="tiny-1")["state"] == "done"
        battle = wait_for(in_battle_of(tables, first))
        assert battle["config"]["parent_checkpoint_id"] and battle["start_step"] > 0, "where it was before the Hall"


def test_a_spent_budget_rests_the_loop_until_there_is_more(home, tables):
    home = tiny_home(home)
    (home.heroes / "mini.yaml").write_text(HERO.replace("Tiny", "Mini"))
    world = World(home, tables)
    # Services are down: the commands wait for the loop.
    tables.send("campaign.new", hero_id="mini", name="short", budget={"steps": 15}, activate=True)
    with running(home):
        wait_for(lambda: [e for e in tables.events("alert") if e["payload"].get("code") == "budget_spent"],
                 what="the alert")
        assert world.ask(commands.mode) == "rest"
        short = next(r for r in tables.rows(db.campaigns) if r["name"] == "short")
        assert world.ask(facts.spent, short["id"]).steps == 20, "the quest that crossed it was finished"
        assert tables.do("campaign.budget", campaign="short", steps=35)["state"] == "done"
        assert tables.do("battle.resume")["state"] == "done"
        wait_for(lambda: world.ask(facts.spent, short["id"]).steps >= 40)
        wait_for(lambda: world.ask(commands.mode) == "rest")
    assert len([e for e in tables.events("alert") if e["payload"]["code"] == "budget_spent"]) == 2


def test_the_loop_keeps_the_verdict_after_each_battle(home, tables, monkeypatch):
    monkeypatch.setattr(cap, "MAXED_OUT", 1.0)  # every level is as dear as this
    home = tiny_home(home, accuracy={"1": 1.0, "2": 1.0}, base=0.0)
    with running(home):
        row = wait_for(lambda: [r for r in tables.rows(db.campaigns) if r["verdict"]], what="a verdict")[0]
        assert row["verdict"]["caps"] == {"bin": 2} and row["verdict"]["skills"]["bin"]["evidence"]
        n = len(tables.battles())
        wait_for(lambda: len(tables.battles()) > n + 1, what="more battles")
    told = [e for e in tables.events("alert") if e["payload"].get("code") == "level_cap"]
    assert len(told) == 1, "told once"


def test_a_campaign_begins_at_its_start_checkpoint(home, tables):
    home = tiny_home(home, accuracy={"1": 1.0})
    world = World(home, tables)
    with running(home):
        first = wait_for(lambda: tables.rows(db.campaigns))[0]["id"]
        start = wait_for(lambda: tables.rows(db.checkpoints), what="a checkpoint")[0]
        tell(home, step_s=0.02)
        done = tables.do("campaign.new", hero_id="tiny", checkpoint=start["id"], budget={"steps": 15}, activate=True)
        assert done["state"] == "done", done["result"]
        second = done["result"]["campaign_id"]
        battle = wait_for(in_battle_of(tables, second))
        assert (battle["config"]["parent_checkpoint_id"], battle["start_step"]) == (start["id"], start["step"])
        tell(home, step_s=0.0)
        wait_for(lambda: world.ask(commands.mode) == "rest", what="the end of the budget")
    assert world.ask(facts.spent, second).steps == 20, "steps before its start are not its own"
    found = world.ask(report.build, world.get(second))
    assert found["campaign"]["start_checkpoint"] == start["id"] and start["id"] in report.text_of(found)
    kept = tables.rows(db.checkpoints, db.checkpoints.c.id == start["id"])[0]
    assert kept["campaign_id"] == first and kept["pinned"] and (home.root / kept["path"] / "resume").is_dir()


def test_the_last_wish_counts(home, tables):
    home = tiny_home(home, step_s=0.05)
    with running(home):
        first = wait_for(lambda: tables.rows(db.campaigns))[0]["id"]
        wait_for(in_battle_of(tables, first))
        for name in ("a", "b"):
            tables.do("campaign.new", hero_id="tiny", name=name)
        one, two = tables.send("campaign.activate", campaign="a"), tables.send("campaign.activate", campaign="b")
        assert tables.answer(two)["state"] == "done"
        assert tables.answer(one)["state"] in ("failed", "done")
        b = next(r for r in tables.rows(db.campaigns) if r["name"] == "b")
        wait_for(in_battle_of(tables, b["id"]))
        assert [r["name"] for r in tables.rows(db.campaigns) if r["state"] == "active"] == ["b"]


LOOP = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from loop_kit import fake_command
from realm.arena.hero_loop import HeroLoop
from realm.settings import RealmHome
HeroLoop(RealmHome({home!r}), child_command=fake_command, inbox_stable_s=0.0).run()
"""


def test_killed_between_the_order_and_its_effect(home, tables):
    """The loop dies with kill -9 right after it accepted; the next one carries the order out, once."""
    home = tiny_home(home, step_s=0.05)
    process = subprocess.Popen([sys.executable, "-c", LOOP.format(folder=str(FAKE.parent), home=str(home.root))])
    try:
        first = wait_for(lambda: tables.rows(db.campaigns))[0]["id"]
        wait_for(in_battle_of(tables, first), 40)
        switch = tables.send("campaign.new", hero_id="tiny", name="next", activate=True)
        archive = tables.send("campaign.archive", campaign="tiny-1")
        wait_for(lambda: tables.rows(db.commands, db.commands.c.id == archive)[0]["result"], what="accepted")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with running(home):
        # Archiving the played campaign rests the realm; the activation that came before it has chosen the next.
        assert tables.answer(archive)["state"] == "done"
        assert tables.answer(switch)["state"] in ("done", "failed")
        tables.do("campaign.activate", campaign="next")
        made = [r for r in tables.rows(db.campaigns) if r["name"] == "next"]
        assert len(made) == 1
        wait_for(in_battle_of(tables, made[0]["id"]))
    old = next(r for r in tables.rows(db.campaigns) if r["id"] == first)
    assert old["state"] == "archived" and (home.root / "campaigns" / "tiny-1" / "report.json").is_file()
    assert [e["payload"]["state"] for e in tables.events("campaign")].count("archived") == 1
    kinds = [e["kind"] for e in tables.rows(db.events)]
    assert set(kinds) <= set(events.KINDS)

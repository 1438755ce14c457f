"""Campaigns, progress and plans as the tables tell them."""

import json
import shutil

import pytest
import sqlalchemy as sa

from realm import db
from realm.arena import plan
from realm.guild import campaigns, progress
from realm.guild.skills import SkillError, get_skill
from realm.heroes.profile import load_profile
from realm.quests import board, idle
from realm.quests.board import NewQuest

BIN = get_skill("bin")


class World:
    """A campaign with rows written by hand; `clock` orders them in time."""

    def __init__(self, engine):
        self.engine, self.clock = engine, 1000.0
        with db.write(engine) as connection:
            self.id = campaigns.ensure_active(connection, "pip", {"seed": 0})

    def ask(self, function, *arguments, **more):
        with db.read(self.engine) as connection:
            return function(connection, *arguments, **more)

    def tick(self):
        self.clock += 1
        return self.clock

    @property
    def campaign(self):
        return self.ask(campaigns.get, self.id)

    def trial(self, level, correct, n, kind="promotion", verdict="fail", step=1, checkpoint="c"):
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.trials).values(
                id=db.new_id(), campaign_id=self.id, checkpoint_id=checkpoint, step=step, kind=kind, skill="bin",
                level=level, closed=BIN.closed(level), n=n, correct=correct, verdict=verdict, suspicious=False,
                tokens=0, started_at=self.tick(), seconds=0.1))

    def level(self, level, step=1):
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.levels).values(
                campaign_id=self.id, skill="bin", level=level, closed=False, mastered_at=1.0, step=step, trial_id="t"))

    def quest(self, state="done", **more):
        with db.write(self.engine) as connection:
            quest_id = board.enqueue(connection, NewQuest(
                name="q", kind=more.pop("kind", "idle"), campaign_id=self.id, skill="bin", state=state, **more))
            start = self.tick()
            connection.execute(sa.update(db.quests).where(db.quests.c.id == quest_id).values(
                started_at=start, finished_at=self.tick(), created_at=start))
        return quest_id

    def steps(self, battle, first, last):
        """Rows of the optimizer steps `first` to `last` that a battle did."""
        with db.write(self.engine) as connection:
            run = connection.execute(sa.select(db.battles.c.run_id).where(db.battles.c.id == battle)).scalar_one()
            connection.execute(sa.insert(db.metrics), [
                {"run_id": run, "step": step, "battle_id": battle, "t": self.clock, "loss": 1.0, "loss_ema": 1.0,
                 "lr": 0.1, "tokens": 1, "trained_tokens": 1, "step_s": 0.1, "floor": 0.0, "strain": 1.0,
                 "zone": "overload", "effort": 1.0} for step in range(first, last + 1)])

    def checkpoint(self, step, run=None, state="live"):
        with db.write(self.engine) as connection:
            run = run or campaigns.current_run(connection, self.id)["id"]
            made = db.new_id()
            connection.execute(sa.insert(db.checkpoints).values(
                id=made, hero_id="pip", campaign_id=self.id, run_id=run, step=step, path="p", manifest_sha256="0",
                bytes=1, state=state, resumable=True, pinned=False, created_at=self.tick()))
        return made


@pytest.fixture
def world(engine):
    return World(engine)


def test_campaigns_begin_once_and_are_the_same_game_every_time(engine, world):
    with db.write(engine) as connection:
        again = campaigns.ensure_active(connection, "pip", {"seed": 0})
        assert again == world.id
        other = campaigns.ensure_active(connection, "flo", {"seed": 0})
        back = campaigns.ensure_active(connection, "pip", {"seed": 0})
    assert back == world.id and other != back
    found = {c: world.ask(campaigns.get, c) for c in (other, back)}
    assert (found[back]["state"], found[other]["state"]) == ("active", "paused")
    assert found[back]["name"] == "pip-1" and found[back]["seed"] == campaigns.seed_of("campaign", "pip", 0, 1)
    assert found[other]["seed"] != found[back]["seed"]
    with pytest.raises(KeyError, match="no campaign"):
        world.ask(campaigns.get, "nobody")
    assert world.ask(campaigns.active)["id"] == world.id


def test_an_archived_campaign_is_not_gone_on_with_and_ids_never_collide(engine, world):
    with db.write(engine) as connection:
        connection.execute(sa.update(db.campaigns).values(state="archived"))
        new = campaigns.ensure_active(connection, "pip", {"seed": 0})
    assert new != world.id and world.ask(campaigns.get, new)["name"] == "pip-2"


def test_training_goes_on_from_the_newest_live_checkpoint_of_the_run(engine, world):
    assert world.ask(campaigns.parent_checkpoint, world.id) is None
    first = world.checkpoint(100)
    world.checkpoint(200, state="corrupt")
    assert world.ask(campaigns.parent_checkpoint, world.id)["id"] == first
    third = world.checkpoint(300)
    with db.write(engine) as connection:
        run = campaigns.new_run(connection, world.id, first, "rollback")
    assert world.ask(campaigns.current_run, world.id)["id"] == run
    assert world.ask(campaigns.parent_checkpoint, world.id)["id"] == first, "a new run begins at its parent"
    assert world.ask(progress.step_reached, world.id) == 300 and third
    with db.write(engine) as connection:
        connection.execute(sa.update(db.checkpoints).where(db.checkpoints.c.id == first).values(state="corrupt"))
        sound = world.ask(campaigns.parent_checkpoint, world.id, ("live", "corrupt"))
    assert sound["id"] == first and world.ask(campaigns.parent_checkpoint, world.id) is None
    earlier = world.checkpoint(50, run=campaigns_run(world, first))
    assert world.ask(campaigns.parent_checkpoint, world.id)["id"] == earlier, "before the parent, not 300 after it"
    later = world.checkpoint(150)
    assert world.ask(campaigns.parent_checkpoint, world.id)["id"] == later
    assert world.ask(progress.step_reached, world.id) == 150, "the step of the line that goes on"


def campaigns_run(world, checkpoint_id):
    def ask(connection):
        query = sa.select(db.checkpoints.c.run_id).where(db.checkpoints.c.id == checkpoint_id)
        return connection.execute(query).scalar_one()

    return world.ask(ask)


def test_mastered_levels_have_no_gap(world):
    for level, step in ((1, 10), (2, 20), (4, 30)):
        world.level(level, step)
    assert world.ask(progress.mastered_levels, world.id) == {"bin": 2}
    world.level(3, 40)
    assert world.ask(progress.mastered_levels, world.id) == {"bin": 4}
    assert world.ask(progress.mastered_levels, world.id, 20) == {"bin": 2}
    assert world.ask(progress.mastered_levels, world.id, 5) == {"bin": 0} or not world.ask(
        progress.mastered_levels, world.id, 5)  # fmt: skip


def test_skill_progress_is_that_of_the_newest_trial_at_the_training_level(world):
    found = world.ask(progress.skill_progress, world.id, [BIN])["bin"]
    assert (found.mastered_level, found.training_level, found.accuracy, found.n, found.lower_bound) == (
        0, 1, None, 0, None)  # fmt: skip
    world.trial(1, 20, 40)
    world.trial(1, 30, 40, kind="scout")
    world.trial(2, 1, 40, kind="scout")
    found = world.ask(progress.skill_progress, world.id, [BIN])["bin"]
    assert (found.accuracy, found.n, found.closed) == (0.75, 40, True) and 0.59 < found.lower_bound < 0.61
    world.level(1)
    found = world.ask(progress.hero_progress, world.id, [BIN])
    assert found.total_level == 1 and found.skills["bin"].training_level == 2 and found.skills["bin"].accuracy == 0.025


def test_waiting_and_ages_count_quests_that_began_later(world):
    assert world.ask(progress.quests_since_fail, world.id, "bin", 1) is None
    quest = world.quest()
    with db.write(world.engine) as connection:
        # The quest that the trial examines: it began before the trial and ends after it.
        connection.execute(sa.update(db.quests).where(db.quests.c.id == quest).values(finished_at=9e9))
    world.trial(1, 20, 40)
    assert world.ask(progress.quests_since_fail, world.id, "bin", 1) == 0
    world.quest()
    world.quest(state="skipped")
    assert world.ask(progress.quests_since_fail, world.id, "bin", 1) == 1
    world.level(1)
    assert world.ask(progress.retention_checks, world.id) == [progress.Check("bin", 1, "held", 1)]
    world.trial(1, 20, 80, kind="retention", verdict="lost")
    world.quest()
    assert world.ask(progress.retention_checks, world.id) == [progress.Check("bin", 1, "lost", 1)]


def test_skill_state_and_single_trials(world):
    for level in (1, 2):
        world.level(level)
    world.trial(3, 30, 40)
    state = world.ask(plan.skill_state, world.id, BIN)
    assert (state.mastered, state.training, state.closed) == (2, 3, frozenset({1, 2}))
    assert state.seen[3].accuracy == 0.75 and state.quests_since_fail == 0
    trial = world.ask(plan.single_trial, world.campaign, "bin", None, "manual")
    assert (trial["level"], trial["closed"], trial["max_n"], trial["kind"]) == (3, False, 200, "manual")
    far = world.ask(plan.single_trial, world.campaign, "bin", 20, "manual")
    assert far["level"] == 20 and not far["closed"]
    with pytest.raises(SkillError, match="levels 1 to 30"):
        world.ask(plan.single_trial, world.campaign, "bin", 31, "manual")
    again = world.ask(plan.single_trial, world.campaign, "bin", None, "manual")
    assert again == trial
    world.trial(3, 1, 40)
    assert world.ask(plan.single_trial, world.campaign, "bin", None, "manual")["seed"] != trial["seed"]


def test_battle_configuration(world, home):
    profile = load_profile("pip")
    parent = world.checkpoint(100)
    quest_id = world.quest(state="queued", steps=None, rows=1000, mix={"3": 1.0}, level=3, path="queue/low/x.jsonl",
                           report={"sha256": "ab", "probe": {"path": "p", "rows": 20}})  # fmt: skip
    quest = world.ask(board.get, quest_id)
    trials = world.ask(plan.quest_trials, world.campaign, quest, profile)
    config = world.ask(plan.battle_config, world.campaign, profile, quest, trials)
    assert config["parent_checkpoint_id"] == parent and config["quest_start_step"] == 100
    assert config["steps"] == 16, "1,000 rows in steps of 64"
    many = quest | {"report": {"rows": {"rendered": 3000}}}
    assert plan.quest_steps(many, profile) == 47, "rows as rendered, where the Cleric counted them"
    assert config["data"] == {"path": "queue/low/x.jsonl", "sha256": "ab", "rows": 1000}
    assert config["floor"] == 0.0 and config["probe"] == {"path": "p", "rows": 20}
    assert config["hero"]["id"] == "pip" and config["seed"] == world.campaign["seed"]
    with db.write(world.engine) as connection:
        battle = plan.start_battle(connection, "W", config, quest)
    world.steps(battle, 101, 108)
    world.checkpoint(105)
    again = world.ask(plan.battle_config, world.campaign, profile, world.ask(board.get, quest_id), [])
    assert again["quest_start_step"] == 100, "where the quest first began"
    with db.write(world.engine) as connection:
        connection.execute(sa.update(db.checkpoints).where(db.checkpoints.c.step >= 100).values(state="corrupt"))
    world.checkpoint(60)
    fallen = world.ask(plan.battle_config, world.campaign, profile, world.ask(board.get, quest_id), [])
    assert fallen["quest_start_step"] == 60, "never beyond the checkpoint it goes on from"
    assert plan.child_key(config) == plan.child_key(again | {"steps": 1})
    assert plan.child_key(config) != plan.child_key(config | {"hero": {**config["hero"], "seed": 9}})


def test_what_is_left_of_a_quest_is_counted_by_its_own_steps(world):
    """A does 4 of its 10 steps, B is trained between, then the hero falls back: never is a step of B taken for A's."""
    profile = load_profile("pip")
    world.checkpoint(100)
    names = {name: world.quest(state="queued", kind="file", steps=10, rows=640, path=f"queue/low/{name}.jsonl")
             for name in "ab"}  # fmt: skip

    def begin(name):
        quest = world.ask(board.get, names[name])
        config = world.ask(plan.battle_config, world.campaign, profile, quest, [])
        with db.write(world.engine) as connection:
            return config["quest_start_step"], plan.start_battle(connection, "W", config, quest)

    start, battle = begin("a")
    assert start == 100
    world.steps(battle, 101, 104)
    middle = world.checkpoint(104)
    start, battle = begin("b")
    assert start == 104, "nothing of B is done"
    world.steps(battle, 105, 114)
    world.checkpoint(114)
    start, battle = begin("a")
    assert start == 110, "4 of its 10 steps are done, 6 are left"
    world.steps(battle, 115, 117)
    world.checkpoint(116)
    assert begin("a")[0] == 110, "a step beyond the checkpoint is lost"
    with db.write(world.engine) as connection:
        campaigns.new_run(connection, world.id, middle, "fall-back")
    assert begin("a")[0] == 100 and begin("b")[0] == 104, "in another line only what led to its parent counts"
    other = World.__new__(World)
    other.engine, other.clock = world.engine, 2000.0
    with db.write(world.engine) as connection:
        other.id = campaigns.ensure_active(connection, "flo", {"seed": 0})
    other.checkpoint(50)
    config = world.ask(plan.battle_config, other.campaign, profile, world.ask(board.get, names["a"]), [])
    assert config["quest_start_step"] == 50, "steps of another hero's campaign are not this one's"


def test_idle_spec_needs_a_skill(world):
    profile = load_profile("pip")
    spec, serial = world.ask(plan.idle_spec, world.id, profile)
    assert (spec.skill, spec.level, serial) == ("bin", 1, 0)
    assert world.ask(plan.idle_spec, world.id, profile.model_copy(update={"skill_priorities": {"ghost": 1.0}})) is None
    with pytest.raises(SkillError, match="bim"):
        world.ask(plan.idle_spec, world.id, profile, "bim")


def test_quests_of_other_data_are_followed_by_retention_checks_only(world):
    world.level(1)
    for _ in range(4):
        world.quest()
    quest = {"skill": None, "mix": None, "origin": {}}
    kinds = [t["kind"] for t in world.ask(plan.quest_trials, world.campaign, quest, load_profile("pip"))]
    assert kinds == ["retention", "probe", "passive", "passive"]


def test_a_draft_is_used_only_for_the_very_order_it_was_made_for(world, home):
    """The quest's rows are the same bytes with a fitting draft, with another's draft and with none."""
    small = {"idle_generation": load_profile("pip").idle_generation.model_copy(update={"samples": 128})}
    profile = load_profile("pip").model_copy(update=small)
    spec, serial = world.ask(plan.idle_spec, world.id, profile)
    order, steps = plan.idle_order(world.campaign, profile, spec, serial)
    assert (steps, sum(order.counts.values())) == (2, 128)
    other, _ = plan.idle_order(world.campaign, profile, spec, serial + 7)
    found = []
    for wanted in (None, order, other):
        shutil.rmtree(home.root / "campaigns", ignore_errors=True)  # no last quests whose questions are to be avoided
        draft = wanted and plan.write_draft(home, wanted)
        quest = world.ask(board.get, plan.make_idle(
            home, world.engine, world.campaign, profile, spec, serial, draft))  # fmt: skip
        assert (home.root / quest["path"]).is_file() and quest["rows"] == 128
        found.append(quest["content_sha256"])
    assert found[0] == found[1] == found[2]
    draft = plan.write_draft(home, order)
    draft.path.unlink()
    assert plan.make_idle(home, world.engine, world.campaign, profile, spec, serial, draft), "a lost draft is no loss"


def test_epochs_are_passes_over_fewer_rows(world):
    profile = load_profile("pip").model_copy(update={"epochs": 2})
    order, steps = plan.idle_order(world.campaign, profile, *world.ask(plan.idle_spec, world.id, profile))
    assert steps * profile.rows_per_step == 2 * sum(order.counts.values())


def test_pages_speak_of_the_goals_and_of_what_was_practised(world):
    def shown():
        return [skill.id for skill in world.ask(progress.played_skills, world.campaign)]

    assert shown() == []
    world.quest()
    assert shown() == ["bin"]
    with db.write(world.engine) as connection:
        connection.execute(sa.update(db.campaigns).values(
            config={"skill_priorities": {"attn_count": 1, "seq_reverse": 0}}))
    assert shown() == ["attn_count", "bin"]
    with db.write(world.engine) as connection:
        connection.execute(sa.update(db.campaigns).values(
            method={"goals": {"seq_reverse": {"weight": 1}, "module:gone": {"weight": 1}}}))
    assert shown() == ["seq_reverse", "bin"], "a skill that is gone is left out"


def test_an_idle_quest_rehearses_other_skills_and_its_trials_check_them(world, home):
    """Rows of a mastered skill in a quest of another: made, gated, counted, blessed by what they were checked for."""
    small = {"idle_generation": load_profile("pip").idle_generation.model_copy(update={"samples": 640}),
             "skill_priorities": {"bin": 1.0, "seq_reverse": 1.0}}  # fmt: skip
    profile = load_profile("pip").model_copy(update=small)
    with db.write(world.engine) as connection:
        connection.execute(sa.insert(db.levels).values(
            campaign_id=world.id, skill="seq_reverse", level=1, closed=False, mastered_at=1.0, step=1, trial_id="t"))
    spec, serial = world.ask(plan.idle_spec, world.id, profile)
    assert spec.skill == "bin" and set(spec.others) == {"seq_reverse"}, "of equal weight, what is further from its goal"
    quest = world.ask(board.get, plan.make_idle(home, world.engine, world.campaign, profile, spec, serial))
    rows = [json.loads(line) for line in (home.root / quest["path"]).read_text().splitlines()]
    count = sum(row["skill"] == "seq_reverse" for row in rows)
    assert len(rows) == 640 and count == round(640 * spec.others["seq_reverse"][1])
    assert quest["rehearsal"] == {"seq_reverse": {"1": spec.others["seq_reverse"][1]}}
    order = idle.IdleOrder.from_origin(quest["origin"])
    assert order.others == {"seq_reverse": {1: count}}
    facts = idle.write(order, home.root / "again.jsonl", replaced=quest["origin"]["diversity"]["replaced"])
    assert facts["sha256"] == quest["content_sha256"], "the same bytes from the order alone"
    trials = world.ask(plan.quest_trials, world.campaign, quest, profile)
    assert ("retention", "seq_reverse", 1) in {(t["kind"], t["skill"], t["level"]) for t in trials}
    assert plan.floor_of(quest) == 0.0


def test_open_skills_share_a_quest_and_each_is_examined_and_followed_up(world, home):
    small = {"idle_generation": load_profile("pip").idle_generation.model_copy(update={"samples": 640}),
             "skill_priorities": {"seq_reverse": 1.1, "mem_recall": 1.0, "bin": 0.5}}  # fmt: skip
    profile = load_profile("pip").model_copy(update=small)
    spec, serial = world.ask(plan.idle_spec, world.id, profile)
    assert spec.skill == "seq_reverse" and set(spec.others) == {"mem_recall"}, "bin's first level is a closed table"
    quest_id = plan.make_idle(home, world.engine, world.campaign, profile, spec, serial)
    quest = world.ask(board.get, quest_id)
    rows = [json.loads(line) for line in (home.root / quest["path"]).read_text().splitlines()]
    text = {skill: sum(len(row["messages"][-1]["content"]) for row in rows if row["skill"] == skill)
            for skill in ("seq_reverse", "mem_recall")}  # fmt: skip
    assert text["seq_reverse"] == pytest.approx(text["mem_recall"], rel=0.3), "equal shares of the answers' text"
    trials = world.ask(plan.quest_trials, world.campaign, quest, profile)
    assert [(t["skill"], t["level"]) for t in trials if t["kind"] == "promotion"] == [
        ("seq_reverse", 1), ("mem_recall", 1)]  # fmt: skip
    with db.write(world.engine) as connection:
        for skill in text:
            connection.execute(sa.insert(db.levels).values(campaign_id=world.id, skill=skill, level=1, closed=False,
                                                           mastered_at=1.0, step=1, trial_id="t"))  # fmt: skip
    promoted = [("seq_reverse", 1), ("mem_recall", 1), ("ghost", 1)]
    assert world.ask(plan.follow_ups, world.campaign, promoted) == [], "no quest is finished yet"
    spec, serial = world.ask(plan.idle_spec, world.id, profile)
    assert {skill: set(mix) for skill, mix in {spec.skill: spec.mix, **spec.others}.items()} == {
        skill: {1, 2, 3, 4, 5} for skill in text}, "one to rehearse, one to learn, three ahead"  # fmt: skip
    later = plan.make_idle(home, world.engine, world.campaign, profile, spec, serial)
    with db.write(world.engine) as connection:
        for done in (quest_id, later):
            board.set_state(connection, done, "done", finished_at=world.tick())
    assert world.ask(plan.follow_ups, world.campaign, promoted) == [("seq_reverse", 2), ("mem_recall", 2)]
    assert world.ask(plan.follow_ups, world.campaign, promoted[1:]) == [("mem_recall", 2)]
    asked, _ = world.ask(plan.idle_spec, world.id, profile, "seq_reverse")
    assert set(asked.mix) == {1, 2, 3, 4, 5} and set(asked.others) == {"mem_recall"}
    assert set(asked.others["mem_recall"]) == {1}, "a person asked for one skill: the other is only kept"
    assert plan.answer_length("ghost", 1) == 0.0


def test_a_goal_ends_a_skills_climb(world):
    profile = load_profile("pip")
    with db.write(world.engine) as connection:
        connection.execute(sa.update(db.campaigns).values(method={"goals": {"bin": {"weight": 1.0, "level": 2}}}))
    for level in (1, 2):
        world.level(level)
    states = world.ask(plan.skill_states, world.id, {"bin": 1.0})
    assert states["bin"].complete and states["bin"].last == 2
    spec, _ = world.ask(plan.idle_spec, world.id, profile)
    assert spec.kind == "rehearsal" and set(spec.mix) == {1, 2}


# --- weights that were given up -----------------------------------------------------------------------------------


def trained(world, run, step, **more):
    """A finished quest whose last battle ended at this step of a run."""
    quest = world.quest(**more)
    with db.write(world.engine) as connection:
        connection.execute(sa.insert(db.battles).values(
            id=db.new_id(), campaign_id=world.id, run_id=run, quest_id=quest, hero_id="pip", school="scribe",
            worker="w", state="done", desired="run", save_requests=0, config={}, outcome="trained", step=step,
            started_at=world.tick()))
    return quest


def give_up(world, checkpoint):
    with db.write(world.engine) as connection:
        return campaigns.new_run(connection, world.id, checkpoint, "rollback")


def test_a_regression_of_weights_given_up_holds_no_promotion(world):
    world.level(1)
    kept, lost = world.checkpoint(100), world.checkpoint(200)
    world.trial(1, 79, 80, "retention", "held", checkpoint=kept)
    trained(world, campaigns_run(world, kept), 200)
    world.trial(1, 30, 80, "retention", "lost", checkpoint=lost)
    assert world.ask(progress.retention_checks, world.id) == [progress.Check("bin", 1, "lost", 0)]
    give_up(world, kept)
    assert world.ask(progress.retention_checks, world.id) == [progress.Check("bin", 1, "held", 0)]
    state = world.ask(plan.skill_state, world.id, BIN)
    assert state.regressed == [] and state.holds == {1: 1} and state.seen[1].accuracy == 79 / 80
    assert world.ask(progress.newest_trial, world.id, "bin", 1)["correct"] == 79


def test_a_level_held_on_weights_given_up_may_be_forgotten_on_these(world):
    world.level(1)
    kept, lost = world.checkpoint(100), world.checkpoint(200)
    world.trial(1, 30, 80, "retention", "lost", checkpoint=kept)
    trained(world, campaigns_run(world, kept), 200)
    world.trial(1, 79, 80, "retention", "held", checkpoint=lost)
    give_up(world, kept)
    assert world.ask(progress.retention_checks, world.id) == [progress.Check("bin", 1, "lost", 0)]
    state = world.ask(plan.skill_state, world.id, BIN)
    assert state.regressed == [1] and state.holds == {1: 0} and state.seen[1].accuracy == 30 / 80


def test_the_wait_after_a_failed_trial_is_of_the_weights_that_go_on(world):
    kept, lost = world.checkpoint(100), world.checkpoint(200)
    world.trial(1, 30, 80, "promotion", "fail", checkpoint=kept)
    trained(world, campaigns_run(world, kept), 200)
    assert world.ask(progress.quests_since_fail, world.id, "bin", 1) == 1
    run = give_up(world, kept)
    assert world.ask(progress.quests_since_fail, world.id, "bin", 1) == 0, "the quest since then was given up"
    trained(world, run, 150)
    assert world.ask(progress.quests_since_fail, world.id, "bin", 1) == 1
    world.trial(2, 30, 80, "promotion", "fail", checkpoint=lost)
    assert world.ask(progress.quests_since_fail, world.id, "bin", 2) is None, "failed by weights that are gone"

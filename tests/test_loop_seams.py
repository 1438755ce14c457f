"""Where the parts of the loop meet: skills that vanish, campaigns that change, weights that were given up."""

import time

import pytest
import sqlalchemy as sa
from loop_kit import Tables, running, tell, tiny_home, wait_for
from test_collapse import Realm
from test_hero_loop_plan import BIN, World, give_up, trained

from realm import db
from realm.arena import plan, practice, recover, rollback, settle
from realm.guild import campaigns, passives, primitives, skills
from realm.guild.campaigns import facts, forgetting, lifecycle
from realm.guild.curriculum import Check, Practice, Seen, SkillState, choose_skill, next_quest
from realm.guild.skills import SkillError
from realm.guild.skills.bin import BinSkill
from realm.heroes.profile import load_profile
from realm.quests import memory

GONE = "module:gone"


@pytest.fixture
def tables(home):
    made = Tables(home)
    yield made
    made.engine.dispose()


@pytest.fixture
def world(engine):
    return World(engine)


def done(tables, n=1):
    return lambda: len(tables.quests(db.quests.c.state == "done")) >= n


# --- skills that vanish -------------------------------------------------------------------------------------------


def test_a_battle_that_examined_a_skill_which_is_gone_is_settled(home, tables, monkeypatch):
    home = tiny_home(home, accuracy={"1": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(settle, "tidy_file", lambda *_: None)  # a file goes only after the settling transaction
        with running(home):
            wait_for(done(tables))
    battle = tables.battles()[0]
    problem = BIN.generate(1, 1, 0)[0].to_dict() | {"skill": GONE}
    with db.write(tables.engine) as connection:
        connection.execute(sa.delete(db.levels))
        connection.execute(sa.delete(db.blessings))
        trial = dict(connection.execute(sa.select(db.trials).limit(1)).mappings().one())
        for kind in ("promotion", "retention"):
            key = db.new_id()
            connection.execute(sa.insert(db.trials).values(
                {**trial, "id": key, "skill": GONE, "level": 1, "kind": kind, "n": 80, "correct": 80,
                 "battle_id": battle["id"]}))  # fmt: skip
            connection.execute(sa.insert(db.trial_items), [
                {"trial_id": key, "idx": i, "problem": problem, "response": "", "correct": True, "reason": ""}
                for i in range(80)])  # fmt: skip
        connection.execute(sa.update(db.battles).where(db.battles.c.id == battle["id"]).values(settled_at=None))
        connection.execute(sa.update(db.quests).where(db.quests.c.id == battle["quest_id"]).values(
            state="training", rehearsal={GONE: {"1": 0.1}}))
    recover.recover(home, tables.engine)
    assert [(x["skill"], x["level"]) for x in tables.rows(db.levels)] == [("bin", 1)]
    assert len(tables.rows(db.blessings)) == 1
    held = [e["payload"] for e in tables.events("curriculum") if e["payload"]["action"] == "promotion_held"]
    assert [h["skill"] for h in held] == [GONE] and "no module 'gone' is installed" in held[0]["reason"]


def test_rows_of_a_rehearsed_skill_that_is_gone_are_still_trained():
    quest = {"skill": "bin", "mix": {"1": 1.0}, "rehearsal": {GONE: {"1": 0.2}, "buffer": 0.0}}
    assert plan.floor_of(quest) is None
    assert plan.floor_of({**quest, "rehearsal": None}) == 0.0


class Broken(BinSkill):
    """Says what it is, and can make nothing: as a server that went down."""

    id = "broken"

    def generate(self, level, count, seed, split="train"):
        raise SkillError("the server of broken is down")


def test_a_skill_that_can_make_no_rows_does_not_stop_the_others(home, tables, monkeypatch):
    monkeypatch.setitem(skills._LOADED, "broken", Broken())
    home = tiny_home(home)
    hero = home.heroes / "tiny.yaml"
    hero.write_text(hero.read_text().replace("{bin: 1.0}", "{bin: 1.0, broken: 9.0}"))
    with running(home):
        wait_for(done(tables, 2), 25)
    assert "broken" not in {q["skill"] for q in tables.quests()}
    assert any("broken is down" in e["payload"]["why"] for e in tables.events("alert"))


def test_what_cannot_be_rehearsed_is_named(home, world, monkeypatch):
    monkeypatch.setitem(skills._LOADED, "broken", Broken())
    profile = load_profile("pip", home)
    with db.write(world.engine) as connection:
        connection.execute(sa.insert(db.levels).values(
            campaign_id=world.id, skill="broken", level=1, closed=True, mastered_at=1.0, step=1, trial_id="t"))
    with pytest.raises(practice.PracticeError, match="is down") as caught:
        practice.practise(home, world.engine, world.campaign, profile)
    assert caught.value.skills == {"broken"}
    quest = practice.practise(home, world.engine, world.campaign, profile, without=caught.value.skills)
    assert quest, "bin is practised without it"


def test_a_wish_for_a_skill_that_went_meanwhile_fails_and_the_loop_goes_on(home, tables):
    home = tiny_home(home)
    note = {"accepted": True, "t": db.now(), "skill": GONE, "level": None, "wants": "idle"}
    with db.write(tables.engine) as connection:
        connection.execute(sa.insert(db.commands).values(
            id="wish", t=db.now(), kind="idle.generate", payload={"skill": GONE}, state="pending", result=note))
    with running(home):
        answer = tables.answer("wish")
        wait_for(done(tables))
    assert answer["state"] == "failed" and "no module 'gone'" in answer["result"]["reason"]
    assert not [e for e in tables.events("alert") if e["payload"]["code"] == "hero_loop"]


# --- commands are never kept waiting ------------------------------------------------------------------------------


def test_a_slow_cap_verdict_holds_up_no_command(home, tables, monkeypatch):
    real, begun = lifecycle.verdict, []

    def slow(*arguments):
        begun.append(time.monotonic())
        time.sleep(2.0)
        return real(*arguments)

    home = tiny_home(home)
    monkeypatch.setattr(lifecycle, "verdict", slow)
    with running(home):
        wait_for(lambda: len(begun) >= 2)  # the first is drawn up at the start
        asked = time.monotonic()
        tables.do("mode", mode="rest")
        assert time.monotonic() - asked < 1.0 and asked - begun[-1] < 1.0


def test_what_a_kill_left_undone_after_a_quest_is_done_at_the_start(home, tables, monkeypatch):
    home = tiny_home(home)
    looks = []
    monkeypatch.setattr(rollback, "guard", lambda h, made, campaign: looks.append(campaign) or rollback.Guarded(None))
    monkeypatch.setattr(lifecycle, "keep_verdict", lambda *a: None)
    tables.send("mode", mode="rest")
    with running(home):
        wait_for(lambda: looks)
    assert looks == [c["id"] for c in tables.rows(db.campaigns)]


# --- campaigns that change ----------------------------------------------------------------------------------------


def test_a_draft_of_another_campaign_is_not_used(home, world):
    """A replayed method has the same seed, so the order may be equal to the bit; the past of the campaign is not."""
    profile = load_profile("pip", home)
    spec, serial = world.ask(plan.idle_spec, world.id, profile)
    order, _ = plan.idle_order(world.campaign, profile, spec, serial)
    with db.write(world.engine) as connection:
        connection.execute(sa.update(db.campaigns).where(db.campaigns.c.id == world.id).values(state="archived"))
        other = campaigns.get(connection, campaigns.ensure_active(connection, "pip", {}, world.campaign["seed"]))
    draft = plan.write_draft(home, order, world.id, world.engine)
    draft.path.write_text(draft.path.read_text().replace("\n", " \n"))  # recognisable
    made = plan.make_idle(home, world.engine, other, profile, spec, serial, draft)
    with db.read(world.engine) as connection:
        path = connection.execute(sa.select(db.quests.c.path).where(db.quests.c.id == made)).scalar_one()
    assert " \n" not in (home.root / path).read_text()


def test_the_level_after_a_reached_goal_is_not_examined(home, tables):
    home = tiny_home(home, accuracy={"1": 1.0, "2": 1.0, "3": 1.0}, base=1.0)
    tables.send("campaign.new", hero_id="tiny", goals={"bin": {"level": 2}}, activate=True)
    with running(home):
        wait_for(lambda: len(tables.rows(db.levels)) >= 2, 40)
        wait_for(done(tables, len(tables.quests(db.quests.c.state == "done")) + 1))
    promoted = {t["level"] for t in tables.rows(db.trials, db.trials.c.kind == "promotion")}
    assert promoted == {1, 2}


# --- weights that were given up -----------------------------------------------------------------------------------


def test_the_guard_never_goes_back_to_weights_that_were_given_up(home, engine):
    realm = Realm(home, engine)
    start = realm.quest()[1]
    with db.write(engine) as connection:
        connection.execute(sa.insert(db.levels).values(
            [{"campaign_id": realm.campaign, "skill": "bin", "level": n, "closed": False, "mastered_at": 1.0,
              "step": 20, "trial_id": "t"} for n in range(1, 5)]))
    best = realm.quest()[1]
    with db.write(engine) as connection:
        realm.run = campaigns.new_run(connection, realm.campaign, start, "by the player")
    realm.step, realm.clock = 10, db.now() + 10
    own = [realm.quest()[1] for _ in range(3)]
    for _ in range(3):
        realm.quest(diversity=0.3, loss=2.0)
    assert rollback.guard(home, engine, realm.campaign).act == "rolled back"
    parent = realm.runs()[-1]["parent_checkpoint_id"]
    assert parent != best and parent in (start, *own)


def test_a_quest_is_not_blessed_for_what_only_abandoned_weights_had_lost(world):
    kept, lost = world.checkpoint(100), world.checkpoint(200)
    world.trial(1, 76, 80, checkpoint=kept)
    with db.read(world.engine) as connection:
        run = campaigns.current_run(connection, world.id)["id"]
    trained(world, run, 200)
    world.trial(1, 8, 80, checkpoint=lost)
    now = {"skill": "bin", "level": 1, "started_at": world.tick()}
    assert world.ask(settle._accuracy_before, world.id, now, None) == 0.1
    give_up(world, kept)
    assert world.ask(settle._accuracy_before, world.id, now, None) == 0.95


def test_what_is_known_now_is_not_told_by_weights_given_up(world):
    kept, lost = world.checkpoint(100), world.checkpoint(200)
    world.trial(1, 40, 40, verdict="pass", checkpoint=kept)
    world.trial(2, 40, 40, verdict="pass", checkpoint=kept)
    world.trial(1, 30, 80, "retention", "lost", checkpoint=lost)
    with db.read(world.engine) as connection:
        ids = connection.execute(sa.select(db.trials.c.id).order_by(db.trials.c.started_at)).scalars().all()
    with db.write(world.engine) as connection:
        connection.execute(sa.insert(db.levels), [
            {"campaign_id": world.id, "skill": "bin", "level": n, "closed": True, "mastered_at": 1000.0 + n, "step": 1,
             "trial_id": ids[n - 1]} for n in (1, 2)])  # fmt: skip

    def now():
        found = world.ask(facts.read, world.campaign)
        return forgetting.accuracies(forgetting.matrix(found.stages, found.trials))

    assert now() == [[1.0, None], [0.375, 1.0]]
    give_up(world, kept)
    assert now() == [[1.0, None], [None, 1.0]], "not examined since; the level was never forgotten by this hero"
    world.trial(1, 79, 80, "retention", "held", checkpoint=kept)
    assert now()[1][0] == 79 / 80


def test_a_measurement_of_the_passives_on_weights_given_up_is_not_the_newest(world):
    kept, lost = world.checkpoint(100), world.checkpoint(200)
    rows = [{"checkpoint_id": key} for key in (kept, lost, "c")]
    assert world.ask(passives._in_line, world.id, rows) == rows
    give_up(world, kept)
    assert world.ask(passives._in_line, world.id, rows) == [rows[0], rows[2]]


def test_old_files_and_weak_primitives_are_judged_by_the_weights_that_go_on(world):
    kept, lost = world.checkpoint(100), world.checkpoint(200)
    world.trial(4, 40, 40, "retention", "held", checkpoint=kept)
    world.trial(4, 0, 40, "retention", "lost", checkpoint=lost)
    with db.write(world.engine) as connection:
        trials = db.trials
        for correct in (40, 0):
            connection.execute(sa.update(trials).where(trials.c.correct == correct).values(
                by_primitive={"seq_reverse": [correct, 40]}))
        for at, (checkpoint, loss) in enumerate(((kept, 2.0), (kept, 1.0), (lost, 1.8))):
            connection.execute(sa.insert(trials).values(
                id=db.new_id(), campaign_id=world.id, checkpoint_id=checkpoint, step=1, kind="file", quest_id="q", n=20,
                correct=0, verdict="measured", suspicious=False, loss=loss, tokens=0, started_at=float(at),
                seconds=0.1))

    def told():
        return (world.ask(memory.deficits, world.id)["q"],
                world.ask(primitives.profile, world.id).spokes["seq_reverse"].accuracy)

    assert told() == (pytest.approx(0.8), 0.0)
    give_up(world, kept)
    assert told() == (0.0, 1.0)
    earlier = world.ask(primitives.profile, world.id, world.clock + 1).spokes["seq_reverse"]
    assert earlier.accuracy == 0.0, "an earlier day is told as it was"


# --- a goal that was reached, then lost ---------------------------------------------------------------------------


def test_a_finished_skill_that_regressed_comes_first_again_after_an_ordinary_quest():
    """Every quest of a finished skill is a rehearsal; that must not count as two rehearsals in a row for ever."""
    bad = (Check("a", 1, "lost", 0),)
    states = {"a": SkillState("a", 1, 1, seen={1: Seen(0.3, 80, "retention")}, checks=bad),
              "b": SkillState("b", 30, 0, checks=bad)}  # fmt: skip
    weights = {"a": 1.0, "b": 50.0}
    kept_warm = {"a": Practice(9, 1, rehearsals_in_a_row=9, lately=0), "b": Practice(9, 0)}
    assert choose_skill(weights, states, kept_warm) == "a", "maintenance before conquest"
    assert choose_skill(weights, states, {**kept_warm, "a": Practice(9, 0, 9, lately=2)}) == "b"
    spec = next_quest(states["a"], rehearsals_in_a_row=kept_warm["a"].streak(True), others=[states["b"]])
    assert "regression" in spec.reason


def test_practice_tells_rehearsals_since_anything_new_was_learnt(world):
    for kind in ("rehearsal", "rehearsal", "rehearsal"):
        world.quest(kind=kind)
    assert world.ask(plan.practice, world.id, ["bin"])["bin"] == Practice(3, 0, 3, 3)
    other = world.quest(kind="idle")
    with db.write(world.engine) as connection:
        connection.execute(sa.update(db.quests).where(db.quests.c.id == other).values(skill="sy"))
    assert world.ask(plan.practice, world.id, ["bin"])["bin"] == Practice(3, 1, 3, 0)


def test_priorities_that_are_all_zero_are_told_once_and_files_are_trained(home, tables):
    home = tiny_home(home)
    hero = home.heroes / "tiny.yaml"
    hero.write_text(hero.read_text().replace(
        "{bin: 1.0}", "{" + ", ".join(f"{skill}: 0.0" for skill in load_profile("pip", home).skill_priorities) + "}"))
    with running(home):
        wait_for(lambda: tables.events("alert"))
        (home.inbox / "a.jsonl").write_text('{"prompt": "a", "completion": "x"}\n')
        wait_for(done(tables))
    tell(home)
    assert [e["payload"]["code"] for e in tables.events("alert")].count("no_skill") == 1

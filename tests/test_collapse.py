"""The collapse guard: its rule, what it reads from the tables, and what the arena does about it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_kit import Tables, running, tiny_home, wait_for

from realm import db
from realm.arena import commands, rollback
from realm.guild import campaigns, collapse
from realm.guild.collapse import Generation, answer_diversity, drift, judge
from realm.guild.skills import get_skill
from realm.quests import board
from realm.vault import checkpoints

LEVELS = ("bin:3", "bin:4", "bin:5")


def generation(rng, number, noise, diversity=1.0, strain=1.0, shard=None):
    """One generation around fixed values, times lognormal noise; `shard=None`: no frozen text was measured."""

    def around(value):
        return {level: (value * rng.lognormvariate(0, noise), 100.0) for level in LEVELS}

    spread = {level: (min(1.0, value), n) for level, (value, n) in around(0.8 * diversity).items()}
    text = {} if shard is None else {"human:1": (3.0 * shard * rng.lognormvariate(0, noise), 50.0)}
    return Generation(str(number), f"quest-{number}", spread, around(0.3 * strain), text)


# --- the rule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "ceiling"), [(0.05, 0.0005), (0.1, 0.002), (0.4, 0.0125)])
def test_no_alarm_on_stationary_noise(noise, ceiling):
    """False alarms per judgement: none in 4,000 at 5 % noise, below 1 in 80 however large it is (3 pairs of 1/400,
    and a half more for the luck of this draw)."""
    rng, tries = random.Random(f"noise {noise}"), 4000
    alarms = sum(judge([generation(rng, n, noise, shard=1.0) for n in range(6)]).state == "collapse"
                 for _ in range(tries))  # fmt: skip
    assert alarms / tries <= ceiling


def test_planted_collapse_is_found():
    rng, found = random.Random("planted"), 0
    for _ in range(200):
        before = [generation(rng, n, 0.05) for n in range(3)]
        after = [generation(rng, n, 0.05, diversity=0.7, strain=1.6) for n in range(3, 6)]
        assert judge(before + after[:2]).state == "watching"
        found += judge(before + after).state == "collapse"
    assert found == 200


def test_a_slow_drift_is_found_and_the_reason_names_it():
    """5 % worse each generation is 16 % over the three between the windows' middles."""
    line = [Generation(str(n), f"quest-{n}", {"bin:3": (0.9 * 0.95**n, 80.0)}, {"bin:3": (0.5 * 1.08**n, 80.0)})
            for n in range(6)]  # fmt: skip
    verdict = judge(line)
    assert verdict.state == "collapse"
    assert "diversity" in verdict.reason and "strain" in verdict.reason and "shard could not" in verdict.reason
    assert [d.measure for d in verdict.drifts if d.alarming] == ["diversity", "strain"]


@pytest.mark.parametrize(("changes", "state"), [
    ({"strain": 1.6}, "sound"),  # one of three
    ({"diversity": 0.7}, "sound"),
    ({"shard": 1.5}, "sound"),
    ({"diversity": 0.7, "shard": 1.5}, "collapse"),
    ({"strain": 1.6, "shard": 1.5}, "collapse"),
    ({"strain": 0.4, "diversity": 1.2, "shard": 0.7}, "sound"),  # everything better
    ({"strain": 1.05, "diversity": 0.95, "shard": 1.05}, "sound"),  # worse, but not by a tenth
])  # fmt: skip
def test_two_of_three(changes, state):
    rng = random.Random("two of three")
    line = [generation(rng, n, 0.001, shard=1.0) for n in range(3)]
    line += [generation(rng, n, 0.001, **{"shard": 1.0, **changes}) for n in range(3, 6)]
    assert judge(line).state == state


def test_one_measure_is_no_verdict():
    line = [Generation(str(n), "q", {}, {"bin:3": (0.3 if n < 3 else 3.0, 80.0)}) for n in range(6)]
    verdict = judge(line)
    assert verdict.state == "watching" and "1 of the 2 measures" in verdict.reason


def test_a_new_level_is_no_collapse():
    """After a promotion other, harder levels are examined: only what both halves share is compared."""
    easy = {"bin:3": (1.0, 80.0), "bin:4": (0.95, 80.0)}
    hard = {"bin:4": (0.95, 80.0), "bin:5": (0.2, 200.0), "bin:6": (0.1, 40.0)}
    low = {"bin:3": (0.01, 80.0), "bin:4": (0.05, 80.0)}
    high = {"bin:4": (0.05, 80.0), "bin:5": (2.0, 200.0), "bin:6": (4.0, 40.0)}
    line = [Generation(str(n), "q", easy if n < 3 else hard, low if n < 3 else high) for n in range(6)]
    assert judge(line).state == "sound"
    disjoint = [Generation(str(n), "q", {f"bin:{n}": (1.0 if n < 3 else 0.1, 80.0)}) for n in range(6)]
    assert drift("diversity", [g.diversity for g in disjoint], falls=True) is None


def test_next_to_nothing_is_no_drift():
    """A strain that doubles from 0.01 to 0.02 nats stays below everything that counts as strain."""
    found = drift("strain", [{"bin:3": (0.01 if n < 3 else 0.02, 80.0)} for n in range(6)], slack=collapse.SLACK)
    assert found.apart and not found.alarming


def test_a_text_the_hero_never_knew_is_not_forgotten():
    line = [Generation(str(n), "q", {"bin:3": (1.0 if n < 3 else 0.5, 80.0)}, {},
                       {"human:1": (6.9 if n < 3 else 11.0, 50.0)}) for n in range(6)]  # fmt: skip
    assert judge(line).state == "watching"


@given(st.lists(st.dictionaries(st.sampled_from(LEVELS), st.tuples(st.floats(0, 50), st.floats(0, 500))),
                min_size=6, max_size=6), st.booleans(), st.sampled_from([0.0, 0.1]))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_measures_are_judged_without_an_error(values, falls, slack):
    found = drift("strain", values, falls, slack)
    assert found is None or found.worse == found.worse  # never NaN
    assert judge([Generation(str(n), "q", v, v, v) for n, v in enumerate(values)]).state in (
        "watching", "sound", "collapse")  # fmt: skip


@given(st.lists(st.floats(0.2, 1.0), min_size=6, max_size=6), st.floats(0.01, 100))
@settings(max_examples=100, deadline=None)
def test_the_unit_of_the_loss_does_not_matter(values, factor):
    one = drift("strain", [{"a": (v, 1.0)} for v in values])
    two = drift("strain", [{"a": (factor * v, 1.0)} for v in values])
    assert one.worse == pytest.approx(two.worse, abs=1e-6)


# --- diversity of answers -----------------------------------------------------------------------------------------


def golden(level=4, count=80):
    return [p.golden for p in get_skill("bin").generate(level, count, 5, "train")]


def test_right_answers_have_all_the_diversity_and_one_answer_has_none():
    right = golden()
    assert answer_diversity([(text, text) for text in right]) == 1.0
    assert answer_diversity([(right[0], text) for text in right]) < 0.1
    assert answer_diversity([("", text) for text in right]) < 0.1
    assert answer_diversity([(text, text) for text in right[:19]]) is None


def test_a_hero_that_copies_the_question_and_ends_the_same_is_seen():
    right = golden()
    copied = [text.rpartition("=")[0] + "= ⓪" for text in right]
    assert answer_diversity(list(zip(copied, right, strict=True))) < 0.65
    wrong = [text.rpartition(" ")[0] + " " + other.rpartition(" ")[2]
             for text, other in zip(right, right[1:] + right[:1], strict=True)]  # fmt: skip
    assert answer_diversity(list(zip(wrong, right, strict=True))) > 0.95, "wrong is not the same as collapsed"


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_diversity_is_a_share(pairs):
    found = answer_diversity(pairs)
    assert found is None or 0.0 <= found <= 1.0


# --- from the tables ----------------------------------------------------------------------------------------------


class Realm:
    """A campaign with checkpoints, idle quests and their trials, written as the arena and its child would."""

    def __init__(self, home, engine) -> None:
        self.home, self.engine, self.step, self.clock = home, engine, 0, 1000.0
        with db.write(engine) as connection:
            self.campaign = campaigns.ensure_active(connection, "pip", {"seed": 1})
            self.run = campaigns.current_run(connection, self.campaign)["id"]

    def checkpoint(self) -> str:
        place = checkpoints.Place("pip", self.campaign, self.run, self.step)
        return checkpoints.save(
            self.home, self.engine, place, facts={}, why="test", quest_id=None, battle_id=None,
            write_weights=lambda folder: (folder / "model.safetensors").write_bytes(f"at {self.step}".encode()),
            write_resume=lambda folder: {"step": self.step}).id

    def quest(self, diversity=1.0, loss=0.3, kind="idle", level=4, n=40) -> tuple[str, str]:
        """(quest, its checkpoint); the first `diversity` of the answers are right, the others all the same."""
        self.step += 10
        self.clock += 10
        checkpoint = self.checkpoint()
        quest, battle, trial = db.new_id(), db.new_id(), db.new_id()
        problems = get_skill("bin").generate(level, n, self.step, "trial")
        share = int(diversity * n)
        answers = [p.golden if i < share else "I do not know" for i, p in enumerate(problems)]
        with db.write(self.engine) as connection:
            board.enqueue(connection, board.NewQuest(id=quest, name=f"{kind}-{self.step}", kind=kind, lane="low",
                                                     campaign_id=self.campaign, skill="bin", level=level,
                                                     mix={level: 1.0}))
            connection.execute(sa.update(db.quests).where(db.quests.c.id == quest).values(
                state="done", started_at=self.clock, finished_at=self.clock + 5))
            connection.execute(sa.insert(db.battles).values(
                id=battle, campaign_id=self.campaign, run_id=self.run, quest_id=quest, hero_id="pip", school="scribe",
                worker="w", state="done", desired="run", save_requests=0, config={}, outcome="trained",
                step=self.step, checkpoint_id=checkpoint, started_at=self.clock, settled_at=self.clock + 5))
            connection.execute(sa.insert(db.trials).values(
                id=trial, campaign_id=self.campaign, battle_id=battle, quest_id=quest, checkpoint_id=checkpoint,
                step=self.step, kind="promotion", skill="bin", level=level, closed=False, n=n, correct=share,
                verdict="fail", suspicious=False, loss=loss, tokens=0, started_at=self.clock, seconds=1.0))
            connection.execute(sa.insert(db.trial_items), [
                {"trial_id": trial, "idx": i, "problem": p.to_dict(), "response": text, "correct": i < share,
                 "reason": ""} for i, (p, text) in enumerate(zip(problems, answers, strict=True))])
        return quest, checkpoint

    def collapsing(self) -> str:
        """Three sound quests and three bad ones; the id of the champion: right answers, and the earliest of them."""
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.levels).values(
                [{"campaign_id": self.campaign, "skill": "bin", "level": n, "closed": False, "mastered_at": 1.0,
                  "step": 0, "trial_id": "t"} for n in range(1, 5)]))
        first = [self.quest() for _ in range(3)][0][1]
        for _ in range(3):
            self.quest(diversity=0.3, loss=2.0)
        return first

    def runs(self) -> list[dict]:
        with db.read(self.engine) as connection:
            return [dict(r) for r in connection.execute(sa.select(db.runs).order_by(db.runs.c.created_at)).mappings()]

    def alerts(self, code="collapse") -> list[dict]:
        with db.read(self.engine) as connection:
            rows = connection.execute(sa.select(db.events).where(db.events.c.kind == "alert")).mappings()
            return [dict(r) for r in rows if r["payload"].get("code") == code]

    def notes(self) -> dict:
        with db.read(self.engine) as connection:
            return collapse.notes(connection, self.campaign)

    def mode(self) -> str:
        with db.read(self.engine) as connection:
            return commands.mode(connection)


@pytest.fixture
def realm(home, engine):
    return Realm(home, engine)


def test_measures_come_from_the_trials_of_the_quest(realm):
    quest, _ = realm.quest(diversity=0.5, loss=0.4)
    with db.read(realm.engine) as connection:
        [found] = collapse.history(connection, realm.campaign)
        assert collapse.history(connection, realm.campaign, {quest: found.to_dict()}) == [found]
    assert found.strain == {"bin:4": (0.4, 40.0)} and found.shard == {}
    assert 0.3 < found.diversity["bin:4"][0] < 0.8


def test_levels_that_were_not_practised_do_not_count(realm):
    """An old level that fades while another is learnt is a regression, which rehearsal mends; no collapse."""
    quest, _ = realm.quest()
    with db.write(realm.engine) as connection:
        connection.execute(sa.update(db.quests).where(db.quests.c.id == quest).values(mix={"7": 1.0}))
    with db.read(realm.engine) as connection:
        [found] = collapse.history(connection, realm.campaign)
    assert found.strain == {} and found.diversity == {}
    with db.write(realm.engine) as connection:
        connection.execute(sa.update(db.quests).where(db.quests.c.id == quest).values(
            rehearsal={"bin": {"4": 0.2}, "buffer": 0.1}))
    with db.read(realm.engine) as connection:
        assert collapse.history(connection, realm.campaign)[0].strain


def test_the_human_text_stands_until_it_is_asked_again(realm):
    """The passives are asked every ten quests at the latest; what another line of steps answered does not count."""

    def ask(quest, checkpoint, loss, level=2, t=0.0):
        with db.write(realm.engine) as connection:
            battle = connection.execute(sa.select(db.battles.c.id).where(db.battles.c.quest_id == quest)).scalar_one()
            connection.execute(sa.insert(db.trials).values(
                id=db.new_id(), campaign_id=realm.campaign, battle_id=battle, quest_id=quest, step=realm.step,
                checkpoint_id=checkpoint, kind="passive", skill="passives", level=level, closed=False, n=32, correct=0,
                verdict="measured", suspicious=False, loss=loss, tokens=0, started_at=t or realm.clock, seconds=1.0))

    early = realm.quest()
    ask(*early, 3.0)
    ask(*early, 9.0, level=1)
    realm.quest(kind="file")
    made = [realm.quest() for _ in range(4)]
    ask(*made[2], 3.4)
    with db.read(realm.engine) as connection:
        found = [g.shard for g in collapse.history(connection, realm.campaign)]
    assert [f["passives:2"][0] for f in found] == [3.0, 3.0, 3.4, 3.4] and "passives:1" not in found[0]
    with db.write(realm.engine) as connection:
        realm.run = campaigns.new_run(connection, realm.campaign, early[1], "back to the first")
    realm.step, realm.clock = 10, db.now() + 10
    realm.quest()
    with db.read(realm.engine) as connection:
        [last] = collapse.history(connection, realm.campaign)
    assert last.shard["passives:2"][0] == 3.0


def test_a_file_quest_begins_the_count_anew(realm):
    realm.collapsing()
    realm.quest(kind="file")
    realm.quest()
    with db.read(realm.engine) as connection:
        assert len(collapse.history(connection, realm.campaign)) == 1
    assert rollback.guard(realm.home, realm.engine, realm.campaign).verdict.state == "watching"


def test_nothing_happens_to_a_sound_hero(realm):
    for _ in range(7):
        realm.quest()
    done = rollback.guard(realm.home, realm.engine, realm.campaign)
    assert (done.act, done.verdict.state, len(realm.runs())) == ("none", "sound", 1)
    assert len(realm.notes()["generations"]) == 6 and not realm.alerts()


def test_no_quest_yet(realm):
    assert rollback.guard(realm.home, realm.engine, realm.campaign).verdict.state == "watching"


def test_collapse_goes_back_to_the_champion_in_a_new_run(realm):
    champion = realm.collapsing()
    done = rollback.guard(realm.home, realm.engine, realm.campaign)
    assert done.act == "rolled back" and not done.rests
    assert [r["parent_checkpoint_id"] for r in realm.runs()] == [None, champion]
    with db.read(realm.engine) as connection:
        assert campaigns.parent_checkpoint(connection, realm.campaign)["id"] == champion
    [alert] = realm.alerts()
    assert alert["payload"]["action"]["kind"] == "hero.rollback" and "strain" in alert["payload"]["why"]
    assert {"what", "why", "fix"} <= set(alert["payload"])
    again = rollback.guard(realm.home, realm.engine, realm.campaign)
    assert again.act == "none" and len(realm.runs()) == 2, "a second look does not go back again"


def test_waiting_practice_of_the_collapsed_hero_is_taken_off_the_board(realm):
    realm.collapsing()
    with db.write(realm.engine) as connection:
        idle = board.enqueue(connection, board.NewQuest(name="next", kind="idle", campaign_id=realm.campaign))
        file = board.enqueue(connection, board.NewQuest(name="file", kind="file"))
    rollback.guard(realm.home, realm.engine, realm.campaign)
    with db.read(realm.engine) as connection:
        assert board.get(connection, idle)["state"] == "skipped" and board.get(connection, file)["state"] == "queued"


def test_the_second_alarm_in_twenty_quests_rests(realm):
    realm.collapsing()
    assert not rollback.guard(realm.home, realm.engine, realm.campaign).rests
    realm.clock = db.now() + 10  # quests after the rollback
    realm.run = realm.runs()[-1]["id"]
    for number in range(6):
        realm.quest(*((1.0, 0.3) if number < 3 else (0.3, 2.0)))
    done = rollback.guard(realm.home, realm.engine, realm.campaign)
    assert done.act == "rolled back" and done.rests and realm.mode() == "rest"
    assert realm.alerts()[-1]["payload"]["action"] == {"kind": "battle.resume", "payload": {}}


@pytest.mark.parametrize(("before", "now", "rests"), [
    ([], 6, False), ([6], 12, True), ([6], 26, True), ([6], 27, False), ([1, 2, 3], 40, False)])  # fmt: skip
def test_when_to_rest(before, now, rests):
    assert collapse.must_rest([{"quests": n} for n in before], now) is rests


def test_a_champion_that_is_corrupt_is_passed_over(realm):
    champion = realm.collapsing()
    with db.read(realm.engine) as connection:
        path = connection.execute(sa.select(db.checkpoints.c.path).where(db.checkpoints.c.id == champion)).scalar_one()
    (realm.home.root / path / "model.safetensors").write_bytes(b"other")
    done = rollback.guard(realm.home, realm.engine, realm.campaign)
    assert done.act == "rolled back" and realm.runs()[-1]["parent_checkpoint_id"] != champion
    with db.read(realm.engine) as connection:
        state = connection.execute(sa.select(db.checkpoints.c.state).where(db.checkpoints.c.id == champion)).scalar()
    assert state == "corrupt"


def test_without_a_whole_checkpoint_the_realm_rests(realm):
    realm.collapsing()
    for file in realm.home.vault.rglob("model.safetensors"):
        file.write_bytes(b"other")
    done = rollback.guard(realm.home, realm.engine, realm.campaign)
    assert (done.act, done.rests, realm.mode(), len(realm.runs())) == ("lost", True, "rest", 1)


def test_a_champion_that_is_the_newest_stays(realm):
    realm.collapsing()
    with db.write(realm.engine) as connection:
        newest = campaigns.parent_checkpoint(connection, realm.campaign)["id"]
        connection.execute(sa.update(db.trials).where(db.trials.c.checkpoint_id != newest).values(correct=0))
    done = rollback.guard(realm.home, realm.engine, realm.campaign)
    assert done.act == "stayed" and len(realm.runs()) == 1 and realm.alerts()
    assert rollback.guard(realm.home, realm.engine, realm.campaign).act == "none", "said once, not after every quest"


KILLED = """
    import os, signal, sys
    import sqlalchemy as sa
    from realm import db
    from realm.arena import rollback
    from realm.settings import RealmHome

    home, campaign, after = RealmHome(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    engine, seen = db.connect(home), 0

    @sa.event.listens_for(engine, "before_cursor_execute")
    def count(connection, cursor, statement, *rest):
        global seen
        seen += not statement.startswith(("SELECT", "PRAGMA"))
        if seen > after:
            os.kill(os.getpid(), signal.SIGKILL)

    rollback.guard(home, engine, campaign)
    print(seen)
"""


def test_killed_at_any_write_leaves_all_or_nothing(realm):
    """SIGKILL before each statement that writes, one after the other: either nothing changed or everything did."""
    realm.collapsing()

    def attempt(after: int) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(realm.home.root), realm.campaign,
                               str(after)], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    for after in (1, 2, 3, 5, 7, 10_000):
        code, text = attempt(after)
        made = len(realm.runs()) == 2, bool(realm.alerts()), bool(realm.notes()["acts"])
        assert len(set(made)) == 1, f"half done after {after} statements: {made}"
        assert code == (-signal.SIGKILL if not made[0] else 0), text
    assert made == (True, True, True)


# --- a person goes back -------------------------------------------------------------------------------------------


def test_a_person_goes_back_and_the_loop_goes_on_from_there(home):
    tiny_home(home, accuracy={"1": 0.5})
    with running(home):
        tables = Tables(home)
        wait_for(lambda: len(tables.rows(db.quests, db.quests.c.state == "done")) >= 2, wait_s=60, what="two quests")
        target = tables.rows(db.checkpoints)[0]
        told = tables.do("hero.rollback", checkpoint_id=target["id"])
        assert told["state"] == "done" and told["result"]["step"] == target["step"]
        run = told["result"]["run_id"]
        wait_for(lambda: [b for b in tables.battles() if b["run_id"] == run and b["outcome"] == "trained"],
                 60, "a battle in the new run")
        first = next(b for b in tables.battles() if b["run_id"] == run)
        assert first["config"]["parent_checkpoint_id"] == target["id"] and first["start_step"] == target["step"]


def test_going_back_is_refused_where_it_cannot_be_done(home):
    tiny_home(home)
    with running(home):
        tables = Tables(home)
        wait_for(lambda: tables.rows(db.checkpoints), what="a checkpoint")
        assert "vault list" in tables.do("hero.rollback", checkpoint_id="nothing")["result"]["reason"]
        assert "vault list" in tables.do("hero.rollback")["result"]["reason"]
        tables.do("mode", mode="rest")
        wait_for(lambda: all(b["settled_at"] for b in tables.battles()), what="rest")
        runs = len(tables.rows(db.runs))
        newest = tables.rows(db.checkpoints)[-1]
        assert "there already" in tables.do("hero.rollback", checkpoint_id=newest["id"])["result"]["note"]
        row = tables.rows(db.checkpoints)[0]
        (home.root / row["path"] / "model.safetensors").write_bytes(b"spoilt")
        told = tables.do("hero.rollback", checkpoint_id=row["id"])
        assert told["state"] == "failed" and "stays out of use" in told["result"]["reason"]
        assert len(tables.rows(db.runs)) == runs
        assert "corrupt" in tables.do("hero.rollback", checkpoint_id=row["id"])["result"]["reason"]


def test_files_trained_since_are_held_not_trained_again(realm):
    _, first = realm.quest()
    file, _ = realm.quest(kind="file")
    (realm.home.root / "completed").mkdir(exist_ok=True)
    path = Path("completed") / board.file_name(file, "file")
    (realm.home.root / path).write_text("{}\n")
    with db.write(realm.engine) as connection:
        connection.execute(sa.update(db.quests).where(db.quests.c.id == file).values(path=path.as_posix()))
        connection.execute(sa.insert(db.commands).values(id="c1", t=1.0, kind="hero.rollback", state="pending",
                                                         payload={"checkpoint_id": first}))
        commands.work(connection, realm.home)
        [command] = commands.wishes(connection, "rollback")
    told = rollback.to_checkpoint(realm.home, realm.engine, command)
    with db.read(realm.engine) as connection:
        assert board.get(connection, file)["state"] == "hold"
        assert campaigns.parent_checkpoint(connection, realm.campaign)["id"] == first
    assert told["run_id"] == realm.runs()[-1]["id"]


def test_guard_and_rollback_from_the_command_line(realm, capsys):
    from realm.cli import app
    from realm.cli.common import Refused

    with pytest.raises(Refused, match="vault list"):
        app(["vault", "rollback", "nothing"])
    realm.collapsing()
    with pytest.raises(SystemExit) as ended:
        app(["vault", "guard"])
    assert ended.value.code in (0, None)
    text = capsys.readouterr().out
    assert "collapse:" in text and "idle-60" in text


def test_every_alert_of_the_guard_has_a_button_that_works(realm):
    """The action of the alert is one that the page can give and the arena knows."""
    from realm.state.momentum import act_of

    def button() -> dict:
        action = realm.alerts()[-1]["payload"]["action"]
        assert action["kind"] in commands.HANDLERS
        return act_of(action).model_dump()

    realm.collapsing()
    with db.read(realm.engine) as connection:
        newest = campaigns.parent_checkpoint(connection, realm.campaign)["id"]
    rollback.guard(realm.home, realm.engine, realm.campaign)
    undo = button()
    assert (undo["kind"], undo["payload"]) == ("hero.rollback", {"checkpoint_id": newest}) and undo["confirm"]
    for file in realm.home.vault.rglob("model.safetensors"):
        file.write_bytes(b"other")
    realm.clock, realm.run = db.now() + 10, realm.runs()[-1]["id"]
    with db.write(realm.engine) as connection:
        connection.execute(sa.update(db.quests).values(finished_at=realm.clock))
    assert rollback.guard(realm.home, realm.engine, realm.campaign).rests
    assert button() == {"kind": "battle.resume", "payload": {}, "label": "Go on", "confirm": ""}

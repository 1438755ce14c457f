"""The snapshot and the longer answers: every number against the rows it was made from."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from tavern_kit import STEP_S, TOKENS, Play, fresh_home

from realm import db, events
from realm.guild.levels import wilson
from realm.state import machine, queries, snapshot
from realm.state.reader import quest_steps, read_snapshot, shown_state
from realm.state.snapshot import Battle, RealmSnapshot


@pytest.fixture
def home(tmp_path):
    return fresh_home(tmp_path / "realm")


@pytest.fixture
def play(home):
    made = Play(home)
    yield made
    made.close()


def test_committed_schema_is_the_models(home):
    assert snapshot.SCHEMA_FILE.read_text(encoding="utf-8") == snapshot.schema_text(), (
        "run: python -m realm.state.snapshot > src/realm/state/snapshot.schema.json")  # fmt: skip


def test_contract_fields_are_there():
    """Contracts A3, field by field."""
    wanted = {
        "Hero": "id name level step total_level xp effort",
        "Battle": "state school quest step total_steps loss loss_raw strain strain_rate zone hint damage effort "
                  "tokens_per_s eta_s",
        "SkillState": "mastered_level training_level accuracy n lower_bound closed",
        "Queue": "high normal low inbox", "Campaign": "id", "Vault": "checkpoints champion", "Gpu": "used total temp",
    }  # fmt: skip
    for name, fields in wanted.items():
        assert list(getattr(snapshot, name).model_fields) == fields.split()
    assert {"hero", "battle", "skills", "queue", "campaign", "vault", "gpu"} <= set(RealmSnapshot.model_fields)


def test_before_the_first_campaign(home):
    shot = read_snapshot(home)
    assert shot.hero is None and shot.campaign.id is None and shot.event_id == 0
    assert shot.battle == Battle(state="idle") and shot.skills == {} and shot.vault.checkpoints == 0


def test_numbers_of_a_battle(home, play, engine):
    play.won_battle()
    play.arm(steps=200)
    play.begin()
    play.train(50)
    shot = read_snapshot(home)
    with db.read(engine) as connection:
        rows = connection.execute(sa.select(db.metrics).where(db.metrics.c.battle_id == play.battle)
                                  .order_by(db.metrics.c.step)).all()  # fmt: skip
        everything = connection.execute(sa.select(sa.func.sum(db.metrics.c.strain))).scalar_one()
        assert shot.event_id == events.last_id(connection)
    last, battle = rows[-1], shot.battle
    assert (battle.state, battle.school, battle.step, battle.total_steps) == ("training", "scribe", 50, 200)
    assert battle.quest == "bin-L3-120"
    assert (battle.loss, battle.loss_raw) == (last.loss_ema, last.loss)
    assert (battle.strain, battle.zone) == (last.strain, last.zone)
    assert battle.damage == pytest.approx(1 / last.loss_ema)
    assert battle.effort == pytest.approx(sum(row.strain for row in rows))
    assert battle.tokens_per_s == pytest.approx(TOKENS / STEP_S)
    assert battle.eta_s == pytest.approx(150 * STEP_S)
    assert (shot.hero.step, shot.hero.level, shot.hero.total_level, shot.hero.name) == (170, 0, 1, "PIP")
    assert shot.hero.effort == pytest.approx(everything) and shot.hero.xp == 40.0
    assert shot.skills["bin"].mastered_level == 1 and shot.skills["bin"].training_level == 2
    assert shot.vault.checkpoints == 1 and shot.vault.champion is not None


def test_accuracy_belongs_to_the_training_level(home, play):
    checkpoint = play.won_battle(level=1)
    play.arm()
    play.trial(2, 700, 723, checkpoint, closed=True, verdict="fail")
    skill = read_snapshot(home).skills["bin"]
    assert (skill.training_level, skill.n, skill.closed) == (2, 723, True)
    assert skill.accuracy == pytest.approx(700 / 723) and skill.lower_bound == pytest.approx(wilson(700, 723)[0])


@pytest.mark.parametrize(("state", "desired", "settled", "shown"), [
    ("arming", "run", None, "arming"), ("training", "run", None, "training"), ("training", "pause", None, "pausing"),
    ("paused", "pause", None, "paused"), ("training", "stop", None, "stopping"), ("paused", "stop", None, "stopping"),
    ("trial", "skip", None, "stopping"), ("trial", "run", None, "trial"), ("done", "run", None, "done"),
    ("done", "run", 1.0, "idle"), ("failed", "run", None, "failed"), ("failed", "run", 1.0, "failed"),
])  # fmt: skip
def test_shown_state(state, desired, settled, shown):
    assert shown_state({"state": state, "desired": desired, "settled_at": settled}) == shown


def test_a_finished_battle_leaves_no_numbers(home, play):
    play.won_battle()
    assert read_snapshot(home).battle == Battle(state="idle")


def test_a_resumed_quest_goes_on_counting():
    """60 of 200 steps were done before: the battle does 140 from campaign step 1,060."""
    row = {"config": {"steps": 200}, "start_step": 1060, "total_steps": 140, "step": 1100}
    assert quest_steps(row) == (100, 200, 1000)
    assert quest_steps({**row, "step": 1060, "total_steps": 0}) == (200, 200, 860)
    assert quest_steps({"config": {"steps": 0}, "start_step": None, "total_steps": None, "step": None})[0] is None


def test_reading_writes_nothing(home, play):
    play.won_battle()
    with db.connect(home).connect() as other:
        before = other.exec_driver_sql("PRAGMA data_version").scalar_one()
        read_snapshot(home)
        assert other.exec_driver_sql("PRAGMA data_version").scalar_one() == before


def test_snapshot_round_trip(home, play):
    play.won_battle()
    shot = read_snapshot(home)
    assert RealmSnapshot.model_validate_json(shot.model_dump_json()) == shot


def test_status_needs_no_web_framework_and_no_torch(home, play):
    code = ("import json, sys; from realm.settings import RealmHome; from realm.state.reader import read_snapshot;"
            "print(read_snapshot(RealmHome()).battle.state);"
            "assert not {'torch', 'fastapi', 'starlette', 'uvicorn'} & set(sys.modules), 'too much'")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "idle"), done.stderr


def test_no_gpu_is_null(home, monkeypatch):
    monkeypatch.setattr(machine, "_nvml", False)
    assert read_snapshot(home).gpu is None
    assert machine.sample(home.root).gpus == () and machine.sample(home.root).ram_total > 0


class FakeDriver:
    """A driver with one card that does not tell its power."""

    NVML_TEMPERATURE_GPU, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 0, 1

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetMemoryInfo(self, handle):
        return type("Memory", (), {"used": 16 * 10**9, "total": 24 * 10**9})

    def nvmlDeviceGetName(self, handle):
        return b"Card"

    def nvmlDeviceGetUtilizationRates(self, handle):
        return type("Load", (), {"gpu": 97})

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return 67

    def nvmlDeviceGetTemperatureThreshold(self, handle, threshold):
        return 84

    def nvmlDeviceGetPowerUsage(self, handle):
        raise self.NVMLError("not supported")

    nvmlDeviceGetEnforcedPowerLimit = nvmlDeviceGetPowerUsage


def test_gpu_numbers(home, monkeypatch):
    monkeypatch.setattr(machine, "_nvml", FakeDriver())
    gpu = read_snapshot(home).gpu
    assert (gpu.used, gpu.total, gpu.temp) == (16 * 10**9, 24 * 10**9, 67)
    assert machine.gpus()[0].watts is None and machine.gpus()[0].name == "Card"


# --- longer answers -----------------------------------------------------------------------------------------------


def test_series_keeps_every_spike(play, engine):
    play.arm(steps=2000)
    play.begin()
    play.train(700, batch=100)
    play.train(1, loss=9.0)
    play.train(1, loss=0.0003)
    play.train(798, batch=100)
    with db.read(engine) as connection:
        thinned, full = queries.series(connection, play.battle, 90), queries.series(connection, play.battle, 0)
    assert thinned["steps"] == len(full["step"]) == 1500 and len(thinned["step"]) <= 90
    assert max(thinned["loss"]) == 9.0 and min(thinned["loss"]) == 0.0003
    assert thinned["step"] == sorted(set(thinned["step"]))
    assert all(isinstance(t, float) for t in full["t"])
    assert (thinned["step"][0], thinned["step"][-1]) == (full["step"][0], full["step"][-1])


@given(losses=st.lists(st.floats(0, 100), min_size=1, max_size=400), points=st.integers(1, 300))
def test_thin_keeps_extremes_order_and_bound(losses, points):
    rows = [type("Row", (), {"loss": loss, "grad_norm": None, "i": i}) for i, loss in enumerate(losses)]
    kept = queries.thin(rows, points)
    assert len(kept) <= max(points, 10)
    assert [row.i for row in kept] == sorted({row.i for row in kept})
    assert min(losses) in {row.loss for row in kept} and max(losses) in {row.loss for row in kept}
    assert kept[0].i == 0 and kept[-1].i == len(losses) - 1


def test_trial_fact_says_what_would_have_passed(play, engine):
    checkpoint = play.won_battle()
    play.arm()
    play.trial(3, 75, 80, checkpoint)
    with db.read(engine) as connection:
        fact = queries.trials(connection, play.campaign, "bin")[0]
    assert fact["accuracy"] == 75 / 80 and fact["lower"] == pytest.approx(wilson(75, 80)[0])
    assert fact["needed"] == min(k for k in range(81) if wilson(k, 80)[0] >= 0.8)


def test_log_filters_and_pages(play, engine):
    play.won_battle()
    with db.read(engine) as connection:
        everything = queries.log(connection, limit=500)
        deeds = queries.log(connection, levels=("deed",), limit=500)
        page = queries.log(connection, before=everything[2].id, limit=3)
        mine = queries.log(connection, battle_id=play.battle, limit=500)
    assert [e.id for e in everything] == sorted((e.id for e in everything), reverse=True)
    assert deeds == [e for e in everything if e.level == "deed"] and deeds
    assert page == everything[3:6]
    assert mine and all(e.payload["battle_id"] == play.battle for e in mine)


def test_board_has_every_quest_once(home, play, engine):
    play.add_quest("first", "high")
    play.add_quest("held", "normal", state="hold")
    play.add_quest("bad", "normal", skill=None, level=None, state="refused", error="line 3: no messages")
    play.won_battle()
    play.arm()
    (home.inbox / "high" / "new.jsonl").write_text("{}\n")
    (home.inbox / "high" / ".part.jsonl").write_text("{}\n")
    (home.inbox / "notes.txt").write_text("not for the Cleric")
    with db.read(engine) as connection:
        found = queries.quests(connection, home)
    assert [q["name"] for q in found["waiting"]] == ["first", "held"]
    assert len(found["training"]) == 1 and {q["state"] for q in found["ended"]} == {"done", "refused"}
    # notes.txt is left alone by the Cleric: it does not wait for anything.
    assert found["inbox"] == [{"name": "new.jsonl", "lane": "high", "bytes": 3}]
    assert found["counts"] == {"high": 1, "normal": 0, "low": 0, "inbox": 1}
    json.dumps(found)


def test_skills_tell_trials_and_retention(play, engine):
    checkpoint = play.won_battle()
    play.arm()
    play.trial(1, 60, 100, checkpoint, kind="retention", verdict="regression")
    with db.read(engine) as connection:
        skill, *others = queries.skills(connection, play.campaign)
    assert skill["id"] == "bin" and [other["mastered_level"] for other in others] == [0] * len(others)
    assert (skill["mastered_level"], skill["training_level"], skill["max_level"]) == (1, 2, 30)
    assert skill["retention"] == [{"level": 1, "verdict": "regression", "quests_ago": 0}]
    assert skill["trials"] == [], "nothing was examined at the training level yet"
    own = play.trial(2, 300, 400, checkpoint, closed=True, verdict="fail")
    for _ in range(9):
        play.trial(1, 190, 193, checkpoint, closed=True, kind="retention", verdict="held")
    with db.read(engine) as connection:
        skill, *others = queries.skills(connection, play.campaign)
    assert [t["id"] for t in skill["trials"]] == [own] and skill["accuracy"] == 0.75 and skill["n"] == 400
    assert skill["levels"][0]["distinct"] == 193

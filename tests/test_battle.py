"""The battle child: exact resume, orders within one step, trials, failures that say why."""

from __future__ import annotations

import json

import hero_kit as kit
import pytest
import sqlalchemy as sa

from realm import db
from realm.settings import RealmHome

STEPS = 6


def fresh(tmp_path, name: str) -> tuple[RealmHome, sa.Engine]:
    home = RealmHome(tmp_path / name)
    db.migrate(home)
    return home, db.connect(home)


def two_quests(home, engine, profile):
    ids = kit.campaign(engine)
    kit.born(home, profile)
    return ids, kit.quest(home, engine, ids, "a", kit.conversations(9)), kit.quest(
        home, engine, ids, "b", kit.conversations(11, 50))  # fmt: skip


def whole(home, engine, profile):
    """Both quests in one process, never interrupted: the curve that every interrupted run must repeat."""
    from realm.arena.battle import Worker

    ids, a, b = two_quests(home, engine, profile)
    worker = Worker(home, "W")
    first = kit.order_battle(engine, profile, ids, data=a, steps=STEPS)
    worker.serve(dict(kit.battle_row(engine, first)))
    parent = kit.battle_row(engine, first)["checkpoint_id"]
    assert parent, kit.battle_row(engine, first)["error"]
    second = kit.order_battle(engine, profile, ids, data=b, steps=STEPS, begin=STEPS, parent=parent)
    held = worker.held
    worker.serve(dict(kit.battle_row(engine, second)))
    assert worker.held is held, "the second quest must use the hero in memory, not load it again"
    row = kit.battle_row(engine, second)
    assert (row["state"], row["outcome"], row["step"]) == ("done", "trained", 2 * STEPS)
    return kit.curve(engine, ids["run_id"]), kit.weights_hash(home, engine, row["checkpoint_id"])


@pytest.mark.parametrize("changes", [
    {},
    {"training_defaults": {"gradient_accumulation": 3, "batch_size": 2},
     "model": {"architecture": {"attention_dropout": 0.2}}},
    pytest.param({"optimizer": {"type": "adamw"}}, marks=pytest.mark.slow),
    pytest.param({"training_defaults": {"precision": "bf16"}}, marks=pytest.mark.slow),
], ids=["plain", "accumulation-dropout", "adamw", "bf16"])  # fmt: skip
def test_a_plus_b_equals_c(tmp_path, changes):
    """Interrupted inside a quest and at the quest boundary, each part in a new worker that reads from disk."""
    profile = kit.micro_profile(**changes)
    expected = whole(*fresh(tmp_path, "whole"), profile)

    home, engine = fresh(tmp_path, "parts")
    ids, a, b = two_quests(home, engine, profile)
    parent = None
    for data, begin, stops in ((a, 0, (2, None)), (b, STEPS, (1, 3, None))):
        for stop in stops:
            battle = kit.order_battle(engine, profile, ids, data=data, steps=STEPS, begin=begin, parent=parent)
            row = stop_after(home, engine, battle, None if stop is None else begin + stop)
            assert row["outcome"] == ("trained" if stop is None else "stopped"), row["error"]
            parent = row["checkpoint_id"]
    assert kit.curve(engine, ids["run_id"]) == expected[0]
    assert kit.weights_hash(home, engine, parent) == expected[1]


def stop_after(home, engine, battle, step):
    """Serve a battle and set desired = stop once it has reached the campaign step."""
    from realm.arena import pulse

    seen = pulse.Pulse.step

    def watching(self, facts):
        if step is not None and facts.step == step:
            kit.want(engine, battle, desired="stop")
        return seen(self, facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pulse.Pulse, "step", watching)
        return kit.serve_here(home, engine, battle)


def test_state_on_disk_is_json_and_safetensors(tmp_path):
    home, engine = fresh(tmp_path, "home")
    profile = kit.micro_profile()
    ids, a, _ = two_quests(home, engine, profile)
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=3))
    folder = (home.models / "current_model").resolve()
    with engine.connect() as connection:
        path = connection.execute(sa.select(db.checkpoints.c.path)).scalar_one()
    assert folder == home.root / path
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "manifest.json", "resume/state.json",
            "resume/optimizer.safetensors"} <= files  # fmt: skip
    assert {p.rpartition(".")[2] for p in files} <= {"json", "safetensors", "jinja"}
    state = json.loads((folder / "resume/state.json").read_text())
    assert (state["step"], state["cursor"], state["quest_id"]) == (3, 12, a["quest_id"])
    assert row["start_step"] == 0 and row["total_steps"] == 3


# --- Optimizer, checkpoints and data ---------------------------------------------------------------------------------

def told(engine, kind):
    with engine.connect() as connection:
        rows = connection.execute(sa.select(db.events).where(db.events.c.kind == kind).order_by(db.events.c.id))
        return [r["payload"] | {"text": r["text"]} for r in rows.mappings()]


def one_quest(home, engine, **changes):
    profile = kit.micro_profile(**changes)
    ids = kit.campaign(engine)
    kit.born(home, profile)
    return profile, ids, kit.quest(home, engine, ids, "a", kit.conversations(9))


def test_optimizer_is_carried_over_or_reset_with_the_reason(home, engine):
    profile, ids, a = one_quest(home, engine)
    first = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=2))
    kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=4, parent=first["checkpoint_id"]))
    other = kit.micro_profile(optimizer={"type": "adamw"})
    b = kit.quest(home, engine, ids, "b", kit.conversations(9, 20))
    with engine.connect() as connection:
        parent = connection.execute(sa.select(db.checkpoints.c.id).where(db.checkpoints.c.step == 4)).scalar_one()
    row = kit.serve_here(home, engine, kit.order_battle(engine, other, ids, data=b, steps=2, begin=4, parent=parent))
    assert row["outcome"] == "trained", row["error"]
    events = told(engine, "optimizer")
    assert [e["reset"] for e in events] == [True, False, True]
    assert events[0]["reason"] == "first training of this hero"
    assert "optimizer.type was 'muon', is 'adamw'" in events[2]["reason"]


def test_pruned_resume_state_resets_the_optimizer_and_says_so(home, engine):
    import shutil

    profile, ids, a = one_quest(home, engine)
    first = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=2))
    with engine.connect() as connection:
        path = connection.execute(sa.select(db.checkpoints.c.path)).scalar_one()
    shutil.rmtree(home.root / path / "resume")
    b = kit.quest(home, engine, ids, "b", kit.conversations(9, 20))
    order = kit.order_battle(engine, profile, ids, data=b, steps=2, begin=2, parent=first["checkpoint_id"])
    assert kit.serve_here(home, engine, order)["outcome"] == "trained"
    assert told(engine, "optimizer")[-1]["reason"] == "the checkpoint holds no resume state"


def test_corrupt_checkpoint_is_refused_and_the_older_one_serves(home, engine):
    profile, ids, a = one_quest(home, engine)
    first = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=2))
    b = kit.quest(home, engine, ids, "b", kit.conversations(9, 20))
    second = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=b, steps=2, begin=2,
                                                           parent=first["checkpoint_id"]))  # fmt: skip
    weights = (home.models / "current_model" / "model.safetensors").resolve()
    raw = bytearray(weights.read_bytes())
    raw[-5] ^= 1
    weights.write_bytes(raw)
    c = kit.quest(home, engine, ids, "c", kit.conversations(9, 40))
    order = kit.order_battle(engine, profile, ids, data=c, steps=2, begin=4, parent=second["checkpoint_id"])
    row = kit.serve_here(home, engine, order)
    assert (row["state"], row["outcome"]) == ("failed", "failed")
    assert "model.safetensors has another sha256" in row["error"] and first["checkpoint_id"] in row["error"]
    assert {e["code"] for e in told(engine, "alert")} == {"checkpoint_corrupt", "corrupt"}
    order = kit.order_battle(engine, profile, ids, data=c, steps=2, begin=2, parent=first["checkpoint_id"])
    assert kit.serve_here(home, engine, order)["outcome"] == "trained"
    assert [row[0] for row in kit.curve(engine, ids["run_id"])] == [1, 2, 3, 4], "rows beyond the checkpoint are gone"


def test_save_steps_and_pruning(home, engine):
    profile, ids, a = one_quest(home, engine, training_defaults={"save_steps": 3})
    kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=9))
    with engine.connect() as connection:
        rows = connection.execute(sa.select(db.checkpoints.c.step, db.checkpoints.c.resumable)
                                  .order_by(db.checkpoints.c.step)).all()  # fmt: skip
    assert [tuple(r) for r in rows] == [(3, False), (6, False), (9, True)]
    assert [e["why"] for e in told(engine, "checkpoint")] == ["every save_steps", "every save_steps", "quest done"]


def test_a_quest_that_another_overtook_goes_on_where_its_own_rows_ended(home, engine):
    profile, ids, a = one_quest(home, engine)
    b = kit.quest(home, engine, ids, "b", kit.conversations(9, 20))
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=4))
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=b, steps=10, begin=4,
                                                        parent=row["checkpoint_id"]))  # fmt: skip
    # The arena counts 4 steps of A in the checkpoint at step 14, so A began, in effect, at step 10.
    order = kit.order_battle(engine, profile, ids, data=a, steps=10, begin=10, parent=row["checkpoint_id"])
    row = kit.serve_here(home, engine, order)
    assert (row["outcome"], row["start_step"], row["total_steps"], row["step"]) == ("trained", 14, 6, 20)
    state = json.loads((home.models / "current_model" / "resume/state.json").read_text())
    assert state["cursor"] == 40, "4 rows for each of its 10 steps, none twice"


def test_a_finished_quest_that_is_asked_again_does_no_step(home, engine):
    """Stopped during its trials, a quest comes back with nothing left to train."""
    profile, ids, a = one_quest(home, engine)
    first = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=3))
    again = kit.order_battle(engine, profile, ids, data=a, steps=3, parent=first["checkpoint_id"])
    row = kit.serve_here(home, engine, again)
    assert (row["outcome"], row["checkpoint_id"]) == ("trained", first["checkpoint_id"])
    assert len(kit.curve(engine, ids["run_id"])) == 3


@pytest.mark.parametrize(("break_it", "code", "says"), [
    (lambda home, a: (home.root / a["path"]).unlink(), "data_missing", "is missing; drop the file into the inbox"),
    (lambda home, a: (home.root / a["path"]).write_text("{}"), "data_changed", "that the Cleric checked"),
])  # fmt: skip
def test_data_that_is_not_what_was_checked_is_refused(home, engine, break_it, code, says):
    profile, ids, a = one_quest(home, engine)
    break_it(home, a)
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=2))
    assert row["state"] == "failed" and says in row["error"]
    [alert] = told(engine, "alert")
    assert alert["code"] == code and alert["why"] == row["error"] and alert["fix"]
    assert "action" not in alert, "the arena tries again by itself; only its last word offers a retry"


def test_a_missing_probe_fails_the_battle_instead_of_proving_nothing(home, engine):
    profile, ids, a = one_quest(home, engine)
    facts = {"path": "queue/probes/gone.jsonl", "rows": 20}
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=2, probe=facts))
    assert row["state"] == "failed" and "gone.jsonl is missing, the held-out rows" in row["error"]
    assert [e["code"] for e in told(engine, "alert")] == ["data_missing"]


def test_rows_too_long_are_left_out_with_a_word_and_none_is_cut(home, engine):
    profile = kit.micro_profile()
    ids = kit.campaign(engine)
    kit.born(home, profile)
    rows = kit.conversations(4)
    rows[2] = [rows[2][0], {"role": "assistant", "content": "1 2 3 " * 400}]
    a = kit.quest(home, engine, ids, "a", rows)
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=2))
    assert row["outcome"] == "trained"
    [alert] = told(engine, "alert")
    assert alert["code"] == "rows_dropped" and "1 of 4 rows left out (too_long); row 3" in alert["text"]
    bad = kit.quest(home, engine, ids, "bad", [rows[2]])
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=bad, steps=2))
    assert row["state"] == "failed" and "none of 1 rows can be trained on" in row["error"]


def test_nan_fails_with_step_and_last_good_checkpoint(home, engine, monkeypatch):
    import torch

    from realm.schools import scribe

    profile, ids, a = one_quest(home, engine, training_defaults={"save_steps": 2})
    real, calls = scribe.summed_loss, []

    def poisoned(*args, **kw):
        calls.append(1)
        return real(*args, **kw) * (torch.nan if len(calls) > 40 else 1.0)

    monkeypatch.setattr(scribe, "summed_loss", poisoned)
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=100))
    monkeypatch.undo()
    assert row["state"] == "failed" and "became NaN at step" in row["error"]
    with engine.connect() as connection:
        query = sa.select(db.checkpoints.c.id, db.checkpoints.c.step).order_by(db.checkpoints.c.step.desc())
        good = connection.execute(query.limit(1)).one()
    assert f"Last good checkpoint: {good.id} at step {good.step}" in row["error"]
    # And from there it goes on.
    order = kit.order_battle(engine, profile, ids, data=a, steps=good.step + 3, parent=good.id)
    assert kit.serve_here(home, engine, order)["outcome"] == "trained"


def test_full_disk_waits_for_space_with_the_run_in_memory(home, engine, monkeypatch):
    from realm.arena import battle
    from realm.vault import checkpoints

    profile, ids, a = one_quest(home, engine, training_defaults={"save_steps": 2})
    monkeypatch.setattr(battle, "DISK_RETRY_S", 0.01)
    real, states = checkpoints.check_space, []

    def full_three_times(home_, need):
        states.append(kit.battle_row(engine, order)["state"])
        if len(states) <= 3:
            raise checkpoints.CheckpointError("disk_full", "the disk is full")
        return real(home_, need)

    monkeypatch.setattr(checkpoints, "check_space", full_three_times)
    order = kit.order_battle(engine, profile, ids, data=a, steps=4)
    row = kit.serve_here(home, engine, order)
    assert row["outcome"] == "trained" and states[:4] == ["training", "paused", "paused", "paused"]
    assert [e["code"] for e in told(engine, "alert")] == ["disk_full"], "one alert, not one per try"
    assert [row[0] for row in kit.curve(engine, ids["run_id"])] == [1, 2, 3, 4]


def limit_pages(engine, more: int | None) -> None:
    """Let SQLite say "database or disk is full" after `more` pages; None: no limit any more."""
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {2**30 if more is None else pages + more}")


def test_a_full_database_waits_for_space_like_a_full_vault(home, engine, monkeypatch):
    from realm.arena import battle, pulse

    profile, ids, a = one_quest(home, engine, training_defaults={"save_steps": 20})
    worker = battle.Worker(home, "W")
    monkeypatch.setattr(pulse, "FLUSH_S", 0.0)
    real, waits = pulse.Pulse.step, []

    def step(self, facts):
        if facts.step == 2:
            limit_pages(worker.engine, 1)
        return real(self, facts)

    def sleep(_seconds):
        waits.append(kit.battle_row(engine, order)["state"])
        if len(waits) == 3:
            limit_pages(worker.engine, None)

    monkeypatch.setattr(pulse.Pulse, "step", step)
    monkeypatch.setattr(battle.time, "sleep", sleep)
    order = kit.order_battle(engine, profile, ids, data=a, steps=60, trials=[bin_trial()])
    worker.serve(dict(kit.battle_row(engine, order)))
    worker.orders.close()
    worker.engine.dispose()
    row = kit.battle_row(engine, order)
    assert (row["state"], row["outcome"], row["step"]) == ("done", "trained", 60), row["error"]
    assert len(waits) == 3 and set(waits) == {"training"}, "it waited, and could not even say so"
    assert [point[0] for point in kit.curve(engine, ids["run_id"])] == list(range(1, 61)), "no step's row is lost"
    assert [e["code"] for e in told(engine, "alert")] == ["disk_full"], "told once there was room"
    assert [e["state"] for e in told(engine, "battle")][-2:] == ["trial", "done"] and trial_rows(engine)


def test_full_disk_and_a_stop_fails_with_the_reason_and_keeps_the_older(home, engine, monkeypatch):
    from realm.arena import battle
    from realm.vault import checkpoints

    profile, ids, a = one_quest(home, engine, training_defaults={"save_steps": 2})
    first = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=1))
    monkeypatch.setattr(battle, "DISK_RETRY_S", 0.01)

    def full(home_, need):
        kit.want(engine, order, desired="stop")
        raise checkpoints.CheckpointError("disk_full", "the disk is full; free some space, then resume")

    monkeypatch.setattr(checkpoints, "check_space", full)
    order = kit.order_battle(engine, profile, ids, data=a, steps=8, parent=first["checkpoint_id"])
    row = kit.serve_here(home, engine, order)
    assert row["state"] == "failed" and "the disk is full" in row["error"]
    assert checkpoints.load(home, engine, first["checkpoint_id"]).place.step == 1


# --- Trials, probe, events -------------------------------------------------------------------------------------------

def bin_trial(level=1, kind="retention", n=4, closed=True, seed=1):
    return {"kind": kind, "skill": "bin", "level": level, "closed": closed, "threshold": 0.8, "seed": seed, "max_n": n}


def trial_rows(engine):
    with engine.connect() as connection:
        return connection.execute(sa.select(db.trials).order_by(db.trials.c.started_at)).mappings().all()


def test_battle_ends_with_its_trials_in_order(home, engine):
    profile, ids, a = one_quest(home, engine)
    orders = [bin_trial(1), bin_trial(2), bin_trial(1, "manual")]
    order = kit.order_battle(engine, profile, ids, data=a, steps=2, trials=orders)
    row = kit.serve_here(home, engine, order)
    assert row["outcome"] == "trained", row["error"]
    rows = trial_rows(engine)
    assert [(r["kind"], r["level"]) for r in rows] == [("retention", 1), ("retention", 2), ("manual", 1)]
    assert {r["checkpoint_id"] for r in rows} == {row["checkpoint_id"]} and {r["step"] for r in rows} == {2}
    assert all(r["loss"] > 0 and r["battle_id"] == order for r in rows)
    assert [e["state"] for e in told(engine, "battle")] == ["training", "trial", "done"]


def test_trial_without_training_examines_base_weights_as_a_checkpoint(home, engine):
    profile = kit.micro_profile()
    ids = kit.campaign(engine)
    kit.born(home, profile)
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, trials=[bin_trial()]))
    assert row["outcome"] == "trained", row["error"]
    [trial] = trial_rows(engine)
    with engine.connect() as connection:
        checkpoint = connection.execute(sa.select(db.checkpoints)).mappings().one()
    assert checkpoint["step"] == 0 and trial["checkpoint_id"] == row["checkpoint_id"] == checkpoint["id"]
    again = kit.order_battle(engine, profile, ids, trials=[bin_trial(seed=2)], parent=checkpoint["id"])
    assert kit.serve_here(home, engine, again)["checkpoint_id"] == checkpoint["id"]
    assert kit.curve(engine, ids["run_id"]) == []


def test_a_long_trial_gives_signs_of_life(home, engine, monkeypatch):
    from realm.arena import pulse

    profile, ids, a = one_quest(home, engine)
    monkeypatch.setattr(pulse, "BEAT_S", 0.0)
    monkeypatch.setattr(pulse, "POLL_S", 0.0)
    clock = iter(range(0, 10**9, 60))
    monkeypatch.setattr(pulse.db, "now", lambda: float(next(clock)))
    real, phases = pulse.Pulse.flush, []

    def watching(self, *states, **columns):
        done = real(self, *states, **columns)
        phases.append(kit.battle_row(engine, order)["phase"])
        return done

    order = kit.order_battle(engine, profile, ids, data=a, steps=1, trials=[bin_trial(1)])
    monkeypatch.setattr(pulse.Pulse, "flush", watching)
    assert kit.serve_here(home, engine, order)["outcome"] == "trained"
    beats = [p for p in phases if p and p.startswith("retention trial of bin level 1 (")]
    assert len(set(beats)) > 3, "each is another one, so the arena sees that it goes on"


def test_the_champion_that_keeps_its_resume_state_is_this_campaigns(home, engine):
    from realm import events
    from realm.arena import battle
    from realm.guild import campaigns

    profile, ids, a = one_quest(home, engine, training_defaults={"save_steps": 2})
    with db.write(engine) as connection:
        campaigns.set_value(connection, f"champion:{ids['campaign_id']}", "MINE")
        campaigns.set_value(connection, "champion:ANOTHER", "THEIRS")
        events.emit(connection, "champion", "Another hero's.", "deed", checkpoint_id="THEIRS", step=1, total_level=1,
                    accuracy=1.0)  # fmt: skip
    worker = battle.Worker(home, "W")
    order = kit.order_battle(engine, profile, ids, data=a, steps=2)
    assert battle._Battle(worker, dict(kit.battle_row(engine, order)))._protected() == {"MINE"}
    worker.orders.close()
    worker.engine.dispose()


def test_stop_during_trials_keeps_what_is_finished(home, engine, monkeypatch):
    from realm.arena import trial

    profile, ids, a = one_quest(home, engine)
    record = trial.record

    def stop_after_first(connection, result, subject):
        connection.execute(sa.update(db.battles).where(db.battles.c.id == order).values(desired="stop"))
        return record(connection, result, subject)

    monkeypatch.setattr(trial, "record", stop_after_first)
    order = kit.order_battle(engine, profile, ids, data=a, steps=2, trials=[bin_trial(1), bin_trial(2)])
    row = kit.serve_here(home, engine, order)
    assert (row["state"], row["outcome"]) == ("done", "stopped") and row["checkpoint_id"]
    assert [r["level"] for r in trial_rows(engine)] == [1]


def test_probe_of_a_file_quest_is_measured_before_and_after(home, engine):
    profile, ids, a = one_quest(home, engine)
    probe = home.queue / "normal" / "a.probe.jsonl"
    probe.write_text("".join(json.dumps({"messages": m}) + "\n" for m in kit.conversations(5, 100)))
    facts = {"path": "queue/normal/a.probe.jsonl", "rows": 5}
    kit.serve_here(home, engine, stop := kit.order_battle(engine, profile, ids, data=a, steps=1, probe=facts))
    half = kit.battle_row(engine, stop)
    order = kit.order_battle(engine, profile, ids, data=a, steps=30, probe=facts, parent=half["checkpoint_id"])
    row = kit.serve_here(home, engine, order)
    assert row["loss_before"] == half["loss_before"], "a resumed quest was measured when it began"
    assert row["loss_after"] < row["loss_before"] - 0.5
    rows = trial_rows(engine)
    assert [(r["kind"], r["n"], r["verdict"], r["skill"]) for r in rows] == [("file", 5, "measured", None)] * 2
    assert rows[-1]["loss"] == row["loss_after"]


def test_held_out_rows_of_older_files_are_measured_under_their_own_quest(home, engine):
    profile, ids, a = one_quest(home, engine)
    path = home.queue / "normal" / "old.probe.jsonl"
    path.write_text("".join(json.dumps({"messages": m}) + "\n" for m in kit.conversations(5, 100)))
    old = [{"quest_id": "gone", "path": "queue/normal/nothing.jsonl", "rows": 5},
           {"quest_id": "old", "path": "queue/normal/old.probe.jsonl", "rows": 5}]  # fmt: skip
    row = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=2, old_probes=old))
    assert (row["state"], row["outcome"], row["loss_after"]) == ("done", "trained", None)
    [found] = trial_rows(engine)
    assert (found["kind"], found["quest_id"], found["n"]) == ("file", "old", 5) and found["loss"] > 0
    assert found["checkpoint_id"] == row["checkpoint_id"]


def test_step_events_zone_hint_crit_and_clock(home, engine, monkeypatch):
    """The events of a step, through a real Pulse and database, on a loss curve made for it."""
    import os
    import random
    from types import SimpleNamespace

    from realm.arena.pulse import Hits, Orders, Pulse
    from realm.guild.strain import StrainTracker

    ids = kit.campaign(engine)
    battle = kit.order_battle(engine, kit.micro_profile(), ids)
    orders = Orders(home, os.getppid())
    pulse = Pulse(engine, orders, dict(kit.battle_row(engine, battle)), StrainTracker(0.0), Hits(), lambda why: None)
    pulse.state, chance = "training", random.Random(0)
    for step in range(801, 1101):
        loss = max(0.02, 2.0 - 0.015 * (step - 800)) + 0.05 * chance.random()
        loss = 1e-9 if step == 1050 else loss
        facts = SimpleNamespace(step=step, loss=loss, grad_norm=1.0, lr=0.1, tokens=9, trained_tokens=4, facts={})
        assert pulse.step(facts) == "run"
    pulse.flush()
    zones = [(e["from"], e["to"]) for e in told(engine, "zone")]
    assert zones[0][0] == "overload" and zones[-1][1] == "recovery"
    assert [came for _, came in zones[:-1]] == [left for left, _ in zones[1:]]
    first_hint = told(engine, "hint")[0]
    assert first_hint["action"] == "continue" and "strain" in first_hint["reason"]
    assert [(e["kind"], e["from"], e["to"]) for e in told(engine, "level")] == [("clock", 0, 1)]
    crits = {e["step"]: e["hit"] for e in told(engine, "crit")}
    assert crits[1050] == 1e4, "a hit is floored at a loss of 1e-4"
    assert all(step > 900 for step in crits), "a percentile needs a hundred hits"
    assert len(kit.curve(engine, ids["run_id"])) == 300
    assert kit.battle_row(engine, battle)["step"] == 1100
    orders.close()


def test_hits_percentile_is_the_sorted_windows():
    import random

    from realm.arena.pulse import Hits

    chance, hits, history = random.Random(3), Hits(), []
    for _ in range(1500):
        loss = chance.choice([chance.random(), 0.5])
        expected = len(history) >= 100 and 1 / max(loss, 1e-4) > sorted(history[-500:])[
            min(len(history[-500:]) - 1, int(0.99 * len(history[-500:])))]  # fmt: skip
        hit, critical = hits.add(loss)
        assert critical == expected
        history.append(hit)
    assert list(hits.window) == history[-500:] and hits._sorted == sorted(history[-500:])


def test_worker_serves_its_own_rows_oldest_first(home, engine):
    from realm.arena.battle import Worker

    profile, ids, _ = one_quest(home, engine)
    kit.order_battle(engine, profile, ids, worker="OTHER")
    mine = [kit.order_battle(engine, profile, ids, worker="W") for _ in range(2)]
    worker = Worker(home, "W")
    assert worker._next()["id"] == mine[0]
    kit.want(engine, mine[0], state="done")
    assert worker._next()["id"] == mine[1]
    kit.want(engine, mine[1], state="failed")
    assert worker._next() is None


def test_a_recipe_that_is_wrong_fails_the_battle_not_the_child(home, engine):
    profile, ids, a = one_quest(home, engine)
    order = kit.order_battle(engine, profile, ids, data=a, steps=2, hero={"id": "pip", "nmae": "x"})
    row = kit.serve_here(home, engine, order)
    assert row["state"] == "failed" and "did you mean 'name'" in row["error"]


def test_missing_weights_fail_with_the_commands(home, engine):
    from realm.heroes.profile import load_profile

    ids = kit.campaign(engine)
    row = kit.serve_here(home, engine, kit.order_battle(engine, load_profile("dio"), ids, trials=[bin_trial()]))
    assert row["state"] == "failed" and "training hero use dio --model PATH" in row["error"]


def test_told_to_leave_while_arming_it_leaves_at_once(home, engine):
    from realm.arena.battle import Worker

    profile, ids, a = one_quest(home, engine)
    first = kit.serve_here(home, engine, kit.order_battle(engine, profile, ids, data=a, steps=2))
    order = kit.order_battle(engine, profile, ids, data=a, steps=9, parent=first["checkpoint_id"])
    worker = Worker(home, "W")
    worker.orders.terminated = True
    worker.serve(dict(kit.battle_row(engine, order)))
    row = kit.battle_row(engine, order)
    assert (row["state"], row["outcome"], row["checkpoint_id"]) == ("done", "stopped", first["checkpoint_id"])
    assert worker.held is None, "nothing may have been loaded for it"
    assert len(kit.curve(engine, ids["run_id"])) == 2

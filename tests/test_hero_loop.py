"""The hero loop against a stand-in battle child that trains, lies, stalls and dies."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import sqlalchemy as sa
from fake_battle import weights_at
from loop_kit import Tables, fake_command, running, tell, tiny_home, wait_for

from realm import db
from realm.arena import child as children
from realm.arena import commands, plan, recover, settle
from realm.arena.hero_loop import AlreadyRunning, hold_lock
from realm.guild import campaigns, progress
from realm.guild.skills import get_skill
from realm.quests import idle
from realm.temple.blessing import recompute
from realm.temple.ledger import audit
from realm.vault import checkpoints
from realm.vault.champion import champion


@pytest.fixture
def tables(home):
    made = Tables(home)
    yield made
    made.engine.dispose()


def done_quests(tables, n):
    return lambda: len(tables.quests(db.quests.c.state == "done")) >= n


def open_state(tables, *states):
    def question():
        battles = tables.battles()
        return battles[-1] if battles and battles[-1]["state"] in states else None

    return question


def test_idle_quest_battle_trial_level_blessing_champion(home, tables):
    home = tiny_home(home, accuracy={"1": 1.0, "2": 0.5}, base=0.3)
    with running(home):
        wait_for(done_quests(tables, 2))
    quests = tables.quests(db.quests.c.state == "done")
    first = quests[0]
    assert (first["kind"], first["skill"], first["level"], first["rows"], first["steps"]) == ("idle", "bin", 1, 40, 10)
    assert first["mix"] == {"1": 1.0} and first["origin"]["kind"] == "procedural-verified"
    levels = tables.rows(db.levels)
    assert [(x["skill"], x["level"], x["closed"]) for x in levels] == [("bin", 1, True)]
    assert quests[1]["level"] == 2, "the next quest trains the next level"
    assert set(quests[1]["mix"]) == {"1", "2"}, "with rehearsal of the first"
    # Experience is effort times quality and can be recomputed from the stored parts.
    for blessing in tables.rows(db.blessings):
        again = recompute(blessing["effort"], blessing["parts"])
        assert (again.xp, again.quality, again.verdict) == (
            blessing["xp"], blessing["quality"], blessing["verdict"])  # fmt: skip
        own = [m["effort"] for m in tables.rows(db.metrics, db.metrics.c.battle_id == blessing["battle_id"])]
        assert blessing["effort"] == pytest.approx(sum(own)) and len(own) == 10
    assert tables.rows(db.blessings)[0]["verdict"] == "blessed" and tables.rows(db.blessings)[0]["xp"] > 0
    with db.read(tables.engine) as connection:
        books = audit(connection)
    assert books["differences"] == [] and books["xp"] == pytest.approx(books["recomputed"]) and books["blessings"] >= 2
    with db.write(tables.engine) as connection:
        connection.execute(sa.update(db.blessings).values(xp=db.blessings.c.xp + 5))
        assert {d["what"] for d in audit(connection)["differences"]} == {"xp"}, "a forged sum is found"
        connection.execute(sa.update(db.blessings).values(xp=db.blessings.c.xp - 5))
    told = tables.events("champion")[0]["payload"]
    assert told["total_level"] == 1
    campaign = campaigns_active(tables)
    with db.read(tables.engine) as connection:
        assert champion(connection, campaign["id"]).checkpoint_id == told["checkpoint_id"]
        found = progress.hero_progress(connection, campaign["id"])
    assert found.total_level == 1 and found.xp == pytest.approx(sum(b["xp"] for b in tables.rows(db.blessings)))
    assert found.step >= 20 and found.effort == pytest.approx(sum(m["effort"] for m in tables.rows(db.metrics)))


def campaigns_active(tables):
    with db.read(tables.engine) as connection:
        return campaigns.active(connection)


def test_idle_files_are_gone_and_can_be_made_again_bit_for_bit(home, tables, tmp_path):
    home = tiny_home(home)
    with running(home):
        wait_for(done_quests(tables, 2))
    quest = tables.quests(db.quests.c.state == "done")[1]
    assert quest["path"] is None and not list((home.queue / "low").glob(f"{quest['id']}*"))
    facts = idle.write(idle.IdleOrder.from_origin(quest["origin"]), tmp_path / "again.jsonl",
                       replaced=quest["origin"]["diversity"]["replaced"])  # fmt: skip
    assert facts["sha256"] == quest["content_sha256"] and facts["rows"] == 40


def test_next_level_is_examined_at_once_after_a_promotion(home, tables):
    home = tiny_home(home, accuracy={"1": 1.0, "2": 1.0, "3": 1.0, "4": 0.97}, base=0.0)
    with running(home):
        wait_for(lambda: len(tables.rows(db.levels)) >= 4, what="four levels")
        wait_for(done_quests(tables, 4))
    battles = {b["id"]: b for b in tables.battles()}
    earned = {level["level"]: battles[trial["battle_id"]] for level in tables.rows(db.levels)
              for trial in tables.rows(db.trials, db.trials.c.id == level["trial_id"])}
    assert earned[3]["quest_id"] and set(tables.quests(db.quests.c.id == earned[3]["quest_id"])[0]["mix"]) >= {"4", "5"}
    assert earned[4]["quest_id"] is None, "learnt as look-ahead, so no quest is wasted on it"
    assert earned[4]["config"]["parent_checkpoint_id"] == earned[3]["checkpoint_id"]
    # Level 5 fails when it is tried at once; it is not tried again before more training.
    fives = [t for t in tables.rows(db.trials) if t["level"] == 5 and t["kind"] == "promotion"]
    assert sum(battles[t["battle_id"]]["quest_id"] is None for t in fives) <= 1
    battles = list(battles.values())
    seeds = [t["seed"] for b in battles for t in b["config"]["trials"] if t["kind"] not in ("probe", "passive")]
    assert len(seeds) == len(set(seeds)), "every trial asks problems of its own"


def test_pause_resume_save_stop_skip(home, tables):
    home = tiny_home(home, step_s=0.05)
    with running(home):
        wait_for(open_state(tables, "training"))
        paused = tables.do("battle.pause")
        battle = tables.battles()[-1]
        assert paused["state"] == "done" and battle["state"] == "paused" and battle["desired"] == "pause"
        step = battle["step"]
        saved = tables.send("battle.save")
        assert tables.do("battle.resume")["state"] == "done"
        answer = tables.answer(saved)
        assert answer["state"] == "done" and answer["result"]["checkpoint_id"]
        wait_for(lambda: (tables.battles()[-1]["step"] or 0) > step, what="steps after resume")
        stopped = tables.do("battle.stop")
        assert stopped["state"] == "done" and stopped["result"]["outcome"] == "stopped"
        quest = tables.quests()[0]
        assert (quest["state"], quest["attempts"]) == ("queued", 0) and (home.root / quest["path"]).is_file()
        with db.read(tables.engine) as connection:
            assert commands.mode(connection) == "rest"
        assert tables.do("battle.pause")["result"] == {"reason": "no battle is running"}
        reached = tables.battles()[-1]["step"]
        assert tables.do("battle.resume")["state"] == "done"
        wait_for(lambda: len(tables.battles()) == 2)
        battle = wait_for(open_state(tables, "training"))
        assert battle["quest_id"] == quest["id"] and battle["start_step"] == reached
        assert battle["config"]["quest_start_step"] == 0 and battle["total_steps"] == 10 - reached
        skipped = tables.do("battle.skip")
        assert skipped["result"]["outcome"] == "skipped"
        assert tables.quests(db.quests.c.id == skipped_quest(tables, skipped))[0]["state"] == "skipped"
        wait_for(lambda: len(tables.quests()) >= 2, what="the loop goes on")
    kinds = [(e["payload"]["kind"], e["payload"]["state"]) for e in tables.events("command")]
    assert kinds.count(("battle.pause", "done")) == 1 and ("battle.pause", "failed") in kinds


def skipped_quest(tables, answer):
    return tables.rows(db.battles, db.battles.c.id == answer["result"]["battle_id"])[0]["quest_id"]


def test_a_quest_that_others_overtook_is_trained_to_its_end(home, tables):
    """Stopped after some steps, overtaken by a file, then gone on with: ten steps of its own and a full blessing."""
    home = tiny_home(home, step_s=0.03)
    with running(home):
        wait_for(lambda: (tables.battles() or [{}])[-1].get("step"))
        tables.do("battle.stop")
        first = tables.quests()[0]
        before = tables.battles()[-1]["step"]
        assert 0 < before < 10
        tell(home, step_s=0.0)
        rows = [{"prompt": f"say {n}", "completion": f"{n}"} for n in range(60)]
        (home.inbox / "high" / "words.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        wait_for(lambda: tables.quests(db.quests.c.kind == "file"))
        tables.do("battle.resume")
        wait_for(lambda: tables.quests(db.quests.c.id == first["id"])[0]["state"] == "done")
    names = [b["quest_id"] for b in tables.battles()[:3]]
    assert names[0] == names[2] == first["id"] != names[1], "the file came between"
    own = [b["id"] for b in tables.battles() if b["quest_id"] == first["id"]]
    assert len(tables.rows(db.metrics, db.metrics.c.battle_id.in_(own))) == 10
    assert tables.battles()[2]["total_steps"] == 10 - before
    blessing = next(b for b in tables.rows(db.blessings) if b["quest_id"] == first["id"])
    assert blessing["parts"]["battles"] == own
    with db.read(tables.engine) as connection:
        assert audit(connection)["differences"] == []


def test_a_pause_survives_a_restart(home, tables):
    home = tiny_home(home, step_s=0.02)
    with running(home):
        wait_for(open_state(tables, "training"))
        tables.do("battle.pause")
    quest = tables.quests()[0]
    assert (quest["state"], quest["attempts"]) == ("queued", 0), "ended with a checkpoint, not lost"
    with running(home):
        battle = wait_for(open_state(tables, "paused"))
        assert battle["quest_id"] == quest["id"]
        tables.do("battle.resume")
        wait_for(done_quests(tables, 1))


def test_rest_survives_a_restart(home, tables):
    home = tiny_home(home)
    assert tables.send("mode", mode="rest")
    with running(home):
        wait_for(lambda: tables.events("mode"))
    with running(home):
        assert tables.do("mode", mode="sleep")["state"] == "failed"
        assert not tables.battles()
        assert tables.do("mode", mode="train")["state"] == "done"
        wait_for(lambda: tables.battles())


def test_a_child_that_dies_loses_an_attempt_and_three_fail_the_quest(home, tables, monkeypatch):
    monkeypatch.setattr("realm.arena.hero_loop.BACKOFF_S", (0.0,))
    home = tiny_home(home, battles=["die", "die_arming", "die"], step_s=0.002)
    with running(home):
        wait_for(lambda: tables.quests(db.quests.c.state == "failed"))
        wait_for(done_quests(tables, 1))
    failed = tables.quests(db.quests.c.state == "failed")[0]
    assert failed["attempts"] == 3 and "exit code 9" in failed["error"]
    assert failed["path"].startswith("failed/") and (home.root / failed["path"]).is_file()
    battles = tables.battles()
    assert [b["outcome"] for b in battles[:3]] == ["failed"] * 3 and len({b["worker"] for b in battles[:4]}) == 4
    assert all(b["quest_id"] == failed["id"] for b in battles[:3])
    alert = next(e["payload"] for e in tables.events("alert") if e["payload"]["code"] == "quest_failed")
    assert alert["fix"] and alert["action"]["payload"] == {"quest_id": failed["id"]}
    with running(home):
        assert tables.do("quest.retry", quest_id=failed["id"])["state"] == "done"
        wait_for(lambda: tables.quests(db.quests.c.id == failed["id"])[0]["state"] == "done")


def test_a_lost_battle_goes_on_from_the_last_checkpoint(home, tables, monkeypatch):
    monkeypatch.setattr("realm.arena.hero_loop.BACKOFF_S", (0.0,))
    home = tiny_home(home, battles=["ok", "die"])
    with running(home):
        wait_for(done_quests(tables, 2))
    battles = [b for b in tables.battles() if b["quest_id"]]
    lost, again = battles[1], battles[2]
    assert lost["outcome"] == "failed" and again["quest_id"] == lost["quest_id"]
    assert again["start_step"] == 10 and again["config"]["parent_checkpoint_id"] == battles[0]["checkpoint_id"]
    assert again["config"]["quest_start_step"] == lost["config"]["quest_start_step"] == 10
    steps = [m["step"] for m in tables.rows(db.metrics)]
    assert sorted(steps) == list(range(1, max(steps) + 1)), "no step is counted twice"


@pytest.mark.slow
def test_a_child_that_stalls_is_ended(home, tables):
    home = tiny_home(home, battles=["stall"])
    with running(home, stall_s=2.0) as loop:
        wait_for(lambda: loop.child is not None)
        wait_for(lambda: tables.battles())
        first = loop.child.process
        wait_for(done_quests(tables, 1))
        assert first.poll() is not None
    assert "no sign of life" in tables.battles()[0]["error"]


def test_a_child_that_waits_for_space_is_not_taken_for_dead(home, tables, monkeypatch):
    home = tiny_home(home, battles=["stall"])
    full = [True]
    real = checkpoints.check_space

    def space(*arguments):
        if full:
            raise checkpoints.CheckpointError("disk_full", "the disk is full")
        return real(*arguments)

    monkeypatch.setattr(checkpoints, "check_space", space)
    with running(home, stall_s=0.5):
        wait_for(lambda: tables.battles())
        time.sleep(2.5)
        assert tables.battles()[0]["state"] == "arming", "five times as long as a child may be silent"
        full.clear()
        wait_for(lambda: tables.battles()[0]["state"] == "failed")
    assert "no sign of life" in tables.battles()[0]["error"]


@pytest.mark.slow
def test_five_failures_in_a_row_stop_the_training_with_an_alert(home, tables, monkeypatch):
    monkeypatch.setattr("realm.arena.hero_loop.BACKOFF_S", (0.0,))
    home = tiny_home(home, default="fail")
    with running(home):
        wait_for(lambda: tables.events("mode"))
        assert len(tables.battles()) == 5
        tell(home, default="ok")
        tables.do("battle.resume")
        wait_for(done_quests(tables, 1))
    alert = next(e["payload"] for e in tables.events("alert") if e["payload"]["code"] == "battles_failed")
    assert "no sense" in alert["why"]


@pytest.mark.parametrize("word,sign", [
    ("lie_counts", "incident"), ("lie_verdict", None), ("lie_checkpoint", "no checkpoint"),
    ("lie_short", "9 of the quest's 10 steps"),
])  # fmt: skip
def test_lies_of_the_child_promote_nothing(home, tables, word, sign, monkeypatch):
    monkeypatch.setattr("realm.arena.hero_loop.BACKOFF_S", (0.0,))
    home = tiny_home(home, battles=[word], base=0.3)
    with running(home):
        wait_for(done_quests(tables, 1))
    assert not tables.rows(db.levels)
    first = tables.battles()[0]
    if sign == "incident":
        assert all("answers say" in e["text"] for e in tables.events("incident")) and tables.events("incident")
        assert tables.rows(db.blessings)[0]["verdict"] == "unproven", "trials that lie are no evidence"
    elif sign:
        assert any(sign in e["payload"].get("reason", "") for e in tables.events("quest"))
        assert len([b for b in tables.battles() if b["quest_id"] == first["quest_id"]]) >= 2, "trained again"


def test_a_corrupt_checkpoint_is_cursed(home, tables):
    """It proves nothing, earns nothing, wears no crown, and the hero goes on from the one before it in a new run."""
    home = tiny_home(home, battles=["ok", "corrupt"])
    rows = [{"prompt": f"say {n}", "completion": f"{n} it is"} for n in range(60)]
    tables.send("mode", mode="rest")
    with running(home):
        wait_for(lambda: tables.events("mode"))
        tables.do("idle.generate", skill="bin", level=1)
        tables.do("mode", mode="train")
        wait_for(done_quests(tables, 1))
        tables.do("mode", mode="rest")
        wait_for(lambda: all(b["settled_at"] for b in tables.battles()))
    with running(home):
        tell(home, accuracy={"1": 1.0}, battles=["ok"] * len(tables.battles()) + ["corrupt"])
        (home.inbox / "words.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        wait_for(lambda: tables.quests(db.quests.c.kind == "file"))
        tables.do("idle.generate", skill="bin", level=1)
        tables.do("mode", mode="train")
        wait_for(lambda: len([b for b in tables.rows(db.blessings) if b["verdict"] == "cursed"]) == 1)
        wait_for(lambda: len(tables.rows(db.runs)) == 2)
        file = wait_for(lambda: tables.quests(db.quests.c.kind == "file", db.quests.c.state == "done"))[0]
    cursed = next(b for b in tables.rows(db.blessings) if b["verdict"] == "cursed")
    assert (cursed["xp"], cursed["ceremony"], cursed["quest_id"]) == (0, 0, file["id"])
    check = next(c for c in cursed["parts"]["checks"] if c["name"] == "checkpoint")
    assert check["status"] == "fail" and "model.safetensors" in check["details"]
    bad = tables.rows(db.battles, db.battles.c.id == cursed["battle_id"])[0]
    row = tables.rows(db.checkpoints, db.checkpoints.c.id == bad["checkpoint_id"])[0]
    assert row["state"] == "corrupt"
    assert row["id"] not in [e["payload"]["checkpoint_id"] for e in tables.events("champion")]
    proofs = {t["id"] for t in tables.rows(db.trials, db.trials.c.checkpoint_id == row["id"])}
    assert not proofs & {x["trial_id"] for x in tables.rows(db.levels)}
    # The file is trained again, whole, from the checkpoint before, and the books agree.
    again = [b for b in tables.battles() if b["quest_id"] == file["id"]][-1]
    assert again["id"] != bad["id"] and again["total_steps"] == bad["total_steps"] and again["outcome"] == "trained"
    assert again["config"]["parent_checkpoint_id"] == bad["config"]["parent_checkpoint_id"]
    assert again["run_id"] != bad["run_id"] and again["start_step"] == bad["start_step"]
    assert {"checkpoint_corrupt", "fell_back"} <= {e["payload"]["code"] for e in tables.events("alert")}
    with db.read(tables.engine) as connection:
        assert audit(connection)["differences"] == []


def test_a_disk_that_spoils_every_checkpoint_ends_in_rest(home, tables, monkeypatch):
    monkeypatch.setattr("realm.arena.hero_loop.BACKOFF_S", (0.0,))
    home = tiny_home(home, battles=["ok"], default="corrupt")
    with running(home):
        wait_for(lambda: tables.events("mode"))
    assert len(tables.battles()) == 6 and tables.events("mode")[0]["payload"]["mode"] == "rest"
    alert = next(e["payload"] for e in tables.events("alert") if e["payload"]["code"] == "battles_failed")
    assert "model.safetensors" in alert["why"]


def test_trials_of_a_corrupt_checkpoint_promote_nothing_and_without_another_the_realm_rests(home, tables):
    home = tiny_home(home, battles=["corrupt"], accuracy={"1": 1.0})
    with running(home):
        wait_for(lambda: tables.events("mode"))
        bad = tables.rows(db.checkpoints)[0]
        assert bad["state"] == "corrupt" and not tables.rows(db.levels) and not tables.events("champion")
        assert [b["verdict"] for b in tables.rows(db.blessings)] == ["cursed"]
        alert = next(e["payload"] for e in tables.events("alert") if e["payload"]["code"] == "no_checkpoint")
        assert bad["id"] in alert["fix"] and alert["action"] == {"kind": "battle.resume", "payload": {}}
        battles = len(tables.battles())
        tables.do("battle.resume")
        wait_for(lambda: len(tables.events("mode")) == 3, what="rests again: it never begins at step 0 by itself")
        assert len(tables.battles()) == battles
        assert "stays out of use" in tables.do("vault.revive", checkpoint_id=bad["id"])["result"]["reason"]
        (home.root / bad["path"] / "model.safetensors").write_bytes(weights_at(10))
        assert tables.do("vault.revive", checkpoint_id=bad["id"])["result"]["revived"]
        tables.do("battle.resume")
        battle = wait_for(lambda: tables.battles()[battles:])[0]
        assert battle["config"]["parent_checkpoint_id"] == bad["id"], "restored and verified, it is used again"
        assert len(tables.rows(db.runs)) == 1


@pytest.mark.slow
def test_data_that_changed_after_the_cleric_is_cursed(home, tables):
    home = tiny_home(home, step_s=0.05)
    with running(home):
        wait_for(open_state(tables, "training"))
        quest = tables.quests()[0]
        with open(home.root / quest["path"], "ab") as file:
            file.write(b'{"messages": []}\n')
        tell(home, step_s=0.0)
        wait_for(lambda: tables.rows(db.blessings))
    assert tables.rows(db.blessings)[0]["verdict"] == "cursed"


def test_file_quests_come_before_idle_ones(home, tables):
    home = tiny_home(home, step_s=0.03)
    rows = [{"prompt": f"say {n}", "completion": f"{n} it is"} for n in range(120)]
    with running(home):
        wait_for(open_state(tables, "training"))
        part = home.inbox / "high" / "words.jsonl.part"
        part.write_text("".join(json.dumps(r) + "\n" for r in rows))
        part.rename(home.inbox / "high" / "words.jsonl")
        tell(home, step_s=0.0)
        wait_for(lambda: tables.quests(db.quests.c.kind == "file", db.quests.c.state == "done"))
    battles = tables.battles()
    quest = tables.quests(db.quests.c.kind == "file")[0]
    assert battles[0]["outcome"] == "trained" and battles[1]["quest_id"] == quest["id"]
    assert quest["rows"] == 100 and quest["report"]["probe"]["rows"] == 20 and quest["format"] == "prompt_completion"
    config = battles[1]["config"]
    assert config["steps"] == 25 and config["floor"] is None and config["skill"] is None
    assert (home.root / config["probe"]["path"]).read_text().count("\n") == 20
    blessing = next(b for b in tables.rows(db.blessings) if b["quest_id"] == quest["id"])
    assert blessing["verdict"] == "blessed" and blessing["parts"]["probe"]["rows"] == 20
    assert quest["path"].startswith("completed/") and (home.root / quest["path"]).is_file()
    assert (home.root / "completed/originals" / f"{quest['id']}-words.jsonl").read_text().count("\n") == 120


def test_a_done_file_quest_can_be_trained_once_more(home, tables):
    """What the advice beside a duplicate says; the second time is whole, and its effort counts once."""
    home = tiny_home(home)
    rows = [{"prompt": f"say {n}", "completion": f"{n} it is"} for n in range(120)]
    (home.inbox / "words.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with running(home):
        quest = wait_for(lambda: tables.quests(db.quests.c.kind == "file", db.quests.c.state == "done"))[0]
        assert tables.do("quest.retry", quest_id=quest["id"])["state"] == "done"
        wait_for(lambda: len([b for b in tables.rows(db.blessings) if b["quest_id"] == quest["id"]]) == 2)
        practice = wait_for(lambda: tables.quests(db.quests.c.kind == "idle", db.quests.c.state == "done"))[0]
        assert "no file any more" in tables.do("quest.retry", quest_id=practice["id"])["result"]["reason"]
    battles = [b for b in tables.battles() if b["quest_id"] == quest["id"]]
    assert [b["total_steps"] for b in battles] == [25, 25]
    with db.read(tables.engine) as connection:
        assert audit(connection)["differences"] == []
    blessings = tables.rows(db.blessings, db.blessings.c.quest_id == quest["id"])
    for battle, blessing in zip(battles, blessings, strict=True):
        own = [m["effort"] for m in tables.rows(db.metrics, db.metrics.c.battle_id == battle["id"])]
        assert blessing["effort"] == pytest.approx(sum(own))


def test_the_board_obeys(home, tables):
    home = tiny_home(home)
    tables.send("mode", mode="rest")
    for name in ("a", "b"):
        (home.inbox / f"{name}.jsonl").write_text(json.dumps({"prompt": name, "completion": "x"}) + "\n")
    (home.inbox / "bad.jsonl").write_text("{not json}\n")
    with running(home):
        wait_for(lambda: len(tables.quests()) == 3)
        by_name = {q["name"]: q for q in tables.quests()}
        a, bad = by_name["a"]["id"], by_name["bad"]["id"]
        assert by_name["bad"]["state"] == "refused"
        assert tables.do("quest.move", quest_id=a, lane="high")["state"] == "done"
        assert tables.quests(db.quests.c.id == a)[0]["path"].startswith("queue/high/")
        assert tables.do("quest.move", quest_id=a, lane="low-ish")["result"]["reason"].startswith("lane 'low-ish'")
        assert tables.do("quest.hold", quest_id=a)["state"] == "done"
        assert tables.do("quest.hold", quest_id=a)["state"] == "failed"
        assert tables.do("quest.unhold", quest_id=a)["state"] == "done"
        assert tables.do("quest.delete", quest_id=a)["state"] == "done"
        gone = tables.quests(db.quests.c.id == a)[0]
        assert gone["state"] == "skipped" and (home.root / gone["path"]).is_file(), "nothing is deleted"
        assert tables.do("quest.retry", quest_id=a)["state"] == "done"
        assert tables.do("quest.retry", quest_id=bad)["result"]["inbox"] == "inbox/normal/bad.jsonl"
        wait_for(lambda: len(tables.quests(db.quests.c.state == "refused")) == 2, what="examined again")
        assert tables.do("quest.retry", quest_id="nobody")["state"] == "failed"
        assert tables.do("quest.retry")["result"]["reason"].startswith("the command needs quest_id")
        assert "known:" in tables.do("battle.dance")["result"]["reason"]


def test_one_bad_command_neither_blocks_the_others_nor_ends_the_loop(home, tables, monkeypatch):
    home = tiny_home(home)
    tables.send("mode", mode="rest")
    (home.inbox / "bad.jsonl").write_text("{not json}\n")
    with running(home):
        refused = wait_for(lambda: tables.quests(db.quests.c.state == "refused"))[0]

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(commands.os, "utime", full)
        ids = [tables.send("hero.use", hero_id="dio", model="~modles/qwen"),
               tables.send("hero.use", hero_id="dio", model="x" * 300),
               tables.send("hero.use", hero_id="dio", model="a\0b"),
               tables.send("quest.retry", quest_id=refused["id"]),
               tables.send("hero.use", hero_id="tiny", model=["no", "text"]),
               tables.send("hero.use", hero_id="\ud800"), tables.send("trial.run", skill="bin", level=10**30),
               tables.send("quest.retry", quest_id="\ud800")]  # fmt: skip
        last = tables.send("mode", mode="train")
        assert tables.answer(last)["state"] == "done"
        answers = [tables.answer(i) for i in ids]
    assert [a["state"] for a in answers] == ["failed"] * 8
    assert "hf download" not in answers[0]["result"]["reason"] and "~modles/qwen" in answers[0]["result"]["reason"]
    assert answers[3]["result"]["reason"].startswith("OSError: [Errno 28]")
    assert tables.quests(db.quests.c.id == refused["id"])[0]["path"], "what it had begun in the tables is undone"
    assert not (home.heroes / "dio.yaml").exists(), "a refused command changes no recipe"
    assert not [e for e in tables.events("alert") if e["payload"]["code"] == "hero_loop"]


def test_an_order_to_end_the_battle_stands(home, tables):
    home = tiny_home(home)
    tables.send("mode", mode="rest")
    with running(home):
        wait_for(lambda: tables.events("mode"))
        tables.do("idle.generate", skill="bin", level=1)
    quest = tables.quests()[0]
    with db.write(tables.engine) as connection:
        config = {"campaign_id": campaigns.active(connection)["id"], "quest_id": quest["id"], "hero": {"id": "tiny"},
                  "run_id": campaigns.current_run(connection, quest["campaign_id"])["id"], "school": "scribe"}
        plan.start_battle(connection, "W", config, quest, "stop")
        for kind in ("battle.pause", "battle.skip", "battle.resume"):
            connection.execute(sa.insert(db.commands).values(id=kind, t=1.0, kind=kind, payload={}, state="pending"))
        commands.work(connection, home)
        assert plan.open_battle(connection)["desired"] == "stop"
        assert not campaigns.value(connection, commands.PAUSED, False)
    assert {c["state"] for c in tables.rows(db.commands, db.commands.c.id.like("battle.%"))} == {"failed"}


def test_trials_and_quests_by_command_and_another_hero(home, tables):
    home = tiny_home(home, accuracy={"1": 1.0})
    (home.heroes / "other.yaml").write_text("extends: tiny\nname: Other\nrpg_name: Other\n")
    tables.send("mode", mode="rest")
    with running(home):
        assert tables.do("trial.run", skill="bin", level=99)["state"] == "failed"
        assert tables.do("trial.run", skill="bim")["state"] == "failed"
        made = tables.do("idle.generate", skill="bin", level=3)
        quest = tables.quests(db.quests.c.id == made["result"]["quest_id"])[0]
        assert (quest["level"], quest["mix"], quest["state"]) == (3, {"3": 1.0}, "queued")
        trial = tables.do("trial.run", skill="bin", level=1)
        assert trial["state"] == "done"
        wait_for(lambda: tables.rows(db.trials))
        assert tables.rows(db.trials)[0]["kind"] == "manual" and not tables.rows(db.levels), "it promotes nothing"
        wait_for(open_state(tables, "done"))
        assert tables.do("hero.use", hero_id="nobody")["state"] == "failed"
        assert "hf download" in tables.do("hero.use", hero_id="dio")["result"]["reason"], "no weights here"
        used = tables.do("hero.use", hero_id="other")
        assert used["state"] == "done"
        assert campaigns_active(tables)["hero_id"] == "other"
        tables.do("mode", mode="train")
        wait_for(lambda: tables.battles()[-1]["hero_id"] == "other")
        idle = [q for q in tables.quests(db.quests.c.state == "queued") if q["id"] == quest["id"]]
        assert idle, "an idle quest of one campaign is not trained in another"
        back = tables.do("hero.use", hero_id="tiny")
        assert back["state"] == "done" and campaigns_active(tables)["hero_id"] == "tiny"
    assert len(tables.rows(db.campaigns)) == 2
    assert sorted(c["state"] for c in tables.rows(db.campaigns)) == ["active", "paused"]


@pytest.mark.slow
def test_a_child_is_replaced_after_its_quests(home, tables, monkeypatch):
    monkeypatch.setattr(children, "MAX_QUESTS", 2)
    home = tiny_home(home)
    with running(home):
        wait_for(done_quests(tables, 3))
    workers = [b["worker"] for b in tables.battles()[:4]]
    assert workers[0] == workers[1] != workers[2]


def test_only_one_loop_per_home(home):
    lock = hold_lock(home)
    try:
        with pytest.raises(AlreadyRunning, match=rf"pid {os.getpid()}"):
            hold_lock(home)
        command = [sys.executable, "-m", "realm.arena.hero_loop", "--home", str(home.root)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and f"pid {os.getpid()}" in done.stderr and "Traceback" not in done.stderr
    finally:
        lock.release()


def test_the_loop_imports_no_torch():
    code = "import sys, realm.arena.hero_loop; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


RUN = """
import sys, signal
sys.path.insert(0, {tests!r})
from loop_kit import fake_command
from realm.arena.hero_loop import HeroLoop, hold_lock
from realm.settings import RealmHome
home = RealmHome({home!r})
lock = hold_lock(home)
loop = HeroLoop(home, child_command=fake_command)
signal.signal(signal.SIGTERM, lambda *_: loop.stop.set())
loop.run()
"""


def start_process(home):
    code = RUN.format(tests=os.path.dirname(__file__), home=str(home.root))
    return subprocess.Popen([sys.executable, "-c", code])


def test_killed_at_once_and_started_again(home, tables):
    home = tiny_home(home, step_s=0.02)
    process = start_process(home)
    try:
        wait_for(lambda: (tables.battles() or [{}])[-1].get("step"), what="steps")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    note = json.loads((home.run / "battle-child.json").read_text())
    # The child of the killed loop may still run; whoever comes next must not share the run with it.
    assert recover.children.end_leftover(home) in (note["pid"], None)
    assert not psutil.pid_exists(note["pid"]) or psutil.Process(note["pid"]).status() == psutil.STATUS_ZOMBIE
    tell(home, step_s=0.0)
    with running(home):
        wait_for(done_quests(tables, 1))
    quest, battles = tables.quests()[0], tables.battles()
    assert quest["state"] == "done" and quest["attempts"] == 0, "the quest is not to blame"
    assert battles[0]["quest_id"] == battles[1]["quest_id"] == quest["id"]
    assert battles[0]["state"] in ("failed", "done") and battles[1]["outcome"] == "trained"


def test_terminated_it_saves_and_gives_the_quest_back(home, tables):
    home = tiny_home(home, step_s=0.02)
    process = start_process(home)
    wait_for(lambda: (tables.battles() or [{}])[-1].get("step"), what="steps")
    process.terminate()
    assert process.wait(30) == 0
    battle, quest = tables.battles()[-1], tables.quests()[0]
    assert battle["outcome"] == "stopped" and battle["checkpoint_id"] and battle["settled_at"]
    assert (quest["state"], quest["attempts"]) == ("queued", 0)
    with db.read(tables.engine) as connection:
        assert commands.mode(connection) == "train", "ended is not rested"


def test_a_battle_done_but_not_settled_is_settled_at_the_next_start(home, tables, monkeypatch):
    home = tiny_home(home, accuracy={"1": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(settle, "tidy_file", lambda *_: None)  # a file goes only after the settling transaction
        with running(home):
            wait_for(done_quests(tables, 1))
    # As if the loop had died between the child's "done" and the settling transaction.
    battle = tables.battles()[0]
    with db.write(tables.engine) as connection:
        connection.execute(sa.delete(db.levels))
        connection.execute(sa.delete(db.blessings))
        connection.execute(sa.update(db.battles).where(db.battles.c.id == battle["id"]).values(settled_at=None))
        connection.execute(sa.update(db.quests).where(db.quests.c.id == battle["quest_id"]).values(state="training"))
    recover.recover(home, tables.engine)
    recover.recover(home, tables.engine)
    assert [(x["skill"], x["level"]) for x in tables.rows(db.levels)] == [("bin", 1)]
    assert len(tables.rows(db.blessings)) == 1, "once"


def test_a_quest_whose_file_is_gone_fails_and_the_loop_goes_on(home, tables):
    home = tiny_home(home)
    tables.send("mode", mode="rest")
    (home.inbox / "a.jsonl").write_text(json.dumps({"prompt": "a", "completion": "x"}) + "\n")
    with running(home):
        quest = wait_for(lambda: tables.quests())[0]
        wait_for(lambda: not (home.inbox / "a.jsonl").exists())
        (home.root / quest["path"]).unlink()
        tables.do("mode", mode="train")
        wait_for(done_quests(tables, 1))
    lost = tables.quests(db.quests.c.id == quest["id"])[0]
    assert lost["state"] == "failed" and "drop it into the inbox again" in lost["error"]


def test_a_fault_of_the_loop_is_told_and_does_not_end_it(home, tables, monkeypatch):
    monkeypatch.setattr("realm.arena.hero_loop.FAULT_WAIT_S", 0.0)
    broken = [RuntimeError("a bug"), RuntimeError("a bug")]
    real = plan.battle_config

    def stumbles(*arguments):
        if broken:
            raise broken.pop()
        return real(*arguments)

    monkeypatch.setattr(plan, "battle_config", stumbles)
    home = tiny_home(home)
    with running(home):
        wait_for(done_quests(tables, 1))
    alerts = [e["payload"] for e in tables.events("alert")]
    assert [a["code"] for a in alerts] == ["hero_loop"] and "a bug" in alerts[0]["why"]
    broken += [RuntimeError("for ever")] * 9
    with pytest.raises(RuntimeError, match="for ever"), running(home):
        wait_for(lambda: len(broken) <= 4)
        time.sleep(0.2)


def test_strays_in_the_queue(home, tables):
    home = tiny_home(home)
    ours = home.queue / "low" / f"{db.new_id()}-bin-L1-1.jsonl"
    ours.write_text("{}\n")
    (home.queue / "high" / "mine.jsonl").write_text("{}\n")
    (home.queue / "high" / ".half.part").write_text("{")
    recover.recover(home, tables.engine)
    assert not ours.exists() and not (home.queue / "high" / ".half.part").exists()
    assert (home.inbox / "high" / "mine.jsonl").exists(), "a person's file goes through the gate"


def test_no_promotion_while_a_mastered_level_is_in_regression(home, tables):
    home = tiny_home(home, accuracy={"1": 1.0})
    with running(home):
        wait_for(lambda: tables.rows(db.levels))
        # L1 is forgotten, L2 is learnt: the retention check comes 3 quests later and rehearsal comes first.
        tell(home, accuracy={"1": 0.2, "2": 0.5})
        wait_for(lambda: tables.events("regression"), 40)
        tell(home, accuracy={"1": 0.2, "2": 1.0})
        wait_for(lambda: any(e["payload"]["action"] == "promotion_held" for e in tables.events("curriculum")), 40)
        assert [x["level"] for x in tables.rows(db.levels)] == [1]
        assert tables.quests(db.quests.c.kind == "rehearsal")
        tell(home, accuracy={"1": 1.0, "2": 1.0})
        wait_for(lambda: len(tables.rows(db.levels)) >= 2, 40)


def promotion_steps(tables):
    return [(t["level"], t["step"]) for t in tables.rows(db.trials, db.trials.c.kind == "promotion")]


def test_a_battle_stopped_in_its_trials_is_not_examined_twice_on_the_same_weights(home, tables):
    home = tiny_home(home, battles=["stop_in_trials"], base=0.5)
    with running(home):
        wait_for(done_quests(tables, 1))
    first, again = tables.battles()[:2]
    assert (first["outcome"], again["outcome"], again["total_steps"]) == ("stopped", "trained", 0)
    assert first["quest_id"] == again["quest_id"] and first["checkpoint_id"] == again["checkpoint_id"]
    assert [t["kind"] for t in first["config"]["trials"]] == ["promotion", "passive", "passive"]
    second = [t["kind"] for t in again["config"]["trials"]]
    assert second == ["scout", "passive", "passive"], "evidence for the Temple, but no second try"
    tries = promotion_steps(tables)
    assert len(tries) == len(set(tries))


def test_a_second_try_of_the_same_checkpoint_promotes_nothing(home, tables, monkeypatch):
    """Even when a trial comes to be held that should not have been planned."""
    monkeypatch.setattr(plan, "_tried", lambda *_: set())
    home = tiny_home(home, battles=["stop_in_trials", "right"], base=0.5)
    with running(home):
        wait_for(done_quests(tables, 1))
    tries = promotion_steps(tables)
    assert tries[0] == tries[1]
    second = tables.rows(db.trials, db.trials.c.battle_id == tables.battles()[1]["id"])[0]
    assert (second["kind"], second["verdict"]) == ("promotion", "pass")
    assert not tables.rows(db.levels)


@pytest.mark.slow
def test_wait_after_a_fail(home, tables):
    home = tiny_home(home, base=0.5, battles=["ok", "stop_in_trials", "ok", "stop_in_trials"])
    with running(home):
        wait_for(done_quests(tables, 3))
    campaign = campaigns_active(tables)
    for battle in tables.battles():
        tried = [t for t in battle["config"]["trials"] if t["kind"] == "promotion"]
        assert not tried or battle["quest_id"], "after a fail a promotion trial always follows training"
    tries = promotion_steps(tables)
    assert len(tries) >= 3 and len(tries) == len(set(tries)), "each on weights that were trained since the last"
    with db.read(tables.engine) as connection:
        assert progress.quests_since_fail(connection, campaign["id"], "bin", 1) == 0
        states = progress.skill_progress(connection, campaign["id"], [get_skill("bin")])
    assert states["bin"].mastered_level == 0 and states["bin"].closed and 0.3 < states["bin"].accuracy < 0.7


def test_fake_command_is_the_real_protocol(home):
    """The stand-in takes the same arguments as the real child."""
    real, fake = children.battle_command(home, "W"), fake_command(home, "W")
    assert real[-4:] == fake[-4:] == ["--home", str(home.root), "--worker", "W"]

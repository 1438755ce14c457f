"""The Mirror: what is trained and what only read, exam problems kept out, expiry, and the same rows after a kill."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import replace

import hero_kit as kit
import pytest
import sqlalchemy as sa
from test_battle import fresh, stop_after

from realm import db
from realm.guild.skills import get_skill
from realm.heroes.model import Hero
from realm.quests import sparring
from realm.schools import mirror
from realm.schools.chassis import Context, Interrupted, TrainingError
from realm.temple import cleric

SKILL, LEVEL = "attn_count", 2


def problems(count=24, split="train", seed=1):
    return get_skill(SKILL).generate(LEVEL, count, seed, split)


@pytest.fixture
def hero(home):
    profile = kit.micro_profile()
    return Hero.load(profile, kit.born(home, profile))


@pytest.fixture
def context(tmp_path):
    folder = tmp_path / "live" / "Q"
    folder.mkdir(parents=True)
    examiners = cleric.examiners()
    notes = []
    made = Context(folder=folder, seed=7, step=400, steps=5, campaign_id="C", run_id="R", checkpoint_id="CP",
                   quest_id="Q", held_out=lambda messages: cleric.exam_within(examiners, messages),
                   note=lambda kind, text, level, **payload: notes.append((kind, text, payload)))  # fmt: skip
    return made, notes


def slipping(hero, monkeypatch):
    """A hero that gets every third problem wrong by one."""
    def answer(conversations, room, interrupted=lambda: False):
        said = []
        for index, turns in enumerate(conversations):
            golden = get_skill(SKILL).problem_of(turns[-1]["content"]).golden
            said.append((golden if index % 3 else f"= {int(golden[2:]) + 1}", room))
        return said

    monkeypatch.setattr(hero, "answer", answer)


def raws(count=24):
    return [p.to_dict() for p in problems(count)]


def test_the_mask_holds_the_verdict_or_the_golden_answer_and_never_the_wrong_one(hero, context, monkeypatch):
    slipping(hero, monkeypatch)
    rows, dropped = mirror.prepare(hero, raws(), context[0])
    told, score = sparring.read_session(context[0].folder / sparring.FILE)
    assert len(rows) == len(told) == score.made > 30 and dropped == []
    assert score.own == score.wrong == 8 and score.near_miss == 4
    stop = "<|im_end|>"
    for row, rendered in zip(told, rows, strict=True):
        trained = hero.tokenizer.decode([t for t, on in zip(rendered.ids, rendered.mask, strict=True) if on])
        assert trained == row["messages"][1]["content"] + stop
        if row["type"] != sparring.PLAIN:
            read = hero.tokenizer.decode([t for t, on in zip(rendered.ids, rendered.mask, strict=True) if not on])
            assert "Proposed answer:\n" in read
    by_kind = Counter(row["type"] for row in told)
    assert by_kind == {**dict.fromkeys(sparring.KINDS, 12), sparring.PLAIN: 36}, "half of the rows are plain ones"
    verdicts = Counter(row["messages"][1]["content"] for row in told if row["type"] in
                       (sparring.IDENTIFY, sparring.CONFIRM))  # fmt: skip
    assert verdicts == {sparring.WRONG: 12, sparring.RIGHT: 12}
    kind, text, payload = context[1][-1]
    assert (kind, payload["what"]) == ("lesson", "sparring")
    assert (payload["asked"], payload["wrong"], payload["made"]) == (24, 8, score.made)
    assert "24 asked, 8 wrong" in text


def test_the_cleric_passes_every_row(hero, context, monkeypatch, tmp_path):
    slipping(hero, monkeypatch)
    mirror.prepare(hero, raws(), context[0])
    report = cleric.examine(context[0].folder / sparring.FILE, tmp_path / "out.jsonl", tmp_path / "bad.jsonl",
                            name="s", skills=cleric.examiners(), probe=tmp_path / "p.jsonl")  # fmt: skip
    assert report["rows"]["filtered"] == report["rows"]["quarantined"] == 0, report["reasons"]
    assert report["origins"] == {"procedural-verified": report["rows"]["out"]}


def test_an_answer_that_tells_an_exam_problem_makes_no_row(hero, context, monkeypatch):
    exam = problems(1, "trial")[0]
    secret = f"{exam.prompt}\n{exam.golden}"
    asked = problems(6)
    monkeypatch.setattr(sparring, "_alike", lambda answer, golden: True)
    monkeypatch.setattr(hero, "answer", lambda conversations, room, interrupted: [
        (secret if i == 2 else p.golden, 1) for i, p in enumerate(asked)])  # fmt: skip
    monkeypatch.setattr(mirror, "problems", lambda raw, context: asked)
    mirror.prepare(hero, raws(), context[0])
    told, score = sparring.read_session(context[0].folder / sparring.FILE)
    assert score.left_out == {f"holds a problem of the trial split of {SKILL}": 1}
    assert not any(exam.prompt in row["messages"][0]["content"] for row in told)
    assert len({row["id"] for row in told if row["type"] in sparring.KINDS}) == 2, "the other two groups stay"


@pytest.mark.parametrize("split", ["trial", "probe", "public"])
def test_exam_problems_are_refused(hero, context, split):
    bad = [*raws(3), problems(1, split)[0].to_dict()]
    with pytest.raises(TrainingError, match=f"row 4 is of the {split} split"):
        mirror.prepare(hero, bad, context[0])


def test_what_is_no_problem_is_refused_with_the_next_action(hero, context):
    with pytest.raises(TrainingError, match="none of its rows is a problem.*other rows are for the Scribe"):
        mirror.prepare(hero, [{"messages": m} for m in kit.conversations(3)], context[0])


def test_a_session_is_not_held_twice(hero, context, monkeypatch):
    first, _ = mirror.prepare(hero, raws(), context[0])
    monkeypatch.setattr(hero, "answer", lambda *_: pytest.fail("asked again"))
    again, _ = mirror.prepare(hero, raws(), replace(context[0], fresh=False, step=403, steps=2))
    assert again == first


def test_an_outdated_session_is_held_anew(hero, context):
    mirror.prepare(hero, raws(), context[0])
    before = sparring.read_session(context[0].folder / sparring.FILE)[0]
    for change in ({"step": 1400}, {"run_id": "R2"}):
        mirror.prepare(hero, raws(), replace(context[0], fresh=False, **change))
        rows, _ = sparring.read_session(context[0].folder / sparring.FILE)
        assert rows != before and all(row["step"] == change.get("step", 400) for row in rows)
        assert any("spars anew" in text for _, text, _ in context[1])
        mirror.prepare(hero, raws(), replace(context[0]))


def test_a_changed_session_is_refused(hero, context):
    mirror.prepare(hero, raws(), context[0])
    path = context[0].folder / sparring.FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TrainingError, match="delete it, the quest then spars anew"):
        mirror.prepare(hero, raws(), context[0])


def test_expired_rows_of_a_file_are_left_out_and_live_ones_trained(hero, context, monkeypatch):
    slipping(hero, monkeypatch)
    mirror.prepare(hero, raws(), context[0])
    live, _ = sparring.read_session(context[0].folder / sparring.FILE)
    old = [{**row, "step": 300 - 1000, "expires_step": 300} for row in live[:5]]
    monkeypatch.setattr(hero, "answer", lambda *_: pytest.fail("the file brought its rows"))
    rows, dropped = mirror.prepare(hero, [*old, *live], context[0])
    assert len(rows) == len(live)
    assert [(i, code) for i, code, _ in dropped] == [(i, "expired") for i in range(5)]
    assert "expired at step 300" in dropped[0][2]
    rows, dropped = mirror.prepare(hero, old, context[0])
    assert rows == [] and len(dropped) == 5


def test_a_quest_that_would_outlast_its_rows_is_refused(hero, context):
    mirror.prepare(hero, raws(), replace(context[0], steps=1000))
    with pytest.raises(TrainingError, match="rows expire at step 1,400.*fewer steps"):
        mirror.prepare(hero, raws(), replace(context[0], steps=1001))


def test_told_to_stop_it_gives_up_and_leaves_no_half_session(hero, context):
    looks = iter([False, True])
    with pytest.raises(Interrupted):
        mirror.prepare(hero, raws(), replace(context[0], interrupted=lambda: next(looks, False)))
    assert not list(context[0].folder.iterdir())


def test_options(hero, context, monkeypatch):
    slipping(hero, monkeypatch)
    mirror.prepare(hero, raws(), replace(context[0], options={"ask": 6, "plain": 0.0}))
    rows, score = sparring.read_session(context[0].folder / sparring.FILE)
    assert score.asked == 6 and not any(row["type"] == sparring.PLAIN for row in rows)
    (context[0].folder / sparring.FILE).unlink()
    with pytest.raises(TrainingError, match="unknown key 'asks'; did you mean 'ask'"):
        mirror.prepare(hero, raws(), replace(context[0], options={"asks": 6}))


# --- in a battle --------------------------------------------------------------------------------------------------

STEPS = 6


def quest(home, engine, profile, name="m"):
    ids = kit.campaign(engine)
    kit.born(home, profile)
    data = kit.quest(home, engine, ids, name, [p.messages for p in problems()])
    path = home.root / data["path"]
    raw = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in raws())
    path.write_bytes(raw)
    import hashlib

    return ids, data | {"sha256": hashlib.sha256(raw).hexdigest()}


def order(engine, profile, ids, data, **more):
    return kit.order_battle(engine, profile, ids, data=data, steps=STEPS, school="mirror", **more)


def live_rows(home, data):
    return (home.queue / "live" / data["quest_id"] / sparring.FILE).read_bytes()


def test_a_plus_b_equals_c(tmp_path):
    profile = kit.micro_profile()
    found = []
    for name, stops in (("whole", (None,)), ("parts", (2, 4, None))):
        home, engine = fresh(tmp_path, name)
        ids, data = quest(home, engine, profile)
        parent, kept = None, set()
        for stop in stops:
            battle = order(engine, profile, ids, data, parent=parent)
            row = stop_after(home, engine, battle, stop)
            assert row["outcome"] == ("trained" if stop is None else "stopped"), row["error"]
            parent = row["checkpoint_id"]
            if stop is not None:
                kept.add(live_rows(home, data))
        assert len(kept) == (1 if len(stops) > 1 else 0), "the hero was asked once"
        assert not (home.queue / "live" / data["quest_id"]).exists(), "nothing is left of a quest that is done"
        with engine.connect() as connection:
            told = [e.payload for e in connection.execute(sa.select(db.events).where(db.events.c.kind == "lesson"))]
        assert len(told) == 1 and told[0]["school"] == "mirror" and told[0]["asked"] == len({p.id for p in problems()})
        found.append((kit.curve(engine, ids["run_id"]), kit.weights_hash(home, engine, parent)))
    assert found[0] == found[1]


@pytest.mark.slow
def test_kill_9_at_random_instants_changes_nothing(tmp_path):
    """Also while the hero is being asked: the same rows are made again."""
    profile = kit.micro_profile(training_defaults={"save_steps": 2})
    chance = random.Random(3)

    def run(name, kills, window):
        home, engine = fresh(tmp_path, name)
        ids, data = quest(home, engine, profile)
        begun, killed, parent = time.monotonic(), 0, None
        while True:
            battle = order(engine, profile, ids, data, parent=parent)
            pid = kit.in_fork(home, battle)
            if killed < kills:
                time.sleep(chance.uniform(0.02, window))
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            with engine.connect() as connection:
                c = db.checkpoints.c
                parent = connection.execute(sa.select(c.id).order_by(c.step.desc()).limit(1)).scalar()
            row = kit.battle_row(engine, battle)
            if row["state"] == "done":
                break
            assert status == signal.SIGKILL, row["error"]
            killed += 1
            kit.want(engine, battle, state="failed", error="killed")
        took = time.monotonic() - begun
        return took, killed, kit.curve(engine, ids["run_id"]), kit.weights_hash(home, engine, parent)

    took, _, curve, weights = run("whole", 0, 0)
    _, killed, again, hashed = run("killed", 5, 0.8 * took)
    assert killed >= 2 and (again, hashed) == (curve, weights)

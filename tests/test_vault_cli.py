"""`training vault …` and `training groundskeeper` on a real home; orders are carried out as the arena does."""

from __future__ import annotations

import json
import time

import hero_kit
import pytest
import sqlalchemy as sa
import vault_kit as kit

from realm import db
from realm.arena import commands
from realm.arena.keeping import Keeping
from realm.vault import places


@pytest.fixture
def three(home, engine):
    ids = hero_kit.campaign(engine)
    return [kit.saved(home, engine, ids, step, hours=100 - step / 10) for step in (1, 10, 100)]


def arena_works(home, engine, wait_s=30.0) -> dict:
    """What the arena's tick does with waiting orders; returns the answer of the newest."""
    keeping = Keeping(home, engine, first_round_s=1e9)
    deadline = time.monotonic() + wait_s
    try:
        while True:
            with db.write(engine) as connection:
                commands.work(connection, home)
                left = commands.pending(connection)
            if not left:
                break
            keeping.look()
            keeping.tick()
            assert time.monotonic() < deadline, left
            time.sleep(0.005)
    finally:
        keeping.close()
    with db.read(engine) as connection:
        return dict(connection.execute(sa.select(db.commands).order_by(
            db.commands.c.t.desc(), db.commands.c.id.desc()).limit(1)).mappings().one())


def test_what_is_asked_is_told_in_words_and_in_json(home, engine, run, three):
    for words, expected in (
        (("list",), three[0]), (("list", "--state", "live"), three[1]), (("show", three[0]), "protected"),
        (("compare", three[0], three[1]), "step"), (("lineage", three[0]), "run"),
        (("zones",), "hot"), (("retention",), "nothing was changed"),
        (("retention", "--all"), "latest of its campaign"),
        (("exports",), "where"), (("delete", three[0], "--dry-run"), "would move checkpoint"),
        (("empty-trash",), "nothing was removed"),
    ):
        code, out, err = run("vault", *words)
        assert (code, err) == (0, "") and expected in out, (words, out, err)
        code, out, err = run("vault", *words, "--json")
        assert (code, err) == (0, "") and json.loads(out) is not None, (words, out, err)
    with db.read(engine) as connection:
        assert connection.execute(sa.select(db.commands)).first() is None, "asking orders nothing"


def test_orders_are_noted_and_the_arena_carries_them_out(home, engine, run, three):
    one, two, _ = three

    def order(*words):
        code, out, err = run("vault", *words)
        assert (code, err) == (0, "") and "noted" in out, (words, out, err)
        done = arena_works(home, engine)
        assert done["state"] == "done", (words, done["result"])
        return kit.row(engine, one)

    assert order("pin", one)["pinned"] and not order("unpin", one)["pinned"]
    assert order("tag", one, "first", "small")["tags"] == ["first", "small"]
    assert order("untag", one, "small")["tags"] == ["first"]
    assert order("promote", one)["promoted"] and not order("promote", one, "--undo")["promoted"]
    assert order("move", one, "deep")["zone"] == "deep" and order("move", one, "hot")["zone"] == "hot"
    assert order("delete", one)["state"] == "trash" and order("restore", one)["state"] == "live"
    assert order("delete", one)["state"] == "trash" and order("empty-trash", "--yes")["state"] == "gone"
    kit.set_settings(home, retention_keep=1, retention_daily=0)
    order("retention", "--apply")
    assert kit.row(engine, two)["state"] == "trash"


def test_what_cannot_be_is_refused_with_the_reason(home, engine, run, three):
    for words, said in (
        (("show", "nope"), "no checkpoint nope"), (("pin", "10"), "no checkpoint 10"),
        (("delete", three[2]), "protected: latest"), (("compare", three[0], "x"), "no checkpoint x"),
        (("export", three[0], "--format", "zip"), "format 'zip' does not exist"),
        (("import", str(home.root / "nothing"), "--hero", "pip"), "is no folder"),
    ):
        code, _, err = run("vault", *words)
        assert code == 1 and said in err, (words, err)
    with db.read(engine) as connection:
        assert connection.execute(sa.select(db.commands)).first() is None
    for kind, payload, said in (
        ("vault.move", {"checkpoint_id": three[2], "zone": "deep"}, "latest"),
        ("vault.move", {"checkpoint_id": three[0], "zone": "../x"}, "does not exist"),
        ("vault.delete", {"checkpoint_id": None}, "no checkpoint None"), ("vault.tag", {"checkpoint_id": three[0],
                                                                                     "add": "x"}, "list of words"),
        ("vault.import", {"name": "../../etc", "hero_id": "pip"}, "is no folder"),
        ("vault.export", {"checkpoint_id": three[0], "format": ["x"]}, "does not exist"),
    ):
        with db.write(engine) as connection:
            connection.execute(sa.insert(db.commands).values(
                id=db.new_id(), t=db.now(), kind=kind, payload=payload, state="pending"))
        answer = arena_works(home, engine)
        assert answer["state"] == "failed" and said in answer["result"]["reason"], (kind, payload, answer["result"])


def test_an_order_that_a_kill_interrupted_is_done_at_the_next_start(home, engine, run, three):
    run("vault", "delete", three[0])
    with db.write(engine) as connection:
        commands.work(connection, home)  # accepted
        # The kill came after the ledger and before the rename and the answer.
        connection.execute(sa.update(db.checkpoints).where(db.checkpoints.c.id == three[0]).values(
            state="trash", trashed_at=db.now()))
    assert arena_works(home, engine)["state"] == "done"
    row = kit.row(engine, three[0])
    assert places.trash_of(home, row).is_dir() and not places.place_of(home, row).exists()


def test_verify_in_the_arena_condemns_and_revives(home, engine, three):
    weights = home.root / kit.row(engine, three[0])["path"] / "model.safetensors"
    kit.flip(weights)

    def verify():
        with db.write(engine) as connection:
            connection.execute(sa.insert(db.commands).values(
                id=db.new_id(), t=db.now(), kind="vault.verify", payload={}, state="pending"))
        return arena_works(home, engine)["result"]

    told = verify()
    assert told["whole"] == 2 and "model.safetensors" in told["damaged"][three[0]][0]
    assert kit.row(engine, three[0])["state"] == "corrupt"
    kit.flip(weights)
    assert verify()["revived"] == [three[0]] and kit.row(engine, three[0])["state"] == "live"


def test_groundskeeper_by_hand(home, engine, run, three):
    (home.root / "settings.yaml").write_text("retention_keep: 1\nretention_daily: 0\n")
    code, out, err = run("groundskeeper", "--dry-run")
    assert (code, err) == (0, "") and three[0] in out and "nothing was changed" in out
    assert kit.row(engine, three[0])["state"] == "live"
    code, out, err = run("groundskeeper", "--json")
    assert (code, err) == (0, "") and len(json.loads(out)["retention"]) == 2
    assert kit.row(engine, three[0])["state"] == "trash"
    code, _, err = run("groundskeeper", "--task", "nope")
    assert code == 1 and "known: retention" in err

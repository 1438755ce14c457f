"""The Temple's hours in the hero loop: asked without waiting, recorded, told; and what a curse means for a quest."""

from __future__ import annotations

import json
import sys
import time

import psutil
import pytest
import sqlalchemy as sa
from loop_kit import Tables, running, tiny_home, wait_for

from realm import db
from realm.arena import rites, settle
from realm.arena.rites import Rites
from realm.guild import campaigns, progress
from realm.temple import verdicts
from realm.temple.ledger import audit
from realm.temple.orders import ORDERS


@pytest.fixture
def tables(home):
    return Tables(home)


def stand_in(script: str, tmp_path):
    """A command that writes down how it was asked and runs `script`."""
    file = tmp_path / "temple.py"
    file.write_text("import sys, json, time\norder, fix, scheduled = sys.argv[1:]\n" + script)
    return lambda order, fix, scheduled: [sys.executable, str(file), order, str(fix), str(scheduled)]


GOOD = """
print(json.dumps({"verdicts": [{"order": o, "status": "ok", "t": time.time(), "seconds": 0.1, "checks": []}
                               for o in (["forge", "deep", "oracle", "champion", "quick", "api", "weaver", "guild",
                                          "scribe"] if order in ("deep", "all") else [order])]}))
"""


def finish(made: Rites, wait_s: float = 20.0) -> None:
    deadline = time.monotonic() + wait_s
    made.step()
    while made._process is not None and time.monotonic() < deadline:
        time.sleep(0.01)
        made.step()
    assert made._process is None


def test_the_first_hour_asks_all_nine_and_then_nothing_is_due(home, tables, tmp_path):
    made = Rites(home, tables.engine, stand_in(GOOD, tmp_path), first_s=0.0)
    finish(made)
    with db.read(tables.engine) as connection:
        kept = verdicts.newest(connection)
    assert len(kept) == 9 and {each["by"] for each in kept.values()} == {"hour"}
    made._next = 0.0
    made.step()
    assert made._process is None, "nothing is due"
    with db.write(tables.engine) as connection:
        campaigns.set_value(connection, "temple:oracle", kept["oracle"] | {"status": "fail", "t": db.now() - 400})
    made._next = 0.0
    made.step()
    assert made._ask["order"] == "oracle" and made._ask["wish"] is None, "a failing one is asked again soon"
    finish(made)


@pytest.mark.parametrize(("script", "said"), [
    ("sys.exit(3)", "exit code 3"), ("print('no json')", "gave no verdict"), ("print(json.dumps({}))", "KeyError"),
    ("time.sleep(60)", "took longer"),
])  # fmt: skip
def test_an_asking_that_fails_is_answered_and_tried_later(home, tables, tmp_path, monkeypatch, script, said):
    if "sleep" in script:
        monkeypatch.setattr(rites, "LIMIT_S", 0.3)
    made = Rites(home, tables.engine, stand_in(script, tmp_path), first_s=1e6)
    with db.write(tables.engine) as connection:
        connection.execute(sa.insert(db.commands).values(
            id="ask-00001", t=db.now(), kind="temple.run", payload={"order": "quick", "fix": True}, state="pending"))
        from realm.arena import commands

        commands.work(connection, home)
    finish(made)
    answer = tables.rows(db.commands)[0]
    assert answer["state"] == "failed" and said in answer["result"]["reason"]
    made.step()
    assert made._process is None and made._next > time.monotonic() + 100


def test_a_verdict_that_is_nonsense_does_not_end_the_loop(home, tables, tmp_path):
    bad = 'print(json.dumps({"verdicts": [{"order": "nobody"}, 7]}))'
    made = Rites(home, tables.engine, stand_in(bad, tmp_path), first_s=0.0)
    finish(made)
    with db.read(tables.engine) as connection:
        assert verdicts.newest(connection) == {}


def test_closing_ends_the_asking_and_its_children(home, tables, tmp_path):
    script = "import subprocess\nsubprocess.Popen(['sleep', '60'])\ntime.sleep(60)"
    made = Rites(home, tables.engine, stand_in(script, tmp_path), first_s=0.0)
    made.step()
    child = psutil.Process(made._process.pid)
    family = [child, *wait_for(lambda: child.children(), what="its child")]
    assert child.nice() == rites.NICE
    made.close()
    _gone, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


@pytest.mark.slow
def test_a_person_asks_and_the_loop_answers_with_the_real_command(home, tables):
    home = tiny_home(home)
    tables.send("mode", mode="rest")
    with running(home):
        done = tables.answer(tables.send("temple.run", order="quick"), 120)
    assert done["state"] == "done" and done["result"]["verdicts"] == {"quick": "ok"}
    with db.read(tables.engine) as connection:
        assert verdicts.newest(connection)["quick"]["by"] == "person"
    told = [e["payload"]["status"] for e in tables.events("temple")]
    assert told == ["asked", "ok"]


def one_quest(home, tables, **fake) -> dict:
    """A quest trained and blessed; its blessing."""
    with running(tiny_home(home, **fake)):
        return wait_for(lambda: tables.rows(db.blessings))[0]


def test_the_ceremony_asks_the_orders(home, tables):
    blessing = one_quest(home, tables, accuracy={"1": 1.0})
    checks = {check["name"]: check for check in blessing["parts"]["checks"]}
    assert {"data", "cleric", "checkpoint", "trial", *(order.id for order in ORDERS)} == set(checks)
    assert (blessing["ceremony"], blessing["verdict"], blessing["xp"]) == (1.0, "blessed", blessing["effort"])
    with db.read(tables.engine) as connection:
        assert audit(connection)["differences"] == []
        assert progress.xp_of(connection, blessing["campaign_id"]) == sum(b["xp"] for b in tables.rows(db.blessings))


def test_a_critical_order_curses_raises_a_deed_and_stops_the_level_up(home, tables, monkeypatch):
    """A full disk: the Forge fails, so nothing is earned although every trial was passed."""
    monkeypatch.setattr(settle.machine, "sample", lambda root: FULL)
    blessing = one_quest(home, tables, accuracy={"1": 1.0})
    assert (blessing["verdict"], blessing["xp"], blessing["ceremony"]) == ("cursed", 0.0, 0.0)
    assert tables.rows(db.trials)[0]["verdict"] == "pass" and tables.rows(db.levels) == []
    deed = next(e for e in tables.events("alert") if e["payload"]["code"] == "cursed")
    assert deed["level"] == "trouble" and "forge" in deed["text"] and "make room" in deed["payload"]["fix"]
    assert deed["payload"]["action"] == {"kind": "temple.run", "payload": {"order": "forge", "fix": True}}
    crowned = {e["payload"]["checkpoint_id"] for e in tables.events("champion")}
    cursed = {b["checkpoint_id"] for b in tables.battles() if b["id"] == blessing["battle_id"]}
    assert not crowned & cursed


@pytest.mark.slow
def test_data_that_changed_curses_and_stops_the_level_up(home, tables):
    home = tiny_home(home, step_s=0.05, accuracy={"1": 1.0})
    with running(home):
        quest = wait_for(lambda: [b for b in tables.battles() if b["state"] == "training"] and tables.quests()[0])
        file = home.root / quest["path"]
        file.write_bytes(file.read_bytes().replace(b"Compute", b"Confuse", 1))
        blessing = wait_for(lambda: tables.rows(db.blessings))[0]
    assert (blessing["verdict"], blessing["xp"]) == ("cursed", 0.0) and tables.rows(db.levels) == []
    deed = next(e for e in tables.events("alert") if e["payload"]["code"] == "cursed")
    assert "changed after the Cleric checked it" in deed["text"] and str(home.inbox) in deed["payload"]["fix"]


def test_a_remembered_critical_verdict_counts(home, tables):
    bad = {"order": "oracle", "status": "fail", "t": db.now(), "seconds": 1.0,
           "checks": [{"name": "inference", "status": "fail", "details": "no answer", "remedy": "start it"}]}
    with db.write(tables.engine) as connection:
        verdicts.keep(connection, bad, "hour")
    blessing = one_quest(home, tables, accuracy={"1": 1.0})
    assert blessing["verdict"] == "cursed" and tables.rows(db.levels) == []


def test_the_result_file_is_small(home, tables, tmp_path):
    """Whatever an order says, a page and a row stay readable."""
    long = GOOD.replace('"checks": []', '"checks": [{"name": "n" * 9999, "status": "warn", "details": "d" * 9999, '
                        '"remedy": "r" * 9999}] * 80')  # fmt: skip
    finish(Rites(home, tables.engine, stand_in(long, tmp_path), first_s=0.0))
    with db.read(tables.engine) as connection:
        assert len(json.dumps(verdicts.newest(connection))) < 1_000_000


FULL = settle.machine.MachineSample(gpus=(), ram_used=1, ram_total=16_000_000_000, cpu_load=None, cpu_count=2,
                                    cpu_temp=None, disk_free=1_000_000, disk_total=10**11)

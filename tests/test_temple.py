"""The Temple's orders, asked about real things that are really broken; each names what is wrong and what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import save_file
from tavern_kit import Play, served

from realm import db, services
from realm.arena import commands
from realm.settings import RealmHome
from realm.state.router import create_state_app
from realm.temple import ceremony, verdicts
from realm.temple.orders import ORDERS, Asked, Ceremony, Check, Order, by_id, chosen
from realm.vault import checkpoints

MACHINE = SimpleNamespace(gpus=(), ram_used=4e9, ram_total=16e9, cpu_temp=50.0, cpu_count=4, disk_free=90e9,
                          disk_total=100e9)  # fmt: skip


def ask(home: RealmHome, order: str, fix: bool = False, **machine) -> dict[str, Check]:
    """{check name: check} of one order; `machine` changes what the machine says."""
    return {check.name: check for check in verdict(home, order, fix, **machine).checks}


def verdict(home: RealmHome, order: str, fix: bool = False, **machine):
    asked = Asked(home, lambda: SimpleNamespace(**{**vars(MACHINE), **machine}))
    try:
        return by_id(order).examine(asked, fix)
    finally:
        asked.close()


def one(checks: dict[str, Check], status: str = "fail") -> Check:
    """The only check of that status; it must say what to do."""
    [found] = [check for check in checks.values() if check.status == status]
    assert found.remedy, found
    return found


@pytest.fixture
def play(home):
    made = Play(home)
    yield made
    made.close()


@pytest.fixture
def champion(home, play):
    """A campaign whose newest checkpoint is really there: (row, folder)."""
    place = checkpoints.Place("pip", play.campaign, play.run, 10)

    def weights(folder):
        save_file({"w": np.arange(40_000, dtype=np.float32)}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "qwen3"}')

    made = checkpoints.save(home, play.engine, place, write_weights=weights, facts={}, why="test",
                            write_resume=lambda folder: {"step": 10})  # fmt: skip
    with db.read(play.engine) as connection:
        row = connection.execute(sa.select(db.checkpoints).where(db.checkpoints.c.id == made.id)).mappings().one()
    return dict(row), made.folder


def orders_of(play: Play) -> list[tuple[str, dict]]:
    return play.commands()


# --- the frame ----------------------------------------------------------------------------------------------------


def test_nine_orders_three_critical():
    assert len(ORDERS) == 9 and {order.id for order in ORDERS if order.critical} == {"forge", "champion", "oracle"}
    assert [order.id for order in chosen("deep")] == [order.id for order in ORDERS]
    assert "deep" not in [order.id for order in chosen(None)] and len(chosen(None)) == 8
    with pytest.raises(KeyError, match="the nine are forge, champion"):
        by_id("nobody")


def test_what_cannot_be_examined_is_a_warning_and_the_rest_is_examined(home):
    def broken(asked):
        raise OSError("no such device")

    def fine(asked):
        yield Check("fine", "ok", "")

    found = Order("x", "X", "", True, (broken, fine)).examine(Asked(home))
    assert [(c.name, c.status) for c in found.checks] == [("broken", "warn"), ("fine", "ok")]
    assert found.status == "warn" and "OSError: no such device" in found.checks[0].details
    skipped = Order("x", "X", "", True, (lambda asked: [Check("a", "skip", "")],))
    assert skipped.examine(Asked(home)).status == "warn", "a critical order that could not run is no pass"
    assert Order("x", "X", "", False, skipped.rites).examine(Asked(home)).status == "skip"


def test_fix_mends_and_looks_again(home):
    state = {"whole": False}

    def rite(asked):
        yield Check("thing", "ok" if state["whole"] else "fail", "seen", "mend it", lambda: state.update(whole=True) or
                    "did it")  # fmt: skip

    order = Order("x", "X", "", False, (rite,))
    assert order.examine(Asked(home)).status == "fail" and not state["whole"], "nothing is mended unasked"
    found = order.examine(Asked(home), fix=True)
    assert found.status == "ok" and "mended: did it" in found.checks[0].details


# --- Quick and Forge ----------------------------------------------------------------------------------------------


def test_quick_of_a_sound_home(home):
    found = verdict(home, "quick")
    assert found.status == "ok" and {c.name for c in found.checks} == {"imports", "folders", "database",
                                                                       "configuration", "disk"}  # fmt: skip


def test_quick_names_folders_database_and_configuration(home):
    (home.inbox / "high").rmdir()
    assert "inbox/high" in one(ask(home, "quick")).details
    assert ask(home, "quick", fix=True)["folders"].status == "ok" and (home.inbox / "high").is_dir()
    (home.root / "settings.yaml").write_text("default_hreo: pip\n")
    assert "default_hero" in one(ask(home, "quick")).details
    (home.root / "settings.yaml").write_text("default_hero: dio\n")
    assert "hf download" in one(ask(home, "quick")).remedy
    (home.root / "settings.yaml").unlink()
    home.database.write_bytes(b"no database at all, but long enough to be looked into" * 40)
    found = ask(home, "quick")
    assert found["database"].status == "fail" and found["database"].remedy.endswith("doctor --fix")


def test_a_full_disk_is_named(home, tmp_path, monkeypatch):
    """On a real small file system where this user may mount one, else with the operating system's word changed."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        full = RealmHome(small).create() if mounted else home
        if not mounted:
            real = os.statvfs

            def tiny(path):
                return os.statvfs_result((*real(path)[:3], 10, 10, *real(path)[5:10]))

            monkeypatch.setattr(os, "statvfs", tiny)
            monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=1e9, used=1e9, free=40_960))
        disk = ask(full, "quick")["disk"]
        assert disk.status == "fail" and "checkpoints are refused" in disk.details and str(full.root) in disk.remedy
        import shutil

        forge = verdict(full, "forge", disk_free=shutil.disk_usage(full.root).free)
        assert forge.status == "fail" and "make room" in one({c.name: c for c in forge.checks}).remedy
    finally:
        if mounted:
            subprocess.run(["umount", str(small)], check=True)


def gpu(**more):
    return SimpleNamespace(**{"name": "Card", "used": 4e9, "total": 16e9, "temp": 60.0, "temp_limit": 90.0, **more})


@pytest.mark.parametrize(("machine", "name", "status"), [
    ({}, "GPU", "ok"), ({"gpus": (gpu(),)}, "GPU memory", "ok"), ({"gpus": (gpu(used=15.9e9),)}, "GPU memory", "warn"),
    ({"gpus": (gpu(temp=91.0),)}, "GPU heat", "fail"), ({"gpus": (gpu(temp=88.0),)}, "GPU heat", "warn"),
    ({"gpus": (gpu(), gpu(temp=95.0))}, "GPU 1 heat", "fail"), ({"cpu_temp": None}, "processor heat", "skip"),
    ({"cpu_temp": 99.0}, "processor heat", "fail"), ({"ram_used": 15.7e9}, "RAM", "warn"),
    ({"ram_used": 15.9e9}, "RAM", "fail"), ({"disk_free": 100e6}, "disk", "fail"),
    ({"disk_free": 700e6}, "disk", "warn"),
])  # fmt: skip
def test_forge(home, machine, name, status):
    found = ask(home, "forge", **machine)[name]
    assert found.status == status and bool(found.remedy) == (status in ("warn", "fail"))


def test_forge_of_a_large_hero_without_a_gpu_warns(home):
    (home.root / "settings.yaml").write_text("default_hero: flo\n")
    assert "billion parameters" in one(ask(RealmHome(home.root), "forge"), "warn").details


# --- Champion -----------------------------------------------------------------------------------------------------


def test_champion_of_a_whole_checkpoint(home, champion):
    found = verdict(home, "champion")
    assert found.status == "ok" and len(found.checks) == 4
    assert verdict(RealmHome(home.root), "champion").critical


def test_nothing_trained_yet_is_no_failure_and_no_pass(home, play):
    assert verdict(home, "champion").status == verdict(home, "oracle").status == "warn"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json", "resume/state.json"])
def test_a_flipped_byte_is_found_and_named(home, play, champion, name):
    row, folder = champion
    file = folder / name
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    found = ask(home, "champion")["hashes"]
    assert found.status == "fail" and name in found.details and row["id"] in found.details
    assert "backup" in found.remedy and "vault verify" in found.remedy
    # The arena takes it out of use when it is told to; the terminal changes no fact.
    ask(home, "champion", fix=True)
    assert ("vault.condemn", {"checkpoint_id": row["id"]}) in orders_of(play)
    with play.write() as connection:
        commands.work(connection, home)
    with db.read(play.engine) as connection:
        state = connection.execute(sa.select(db.checkpoints.c.state)).scalar_one()
        alert = connection.execute(sa.select(db.events).where(db.events.c.kind == "alert")).mappings().one()
    assert state == "corrupt" and name in alert["text"]
    data[-3] ^= 1
    file.write_bytes(data)
    assert "every byte is right again" in ask(home, "champion", fix=True)["hashes"].details
    with play.write() as connection:
        commands.work(connection, home)
    assert verdict(home, "champion").status == "ok"


def test_a_whole_checkpoint_cannot_be_condemned(home, play, champion):
    with play.write() as connection:
        connection.execute(sa.insert(db.commands).values(id=db.new_id(), t=db.now(), kind="vault.condemn",
                                                         payload={"checkpoint_id": champion[0]["id"]}, state="pending"))
        commands.work(connection, home)
        row = connection.execute(sa.select(db.commands)).mappings().one()
    assert row["state"] == "failed" and "is whole" in row["result"]["reason"]


def test_weights_that_no_loader_takes(home, play, champion):
    """Right bytes of a wrong form: a save that went wrong before it was hashed."""
    row, folder = champion
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    found = ask(home, "champion")["loads"]
    assert found.status == "fail" and "model.safetensors cannot be opened" in found.details


def test_the_current_model_is_pointed_right_again(home, play, champion):
    link = home.models / "current_model"
    link.unlink()
    link.symlink_to("../vault/nowhere")
    assert ask(home, "champion")["current model"].status == "warn"
    assert ask(home, "champion", fix=True)["current model"].status == "ok"
    assert link.resolve() == champion[1].resolve()


def test_another_ledger_is_told(home, play, champion):
    with play.write() as connection:
        connection.execute(sa.update(db.checkpoints).values(step=11))
    assert "step is 10 in the manifest and 11 in the ledger" in ask(home, "champion")["ledger"].details


# --- Weaver and API -----------------------------------------------------------------------------------------------


def at_ports(home: RealmHome, **ports: int) -> RealmHome:
    """The home with free ports of its own, and those that are given."""
    lines = []
    for service in services.SERVICES:
        if service.name in ports:
            port = ports[service.name]
        else:
            with socket.socket() as held:
                held.bind(("127.0.0.1", 0))
                port = held.getsockname()[1]
        lines.append(f"port_{service.name}: {port}\n")
    (home.root / "settings.yaml").write_text("".join(lines))
    return RealmHome(home.root)


def test_weaver_of_a_realm_at_rest(home):
    found = ask(at_ports(home), "weaver")
    assert "start-all" in one(found, "warn").remedy


def test_a_stopped_service_is_named(home, play):
    services.leave_note(home, "realm", os.getpid())
    with served(create_state_app(home)) as base:
        found = ask(at_ports(home, state=int(base.rsplit(":", 1)[1])), "weaver")
    assert found["service state"].status == "ok"
    for name in ("tavern", "sy", "bin"):
        assert found[f"service {name}"].status == "fail" and "start-all" in found[f"service {name}"].remedy
    assert found["process arena"].status == "warn"


def test_a_service_that_hangs_is_named(home, monkeypatch):
    monkeypatch.setattr("realm.temple.orders.weaver.ANSWER_S", 0.2)
    services.leave_note(home, "realm", os.getpid())
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        found = ask(at_ports(home, bin=deaf.getsockname()[1]), "weaver")["service bin"]
    assert found.status == "fail" and "gives no answer" in found.details


def test_a_dead_process_and_a_hero_loop_that_takes_no_orders(home, play):
    ended = subprocess.Popen(["true"])
    (home.run / "realm.json").write_text(json.dumps({"pid": ended.pid, "started": time.time(), "supervised": True}))
    ended.wait()
    services.leave_note(home, "arena", os.getpid())
    with play.write() as connection:
        connection.execute(sa.insert(db.commands).values(id=db.new_id(), t=db.now() - 600, kind="battle.pause",
                                                         payload={}, state="pending"))
    found = ask(at_ports(home), "weaver")
    assert found["process realm"].status == "fail" and "realm.log" in found["process realm"].remedy
    assert found["hero loop"].status == "fail" and "1 orders were not taken" in found["hero loop"].details
    ask(at_ports(home), "weaver", fix=True)
    assert not (home.run / "realm.json").exists()


def test_api_over_http_and_in_process(home, play):
    play.won_battle()
    with served(create_state_app(home)) as base:
        moved = at_ports(home, state=int(base.rsplit(":", 1)[1]))
        asked = Asked(moved, apps={"state": create_state_app})
        found = {c.name: c for c in by_id("api").examine(asked).checks}
    assert found["routes of state"].status == "ok" and "answer to their schema" in found["routes of state"].details
    assert found["routes of bin"].status == "warn" and found["routes of bin"].remedy.endswith("start-all")
    found = {c.name: c for c in by_id("api").examine(Asked(at_ports(home), apps={"state": create_state_app})).checks}
    assert found["routes of state"].status == "warn" and "in this process" in found["routes of state"].details


def test_api_names_a_route_that_breaks_its_schema(home, play, monkeypatch):
    from realm.state import queries

    def make(given):
        app = create_state_app(given)
        monkeypatch.setattr(queries, "skills", lambda *a: {"not": "a list"})
        monkeypatch.setattr(queries, "trials", lambda *a: 1 / 0)
        return app

    found = {c.name: c for c in by_id("api").examine(Asked(at_ports(home), apps={"state": make})).checks}
    said = found["routes of state"]
    assert said.status == "fail" and "/api/trials: answers 500" in said.details and "/api/skills" in said.details


# --- Guild and Scribe ---------------------------------------------------------------------------------------------


def test_guild_examines_every_skill(home):
    found = verdict(home, "guild")
    assert found.status == "ok" and "31 skills" in found.checks[0].details


def test_guild_names_a_skill_that_marks_its_golden_wrong_and_leaks(home, monkeypatch):
    from realm.guild.skills.base import Grade
    from realm.guild.skills.bin import BinSkill

    monkeypatch.setattr(BinSkill, "grade", lambda self, problem, response: Grade(False, 0.0, "no"))
    monkeypatch.setattr(BinSkill, "split_of", lambda self, prompt: "train")
    found = one(ask(home, "guild"))
    assert found.name == "skill bin" and "its own golden answer wrong" in found.details
    asked = Asked(home, ceremony=Ceremony("b", {"bin": (8,)}))
    [check] = by_id("guild").examine(asked).checks
    assert "L8" in check.details, "after a quest its own levels"
    monkeypatch.undo()
    monkeypatch.setattr(BinSkill, "split_of", lambda self, prompt: "train")
    assert "a trial problem is told as train" in one(ask(home, "guild")).details


def test_scribe_names_a_trial_that_lies(home, play):
    play.won_battle()
    found = one(ask(home, "scribe"))
    assert "its answers say 0 of 0" in found.details and "recompute" in found.remedy


def test_a_bad_dataset_is_named(home, play):
    """One that changed after the gate, one that is gone, one that the gate refused."""
    (home.queue / "high" / "good.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    sha = checkpoints.sha256(home.queue / "high" / "good.jsonl")
    quest = play.add_quest("good", "high", skill=None, level=None, content_sha256=sha)
    assert "1 waiting files" in ask(home, "scribe")["data"].details
    with (home.queue / "high" / "good.jsonl").open("a") as file:
        file.write("poison\n")
    play.add_quest("lost", "low", skill=None, level=None, content_sha256=sha)
    play.add_quest("bad.jsonl", "low", skill=None, level=None, state="refused", error="line 3: no messages")
    found = ask(home, "scribe", fix=True)
    assert found["data good"].status == "fail" and "changed after the Cleric checked it" in found["data good"].details
    assert str(home.inbox) in found["data good"].remedy
    assert "is not there" in found["data lost"].details
    assert found["data bad.jsonl"].status == "warn" and "line 3: no messages" in found["data bad.jsonl"].details
    assert "quest report" in found["data bad.jsonl"].remedy
    assert ("quest.hold", {"quest_id": quest}) in orders_of(play), "held back until a person decides"


def test_an_error_in_a_log_counts_for_an_hour(home, play):
    def log(age: float) -> Check | None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - age))
        (home.logs / "arena.log").write_text(f"{when},000 realm ERROR stumbled\nTraceback (most recent call last):\n"
                                             '  File "x.py", line 1, in y\nValueError: odd\n')  # fmt: skip
        return ask(home, "scribe").get("log arena.log")

    assert log(60).status == "warn" and "ValueError: odd" in log(60).details
    assert log(7200) is None


# --- Deep ---------------------------------------------------------------------------------------------------------


def test_deep_verifies_everything_and_computes_the_ledger_again(home, play, champion):
    found = ask(home, "deep")
    assert {c.status for c in found.values()} == {"ok"} and "1 of 1 verified" in found["checkpoints"].details
    row, folder = champion
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x99")
    (home.vault / "pip" / "x" / "y-1").mkdir(parents=True)
    (home.vault / "pip" / "x" / "y-1" / "manifest.json").write_text("{}")
    play.arm()
    play.bless(0.92, 40.0)
    found = ask(home, "deep")
    assert "model.safetensors" in found[f"checkpoint {row['id']}"].details
    assert "vault/pip/x/y-1" in found["folders without a row"].details
    [book] = [c for name, c in found.items() if name.startswith("ledger of")]
    assert book.status == "fail" and "ledger recompute" in book.remedy, "40 effort without one step"


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_names_each_trouble_and_hands_its_verdict_to_the_arena(home, play, champion, run):
    code, out, _ = run("temple", "champion")
    assert code == 0 and "OK   * Champion" in out and "no order fails" in out
    (champion[1] / "config.json").write_text('{"model_type": "qwen4"}')
    code, out, _ = run("temple", "champion", "--json")
    told = json.loads(out)
    assert code == 1 and not told["ok"] and [v["order"] for v in told["verdicts"]] == ["champion"]
    with play.write() as connection:
        commands.work(connection, home)
    code, out, _ = run("temple", "--list")
    assert code == 0 and "fail  Champion*" in out and "config.json" in out and "Oracle*: no verdict yet" in out
    code, _, err = run("temple", "nobody")
    assert code == 1 and "the nine are" in err


def test_the_command_works_without_a_realm(tmp_path, run, monkeypatch):
    monkeypatch.setenv("REALM_HOME", str(tmp_path / "none"))
    code, out, _ = run("temple", "quick")
    assert code == 1 and "doctor --fix" in out and not (tmp_path / "none").exists()


# --- verdicts and ceremony ----------------------------------------------------------------------------------------


def given(order: str, status: str, t: float | None = None) -> dict:
    checks = [{"name": "a", "status": status, "details": "d", "remedy": "r"}]
    return {"order": order, "status": status, "t": db.now() if t is None else t, "seconds": 0.1, "checks": checks}


def test_verdicts_are_kept_told_and_due(play):
    with play.write() as connection:
        assert verdicts.keep(connection, given("oracle", "fail"), "hour")
        assert not verdicts.keep(connection, given("oracle", "ok", db.now() - 60), "terminal"), "an older one"
        kept = verdicts.newest(connection)
        told = connection.execute(sa.select(db.events).where(db.events.c.kind == "temple")).mappings().all()
    assert kept["oracle"]["status"] == "fail" and kept["oracle"]["critical"] and kept["oracle"]["by"] == "hour"
    assert len(told) == 1 and told[0]["level"] == "trouble" and "Oracle" in told[0]["text"]
    now = db.now()
    assert "oracle" not in verdicts.due(kept, now + 100) and "oracle" in verdicts.due(kept, now + 301)
    kept["oracle"]["status"] = "ok"
    assert "oracle" not in verdicts.due(kept, now + 3000) and "oracle" in verdicts.due(kept, now + 3601)
    assert set(verdicts.due({}, now)) == {order.id for order in ORDERS}


@pytest.mark.parametrize("bad", [{}, {"order": "nobody"}, given("quick", "good"), {**given("quick", "ok"), "checks": 3},
                                 {**given("quick", "ok"), "t": "then"}, "quick", None])  # fmt: skip
def test_what_is_no_verdict_is_refused(home, play, bad):
    with play.write() as connection:
        connection.execute(sa.insert(db.commands).values(id=db.new_id(), t=db.now(), kind="temple.record",
                                                         payload={"verdicts": [bad]}, state="pending"))
        commands.work(connection, home)
        row = connection.execute(sa.select(db.commands)).mappings().one()
        assert row["state"] == "failed" and verdicts.newest(connection) == {}
    with play.write() as connection:
        assert verdicts.keep(connection, {**given("quick", "ok"), "t": db.now() + 1e9}, "terminal")
        assert verdicts.newest(connection)["quick"]["t"] <= db.now(), "no verdict from the future"


def test_the_ceremony_asks_what_the_quest_touched_and_remembers_the_rest(home, play, champion):
    scope = Ceremony("none", {"bin": (2,)}, frozenset([champion[0]["id"]]))
    asked = Asked(home, lambda: MACHINE, ceremony=scope)
    found = {c.name: c for c in ceremony.hold(asked, {}, [])}
    assert set(found) == {order.id for order in ORDERS}
    assert found["champion"].status == found["guild"].status == found["forge"].status == "ok"
    assert (found["oracle"].status, found["oracle"].critical) == ("skip", True), "weighed as a warning"
    assert ceremony.hold(asked, {}, [{"n": 40, "tokens": 900}])[2].status == "ok", "it has answered in a trial"
    found = {c.name: c for c in ceremony.hold(asked, {"oracle": given("oracle", "fail") | {"critical": True}}, [])}
    assert found["oracle"].status == "fail" and found["oracle"].remedy == "r"
    old = {"oracle": given("oracle", "fail", db.now() - 90_000) | {"critical": True}}
    assert {c.name: c for c in ceremony.hold(asked, old, [])}["oracle"].status == "skip"


def test_the_levels_that_a_quest_trained():
    quest = {"skill": "bin", "mix": {"3": 0.5, "4": 0.3, "5": 0.1, "6": 0.1}, "level": 3,
             "rehearsal": {"sy": {"1": 0.1}, "buffer": 0.2, "url:far": {"1": 0.1}}}  # fmt: skip
    assert ceremony.skills_of(quest) == {"bin": (4, 5, 6), "sy": (1,)}
    assert ceremony.skills_of({"skill": None, "mix": None, "level": None, "rehearsal": None}) == {}

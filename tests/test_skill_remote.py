"""Skills on other servers, over real HTTP: a good one, and servers that are down, stall, lie and fail."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from realm.guild.skills import SkillError, attach, get_skill, skill_ids
from realm.guild.skills.base import Problem, keyed_rng
from realm.guild.skills.remote import RemoteSkill, exam_split
from realm.heroes.profile import load_profile
from realm.settings import RealmHome, Settings, SettingsError, load_settings

INFO = {"skill": "sums", "name": "Sums", "version": "3", "description": "small sums", "max_level": 2, "threshold": 0.8}
LEVELS = [{"level": 1, "name": "one", "description": "tables", "closed": True, "distinct": 40, "max_new_tokens": 8},
          {"level": 2, "name": "two", "description": "sums", "closed": False, "distinct": None, "max_new_tokens": 12}]


def problem(level, number, split):
    a, b = (number // 8, number % 8) if level == 1 else (number // 1000, number % 1000)
    return {"skill": "sums", "level": level, "difficulty": "easy", "kind": "sum", "operation": "add",
            "prompt": f"Add {a} and {b}.", "golden": str(a + b), "canonical": f"{a}+{b}", "id": f"s{level}-{number}",
            "split": split, "primitives": ["xfm_reduce"]}  # fmt: skip


class Server(BaseHTTPRequestHandler):
    """Sums; `lie` of the server object names what it does wrong."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body, status=200):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self):
        lie, levels = self.server.lie, [dict(row) for row in LEVELS]
        self.server.calls.append(self.path)
        if lie == "stall":
            return self.server.released.wait(20) and None
        if lie == "redirect":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if lie == "fails":
            return self.answer({"error": "out of paper"}, 500)
        if lie == "words":
            return self.answer(b"<html>hello</html>")
        if lie == "a list":
            return self.answer([1, 2])
        if lie == "too much":
            return self.answer(b"[" + b"1," * 9_000_000 + b"1]")
        if lie == "trickle":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(60):
                self.wfile.write(b" ")
                if self.server.released.wait(0.05):
                    break
            return None
        if lie == "more levels":
            levels = levels[:1]
        if lie == "closed and open":
            levels[1]["closed"] = True
        if lie == "room":
            levels[1]["max_new_tokens"] = 10**9
        return self.answer({**INFO, "max_level": {"max level": "many"}.get(lie, 2)} if self.path == "/info" else
                           {"levels": levels})  # fmt: skip

    def do_POST(self):
        lie = self.server.lie
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if lie == "fails":
            return self.answer({"error": "out of paper"}, 500)
        if self.path == "/grade":
            asked, text = body["problem"], body["response"]
            assert asked["skill"] == "sums" and asked["split"] in ("train", "public"), asked
            if lie == "slow marks" and self.server.slow:
                time.sleep(0.05)
            right = text.strip() == asked["golden"]
            right = {"own golden": False, "anything": True}.get(lie, right)
            return self.answer({"correct": "yes" if lie == "grade words" else right, "score": float(right),
                                "reason": ""})  # fmt: skip
        assert body["split"] in ("train", "public"), "exams are not asked for by name"
        level, split, count = body["level"], body["split"], body["count"]
        seed = body["seed"] + (next(self.server.tick) if lie == "other each time" else 0)
        rng = keyed_rng("sums", level, seed, split)
        if level == 1:
            numbers = [rng.randrange(39 if lie == "count" else 40) for _ in range(count)]
        else:
            odd = {"train": 0, "public": 0 if lie == "same problems" else 1}[split]
            numbers = [2 * rng.randrange(400_000) % (200 if lie == "same problems" else 800_000) + odd
                       for _ in range(count)]  # fmt: skip
        rows = [problem(level, number, split) for number in numbers]
        if lie == "level":
            rows[-1]["level"] = 1
        if lie == "split":
            rows[0]["split"] = "trial"
        if lie == "fewer":
            rows = rows[1:]
        if lie == "no golden":
            rows[0]["golden"] = " "
        if lie == "no field":
            del rows[0]["canonical"]
        if lie == "giant":
            rows[0]["prompt"] = "x" * 50_000
        return self.answer({"samples": rows})


@contextmanager
def serving(lie=None):
    import itertools

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.lie, server.released, server.slow, server.calls = lie, threading.Event(), False, []
    server.tick, server.daemon_threads = itertools.count(), True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def closed_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_exams_come_from_the_public_split_and_never_meet_training():
    with serving() as (_, url):
        skill = RemoteSkill("maths", url)
        train = skill.generate(2, 300, 5)
        exams = {split: skill.generate(2, 120, 5, split) for split in ("trial", "probe", "public")}
        assert {p.split for p in train} == {"train"} and {p.skill for p in train} == {"url:maths"}
        sets = [{p.canonical for p in rows} for rows in (train, *exams.values())]
        assert all(a.isdisjoint(b) for i, a in enumerate(sets) for b in sets[i + 1:])
        assert all(len(found) == 120 for found in sets[1:]), "fresh problems, none twice"
        for split, rows in exams.items():
            assert {p.split for p in rows} == {split}
            assert {exam_split(skill.id, skill.version, p.canonical) for p in rows} == {split}
        assert skill.generate(2, 30, 5, "trial") == exams["trial"][:30], "a short call is a prefix"
        assert skill.split_of(exams["trial"][0].prompt) == "trial" and skill.split_of(train[0].prompt) == "train"
        assert skill.split_of("Add 1 and one more.") is None


def test_another_process_asks_the_same_exam():
    with serving() as (_, url):
        first, second = RemoteSkill("maths", url), RemoteSkill("maths", url)
        assert first.generate(2, 40, 9, "trial") == second.generate(2, 40, 9, "trial")
        row = Problem.from_dict(first.generate(2, 1, 9, "trial")[0].to_dict())
        assert second.grade(row, row.golden).correct and not second.grade(row, row.golden + "1").correct


def test_closed_level_is_a_whole_table():
    with serving() as (_, url):
        skill = RemoteSkill("maths", url)
        assert skill.closed(1) and not skill.closed(2)
        table = skill.table(1)
        assert len({p.canonical for p in table}) == 40
        assert {p.canonical for p in skill.generate(1, 40, 1, "trial")} == {p.canonical for p in table}
        with pytest.raises(SkillError, match="only closed levels have a table"):
            skill.table(2)


@pytest.mark.parametrize(("lie", "words"), [
    ("fails", "fails on /info .status 500: out of paper"), ("words", "no JSON object"), ("a list", "no JSON object"),
    ("too much", "over 16,000,000 bytes"), ("redirect", "status 302"), ("max level", "max_level = 'many'"),
    ("more levels", "says levels 1 to 2"), ("closed and open", "closed = True with distinct = None"),
    ("room", "max_new_tokens = 1000000000"), ("level", "says skill 'sums', level 1"), ("split", "split 'trial'"),
    ("fewer", "100 public problems were asked for, 99 came"), ("no golden", "without a prompt, a golden answer"),
    ("no field", "lacks ..canonical"), ("giant", "a prompt of 50000"), ("own golden", "rejects its own golden answer"),
    ("anything", "accepts an empty answer"), ("grade words", "correct = 'yes'"),
    ("other each time", "other public problems the second time"), ("same problems", "training and as public"),
])  # fmt: skip
def test_a_lie_is_named_with_value_and_next_action(lie, words):
    with serving(lie) as (_, url):
        skill = RemoteSkill("maths", url, call_s=5)
        with pytest.raises(SkillError, match=words) as caught:
            skill.generate(2, 20, 3)
        text = str(caught.value)
        assert "url:maths" in text and url in text and ";" in text, "who, where, and what to do"


def test_wrong_count_of_a_closed_level():
    with serving("count") as (_, url), pytest.raises(SkillError, match="said to have 40 different problems, 39 were"):
        RemoteSkill("maths", url).table(1)


def test_down_server_is_said_at_once_and_not_asked_on_and_on():
    skill = RemoteSkill("maths", f"http://127.0.0.1:{closed_port()}")
    started = time.monotonic()
    for _ in range(50):
        with pytest.raises(SkillError, match="start it, or take its line out of settings.yaml"):
            skill.levels()
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("lie", ["stall", "trickle"])
def test_stalled_server_ends_within_the_deadline(lie):
    with serving(lie) as (server, url):
        skill = RemoteSkill("maths", url, call_s=0.4)
        started = time.monotonic()
        with pytest.raises(SkillError, match="no whole answer to /info within 0 s"):
            skill.generate(2, 1, 0)
        with pytest.raises(SkillError, match="not asked again"):
            skill.generate(2, 1, 0)
        assert time.monotonic() - started < 3 and len(server.calls) == 1


def test_slow_marking_is_refused_before_it_takes_hours():
    with serving("slow marks") as (server, url):
        skill = RemoteSkill("maths", url)
        rows = skill.generate(2, 30, 3, "trial")
        for row in rows:
            assert skill.grade(row, row.golden).correct
        server.slow, skill.slow_s = True, 0.04
        with pytest.raises(SkillError, match="on average"):
            for row in rows:
                skill.grade(row, row.golden)


def test_settings_name_the_servers(home):
    assert Settings().skill_servers == {}, "none by default: nothing is asked outside"
    with serving() as (_, url):
        (home.root / "settings.yaml").write_text(f"skill_servers: {{maths: '{url}'}}\n")
        attach(home.root)
        try:
            assert get_skill("url:maths").max_level == 2
            assert get_skill("url:maths") is get_skill("url:maths")
            assert "url:maths" not in skill_ids()
            with pytest.raises(SkillError, match="did you mean 'maths'"):
                get_skill("url:math")
        finally:
            attach(None)


@pytest.mark.parametrize("bad", ["file:///etc/passwd", "ftp://x/y", "127.0.0.1:80", "http://", "http://a:b@c/", 7])
def test_other_addresses_are_refused(home, bad):
    (home.root / "settings.yaml").write_text(json.dumps({"skill_servers": {"maths": bad}}))
    with pytest.raises(SettingsError, match="skill_servers"):
        RealmHome(home.root)


def test_servers_from_the_environment(tmp_path):
    found = load_settings(tmp_path, {"REALM_SKILL_SERVERS": "{a: 'http://h:1'}"})
    assert found.skill_servers == {"a": "http://h:1"}
    for bad in ("nonsense", "{a: [", "{A B: 'http://h'}"):
        with pytest.raises(SettingsError, match="skill_servers"):
            load_settings(tmp_path, {"REALM_SKILL_SERVERS": bad})


# --- in the arena -------------------------------------------------------------------------------------------------

def playing(home, monkeypatch, url, **fake):
    """A home whose hero practises the skill of one server."""
    import loop_kit

    home = loop_kit.tiny_home(home, **fake)
    others = ", ".join(f"{skill}: 0.0" for skill in load_profile("pip").skill_priorities)
    hero = loop_kit.HERO.replace("{bin: 1.0}", f'{{{others}, "url:maths": 1.0}}')
    (home.heroes / "tiny.yaml").write_text(hero)
    (home.root / "settings.yaml").write_text(f"default_hero: tiny\nskill_servers: {{maths: '{url}'}}\n")
    monkeypatch.setenv("REALM_HOME", str(home.root))
    return RealmHome(home.root)


def alerts(tables):
    from realm import db

    return [row["payload"] for row in tables.rows(db.events) if row["kind"] == "alert"]


def test_a_hero_practises_a_server_and_a_server_that_goes_down_is_an_alert(home, monkeypatch):
    import loop_kit

    from realm import db

    with serving() as (server, url):
        home = playing(home, monkeypatch, url)
        tables = loop_kit.Tables(home)
        try:
            with loop_kit.running(home):
                loop_kit.wait_for(lambda: tables.quests(db.quests.c.state == "done"), what="a quest of the server")
                quest = tables.quests(db.quests.c.state == "done")[0]
                assert quest["skill"] == "url:maths"
                server.lie = "fails"
                loop_kit.wait_for(lambda: any("out of paper" in alert["why"] for alert in alerts(tables)),
                                  what="an alert that names the server's fault")  # fmt: skip
                assert not any("stumbled" in alert["what"] for alert in alerts(tables))
            trials = [t for t in tables.rows(db.trials) if t["skill"] == "url:maths"]
            assert trials and all(t["n"] > 0 for t in trials)
        finally:
            attach(None)


def test_a_server_that_was_never_there_leaves_the_loop_alive(home, monkeypatch):
    import loop_kit

    home = playing(home, monkeypatch, f"http://127.0.0.1:{closed_port()}")
    tables = loop_kit.Tables(home)
    try:
        with loop_kit.running(home):
            loop_kit.wait_for(lambda: alerts(tables), what="an alert")
            assert not any("stumbled" in str(alert) for alert in alerts(tables))
    finally:
        attach(None)


@pytest.mark.slow
def test_our_own_skill_server_is_a_server_like_any_other():
    import uvicorn

    from realm.guild.skills.server import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(get_skill("bin")), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        skill = RemoteSkill("bin", f"http://127.0.0.1:{port}", call_s=60)
        assert len(skill.table(1)) == 193 == skill.levels()[0].distinct
        trial = skill.generate(3, 40, 2, "trial")
        assert len({p.canonical for p in trial}) == 40
        assert all(get_skill("bin").split_of(p.prompt) == "public" for p in trial), "its own exams stay with it"
        assert all(get_skill("bin").split_of(p.prompt) == "train" for p in skill.generate(3, 40, 2))
        assert skill.grade(trial[0], trial[0].golden).correct
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()

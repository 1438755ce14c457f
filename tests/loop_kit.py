"""Parts for tests of the hero loop: a tiny hero, the stand-in child, a loop in a thread, questions to the tables."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from realm import db
from realm.arena.hero_loop import HeroLoop
from realm.settings import RealmHome

FAKE = Path(__file__).with_name("fake_battle.py")
HERO = """\
extends: pip
name: Tiny
rpg_name: Tiny the Test
training_defaults: {batch_size: 4, save_steps: 100}
idle_generation: {samples: 40}
skill_priorities: {bin: 1.0}
"""


def tiny_home(home: RealmHome, **fake) -> RealmHome:
    """A home whose hero makes idle quests of 10 steps of 4 rows; `fake` tells the stand-in child what to do."""
    (home.heroes / "tiny.yaml").write_text(HERO)
    (home.root / "settings.yaml").write_text("default_hero: tiny\n")
    tell(home, **fake)
    return RealmHome(home.root)


def tell(home: RealmHome, **fake) -> None:
    file = home.run / "fake.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(known | fake))
    temporary.replace(file)


def fake_command(home: RealmHome, worker: str) -> list[str]:
    return [sys.executable, str(FAKE), "--home", str(home.root), "--worker", worker]


@contextmanager
def running(home: RealmHome, **options):
    """The loop in a thread of this process; errors in it fail the test."""
    options.setdefault("child_command", fake_command)
    options.setdefault("inbox_stable_s", 0.0)
    loop = HeroLoop(home, **options)
    raised = []

    def body():
        try:
            loop.run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop.set()
        thread.join(30)
        assert not thread.is_alive(), "the loop did not end"
        if raised:
            raise raised[0]


class Tables:
    """Questions to a home's database."""

    def __init__(self, home: RealmHome) -> None:
        self.engine = db.connect(home)

    def rows(self, table: sa.Table, *where) -> list[dict]:
        order = table.c.t if "t" in table.c and table is not db.events else list(table.primary_key.columns)[0]
        with db.read(self.engine) as connection:
            return [dict(r) for r in connection.execute(sa.select(table).where(*where).order_by(order)).mappings()]

    def events(self, kind: str) -> list[dict]:
        return self.rows(db.events, db.events.c.kind == kind)

    def quests(self, *where) -> list[dict]:
        return sorted(self.rows(db.quests, *where), key=lambda q: q["created_at"])

    def battles(self) -> list[dict]:
        return sorted(self.rows(db.battles), key=lambda b: (b["started_at"], b["id"]))

    def send(self, kind: str, **payload) -> str:
        command_id = db.new_id()
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.commands).values(id=command_id, t=db.now(), kind=kind, payload=payload,
                                                             state="pending"))
        return command_id

    def answer(self, command_id: str, wait_s: float = 20.0) -> dict:
        return wait_for(lambda: next((c for c in self.rows(db.commands, db.commands.c.id == command_id)
                                      if c["state"] != "pending"), None), wait_s, f"answer to {command_id}")

    def do(self, kind: str, **payload) -> dict:
        return self.answer(self.send(kind, **payload))


def wait_for(question, wait_s: float = 60.0, what: str = ""):
    """The first true answer of `question`; fails with `what` after `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        found = question()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"nothing after {wait_s} s: {what or question}")

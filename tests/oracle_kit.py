"""Parts for tests of the Oracle: a home whose ledger holds real checkpoints of a micro hero, and the served app."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import hero_kit
import httpx
import uvicorn

from realm.settings import RealmHome
from realm.vault import checkpoints
from realm.vault.checkpoints import Place

ASK = [{"role": "user", "content": "Compute: add(3, 4)"}]


def checkpoint(home, engine, ids, profile, step: int, noise: float = 0.0, answers: str = "") -> str:
    """A checkpoint of the hero's base weights, shifted by `noise` so that steps differ; returns its id.

    Args:
        answers: make it write this text, whatever it is asked, and then stop.
    """
    import torch

    from realm.heroes.model import Hero, save_model

    hero = Hero.load(profile, hero_kit.born(home, profile))
    with torch.no_grad():
        for k, weight in enumerate(hero.model.parameters()):
            weight += noise * torch.randn(weight.shape, generator=torch.Generator().manual_seed(step + k))
    if answers:
        _teach(hero, answers)
    made = checkpoints.save(
        home, engine, Place(profile.id, ids["campaign_id"], ids["run_id"], step), why="test",
        write_weights=lambda folder: save_model(hero.model, hero.tokenizer, folder), write_resume=lambda folder: {},
        facts={"config": {"hero": profile.model_dump(mode="json")}},
    )  # fmt: skip
    return made.id


def _teach(hero, text: str) -> None:
    """A few steps on one row: a micro hero learns one text by heart in a second."""
    import torch

    from realm.heroes.model import row_tensors

    rows, dropped = hero.render([[*ASK, {"role": "assistant", "content": text}]])
    assert not dropped
    ids, labels = row_tensors(rows[0])
    optimizer = torch.optim.AdamW(hero.model.parameters(), lr=0.01)
    for _ in range(200):
        loss = hero.model(input_ids=ids[None], labels=labels[None]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            return
    raise AssertionError(f"the micro hero did not learn {text!r}: loss {loss.item()}")


def populated(home, engine, **changes) -> SimpleNamespace:
    """Two checkpoints of one campaign, the second current: `first`, `second`, `profile`, `ids`."""
    from realm import db
    from realm.guild import campaigns

    profile = hero_kit.micro_profile(**changes)
    ids = hero_kit.campaign(engine)
    with db.write(engine) as connection:
        campaigns.set_value(connection, campaigns.ACTIVE, ids["campaign_id"])
    first = checkpoint(home, engine, ids, profile, 10, 0.2)
    second = checkpoint(home, engine, ids, profile, 100, 0.3)
    return SimpleNamespace(first=first, second=second, profile=profile, ids=ids)


@contextmanager
def serving(home: RealmHome):
    """The Oracle as `serve` makes it, guard included, on a real server; yields (base address, its Oracle object)."""
    from realm.serve import APPS

    app = APPS["oracle"](home)
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}", app.state.oracle
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive(), "the test server did not stop"


def until(holds, what: str, seconds: float = 30.0):
    """Poll until `holds()` is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = holds()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


def events(response: httpx.Response) -> list:
    """The data of each server-sent event, "[DONE]" as text."""
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]

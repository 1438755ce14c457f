"""The event stream over real HTTP: nothing lost, nothing twice, ticks bounded, slow clients let go."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import pytest
from tavern_kit import STEP_S, Play, fresh_home, served

from realm import db, events
from realm.state import stream
from realm.state.router import create_state_app
from realm.state.stream import hub_of


@pytest.fixture
def home(tmp_path):
    made = fresh_home(tmp_path / "realm")
    yield made
    hub_of(made).close()


@pytest.fixture(autouse=True)
def _many_samples(monkeypatch):
    monkeypatch.setattr(stream, "MACHINE_S", 0.2)


@pytest.fixture
def play(home):
    made = Play(home)
    yield made
    made.close()


class Reader:
    """Collects frames of one stream in a thread until `stop`."""

    def __init__(self, base: str, last: int | None = None, query: str = "") -> None:
        self.frames: list[tuple[int | None, str, dict]] = []
        self.lines: list[str] = []
        self.url = f"{base}/api/stream{query}"
        self.headers = {} if last is None else {"Last-Event-ID": str(last)}
        self._client = httpx.Client(timeout=httpx.Timeout(10, read=30))
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._client.stream("GET", self.url, headers=self.headers) as response:
                self.status, self.type = response.status_code, response.headers.get("content-type")
                event_id, kind = None, ""
                for line in response.iter_lines():
                    if self._stop:
                        return
                    self.lines.append(line)
                    if line.startswith("id: "):
                        event_id = int(line[4:])
                    elif line.startswith("event: "):
                        kind = line[7:]
                    elif line.startswith("data: "):
                        self.frames.append((event_id, kind, json.loads(line[6:])))
                        event_id = None
        except httpx.HTTPError:
            return  # the server or `stop` cut the line; what was read counts

    def wait(self, ready, timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            assert time.monotonic() < deadline, f"not in time; last frames {self.frames[-3:]}"
            time.sleep(0.02)

    def ids(self) -> list[int]:
        return [i for i, kind, _ in self.frames if i is not None and kind != "snapshot"]

    def of(self, kind: str) -> list[dict]:
        return [data for _, k, data in self.frames if k == kind]

    def stop(self) -> None:
        self._stop = True  # seen at the next line: a machine sample at the latest
        self._thread.join(timeout=5)
        self._client.close()


def all_ids(home) -> list[int]:
    engine = db.connect(home)
    with db.read(engine) as connection:
        found = [e.id for e in events.after(connection, 0, 100_000)]
    engine.dispose()
    return found


def test_first_frame_is_the_snapshot_then_events_then_ticks(home, play):
    play.won_battle()
    before = all_ids(home)
    with served(create_state_app(home)) as base:
        reader = Reader(base)
        reader.wait(lambda: reader.frames)
        assert reader.type == "text/event-stream; charset=utf-8"
        assert reader.lines[0] == "retry: 1000"
        event_id, kind, shot = reader.frames[0]
        assert (event_id, kind, shot["event_id"], shot["hero"]["name"]) == (before[-1], "snapshot", before[-1], "PIP")
        reader.wait(lambda: hub_of(home).clients == 1)
        play.arm()
        play.begin()
        play.train(10)
        reader.wait(lambda: reader.of("tick"))
        reader.wait(lambda: reader.of("tick")[-1]["step"] == 10)
        reader.stop()
    assert reader.ids() == [i for i in all_ids(home) if i > before[-1]]
    tick = reader.of("tick")[-1]
    assert set(tick) >= {"seq", "run", "step", "total", "loss", "loss_ema", "lr", "grad_norm", "tok_s", "step_s",
                         "strain", "strain_rate", "floor", "zone", "effort", "hits"}  # fmt: skip
    assert (tick["run"], tick["total"], tick["campaign_step"]) == (play.run, 200, 130)
    assert tick["step_s"] == pytest.approx(STEP_S)
    steps = [hit["step"] for t in reader.of("tick") for hit in t["hits"]]
    assert steps == list(range(121, 131)), "every step is in exactly one tick"
    assert all(event_id is None for event_id, kind, _ in reader.frames if kind in ("tick", "forge"))


def test_no_step_falls_between_snapshot_and_ticks(home, play):
    """Steps are written all the time while clients come: snapshot, `shown` and ticks leave no step untold."""
    play.arm(steps=5000)
    play.begin()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            play.train(2, batch=2)
            time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with served(create_state_app(home)) as base:
            for _ in range(6):
                reader = Reader(base)
                reader.wait(lambda r=reader: len(r.of("tick")) > 2)
                reader.stop()
                reached = reader.of("shown")[0]["at"]
                hits = [hit["step"] for tick in reader.of("tick") for hit in tick["hits"]]
                assert hits == list(range(hits[0], hits[-1] + 1)) and hits[0] <= reached + 1
    finally:
        stop.set()
        writer.join()


def test_effort_of_ticks_is_the_sum_of_strain(home, play):
    play.arm()
    play.begin()
    play.train(20)
    with served(create_state_app(home)) as base:
        reader = Reader(base)
        reader.wait(lambda: hub_of(home).clients == 1)
        time.sleep(0.3)
        play.train(30)
        reader.wait(lambda: reader.of("tick") and reader.of("tick")[-1]["step"] == 50)
        reader.stop()
    assert reader.of("tick")[-1]["effort"] == pytest.approx(play.tracker.effort)
    assert [h["step"] for t in reader.of("tick") for h in t["hits"]][0] == 21, "rows of before are no news"


def test_killed_server_no_gap_no_duplicate(home, play):
    """Events are written all the time, the server dies twice; the joined streams hold every id exactly once."""
    play.arm()
    play.begin()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with db.write(play.engine) as connection:
                events.emit(connection, "alert", f"number {number}", alert_id=str(number), code="test")
            number += 1
            time.sleep(0.004)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    writer = threading.Thread(target=write)
    writer.start()
    got: list[int] = []
    try:
        last = 0
        for _ in range(3):
            with served(create_state_app(home), port) as base:
                reader = Reader(base, last)
                reader.wait(lambda r=reader: len(r.ids()) > 60)
            reader.stop()
            got += reader.ids()
            last = got[-1]
            assert not reader.of("snapshot"), "a client with Last-Event-ID is replayed, not reset"
    finally:
        stop.set()
        writer.join()
    with served(create_state_app(home), port) as base:
        newest = all_ids(home)[-1]
        reader = Reader(base, query=f"?last_event_id={last}")
        reader.wait(lambda: reader.ids() and reader.ids()[-1] == newest)
        reader.stop()
    got += reader.ids()
    assert got == all_ids(home)


def test_replay_has_no_limit(home, play):
    with db.write(play.engine) as connection:
        for number in range(3 * stream.PAGE + 7):
            events.emit(connection, "alert", f"number {number}", alert_id=str(number), code="test")
    with served(create_state_app(home)) as base:
        reader = Reader(base, 0)
        reader.wait(lambda: len(reader.ids()) == len(all_ids(home)))
        reader.stop()
    assert reader.ids() == all_ids(home)


def test_unknown_last_event_id_resets(home, play):
    """A database that was made anew knows fewer events than the client: reset, then a snapshot."""
    with served(create_state_app(home)) as base:
        reader = Reader(base, 10_000)
        reader.wait(lambda: reader.of("snapshot"))
        reader.stop()
        assert [kind for _, kind, _ in reader.frames[:2]] == ["reset", "snapshot"]
        assert httpx.get(f"{base}/api/stream", headers={"Last-Event-ID": "x"}).status_code == 422


def test_pruned_events_reset(home, play):
    play.won_battle()
    with db.write(play.engine) as connection:
        connection.execute(db.events.delete().where(db.events.c.id <= 5))
    with served(create_state_app(home)) as base:
        reader = Reader(base, 2)
        reader.wait(lambda: reader.of("snapshot"))
        reader.stop()
        assert reader.frames[0][1] == "reset"
        resumed = Reader(base, 5)
        resumed.wait(lambda: resumed.ids())
        resumed.stop()
        assert resumed.ids()[0] == 6 and not resumed.of("reset")


def test_at_most_ten_ticks_a_second_whatever_the_step_rate(home, play):
    play.arm(steps=5000)
    play.begin()
    with served(create_state_app(home)) as base:
        reader = Reader(base)
        reader.wait(lambda: hub_of(home).clients == 1)
        begun = time.monotonic()
        while time.monotonic() - begun < 1.5:
            play.train(20, batch=20)
        seconds = time.monotonic() - begun
        reader.wait(lambda: reader.of("tick") and reader.of("tick")[-1]["campaign_step"] == play.step)
        reader.stop()
    ticks = reader.of("tick")
    assert len(ticks) <= 10 * (seconds + 0.5) + 1
    assert all(len(tick["hits"]) <= stream.MAX_HITS for tick in ticks)
    assert [tick["seq"] for tick in ticks] == list(range(ticks[0]["seq"], ticks[0]["seq"] + len(ticks)))


def test_hits_keep_the_extremes():
    rows = [{"step": i, "loss": 1.0, "loss_ema": 1.0} for i in range(1000)]
    rows[500]["loss"], rows[700]["loss"] = 9.0, 0.01
    found = stream.hits(rows, {700})
    assert len(found) <= stream.MAX_HITS
    assert {9.0, 0.01} <= {hit["loss"] for hit in found}
    assert [h["step"] for h in found if h["crit"]] == [700]
    assert [h["step"] for h in found] == sorted(h["step"] for h in found)


def test_critical_hits_are_the_childs_word(home, play):
    play.arm(steps=400)
    play.begin()
    play.train(150, loss=0.5, batch=50)
    with served(create_state_app(home)) as base:
        reader = Reader(base)
        reader.wait(lambda: hub_of(home).clients == 1)
        time.sleep(0.3)
        play.train(1, loss=0.01)
        reader.wait(lambda: reader.of("tick") and reader.of("crit"))
        reader.stop()
    assert [h["crit"] for t in reader.of("tick") for h in t["hits"]] == [True]


def test_a_pause_that_was_asked_for_is_shown_before_it_is_done(home, play):
    """The arena sets `desired` without an event of its own; the page must still hear that the step is awaited."""
    play.arm()
    play.begin()
    with served(create_state_app(home)) as base:
        reader = Reader(base)
        reader.wait(lambda: hub_of(home).clients == 1)
        time.sleep(0.3)
        play.desire("pause")
        reader.wait(lambda: len(reader.of("shown")) == 2)
        play.enter("paused")
        reader.wait(lambda: len(reader.of("shown")) == 3)
        reader.stop()
    told = [{"battle": play.battle, "state": state, "at": 0} for state in ("training", "pausing", "paused")]
    assert reader.of("shown") == told
    assert all(event_id is None for event_id, kind, _ in reader.frames if kind == "shown")


def test_one_thread_for_all_clients_and_none_without(home, play):
    hub = hub_of(home)
    with served(create_state_app(home)) as base:
        readers = [Reader(base) for _ in range(4)]
        for reader in readers:
            reader.wait(lambda r=reader: r.frames)
        readers[0].wait(lambda: hub.clients == 4)
        assert sum(t.name == "realm-tail" for t in threading.enumerate()) == 1
        for reader in readers:
            reader.stop()
        readers[0].wait(lambda: hub.clients == 0)
        readers[0].wait(lambda: not any(t.name == "realm-tail" for t in threading.enumerate()))


def test_a_client_that_does_not_read_is_dropped(home, play, monkeypatch):
    monkeypatch.setattr(stream, "QUEUE_FRAMES", 120)
    monkeypatch.setattr(stream, "GRACE_S", 0.2)
    hub = hub_of(home)
    with served(create_state_app(home)) as base:
        port = int(base.rsplit(":", 1)[1])
        deaf = socket.create_connection(("127.0.0.1", port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        good = Reader(base)
        good.wait(lambda: hub.clients == 2)
        text = "x" * 60_000
        for number in range(300):  # 18 MB: far more than sockets and queue hold
            with db.write(play.engine) as connection:
                events.emit(connection, "alert", text, alert_id=str(number), code="test")
            time.sleep(0.005)  # a client that reads keeps up with this
        good.wait(lambda: hub.clients == 1, 20)
        good.wait(lambda: len(good.of("alert")) == 300, 20)
        deaf.close()
        good.stop()


def test_keep_alive_comment(home, play, monkeypatch):
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.1)
    monkeypatch.setattr(stream, "MACHINE_S", 60.0)
    with served(create_state_app(home)) as base:
        reader = Reader(base)
        reader.wait(lambda: ": keep-alive" in reader.lines)
        reader.stop()


def test_hub_may_be_closed_and_used_again(home, play):
    hub = hub_of(home)
    for _ in range(2):
        with served(create_state_app(home)) as base:
            reader = Reader(base)
            reader.wait(lambda r=reader: r.frames and hub.clients == 1)
            hub.close()
            reader.wait(lambda: hub.clients == 0)
            reader.stop()

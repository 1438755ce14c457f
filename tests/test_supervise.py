"""start-all and stop-all against the real supervisor, real sockets and real signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import psutil
import pytest
from filelock import FileLock
from live import LiveRealm

from realm import doctor, services, supervise


@pytest.fixture
def live():
    made = LiveRealm()
    yield made
    made.close()


def test_start_status_second_start_and_stop(live):
    begun = live.cli("start-all", "--no-arena")
    assert f":{live.ports['tavern']}" in begun.stdout and str(live.home.inbox) in begun.stdout
    assert live.snapshot("state") == live.snapshot("tavern")
    assert live.get("bin", "/health")["status"] == "ok"
    status = live.status()
    assert status["services"] == {"oracle": "RUNNING", "realm": "RUNNING"} and status["inbox"] == str(live.home.inbox)
    before = {p.pid for p in live.processes()}
    again = live.cli("start-all", "--no-arena")
    assert "already runs" in again.stdout and "stop-all" in again.stdout
    assert {p.pid for p in live.processes()} == before
    live.cli("stop-all")
    assert live.processes() == []
    assert [name for name in live.ports if live.port_open(name)] == []
    assert "nothing was running" in live.cli("stop-all").stdout


def test_a_taken_port_is_named_and_nothing_starts(live):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", live.ports["bin"]))
        holder.listen()
        done = live.cli("start-all", "--no-arena", check=False)
    assert done.returncode == 1
    assert str(live.ports["bin"]) in done.stderr and "port_bin" in done.stderr
    assert live.processes() == []


def test_killed_supervisor_leaves_no_second_realm(live):
    """The supervisor is killed: the realm process lives on; start-all ends it and starts a supervised one."""
    live.cli("start-all", "--no-arena")
    services.noted(live.home, "supervisor").send_signal(signal.SIGKILL)
    orphan = services.noted(live.home, "realm")
    assert orphan is not None
    live.cli("start-all", "--no-arena")
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    assert live.status()["services"] == {"oracle": "RUNNING", "realm": "RUNNING"}


def test_a_dead_service_is_restarted(live):
    live.cli("start-all", "--no-arena")
    first = services.noted(live.home, "realm")
    first.kill()
    live.wait("a new realm process answers", lambda: services.noted(live.home, "realm") not in (None, first)
              and live.port_open("tavern"), timeout=20)  # fmt: skip
    assert live.get("tavern", "/api/state")["battle"]["state"] == "idle"


def test_stop_all_never_signals_a_stranger(live):
    """A note with the id of somebody else's process, as after a reboot, is not acted upon."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        live.home.create()
        note = {"pid": stranger.pid, "started": psutil.Process(stranger.pid).create_time() - 3600}
        for name in (*services.PROCESSES, "supervisor"):
            (live.home.run / f"{name}.json").write_text(json.dumps(note))
        live.cli("stop-all")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_stop_all_ends_the_battle_of_a_killed_arena(live):
    """Supervisor and arena are gone, the child is in a long step and knows nothing of it."""
    live.home.create()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        note = {"pid": child.pid, "started": psutil.Process(child.pid).create_time(), "worker": "w"}
        (live.home.run / "battle-child.json").write_text(json.dumps(note))
        assert "battle" in supervise.stop_all(live.home)
        assert not psutil.pid_exists(child.pid) or child.poll() is not None
    finally:
        child.kill()
        child.wait()


def rest(live) -> None:
    """A realm whose arena, once started, does not train."""
    live.cli("doctor", "--fix", check=False)
    live.cli("battle", "stop")


def test_what_was_begun_by_hand_is_left_alone(live):
    """A second arena takes no note, start-all refuses to be one, stop-all does not end the first."""
    rest(live)
    by_hand = subprocess.Popen([sys.executable, "-m", "training", "serve", "arena"], env=live.environ,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        noted = live.wait("the arena has its lock", lambda: services.noted(live.home, "arena"))
        assert noted.pid == by_hand.pid
        second = live.cli("serve", "arena", check=False)
        assert second.returncode == 1 and f"pid {by_hand.pid}" in second.stderr
        assert services.noted(live.home, "arena") == noted, "the second one must not take the first one's note"
        refused = live.cli("start-all", check=False)
        assert refused.returncode == 1 and f"pid {by_hand.pid}" in refused.stderr and "--no-arena" in refused.stderr
        live.cli("start-all", "--no-arena")
        again = live.cli("serve", "tavern", "state", check=False)
        assert again.returncode == 1 and "port_tavern" in again.stderr
        assert services.noted_as_supervised(live.home, "realm") and live.port_open("tavern")
        live.cli("stop-all")
        assert by_hand.poll() is None and services.noted(live.home, "arena") == noted
    finally:
        by_hand.terminate()
        by_hand.wait(30)
    assert live.processes() == []


def test_doctor_names_a_dead_arena_and_start_all_revives_it(live):
    def states() -> dict[str, str]:
        return {state.name: state.state for state in supervise.process_states(live.home)}

    rest(live)
    live.cli("start-all", "--no-arena")
    with FileLock(live.home.run / "arena.lock"):
        added = live.cli("start-all")
        assert "started again: arena" in added.stdout
        # Its lock is held here, so it gives up at once, again and again.
        live.wait("the arena fails", lambda: states()["arena"] == "BACKOFF")
        row = next(row for row in doctor.examine(live.home) if row.name == "Services")
        assert row.status == "fail" and "arena backoff" in row.found and "arena.log" in row.fix
        with supervise._rpc(live.home) as rpc:
            rpc.stopProcess("arena")
    assert "started again: arena" in live.cli("start-all").stdout
    live.wait("the arena lives", lambda: states() == {"arena": "RUNNING", "oracle": "RUNNING", "realm": "RUNNING"})
    assert "nothing was started" in live.cli("start-all").stdout


def test_beyond_loopback_every_service_asks_for_the_token():
    """127.0.0.2 is not one of the names that need no token, and still only this machine's."""
    made = LiveRealm(REALM_HOST="127.0.0.2", REALM_TOKEN="ein Schlüssel")
    try:
        begun = made.cli("start-all", "--no-arena")
        assert "?token=" in begun.stdout and "Schlüssel" not in begun.stdout
        for service, path in (("tavern", "/"), ("state", "/api/state"), ("sy", "/health"), ("bin", "/health"),
                              ("oracle", "/v1/models")):  # fmt: skip
            url = f"http://127.0.0.2:{made.ports[service]}{path}"
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(url, timeout=10)
            assert refused.value.code == 401, service
            with urllib.request.urlopen(f"{url}?token=ein%20Schl%C3%BCssel", timeout=10) as answer:
                assert answer.status == 200, service
    finally:
        made.close()


def test_a_home_with_a_percent_sign():
    made = LiveRealm("r%(x)s%")
    try:
        made.cli("start-all", "--no-arena")
        assert made.status()["services"] == {"oracle": "RUNNING", "realm": "RUNNING"}
    finally:
        made.close()


def test_a_home_with_too_long_a_path_is_refused(live, tmp_path):
    deep = tmp_path / ("d" * 90)
    live.environ["REALM_HOME"] = str(deep)
    done = live.cli("start-all", "--no-arena", check=False)
    live.environ["REALM_HOME"] = str(live.root)
    assert done.returncode == 1 and "shorter REALM_HOME" in done.stderr

"""start-all and stop-all against the real supervisor, real sockets and real signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import psutil
import pytest
from live import LiveRealm

from realm import services


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
    assert status["services"] == {"realm": "RUNNING"} and status["inbox"] == str(live.home.inbox)
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
    assert live.status()["services"] == {"realm": "RUNNING"}


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


def test_a_home_with_too_long_a_path_is_refused(live, tmp_path):
    deep = tmp_path / ("d" * 90)
    live.environ["REALM_HOME"] = str(deep)
    done = live.cli("start-all", "--no-arena", check=False)
    live.environ["REALM_HOME"] = str(live.root)
    assert done.returncode == 1 and "shorter REALM_HOME" in done.stderr

"""Starts and stops everything through the `supervisor` package: `training start-all` and `training stop-all`.

The supervisor gets a generated configuration and a unix socket in `$REALM_HOME/run`; it restarts what dies. Nothing is
ended that it did not start: processes are found by notes that hold id and start time (`realm.services`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import xmlrpc.client
from dataclasses import dataclass
from urllib.parse import quote

from realm import db, services
from realm.settings import RealmHome

STOP_WAIT_S = 60  # the arena asks its battle to save a checkpoint before it ends
SOCKET_PATH_LIMIT = 100  # Linux allows 108 bytes for a unix socket path, macOS 104; supervisor adds a suffix at start

CONFIG = """\
[unix_http_server]
file={run}/supervisor.sock
chmod=0700

[supervisord]
logfile={logs}/supervisor.log
logfile_maxbytes=5MB
logfile_backups=2
pidfile={run}/supervisord.pid
childlogdir={logs}
nodaemon=false
minfds=1024

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{run}/supervisor.sock
"""

PROGRAM = """
[program:{name}]
command={command}
directory={root}
environment={environment}
autostart=true
autorestart=true
startsecs={start_s}
startretries=5
stopsignal=TERM
stopwaitsecs={stop_wait}
killasgroup=true
redirect_stderr=true
stdout_logfile={logs_twice}/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""


# Seconds that a process must live before it counts as begun. The arena's imports take one on a busy machine; did they
# count as running, an arena that fails at once would be started for ever and never called broken.
START_S = {"realm": 1, "oracle": 1, "arena": 4}
# The supervisor's words for a process that it does not (or not yet) bring back by itself.
DEAD = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")
TROUBLED = ("BACKOFF", *DEAD)


class StartError(RuntimeError):
    """start-all or stop-all could not do its work; the message names the value and the next action."""


@dataclass(frozen=True)
class ProcessState:
    """One supervised process: `state` is the supervisor's word (RUNNING, STARTING, BACKOFF, FATAL, STOPPED, …)."""

    name: str
    state: str
    pid: int
    detail: str


def _quote(value: str) -> str:
    """A value inside supervisor's `environment=`: percent signs are doubled, quotes cannot occur."""
    if '"' in value or "\n" in value:
        raise StartError(f"{value!r} holds a quote or line break, which the supervisor's configuration cannot carry; "
                         "use a realm home without them")  # fmt: skip
    return '"' + value.replace("%", "%%") + '"'


def write_config(home: RealmHome, arena: bool = True) -> str:
    """Write `run/supervisord.conf` for this home and return its path."""
    socket_path = str(home.run / "supervisor.sock")
    if len(os.fsencode(socket_path)) > SOCKET_PATH_LIMIT:
        raise StartError(
            f"{socket_path} is {len(os.fsencode(socket_path))} bytes long, unix sockets take at most "
            f"{SOCKET_PATH_LIMIT}; choose a shorter REALM_HOME"
        )
    environment = {
        "REALM_HOME": str(home.root),
        # Two OpenMP threads beside a busy process run 20-100 times slower (notes: feasibility C); each worker sets its
        # own thread count, and waiting threads must sleep.
        "OMP_WAIT_POLICY": "passive",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        services.SUPERVISED: "1",
    }
    commands = {process: ["serve", *(s.name for s in services.SERVICES if s.process == process)]
                for process in services.PROCESSES if process != "arena"}  # fmt: skip
    if arena:
        commands["arena"] = ["serve", "arena"]
    text = CONFIG.format(run=_escape(home.run), logs=_escape(home.logs))
    for name, words in commands.items():
        command = " ".join(_word(word) for word in [sys.executable, "-m", "training", *words])
        text += PROGRAM.format(
            name=name, command=command, root=_escape(home.root), stop_wait=STOP_WAIT_S, start_s=START_S[name],
            logs_twice=_escape(_escape(home.logs)),  # the supervisor expands this one option a second time
            environment=",".join(f"{key}={_quote(value)}" for key, value in environment.items()),
        )  # fmt: skip
    path = home.run / "supervisord.conf"
    path.write_text(text, encoding="utf-8")
    return str(path)


def _escape(path) -> str:
    return str(path).replace("%", "%%")


def _word(word: str) -> str:
    word = word.replace("%", "%%")
    return f'"{word}"' if " " in word else word


@contextlib.contextmanager
def _rpc(home: RealmHome):
    from supervisor.xmlrpc import SupervisorTransport

    transport = SupervisorTransport(None, None, f"unix://{home.run / 'supervisor.sock'}")
    try:
        yield xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor
    finally:
        transport.close()


def process_states(home: RealmHome) -> list[ProcessState] | None:
    """What the supervisor of this home says, or None when it does not run."""
    if services.noted(home, "supervisor") is None:
        return None
    try:
        with _rpc(home) as rpc:
            return [
                ProcessState(info["name"], info["statename"], info["pid"], info["description"] or info["spawnerr"])
                for info in rpc.getAllProcessInfo()
            ]
    except (OSError, xmlrpc.client.Error):
        # It lives but does not answer yet (starting) or any more (shutting down).
        return []


def start_all(home: RealmHome, arena: bool = True) -> list[str]:
    """Start every process of the realm that does not run; returns the names of what was started now.

    Raises:
        StartError: a port is taken, another start-all is under way, or a process does not come up.
    """
    home.create()
    wanted = tuple(name for name in services.PROCESSES if arena or name != "arena")
    with _one_at_a_time(home):
        if arena:
            _refuse_second_arena(home)
        states = process_states(home)
        if states is not None:
            return _revive(home, states, wanted)
        end_leftovers(home)
        db.migrate(home)
        taken = services.taken_ports(home.settings)
        if taken:
            raise StartError("\n".join(message for _service, _port, message in taken))
        _launch(home, arena)
    return ["supervisor", *wanted]


def _refuse_second_arena(home: RealmHome) -> None:
    process = services.noted(home, "arena")
    if process is not None and not services.noted_as_supervised(home, "arena"):
        raise StartError(f"a hero loop already runs for {home.root} (pid {process.pid}), begun by hand; end it there "
                         "(Ctrl-C), or leave it and give start-all --no-arena")  # fmt: skip


def _revive(home: RealmHome, states: list[ProcessState], wanted: tuple[str, ...]) -> list[str]:
    """The supervisor lives: start again what it gave up, and add what an earlier start-all left out."""
    if not states:
        return []  # it is starting or shutting down; it says nothing about its processes yet
    known = {state.name: state.state for state in states}
    dead = [name for name in wanted if known.get(name) in DEAD]
    missing = [name for name in wanted if name not in known]
    if not dead and not missing:
        return []
    db.migrate(home)
    if missing:
        write_config(home, arena="arena" in wanted or "arena" in known)
    with _rpc(home) as rpc:
        for name in dead:
            rpc.startProcess(name, False)
        if missing:
            rpc.reloadConfig()
        for name in missing:
            rpc.addProcessGroup(name)
    return [*dead, *missing]


@contextlib.contextmanager
def _one_at_a_time(home: RealmHome):
    from filelock import FileLock, Timeout  # here, since `status` has half a second and needs no lock

    lock = FileLock(home.run / "start.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StartError(f"another start-all or stop-all is at work on {home.root} ({lock.lock_file}); "
                         "wait until it ends, then repeat") from error  # fmt: skip
    try:
        yield
    finally:
        lock.release()


def _launch(home: RealmHome, arena: bool) -> None:
    config = write_config(home, arena)
    (home.run / "supervisord.pid").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", config],
        cwd=home.root, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise StartError(f"the supervisor did not start: {done.stderr or done.stdout}; see {home.logs}/supervisor.log")
    pid_file = home.run / "supervisord.pid"
    deadline = time.monotonic() + 10
    while not (pid_file.exists() and pid_file.read_text().strip()):
        if time.monotonic() > deadline:
            raise StartError(f"the supervisor wrote no {pid_file} within 10 s; see {home.logs}/supervisor.log")
        time.sleep(0.02)
    services.leave_note(home, "supervisor", int(pid_file.read_text()))


def wait_until_answering(home: RealmHome, timeout_s: float = 30.0) -> float:
    """Seconds until the Tavern answers `/api/state`.

    Raises:
        StartError: it did not answer in time, or a process gave up; the message shows the end of its log.
    """
    import http.client

    begun = time.monotonic()
    host = services.reachable_host(home.settings)
    # In the address: a header takes Latin-1 only, a token may hold anything.
    path = "/api/state" + (f"?token={quote(home.settings.token)}" if home.settings.token else "")
    while True:
        connection = http.client.HTTPConnection(host, home.settings.port("tavern"), timeout=2)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return time.monotonic() - begun
        except OSError:
            # Not listening yet: asked again until the deadline below.
            pass
        finally:
            connection.close()
        fatal = [state for state in process_states(home) or [] if state.state == "FATAL"]
        if fatal or time.monotonic() - begun > timeout_s:
            names = ", ".join(f"{s.name}: {s.detail}" for s in fatal) or f"no answer within {timeout_s:.0f} s"
            raise StartError(f"the Tavern does not answer ({names}); end of {home.logs}/realm.log:\n"
                             + log_tail(home, "realm"))  # fmt: skip
        time.sleep(0.05)


def log_tail(home: RealmHome, name: str, lines: int = 15) -> str:
    """The last lines of a process's log."""
    path = home.logs / f"{name}.log"
    if not path.exists():
        return "(no log yet)"
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 16_000))
        return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])


def stop_all(home: RealmHome) -> list[str]:
    """End what start-all started, and only that; returns what was ended. Waits until every process is gone.

    Raises:
        StartError: a process is still there after the longest time a battle may need to save itself.
    """
    if not home.run.is_dir():
        return []
    with _one_at_a_time(home):
        return _stop(home)


def _stop(home: RealmHome) -> list[str]:
    import psutil

    ended = []
    supervisor = services.noted(home, "supervisor")
    if supervisor is not None:
        family = [supervisor, *supervisor.children(recursive=True)]
        try:
            with _rpc(home) as rpc:
                rpc.shutdown()
        except (OSError, xmlrpc.client.Error):
            # Its socket is gone but it lives: the signal means the same to it.
            supervisor.terminate()
        ended = ["supervisor", *services.PROCESSES]
        _gone, alive = psutil.wait_procs(family, timeout=STOP_WAIT_S + 10)
        if alive:
            raise StartError(f"still running after {STOP_WAIT_S + 10} s: "
                             f"{', '.join(f'{p.name()} (pid {p.pid})' for p in alive)}; see {home.logs}")  # fmt: skip
    ended += [name for name in end_leftovers(home) if name not in ended]
    for file in ("supervisor.sock", "supervisord.pid", "supervisor.json"):
        (home.run / file).unlink(missing_ok=True)
    return ended


def end_leftovers(home: RealmHome) -> list[str]:
    """End realm processes that outlived their supervisor (it was killed), battle included; returns their names.

    What a person began in a terminal (`serve arena`) is left alone, note and battle child too.
    """
    import psutil

    ended = []
    for name in services.PROCESSES:
        process = services.noted(home, name)
        if process is not None and not services.noted_as_supervised(home, name):
            continue
        if process is not None:
            family = [process, *process.children(recursive=True)]
            process.terminate()
            _gone, alive = psutil.wait_procs(family, timeout=STOP_WAIT_S)
            for stubborn in alive:
                stubborn.kill()
            psutil.wait_procs(alive, timeout=5)
            ended.append(name)
        (home.run / f"{name}.json").unlink(missing_ok=True)
    from realm.arena.child import end_leftover

    if services.noted(home, "arena") is None and end_leftover(home, STOP_WAIT_S) is not None:
        # The arena was killed while its child was inside a long step: it would notice only at that step's end.
        ended.append("battle")
    return ended

"""The service table: which services exist, on which port, what they are for, and which process carries them.

Also the notes that running processes leave in `$REALM_HOME/run`, so that nothing is ever signalled that the realm did
not start: a note counts only while a process with that id *and* that start time lives, and it says whether start-all
began it or a person did in a terminal.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass

from realm.settings import RealmHome, Settings, SettingsError


@dataclass(frozen=True)
class Service:
    """One network service. `name` is what `training serve NAME` takes; its port is the setting `port_<name>`."""

    name: str
    title: str
    purpose: str
    process: str


SERVICES = (
    Service("tavern", "Tavern", "web pages", "realm"),
    Service("vault", "VaultKeeper", "checkpoints: zones, retention, export", "realm"),
    Service("state", "RealmState", "live state and event stream", "realm"),
    Service("sy", "Skill SY", "word puzzles from syllable tiles and grading", "realm"),
    Service("bin", "Skill BIN", "binary arithmetic problems and grading", "realm"),
    Service("oracle", "Oracle", "answers of checkpoints, OpenAI's interface", "oracle"),
)
PROCESSES = ("realm", "oracle", "arena")
SUPERVISED = "REALM_SUPERVISED"  # set in the environment of what start-all starts, and of nothing else


WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def by_name(name: str) -> Service:
    """Raises KeyError with the known names."""
    for service in SERVICES:
        if service.name == name:
            return service
    raise KeyError(f"no service {name!r}; known: {', '.join(s.name for s in SERVICES)}")


def url(settings: Settings, name: str) -> str:
    """Address a person opens: loopback is written as `localhost`."""
    host = "localhost" if settings.host in ("127.0.0.1", "::1", *WILDCARDS) else settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port(name)}"


def reachable_host(settings: Settings) -> str:
    """Where this machine itself finds the services: a wildcard is an address to listen on, not one to ask."""
    return WILDCARDS.get(settings.host, settings.host)


def family(host: str) -> socket.AddressFamily:
    """IPv4 where the host has it, else IPv6; the same for the probe of a port and for the service that takes it.

    Raises:
        SettingsError: the host has no address.
    """
    try:
        found = {entry[0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise SettingsError(f"host = {host!r} has no address ({error.strerror or error}); set `host: 127.0.0.1` in "
                            "settings.yaml, or another address of this machine") from error  # fmt: skip
    return socket.AF_INET if socket.AF_INET in found else socket.AF_INET6


def port_message(service: Service, port: int, reason: str) -> str:
    """What to say when a port cannot be bound."""
    holder = _holder(port)
    return (
        f"port {port} for {service.title} ({service.name}) cannot be used: {reason}{holder}; end that program, or set "
        f"`port_{service.name}: <free port>` in settings.yaml (or REALM_PORT_{service.name.upper()}) and start again"
    )


def _holder(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is None:
                    return ""
                return f" (held by {psutil.Process(connection.pid).name()}, pid {connection.pid})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        # Another user's socket, or it ended meanwhile: the port is still named, only its holder is not.
        return ""
    return ""


def taken_ports(settings: Settings) -> list[tuple[Service, int, str]]:
    """Services whose port cannot be bound now: (service, port, message). SettingsError when `host` has no address."""
    found, kind = [], family(settings.host)
    for service in SERVICES:
        port = settings.port(service.name)
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            # uvicorn sets SO_REUSEADDR too: without it a port in TIME_WAIT would look taken after stop-all.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                found.append((service, port, port_message(service, port, error.strerror or str(error))))
    return found


def leave_note(home: RealmHome, name: str, pid: int | None = None) -> None:
    """Write `run/<name>.json` with process id and start time; called by each long-running process once it holds what
    makes it the only one (its lock, its ports)."""
    import psutil

    mine = pid is None or pid == os.getpid()
    pid = os.getpid() if pid is None else pid
    note = {"pid": pid, "started": psutil.Process(pid).create_time(), "supervised": mine and supervised()}
    path = home.run / f"{name}.json"
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(note), encoding="utf-8")
    temporary.replace(path)


def supervised() -> bool:
    """Whether the supervisor of start-all began this process."""
    return os.environ.get(SUPERVISED) == "1"


def noted_as_supervised(home: RealmHome, name: str) -> bool:
    """Whether the note of that name says that start-all began its process."""
    path = home.run / f"{name}.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("supervised") is True


def noted(home: RealmHome, name: str):
    """`psutil.Process` of a note whose process still lives with the same start time, else None."""
    import psutil

    path = home.run / f"{name}.json"
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        process = psutil.Process(note["pid"])
        # create_time is read from the boot clock; a second apart is another process with a recycled id.
        alive = abs(process.create_time() - note["started"]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process if alive else None

"""The service table: which services exist, on which port, and what they are for. One list for CLI, doctor and pages."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from realm.settings import Settings


@dataclass(frozen=True)
class Service:
    """One network service. `name` is what `training serve NAME` takes and `port_<name>` its setting."""

    name: str
    title: str
    purpose: str
    process: str  # the supervised process that carries it


SERVICES = (
    Service("tavern", "Tavern", "web pages", "realm"),
    Service("state", "RealmState", "live state and event stream", "realm"),
    Service("bin", "Skill BIN", "binary arithmetic problems and grading", "realm"),
)
PROCESSES = ("realm", "arena")


def by_name(name: str) -> Service:
    """Raises KeyError with the known names."""
    for service in SERVICES:
        if service.name == name:
            return service
    raise KeyError(f"no service {name!r}; known: {', '.join(s.name for s in SERVICES)}")


def taken_ports(settings: Settings) -> list[tuple[Service, int, str]]:
    """Services whose port cannot be bound now: (service, port, reason). Port 0 means "any" and is never taken."""
    found = []
    for service in SERVICES:
        port = settings.port(service.name)
        if port == 0:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # uvicorn sets SO_REUSEADDR too: without it a port in TIME_WAIT would look taken after stop-all.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                found.append((service, port, error.strerror or str(error)))
    return found

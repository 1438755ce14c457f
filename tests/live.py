"""A realm run for real by tests: its own short home, free ports, commands through `python3 -m training`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from realm import services
from realm.settings import RealmHome


def free_ports(count: int) -> list[int]:
    """Ports that nobody holds now (all held at once while choosing, so they differ)."""
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class LiveRealm:
    """Start with `cli("start-all")`; `close` ends whatever is left of this realm and deletes its home."""

    def __init__(self, prefix: str = "rl", **environ: str) -> None:
        # Short on purpose: unix socket paths are limited to about 100 bytes.
        self.root = Path(tempfile.mkdtemp(prefix=prefix))
        names = [service.name for service in services.SERVICES]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.environ = {**os.environ, **environ, "REALM_HOME": str(self.root), "OMP_NUM_THREADS": "1",
                        **{f"REALM_PORT_{n.upper()}": str(p) for n, p in self.ports.items()}}  # fmt: skip
        self.home = RealmHome(self.root, self.environ)

    def cli(self, *words: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run([sys.executable, "-m", "training", *words], env=self.environ, capture_output=True,
                              text=True, timeout=timeout, stdin=subprocess.DEVNULL)  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"training {' '.join(words)} -> {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def url(self, service: str, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.ports[service]}{path}"

    def snapshot(self, service: str) -> dict:
        """`/api/state` of a service without what differs from one reading to the next (its time, GPU samples)."""
        return {key: value for key, value in self.get(service, "/api/state").items() if key not in ("t", "gpu")}

    def get(self, service: str, path: str) -> dict:
        with urllib.request.urlopen(self.url(service, path), timeout=10) as answer:
            return json.load(answer)

    def status(self) -> dict:
        return json.loads(self.cli("status", "--json").stdout)

    def processes(self) -> list[psutil.Process]:
        """Every living process with this home in its environment, found without the realm's own notes."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("REALM_HOME") == str(self.root)
                if mine and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue  # gone meanwhile, or not ours
        return found

    def wait(self, what: str, ready, timeout: float = 60.0, every: float = 0.1):
        """Poll `ready()` until it returns something true; the failure names `what` and shows the logs' ends."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            value = ready()
            if value:
                return value
            time.sleep(every)
        logs = "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-3000:]}" for p in self.root.glob("logs/*.log"))
        raise AssertionError(f"not within {timeout} s: {what}\n{logs}")

    def port_open(self, name: str) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports[name])) == 0

    def close(self) -> None:
        self.cli("stop-all", check=False)
        for process in self.processes():
            process.kill()
        shutil.rmtree(self.root, ignore_errors=True)

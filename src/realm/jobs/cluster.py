"""More machines: the arena's runner for a Ray cluster, the link process that speaks to it, and the worker's command.

    python3 -m training jobs worker --head                                  # a head on this machine, itself a worker
    python3 -m training jobs worker --address HOST:6379 --schools inference # on another machine

A task is a pure function of its payload (`perform_away`): checkpoints come by id, compared with their hashes, and
results go back as bytes. Ray's driver may end its whole process when the cluster goes away, so it lives in a link
process of its own (`python -m realm.jobs.cluster`), which takes and tells lines of JSON; the arena never imports ray.
Ray runs every task at most once here (`max_retries=0`): attempts are counted in the job table and nowhere else.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import realm
from realm import services
from realm.arena.child import ENVIRONMENT
from realm.guild.skills import attach
from realm.jobs import kinds
from realm.jobs.bench import Bench, Task, failed, perform
from realm.jobs.depot import Depot, HomeDepot, WebDepot
from realm.jobs.local import Ended, folder_of
from realm.settings import RealmHome, Settings, realm_home

log = logging.getLogger("realm.jobs")

AGAIN_S = 5.0  # before a link that ended is begun again
NODES_S = 2.0  # between two looks at the cluster's machines
GONE_S = 3600.0  # so long a machine that went away is still shown
WAIT_S = 0.05
CLOSE_S = 5.0
FILES_MAX = 512 << 20  # bytes of result files that travel through the cluster


# --- the arena's side ----------------------------------------------------------------------------------------------

class RayRunner:
    """Works jobs on a cluster, through a link process that is begun again when it ends.

    Args:
        names: the kinds that it takes.
        address: host:port of the Ray head.
    """

    name = "cluster"

    def __init__(self, home: RealmHome, names: frozenset[str], wake: threading.Event, address: str) -> None:
        self.home, self.names, self.address = home, names, address
        self._wake = wake
        self._tasks: dict[str, Task] = {}
        self._heard: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._nodes: list[dict[str, Any]] = []
        self._link: subprocess.Popen | None = None
        self._not_before = 0.0

    def room(self) -> list[tuple[frozenset[str], int]]:
        """Of each school: its places on machines that live, less what runs."""
        places = Counter()
        for node in self._nodes:
            if node["alive"]:
                places.update(node["slots_of"])
        busy = Counter(kinds.KINDS[task.kind].school for task in self._tasks.values())
        return [(frozenset(n for n in self.names if kinds.KINDS[n].school == school), places[school] - busy[school])
                for school in kinds.SCHOOLS]  # fmt: skip

    def start(self, task: Task) -> None:
        folder = folder_of(self.home, task)
        folder.mkdir(parents=True)
        self._tasks[task.token] = task
        self._say({"do": "start", "task": task.to_dict(), "folder": str(folder)})

    def ended(self) -> list[Ended]:
        """Attempts that ended; those of a link that is gone are lost."""
        found: list[Ended] = []
        while not self._heard.empty():
            told = self._heard.get()
            if told is None:
                found += self._link_gone()
            elif "nodes" in told:
                self._nodes = told["nodes"]
            elif (task := self._tasks.pop(told["token"], None)) is not None:
                found.append((task, told["outcome"]))
        if self._link is None and time.monotonic() >= self._not_before:
            self._begin()
        return found

    def kill(self, token: str) -> None:
        if self._tasks.pop(token, None) is not None:
            self._say({"do": "kill", "token": token})

    def workers(self) -> list[dict[str, Any]]:
        """The cluster's machines: name, schools, slots, alive; of one that is gone also when it was last seen."""
        gone = {node["name"]: {"seen": node["seen"]} for node in self._nodes if not node["alive"]}
        return [{"name": node["name"], "schools": sorted(node["slots_of"]), "alive": node["alive"],
                 "slots": sum(node["slots_of"].values()), **gone.get(node["name"], {})}
                for node in self._nodes]  # fmt: skip

    def close(self) -> None:
        if self._link is None:
            return
        self._link.stdin.close()
        try:
            self._link.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._link.pid, signal.SIGKILL)
            self._link.wait()
        self._forget()

    def _begin(self) -> None:
        self.home.logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "realm.jobs.cluster", self.address, str(self.home.root)]
        with open(self.home.logs / "jobs-cluster.log", "ab") as errors:
            self._link = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                          env=ray_environment(self.home), start_new_session=True)  # fmt: skip
        services.leave_note(self.home, f"job-link-{self._link.pid}", self._link.pid)
        threading.Thread(target=self._listen, args=(self._link.stdout,), name="job-link", daemon=True).start()

    def _listen(self, lines: Any) -> None:
        for line in lines:
            self._heard.put(json.loads(line))
            self._wake.set()
        self._heard.put(None)
        self._wake.set()

    def _say(self, message: dict[str, Any]) -> None:
        if self._link is None:
            return  # its end was heard, or will be: what it had is lost then
        try:
            self._link.stdin.write(json.dumps(message).encode() + b"\n")
            self._link.stdin.flush()
        except (BrokenPipeError, ValueError):
            log.warning("the link to the cluster at %s is broken", self.address)

    def _link_gone(self) -> list[Ended]:
        code = self._link.wait()
        log.warning("the link to the cluster at %s ended with %d; see logs/jobs-cluster.log", self.address, code)
        self._forget()
        self._not_before = time.monotonic() + AGAIN_S
        self._nodes = [{**node, "alive": False} for node in self._nodes]
        lost = [(task, failed("lost", "the link to the cluster ended")) for task in self._tasks.values()]
        self._tasks.clear()
        return lost

    def _forget(self) -> None:
        (self.home.run / f"job-link-{self._link.pid}.json").unlink(missing_ok=True)
        self._link = None


def ray_environment(home: RealmHome) -> dict[str, str]:
    """The environment of every Ray process that the realm begins: this program on its path, one thread per task, and
    a token. Ray listens on the machine's own address whatever it is told, and whoever reaches it runs code there."""
    here = str(Path(realm.__file__).resolve().parents[1])
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0",
            # A task that asks for no GPU share may still use the worker's: the school's places limit how many do.
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": cluster_token(home)}  # fmt: skip


def cluster_token(home: RealmHome) -> str:
    """What every machine of the cluster must know: the realm's `token`, else one made once in `run/cluster.token`."""
    if home.settings.token:
        return home.settings.token
    path = home.run / "cluster.token"
    home.run.mkdir(parents=True, exist_ok=True)
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        pass  # made before
    return path.read_text(encoding="utf-8")


# --- on a worker ---------------------------------------------------------------------------------------------------

def perform_away(task: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """One attempt on any machine of the cluster: (task, where checkpoints are) → outcome, with the bytes of its files.

    Args:
        source: {home, host, url, token, program}: the realm's folder and machine, its VaultKeeper, its version.
    """
    import ray

    if source["program"] != realm.__version__:
        return failed("worker_setup", f"worker {socket.gethostname()} has version {realm.__version__} of this program, "
                      f"the realm {source['program']}; bring it to the same")  # fmt: skip
    made, depot = Task(**task), depot_of(source)
    attach(depot.home.root if isinstance(depot, HomeDepot) else realm_home())  # whose modules are skills here
    with tempfile.TemporaryDirectory(prefix="realm-job-") as folder:
        outcome = perform(Bench(made, depot, Path(folder)))
        sizes = sum(facts["bytes"] for facts in outcome.get("files", {}).values())
        if sizes > FILES_MAX:
            return failed("refused", f"its files have {sizes:,} bytes, a cluster carries {FILES_MAX:,}; ask for less")
        data = {name: (Path(folder) / name).read_bytes() for name in outcome.get("files", {})}
    return {**outcome, "data": data, "node": ray.get_runtime_context().get_node_id()}


def depot_of(source: dict[str, Any]) -> Depot:
    """The realm home itself on its own machine, else its VaultKeeper and a cache (`$REALM_JOBS_CACHE`)."""
    home = Path(source["home"])
    if source["host"] == socket.gethostname() and (home / "realm.db").is_file():
        return HomeDepot(RealmHome(home))
    cache = os.environ.get("REALM_JOBS_CACHE") or Path.home() / ".cache" / "realm-jobs"
    return WebDepot(source["url"], source["token"], Path(cache))


# --- the link ------------------------------------------------------------------------------------------------------

class Link:
    """Ray's driver: starts tasks, tells outcomes, looks at the machines."""

    def __init__(self, ray: Any, home: RealmHome, tell: Any) -> None:
        self.ray, self.tell = ray, tell
        settings = home.settings
        self.source = {"home": str(home.root), "host": socket.gethostname(), "token": settings.token,
                       "program": realm.__version__,
                       "url": f"http://{_reachable(settings)}:{settings.port_vault}"}  # fmt: skip
        self.function = ray.remote(perform_away)
        self.refs: dict[Any, tuple[str, Path]] = {}
        self.names: dict[str, str] = {}  # of the machines, by Ray's id
        self.machines: dict[str, dict[str, Any]] = {}
        self._looked = 0.0

    def order(self, message: dict[str, Any]) -> None:
        """Begin or end a task."""
        if message["do"] == "kill":
            for ref, (token, _) in list(self.refs.items()):
                if token == message["token"]:
                    del self.refs[ref]
                    self.ray.cancel(ref, force=True)
            return
        task = message["task"]
        kind = kinds.get(task["kind"])
        options = {"num_cpus": kind.cpus, "resources": {kind.school: 1}, "max_retries": 0, "name": f"realm-{kind.name}"}
        ref = self.function.options(**options).remote(task, self.source)
        self.refs[ref] = (task["token"], Path(message["folder"]))

    def look(self) -> None:
        """Tell what ended, and now and then which machines there are."""
        ready, _ = self.ray.wait(list(self.refs), timeout=0) if self.refs else ([], [])
        for ref in ready:
            token, folder = self.refs.pop(ref)
            self.tell({"token": token, "outcome": self._outcome(ref, folder)})
        if time.monotonic() - self._looked >= NODES_S:
            self._looked = time.monotonic()
            self.tell({"nodes": self._machines()})

    def _machines(self) -> list[dict[str, Any]]:
        """The cluster's machines by name. One that is gone keeps its places for a while, with the time it was seen."""
        found = self.ray.nodes()
        self.names = {node["NodeID"]: _name(node) for node in found}
        now = time.time()
        alive = {_name(node): {"name": _name(node), "alive": True, "slots_of": _places(node), "seen": now}
                 for node in found if node["Alive"]}  # fmt: skip
        gone = {name: {**node, "alive": False} for name, node in self.machines.items()
                if name not in alive and now - node["seen"] < GONE_S}  # fmt: skip
        self.machines = {**gone, **alive}
        return list(self.machines.values())

    def _outcome(self, ref: Any, folder: Path) -> dict[str, Any]:
        errors = self.ray.exceptions
        try:
            outcome = self.ray.get(ref)
        except errors.OutOfMemoryError as error:
            return failed("memory", f"the worker had not enough memory: {error}")
        except errors.RayTaskError as error:
            return failed("worker_setup", f"the worker could not begin it: {error}")
        except errors.RayError as error:
            return failed("lost", f"its worker is gone: {type(error).__name__}: {str(error).splitlines()[0]}")
        outcome["worker"] = self.names.get(outcome.pop("node", None), RayRunner.name)
        try:
            for name, data in outcome.pop("data", {}).items():
                (folder / name).write_bytes(data)
        except OSError as error:
            return failed("disk_full", f"its files could not be kept: {error}")
        return outcome


def _reachable(settings: Settings) -> str:
    """Where workers on other machines find this one: the address that it listens on, or its name for a wildcard."""
    return socket.gethostname() if settings.host in services.WILDCARDS else settings.host


def _name(node: dict[str, Any]) -> str:
    return node.get("NodeName") or node["NodeManagerHostname"]


def _places(node: dict[str, Any]) -> dict[str, int]:
    slots = {school: int(node["Resources"].get(school, 0)) for school in kinds.SCHOOLS}
    return {school: count for school, count in slots.items() if count}


def main(address: str, root: str) -> None:
    """The link process: orders come in as lines, outcomes go out as lines, until the arena closes the line."""
    import ray

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever Ray prints is for the log
    orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line))
        orders.put(None)

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    threading.Thread(target=listen, daemon=True).start()
    ray.init(address=address, log_to_driver=False, logging_level="WARNING", namespace="realm")
    link = Link(ray, RealmHome(root), tell)
    while True:
        try:
            message = orders.get(timeout=WAIT_S)
        except queue.Empty:
            link.look()
            continue
        if message is None:
            break
        link.order(message)
    ray.shutdown()


# --- a worker ------------------------------------------------------------------------------------------------------

def worker_command(
    address: str | None, schools: dict[str, int], name: str | None, port: int, cpus: int | None
) -> list[str]:  # fmt: skip
    """`ray start` of one node with the places of its schools; without an address it is the head."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
               f"--resources={json.dumps(schools)}",
               f"--node-name={name or socket.gethostname()}"]  # fmt: skip
    if cpus is not None:
        command.append(f"--num-cpus={cpus}")
    if address is None:
        return [*command, "--head", f"--port={port}", "--include-dashboard=false"]
    return [*command, f"--address={address}"]


if __name__ == "__main__":
    main(*sys.argv[1:3])

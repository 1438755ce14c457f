"""`python3 -m training doctor [--fix] [--json]`: is this machine and this realm home fit to play? One row per question.

A row that fails says what to do; `--fix` does what is safe: folders, database schema, notes of dead processes.
torch is looked up by its package metadata and the text of its `version.py`, never imported.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Literal

from realm import db, services, supervise
from realm.settings import RealmHome, SettingsError
from realm.state.machine import torch_build

Status = Literal["ok", "note", "warn", "fail"]
GB = 1e9

# The seed's table of requirements: (minimum, recommended).
NEEDS = {"python": ("3.11", "3.11+"), "ram": (16, 32), "disk": (50, 100), "vram": (16, 24)}


@dataclass(frozen=True)
class Row:
    """One finding. `fix` is the next action, empty when there is none to take."""

    name: str
    status: Status
    found: str
    minimum: str = ""
    recommended: str = ""
    fix: str = ""


def examine(home: RealmHome, fix: bool = False) -> list[Row]:
    """All rows, in the order they are printed; with `fix`, safe repairs are done first."""
    if fix:
        with contextlib.suppress(db.SchemaError):  # the row "Database" says what is wrong and what to do
            repair(home)
    rows = [_python(), _gpu(), _ram(), _disk(home), _system()]
    rows += [_torch(), *(_package(name) for name in ("transformers", "tokenizers", "safetensors", "accelerate"))]
    rows += [_home(home), _database(home), *_ports(home), _hero(home), _physics(home)]
    return rows


def repair(home: RealmHome) -> None:
    """Create folders, bring the database to this program's schema, forget notes of processes that are gone."""
    home.create()
    for name in (*services.PROCESSES, "supervisor"):
        if services.noted(home, name) is None:
            (home.run / f"{name}.json").unlink(missing_ok=True)
    db.migrate(home)


def failed(rows: list[Row]) -> bool:
    return any(row.status == "fail" for row in rows)


def as_json(home: RealmHome, rows: list[Row]) -> dict:
    return {"home": str(home.root), "inbox": str(home.inbox), "ok": not failed(rows), "rows": [asdict(r) for r in rows]}


def _python() -> Row:
    minimum, recommended = NEEDS["python"]
    good = sys.version_info >= (3, 11)
    return Row("Python", "ok" if good else "fail", platform.python_version(), minimum, recommended,
               "" if good else "make the virtual environment anew with python3.11 or later")  # fmt: skip


def gpu_memory() -> list[tuple[str, float]]:
    """(name, GB) of every NVIDIA GPU the driver reports; empty without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        # No driver on this machine: a normal state, reported as a note.
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [(pynvml.nvmlDeviceGetName(h), pynvml.nvmlDeviceGetMemoryInfo(h).total / GB) for h in handles]
    finally:
        pynvml.nvmlShutdown()


def _gpu() -> Row:
    minimum, recommended = (f"{n} GB VRAM" for n in NEEDS["vram"])
    found = gpu_memory()
    if not found:
        return Row("GPU", "note", "none seen", minimum, recommended, "the embedded hero PIP trains on the CPU")
    name, size = max(found, key=lambda item: item[1])
    enough = size >= NEEDS["vram"][0] * 0.95  # a "16 GB" card reports a little less
    return Row("GPU", "ok" if enough else "note", f"{name}, {size:.1f} GB", minimum, recommended,
               "" if enough else "use a smaller hero or the qlora mode")  # fmt: skip


def _sized(name: str, size: float, free: str, need: tuple[int, int], why: str) -> Row:
    status: Status = "ok" if size >= need[0] * 0.95 else "note"
    return Row(name, status, free, f"{need[0]} GB", f"{need[1]} GB", "" if status == "ok" else why)


def _ram() -> Row:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.total / GB:.1f} GB, {memory.available / GB:.1f} free"
    return _sized("RAM", memory.total / GB, found, NEEDS["ram"], "enough for PIP; larger heroes need the minimum")


def _disk(home: RealmHome) -> Row:
    folder = home.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < home.settings.min_free_disk:
        return Row("Disk", "fail", f"{free / GB:.2f} GB free at {folder}", f"{NEEDS['disk'][0]} GB", "",
                   f"free at least {home.settings.min_free_disk / GB:.1f} GB or choose another REALM_HOME")  # fmt: skip
    return _sized("Disk", free / GB, f"{free / GB:.1f} GB free", NEEDS["disk"], "enough for PIP; a 4B hero needs more")


def _system() -> Row:
    good = sys.platform.startswith("linux")
    return Row("System", "ok" if good else "note", platform.platform(terse=True), "Linux", "Ubuntu 22.04+",
               "" if good else "tested on Linux only")  # fmt: skip


def _torch() -> Row:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Row("torch", "fail", "not installed", _pin("torch"), "", 'pip install -e ".[training]"')
    build = torch_build()
    if build == "CPU build" and gpu_memory():
        return Row("torch", "warn", f"{version} ({build}) beside a GPU", _pin("torch"), "",
                   "install a CUDA build: TORCH_INDEX=<wheel source> scripts/bootstrap_dev.sh")  # fmt: skip
    wanted = _pin("torch")
    status: Status = "ok" if version.split("+")[0] == wanted else "warn"
    return Row("torch", status, f"{version} ({build})", wanted, wanted, "" if status == "ok" else _reinstall("torch"))


def _pin(package: str) -> str:
    """The version this program was tested with, from its own metadata; empty when it runs from a bare source tree."""
    try:
        needs = importlib.metadata.requires("realm-of-training") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    for need in needs:
        if need.split(";")[0].strip().startswith(f"{package}=="):
            return need.split(";")[0].strip().split("==")[1]
    return ""


def _reinstall(package: str) -> str:
    return f"pip install {package}=={_pin(package)}"


def _package(name: str) -> Row:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Row(name, "fail", "not installed", _pin(name), "", 'pip install -e ".[training]"')
    good = version == _pin(name) or not _pin(name)
    return Row(name, "ok" if good else "warn", version, _pin(name), _pin(name), "" if good else _reinstall(name))


def _home(home: RealmHome) -> Row:
    if not home.inbox.is_dir():
        return Row("Realm home", "fail", f"{home.root} is not set up", "", "", "python3 -m training doctor --fix")
    if not os.access(home.root, os.W_OK):
        return Row("Realm home", "fail", f"{home.root} cannot be written", "", "", "choose another REALM_HOME")
    return Row("Realm home", "ok", f"{home.root} (inbox {home.inbox})")


def _database(home: RealmHome) -> Row:
    try:
        version = db.schema_version(home.database)
    except db.SchemaError as error:
        return Row("Database", "fail", "cannot be read", f"schema {db.SCHEMA_VERSION}", "", str(error))
    if db.is_newer(version):
        return Row("Database", "fail", f"schema {version}", f"schema {db.SCHEMA_VERSION}", "",
                   db.newer_words(home.database, version))  # fmt: skip
    good = version == db.SCHEMA_VERSION
    return Row("Database", "ok" if good else "fail", f"schema {version or 'none'}", f"schema {db.SCHEMA_VERSION}", "",
               "" if good else "python3 -m training doctor --fix")  # fmt: skip


def _ports(home: RealmHome) -> list[Row]:
    states = supervise.process_states(home)
    if states is not None:
        words = ", ".join(f"{s.name} {s.state.lower()}" for s in states) or "answering soon"
        ill = [s.name for s in states if s.state in supervise.TROUBLED]
        if ill:
            logs = " and ".join(str(home.logs / f"{name}.log") for name in ill)
            return [Row("Services", "fail", words, "", "", f"read the end of {logs}, mend the cause, then "
                        "python3 -m training start-all")]  # fmt: skip
        return [Row("Services", "ok", words, "", "", f"Tavern: {services.url(home.settings, 'tavern')}")]
    try:
        taken = services.taken_ports(home.settings)
    except SettingsError as error:
        return [Row("Ports", "fail", f"host {home.settings.host}", "", "", str(error))]
    if not taken:
        return [Row("Ports", "ok", "free: " + ", ".join(str(home.settings.port(s.name)) for s in services.SERVICES))]
    return [Row(f"Port {port}", "fail", "taken", "", "", message) for _service, port, message in taken]


def _hero(home: RealmHome) -> Row:
    from realm.heroes.profile import ProfileError, load_profile, missing_weights

    try:
        profile = load_profile(home.settings.default_hero, home)
    except ProfileError as error:
        return Row("Hero", "fail", home.settings.default_hero, "", "", str(error))
    # The embedded hero is made from its recipe at the first battle: it cannot be missing.
    missing = "" if profile.embedded else missing_weights(profile, home)
    return Row("Hero", "fail" if missing else "ok", f"{profile.rpg_name} ({profile.model.path_or_hub_id})", "", "",
               missing)  # fmt: skip


def _physics(home: RealmHome) -> Row:
    """Whether this machine can train the hero as its recipe says, and the memory that takes by the formula."""
    from realm.arena import physics
    from realm.heroes import modes
    from realm.heroes.profile import ProfileError, load_profile

    try:
        profile, here = load_profile(playing(home), home), physics.this_machine()
        said = physics.refusals(profile, home, here)
        name = f"{profile.name} in mode {modes.mode_name(profile)}"
        if said:
            return Row("Physics", "fail", name, "", "", ". ".join(said))
        found = physics.estimate_of(profile, home, here)
    except ProfileError as error:
        return Row("Physics", "fail", playing(home), "", "", str(error))
    room, where = (here.gpu_bytes, "GPU") if here.gpus else (here.host_bytes, "host")
    fits = found.total <= room
    ask = f"python3 -m training vram --hero {profile.id} names the three cheapest changes"
    return Row("Physics", "ok" if fits else "warn", f"{name}: about {found.total / GB:.1f} of {room / GB:.1f} GB "
               f"{where} memory", "", "", "" if fits else ask)  # fmt: skip


def playing(home: RealmHome) -> str:
    """The hero that plays; before the first start the one that the settings name."""
    from realm.guild import campaigns

    try:
        engine = db.connect(home)
    except db.SchemaError:
        return home.settings.default_hero
    with db.read(engine) as connection:
        hero = campaigns.value(connection, "hero")
    engine.dispose()
    return hero or home.settings.default_hero

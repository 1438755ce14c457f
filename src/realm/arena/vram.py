"""The memory calculator: one report for the command, the API and the Settings page.

    python3 -m training vram --hero flo --mode qlora --batch-size 1 --max-length 2048

`realm.arena.physics` has the formula. Here are what it says of a hero on this machine, the three cheapest changes when
it does not fit, and the store of (estimate, measured) pairs by which later estimates of this machine are corrected.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from realm import db
from realm.arena import physics
from realm.arena.physics import Estimate, Load, Machine
from realm.arena.shapes import Shape, shape_of
from realm.heroes import modes
from realm.heroes.profile import HeroProfile, ProfileError, load_profile, merge, parse_profile
from realm.settings import RealmHome

log = logging.getLogger("realm.vram")
PAIRS_USED = 20  # the newest that are alike
ALIKE = 4.0  # factor between two estimates within which one may correct the other
CORRECTION = (0.5, 2.0)  # no correction goes beyond; what is further off is another thing than this formula
SHOWN_CHANGES = 3
DRY_RUN_S = 1800.0
MODE_COSTS = {  # cheapest first
    "full": "8-bit optimizer state", "galore_8bit": "gradients of low rank",
    "deepspeed": "optimizer in host memory, slower", "lora": "adapters only", "qlora": "adapters on 4-bit weights",
}  # fmt: skip


# --- Calibration ------------------------------------------------------------------------------------------------------

def pairs_file(home: RealmHome) -> Path:
    return home.root / "memory.jsonl"


def note_pair(home: RealmHome, profile: HeroProfile, found: Estimate, measured: int, source: str) -> None:
    """Append one (estimate, measured) pair in bytes; one write, so that two processes cannot mix their lines."""
    row = {"t": db.now(), "hero": profile.id, "mode": modes.mode_name(profile), "device": found.device,
           "estimate": found.total, "measured": measured, "source": source}  # fmt: skip
    descriptor = os.open(pairs_file(home), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(row) + "\n").encode())
    finally:
        os.close(descriptor)


def note_battle(home: RealmHome, profile: HeroProfile, longest: int, measured: int) -> None:
    """The pair of a battle whose longest row had so many tokens. A full disk costs the pair, not the battle."""
    load = Load.of(profile, physics.this_machine().device, max_length=longest)
    found = physics.estimate(profile, shape_of(profile, home), load, trial=False)
    try:
        note_pair(home, profile, found, measured, "battle")
    except OSError as error:
        log.warning("the measured memory was not noted: %s", error)


def pairs(home: RealmHome) -> list[dict[str, Any]]:
    """All pairs, oldest first; a line that a full disk cut short is left out."""
    try:
        lines = pairs_file(home).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and all(isinstance(row.get(k), int) and row[k] > 0 for k in ("estimate", "measured")):
            found.append(row)
    return found


def corrected(home: RealmHome, profile: HeroProfile, found: Estimate) -> Estimate:
    """The estimate with this machine's correction: the median of measured / estimated over pairs that are alike."""
    name = modes.mode_name(profile)
    ratios = [row["measured"] / row["estimate"] for row in pairs(home)
              if (row.get("mode"), row.get("device")) == (name, found.device)
              and 1 / ALIKE <= row["estimate"] / found.total <= ALIKE][-PAIRS_USED:]  # fmt: skip
    if not ratios:
        return found
    low, high = CORRECTION
    values = {**vars(found), "correction": min(high, max(low, statistics.median(ratios))), "pairs": len(ratios)}
    return Estimate(**values)


# --- When it does not fit ---------------------------------------------------------------------------------------------

def _changes(profile: HeroProfile, load: Load) -> Iterator[tuple[str, str, HeroProfile, dict[str, Any]]]:
    """(what, what it costs, profile, changed load), the cheapest first."""
    defaults = profile.training_defaults
    if not load.gradient_checkpointing:
        yield ("gradient_checkpointing: true", "about a quarter slower, same result", profile,
               {"gradient_checkpointing": True})  # fmt: skip
    batch, accumulation = load.batch_size, load.gradient_accumulation
    free = not modes.fused(profile)
    while batch > 1:
        batch, accumulation = (batch + 1) // 2, accumulation * 2
        rows = f" and gradient_accumulation: {accumulation}" if free else ""
        cost = "same result, a little slower" if free else "fewer rows in a step: lower the learning rate"
        yield (f"batch_size: {batch}{rows}", cost, profile,
               {"batch_size": batch, **({"gradient_accumulation": accumulation} if free else {})})  # fmt: skip
    if defaults.precision == "fp32" and load.device == "cuda":
        half = parse_profile(merge(profile.model_dump(), {"training_defaults": {"precision": "bf16"}}))
        yield "precision: bf16", "computes with 8 bits of mantissa", half, {}
    length = load.max_length
    while length > 256:
        length //= 2
        yield f"max_length: {length}", "longer rows are left out", profile, {"max_length": length}
    for name, cost in MODE_COSTS.items():
        other = modes.with_mode(profile, name)
        accumulation = {"gradient_accumulation": 1} if modes.fused(other) else {}
        if modes.mode_name(profile) != name:
            yield f"mode {name}", cost, other, accumulation


def cheaper(
    home: RealmHome, profile: HeroProfile, shape: Shape, load: Load, here: Machine, room: int
) -> list[dict[str, Any]]:  # fmt: skip
    """The three cheapest single changes that make it fit; where fewer do, those that save most follow."""
    now = corrected(home, profile, physics.estimate(profile, shape, load)).corrected
    fitting, saving, seen = [], [], set()
    for what, cost, other, changed in _changes(profile, load):
        if physics.refusals(other, home, here):
            continue
        asked = {**{k: getattr(load, k) for k in Load.__dataclass_fields__}, **changed}
        found = corrected(home, other, physics.estimate(other, shape, Load(**asked)))
        if load.device == "cuda" and found.host_total > here.host_bytes:
            continue
        total, kind = found.corrected, what.split(":")[0]
        row = {"change": what, "cost": cost, "total": total, "fits": total <= room}
        if total <= room and kind not in seen:  # of several batch sizes the largest that fits
            seen.add(kind)
            fitting.append(row)
        elif total < now:
            saving.append(row)
    rest = sorted((row for row in saving if row["change"].split(":")[0] not in seen), key=lambda row: row["total"])
    best: dict[str, dict[str, Any]] = {}
    for row in rest:
        best.setdefault(row["change"].split(":")[0], row)
    return [*fitting, *best.values()][:SHOWN_CHANGES]


# --- The report -------------------------------------------------------------------------------------------------------

def asked_profile(home: RealmHome, hero_id: str, mode: str | None, precision: str | None = None) -> HeroProfile:
    """A hero's recipe in a named mode (None: its own).

    Raises:
        ProfileError: no such hero or mode.
    """
    profile = load_profile(hero_id, home)
    if mode:
        profile = modes.with_mode(profile, mode)
    if precision:
        profile = parse_profile(merge(profile.model_dump(), {"training_defaults": {"precision": precision}}))
    return profile


def report(
    home: RealmHome, hero_id: str, mode: str | None = None, room: int | None = None, here: Machine | None = None,
    **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """What training a hero takes, of what this machine has.

    Args:
        room: bytes of a GPU to plan for; default: this machine's, without one its host memory.
        changes: fields of `Load`, and `precision`; None = the recipe's own.

    Raises:
        ProfileError: no such hero or mode, unknown shape, or a number out of range.
    """
    here = here or physics.this_machine()
    changes = {key: value for key, value in changes.items() if value is not None}
    profile = asked_profile(home, hero_id, mode, changes.pop("precision", None))
    if room:  # planned for another machine, which has what it needs
        here = Machine(1, "", room, here.host_bytes, frozenset(physics.PACKAGES))
    device = here.device
    load = _load(profile, device, changes)
    shape = shape_of(profile, home)
    found = corrected(home, profile, physics.estimate(profile, shape, load))
    room = here.gpu_bytes if here.gpus else here.host_bytes
    host_fits = found.host_total <= here.host_bytes
    fits = found.corrected <= room and host_fits
    name = modes.mode_name(profile)
    return {
        "hero": profile.id, "name": profile.name, "mode": name, "title": modes.TITLES.get(name, name),
        "load": {**vars(load), "precision": profile.training_defaults.precision}, "parameters": shape.parameters,
        "device": device, "gpu": here.gpu_name, "room": room, "host_room": here.host_bytes, "fits": fits,
        "host_fits": host_fits, "estimate": found.to_dict(), "published_gb": physics.PUBLISHED_GB.get(name),
        "refusals": physics.refusals(profile, home, here),
        "cheaper": [] if found.corrected <= room else cheaper(home, profile, shape, load, here, room),
        "modes": _all_modes(home, hero_id, device, changes, shape),
    }  # fmt: skip


def _load(profile: HeroProfile, device: str, changes: dict[str, Any]) -> Load:
    for key in ("batch_size", "max_length", "gradient_accumulation"):
        if key in changes and not 1 <= changes[key] <= 10**7:
            raise ProfileError(f"{key} {changes[key]}: give a whole number from 1 to 10,000,000")
    return Load.of(profile, device, **changes)


def _all_modes(
    home: RealmHome, hero_id: str, device: str, changes: dict[str, Any], shape: Shape
) -> list[dict[str, Any]]:  # fmt: skip
    """Every named mode of this hero with the same changes, beside the figure that was published for it."""
    rows = []
    for name, title in modes.TITLES.items():
        profile = modes.with_mode(load_profile(hero_id, home), name)
        found = corrected(home, profile, physics.estimate(profile, shape, _load(profile, device, changes)))
        rows.append({"mode": name, "title": title, "total": found.corrected, "host": found.host_total,
                     "published_gb": physics.PUBLISHED_GB.get(name)})  # fmt: skip
    return rows


def dry_run(home: RealmHome, profile: HeroProfile, load: Load, data: Path | None = None) -> dict[str, Any]:
    """Two optimizer steps on the longest batch in a process of its own; notes the pair. Returns bytes and seconds.

    Raises:
        ProfileError: it cannot be trained here, or the process failed; its last lines are in the message.
    """
    physics.check(profile, home)
    order = {"home": str(home.root), "profile": profile.model_dump(mode="json"), "load": vars(load),
             "data": str(data) if data else None}  # fmt: skip
    command, environment = [sys.executable, "-m", "realm.arena.dry_run"], {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, input=json.dumps(order), text=True, capture_output=True, timeout=DRY_RUN_S,
                          env=environment)  # fmt: skip
    try:
        told = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        tail = " ".join(done.stderr.strip().splitlines()[-2:])
        raise ProfileError(f"the dry run of {profile.name} ended with exit code {done.returncode}: {tail}") from error
    if "error" in told:
        raise ProfileError(f"the dry run of {profile.name} failed: {told['error']}")
    asked = Load(**{**vars(load), "max_length": told["longest"]})
    found = physics.estimate(profile, shape_of(profile, home), asked, trial=False)
    note_pair(home, profile, found, told["measured"], "dry run")
    return {**told, "estimate": found.total}

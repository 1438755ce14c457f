"""Memory of everything start-all made, battle included, sampled during a battle (contracts C9). Linux only.

PSS counts a page that n processes share as 1/n at each of them, so the sum is what the realm really holds. When
programs outside the realm map the same library files (another Python with torch), they carry part of these pages and
the sum looks smaller than on a machine of one's own; "as if alone" puts that back.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.live_realm import TRAINING_WAIT_S, LiveRealm, cpu_seconds, live_realm, role_of, steps_done
from benchmarks.registry import Options
from benchmarks.table import Row

BUDGET_MB = 1000.0  # 10^9 bytes, the Oracle not loaded
EVERY_S = 1.0
MB = 1e6
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+) (\S+) (\d+)")


@dataclass
class Sample:
    """Bytes at one moment. `pss`: by role; `alone`: the whole as if no other program shared a file with the realm."""

    pss: dict[str, int] = field(default_factory=dict)
    alone: int = 0

    @property
    def total(self) -> int:
        return sum(self.pss.values())


def sample(live: LiveRealm) -> Sample:
    """What every process with this home holds now."""
    found, files = Sample(), {}
    for process in live.processes():
        try:
            role, proc = role_of(process.cmdline()), Path("/proc") / str(process.pid)
            rollup, maps = (proc / "smaps_rollup").read_text(), (proc / "smaps").read_text()
        except (OSError, psutil.NoSuchProcess):
            continue  # ended between listing and reading
        found.pss[role] = found.pss.get(role, 0) + _kb(rollup, "Pss")
        found.alone += _kb(rollup, "Pss_Anon") + _kb(rollup, "Pss_Shmem")
        for key, size in file_pages(maps).items():
            files[key] = max(files.get(key, 0), size)
    found.alone += sum(files.values())
    return found


def file_pages(smaps: str) -> dict[tuple[str, ...], int]:
    """{(offset, device, inode): bytes of the file in memory} from /proc/PID/smaps; a process's own copies left out."""
    found: dict[tuple[str, ...], int] = {}
    key = None
    for line in smaps.splitlines():
        mapping = _MAPPING.match(line)
        if mapping:
            key = mapping.groups() if mapping[3] != "0" else None
        elif key and line.startswith("Rss:"):
            found[key] = found.get(key, 0) + int(line.split()[1]) * 1024
        elif key and line.startswith("Anonymous:"):
            found[key] -= int(line.split()[1]) * 1024
    return found


def _kb(rollup: str, name: str) -> int:
    """Bytes of one line of smaps_rollup."""
    return int(re.search(rf"^{name}:\s+(\d+) kB", rollup, re.MULTILINE)[1]) * 1024


def watch(live: LiveRealm, seconds: float) -> tuple[list[Sample], dict[str, float], int]:
    """Samples over `seconds` from the first optimizer step on; CPU seconds by role and optimizer steps in that time."""
    live.cli("start-all")
    live.wait("the first optimizer step", lambda: steps_done(live), timeout=TRAINING_WAIT_S)
    before, done, end = cpu_seconds(live), steps_done(live), time.monotonic() + seconds
    samples = []
    while time.monotonic() < end or not samples:
        samples.append(sample(live))
        time.sleep(EVERY_S)
    after = cpu_seconds(live)
    return samples, {role: after[role] - before.get(role, 0.0) for role in after}, steps_done(live) - done


def run(options: Options, hero_yaml: str = "", seconds: float | None = None) -> list[Row]:
    """One realm with the shipped hero; the peak counts, not the middle."""
    seconds = (20.0 if options.quick else 100.0) if seconds is None else seconds
    with live_realm(hero_yaml) as live:
        samples, cpu, steps = watch(live, seconds)
    peak = max(samples, key=lambda s: s.total)
    limit = f"≤ {BUDGET_MB:,.0f} MB"
    found = [
        Row("all processes, sum of PSS, at its peak", (peak.total / MB,), "MB", "low", limit, BUDGET_MB),
        Row("all processes, as if alone, at its peak", (max(s.alone for s in samples) / MB,), "MB", "low", limit,
            BUDGET_MB),
        Row("all processes, sum of PSS, every sample", tuple(s.total / MB for s in samples), "MB"),
    ]  # fmt: skip
    for role in sorted(peak.pss, key=peak.pss.get, reverse=True):
        found.append(Row(f"{role}: PSS at that peak", (peak.pss[role] / MB,), "MB"))
    battle = cpu.pop("battle", 0.0)
    found.append(Row("battle child, CPU meanwhile", (battle,), "CPU-s", against=f"{steps} steps in {seconds:.0f} s"))
    for role, spent in sorted(cpu.items()):
        found.append(Row(f"{role}, CPU meanwhile", (spent,), "CPU-s", ratios=(spent / battle,) if battle else (),
                         against="battle child's CPU"))  # fmt: skip
    return found

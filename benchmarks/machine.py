"""Facts about the machine that a number means nothing without."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

QUIET_LOAD = 0.5  # load average per core above which wall-clock numbers are not to be trusted
PACKAGES = ("torch", "transformers", "trl")


def facts() -> dict[str, Any]:
    """Cores, processor, memory, versions and what else the machine is doing."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()
    return {
        "cores": cores, "cpu": _cpu_model(), "ram_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "threads": os.environ.get("OMP_NUM_THREADS", ""), "load": [round(x, 2) for x in load],
        "quiet": load[0] <= QUIET_LOAD * cores,
    }  # fmt: skip


def sentence(found: dict[str, Any]) -> str:
    """The same for people."""
    text = (f"{found['cores']} cores of {found['cpu']}, {found['ram_gb']} GB RAM, {found['system']}, Python "
            f"{found['python']}, {', '.join(f'{name} {found[name]}' for name in PACKAGES)}; "
            f"load average at start {found['load'][0]}, {found['load'][1]}, {found['load'][2]}.")  # fmt: skip
    if not found["quiet"]:
        text += (" THE MACHINE WAS NOT QUIET: others were computing. Ratios and CPU seconds of interleaved runs still "
                 "compare; wall-clock seconds are longer than on a quiet machine.")  # fmt: skip
    return text


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        # Not Linux: the platform module knows less, but something.
        return platform.processor() or platform.machine()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"

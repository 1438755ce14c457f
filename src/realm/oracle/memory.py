"""May a model be loaded beside what runs? Numbers first, then the answer. Torch-free."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path

from realm.oracle.errors import OracleError

FP32_BYTES = 4
HEADER_BYTES = 100_000_000
SPARE = 1.1  # buffers beside the weights while they are read


def model_bytes(folder: Path) -> int:
    """Bytes that the weights of a folder take once loaded in fp32, from the headers of its safetensors files.

    Raises:
        OracleError: a file is no safetensors.
    """
    numbers = 0
    for file in folder.glob("*.safetensors"):
        try:
            with file.open("rb") as stream:
                (size,) = struct.unpack("<Q", stream.read(8))
                if size > min(file.stat().st_size - 8, HEADER_BYTES):
                    raise ValueError(f"a header of {size:,} bytes")
                header = json.loads(stream.read(size))
            numbers += sum(prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
        except (struct.error, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise OracleError(503, f"{file} is no safetensors file ({error}); restore it from a backup",
                              "checkpoint_corrupt", "model") from error  # fmt: skip
    return int(numbers * FP32_BYTES * SPARE)


def free_memory() -> int:
    """Bytes this machine could still give: the kernel's estimate, or what the control group leaves if that is less."""
    import psutil

    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        free = min(free, int(limit.read_text()) - int(used.read_text()) + _reclaimable())
    except (OSError, ValueError):
        # No control group, or "max": the machine's own number holds.
        pass
    return max(0, free)


def _reclaimable() -> int:
    """Page cache of the control group, which the kernel gives back when it is needed."""
    lines = Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split()[0] in ("inactive_file", "active_file"))


def refuse_unless_room(name: str, need: int, free: int, reserve: int, where: str, loaded: list[str]) -> None:
    """Raises:
    OracleError: 503 with the sum and what to do, when `need` bytes would leave less than `reserve` of `free`.
    """
    if need + reserve <= free:
        return
    others = f"unload {' or '.join(loaded)} (DELETE /oracle/loaded/ID), " if loaded else ""
    raise OracleError(
        503, f"{name} needs {_mb(need)} on {where}, {_mb(free)} is free and {_mb(reserve)} must stay free for training "
        f"(oracle_min_free): {_mb(need + reserve - free)} too little. {others[:1].upper()}{others[1:]}"
        f"{'stop' if others else 'Stop'} the battle (`python3 -m training battle stop`), or ask a server on another "
        "machine (docs/REMOTE_INFERENCE.md)", "insufficient_memory", "model",
    )  # fmt: skip


def _mb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"

"""School of Archaeology: what is in a checkpoint's layers, and how far they moved since another checkpoint.

Tensors are mapped from disk one at a time, and no model is built: memory is one tensor in float64 blocks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from realm.jobs import kinds
from realm.jobs.bench import Bench, Result
from realm.jobs.kinds import JobError

BLOCK = 1 << 20  # values in float64 at once
TENSORS = "tensors.json"
_LAYER = re.compile(r"\.(?:layers|h|blocks?)\.(\d+)\.")
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
          "BF16": "<u2", "BOOL": "?"}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor on disk: flat values and its shape."""

    name: str
    shape: tuple[int, ...]
    kind: str
    values: np.ndarray

    def blocks(self) -> Iterator[np.ndarray]:
        """Its values as float64, at most `BLOCK` at a time."""
        for begin in range(0, self.values.size, BLOCK):
            part = self.values[begin : begin + BLOCK]
            if self.kind == "BF16":  # the upper half of a float32, which numpy has no type for
                part = (part.astype(np.uint32) << 16).view(np.float32)
            yield part.astype(np.float64)


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint's weights by name, mapped and not read.

    Format: 8 bytes little-endian length, a JSON header {name: {dtype, shape, data_offsets}}, then the bytes
    (https://huggingface.co/docs/safetensors). The safetensors library itself gives no bfloat16 without torch.

    Raises:
        JobError: no weights, or a tensor of a type that has no numbers.
    """
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        data = np.memmap(path, mode="r", dtype=np.uint8)[8 + length :]
        for name, facts in header.items():
            if name == "__metadata__":
                continue
            if facts["dtype"] not in _TYPES:
                raise JobError("refused", f"{path.name}: tensor {name} is {facts['dtype']}; its norm is not defined "
                               f"here, known are {', '.join(_TYPES)}")  # fmt: skip
            begin, end = facts["data_offsets"]
            # A copy of one mapped slice would be aligned; numpy reads unaligned views as well.
            values = np.frombuffer(data[begin:end], dtype=_TYPES[facts["dtype"]])
            found[name] = Tensor(name, tuple(facts["shape"]), facts["dtype"], values)
    if not found:
        raise JobError("missing", f"{folder} holds no *.safetensors; choose a checkpoint with weights")
    return found


def layer_of(name: str) -> str:
    """"0", "1", … for tensors of a numbered layer, else the name of the part (embed_tokens, norm, lm_head)."""
    match = _LAYER.search(name)
    return match.group(1) if match else name.removesuffix(".weight").removesuffix(".bias").rsplit(".", 1)[-1]


def stats(payload: kinds.LayerStats, bench: Bench) -> Result:
    """Per tensor: L2 norm, root mean square, largest magnitude, mean, share of exact zeros."""
    rows = [_stats_of(t) for t in tensors(bench.depot.checkpoint(payload.checkpoint)).values()]
    layers: dict[str, dict[str, Any]] = {}
    for row in rows:
        into = layers.setdefault(layer_of(row["name"]), {"values": 0, "square": 0.0})
        into["values"] += row["values"]
        into["square"] += row["l2"] ** 2
    told = {name: {"values": v["values"], "l2": math.sqrt(v["square"]), "rms": math.sqrt(v["square"] / v["values"])}
            for name, v in layers.items()}  # fmt: skip
    (bench.folder / TENSORS).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    broken = [row["name"] for row in rows if row["broken"]]
    return Result({"checkpoint": payload.checkpoint, "tensors": len(rows), "values": sum(r["values"] for r in rows),
                   "layers": told, "not_finite": broken}, files=(TENSORS,))  # fmt: skip


def _stats_of(tensor: Tensor) -> dict[str, Any]:
    square = total = largest = 0.0
    zeros = broken = 0
    for block in tensor.blocks():
        whole = block[np.isfinite(block)]
        broken += block.size - whole.size
        square += float(whole @ whole)
        total += float(whole.sum())
        largest = max(largest, float(np.abs(whole).max(initial=0.0)))
        zeros += int((whole == 0).sum())
    n = max(1, tensor.values.size)
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.kind, "values": tensor.values.size,
            "l2": math.sqrt(square), "rms": math.sqrt(square / n), "max": largest, "mean": total / n,
            "zeros": zeros / n, "broken": broken}  # fmt: skip


def drift(payload: kinds.LayerDrift, bench: Bench) -> Result:
    """Per tensor: |new − old| / |old| and the cosine between both; tensors of only one side are named."""
    new, old = (tensors(bench.depot.checkpoint(name)) for name in (payload.checkpoint, payload.against))
    both = [name for name in new if name in old and new[name].shape == old[name].shape]
    rows = [_drift_of(new[name], old[name]) for name in both]
    sums: dict[str, list[float]] = {}
    for row in rows:
        into = sums.setdefault(layer_of(row["name"]), [0.0, 0.0, 0.0, 0.0])
        for place, key in enumerate(("moved2", "old2", "new2", "dot")):
            into[place] += row[key]
    whole = [sum(part) for part in zip(*sums.values(), strict=True)] or [0.0] * 4
    table = [{"name": row["name"], **_measures(*(row[k] for k in ("moved2", "old2", "new2", "dot")))} for row in rows]
    (bench.folder / TENSORS).write_text(json.dumps(table, indent=1), encoding="utf-8")
    most = sorted(table, key=lambda row: row["relative_l2"] or 0.0, reverse=True)[:10]
    return Result({"checkpoint": payload.checkpoint, "against": payload.against, **_measures(*whole),
                   "layers": {name: _measures(*part) for name, part in sums.items()}, "most": most,
                   "compared": len(both), "only_new": sorted(set(new) - set(both)),
                   "only_old": sorted(set(old) - set(both))}, files=(TENSORS,))  # fmt: skip


def _drift_of(new: Tensor, old: Tensor) -> dict[str, Any]:
    moved = olds = news = dot = 0.0
    for a, b in zip(new.blocks(), old.blocks(), strict=True):
        gap = a - b
        moved += float(gap @ gap)
        olds += float(b @ b)
        news += float(a @ a)
        dot += float(a @ b)
    return {"name": new.name, "moved2": moved, "old2": olds, "new2": news, "dot": dot}


def _measures(moved: float, old: float, new: float, dot: float) -> dict[str, float | None]:
    """Both measures from sums of squares; None where they are not defined (a zero or a broken tensor)."""
    length = math.sqrt(old) * math.sqrt(new)
    relative = math.sqrt(moved / old) if old > 0 else (0.0 if moved == 0 else math.nan)
    cosine = max(-1.0, min(1.0, dot / length)) if length > 0 else math.nan
    return {"relative_l2": _finite(relative), "cosine": _finite(cosine)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

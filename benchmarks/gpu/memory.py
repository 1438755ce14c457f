"""Peak memory and tokens per second of the memory modes on a GPU, in one call of under 10 minutes.

    python -m benchmarks.gpu.memory --out benchmarks/gpu/measured.json     on a machine with a CUDA GPU
    python -m benchmarks.gpu.memory --tiny --out tiny.json                 a CPU variant of the same code path

Every cell {qlora, lora, galore_8bit, deepspeed, full} x {Qwen3-0.6B, Qwen3-4B} is a process of its own: random weights
are made once per shape, then `realm.arena.dry_run` trains a few steps on rows of full length. A cell that cannot run
(no GPU, a package that is missing, out of memory, out of time) is in the result with its reason. The tests of the
calculator read the committed `measured.json`, when there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from realm.arena import physics
from realm.arena.physics import Load
from realm.arena.shapes import Shape, known_shapes
from realm.heroes import modes
from realm.heroes.profile import HeroProfile, load_profile, merge, parse_profile
from realm.settings import RealmHome

BUDGET_S = 570.0  # the whole call
SHAPES = {"0.6B": ("dio", "Qwen/Qwen3-0.6B"), "4B": ("flo", "Qwen/Qwen3-4B")}
LOADS = {"0.6B": {"batch_size": 4, "max_length": 2048}, "4B": {"batch_size": 1, "max_length": 2048}}
TINY = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip
MODES = ("qlora", "lora", "galore_8bit", "deepspeed", "full")


def plan(tiny: bool) -> list[dict[str, Any]]:
    """The cells, cheapest first, so that a call that runs out of time has measured most."""
    names = ["tiny"] if tiny else list(SHAPES)
    return [{"shape": name, "mode": mode} for name in names for mode in (*MODES, "adamw")
            if mode != "adamw" or tiny]  # fmt: skip


def profile_of(cell: dict[str, Any], weights: Path) -> HeroProfile:
    """The hero of one cell: a shipped recipe in that mode, with random weights of its shape."""
    hero, _ = SHAPES.get(cell["shape"], ("dio", ""))
    load = LOADS.get(cell["shape"], {"batch_size": 2, "max_length": 64})
    changed = {"model": {"path_or_hub_id": str(weights)},
               "training_defaults": {**load, "gradient_accumulation": 1, "gradient_checkpointing": True}}  # fmt: skip
    return modes.with_mode(parse_profile(merge(load_profile(hero).model_dump(), changed)), cell["mode"])


MAKE = """
import json, sys, torch
from pathlib import Path
from transformers import Qwen3Config, Qwen3ForCausalLM
from realm.heroes import chat
from realm.heroes.model import load_tokenizer, save_model, shipped_tokenizer
config, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
tokenizer = load_tokenizer(shipped_tokenizer())
config = {"vocab_size": len(tokenizer), "tie_word_embeddings": True, **config}
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
if torch.cuda.is_available():
    torch.set_default_device("cuda")
model = Qwen3ForCausalLM(Qwen3Config(**config, eos_token_id=chat.stop_id(tokenizer),
                                     pad_token_id=tokenizer.pad_token_id, bos_token_id=None))
save_model(model, tokenizer, folder)
"""


def make_weights(name: str, folder: Path) -> None:
    """Random weights in Hugging Face layout, in a process of its own so that its memory is not counted."""
    config = TINY if name == "tiny" else {k: v for k, v in known_shapes()[SHAPES[name][1]].items() if k != "model_type"}
    folder.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", MAKE, json.dumps(config), str(folder)], check=True, timeout=300)


def run_cell(cell: dict[str, Any], home: RealmHome, weights: Path, seconds: float) -> dict[str, Any]:
    """Measure one cell; what it could not do is in `cannot`."""
    profile = profile_of(cell, weights)
    here = physics.this_machine()
    said = physics.refusals(profile, home, here)
    if said:
        return {**cell, "cannot": ". ".join(said)}
    load = Load.of(profile, here.device)
    order = {"home": str(home.root), "profile": profile.model_dump(mode="json"), "load": vars(load), "data": None}
    started = time.monotonic()
    try:
        done = subprocess.run([sys.executable, "-m", "realm.arena.dry_run"], input=json.dumps(order), text=True,
                              capture_output=True, timeout=seconds)  # fmt: skip
    except subprocess.TimeoutExpired:
        return {**cell, "cannot": f"not done within {seconds:.0f} s"}
    lines = done.stdout.splitlines()
    told = json.loads(lines[-1]) if lines else {"error": done.stderr.strip()[-300:]}
    if "error" in told:
        return {**cell, "cannot": told["error"]}
    shape = Shape.from_config(json.loads((weights / "config.json").read_text()))
    found = physics.estimate(profile, shape, load, trial=False)  # a dry run holds no trial
    return {**cell, "load": vars(load), "measured": told["measured"], "estimate": found.total,
            "tokens_per_s": told["tokens_per_s"], "seconds": round(time.monotonic() - started, 1)}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the plan; returns 0 when at least one cell was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, for machines without a GPU")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for the whole call")
    given = parser.parse_args(arguments)
    end, here = time.monotonic() + given.budget, physics.this_machine()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        home = RealmHome(Path(temporary) / "home").create()
        os.environ["REALM_HOME"] = str(home.root)
        made: dict[str, Path] = {}
        for cell in plan(given.tiny):
            left = end - time.monotonic()
            if left < 20:
                rows.append({**cell, "cannot": "the time of this call was over"})
                continue
            if cell["shape"] not in made and not (here.gpus or given.tiny):
                rows.append({**cell, "cannot": f"needs a GPU, and {here.why_no_gpu}"})
                continue
            if cell["shape"] not in made:
                made[cell["shape"]] = Path(temporary) / cell["shape"]
                make_weights(cell["shape"], made[cell["shape"]])
            rows.append(run_cell(cell, home, made[cell["shape"]], left))
            print(json.dumps(rows[-1]), flush=True)
    told = {"device": here.gpu_name or "cpu", "gpu_bytes": here.gpu_bytes, "cells": rows}
    given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    measured = [row for row in rows if "measured" in row]
    print(f"{len(measured)} of {len(rows)} cells measured; {given.out}")
    for row in rows:
        if "cannot" in row:
            print(f"  {row['shape']} {row['mode']}: {row['cannot']}")
    return 0 if measured else 1


if __name__ == "__main__":
    sys.exit(main())

"""Loss over a large vocabulary: logits made in parts against logits made whole, in memory and time.

    python -m benchmarks chunked_loss

Each round makes the loss and its gradient once each way, every time in a process of its own, on a Qwen3-shaped model
of one small layer with Qwen3's vocabulary: what is measured is the head and the loss, the part that the way changes.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.registry import Options
from benchmarks.table import Row

VOCABULARY, TOKENS, ROUNDS = 151_936, 1_024, 3
PROGRAM = """
import json, resource, sys, time
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from realm.heroes import model
parts, tokens, vocabulary = sys.argv[1] == "parts", int(sys.argv[2]), int(sys.argv[3])
if not parts:
    model.LOGITS_AT_ONCE = 2**40
torch.manual_seed(0)
hero = Qwen3ForCausalLM(Qwen3Config(
    vocab_size=vocabulary, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
    head_dim=32, intermediate_size=64, tie_word_embeddings=True))
ids = torch.randint(vocabulary, (1, tokens))
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
loss = model.summed_loss(hero, ids, ids, plain=True)
loss.backward()
norm = hero.model.embed_tokens.weight.grad.norm().item()
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"mb": used / 1024, "s": time.process_time() - begun, "loss": loss.item(), "norm": norm}))
"""


def once(way: str, tokens: int = TOKENS, vocabulary: int = VOCABULARY) -> dict[str, float]:
    """{"mb": further peak memory, "s": CPU seconds, "loss", "norm" of the embedding's gradient}."""
    told = subprocess.run([sys.executable, "-c", PROGRAM, way, str(tokens), str(vocabulary)], check=True,
                          capture_output=True, text=True).stdout  # fmt: skip
    return json.loads(told.splitlines()[-1])


def run(options: Options) -> list[Row]:
    """Memory and time of both ways, paired round by round; how far their results lie apart."""
    rounds = [(once("parts"), once("whole")) for _ in range(1 if options.quick else ROUNDS)]
    rows = []
    for name, key, unit in (("peak memory of loss and gradient", "mb", "MB"), ("CPU time", "s", "s")):
        rows.append(Row(f"{name}, logits in parts", tuple(parts[key] for parts, _ in rounds), unit, "low",
                        f"whole: {TOKENS:,} tokens x {VOCABULARY:,}",
                        ratios=tuple(parts[key] / whole[key] for parts, whole in rounds)))  # fmt: skip
    apart = tuple(max(abs(parts[key] / whole[key] - 1) for key in ("loss", "norm")) for parts, whole in rounds)
    rows.append(Row("loss and gradient norm, relative difference", apart, "", "low", "1e-6 and rounding", 1e-5))
    return rows

"""Peak memory of a training step, measured by following every tensor: for shapes no machine here could hold."""

from __future__ import annotations

import contextlib
import weakref

import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Bytes of living tensor storages, now (`live`) and at most (`peak`)."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = weakref.WeakKeyDictionary()

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        size = self._seen[storage] = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return out


def step_peak(shape: dict, batch: int, length: int, weights: str, precision: str, checkpointing: bool,
              adapters: int = 0, real: bool = False) -> int:  # fmt: skip
    """Peak bytes of forward and backward of the realm's own loss on a Qwen3 of this shape, weights included.

    Sizes are true, numbers are not computed (`real`: they are; adapters need it).
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from realm.heroes.model import summed_loss

    with contextlib.nullcontext() if real or adapters else FakeTensorMode():
        torch.set_default_dtype(getattr(torch, weights))
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
        torch.set_default_dtype(torch.float32)
        if adapters:
            from peft import LoraConfig, get_peft_model

            model = get_peft_model(model, LoraConfig(r=adapters, target_modules="all-linear", task_type="CAUSAL_LM"))
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        ids = torch.ones(batch, length + 1, dtype=torch.long)
        counter = Peak()
        for parameter in model.parameters():
            counter.add(parameter.data)
        with counter:
            # Boolean indexing has no size on fake tensors: every position counts, by hand as `summed_loss` does it.
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = _whole(model, ids) if not (real or adapters) else summed_loss(model, ids, ids, plain=True)
            loss.backward()
        return counter.peak


def _whole(model, ids):
    """`summed_loss` where every label counts: the same operations, chunks included."""
    from torch.utils.checkpoint import checkpoint

    from realm.heroes.modes import LOGITS_AT_ONCE

    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    head, targets = model.get_output_embeddings(), ids[:, 1:].flatten()
    rows = max(1, LOGITS_AT_ONCE // head.weight.shape[0])

    def part(h, t):
        return torch.nn.functional.cross_entropy(head(h).float(), t, reduction="sum")

    if len(targets) <= rows:
        return part(hidden, targets)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.stack([checkpoint(part, h, t, use_reentrant=False) for h, t in parts]).sum()

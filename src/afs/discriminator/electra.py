"""The discriminator itself: an ELECTRA classifier of 65816 assembly, label 0 real, 1 fake.

    model = ASMElectra.load("models/electra")
    model.score("LDA #$10")         # P(real), calibrated

A model folder holds what transformers writes (config, safetensors, tokenizer), `card.json` and `README.md`.
torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from afs.discriminator.blocks import pieces
from afs.step import UsageError, expand

CARD = "card.json"
WEIGHTS = "model.safetensors"
_REMEMBERED = 50_000


def torch_ready() -> Any:
    """torch, set up for this process: one thread unless AFS_TORCH_THREADS says otherwise, no progress bars.

    Raises:
        UsageError: torch or transformers is not installed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import torch
        from transformers.utils import logging
    except ImportError as error:
        raise UsageError(f'the discriminator needs {error.name}: pip install "realm-of-training[training]"') from error
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # Two OpenMP threads beside a busy process run 20 to 100 times slower.
    torch.set_num_threads(int(os.environ.get("AFS_TORCH_THREADS", "1")))
    return torch


def pick_device(name: str) -> str:
    """"cpu" or "cuda[:n]"; "auto" takes CUDA when there is one.

    Raises:
        UsageError: no such device here.
    """
    torch = torch_ready()
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not (name.startswith("cuda") and torch.cuda.is_available()):
        raise UsageError(f"--device {name!r} is not available here; use cpu, or auto to take what there is")
    return name


def read_card(path: Path | str) -> dict[str, Any]:
    """The card of a trained model.

    Raises:
        UsageError: there is no trained model; the message names the command that makes one.
    """
    folder = expand(path)
    make = f"train one: afs discriminator train --input training_data/electra.jsonl --output {path}"
    if not folder.is_dir():
        raise UsageError(f"no ELECTRA model at {folder}; {make}")
    missing = [name for name in (CARD, "config.json", WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{folder} is no trained discriminator ({', '.join(missing)} missing); {make}")
    return orjson.loads((folder / CARD).read_bytes())


class ASMElectra:
    """A loaded model.

    Attributes:
        card: see `afs.discriminator.train`.
        version: of weights and calibration; scores of equal versions are comparable.
        truncated: texts so far that were longer than the model's window, of which only the start was seen.
    """

    def __init__(self, model: Any, tokenizer: Any, *, device: str, max_length: int, temperature: float = 1.0,
                 max_lines: int = 50, card: dict[str, Any] | None = None) -> None:  # fmt: skip
        self.model, self.tokenizer, self.device = model.to(device).eval(), tokenizer, device
        self.max_length, self.temperature, self.max_lines = max_length, temperature, max_lines
        self.card = card or {}
        self.truncated = 0
        self._known: OrderedDict[bytes, float] = OrderedDict()

    @property
    def version(self) -> str:
        return self.card.get("version", "0")

    @classmethod
    def load(cls, path: Path | str, device: str = "auto") -> ASMElectra:
        """A model that `afs discriminator train` made.

        Raises:
            UsageError: there is none, torch is missing, or the device is.
        """
        card = read_card(path)
        where = pick_device(device)
        from transformers import AutoTokenizer, ElectraForSequenceClassification

        folder = str(expand(path))
        model = ElectraForSequenceClassification.from_pretrained(folder, use_safetensors=True)
        return cls(model, AutoTokenizer.from_pretrained(folder), device=where, max_length=card["max_length"],
                   temperature=card["temperature"], max_lines=card["max_lines"], card=card)  # fmt: skip

    def margins(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """logit(real) - logit(fake) of each text. Batches are of texts of like length: no time goes into padding."""
        torch = torch_ready()
        ids = encode(self.tokenizer, texts, self.max_length + 1)
        self.truncated += sum(len(row) > self.max_length for row in ids)
        # An over-long text keeps its start and the mark of its end.
        ids = [row if len(row) <= self.max_length else row[: self.max_length - 1] + row[-1:] for row in ids]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = np.zeros(len(ids))
        pad = self.tokenizer.pad_token_id
        with torch.inference_mode():
            for at in range(0, len(order), batch_size):
                chosen = order[at : at + batch_size]
                longest = len(ids[chosen[-1]])
                batch = torch.tensor([ids[i] + [pad] * (longest - len(ids[i])) for i in chosen])
                mask = torch.tensor([[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in chosen])
                logits = self.model(input_ids=batch.to(self.device), attention_mask=mask.to(self.device)).logits.float()
                found[chosen] = (logits[:, 0] - logits[:, 1]).cpu().numpy()
        return found

    def probabilities(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Calibrated P(real) of each text, each taken as one piece."""
        return 1 / (1 + np.exp(-np.clip(self.margins(texts, batch_size) / self.temperature, -50, 50)))

    def score(self, text: str) -> float:
        """P(real) of a piece of assembly; of a long one the lowest of its parts."""
        return self.score_batch([text])[0]

    def score_batch(self, texts: Sequence[str], batch_size: int = 32) -> list[float]:
        """`score` of each text. Parts that were seen before are not run again."""
        parts = [pieces(text, self.max_lines) for text in texts]
        keys = [[hashlib.sha256(p.encode("utf-8", "replace")).digest()[:16] for p in some] for some in parts]
        here = {key: part for some, names in zip(parts, keys, strict=True)
                for part, key in zip(some, names, strict=True)}  # fmt: skip
        new = [key for key in here if key not in self._known]
        values = dict(zip(new, self.probabilities([here[k] for k in new], batch_size).tolist(), strict=True))
        found = [min(self._known[k] if k in self._known else values[k] for k in names) for names in keys]
        self._known.update(values)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    def predict(self, text: str) -> int:
        """0 real, 1 fake."""
        return int(self.score(text) < 0.5)


def encode(tokenizer: Any, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Token ids of each text with the marks of its start and end, cut to `longest`."""
    if not texts:
        return []
    return tokenizer(list(texts), truncation=True, max_length=longest, add_special_tokens=True)["input_ids"]

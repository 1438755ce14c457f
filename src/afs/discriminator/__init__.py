"""Real or broken 65816 assembly? An ELECTRA discriminator: data, training, scoring, filtering, evaluation.

    afs discriminator data --sources ~/src/game --output training_data/electra.jsonl
    afs discriminator train --input training_data/electra.jsonl --output models/electra --base-model tiny

Names are loaded when they are used; torch only when a model is.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "make_data": "data", "load_examples": "data", "DataReport": "data",
    "KINDS": "corrupt", "Corruption": "corrupt",
    "ASMElectra": "electra",
    "train_discriminator": "train", "TrainConfig": "train", "make_tiny_base": "tiny",
    "score_jsonl": "rows", "filter_jsonl": "rows", "ElectraScorer": "rows", "electra_scorer": "rows",
    "evaluate_model": "evaluate",
}  # fmt: skip
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__

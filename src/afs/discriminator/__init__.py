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
    "corrupt": "corrupt", "KINDS": "corrupt",
    "ASMElectra": "electra", "ElectraConfig": "electra",
    "train": "train", "TrainConfig": "train", "make_tiny_base": "train",
    "score_jsonl": "rows", "filter_jsonl": "rows", "ElectraScorer": "rows", "electra_scorer": "rows",
    "evaluate": "evaluate",
}  # fmt: skip
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_WHERE[name]}")
    return module if name == _WHERE[name] else getattr(module, name)


def __dir__() -> list[str]:
    return __all__

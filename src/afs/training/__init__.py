"""The steps of the refinery. Names are loaded when they are used, so that importing this package costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "generators.base": ("BaseGenerator", "TrainingSample", "iter_samples", "load_samples", "write_samples"),
    "training.asar": ("AsarConfig", "AsarValidator"),
    "training.converters": ("available_converters", "convert_back", "convert_file", "convert_folder", "get_converter",
                            "list_formats", "register_converter"),
    "training.dedup": ("DedupResult", "dedup_jsonl", "explain_duplicate"),
    "training.exports.agents": ("export_claude_to_jsonl", "export_codex_to_jsonl", "export_gemini_to_jsonl"),
    "training.exports.antigravity": ("export_antigravity_to_jsonl",),
    "training.exports.history": ("export_history_to_jsonl", "import_codex_history"),
    "training.exports.memory": ("export_memory_to_jsonl",),
    "training.exports.snapshot": ("snapshot_logs", "verify_snapshot"),
    "training.exports.toolbench": ("export_toolbench_to_jsonl",),
    "training.inspect": ("dataset_stats", "diff_datasets", "validate_jsonl", "view_rows"),
    "training.rebalancer": ("RebalanceResult", "rebalance_dataset", "rebalance_datasets"),
    "training.recipe": ("make_generator", "run_recipe"),
    "training.redaction": ("CustomRule", "RedactionReport", "Redactor", "load_rules", "redact_jsonl"),
    "training.registry": ("ModelRegistry",),
    "training.rehearsal": ("RehearsalBuffer", "RehearsalBufferConfig", "build_rehearsal", "load_rehearsal_buffer",
                           "mix_rehearsal"),
    "training.scoring": ("QualityScore", "QualityScorer", "ScoringConfig", "ScoringWeights", "analyze_scores",
                         "score_jsonl", "score_samples"),
    "training.splitter": ("SplitResult", "split_dataset"),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted([*_HOME, "export_to_jsonl"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'afs.training' has no attribute {name!r}")
    value = getattr(import_module(f"afs.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def export_to_jsonl(samples: Any, output_path: Any, limit: int | None = None) -> int:
    """Write samples (`TrainingSample`s, dicts, or a generator of either) as JSONL, atomically; returns how many.

    Raises:
        afs.generators.base.SampleError: a dict is no sample; the message names its place.
    """
    from itertools import islice
    from pathlib import Path

    from afs.generators.base import TrainingSample
    from afs.jsonl import AtomicWriter

    with AtomicWriter(Path(output_path).expanduser()) as out:
        for place, sample in enumerate(islice(samples, limit), 1):
            made = sample if isinstance(sample, TrainingSample) else TrainingSample.from_dict(sample, place)
            out.write(made.to_dict())
    return out.rows

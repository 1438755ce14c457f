"""The discriminator against what it has to beat, in one table, on source files that it was not trained on.

    afs discriminator evaluate --model models/electra --input training_data/electra.jsonl

A model whose AUC is below the opcode table's is not to be used by default: the verdict and the card say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from afs.discriminator import metrics
from afs.discriminator.baselines import NgramModel, length_scores, random_scores, rule_scores
from afs.discriminator.data import Example, load_examples
from afs.jsonl import file_sha256
from afs.step import UsageError, expand

MODEL, RULE = "electra", "opcode table"
ENOUGH_ROWS = 50
"""Held-out rows of each class below which an AUC says too little (its interval is wider than 0.2)."""


@dataclass(frozen=True)
class Line:
    """One scorer of the table. AUC with its 95 % interval over source files; nan where it cannot be told.

    Attributes:
        precision: average precision of finding fakes.
        calibration: expected calibration error of P(real); nan for scores that are no probabilities.
        by_kind: AUC on the fakes of one corruption and their real twins.
        left_out: the same for a model that never saw that corruption; empty when that was not measured.
    """

    scorer: str
    auc: float
    low: float
    high: float
    precision: float
    calibration: float
    by_kind: dict[str, float]
    left_out: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The table, what it was measured on, and the verdict."""

    data_sha256: str
    split: str
    real: int
    fake: int
    groups: int
    lines: list[Line]
    default: bool
    verdict: str
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> str:
        """The table as text."""
        kinds = list(self.lines[0].by_kind)
        rows = [["scorer", "AUC", "95 %", "avg. precision", "ECE", *kinds]]
        for line in self.lines:
            interval = f"{_shown(line.low)}–{_shown(line.high)}"
            rows.append([line.scorer, _shown(line.auc), interval, _shown(line.precision), _shown(line.calibration),
                         *(_shown(line.by_kind[kind]) for kind in kinds)])  # fmt: skip
            if line.left_out:
                rows.append([f"{line.scorer}, kind left out", "", "", "", "",
                             *(_shown(line.left_out.get(kind, float("nan"))) for kind in kinds)])  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        head = (f"discriminator on {self.real:,} real and {self.fake:,} fake routines of {self.groups:,} source files "
                f"(split {self.split}); columns of corruptions are AUC")  # fmt: skip
        return "\n".join([head, *table, self.verdict, *self.notes])


def _shown(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"


def evaluate_model(
    model: Path | str | Any, data: Path | str, *, split: str = "test", samples: int = 1000, seed: int = 42,
    batch_size: int = 32, device: str = "auto", left_out: dict[str, float] | None = None,
) -> Evaluation:  # fmt: skip
    """The table for a trained model (a folder or a loaded `ASMElectra`).

    Args:
        split: rows to judge on; "all" takes every row (only honest for data that the model was not trained on).
        samples: bootstrap samples of source files.
        left_out: AUCs of models that were trained without one corruption, from `afs discriminator train`; default what
            the model's card has for the same data.

    Raises:
        UsageError: no model or data, or the split holds no real or no fake rows.
    """
    from afs.discriminator.electra import ASMElectra

    loaded = model if isinstance(model, ASMElectra) else ASMElectra.load(model, device)
    examples = load_examples(data)
    chosen = examples if split == "all" else [e for e in examples if e.split == split]
    real = sum(e.label == 0 for e in chosen)
    if not real or real == len(chosen):
        have = ", ".join(sorted({e.split for e in examples}))
        raise UsageError(f"split {split!r} of {data} has {real} real and {len(chosen) - real} fake rows, both kinds "
                         f"are needed; splits in the file: {have}. Data from three or more source files has all "
                         f"splits")  # fmt: skip
    sha = file_sha256(expand(data))
    if left_out is None and loaded.card.get("data", {}).get("sha256") == sha:
        left_out = loaded.card.get("left_out")
    train = [e for e in examples if e.split == "train"] if split != "all" else []
    scores = loaded.probabilities([e.text for e in chosen], batch_size)
    lines = [_line(MODEL, scores, chosen, samples, seed, left_out=left_out or {})]
    lines += _baselines(train, chosen, samples, seed)
    groups = len({e.group for e in chosen})
    default, verdict = _verdict(lines, min(real, len(chosen) - real), groups)
    return Evaluation(sha, split, real, len(chosen) - real, groups, lines, default, verdict,
                      _notes(loaded, chosen, left_out))  # fmt: skip


def _baselines(train: Sequence[Example], chosen: Sequence[Example], samples: int, seed: int) -> list[Line]:
    found = [_line(RULE, rule_scores(chosen), chosen, samples, seed, calibrated=False)]
    if train:
        def held_out(kind: str) -> np.ndarray:
            return NgramModel([e for e in train if e.corruption != kind]).scores(chosen)

        kinds = _kinds(chosen)
        left = {kind: _of_kind(held_out(kind), chosen, kind) for kind in kinds} if len(kinds) > 1 else {}
        found.append(_line("n-grams", NgramModel(train).scores(chosen), chosen, samples, seed, left_out=left))
        found.append(_line("length", length_scores(train, chosen), chosen, samples, seed, calibrated=False))
    found.append(_line("random", random_scores(chosen, seed), chosen, samples, seed, calibrated=False))
    return found


def _kinds(examples: Sequence[Example]) -> list[str]:
    return sorted({e.corruption for e in examples if e.label == 1 and e.corruption})


def _of_kind(scores: np.ndarray, examples: Sequence[Example], kind: str) -> float:
    # Against the real twins of these fakes, so that a kind that fits long routines only is not told by length.
    twins = {e.twin for e in examples if e.corruption == kind}
    paired = any(e.label == 0 and e.twin in twins for e in examples)
    chosen = np.array([e.corruption == kind or (e.label == 0 and (not paired or e.twin in twins)) for e in examples])
    return metrics.auc(np.asarray(scores)[chosen], np.array([e.label for e in examples])[chosen])


def _line(
    name: str, scores: np.ndarray, examples: Sequence[Example], samples: int, seed: int, *, calibrated: bool = True,
    left_out: dict[str, float] | None = None,
) -> Line:  # fmt: skip
    labels, groups = [e.label for e in examples], [e.group for e in examples]
    low, high = metrics.auc_interval(scores, labels, groups, samples, seed)
    error = metrics.calibration_error(scores, labels) if calibrated else float("nan")
    by_kind = {kind: _of_kind(scores, examples, kind) for kind in _kinds(examples)}
    return Line(name, metrics.auc(scores, labels), low, high, metrics.average_precision(scores, labels), error, by_kind,
                dict(left_out or {}))  # fmt: skip


def _verdict(lines: Sequence[Line], fewest: int, groups: int) -> tuple[bool, str]:
    by_name = {line.scorer: line for line in lines}
    model, rule = by_name[MODEL], by_name[RULE]
    if fewest < ENOUGH_ROWS or groups < 2:
        return False, (f"NOT fit for default use: {fewest} held-out routines of a class from {groups} source files are "
                       f"too few to tell ({ENOUGH_ROWS} from 2 are needed)")  # fmt: skip
    if model.auc >= rule.auc:
        return True, f"fit for default use: AUC {model.auc:.3f} against {rule.auc:.3f} of the opcode table"
    return False, (f"NOT fit for default use: AUC {model.auc:.3f} is below {rule.auc:.3f} of the opcode table, which "
                   f"needs no model")  # fmt: skip


def _notes(loaded: Any, chosen: Sequence[Example], left_out: dict[str, float] | None) -> list[str]:
    found = []
    seen = set(loaded.card.get("train_groups", ()))
    if seen and (n := len({e.group for e in chosen if group_key(e.group) in seen})):
        found.append(f"warning: {n} of these source files were trained on; the numbers of the model are too good")
    if loaded.truncated:
        found.append(f"{loaded.truncated:,} are longer than {loaded.max_length} tokens: their ends were not seen")
    if not left_out:
        found.append("leave-one-corruption-out of the model was not measured: afs discriminator train --leave-one-out")
    return found


def group_key(group: str) -> str:
    """What a card keeps of a source file's name."""
    return hashlib.sha256(group.encode()).hexdigest()[:12]


Fit = Callable[[Sequence[Example], Sequence[Example], str], Any]


def leave_one_out(
    fit: Fit, train: Sequence[Example], val: Sequence[Example], test: Sequence[Example]
) -> dict[str, float]:
    """AUC on each corruption of a model that was trained without it. `fit(train, val, kind)` gives an `ASMElectra`."""
    found = {}
    for kind in _kinds(test):
        model = fit([e for e in train if e.corruption != kind], [e for e in val if e.corruption != kind], kind)
        found[kind] = _of_kind(model.probabilities([e.text for e in test]), test, kind)
    return found

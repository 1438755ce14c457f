"""Scores and filters JSONL with a trained discriminator; `ElectraScorer` is the signal of the quality score.

    afs discriminator score --model models/electra --input raw.jsonl --output scored.jsonl
    afs discriminator filter --model models/electra --input raw.jsonl --output good.jsonl --min-score 0.6

Judged is the assembly in a row's output: every fenced block, or the whole output when it is code itself. A row's
`_electra_score` is the lowest of its blocks; without assembly it is null and the row is counted as such.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from afs.discriminator.blocks import code_blocks
from afs.discriminator.electra import ASMElectra, read_card
from afs.jsonl import Row
from afs.rows import see_value
from afs.step import How, Mapped, Report, Step, StepError, UsageError, map_rows

DIGITS = 4
"""Scores are written with four decimals, and thresholds are compared with what is written."""
NO_CODE = "not applicable: no 65816 assembly in the output"
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class RowsReport:
    """What scoring or filtering a file gave; `details` has scored, without_code, mean, min, max, truncated."""

    report: Report

    @property
    def details(self) -> dict[str, Any]:
        return self.report.details

    def summary(self) -> str:
        return self.report.summary()


def block_scores(model: ASMElectra, outputs: Sequence[str], batch_size: int = 32) -> list[float | None]:
    """The lowest P(real) of the assembly in each text, None without any."""
    blocks = [[block.text for block in code_blocks(text)] for text in outputs]
    scores = iter(model.score_batch([text for some in blocks for text in some], batch_size))
    return [min(round(next(scores), DIGITS) for _ in some) if some else None for some in blocks]


def score_jsonl(
    model: Path | str, input: Path | str, output: Path | str, *, batch_size: int = 32, device: str = "auto",
    how: How | None = None,
) -> RowsReport:  # fmt: skip
    """Add `_electra_score`, `quality_score` and the components of the latter to every row.

    `quality_score` is the ELECTRA score; for rows without assembly it comes from the other signals of the quality
    score that apply (afs.training.scoring), as their weight goes to the others. A later `--min-quality-score` thus
    does not throw away what is no code.

    Raises:
        UsageError: no model, no input, output is the input.
        StepError: the input has no rows.
    """
    return _run("discriminator-score", model, input, {"out": output}, None, False, batch_size, device, how)


def filter_jsonl(
    model: Path | str, input: Path | str, output: Path | str, *, rejected: Path | str | None = None,
    min_score: float = 0.5, keep_unscored: bool = False, batch_size: int = 32, device: str = "auto",
    how: How | None = None,
) -> RowsReport:  # fmt: skip
    """Keep the rows with `_electra_score` >= `min_score`; the others are counted and go to `rejected` if given.

    Args:
        keep_unscored: keep rows without assembly, too; else they have not reached the threshold.

    Raises:
        UsageError: no model, no input, output is the input, threshold outside 0 to 1.
        StepError: no row is left.
    """
    if not 0 <= min_score <= 1:
        raise UsageError(f"--min-score must be from 0 to 1, not {min_score}")
    outputs = {"out": output} if rejected is None else {"out": output, "rejected": rejected}
    return _run("discriminator-filter", model, input, outputs, min_score, keep_unscored, batch_size, device, how)


def _run(
    name: str, model: Path | str, input: Path | str, outputs: dict[str, Path | str], low: float | None, keep: bool,
    batch_size: int, device: str, how: How | None,
) -> RowsReport:  # fmt: skip
    if batch_size < 1:
        raise UsageError(f"--batch-size must be 1 or more, not {batch_size}")
    card = read_card(model)
    parameters = {"model": card["version"], "min_score": low, "keep_unscored": keep, "rejected": "rejected" in outputs}
    # One process: the model is loaded once, and torch has its own threads.
    how = replace(how or How(), workers=1, engine="local")
    with Step(name, [input], list(outputs.values()), parameters, how=how) as step:
        if step.current:
            return RowsReport(step.report)
        rows = _Rows(ASMElectra.load(model, device), low, keep, "rejected" in outputs, batch_size)
        with ExitStack() as files:
            writers = {channel: files.enter_context(step.writer(path)) for channel, path in outputs.items()}
            map_rows(step, rows, writers, batch=max(512, 8 * batch_size))
            _report(step, rows, card, low)
    return RowsReport(step.report)


@dataclass
class _Rows:
    """Scores batches of rows; the batches are long so that texts of like length meet."""

    model: ASMElectra
    low: float | None
    keep: bool
    rejected: bool
    batch_size: int
    scores: list[float] = field(default_factory=lambda: [0, 0.0, 1.0, 0.0])  # rows, sum, min, max
    without: int = 0

    def __post_init__(self) -> None:
        self.other = None
        if self.low is None:
            from afs.training.scoring import QualityScorer, ScoringConfig

            self.other = QualityScorer(ScoringConfig(use_electra=False, use_asar=False))

    def __call__(self, rows: list[Row]) -> Iterable[Mapped]:
        outputs = [_output(row.value) for row in rows]
        good = [text for text in outputs if text is not None]
        scored = iter(block_scores(self.model, good, self.batch_size))
        return [Mapped("quarantined", {}, _fault(row.value)) if text is None else self._row(row, next(scored))
                for row, text in zip(rows, outputs, strict=True)]  # fmt: skip

    def _row(self, row: Row, score: float | None) -> Mapped:
        if score is None:
            self.without += 1
        else:
            n, total, low, high = self.scores
            self.scores = [n + 1, total + score, min(low, score), max(high, score)]
        if self.low is None:
            return Mapped("out", {"out": self._with_quality(row, score)})
        raw = _with(row.raw, {"_electra_score": score})
        if (self.keep if score is None else score >= self.low):
            return Mapped("out", {"out": raw})
        return Mapped("filtered", {"rejected": raw} if self.rejected else {})

    def _with_quality(self, row: Row, score: float | None) -> bytes:
        components: dict[str, Any] = {f"electra@{self.model.version}": score}
        found: dict[str, Any] = {"_electra_score": score}
        if score is not None:
            found["quality_score"] = score
        else:
            quality = self.other.score({key: v for key, v in row.value.items() if key != "quality_score"})
            components.update({key: round(v, DIGITS) for key, v in quality.components.items() if v == v})
            if quality.overall == quality.overall:
                found["quality_score"] = round(quality.overall, DIGITS)
        found["_metadata"] = {**(row.value.get("_metadata") or {}), "quality_components": components}
        return _with(row.raw, found)


def _with(raw: bytes, changes: dict[str, Any]) -> bytes:
    """The row with some keys set; every other value keeps its own bytes."""
    fields: dict[str, Any] = _raw_fields(raw)
    fields.update(changes)
    return _encode(fields)


def _output(row: dict[str, Any]) -> str | None:
    """A row's answer as text, None when it is no row (see `_fault`)."""
    if not isinstance(row.get("_metadata"), dict | None):
        return None
    if type(row.get("output")) is str and type(row.get("instruction")) is str:
        return row["output"]
    view = see_value({key: value for key, value in row.items() if key != "quality_score"})
    return None if isinstance(view, str) else view.output


def _fault(row: dict[str, Any]) -> str:
    if not isinstance(row.get("_metadata"), dict | None):
        return "wrong type: '_metadata' must be an object, it takes the components of the score"
    return str(see_value({key: value for key, value in row.items() if key != "quality_score"}))


def _report(step: Step, rows: _Rows, card: dict[str, Any], low: float | None) -> None:
    c, (n, total, least, most) = step.counts, rows.scores
    if not c.out:
        if c.filtered:
            best = f"the best score is {most}" if n else "none of them has 65816 assembly in its output"
            raise StepError(f"none of {c.filtered:,} rows reaches --min-score {low}: {best}; lower the threshold, or "
                            f"use --keep-unscored for rows without assembly")  # fmt: skip
        raise StepError(f"no row could be scored ({c.read:,} read, {c.quarantined:,} bad, {c.blank:,} blank lines)")
    step.details.update(
        scored=int(n), without_code=rows.without, mean=round(total / n, DIGITS) if n else None,
        min=least if n else None, max=most if n else None, truncated=rows.model.truncated, model=card["version"],
        default=card["default"],
    )  # fmt: skip
    if n:
        step.note(f"ELECTRA {card['version']} on {int(n):,} rows: mean {total / n:.3f}, {least:.3f} to {most:.3f}")
    if rows.without:
        what = "their quality_score is from the other signals" if low is None else "kept" if rows.keep else "filtered"
        step.note(f"{rows.without:,} rows have no 65816 assembly in their output: {what}")
    if rows.model.truncated:
        step.note(f"{rows.model.truncated:,} parts are longer than {rows.model.max_length} tokens: ends not seen")
    if not card["default"]:
        step.note(f"note: this model is {card['verdict'][0].lower()}{card['verdict'][1:]}".replace("is nOT", "is NOT"))


# --- the signal of the quality score -------------------------------------------------------------------------------


class ElectraScorer:
    """The signal "electra" of `afs.training.scoring` (protocol `Scorer`); picklable, the model is loaded on first use.

    Args:
        path: folder of a trained model.

    Raises:
        UsageError: there is no trained model.
    """

    name = "electra"
    needs = ("output",)

    def __init__(self, path: Path | str, device: str = "auto", batch_size: int = 32) -> None:
        self.path, self.device, self.batch_size = str(path), device, batch_size
        self.version: str = read_card(path)["version"]
        self._model: ASMElectra | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}

    def missing(self) -> str:
        lost = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
        return f'{" and ".join(lost)} not installed: pip install "realm-of-training[training]"' if lost else ""

    def score(self, batch: Sequence[Any]) -> Any:
        """`Values` of the items' outputs; nan where there is no assembly."""
        from afs.training.signals import Values

        if self._model is None:
            self._model = ASMElectra.load(self.path, self.device)
        found = block_scores(self._model, [item.output for item in batch], self.batch_size)
        return Values([float("nan") if v is None else v for v in found], [NO_CODE if v is None else "" for v in found])


def electra_scorer(config: Any) -> ElectraScorer:
    """The scorer for a `ScoringConfig` with `electra_model_path` (entry point `electra` of `afs.scorers`)."""
    return ElectraScorer(config.electra_model_path, config.device, min(config.batch_size, 64))

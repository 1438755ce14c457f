"""Quality of a sample from several signals: ELECTRA, asar, known addresses, length.

    afs training score --input raw.jsonl --output scored.jsonl --score-profile asm --min-score 0.5

A signal that cannot run, or that says nothing about a sample, is absent: nan in Python, null in JSON, its weight goes
to the others, and the reason is reported. There are no neutral constants. Rows keep the raw values in
`_metadata.quality_components` as `scorer@version`, so weights can be changed later without scoring again.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from afs.generators.base import TrainingSample
from afs.jsonl import Row
from afs.rows import see_value
from afs.step import How, Mapped, Report, Step, StepError, map_rows
from afs.training.entities import coverage
from afs.training.signals import (
    ABSENT,
    OWN,
    PROFILES,
    EntityScorer,
    Item,
    Scorer,
    ScoringConfig,
    ScoringError,
    ScoringWeights,
    Values,
    default_scorers,
)

__all__ = ["PROFILES", "Item", "QualityScore", "QualityScorer", "ScoreReport", "Scorer", "ScoringConfig",
           "ScoringError", "ScoringWeights", "Values", "analyze_scores", "default_scorers", "score_jsonl",
           "score_samples"]  # fmt: skip
_DIGITS = 6
"""Scores are written with six decimals; the threshold is compared with what is written."""


# --- scores ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QualityScore:
    """Scores of one sample from 0 to 1; nan = absent, and `reasons[signal]` says why.

    Attributes:
        asar_valid: True, False or nan.
        components: raw values by `scorer@version`; by the bare name for a signal that could not run.
        entity_count, known_entity_count: addresses in the output.
    """

    overall: float
    electra_score: float = ABSENT
    asar_valid: bool | float = ABSENT
    entity_coverage: float = ABSENT
    length_score: float = ABSENT
    components: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    entity_count: int = 0
    known_entity_count: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON values; absent is None."""
        found = {f.name: _null(getattr(self, f.name)) for f in fields(self)}
        found["components"] = {name: _null(value) for name, value in self.components.items()}
        found["reasons"] = dict(self.reasons)
        return found


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value


class _Scored(NamedTuple):
    overall: list[float]
    values: list[list[float]]  # per scorer
    why: list[list[str]]  # per scorer


class QualityScorer:
    """Scores samples by weighted signals.

    Args:
        config: default `ScoringConfig()`.
        scorers: the signals to run, default `default_scorers(config)`; for worker processes they must be picklable.

    Raises:
        ScoringError: see `default_scorers`; or no signal with a weight above 0 can run.
    """

    def __init__(self, config: ScoringConfig | None = None, scorers: Sequence[Scorer] | None = None) -> None:
        self.config = config or ScoringConfig()
        self.scorers = list(scorers) if scorers is not None else default_scorers(self.config)
        weights = self.config.weights.to_dict()
        named = {s.name for s in self.scorers}
        for name in weights:
            if weights[name] and name not in named and name not in OWN:
                raise ScoringError(f"weight for {name!r}, but no such scorer runs; running: {', '.join(sorted(named))}")
        self.weights = [weights.get(s.name, 0.0) for s in self.scorers]
        self.missing = {s.name: why for s in self.scorers if (why := s.missing())}
        if not any(w for s, w in zip(self.scorers, self.weights, strict=True) if s.name not in self.missing):
            raise ScoringError("no signal with a weight above 0 can run: "
                               + "; ".join(f"{name}: {why}" for name, why in self.missing.items()))  # fmt: skip

    @cached_property
    def keys(self) -> list[str]:
        """Names of the components in the scorers' order."""
        return [s.name if s.name in self.missing else f"{s.name}@{s.version}" for s in self.scorers]

    def score(self, sample: TrainingSample | dict[str, Any]) -> QualityScore:
        """The scores of one sample; the sample stays as it is."""
        return self.score_batch([sample], update_samples=False)[0]

    def score_batch(
        self, samples: Sequence[TrainingSample | dict[str, Any]], update_samples: bool = True
    ) -> list[QualityScore]:
        """Scores in order. With `update_samples` each sample gets `quality_score` (0.0 when no signal applies) and
        `_metadata["quality_components"]`.

        Raises:
            ValueError: a sample is a dict of an unknown format.
        """
        found: list[QualityScore] = []
        for at in range(0, len(samples), self.config.batch_size):
            batch = samples[at : at + self.config.batch_size]
            items = [_item_of(sample) for sample in batch]
            found += self._quality(items, self.score_items(items))
        if update_samples:
            for sample, quality in zip(samples, found, strict=True):
                _update(sample, quality)
        return found

    def score_items(self, items: Sequence[Item]) -> _Scored:
        """Overall scores, and per scorer its values and reasons."""
        values, why = [], []
        for scorer in self.scorers:
            if not items:
                got = Values([], [])
            elif scorer.name in self.missing:
                got = Values([ABSENT] * len(items), [self.missing[scorer.name]] * len(items))
            else:
                got = scorer.score(items)
                if len(got.values) != len(items) or len(got.why) != len(items):
                    raise StepError(f"scorer {scorer.name} gave {len(got.values)} values for {len(items)} samples")
            values.append(got.values)
            why.append(got.why)
        overall = [_mean(of_item, self.weights) for of_item in zip(*values, strict=True)]
        return _Scored(overall, values, why)

    def _quality(self, items: Sequence[Item], scored: _Scored) -> Iterable[QualityScore]:
        entity = next((s for s in self.scorers if isinstance(s, EntityScorer)), None)
        for n, item in enumerate(items):
            by_name = {s.name: scored.values[i][n] for i, s in enumerate(self.scorers)}
            asar = by_name.get("asar", ABSENT)
            seen = coverage(item.output, entity.symbols) if entity else None
            yield QualityScore(
                scored.overall[n], by_name.get("electra", ABSENT), asar >= 0.5 if asar == asar else ABSENT,
                by_name.get("entity", ABSENT), by_name.get("length", ABSENT),
                {key: scored.values[i][n] for i, key in enumerate(self.keys)},
                {s.name: scored.why[i][n] for i, s in enumerate(self.scorers) if scored.why[i][n]},
                seen.total if seen else 0, seen.known if seen else 0,
            )  # fmt: skip


def _mean(values: Iterable[float], weights: Sequence[float]) -> float:
    """Weighted mean of the values that are there; nan when none is."""
    total = whole = 0.0
    for value, weight in zip(values, weights, strict=True):
        if value == value:
            total += weight * value
            whole += weight
    return total / whole if whole else ABSENT


def _item_of(sample: TrainingSample | dict[str, Any]) -> Item:
    if isinstance(sample, TrainingSample):
        return Item(sample.instruction, sample.output, sample.input, sample.domain, sample.source)
    item = _item(sample)
    if isinstance(item, str):
        raise ValueError(f"this row cannot be scored: {item}")
    return item


def _item(row: dict[str, Any]) -> Item | str:
    """What scorers see of a parsed row, or why it is none."""
    if not isinstance(row.get("_metadata"), dict | None):
        return "wrong type: '_metadata' must be an object, it takes the components of the score"
    instruction, output = row.get("instruction"), row.get("output")
    if type(instruction) is str and type(output) is str:
        more, domain, source = row.get("input"), row.get("domain"), row.get("source")
        return Item(instruction, output, more if type(more) is str else "",
                    domain if type(domain) is str else "general", source if type(source) is str else "")  # fmt: skip
    view = see_value({key: value for key, value in row.items() if key != "quality_score"})
    if isinstance(view, str):
        return view
    return Item(view.instruction, view.output, view.input or "", view.domain or "general", view.source or "")


def _update(sample: TrainingSample | dict[str, Any], quality: QualityScore) -> None:
    components = {name: _null(value) for name, value in quality.components.items()}
    overall = quality.overall if quality.overall == quality.overall else 0.0
    if isinstance(sample, TrainingSample):
        sample.quality_score = overall
        sample._metadata["quality_components"] = components
    else:
        sample["quality_score"] = overall
        sample["_metadata"] = {**(sample.get("_metadata") or {}), "quality_components": components}


def score_samples(
    samples: Sequence[TrainingSample | dict[str, Any]], config: ScoringConfig | None = None
) -> list[QualityScore]:
    """Score samples in memory and write the scores into them."""
    return QualityScorer(config).score_batch(samples)


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What rows scored; parts are added in order, so the sums are the same for any number of workers."""

    scored: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    bins: Counter[int] = field(default_factory=Counter)
    ran: Counter[str] = field(default_factory=Counter)
    absent: dict[str, Counter[str]] = field(default_factory=dict)

    def take(self, scorer: QualityScorer, overall: Sequence[float], scored: _Scored) -> None:
        there = [value for value in overall if value == value]
        if there:
            self.scored += len(there)
            self.total += math.fsum(there)
            self.low, self.high = min(self.low, *there), max(self.high, *there)
            self.bins.update(map(_bin, there))
        for signal, values, why in zip(scorer.scorers, scored.values, scored.why, strict=True):
            name = signal.name
            if name in scorer.missing:
                _add_reasons(self.absent, name, {scorer.missing[name]: len(values)})
                continue
            reasons = [reason for value, reason in zip(values, why, strict=True) if value != value]
            self.ran[name] += len(values) - len(reasons)
            if reasons:
                _add_reasons(self.absent, name, Counter(reasons))

    def add(self, other: _Tally) -> None:
        self.scored += other.scored
        self.total += other.total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.bins.update(other.bins)
        self.ran.update(other.ran)
        for name, reasons in other.absent.items():
            _add_reasons(self.absent, name, reasons)

    def histogram(self) -> dict[str, int]:
        """Rows per tenth of the score; 1.0 is in the last one."""
        return {f"{i / 10:.1f}-{(i + 1) / 10:.1f}": self.bins[i] for i in range(10)}


_MOST_REASONS = 20
_OTHER_REASONS = "other reasons"


def _add_reasons(absent: dict[str, Counter[str]], name: str, reasons: Mapping[str, int]) -> None:
    """Add rows per reason; an assembler's message may differ from row to row, so that only some are kept apart."""
    mine = absent.setdefault(name, Counter())
    for reason, rows in reasons.items():
        mine[reason if reason in mine or len(mine) < _MOST_REASONS else _OTHER_REASONS] += rows


def _bin(value: float) -> int:
    return min(max(int(value * 10 + 1e-9), 0), 9)


@lru_cache(maxsize=4)
def _scorer_of(config: ScoringConfig, identity: tuple[str, ...]) -> QualityScorer:
    """One scorer per process and identity, so that a model is loaded once and not with every part."""
    return QualityScorer(config)


_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class _ScoreRows:
    """Scores batches of rows; travels to worker processes."""

    def __init__(self, make: Callable[[], QualityScorer], low: float | None, keep: bool) -> None:
        self.make, self.low, self.keep = make, low, keep
        self.tally = _Tally()
        self._made: QualityScorer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}

    def take_extra(self) -> _Tally:
        found, self.tally = self.tally, _Tally()
        return found

    def __call__(self, rows: list[Row]) -> Iterable[Mapped]:
        if self._made is None:
            self._made = self.make()
        scorer = self._made
        seen = [_item(row.value) for row in rows]
        items = [item for item in seen if not isinstance(item, str)]
        scored = scorer.score_items(items)
        overall = [round(value, _DIGITS) for value in scored.overall]
        self.tally.take(scorer, overall, scored)
        done = iter(zip(overall, *scored.values, strict=True))
        # A reason instead of an item means that the row was not scored.
        results = [item if isinstance(item, str) else next(done) for item in seen]
        return [self._row(row, result) for row, result in zip(rows, results, strict=True)]

    def _row(self, row: Row, done: str | tuple[float, ...]) -> Mapped:
        """What becomes of a row with these values (overall first), or with this reason to set it aside."""
        if isinstance(done, str):
            return Mapped("quarantined", {}, done)
        try:
            raw = _with_score(row.raw, done[0], self._made.keys, done[1:])
        except (msgspec.DecodeError, RecursionError) as error:  # nested deeper than the second parser goes
            return Mapped("quarantined", {}, f"bad JSON: {error}")
        # A row that no signal applies to (nan) has not reached the threshold.
        if self.low is None or done[0] >= self.low:
            return Mapped("out", {"out": raw})
        return Mapped("filtered", {"rejected": raw} if self.keep else {})


def _with_score(raw: bytes, overall: float, keys: Sequence[str], values: Sequence[float]) -> bytes:
    """The row with its scores; every other value keeps its own bytes, numbers and escapes included."""
    row: dict[str, Any] = _raw_fields(raw)
    row["quality_score"] = overall  # the encoder writes nan as null
    old = row.get("_metadata")
    metadata: dict[str, Any] = {} if old is None or bytes(old) == b"null" else _raw_fields(old)
    metadata["quality_components"] = {key: round(v, _DIGITS) for key, v in zip(keys, values, strict=True)}
    row["_metadata"] = metadata
    return _encode(row)


@dataclass(frozen=True)
class ScoreReport:
    """What scoring a file gave; `signals[name]` has `ran` (rows) and `absent` (rows per reason)."""

    report: Report

    @property
    def details(self) -> dict[str, Any]:
        return self.report.details

    @property
    def input_count(self) -> int:
        return self.report.counts.read

    @property
    def output_count(self) -> int:
        return self.report.counts.out

    @property
    def filtered_count(self) -> int:
        return self.report.counts.filtered

    @property
    def mean_score(self) -> float | None:
        return self.details["mean"]

    @property
    def min_score(self) -> float | None:
        return self.details["min"]

    @property
    def max_score(self) -> float | None:
        return self.details["max"]

    @property
    def histogram(self) -> dict[str, int]:
        return self.details["histogram"]

    @property
    def signals(self) -> dict[str, Any]:
        return self.details["signals"]

    def summary(self) -> str:
        """Counts, the range of the scores, and which signals ran."""
        return self.report.summary()


def score_jsonl(
    input_path: Path | str,
    output_path: Path | str,
    config: ScoringConfig | None = None,
    min_score: float | None = None,
    *,
    rejected: Path | str | None = None,
    scorers: Sequence[Scorer] | None = None,
    workers: int | None = None,
    how: How | None = None,
) -> ScoreReport:
    """Score every row of a JSONL file: `quality_score` and `_metadata.quality_components` are set, the rest stays.

    Args:
        min_score: rows below it, and rows that no signal applies to, are filtered out (and counted).
        rejected: file for the filtered rows.
        scorers: signals instead of those of the config.
        workers: processes, instead of `how.workers`.

    Raises:
        UsageError: missing input, output that is also an input, settings that cannot run, `rejected` without a
            threshold.
        StepError: no row is left.
    """
    config, how = config or ScoringConfig(), how or How()
    if workers is not None:
        how = replace(how, workers=workers)
    if min_score is not None and not 0 <= min_score <= 1:
        raise ScoringError(f"min_score must be from 0 to 1, not {min_score}")
    if rejected is not None and min_score is None:
        raise ScoringError("rejected rows need a threshold: give min_score as well")
    scorer = QualityScorer(config, scorers)  # here, so that wrong settings fail before a file is touched
    identity = (*scorer.keys, *_symbols_key(scorer))
    parameters = {**config.to_dict(), "min_score": min_score, "rejected": rejected is not None,
                  "identity": identity, "missing": scorer.missing}  # fmt: skip
    outputs = {"out": output_path} if rejected is None else {"out": output_path, "rejected": rejected}
    with Step("score", [input_path], list(outputs.values()), parameters, how=how) as step:
        if step.current:
            return ScoreReport(step.report)
        make = partial(_scorer_of, config, identity) if scorers is None else partial(QualityScorer, config, scorers)
        rows = _ScoreRows(make, min_score, rejected is not None)
        with ExitStack() as files:
            writers = {name: files.enter_context(step.writer(path)) for name, path in outputs.items()}
            _report(step, scorer, _total(step, map_rows(step, rows, writers, batch=config.batch_size), min_score))
    return ScoreReport(step.report)


def _symbols_key(scorer: QualityScorer) -> list[str]:
    """The symbols that decide entity coverage, by content, so that a changed equate file is scored again."""
    tables = [sorted(s.symbols.by_name.items()) for s in scorer.scorers if isinstance(s, EntityScorer)]
    return [hashlib.sha256(repr(table).encode()).hexdigest()[:16] for table in tables if table]


def _total(step: Step, tallies: list[_Tally], min_score: float | None) -> _Tally:
    """The tallies added up.

    Raises:
        StepError: no row is left.
    """
    total = _Tally()
    for tally in tallies:
        total.add(tally)
    c = step.counts
    if not c.out and c.filtered:
        best = f"the best score is {total.high:.3f}" if total.scored else "no signal applies to any of them"
        raise StepError(f"none of {c.filtered:,} rows reaches min_score {min_score}: {best}; lower the threshold")
    if not c.out:
        raise StepError(f"no row could be scored ({c.read:,} read, {c.quarantined:,} bad)")
    return total


def _report(step: Step, scorer: QualityScorer, total: _Tally) -> None:
    mean = total.total / total.scored if total.scored else None
    signals = {s.name: {"weight": w, "ran": total.ran[s.name], "absent": dict(total.absent.get(s.name, {}))}
               for s, w in zip(scorer.scorers, scorer.weights, strict=True)}  # fmt: skip
    step.details.update(
        scored=total.scored, mean=None if mean is None else round(mean, _DIGITS),
        min=None if mean is None else total.low, max=None if mean is None else total.high,
        histogram=total.histogram(), signals=signals,
    )  # fmt: skip
    if mean is not None:
        step.note(f"scores: mean {mean:.3f}, {total.low:.3f} to {total.high:.3f}")
    for name, found in signals.items():
        ran = f"ran on {found['ran']:,} rows" if found["ran"] else "did not run"
        why = "; ".join(f"{n:,} rows: {reason}" for reason, n in found["absent"].items())
        step.note(f"  {name} (weight {found['weight']:g}) {ran}" + (f" — {why}" if why else ""))


def analyze_scores(scores: Sequence[QualityScore]) -> dict[str, Any]:
    """Statistics of scores in memory: per signal count, mean, min, max (None without values), histogram of overall."""
    found: dict[str, Any] = {"count": len(scores)}
    for name, key in (("overall", "overall"), ("electra", "electra_score"), ("entity_coverage", "entity_coverage"),
                      ("length", "length_score")):  # fmt: skip
        values = [v for s in scores if (v := getattr(s, key)) == v]
        found[name] = {"count": len(values), "mean": math.fsum(values) / len(values) if values else None,
                       "min": min(values, default=None), "max": max(values, default=None)}  # fmt: skip
    bins = Counter(_bin(s.overall) for s in scores if s.overall == s.overall)
    found["overall"]["histogram"] = _Tally(bins=bins).histogram()
    checked = [s.asar_valid for s in scores if s.asar_valid == s.asar_valid]
    found["asar_pass_rate"] = sum(map(bool, checked)) / len(checked) if checked else None
    found["entity_stats"] = {"total": sum(s.entity_count for s in scores),
                             "known": sum(s.known_entity_count for s in scores)}  # fmt: skip
    return found

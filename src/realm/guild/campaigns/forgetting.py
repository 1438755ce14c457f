"""Forgetting: the matrix R[i][j] and its summaries, over recorded trials (contracts B5, realm-rules §6).

A *stage* is one promotion. R[i][j] is the accuracy on the (skill, level) of promotion j after promotion i: on the
diagonal the first trial from the promotion on (how well it was known when it was learnt), elsewhere the newest trial
before promotion i + 1 (how well it is known while that stage lasts). What was not examined then is None, never filled
in from a neighbour. Columns are in the order of promotion, so the matrix is square and R[i][j] with j > i is what was
known of a level before it was passed.

Two matrices are told: of held-out trials (fresh problems each time; its diagonal is the passed promotion trial and so
flatters it: a trial that ends when it passes is chosen for its luck) and of the probe (the same problems every time,
used for no decision), from which the unbiased F_fixed comes. Pure functions; shown by `training campaign report`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from realm.guild.campaigns import seed_of
from realm.guild.campaigns.facts import Stage, Trial
from realm.guild.levels import wilson

HELD_OUT = ("promotion", "retention", "manual", "scout")
PROBE = ("probe",)
RESAMPLES = 500
COVERAGE = 0.95

Values = Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Cell:
    """One measured R[i][j]: counts, 95 % Wilson interval, and the trial they come from."""

    correct: int
    n: int
    kind: str
    step: int
    trial_id: str

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    def to_dict(self) -> dict:
        lower, upper = wilson(self.correct, self.n)
        return {"accuracy": self.accuracy, "correct": self.correct, "n": self.n, "lower": lower, "upper": upper,
                "kind": self.kind, "step": self.step, "trial_id": self.trial_id}  # fmt: skip


Matrix = list[list[Cell | None]]


def matrix(stages: Sequence[Stage], trials: Sequence[Trial], kinds: Collection[str] = HELD_OUT) -> Matrix:
    """R as cells: row i = after stage i, column j = the level of stage j; None = not examined then.

    Args:
        stages: in the order of promotion.
        trials: any order; those of other kinds or without a problem are passed over. The last row is what is known
            now: trials of weights that a rollback gave up do not speak for it.
    """
    if not stages:
        return []
    own = {(stage.skill, stage.level): j for j, stage in enumerate(stages)}
    starts = [stage.order for stage in stages]
    found: Matrix = [[None] * len(stages) for _ in stages]
    for trial in sorted(trials, key=lambda t: (t.at, t.id)):
        column = own.get((trial.skill, trial.level))
        if column is None or trial.kind not in kinds or trial.n < 1 or (trial.at, trial.id) < starts[0]:
            continue
        row = max(i for i, start in enumerate(starts) if start <= (trial.at, trial.id))
        if row == column and found[row][column] is not None:
            continue  # the diagonal keeps the first
        if trial.given_up and row == len(stages) - 1 and row != column:
            continue
        found[row][column] = Cell(trial.correct, trial.n, trial.kind, trial.step, trial.id)
    return found


def accuracies(cells: Matrix) -> list[list[float | None]]:
    """The matrix as plain numbers."""
    return [[None if cell is None else cell.accuracy for cell in row] for row in cells]


@dataclass(frozen=True)
class Summary:
    """One number of the matrix: its mean over the `levels` that are known of `of`, with a bootstrap interval or None.

    `value` is None when no level is known.
    """

    value: float | None
    levels: int
    of: int
    lower: float | None = None
    upper: float | None = None


def acc(values: Values) -> list[float | None]:
    """ACC by level: R[T][j] for every j (mean of them: Lopez-Paz 2017)."""
    return list(values[-1]) if values else []


def bwt(values: Values) -> list[float | None]:
    """Backward transfer by level: R[T][j] - R[j][j] for j < T (Lopez-Paz 2017); negative = forgotten."""
    last = len(values) - 1
    return [_minus(values[last][j], values[j][j]) for j in range(last)]


def f_peak(values: Values) -> list[float | None]:
    """Forgetting by level: max over l < T of R[l][j], minus R[T][j], for j < T (Chaudhry 2018).

    Biased upward: the maximum of noisy numbers is above the truth even when nothing is forgotten.
    """
    last, found = len(values) - 1, []
    for j in range(last):
        known = [values[i][j] for i in range(last) if values[i][j] is not None]
        found.append(_minus(max(known) if known else None, values[last][j]))
    return found


def f_fixed(values: Values) -> list[float | None]:
    """Unbiased forgetting by level: R[j][j] - R[T][j] for j < T (contracts B5); meant for the probe's matrix."""
    return [None if value is None else -value for value in bwt(values)]


MEASURES = {"acc": acc, "bwt": bwt, "f_peak": f_peak, "f_fixed": f_fixed}


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def summary(
    cells: Matrix, outcomes: Mapping[str, Mapping[str, bool]] | None = None, key: object = "forgetting",
    resamples: int = RESAMPLES,
) -> dict[str, Summary]:  # fmt: skip
    """ACC, BWT, F_peak, F_fixed of a matrix.

    Args:
        outcomes: {trial id: {problem: right?}} of the cells; with them the numbers get percentile bootstrap intervals
            (95 %). Problems are resampled within each level, the same ones in all stages where the problems are the
            same; levels are not resampled: the interval speaks of these levels. A cell whose answers are not stored
            any more is resampled from its counts, as if its problems were its own.
        key: keys the bootstrap's random numbers, so that the same rows give the same interval.
    """
    values = accuracies(cells)
    drawn = _resampled(cells, outcomes, key, resamples) if outcomes is not None and values else None
    found = {}
    for name, measure in MEASURES.items():
        by_level = measure(values)
        known = sum(value is not None for value in by_level)
        low = high = None
        if drawn is not None and known:
            low, high = percentile_interval([_mean(measure(one)) for one in drawn])
        found[name] = Summary(_mean(by_level), known, len(by_level), low, high)
    return found


def _resampled(
    cells: Matrix, outcomes: Mapping[str, Mapping[str, bool]], key: object, resamples: int
) -> list[list[list[float | None]]]:  # fmt: skip
    """Bootstrap copies of the matrix."""
    rng = random.Random(seed_of("bootstrap", key))
    columns = []
    for j in range(len(cells)):
        rows = {i: _answers(row[j], outcomes) for i, row in enumerate(cells) if row[j] is not None}
        names = {frozenset(found) for found in rows.values()}
        columns.append((rows, sorted(names.pop()) if len(names) == 1 else None))
    drawn = []
    for _ in range(resamples):
        copy: list[list[float | None]] = [[None] * len(cells) for _ in cells]
        for j, (rows, paired) in enumerate(columns):
            picked = rng.choices(paired, k=len(paired)) if paired else None
            for i, found in rows.items():
                chosen = picked or rng.choices(list(found), k=len(found))
                copy[i][j] = sum(found[name] for name in chosen) / len(chosen)
        drawn.append(copy)
    return drawn


def _answers(cell: Cell, outcomes: Mapping[str, Mapping[str, bool]]) -> Mapping[str, bool]:
    stored = outcomes.get(cell.trial_id, {})
    if len(stored) == cell.n:
        return {name: stored[name] for name in sorted(stored)}
    return {f"{cell.trial_id}:{i}": i < cell.correct for i in range(cell.n)}


def percentile_interval(drawn: Sequence[float | None], coverage: float = COVERAGE) -> tuple[float | None, float | None]:
    """The middle `coverage` of bootstrap values (nearest rank); (None, None) without any."""
    known = sorted(value for value in drawn if value is not None)
    if not known:
        return None, None
    tail = (1 - coverage) / 2
    low = known[math.floor(tail * (len(known) - 1))]
    return low, known[math.ceil((1 - tail) * (len(known) - 1))]

"""How well a score tells real from broken: AUC with intervals over groups, average precision, calibration error.

Scores are P(real); labels are 0 real, 1 fake.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def auc(
    scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Chance that a random real row scores higher than a random fake one, ties counted half; nan without both."""
    scores, labels = np.asarray(scores, float), np.asarray(labels)
    w = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    return _auc(np.unique(scores, return_inverse=True)[1], labels, w)


def _auc(rank: np.ndarray, labels: np.ndarray, w: np.ndarray) -> float:
    size = int(rank.max()) + 1 if len(rank) else 0
    real = np.bincount(rank, w * (labels == 0), size)
    fake = np.bincount(rank, w * (labels == 1), size)
    whole = real.sum() * fake.sum()
    below = np.cumsum(fake) - fake
    return float((real * (below + fake / 2)).sum() / whole) if whole else float("nan")


def auc_interval(
    scores: Sequence[float], labels: Sequence[int], groups: Sequence[str], samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the AUC: whole groups are drawn with replacement. (nan, nan) for one group."""
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    rank = np.unique(np.asarray(scores, float), return_inverse=True)[1]
    marks, rng = np.asarray(labels), np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=samples)
    found = [_auc(rank, marks, counts[place].astype(float)) for counts in drawn]
    found = [value for value in found if value == value]
    low, high = np.percentile(found, [2.5, 97.5]) if found else (float("nan"),) * 2
    return float(low), float(high)


def average_precision(scores: Sequence[float], labels: Sequence[int]) -> float:
    """Area under precision over recall of finding fakes by a low score, ties taken together; nan without fakes."""
    suspicion, marks = -np.asarray(scores, float), np.asarray(labels)
    if not (marks == 1).any():
        return float("nan")
    order = np.argsort(-suspicion, kind="stable")
    hit = np.cumsum(marks[order] == 1)
    last = np.append(np.flatnonzero(np.diff(suspicion[order])), len(order) - 1)
    precision, recall = hit[last] / (last + 1), hit[last] / hit[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def calibration_error(scores: Sequence[float], labels: Sequence[int], bins: int = 15) -> float:
    """Expected calibration error: mean distance of P(real) from the share of real rows, over equal-width bins."""
    scores, real = np.asarray(scores, float), np.asarray(labels) == 0
    place = np.minimum((scores * bins).astype(int), bins - 1)
    size = np.bincount(place, minlength=bins)
    gap = np.abs(np.bincount(place, scores, bins) - np.bincount(place, real, bins))
    return float(gap.sum() / max(size.sum(), 1))


def fit_temperature(margins: Sequence[float], labels: Sequence[int]) -> float:
    """The T > 0 for which sigmoid(margin / T) is most likely; `margins` are logit(real) - logit(fake).

    Guo et al. 2017, "On Calibration of Modern Neural Networks". Golden-section search over log T in [-4, 4].
    """
    m, sign = np.asarray(margins, float), np.where(np.asarray(labels) == 0, 1.0, -1.0)

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0, -sign * m / np.exp(log_t)).mean())

    low, high, ratio = -4.0, 4.0, (5**0.5 - 1) / 2
    while high - low > 1e-4:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if loss(a) <= loss(b) else (a, high)
    return float(np.exp((low + high) / 2))

"""What the discriminator has to beat: random, length, the opcode table, a linear model of character n-grams."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from afs.discriminator.data import Example
from afs.discriminator.metrics import auc
from afs.discriminator.opcodes import faults

BUCKETS = 1 << 17
MOST_ROWS = 20_000
"""The n-gram model is fitted on at most so many rows (about 100 MB of indices)."""


def random_scores(examples: Sequence[Example], seed: int) -> np.ndarray:
    """A number per text that says nothing."""
    return np.array([int.from_bytes(hashlib.sha256(f"{seed}:{e.text}".encode()).digest()[:4], "big") / 2**32
                     for e in examples])  # fmt: skip


def length_scores(train: Sequence[Example], examples: Sequence[Example]) -> np.ndarray:
    """Length as a rank in 0 to 1, in the direction that does better on the training rows."""
    known = np.sort([len(e.text) for e in train])
    value = np.searchsorted(known, [len(e.text) for e in examples]) / max(len(known), 1)
    up = auc([len(e.text) for e in train], [e.label for e in train])
    return value if not up < 0.5 else 1 - value


def rule_scores(examples: Sequence[Example]) -> np.ndarray:
    """1 for texts that the opcode table has no fault with, and less the more faults there are."""
    return np.array([1 / (1 + len(faults(e.text))) for e in examples])


def _grams(text: str) -> np.ndarray:
    """Buckets of the distinct character n-grams (n = 1 to 4) of a text."""
    raw = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.uint64)
    found, code = [], np.zeros(len(raw) + 1, np.uint64)
    for n in range(1, 5):
        if len(raw) < n:
            break
        code = code[: len(raw) - n + 1] * np.uint64(257) + raw[n - 1 :] + np.uint64(n)
        mixed = (code * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(47)  # Fibonacci hashing: the top 17 bits
        found.append(np.unique(mixed))
    return np.unique(np.concatenate(found)).astype(np.int64) if found else np.zeros(0, np.int64)


class NgramModel:
    """Logistic regression on hashed character 1- to 4-grams, full-batch Adam, L2; the same on every machine."""

    def __init__(self, train: Sequence[Example], steps: int = 80, rate: float = 0.05, decay: float = 1e-4) -> None:
        rows = sorted(train, key=lambda e: hashlib.sha256(e.text.encode("utf-8", "replace")).digest())[:MOST_ROWS]
        index, start, scale = _matrix(rows)
        real = np.array([e.label == 0 for e in rows], float)
        share = min(max(real.mean(), 1e-6), 1 - 1e-6) if len(real) else 0.5
        weight = np.where(real == 1, 0.5 / share, 0.5 / (1 - share)) / max(len(rows), 1)
        self.w, self.b = np.zeros(BUCKETS), 0.0
        first, second = np.zeros(BUCKETS + 1), np.zeros(BUCKETS + 1)
        per = np.diff(np.append(start, len(index)))
        for step in range(1, steps + 1):
            error = (_sigmoid(self._margin(index, start, scale)) - real) * weight
            slope = np.bincount(index, np.repeat(error * scale, per), BUCKETS) + decay * self.w
            gradient = np.append(slope, error.sum())
            first = 0.9 * first + 0.1 * gradient
            second = 0.99 * second + 0.01 * gradient**2
            move = rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
            self.w -= move[:-1]
            self.b -= move[-1]

    def _margin(self, index: np.ndarray, start: np.ndarray, scale: np.ndarray) -> np.ndarray:
        if not len(start):
            return np.zeros(0)
        # A trailing zero keeps `reduceat` right for the last row; every text has at least one n-gram or starts there.
        sums = np.add.reduceat(np.append(self.w[index], 0.0), start)
        empty = np.diff(np.append(start, len(index))) == 0
        return np.where(empty, 0.0, sums) * scale + self.b

    def scores(self, examples: Sequence[Example]) -> np.ndarray:
        """P(real) of each example."""
        return _sigmoid(self._margin(*_matrix(examples)))


def _matrix(examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of all rows one after the other, where each row starts, and each row's scale (unit length)."""
    grams = [_grams(e.text) for e in examples]
    sizes = np.array([len(g) for g in grams], np.int64)
    start = np.cumsum(sizes) - sizes
    index = np.concatenate(grams) if grams else np.zeros(0, np.int64)
    return index, start, 1 / np.sqrt(np.maximum(sizes, 1))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))

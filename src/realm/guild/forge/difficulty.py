"""How hard each row is, and which level it belongs to.

Rule: difficulty = w · rank(hero's loss) + (1 - w) · rank(structure), both as mid-ranks in [0, 1] over the rows.

- Hero's loss: nats per answer token of the hero as it is now. w = 0.5 when the hero knows something (median loss below
  0.9 · ln(vocabulary), the loss of a guess) and w = 0 when it does not, or was not asked: noise must not sort rows.
- Structure: the mean rank of those features that differ between rows: answer length, question length, surprise of the
  answer's characters under the data's own character frequencies, digits in the question, numbers in the question,
  nesting of brackets in both.

Levels are quantiles of difficulty with at least `MIN_LEVEL_ROWS` rows each; equal difficulties stay in one level.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from realm.guild.forge.rows import ForgeError, Item, numbers_of

LOSS_WEIGHT = 0.5
KNOWS_NOTHING = 0.9  # of ln(vocabulary)
MIN_LEVEL_ROWS = 240  # 30 % held out, two thirds of that the trial: 48 questions; the level rule's first look needs 40
RULE_LEVEL_ROWS = 60  # of a skill with a rule: its trials are made, its rows only say what is how hard
MAX_LEVELS = 10
DEFAULT_LEVELS = 5
_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True)
class HeroLosses:
    """Nats per answer token of each row, NaN where the row did not fit; `vocabulary`: entries of the tokenizer."""

    hero: str
    checkpoint: str | None
    losses: Sequence[float]
    vocabulary: int


@dataclass(frozen=True)
class Difficulty:
    """`values` in [0, 1] per row, and how they came to be."""

    values: np.ndarray
    weight: float
    evidence: dict[str, Any]


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Mid-ranks in [0, 1]: equal values get equal ranks; a NaN gets 0.5."""
    found = np.asarray(values, float)
    known = ~np.isnan(found)
    made = np.full(len(found), 0.5)
    if known.sum() > 1:
        ordered = np.sort(found[known])
        below = np.searchsorted(ordered, found[known], "left")
        upto = np.searchsorted(ordered, found[known], "right")
        made[known] = (below + upto - 1) / 2 / (len(ordered) - 1)
    return made


def nesting(text: str) -> int:
    """Deepest nesting of brackets."""
    depth = deepest = 0
    for char in text:
        if char in _OPEN:
            depth += 1
            deepest = max(deepest, depth)
        elif char in _CLOSE:
            depth = max(0, depth - 1)
    return deepest


def features(items: Sequence[Item]) -> dict[str, list[float]]:
    """The six structural features per row; lengths in characters, surprise in bits."""
    seen = Counter(char for item in items for char in item.golden)
    total = sum(seen.values()) or 1
    bits = {char: -math.log2(count / total) for char, count in seen.items()}
    return {
        "answer length": [len(item.golden) for item in items],
        "question length": [len(item.prompt) for item in items],
        "surprise of the answer": [sum(bits[char] for char in item.golden) for item in items],
        "digits in the question": [sum(map(str.isdigit, item.prompt)) for item in items],
        "numbers in the question": [len(numbers_of(item.prompt)) for item in items],
        "nesting": [nesting(item.prompt) + nesting(item.golden) for item in items],
    }


def measure(items: Sequence[Item], hero: HeroLosses | None = None) -> Difficulty:
    """Difficulty of every row by the rule above."""
    found = {name: values for name, values in features(items).items() if len(set(values)) > 1}
    structure = np.mean([ranks(values) for values in found.values()], axis=0) if found else np.full(len(items), 0.5)
    evidence: dict[str, Any] = {
        "rule": "w · rank(hero's loss) + (1 - w) · rank(structure)", "structure": {
            name: {"lowest": min(values), "highest": max(values)} for name, values in found.items()}}  # fmt: skip
    weight, reason, losses = 0.0, "no hero was asked (--no-hero)", None
    if hero is not None:
        losses = np.asarray(hero.losses, float)
        guess = math.log(hero.vocabulary)
        median = float(np.nanmedian(losses)) if (~np.isnan(losses)).any() else float("nan")
        knows = median < KNOWS_NOTHING * guess
        weight = LOSS_WEIGHT if knows else 0.0
        reason = (f"median loss of {hero.hero} {median:.2f} nats a token; {KNOWS_NOTHING} of a guess is "
                  f"{KNOWS_NOTHING * guess:.2f}: its loss {'counts' if knows else 'says nothing yet'}")  # fmt: skip
        evidence["hero"] = {"id": hero.hero, "checkpoint": hero.checkpoint, "median_loss": median,
                            "unmeasured": int(np.isnan(losses).sum())}  # fmt: skip
    values = structure if not weight else weight * ranks(losses) + (1 - weight) * structure
    return Difficulty(values, weight, evidence | {"w": weight, "why": reason})


def check_wanted(wanted: int | None) -> None:
    """Raises ForgeError for a number of levels that no skill can have."""
    if wanted is not None and not 1 <= wanted <= MAX_LEVELS:
        raise ForgeError("levels", f"levels {wanted}: a forged skill has 1 to {MAX_LEVELS} levels; ask for so many")


def levels(values: np.ndarray, wanted: int | None = None, least: int = MIN_LEVEL_ROWS) -> tuple[list[int], str]:
    """(level of each row from 1, why there are so many). Raises ForgeError as `check_wanted`."""
    check_wanted(wanted)
    rows = len(values)
    most = max(1, rows // least)
    count = min(wanted or DEFAULT_LEVELS, most)
    asked = f"{wanted} were asked for" if wanted else f"{DEFAULT_LEVELS} are usual"
    why = f"{count} levels: {asked}, and {rows} rows give at most {most} with {least} rows each"
    edges: list[float] = []
    ordered = np.sort(values)
    for part in range(1, count):
        edge = float(ordered[round(part * rows / count)])
        before = int(np.searchsorted(ordered, edge, "left"))
        start = int(np.searchsorted(ordered, edges[-1], "left")) if edges else 0
        if before - start >= least and rows - before >= least:
            edges.append(edge)
    if len(edges) + 1 < count:
        why += f"; {count - len(edges) - 1} fewer, because many rows are equally hard"
    return (np.searchsorted(np.array(edges), values, "right") + 1).tolist(), why


def per_level(numbers: Sequence[int], values: np.ndarray) -> list[dict[str, Any]]:
    """Rows and range of difficulty of each level, for the report."""
    made: list[dict[str, Any]] = []
    for level in sorted(set(numbers)):
        mine = values[np.asarray(numbers) == level]
        made.append({"level": level, "rows": len(mine), "difficulty": [float(mine.min()), float(mine.max())],
                     "mean": float(mine.mean())})  # fmt: skip
    return made


def summary(evidence: Mapping[str, Any]) -> str:
    """One sentence for a person."""
    return f"w = {evidence['w']}: {evidence['why']}. Structure: {', '.join(evidence['structure']) or 'no differences'}."

"""Rows of a benchmark's table. A lost row is printed like a won one, and no number is rounded in our favour."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

HEAD = ("measure", "median", "min – max (runs)", "budget or peer", "ratio", "met")
DIGITS = 3  # significant ones


@dataclass(frozen=True)
class Row:
    """One measure.

    Args:
        values: one number per run; the median is what counts.
        unit: of the values, for example "s" or "MB".
        better: which direction is good; "" for a number that is only told.
        against: the budget in words, or the name of the peer.
        bound: what the median must reach: of `ratios` when there are any, else of `values`. None: no budget.
        ratios: value / peer of the same round, one per run. Without them the ratio is median / bound.
        text: shown instead of numbers when there is nothing to take a median of.
        verdict: "yes" or "no" of a row that is all text.
    """

    measure: str
    values: tuple[float, ...] = ()
    unit: str = ""
    better: Literal["low", "high", ""] = ""
    against: str = ""
    bound: float | None = None
    ratios: tuple[float, ...] = ()
    text: str = ""
    verdict: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """Median of the paired ratios, else median / bound; None without either."""
        if self.ratios:
            return statistics.median(self.ratios)
        return self.median / self.bound if self.bound and self.values else None

    @property
    def met(self) -> str:
        """yes | no, "" when there is nothing to meet. Judged on the unrounded number."""
        if self.bound is None or not self.values:
            return self.verdict
        judged = statistics.median(self.ratios) if self.ratios else self.median
        return "yes" if (judged >= self.bound if self.better == "high" else judged <= self.bound) else "no"

    def cells(self) -> tuple[str, ...]:
        """The row as HEAD has it."""
        if not self.values:
            return (self.measure, self.text, "", self.against, "", self.met)
        span = f"{shown(min(self.values))} – {shown(max(self.values))} ({len(self.values)})"
        ratio = "" if self.ratio is None else shown(self.ratio, self.better)
        if len(self.ratios) > 1:
            ratio += f" ({shown(min(self.ratios))} – {shown(max(self.ratios))})"
        value = f"{shown(self.median, self.better)} {self.unit}".strip()
        return (self.measure, value, span, self.against, ratio, self.met)

    def as_json(self) -> dict[str, Any]:
        return {
            "measure": self.measure, "values": list(self.values), "unit": self.unit, "better": self.better,
            "against": self.against, "bound": self.bound, "ratios": list(self.ratios), "text": self.text,
            "median": self.median if self.values else None, "ratio": self.ratio, "met": self.met,
        }  # fmt: skip


def shown(value: float, better: str = "") -> str:
    """Three significant digits; rounded up when low is good, down when high is good, else to the nearest."""
    if value == 0 or not math.isfinite(value):
        return str(value) if value else "0"
    exponent = math.floor(math.log10(abs(value)))
    decimals = DIGITS - 1 - exponent
    # 1e-9: 0.29 * 100 is 28.999999999999996, which is no worse than 29.
    turn = {"low": lambda x: math.ceil(x - 1e-9), "high": lambda x: math.floor(x + 1e-9)}.get(better, round)
    if exponent < -3:
        return f"{turn(value * 10**decimals) / 10 ** (DIGITS - 1):.{DIGITS - 1}f}e{exponent}"
    decimals = max(0, decimals)
    return f"{turn(value * 10**decimals) / 10**decimals:,.{decimals}f}"


def render(rows: Sequence[Row]) -> str:
    """A Markdown table with aligned columns."""
    cells = [HEAD, *[row.cells() for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])

"""Exact counts: shares of a total by largest remainder, and quotas by water-filling.

Both are deterministic, never lose or invent a unit, and do not depend on the order in which groups are named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction


def largest_remainder(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole counts that sum to `total` and lie within 1 of the exact shares (Hamilton's method).

    Each group gets the floor of its share; the units left go to the largest remainders, ties by name. Shares are
    exact fractions, so no rounding of floats decides a tie.

    Args:
        weights: non-negative, not all zero; they need not sum to 1.
        total: units to hand out, 0 or more.

    Raises:
        ValueError: no weights, a weight that is negative or not finite, all zero, or a negative total.
    """
    if total < 0:
        raise ValueError(f"total must be 0 or more, not {total}")
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"weight of {name!r} must be a number of 0 or more, not {weight}")
    # The shortest decimal that gives the float: what the person wrote, so 0.1 is one tenth.
    exact = {name: Fraction(repr(float(weight))) for name, weight in weights.items()}
    whole = sum(exact.values())
    if not whole:
        raise ValueError("no weight is above 0; give at least one group a positive weight")
    shares = {name: weight * total / whole for name, weight in exact.items()}
    counts = {name: math.floor(share) for name, share in shares.items()}
    order = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
    for name in order[: total - sum(counts.values())]:
        counts[name] += 1
    return {name: counts[name] for name in weights}


def water_fill(capacities: Mapping[str, int], total: int) -> dict[str, int]:
    """Equal quotas under capacities: what small groups cannot take goes to the others, as evenly as can be.

    Args:
        capacities: units that each group has, 0 or more.
        total: units wanted; more than there are means all of them.

    Returns:
        A quota per group, at most its capacity, summing to min(total, sum of capacities). No two groups that are not
        full differ by more than 1; of those, the first by name get the odd units.

    Raises:
        ValueError: a negative capacity or total.
    """
    if total < 0:
        raise ValueError(f"total must be 0 or more, not {total}")
    for name, capacity in capacities.items():
        if capacity < 0:
            raise ValueError(f"capacity of {name!r} must be 0 or more, not {capacity}")
    left = min(total, sum(capacities.values()))
    quotas = dict.fromkeys(capacities, 0)
    waiting = sorted(capacities, key=lambda name: (capacities[name], name))
    while waiting:
        # Smallest group first: it is either filled, or everybody left gets an equal part.
        even = left // len(waiting)
        name = waiting[0]
        if capacities[name] > even:
            break
        quotas[name] = capacities[name]
        left -= capacities[name]
        waiting.pop(0)
    if waiting:
        even, odd = divmod(left, len(waiting))
        for place, name in enumerate(sorted(waiting)):
            quotas[name] = even + (place < odd)
    return quotas

"""Where a row comes from, and how much of what the hero itself wrote may be trained on (realm-rules §13).

Five origins. A row says its own in `origin` (or `_metadata.origin`); one with a `teacher_model`, as the refinery
writes it, is a teacher's; any other row of a file is a person's, so files are copied byte for byte and not tagged anew.
Text that a model wrote and nobody checked makes the next model narrower with every round (Shumailov 2024); real rows
beside it bound the error, replacing them does not (Gerstgrasser 2404.01413). Hence the caps: 0 for unverified rows,
half of the file at most for verified ones, never instead of the others. Rows made by code with a checked answer are
not meant by this and have no cap.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from realm.settings import Settings

Origin = Literal["procedural-verified", "human", "teacher", "self-verified", "self-unverified"]
ORIGINS: tuple[str, ...] = get_args(Origin)
CAPS: Mapping[str, float] = {"self-verified": 0.5, "self-unverified": 0.0}
"""Largest share of a quest's rows, by origin; others have none."""


def caps_of(settings: Settings) -> dict[str, float]:
    """The caps that a person set (`max_self_verified`, `max_self_unverified` in settings.yaml)."""
    return {"self-verified": settings.max_self_verified, "self-unverified": settings.max_self_unverified}


def origin_of(row: Mapping[str, Any]) -> str:
    """The origin of one row; a word that is none of the five (other data has such a column too) says nothing."""
    more = row.get("_metadata")
    for said in (row.get("origin"), more.get("origin") if isinstance(more, dict) else None):
        if isinstance(said, str) and said in ORIGINS:
            return said
    return "teacher" if row.get("teacher_model") else "human"


def count(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """{origin: rows}, only those that occur, in the order of `ORIGINS`."""
    found = Counter(origin_of(row) for row in rows)
    return {origin: found[origin] for origin in ORIGINS if found[origin]}


def room(counts: Mapping[str, int], caps: Mapping[str, float] = CAPS) -> dict[str, int]:
    """{origin: rows that may stay} for every origin with a cap, so that each keeps its share of what is left.

    Raises:
        ValueError: a cap outside 0…1, or of an origin that does not exist.
    """
    for origin, share in caps.items():
        if origin not in ORIGINS or not 0 <= share <= 1:
            raise ValueError(f"cap {origin!r}: {share!r}; caps are shares between 0 and 1 of {', '.join(ORIGINS)}")
    stay = {origin: counts.get(origin, 0) for origin in caps}
    free = sum(n for origin, n in counts.items() if origin not in caps)
    while True:
        whole = free + sum(stay.values())
        # n rows are at most the share s of all when n <= s / (1 - s) * the others.
        fits = {origin: n if caps[origin] >= 1 else
                min(n, math.floor(caps[origin] / (1 - caps[origin]) * (whole - n) + 1e-9))
                for origin, n in stay.items()}  # fmt: skip
        worst = min(fits, key=lambda origin: (fits[origin] - stay[origin], origin), default=None)
        if worst is None or fits[worst] == stay[worst]:
            return stay
        stay[worst] = fits[worst]


def over_cap(
    rows: Sequence[tuple[int, str]], counts: Mapping[str, int], seed: int, caps: Mapping[str, float] = CAPS
) -> dict[int, str]:
    """{row number: its origin} of the rows that must go; which ones is drawn by a keyed hash, not by their order.

    Args:
        rows: (number, origin) of the rows whose origin has a cap.
        counts: {origin: rows} of the whole file.
    """
    stay = room(counts, caps)
    gone = {}
    for origin in stay:
        own = sorted((n for n, said in rows if said == origin), key=lambda n: _key(seed, origin, n))
        gone |= dict.fromkeys(own[stay[origin] :], origin)
    return gone


def _key(seed: int, origin: str, number: int) -> bytes:
    return hashlib.blake2b(f"{seed}\x1f{origin}\x1f{number}".encode(), digest_size=8).digest()

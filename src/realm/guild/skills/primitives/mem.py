"""Memory primitives: recall, context, compose, update."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from realm.guild.skills.primitives.engine import (
    DIGITS,
    LETTERS,
    Primitive,
    Shape,
    joined,
    listed,
    symbols_of,
)

Pairs = tuple[tuple[str, str], ...]
"""(key, value) each, one character each; written `a3 b7`: a value right behind its key is what small models find."""


def draw_pairs(rng: random.Random, count: int, keys: str = LETTERS, values: str = DIGITS) -> Pairs:
    """Distinct keys, values with repetition."""
    return tuple(zip(rng.sample(keys, count), rng.choices(values, k=count), strict=True))


def show_pairs(pairs: Iterable[Sequence[str]]) -> str:
    """`a3 b7`."""
    return joined(map("".join, pairs))


def read_pairs(text: str, keys: str = LETTERS, values: str = DIGITS) -> Pairs:
    """The inverse of `show_pairs`. ValueError where a key or value is not of its alphabet, or a key comes twice."""
    found = tuple((part[:1], part[1:]) for part in text.split(" "))
    if any(key not in keys or len(value) != 1 or value not in values for key, value in found):
        raise ValueError(f"{text[:40]!r}: not pairs like {keys[0]}{values[0]}")
    if len(dict(found)) != len(found):
        raise ValueError("a key comes twice")
    return found


# --- mem_recall: content = (pairs, keys asked for) ----------------------------------------------------------------

Recall = tuple[Pairs, tuple[str, ...]]


def _draw_recall(shape: Shape, rng: random.Random) -> Recall:
    pairs = draw_pairs(rng, shape.n)
    return pairs, tuple(rng.sample([key for key, _ in pairs], shape.asked))


def _read_recall(body: str) -> Recall | None:
    table, _, asked = body.partition("; ")
    pairs, keys = read_pairs(table), symbols_of(asked, LETTERS)
    return (pairs, keys) if len(set(keys)) == len(keys) and set(keys) <= set(dict(pairs)) else None


_RECALL = Primitive(
    name="mem_recall",
    title="Recall",
    level_text="{asked} of {n} pairs",
    shapes=(Shape(4, 2), Shape(5, 2), Shape(6, 2), Shape(7, 3), Shape(8, 3), Shape(9, 3), Shape(10, 4), Shape(12, 4),
            Shape(14, 5), Shape(16, 6)),
    draw=_draw_recall,
    show=lambda content: f"{show_pairs(content[0])}; {joined(content[1])}",
    read=_read_recall,
    solve=lambda content: show_pairs((key, dict(content[0])[key]) for key in content[1]),
    fits=lambda shape, content: (len(content[0]), len(content[1])) == (shape.n, shape.asked),
    room=lambda shape: listed(shape.asked, 2),
    normal=lambda content: (tuple(sorted(content[0])), tuple(sorted(content[1]))),
    also=("attn_select",),
)  # fmt: skip

ALL = (_RECALL,)

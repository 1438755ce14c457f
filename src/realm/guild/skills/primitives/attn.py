"""Attention primitives: select, count, compare, filter, rank."""

from __future__ import annotations

import random

from realm.guild.skills.primitives.engine import DIGITS, Primitive, Shape, joined, listed, symbols_of

# --- attn_count: content = (what to count, the items) -------------------------------------------------------------

Count = tuple[tuple[str, ...], tuple[str, ...]]


def _draw_count(shape: Shape, rng: random.Random) -> Count:
    """The count itself is drawn first, or it would nearly always be a small one."""
    targets = rng.sample(shape.symbols, shape.asked)
    others = [symbol for symbol in shape.symbols if symbol not in targets]
    items = [target for target in targets for _ in range(rng.randint(0, shape.n // shape.asked))]
    items += rng.choices(others, k=shape.n - len(items))
    rng.shuffle(items)
    return tuple(targets), tuple(items)


def _read_count(body: str) -> Count | None:
    targets, found, items = body.partition(" in ")
    wanted = symbols_of(targets, DIGITS)
    return (wanted, symbols_of(items, DIGITS)) if found and len(set(wanted)) == len(wanted) else None


_COUNT = Primitive(
    name="attn_count",
    title="Count",
    level_text="{asked} counted in {n} items",
    shapes=(Shape(5), Shape(6), Shape(7), Shape(9), Shape(8, 2), Shape(10, 2), Shape(12, 2), Shape(12, 3),
            Shape(16, 3), Shape(20, 4)),
    draw=_draw_count,
    show=lambda content: f"{joined(content[0])} in {joined(content[1])}",
    read=_read_count,
    solve=lambda content: joined(content[1].count(target) for target in content[0]),
    fits=lambda shape, content: (len(content[0]), len(content[1])) == (shape.asked, shape.n),
    room=lambda shape: listed(shape.asked, 2),
    # Neither the order of the items nor that of the questions changes what is counted.
    normal=lambda content: (tuple(sorted(content[0])), tuple(sorted(content[1]))),
)  # fmt: skip

ALL = (_COUNT,)

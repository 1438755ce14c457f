"""Transform primitives: encode, decode, map, reduce, substitute."""

from __future__ import annotations

import random

from realm.guild.skills.primitives.engine import LETTERS, Primitive, Shape, joined, listed, symbols_of
from realm.guild.skills.primitives.mem import Pairs, draw_pairs, read_pairs, show_pairs

# --- xfm_substitute: content = (table, items) ---------------------------------------------------------------------

Substitution = tuple[Pairs, tuple[str, ...]]


def _draw_substitution(shape: Shape, rng: random.Random) -> Substitution:
    """From `depth` 2 on there are items that the table does not name; they stay as they are."""
    table = draw_pairs(rng, shape.n)
    named = [key for key, _ in table]
    strangers = [letter for letter in LETTERS if letter not in named]
    items = [rng.choice(strangers if shape.depth > 1 and rng.random() < 0.25 else named) for _ in range(shape.asked)]
    return table, tuple(items)


def _read_substitution(body: str) -> Substitution:
    table, _, items = body.partition("; ")
    return read_pairs(table), symbols_of(items, LETTERS)


def _substitute(content: Substitution) -> str:
    """Each item with what replaces it; an item without an entry stands alone."""
    table = dict(content[0])
    return show_pairs((item, table.get(item, "")) for item in content[1])


def _fits_substitution(shape: Shape, content: Substitution) -> bool:
    table, items = content
    sizes = (len(table), len(items)) == (shape.n, shape.asked)
    return sizes and (shape.depth > 1 or set(items) <= set(dict(table)))


_SUBSTITUTE = Primitive(
    name="xfm_substitute",
    title="Substitute",
    level_text="{asked} items through a table of {n}{text}",
    shapes=(Shape(3, 3), Shape(3, 4), Shape(4, 5), Shape(5, 6), Shape(6, 8),
            *(Shape(n, asked, 2, text=", unnamed items stay") for n, asked in ((6, 8), (7, 10), (8, 12), (10, 14),
                                                                               (12, 16)))),
    draw=_draw_substitution,
    show=lambda content: f"{show_pairs(content[0])}; {joined(content[1])}",
    read=_read_substitution,
    solve=_substitute,
    fits=_fits_substitution,
    room=lambda shape: listed(shape.asked, 2),
    normal=lambda content: (tuple(sorted(content[0])), content[1]),
    also=("mem_recall",),
)  # fmt: skip

ALL = (_SUBSTITUTE,)

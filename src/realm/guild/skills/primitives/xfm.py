"""Transform primitives: encode, decode, map, reduce, substitute."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from itertools import accumulate, groupby

from realm.guild.skills.primitives.engine import (
    LETTERS,
    Primitive,
    Shape,
    joined,
    listed,
    number_of,
    numbers_of,
    symbols_of,
)
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
    rule="`a3` says that a is replaced by 3. Write each item with what replaces it; an item that the table "
    "does not name stands alone.",
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

# --- xfm_encode, xfm_decode: content = the runs, (how many, of what) each ------------------------------------------

Runs = tuple[tuple[int, str], ...]


def _draw_runs(shape: Shape, rng: random.Random) -> Runs:
    """`n` runs of 1 to `top` items; neighbours differ, or they would be one run."""
    runs: list[tuple[int, str]] = []
    while len(runs) < shape.n:
        symbol = rng.choice(shape.symbols)
        if not runs or runs[-1][1] != symbol:
            runs.append((rng.randint(1, shape.top), symbol))
    return tuple(runs)


def _short(runs: Runs) -> str:
    return joined(f"{count}{symbol}" for count, symbol in runs)


def _long(runs: Runs) -> str:
    return joined(symbol for count, symbol in runs for _ in range(count))


def _read_long(body: str) -> Runs:
    return tuple((len(list(group)), symbol) for symbol, group in groupby(symbols_of(body, LETTERS)))


def _read_short(body: str) -> Runs | None:
    parts = body.split(" ")
    runs = tuple((number_of(part[:-1]), *symbols_of(part[-1:], LETTERS)) for part in parts)
    sound = all(1 <= count <= 99 for count, _ in runs) and len(list(groupby(symbol for _, symbol in runs))) == len(runs)
    return runs if sound else None


def _fits_runs(shape: Shape, runs: Runs) -> bool:
    return len(runs) == shape.n and all(count <= shape.top and symbol in shape.symbols for count, symbol in runs)


_RUNS = tuple(Shape(n, symbols="abcdefgh" if n < 7 else LETTERS, top=top) for n, top in (
    (3, 3), (4, 3), (5, 3), (5, 4), (6, 4), (6, 5), (7, 5), (8, 6), (9, 7), (10, 9)))  # fmt: skip
_RUN_TEXT = "{n} runs of 1 to {top}, {symbols} letters"

_ENCODE = Primitive(
    name="xfm_encode",
    title="Encode",
    rule="Write each run of equal letters as its length and the letter.",
    level_text=_RUN_TEXT,
    shapes=_RUNS,
    draw=_draw_runs,
    show=_long,
    read=_read_long,
    solve=_short,
    fits=_fits_runs,
    room=lambda shape: listed(shape.n, 2),
    also=("attn_count",),
)

_DECODE = Primitive(
    name="xfm_decode",
    title="Decode",
    rule="`3a` stands for `a a a`. Write everything out.",
    level_text=_RUN_TEXT,
    shapes=_RUNS,
    draw=_draw_runs,
    show=_short,
    read=_read_short,
    solve=_long,
    fits=_fits_runs,
    room=lambda shape: listed(shape.n * shape.top),
)

# --- xfm_map: content = (operations, numbers) ---------------------------------------------------------------------

Map = tuple[tuple[tuple[str, int], ...], tuple[int, ...]]
OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def _mapped(content: Map) -> list[int]:
    operations, numbers = content
    for sign, by in operations:
        numbers = [OPERATIONS[sign](number, by) for number in numbers]
    return list(numbers)


def _draw_map(shape: Shape, rng: random.Random) -> Map:
    """`depth` operations with numbers from 1 to 9 on `n` numbers; nothing falls below zero on the way."""
    while True:
        operations = tuple((sign, rng.randint(2 if sign == "*" else 1, 9)) for sign in rng.choices(
            shape.kinds, k=shape.depth))  # fmt: skip
        numbers = tuple(rng.randint(0, shape.top) for _ in range(shape.n))
        if _stays_natural(operations, numbers):
            return operations, numbers


def _stays_natural(operations: tuple[tuple[str, int], ...], numbers: tuple[int, ...]) -> bool:
    return all(min(_mapped((operations[:end], numbers))) >= 0 for end in range(1, len(operations) + 1))


def _read_map(body: str) -> Map | None:
    text, _, items = body.partition(": ")
    words, numbers = text.split(" "), numbers_of(items)
    if len(words) % 2 or len(words) > 20 or not set(words[::2]) <= set(OPERATIONS):
        return None
    operations = tuple(zip(words[::2], map(number_of, words[1::2]), strict=True))
    return (operations, numbers) if _stays_natural(operations, numbers) else None


def _fits_map(shape: Shape, content: Map) -> bool:
    operations, numbers = content
    return ((len(operations), len(numbers)) == (shape.depth, shape.n) and max(numbers) <= shape.top
            and {sign for sign, _ in operations} <= set(shape.kinds)
            and all((2 if sign == "*" else 1) <= by <= 9 for sign, by in operations))  # fmt: skip


_MAP = Primitive(
    name="xfm_map",
    title="Map",
    rule="Apply the operations to every number, from left to right.",
    level_text="{depth} of the operations {kinds} on {n} numbers to {top}",
    shapes=(Shape(3, kinds=("+",)), Shape(4, kinds=("+",)), Shape(4, kinds=("+", "-")), Shape(5, kinds=("+", "-")),
            Shape(5, kinds=("+", "-", "*")), Shape(4, kinds=("+", "-"), top=99), Shape(6, kinds=("+", "-"), top=99),
            Shape(5, depth=2, kinds=("+", "-", "*")), Shape(6, depth=2, kinds=("+", "-", "*"), top=99),
            Shape(8, depth=3, kinds=("+", "-", "*"), top=99)),
    draw=_draw_map,
    show=lambda content: f"{joined(f'{sign} {by}' for sign, by in content[0])}: {joined(content[1])}",
    read=_read_map,
    solve=lambda content: joined(_mapped(content)),
    fits=_fits_map,
    # The largest number that can come out: every operation multiplies by 9 or adds 9.
    room=lambda shape: listed(shape.n, len(str((shape.top + 9) * 9**shape.depth))),
    kind=lambda content: "".join(sign for sign, _ in content[0]) if len(content[0]) == 1 else "chain",
    depth=lambda content: len(content[0]),
)  # fmt: skip

# --- xfm_reduce: content = (operation, numbers) -------------------------------------------------------------------

Reduce = tuple[str, tuple[int, ...]]
FOLDS: dict[str, Callable[[int, int], int]] = {"sum": operator.add, "max": max, "min": min}


def _draw_reduce(shape: Shape, rng: random.Random) -> Reduce:
    return rng.choice(shape.kinds), tuple(rng.randint(0, shape.top) for _ in range(shape.n))


def _read_reduce(body: str) -> Reduce | None:
    name, _, items = body.partition(": ")
    return (name, numbers_of(items)) if name in FOLDS and " " in items else None


_REDUCE = Primitive(
    name="xfm_reduce",
    title="Reduce",
    rule="Write the running sum, maximum or minimum: its value after the first number, after the second, and "
    "so on to the last.",
    level_text="running {kinds} of {n} numbers to {top}",
    shapes=(Shape(4, kinds=("max", "min")), Shape(5, kinds=("max", "min")),
            *(Shape(n, kinds=tuple(FOLDS), top=top) for n, top in ((4, 9), (5, 9), (6, 9), (8, 9), (5, 99), (7, 99),
                                                                   (10, 99), (10, 999)))),
    draw=_draw_reduce,
    show=lambda content: f"{content[0]}: {joined(content[1])}",
    read=_read_reduce,
    solve=lambda content: joined(accumulate(content[1], FOLDS[content[0]])),
    fits=lambda shape, content: content[0] in shape.kinds and len(content[1]) == shape.n
    and max(content[1]) <= shape.top,
    room=lambda shape: listed(shape.n, len(str(shape.n * shape.top))),
    kind=lambda content: content[0],
)  # fmt: skip

ALL = (_ENCODE, _DECODE, _MAP, _REDUCE, _SUBSTITUTE)

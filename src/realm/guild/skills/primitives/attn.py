"""Attention primitives: select, count, compare, filter, rank."""

from __future__ import annotations

import random
from collections.abc import Callable

from realm.guild.skills.primitives.engine import (
    ALNUM,
    DIGITS,
    LETTERS,
    Primitive,
    Shape,
    joined,
    listed,
    number_of,
    numbers_of,
    symbols_of,
)

# --- attn_count: content = (what to count, the items) -------------------------------------------------------------

Count = tuple[tuple[str, ...], tuple[str, ...]]


def _draw_count(shape: Shape, rng: random.Random) -> Count:
    """The count itself is drawn first, or it would nearly always be a small one; a few items are never all the same,
    since there are only ten problems of that sort."""
    targets = rng.sample(shape.symbols, shape.asked)
    others = [symbol for symbol in shape.symbols if symbol not in targets]
    items = [target for target in targets for _ in range(rng.randint(0, min(shape.n // shape.asked, shape.top)))]
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
    rule="Write how often each of the items occurs, in the order asked.",
    level_text="{asked} counted in {n} items, up to {top} of each",
    shapes=(Shape(6, top=4), Shape(7, top=4), Shape(8, top=5), Shape(10, top=6), Shape(8, 2), Shape(10, 2),
            Shape(12, 2), Shape(12, 3), Shape(16, 3), Shape(20, 4)),
    draw=_draw_count,
    show=lambda content: f"{joined(content[0])} in {joined(content[1])}",
    read=_read_count,
    solve=lambda content: joined(content[1].count(target) for target in content[0]),
    fits=lambda shape, content: (len(content[0]), len(content[1])) == (shape.asked, shape.n)
    and all(content[1].count(target) <= shape.top for target in content[0]),
    room=lambda shape: listed(shape.asked, 2),
    # Neither the order of the items nor that of the questions changes what is counted.
    normal=lambda content: (tuple(sorted(content[0])), tuple(sorted(content[1]))),
)  # fmt: skip

# --- attn_select: content = (marks, marked items) -----------------------------------------------------------------

Marked = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


def _draw_marked(shape: Shape, rng: random.Random) -> Marked:
    """How many items are wanted is drawn first, at least two and never all."""
    marks = rng.sample(shape.symbols, shape.asked)
    others = [mark for mark in shape.symbols if mark not in marks]
    wanted = rng.randint(2, shape.n - 1)
    chosen = [*rng.choices(marks, k=wanted), *rng.choices(others, k=shape.n - wanted)]
    rng.shuffle(chosen)
    return tuple(marks), tuple((mark, rng.choice(DIGITS)) for mark in chosen)


def _selected(content: Marked) -> list[str]:
    return [value for mark, value in content[1] if mark in content[0]]


def _read_marked(body: str) -> Marked | None:
    wanted, _, text = body.partition(" in ")
    marks = symbols_of(wanted, LETTERS)
    items = tuple((part[:1], part[1:]) for part in text.split(" "))
    sound = all(mark and mark in LETTERS and len(value) == 1 and value in DIGITS for mark, value in items)
    content = (marks, items)
    return content if sound and len(set(marks)) == len(marks) and _selected(content) else None


_SELECT = Primitive(
    name="attn_select",
    title="Select",
    rule="Write the digits that stand behind one of the marks, in order.",
    level_text="items of {asked} out of {symbols} marks among {n}",
    shapes=(Shape(5, symbols="abc"), Shape(6, symbols="abc"), Shape(7, symbols="abcd"), Shape(8, symbols="abcd"),
            Shape(10, symbols="abcde"), Shape(10, 2, symbols="abcde"), Shape(12, 2, symbols="abcdef"),
            Shape(14, 2, symbols="abcdefgh"), Shape(16, 3, symbols="abcdefgh"), Shape(20, 3, symbols=LETTERS)),
    draw=_draw_marked,
    show=lambda content: f"{joined(content[0])} in {joined(map(''.join, content[1]))}",
    read=_read_marked,
    solve=lambda content: joined(_selected(content)),
    fits=lambda shape, content: (len(content[0]), len(content[1])) == (shape.asked, shape.n)
    and {*content[0], *(mark for mark, _ in content[1])} <= set(shape.symbols)
    and 2 <= len(_selected(content)) < shape.n,
    room=lambda shape: listed(shape.n),
    normal=lambda content: (tuple(sorted(content[0])), content[1]),
)  # fmt: skip

# --- attn_compare: content = the two lists; places count from 1 ---------------------------------------------------

NONE = "none"


def _draw_compared(shape: Shape, rng: random.Random) -> tuple[tuple[str, ...], ...]:
    """How many places differ is drawn first."""
    one = rng.choices(shape.symbols, k=shape.n)
    two = list(one)
    for place in rng.sample(range(shape.n), rng.randint(0, min(shape.n, 6))):
        two[place] = rng.choice([symbol for symbol in shape.symbols if symbol != one[place]])
    return tuple(one), tuple(two)


def _read_compared(body: str) -> tuple[tuple[str, ...], ...] | None:
    lists = tuple(symbols_of(part, ALNUM) for part in body.split(" / "))
    return lists if len(lists) == 2 and len(lists[0]) == len(lists[1]) else None


_COMPARE = Primitive(
    name="attn_compare",
    title="Compare",
    rule="Write the places at which the two lists differ, counted from 1, or `none`.",
    level_text="two lists of {n} items, {symbols} symbols",
    shapes=(*(Shape(n) for n in (4, 5, 6, 7, 8, 10, 12)), *(Shape(n, symbols=ALNUM) for n in (12, 15, 20))),
    draw=_draw_compared,
    show=lambda lists: " / ".join(map(joined, lists)),
    read=_read_compared,
    solve=lambda lists: joined(i for i, (a, b) in enumerate(zip(*lists, strict=True), 1) if a != b) or NONE,
    fits=lambda shape, lists: len(lists[0]) == shape.n and {*lists[0], *lists[1]} <= set(shape.symbols)
    and sum(a != b for a, b in zip(*lists, strict=True)) <= 6,
    room=lambda shape: listed(6, 2),
    normal=lambda lists: tuple(sorted(lists)),
)  # fmt: skip

# --- attn_filter: content = (conditions, numbers) -----------------------------------------------------------------

Filter = tuple[tuple[str, ...], tuple[int, ...]]
CONDITIONS: dict[str, Callable[[int, int], bool]] = {
    "above": lambda number, bound: number > bound,
    "below": lambda number, bound: number < bound,
    "not": lambda number, bound: number != bound,
    "even": lambda number, _: number % 2 == 0,
    "odd": lambda number, _: number % 2 == 1,
}
_ALONE = ("even", "odd")  # conditions without a number


def _holds(condition: str, number: int) -> bool:
    name, _, bound = condition.partition(" ")
    return CONDITIONS[name](number, int(bound or 0))


def _kept(content: Filter) -> list[int]:
    return [number for number in content[1] if all(_holds(condition, number) for condition in content[0])]


def _draw_filter(shape: Shape, rng: random.Random) -> Filter:
    names = rng.sample([kind for kind in shape.kinds if kind != "odd"], shape.depth)  # never even and odd at once
    numbers = tuple(rng.randint(0, shape.top) for _ in range(shape.n))
    conditions = []
    for name in names:
        if name == "even":
            conditions.append(rng.choice(_ALONE))
        else:
            conditions.append(f"{name} {rng.choice(numbers) if name == 'not' else rng.randint(1, shape.top - 1)}")
    return tuple(conditions), numbers


def _read_filter(body: str) -> Filter | None:
    text, _, items = body.partition(" in ")
    conditions = tuple(text.split(" and "))
    names = [condition.partition(" ")[0] for condition in conditions]
    if len(set(names)) < len(names) or set(_ALONE) <= set(names) or not set(names) <= set(CONDITIONS):
        return None
    for name, condition in zip(names, conditions, strict=True):
        if (name in _ALONE) != (name == condition) or (name != condition and number_of(condition[len(name) + 1 :]) < 0):
            return None
    # Written back from numbers, a bound with a leading zero would differ; here it must be caught by hand.
    plain = all(condition == " ".join([name, *map(str, map(int, condition.split(" ")[1:]))])
                for name, condition in zip(names, conditions, strict=True))  # fmt: skip
    return (conditions, numbers_of(items)) if plain else None


def _fits_filter(shape: Shape, content: Filter) -> bool:
    conditions, numbers = content
    bounds = [int(bound) for bound in (condition.partition(" ")[2] for condition in conditions) if bound]
    return ((len(conditions), len(numbers)) == (shape.depth, shape.n) and max([0, *numbers, *bounds]) <= shape.top
            and {condition.partition(" ")[0] for condition in conditions} <= set(shape.kinds))  # fmt: skip


_SIZES, _ALL_CONDITIONS = ("above", "below"), tuple(CONDITIONS)
_FILTER = Primitive(
    name="attn_filter",
    title="Filter",
    rule="Write the numbers that meet all conditions, in order, or `none`.",
    level_text="{depth} of the conditions {kinds} on {n} numbers to {top}",
    shapes=(Shape(5, kinds=_SIZES), Shape(6, kinds=_SIZES), Shape(6, kinds=_ALL_CONDITIONS),
            Shape(8, kinds=_ALL_CONDITIONS), Shape(8, depth=2, kinds=_ALL_CONDITIONS),
            Shape(10, depth=2, kinds=_ALL_CONDITIONS), Shape(8, kinds=_ALL_CONDITIONS, top=99),
            Shape(10, depth=2, kinds=_ALL_CONDITIONS, top=99), Shape(12, depth=2, kinds=_ALL_CONDITIONS, top=99),
            Shape(14, depth=3, kinds=_ALL_CONDITIONS, top=99)),
    draw=_draw_filter,
    show=lambda content: f"{' and '.join(content[0])} in {joined(content[1])}",
    read=_read_filter,
    solve=lambda content: joined(_kept(content)) or NONE,
    fits=_fits_filter,
    room=lambda shape: listed(shape.n, len(str(shape.top))) + len(NONE),
    normal=lambda content: (tuple(sorted(content[0])), content[1]),
    also=("attn_compare",),
    depth=lambda content: len(content[0]),
)  # fmt: skip

# --- attn_rank: content = (direction, numbers) --------------------------------------------------------------------

Rank = tuple[str, tuple[int, ...]]


def _draw_rank(shape: Shape, rng: random.Random) -> Rank:
    return rng.choice(("up", "down")), tuple(rng.randint(0, shape.top) for _ in range(shape.n))


def _read_rank(body: str) -> Rank | None:
    direction, _, numbers = body.partition(": ")
    return (direction, numbers_of(numbers)) if direction in ("up", "down") and " " in numbers else None


_RANK = Primitive(
    name="attn_rank",
    title="Rank",
    rule="`up`: from the smallest to the largest; `down`: from the largest to the smallest.",
    level_text="{n} numbers to {top}, upwards or downwards",
    shapes=(*(Shape(n) for n in (6, 7, 8, 9)), *(Shape(n, top=99) for n in (5, 6, 8, 10)), Shape(10, top=999),
            Shape(14, top=999)),
    draw=_draw_rank,
    show=lambda content: f"{content[0]}: {joined(content[1])}",
    read=_read_rank,
    solve=lambda content: joined(sorted(content[1], reverse=content[0] == "down")),
    fits=lambda shape, content: len(content[1]) == shape.n and max(content[1]) <= shape.top,
    room=lambda shape: listed(shape.n, len(str(shape.top))),
    normal=lambda content: (content[0], tuple(sorted(content[1]))),
    kind=lambda content: content[0],
    also=("attn_compare",),
)  # fmt: skip

ALL = (_SELECT, _COUNT, _COMPARE, _FILTER, _RANK)

"""Sequence primitives: continue, reverse, transform, interleave, extract."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from realm.guild.skills.primitives.engine import (
    ALNUM,
    Primitive,
    Shape,
    joined,
    listed,
    number_of,
    numbers_of,
    symbols_of,
)

BAR = " / "


def some(rng: random.Random, symbols: str, count: int) -> tuple[str, ...]:
    """Symbols drawn with repetition."""
    return tuple(rng.choices(symbols, k=count))


def made_of(symbols: str, *lists: tuple[str, ...]) -> bool:
    """Whether every item of the lists is one of these symbols."""
    return all(item in symbols for items in lists for item in items)


# --- seq_reverse: content = the items -----------------------------------------------------------------------------

_REVERSE = Primitive(
    name="seq_reverse",
    title="Reverse",
    rule="Write the items from the last to the first.",
    level_text="{n} items of {symbols} symbols",
    shapes=(*(Shape(n) for n in range(4, 12)), Shape(10, symbols=ALNUM), Shape(14, symbols=ALNUM)),
    draw=lambda shape, rng: some(rng, shape.symbols, shape.n),
    show=joined,
    read=lambda body: symbols_of(body, ALNUM),
    solve=lambda items: joined(items[::-1]),
    fits=lambda shape, items: len(items) == shape.n and made_of(shape.symbols, items),
    room=lambda shape: listed(shape.n),
)

# --- seq_interleave: content = the lists, of equal length ---------------------------------------------------------


def _read_lists(body: str) -> tuple[tuple[str, ...], ...]:
    lists = tuple(symbols_of(part, ALNUM) for part in body.split(BAR))
    if len(lists) < 2 or len({len(items) for items in lists}) != 1:
        raise ValueError("needs two or more lists of one length")
    return lists


_INTERLEAVE = Primitive(
    name="seq_interleave",
    title="Interleave",
    rule="Take the first item of every list, then the second of every list, and so on.",
    level_text="{asked} lists of {n} items, {symbols} symbols",
    shapes=(Shape(2, 2), Shape(3, 2), Shape(4, 2), Shape(5, 2), Shape(6, 2), Shape(3, 3), Shape(4, 3), Shape(5, 3),
            Shape(4, 4), Shape(5, 4, symbols=ALNUM)),
    draw=lambda shape, rng: tuple(some(rng, shape.symbols, shape.n) for _ in range(shape.asked)),
    show=lambda lists: BAR.join(map(joined, lists)),
    read=_read_lists,
    solve=lambda lists: joined(item for turn in zip(*lists, strict=True) for item in turn),
    fits=lambda shape, lists: (len(lists), len(lists[0])) == (shape.asked, shape.n) and made_of(shape.symbols, *lists),
    room=lambda shape: listed(shape.n * shape.asked),
)  # fmt: skip

# --- seq_continue: content = the numbers shown --------------------------------------------------------------------

NEXT = 3  # numbers asked for
LONGER = 6  # a short cycle is shown up to so much beyond its two rounds: there are only 990 cycles of three digits


def rule_of(shown: tuple[int, ...]) -> tuple[str, int] | None:
    """The rule that the shown numbers follow: ("cycle", period), ("step", difference) or ("growth", second difference).

    A cycle is shown at least twice, a step by four numbers, a growing step by five. No two of the rules disagree about
    what comes next: a sequence that is several of them at once is constant, and two periods that are both shown twice
    have a common divisor that is a period as well (Fine and Wilf 1965).
    """
    n = len(shown)
    for period in range(1, n // 2 + 1) if n >= 4 else ():
        if all(shown[i] == shown[i - period] for i in range(period, n)):
            return "cycle", period
    steps = [b - a for a, b in zip(shown, shown[1:], strict=False)]
    if n >= 4 and len(set(steps)) == 1:
        return "step", steps[0]
    growth = {b - a for a, b in zip(steps, steps[1:], strict=False)}
    return ("growth", growth.pop()) if n >= 5 and len(growth) == 1 else None


def _continue(shown: tuple[int, ...]) -> str:
    kind, number = rule_of(shown)
    found = list(shown)
    for _ in range(NEXT):
        if kind == "cycle":
            found.append(found[-number])
        else:
            found.append(found[-1] + (number if kind == "step" else 2 * (found[-1] - found[-2]) - _before(found)))
    return joined(found[len(shown) :])


def _before(found: list[int]) -> int:
    """The step before the last one: a growing step goes on by the same difference."""
    return found[-2] - found[-3]


def _draw_sequence(shape: Shape, rng: random.Random) -> tuple[int, ...]:
    kind = rng.choice(shape.kinds)
    while True:
        if kind == "cycle":
            period = [rng.randint(0, 9) for _ in range(shape.n)]
            shown = tuple((period * 4)[: 2 * shape.n + rng.randrange(max(shape.n, LONGER))])
        else:
            step = rng.choice((-1, 1)) * rng.randint(1, shape.depth) if shape.asked > 1 else rng.randint(1, shape.depth)
            growth = rng.randint(1, 5) if kind == "growth" else 0
            start = rng.randint(0, shape.top)
            shown = tuple(start + i * step + growth * i * (i - 1) // 2 for i in range(5))
        if min(shown) >= 0 and (rule_of(shown) or ("",))[0] == kind and _natural_next(shown):
            if kind != "cycle" or rule_of(shown) == ("cycle", shape.n):
                return shown


def _natural_next(shown: tuple[int, ...]) -> bool:
    return "-" not in _continue(shown)


def _read_sequence(body: str) -> tuple[int, ...] | None:
    shown = numbers_of(body)
    return shown if rule_of(shown) else None


def _fits_sequence(shape: Shape, shown: tuple[int, ...]) -> bool:
    kind, number = rule_of(shown)
    if kind not in shape.kinds:
        return False
    if kind == "cycle":
        return number == shape.n and max(shown) <= 9
    step = shown[1] - shown[0]
    return (len(shown) == 5 and shown[0] <= shape.top and 1 <= abs(step) <= shape.depth
            and (step > 0 or shape.asked > 1) and (kind == "step" or 1 <= number <= 5))  # fmt: skip


_CONTINUE = Primitive(
    name="seq_continue",
    title="Continue",
    rule="The numbers follow one rule: a cycle (shown at least twice), a constant step, or a step that grows "
    "by a constant. Write the next three.",
    level_text="{text}",
    shapes=(
        *(Shape(n, kinds=("cycle",), text=f"a cycle of {n}, shown twice or more") for n in range(3, 9)),
        Shape(5, 1, 25, ("step",), top=499, text="a step of 1 to 25 upwards from 0 to 499"),
        Shape(5, 2, 25, ("step",), top=499, text="a step of 1 to 25 up or down from 0 to 499"),
        Shape(5, 2, 25, ("growth",), top=499, text="a step that itself grows by 1 to 5"),
        Shape(10, 2, 99, ("cycle", "step", "growth"), top=999, text="cycles of 10, steps and growing steps to 99"),
    ),
    draw=_draw_sequence,
    show=joined,
    read=_read_sequence,
    solve=_continue,
    fits=_fits_sequence,
    room=lambda shape: listed(NEXT, 1 if shape.kinds == ("cycle",) else 5),
    kind=lambda shown: rule_of(shown)[0],
)

# --- seq_transform: content = (moves, items) ----------------------------------------------------------------------

Moves = tuple[tuple[str, ...], tuple[str, ...]]
MOVES: dict[str, Callable[[tuple[str, ...]], tuple[str, ...]]] = {
    "left": lambda items: items[1:] + items[:1],
    "right": lambda items: items[-1:] + items[:-1],
    "swap": lambda items: items[-1:] + items[1:-1] + items[:1],
    "flip": lambda items: items[::-1],
    "drop": lambda items: items[1:],
}
"""left: the first item goes to the end; right: the last goes to the front; swap: first and last change places;
flip: the order is reversed; drop: the first item goes away."""


def _moved(content: Moves) -> str:
    moves, items = content
    for move in moves:
        items = MOVES[move](items)
    return joined(items)


def _read_moves(body: str) -> Moves | None:
    names, _, text = body.partition(": ")
    moves, items = tuple(names.split(", ")), symbols_of(text, ALNUM)
    known = all(move in MOVES for move in moves)
    return (moves, items) if known and len(items) >= 2 + moves.count("drop") else None


_TRANSFORM = Primitive(
    name="seq_transform",
    title="Transform",
    rule="Apply the moves from left to right. `left`: the first item goes to the end; `right`: the last goes "
    "to the front; `swap`: first and last change places; `flip`: the order is reversed; `drop`: the first "
    "item goes away.",
    level_text="{depth} of the moves {kinds} on {n} items",
    shapes=(Shape(4, depth=1, kinds=("left", "right", "swap")),
            *(Shape(n, depth=depth, kinds=tuple(MOVES)) for n, depth in ((5, 1), (6, 1), (5, 2), (6, 2), (6, 3), (8, 3),
                                                                         (8, 4), (10, 4), (12, 5)))),
    draw=lambda shape, rng: (tuple(rng.choices(shape.kinds, k=shape.depth)), some(rng, shape.symbols, shape.n)),
    show=lambda content: f"{', '.join(content[0])}: {joined(content[1])}",
    read=_read_moves,
    solve=_moved,
    fits=lambda shape, content: (len(content[0]), len(content[1])) == (shape.depth, shape.n)
    and set(content[0]) <= set(shape.kinds) and made_of(shape.symbols, content[1]),
    room=lambda shape: listed(shape.n),
    depth=lambda content: len(content[0]),
)  # fmt: skip

# --- seq_extract: content = (form, two numbers, items); positions count from 1 ------------------------------------

Extract = tuple[str, int, int, tuple[str, ...]]
_EXTRACT_FORMS = {"run": re.compile(r"([0-9]+) to ([0-9]+) in (.+)"),
                  "every": re.compile(r"every ([0-9]+) from ([0-9]+) in (.+)")}  # fmt: skip


def _show_extract(content: Extract) -> str:
    form, one, two, items = content
    return f"{one} to {two} in {joined(items)}" if form == "run" else f"every {one} from {two} in {joined(items)}"


def _extract(content: Extract) -> tuple[str, ...]:
    form, one, two, items = content
    return items[one - 1 : two] if form == "run" else items[two - 1 :: one]


def _draw_extract(shape: Shape, rng: random.Random) -> Extract:
    form = rng.choice(shape.kinds)
    items = some(rng, shape.symbols, shape.n)
    if form == "run":
        one, two = sorted(rng.sample(range(1, shape.n + 1), 2))
        return form, one, two, items
    every = rng.randint(2, shape.depth)
    return form, every, rng.randint(1, min(every, shape.n - every)), items


def _read_extract(body: str) -> Extract | None:
    for form, pattern in _EXTRACT_FORMS.items():
        if match := pattern.fullmatch(body):
            one, two, items = number_of(match[1]), number_of(match[2]), symbols_of(match[3], ALNUM)
            last = two if form == "run" else one + two
            content = (form, one, two, items)
            sound = one >= 1 and two >= 1 and last <= len(items) and (one < two if form == "run" else one > 1)
            return content if sound else None
    return None


def _fits_extract(shape: Shape, content: Extract) -> bool:
    form, one, two, items = content
    sizes = form in shape.kinds and len(items) == shape.n and made_of(shape.symbols, items)
    return sizes and (form == "run" or two <= one <= shape.depth)


_EXTRACT = Primitive(
    name="seq_extract",
    title="Extract",
    rule="`2 to 4`: the items at places 2, 3 and 4. `every 3 from 2`: the items at places 2, 5, 8 … Places "
    "count from 1.",
    level_text="{kinds} of {n} items{text}",
    shapes=(*(Shape(n, kinds=("run",)) for n in (5, 6, 8, 10)),
            *(Shape(n, depth=depth, kinds=kinds, text=f", k up to {depth}") for n, depth, kinds in (
                (8, 2, ("every",)), (10, 3, ("every",)), (12, 3, ("run", "every")), (14, 4, ("run", "every")),
                (16, 5, ("run", "every")), (20, 6, ("run", "every"))))),
    draw=_draw_extract,
    show=_show_extract,
    read=_read_extract,
    solve=lambda content: joined(_extract(content)),
    fits=_fits_extract,
    room=lambda shape: listed(shape.n),
    kind=lambda content: content[0],
    also=("attn_select",),
)  # fmt: skip

ALL = (_CONTINUE, _REVERSE, _TRANSFORM, _INTERLEAVE, _EXTRACT)

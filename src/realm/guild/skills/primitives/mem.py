"""Memory primitives: recall, context, compose, update."""

from __future__ import annotations

import random
import re
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
    rule="`a3` says that a has the value 3. Write the asked keys with their values, in the order asked.",
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

# --- mem_context: content = ((context, pairs) …, (context, key) …) ------------------------------------------------

CONTEXTS = "VWXYZ"
Contexts = tuple[tuple[tuple[str, Pairs], ...], tuple[tuple[str, str], ...]]


def _draw_contexts(shape: Shape, rng: random.Random) -> Contexts:
    """`depth` contexts that all have the same `n` keys; `asked` of the places are asked for."""
    keys = rng.sample(LETTERS, shape.n)
    names = rng.sample(CONTEXTS, shape.depth)
    told = tuple((name, draw_pairs(rng, shape.n, "".join(keys))) for name in names)
    return told, tuple(rng.sample([(name, key) for name in names for key in keys], shape.asked))


def _read_contexts(body: str) -> Contexts | None:
    *parts, asked = body.split("; ")
    told = []
    for part in parts:
        name, _, pairs = part.partition(" ")
        told.append((*symbols_of(name, CONTEXTS), read_pairs(pairs)))
    places = {(name, key) for name, pairs in told for key, _ in pairs}
    wanted = tuple((part[:1], part[1:]) for part in asked.split(" "))
    sound = len(dict(told)) == len(told) > 1 and len(set(wanted)) == len(wanted) and set(wanted) <= places
    return (tuple(told), wanted) if sound else None


def _from_contexts(content: Contexts) -> str:
    values = {(name, key): value for name, pairs in content[0] for key, value in pairs}
    return show_pairs((name, key, values[name, key]) for name, key in content[1])


def _fits_contexts(shape: Shape, content: Contexts) -> bool:
    told, wanted = content
    keys = {frozenset(dict(pairs)) for _, pairs in told}
    return (len(told), len(wanted), [len(names) for names in keys]) == (shape.depth, shape.asked, [shape.n])


_CONTEXT = Primitive(
    name="mem_context",
    title="Context",
    rule="A capital letter opens a context; `Xa` asks for the value of a in context X. Write each place with "
    "its value.",
    level_text="{asked} values out of {depth} contexts of {n} keys",
    shapes=tuple(Shape(n, asked, depth) for n, depth, asked in (
        (2, 2, 2), (3, 2, 2), (4, 2, 2), (4, 2, 3), (3, 3, 3), (4, 3, 3), (4, 4, 4), (5, 4, 4), (5, 5, 5), (6, 5, 6))),
    draw=_draw_contexts,
    show=lambda content: "; ".join([*(f"{name} {show_pairs(pairs)}" for name, pairs in content[0]),
                                    show_pairs(content[1])]),
    read=_read_contexts,
    solve=_from_contexts,
    fits=_fits_contexts,
    room=lambda shape: listed(shape.asked, 3),
    normal=lambda content: (tuple(sorted((name, tuple(sorted(pairs))) for name, pairs in content[0])),
                            tuple(sorted(content[1]))),
    also=("mem_recall",),
)  # fmt: skip

# --- mem_compose: content = (tables, keys asked for) --------------------------------------------------------------

# Keys of the first table, of the second …; the last is what the last table gives. Neighbours in another kind of
# character, so that a key and its value stay two tokens.
_STAGES = {2: (LETTERS, LETTERS.upper(), DIGITS), 3: (LETTERS, LETTERS.upper(), DIGITS, LETTERS)}
Compose = tuple[tuple[Pairs, ...], tuple[str, ...]]


def _draw_compose(shape: Shape, rng: random.Random) -> Compose:
    stages = _STAGES[shape.depth]
    keys = [rng.sample(stage, shape.n) for stage in stages[:-1]]
    tables = []
    for here, values in zip(keys, [*keys[1:], None], strict=True):
        there = rng.sample(values, shape.n) if values else rng.choices(stages[-1], k=shape.n)
        tables.append(tuple(rng.sample(list(zip(here, there, strict=True)), shape.n)))
    return tuple(tables), tuple(rng.sample(keys[0], shape.asked))


def _read_compose(body: str) -> Compose | None:
    *parts, asked = body.split("; ")
    stages = _STAGES.get(len(parts))
    if stages is None:
        return None
    tables = tuple(read_pairs(part, stages[i], stages[i + 1]) for i, part in enumerate(parts))
    keys = symbols_of(asked, LETTERS)
    linked = all(set(dict(one).values()) <= set(dict(two)) for one, two in zip(tables, tables[1:], strict=False))
    sound = linked and len(set(keys)) == len(keys) and set(keys) <= set(dict(tables[0]))
    return (tables, keys) if sound else None


def _trail(tables: tuple[Pairs, ...], key: str) -> str:
    """The key and everything that is found on the way."""
    found = key
    for table in tables:
        found += dict(table)[found[-1]]
    return found


_COMPOSE = Primitive(
    name="mem_compose",
    title="Compose",
    rule="The first table leads from a letter to a key of the next table, and so on. Write each asked letter "
    "with everything found on the way.",
    level_text="{asked} trails through {depth} tables of {n}",
    shapes=tuple(Shape(n, asked, depth) for n, depth, asked in (
        (3, 2, 1), (3, 2, 2), (4, 2, 2), (5, 2, 2), (6, 2, 3), (8, 2, 3), (4, 3, 2), (5, 3, 3), (6, 3, 3), (8, 3, 4))),
    draw=_draw_compose,
    show=lambda content: "; ".join([*map(show_pairs, content[0]), joined(content[1])]),
    read=_read_compose,
    solve=lambda content: joined(_trail(content[0], key) for key in content[1]),
    fits=lambda shape, content: (len(content[0]), len(content[1])) == (shape.depth, shape.asked)
    and {len(table) for table in content[0]} == {shape.n},
    room=lambda shape: listed(shape.asked, shape.depth + 1),
    normal=lambda content: (tuple(tuple(sorted(table)) for table in content[0]), tuple(sorted(content[1]))),
    also=("mem_recall", "logic_chain"),
    depth=lambda content: len(content[0]),
)  # fmt: skip

# --- mem_update: content = (first values, changes, keys asked for) ------------------------------------------------

Update = tuple[tuple[tuple[str, int], ...], tuple[tuple[str, str, int], ...], tuple[str, ...]]
_CHANGE = re.compile(r"([a-z])([+-]?)([0-9]{1,3})")


def _updated(content: Update) -> dict[str, int]:
    values = dict(content[0])
    for key, sign, number in content[1]:
        values[key] = number if not sign else values[key] + (number if sign == "+" else -number)
    return values


def _show_changes(changes: Iterable[tuple[str, str, int]]) -> str:
    return joined(f"{key}{sign}{number}" for key, sign, number in changes)


def _draw_update(shape: Shape, rng: random.Random) -> Update:
    """`n` values, `depth` changes; no value falls below zero, and changed keys are asked for before others."""
    values = {key: rng.randint(0, shape.top) for key in rng.sample(LETTERS, shape.n)}
    first, changes = tuple(values.items()), []
    for _ in range(shape.depth):
        key, sign = rng.choice(list(values)), rng.choice(shape.kinds).removeprefix("set")
        number = rng.randint(0, min(9, values[key])) if sign == "-" else rng.randint(0, 9 if sign else shape.top)
        values[key] = number if not sign else values[key] + (number if sign == "+" else -number)
        changes.append((key, sign, number))
    changed = list(dict.fromkeys(key for key, _, _ in changes))
    asked = rng.sample(changed, min(shape.asked, len(changed)))
    asked += rng.sample([key for key in values if key not in asked], shape.asked - len(asked))
    rng.shuffle(asked)
    return first, tuple(changes), tuple(asked)


def _read_update(body: str) -> Update | None:
    first, changes, asked = body.split("; ")
    told, made = ([_CHANGE.fullmatch(part) for part in text.split(" ")] for text in (first, changes))
    if not all(told) or not all(made) or any(match[2] for match in told):
        return None
    values = tuple((match[1], int(match[3])) for match in told)
    keys = symbols_of(asked, LETTERS)
    content = (values, tuple((match[1], match[2], int(match[3])) for match in made), keys)
    named = {match[1] for match in made} | set(keys)
    return content if len(dict(values)) == len(values) and len(set(keys)) == len(keys) and named <= set(
        dict(values)) else None  # fmt: skip


def _fits_update(shape: Shape, content: Update) -> bool:
    first, changes, asked = content
    small = all(number <= (9 if sign else shape.top) for _, sign, number in changes)
    return ((len(first), len(changes), len(asked)) == (shape.n, shape.depth, shape.asked) and small
            and max(value for _, value in first) <= shape.top
            and {sign or "set" for _, sign, _ in changes} <= set(shape.kinds))  # fmt: skip


_UPDATE = Primitive(
    name="mem_update",
    title="Update",
    rule="First values, then changes in order: `a5` sets a to 5, `a+2` and `a-2` add and subtract. Write the "
    "asked keys with their last values.",
    level_text="{asked} of {n} values to {top} after {depth} changes ({kinds})",
    shapes=(*(Shape(n, 2, depth, ("set",)) for n, depth in ((2, 2), (3, 3), (4, 4))), Shape(4, 3, 6, ("set",)),
            Shape(3, 2, 3, ("set", "+")), Shape(4, 2, 4, ("set", "+")), Shape(4, 2, 4, ("set", "+", "-")),
            Shape(5, 3, 6, ("set", "+", "-")), Shape(5, 3, 8, ("set", "+", "-"), top=99),
            Shape(6, 4, 10, ("set", "+", "-"), top=99)),
    draw=_draw_update,
    show=lambda content: "; ".join([show_pairs((key, str(value)) for key, value in content[0]),
                                    _show_changes(content[1]), joined(content[2])]),
    read=_read_update,
    solve=lambda content: show_pairs((key, str(_updated(content)[key])) for key in content[2]),
    fits=_fits_update,
    room=lambda shape: listed(shape.asked, 4),
    # Changes of different keys commute; those of one key stay in their order.
    normal=lambda content: (tuple(sorted(content[0])), tuple(sorted(content[1], key=lambda change: change[0])),
                            tuple(sorted(content[2]))),
    also=("mem_recall",),
    depth=lambda content: len(content[1]),
)  # fmt: skip

ALL = (_RECALL, _CONTEXT, _COMPOSE, _UPDATE)

"""The 30 levels of BIN: bit widths, difficulty mixes, and which levels are closed tables."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice, product

from realm.guild.skills.base import CLOSED_BELOW
from realm.guild.skills.bin.operations import OPERATIONS, SHIFTS_FROM_LEVEL, Link, Operation, valid

MAX_LEVEL = 30
SYMBOLS_FROM_LEVEL = 8
SYMBOL_SHARE = 0.75
AUXILIARY_SHARE = 0.15

DIFFICULTIES = ("easy", "medium", "hard", "expert")
TAGS = {"easy": "", "medium": " [verify]", "hard": " [show-work]", "expert": " [trace]"}
CHAIN_DEPTH = {"easy": (1, 1), "medium": (1, 2), "hard": (2, 3), "expert": (3, 5)}
# Percent of easy, medium, hard, expert; the key is the last level that the row holds for.
_MIXES = {5: (50, 35, 12, 3), 10: (40, 35, 20, 5), 15: (30, 35, 25, 10), 20: (25, 30, 30, 15), 25: (20, 30, 30, 20),
          30: (15, 25, 35, 25)}


def bits(level: int) -> int:
    """Bit width of a level: 2 at L1, 30 at L29, 32 at L30."""
    return 32 if level == MAX_LEVEL else level + 1


def mix(level: int) -> tuple[int, int, int, int]:
    """Percent of each difficulty at this level."""
    return next(shares for last, shares in _MIXES.items() if level <= last)


def operations_at(level: int) -> list[Operation]:
    """The operations that a level asks for."""
    return [op for op in OPERATIONS.values() if op.family != "shift" or level >= SHIFTS_FROM_LEVEL]


def operand_ranges(op: Operation, width: int) -> list[range]:
    """The values that each operand is drawn from, uniformly; a shift count runs from 0 to the width."""
    ranges = [range(1 << width) for _ in op.kinds]
    if op.family == "shift":
        ranges[1] = range(width + 1)
    if op.name == "decrement":
        ranges[0] = range(1, 1 << width)
    return ranges


def all_links(level: int) -> Iterator[Link]:
    """Every distinct one-link problem of a level, commutative pairs once, in a fixed order."""
    width = bits(level)
    for op in operations_at(level):
        for args in product(*operand_ranges(op, width)):
            link = Link(op.name, args, width if op.word else 0)
            if valid(link) and not (op.commutative and args[0] > args[1]):
                yield link


@cache
def closed_table(level: int) -> tuple[Link, ...] | None:
    """The whole table of a closed level, or None for an open level."""
    if bits(level) > CLOSED_BELOW.bit_length():  # one unary operation alone fills the table; do not try to list it
        return None
    links = tuple(islice(all_links(level), CLOSED_BELOW))
    return links if len(links) < CLOSED_BELOW else None


@cache
def last_closed_level() -> int:
    """The highest closed level; widths grow, so every level below it is closed as well."""
    return max(level for level in range(1, MAX_LEVEL + 1) if closed_table(level) is not None)


@cache
def _closed_bounds() -> tuple[int, int]:
    top = bits(last_closed_level())
    return 1 << top, top


def belongs_to_closed_level(link: Link) -> bool:
    """Whether a link stands in the table of a closed level: arithmetic on its operands, no table look-up.

    Word problems belong to the level of their own width; all others to every level whose range holds their operands.
    """
    limit, top = _closed_bounds()
    if link.width:
        return link.width <= top
    if link.op.startswith("shift"):
        return link.args[0] < limit and link.args[1] <= top
    return max(link.args) < limit

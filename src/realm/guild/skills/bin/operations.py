"""The operations of BIN: what they compute, on which kinds of numbers, and how a person would check them in decimal.

A *link* is one operation with its operand values. A problem is one link or a chain of links, each of which takes the
value of the one before as its first operand. Values are plain Python ints throughout; text lives in notation.py.

Kinds of numbers:
  n  a natural number in circled digits without leading zeros
  w  a word of exactly `width` circled digits, read as two's complement by the signed operations
  d  a decimal number
  b  true or false
Word operations write all their digits because their meaning depends on the width; so the width is part of the problem.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: `kinds` of its operands, kind of its `result`, and `apply(args, width)` that computes it."""

    name: str
    kinds: str
    result: str
    apply: Callable[[tuple[int, ...], int], int | bool]
    commutative: bool = False
    family: str = "arithmetic"
    weight: int = 4
    chainable: bool = True
    # unsigned width of the result may exceed the level's width: the operation can be asked about overflow
    overflows: bool = False

    @property
    def word(self) -> bool:
        return "w" in self.kinds


def signed(value: int, width: int) -> int:
    """The two's complement reading of a word."""
    return value - (1 << width) if value >> (width - 1) else value


def word(value: int, width: int) -> int:
    """The word that holds a signed value, modulo 2**width."""
    return value & ((1 << width) - 1)


def exact_signed(name: str, args: tuple[int, ...], width: int) -> int:
    """The unbounded signed result, before it is wrapped to the word; ValueError for an operation that is not signed."""
    values = [signed(a, width) for a in args]
    if name == "add_signed":
        return values[0] + values[1]
    if name == "subtract_signed":
        return values[0] - values[1]
    if name == "multiply_signed":
        return values[0] * values[1]
    if name == "negate":
        return -values[0]
    if name == "absolute_value":
        return abs(values[0])
    raise ValueError(f"operation {name!r} is not signed; use one of the operations of family 'signed'")


def _signed(name: str) -> Callable[[tuple[int, ...], int], int]:
    return lambda args, width: word(exact_signed(name, args, width), width)


# Weights: multiplication without work and conversions between bases are the hardest to answer in one line; they are
# drawn half as often, so that one of them alone cannot decide a level.
_ALL = (
    Operation("add", "nn", "n", lambda a, w: a[0] + a[1], commutative=True, overflows=True),
    Operation("subtract", "nn", "n", lambda a, w: a[0] - a[1]),
    Operation("multiply", "nn", "n", lambda a, w: a[0] * a[1], commutative=True, weight=2, overflows=True),
    Operation("increment", "n", "n", lambda a, w: a[0] + 1, overflows=True),
    Operation("decrement", "n", "n", lambda a, w: a[0] - 1),
    Operation("add_signed", "ww", "w", _signed("add_signed"), commutative=True, family="signed", overflows=True),
    Operation("subtract_signed", "ww", "w", _signed("subtract_signed"), family="signed", overflows=True),
    Operation("multiply_signed", "ww", "w", _signed("multiply_signed"), commutative=True, family="signed", weight=2,
              overflows=True),
    Operation("negate", "w", "w", _signed("negate"), family="signed", overflows=True),
    Operation("absolute_value", "w", "w", _signed("absolute_value"), family="signed", overflows=True),
    Operation("equals", "nn", "b", lambda a, w: a[0] == a[1], commutative=True, family="compare"),
    Operation("lessthan", "nn", "b", lambda a, w: a[0] < a[1], family="compare"),
    Operation("greaterthan", "nn", "b", lambda a, w: a[0] > a[1], family="compare"),
    Operation("minimum", "nn", "n", lambda a, w: min(a), commutative=True, family="compare"),
    Operation("maximum", "nn", "n", lambda a, w: max(a), commutative=True, family="compare"),
    Operation("multiply_by_2", "n", "n", lambda a, w: a[0] * 2, family="scale", overflows=True),
    Operation("divide_by_2", "n", "n", lambda a, w: a[0] // 2, family="scale"),
    Operation("tobinary", "d", "n", lambda a, w: a[0], family="convert", weight=2),
    Operation("todecimal", "n", "d", lambda a, w: a[0], family="convert", weight=2),
    Operation("and", "nn", "n", lambda a, w: a[0] & a[1], commutative=True, family="bitwise"),
    Operation("or", "nn", "n", lambda a, w: a[0] | a[1], commutative=True, family="bitwise"),
    Operation("xor", "nn", "n", lambda a, w: a[0] ^ a[1], commutative=True, family="bitwise"),
    Operation("not", "w", "w", lambda a, w: word(~a[0], w), family="bitwise"),
    Operation("shift_left", "nd", "n", lambda a, w: a[0] << a[1], family="shift", weight=2, overflows=True),
    Operation("shift_right", "nd", "n", lambda a, w: a[0] >> a[1], family="shift", weight=2),
)
OPERATIONS: dict[str, Operation] = {op.name: op for op in _ALL}
# At 2 bits every shift is a doubling, a halving, the number itself or zero; shifts join at 3 bits.
SHIFTS_FROM_LEVEL = 2
MULTIPLY_CHAINS_TO_LEVEL = 7


@dataclass(frozen=True, slots=True)
class Link:
    """One operation with its operand values; `width` is the word width and 0 where the operation has no word."""

    op: str
    args: tuple[int, ...]
    width: int = 0

    @property
    def value(self) -> int | bool:
        return OPERATIONS[self.op].apply(self.args, self.width)

    @property
    def canonical(self) -> str:
        """The problem's identity: operand order of commutative operations does not count."""
        op = OPERATIONS[self.op]
        args = sorted(self.args) if op.commutative else self.args
        name = f"{self.op}@{self.width}" if op.word else self.op
        return f"{name}|{','.join(map(str, args))}"


def valid(link: Link) -> bool:
    """Whether the operands obey the rules of the operation (no negative naturals, words that fit their width)."""
    op = OPERATIONS[link.op]
    if len(link.args) != len(op.kinds) or any(a < 0 for a in link.args):
        return False
    if op.word:
        return link.width >= 2 and all(a < 1 << link.width for a in link.args)
    if link.op == "subtract":
        return link.args[0] >= link.args[1]
    return link.op != "decrement" or link.args[0] >= 1


def decimal_check(link: Link) -> str:
    """The same link in decimal, as a person would verify it: `5 + 3 = 8`."""
    name, args = link.op, link.args
    if OPERATIONS[name].family == "signed":
        return _signed_check(link)
    value = str(link.value).lower()
    infix = {"add": "+", "subtract": "-", "multiply": "*", "equals": "==", "lessthan": "<", "greaterthan": ">",
             "and": "and", "or": "or", "xor": "xor", "minimum": "min", "maximum": "max"}
    if name in infix:
        return f"{args[0]} {infix[name]} {args[1]} = {value}"
    if name in ("tobinary", "todecimal"):
        powers = [1 << i for i in reversed(range(args[0].bit_length())) if args[0] >> i & 1]
        return f"{' + '.join(map(str, powers)) or '0'} = {args[0]}"
    if name == "not":
        return f"{(1 << link.width) - 1} - {args[0]} = {value}"
    second = {"increment": "+ 1", "decrement": "- 1", "multiply_by_2": "* 2", "divide_by_2": "/ 2"}.get(name)
    if second is None:
        second = f"{'*' if name == 'shift_left' else '/'} {1 << args[1]}"
    return f"{args[0]} {second} = {value}"


def _signed_check(link: Link) -> str:
    values = [signed(a, link.width) for a in link.args]
    exact = exact_signed(link.op, link.args, link.width)
    wrapped = signed(int(link.value), link.width)
    if link.op == "negate":
        left = f"0 - {values[0]}"
    elif link.op == "absolute_value":
        left = f"abs {values[0]}"
    else:
        left = f"{values[0]} {dict(add_signed='+', subtract_signed='-', multiply_signed='*')[link.op]} {values[1]}"
    return f"{left} = {exact}" + ("" if exact == wrapped else f", wraps to {wrapped}")


def solve_operand(op: str, args: tuple[int | None, ...], value: int, width: int) -> int | None:
    """The operand in the place of None that makes `op(args) = value` true, or None where no single one does."""
    hidden = args.index(None)
    known = next((a for a in args if a is not None), None)
    if op in ("add", "xor"):
        guess = value - known if op == "add" else value ^ known
    elif op == "subtract":
        guess = value + known if hidden == 0 else known - value
    elif op == "multiply":
        guess = value // known if known else None
    elif op in ("increment", "decrement"):
        guess = value - 1 if op == "increment" else value + 1
    elif op == "multiply_by_2":
        guess = value // 2
    elif op == "add_signed":
        guess = word(value - known, width)
    elif op == "subtract_signed":
        guess = word(value + known if hidden == 0 else known - value, width)
    elif op == "negate":
        guess = word(-value, width)
    elif op == "not":
        guess = word(~value, width)
    else:
        return None
    if guess is None or guess < 0:
        return None
    link = Link(op, tuple(guess if a is None else a for a in args), width)
    return guess if valid(link) and link.value == value else None


SOLVABLE = ("add", "subtract", "multiply", "increment", "decrement", "multiply_by_2", "xor", "add_signed",
            "subtract_signed", "negate", "not")

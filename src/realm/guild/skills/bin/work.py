"""The worked part of an answer: one compact run of columns per link, from the least significant digit.

A column is written so that a person can check it at a glance and a tiny model can compute it from what stands before:

  add, subtract      `①①:①⓪`   the two digits, then carry (borrow) and result digit; the carry enters the next column
  increment, negate  `①:①⓪`    the same with one digit; the one to be added enters the first column as its carry
  and, or, xor, not  `①⓪:①`    digits in, digit out
  comparisons        `①⓪>`      the two digits and the verdict so far; the last verdict decides
  multiply           `①①+①①⓪⓪=①①①①` running sum of the shifted copies of the first operand
  doubling, shifts   `①⓪①|⓪⓪`  digits that stay | digits that are appended or dropped
  tobinary           `13:6① 6:3⓪` number, half, remainder
  todecimal          `①:1 ⓪:1 ①:5` digit and running total
"""

from __future__ import annotations

from realm.guild.skills.bin.notation import DIGITS, natural, padded
from realm.guild.skills.bin.operations import OPERATIONS, Link, word

BORROWERS = ("subtract", "subtract_signed", "decrement")


def work(link: Link) -> str:
    """The columns of one link, separated by spaces."""
    name, (a, *rest) = link.op, link.args
    if OPERATIONS[name].family == "compare":
        return _comparison(a, rest[0])
    if name in ("add", "add_signed", "subtract", "subtract_signed"):
        return _sum_columns(a, rest[0], link.width, name in BORROWERS)
    if name in ("increment", "decrement"):
        return _step_columns(a, 0, name == "decrement")
    if name in ("negate", "absolute_value"):
        return _negation(a, link.width, always=name == "negate")
    if name in ("multiply", "multiply_signed"):
        return _product(a, rest[0], link.width)
    if name in ("and", "or", "xor", "not"):
        return _bitwise(link)
    if name == "tobinary":
        return _halving(a)
    if name == "todecimal":
        return _totals(a)
    return _cut(link)


def carries(a: int, b: int, borrow: bool) -> bool:
    """Whether any column of a + b (or a - b) carries (borrows)."""
    return bool((~a & b) if borrow else (a & b))


def _sum_columns(a: int, b: int, width: int, borrow: bool) -> str:
    columns, carry = [], 0
    for i in range(width or max(a.bit_length(), b.bit_length(), 1)):
        x, y = a >> i & 1, b >> i & 1
        total = x - y - carry if borrow else x + y + carry
        out = int(total < 0) if borrow else total >> 1
        columns.append(f"{DIGITS[x]}{DIGITS[y]}:{DIGITS[out]}{DIGITS[total & 1]}")
        carry = out
    return " ".join(columns)


def _step_columns(a: int, width: int, borrow: bool) -> str:
    """Columns of a + 1 or a - 1: the one enters as the first carry."""
    columns, carry = [], 1
    for i in range(width or max(a.bit_length(), 1)):
        x = a >> i & 1
        total = x - carry if borrow else x + carry
        out = int(total < 0) if borrow else total >> 1
        columns.append(f"{DIGITS[x]}:{DIGITS[out]}{DIGITS[total & 1]}")
        carry = out
    return " ".join(columns)


def _negation(a: int, width: int, always: bool) -> str:
    """Flip every digit, then add one; an absolute value of a non-negative word needs neither."""
    if not always and not a >> (width - 1):
        return f"{DIGITS[0]}+"
    flipped = word(~a, width)
    sign = "" if always else f"{DIGITS[1]}- "
    return f"{sign}{padded(flipped, width)} {_step_columns(flipped, width, borrow=False)}"


def _comparison(a: int, b: int) -> str:
    columns, verdict = [], "="
    for i in range(max(a.bit_length(), b.bit_length(), 1)):
        x, y = a >> i & 1, b >> i & 1
        verdict = verdict if x == y else ("<" if x < y else ">")
        columns.append(f"{DIGITS[x]}{DIGITS[y]}{verdict}")
    return " ".join(columns)


def _product(a: int, b: int, width: int) -> str:
    """Running sum of shifted copies; words wrap to their width at every step."""
    def text(value: int) -> str:
        return padded(word(value, width), width) if width else natural(value)

    total, parts = 0, ""
    for i in range(b.bit_length()):
        if b >> i & 1:
            part = a << i
            parts = f"{parts}+{text(part)}={text(total + part)}" if parts else text(part)
            total += part
    return parts or text(0)


def _bitwise(link: Link) -> str:
    width = link.width or max(max(link.args).bit_length(), 1)
    rows = [*link.args, int(link.value)]
    columns = ["".join(DIGITS[value >> i & 1] for value in rows) for i in range(width)]
    return " ".join(f"{column[:-1]}:{column[-1]}" for column in columns)


def _halving(a: int) -> str:
    steps = []
    while True:
        steps.append(f"{a}:{a // 2}{DIGITS[a & 1]}")
        a //= 2
        if a == 0:
            return " ".join(steps)


def _totals(a: int) -> str:
    return " ".join(f"{DIGITS[a >> i & 1]}:{a & ((2 << i) - 1)}" for i in range(max(a.bit_length(), 1)))


def _cut(link: Link) -> str:
    a, count = link.args[0], link.args[1] if len(link.args) > 1 else 1
    if link.op in ("multiply_by_2", "shift_left"):
        return f"{natural(a)}|{DIGITS[0] * count}"
    dropped = padded(a & ((1 << count) - 1), count) if count else ""
    return f"{natural(a >> count)}|{dropped}"

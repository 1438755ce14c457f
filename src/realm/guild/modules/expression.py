"""A small, safe expression language for declarative generators: arithmetic, comparisons, lists, texts, pure functions.

    parse("a * 10 + b if a > b else sum([x for x in xs if x % 2 == 0])", {"a", "b", "xs"}).value({"a": 3, …})

The grammar is a part of Python's own, parsed by `ast` and then walked here, node by node, against a whitelist:
nothing is compiled or executed by Python. There are no attributes, no assignments, no calls but of `FUNCTIONS`. Size,
depth, exponents, whole numbers, texts, lists and the number of steps are limited, so that an expression from a
stranger can neither reach anything outside nor hold up the realm.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

TEXT_AT_MOST = 500  # characters of an expression
NODES_AT_MOST = 200
DEPTH_AT_MOST = 30
STEPS_AT_MOST = 2_000  # evaluated nodes of one evaluation
EXPONENT_AT_MOST = 64
BITS_AT_MOST = 512  # of a whole number
STRING_AT_MOST = 2_000  # characters of a text
LIST_AT_MOST = 256  # members of a list

Value = int | float | bool | str | list


class ExpressionError(ValueError):
    """An expression that is not allowed, or that has no value for the given variables."""


@dataclass(frozen=True)
class Expression:
    """A checked expression; `names` are the variables that it reads."""

    text: str
    names: frozenset[str]
    _root: ast.expr = field(repr=False, compare=False)

    def value(self, values: Mapping[str, Value]) -> Value:
        """Its value. Raises ExpressionError where it has none (division by zero, a limit, types that do not fit)."""
        try:
            return _Walk(dict(values)).visit(self._root)
        except ExpressionError as error:
            raise ExpressionError(f"{self.text!r}: {error}") from error
        except (ArithmeticError, ValueError, TypeError, IndexError) as error:
            raise ExpressionError(f"{self.text!r} has no value for {_short(values)}: {error}; exclude these values "
                                  "with `where` or mend the expression") from error  # fmt: skip


def parse(text: str, names: Collection[str]) -> Expression:
    """Check an expression that may read the variables `names`.

    Raises:
        ExpressionError: not in the language; the text names the part, the rule and what to write instead.
    """
    if len(text) > TEXT_AT_MOST:
        raise ExpressionError(f"{text[:40]!r}…: {len(text)} characters, at most {TEXT_AT_MOST} are allowed; shorten it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a text is no concern of whoever runs the realm
            root = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ExpressionError(f"{text!r} is no expression ({reason}); write one such as `a + b`") from error
    used: set[str] = set()
    try:
        count = _check(root, frozenset(names), used, DEPTH_AT_MOST)
    except ExpressionError as error:
        raise ExpressionError(f"{text!r}: {error}") from error
    if count > NODES_AT_MOST:
        raise ExpressionError(f"{text[:40]!r}…: {count} parts, at most {NODES_AT_MOST} are allowed; shorten it")
    return Expression(text, frozenset(used), root)


def text_of(value: Value) -> str:
    """How a value is written in prompts and answers: `7`, `2.5`, `true`, `3, 1, 4`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, list):
        return ", ".join(text_of(member) for member in value)
    return str(value)


# --- what is allowed --------------------------------------------------------------------------------------------------

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_SIMPLE = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.List, ast.Subscript, ast.Slice)
_PARTS = (ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context)


def _check(node: ast.AST, names: frozenset[str], used: set[str], room: int) -> int:
    """Refuses whatever is not in the language; returns the number of nodes."""
    if room <= 0:
        raise ExpressionError(f"nested more than {DEPTH_AT_MOST} deep; simplify it")
    if isinstance(node, ast.Constant):
        _check_constant(node.value)
        return 1
    if isinstance(node, ast.Name):
        if node.id not in names:
            known = ", ".join(sorted(names)) or "none"
            raise ExpressionError(f"unknown variable {node.id!r}; declared: {known}")
        used.add(node.id)
        return 1
    if isinstance(node, ast.Call):
        return _check_call(node, names, used, room)
    if isinstance(node, ast.ListComp):
        return _check_comprehension(node, names, used, room)
    if not isinstance(node, _SIMPLE):
        raise ExpressionError(f"{type(node).__name__} is not in the expression language: numbers, texts, lists, "
                              "variables, + - * / // % **, comparisons, and, or, not, if-else, indexing and the "
                              "listed functions are; use these")  # fmt: skip
    for part in ast.iter_child_nodes(node):
        if isinstance(part, _PARTS) and type(part) not in {**_BINARY, **_UNARY, **_COMPARE, ast.And: 0, ast.Or: 0,
                                                           ast.Load: 0}:  # fmt: skip
            raise ExpressionError(f"the operator {type(part).__name__} is not in the expression language; "
                                  "use + - * / // % ** and == != < <= > >= in")  # fmt: skip
    return 1 + sum(_check(part, names, used, room - 1) for part in ast.iter_child_nodes(node)
                   if not isinstance(part, _PARTS))  # fmt: skip


def _check_constant(value: Any) -> None:
    if not isinstance(value, bool | int | float | str):
        raise ExpressionError(f"the constant {value!r} is none of number, text, True, False; use one of these")
    _limited(value)


def _check_call(node: ast.Call, names: frozenset[str], used: set[str], room: int) -> int:
    name = node.func.id if isinstance(node.func, ast.Name) else None
    if name not in FUNCTIONS:
        raise ExpressionError(f"{ast.unparse(node.func)[:40]} is no function of the language; use one of "
                              f"{', '.join(sorted(FUNCTIONS))}")  # fmt: skip
    if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
        raise ExpressionError(f"{name}(…) takes plain arguments only; write them in order, without names or stars")
    return 1 + sum(_check(argument, names, used, room - 1) for argument in node.args)


def _check_comprehension(node: ast.ListComp, names: frozenset[str], used: set[str], room: int) -> int:
    if len(node.generators) != 1 or not isinstance(node.generators[0].target, ast.Name) or node.generators[0].is_async:
        raise ExpressionError("a list is made by one `for` over one variable: [x + 1 for x in xs if x > 2]")
    loop = node.generators[0]
    own: set[str] = set()
    count = 1 + _check(loop.iter, names, used, room - 1)
    for part in (node.elt, *loop.ifs):
        count += _check(part, names | {loop.target.id}, own, room - 1)
    used |= own - {loop.target.id} if loop.target.id not in names else own
    return count


# --- evaluation -------------------------------------------------------------------------------------------------------

class _Walk:
    """Evaluates one checked tree; counts steps and limits every intermediate value."""

    def __init__(self, values: dict[str, Value]) -> None:
        self.values, self.steps = values, 0

    def visit(self, node: ast.expr) -> Any:
        self.steps += 1
        if self.steps > STEPS_AT_MOST:
            raise ExpressionError(f"more than {STEPS_AT_MOST} steps; make the lists shorter")
        return _limited(getattr(self, "on_" + type(node).__name__)(node))

    def on_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def on_Name(self, node: ast.Name) -> Any:
        if node.id not in self.values:
            raise ExpressionError(f"variable {node.id!r} has no value; pass one")
        return self.values[node.id]

    def on_BinOp(self, node: ast.BinOp) -> Any:
        left, right = self.visit(node.left), self.visit(node.right)
        _check_sizes(type(node.op), left, right)
        return _BINARY[type(node.op)](left, right)

    def on_UnaryOp(self, node: ast.UnaryOp) -> Any:
        return _UNARY[type(node.op)](self.visit(node.operand))

    def on_BoolOp(self, node: ast.BoolOp) -> Any:
        wanted = isinstance(node.op, ast.Or)
        value: Any = None
        for part in node.values:
            value = self.visit(part)
            if bool(value) is wanted:
                break
        return value

    def on_Compare(self, node: ast.Compare) -> bool:
        left = self.visit(node.left)
        for test, part in zip(node.ops, node.comparators, strict=True):
            right = self.visit(part)
            if not _COMPARE[type(test)](left, right):
                return False
            left = right
        return True

    def on_IfExp(self, node: ast.IfExp) -> Any:
        return self.visit(node.body if self.visit(node.test) else node.orelse)

    def on_List(self, node: ast.List) -> list:
        return [self.visit(member) for member in node.elts]

    def on_Subscript(self, node: ast.Subscript) -> Any:
        value = self.visit(node.value)
        if not isinstance(value, str | list):
            raise TypeError(f"{text_of(value)[:40]!r} has no members")
        if isinstance(node.slice, ast.Slice):
            part = node.slice
            return value[slice(*(None if p is None else self.visit(p) for p in (part.lower, part.upper, part.step)))]
        return value[self.visit(node.slice)]

    def on_Call(self, node: ast.Call) -> Any:
        return FUNCTIONS[node.func.id](*[self.visit(argument) for argument in node.args])  # type: ignore[attr-defined]

    def on_ListComp(self, node: ast.ListComp) -> list:
        loop, found = node.generators[0], []
        name, members = loop.target.id, self.visit(loop.iter)  # type: ignore[attr-defined]
        if not isinstance(members, str | list):
            raise TypeError(f"{text_of(members)[:40]!r} has no members to go through")
        shadowed = self.values.get(name)
        for member in members:
            self.values[name] = member
            if all(self.visit(test) for test in loop.ifs):
                found.append(self.visit(node.elt))
        self.values.pop(name, None)
        if shadowed is not None:
            self.values[name] = shadowed
        return found


def _check_sizes(kind: type[ast.operator], left: Any, right: Any) -> None:
    """Refuses an operation before it can build something large, and text formatting by `%`."""
    numbers = all(isinstance(side, int | float) for side in (left, right))
    if kind is ast.Pow:
        if not numbers or isinstance(right, float) or not 0 <= right <= EXPONENT_AT_MOST:
            raise ExpressionError(f"an exponent is a whole number from 0 to {EXPONENT_AT_MOST}, not {right!r:.40}")
        if isinstance(left, int) and left.bit_length() * right > BITS_AT_MOST:
            raise ExpressionError(f"{left!r:.40} ** {right} has more than {BITS_AT_MOST} bits; use smaller values")
    elif kind is ast.Mult and not numbers:
        sizes = [len(side) if isinstance(side, str | list) else side for side in (left, right)]
        if any(isinstance(side, float) for side in (left, right)) or sizes[0] * sizes[1] > LIST_AT_MOST:
            raise ExpressionError(f"a repetition makes at most {LIST_AT_MOST} characters or members; use fewer")
    elif kind is not ast.Add and not numbers:
        raise TypeError(f"{text_of(left)[:40]!r} and {text_of(right)[:40]!r} are not both numbers")


def _limited(value: Any) -> Any:
    """The value, if it is within the limits of its kind."""
    if isinstance(value, int):
        if value.bit_length() > BITS_AT_MOST:
            raise ExpressionError(f"a whole number of more than {BITS_AT_MOST} bits; use smaller values")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ExpressionError("a number that is infinite or none; use smaller values")
    elif isinstance(value, str):
        if len(value) > STRING_AT_MOST:
            raise ExpressionError(f"a text of more than {STRING_AT_MOST} characters; use shorter ones")
    elif isinstance(value, list):
        if len(value) > LIST_AT_MOST:
            raise ExpressionError(f"a list of more than {LIST_AT_MOST} members; use shorter ones")
        if any(isinstance(member, list) for member in value):
            raise ExpressionError("a list inside a list; use flat lists of numbers or texts")
    return value


def _short(values: Mapping[str, Value]) -> str:
    return ", ".join(f"{name} = {value!r:.40}" for name, value in values.items()) or "no variables"


# --- functions --------------------------------------------------------------------------------------------------------

def _needs(kinds: type | tuple[type, ...], value: Any, what: str) -> Any:
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is no {what}")
    return value


def _whole(value: Any) -> int:
    return _needs(int, value, "whole number")


def _string(value: Any) -> str:
    return _needs(str, value, "text")


def _members(value: Any) -> Any:
    return _needs((str, list), value, "list or text")


def _range(*bounds: int) -> list[int]:
    made = range(*map(_whole, bounds))
    if len(made) > LIST_AT_MOST:
        raise ExpressionError(f"range of {len(made)} members, at most {LIST_AT_MOST} are allowed; use a shorter one")
    return list(made)


def _base(number: int, base: int) -> str:
    """A whole number in base 2 to 36."""
    number, base = _whole(number), _whole(base)
    if not 2 <= base <= 36:
        raise ValueError(f"base {base} is not between 2 and 36")
    digits, rest = "", abs(number)
    while rest:
        rest, digit = divmod(rest, base)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return ("-" if number < 0 else "") + (digits or "0")


def _number(text: str, base: int = 10) -> int:
    if len(_string(text)) > 200:
        raise ValueError(f"a number of {len(text)} characters")
    return int(text, _whole(base))


def _replace(text: str, old: str, new: str) -> str:
    if not _string(old) or len(_string(text)) * max(1, len(_string(new))) > STRING_AT_MOST * 10:
        raise ValueError("replace needs a text to look for and texts of moderate length")
    return text.replace(old, new)


def _join(separator: str, members: list) -> str:
    return _string(separator).join(text_of(member) for member in _members(members))


def _split(text: str, separator: str) -> list[str]:
    return _string(text).split(_string(separator))


def _letter(code: int) -> str:
    if not 32 <= _whole(code) <= 0x2FFF:
        raise ValueError(f"{code} is no code of a printable character")
    return chr(code)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "min": min, "max": max, "sum": lambda xs: sum(_needs(list, xs, "list")), "len": lambda x: len(
        _members(x)), "range": _range, "round": lambda x: round(x), "gcd": lambda a, b: math.gcd(_whole(a), _whole(b)),
    "lcm": lambda a, b: math.lcm(_whole(a), _whole(b)), "all": lambda xs: all(_members(xs)),
    "any": lambda xs: any(_members(xs)),
    "sorted": lambda xs: sorted(_members(xs)), "reverse": lambda xs: _members(xs)[::-1],
    "unique": lambda xs: list(dict.fromkeys(_members(xs))), "count": lambda xs, x: _members(xs).count(x),
    "index": lambda xs, x: _members(xs).index(x), "letters": lambda s: list(_string(s)),
    "digits": lambda n: [int(digit) for digit in str(abs(_whole(n)))], "base": _base, "number": _number,
    "text": lambda x: text_of(x), "upper": lambda s: _string(s).upper(), "lower": lambda s: _string(s).lower(),
    "replace": _replace, "join": _join, "split": _split, "letter": _letter, "code": lambda s: ord(_string(s)),
}  # fmt: skip
"""Name → pure function; docs/MODULES.md lists them."""

"""An expression that computes every answer from its question's slots, looked for in a small bounded space.

The space, in order: what a list of ready-made expressions says about one slot (sum, length, sorted, reversed, base 2,
…); whole numbers built bottom-up from slots, constants and + - * // % min max abs gcd, then split at the top by looking
for the other half in a table; and conditions for answers that are a few words. Every expression is one of the module's
own language and is evaluated by it on every row: it reproduces all answers letter by letter, or it is not found.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from realm.guild.modules.expression import ExpressionError, parse, text_of

LIMIT = 10**12  # magnitude of intermediate values
SAMPLE = 24  # rows of the search; the others verify
BUDGET = 60_000  # distinct expressions kept
CONSTANTS = (1, 2, 3, 10)
MODULI = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 26, 60, 100)
FEW_VALUES = 8  # of a word slot, whose values may each have a rule of their own
CLASSES = 4  # different words that conditions tell apart
Environment = dict[str, Any]


def find(rows: Sequence[Environment], targets: Sequence[Any], kinds: dict[str, str]) -> str | None:
    """An expression whose value is the target in every row, or None.

    Args:
        rows: values of the slots, one dictionary per row.
        targets: whole numbers, texts or lists of whole numbers, all of one kind.
        kinds: {slot: "int" | "word" | "list"}.
    """
    wanted = [text_of(target) for target in targets]
    if len(set(wanted)) == 1:
        return repr(targets[0])
    for text in ready_made(kinds):
        if computes(text, rows, wanted):
            return text
    if all(isinstance(target, int) and not isinstance(target, bool) for target in targets):
        found = _Numbers(rows, kinds).solve(np.array(targets, "i8"))
        return next((text for text in found if computes(text, rows, wanted)), None)
    if len(set(wanted)) <= CLASSES and all(isinstance(target, str) for target in targets):
        return _conditions(rows, wanted, kinds)
    return None


def computes(text: str, rows: Sequence[Environment], wanted: Sequence[str]) -> bool:
    """Whether the expression gives exactly these texts; evaluated by the language of modules itself."""
    try:
        expression = parse(text, set(rows[0]))
        return all(text_of(expression.value(row)) == goal for row, goal in zip(rows, wanted, strict=True))
    except ExpressionError:
        return False


def ready_made(kinds: dict[str, str]) -> Iterator[str]:
    """Expressions of one slot, the plain ones first."""
    for name, kind in kinds.items():
        if kind == "int":
            yield name
            yield from (f"base({name}, {n})" for n in (2, 16, 8))
            yield from (f"number(text({name}), {n})" for n in (2, 8))
            yield from (f"reverse(text({name}))", f"len(text(abs({name})))", f"sum(digits({name}))",
                        f"max(digits({name}))", f"min(digits({name}))", f"count(base({name}, 2), '1')")  # fmt: skip
        elif kind == "word":
            yield from (name, f"upper({name})", f"lower({name})", f"reverse({name})", f"len({name})", f"{name}[0]",
                        f"{name}[-1]", f"{name}[1:]", f"{name}[:-1]", f"{name}[::2]", f"{name}[1::2]",
                        f"{name} + {name}",
                        f"join('', sorted(letters({name})))", f"join(' ', letters({name}))",
                        f"join('-', letters({name}))", f"{name}[1:] + {name}[0]",
                        f"{name}[-1] + {name}[:-1]", f"{name}[:2]", f"{name}[:3]", f"{name}[1]",
                        f"len(unique(letters({name})))", f"number({name}, 2)")  # fmt: skip
            yield from (f"count({name}, {letter!r})" for letter in "aeiourstln")
            yield f"len([x for x in letters({name}) if x in 'aeiou'])"
        else:
            yield from (name, f"sum({name})", f"max({name})", f"min({name})", f"len({name})", f"{name}[0]",
                        f"{name}[-1]", f"{name}[1]", f"max({name}) - min({name})", f"sorted({name})",
                        f"reverse({name})", f"reverse(sorted({name}))", f"unique({name})", f"len(unique({name}))",
                        f"{name}[1:]", f"{name}[:-1]", f"{name}[::2]", f"{name}[1::2]", f"{name}[1:] + {name}[:1]",
                        f"{name}[-1:] + {name}[:-1]", f"sorted({name})[1]", f"reverse(sorted({name}))[1]",
                        f"index({name}, max({name}))", f"index({name}, max({name})) + 1",
                        f"sum({name}) // len({name})", f"sorted({name})[len({name}) // 2]",
                        f"sum([x * x for x in {name}])", f"gcd({name}[0], {name}[-1])")  # fmt: skip
            for test in ("x % 2 == 0", "x % 2 == 1", "x > 0", "x < 0", "x % 3 == 0", "x > 10", "x > 5", "x > 50"):
                chosen = f"[x for x in {name} if {test}]"
                yield from (chosen, f"len({chosen})", f"sum({chosen})")
            yield from (f"[x {change} for x in {name}]" for change in
                        ("+ 1", "- 1", "* 2", "+ 2", "* 3", "+ 10", "* x", "* 10", "% 2", "% 10", "// 2"))  # fmt: skip


# --- whole numbers ----------------------------------------------------------------------------------------------------


def _safe(values: np.ndarray) -> bool:
    return bool((np.abs(values) <= LIMIT).all())


_OPERATIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray | None]] = {
    "{} + {}": lambda x, y: x + y,
    "{} - {}": lambda x, y: x - y,
    "{} * {}": lambda x, y: x * y if float(np.abs(x).max()) * float(np.abs(y).max()) <= LIMIT else None,
    "{} // {}": lambda x, y: x // y if y.all() else None,
    "{} % {}": lambda x, y: x % y if y.all() else None,
    "min({}, {})": np.minimum,
    "max({}, {})": np.maximum,
    "gcd({}, {})": lambda x, y: np.gcd(x, y),
    "abs({} - {})": lambda x, y: np.abs(x - y),
}
_COMMUTES = {"{} + {}", "{} * {}", "min({}, {})", "max({}, {})", "gcd({}, {})", "abs({} - {})"}


def _in_brackets(text: str) -> str:
    return f"({text})" if " " in text and not (text.endswith(")") and text[:4] in ("min(", "max(", "gcd(", "abs(",
                                                                                 "sum(", "len(")) else text  # fmt: skip


def _written(operation: str, one: str, two: str) -> str:
    if "(" in operation:
        return operation.format(one, two)
    return operation.format(_in_brackets(one), _in_brackets(two))


class _Numbers:
    """The table {values over the sampled rows: the first, shortest expression that has them}."""

    def __init__(self, rows: Sequence[Environment], kinds: dict[str, str]) -> None:
        step = max(1, len(rows) // SAMPLE)
        self.places = list(range(0, len(rows), step))[:SAMPLE]
        self.known: dict[bytes, tuple[str, np.ndarray]] = {}
        sample = [rows[place] for place in self.places]
        first: list[tuple[str, np.ndarray]] = []
        for name, kind in kinds.items():
            if kind == "int":
                self._keep(name, np.array([row[name] for row in sample], "i8"), first)
        # The letters of a word that has few values ("plus", "minus") would stand in for a rule that they do not have.
        many = {n: k for n, k in kinds.items() if k != "word" or len({row[n] for row in rows}) > FEW_VALUES}
        for text in ready_made(many):
            values = _evaluated(text, sample)
            if values is not None:
                self._keep(text, values, first)
        constants: list[tuple[str, np.ndarray]] = []
        for constant in CONSTANTS:
            self._keep(str(constant), np.full(len(sample), constant, "i8"), constants)
        self.first = first
        second = self._combined([*first, *constants], [*first, *constants])
        self._moduli(first + second)
        self.second = second
        slots = [pair for pair in first if pair[0] in kinds]
        self.third = self._combined(second, [*slots, *constants]) if slots else []

    def _keep(self, text: str, values: np.ndarray, into: list) -> None:
        key = values.tobytes()
        if _safe(values) and len(self.known) < BUDGET and key not in self.known:
            self.known[key] = (text, values)
            into.append((text, values))

    def _combined(self, ones: list, twos: list) -> list[tuple[str, np.ndarray]]:
        made: list[tuple[str, np.ndarray]] = []
        for operation, work in _OPERATIONS.items():
            for (one, x), (two, y) in itertools.product(ones, twos):
                for a, u, b, v in ((one, x, two, y), (two, y, one, x)):
                    values = work(u, v)
                    if values is not None:
                        self._keep(_written(operation, a, b), values, made)
                    if operation in _COMMUTES:
                        break
            if len(self.known) >= BUDGET:
                break
        return made

    def _moduli(self, of: list[tuple[str, np.ndarray]]) -> None:
        for text, values in of[:400]:
            for modulus in MODULI:
                self._keep(f"{_in_brackets(text)} % {modulus}", values % modulus, [])

    def solve(self, target: np.ndarray) -> Iterator[str]:
        """Expressions that have the target's values in the sampled rows."""
        goal = target[self.places]
        if goal.tobytes() in self.known:
            yield self.known[goal.tobytes()][0]
        yield from self._affine(goal)
        for text, values in [*self.first, *self.second, *self.third]:
            for rest, operation, swap in ((goal - values, "{} + {}", False), (values - goal, "{} - {}", False),
                                          (goal + values, "{} - {}", True)):  # fmt: skip
                other = self.known.get(rest.tobytes())
                if other:
                    yield _written(operation, *((other[0], text) if swap else (text, other[0])))
            if values.all() and not (goal % values).any():
                other = self.known.get((goal // values).tobytes())
                if other:
                    yield _written("{} * {}", text, other[0])

    def _affine(self, goal: np.ndarray) -> Iterator[str]:
        """goal = factor · x + summand with whole constants."""
        for text, values in [*self.first, *self.second]:
            differ = np.flatnonzero(values != values[0])
            if not len(differ):
                continue
            at = int(differ[0])
            factor, rest = divmod(int(goal[at] - goal[0]), int(values[at] - values[0]))
            if rest or not 0 < abs(factor) <= 10_000:
                continue
            summand = int(goal[0]) - factor * int(values[0])
            if abs(summand) <= LIMIT and np.array_equal(goal, factor * values + summand):
                scaled = text if factor == 1 else f"{factor} * {_in_brackets(text)}"
                yield scaled if not summand else f"{scaled} {'+' if summand > 0 else '-'} {abs(summand)}"


def _evaluated(text: str, rows: Sequence[Environment]) -> np.ndarray | None:
    try:
        expression = parse(text, set(rows[0]))
        values = [expression.value(row) for row in rows]
    except ExpressionError:
        return None
    if not all(isinstance(v, int) and not isinstance(v, bool) and abs(v) <= LIMIT for v in values):
        return None
    return np.array(values, "i8")


# --- conditions -------------------------------------------------------------------------------------------------------


def _conditions(rows: Sequence[Environment], wanted: Sequence[str], kinds: dict[str, str]) -> str | None:
    """`'yes' if a > b else 'no'`, nested for up to CLASSES words; every class must have 5 rows."""
    classes = sorted(set(wanted), key=lambda word: (wanted.count(word), word))
    if any(wanted.count(word) < 5 for word in classes):
        return None
    places = list(range(len(rows)))
    text, closing = "", 0
    tests = list(_tests(kinds, rows))
    values = {test: _truth(test, rows) for test in tests}
    left = list(classes)
    while len(left) > 1:
        for word in left:
            mine = np.array([wanted[place] == word for place in places])
            test = next((t for t in tests if (truth := values[t]) is not None and np.array_equal(truth[places], mine)),
                        None)  # fmt: skip
            if test is not None:
                break
        else:
            return None
        text += f"{word!r} if {test} else ("
        closing += 1
        left.remove(word)
        places = [place for place in places if wanted[place] != word]
    found = text + repr(left[0]) + ")" * closing
    found = found.replace(f"({left[0]!r})", repr(left[0]))
    return found if computes(found, rows, wanted) else None


def _truth(test: str, rows: Sequence[Environment]) -> np.ndarray | None:
    try:
        expression = parse(test, set(rows[0]))
        return np.array([bool(expression.value(row)) for row in rows])
    except ExpressionError:
        return None


def _tests(kinds: dict[str, str], rows: Sequence[Environment]) -> Iterator[str]:
    """Conditions, the plain ones first: comparisons of two slots, remainders, thresholds, membership."""
    numbers = [name for name, kind in kinds.items() if kind == "int"]
    for one, two in itertools.combinations(numbers, 2):
        for sign in (">", "<", "==", "!=", ">=", "<="):
            yield f"{one} {sign} {two}"
        for sum_of in (f"({one} + {two})", f"({one} * {two})", f"({one} - {two})"):
            yield from (f"{sum_of} % {n} == 0" for n in (2, 3, 5, 10))
        yield from (f"{two} != 0 and {one} % {two} == 0", f"{one} != 0 and {two} % {one} == 0",
                    f"gcd({one}, {two}) == 1")  # fmt: skip
    for one, two, three in itertools.permutations(numbers, 3):
        yield from (f"{one} + {two} {sign} {three}" for sign in ("==", ">", "<"))
        yield from (f"{one} * {two} {sign} {three}" for sign in ("==", ">", "<"))
    parts = [*numbers, *(f"{f}({n})" for n, k in kinds.items() if k == "list" for f in ("sum", "len", "max", "min")),
             *(f"len({n})" for n, k in kinds.items() if k == "word")]  # fmt: skip
    for part in parts:
        yield from (f"{part} % {n} == {r}" for n in (2, 3, 4, 5, 6, 7, 8, 9, 10) for r in (0, 1))
        found = _evaluated(part, rows)
        values = [] if found is None else sorted(set(found.tolist()))
        yield from (f"{part} > {value}" for value in [0, *values][:400])
    for name, kind in kinds.items():
        if kind == "list":
            yield from (f"{name} == sorted({name})", f"len(unique({name})) == len({name})",
                        f"{name} == reverse({name})", f"{name}[0] > {name}[-1]",
                        *(f"{n} in {name}" for n in numbers))  # fmt: skip
        elif kind == "word":
            yield from (f"{name} == reverse({name})", f"{name}[0] in 'aeiouAEIOU'", f"{name}[-1] in 'aeiou'",
                        f"{name} == upper({name})", f"{name}[0] == {name}[-1]")  # fmt: skip
        elif kind == "int":
            yield from (f"text({name}) == reverse(text({name}))", f"sum(digits({name})) % 2 == 0",
                        f"sum(digits({name})) % 3 == 0")  # fmt: skip
    yield from (f"len({n}) % 2 == 0" for n, k in kinds.items() if k != "int")

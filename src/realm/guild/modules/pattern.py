"""Regular expressions that cannot run away: matching takes time in proportion to pattern × text, whatever they are.

    Pattern("(yes|no)( indeed)?").matches("yes indeed")

Python's own `re` goes back and tries again; `(a+)+$` on thirty letters takes longer than anyone waits, and a module
comes from a stranger. Here a pattern becomes a small automaton whose states are followed all at once (Thompson 1968),
so there is nothing to try again. A pattern describes the whole answer. It knows literals, `.`, `[a-z]`, `[^…]`,
`\\d \\w \\s` and their opposites, groups, `|`, and `* + ? {m} {m,n}`; no anchors, back-references or look-around.
"""

from __future__ import annotations

from collections.abc import Callable

STATES_AT_MOST = 500
TEXT_AT_MOST = 2_000  # characters that are matched; a longer answer does not match
REPEAT_AT_MOST = 200
DEPTH_AT_MOST = 20

Test = Callable[[str], bool]
_CLASSES: dict[str, Test] = {
    "d": lambda c: c in "0123456789", "w": lambda c: c.isalnum() or c == "_", "s": str.isspace,
    "D": lambda c: c not in "0123456789", "W": lambda c: not (c.isalnum() or c == "_"), "S": lambda c: not c.isspace(),
}  # fmt: skip
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r"}


class PatternError(ValueError):
    """A pattern that is not in the language, or too large."""


class Pattern:
    """A compiled pattern. States are numbered; `_step[n]` is (test, next) or None, `_free[n]` lists states that are
    reached without reading a character."""

    def __init__(self, text: str, ignore_case: bool = False) -> None:
        self.text, self.ignore_case = text, ignore_case
        self._at = self._work = 0
        self._step: list[tuple[Test, int] | None] = []
        self._free: list[list[int]] = []
        tree = self._alternatives(DEPTH_AT_MOST)
        if self._at < len(text):
            raise self._error(f"unexpected {text[self._at]!r}")
        self._end = self._state()
        self._start = self._build(tree, self._end)

    def matches(self, text: str) -> bool:
        """Whether the whole text is described by the pattern."""
        if len(text) > TEXT_AT_MOST:
            return False
        here = self._spread({self._start})
        for character in text:
            if not here:
                return False
            there = set()
            for state in here:
                step = self._step[state]
                if step is not None and self._fits(step[0], character):
                    there.add(step[1])
            here = self._spread(there)
        return self._end in here

    def _fits(self, test: Test, character: str) -> bool:
        if not self.ignore_case:
            return test(character)
        return any(len(form) == 1 and test(form) for form in {character, character.lower(), character.upper()})

    def _spread(self, states: set[int]) -> set[int]:
        found, waiting = set(states), list(states)
        while waiting:
            for state in self._free[waiting.pop()]:
                if state not in found:
                    found.add(state)
                    waiting.append(state)
        return found

    # Building: every part is laid in front of the state `then` that follows it.

    def _state(self) -> int:
        if len(self._step) >= STATES_AT_MOST:
            raise PatternError(f"pattern {self.text[:40]!r}: more than {STATES_AT_MOST} states; repeat less")
        self._step.append(None)
        self._free.append([])
        return len(self._step) - 1

    def _build(self, tree: tuple, then: int) -> int:
        self._work += 1  # an empty group repeated 200 times, 20 deep, has no states but would never end
        if self._work > 10 * STATES_AT_MOST:
            raise PatternError(f"pattern {self.text[:40]!r}: repetitions of repetitions; repeat less")
        kind = tree[0]
        if kind == "one":
            state = self._state()
            self._step[state] = (tree[1], then)
            return state
        if kind == "all":
            for part in reversed(tree[1]):
                then = self._build(part, then)
            return then
        if kind == "any":
            state = self._state()
            self._free[state] = [self._build(part, then) for part in tree[1]]
            return state
        _, part, least, most = tree
        if most is None:
            loop = self._state()
            self._free[loop] = [then]
            self._free[loop].append(self._build(part, loop))
            then = loop
        else:
            for _ in range(most - least):
                state = self._state()
                self._free[state] = [self._build(part, then), then]
                then = state
        for _ in range(least):
            then = self._build(part, then)
        return then

    # Reading, by recursive descent.

    def _error(self, what: str) -> PatternError:
        return PatternError(f"pattern {self.text!r}, character {self._at + 1}: {what}; the pattern language has "
                            "literals, . [a-z] \\d \\w \\s groups | * + ? {m,n} and describes the whole answer")

    def _next(self) -> str:
        return self.text[self._at : self._at + 1]

    def _alternatives(self, room: int) -> tuple:
        if room <= 0:
            raise self._error(f"groups nested more than {DEPTH_AT_MOST} deep")
        found = [self._sequence(room)]
        while self._next() == "|":
            self._at += 1
            found.append(self._sequence(room))
        return found[0] if len(found) == 1 else ("any", found)

    def _sequence(self, room: int) -> tuple:
        parts = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom(room)))
        return ("all", parts)

    def _repeated(self, part: tuple) -> tuple:
        sign = self._next()
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(sign, (-1, -1))
        if least >= 0:
            self._at += 1
        elif sign == "{":
            least, most = self._bounds()
        else:
            return part
        if self._next() and self._next() in "*+?{":
            raise self._error("a repetition of a repetition")
        return ("repeat", part, least, most)

    def _bounds(self) -> tuple[int, int | None]:
        end = self.text.find("}", self._at)
        low, comma, high = self.text[self._at + 1 : max(end, 0)].partition(",")
        given = [part for part in (low, high) if part]
        if end < 0 or not low or not all(part.isascii() and part.isdigit() and len(part) < 4 for part in given):
            raise self._error("a repetition is {m}, {m,} or {m,n}")
        least, most = int(low), int(high) if high else None if comma else int(low)
        if max(least, most or 0) > REPEAT_AT_MOST or most is not None and most < least:
            raise self._error(f"a repetition goes from a smaller to a larger number, at most {REPEAT_AT_MOST}")
        self._at = end + 1
        return least, most

    def _atom(self, room: int) -> tuple:
        sign = self._next()
        self._at += 1
        if sign == "(":
            if self._next() == "?":
                if self.text[self._at : self._at + 2] != "?:":
                    raise self._error("only (…) and (?:…) are groups")
                self._at += 2
            tree = self._alternatives(room - 1)
            if self._next() != ")":
                raise self._error("a group is not closed")
            self._at += 1
            return tree
        if sign == "[":
            return ("one", self._set())
        if sign == ".":
            return ("one", lambda c: c != "\n")
        if sign == "\\":
            return ("one", self._escape())
        if sign in "*+?{}]^$":
            self._at -= 1
            raise self._error(f"{sign!r} has nothing to do here; write \\{sign} for the character")
        return ("one", lambda c: c == sign)

    def _escape(self) -> Test:
        sign = self._next()
        self._at += 1
        if sign in _CLASSES:
            return _CLASSES[sign]
        if sign in _CONTROLS:
            return lambda c: c == _CONTROLS[sign]
        if not sign or sign.isalnum():
            self._at -= 1
            raise self._error(f"\\{sign} is not known")
        return lambda c: c == sign

    def _set(self) -> Test:
        negated = self._next() == "^"
        self._at += negated
        tests: list[Test] = []
        while self._next() != "]" or not tests:
            if not self._next():
                raise self._error("a [set] is not closed")
            tests.append(self._member())
        self._at += 1
        return lambda c: any(test(c) for test in tests) is not negated

    def _member(self) -> Test:
        low = self._next()
        self._at += 1
        if low == "\\":
            return self._escape()
        if self._next() == "-" and self.text[self._at + 1 : self._at + 2] not in ("", "]"):
            high = self.text[self._at + 1]
            self._at += 2
            if high == "\\" or high < low:
                raise self._error(f"the range {low}-{high} has no beginning or end")
            return lambda c: low <= c <= high
        return lambda c: c == low

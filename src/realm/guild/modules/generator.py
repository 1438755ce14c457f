"""Declarative generators: typed variables, wordings, an answer expression; made problems can be recognised again.

    made = Made(generator)                       # checked once; GeneratorError names what is wrong
    problem = made.draw(keyed_rng("…"))          # Drawn(prompt, golden, canonical) or None where `where` says no
    made.parse(problem.prompt).canonical         # the same: a prompt names its problem, whoever sends it

A problem's canonical form is its operation and the values of its variables. It ignores level, wording, and the order
of `symmetric` variables, so the held-out split of a problem is the same wherever it appears.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from realm.guild.modules.expression import Expression, ExpressionError, Value, parse, text_of
from realm.guild.modules.manifest import ChoiceVariable, Generator, IntVariable, ListVariable, StringVariable, Variable
from realm.guild.skills.base import keyed_rng

PROMPT_AT_MOST = 4_000  # characters of a made prompt
COMPUTED_AT_MOST = 3  # `{expression}` parts of one wording; each may stand for any text when a prompt is read back
COMPUTED_LENGTH = 300  # characters of one of them, on one line
PARTS_AT_MOST = 60  # of one wording
READ_AT_MOST = 5_000  # dead ends of one reading; a prompt that was made here has a few
ENUMERATE_AT_MOST = 20_000  # value combinations that are gone through one by one to see whether a level is closed


class GeneratorError(ValueError):
    """A generator that cannot be used; the text names operation, part, rule and next action."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One made problem; `values` are those of the variables."""

    prompt: str
    golden: str
    canonical: str
    values: tuple[tuple[str, str], ...]


class Made:
    """A generator, checked and ready. Stateless; all randomness comes from the stream that is handed in."""

    def __init__(self, generator: Generator) -> None:
        self.source = generator
        names = set(generator.variables)
        try:
            self.answer = parse(generator.answer, names)
            self.where = parse(generator.where, names) if generator.where.strip() else None
            self.wordings = tuple(_Wording(text, generator.variables) for text in generator.prompts)
        except (ExpressionError, GeneratorError) as error:
            raise GeneratorError(f"operation {generator.operation}: {error}") from error
        for group in generator.symmetric:
            kinds = {generator.variables[name].type if name in names else None for name in group}
            if len(group) < 2 or len(kinds) != 1 or None in kinds:
                raise GeneratorError(f"operation {generator.operation}: symmetric group {list(group)}: name two or "
                                     "more declared variables of one type")  # fmt: skip

    @property
    def combinations(self) -> int:
        """Number of value combinations, before `where` and `symmetric`."""
        return math.prod(_size(variable) for variable in self.source.variables.values())

    @property
    def least(self) -> int:
        """Number of problems that there are at least; 0 where `where` decides."""
        orders = math.prod(math.factorial(len(group)) for group in self.source.symmetric)
        return 0 if self.where is not None else self.combinations // orders

    def shows(self, wanted: int) -> bool:
        """Whether there are at least `wanted` problems: first judged by how seldom draws agree, then by counting.

        Of n draws out of N problems at least n² / 2N pairs agree (more, where some problems are likelier), so few
        pairs mean many problems: 400 draws out of 2,000 give 40 pairs, and 10 or fewer once in 10⁸ times.
        """
        rng = keyed_rng("shows", self.source.operation, self.combinations)
        found: Counter[str] = Counter()
        target = math.isqrt(80 * wanted)
        for _ in range(30 * wanted):
            values = self._values(rng)
            if self.allows(values):
                found[self.canonical(values)] += 1
                if found.total() == target and sum(math.comb(n, 2) for n in found.values()) <= 10:
                    return True
                if len(found) >= wanted:
                    return True
        return False

    def _values(self, rng: random.Random) -> dict[str, Value]:
        return {name: _draw(variable, rng) for name, variable in self.source.variables.items()}

    def draw(self, rng: random.Random, accept: Callable[[str], bool] | None = None) -> Drawn | None:
        """One problem, or None where the drawn values are excluded or a wording could be read in two ways.

        Args:
            accept: whether a canonical form is wanted; asked before the costly part, the wording and the answer.
        """
        values = self._values(rng)
        wording = self.wordings[rng.randrange(len(self.wordings))]
        if not self.allows(values) or accept is not None and not accept(self.canonical(values)):
            return None
        return self._made(values, wording)

    def enumerate(self) -> Iterator[Drawn]:
        """Every problem once, in its first wording, in a fixed order; only where `combinations` is small."""
        seen: set[str] = set()
        names = list(self.source.variables)
        for drawn in itertools.product(*map(_all, self.source.variables.values())):
            values = dict(zip(names, drawn, strict=True))
            if self.canonical(values) not in seen:
                seen.add(self.canonical(values))
                made = self._made(values, self.wordings[0])
                if made is not None:
                    yield made

    def parse(self, prompt: str) -> Drawn | None:
        """The problem that a prompt states, or None where it is none of this generator."""
        if len(prompt) > PROMPT_AT_MOST:
            return None
        for wording in self.wordings:
            values = wording.read(prompt)
            if values is not None and self.allows(values):
                return self._filled(values, prompt)
        return None

    def allows(self, values: dict[str, Value]) -> bool:
        """Whether `where` holds for these values."""
        if self.where is None:
            return True
        verdict = self.where.value(values)
        if not isinstance(verdict, bool):
            raise GeneratorError(f"operation {self.source.operation}: `where` {self.where.text!r} gave {verdict!r:.40}"
                                 "; write a comparison, it must be true or false")  # fmt: skip
        return verdict

    def canonical(self, values: dict[str, Value]) -> str:
        """Operation and values, with symmetric ones in order."""
        ordered = dict(values)
        for group in self.source.symmetric:
            for name, value in zip(group, sorted(values[name] for name in group), strict=True):
                ordered[name] = value
        return f"{self.source.operation} {json.dumps([ordered[n] for n in sorted(ordered)], ensure_ascii=False)}"

    def _made(self, values: dict[str, Value], wording: _Wording) -> Drawn | None:
        if not self.allows(values):
            return None
        prompt = wording.fill(values)
        again = next((found for w in self.wordings if (found := w.read(prompt)) is not None), None)
        if again is None or self.canonical(again) != self.canonical(values):
            return None  # "12" + "3" written without a gap is also "1" + "23": such a prompt names no problem
        return self._filled(values, prompt)

    def _filled(self, values: dict[str, Value], prompt: str) -> Drawn:
        golden = text_of(self.answer.value(values))
        shown = tuple((name, text_of(value)) for name, value in values.items())
        return Drawn(prompt, golden, self.canonical(values), shown)


# --- wordings ---------------------------------------------------------------------------------------------------------

class _Wording:
    """A prompt template. `{a}` is a variable, `{a + b}` an expression, `{{` and `}}` are braces."""

    def __init__(self, text: str, variables: dict[str, Variable]) -> None:
        self.text, self.variables = text, variables
        self.parts: list[str | Expression] = []
        plain: set[str] = set()
        for literal, inner in _pieces(text):
            if literal:
                self.parts.append(literal)
            if inner is not None:
                expression = parse(inner, set(variables))
                self.parts.append(expression)
                if inner.strip() in variables:
                    plain.add(inner.strip())
        hidden = sorted(set(variables) - plain)
        if hidden:
            raise GeneratorError(f"prompt {text[:60]!r}: variable {', '.join(hidden)} does not stand alone in braces; "
                                 f"write {{{hidden[0]}}} into it, or its problems cannot be told apart")  # fmt: skip
        computed = sum(1 for part in self.parts if isinstance(part, Expression) and part.text.strip() not in variables)
        if computed > COMPUTED_AT_MOST:
            raise GeneratorError(f"prompt {text[:60]!r}: {computed} computed parts, at most {COMPUTED_AT_MOST} are "
                                 "allowed; use variables")  # fmt: skip
        if len(self.parts) > PARTS_AT_MOST:
            raise GeneratorError(f"prompt {text[:60]!r}: {len(self.parts)} parts, at most {PARTS_AT_MOST} are allowed; "
                                 "use a list variable")  # fmt: skip
        self.start = self.parts[0] if isinstance(self.parts[0], str) else ""
        self.end = self.parts[-1] if isinstance(self.parts[-1], str) else ""

    def fill(self, values: dict[str, Value]) -> str:
        prompt = "".join(part if isinstance(part, str) else text_of(part.value(values)) for part in self.parts)
        if len(prompt) > PROMPT_AT_MOST:
            raise GeneratorError(f"prompt {self.text[:60]!r} becomes {len(prompt)} characters, at most "
                                 f"{PROMPT_AT_MOST} are allowed; shorten its lists or texts")  # fmt: skip
        return prompt

    def read(self, prompt: str) -> dict[str, Value] | None:
        """The values behind a prompt that this wording made, else None."""
        if not prompt.endswith(self.end) or not prompt.startswith(self.start):
            return None  # nearly every text of a file that is no problem ends here
        found: dict[str, str] = {}
        at = 0
        for part, end in zip(self.parts, self._ends(prompt, 0, 0, set()) or (), strict=False):
            if not isinstance(part, str):
                found.setdefault(part.text.strip(), prompt[at:end])
            at = end
        if not set(self.variables) <= set(found):
            return None
        values = {name: _read(variable, found[name]) for name, variable in self.variables.items()}
        if any(value is None for value in values.values()):
            return None
        try:
            return values if self.fill(values) == prompt else None
        except (ExpressionError, GeneratorError):
            return None

    def _ends(self, prompt: str, index: int, at: int, failed: set[tuple[int, int]]) -> list[int] | None:
        """Where each part from `index` on ends, if they fill the prompt from `at` on.

        A regular expression of these parts could go back and forth for hours over a hostile text; here a part that
        has failed at a place is never tried there again.
        """
        if index == len(self.parts):
            return [] if at == len(prompt) else None
        if (index, at) in failed or len(failed) > READ_AT_MOST:
            return None
        for end in self._candidates(self.parts[index], prompt, at):
            rest = self._ends(prompt, index + 1, end, failed)
            if rest is not None:
                return [end, *rest]
        failed.add((index, at))
        return None

    def _candidates(self, part: str | Expression, prompt: str, at: int) -> list[int]:
        """Ends of what this part may stand for at this place, the longest first (the shortest for computed parts)."""
        if isinstance(part, str):
            return [at + len(part)] if prompt.startswith(part, at) else []
        variable = self.variables.get(part.text.strip())
        if variable is None:
            line = prompt.find("\n", at)
            return list(range(at, min(at + COMPUTED_LENGTH, len(prompt) if line < 0 else line) + 1))
        return _ends_of(variable, prompt, at)


def _pieces(text: str) -> Iterator[tuple[str, str | None]]:
    """(literal text, expression behind it or None) of a template."""
    literal, at = "", 0
    while at < len(text):
        if text[at : at + 2] in ("{{", "}}"):
            literal, at = literal + text[at], at + 2
        elif text[at] == "}":
            raise GeneratorError(f"prompt {text[:60]!r}: a lone }} at character {at + 1}; write }}}} for a brace")
        elif text[at] == "{":
            end = text.find("}", at)
            if end < 0:
                raise GeneratorError(f"prompt {text[:60]!r}: the {{ at character {at + 1} is not closed; write "
                                     "{{ for a brace")  # fmt: skip
            yield literal, text[at + 1 : end]
            literal, at = "", end + 1
        else:
            literal, at = literal + text[at], at + 1
    if literal:
        yield literal, None


_INT = re.compile(r"-?[0-9]{1,13}")


def _ends_of(variable: Variable, prompt: str, at: int) -> list[int]:
    """Ends of the variable's possible texts at a place of the prompt, the longest first."""
    if isinstance(variable, ChoiceVariable):
        texts = {text for value in variable.values if prompt.startswith(text := text_of(value), at)}
        return sorted((at + len(text) for text in texts), reverse=True)
    if isinstance(variable, StringVariable):
        most = at
        while most < min(at + variable.max_length, len(prompt)) and prompt[most] in variable.alphabet:
            most += 1
        return list(range(most, at + variable.min_length - 1, -1))
    ends: list[int] = []
    for number in range(variable.max_length if isinstance(variable, ListVariable) else 1):
        start = at if number == 0 else ends[-1] + 2
        match = _INT.match(prompt, start) if number == 0 or prompt.startswith(", ", ends[-1]) else None
        if match is None:
            break
        ends.append(match.end())
    # A number that goes on is another number, so only whole ones count.
    return ends[::-1]


# --- variables --------------------------------------------------------------------------------------------------------

def _size(variable: Variable) -> int:
    if isinstance(variable, ChoiceVariable):
        return len(variable.values)
    if isinstance(variable, IntVariable):
        return variable.max - variable.min + 1
    members = len(variable.alphabet) if isinstance(variable, StringVariable) else variable.max - variable.min + 1
    return sum(members**n for n in range(variable.min_length, variable.max_length + 1))


def _draw(variable: Variable, rng: random.Random) -> Value:
    if isinstance(variable, ChoiceVariable):
        return variable.values[rng.randrange(len(variable.values))]
    if isinstance(variable, IntVariable):
        return rng.randint(variable.min, variable.max)
    length = rng.randint(variable.min_length, variable.max_length)
    if isinstance(variable, StringVariable):
        return "".join(rng.choice(variable.alphabet) for _ in range(length))
    return [rng.randint(variable.min, variable.max) for _ in range(length)]


def _all(variable: Variable) -> list[Value]:
    if isinstance(variable, ChoiceVariable):
        return list(variable.values)
    if isinstance(variable, IntVariable):
        return list(range(variable.min, variable.max + 1))
    lengths = range(variable.min_length, variable.max_length + 1)
    if isinstance(variable, StringVariable):
        return ["".join(word) for n in lengths for word in itertools.product(variable.alphabet, repeat=n)]
    return [list(row) for n in lengths
            for row in itertools.product(range(variable.min, variable.max + 1), repeat=n)]  # fmt: skip


def _read(variable: Variable, text: str) -> Value | None:
    """The value that a text states, None where it is outside the variable's range."""
    if isinstance(variable, ChoiceVariable):
        return next((value for value in variable.values if text_of(value) == text), None)
    if isinstance(variable, StringVariable):
        return text
    numbers = [int(part) for part in text.split(", ")]
    if not all(variable.min <= number <= variable.max for number in numbers):
        return None
    return numbers if isinstance(variable, ListVariable) else numbers[0]

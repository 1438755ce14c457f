"""The rule behind the answers, if the forge finds one: templates with expressions, then generators for a module.

Found on the rows to learn from, verified on the held-out ones: every answer of both, letter by letter. With a rule the
skill is no longer a file of rows: its generators make new problems without end, in the ranges that the data has at each
level. Without one nothing is proposed; a rule that explains 99 % of the rows is no rule.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from realm.guild.forge import search
from realm.guild.forge.rows import Item
from realm.guild.forge.templates import Template, discover, tokens
from realm.guild.modules.expression import parse
from realm.guild.modules.generator import GeneratorError, Made
from realm.guild.modules.manifest import (
    ChoiceVariable,
    Generator,
    IntVariable,
    ListVariable,
    StringVariable,
    Variable,
)
from realm.guild.skills.base import keyed_rng

MIN_EVIDENCE = 20  # rows to learn from behind each expression
MIN_VERIFIED = 5  # held-out rows behind each expression
MOST_CASES = 12
TRIES = 24  # searches per data set; each takes up to a second
MADE = 50  # problems that each finished generator has to make


@dataclass(frozen=True)
class Case:
    """One template with the expression of its answers; `learnt`, `verified`: rows behind it."""

    template: Template
    answer: str
    learnt: int
    verified: int


@dataclass(frozen=True)
class Rule:
    """All cases together explain every row."""

    cases: tuple[Case, ...]

    def to_dict(self) -> list[dict[str, Any]]:
        return [{"wording": case.template.wording, "answer": case.answer, "learnt_from": case.learnt,
                 "verified_on": case.verified} for case in self.cases]  # fmt: skip


def find(items: Sequence[Item], held: Sequence[bool]) -> Rule | str:
    """The rule, or why there is none.

    Args:
        held: whether each row is held out; these only verify.
    """
    reasons = []
    for lists in (False, True):
        templates = discover([item.prompt for item in items], lists)
        if isinstance(templates, str):
            reasons.append(templates)
            continue
        budget = [TRIES]
        cases: list[Case] = []
        for template in templates:
            found = _cases(template, items, held, budget)
            if isinstance(found, str):
                reasons.append(f"{template.wording[:80]!r}: {found}")
                break
            cases += found
        else:
            return Rule(tuple(cases))
    return "; ".join(dict.fromkeys(reasons))


def _cases(template: Template, items: Sequence[Item], held: Sequence[bool], budget: list[int]) -> list[Case] | str:
    """Expressions for the template, split by the values of some word slots if need be."""
    reason = ""
    for names in _partitions(template):
        cases: list[Case] = []
        for part in template.fixed(names) if names else [template]:
            if budget[0] <= 0:
                return f"{reason or 'not found'} ({TRIES} searches were tried)"
            budget[0] -= 1
            found = _case(part, items, held)
            if isinstance(found, str):
                reason = reason or found
                break
            cases.append(found)
        else:
            return cases
    return reason or "nothing changes in its questions"


def _partitions(template: Template) -> list[tuple[str, ...]]:
    """Sets of word slots to split by, the smallest first."""
    few = {slot.name: len(set(slot.values)) for slot in template.slots
           if slot.kind == "word" and len(set(slot.values)) <= search.FEW_VALUES}  # fmt: skip
    found: list[tuple[str, ...]] = [()]
    for size in (1, 2, 3):
        for names in itertools.combinations(few, size):
            columns = [slot.values for slot in template.slots if slot.name in names]
            if len(set(zip(*columns, strict=True))) <= MOST_CASES:
                found.append(names)
    return found


def _case(template: Template, items: Sequence[Item], held: Sequence[bool]) -> Case | str:
    if not template.slots:
        return "nothing changes in its questions"
    environments, rows = template.environments(), template.rows
    learn = [k for k, row in enumerate(rows) if not held[row]]
    test = [k for k, row in enumerate(rows) if held[row]]
    if len(learn) < MIN_EVIDENCE or len(test) < MIN_VERIFIED:
        return (f"{len(learn)} rows to learn from and {len(test)} to verify are too few (at least {MIN_EVIDENCE} and "
                f"{MIN_VERIFIED})")  # fmt: skip
    tangled = _tangled(template)
    if tangled:
        return tangled
    kinds = {slot.name: slot.kind for slot in template.slots}
    goldens = [items[row].golden for row in rows]
    found = _answer([environments[k] for k in learn], [goldens[k] for k in learn], kinds)
    if found is None:
        return "no expression of the search space computes its answers"
    if not search.computes(found, [environments[k] for k in test], [goldens[k] for k in test]):
        return f"{found} computes the answers it was learnt from, but not the held-out ones"
    return Case(template, found, len(learn), len(test))


def _tangled(template: Template) -> str | None:
    """Two word slots that depend on each other ("Tom … he"): drawn apart they would make wrong sentences."""
    words = [slot for slot in template.slots if slot.kind == "word"]
    for one, two in itertools.combinations(words, 2):
        pairs, product = len(set(zip(one.values, two.values, strict=True))), len(set(one.values)) * len(set(two.values))
        if pairs < 0.5 * min(product, len(one.values) / 2):
            return f"the words {{{one.name}}} and {{{two.name}}} depend on each other"
    return None


def _answer(rows: Sequence[dict[str, Any]], goldens: Sequence[str], kinds: dict[str, str]) -> str | None:
    """The expression of the whole answer: a value, one of a few words, or a sentence with computed parts."""
    cut = [tokens(golden, lists=True) for golden in goldens]
    if all(len(parts) == 1 and parts[0].value is not None for parts in cut):
        found = search.find(rows, [parts[0].value for parts in cut], kinds)
        if found is not None and search.computes(found, rows, goldens):
            return found
    else:
        found = search.find(rows, list(goldens), kinds)
        if found is not None:
            return found
    return _sentence(rows, cut, kinds)


def _sentence(rows: Sequence[dict[str, Any]], cut: list[list[Any]], kinds: dict[str, str]) -> str | None:
    if len({tuple(token.kind for token in parts) for parts in cut}) != 1 or len(cut[0]) < 2:
        return None
    pieces: list[tuple[bool, str]] = []  # (computed, expression or text)
    for column in zip(*cut, strict=True):
        if len({token.text for token in column}) == 1:
            before = pieces.pop()[1] if pieces and not pieces[-1][0] else ""
            pieces.append((False, before + column[0].text))
            continue
        found = search.find(rows, [t.value if t.value is not None else t.text for t in column], kinds)
        if found is None:
            return None
        pieces.append((True, f"text({found})"))
    return " + ".join(text if computed else repr(text) for computed, text in pieces)


# --- generators -------------------------------------------------------------------------------------------------------


def generators(rule: Rule, levels: Sequence[int], primitives: Sequence[str]) -> dict[int, tuple[Generator, ...]] | str:
    """{level: generators with the ranges that the data has at this level}, or why they cannot be made.

    Every one is finished, made to draw `MADE` problems and to read them back.
    """
    made: dict[int, list[Generator]] = defaultdict(list)
    for number, case in enumerate(rule.cases, 1):
        where, symmetric = _constraints(case), _symmetric(case)
        for level in sorted(set(levels)):
            mine = [k for k, row in enumerate(case.template.rows) if levels[row] == level]
            if not mine:
                continue
            try:
                generator = Generator(
                    operation=f"rule_{number}", prompts=(case.template.wording,), answer=case.answer, where=where,
                    variables={slot.name: _variable(slot, mine, case) for slot in case.template.slots},
                    symmetric=symmetric, primitives=tuple(primitives), weight=float(len(mine)))  # fmt: skip
                _try_out(generator, level)
            except (GeneratorError, ValueError) as error:
                return f"the generator of level {level} cannot be made: {error}"
            made[level].append(generator)
    return {level: tuple(found) for level, found in made.items()}


def _try_out(generator: Generator, level: int) -> None:
    ready, rng, good = Made(generator), keyed_rng("forge", generator.operation, level), 0
    for _ in range(MADE * 40):
        drawn = ready.draw(rng)
        if drawn is not None:
            again = ready.parse(drawn.prompt)
            if again is None or again.golden != drawn.golden:
                raise GeneratorError(f"{drawn.prompt[:80]!r} cannot be read back")
            good += 1
            if good == MADE:
                return
    raise GeneratorError(f"only {good} of {MADE * 40} drawn problems fit its conditions {generator.where!r}")


def _variable(slot: Any, mine: list[int], case: Case) -> Variable:
    values = [slot.values[k] for k in mine]
    if slot.kind == "int":
        return IntVariable(type="int", min=min(values), max=max(values))
    if slot.kind == "list":
        numbers, sizes = [n for value in values for n in value], [len(value) for value in values]
        return ListVariable(type="list", min=min(numbers), max=max(numbers), min_length=min(sizes),
                            max_length=max(sizes))  # fmt: skip
    used = slot.name in parse(case.answer, {s.name for s in case.template.slots}).names
    distinct = sorted(set(values))
    letters = "".join(sorted(set("".join(distinct))))
    if used and len(distinct) > 0.5 * len(values) and len(distinct) > 10 and max(map(len, distinct)) <= 40:
        return StringVariable(type="string", alphabet=letters, min_length=min(map(len, distinct)),
                              max_length=max(map(len, distinct)))  # fmt: skip
    return ChoiceVariable(type="choice", values=tuple(distinct[:1000]))


def _constraints(case: Case) -> str:
    """What holds between two numbers in every row, though free draws from their ranges would break it."""
    numbers = [slot for slot in case.template.slots if slot.kind == "int"]
    found = []
    for one, two in itertools.permutations(numbers, 2):
        pairs = list(zip(one.values, two.values, strict=True))
        overlap = max(one.values) >= min(two.values) and max(two.values) >= min(one.values)
        if overlap and min(one.values) < max(two.values) and all(x >= y for x, y in pairs):
            found.append(f"{one.name} {'>' if all(x > y for x, y in pairs) else '>='} {two.name}")
        elif 0 not in two.values and max(map(abs, two.values)) > 1 and all(x % y == 0 for x, y in pairs):
            found.append(f"{two.name} != 0 and {one.name} % {two.name} == 0")
    expression = parse(case.answer, {slot.name for slot in case.template.slots})
    for slot in numbers:
        divides = slot.name in expression.names and ("//" in case.answer or "%" in case.answer)
        if divides and 0 not in slot.values and min(slot.values) < 0 < max(slot.values):
            found.append(f"{slot.name} != 0")
    return " and ".join(dict.fromkeys(found))[:500]


def _symmetric(case: Case) -> tuple[tuple[str, ...], ...]:
    """Pairs of numbers whose exchange changes no answer of the data: 3 + 4 and 4 + 3 are one problem."""
    numbers = [slot.name for slot in case.template.slots if slot.kind == "int"]
    expression = parse(case.answer, {slot.name for slot in case.template.slots})
    environments = case.template.environments()
    taken: set[str] = set()
    found = []
    for one, two in itertools.combinations([n for n in numbers if n in expression.names], 2):
        if taken & {one, two}:
            continue
        swapped = [{**row, one: row[two], two: row[one]} for row in environments]
        if all(expression.value(a) == expression.value(b) for a, b in zip(environments, swapped, strict=True)):
            found.append((one, two))
            taken |= {one, two}
    return tuple(found)


def combinations(generator: Generator) -> int:
    """Value combinations of a generator, before `where` and `symmetric`."""
    return Made(generator).combinations

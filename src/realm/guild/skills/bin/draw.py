"""Drawing BIN questions of one level and one split, with keyed randomness.

Difficulty and style are drawn once per index; only operations and operands are drawn again when a problem belongs to
another split, so that the mix of a level does not depend on the split.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from realm.guild.skills.bin.levels import (
    AUXILIARY_SHARE,
    CHAIN_DEPTH,
    DIFFICULTIES,
    SYMBOL_SHARE,
    SYMBOLS_FROM_LEVEL,
    bits,
    mix,
    operand_ranges,
    operations_at,
)
from realm.guild.skills.bin.notation import BLANK, KEY_DIGITS, KEY_NAMES, SymbolKey, natural, show_value
from realm.guild.skills.bin.operations import MULTIPLY_CHAINS_TO_LEVEL, OPERATIONS, SOLVABLE, Link, Operation, valid
from realm.guild.skills.bin.questions import AUXILIARY, PROPERTIES, Question, show_claim

Belongs = Callable[[Link], bool]
# A unary operation of a narrow level may have no problem at all in a small split: after this many draws try another.
OPERAND_TRIES = 40


@cache
def _pool(level: int, style: str) -> tuple[tuple[Operation, ...], tuple[int, ...]]:
    """Operations that can be asked in this style, with their weights."""
    ops = [op for op in operations_at(level) if style == "compute" or op.result in "nw"]
    if style == "comparison":  # whether a word is read signed or not would be a guess
        ops = [op for op in ops if op.result == "n"]
    if style == "reverse":
        ops = [op for op in ops if op.name in SOLVABLE]
    if style == "overflow":
        ops = [op for op in ops if op.overflows]
    return tuple(ops), tuple(op.weight for op in ops)


def draw_question(level: int, rng: random.Random, belongs: Belongs, retry: Callable[[int], random.Random]) -> Question:
    """One question whose every link satisfies `belongs`; `retry(attempt)` gives a fresh stream after a dead end."""
    difficulty = rng.choices(DIFFICULTIES, mix(level))[0]
    style = _draw_style(level, difficulty, rng)
    depth = 1 if style != "compute" else rng.randint(*CHAIN_DEPTH[difficulty])
    keyed = level >= SYMBOLS_FROM_LEVEL and rng.random() < SYMBOL_SHARE
    attempt = 0
    while True:
        links = _draw_chain(level, depth, style, rng, belongs)
        question = links and _dress(level, links, difficulty, style, rng)
        if question:
            return keyed_question(question, rng) if keyed else question
        attempt += 1
        rng = retry(attempt)


def _draw_style(level: int, difficulty: str, rng: random.Random) -> str:
    """Auxiliary tasks have one link, so they live in the easy and medium share; overall they are AUXILIARY_SHARE."""
    if difficulty not in ("easy", "medium"):
        return "compute"
    share = AUXILIARY_SHARE * 100 / sum(mix(level)[:2])
    return rng.choice(AUXILIARY) if rng.random() < share else "compute"


def _draw_chain(level: int, depth: int, style: str, rng: random.Random, belongs: Belongs) -> tuple[Link, ...] | None:
    """`depth` links, each fed by the one before; None at a dead end."""
    links: list[Link] = []
    for position in range(depth):
        link = _draw_link(level, style, rng, belongs, links[-1] if links else None, last=position == depth - 1,
                          chained=depth > 1)
        if link is None:
            return None
        links.append(link)
    return tuple(links)


def _draw_link(level: int, style: str, rng: random.Random, belongs: Belongs, inner: Link | None, *, last: bool,
               chained: bool) -> Link | None:
    ops, weights = _pool(level, style)
    width = bits(level)
    for _ in range(8):
        op = rng.choices(ops, weights)[0]
        if not _may_follow(op, inner, level, last=last, chained=chained):
            continue
        ranges = operand_ranges(op, width)
        for _ in range(OPERAND_TRIES if len(ranges) > (inner is not None) else 1):
            args = [rng.randrange(r.start, r.stop) for r in ranges]
            if inner is not None:
                args[0] = int(inner.value)
            elif op.name == "subtract" and args[0] < args[1]:
                args.reverse()
            link = Link(op.name, tuple(args), width if op.word else 0)
            if valid(link) and (not chained or int(link.value) < 1 << 2 * width) and belongs(link):
                return link
    return None


def _may_follow(op: Operation, inner: Link | None, level: int, *, last: bool, chained: bool) -> bool:
    """Whether an operation can stand at this place of a chain."""
    if chained and op.name.startswith("multiply") and op.name != "multiply_by_2" and level > MULTIPLY_CHAINS_TO_LEVEL:
        return False
    if inner is not None and op.kinds[0] != OPERATIONS[inner.op].result:
        return False
    return last or op.result in "nw"


def _dress(level: int, links: tuple[Link, ...], difficulty: str, style: str, rng: random.Random) -> Question | None:
    """The question in its style; None where this link cannot be asked that way."""
    link, shown = links[-1], show_value(links[-1])
    if style == "properties":
        return Question(links, difficulty, style, argument=rng.choice(PROPERTIES))
    if style == "overflow":
        return Question(links, difficulty, style, argument=str(bits(level)))
    if style == "reverse":
        hidden = rng.randrange(len(link.args))
        unique = not (link.op == "multiply" and link.args[1 - hidden] == 0)
        return Question(links, difficulty, style, argument=str(hidden)) if unique else None
    if style == "fill_blank":
        at = rng.randrange(len(shown))
        return Question(links, difficulty, style, shown[:at] + BLANK + shown[at + 1:])
    if style in ("true_false", "error_detection"):
        claim = shown if rng.random() < 0.5 else _flip(shown, rng)
        return Question(links, difficulty, style, claim)
    if style == "comparison":
        return Question(links, difficulty, style, show_claim(_rival(level, link, rng), link))
    return Question(links, difficulty)


def _flip(shown: str, rng: random.Random) -> str:
    """One digit flipped; the leading digit of a longer number stays, or a leading zero would give the error away."""
    at = rng.randrange(len(shown) > 1, len(shown))
    return shown[:at] + natural(1 - int(shown[at] == natural(1))) + shown[at + 1:]


def _rival(level: int, link: Link, rng: random.Random) -> int:
    """A number to compare with: often near, sometimes equal, so that a glance at the lengths is not enough."""
    value = int(link.value)
    near = rng.choice((-2, -1, 0, 0, 1, 2)) if rng.random() < 0.7 else rng.randrange(1 << bits(level)) - value
    return max(value + near, 0)


def keyed_question(question: Question, rng: random.Random) -> Question:
    """The same question in a random private language."""
    zero, one = rng.sample(KEY_DIGITS, 2)
    names = list(dict.fromkeys(link.op for link in question.links))
    key = SymbolKey(zero, one, tuple(zip(names, rng.sample(KEY_NAMES, len(names)), strict=True)))
    return Question(question.links, question.difficulty, question.style, question.claim, question.argument, key)

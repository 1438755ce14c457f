#!/usr/bin/env python3
"""Renders docs/BIN.md from the skill itself, so that the page cannot say anything that BIN does not do.

    python3 scripts/render_bin_doc.py            writes docs/BIN.md
    python3 scripts/render_bin_doc.py --check    fails where the committed page differs
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from realm.guild.skills import Problem, get_skill
from realm.guild.skills.base import CLOSED_BELOW, SPLIT_SHARES
from realm.guild.skills.bin.levels import (
    AUXILIARY_SHARE,
    CHAIN_DEPTH,
    DIFFICULTIES,
    SYMBOL_SHARE,
    SYMBOLS_FROM_LEVEL,
    TAGS,
    bits,
    mix,
)
from realm.guild.skills.bin.notation import KEY_DIGITS, KEY_NAMES
from realm.guild.skills.bin.operations import MULTIPLY_CHAINS_TO_LEVEL, OPERATIONS, SHIFTS_FROM_LEVEL
from realm.guild.skills.bin.questions import AUXILIARY, STYLES, parse_prompt

PAGE = Path(__file__).resolve().parent.parent / "docs" / "BIN.md"
EXAMPLE_LEVEL = 3
EXAMPLE_SEED = 1

INTRODUCTION = """\
# BIN, "Binary Alchemy"

Binary arithmetic in circled digits: thirty bit widths, four degrees of shown work, and from level {symbols} on a symbol
language. This page is made by `scripts/render_bin_doc.py` from the skill itself; a test compares the two.

```python
from realm.guild.skills import get_skill

skill = get_skill("bin")
problem = skill.generate(level=3, count=1, seed=0, split="train")[0]
assert skill.grade(problem, problem.golden).correct
```

Over HTTP (default port 8090): `GET /health`, `/info`, `/levels`, `/eval?level=N`, `/eval/N`; `POST /generate`
`{{level, count, seed, split}}` and `/grade` `{{problem, response}}`. Only the splits train and public are given out
over HTTP. `python3 -m realm.guild.skills.conformance http://127.0.0.1:8090` checks any skill server.

## The language
- Digits are ⓪ and ①, the most significant first. Naturals have no leading zeros; results are exact and unbounded.
- Operands are uniform in 0..2ⁿ−1 at a width of n bits. `subtract` draws a ≥ b, `decrement` a ≥ 1; division and
  shifts round down.
- The signed operations and `not` work on words: n digits written in full, two's complement, results modulo 2ⁿ. Their
  meaning depends on the width, so the width is part of the problem.
- Expressions are prefix; a chain nests them, the innermost is computed first. Intermediate values stay below 2²ⁿ.
  `multiply` and `multiply_signed` stand in chains to level {chains} only. Shifts start at level {shifts} and shift by
  0 to n places; at 2 bits every shift is a doubling, a halving, zero or the number itself.
- From level {symbols} on, {share} % of the problems carry a symbol key: their digits come from {digits}, the names of
  their operations from {names}, and the answer must be written in the language of the key.

## Degrees of shown work
| difficulty | tag | links in a chain | demanded answer |
|---|---|---|---|
{difficulties}

An answer is right when its line `expression = value` is right and the demanded form is kept. Blanks at line ends and
around signs do not count; everything else does, the number of lines included, so that an echo, a list of candidates or
talk around the answer fails. In `[trace]` every column and every intermediate value must be right. In `[verify]` and
`[show-work]` the lines around the final one must have the demanded form; a slip in their numbers does not fail the
answer, and the reason names it.
The answer is a function of the prompt: its entropy, and so the floor of the loss, is 0.

Work runs column by column from the least significant digit:

| operations | column | meaning |
|---|---|---|
| add, subtract, also signed | `①①:①⓪` | two digits, then carry (borrow) and result; the carry enters the next column |
| increment, decrement | `①:①⓪` | the same with one digit; the one enters the first column as its carry |
| negate | `⓪①⓪ ⓪:⓪①` | all digits flipped, then the columns of adding one |
| absolute_value | `⓪+` or `①- …` | the sign; a negative word is then negated |
| multiply, multiply_signed | `①①+①①⓪⓪=①①①①` | running sum of the shifted first operand |
| and, or, xor, not | `①⓪:①` | digits in, digit out |
| equals, lessthan, greaterthan, minimum, maximum | `①⓪>` | two digits and the verdict so far; the last one decides |
| multiply_by_2, divide_by_2, shifts | `①⓪①\\|⓪⓪` | digits that stay, digits appended or dropped |
| tobinary | `13:6①` | number, half, remainder |
| todecimal | `①:5` | digit, running total |

## Which problems a hero may see
The split belongs to the canonical problem: {splits}. Level, tag, symbol key, question style and the order of
commutative operands do not change it, and all links of a chain belong to the same split.

A level with fewer than {closed:,} distinct problems is *closed*: a table to be known. Training may use all of it, every
other split walks through the whole table (one link, difficulties easy and medium), and `split_of` answers "train" for
its problems. Held-out problems of open levels contain no link that belongs to a closed level.

## Levels
| level | bits | easy | medium | hard | expert | symbol keys | distinct problems |
|---|---|---|---|---|---|---|---|
{levels}

## Auxiliary tasks
{auxiliary_share} % of the problems ask about one link in another way; they are easy or medium. The answer is the line
`expression = value`, followed by the verdict where one is asked for.

{auxiliary}

## Operations
Drawn by weight; multiplication, conversions and shifts are drawn half as often as the others.

{operations}
"""


def example(problems: list[Problem], wanted: Callable[[Problem], bool]) -> str:
    """The first problem that fits, as a block of prompt and answer."""
    problem = next(p for p in problems if wanted(p))
    return f"```\n{problem.prompt}\n→ " + problem.golden.replace("\n", "\n  ") + "\n```"


def uses(name: str, difficulty: str) -> Callable[[Problem], bool]:
    """Whether a plain problem of this difficulty uses the operation; as its last link where that is possible."""
    def fits(problem: Problem) -> bool:
        if problem.kind != "compute" or problem.difficulty != difficulty or problem.extra["symbol_key"]:
            return False
        names = [link.op for link in parse_prompt(problem.prompt).links]
        return names[-1] == name or (name == "tobinary" and names[0] == name)
    return fits


def difficulty_rows() -> str:
    demands = {
        "easy": "the line `expression = value`",
        "medium": "the values of inner links, that line, and `Check:` with a decimal equation per link",
        "hard": "one line of columns per link, then that line",
        "expert": "the same; every column and every intermediate value must be right",
    }
    rows = []
    for name in DIFFICULTIES:
        low, high = CHAIN_DEPTH[name]
        tag = f"`{TAGS[name].strip()}`" if TAGS[name] else "none"
        rows.append(f"| {name} | {tag} | {low if low == high else f'{low}–{high}'} | {demands[name]} |")
    return "\n".join(rows)


def level_rows() -> str:
    rows = []
    for info in get_skill("bin").levels():
        shares = " | ".join(f"{share} %" for share in mix(info.level))
        keys = f"{SYMBOL_SHARE:.0%}".replace("%", " %") if info.level >= SYMBOLS_FROM_LEVEL else "–"
        distinct = f"{info.distinct} (closed)" if info.closed else "open"
        rows.append(f"| {info.level} | {bits(info.level)} | {shares} | {keys} | {distinct} |")
    return "\n".join(rows)


def render() -> str:
    """The whole page."""
    skill = get_skill("bin")
    problems = skill.generate(EXAMPLE_LEVEL, 12_000, EXAMPLE_SEED)
    keyed = skill.generate(SYMBOLS_FROM_LEVEL, 200, EXAMPLE_SEED)
    auxiliary = [f"**{style}** (`{STYLES[style]}`)\n\n"
                 + example(problems, lambda p, style=style: p.kind == style and p.difficulty == "easy")
                 for style in AUXILIARY]
    auxiliary.append("**With a symbol key**\n\n" + example(keyed, lambda p: p.extra["symbol_key"] and p.depth == 2))
    operations = []
    for name, op in OPERATIONS.items():
        operations.append(f"### {name}\nweight {op.weight}, {op.family}{', commutative' if op.commutative else ''}\n")
        operations += [example(problems, uses(name, difficulty)) for difficulty in DIFFICULTIES]
    return INTRODUCTION.format(
        symbols=SYMBOLS_FROM_LEVEL, share=round(100 * SYMBOL_SHARE), digits=KEY_DIGITS, names=KEY_NAMES,
        chains=MULTIPLY_CHAINS_TO_LEVEL, shifts=SHIFTS_FROM_LEVEL, difficulties=difficulty_rows(),
        splits=", ".join(f"{split} {share} %" for split, share in SPLIT_SHARES.items()), closed=CLOSED_BELOW,
        levels=level_rows(), auxiliary_share=round(100 * AUXILIARY_SHARE), auxiliary="\n\n".join(auxiliary),
        operations="\n".join(operations))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed page, write nothing")
    check = parser.parse_args().check
    text = render()
    if check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        if not same:
            print(f"{PAGE}: differs from what the skill does; run scripts/render_bin_doc.py and commit")
        return 0 if same else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())

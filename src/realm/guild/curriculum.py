"""What the hero practises next: pure rules over what is known (realm-rules §5, §6, §13).

`choose_skill` says which skill is next (priorities × deficit), `next_quest` answers with a `QuestSpec`: the level in
training, a look-ahead, and rehearsal of what is mastered in any skill, spaced by how well it has held. A strain hint
changes the mix of levels and difficulties, the look-ahead, the rehearsal share and the timing of trials; each change
is an `Action` with its reason. Which trials follow is decided in `guild/exams.py`, what they mean in `guild/levels.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from realm.guild.levels import THRESHOLD, Check, regressed

MAX_LOOKAHEAD = 3
MAX_REHEARSAL = 0.40
BASE_REHEARSAL = 0.05  # spaced practice of what is mastered, even when nothing seems forgotten
HELD_ACCURACY = 0.95  # a mastered level at this accuracy or better has no retention deficit
UNKNOWN_DEFICIT = 0.5  # of a mastered level that was never checked since it was passed
HALF_KNOWN = 0.5  # accuracy from which on the levels ahead are worth training and asking
KEPT_WARM = 0.2  # weight of a mastered level without deficit, before spacing
WEAK_DEFICIT = 0.75  # of a skill that practises a weak primitive
LEAST_DEFICIT = 0.05  # a finished skill still gets its turn now and then
REHEARSALS_IN_A_ROW = 2
REGRESSED_SHARE = 0.7  # of a rehearsal quest


@dataclass(frozen=True)
class Seen:
    """The newest trial at one level."""

    accuracy: float
    n: int
    kind: str


@dataclass(frozen=True)
class SkillState:
    """What is known about one skill of one hero.

    `seen`: {level: newest trial}; `checks`: newest retention checks of every skill; `holds`: {mastered level: retention
    checks in a row that found it held}; `goal`: the level a campaign asks for, None = the skill's last one.
    """

    skill: str
    max_level: int
    mastered: int
    closed: frozenset[int] = frozenset()
    threshold: float = THRESHOLD
    seen: Mapping[int, Seen] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    quests_since_fail: int | None = None
    holds: Mapping[int, int] = field(default_factory=dict)
    goal: int | None = None

    @property
    def last(self) -> int:
        """The level at which the climb of this skill ends."""
        return self.max_level if self.goal is None else min(self.goal, self.max_level)

    @property
    def training(self) -> int:
        """The level in training: mastered + 1, or the last one when all are mastered."""
        return min(self.mastered + 1, self.last)

    @property
    def complete(self) -> bool:
        return self.mastered >= self.last

    @property
    def half_known(self) -> bool:
        """Whether the last trial at the training level found half of its answers right."""
        seen = self.seen.get(self.training)
        return seen is not None and seen.accuracy >= HALF_KNOWN

    @property
    def regressed(self) -> list[int]:
        """Levels of this skill in regression by a check that still counts."""
        return sorted(c.level for c in regressed(c for c in self.checks if c.skill == self.skill))


@dataclass(frozen=True)
class Memory:
    """What the rehearsal buffer holds of finished file quests: `sources` of them, `deficit` 0…1 as `deficits` gives."""

    sources: int = 0
    deficit: float = 0.0


@dataclass(frozen=True)
class Knobs:
    """What hints may turn; kept with each idle quest, so that the next one starts from them.

    `training_share` of the rows that are not rehearsal; `ease` = share of the harder questions that become easy;
    `rehearsal` = the share that the last quest had.
    """

    lookahead: int = MAX_LOOKAHEAD
    training_share: float = 0.5
    ease: float = 0.0
    hold_trial: bool = False
    rehearsal: float = 0.0


@dataclass(frozen=True)
class Action:
    """One thing that the curriculum changed, and why; told as a "curriculum" event."""

    action: str
    reason: str


@dataclass(frozen=True)
class QuestSpec:
    """The next idle quest; `kind` idle or rehearsal.

    `mix` {level: share of rows} of its own skill, `others` {skill: {level: share}} of other skills (rehearsed, and
    learnt beside it) and `buffer` (share of rows out of the rehearsal buffer) sum to 1.
    """

    skill: str
    level: int
    kind: str
    mix: Mapping[int, float]
    rehearsal_share: float
    knobs: Knobs
    reason: str
    actions: tuple[Action, ...] = ()
    others: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    buffer: float = 0.0


def turn_knobs(knobs: Knobs, hint: str | None) -> tuple[Knobs, tuple[Action, ...]]:
    """What a strain hint changes, within bounds. "continue" and "wait" change nothing; easing ends by itself."""
    word = (hint or "wait").replace(" ", "_")
    why = _WHY.get(word, "no overload any more")
    if word == "back_off":
        # Every other quest still sits its promotion trial, or a hero in lasting overload would never be examined.
        new = replace(knobs, lookahead=max(1, knobs.lookahead - 1), training_share=0.6, ease=0.5,
                      hold_trial=not knobs.hold_trial)  # fmt: skip
    elif word == "level_up":
        new = replace(knobs, lookahead=min(MAX_LOOKAHEAD, knobs.lookahead + 1), training_share=0.4, ease=0.0,
                      hold_trial=False)  # fmt: skip
    elif word == "continue":
        new = replace(knobs, training_share=0.5, ease=0.0, hold_trial=False)
    else:
        new = replace(knobs, ease=0.0, hold_trial=False)
    actions = []
    if new.lookahead != knobs.lookahead:
        actions.append(Action("look_ahead", f"{why}: look-ahead {knobs.lookahead} → {new.lookahead} levels"))
    if new.training_share != knobs.training_share:
        actions.append(Action("mix", f"{why}: training level {new.training_share:.0%} of the new rows"))
    if new.ease != knobs.ease:
        what = "half of the harder questions become easy" if new.ease else "the skill's own mix of difficulties"
        actions.append(Action("difficulty", f"{why}: {what}"))
    if new.hold_trial != knobs.hold_trial:
        what = "only a scout, no promotion trial" if new.hold_trial else "promotion trials again"
        actions.append(Action("trial_timing", f"{why}: {what}"))
    return new, tuple(actions)


_WHY = {"back_off": "overload without progress", "level_up": "recovery and stable", "continue": "learning goes on"}


def deficits(state: SkillState) -> dict[int, float]:
    """{mastered level: retention deficit 0…1}: 0 from 0.95 accuracy on, 1 at the threshold and below.

    What was not examined since its promotion is not known to be held: it counts as `UNKNOWN_DEFICIT` at least.
    """
    found = {}
    for level in range(1, state.mastered + 1):
        seen = state.seen.get(level)
        room = max(HELD_ACCURACY - state.threshold, 1e-9)
        measured = 0.0 if seen is None else min(1.0, max(0.0, (HELD_ACCURACY - seen.accuracy) / room))
        unchecked = seen is None or seen.kind == "promotion"
        found[level] = max(measured, UNKNOWN_DEFICIT) if unchecked else measured
    return found


def rehearsal_share(
    state: SkillState, hint: str | None = None, others: Collection[SkillState] = (), memory: Memory = Memory()
) -> float:  # fmt: skip
    """Share of rehearsal rows, 0…0.40, rising with the worst deficit of any skill; 0 while nothing is mastered.

    The hint "back_off" adds 0.10: known ground while the new one is too hard.
    """
    found = [deficit for each in (state, *others) for deficit in deficits(each).values()]
    found += [memory.deficit] if memory.sources else []
    if not found:
        return 0.0
    more = 0.10 if hint in ("back_off", "back off") else 0.0
    return min(MAX_REHEARSAL, BASE_REHEARSAL + (MAX_REHEARSAL - BASE_REHEARSAL) * max(found) + more)


BUFFER = ("", 0)  # key of the rehearsal buffer among (skill, level) pairs


def rehearsal_weights(states: Collection[SkillState], memory: Memory = Memory()) -> dict[tuple[str, int], float]:
    """{(skill, level): weight} over every mastered level, and `BUFFER` for what cannot be made again.

    Stratified: every mastered level has a weight. Spaced: what has held in n checks in a row is kept warm by 1/(n+1)
    of the rows that a fresh level gets, so its interval grows; a deficit counts in full, whatever the past.
    """
    weights = {}
    for state in states:
        for level, deficit in deficits(state).items():
            weights[state.skill, level] = KEPT_WARM / (1 + state.holds.get(level, 0)) + deficit
    if memory.sources:
        weights[BUFFER] = KEPT_WARM * memory.sources + memory.deficit
    return weights


def _spread(weights: Mapping, total: float) -> dict:
    whole = sum(weights.values())
    return {key: total * weight / whole for key, weight in weights.items()}


def next_quest(
    state: SkillState, knobs: Knobs | None = None, hint: str | None = None, rehearsals_in_a_row: int = 0,
    others: Collection[SkillState] = (), memory: Memory = Memory(), beside: Mapping[str, float] | None = None,
) -> QuestSpec:  # fmt: skip
    """The next idle quest of a skill.

    Args:
        knobs: those of the last idle quest; None at the start.
        hint: the strain hint at the end of the last battle (wait | continue | level_up | back_off).
        rehearsals_in_a_row: rehearsal quests just done; after 2 one ordinary quest is let through, so that a level
            that stays in regression does not stop everything (the retention clause still blocks promotion).
        others: the hero's other skills; what is mastered in them is rehearsed too.
        beside: {skill: share of the new rows}, this one's own too (see `interleaved`); None = it has all of them.
    """
    knobs, actions = turn_knobs(knobs or Knobs(), hint)
    bad = state.regressed
    if bad and rehearsals_in_a_row < REHEARSALS_IN_A_ROW:
        return _rehearsal(state, knobs, actions, bad, others)
    share = 1.0 if state.complete else rehearsal_share(state, hint, others, memory)
    if abs(share - knobs.rehearsal) >= 0.05:
        found = [d for each in (state, *others) for d in deficits(each).values()]
        reason = f"rehearsal {knobs.rehearsal:.0%} → {share:.0%}: worst retention deficit {max(found, default=0.0):.2f}"
        actions = (*actions, Action("rehearsal_share", reason))
    knobs = replace(knobs, rehearsal=share)
    parts = {} if state.complete else beside or {state.skill: 1.0}
    mix = new_levels(state, knobs, (1 - share) * parts.get(state.skill, 0.0))
    spread = _spread(rehearsal_weights((state, *others), memory), share) if share else {}
    along = [each for each in others if parts.get(each.skill)]
    for each in along:
        for level, part in new_levels(each, Knobs(), (1 - share) * parts[each.skill]).items():
            spread[each.skill, level] = spread.get((each.skill, level), 0.0) + part
    reason = f"all {state.last} levels are mastered: keep them" if state.complete else (
        f"level {state.training} in training, {max(mix) - state.training} ahead, {share:.0%} rehearsal"
        + "".join(f", beside {each.skill} L{each.training}" for each in along))
    return _spec(state, "rehearsal" if state.complete else "idle", mix, spread, share, knobs, reason, actions)


def new_levels(state: SkillState, knobs: Knobs, share: float) -> dict[int, float]:
    """{level: share} of rows that teach something new in a skill that is not complete, `share` in all: the training
    level and those ahead of it.

    A skill begins with its easiest level alone (Bengio 2009): copying from the context, say, is found within 300 steps
    on the shortest problems, and often never on a mixture of lengths (docs/CLIMB.md). Then levels help each other.
    """
    if state.complete:
        return {}
    # A closed level is a table to be known: levels ahead do not help to recall it, they only take rows from it.
    alone = state.training in state.closed or not (state.mastered or state.half_known)
    furthest = state.training if alone else min(state.training + knobs.lookahead, state.last)
    ahead = range(state.training + 1, furthest + 1)
    training = knobs.training_share if len(ahead) else 1.0
    return {state.training: training * share, **{n: (1 - training) * share / len(ahead) for n in ahead}}


def _spec(
    state: SkillState, kind: str, mix: dict[int, float], spread: Mapping[tuple[str, int], float], share: float,
    knobs: Knobs, reason: str, actions: tuple[Action, ...], level: int | None = None,
) -> QuestSpec:  # fmt: skip
    """The quest that trains `mix` of its own skill and rehearses `spread` of any."""
    others: dict[str, dict[int, float]] = {}
    for (skill, number), part in sorted(spread.items()):
        if skill == state.skill:
            mix[number] = mix.get(number, 0.0) + part
        elif skill:
            others.setdefault(skill, {})[number] = part
    return QuestSpec(state.skill, state.training if level is None else level, kind, dict(sorted(mix.items())), share,
                     knobs, reason, actions, others, spread.get(BUFFER, 0.0))  # fmt: skip


def _rehearsal(
    state: SkillState, knobs: Knobs, actions: tuple[Action, ...], bad: list[int], others: Collection[SkillState]
) -> QuestSpec:  # fmt: skip
    """A quest that restores what regressed; the rest of its rows keeps the other levels and the training level warm."""
    rest = {(state.skill, level): 1.0 for level in range(1, state.training + 1) if level not in bad}
    rest |= {(each.skill, level): 1.0 for each in others for level in range(1, each.mastered + 1)}
    share = REGRESSED_SHARE if rest else 1.0
    spread = {(state.skill, level): part for level, part in _spread(dict.fromkeys(bad, 1.0), share).items()}
    if rest:
        spread |= _spread(rest, 1 - share)
    reason = f"{', '.join(f'L{level}' for level in bad)} in regression: maintenance before conquest"
    actions = (*actions, Action("rehearsal", reason))
    return _spec(state, "rehearsal", {}, spread, 1.0, knobs, reason, actions, min(bad))


def row_counts(mix: Mapping, rows: int) -> dict:
    """Rows per key that sum to `rows` exactly (largest remainder, ties by key); empty ones are left out."""
    whole = sum(mix.values())
    exact = {key: share * rows / whole for key, share in mix.items()}
    counts = {key: int(value) for key, value in exact.items()}
    short = rows - sum(counts.values())
    for key in sorted(exact, key=lambda k: (counts[k] - exact[k], k))[:short]:
        counts[key] += 1
    return {key: count for key, count in sorted(counts.items()) if count}


@dataclass(frozen=True)
class Practice:
    """How often a skill was practised: its idle quests, those of other skills since, its last rehearsals in a row.

    `lately`: its rehearsals since the last quest of any skill that learnt something new.
    """

    quests: int = 0
    since: int = 0
    rehearsals_in_a_row: int = 0
    lately: int = 0

    def streak(self, complete: bool) -> int:
        """Rehearsals in a row for the rule of two. Every quest of a finished skill is a rehearsal, so there the
        ordinary quest that must be let through is one of another skill."""
        return self.lately if complete else self.rehearsals_in_a_row


def practice_deficit(state: SkillState, weak: bool = False) -> float:
    """How much a skill needs practice, 0.05…1: the share of its goal that is missing, or its worst retention deficit.

    Args:
        weak: it practises a primitive that is weak (contracts B10).
    """
    missing = 1 - state.mastered / state.last
    keep = max(deficits(state).values(), default=0.0)
    return max(LEAST_DEFICIT, missing, keep, WEAK_DEFICIT if weak else 0.0)


def interleaved(
    lead: str, weights: Mapping[str, float], states: Mapping[str, SkillState], lengths: Mapping[str, float]
) -> dict[str, float]:  # fmt: skip
    """{skill: share of the new rows of a quest that `lead` has}, summing to 1.

    Open levels are learnt side by side: what is practised in blocks drives out what was learnt before (Rohrer & Taylor
    2007 of people; docs/CLIMB.md of this hero). Each gets the share `weights` of the *answers' text*, which is what the
    loss averages over: by rows, a skill with long answers would take the gradient for itself. A closed level is a
    table, learnt by itself.

    Args:
        weights: {skill: priority × deficit}; only these are learnt beside the lead.
        lengths: {skill: mean length of an answer}, in any unit; a skill without one is left out.
    """
    def joins(skill: str) -> bool:
        state = states[skill]
        return not state.complete and state.training not in state.closed and lengths.get(skill, 0) > 0

    if not joins(lead):
        return {lead: 1.0}
    return _spread({skill: weights[skill] / lengths[skill] for skill in weights if joins(skill)}, 1.0)


def practice_weights(
    priorities: Mapping[str, float], states: Mapping[str, SkillState], weak: Collection[str] = ()
) -> dict[str, float]:  # fmt: skip
    """{skill: priority × deficit} of every skill that is there and has a priority.

    Args:
        priorities: {skill: weight} of the hero or the campaign; weight 0 and unknown skills are left out.
        weak: skills that practise a weak primitive.
    """
    return {skill: weight * practice_deficit(states[skill], skill in weak)
            for skill, weight in priorities.items() if weight > 0 and skill in states}  # fmt: skip


def choose_skill(
    weights: Mapping[str, float], states: Mapping[str, SkillState], practised: Mapping[str, Practice]
) -> str | None:
    """The skill that leads the next quest, or None when there is none.

    What is in regression comes first, two rehearsals in a row at most. Else the highest of `practice_weights` × (1 +
    quests of other skills since its last one): a skill twice as important gets about twice the quests, and none
    starves.
    """
    def order(skill: str) -> tuple[bool, float, float, int, str]:
        state, done = states[skill], practised.get(skill, Practice())
        broken = bool(state.regressed) and done.streak(state.complete) < REHEARSALS_IN_A_ROW
        return not broken, -weights[skill] * (1 + done.since), -weights[skill], done.quests, skill

    return min(weights, key=order) if weights else None

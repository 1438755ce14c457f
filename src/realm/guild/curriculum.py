"""What the hero practises next, and which trials it sits: pure rules over what is known (realm-rules §5, contracts B).

`next_quest` answers with a `QuestSpec`, `plan_trials` with the trials of the battle. A strain hint changes the mix of
levels and difficulties, the look-ahead, the rehearsal share and the timing of trials; each change is an `Action` with
its reason. Only a trial changes a level, and that is decided in `guild/levels.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from realm.guild.campaigns import seed_of
from realm.guild.levels import (
    CLOSED_MAX_TABLE,
    CLOSED_THRESHOLD,
    LOOKS,
    RETENTION_MIN_N,
    THRESHOLD,
    Check,
    regressed,
    wilson,
)

MAX_LOOKAHEAD = 3
MAX_REHEARSAL = 0.40
BASE_REHEARSAL = 0.05  # spaced practice of what is mastered, even when nothing seems forgotten
HELD_ACCURACY = 0.95  # a mastered level at this accuracy or better has no retention deficit
UNKNOWN_DEFICIT = 0.5  # of a mastered level that was never checked
SCOUT_N = 40
MANUAL_N = LOOKS[-1]
PROBE_N = 30
PROBE_LEVELS = 6  # the highest mastered ones: what the champion is chosen by
CHECKS_PER_QUEST = 6
CHECK_AFTER = 3  # quests between two retention checks of a level; the clause looks back 5
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
    """What is known about one skill of one hero. `seen`: {level: newest trial}."""

    skill: str
    max_level: int
    mastered: int
    closed: frozenset[int] = frozenset()
    threshold: float = THRESHOLD
    seen: Mapping[int, Seen] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    quests_since_fail: int | None = None

    @property
    def training(self) -> int:
        """The level in training: mastered + 1, or the last one when all are mastered."""
        return min(self.mastered + 1, self.max_level)

    @property
    def complete(self) -> bool:
        return self.mastered >= self.max_level


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
    """The next idle quest. `mix` is {level: share of rows}, summing to 1; `kind` idle or rehearsal."""

    skill: str
    level: int
    kind: str
    mix: Mapping[int, float]
    rehearsal_share: float
    knobs: Knobs
    reason: str
    actions: tuple[Action, ...] = ()


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
    """{mastered level: retention deficit 0…1}: 0 from 0.95 accuracy on, 1 at the threshold and below."""
    found = {}
    for level in range(1, state.mastered + 1):
        seen = state.seen.get(level)
        if seen is None:
            found[level] = UNKNOWN_DEFICIT
        else:
            room = max(HELD_ACCURACY - state.threshold, 1e-9)
            found[level] = min(1.0, max(0.0, (HELD_ACCURACY - seen.accuracy) / room))
    return found


def rehearsal_share(state: SkillState, hint: str | None = None) -> float:
    """Share of rehearsal rows, 0…0.40, rising with the worst deficit; 0 while nothing is mastered.

    The hint "back_off" adds 0.10: known ground while the new one is too hard.
    """
    found = deficits(state)
    if not found:
        return 0.0
    more = 0.10 if hint in ("back_off", "back off") else 0.0
    return min(MAX_REHEARSAL, BASE_REHEARSAL + (MAX_REHEARSAL - BASE_REHEARSAL) * max(found.values()) + more)


def _spread(weights: Mapping[int, float], total: float) -> dict[int, float]:
    whole = sum(weights.values())
    return {level: total * weight / whole for level, weight in weights.items()}


def next_quest(
    state: SkillState, knobs: Knobs | None = None, hint: str | None = None, rehearsals_in_a_row: int = 0
) -> QuestSpec:
    """The next idle quest of a skill.

    Args:
        knobs: those of the last idle quest; None at the start.
        hint: the strain hint at the end of the last battle (wait | continue | level_up | back_off).
        rehearsals_in_a_row: rehearsal quests just done; after 2 one ordinary quest is let through, so that a level
            that stays in regression does not stop everything (the retention clause still blocks promotion).
    """
    knobs, actions = turn_knobs(knobs or Knobs(), hint)
    bad = [c.level for c in regressed(c for c in state.checks if c.skill == state.skill)]
    if bad and rehearsals_in_a_row < REHEARSALS_IN_A_ROW:
        return _rehearsal(state, knobs, actions, bad)
    share = 1.0 if state.complete else rehearsal_share(state, hint)
    if abs(share - knobs.rehearsal) >= 0.05:
        worst = max(deficits(state).values(), default=0.0)
        reason = f"rehearsal {knobs.rehearsal:.0%} → {share:.0%}: worst retention deficit {worst:.2f}"
        actions = (*actions, Action("rehearsal_share", reason))
    knobs = replace(knobs, rehearsal=share)
    mix: dict[int, float] = {}
    if not state.complete:
        # A closed level is a table to be known: levels ahead do not help to recall it, they only take rows from it.
        closed = state.training in state.closed
        furthest = state.training if closed else min(state.training + knobs.lookahead, state.max_level)
        ahead = range(state.training + 1, furthest + 1)
        training = knobs.training_share if len(ahead) else 1.0
        mix = {state.training: training * (1 - share), **{n: (1 - training) * (1 - share) / len(ahead) for n in ahead}}
    if state.mastered:
        weights = {level: 0.2 + deficit for level, deficit in deficits(state).items()}
        for level, part in _spread(weights, share).items():
            mix[level] = mix.get(level, 0.0) + part
    reason = f"all {state.max_level} levels are mastered: keep them" if state.complete else (
        f"level {state.training} in training, {max(mix) - state.training} ahead, {share:.0%} rehearsal")
    return QuestSpec(state.skill, state.training, "rehearsal" if state.complete else "idle", dict(sorted(mix.items())),
                     share, knobs, reason, actions)  # fmt: skip


def _rehearsal(state: SkillState, knobs: Knobs, actions: tuple[Action, ...], bad: list[int]) -> QuestSpec:
    """A quest that restores what regressed; the rest of its rows keeps the other levels and the training level warm."""
    rest = {level: 1.0 for level in range(1, state.training + 1) if level not in bad}
    share = REGRESSED_SHARE if rest else 1.0
    mix = _spread({level: 1.0 for level in bad}, share)
    if rest:
        mix |= _spread(rest, 1 - share)
    names = ", ".join(f"L{level}" for level in sorted(bad))
    reason = f"{names} in regression: maintenance before conquest"
    return QuestSpec(state.skill, min(bad), "rehearsal", dict(sorted(mix.items())), 1.0, knobs, reason,
                     (*actions, Action("rehearsal", reason)))  # fmt: skip


def row_counts(mix: Mapping[int, float], rows: int) -> dict[int, int]:
    """Rows per level that sum to `rows` exactly (largest remainder, ties by level); empty levels are left out."""
    exact = {level: share * rows / sum(mix.values()) for level, share in mix.items()}
    counts = {level: int(value) for level, value in exact.items()}
    short = rows - sum(counts.values())
    for level in sorted(exact, key=lambda n: (counts[n] - exact[n], n))[:short]:
        counts[level] += 1
    return {level: count for level, count in sorted(counts.items()) if count}


@dataclass(frozen=True)
class TrialPlan:
    """One trial as the battle child is told to hold it (`battles.config["trials"]`)."""

    kind: str
    skill: str
    level: int
    closed: bool
    threshold: float
    seed: int
    max_n: int

    def to_dict(self) -> dict:
        return dict(vars(self))


def make_trial(kind: str, state: SkillState, level: int, campaign_seed: int, serial: int) -> TrialPlan:
    """A trial with its size and a seed of its own.

    Args:
        serial: trials held so far at this (skill, level); it keys the seed, so that every trial asks fresh problems.
    """
    closed = level in state.closed
    sizes = {"promotion": LOOKS[-1], "retention": RETENTION_MIN_N, "scout": SCOUT_N, "manual": MANUAL_N,
             "probe": PROBE_N}  # fmt: skip
    size = CLOSED_MAX_TABLE if closed and kind in ("promotion", "manual") else sizes[kind]
    threshold = CLOSED_THRESHOLD if closed and kind != "retention" else state.threshold
    seed = seed_of(campaign_seed, "trial", kind, state.skill, level, serial)
    return TrialPlan(kind, state.skill, level, closed, threshold, seed, size)


def plan_trials(
    state: SkillState, mix: Sequence[int], knobs: Knobs, campaign_seed: int, serials: Mapping[int, int],
    tried: Collection[int] = (),
) -> list[TrialPlan]:  # fmt: skip
    """Trials after a quest that trained the levels in `mix`, in the order in which they are held.

    A promotion trial at the training level (a scout instead while the hint says to wait), scouts at the levels ahead
    that were trained, and retention checks of at most 6 mastered levels: regressed ones always, others when their last
    check is 3 quests old or older, oldest first. Last, the probe of the highest mastered levels: the same problems
    every time, so that the checkpoints of a campaign can be compared (contracts B3); it decides no level.

    Args:
        tried: levels whose promotion trial this very quest has sat (it was interrupted after it). They are scouted:
            the weights are the same, and after a fail at least one quest must come first (contracts B2).
    """
    plans = []

    def add(kind: str, level: int) -> None:
        plans.append(make_trial(kind, state, level, campaign_seed, serials.get(level, 0)))

    if not state.complete and state.training in mix:
        # A quest's promotion trial comes after its training, and once: the wait after a fail is kept by that.
        add("scout" if knobs.hold_trial or state.training in tried else "promotion", state.training)
    for level in sorted(mix):
        if level > state.training:
            add("scout", level)
    for level in due_checks(state):
        add("retention", level)
    for level in range(max(1, state.mastered - PROBE_LEVELS + 1), state.mastered + 1):
        plans.append(make_trial("probe", state, level, campaign_seed, 0))
    return plans


def due_checks(state: SkillState) -> list[int]:
    """Mastered levels to check after the next quest: regressed first, then oldest first, at most 6."""
    own = {c.level: c for c in state.checks if c.skill == state.skill}
    due = []
    for level in range(1, state.mastered + 1):
        check = own.get(level)
        if check is None:
            due.append((1, 0, level))
        elif check.verdict in ("regression", "lost"):
            due.append((0, -check.quests_ago, level))
        elif check.quests_ago + 1 >= CHECK_AFTER:  # + 1: the quest that is about to be trained
            due.append((1, -check.quests_ago, level))
    return [level for _, _, level in sorted(due)[:CHECKS_PER_QUEST]]


def follow_up(state: SkillState, trained: Sequence[int]) -> int | None:
    """The level to examine at once after a promotion, or None.

    `state` is the state after the promotion. The next level is tried when the last quest trained it as look-ahead and
    no scout already shows that it would fail; a hero that learns several levels together need not waste quests.
    """
    level = state.training
    if state.complete or level not in trained or state.quests_since_fail is not None and state.quests_since_fail < 1:
        return None
    seen = state.seen.get(level)
    if seen is not None:
        threshold = CLOSED_THRESHOLD if level in state.closed else state.threshold
        if wilson(round(seen.accuracy * seen.n), seen.n)[1] < threshold:
            return None
    return level


def choose_skill(
    priorities: Mapping[str, float], states: Mapping[str, SkillState], practised: Mapping[str, int]
) -> str | None:
    """The skill to practise: regressions first, then the one furthest behind its share of quests (ties by name).

    Args:
        priorities: {skill: weight} of the hero; skills of weight 0 and unknown ones are left out.
        practised: {skill: idle quests so far}.
    """
    known = {skill: weight for skill, weight in priorities.items() if weight > 0 and skill in states}
    if not known:
        return None

    def order(skill: str) -> tuple[bool, float, str]:
        fine = not regressed(c for c in states[skill].checks if c.skill == skill)
        return fine, (practised.get(skill, 0) + 1) / known[skill], skill

    return min(known, key=order)

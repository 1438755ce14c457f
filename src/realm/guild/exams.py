"""Which trials a hero sits, and when: promotion, scouts, retention checks, probe (contracts B2-B4).

`plan_trials` names them after a quest; the battle child holds them (`arena/trial.py`), `guild/levels.py` judges them.
Pure rules over `SkillState`s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from realm.guild.campaigns import seed_of
from realm.guild.curriculum import Knobs, SkillState
from realm.guild.levels import CLOSED_MAX_TABLE, CLOSED_THRESHOLD, LOOKS, RETENTION_MIN_N, wilson

SCOUT_N = 40
MANUAL_N = LOOKS[-1]
PROBE_N = 30
PROBE_LEVELS = 6  # the highest mastered ones: what the champion is chosen by
CHECKS_PER_QUEST = 6
CHECK_AFTER = 3  # quests between two retention checks of a level; the clause looks back 5


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
    state: SkillState | None, mix: Sequence[int], knobs: Knobs, campaign_seed: int,
    serials: Mapping[tuple[str, int], int], tried: Collection[tuple[str, int]] = (),
    others: Collection[SkillState] = (), beside: Mapping[str, Collection[int]] | None = None,
) -> list[TrialPlan]:  # fmt: skip
    """Trials after a quest that trained the levels in `mix` of a skill, in the order in which they are held.

    A promotion trial at the training level (a scout instead while the hint says to wait), also of other skills whose
    training level was among the rows; scouts at the levels ahead that were trained, once the training level is half
    known (before that they show nothing and cost most of the tokens); retention checks of at most 6 mastered levels of
    any skill: regressed ones always, others when their last check is 3 quests old or older, oldest first. Last, the
    probe of the highest mastered levels: the same problems every time, so that the checkpoints of a campaign can be
    compared (contracts B3); it decides no level.

    Args:
        state: the skill of the quest; None after data of no skill.
        serials: {(skill, level): trials held so far}.
        others: the hero's other skills; `beside` {skill: its levels among the quest's rows}.
        tried: (skill, level) pairs whose promotion trial this very quest has sat (it was interrupted after it). They
            are scouted: the weights are the same, and after a fail at least one quest must come first (contracts B2).
    """
    plans = []
    every = {each.skill: each for each in (*((state,) if state else ()), *others)}

    def add(kind: str, each: SkillState, level: int) -> None:
        plans.append(make_trial(kind, each, level, campaign_seed, serials.get((each.skill, level), 0)))

    for name, each in every.items():
        if not each.complete and each.training in (mix if each is state else (beside or {}).get(name, ())):
            # A quest's promotion trial comes after its training, and once: the wait after a fail is kept by that.
            waits = knobs.hold_trial or (name, each.training) in tried
            add("scout" if waits else "promotion", each, each.training)
    for level in sorted(mix) if state is not None and state.half_known else ():
        if level > state.training:
            add("scout", state, level)
    for skill, level in due_checks(every.values()):
        add("retention", every[skill], level)
    for skill, level in probed(every.values()):
        plans.append(make_trial("probe", every[skill], level, campaign_seed, 0))
    return plans


def due_checks(states: Iterable[SkillState]) -> list[tuple[str, int]]:
    """Mastered (skill, level) pairs to check after the next quest: regressed first, then oldest first, at most 6."""
    due = []
    for state in states:
        own = {c.level: c for c in state.checks if c.skill == state.skill}
        for level in range(1, state.mastered + 1):
            check = own.get(level)
            if check is None:
                due.append((1, 0, state.skill, level))
            elif check.verdict in ("regression", "lost"):
                due.append((0, -check.quests_ago, state.skill, level))
            elif check.quests_ago + 1 >= CHECK_AFTER:  # + 1: the quest that is about to be trained
                due.append((1, -check.quests_ago, state.skill, level))
    return [(skill, level) for _, _, skill, level in sorted(due)[:CHECKS_PER_QUEST]]


def probed(states: Iterable[SkillState]) -> list[tuple[str, int]]:
    """The mastered (skill, level) pairs that the champion is chosen by: of every skill the highest, then the next, at
    most 6. It follows from the mastered levels alone, so checkpoints with the same levels were asked the same."""
    found = [(state.mastered - level, state.skill, level)
             for state in states for level in range(1, state.mastered + 1)]  # fmt: skip
    return sorted((skill, level) for _, skill, level in sorted(found)[:PROBE_LEVELS])


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

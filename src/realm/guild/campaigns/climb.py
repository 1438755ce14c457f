"""The climb: what every level cost, and what regressed and was repaired. Pure functions over `facts` rows.

Time-to-level is told in optimizer steps, tokens under the loss mask and tokens that trials generated: an adaptive
method that examines all the time must pay for it. A battle belongs to the levels that its trials promoted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from realm.guild.campaigns.facts import Fight, Spent, Stage, Trial
from realm.guild.levels import judge_retention


@dataclass(frozen=True)
class Rung:
    """One level of the climb: `own` since the last level of the same skill, `total` since the campaign began."""

    stage: Stage
    own: Spent
    total: Spent


def positions(stages: Sequence[Stage], fights: Sequence[Fight]) -> list[int]:
    """Index of the battle that each stage was earned in; without its battle, the last one begun by then; -1 = none."""
    index = {fight.id: i for i, fight in enumerate(fights)}
    found = []
    for stage in stages:
        before = sum(fight.at <= stage.order[0] for fight in fights) - 1
        found.append(index.get(stage.battle_id, before))
    return found


def cost(fights: Sequence[Fight]) -> Spent:
    """Sum over battles."""
    return Spent(sum(f.steps for f in fights), sum(f.tokens for f in fights), sum(f.trained_tokens for f in fights),
                 sum(f.trial_tokens for f in fights), sum(f.effort for f in fights))  # fmt: skip


def rungs(stages: Sequence[Stage], fights: Sequence[Fight]) -> list[Rung]:
    """Time-to-level of every promotion, in the order of promotion."""
    last: dict[str, int] = {}
    found = []
    for stage, at in zip(stages, positions(stages, fights), strict=True):
        begin = last.get(stage.skill, -1) + 1
        found.append(Rung(stage, cost(fights[begin:at + 1]), cost(fights[:at + 1])))
        last[stage.skill] = at
    return found


def repairs(trials: Sequence[Trial], thresholds: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """Every regression that a retention check found, and the check that found it held again (None = not yet).

    Several checks in a row that find the same regression are one; `worst` is the lowest of them. Verdicts are judged
    again from the counts.
    """
    open_now: dict[tuple[str, int], dict[str, Any]] = {}
    found = []
    for trial in sorted((t for t in trials if t.kind == "retention"), key=lambda t: (t.at, t.id)):
        key = trial.skill, trial.level
        verdict = judge_retention(trial.correct, trial.n, (thresholds or {}).get(trial.skill, 0.80))
        accuracy = trial.correct / trial.n
        if verdict in ("regression", "lost"):
            if key not in open_now:
                open_now[key] = {"skill": trial.skill, "level": trial.level, "found_at": trial.at,
                                 "found_step": trial.step, "verdict": verdict, "worst": accuracy, "checks": 0,
                                 "held_at": None, "held_step": None, "held": None}  # fmt: skip
                found.append(open_now[key])
            entry = open_now[key]
            entry["checks"] += 1
            entry["worst"] = min(entry["worst"], accuracy)
            entry["verdict"] = "lost" if verdict == "lost" else entry["verdict"]
        elif verdict == "held" and key in open_now:
            open_now.pop(key).update(held_at=trial.at, held_step=trial.step, held=accuracy)
    return found

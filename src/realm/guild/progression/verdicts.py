"""Verdicts from counts: what a stored trial means by the level rule, whoever asks (`guild/levels.py` is the rule).

`judge_trial` is what the arena promotes by; `verdict_written` is what the trial itself wrote down when it ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realm.guild.levels import (
    CLOSED_MAX_TABLE,
    CLOSED_THRESHOLD,
    LOOKS,
    THRESHOLD,
    judge_closed,
    judge_open,
    judge_retention,
)
from realm.guild.skills import get_skill

JUDGED_KINDS = ("promotion", "retention", "scout", "manual")


def judge_trial(trial: Mapping[str, Any]) -> str:
    """The verdict of the level rule on this trial's counts, with the skill's own threshold and closed levels.

    Raises:
        SkillError: no such skill is installed.
        ValueError: impossible counts.
    """
    correct, n = trial["correct"], trial["n"]
    if trial["kind"] == "retention":
        return judge_retention(correct, n, trial["threshold"] or THRESHOLD)
    skill = get_skill(trial["skill"])
    if skill.closed(trial["level"]):
        whole = min(CLOSED_MAX_TABLE, skill.levels()[trial["level"] - 1].distinct or CLOSED_MAX_TABLE)
        return judge_closed(correct, n) if n >= whole else "undecided"
    return judge_open(correct, n, skill.threshold) if n <= LOOKS[-1] else "undecided"


def verdict_written(trial: Mapping[str, Any]) -> str | None:
    """The verdict that a trial of these counts has to bear by its own row; None for kinds without a rule (probes).

    Raises:
        ValueError: impossible counts.
    """
    correct, n, kind = trial["correct"], trial["n"], trial["kind"]
    if kind not in JUDGED_KINDS or trial["skill"] is None:
        return None
    if kind == "retention":
        return judge_retention(correct, n, trial["threshold"] or THRESHOLD)
    if trial["closed"]:
        return judge_closed(correct, n, trial["threshold"] or CLOSED_THRESHOLD)
    verdict = judge_open(correct, n, trial["threshold"] or THRESHOLD)
    return "undecided" if verdict == "continue" else verdict

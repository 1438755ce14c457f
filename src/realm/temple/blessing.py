"""The blessing: how much of a quest's effort becomes experience (realm-rules §10, contracts B7, B8).

quality = ceremony × evidence, experience = effort × quality above 0.8 (whole effort), above 0.3 (in part), else none.
Evidence is held-out only: trials of the levels that the quest trained, or the loss of a probe held out of its file.
Pure: `bless` takes numbers and returns numbers, so every blessing can be computed again from its stored parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

BLESSED = 0.8
PARTIAL = 0.3
ACCURACY_GAIN = 0.05  # held-out accuracy gain that counts as full evidence for a level
LOSS_GAIN = 0.05  # relative fall of the probe's loss that counts as full evidence for a file
MIN_PROBE = 20

Verdict = Literal["blessed", "partial", "cursed", "unproven"]


@dataclass(frozen=True)
class CeremonyCheck:
    """One check of the ceremony. A critical one that could not run must be a warning, never ok. `remedy`: what to do
    about it, where there is something to do."""

    name: str
    status: Literal["ok", "warn", "fail", "skip"]
    critical: bool
    details: str
    remedy: str = ""


@dataclass(frozen=True)
class LevelEvidence:
    """One trained (skill, level): accuracy of its trial after the quest; `before` None = never examined, taken as 0."""

    skill: str
    level: int
    accuracy: float
    threshold: float
    before: float | None = None

    @property
    def value(self) -> float:
        gain = (self.accuracy - (self.before or 0.0)) / ACCURACY_GAIN
        return max(min(1.0, self.accuracy / self.threshold), min(1.0, max(0.0, gain)))


@dataclass(frozen=True)
class ProbeEvidence:
    """Loss of a held-out probe before and after the quest (nats per token), and its number of rows."""

    before: float
    after: float
    rows: int


@dataclass(frozen=True)
class Blessing:
    """The result; `parts` holds everything it was computed from."""

    ceremony: float
    evidence: float
    quality: float
    effort: float
    xp: float
    verdict: Verdict
    parts: dict[str, Any]


def ceremony_factor(checks: Sequence[CeremonyCheck]) -> float:
    """0 if a critical check fails, else max(0.3, 1 - 0.3·fails); without fails max(0.7, 1 - 0.1·warnings)."""
    if any(c.critical and c.status == "fail" for c in checks):
        return 0.0
    fails = sum(c.status == "fail" for c in checks)
    # A critical check that could not run is a warning, never a pass.
    warns = sum(c.status == "warn" or (c.critical and c.status == "skip") for c in checks)
    return max(0.3, 1 - 0.3 * fails) if fails else max(0.7, 1 - 0.1 * warns)


def retention_factor(verdicts: Sequence[str]) -> float:
    """Share of the retention checks of this quest that did not find a regression; 1 when none was made."""
    judged = [v for v in verdicts if v in ("held", "regression", "lost")]
    return sum(v == "held" for v in judged) / len(judged) if judged else 1.0


def bless(
    effort: float,
    checks: Sequence[CeremonyCheck],
    levels: Sequence[LevelEvidence] = (),
    probe: ProbeEvidence | None = None,
    retention: Sequence[str] = (),
) -> Blessing:
    """Bless one quest.

    Args:
        effort: sum of strain over the quest's steps.
        levels: evidence of a skill quest, one per trained level that sat a trial.
        probe: evidence of a file quest.
        retention: verdicts of the retention checks made after the quest (they weigh on file quests, contracts B7).

    "cursed" is for bad data and failed integrity; held-out evidence below 0.3 is "unproven": both give no experience.
    """
    ceremony, why = ceremony_factor(checks), ""
    if levels:
        evidence = sum(e.value for e in levels) / len(levels)
    elif probe is not None and probe.rows >= MIN_PROBE and probe.before > 0:
        gain = (probe.before - probe.after) / (LOSS_GAIN * probe.before)
        evidence = min(1.0, max(0.0, gain)) * retention_factor(retention)
    else:
        evidence = 0.0
        why = f"a probe of {probe.rows} rows is too small" if probe is not None else "nothing held out was measured"
    quality = ceremony * evidence
    verdict: Verdict
    if ceremony == 0.0:
        verdict = "cursed"
    elif quality >= BLESSED:
        verdict = "blessed"
    else:
        verdict = "partial" if quality >= PARTIAL else "unproven"
    xp = {"blessed": effort, "partial": effort * quality}.get(verdict, 0.0)
    parts = {"checks": [asdict(c) for c in checks], "levels": [asdict(e) | {"value": e.value} for e in levels],
             "probe": asdict(probe) if probe else None, "retention": list(retention), "why": why}  # fmt: skip
    return Blessing(ceremony, evidence, quality, effort, xp, verdict, parts)


def recompute(effort: float, parts: Mapping[str, Any]) -> Blessing:
    """The blessing again from its stored parts (experience can be recomputed from the ledger)."""
    levels = [LevelEvidence(**{k: v for k, v in e.items() if k != "value"}) for e in parts["levels"]]
    probe = ProbeEvidence(**parts["probe"]) if parts["probe"] else None
    return bless(effort, [CeremonyCheck(**c) for c in parts["checks"]], levels, probe, parts["retention"])

"""Strain: how hard the hero is working, from the training loss alone (realm-rules §2, contracts B6).

Everything derives from `loss_ema` (span 50, bias-corrected, updated at every optimizer step):

    strain      = max(0, loss_ema - floor)
    effort      = sum of strain over steps
    strain_rate = EMA (alpha 0.1) of the first difference of strain; negative means learning
    zone        = recovery < 0.1 ≤ productive < 0.3 ≤ stretch ≤ 0.5 < overload, changed only after 20 steps in a row
    hint        = what the curriculum should do, with its reason and a confidence

Pure: no clock, no database, no randomness. One tracker lives as long as one quest; its state survives a restart bit
for bit through JSON.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

SPAN = 50
ALPHA = 2 / (SPAN + 1)
RATE_ALPHA = 0.1
HYSTERESIS = 20
HINT_STEPS = 10
IMPROVING, WORSENING = -0.005, 0.005  # mean strain rate per step
ENVELOPE_STEPS = 200
ZONES = ("recovery", "productive", "stretch", "overload")

Zone = Literal["recovery", "productive", "stretch", "overload"]
Action = Literal["wait", "continue", "back_off", "level_up"]


@dataclass(frozen=True)
class Hint:
    """Guidance for the curriculum; only a trial changes a level. `confidence` is 0…1."""

    action: Action
    reason: str
    confidence: float


@dataclass(frozen=True)
class Reading:
    """The numbers of one optimizer step; losses and strain in nats per trained token."""

    loss: float
    loss_ema: float
    floor: float
    strain: float
    strain_rate: float | None  # None at the first step
    zone: Zone
    hint: Hint
    effort: float  # summed since the tracker began


def zone_of(strain: float) -> Zone:
    """Zone of one strain value, without hysteresis."""
    if strain < 0.1:
        return "recovery"
    if strain < 0.3:
        return "productive"
    return "stretch" if strain <= 0.5 else "overload"


class StrainTracker:
    """Feed it each step's loss; it returns the reading.

    Args:
        floor: irreducible loss of the data in nats per trained token (0 for deterministic answers), or None for free
            text: then the floor is a running lower envelope, the lowest step loss of the last 200 steps.
    """

    def __init__(self, floor: float | None = None) -> None:
        if floor is not None and not (math.isfinite(floor) and floor >= 0):
            raise ValueError(f"floor = {floor}: a loss floor is 0 or more; pass None for a running lower envelope")
        self.floor = floor
        self.steps = 0
        self.effort = 0.0
        self.zone: Zone = "recovery"
        self._sum = 0.0  # EMA before bias correction
        self._strain: float | None = None
        self._rate: float | None = None
        self._candidate: Zone = "recovery"
        self._held = 0  # steps in a row that the candidate zone was seen
        self._rates: deque[float] = deque(maxlen=HINT_STEPS)
        self._losses: deque[float] = deque(maxlen=ENVELOPE_STEPS)

    def update(self, loss: float) -> Reading:
        """One optimizer step.

        Raises:
            ValueError: the loss is not a number; the caller ends the battle, nothing here has changed.
        """
        if not math.isfinite(loss):
            raise ValueError(f"loss = {loss}: strain needs a finite loss")
        self.steps += 1
        self._sum += ALPHA * (loss - self._sum)
        ema = self._sum / (1 - (1 - ALPHA) ** self.steps)
        floor = self._floor(loss)
        strain = max(0.0, ema - floor)
        self._move_rate(strain)
        self.effort += strain
        self._move_zone(zone_of(strain))
        return Reading(loss, ema, floor, strain, self._rate, self.zone, self.hint(), self.effort)

    def hint(self) -> Hint:
        """Guidance from the last 10 strain rates and the present zone."""
        if len(self._rates) < HINT_STEPS:
            return Hint("wait", f"{len(self._rates)} of {HINT_STEPS} steps seen since the quest began", 0.0)
        mean = sum(self._rates) / len(self._rates)
        trend = "improving" if mean < IMPROVING else "worsening" if mean > WORSENING else "stable"
        action = _action(self.zone, trend)
        reason = f"{self.zone} and {trend}: strain {self._strain:.3f}, changing by {mean:+.4f} per step"
        return Hint(action, reason, self._confidence(trend))

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values; floats survive `json` exactly because it writes the shortest text that reads back."""
        return {
            "floor": self.floor, "steps": self.steps, "effort": self.effort, "zone": self.zone, "sum": self._sum,
            "strain": self._strain, "rate": self._rate, "candidate": self._candidate, "held": self._held,
            "rates": list(self._rates), "losses": list(self._losses),
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> StrainTracker:
        """The tracker that `state_dict` described."""
        made = cls(state["floor"])
        made.load_state_dict(state)
        return made

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state; the floor too, since strain before and after must mean the same."""
        self.floor, self.steps, self.effort = state["floor"], state["steps"], state["effort"]
        self.zone, self._sum = state["zone"], state["sum"]
        self._strain, self._rate = state["strain"], state["rate"]
        self._candidate, self._held = state["candidate"], state["held"]
        self._rates = deque(state["rates"], maxlen=HINT_STEPS)
        self._losses = deque(state["losses"], maxlen=ENVELOPE_STEPS)

    def _floor(self, loss: float) -> float:
        if self.floor is not None:
            return self.floor
        self._losses.append(loss)
        return min(self._losses)

    def _move_rate(self, strain: float) -> None:
        if self._strain is not None:
            change = strain - self._strain
            self._rate = change if self._rate is None else self._rate + RATE_ALPHA * (change - self._rate)
            self._rates.append(self._rate)
        self._strain = strain

    def _move_zone(self, seen: Zone) -> None:
        if self.steps == 1:
            self.zone = self._candidate = seen
            return
        if seen == self.zone:
            self._candidate, self._held = seen, 0
            return
        self._held = self._held + 1 if seen == self._candidate else 1
        self._candidate = seen
        if self._held >= HYSTERESIS:
            self.zone, self._held = seen, 0

    def _confidence(self, trend: str) -> float:
        """Share of the last rates that agree with the trend, scaled by how full the 50-step window is."""
        agree = {
            "improving": sum(r < IMPROVING for r in self._rates),
            "worsening": sum(r > WORSENING for r in self._rates),
            "stable": sum(IMPROVING <= r <= WORSENING for r in self._rates),
        }[trend]
        return round(agree / HINT_STEPS * min(1.0, self.steps / SPAN), 3)


def _action(zone: Zone, trend: str) -> Action:
    """The table of realm-rules §2. Stretch is left only when it worsens: being stretched and stable is still work."""
    if zone == "overload":
        return "continue" if trend == "improving" else "back_off"
    if zone == "stretch":
        return "back_off" if trend == "worsening" else "continue"
    if zone == "recovery":
        return "level_up" if trend == "stable" else "continue"
    return "continue"

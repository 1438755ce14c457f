"""`RealmSnapshot`: the whole realm in one small object. Pages, `/api/state` and `training status` print nothing else.

The JSON schema is committed beside this file; `python -m realm.state.snapshot` prints it, a test holds the two equal.
Light on purpose: pydantic only, no web framework, no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 1
SCHEMA_FILE = Path(__file__).with_name("snapshot.schema.json")

BattleState = Literal["idle", "arming", "training", "pausing", "paused", "stopping", "trial", "done", "failed"]
Zone = Literal["recovery", "productive", "stretch", "overload"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hero(_Part):
    """The hero of the active campaign. `level` is a clock (steps // 1000), `total_level` sums mastered skill levels."""

    id: str
    name: str
    level: int = Field(ge=0)
    step: int = Field(ge=0, description="optimizer steps of the campaign")
    total_level: int = Field(ge=0)
    xp: float = Field(description="sum of blessings")
    effort: float = Field(ge=0, description="sum of strain over the campaign's optimizer steps")


class Battle(_Part):
    """The open battle; `idle` with nulls when there is none. Losses and strain in nats per trained token."""

    state: BattleState = "idle"
    school: str | None = None
    quest: str | None = Field(None, description="name of the quest; null for a trial without training")
    step: int | None = Field(None, description="optimizer steps done in this quest")
    total_steps: int | None = Field(None, description="optimizer steps the quest asks for")
    loss: float | None = Field(None, description="smoothed training loss (EMA, span 50)")
    loss_raw: float | None = Field(None, description="loss of the last step")
    strain: float | None = None
    strain_rate: float | None = Field(None, description="change of strain per step")
    zone: Zone | None = None
    hint: str | None = Field(None, description="wait | continue | back_off | level_up")
    damage: float | None = Field(None, description="1 / loss, loss floored at 1e-4")
    effort: float | None = Field(None, description="sum of strain over this quest's steps")
    tokens_per_s: float | None = None
    eta_s: float | None = Field(None, description="seconds to the last step at the present pace; only while training")


class SkillState(_Part):
    """Where the hero stands in one skill; accuracy, n and lower bound belong to the newest trial at that level."""

    mastered_level: int = Field(ge=0)
    training_level: int = Field(ge=1)
    accuracy: float | None = None
    n: int = 0
    lower_bound: float | None = None
    closed: bool = False


class Queue(_Part):
    """Waiting quests per lane, and files that still lie in the inbox."""

    high: int = 0
    normal: int = 0
    low: int = 0
    inbox: int = 0


class Campaign(_Part):
    id: str | None = None


class Vault(_Part):
    """`checkpoints` counts live ones; `champion` is a checkpoint id."""

    checkpoints: int = 0
    champion: str | None = None


class Gpu(_Part):
    """Sum over all GPUs: bytes of memory used and in all; the hottest one's temperature in °C."""

    used: int
    total: int
    temp: float | None = None


class RealmSnapshot(_Part):
    """The realm after event `event_id`, read in one transaction."""

    version: int = VERSION
    event_id: int = Field(ge=0, description="newest durable event that this snapshot includes")
    t: float = Field(description="Unix seconds at which it was read")
    mode: Literal["train", "rest"] = "train"
    hero: Hero | None = Field(None, description="null before the first campaign")
    battle: Battle = Battle()
    skills: dict[str, SkillState] = Field(default_factory=dict)
    queue: Queue = Queue()
    campaign: Campaign = Campaign()
    vault: Vault = Vault()
    gpu: Gpu | None = None


def schema_text() -> str:
    """The JSON schema as committed in `snapshot.schema.json`."""
    return json.dumps(RealmSnapshot.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")

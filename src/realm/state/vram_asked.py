"""What a page or a program asks of the memory calculator; `GET /api/vram?hero=flo&mode=qlora` and the Settings page."""

from __future__ import annotations

from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from realm import db
from realm.arena import vram
from realm.guild import campaigns
from realm.heroes.modes import MODES
from realm.settings import RealmHome

Mode = Literal[tuple(MODES)]


class Ask(BaseModel):
    """A query string; what is left out or empty is the recipe's own. `gb`: a GPU to plan for, in 1e9 bytes."""

    model_config = ConfigDict(extra="forbid")

    hero: str | None = None
    mode: Mode | None = None
    batch_size: int | None = Field(None, ge=1, le=4096)
    max_length: int | None = Field(None, ge=8, le=10**6)
    gradient_accumulation: int | None = Field(None, ge=1, le=4096)
    gradient_checkpointing: bool | None = None
    precision: Literal["bf16", "fp32"] | None = None
    gb: float | None = Field(None, gt=0, le=10**6)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_left_out(cls, value: Any) -> Any:
        return None if value == "" else value  # a form sends every field


def answer(home: RealmHome, engine: sa.Engine, ask: Ask) -> dict[str, Any]:
    """The calculator's report; without a hero, of the one that plays.

    Raises:
        ProfileError: no such hero, or nobody knows the shape of its weights.
    """
    with db.read(engine) as connection:
        hero = ask.hero or campaigns.value(connection, "hero") or home.settings.default_hero
    room = None if ask.gb is None else round(ask.gb * 1e9)
    return vram.report(home, hero, ask.mode, room, **ask.model_dump(exclude={"hero", "mode", "gb"}))

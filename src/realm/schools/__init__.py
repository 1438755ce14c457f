"""Training schools: each is one module with one visible training function, and one line in the register below.

The register is torch-free; `load` imports the module, which is not. A school offers (see `chassis.School`)

    FAMILY                                     optimizer state is carried over inside a family
    prepare(hero, raw, context)                rows of the quest's file → training rows, and what was left out, and why
    train(hero, rows, segment, kept, ...)      the optimizer steps of one segment

and the battle does the rest: pause, stop, checkpoints, resume, strain, events. A new school is a module and a line.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realm.heroes.profile import HeroProfile
from realm.settings import SettingsError, nearest

if TYPE_CHECKING:
    from realm.schools.chassis import School


class SchoolError(SettingsError):
    """A school that does not exist or cannot take this quest; the message names the value and the next action."""


@dataclass(frozen=True)
class Entry:
    """One school as the torch-free parts of the realm know it.

    `formats`: row formats of inbox files that go to this school by themselves (names of `afs.training.converters`,
    "prompt" for prompts that a skill can mark answers to, "question" for those that name their teacher); those that no
    school names go to the Scribe.
    `practice`: whether it can train on rows that skills make, so that idle quests may name it. `nats`: whether its loss
    is that of the answers, in nats per token, so that it tells how hard the hero works and what it knows by heart.
    """

    id: str
    formats: tuple[str, ...] = ()
    practice: bool = True
    nats: bool = True

    @property
    def module(self) -> str:
        return f"realm.schools.{self.id}"


SCHOOLS: Mapping[str, Entry] = {
    entry.id: entry
    for entry in (
        Entry("scribe"),  # every chat format
        Entry("mirror"),
        Entry("whisper", ("question",), practice=False),  # it needs a teacher, which only a person can name
        Entry("judge", ("preference",), nats=False),
        Entry("champion", ("prompt",), nats=False),
    )
}  # fmt: skip


def entry(school: str) -> Entry:
    """One school of the register.

    Raises:
        SchoolError: there is none of that name, with the nearest one.
    """
    if school not in SCHOOLS:
        raise SchoolError(f"no school '{school}'{nearest(school, sorted(SCHOOLS))}; the schools that are open: "
                          f"{', '.join(SCHOOLS)}")  # fmt: skip
    return SCHOOLS[school]


def load(school: str) -> School:
    """The module of a school; imports torch.

    Raises:
        SchoolError: there is none of that name.
    """
    return importlib.import_module(entry(school).module)


def rows_per_step(school: str, profile: HeroProfile) -> int:
    """Rows of the quest that one optimizer step consumes: the Champion answers each of its prompts several times."""
    return profile.rows_per_step // generations(profile) if school == "champion" else profile.rows_per_step


def generations(profile: HeroProfile) -> int:
    """Answers to each prompt of the Champion: as many as the hero wants, and whole groups in every step."""
    return math.gcd(profile.schools.champion.generations, profile.rows_per_step)


def of_format(name: str) -> str:
    """The school that an inbox file's row format goes to by itself."""
    return next((entry.id for entry in SCHOOLS.values() if name in entry.formats), "scribe")


def open_to(school: Any) -> bool:
    """Whether quests of this school can be trained."""
    return school in SCHOOLS

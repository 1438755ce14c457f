"""What an order of the Temple finds: checks, and the verdict drawn from them (realm-rules §10).

A check is ok, warn, fail or skip, with what was seen and what to do about it. What could not be examined is a warning
of a critical order and never a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from realm import db
from realm.settings import RealmHome

Status = Literal["ok", "warn", "fail", "skip"]
WORST: tuple[Status, ...] = ("fail", "warn", "ok", "skip")
TEXT_AT_MOST = 600  # characters of details or remedy; they are kept in the database and shown on a page


@dataclass(frozen=True)
class Check:
    """One finding. `remedy`: what to do, where there is something to do; `mend`: does it, where that is safe, and says
    what it did (never kept, only called with `--fix`)."""

    name: str
    status: Status
    details: str
    remedy: str = ""
    mend: Callable[[], str] | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "status": self.status, "details": self.details[:TEXT_AT_MOST],
                "remedy": self.remedy[:TEXT_AT_MOST], "mendable": self.mend is not None}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What an order found. `t`: Unix seconds of its end; `seconds`: how long it took."""

    order: str
    status: Status
    critical: bool
    t: float
    seconds: float
    checks: tuple[Check, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"order": self.order, "status": self.status, "critical": self.critical, "t": self.t,
                "seconds": round(self.seconds, 3), "checks": [check.to_dict() for check in self.checks]}  # fmt: skip

    def said(self) -> str:
        """The worst finding in one line, or how many were good."""
        bad = [check for check in self.checks if check.status == self.status and check.status != "ok"]
        if not bad:
            return f"{len(self.checks)} checks"
        more = f" (+{len(bad) - 1} more)" if len(bad) > 1 else ""
        return f"{bad[0].name}: {bad[0].details}{more}"[:TEXT_AT_MOST]


def status_of(checks: Iterable[Check], critical: bool) -> Status:
    """The worst status; a critical order of which nothing could be examined warns."""
    found = {check.status for check in checks}
    status = next((each for each in WORST if each in found), "skip")
    return "warn" if critical and status == "skip" else status


class MachineSample(Protocol):
    """What the Forge reads of a machine (`realm.state.machine.MachineSample` is one). Bytes, °C; None: not told."""

    gpus: tuple[Any, ...]
    ram_used: int
    ram_total: int
    cpu_temp: float | None
    cpu_count: int
    disk_free: int
    disk_total: int


@dataclass(frozen=True)
class Ceremony:
    """After a quest only what the quest touched is examined; the whole is examined every hour.

    Args:
        skills: {skill id: levels that the quest trained}.
        battle_id: whose trials are looked at.
        verified: checkpoints whose hashes were just compared.
    """

    battle_id: str
    skills: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    verified: frozenset[str] = frozenset()


@dataclass
class Asked:
    """What the orders are asked about.

    Args:
        machine: the machine's numbers now, or None where nobody measures it here.
        apps: {service: what makes its application}, to ask services that do not run; None: they are not asked then.
        ceremony: the quest that was just finished; None: everything is examined.
        sparing: asked by the hour and not by a person: no model is loaded where a trial has just shown that it answers.
    """

    home: RealmHome
    machine: Callable[[], MachineSample] | None = None
    apps: Mapping[str, Callable[[RealmHome], Any]] | None = None
    ceremony: Ceremony | None = None
    sparing: bool = False

    @cached_property
    def engine(self) -> sa.Engine:
        """Raises realm.db.SchemaError where there is no usable database."""
        return db.connect(self.home)

    def order(self, kind: str, payload: dict[str, Any]) -> str:
        """Note a command for the arena, which alone may change facts; returns what to say of it."""
        with db.write(self.engine) as connection:
            connection.execute(sa.insert(db.commands).values(
                id=db.new_id(), t=db.now(), kind=kind, payload=payload, state="pending"))  # fmt: skip
        return f"ordered {kind}"

    def close(self) -> None:
        if "engine" in self.__dict__:
            self.engine.dispose()
            del self.__dict__["engine"]


Rite = Callable[[Asked], Iterable[Check]]


@dataclass(frozen=True)
class Order:
    """One order: a name, what it answers for, whether it is critical, and its rites (functions that check)."""

    id: str
    title: str
    purpose: str
    critical: bool
    rites: tuple[Rite, ...]

    def examine(self, asked: Asked, fix: bool = False) -> Verdict:
        """Perform every rite. One that trips over something warns that it could not be performed; others still are."""
        begun = db.now()
        checks = tuple(check for rite in self.rites for check in _perform(rite, asked, fix))
        ended = db.now()
        return Verdict(self.id, status_of(checks, self.critical), self.critical, ended, ended - begun, checks)


def _perform(rite: Rite, asked: Asked, fix: bool) -> list[Check]:
    try:
        found = list(rite(asked))
        done = {check.name: check.mend() for check in found if fix and check.mend and check.status in ("warn", "fail")}
        if done:
            found = [replace(check, details=f"{check.details} (mended: {done[check.name]})") if check.name in done
                     else check for check in rite(asked)]  # fmt: skip
        return found
    except Exception as error:
        name = rite.__name__.strip("_").replace("_", " ")
        return [Check(name, "warn", f"could not be examined: {type(error).__name__}: {error}",
                      "mend what the error names, then ask again; `python3 -m training doctor` helps")]  # fmt: skip

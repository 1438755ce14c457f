"""What kinds of job there are: school, payload, time, errors worth another try, room, and how many may wait.

One entry in `KINDS` is the whole registration of a kind; deleting it and its function removes it.
`python3 -m training jobs kinds` prints the table.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SCHOOLS = ("inference", "forge", "vault", "analytics", "archaeology")
PRIORITIES = {"high": 2, "normal": 1, "low": 0}
MAX_ATTEMPTS = 3
SLOTS = {"torch": 1, "process": 1, "thread": 8}  # attempts at once on the realm's own machine, by lane
# An attempt that was lost (its process died, its machine went away) is always worth another try.
LOST, TIMEOUT, TRANSPORT, DISK_FULL = "lost", "timeout", "transport", "disk_full"

Seed = Field(None, ge=0, lt=2**53, description="default: drawn from the job's id, so that every attempt asks the same")


class JobError(Exception):
    """Work that failed. `code` decides whether another attempt is made; the text names value, rule and next action."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Payload(BaseModel):
    """What a job is asked to do; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Eval(Payload):
    """Examine a checkpoint at one level of a skill, on problems that training never sees."""

    checkpoint: str = Field(description="a checkpoint's id, `latest` or `champion`")
    skill: str
    level: int = Field(ge=1)
    items: int = Field(200, ge=40, le=400, description="at most so many problems; it ends early once decided")
    seed: int | None = Seed


class Sparring(Payload):
    """A checkpoint answers training problems; its wrong answers become rows for the Mirror."""

    checkpoint: str
    skill: str
    level: int = Field(ge=1)
    count: int = Field(200, ge=1, le=2000, description="problems asked")
    seed: int | None = Seed
    inbox: Literal["high", "normal", "low"] | None = Field(None, description="lane that gets the rows")


class Inference(Payload):
    """Greedy answers of a checkpoint to prompts."""

    checkpoint: str
    prompts: list[str] = Field(min_length=1, max_length=256)
    max_new_tokens: int = Field(128, ge=1, le=1024)


class DataGen(Payload):
    """Training rows of a skill, made as idle practice makes them."""

    skill: str
    counts: dict[int, int] = Field(min_length=1, description="{level: rows}")
    seed: int | None = Seed
    inbox: Literal["high", "normal", "low"] | None = None

    @model_validator(mode="after")
    def _in_bounds(self) -> DataGen:
        if min(self.counts) < 1 or min(self.counts.values()) < 1 or sum(self.counts.values()) > 100_000:
            raise ValueError("levels and rows begin at 1, and one job makes at most 100,000 rows")
        return self


class DataFilter(Payload):
    """Rows of a file without duplicates, and without rows below a quality score where one is asked for."""

    source: str = Field(description="file:PATH in the realm home, quest:ID or job:ID/NAME")
    near: float | None = Field(None, ge=0.3, le=1, description="Jaccard similarity at which texts count as equal")
    keep: Literal["first", "best"] = "first"
    min_score: float | None = Field(None, ge=0, le=1)


class DataConvert(Payload):
    """A file in another format; what a format cannot hold goes to a meta file."""

    source: str
    format: str = "messages"
    thinking: Literal["none", "separate", "embedded", "special_tokens"] = "separate"
    system: str | None = None
    allow_loss: bool = False


class Archive(Payload):
    """Move a checkpoint to another zone of the Vault."""

    checkpoint: str
    zone: Literal["hot", "warm", "deep"] = "deep"


class Retention(Payload):
    """Which checkpoints the Vault's rules would let go; with `dry_run: false` they go."""

    dry_run: bool = True


class Sync(Payload):
    """Compare the Vault's ledger with its folders: every hash, folders without a row, rows without a folder."""

    checkpoint: str | None = Field(None, description="one checkpoint; default: all live ones")


class Analytics(Payload):
    """The numbers of a campaign: climb, forgetting, maintenance, cap."""

    campaign: str | None = Field(None, description="name or id; default: the active one")


class Report(Analytics):
    """The report of a campaign as files: report.md and report.json."""


class HealthCheck(Payload):
    """Ask orders of the Temple."""

    order: Literal["forge", "champion", "oracle", "quick", "api", "weaver", "guild", "scribe", "deep"] = "quick"


class LayerStats(Payload):
    """Norms of every tensor and every layer of a checkpoint."""

    checkpoint: str


class LayerDrift(Payload):
    """How far every tensor of one checkpoint is from another's: relative L2 distance and cosine."""

    checkpoint: str
    against: str = Field(description="the earlier checkpoint")


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    Attributes:
        work: `module:function`, a function of (payload, bench) that returns a `bench.Result`.
        lane: torch (one process at a time), process (likewise, without torch) or thread.
        retryable: error codes after which another attempt is made.
        max_pending: jobs of the kind that may wait; more are refused with 429.
        cpus: processor cores that one attempt takes on a cluster.
        anywhere: it needs checkpoints and data by id only, so another machine may do it.
    """

    name: str
    school: str
    payload: type[Payload]
    work: str
    lane: Literal["torch", "process", "thread"]
    timeout_s: float
    max_pending: int
    retryable: frozenset[str] = frozenset({LOST, TIMEOUT, TRANSPORT})
    max_attempts: int = MAX_ATTEMPTS
    cpus: float = 1.0
    anywhere: bool = False

    @property
    def what(self) -> str:
        """One sentence."""
        return (self.payload.__doc__ or "").strip()

    def function(self) -> Callable[..., Any]:
        """The function that does the work, imported now."""
        module, _, name = self.work.partition(":")
        return getattr(importlib.import_module(module), name)


_AT_HOME = frozenset({LOST, TIMEOUT})
_WRITES = frozenset({LOST, TIMEOUT, DISK_FULL})
KINDS: dict[str, Kind] = {kind.name: kind for kind in (
    Kind("eval", "inference", Eval, "realm.jobs.inference:evaluate", "torch", 600, 50, anywhere=True),
    Kind("sparring", "inference", Sparring, "realm.jobs.inference:spar", "torch", 1800, 10, anywhere=True),
    Kind("inference", "inference", Inference, "realm.jobs.inference:answer", "torch", 300, 100, anywhere=True),
    Kind("data_gen", "forge", DataGen, "realm.jobs.forge:generate", "thread", 600, 20, anywhere=True),
    Kind("data_filter", "forge", DataFilter, "realm.jobs.forge:filter_rows", "process", 3600, 20, _WRITES),
    Kind("data_convert", "forge", DataConvert, "realm.jobs.forge:convert", "process", 3600, 20, _WRITES),
    Kind("archive", "vault", Archive, "realm.jobs.vault:archive", "thread", 3600, 20, _WRITES),
    Kind("retention", "vault", Retention, "realm.jobs.vault:keep_rules", "thread", 600, 3, _AT_HOME),
    Kind("sync", "vault", Sync, "realm.jobs.vault:sync", "process", 3600, 3, _AT_HOME),
    Kind("analytics", "analytics", Analytics, "realm.jobs.analytics:analytics", "thread", 300, 10, _AT_HOME),
    Kind("report", "analytics", Report, "realm.jobs.analytics:report", "thread", 300, 10, _WRITES),
    Kind("health_check", "analytics", HealthCheck, "realm.jobs.analytics:health_check", "torch", 900, 10, _AT_HOME),
    Kind("layer_stats", "archaeology", LayerStats, "realm.jobs.archaeology:stats", "process", 1800, 10, anywhere=True),
    Kind("layer_drift", "archaeology", LayerDrift, "realm.jobs.archaeology:drift", "process", 1800, 20, anywhere=True),
)}  # fmt: skip


def get(name: str) -> Kind:
    """The kind with this name.

    Raises:
        JobError: there is none; the nearest name is told.
    """
    if name in KINDS:
        return KINDS[name]
    near = difflib.get_close_matches(str(name), KINDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(KINDS)}"
    raise JobError("refused", f"no kind of job is called {str(name)[:60]!r}; {hint}")


def parse(name: str, payload: Mapping[str, Any]) -> Payload:
    """The payload of a kind.

    Raises:
        JobError: the kind does not exist, or the payload does not fit it; every wrong field is named.
    """
    model = get(name).payload
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'payload'}: {e['msg']}" for e in error.errors())
        fields = ", ".join(model.model_fields)
        raise JobError("refused", f"payload of {name}: {found}; its fields are {fields}") from error

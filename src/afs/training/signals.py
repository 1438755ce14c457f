"""The signals that a quality score is made of, and the settings that weigh them.

    config = ScoringConfig.from_profile("asm", symbols=("Core/ram.asm",))
    scorers = default_scorers(config)        # ELECTRA, asar, entity, length, and installed plug-ins by name

A new signal is an object with the four members of `Scorer`, offered as an entry point of the group `afs.scorers`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

from afs import plugins
from afs.step import StepError, UsageError, expand
from afs.training.entities import SymbolTable, coverage

ABSENT = math.nan


class ScoringError(UsageError):
    """Settings that cannot be scored with; the message names the value and the rule."""


# --- settings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoringWeights:
    """Weights of the signals, 0 or more; only their ratios matter. `more` weighs plug-in scorers by name."""

    electra: float = 0.4
    asar: float = 0.3
    entity: float = 0.2
    length: float = 0.1
    more: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "more", tuple(dict(self.more).items()))
        for name, weight in self.to_dict().items():
            if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
                raise ScoringError(f"weight of {name!r} must be a number of 0 or more, not {weight!r}")
        if not any(self.to_dict().values()):
            raise ScoringError("all weights are 0; give at least one signal a positive weight")

    def to_dict(self) -> dict[str, float]:
        """Signal name -> weight, the four own ones first."""
        own = {"electra": self.electra, "asar": self.asar, "entity": self.entity, "length": self.length}
        return {**own, **dict(self.more)}

    @classmethod
    def from_dict(cls, weights: dict[str, float]) -> ScoringWeights:
        """Weights by signal name; names besides the four are plug-ins. Signals that are not named keep their weight."""
        own = {name: weights[name] for name in OWN if name in weights}
        return cls(**own, more=tuple((name, w) for name, w in weights.items() if name not in OWN))

    def normalize(self) -> ScoringWeights:
        """The same ratios with the sum 1."""
        whole = math.fsum(self.to_dict().values())
        return self.from_dict({name: weight / whole for name, weight in self.to_dict().items()})


OWN = ("electra", "asar", "entity", "length")


@dataclass(frozen=True)
class ScoringConfig:
    """What decides a score.

    Attributes:
        min_output_length, ideal_output_length, max_output_length: characters of the output.
        electra_model_path: folder of a trained discriminator, None = the signal is absent.
        use_asar, use_electra: False switches a signal off.
        skip_asar_if_no_model: leave asar out when there is no ELECTRA model.
        symbols: files or folders with the project's equates, for the entity signal.
        scorers: names of installed plug-in scorers (entry points `afs.scorers`) to run as well.
        batch_size: samples that a scorer gets at a time.
        device: of models, "auto", "cpu" or "cuda".
    """

    weights: ScoringWeights = field(default_factory=ScoringWeights)
    min_output_length: int = 50
    ideal_output_length: int = 500
    max_output_length: int = 5000
    electra_model_path: Path | str | None = None
    use_asar: bool = True
    use_electra: bool = True
    skip_asar_if_no_model: bool = False
    symbols: tuple[Path | str, ...] = ()
    scorers: tuple[str, ...] = ()
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.weights, dict):
            object.__setattr__(self, "weights", ScoringWeights.from_dict(self.weights))
        if isinstance(self.symbols, str | Path):
            object.__setattr__(self, "symbols", (self.symbols,))
        object.__setattr__(self, "symbols", tuple(self.symbols))
        object.__setattr__(self, "scorers", tuple(self.scorers))
        low, ideal, high = self.min_output_length, self.ideal_output_length, self.max_output_length
        if not 0 <= low <= ideal <= high:
            raise ScoringError(f"lengths must be 0 <= min <= ideal <= max, not {low}, {ideal}, {high}")
        if self.batch_size < 1:
            raise ScoringError(f"batch_size must be 1 or more, not {self.batch_size}")

    @classmethod
    def from_profile(cls, profile: str, **changes: Any) -> ScoringConfig:
        """Settings for a kind of data: "generic" (all signals alike), "dialogue" (length and entity coverage first),
        "asm" (ELECTRA and asar first). `changes` replaces single settings.

        Raises:
            ScoringError: no such profile.
        """
        if profile not in PROFILES:
            close = get_close_matches(profile, PROFILES, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ScoringError(f"no scoring profile {profile!r}; known: {', '.join(PROFILES)}{hint}")
        return cls(**{**PROFILES[profile], **changes})

    @classmethod
    def from_flags(cls, profile: str | None = None, weights: dict[str, float] | None = None, **settings: Any) -> Self:
        """Settings as a command line gives them: a profile (default: the four default weights), single weights over
        it, and settings of which None means "not given".

        Raises:
            ScoringError: no such profile, or a value that breaks its rule.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        made = cls(**given) if profile is None else cls.from_profile(profile, **given)
        if not weights:
            return made
        return replace(made, weights=ScoringWeights.from_dict({**made.weights.to_dict(), **weights}))

    def to_dict(self) -> dict[str, Any]:
        """JSON values of everything that decides a score (not batch_size and device, which do not)."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("batch_size", "device")}
        found["weights"] = self.weights.to_dict()
        found["symbols"] = [str(path) for path in self.symbols]
        found["scorers"] = list(self.scorers)
        found["electra_model_path"] = None if self.electra_model_path is None else str(self.electra_model_path)
        return found


PROFILES: dict[str, dict[str, Any]] = {
    "generic": {"weights": ScoringWeights(0.25, 0.25, 0.25, 0.25)},
    # Answers in a dialogue are shorter.
    "dialogue": {"weights": ScoringWeights(0.1, 0.0, 0.4, 0.5),
                 "min_output_length": 20, "ideal_output_length": 200, "max_output_length": 2000},
    "asm": {"weights": ScoringWeights(0.45, 0.4, 0.1, 0.05)},
}  # fmt: skip


# --- signals --------------------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """What a scorer sees of a sample."""

    instruction: str
    output: str
    input: str = ""
    domain: str = "general"
    source: str = "augmented"


class Values(NamedTuple):
    """A scorer's answer for a batch: a value from 0 to 1 per item, nan with a reason where it does not apply."""

    values: list[float]
    why: list[str]


@runtime_checkable
class Scorer(Protocol):
    """One signal. Entry points of the group `afs.scorers` are callables that take the ScoringConfig and give one.

    A scorer that is named like one of the four signals takes its place.

    Attributes:
        name: lower-case, the key of its weight.
        version: changes whenever the same sample may get another value; of a model it holds the weights' hash.
        needs: fields of `Item` that decide the value.
    """

    name: str
    version: str
    needs: tuple[str, ...]

    def missing(self) -> str:
        """Why the signal cannot run at all here and what to do about it; "" when it can."""

    def score(self, batch: Sequence[Item]) -> Values:
        """Values of a batch. Never called while something is missing."""


@dataclass(frozen=True)
class LengthScorer:
    """Characters of the output against what is ideal (refinery rules §2)."""

    low: int
    ideal: int
    high: int
    name = "length"
    version = "1"
    needs = ("output",)

    def missing(self) -> str:
        return ""

    def score(self, batch: Sequence[Item]) -> Values:
        return Values([length_score(len(i.output), self.low, self.ideal, self.high) for i in batch], [""] * len(batch))


def length_score(n: int, low: int, ideal: int, high: int) -> float:
    """0 to 0.5 below `low`, 0.5 to 1 up to `ideal`, 1 to 0.7 up to `high`, 0.5 beyond."""
    if n < low:
        return n / low * 0.5
    if n <= ideal:
        return 1.0 if n == ideal else 0.5 + 0.5 * (n - low) / (ideal - low)
    return 1 - 0.3 * (n - ideal) / (high - ideal) if n <= high else 0.5


@dataclass(frozen=True)
class EntityScorer:
    """Share of the addresses in the output's assembly that are known (afs.training.entities)."""

    symbols: SymbolTable
    name = "entity"
    version = "1"
    needs = ("output",)

    def missing(self) -> str:
        return ""

    def score(self, batch: Sequence[Item]) -> Values:
        values = [coverage(item.output, self.symbols).share for item in batch]
        return Values(values, ["" if v == v else NO_ADDRESSES for v in values])


NO_ADDRESSES = "not applicable: no 65816 instruction in the output names an address"


@dataclass(frozen=True)
class AbsentScorer:
    """A signal that cannot run here; it only knows why."""

    name: str
    reason: str
    version = "0"
    needs = ()

    def missing(self) -> str:
        return self.reason

    def score(self, batch: Sequence[Item]) -> Values:
        raise StepError(f"{self.name} cannot score: {self.reason}")


def _electra(config: ScoringConfig) -> Scorer:
    if not config.use_electra:
        return AbsentScorer("electra", "switched off")
    if config.electra_model_path is None:
        return AbsentScorer("electra", "no ELECTRA model: train one with `afs discriminator train`")
    path = expand(config.electra_model_path)
    if not path.exists():
        raise ScoringError(f"ELECTRA model {path} does not exist; train one with `afs discriminator train`")
    found = _plugin("electra", config)
    if found is None:
        from afs.discriminator import electra_scorer

        found = electra_scorer(config)
    return found


def _asar(config: ScoringConfig) -> Scorer:
    if not config.use_asar:
        return AbsentScorer("asar", "switched off")
    if config.skip_asar_if_no_model and config.electra_model_path is None:
        return AbsentScorer("asar", "left out because there is no ELECTRA model (skip_asar_if_no_model)")
    found = _plugin("asar", config)
    if found is None:
        from afs.training.asar import asar_scorer

        found = asar_scorer(config)
    return found


def _plugin(name: str, config: ScoringConfig) -> Scorer | None:
    """The installed plug-in of this name, None when there is none."""
    if name not in plugins.names("afs.scorers"):
        return None
    made = plugins.load("afs.scorers", name)(config)
    if not isinstance(made, Scorer) or made.name != name:
        raise ScoringError(f"plug-in {name!r} in afs.scorers gives no scorer of that name (see afs.training.scoring)")
    return made


def default_scorers(config: ScoringConfig) -> list[Scorer]:
    """The four signals and the plug-ins that the config names.

    Raises:
        ScoringError: the model or a symbol file does not exist, or a plug-in is not installed.
    """
    try:
        symbols = SymbolTable.load(config.symbols)
    except (OSError, ValueError) as error:
        raise ScoringError(str(error)) from error
    lengths = config.min_output_length, config.ideal_output_length, config.max_output_length
    found: list[Scorer] = [_electra(config), _asar(config), EntityScorer(symbols), LengthScorer(*lengths)]
    for name in config.scorers:
        made = _plugin(name, config)
        if made is None:
            have = ", ".join(plugins.names("afs.scorers")) or "none"
            raise ScoringError(f"no plug-in scorer {name!r}; installed: {have}")
        found = [s for s in found if s.name != name] + [made]
    return found

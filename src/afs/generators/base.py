"""The sample that all sources produce, and the contract of a generator.

    class Notes(BaseGenerator):
        def generate(self) -> Iterator[TrainingSample]: ...

    Notes().write(Path("notes.jsonl"))
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

from afs.jsonl import AtomicWriter, BadRow, Quarantine, read_rows


class SampleError(ValueError):
    """A row that is no `TrainingSample`; the message names the field, the rule and, where known, the line."""


_CANONICAL = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def content_id(*parts: Any) -> str:
    """16 hex digits of the SHA-256 of the parts as JSON: equal content gives equal ids on every machine."""
    return hashlib.sha256(_CANONICAL.encode(parts).encode()).hexdigest()[:16]


@dataclass
class TrainingSample:
    """One instruction and its answer, with where it came from.

    `sample_id` is derived from instruction, input, output and thinking unless it is given. `timestamp` is UTC in ISO
    8601 and empty unless it is given, so that equal sources give equal bytes. Keys that are not fields survive
    `from_dict` and `to_dict` in their place at the top level.

    Attributes:
        quality_score: 0 to 1; 0.0 means not scored yet.
        embedding: vector of any length, or None.
        kg_entities: names of known entities in the text.
        _metadata: anything else as JSON values.
    """

    instruction: str
    output: str
    input: str = ""
    thinking: str | None = None
    domain: str = "general"
    source: str = "augmented"
    sample_id: str = ""
    quality_score: float = 0.0
    embedding: list[float] | None = None
    teacher_model: str = ""
    teacher_prompt: str = ""
    timestamp: str = ""
    kg_entities: list[str] = field(default_factory=list)
    kg_validated: bool = False
    _metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unknown: dict[str, Any] = {}
        if not self.sample_id:
            self.sample_id = content_id(self.instruction, self.input, self.output, self.thinking)

    @property
    def metadata(self) -> dict[str, Any]:
        """The same mapping as `_metadata`."""
        return self._metadata

    def to_dict(self) -> dict[str, Any]:
        """All fields in their order, then the keys that are no fields."""
        found = {name: getattr(self, name) for name in FIELDS}
        found.update(self.unknown)
        return found

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, row: dict[str, Any], line: int | None = None) -> TrainingSample:
        """The sample in a parsed row. `null` stands for a field's default.

        Raises:
            SampleError: a field is missing or has another type; the message holds `line` when it is given.
        """
        where = "" if line is None else f"line {line}: "
        known = {}
        for name, rule in _RULES.items():
            value = row.get(name)
            if value is None:
                if name in ("instruction", "output"):
                    lost = "is null" if name in row else "is missing"
                    raise SampleError(f"{where}{name!r} {lost}; a sample needs the texts 'instruction' and 'output'")
                continue
            if not rule.holds(value):
                raise SampleError(f"{where}{name!r} must be {rule.text}, found {_shown(value)}")
            known[name] = value
        sample = cls(**known)
        sample.unknown = {key: value for key, value in row.items() if key not in _RULES}
        return sample


@dataclass(frozen=True)
class _Rule:
    text: str
    holds: Any


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_TEXT = _Rule("a text", lambda v: isinstance(v, str))
_RULES = {
    **dict.fromkeys(("instruction", "output", "input", "thinking", "domain", "source", "sample_id"), _TEXT),
    "quality_score": _Rule("a finite number", _number),
    "embedding": _Rule("a list of numbers", lambda v: isinstance(v, list) and all(_number(x) for x in v)),
    **dict.fromkeys(("teacher_model", "teacher_prompt", "timestamp"), _TEXT),
    "kg_entities": _Rule("a list of texts", lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v)),
    "kg_validated": _Rule("true or false", lambda v: isinstance(v, bool)),
    "_metadata": _Rule("an object", lambda v: isinstance(v, dict)),
}
FIELDS = tuple(item.name for item in fields(TrainingSample))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


@dataclass
class GenerationResult:
    """What a generator made: samples written, counts per domain, and the files that it could not use, with the reason.
    """

    samples: int = 0
    by_domain: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    skipped: list[tuple[str, str]] = field(default_factory=list)


class BaseGenerator:
    """A source of samples. Subclasses yield `TrainingSample`s from `generate`, in an order that does not change.

    Args:
        name: what the generator is called in `source` and in reports.
        domain: domain of its samples unless they say otherwise.
    """

    def __init__(self, name: str, domain: str = "general") -> None:
        self.name, self.domain = name, domain

    def generate(self) -> Iterator[TrainingSample]:
        """Yield the samples.

        Raises:
            NotImplementedError: the subclass has none.
        """
        raise NotImplementedError(f"{type(self).__name__} must define generate() and yield TrainingSample objects")

    def write(self, path: Path | str, limit: int | None = None) -> GenerationResult:
        """Write the samples (at most `limit`) as JSONL, atomically. Without a sample the file stays as it was."""
        result = GenerationResult()
        samples = islice(self.generate(), limit)
        first = next(samples, None)
        if first is not None:
            with AtomicWriter(Path(path).expanduser()) as out:
                for sample in chain([first], samples):
                    out.write(sample.to_dict())
                    result.samples += 1
                    result.by_domain[sample.domain] = result.by_domain.get(sample.domain, 0) + 1
            result.sha256 = out.sha256
        result.skipped = list(getattr(self, "skipped", ()))
        return result


def iter_samples(path: Path | str, on_bad: Any = None) -> Iterator[TrainingSample]:
    """The samples of a JSONL file. Bad rows go to `on_bad`, or raise when there is none.

    Raises:
        SampleError: a row is bad and `on_bad` is None; the message names file, line and byte.
    """
    path = Path(path).expanduser()

    def refuse(row: BadRow) -> None:
        raise SampleError(f"{row.file}:{row.line} (byte {row.offset}): {row.reason}")

    take = on_bad or refuse
    for row in read_rows(path, take):
        try:
            yield TrainingSample.from_dict(row.value, row.line)
        except SampleError as error:
            take(BadRow(str(path), row.line, row.offset, len(row.raw), str(error), row.raw))


def load_samples(path: Path | str, on_bad: Any = None) -> list[TrainingSample]:
    """All samples of a JSONL file in memory. Bad rows are set aside in `<name>.quarantine.jsonl` beside the file.

    Raises:
        FileNotFoundError: no such file.
        SampleError: not a single row is a sample.
    """
    path = Path(path).expanduser()
    stem = path.name.removesuffix(".gz").removesuffix(".zst").removesuffix(".jsonl")
    with Quarantine(path.with_name(f"{stem}.quarantine.jsonl")) as bad:
        found = list(iter_samples(path, on_bad or bad.add))
        if not found and bad.count:
            raise SampleError(f"none of the {bad.count} rows of {path} is a sample; see {bad.path.name} beside it")
    return found


def write_samples(samples: Iterable[TrainingSample], path: Path | str) -> int:
    """Write samples as JSONL, atomically; returns how many."""
    with AtomicWriter(Path(path).expanduser()) as out:
        for sample in samples:
            out.write(sample.to_dict())
    return out.rows

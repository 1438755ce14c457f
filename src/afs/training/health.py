"""The health and the numbers of data sets: `afs training validate | stats`.

    validate_jsonl("train.jsonl").summary()        # problems by line and byte, counts per reason

Nothing is written, bad rows are counted and named, and memory stays at a few numbers per row.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from afs.generators.base import SampleError, TrainingSample
from afs.jsonl import BadRow, Counts, open_rows, read_rows
from afs.rows import NAME, RowView, family, plain_files, scan, see_value
from afs.step import StepError, UsageError, expand
from afs.training.converters import ConversionError, detect, format_names, to_messages

_LISTED = 1000
_QUANTILES = (0.5, 0.9, 0.99)
_ALIASES = {"sample": "training_sample"}


# --- validate ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One problem of one row. `kind` is what counts are kept of, `reason` the whole sentence."""

    line: int
    offset: int
    kind: str
    reason: str


@dataclass
class ValidationReport:
    """The health of a file.

    Attributes:
        problems: the first 1,000, in order of line; `kinds` counts them all.
        formats: rows per recognised format.
        lengths: characters of question and answer: min, median, p90, p99, max.
    """

    path: Path
    schema: str
    counts: Counts
    encoding: str
    line_ends: str
    formats: dict[str, int]
    kinds: dict[str, int]
    problems: list[Problem]
    lengths: dict[str, dict[str, int]]

    @property
    def ok(self) -> bool:
        """Whether there are rows and none has a problem."""
        return not self.kinds and self.counts.read > 0

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"path": str(self.path), "ok": self.ok, "schema": self.schema, "rows": self.counts.read,
                "blank_lines": self.counts.blank, "encoding": self.encoding, "line_ends": self.line_ends,
                "formats": self.formats, "problem_counts": self.kinds, "problems": [vars(p) for p in self.problems],
                "lengths": self.lengths}  # fmt: skip

    def summary(self, limit: int = 20) -> str:
        """Counts, then the first problems by line and byte."""
        total = sum(self.kinds.values())
        lines = [f"{self.path}: {self.counts.read:,} rows, {total:,} problems ({self.encoding}, {self.line_ends})"]
        if not self.counts.read:
            lines.append("the file holds no row")
        if self.formats:
            lines.append("formats: " + ", ".join(f"{name} {n:,}" for name, n in self.formats.items()))
        for name, found in self.lengths.items():
            lines.append(f"{name}: " + ", ".join(f"{k} {v:,}" for k, v in found.items()) + " characters")
        lines += [f"{n:,} × {kind}" for kind, n in self.kinds.items()]
        lines += [f"{self.path}:{p.line} (byte {p.offset}): {p.reason}" for p in self.problems[:limit]]
        if total > limit:
            lines.append(f"… {total - limit:,} more; --json lists the first {_LISTED:,}")
        return "\n".join(lines)


@dataclass
class _Checker:
    schema: str
    kinds: Counter = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    formats: Counter = field(default_factory=Counter)
    ids: array = field(default_factory=lambda: array("Q"))
    places: array = field(default_factory=lambda: array("Q"))
    asked: array = field(default_factory=lambda: array("I"))
    said: array = field(default_factory=lambda: array("I"))

    def problem(self, line: int, offset: int, kind: str, reason: str) -> None:
        self.kinds[kind] += 1
        if len(self.problems) < _LISTED:
            self.problems.append(Problem(line, offset, kind, reason))

    def bad(self, row: BadRow) -> None:
        self.problem(row.line, row.offset, row.reason.partition(":")[0].partition(" at ")[0], row.reason)

    def row(self, line: int, offset: int, row: dict[str, Any]) -> None:
        form = detect(row)
        self.formats[form or "unknown"] += 1
        view = see_value(row)
        if isinstance(view, str):
            return self.problem(line, offset, view.partition(":")[0], view)
        if self.schema != "auto" and form != self.schema:
            self.problem(line, offset, f"not {self.schema}", f"the row is {form}, not {self.schema}")
        reason = _unusable(row, form)
        if reason:
            self.problem(line, offset, f"not usable as {form}", reason)
        if not view.output.strip():
            self.problem(line, offset, "empty answer", "the answer is empty: there is nothing to learn from it")
        score = view.quality_score
        if score is not None and not 0 <= score <= 1:
            self.problem(line, offset, "quality_score out of range", f"quality_score is {score}; it must be 0 to 1")
        if view.sample_id:
            self.ids.append(hash64(view.sample_id.encode()))
            self.places.append(line)
            self.places.append(offset)
        self.asked.append(len(view.instruction) + len(view.input or ""))
        self.said.append(len(view.output))

    def repeated(self) -> None:
        """Rows whose sample_id an earlier row has."""
        ids = np.frombuffer(self.ids, "u8") if self.ids else np.zeros(0, "u8")
        if not len(ids):
            return
        # Stable: the first row of an id comes first and is no problem.
        order = np.argsort(ids, kind="stable")
        again = np.sort(order[1:][ids[order[1:]] == ids[order[:-1]]])
        self.kinds["repeated sample_id"] += len(again)
        for at in again[:_LISTED].tolist():
            self.problems.append(Problem(self.places[2 * at], self.places[2 * at + 1], "repeated sample_id",
                                         "an earlier row has the same sample_id"))  # fmt: skip
        self.problems = sorted(self.problems, key=lambda p: p.line)[:_LISTED]


def _unusable(row: dict[str, Any], form: str | None) -> str:
    try:
        if form in ("training_sample", "alpaca"):
            TrainingSample.from_dict(row)
        elif form is not None and form not in ("preference", "openai") and not to_messages(row, form)["messages"]:
            return "the conversation has no message"
    except (SampleError, ConversionError) as error:
        return str(error)
    return ""


def validate_jsonl(path: Path | str, schema: str = "auto") -> ValidationReport:
    """Check every row of a JSONL file: text, JSON, format, types, empty answers, scores, repeated ids.

    Args:
        schema: the format that every row must have ("sample", "messages", "sharegpt", …), or "auto" for any.

    Raises:
        UsageError: no such file or schema.
    """
    path = existing_file(path)
    schema = _ALIASES.get(schema, schema)
    if schema != "auto" and schema not in format_names():
        near = get_close_matches(schema, format_names(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: auto, {', '.join(format_names())}"
        raise UsageError(f"no schema {schema!r}; {hint}")
    checker, counts = _Checker(schema), Counts()
    for row in read_rows(path, checker.bad, counts):
        checker.row(row.line, row.offset, row.value)
    checker.repeated()
    lengths = {"question": _lengths(checker.asked), "answer": _lengths(checker.said)} if checker.said else {}
    encoding, line_ends = _text_of(path)
    kinds = {kind: n for kind, n in checker.kinds.most_common() if n}
    return ValidationReport(path, schema, counts, encoding, line_ends, dict(checker.formats.most_common()), kinds,
                            checker.problems, lengths)  # fmt: skip


def _text_of(path: Path) -> tuple[str, str]:
    with open_rows(path) as source:
        head = source.read(1 << 16)
    encoding = "UTF-8 with byte-order mark" if head.startswith(b"\xef\xbb\xbf") else "UTF-8"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or head[:512].count(0) > len(head[:512]) // 4:
        encoding = "UTF-16 or binary"
    return encoding, "CRLF" if b"\r\n" in head else "LF"


def _lengths(values: Sequence[int] | np.ndarray) -> dict[str, int]:
    found = np.frombuffer(values, "u4") if isinstance(values, array) else np.asarray(values)
    middle = np.quantile(found, _QUANTILES, method="lower").tolist()
    return {"min": int(found.min()), "median": int(middle[0]), "p90": int(middle[1]), "p99": int(middle[2]),
            "max": int(found.max())}  # fmt: skip


def hash64(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def existing_file(path: Path | str) -> Path:
    path = expand(path)
    if not path.is_file():
        raise UsageError(f"{path} is no file; name a .jsonl file")
    return path


# --- stats ------------------------------------------------------------------------------------------------------------


@dataclass
class Stats:
    """Numbers of one or more files.

    Attributes:
        quality: rows per tenth of quality_score; the last bin holds 1.0. Rows without a score (or 0.0) are `unscored`.
        repeated: rows whose question and answer an earlier row has.
        bad: bad rows per reason.
    """

    files: list[dict[str, Any]]
    rows: int
    bytes: int
    domains: dict[str, int]
    sources: dict[str, int]
    quality: dict[str, int]
    unscored: int
    out_of_range: int
    lengths: dict[str, dict[str, int]]
    with_thinking: int
    repeated: int
    bad: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return vars(self)

    def summary(self) -> str:
        """A few lines for a person; long lists are cut at 12."""
        lines = [f"{f['path']}: {f['rows']:,} rows, {f['bytes']:,} bytes" for f in self.files]
        lines.append(f"{self.rows:,} rows, {self.bytes:,} bytes, {self.with_thinking:,} with thinking, "
                     f"{self.repeated:,} repeat an earlier row")  # fmt: skip
        for title, found in (("domains", self.domains), ("sources", self.sources), ("bad rows", self.bad)):
            if found:
                top = sorted(found.items(), key=lambda item: (-item[1], item[0]))
                more = f", … {len(top) - 12} more" if len(top) > 12 else ""
                lines.append(f"{title}: " + ", ".join(f"{name} {n:,}" for name, n in top[:12]) + more)
        lines += [f"{name}: " + ", ".join(f"{k} {v:,}" for k, v in found.items()) + " characters"
                  for name, found in self.lengths.items()]  # fmt: skip
        most = max(self.quality.values(), default=0)
        if most:
            lines += [f"quality {name}  {'█' * round(30 * n / most):<30} {n:,}" for name, n in self.quality.items()]
        outside = f", out of 0–1: {self.out_of_range:,}" if self.out_of_range else ""
        lines.append(f"unscored: {self.unscored:,}{outside}")
        return "\n".join(lines)


def _stat_columns(view: RowView, _raw: bytes) -> tuple:
    score = view.quality_score
    text = f"{view.instruction}\0{view.input or ''}\0{view.output}"
    return (view.domain or "general", family(view.source), float("nan") if score is None else score,
            len(view.instruction) + len(view.input or ""), len(view.output), bool(view.thinking),
            hash64(text.encode()))  # fmt: skip


def dataset_stats(paths: Sequence[Path | str] | Path | str, workers: int = 1) -> Stats:
    """Numbers of JSONL files together.

    Raises:
        UsageError: a file is missing.
        StepError: not a single row can be read.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    files = [existing_file(path) for path in paths]
    bad: Counter = Counter()
    with plain_files(files) as plain:
        index = scan(plain, {"domain": NAME, "source": NAME, "quality": "f4", "asked": "u4", "said": "u4",
                             "thinking": "?", "content": "u8"}, _stat_columns, names=[str(f) for f in files],
                     on_bad=lambda row: bad.update([row.reason.partition(":")[0]]), workers=workers)  # fmt: skip
    if not len(index):
        raise StepError(f"no row of {', '.join(map(str, files))} can be read; `afs training validate` says why")
    columns = index.columns
    quality = columns["quality"]
    inside = (quality > 0) & (quality <= 1)
    # Tenths as integers: 0.3 as a 4-byte float lies a little above 0.3 and must not fall into the bin before.
    bins = np.minimum(np.floor(quality[inside].astype("f8") * 10 + 1e-6).astype(int), 9)
    tenths = np.bincount(bins, minlength=10).tolist()
    unscored = int((np.isnan(quality) | (quality == 0)).sum())
    return Stats(
        [{"path": str(f), "rows": c.read - c.quarantined, "bytes": f.stat().st_size}
         for f, c in zip(files, index.counts_by_file, strict=True)],
        len(index), sum(f.stat().st_size for f in files), index.tally("domain"), index.tally("source"),
        {f"{n / 10:.1f}–{(n + 1) / 10:.1f}": count for n, count in enumerate(tenths)}, unscored,
        len(index) - unscored - int(inside.sum()),
        {"question": _lengths(columns["asked"]), "answer": _lengths(columns["said"])},
        int(columns["thinking"].sum()), len(index) - len(np.unique(columns["content"])), dict(bad.most_common()),
    )  # fmt: skip

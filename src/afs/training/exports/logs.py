"""Finding and reading log files: nothing outside the root, nothing lost silently, redaction before anything else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from afs.jsonl import BadRow, diagnose, lines, open_rows
from afs.training.redaction import Redactor, whole_letters, without_cut_word

_BATCH = 1 << 18
MAX_LINE = 32 * 1024 * 1024
"""Longest line of a log; reading holds about twice as much, and an export stays below 150 MB."""
NO_FILE = "no plain file (a pipe, socket or device)"
# Fates of a record; each is counted under exactly one.
USED, JOINED, CONTEXT, SKIPPED, DUPLICATE, UNKNOWN, BAD = (
    "used", "joined", "context", "skipped", "duplicate", "unknown", "bad")  # fmt: skip
FATES = (USED, JOINED, CONTEXT, SKIPPED, DUPLICATE, UNKNOWN, BAD)


class Found(NamedTuple):
    """A log file: where it lies and its path below the root, with `/`."""

    path: Path
    name: str
    root: Path


@dataclass
class Coverage:
    """Records by type and fate, files that could not be used, and why turns were left out."""

    records: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[dict[str, str]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def count(self, kind: str, fate: str, n: int = 1) -> None:
        row = self.records.setdefault(kind, {})
        row[fate] = row.get(fate, 0) + n

    def file(self, kind: str) -> None:
        self.files[kind] = self.files.get(kind, 0) + 1

    def problem(self, path: Path | str, reason: str) -> None:
        """A file or folder that is left out, by name."""
        self.problems.append({"path": str(path), "reason": reason})

    def total(self, fate: str) -> int:
        return sum(row.get(fate, 0) for row in self.records.values())

    def to_dict(self) -> dict[str, Any]:
        return {"records": {k: dict(sorted(v.items())) for k, v in sorted(self.records.items())},
                "files": dict(sorted(self.files.items())), "left_out": dict(sorted(self.left_out.items())),
                "problems": sorted(self.problems, key=lambda p: (p["path"], p["reason"]))}  # fmt: skip

    def table(self) -> str:
        """The records as a table, one line per type."""
        used = [fate for fate in FATES if self.total(fate)]
        if not used:
            return "no records"
        width = max(len(kind) for kind in self.records) + 2
        found = ["record".ljust(width) + "".join(fate.rjust(11) for fate in used)]
        for kind, row in sorted(self.records.items()):
            found.append(kind.ljust(width) + "".join(f"{row.get(fate, 0):>11,}" for fate in used))
        return "\n".join(found)


def walk(root: Path, wanted: Callable[[str], bool], coverage: Coverage, max_depth: int = 12) -> list[Found]:
    """Files below `root` whose name below it is `wanted`, sorted by that name.

    Links are followed only inside the root; a link out of it, a loop and a folder that cannot be read are problems.
    """
    try:
        top = root.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        coverage.problem(root, f"cannot be opened: {error}")
        return []
    found: list[Found] = []
    stack: list[tuple[Path, str, tuple[str, ...]]] = [(top, "", (str(top),))]
    while stack:
        folder, name, above = stack.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except OSError as error:
            coverage.problem(folder, f"folder cannot be read: {error.strerror or error}")
            continue
        for entry in entries:
            below = f"{name}/{entry.name}" if name else entry.name
            if entry.is_dir(follow_symlinks=False):
                if len(above) <= max_depth:
                    stack.append((Path(entry.path), below, (*above, entry.path)))
                else:
                    coverage.problem(entry.path, f"more than {max_depth} folders deep; it is not searched")
                continue
            if not entry.is_symlink():
                if not wanted(below):
                    continue
                if entry.is_file(follow_symlinks=False):
                    found.append(Found(Path(entry.path), below, top))
                else:
                    coverage.problem(entry.path, NO_FILE)
                continue
            _follow(entry, below, above, top, wanted, coverage, found, stack, max_depth)
    return sorted(found, key=lambda f: f.name)


def _follow(entry, below, above, top, wanted, coverage, found, stack, max_depth) -> None:
    """A symbolic link: taken when it stays inside the root and leads to no folder that holds it."""
    try:
        target = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        coverage.problem(entry.path, f"link leads nowhere or in a loop: {error}")
        return
    if target != top and top not in target.parents:
        if target.is_dir() or wanted(below):
            coverage.problem(entry.path, "link leads out of the root; it is not followed")
        return
    if target.is_dir():
        if str(target) in above or any(str(target) == str(Path(a).resolve()) for a in above):
            coverage.problem(entry.path, "link leads in a loop")
        else:
            # The real folder lies inside the root and is visited there.
            coverage.file("link inside the root")
    elif wanted(below):
        if not target.is_file():
            coverage.problem(entry.path, NO_FILE)
            return
        coverage.file("link inside the root")
        if not wanted(target.relative_to(top).as_posix()):
            # Under its own name the file would not be read.
            found.append(Found(target, below, top))


def readable(found: list[Found], coverage: Coverage, *, binary: bool = False) -> list[Found]:
    """The files that can be opened and are no binary data; the others are problems."""
    kept = []
    for item in found:
        try:
            with open(item.path, "rb") as source:
                head = source.read(4096)
        except OSError as error:
            coverage.problem(item.path, f"file cannot be read: {error.strerror or error}")
            continue
        if not binary and item.path.suffix not in (".zst", ".gz") and b"\0" in head:
            coverage.problem(item.path, "binary file, not a log")
            continue
        kept.append(item)
    return kept


class Record(NamedTuple):
    """One parsed line: 1-based line number and the (redacted) object."""

    line: int
    value: dict[str, Any]


@dataclass
class LogReader:
    """Reads logs line by line. Redaction comes first: nothing that is not redacted leaves this class.

    Attributes:
        redactor: None with `--no-redact`.
        on_bad: takes lines that cannot be used (already redacted).
    """

    redactor: Redactor | None
    on_bad: Callable[[BadRow], None]
    coverage: Coverage
    max_line: int = MAX_LINE
    _names: Redactor | None = None

    def name(self, text: str) -> str:
        """A file name as it may leave, numbered by itself: it does not shift the numbers of the file's content."""
        if self.redactor is None:
            return text
        if self._names is None:
            self._names = Redactor(custom=self.redactor.custom)
        self._names.begin()
        return self._names.redact_name(text)

    def begin(self) -> None:
        """A new file: numbers of placeholders start anew, so that a file's rows do not depend on other files."""
        if self.redactor:
            self.redactor.begin()

    def clean(self, value: Any) -> Any:
        """A value from elsewhere than a log line (a row of a database, a whole JSON file)."""
        return self.redactor.redact(value) if self.redactor else value

    def take(self, found: Found, line: int, value: Any, function: Callable[[], Any]) -> Any:
        """What `function` makes of a record; a record of another shape than the format's goes to the quarantine.

        The vendors change their formats without notice, so a text may be where a list was: one such record must not
        end the export of all others.
        """
        try:
            return function()
        except (TypeError, AttributeError, KeyError, ValueError, RecursionError) as error:
            try:
                raw = orjson.dumps(value, default=str)
            except TypeError:  # nested deeper than 254 levels; file and line find it
                raw = b""
            self.coverage.count("(line)", BAD)
            reason = f"not the shape of this format: {type(error).__name__}: {error}"
            self.on_bad(BadRow(self.name(found.name), line, 0, len(raw), reason, raw))
            return None

    def records(self, found: Found) -> Iterator[Record]:
        """The objects of a `.jsonl`, `.jsonl.gz` or `.jsonl.zst` file; other lines go to the quarantine."""
        self.begin()
        try:
            with open_rows(found.path) as source:
                waiting: list[tuple[int, int, int, bytes]] = []
                size = 0
                for item in lines(source, self.max_line):
                    if not item[3] or item[3].isspace():
                        continue
                    waiting.append(item)
                    size += len(item[3])
                    if size >= _BATCH:
                        yield from self._parsed(found, waiting)
                        waiting, size = [], 0
                yield from self._parsed(found, waiting, last=True)
        except (OSError, EOFError, _zstd_error()) as error:
            self.coverage.problem(found.path, f"reading stopped: {error}")

    def _parsed(self, found: Found, batch: list[tuple[int, int, int, bytes]], last: bool = False) -> Iterator[Record]:
        raws = [item[3] for item in batch]
        if self.redactor:
            raws = self.redactor.redact_lines(raws)
        for (line, offset, length, original), raw in zip(batch, raws, strict=True):
            if length > self.max_line:
                reason = f"over-long: {length} bytes, the limit is {self.max_line}"
                raw = without_cut_word(raw) if self.redactor else raw
            else:
                try:
                    value = orjson.loads(raw)
                except orjson.JSONDecodeError:
                    value = mend(raw)
                if isinstance(value, dict):
                    yield Record(line, value)
                    continue
                reason = diagnose(raw)
                if last and original is batch[-1][3]:
                    reason += "; it is the last line, perhaps still being written"
            self.coverage.count("(line)", BAD)
            size = len(raw) if length <= self.max_line else length
            self.on_bad(BadRow(self.name(found.name), line, offset, size, reason, raw))


def mend(raw: bytes) -> Any:
    """JSON that only its lone surrogates keep from being read; None for anything else."""
    if b"\\u" not in raw:
        return None
    try:
        return json.loads(whole_letters(json.dumps(json.loads(raw), ensure_ascii=False)))
    except (ValueError, RecursionError):
        return None


def _zstd_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError


_TIME = re.compile(rb'"timestamp" ?: ?"([^"]{10,40})"')


def time_span(path: Path, size: int = 1 << 16) -> tuple[str, str]:
    """(first, last) timestamp in the head and the tail of a log, "" where there is none."""
    with open(path, "rb") as source:
        head = source.read(size)
        source.seek(max(0, os.fstat(source.fileno()).st_size - size))
        tail = source.read(size)
    first, last = _TIME.search(head), _TIME.findall(tail)
    return first[1].decode("ascii", "replace") if first else "", max(last).decode("ascii", "replace") if last else ""


def expand_roots(roots: list[Path | str] | None, defaults: list[Path], scan: list[Path | str] | None, folder: str,
                 max_depth: int, coverage: Coverage) -> list[Path]:
    """The roots to read: those given, else the defaults that exist; plus every `folder` found below the scan roots."""
    found = [Path(r).expanduser() for r in roots] if roots else [d.expanduser() for d in defaults]
    kept = []
    for root in found:
        if root.is_dir():
            kept.append(root)
        elif roots:
            coverage.problem(root, "root does not exist or is no folder")
    for start in scan or []:
        kept += _scan(Path(start).expanduser(), folder, max_depth, coverage)
    unique = {root.resolve(): root for root in kept}
    return [unique[key] for key in sorted(unique)]


def _scan(start: Path, folder: str, max_depth: int, coverage: Coverage) -> list[Path]:
    """Folders of that name at most `max_depth` below; links are not followed."""
    found, stack = [], [(start, 0)]
    while stack:
        here, depth = stack.pop()
        try:
            entries = [e for e in os.scandir(here) if e.is_dir(follow_symlinks=False)]
        except OSError as error:
            coverage.problem(here, f"folder cannot be read: {error.strerror or error}")
            continue
        for entry in entries:
            if entry.name == folder:
                found.append(Path(entry.path))
            elif depth + 1 < max_depth and entry.name not in ("node_modules", ".git", ".venv", "__pycache__"):
                stack.append((Path(entry.path), depth + 1))
    return found

"""JSONL in and out: a streaming reader with quarantine, an atomic writer, and counts that must balance.

Every line of a file ends in exactly one of out / filtered / duplicate / quarantined, named by file, line and byte
offset. Memory stays flat: one line is held at a time, and a line over the limit is never held whole.

    with AtomicWriter("clean.jsonl") as out, Quarantine("clean.quarantine.jsonl") as bad:
        for row in read_rows("raw.jsonl", on_bad=bad.add):
            out.write_raw(row.raw)          # unchanged rows travel byte for byte
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

MAX_LINE = 64 * 1024 * 1024
KEPT_OF_OVERLONG = 4096
"""Bytes of an over-long line that a quarantine record holds; file, offset and length find the rest."""
_CHUNK = 1 << 20
_UTF8_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = {b"\xff\xfe": "UTF-16 (little endian)", b"\xfe\xff": "UTF-16 (big endian)"}


class ConservationError(RuntimeError):
    """Rows went missing or were counted twice; the run must not be trusted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One good row: 1-based line, byte offset of its first byte, its bytes without the line end, its value."""

    line: int
    offset: int
    raw: bytes
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that cannot be used. `raw` is the original bytes; of an over-long line the first 4,096 of `length`."""

    file: str
    line: int
    offset: int
    length: int
    reason: str
    raw: bytes

    def to_dict(self) -> dict[str, Any]:
        """A quarantine record; bytes that are not UTF-8 travel as base64, so that nothing is lost."""
        record: dict[str, Any] = {"file": self.file, "line": self.line, "offset": self.offset, "length": self.length,
                                  "reason": self.reason}  # fmt: skip
        if len(self.raw) < self.length:
            record["truncated"] = True
        try:
            record["raw"] = self.raw.decode("utf-8")
        except UnicodeDecodeError:
            record["raw_base64"] = base64.b64encode(self.raw).decode("ascii")
        return record


def original_bytes(record: dict[str, Any]) -> bytes:
    """The bytes of a quarantine record (the inverse of `BadRow.to_dict`)."""
    if "raw_base64" in record:
        return base64.b64decode(record["raw_base64"])
    return record["raw"].encode("utf-8")


@dataclass
class Counts:
    """Where the rows of a run went. `blank` counts empty lines, which are no rows."""

    read: int = 0
    out: int = 0
    filtered: int = 0
    duplicates: int = 0
    quarantined: int = 0
    blank: int = 0

    def check(self) -> None:
        """Raises ConservationError unless out + filtered + duplicates + quarantined == read."""
        total = self.out + self.filtered + self.duplicates + self.quarantined
        if total != self.read:
            raise ConservationError(
                f"{self.read} rows were read but {total} accounted for (out {self.out}, filtered {self.filtered}, "
                f"duplicates {self.duplicates}, quarantined {self.quarantined}); discard the output and report a bug"
            )


def diagnose(raw: bytes) -> str:
    """Why these bytes are no JSON object, in words a person can act on. Call it only after parsing failed."""
    if raw[:2] in _WIDE_MARKS:
        return f"text is {_WIDE_MARKS[raw[:2]]}, not UTF-8: save the file as UTF-8"
    if b"\0" in raw:
        # ASCII text in UTF-16 has a NUL in every second place.
        if raw[1::2].count(0) > len(raw) // 4 or raw[::2].count(0) > len(raw) // 4:
            return "NUL bytes in every second place: the text is UTF-16, save the file as UTF-8"
        return "NUL byte: binary data, not text"
    if raw.startswith(_UTF8_MARK):
        return "byte-order mark inside the file: files were joined, remove the mark before this row"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"invalid UTF-8 at byte {error.start} of the row (0x{raw[error.start]:02x}): save the file as UTF-8"
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return f"bad JSON: {error.msg} at character {error.pos}"
    return f"not an object: a row must be {{…}}, found {_json_type(value)}"


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true/false", list: "a list", str: "a string"}
    return names.get(type(value), "a number")


def parse_row(raw: bytes) -> dict[str, Any] | str:
    """The object in `raw`, or the reason why there is none."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return diagnose(raw)
    return value if isinstance(value, dict) else diagnose(raw)


def read_rows(
    path: Path | str,
    on_bad: Callable[[BadRow], None],
    counts: Counts | None = None,
    max_line: int = MAX_LINE,
    name: str | None = None,
) -> Iterator[Row]:
    """Yield the good rows of a JSONL file in order; every other row goes to `on_bad` and is counted as quarantined.

    Line ends may be LF or CRLF; the last line may lack one; lines of white space only are no rows. A UTF-8 byte-order
    mark at the very start of the file is skipped (offsets count it).

    Args:
        counts: `read`, `blank` and `quarantined` are counted here; the caller counts the other fates.
        max_line: longest row in bytes.
        name: file name for the quarantine records, default the path as given.

    Raises:
        OSError: the file cannot be read.
    """
    counts = counts if counts is not None else Counts()
    name = str(path) if name is None else name
    with open(path, "rb") as source:
        for line, offset, length, raw in _lines(source, max_line):
            if not raw.strip(b" \t\r\n"):
                counts.blank += 1
                continue
            counts.read += 1
            if length > max_line:
                value: dict[str, Any] | str = f"over-long: {length} bytes, the limit is {max_line}"
            else:
                value = parse_row(raw)
            if isinstance(value, str):
                counts.quarantined += 1
                on_bad(BadRow(name, line, offset, length, value, raw))
            else:
                yield Row(line, offset, raw, value)


def _lines(source: BinaryIO, max_line: int) -> Iterator[tuple[int, int, int, bytes]]:
    """(line number, offset, length, bytes without line end); of an over-long line only the first 4,096 bytes."""
    number = offset = 0
    while True:
        # +2 leaves room for a CRLF after a line of exactly max_line bytes.
        taken = source.readline(max_line + 2)
        if not taken:
            return
        number += 1
        start, mark = offset, 3 if number == 1 and taken.startswith(_UTF8_MARK) else 0
        tail, length = taken[-2:], len(taken)
        if not taken.endswith(b"\n"):
            tail, length = _skip_line(source, tail, length)
        end = 2 if tail == b"\r\n" else 1 if tail.endswith(b"\n") else 0
        size = length - mark - end
        content = taken[mark : mark + (size if size <= max_line else min(size, KEPT_OF_OVERLONG))]
        offset += length
        yield number, start + mark, size, content


def _skip_line(source: BinaryIO, tail: bytes, length: int) -> tuple[bytes, int]:
    """Read on to the line's end in pieces; returns the line's last two bytes and its length with the line end."""
    while not tail.endswith(b"\n"):
        piece = source.readline(_CHUNK)
        if not piece:
            break
        tail, length = (tail + piece[-2:])[-2:], length + len(piece)
    return tail, length


class AtomicWriter:
    """A file that appears whole or not at all: written under a temporary name, fsynced, renamed (house rule 4).

    Attributes after the block: `rows`, `bytes`, `sha256`. Leaving the block by an exception removes the temporary file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.rows = 0
        self.bytes = 0
        self._hash = hashlib.sha256()
        # A leading dot: the inbox and every reader of a folder ignore it.
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def __enter__(self) -> AtomicWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._temporary, "wb")  # noqa: SIM115 - closed in __exit__
        return self

    def write_raw(self, raw: bytes) -> None:
        """One row as it is, with a line feed."""
        self._file.write(raw)
        self._file.write(b"\n")
        self._hash.update(raw)
        self._hash.update(b"\n")
        self.rows += 1
        self.bytes += len(raw) + 1

    def write(self, row: dict[str, Any]) -> None:
        """One row as compact UTF-8 JSON, keys in the order given."""
        self.write_raw(orjson.dumps(row))

    @property
    def sha256(self) -> str:
        """Hex digest of all bytes written."""
        return self._hash.hexdigest()

    def __exit__(self, kind, _error, _trace) -> None:
        if kind is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)


class Quarantine:
    """Collects records of rejected rows in a JSONL file, which is made only when there is one (then atomically)."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.count = 0
        self._writer: AtomicWriter | None = None

    def __enter__(self) -> Quarantine:
        return self

    def add(self, row: BadRow, **more: Any) -> None:
        """Append a record; `more` adds keys, for example the row's fate."""
        if self._writer is None:
            self._writer = AtomicWriter(self.path)
            self._writer.__enter__()
        self._writer.write({**row.to_dict(), **more})
        self.count += 1

    def __exit__(self, kind, error, trace) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)


def write_rows(path: Path | str, rows: Iterator[dict[str, Any]]) -> tuple[int, str]:
    """Write rows atomically; returns (rows, sha256)."""
    with AtomicWriter(path) as out:
        for row in rows:
            out.write(row)
    return out.rows, out.sha256


def file_sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable (needed on Linux after a power cut)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

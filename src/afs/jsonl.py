"""JSONL in and out: a streaming reader with quarantine, an atomic writer, and counts that must balance.

Every line of a file ends in exactly one of out / filtered / duplicate / quarantined, named by file, line and byte
offset. Memory stays flat: one line is held at a time, and a line over the limit is never held whole. `.gz` and `.zst`
files are read and written through their codec; offsets then count the decompressed bytes.

    with AtomicWriter("clean.jsonl") as out, Quarantine("clean.quarantine.jsonl") as bad:
        for row in read_rows("raw.jsonl", on_bad=bad.add):
            out.write_raw(row.raw)          # unchanged rows travel byte for byte
"""

from __future__ import annotations

import base64
import glob
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

MAX_LINE = 64 * 1024 * 1024
KEPT_OF_OVERLONG = 4096
"""Bytes of an over-long line that a quarantine record holds; file, offset and length find the rest."""
_CHUNK = 1 << 18
UTF8_MARK = b"\xef\xbb\xbf"
_BATCH = 128  # small enough that a batch stays in the processor's cache
COMPRESSED = (".gz", ".zst")
_WIDE_MARKS = {b"\xff\xfe": "UTF-16 (little endian)", b"\xfe\xff": "UTF-16 (big endian)"}


class ConservationError(RuntimeError):
    """Rows went missing or were counted twice; the run must not be trusted."""


class Row(NamedTuple):
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

    def add(self, other: Counts) -> None:
        """Add another part's counts."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

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
    if raw.startswith(UTF8_MARK):
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


class ZstReader(io.RawIOBase):
    """A zstd file's bytes. Unlike the library's own reader it raises EOFError when the last frame is cut off."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._broken = zstandard.ZstdError
        self._make = zstandard.ZstdDecompressor().decompressobj
        self._path = path
        self._file = open(path, "rb")  # noqa: SIM115 - closed in close()
        self._frame = self._make()
        self._inside = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._inside = self._make(), False
            packed = packed or self._file.read(1 << 16)
            if not packed:
                if self._inside:
                    raise EOFError(f"{self._path} is cut off in the middle of its last zstd frame; fetch it again")
                return 0
            self._inside = True
            try:
                self._ready = self._frame.decompress(packed)
            except self._broken as error:
                raise OSError(f"{self._path} is damaged ({error}); fetch it again") from error
        count = min(len(target), len(self._ready))
        target[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _GzReader(io.RawIOBase):
    """A gzip file's bytes; what is wrong with it is an OSError that names the file."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, gzip.open(path, "rb")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        try:
            return self._file.readinto(target)
        except EOFError as error:
            raise EOFError(f"{self._path} is cut off; fetch it again") from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise OSError(f"{self._path} is damaged ({error}); fetch it again") from error

    def close(self) -> None:
        self._file.close()
        super().close()


def file_stem(path: Path) -> str:
    """The name without `.jsonl`, `.json` and the endings of compression."""
    name = path.name
    for ending in (*COMPRESSED, ".jsonl", ".json"):
        name = name.removesuffix(ending)
    return name or path.name


def open_rows(path: Path | str) -> BinaryIO:
    """The file's (decompressed) bytes for reading; `.gz` and `.zst` go by the name's ending.

    Raises:
        OSError: (also while reading) the file cannot be read or is damaged.
        EOFError: while reading: a compressed file is cut off.
    """
    path = Path(path)
    if path.suffix == ".gz":
        return io.BufferedReader(_GzReader(path), _CHUNK)
    if path.suffix == ".zst":
        return io.BufferedReader(ZstReader(path), _CHUNK)
    return open(path, "rb", buffering=_CHUNK)


def read_rows(
    path: Path | str,
    on_bad: Callable[[BadRow], None],
    counts: Counts | None = None,
    max_line: int = MAX_LINE,
    name: str | None = None,
    part: tuple[int, int] | None = None,
) -> Iterator[Row]:
    """Yield the good rows of a JSONL file in order; every other row goes to `on_bad` and is counted as quarantined.

    Line ends may be LF or CRLF; the last line may lack one; lines of white space only are no rows. A UTF-8 byte-order
    mark at the very start of the file is skipped (offsets count it).

    Args:
        counts: `read`, `blank` and `quarantined` are counted here; the caller counts the other fates.
        max_line: longest row in bytes.
        name: file name for the quarantine records, default the path as given.
        part: byte range [start, end) of an uncompressed file: only the lines whose first byte lies in it are read.
            Line numbers then count from the part's first line. Parts that tile a file give each line exactly once.

    Raises:
        OSError: the file cannot be read.
    """
    counts = counts if counts is not None else Counts()
    name = str(path) if name is None else name
    with open_rows(path) as source:
        for line, offset, length, raw in lines(source, max_line, part):
            if length <= max_line and (not raw or raw.isspace()):
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


def lines(
    source: BinaryIO, max_line: int, part: tuple[int, int] | None = None
) -> Iterator[tuple[int, int, int, bytes]]:
    """(line number, offset, length, bytes without line end) of every line; of an over-long one the first 4,096 bytes.

    `part` as in `read_rows`; a byte-order mark at the file's start is skipped.
    """
    number, offset, stop = 0, 0, None
    if part is not None:
        offset, stop = part
        if offset:
            # The line that begins before the part belongs to the part before it.
            source.seek(offset - 1)
            offset += _skip_line(source, b"", 0)[1] - 1
    limit = max_line + 2  # room for a CRLF after a line of exactly max_line bytes
    readline = source.readline
    while stop is None or offset < stop:
        taken = readline(limit)
        if not taken:
            return
        number += 1
        start, length = offset, len(taken)
        if taken[-1] == 10 and length < limit and (offset or taken[0] != 0xEF):  # the common line, without detours
            offset += length
            end = -2 if taken[-2:-1] == b"\r" else -1
            yield number, start, length + end, taken[:end]
            continue
        mark = 3 if start == 0 and taken.startswith(UTF8_MARK) else 0
        tail = taken[-2:]
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


class _Hashing(io.RawIOBase):
    """A raw binary file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash, self.count = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.file.write(data)
        self.hash.update(data)
        self.count += len(data)
        return len(data)


class AtomicWriter:
    """A file that appears whole or not at all: written under a temporary name, fsynced, renamed (house rule 4).

    A name that ends in `.gz` or `.zst` is compressed, without time stamps, so equal rows give equal bytes.
    Attributes after the block: `rows`, and `bytes` and `sha256` of the file as it lies on the disk. Leaving the block
    by an exception removes the temporary file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.rows = 0
        # A leading dot: the inbox and every reader of a folder ignore it.
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def __enter__(self) -> AtomicWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(self.path)
        self._file = open(self._temporary, "wb")  # noqa: SIM115 - closed in __exit__
        self._raw = _Hashing(self._file)
        if self.path.suffix == ".gz":
            self._out: Any = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=self._raw, mtime=0)
        elif self.path.suffix == ".zst":
            import zstandard

            self._out = zstandard.ZstdCompressor(level=3).stream_writer(self._raw, closefd=False)
        else:
            self._out = None
        self._pending: list[bytes] = []
        self._waiting = 0
        return self

    def write_raw(self, raw: bytes) -> None:
        """One row as it is, with a line feed."""
        pending = self._pending
        pending.append(raw)
        self._waiting += len(raw)
        self.rows += 1
        if self._waiting > _CHUNK:
            self._flush()

    def write_all(self, blocks: list[bytes], rows: int | None = None) -> None:
        """Blocks of whole lines, each without its last line feed; `rows` of them in all (default one per block)."""
        self._flush()
        out = self._out or self._raw
        for at in range(0, len(blocks), _BATCH):
            out.write(b"\n".join([*blocks[at : at + _BATCH], b""]))
        self.rows += len(blocks) if rows is None else rows

    def write_bytes(self, block: bytes, rows: int) -> None:
        """Whole lines at once, each with its line feed."""
        self._flush()
        (self._out or self._raw).write(block)
        self.rows += rows

    def write(self, row: dict[str, Any]) -> None:
        """One row as compact UTF-8 JSON, keys in the order given."""
        self.write_raw(orjson.dumps(row))

    def _flush(self) -> None:
        if self._pending:
            self._pending.append(b"")
            (self._out or self._raw).write(b"\n".join(self._pending))
            self._pending.clear()
            self._waiting = 0

    @property
    def bytes(self) -> int:
        """Bytes in the file (compressed, if it is)."""
        return self._raw.count + (self._waiting + len(self._pending) if self._out is None else 0)

    @property
    def sha256(self) -> str:
        """Hex digest of the file's bytes; after the block it is that of the whole file."""
        if self._out is None:
            self._flush()
        return self._raw.hash.hexdigest()

    def __exit__(self, kind, _error, _trace) -> None:
        if kind is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
            return
        try:
            self._flush()
            if self._out is not None:
                self._out.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self.path)
        except BaseException:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
            raise
        sync_folder(self.path.parent)


def _remove_left_over(path: Path) -> None:
    """Temporary files of this name whose writer was killed; those of living processes stay."""
    for found in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        pid = found.name.removesuffix(".part").rpartition(".")[2]
        if pid.isdigit() and not _alive(int(pid)):
            found.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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

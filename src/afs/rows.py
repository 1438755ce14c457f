"""Rows seen by the few keys that a step needs: one scan makes an index, selection then copies bytes.

    index = scan(paths, ["domain", "quality"], by_domain)      # one pass, 14 bytes per row and the columns
    copy_rows(index, order, writer)                            # rows verbatim, in any order

Memory is O(index): split, mix, rebalance, sample and top-k never hold rows. A scan is cut into parts by bytes, so the
index is the same for any number of workers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import orjson

from afs.engine import run_parts
from afs.jsonl import COMPRESSED, MAX_LINE, UTF8_MARK, AtomicWriter, BadRow, Counts, lines, open_rows, parse_row
from afs.training.converters import detect

PART_BYTES = 1 << 20  # larger parts leave the cache and cost a third more, measured
MAX_NAMES = 10_000
OTHER = "(other)"
_RUN_BYTES = 1 << 18
_SLACK = 1 << 16  # how far a part's last line may reach beyond it on the fast path
_COPY_ROWS = 1 << 12


class RowView(msgspec.Struct, gc=False):
    """The keys of a `TrainingSample` that steps look at. Rows of other formats are seen through the same keys."""

    instruction: str
    output: str
    input: str | None = ""
    thinking: str | None = None
    domain: str | None = "general"
    source: str | None = "augmented"
    sample_id: str | None = ""
    quality_score: float | None = None
    embedding: list[float] | None = None
    teacher_model: str | None = ""
    teacher_prompt: str | None = ""
    timestamp: str | None = ""
    kg_entities: list[str] | None = []
    kg_validated: bool | None = False
    session: Any = None
    session_id: Any = None
    system: Any = None
    history: Any = None
    other: bool = msgspec.field(default=False, name="afs:other")  # seen through these keys, but of another format
    raw_metadata: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"null"), name="_metadata")

    @property
    def metadata(self) -> dict[str, Any]:
        """`_metadata`, parsed when it is asked for; anything but an object counts as empty."""
        found = msgspec.json.decode(self.raw_metadata)
        return found if isinstance(found, dict) else {}


_decode = msgspec.json.Decoder(RowView).decode
_FORMS = "instruction and output, messages, conversations, prompt and completion, chosen and rejected, or text"


def see(raw: bytes) -> RowView | str:
    """The row in these bytes, or the reason why it is none (malformed, not UTF-8, a missing field, a wrong type)."""
    try:
        # The decoder skips the text of keys that it does not know, so bytes outside ASCII are checked here.
        if not raw.isascii():
            raw.decode()
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        value = parse_row(raw)
        if isinstance(value, str):
            return value
        seen = see_value(value)
        # A row that only the stricter of the two parsers takes is bad: nothing later could read it.
        return seen if isinstance(seen, str) or "instruction" not in value else _wrong_type(error)


def see_value(value: dict[str, Any]) -> RowView | str:
    """`see` of a parsed row."""
    form = detect(value)
    if form is None:
        if "instruction" in value or "output" in value:
            lost = "output" if "output" not in value else "instruction"
            return f"missing field {lost!r}" if lost not in value else f"wrong type: {lost!r} must be a text"
        return f"missing fields: a row needs {_FORMS}; found {', '.join(sorted(value)[:8]) or 'nothing'}"
    if form not in ("training_sample", "alpaca"):
        question, answer = _speech(value, form)
        keys = ("domain", "source", "sample_id", "quality_score", "_metadata", "session", "session_id")
        kept = {key: value[key] for key in keys if key in value}
        value = {"instruction": question, "output": answer, **kept, "afs:other": True}
    try:
        return _decode(orjson.dumps(value))
    except msgspec.DecodeError as error:
        return _wrong_type(error)


def _wrong_type(error: Exception) -> str:
    """The decoder's message with the field's name first."""
    text, _, where = str(error).partition(" - at `$.")
    return f"wrong type: {where.rstrip('`')}: {text}" if where else f"wrong type: {text}"


def _speech(value: dict[str, Any], form: str) -> tuple[str, str]:
    """What was asked and what was answered, as text, for looking only. Images are not text; a tool call is, where it is
    all that a turn says."""
    if form == "text":
        return "", value["text"]
    if form == "preference":
        return _words(value.get("prompt")), _words(value["chosen"])
    if form == "prompt_completion":
        return _words(value["prompt"]), _words(value.get("completion", value.get("response")))
    turns = value.get("messages") or value.get("conversations") or value.get("conversation") or []
    asked, said = [], []
    for turn in turns:
        if not isinstance(turn, dict):
            continue
        role = str(turn.get("role", turn.get("from", "")))
        own = said if role in ("assistant", "gpt", "model", "bot", "chatgpt") else asked
        own.append(_words(turn.get("content", turn.get("value"))) or _calls(turn.get("tool_calls")))
    return "\n\n".join(asked), "\n\n".join(said)


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_words(part) for part in value)
    if isinstance(value, dict):
        return _words(value.get("text", value.get("content", value.get("value", ""))))
    return ""


def _calls(value: Any) -> str:
    """Names and arguments of tool calls in the OpenAI form."""
    found = [call.get("function") for call in value if isinstance(call, dict)] if isinstance(value, list) else []
    return "\n".join(f"{call.get('name', '')} {call.get('arguments', '')}".strip() for call in found
                     if isinstance(call, dict))  # fmt: skip


def family(source: str | None) -> str:
    """A source without its running number: `toolbench_train_001234` and its neighbours count as `toolbench_train`."""
    source = source or "unknown"
    return source.rstrip("0123456789").rstrip("_-:#/.") or source if source[-1].isdigit() else source


class Part(NamedTuple):
    """A byte range of one input: `number` is the input's place, `name` what messages call it."""

    number: int
    path: str
    name: str
    start: int
    end: int


def parts_of(paths: Sequence[Path], names: Sequence[str], size: int | None = None) -> list[Part]:
    """Byte ranges (of PART_BYTES) that tile the (uncompressed) files, in order."""
    found, size = [], size or PART_BYTES
    for number, (path, name) in enumerate(zip(paths, names, strict=True)):
        total = os.path.getsize(path)
        found += [Part(number, str(path), name, at, min(at + size, total)) for at in range(0, total, size)]
    return found


@contextmanager
def plain_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """The files themselves; compressed ones are unpacked into a temporary folder for the time of the block."""
    with ExitStack() as stack:
        found = []
        for number, path in enumerate(paths):
            if path.suffix in COMPRESSED:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="afs-")))
                target = folder / f"{number}.jsonl"
                with open_rows(path) as source, open(target, "wb") as out:
                    while block := source.read(1 << 20):
                        out.write(block)
                path = target
            found.append(path)
        yield found


@dataclass
class Index:
    """Where every good row lies and what its columns say; one array entry per row, in input order.

    `names[column]` holds the texts of a column of names; the array holds places in that list.
    """

    paths: list[Path]
    file: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    columns: dict[str, np.ndarray]
    names: dict[str, list[str]]
    counts: Counts
    counts_by_file: list[Counts]

    def __len__(self) -> int:
        return len(self.offset)

    def texts(self, column: str) -> list[str]:
        """The names of a column of names, one per distinct name."""
        return self.names[column]

    def tally(self, column: str, chosen: np.ndarray | None = None) -> dict[str, int]:
        """Rows per name (of the chosen rows), in order of name."""
        codes = self.columns[column] if chosen is None else self.columns[column][chosen]
        found = np.bincount(codes, minlength=len(self.names[column]))
        return {name: int(n) for name, n in sorted(zip(self.names[column], found, strict=True)) if n}


@dataclass
class _Scanned:
    counts: Counts
    bad: list[BadRow]
    offset: np.ndarray
    length: np.ndarray
    columns: list[np.ndarray]
    names: dict[int, list[str]]


NAME = "name"
"""The dtype of a column of names: the extractor returns text, the index holds its place in `names`."""


class Columns(Protocol):
    """An extractor that takes the rows of a part at once and gives a list of values per column."""

    def columns(self, views: Sequence[RowView], raws: Sequence[bytes]) -> Sequence[Sequence[Any]]: ...


Extractor = Callable[[RowView, bytes], tuple] | Columns


@dataclass(frozen=True)
class _Scan:
    """Reads one part. A class, since it travels to worker processes."""

    extract: Extractor
    dtypes: tuple[str, ...]
    max_line: int = MAX_LINE

    def __call__(self, part: Part) -> _Scanned:
        counts, bad = Counts(), []
        clean = _clean_block(part, self.max_line)
        if clean is None:
            seen = list(_views_by_line(part, bad.append, counts, self.max_line))
            offsets, raws, shown = [[item[place] for item in seen] for place in (1, 2, 3)]
        else:
            offsets, raws, shown = clean
            counts.read = len(raws)
        lengths = list(map(len, raws))
        # Whole columns at a time when the extractor can: comprehensions over a part cost half of a call per row.
        whole = getattr(self.extract, "columns", None)
        by_column = whole(shown, raws) if whole else _transposed(map(self.extract, shown, raws), len(self.dtypes))
        columns, names = [], {}
        for place, (dtype, values) in enumerate(zip(self.dtypes, by_column, strict=True)):
            if dtype == NAME:
                known = {text: code for code, text in enumerate(dict.fromkeys(values))}
                names[place] = list(known)
                values, dtype = [known[text] for text in values], "u4"
            columns.append(np.array(values, dtype))
        return _Scanned(counts, bad, np.array(offsets, "u8"), np.array(lengths, "u4"), columns, names)


def _transposed(found: Iterable[tuple], width: int) -> list[Sequence[Any]]:
    return list(zip(*found, strict=True)) or [()] * width


def views(
    part: Part, on_bad: Callable[[BadRow], None], counts: Counts, max_line: int = MAX_LINE
) -> Iterator[tuple[int, int, bytes, RowView]]:
    """(line in the part, offset, bytes, view) of the good rows of a part; the others go to `on_bad`."""
    clean = _clean_block(part, max_line)
    if clean is not None:
        counts.read += len(clean[1])
        yield from zip(range(1, len(clean[1]) + 1), *clean, strict=True)
    else:
        yield from _views_by_line(part, on_bad, counts, max_line)


def _views_by_line(
    part: Part, on_bad: Callable[[BadRow], None], counts: Counts, max_line: int
) -> Iterator[tuple[int, int, bytes, RowView]]:
    """`views` of a part that is not clean: each line is asked what it is."""
    with open_rows(part.path) as source:
        for line, offset, length, raw in lines(source, max_line, (part.start, part.end)):
            if length <= max_line and (not raw or raw.isspace()):
                counts.blank += 1
                continue
            counts.read += 1
            view = see(raw) if length <= max_line else f"over-long: {length} bytes, the limit is {max_line}"
            if isinstance(view, str):
                counts.quarantined += 1
                on_bad(BadRow(part.name, line, offset, length, view, raw))
            else:
                yield line, offset, raw, view


def _clean_block(part: Part, max_line: int) -> tuple[list[int], list[bytes], list[RowView]] | None:
    """(offsets, bytes, views) of a part whose every line is a good TrainingSample and ends in a line feed, else None.

    The usual part, taken whole: asking line by line what is wrong with nothing takes three times as long.
    """
    block = block_of(part)
    if block is None:
        return None
    data, begin = block
    if len(data) > max_line or b"\r" in data:
        return None
    raws = data.split(b"\n")
    if not raws[-1]:
        raws.pop()
    try:
        # The decoder skips the text of keys that it does not know; a block that is UTF-8 has no line that is not.
        if not data.isascii():
            data.decode()
        shown = list(map(_decode, raws))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    starts = accumulate((len(raw) + 1 for raw in raws), initial=begin)
    return list(islice(starts, len(raws))), raws, shown


def block_of(part: Part) -> tuple[bytes, int] | None:
    """The lines that begin in the part, whole, and the offset of the first; None when a line is very long."""
    start = max(part.start - 1, 0)
    wanted = part.end - start + _SLACK
    with open(part.path, "rb", buffering=0) as source:
        data = os.pread(source.fileno(), wanted, start)
    begin = 0
    if part.start:
        # The line that begins before the part belongs to the part before it.
        begin = data.find(b"\n") + 1
        if not begin:
            return None
    elif data.startswith(UTF8_MARK):
        begin = len(UTF8_MARK)
        if len(data) == begin:
            return None
    if part.start and start + begin >= part.end:
        return b"", start + begin
    stop = data.find(b"\n", part.end - start - 1) + 1
    if not stop:
        if len(data) == wanted:
            return None
        stop = len(data)
    return data[begin:stop], start + begin


@dataclass
class LineNumbers:
    """Turns line numbers within parts into line numbers of the file, as the parts come in order."""

    file: int = -1
    before: int = 0

    def of(self, part: Part, bad: list[BadRow], counts: Counts) -> list[BadRow]:
        if part.number != self.file:
            self.file, self.before = part.number, 0
        found = [BadRow(b.file, b.line + self.before, b.offset, b.length, b.reason, b.raw) for b in bad]
        self.before += counts.read + counts.blank
        return found


@dataclass
class _Names:
    """Names of a column over all parts; beyond MAX_NAMES distinct ones the rest is counted as (other)."""

    codes: dict[str, int] = field(default_factory=dict)

    def of(self, names: list[str]) -> np.ndarray:
        found = []
        for name in names:
            if name not in self.codes and len(self.codes) >= MAX_NAMES:
                name = OTHER
            found.append(self.codes.setdefault(name, len(self.codes)))
        return np.array(found, "u4")


def scan(
    paths: Sequence[Path],
    columns: dict[str, str],
    extract: Extractor,
    *,
    names: Sequence[str] | None = None,
    on_bad: Callable[[BadRow], Any],
    workers: int = 1,
    engine: str = "local",
    advance: Callable[[int], Any] = lambda _bytes: None,
    max_line: int = MAX_LINE,
) -> Index:
    """Read every row once and keep where it lies and its columns.

    Args:
        paths: uncompressed files (see `plain_files`); the index refers to them.
        columns: dtype of each column, numpy's or `NAME`.
        extract: picklable; gives the columns of a row, in the order of `columns`, or has a method
            `columns(views, raws)` that gives those of many rows at once.
        names: what messages call the files, default their paths.
        on_bad: takes each quarantined row, in order, with its line in the file.
        advance: is told the bytes of each finished part.
    """
    called = [str(p) for p in paths] if names is None else list(names)
    parts = parts_of(paths, called)
    known = {place: _Names() for place, dtype in enumerate(columns.values()) if dtype == NAME}
    by_file = [Counts() for _ in paths]
    numbers = LineNumbers()
    pieces: list[list[np.ndarray]] = [[] for _ in range(3 + len(columns))]
    reader = _Scan(extract, tuple(columns.values()), max_line)
    for part, got in zip(parts, run_parts(reader, parts, workers, engine), strict=True):
        for bad in numbers.of(part, got.bad, got.counts):
            on_bad(bad)
        by_file[part.number].add(got.counts)
        pieces[0].append(np.full(len(got.offset), part.number, "u2"))
        pieces[1].append(got.offset)
        pieces[2].append(got.length)
        for place, values in enumerate(got.columns):
            if place in known:
                values = known[place].of(got.names[place])[values] if len(values) else values
            pieces[3 + place].append(values)
        advance(part.end - part.start)
    empty = [np.zeros(0, d) for d in ("u2", "u8", "u4", *("u4" if d == NAME else d for d in columns.values()))]
    joined = []
    for piece, none in zip(pieces, empty, strict=True):
        joined.append(np.concatenate(piece) if piece else none)
        piece.clear()
    total = Counts()
    for counts in by_file:
        total.add(counts)
    labels = list(columns)
    return Index(
        list(paths), *joined[:3], columns=dict(zip(labels, joined[3:], strict=True)),
        names={labels[place]: list(n.codes) for place, n in known.items()}, counts=total, counts_by_file=by_file,
    )  # fmt: skip


def read_at(index: Index, order: Sequence[int] | np.ndarray) -> Iterator[bytes]:
    """The bytes of the chosen rows, in the order given, one at a time."""
    order = np.asarray(order, dtype=np.int64)
    with ExitStack() as stack:
        handles = [stack.enter_context(open(path, "rb")).fileno() for path in index.paths]
        for at in range(0, len(order), _COPY_ROWS):
            chosen = order[at : at + _COPY_ROWS]
            where = zip(index.file[chosen].tolist(), index.offset[chosen].tolist(), index.length[chosen].tolist(),
                        strict=True)  # fmt: skip
            for file, offset, length in where:
                yield _pread(handles[file], length, offset)


def copy_rows(index: Index, order: Sequence[int] | np.ndarray, writer: AtomicWriter) -> None:
    """Write the chosen rows verbatim, in the order given. Neighbours are copied in one piece."""
    order = np.asarray(order, dtype=np.int64)
    with ExitStack() as stack:
        handles = [stack.enter_context(open(path, "rb")).fileno() for path in index.paths]
        for at in range(0, len(order), _COPY_ROWS):
            chosen = order[at : at + _COPY_ROWS]
            offsets, lengths = index.offset[chosen], index.length[chosen].astype(np.uint64)
            files = index.file[chosen]
            ends = offsets + lengths
            # A neighbour begins one line feed after the row before it, in the same file.
            new = np.ones(len(chosen), bool)
            new[1:] = (files[1:] != files[:-1]) | (offsets[1:] != ends[:-1] + 1)
            starts = np.flatnonzero(new)
            stops = np.append(starts[1:], len(chosen)) - 1
            runs = zip(files[starts].tolist(), offsets[starts].tolist(), ends[stops].tolist(),
                       (stops - starts + 1).tolist(), strict=True)  # fmt: skip
            pieces: list[bytes] = []
            small = 0
            for file, start, end, rows in runs:
                if end - start <= _RUN_BYTES:
                    pieces.append(_pread(handles[file], end - start, start))
                    small += rows
                    continue
                writer.write_all(pieces, small)
                pieces, small = [], 0
                _copy_block(handles[file], start, end, rows, writer)
            writer.write_all(pieces, small)


def _pread(handle: int, length: int, offset: int) -> bytes:
    block = os.pread(handle, length, offset)
    if len(block) != length:
        raise OSError(f"an input changed while it was read: {length} bytes wanted at {offset}, {len(block)} found")
    return block


def _copy_block(handle: int, start: int, end: int, rows: int, writer: AtomicWriter) -> None:
    while start < end:
        block = _pread(handle, min(_RUN_BYTES, end - start), start)
        start += len(block)
        if start >= end:
            writer.write_bytes(block + b"\n", rows)
        else:
            writer.write_bytes(block, 0)

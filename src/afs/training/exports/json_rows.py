"""The objects of a JSON array of any size, one at a time.

    for row in array_rows("toolllama_G123_dfs_train.json", on_bad=bad.add): row.value

A row that is broken is set aside and the next one is found again. Memory: the largest row, plus a megabyte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson

from afs.jsonl import MAX_LINE, UTF8_MARK, BadRow, Counts, Row, diagnose, open_rows

_CHUNK = 1 << 20
_KEPT = 4096
_SKIP = re.compile(rb'(?:[^"{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Everything up to the next brace that is in no string, or to a string that has no end yet."""
_FIRST_KEY = re.compile(rb'\{\s*"(?:id|conversations|messages)"\s*:')
"""How a row begins; inside a string the quotes would be escaped. Reading goes on here after a broken row."""
_BETWEEN = b" \t\r\n,[]"


def array_rows(
    path: Path | str,
    on_bad: Callable[[BadRow], None],
    counts: Counts | None = None,
    max_row: int = MAX_LINE,
    name: str | None = None,
) -> Iterator[Row]:
    """Yield the objects of a file that holds `[{…}, {…}]` (or objects one after the other), each with the line and
    byte where it begins. Everything else is counted as quarantined and goes to `on_bad`.

    Raises:
        OSError: the file cannot be read.
    """
    counts = counts if counts is not None else Counts()
    name = str(path) if name is None else name
    with open_rows(path) as source:
        for found in _Scanner(source, max_row).pieces():
            counts.read += 1
            if isinstance(found, Row):
                yield found
            else:
                counts.quarantined += 1
                kept = found.raw if found.length <= max_row else found.raw[:_KEPT]
                on_bad(BadRow(name, found.line, found.offset, found.length, found.reason, kept))


class _Junk(NamedTuple):
    line: int
    offset: int
    raw: bytes
    reason: str
    length: int


class _Scanner:
    """Cuts a stream into objects and what is none. `buffer` begins at byte `base` of the file; its byte `lined` is in
    line `line`."""

    def __init__(self, source: BinaryIO, max_row: int) -> None:
        self.source, self.max_row = source, max_row
        self.buffer, self.base, self.line, self.lined, self.size = b"", 0, 1, 0, _CHUNK
        self.ended = False

    def pieces(self) -> Iterator[Row | _Junk]:
        """The objects that parse, and what lies between them."""
        self._more()
        if self.buffer.startswith(UTF8_MARK):
            self._drop(3)
        # `begin`: where the open object, or the gap after the last one, begins; `at`: how far has been looked.
        begin, at, depth = 0, 0, 0
        while True:
            at = _SKIP.match(self.buffer, at).end()
            mark = self.buffer[at : at + 1]
            if mark == b"{":
                if not depth:
                    yield from self._junk(begin, at)
                    begin = at
                    if row := self._guess(begin):
                        yield row
                        begin = at = begin + len(row.raw)
                        continue
                depth, at = depth + 1, at + 1
            elif mark == b"}" and depth > 1:
                depth, at = depth - 1, at + 1
            elif mark == b"}" and depth:
                found, begin = self._object(begin, at + 1)
                yield found
                at, depth = begin, 0
            elif mark == b"}":
                at += 1
            elif (long := len(self.buffer) - begin > self.max_row) or (self.ended and depth):
                # No end in sight: the row's own end is lost, so the next one that begins like a row is looked for.
                reason = (f"over-long: more than {self.max_row} bytes" if long
                          else "the file ends inside this row: it was cut off")  # fmt: skip
                yield self._lost(begin, reason)
                begin, at, depth = 0, 0, 0
            elif self.ended:
                yield from self._junk(begin, len(self.buffer))
                return
            else:
                self._drop(begin)
                at -= begin
                begin = 0
                self._more()

    def _guess(self, begin: int) -> Row | None:
        """The object at `begin` if it ends where the next row begins, which is faster to find than its last brace."""
        if not _FIRST_KEY.match(self.buffer, begin):
            return None
        found = _FIRST_KEY.search(self.buffer, begin + 1)
        if not found or found.start() - begin > self.max_row:
            return None
        raw = self.buffer[begin : found.start()].rstrip(_BETWEEN)
        try:
            return Row(self._line(begin), self.base + begin, raw, orjson.loads(raw))
        except orjson.JSONDecodeError:
            return None

    def _more(self) -> None:
        """Read on; twice as much each time that a string or row has no end yet, so that it is not looked at often."""
        self.size = self.size * 2 if len(self.buffer) > self.size else _CHUNK
        taken = self.source.read(self.size)
        self.ended = not taken
        self.buffer += taken

    def _drop(self, count: int) -> None:
        if count:
            self._line(count)
            self.lined -= count
            self.base += count
            self.buffer = self.buffer[count:]

    def _lost(self, begin: int, reason: str) -> _Junk:
        """Skip to the next row; what is skipped is held only up to `_KEPT` bytes."""
        line, offset, raw = self._line(begin), self.base + begin, b""
        self._drop(begin)
        at = 1
        while not (found := _FIRST_KEY.search(self.buffer, at)) and not self.ended:
            raw = raw or self.buffer[:_KEPT]
            # The beginning of the next row may be cut by the buffer's end.
            self._drop(max(at, len(self.buffer) - _KEPT))
            at = 0
            self._more()
        end = found.start() if found else len(self.buffer)
        raw = raw or self.buffer[:end]
        self._drop(end)
        return _Junk(line, offset, raw, reason, self.base - offset)

    def _object(self, begin: int, end: int) -> tuple[Row | _Junk, int]:
        """The object from begin to end, and where to go on: behind it or, when it is broken, at the next row in it."""
        raw = self.buffer[begin:end]
        if len(raw) > self.max_row:
            return self._bad(begin, end, f"over-long: {len(raw)} bytes, the limit is {self.max_row}"), end
        try:
            return Row(self._line(begin), self.base + begin, raw, orjson.loads(raw)), end
        except orjson.JSONDecodeError:
            inner = _FIRST_KEY.search(raw, 1)
            if inner:
                end = begin + inner.start()
            return self._bad(begin, end, diagnose(self.buffer[begin:end])), end

    def _junk(self, begin: int, end: int) -> Iterator[_Junk]:
        text = self.buffer[begin:end]
        if text.translate(None, _BETWEEN):
            lead = len(text) - len(text.lstrip(_BETWEEN))
            yield self._bad(begin + lead, begin + len(text.rstrip(_BETWEEN)), "no object: a row must be {…}")

    def _bad(self, begin: int, end: int, reason: str) -> _Junk:
        return _Junk(self._line(begin), self.base + begin, self.buffer[begin:end], reason, end - begin)

    def _line(self, at: int) -> int:
        """The line of a byte of the buffer; bytes are asked for in their order."""
        if at > self.lined:
            self.line += self.buffer.count(b"\n", self.lined, at)
            self.lined = at
        return self.line

"""The parts of a conversion: rows in, two blocks of lines out, in this process or in workers.

A `TrainingSample` as the refinery writes it (instruction, output, input, thinking, then the rest) is converted on its
bytes: texts are copied with their escapes, and the rest of the row goes into the meta file as it stands. Parsing and
writing them again would take three times as long. All other rows go through `Converter.convert_row`; the tests hold
both ways to the same values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from afs.generators.base import FIELDS
from afs.jsonl import MAX_LINE, BadRow, Counts, lines, open_rows, parse_row
from afs.rows import Part, family
from afs.rows import _block as block_of
from afs.training.converters.convert import Converter
from afs.training.converters.formats import ConversionError

_NONE = msgspec.Raw(b"")
_Q, _I, _A, _T = "\ue001Q", "\ue001I", "\ue001A", "\ue001T"  # private use: no template holds them
SHOWN = 5


class _Seen(msgspec.Struct, gc=False):
    """A sample with its texts as bytes. A row with the keys of a chat is none."""

    instruction: msgspec.Raw
    output: msgspec.Raw
    input: msgspec.Raw
    thinking: msgspec.Raw
    domain: str
    source: str
    sample_id: str
    quality_score: float
    embedding: msgspec.Raw
    teacher_model: str
    teacher_prompt: str
    timestamp: str
    kg_entities: list[str]
    kg_validated: bool
    metadata: msgspec.Raw = msgspec.field(name="_metadata")
    messages: msgspec.Raw = _NONE
    conversations: msgspec.Raw = _NONE
    conversation: msgspec.Raw = _NONE
    chosen: msgspec.Raw = _NONE
    rejected: msgspec.Raw = _NONE
    system: msgspec.Raw = _NONE
    history: msgspec.Raw = _NONE


_decode = msgspec.json.Decoder(_Seen).decode
_KNOWN = frozenset(FIELDS)
_OFTEN = ("domain", "source", "sample_id", "quality_score", "_metadata")
_SELDOM = ("teacher_model", "teacher_prompt", "timestamp", "kg_entities", "kg_validated")


@dataclass
class Done:
    """A converted part: rows as blocks of lines, and what is to be reported of it."""

    counts: Counts = field(default_factory=Counts)
    bad: list[BadRow] = field(default_factory=list)
    out: list[bytes] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    sources: Counter = field(default_factory=Counter)
    domains: Counter = field(default_factory=Counter)
    refused_of: Counter = field(default_factory=Counter)
    kept: Counter = field(default_factory=Counter)
    lost: Counter = field(default_factory=Counter)
    refused: list[tuple[int, str]] = field(default_factory=list)
    thinking: int = 0
    ones: list[int] = field(default_factory=lambda: [0] * 5)

    def packed(self) -> Done:
        """With its lines joined, which travel faster between processes."""
        self.out = [b"\n".join([*self.out, b""])]
        self.records = [b"\n".join([*self.records, b""])]
        self.kept.update(dict(zip(_OFTEN, self.ones, strict=True)))
        self.kept = +self.kept
        folded: Counter = Counter()
        for source, n in self.sources.items():
            folded[family(source)] += n
        self.sources = folded
        return self


@dataclass(frozen=True)
class _Skeleton:
    """The constant bytes of a row between question (instruction, input), answer and thinking."""

    pieces: tuple[bytes, ...]
    sizes: bytes | None  # of the record, before those of question and answer
    order: tuple[str, ...]


def _skeleton(converter: Converter, thinking: bool) -> _Skeleton:
    row = {"instruction": _Q, "input": _I if converter.name == "alpaca" else "", "output": _A, "domain": ""}
    if thinking:
        row["thinking"] = _T
    done = converter.convert_row(row)
    text = orjson.dumps(done.out)
    pieces, order, at = [], [], 0
    found = sorted((place, mark) for mark in (_Q, _I, _A, _T) if (place := text.find(mark.encode())) >= 0)
    for place, mark in found:
        pieces.append(text[at:place])
        order.append(mark[1])
        at = place + len(mark.encode())
    notes = ""
    if "sizes" in done.record:
        roles = f'"roles":{orjson.dumps(done.record["roles"]).decode()},' if "roles" in done.record else ""
        notes = f',{roles}"sizes":[' + "".join(f"{n}," for n in done.record["sizes"][:-2])
    return _Skeleton((*pieces, text[at:]), notes.encode() or None, tuple(order))


def _chars(raw: bytes) -> int:
    """Characters of the text in a JSON string."""
    return len(raw) - 2 if raw.isascii() and b"\\" not in raw else len(orjson.loads(raw))


@dataclass
class PartConverter:
    """`part → Done`; travels to worker processes."""

    converter: Any
    allow_loss: bool
    max_line: int = MAX_LINE

    def __call__(self, part: Part) -> Done:
        done = Done()
        fast = self._prepare()
        block = block_of(part)
        if block is None or len(block[0]) > self.max_line:
            with open_rows(part.path) as source:
                for number, offset, length, raw in lines(source, self.max_line, (part.start, part.end)):
                    if not raw or raw.isspace():
                        done.counts.blank += 1
                    elif length > self.max_line:
                        reason = f"over-long: {length} bytes, the limit is {self.max_line}"
                        done.counts.read += 1
                        self._set_aside(done, BadRow(part.name, number, offset, length, reason, raw), None)
                    else:
                        self._slow(done, part, number, offset, raw)
            return done.packed()
        data, at = block
        rows = data.split(b"\n")
        if not rows[-1]:
            rows.pop()
        for number, raw in enumerate(rows, 1):
            if raw[-1:] == b"\r":
                raw, at = raw[:-1], at + 1
            if fast is None or not self._fast(done, raw):
                bare = raw.removesuffix(b"\r")
                if not bare or bare.isspace():
                    done.counts.blank += 1
                else:
                    self._slow(done, part, number, at, bare)
            at += len(raw) + 1
        return done.packed()

    def _prepare(self) -> bool | None:
        """Skeletons of a row without and with thinking; None when only the slow way is right."""
        made = self.converter
        if not isinstance(made, Converter) or made.target.pairs:
            return None
        self._plain, self._with = _skeleton(made, False), _skeleton(made, True) if made.own_key else None
        marks = made._marks
        self._before, self._after = ((orjson.dumps(m)[1:-1] for m in marks) if marks else (b"", b""))
        self._alpaca = made.name == "alpaca"
        return True

    def _fast(self, done: Done, raw: bytes) -> bool:
        """Convert a row on its bytes; False when it is not in the form that this knows."""
        try:
            row = _decode(raw)
            if not raw.isascii():
                raw.decode()
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        asked, said, extra, thought = row.instruction, row.output, row.input, row.thinking
        # The texts in their places at the front of the row, without spaces between: then the rest is one piece.
        one = 15 + len(asked)
        two = one + 10 + len(said)
        three = two + 9 + len(extra)
        four = three + 12 + len(thought)
        if (raw[one : one + 10] != b',"output":' or raw[two : two + 9] != b',"input":' or raw[:15] != b'{"instruction":'
                or raw[three : three + 12] != b',"thinking":' or raw[four : four + 2] != b',"'
                or row.messages or row.conversations or row.conversation or row.chosen or row.rejected or row.system
                or row.history):  # fmt: skip
            return False
        question, answer, extra, own = raw[15:one], raw[one + 10 : two], raw[two + 9 : three], raw[three + 12 : four]
        if question[0] != 34 or answer[0] != 34 or extra[0] != 34 or own[0] not in b'"n':
            return False
        notes = b""
        skeleton, rest = self._plain, raw[four + 1 :]
        if len(own) > 4 or own[0] == 34:
            done.thinking += len(own) > 2
            if len(own) == 2:
                rest = b'"thinking":"",' + rest
            elif self._with is not None:
                skeleton = self._with
            elif self._before:
                answer = b'"%b%b%b%b' % (self._before, own[1:-1], self._after, answer[1:])
                notes = b',"thought":%d' % _chars(own)
            else:
                return False  # it would be lost: the slow way counts such rows
        self._emit(done, skeleton, (question, answer, extra, own), notes, rest)
        self._tally(done, row, rest)
        return True

    def _emit(self, done: Done, skeleton: _Skeleton, texts: tuple, notes: bytes, rest: bytes) -> None:
        question, answer, extra, own = texts
        pieces = skeleton.pieces
        if self._alpaca:
            if len(pieces) == 5:
                out = b"".join((pieces[0], question[1:-1], pieces[1], extra[1:-1], pieces[2], answer[1:-1], pieces[3],
                                own[1:-1], pieces[4]))  # fmt: skip
            else:
                out = b"".join((pieces[0], question[1:-1], pieces[1], extra[1:-1], pieces[2], answer[1:-1], pieces[3]))
        else:
            if len(extra) > 2:
                notes += b',"input_at":%d' % _chars(question)
                question = b'%b\\n\\n%b' % (question[:-1], extra[1:])
            if skeleton.sizes is not None:
                notes += b"%b%d,%d]" % (skeleton.sizes, _chars(question), _chars(answer))
            if len(pieces) == 4:
                out = b"".join((pieces[0], question[1:-1], pieces[1], answer[1:-1], pieces[2], own[1:-1], pieces[3]))
            else:
                out = b"".join((pieces[0], question[1:-1], pieces[1], answer[1:-1], pieces[2]))
        done.out.append(out)
        done.records.append(b'%b,"kept":{%b}' % (notes, rest))

    def _tally(self, done: Done, row: _Seen, rest: bytes) -> None:
        done.counts.read += 1
        done.counts.out += 1
        done.sources[row.source] += 1
        done.domains[row.domain] += 1
        ones = done.ones
        ones[0] += row.domain != ""
        ones[1] += row.source != ""
        ones[2] += row.sample_id != ""
        ones[3] += row.quality_score != 0
        # Seldom filled: one look at all of them together.
        if (row.teacher_model or row.teacher_prompt or row.timestamp or row.kg_entities or row.kg_validated
                or len(row.embedding) > 4):  # fmt: skip
            done.kept.update([name for name in _SELDOM if getattr(row, name)])
            done.kept["embedding"] += len(row.embedding) > 4
        ones[4] += len(row.metadata) > 4
        if not rest.endswith(b'"_metadata":%b}' % row.metadata):
            more = orjson.loads(b"{" + rest)
            done.kept.update([key for key, found in more.items() if found and key not in _KNOWN])

    def _slow(self, done: Done, part: Part, number: int, offset: int, raw: bytes) -> None:
        done.counts.read += 1
        value = parse_row(raw)
        if isinstance(value, str):
            self._set_aside(done, BadRow(part.name, number, offset, len(raw), value, raw), None)
            return
        source, domain = value.get("source"), value.get("domain")
        source = source if isinstance(source, str) else "unknown"
        try:
            out, record, lost = self.converter.convert_row(value)
        except ConversionError as error:
            bad = BadRow(part.name, number, offset, len(raw), f"not {self.converter.name}: {error}", raw)
            self._set_aside(done, bad, source)
            return
        if lost:
            done.lost[lost] += 1
            if not self.allow_loss and len(done.refused) < SHOWN:
                done.refused.append((offset, lost))
        kept = record.get("kept")
        if kept:
            done.kept.update([key for key, found in kept.items() if found])
        done.counts.out += 1
        done.sources[source] += 1
        done.domains[domain if isinstance(domain, str) else "general"] += 1
        done.out.append(orjson.dumps(out))
        record_line = orjson.dumps(record)
        done.records.append(b"}" if len(record_line) == 2 else b"," + record_line[1:])

    def _set_aside(self, done: Done, bad: BadRow, source: str | None) -> None:
        done.counts.quarantined += 1
        done.bad.append(bad)
        if source is not None:
            done.refused_of[family(source)] += 1

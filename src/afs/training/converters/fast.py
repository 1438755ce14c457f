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

from afs.jsonl import MAX_LINE, BadRow, Counts, lines, open_rows, parse_row
from afs.rows import Part, block_of, family
from afs.training.converters.convert import Converter
from afs.training.converters.formats import ConversionError

_NONE = msgspec.Raw(b"")
_Q, _I, _A, _T = "\ue001Q", "\ue001I", "\ue001A", "\ue001T"  # private use: no template holds them
SHOWN = 5


class _Seen(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A sample with its texts as bytes."""

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


class _SeenWithMore(_Seen, gc=False, forbid_unknown_fields=False):
    """A sample with further keys. One with the keys of a chat goes the slow way."""

    messages: msgspec.Raw = _NONE
    conversations: msgspec.Raw = _NONE
    conversation: msgspec.Raw = _NONE
    chosen: msgspec.Raw = _NONE
    rejected: msgspec.Raw = _NONE
    system: msgspec.Raw = _NONE
    history: msgspec.Raw = _NONE

    def is_chat(self) -> bool:
        return bool(self.messages or self.conversations or self.conversation or self.chosen or self.rejected
                    or self.system or self.history)  # fmt: skip


_decode, _decode_more = msgspec.json.Decoder(_Seen).decode, msgspec.json.Decoder(_SeenWithMore).decode
_COUNTED = frozenset(("domain", "source", "sample_id", "quality_score", "_metadata"))


@dataclass
class Done:
    """A converted part: rows as pieces of lines (joined at the end), and what is to be reported of it."""

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

    def packed(self) -> Done:
        """With its lines joined, which travel faster between processes."""
        self.out = [b"".join(self.out)]
        self.records = [b"".join(self.records)]
        self.kept = +self.kept
        folded: Counter = Counter()
        for source, n in self.sources.items():
            folded[family(source)] += n
        self.sources = folded
        return self


@dataclass(frozen=True)
class _Skeleton:
    """The constant bytes of a row around question (and input), answer and thinking, which come in this order."""

    pieces: tuple[bytes, ...]
    sizes: bytes | None  # of the record, before those of question and answer


def _skeleton(converter: Converter, thinking: bool) -> _Skeleton:
    row = {"instruction": _Q, "input": _I if converter.name == "alpaca" else "", "output": _A, "domain": ""}
    if thinking:
        row["thinking"] = _T
    done = converter.convert_row(row)
    text = orjson.dumps(done.out)
    pieces, at = [], 0
    found = sorted((place, mark) for mark in (_Q, _I, _A, _T) if (place := text.find(mark.encode())) >= 0)
    for place, mark in found:
        pieces.append(text[at:place])
        at = place + len(mark.encode())
    notes = ""
    if "sizes" in done.record:
        roles = f'"roles":{orjson.dumps(done.record["roles"]).decode()},' if "roles" in done.record else ""
        notes = f',{roles}"sizes":[' + "".join(f"{n}," for n in done.record["sizes"][:-2])
    return _Skeleton((*pieces, text[at:] + b"\n"), notes.encode() or None)


def _with_more(raw: bytes) -> _SeenWithMore | None:
    """The row, when it is a sample with further keys and not a chat."""
    try:
        raw.decode()
        row = _decode_more(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if row.is_chat() else row


def _chars(raw: bytes) -> int:
    """Characters of the text between the quotes of a JSON string."""
    return len(raw) if raw.isascii() and b"\\" not in raw else len(orjson.loads(b'"%b"' % raw))


@dataclass
class PartConverter:
    """`part → Done`; travels to worker processes."""

    converter: Any
    allow_loss: bool
    max_line: int = MAX_LINE

    def __call__(self, part: Part) -> Done:
        done = Done()
        block = block_of(part)
        if block is None or len(block[0]) > self.max_line:
            with open_rows(part.path) as source:
                for number, offset, length, raw in lines(source, self.max_line, (part.start, part.end)):
                    self._checked(done, part, number, offset, length, raw)
            return done.packed()
        data, at = block
        rows = data.split(b"\n")
        if not rows[-1]:
            rows.pop()
        if isinstance(self.converter, Converter) and not self.converter.target.pairs:
            self._on_bytes(done, part, rows, at)
        else:
            for number, raw in enumerate(rows, 1):
                self._slow(done, part, number, at, raw)
                at += len(raw) + 1
        return done.packed()

    def _on_bytes(self, done: Done, part: Part, rows: list[bytes], at: int) -> None:
        """Convert rows on their bytes; those in another form than the refinery's own go the slow way.

        One long loop: a call per row and thing to count would double its time.
        """
        made = self.converter
        plain = _skeleton(made, False)
        with_own = _skeleton(made, True) if made.own_key else None
        before, after = (orjson.dumps(mark)[1:-1] for mark in made.marks) if made.marks else (b"", b"")
        alpaca, sizes = made.name == "alpaca", plain.sizes
        domains, sources, out, records = [], [], done.out, done.records
        ids = scores = metas = thinking = 0
        for number, raw in enumerate(rows, 1):
            start, at = at, at + len(raw) + 1
            more = False
            try:
                if not raw.isascii():
                    raw.decode()
                row = _decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                row, more = _with_more(raw), True
                if row is None:
                    self._slow(done, part, number, start, raw)
                    continue
            # The texts in their places at the front of the row, without spaces between: then the rest is one piece.
            one = 15 + len(row.instruction)
            two = one + 10 + len(row.output)
            three = two + 9 + len(row.input)
            four = three + 12 + len(row.thinking)
            own = raw[three + 12 : four]
            if (raw[one - 1 : one + 11] != b'","output":"' or raw[two - 1 : two + 10] != b'","input":"'
                    or raw[three - 1 : three + 12] != b'","thinking":' or raw[:16] != b'{"instruction":"'
                    or raw[four : four + 2] != b',"' or raw[-1] != 125
                    or own != b"null" and (own[0] != 34 or not (before or with_own) and len(own) > 2)):  # fmt: skip
                self._slow(done, part, number, start, raw)
                continue
            question, answer, extra = raw[16 : one - 1], raw[one + 11 : two - 1], raw[two + 10 : three - 1]
            notes, pieces, rest = b"", plain.pieces, raw[four + 1 :]
            if own != b"null":
                if len(own) == 2:
                    rest = b'"thinking":"",' + rest
                elif with_own is not None:
                    pieces, thinking = with_own.pieces, thinking + 1
                else:
                    answer = b"".join((before, own[1:-1], after, answer))
                    notes = b',"thought":%d' % _chars(own[1:-1])
            if alpaca:
                out += (pieces[0], question, pieces[1], extra, pieces[2], answer, pieces[3])
            else:
                if extra:
                    notes += b',"input_at":%d' % _chars(question)
                    question = b"%b\\n\\n%b" % (question, extra)
                if sizes is not None:
                    notes += (b"%b%d,%d]" % (sizes, len(question), len(answer)) if b"\\" not in raw and raw.isascii()
                              and not extra else b"%b%d,%d]" % (sizes, _chars(question), _chars(answer)))
                out += (pieces[0], question, pieces[1], answer, pieces[2])
            if pieces is not plain.pieces:
                out += (own[1:-1], pieces[-1])
            if notes:
                records.append(notes)
            records += (b',"kept":{', rest, b"}\n")
            domains.append(row.domain)
            sources.append(row.source)
            ids += row.sample_id != ""
            scores += row.quality_score != 0
            size = len(row.metadata)
            metas += size > 4 or size == 3
            if (more or row.teacher_model or row.teacher_prompt or row.timestamp
                    or row.kg_entities or row.kg_validated or len(row.embedding) > 4):  # fmt: skip
                others = orjson.loads(b"{" + rest)
                done.kept.update([key for key, found in others.items() if found and key not in _COUNTED])
        done.counts.read += len(domains)
        done.counts.out += len(domains)
        done.thinking += thinking
        done.domains.update(domains)
        done.sources.update(sources)
        done.kept.update({"domain": len(domains) - domains.count(""), "source": len(sources) - sources.count(""),
                          "sample_id": ids, "quality_score": scores, "_metadata": metas})  # fmt: skip

    def _checked(self, done: Done, part: Part, number: int, offset: int, length: int, raw: bytes) -> None:
        if length <= self.max_line:
            self._slow(done, part, number, offset, raw)
            return
        done.counts.read += 1
        reason = f"over-long: {length} bytes, the limit is {self.max_line}"
        self._set_aside(done, BadRow(part.name, number, offset, length, reason, raw), None)

    def _slow(self, done: Done, part: Part, number: int, offset: int, raw: bytes) -> None:
        raw = raw.removesuffix(b"\r")
        if not raw or raw.isspace():
            done.counts.blank += 1
            return
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
        line = orjson.dumps(out)
        done.thinking += b'"thinking":"' in line  # a quote in a text has its backslash before it
        done.out += (line, b"\n")
        record_line = orjson.dumps(record)
        done.records += (b"}\n",) if len(record_line) == 2 else (b",", record_line[1:], b"\n")

    def _set_aside(self, done: Done, bad: BadRow, source: str | None) -> None:
        done.counts.quarantined += 1
        done.bad.append(bad)
        if source is not None:
            done.refused_of[family(source)] += 1

"""Redaction: secrets and personal marks out of every string of a JSON value, before anything else sees it.

    redactor = Redactor()
    redactor.redact({"env": {"TOKEN": "ghp_…"}})       # {"env": {"TOKEN": "<GITHUB_TOKEN:1>"}}
    print(redactor.report().summary())

    afs training redact --input raw.jsonl --output clean.jsonl [--rules mine.toml] [--report report.json]

A secret becomes `<TYPE:n>`. The same secret has the same number within one scope: one `Redactor` until `begin()`, one
file in `redact_jsonl`, one log file in an export. Numbers do not carry from file to file, so that the result of a file
does not depend on which files came before it.

How it is fast: all built-in rules share one pass. Each rule names literals of 2 to 4 bytes that must stand in its
secrets; a table lookup over byte pairs finds all places of all literals at once, and only there a pattern is tried.
It works on the JSON text itself, so keys, metadata and nested values are one thing to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from afs.engine import run_parts
from afs.jsonl import MAX_LINE, AtomicWriter, BadRow, Counts, read_rows
from afs.step import How, Report, Step, StepError, UsageError, add_tallies, expand
from afs.training.redaction_rules import PLACEHOLDER, RULES, CustomRule, Rule, check_rule, load_rules, rule_names

_LOCAL = b"\x01"  # no valid JSON text holds this byte, so a number behind it is surely one of a part's own
_BATCH = 1 << 20
_ESCAPE = 1 << 30


@dataclass
class RedactionReport:
    """How many secrets were replaced, by label: all of them, and different ones (per scope, summed over scopes)."""

    replaced: dict[str, int] = field(default_factory=dict)
    distinct: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    rows_changed: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {"replaced": dict(sorted(self.replaced.items())), "distinct": dict(sorted(self.distinct.items())),
                "rows": self.rows, "rows_changed": self.rows_changed}  # fmt: skip

    def summary(self) -> str:
        """One line per label, the most frequent first."""
        total = sum(self.replaced.values())
        lines = [f"redacted: {total:,} secrets in {self.rows_changed:,} of {self.rows:,} rows"]
        for label, count in sorted(self.replaced.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"  {label:<16}{count:>9,}   {self.distinct.get(label, 0):,} different")
        return "\n".join(lines)


class _Gates:
    """Finds all places of all gates: tables over the first and the second byte pair of the four bytes at a place."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.masks = np.zeros(65536, "u4")
        self.seconds = np.zeros(65536, "u4")
        # The last bit marks escapes that may hide a letter: \u0041 and \/.
        table = [(1 << bit, rule.gates, rule.any_case) for bit, rule in enumerate(rules)]
        table.append((_ESCAPE, (b"\\u", b"\\/"), False))
        # A bit per (rule, gate) would be exact; a bit per rule lets through mixed halves of its own gates, which the
        # pattern then refuses.
        for bit, gates, any_case in table:
            for gate in gates:
                spelled = [{c, ord(chr(c).upper()), ord(chr(c).lower())} if any_case else {c} for c in gate]
                spelled += [range(256)] * (4 - len(gate))
                for table_of, low, high in ((self.masks, *spelled[:2]), (self.seconds, *spelled[2:])):
                    pairs = np.add.outer(np.array(sorted(low)), np.array(sorted(high)) << 8).ravel()
                    table_of[pairs] |= np.uint32(bit)
        self.first = (self.masks != 0).view("u1")

    def places(self, block: bytes) -> tuple[np.ndarray, np.ndarray]:
        """(places in ascending order, bit masks of the rules whose gate stands there)."""
        if len(block) < 2:
            return np.empty(0, "i8"), np.empty(0, "u4")
        padded = block + b"\0\0\0\0"
        half = len(block) // 2
        found = []
        for shift in (0, 1):
            pairs = np.frombuffer(padded, "<u2", half, shift)
            at = np.flatnonzero(self.first.take(pairs))
            after = np.frombuffer(padded, "<u2", half + 1, shift)
            masks = self.masks.take(pairs[at]) & self.seconds.take(after[at + 1])
            kept = np.flatnonzero(masks)
            found.append((at[kept] * 2 + shift, masks[kept]))
        at = np.concatenate([found[0][0], found[1][0]])
        order = np.argsort(at, kind="stable")
        return at[order], np.concatenate([found[0][1], found[1][1]])[order]


@cache
def _gates(rules: tuple[Rule, ...]) -> _Gates:
    return _Gates(rules)


class Redactor:
    """Replaces secrets by typed, numbered placeholders (see the module).

    Args:
        rules: names of built-in rules to use; default all (`rule_names()`).
        custom: `CustomRule`s, or a path of a rules file.
        keep: texts that stay as they are, for example a public e-mail address.
        local: number with a mark that `redact_jsonl` resolves (for parts that run in several processes).

    Raises:
        UsageError: an unknown rule name.
    """

    def __init__(
        self,
        rules: Iterable[str] | None = None,
        custom: Iterable[CustomRule] | Path | str | None = None,
        keep: Iterable[str] = (),
        *,
        local: bool = False,
    ) -> None:
        wanted = set(rule_names() if rules is None else rules)
        if unknown := wanted - set(rule_names()):
            raise UsageError(f"no redaction rule {sorted(unknown)[0]!r}; known: {', '.join(rule_names())}")
        self.rules = tuple(rule for rule in RULES if rule.name in wanted)
        if isinstance(custom, str | Path):
            custom = load_rules(custom)
        self.custom = tuple(custom or ())
        for rule in self.custom:
            check_rule(rule, "custom rule")
        self._custom = [(r.label, re.compile(r.pattern), json.dumps(r.contains, ensure_ascii=False)[1:-1].encode())
                        for r in self.custom]  # fmt: skip
        self.keep = frozenset(text.encode() for text in keep)
        self._mark = _LOCAL if local else b""
        self._gates = _gates(self.rules)
        self._by_bit: dict[int, tuple[Rule, ...]] = {}
        self._numbers: dict[tuple[str, bytes], int] = {}
        self._next: dict[str, int] = {}
        self._report = RedactionReport()

    def begin(self) -> None:
        """Begin a new scope: numbers start at 1 again. The report goes on."""
        self._numbers.clear()
        self._next.clear()

    def report(self) -> RedactionReport:
        """What was replaced since the redactor was made."""
        return self._report

    @property
    def order(self) -> list[tuple[str, bytes]]:
        """(label, secret) of the current scope in the order of their first appearance."""
        return list(self._numbers)

    def redact(self, value: Any) -> Any:
        """The JSON value with every secret in its strings and keys replaced; the same object when there is none."""
        try:
            raw = orjson.dumps(value)
        except TypeError:
            # Lone surrogates and integers beyond 64 bits, which orjson refuses.
            text = json.dumps(value, ensure_ascii=False)
            raw = text.encode("utf-8", "surrogatepass")
            done = self.redact_lines([raw])[0]
            return value if done is raw else json.loads(done.decode("utf-8", "surrogatepass"))
        done = self.redact_lines([raw])[0]
        return value if done is raw else orjson.loads(done)

    def redact_text(self, text: str) -> str:
        """One text."""
        return self.redact(text)

    def redact_name(self, path: Path | str) -> str:
        """A file name or path, with `/` between its parts."""
        return self.redact(Path(path).as_posix())

    def redact_lines(self, lines: Sequence[bytes]) -> list[bytes]:
        """JSON texts (rows, without line ends) redacted; a row without a secret is the same object.

        Rows that are no JSON are redacted as the bytes that they are.
        """
        self._report.rows += len(lines)
        found = self._replace(lines)
        if self._custom:
            found = [self._apply_custom(raw) for raw in found]
        for old, new in zip(lines, found, strict=True):
            if new is not old:
                self._report.rows_changed += 1
        return found

    def _replace(self, lines: Sequence[bytes], canonical: bool = False) -> list[bytes]:
        block = b"\n".join(lines) if len(lines) > 1 else lines[0] if lines else b""
        places, masks = self._gates.places(block)
        found = list(lines)
        if not len(places):
            return found
        starts = np.zeros(len(lines), "i8")
        np.cumsum([len(raw) + 1 for raw in lines[:-1]], out=starts[1:])
        rows = np.searchsorted(starts, places, "right") - 1
        relative = (places - starts[rows]).tolist()
        borders = np.flatnonzero(np.diff(rows)) + 1
        edges = [0, *borders.tolist(), len(relative)]
        heads, bits = rows[edges[:-1]].tolist(), masks.tolist()
        for row, start, end in zip(heads, edges[:-1], edges[1:], strict=True):
            found[row] = self._line(lines[row], relative[start:end], bits[start:end], canonical)
        return found

    def _line(self, raw: bytes, places: list[int], masks: list[int], canonical: bool) -> bytes:
        spans: list[tuple[int, int, int]] = []
        by_bit = self._by_bit
        for at, mask in zip(places, masks, strict=True):
            if mask & _ESCAPE:
                mask ^= _ESCAPE
                # \u000a and \u001b are how JSON writes control characters; any other escape may hide a letter.
                if not canonical and (raw[at + 1] != 0x75 or raw[at + 2 : at + 5] not in (b"000", b"001")):
                    plain = _canonical(raw)
                    if plain is not None and plain != raw:
                        redacted = self._replace([plain], canonical=True)[0]
                        return raw if redacted is plain else redacted
                    canonical = True
            for number, find in by_bit.get(mask) or self._of(mask):
                span = find(raw, at)
                if span is not None and span[0] < span[1]:
                    spans.append((span[0], span[1], number))
        return self._put(raw, spans) if spans else raw

    def _of(self, mask: int) -> tuple[Any, ...]:
        found = self._by_bit.get(mask)
        if found is None:
            found = tuple((n, rule.find) for n, rule in enumerate(self.rules) if mask >> n & 1)
            self._by_bit[mask] = found
        return found

    def _put(self, raw: bytes, spans: list[tuple[int, int, int]]) -> bytes:
        """`raw` with the placeholders; spans that overlap become one, with the label of the most special rule."""
        spans.sort()
        merged = [spans[0]]
        for start, end, number in spans[1:]:
            last = merged[-1]
            if start < last[1]:
                merged[-1] = (last[0], max(last[1], end), min(last[2], number))
            else:
                merged.append((start, end, number))
        pieces, at = [], 0
        for start, end, number in merged:
            secret = raw[start:end]
            if secret in self.keep or PLACEHOLDER.fullmatch(secret):
                continue
            pieces += (raw[at:start], self._placeholder(self.rules[number].label, secret))
            at = end
        if not pieces:
            return raw
        pieces.append(raw[at:])
        return b"".join(pieces)

    def _placeholder(self, label: str, secret: bytes) -> bytes:
        if b"\\" in secret:
            # The same secret inside JSON inside JSON has more backslashes, and a key's line ends are escapes.
            secret = re.sub(rb"\\+", rb"\\", secret).replace(b"\\n", b"\\")
        number = self._numbers.get((label, secret))
        replaced, distinct = self._report.replaced, self._report.distinct
        if number is None:
            number = self._next.get(label, 0) + 1
            self._next[label] = self._numbers[label, secret] = number
            distinct[label] = distinct.get(label, 0) + 1
        replaced[label] = replaced.get(label, 0) + 1
        return b"<%s:%s%d>" % (label.encode(), self._mark, number)

    # --- rules of the user ---

    def _apply_custom(self, raw: bytes) -> bytes:
        hidden = b"\\u" in raw or b"\\/" in raw
        wanted = [(label, pattern) for label, pattern, contains in self._custom if hidden or contains in raw]
        if not wanted:
            return raw
        text = raw.decode("utf-8", "surrogateescape")
        if not _parses(raw.replace(_LOCAL, b"\\u0001") if self._mark else raw):
            return self._custom_text(text, wanted).encode("utf-8", "surrogateescape")
        # Only the strings change: numbers of any length, spaces and repeated keys stay as they are written.
        done = _STRINGS.sub(lambda found: self._custom_string(found[0], wanted), text)
        return raw if done == text else done.encode("utf-8", "surrogateescape")

    def _custom_string(self, token: str, wanted: list[tuple[str, re.Pattern[str]]]) -> str:
        # strict=False: a part's own numbers travel as a character that JSON may hold only as an escape.
        text = json.loads(token, strict=False) if "\\" in token else token[1:-1]
        done = self._custom_text(text, wanted)
        return token if done == text else json.dumps(done, ensure_ascii=False)

    def _custom_text(self, text: str, wanted: list[tuple[str, re.Pattern[str]]]) -> str:
        for label, pattern in wanted:
            group = 1 if pattern.groups else 0
            taken = [m.span() for m in _PLACEHOLDER_TEXT.finditer(text)]
            pieces, at = [], 0
            for match in pattern.finditer(text):
                start, end = match.span(group)
                if start < 0 or start == end or any(a < end and start < b for a, b in taken):
                    continue
                secret = match[group].encode("utf-8", "surrogateescape")
                if secret in self.keep:
                    continue
                pieces += (text[at:start], self._placeholder(label, secret).decode())
                at = end
            if pieces:
                text = "".join([*pieces, text[at:]])
        return text


_PLACEHOLDER_TEXT = re.compile("<[A-Z][A-Z0-9_]*:\x01?\\d+>")


_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPED = re.compile(r"\\(?:u[0-9A-Fa-f]{4}(?:\\u[0-9A-Fa-f]{4})*|.)")


def _parses(raw: bytes) -> bool:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True


def _canonical(raw: bytes) -> bytes | None:
    """The JSON text with every letter as itself, all else as it is; None when it is no JSON. Lone surrogates become
    U+FFFD."""
    text = raw.decode("utf-8", "replace")
    if not _parses(raw):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return None
    return whole_letters(_ESCAPED.sub(_letters, text)).encode()


def _letters(escape: re.Match[str]) -> str:
    found = escape[0]
    if found[1] == "u":
        return json.dumps(json.loads(f'"{found}"'), ensure_ascii=False)[1:-1]
    return "/" if found == "\\/" else found


def whole_letters(text: str) -> str:
    """Halves of surrogate pairs, which JavaScript leaves when it cuts a text inside an emoji, become U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


# --- the step ---------------------------------------------------------------------------------------------------------


@dataclass
class RedactionResult:
    """What `redact_jsonl` did."""

    report: Report
    redaction: RedactionReport

    def summary(self) -> str:
        if self.report.current:
            return self.report.summary()
        return f"{self.report.summary()}\n{self.redaction.summary()}"


class _Done(NamedTuple):
    counts: Counts
    bad: list[BadRow]
    block: bytes
    rows: int
    order: list[tuple[str, bytes]]
    report: RedactionReport
    sources: dict[str, dict[str, int]]
    domains: dict[str, int]


@dataclass(frozen=True)
class _Part:
    """Redacts one part of a file with numbers of its own, which the parent turns into numbers of the file."""

    rules: tuple[str, ...] | None
    custom: tuple[CustomRule, ...]
    keep: tuple[str, ...]

    def __call__(self, part: Any) -> _Done:
        redactor = Redactor(self.rules, self.custom, self.keep, local=True)
        counts, found, bad = Counts(), [], []
        made: list[bytes] = []
        sources: dict[str, dict[str, int]] = {}
        domains: dict[str, int] = {}
        span = None if part.path.endswith((".gz", ".zst")) else (part.start, part.end)
        waiting, size = [], 0
        for row in read_rows(part.path, found.append, counts, MAX_LINE, part.name, span):
            _tally(row.value, sources, domains)
            # Bad rows take their turn among the good ones, so that numbers follow the lines.
            if found:
                made += redactor.redact_lines(waiting)
                waiting, size = [], 0
                bad += _redacted(redactor, found)
                found.clear()
            waiting.append(row.raw)
            size += len(row.raw)
            if size >= _BATCH:
                made += redactor.redact_lines(waiting)
                waiting, size = [], 0
        made += redactor.redact_lines(waiting)
        bad += _redacted(redactor, found)
        counts.out = len(made)
        block = b"\n".join([*made, b""])
        return _Done(counts, bad, block, len(made), redactor.order, redactor.report(), sources, domains)


def _tally(value: dict[str, Any], sources: dict[str, dict[str, int]], domains: dict[str, int]) -> None:
    from afs.rows import family

    source, domain = value.get("source"), value.get("domain")
    tally = sources.setdefault(family(source if isinstance(source, str) else None), {"read": 0, "out": 0})
    tally["read"] += 1
    tally["out"] += 1
    domain = domain if isinstance(domain, str) else "general"
    domains[domain] = domains.get(domain, 0) + 1


def _redacted(redactor: Redactor, rows: list[BadRow]) -> list[BadRow]:
    return [BadRow(b.file, b.line, b.offset, b.length, b.reason,
                   without_cut_word(redactor.redact_lines([b.raw])[0]) if len(b.raw) < b.length
                   else redactor.redact_lines([b.raw])[0]) for b in rows]  # fmt: skip


_CUT_WORD = re.compile(rb"[A-Za-z0-9_.+/=@%~\\-]{1,512}$")


def without_cut_word(raw: bytes) -> bytes:
    """The kept beginning of an over-long row without its last word: half a secret looks like none."""
    return _CUT_WORD.sub(b"", raw)


def redact_jsonl(
    input_path: Path | str,
    output_path: Path | str,
    *,
    rules: Iterable[str] | None = None,
    rules_file: Path | str | None = None,
    keep: Iterable[str] = (),
    report_path: Path | str | None = None,
    how: How | None = None,
) -> RedactionResult:
    """Redact every row of a JSONL file; rows without secrets are copied byte for byte.

    Numbers are those of first appearance in the file, for any number of workers. Bad rows are redacted too before
    they go to the quarantine file.

    Args:
        rules: built-in rules to use, default all.
        rules_file: TOML file of custom rules.
        report_path: write the counts by type as JSON.

    Raises:
        UsageError: an unknown rule, or a rules file that cannot be used.
        StepError: the file has no usable row.
    """
    custom = tuple(load_rules(rules_file)) if rules_file else ()
    chosen = None if rules is None else tuple(rules)
    kept = tuple(sorted(keep))
    Redactor(chosen, custom, kept)  # names are checked before anything is read
    parameters = {"rules": None if chosen is None else list(chosen), "keep": list(kept),
                  "custom": [[r.name, r.pattern, r.contains] for r in custom]}  # fmt: skip
    outputs = [output_path] if report_path is None else [output_path, report_path]
    total = RedactionReport()
    with Step("redact", [input_path], outputs, parameters, how=how) as step:
        if not step.current:
            _redact_parts(step, outputs, _Part(chosen, custom, kept), total)
    if step.report.current:
        found = step.report.details["redaction"]
        total = RedactionReport(found["replaced"], found["distinct"], found["rows"], found["rows_changed"])
    return RedactionResult(step.report, total)


def _redact_parts(step: Step, outputs: list[Path | str], work: _Part, total: RedactionReport) -> None:
    from afs.rows import LineNumbers, parts_of, plain_files

    numbers: dict[tuple[str, bytes], int] = {}
    last: dict[str, int] = {}
    lines = LineNumbers()
    with plain_files(step.inputs) as plain, step.writer(outputs[0]) as out:
        parts = parts_of(plain, [str(path) for path in step.inputs])
        for part, done in zip(parts, run_parts(work, parts, step.how.workers, step.how.engine), strict=True):
            names = _global_numbers(done.order, numbers, last)
            for bad in lines.of(part, done.bad, done.counts):
                step.on_bad(replace(bad, raw=_renumber(bad.raw, names)))
            step.counts.add(done.counts)
            add_tallies(step.by_source, done.sources)
            for domain, count in done.domains.items():
                step.by_domain[domain] = step.by_domain.get(domain, 0) + count
            out.write_bytes(_renumber(done.block, names), done.rows)
            _add(total, done.report)
            step.advance(part.end - part.start)
        if not step.counts.out:
            raise StepError(f"{step.inputs[0]} has no usable row ({step.counts.quarantined} bad ones)")
        total.distinct = dict(last)
        step.details["redaction"] = total.to_dict()
    if len(outputs) > 1:
        with step.writer(outputs[1]) as report:
            report.write(total.to_dict())


def _global_numbers(
    order: list[tuple[str, bytes]], numbers: dict[tuple[str, bytes], int], last: dict[str, int]
) -> dict[str, list[int]]:
    """For each label: the file's number of the part's 1st, 2nd, … secret."""
    names: dict[str, list[int]] = {}
    for key in order:
        if key not in numbers:
            last[key[0]] = last.get(key[0], 0) + 1
            numbers[key] = last[key[0]]
        names.setdefault(key[0], []).append(numbers[key])
    return names


_LOCAL_PLACEHOLDER = re.compile(rb"<([A-Z][A-Z0-9_]*):(?:\x01|\\u0001)(\d+)>")


def _renumber(block: bytes, names: dict[str, list[int]]) -> bytes:
    def number(found: re.Match[bytes]) -> bytes:
        known, at = names.get(found[1].decode(), []), int(found[2])
        return b"<%s:%d>" % (found[1], known[at - 1]) if 0 < at <= len(known) else found[0]

    return _LOCAL_PLACEHOLDER.sub(number, block) if names else block


def _add(total: RedactionReport, more: RedactionReport) -> None:
    for label, count in more.replaced.items():
        total.replaced[label] = total.replaced.get(label, 0) + count
    total.rows += more.rows
    total.rows_changed += more.rows_changed


def write_report(path: Path | str, report: RedactionReport) -> None:
    """The counts as a JSON file."""
    with AtomicWriter(expand(path)) as out:
        out.write_raw(orjson.dumps(report.to_dict(), option=orjson.OPT_INDENT_2))


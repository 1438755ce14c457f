"""The event history: `<history root>/events_YYYYMMDD.jsonl`, by default below `~/.context/history`.

An event is `{id, timestamp, type, source, op, metadata, payload | payload_ref, payload_sha256}`; long payloads lie in
`payloads/` beside it. References are followed inside the root only, and their hash is checked.

`import_codex_history` writes Codex sessions into such a history; a second run adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from afs.generators.base import TrainingSample, content_id
from afs.jsonl import MAX_LINE, AtomicWriter, lines
from afs.step import How, StepError, UsageError, content_hash, expand
from afs.training.exports import codex, logs
from afs.training.exports.agents import split_options
from afs.training.exports.logs import Coverage, Found, LogReader, Record
from afs.training.exports.memory import context_root
from afs.training.exports.run import Export, ExportResult, run_export
from afs.training.exports.session import OK, SYSTEM
from afs.training.exports.views import Made
from afs.training.redaction import RedactionReport, Redactor

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
TYPES = ("model", "tool", "fs", "cli")


def export_history_to_jsonl(
    output_path: Path | str,
    history_root: Path | str | None = None,
    *,
    event_types: tuple[str, ...] | list[str] = (),
    include_tools: bool = False,
    include_fs: bool = False,
    include_cli: bool = False,
    tool_domain: str = "history_tools",
    how: How | None = None,
    **options: Any,
) -> ExportResult:
    """Events as samples: model calls always, tool calls, file contents and commands on request.

    Raises:
        StepError: no file or no row.
    """
    root = Path(history_root).expanduser() if history_root else context_root() / "history"
    shape, chosen = split_options(options, domain="history", source="history")
    coverage = Coverage()
    extra = {"tool": include_tools, "fs": include_fs, "cli": include_cli}
    wanted = set(event_types) or {"model", *(name for name, on in extra.items() if on)}
    files = logs.readable(logs.walk(root, _wanted, coverage), coverage) if root.is_dir() else []

    def units(reader: LogReader) -> Iterator[Made]:
        for item in files:
            for record in reader.records(item):
                make = partial(_made, reader, item, record, wanted, shape, tool_domain)
                if made := reader.take(item, record.line, record.value, make):
                    yield made

    settings = {"payloads": _payloads(root) if files else "", "types": sorted(wanted),
                "domain": shape.domain, "tool_domain": tool_domain,
                "cut": shape.max_tool_output_chars}  # fmt: skip
    export = Export("history-export", files, units, coverage, chosen, settings, [str(root)],
                    "Check it with ls, or name the folder with --history-root.")  # fmt: skip
    return run_export(export, output_path, how)


def _payloads(root: Path) -> str:
    """A hash of the payloads that events may name, which are no inputs of the step."""
    found = []
    for item in logs.walk(root, lambda name: name.endswith(".json"), Coverage()):
        try:
            found.append([item.name, content_hash(item.path)])
        except OSError:
            found.append([item.name, ""])
    return content_id(found)


def _wanted(name: str) -> bool:
    return name.startswith("events_") and name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst"))


def _made(reader: LogReader, item: Found, record: Record, wanted: set[str], shape: Any, tool_domain: str) -> Made:
    event = record.value
    kind = event.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        reader.coverage.count(f"event {kind}", logs.UNKNOWN)
        return Made(None, "filtered", "event of an unknown type")
    if kind not in wanted:
        reader.coverage.count(f"event {kind}", logs.SKIPPED)
        return Made(None, "filtered", f"event of type {kind} (not asked for)")
    payload = event.get("payload")
    if payload is None and event.get("payload_ref") is not None:
        payload, trouble = _payload(reader, item, event)
        if trouble:
            reader.coverage.problem(f"{item.name}:{record.line}", trouble)
            reader.coverage.count(f"event {kind}", logs.SKIPPED)
            return Made(None, "filtered", "payload that cannot be read")
    about = event.get("metadata") if isinstance(event.get("metadata"), dict) else {}
    parts = _sides(kind, event, payload if isinstance(payload, dict) else {}, about)
    if parts is None or not parts[0].strip() or not parts[2].strip():
        reader.coverage.count(f"event {kind}", logs.SKIPPED)
        return Made(None, "filtered", f"event of type {kind} without a question or an answer")
    reader.coverage.count(f"event {kind}", logs.USED)
    found = {"history_event": event.get("id"), "history_op": event.get("op"), "history_source": event.get("source"),
             "history_type": kind, "log": reader.name(item.name), "line": record.line}  # fmt: skip
    session = about.get("session_id", event.get("session_id"))
    found |= {"session_id": session} if isinstance(session, str) else {}
    return Made(TrainingSample(
        instruction=parts[0], input=parts[1], output=parts[2], domain=tool_domain if kind == "tool" else shape.domain,
        source=shape.source, timestamp=_text(event.get("timestamp")), teacher_model=_text(about.get("model")),
        _metadata={k: v for k, v in found.items() if v is not None},
    ))  # fmt: skip


def _payload(reader: LogReader, item: Found, event: dict[str, Any]) -> tuple[Any, str]:
    """(payload, "") of a reference, or (None, why not)."""
    reference = event["payload_ref"]
    if not isinstance(reference, str):
        return None, "payload_ref is no text"
    try:
        path = (item.root / reference).resolve()
    except (RuntimeError, ValueError, OSError) as error:  # a loop of links, a NUL in the name
        return None, f"payload_ref {reference!r} leads nowhere: {error}"
    if Path(reference).is_absolute() or item.root not in path.parents:
        return None, f"payload_ref {reference!r} leads out of the history root; it is not read"
    try:
        if path.exists() and not path.is_file():
            return None, f"payload {reference!r} is no plain file"
        if path.stat().st_size > MAX_LINE:
            return None, f"payload {reference!r} is over the limit of {MAX_LINE} bytes"
        raw = path.read_bytes()
    except OSError as error:
        return None, f"payload {reference!r} cannot be read: {error.strerror or error}"
    wanted = event.get("payload_sha256")
    if isinstance(wanted, str) and hashlib.sha256(raw).hexdigest() != wanted:
        return None, f"payload {reference!r} does not match its hash"
    try:
        return reader.clean(orjson.loads(raw)), ""
    except orjson.JSONDecodeError as error:
        return None, f"payload {reference!r} is no JSON: {error}"


def _sides(
    kind: str, event: dict[str, Any], payload: dict[str, Any], about: dict[str, Any]
) -> tuple[str, str, str] | None:
    """(instruction, input, output) of an event."""
    if kind == "model":
        prompt = payload.get("prompt")
        if prompt is None and isinstance(payload.get("messages"), list):
            said = [m for m in payload["messages"] if isinstance(m, dict) and _said(m.get("content"))]
            users = [m for m in said if m.get("role") == "user"]
            prompt = _said(users[-1].get("content")) if users else None
        return _said(prompt), _said(payload.get("context")), _said(payload.get("response"))
    if kind == "tool":
        if about.get("success") is False:
            return None
        name = _text(event.get("op")) or _text(about.get("tool")) or "tool"
        return f"Tool {name} input:\n{_said(payload.get('input'))}", "", _said(payload.get("output"))
    if kind == "fs":
        path = about.get("path", payload.get("path"))
        return f"What does the file {path} contain?" if path else "", "", _said(payload.get("content"))
    argv = about.get("argv", payload.get("argv"))
    command = " ".join(map(str, argv)) if isinstance(argv, list) else _said(argv)
    return f"What does this command print?\n{command}" if command else "", "", _said(payload.get("output"))


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value):
        return "\n".join(p["text"] for p in value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


# --- Codex sessions into the history ----------------------------------------------------------------------------------


@dataclass
class ImportResult:
    """What `import_codex_history` did."""

    root: Path
    added: int = 0
    known: int = 0
    sessions: int = 0
    coverage: Coverage = field(default_factory=Coverage)
    redaction: RedactionReport | None = None
    dry_run: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"history_root": str(self.root), "added": self.added, "known": self.known, "sessions": self.sessions,
                "coverage": self.coverage.to_dict(), "dry_run": self.dry_run,
                "redaction": self.redaction.to_dict() if self.redaction else None}  # fmt: skip

    def summary(self) -> str:
        word = "would be added" if self.dry_run else "added"
        found = [f"codex-history-import: {self.added:,} events {word} to {self.root}, {self.known:,} were there, "
                 f"{self.sessions:,} sessions", self.coverage.table()]  # fmt: skip
        found += [f"left out: {n:,} {why}" for why, n in sorted(self.coverage.left_out.items())]
        found += [f"not used: {p['path']}: {p['reason']}" for p in self.coverage.problems[:20]]
        if self.redaction is not None:
            found.append(self.redaction.summary())
        return "\n".join(found)


def import_codex_history(
    history_root: Path | str | None = None,
    roots: list[Path | str] | None = None,
    *,
    scan_roots: list[Path | str] | None = None,
    max_scan_depth: int = 4,
    tools: bool = True,
    system: bool = False,
    max_tool_output_chars: int = 4000,
    limit: int | None = None,
    redact: bool = True,
    rules_file: Path | str | None = None,
    dry_run: bool = False,
) -> ImportResult:
    """Write the turns (and tool calls) of Codex sessions as history events, in the day's file of their time; with
    `system` also the system and developer messages, in the payload of model events.

    The id of an event is a hash of its content and place, so a second run finds all of them there.

    Raises:
        StepError: no session was found.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} must be 1 or more; leave it away for all events")
    root = Path(history_root).expanduser() if history_root else context_root() / "history"
    result = ImportResult(root, dry_run=dry_run)
    coverage = result.coverage
    places = logs.expand_roots(roots, codex.default_roots(), scan_roots, codex.FOLDER, max_scan_depth, coverage)
    files = codex.find(places, coverage)
    if not files:
        looked = ", ".join(str(p) for p in roots or codex.default_roots())
        raise StepError(f"codex-history-import: no data found (looked in {looked}); name the folder with --root")
    redactor = Redactor(custom=rules_file) if redact else None
    reader = LogReader(redactor, lambda bad: coverage.problem(f"{bad.file}:{bad.line}", bad.reason), coverage)
    days: dict[str, dict[str, dict[str, Any]]] = {}
    for session in codex.Decoder(reader, coverage).sessions(files):
        result.sessions += 1
        for event in _events(session, tools, system, max_tool_output_chars, coverage):
            # The timestamp becomes a file name, and a log may hold any text there.
            day = event["timestamp"][:10].replace("-", "") if _DAY.match(event["timestamp"]) else "00000000"
            days.setdefault(day, {}).setdefault(event["id"], event)
    left = limit
    for day, events in sorted(days.items()):
        left = _add_to_day(root / f"events_{day}.jsonl", list(events.values()), result, left)
    result.redaction = redactor.report() if redactor else None
    return result


def _events(session: Any, tools: bool, system: bool, limit: int, coverage: Coverage) -> Iterator[dict[str, Any]]:
    from afs.training.exports.views import cut

    told = "\n\n".join(m.text for m in session.path if m.mark == SYSTEM and m.text) if system else ""
    for turn in session.turns():
        answer = turn.answer
        if turn.outcome != OK or answer.repeated:
            reason = f"turn: {turn.outcome}" if turn.outcome != OK else "turn of an earlier session"
            coverage.left_out[reason] = coverage.left_out.get(reason, 0) + 1
            continue
        about = {"session_id": session.id, "model": answer.model, "log": session.file, "line": turn.ask.line}
        yield _event("model", "codex", answer.timestamp, about,
                     {**({"system": told} if told else {}), "prompt": turn.ask.text,
                      "response": answer.text})  # fmt: skip
        for call in turn.calls if tools else ():
            if call.output is not None:
                yield _event("tool", call.name, answer.timestamp, {**about, "success": not call.error, "call": call.id},
                             {"input": call.input, "output": cut(call.output, limit)})  # fmt: skip


def _event(kind: str, op: str, time: str, about: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    return {"id": content_id(kind, op, time, about, payload), "timestamp": time, "type": kind, "source": "codex",
            "op": op, "metadata": about, "payload": payload}  # fmt: skip


def _add_to_day(path: Path, events: list[dict[str, Any]], result: ImportResult, left: int | None) -> int | None:
    """Write a day's file anew with what it held and the events that are new; all of it or nothing."""
    known = set()
    if path.exists():
        with open(path, "rb") as source:
            for _, _, _, raw in lines(source, MAX_LINE):
                try:
                    known.add(orjson.loads(raw).get("id"))
                except (orjson.JSONDecodeError, AttributeError):
                    continue  # a broken line stays in the file as it is; history-export names it
    fresh = [event for event in events if event["id"] not in known]
    result.known += len(events) - len(fresh)
    if left is not None:
        fresh = fresh[:left]
        left -= len(fresh)
    result.added += len(fresh)
    if fresh and not result.dry_run:
        with AtomicWriter(expand(path)) as out:
            _copy_lines(path, out)
            for event in fresh:
                out.write(event)
    return left


def _copy_lines(path: Path, out: AtomicWriter) -> None:
    """What the file holds, byte for byte, with a line end behind the last line."""
    if not path.exists():
        return
    block = b""
    with open(path, "rb") as source:
        while more := source.read(1 << 20):
            block = more
            out.write_bytes(block, block.count(b"\n"))
    if block and not block.endswith(b"\n"):
        out.write_bytes(b"\n", 1)

"""Antigravity: tasks from the editor's state database (SQLite, opened read-only).

The value of a state key is base64 of nested protobuf messages without a published schema. Their fields are walked by
wire type; texts that are base64 again are opened, and JSON objects in texts are taken as records. All texts are UTF-8.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from afs.generators.base import TrainingSample
from afs.jsonl import BadRow, file_sha256
from afs.step import How
from afs.training.exports import logs
from afs.training.exports.agents import split_options
from afs.training.exports.logs import Coverage, Found, LogReader
from afs.training.exports.run import Export, ExportResult, run_export
from afs.training.exports.views import Made, Shape, cut

STATE_KEYS = ("antigravityUnifiedStateSync.trajectorySummaries", "unifiedStateSync.trajectorySummaries")
_BELOW = Path("Antigravity/User/globalStorage/state.vscdb")
_ASK, _ANSWER = ("TaskName", "title", "Title", "name"), ("TaskSummary", "Message", "summary", "TaskStatus")
_ABOUT = ("TaskStatus", "Mode", "PathsToReview", "BlockedOnUser", "ConfidenceScore", "ConfidenceJustification")
_SAME = "%SAME%"
_MAX_DEPTH = 24


def default_paths() -> list[Path]:
    """Where the database lies on macOS, Windows and Linux, this system's place first."""
    home = Path("~").expanduser()
    mac = home / "Library/Application Support" / _BELOW
    windows = Path(os.environ.get("APPDATA") or home / "AppData/Roaming") / _BELOW
    linux = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / _BELOW
    first = {"darwin": mac, "win32": windows}.get(sys.platform, linux)
    return [first, *(p for p in (linux, mac, windows) if p != first)]


def export_antigravity_to_jsonl(
    output_path: Path | str,
    db_path: Path | str | None = None,
    *,
    state_keys: tuple[str, ...] | list[str] = (),
    include_paths_content: bool = False,
    max_path_chars: int = 2000,
    how: How | None = None,
    **options: Any,
) -> ExportResult:
    """Tasks of the state database as samples: task name → summary.

    Args:
        db_path: the database, default the first that exists of `default_paths()`.
        state_keys: keys to read, default both known ones.
        include_paths_content: add the start of the files that a task names for review, when they lie below the
            home folder or the working folder.

    Raises:
        StepError: no database, or no task in it (the reason is named, also when the database is locked).
    """
    shape, chosen = split_options(options, domain="general", source="antigravity")
    coverage = Coverage()
    places = [Path(db_path).expanduser()] if db_path else default_paths()
    files = logs.readable([Found(p, p.name, p.parent) for p in places if p.is_file()][:1], coverage, binary=True)
    keys = tuple(state_keys) or STATE_KEYS
    limit = max_path_chars if include_paths_content else 0

    def units(reader: LogReader) -> Iterator[Made]:
        for item in files:
            reader.begin()
            for record in _records(reader, item, keys, limit):
                yield _made(reader, record, item, shape, limit)

    # What was written last may still lie in the write-ahead log beside the database.
    ahead = [file_sha256(p) for item in files if (p := Path(f"{item.path}-wal")).is_file()]
    settings = {"keys": list(keys), "domain": shape.domain, "path_chars": limit, "ahead": ahead}
    export = Export("antigravity-export", files, units, coverage, chosen, settings, [str(p) for p in places],
                    "Name the database with --db-path.")  # fmt: skip
    # The files that tasks name are no inputs of the step, so nothing tells whether they are as before.
    how = replace(how or How(), force=True) if limit else how
    return run_export(export, output_path, how)


def _records(reader: LogReader, item: Found, keys: tuple[str, ...], limit: int) -> Iterator[dict[str, Any]]:
    """JSON objects in the values of the keys, each once, in order of appearance."""
    coverage = reader.coverage
    seen: set[str] = set()
    for key, value in _values(item.path, keys, coverage):
        raw = value.encode() if isinstance(value, str) else bytes(value)
        found = list(_objects(raw))
        if not found:
            coverage.count(f"key {key}", logs.BAD)
            reader.on_bad(BadRow(reader.name(item.name), 0, 0, len(raw), f"value of {key} holds no JSON object", b""))
        for record in found:
            text = json.dumps(record, sort_keys=True)
            if text in seen:
                coverage.count("task", logs.DUPLICATE)
                continue
            seen.add(text)
            # Files are looked up by their real names, then redacted with the rest, then cut.
            yield reader.clean({**record, "_files": _files(reader, record, limit)} if limit else record)


def _values(path: Path, keys: tuple[str, ...], coverage: Coverage) -> Iterator[tuple[str, Any]]:
    """(key, value) rows of the table ItemTable; trouble with the database is a problem by name."""
    try:
        # mode=ro never writes; a database in WAL mode whose side files cannot be made needs immutable=1.
        base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=2)
        base.text_factory = bytes
        try:
            marks = ",".join("?" * len(keys))
            query = f"SELECT key, value FROM ItemTable WHERE key IN ({marks}) ORDER BY key"
            rows = base.execute(query, keys).fetchall()
        finally:
            base.close()
    except sqlite3.Error as error:
        hint = "; close Antigravity or copy the file" if "locked" in str(error) else ""
        coverage.problem(path, f"database cannot be read: {error}{hint}")
        return
    if not rows:
        coverage.problem(path, f"none of the keys {', '.join(keys)} is in the database; name one with --state-key")
    for key, value in rows:
        if value is not None:
            yield key.decode("utf-8", "replace"), value


def _objects(raw: bytes) -> Iterator[dict[str, Any]]:
    """JSON objects inside a value that is JSON, base64 or protobuf, at any depth."""
    stack: list[tuple[bytes, int]] = [(raw, 0)]
    while stack:
        data, depth = stack.pop()
        if depth > _MAX_DEPTH or len(data) < 2:
            continue
        text = _utf8(data)
        if text is not None:
            found = list(_json_in(text))
            if found:
                yield from found
                continue
            inner = _base64(text)
            if inner is not None:
                stack.append((inner, depth + 1))
                continue
        fields = _fields(data)
        if fields is not None:
            stack += [(field, depth + 1) for field in reversed(fields)]


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _json_in(text: str) -> Iterator[dict[str, Any]]:
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError:
            at = text.find("{", at + 1)
            continue
        except RecursionError:  # nested without end: each further brace would be tried as deep again
            return
        if isinstance(value, dict) and value:
            yield value
        at = text.find("{", end)


def _base64(text: str) -> bytes | None:
    packed = text.strip()
    if len(packed) < 16:
        return None
    try:
        other = b"-_" if "-" in packed or "_" in packed else None
        return base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=other, validate=True)
    except (binascii.Error, ValueError):
        return None


def _fields(data: bytes) -> list[bytes] | None:
    """The length-delimited fields of a protobuf message; None when the bytes are none."""
    found, at, size = [], 0, len(data)
    while at < size:
        tag, at = _varint(data, at)
        if tag is None or not tag >> 3:
            return None
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            if value is None:
                return None
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            length, at = _varint(data, at)
            if length is None or at + length > size:
                return None
            found.append(data[at : at + length])
            at += length
        else:
            return None
    return found if at == size else None


def _varint(data: bytes, at: int) -> tuple[int | None, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return None, at


def _made(reader: LogReader, record: dict[str, Any], item: Found, shape: Shape, limit: int) -> Made:
    texts = {k: v for k, v in record.items() if isinstance(v, str) and v.strip() and v != _SAME}
    ask = next((texts[k] for k in _ASK if k in texts), "")
    answer = next((texts[k] for k in _ANSWER if k in texts and texts[k] != ask), "")
    if not answer:
        reader.coverage.count("task", logs.SKIPPED)
        return Made(None, "filtered", "record without a task and its outcome")
    reader.coverage.count("task", logs.USED)
    context = "\n".join(f"[file {name}]\n{cut(text, limit)}" for name, text in record.get("_files", ()))
    about = {k: record[k] for k in _ABOUT if record.get(k) not in (None, "", _SAME)}
    return Made(TrainingSample(
        instruction=ask or "Complete the task.", output=answer, input=context, domain=shape.domain,
        source=shape.source, timestamp=texts.get("timestamp", ""),
        _metadata={"log": reader.name(item.name), "antigravity": about},
    ))  # fmt: skip


def _files(reader: LogReader, record: dict[str, Any], limit: int) -> list[list[str]]:
    """[name, text] of the start of the files named for review, when they lie below the home or the working folder."""
    named = record.get("PathsToReview")
    allowed = [Path("~").expanduser().resolve(), Path.cwd().resolve()]
    blocks = []
    for name in named if isinstance(named, list) else ():
        try:
            path = Path(str(name)).expanduser().resolve()
            if path.is_file() and any(root in path.parents for root in allowed):
                with open(path, "rb") as source:
                    text = source.read(4 * limit).decode("utf-8", "replace")
                blocks.append([path.name, text])
        except (RuntimeError, ValueError, OSError) as error:  # no such user, a loop of links, a NUL, no permission
            shown = str(reader.clean(str(name))).replace("\0", "\\0")
            reader.coverage.problem(shown, f"file to review cannot be read: {type(error).__name__}")
    return blocks

"""Gemini CLI logs: `~/.gemini/tmp/<project>/chats/session-*.jsonl` (an append log) and older `session-*.json`.

In the append log a message is written again under its id when it changes (the last one counts), `{"$set": …}` changes
the metadata or all messages, and `{"$rewindTo": id}` takes that message and all after it back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from afs.training.exports import logs, session
from afs.training.exports.logs import Coverage, Found, LogReader
from afs.training.exports.session import Branch, Message, Part, Session, ToolCall

FOLDER = ".gemini"
_ENVELOPES = ("<session_context>", "This is the Gemini CLI. We are setting up the context for our chat.")
_TYPES = {"user", "gemini", "info", "error", "warning"}


def default_roots() -> list[Path]:
    """`$GEMINI_CLI_HOME/.gemini`, else `~/.gemini`."""
    home = os.environ.get("GEMINI_CLI_HOME")
    return [Path(home).expanduser() / ".gemini" if home else Path("~/.gemini").expanduser()]


def find(roots: list[Path], coverage: Coverage) -> list[Found]:
    """Session files by name. A session that was taken over into the append log is read from there only."""
    found: list[Found] = []
    for root in roots:
        below = root / "tmp" if (root / "tmp").is_dir() else root
        items = logs.readable(logs.walk(below, _wanted, coverage), coverage)
        logged = {item.name.removesuffix(".jsonl") for item in items if item.name.endswith(".jsonl")}
        for item in items:
            if item.name.endswith(".json") and item.name.removesuffix(".json") in logged:
                coverage.file("older copy of a session")
                continue
            found.append(item)
            coverage.file("session" if item.path.name.startswith("session-") else "sub-agent")
    return sorted(found, key=lambda item: (item.path.name, item.name))


def _wanted(name: str) -> bool:
    parts = name.split("/")
    if not name.endswith((".jsonl", ".json")):
        return False
    # Sub-agents lie one folder deeper, in chats/<session>/<id>.jsonl.
    return parts[-1].startswith("session-") or (len(parts) >= 3 and parts[-3] == "chats" and name.endswith(".jsonl"))


@dataclass
class _Log:
    """The replayed log: messages by id in order, what was taken back, the metadata."""

    messages: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    rewound: list[tuple[str | None, list[tuple[int, dict[str, Any]]], int]] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


@dataclass
class Decoder:
    """Turns files into sessions. A session id that was read before (a copy elsewhere) is a repetition."""

    reader: LogReader
    coverage: Coverage
    seen: set[str] = field(default_factory=set)

    def sessions(self, files: Iterable[Found]) -> Iterator[Session]:
        for item in files:
            log = self._whole(item) if item.name.endswith(".json") else self._replay(item)
            if log is None:
                continue
            made = self._session(item, log)
            repeated = made.id in self.seen
            self.seen.add(made.id)
            for message in made.path if repeated else ():
                message.repeated = True
            yield made

    def _whole(self, item: Found) -> _Log | None:
        """A session in one JSON object."""
        self.reader.begin()
        if (size := item.path.stat().st_size) > 2 * logs.MAX_LINE:
            self.coverage.problem(item.path, f"{size} bytes in one value, the limit is {2 * logs.MAX_LINE}")
            return None
        try:
            raw = item.path.read_bytes()
            value = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            value = logs.mend(raw)
            if value is None:
                self.coverage.problem(item.path, f"no JSON: {error}")
                return None
        except OSError as error:
            self.coverage.problem(item.path, f"cannot be read: {error.strerror or error}")
            return None
        value = self.reader.clean(value)
        if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
            self.coverage.problem(item.path, "no session: an object with a list 'messages' is needed")
            return None
        log = _Log(about={k: v for k, v in value.items() if k != "messages"})
        self._all(log, value["messages"], 1)
        return log

    def _all(self, log: _Log, messages: list[Any], line: int) -> None:
        log.messages.clear()
        for number, message in enumerate(messages):
            if isinstance(message, dict):
                log.messages[str(message.get("id") or f"n{number}")] = (line, message)
            else:
                self.coverage.count("message that is no object", logs.UNKNOWN)

    def _replay(self, item: Found) -> _Log:
        log = _Log()
        for line, value in self.reader.records(item):
            self.reader.take(item, line, value, partial(self._add, log, line, value))
        return log

    def _add(self, log: _Log, line: int, value: dict[str, Any]) -> None:
        if "$rewindTo" in value:
            self._rewind(log, value["$rewindTo"], line)
            self.coverage.count("$rewindTo", logs.CONTEXT)
        elif "$set" in value:
            change = value["$set"] if isinstance(value["$set"], dict) else {}
            if isinstance(change.get("messages"), list):
                self._all(log, change["messages"], line)
            log.about.update({k: v for k, v in change.items() if k != "messages"})
            self.coverage.count("$set", logs.CONTEXT)
        elif isinstance(value.get("id"), str) and isinstance(value.get("type"), str):
            if value["id"] in log.messages:
                self.coverage.count(f"{value['type']} (rewritten)", logs.DUPLICATE)
                line = log.messages[value["id"]][0]
            log.messages[value["id"]] = (line, value)
        elif "sessionId" in value:
            log.about.update(value)
            self.coverage.count("metadata", logs.CONTEXT)
        else:
            self.coverage.count(f"keys {', '.join(sorted(value)[:3]) or '(none)'}", logs.UNKNOWN)

    def _rewind(self, log: _Log, target: Any, line: int) -> None:
        """Take back the message with this id and all after it; an unknown id takes back everything."""
        ids = list(log.messages)
        start = ids.index(target) if target in log.messages else 0
        lost = [log.messages.pop(name) for name in ids[start:]]
        if lost:
            log.rewound.append((ids[start - 1] if start else None, lost, line))

    def _session(self, item: Found, log: _Log) -> Session:
        name = self.reader.name(item.name)
        base = name.rsplit("/", 1)[-1].removesuffix(".jsonl").removesuffix(".json")
        made = Session("gemini", str(log.about.get("sessionId") or base), name)
        for line, value in log.messages.values():
            made.path += self._made(item, line, value)
        for fork, lost, line in log.rewound:
            path = [m for at, value in lost for m in self._made(item, at, value)]
            kept = next((m for m in made.path if m.role == "user" and not m.mark and m.line > line), None)
            made.branches.append(Branch(fork, path, kept))
        parts = name.split("/")
        if len(parts) >= 3 and parts[-3] == "chats":
            made.parent = parts[-2]
        elif log.about.get("kind") == "subagent":
            made.parent = "unknown"
        models = [m.model for m in made.path if m.model]
        if models:
            made.info["model"] = models[-1]
        if isinstance(log.about.get("projectHash"), str):
            made.info["project"] = log.about["projectHash"]
        return made

    def _made(self, item: Found, line: int, value: dict[str, Any]) -> list[Message]:
        return self.reader.take(item, line, value, partial(self._messages, line, value)) or []

    def _messages(self, line: int, value: dict[str, Any]) -> list[Message]:
        kind = value.get("type")
        text = _content(value.get("content"))
        if kind not in _TYPES:
            self.coverage.count(str(kind), logs.UNKNOWN)
            return []
        time = value["timestamp"] if isinstance(value.get("timestamp"), str) else ""
        made = Message(str(value.get("id") or f"line-{line}"), "user", [Part("text", text)], timestamp=time,
                       line=line, last_line=line)  # fmt: skip
        fate = logs.USED
        if kind == "gemini":
            made.role, made.model = "assistant", str(value.get("model") or "")
            made.parts = self._parts(value, text)
        elif kind == "user":
            if text.lstrip().startswith(_ENVELOPES):
                made.mark, fate = session.META, logs.CONTEXT
            elif not text.strip() or text.lstrip().startswith(("/", "?")):
                made.mark, fate = session.COMMAND, logs.CONTEXT
        else:
            fate = logs.CONTEXT
            cancelled = kind == "info" and "cancelled" in text.lower()
            made.mark = session.ERROR if kind == "error" else session.INTERRUPT if cancelled else session.META
            made.role = "assistant" if kind == "error" else "user"
        self.coverage.count(str(kind), fate)
        return [made]

    def _parts(self, value: dict[str, Any], text: str) -> list[Part]:
        parts = []
        for thought in value.get("thoughts") or ():
            if isinstance(thought, dict):
                lines = [str(thought.get(k)) for k in ("subject", "description") if thought.get(k)]
                parts.append(Part("thinking", "\n".join(lines)))
        if text:
            parts.append(Part("text", text))
        for call in value.get("toolCalls") or ():
            if isinstance(call, dict):
                status = call.get("status")
                parts.append(Part("tool_call", call=ToolCall(
                    str(call.get("id") or ""), str(call.get("name") or ""), call.get("args"), _result(call),
                    status in ("error", "cancelled"))))  # fmt: skip
                self.coverage.count("tool call", logs.JOINED)
        return parts


def _content(content: Any) -> str:
    """A text, or a list of parts with text."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        texts = [p.get("text") if isinstance(p, dict) else p for p in content]
        return "".join(t for t in texts if isinstance(t, str))
    return ""


def _result(call: dict[str, Any]) -> str | None:
    """The text of a call's result: functionResponse parts, or what was shown."""
    result = call.get("result")
    found = []
    for part in result if isinstance(result, list) else [result] if isinstance(result, dict) else []:
        if not isinstance(part, dict):
            continue
        response = part.get("functionResponse", {})
        response = response.get("response") if isinstance(response, dict) else None
        if isinstance(response, dict):
            output = response.get("output", response.get("error"))
            found.append(output if isinstance(output, str) else json.dumps(response, ensure_ascii=False))
        elif isinstance(part.get("text"), str):
            found.append(part["text"])
    if found:
        return "\n".join(found)
    if isinstance(result, str):
        return result
    shown = call.get("resultDisplay")
    return shown if isinstance(shown, str) else None

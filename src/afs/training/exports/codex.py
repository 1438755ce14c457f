"""Codex logs: `$CODEX_HOME` or `~/.codex`, `sessions/YYYY/MM/DD/rollout-*.jsonl[.zst]` and `archived_sessions/`.

A line is `{timestamp, type, payload}`. `response_item` carries the conversation; `event_msg` says it again for the
screen. Calls and results meet by `call_id`. A fork copies its history into a new file, so a conversation that begins
with the same items as an earlier one is a repetition up to the first difference.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from afs.training.exports import logs, session
from afs.training.exports.logs import Coverage, Found, LogReader, Record
from afs.training.exports.session import Branch, Message, Part, Session, ToolCall

FOLDER = ".codex"
_ENVELOPES = ("<environment_context>", "<user_instructions>", "# AGENTS.md", "<INSTRUCTIONS>", "<turn_aborted>",
              "<permissions instructions>", "<skill>", "<user_shell_command>", "<subagent_notification>",
              "<collaboration_mode>", "<app-context>")  # fmt: skip
_CALLS = {"function_call", "custom_tool_call", "local_shell_call", "web_search_call", "tool_search_call",
          "image_generation_call"}  # fmt: skip
_RESULTS = {"function_call_output", "custom_tool_call_output", "tool_search_output", "local_shell_call_output"}
_SILENT_ITEMS = {"compaction", "compaction_summary", "ghost_snapshot", "other"}
_NUMBER = re.compile(rb"(?<=[A-Z]):\d+>")
_SILENT_LINES = {"world_state", "inter_agent_communication"}
_REPEATS = {"user_message", "agent_message", "agent_reasoning", "agent_reasoning_raw_content"}


def default_roots() -> list[Path]:
    """`$CODEX_HOME`, else `~/.codex`."""
    return [Path(os.environ.get("CODEX_HOME") or "~/.codex").expanduser()]


def find(roots: list[Path], coverage: Coverage) -> list[Found]:
    """Rollout files by name, which begins with the time: a fork comes after what it copies."""
    found: dict[str, Found] = {}
    for root in roots:
        places = [root / name for name in ("sessions", "archived_sessions") if (root / name).is_dir()] or [root]
        for place in places:
            for item in logs.readable(logs.walk(place, _wanted, coverage), coverage):
                base = item.path.name.removesuffix(".zst")
                if base in found:
                    # The same session, packed or archived: the plain file, found first, is the live one.
                    coverage.file("other copy of a session")
                    if found[base].path.suffix == ".zst" and item.path.suffix != ".zst":
                        found[base] = item
                    continue
                found[base] = item
                coverage.file("session")
    return [found[base] for base in sorted(found)]


def _wanted(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return base.startswith("rollout-") and base.endswith((".jsonl", ".jsonl.zst"))


@dataclass
class Decoder:
    """Turns files into sessions; `seen` holds hashes of the beginnings of all earlier conversations."""

    reader: LogReader
    coverage: Coverage
    seen: set[bytes] = field(default_factory=set)

    def sessions(self, files: Iterable[Found]) -> Iterator[Session]:
        for item in files:
            builder = _Builder(self.coverage, self.seen)
            for record in self.reader.records(item):
                self.reader.take(item, record.line, record.value, partial(builder.add, record))
            self.seen |= builder.mine
            yield builder.session(item, self.reader.name(item.name))


class _Builder:
    """Collects the records of one file."""

    def __init__(self, coverage: Coverage, seen: set[bytes]) -> None:
        self.coverage, self.seen, self.mine = coverage, seen, set()
        self.path: list[Message] = []
        self.branches: list[Branch] = []
        self.calls: dict[str, ToolCall] = {}
        self.info: dict[str, Any] = {}
        self.id = self.parent = self.model = ""
        self.chain = b""
        self.count = 0

    def add(self, record: Record) -> None:
        value = record.value
        kind = value.get("type")
        payload = value.get("payload")
        if not isinstance(payload, dict):
            # The oldest logs have the item itself on the line, and a first line without a type.
            kind, payload = ("response_item", value) if isinstance(kind, str) else ("session_meta", value)
            if kind == "session_meta" and "id" not in value:
                self.coverage.count("(no type)", logs.SKIPPED if "record_type" in value else logs.UNKNOWN)
                return
        time = value.get("timestamp") if isinstance(value.get("timestamp"), str) else ""
        if kind == "response_item":
            self._item(payload, record, time)
        elif kind == "session_meta":
            self._meta(payload)
        elif kind == "turn_context":
            self.model = payload.get("model") if isinstance(payload.get("model"), str) else self.model
            if isinstance(payload.get("cwd"), str):
                self.info.setdefault("cwd", payload["cwd"])
            self.coverage.count(kind, logs.CONTEXT)
        elif kind == "compacted":
            self._put("system", [], record, time, session.COMPACTION)
            self.coverage.count(kind, logs.CONTEXT)
        elif kind == "event_msg":
            self._event(payload, record, time)
        else:
            self.coverage.count(str(kind), logs.SKIPPED if kind in _SILENT_LINES else logs.UNKNOWN)

    def _meta(self, payload: dict[str, Any]) -> None:
        # A fork's file also holds the meta lines of what it copied; its own comes first.
        if self.id:
            self.coverage.count("session_meta", logs.DUPLICATE)
            return
        self.id = _text(payload.get("id"))
        for key, name in (("cwd", "cwd"), ("cli_version", "version"), ("forked_from_id", "forked_from")):
            if _text(payload.get(key)):
                self.info[name] = payload[key]
        source = payload.get("source")
        spawn = source.get("subagent") if isinstance(source, dict) else None
        if spawn:
            thread = spawn.get("thread_spawn") if isinstance(spawn, dict) else None
            self.parent = _text(thread.get("parent_thread_id")) if isinstance(thread, dict) else ""
            self.parent = self.parent or "unknown"
        git = payload.get("git")
        if isinstance(git, dict) and _text(git.get("branch")):
            self.info["git_branch"] = git["branch"]
        self.coverage.count("session_meta", logs.CONTEXT)

    def _event(self, payload: dict[str, Any], record: Record, time: str) -> None:
        name = payload.get("type")
        fate = logs.DUPLICATE if name in _REPEATS else logs.SKIPPED
        if name == "turn_aborted":
            self._put("user", [], record, time, session.INTERRUPT)
            fate = logs.CONTEXT
        elif name in ("error", "stream_error") and name == "error":
            self._put("assistant", [Part("text", _text(payload.get("message")))], record, time, session.ERROR)
            fate = logs.CONTEXT
        elif name == "thread_rolled_back":
            self._roll_back(payload.get("num_turns"))
            fate = logs.CONTEXT
        self.coverage.count(f"event_msg/{name}", fate)

    def _roll_back(self, turns: Any) -> None:
        """Take the last turns off the path; they become a rewound branch."""
        asks = [at for at, m in enumerate(self.path) if m.role == "user" and not m.mark]
        if not isinstance(turns, int) or turns < 1 or not asks:
            return
        start = asks[max(0, len(asks) - turns)]
        fork = self.path[start - 1].id if start else None
        self.branches.append(Branch(fork, self.path[start:]))
        del self.path[start:]

    # --- items ---

    def _item(self, item: dict[str, Any], record: Record, time: str) -> None:
        kind = item.get("type")
        name = f"response_item/{kind}"
        if kind == "message":
            self._message(item, record, time)
            return
        if kind == "reasoning":
            texts = [_text(s.get("text")) for key in ("summary", "content") for s in item.get(key) or ()
                     if isinstance(s, dict)]  # fmt: skip
            if any(texts):
                self._assistant(record, time).parts.append(Part("thinking", "\n".join(t for t in texts if t)))
            # The chain of thought itself is encrypted.
            self.coverage.count(name, logs.USED if any(texts) else logs.SKIPPED)
        elif kind in _CALLS:
            repeated = self._link(item.get("call_id"), item.get("name"), item.get("arguments", item.get("input")))
            call = _call(item)
            message = self._assistant(record, time)
            message.repeated = message.repeated and repeated
            message.parts.append(Part("tool_call", call=call))
            if call.id:
                self.calls[call.id] = call
            if kind in ("web_search_call", "image_generation_call"):
                call.output = _text(item.get("status")) or "completed"  # the log never holds what was found
            self.coverage.count(name, logs.DUPLICATE if repeated else logs.USED)
        elif kind in _RESULTS:
            call = self.calls.get(_text(item.get("call_id")))
            if call is None:
                self.coverage.count(f"{name} without call", logs.UNKNOWN)
                return
            call.output, call.error = _result(item.get("output", item.get("tools")))
            self.coverage.count(name, logs.JOINED)
        else:
            self.coverage.count(name, logs.SKIPPED if kind in _SILENT_ITEMS else logs.UNKNOWN)

    def _message(self, item: dict[str, Any], record: Record, time: str) -> None:
        role, content = item.get("role"), item.get("content")
        texts, images = [], 0
        for block in content if isinstance(content, list) else [{"text": content}]:
            if isinstance(block, dict) and isinstance(block.get("text"), str):
                texts.append(block["text"])
            elif isinstance(block, dict) and block.get("type") == "input_image":
                images += 1
        if role == "user":
            texts = [t for t in texts if not t.lstrip().startswith(("<image", "</image"))]
        text = "\n".join(texts).strip()
        name = f"response_item/message {role}"
        if role == "assistant":
            repeated = self._link("assistant", text)
            message = self._assistant(record, time)
            message.repeated = message.repeated and repeated
            message.parts.append(Part("text", text))
            self.coverage.count(name, logs.DUPLICATE if repeated else logs.USED)
        elif role == "user":
            spoken = [t for t in texts if not t.lstrip().startswith(_ENVELOPES)]
            if not "".join(spoken).strip():
                mark = session.INTERRUPT if text.startswith("<turn_aborted>") else session.META
                self._put("user", [Part("text", text)], record, time, mark)
                self.coverage.count(name, logs.CONTEXT)
                return
            text = "\n".join(spoken).strip()
            repeated = self._link("user", text)
            parts = [Part("text", text)] + [Part("image")] * images
            self._put("user", parts, record, time, "", repeated)
            self.coverage.count(name, logs.DUPLICATE if repeated else logs.USED)
        elif role in ("system", "developer"):
            self._put("system", [Part("text", text)], record, time, session.SYSTEM)
            self.coverage.count(name, logs.CONTEXT)
        else:
            self.coverage.count(name, logs.UNKNOWN)

    def _link(self, *content: Any) -> bool:
        """Append to the hash of the conversation so far; True when an earlier session began the same way."""
        # Without the numbers of placeholders: they may differ where a fork's own first lines hold more secrets.
        raw = _NUMBER.sub(b">", json.dumps(content, ensure_ascii=True, default=str).encode())
        self.chain = hashlib.blake2b(self.chain + raw, digest_size=12).digest()
        self.mine.add(self.chain)
        return self.chain in self.seen

    def _put(
        self, role: str, parts: list[Part], record: Record, time: str, mark: str, repeated: bool = False
    ) -> Message:
        self.count += 1
        above = self.path[-1].id if self.path else None
        message = Message(f"m{self.count}", role, parts, above, mark, time, self.model if role == "assistant" else "",
                          record.line, record.line, repeated)  # fmt: skip
        self.path.append(message)
        # The first ask after a roll-back is what replaced the branch.
        if role == "user" and not mark and self.branches and self.branches[-1].kept is None:
            self.branches[-1].kept = message
        return message

    def _assistant(self, record: Record, time: str) -> Message:
        """The open assistant message: thinking, then calls or text. A text or a call that follows results opens one."""
        last = self.path[-1] if self.path else None
        if last is None or last.role != "assistant" or last.mark or _complete(last):
            last = self._put("assistant", [], record, time, "", repeated=True)
        last.timestamp, last.last_line = time or last.timestamp, record.line
        return last

    def session(self, item: Found, name: str) -> Session:
        base = name.rsplit("/", 1)[-1].removesuffix(".zst").removesuffix(".jsonl")
        if self.model:
            self.info["model"] = self.model
        made = Session("codex", self.id or base[-36:], name, self.path, self.branches, info=self.info)
        made.parent = self.parent
        return made


def _complete(message: Message) -> bool:
    """A message ends with its text, or once one of its calls has a result."""
    calls = message.calls
    return any(p.kind == "text" for p in message.parts) if not calls else any(c.output is not None for c in calls)


def _call(item: dict[str, Any]) -> ToolCall:
    kind = item["type"]
    call_id = _text(item.get("call_id")) or _text(item.get("id"))
    if kind == "function_call":
        return ToolCall(call_id, _text(item.get("name")), _decoded(item.get("arguments")))
    if kind == "custom_tool_call":
        return ToolCall(call_id, _text(item.get("name")), item.get("input"))
    name = {"local_shell_call": "shell", "web_search_call": "web_search"}.get(kind, kind.removesuffix("_call"))
    return ToolCall(call_id, name, item.get("action", item.get("arguments")))


def _decoded(arguments: Any) -> Any:
    """The arguments are JSON in a string; what is no JSON stays the string."""
    if not isinstance(arguments, str):
        return arguments
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    # Half of a surrogate pair cannot be written.
    return logs.mend(arguments.encode("utf-8", "replace")) if re.search(r"(?i)\\ud[89a-f]", arguments) else found


def _result(output: Any) -> tuple[str, bool]:
    """(text, failed) of a call's output: a text, JSON in a text with an exit code, or a list of content items."""
    if isinstance(output, str):
        if output.startswith("{"):
            found = _decoded(output)
            if isinstance(found, dict) and isinstance(found.get("output"), str):
                about = found.get("metadata")
                code = about.get("exit_code") if isinstance(about, dict) else None
                return found["output"], bool(code)
        head = output[:200]
        failed = "Exit code: " in head and not head.partition("Exit code: ")[2].startswith("0")
        failed = failed or ("exited with code " in head and not head.partition("exited with code ")[2].startswith("0"))
        return output, failed
    if isinstance(output, dict):
        text, _ = _result(output.get("content", output.get("output")))
        return text, output.get("success") is False
    if isinstance(output, list):
        texts = [_text(x.get("text")) or f"[{x.get('type', 'item')}]" for x in output if isinstance(x, dict)]
        return "\n".join(texts), False
    return "" if output is None else json.dumps(output, ensure_ascii=False), False


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""

"""What a session becomes: rows of training data, one view at a time.

- `turns` (default): an ask and the final answer of its turn as a `TrainingSample`, the tool transcript as `input`.
- `trajectory`: the whole conversation as chat messages with tool calls and results.
- `tools`: the next tool call, given the turn so far.
- `preference`: the kept answer against a rewound one. Rewound branches appear nowhere else.

Interim remarks of an agent ("I'll look at the test.") are never an answer, and a turn that ended in an error, an
interrupt, an open tool call or the user's "no" is left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from afs.generators.base import TrainingSample, content_id
from afs.training.exports.session import OK, Message, Session, ToolCall, Turn, turns_of

VIEWS = ("turns", "trajectory", "tools", "preference")
NO_RESULT = "(the log holds no result of this call)"
MAX_CALL_CHARS = 8000
"""Longest input of a call in a transcript; a file that was written whole is cut there, with a mark."""


@dataclass(frozen=True)
class Shape:
    """How rows look.

    Attributes:
        tools: with the tool transcript.
        thoughts: with the model's thinking.
        system: with system and developer messages (trajectory).
        sidechains: also the sessions of sub-agents.
        max_tool_output_chars: longest tool result; the rest is cut with a mark.
    """

    view: str = "turns"
    domain: str = "general"
    source: str = ""
    tools: bool = True
    thoughts: bool = False
    system: bool = False
    sidechains: bool = False
    max_tool_output_chars: int = 2000


class Made(NamedTuple):
    """One unit of a view: its row, or the reason why there is none (`fate` "filtered" or "duplicates")."""

    row: dict[str, Any] | TrainingSample | None
    fate: str = "out"
    reason: str = ""


@dataclass
class _Where:
    session: Session
    shape: Shape
    repo: str = ""
    base: dict[str, Any] = field(default_factory=dict)


def rows(session: Session, shape: Shape) -> Iterator[Made]:
    """The units of a session in the view that the shape asks for."""
    make = {"turns": _turns, "trajectory": _trajectory, "tools": _tools, "preference": _preference}[shape.view]
    for item in session.walk():
        if item.parent and not shape.sidechains:
            turns = turns_of(item.path)
            yield from (Made(None, "filtered", "sub-agent") for _ in turns)
            continue
        base = {"session_id": item.id, "log": item.file, "agent": item.kind}
        if item.parent:
            base["parent_session"] = item.parent
        for key in ("cwd", "git_branch"):
            if item.info.get(key):
                base[key] = item.info[key]
        yield from make(_Where(item, shape, base=base))


def _turns(where: _Where) -> Iterator[Made]:
    for turn in where.session.turns():
        refused = _refused(turn)
        if refused:
            yield refused
            continue
        answer, shape = turn.answer, where.shape
        thinking = "\n\n".join(step.thinking for step in turn.steps if step.thinking) if shape.thoughts else ""
        yield Made(TrainingSample(
            instruction=turn.ask.text, output=answer.text,
            input=transcript(turn.steps[:-1], shape) if shape.tools else "", thinking=thinking or None,
            domain=shape.domain, source=shape.source or where.session.kind, teacher_model=answer.model,
            timestamp=answer.timestamp or turn.ask.timestamp, _metadata=_about(where, turn),
        ))  # fmt: skip


def _refused(turn: Turn) -> Made | None:
    """Why a turn is no example; None when it is one."""
    if turn.outcome != OK:
        return Made(None, "filtered", f"turn: {turn.outcome}")
    if not turn.ask.text:
        return Made(None, "filtered", "turn: ask without text")
    if turn.answer.repeated:
        return Made(None, "duplicates", "turn of an earlier session")
    return None


def _about(where: _Where, turn: Turn) -> dict[str, Any]:
    found = {**where.base, "line": turn.ask.line, "last_line": turn.steps[-1].last_line, "turn": turn.number}
    calls = turn.calls
    if calls:
        found["tools"] = sorted({call.name for call in calls})
        found["tool_calls"] = len(calls)
        found["tool_errors"] = sum(call.error for call in calls)
    if turn.compacted:
        found["compacted"] = True
    return found


def transcript(steps: list[Message], shape: Shape) -> str:
    """The steps before the answer: remarks, calls and results, one block each."""
    blocks = []
    for step in steps:
        for part in step.parts:
            if part.kind == "text" and part.text:
                blocks.append(f"[assistant] {part.text}")
            elif part.call is not None:
                call = part.call
                blocks.append(f"[call {call.name}] {cut(_arguments(call), MAX_CALL_CHARS)}")
                word = "error" if call.error else "result"
                blocks.append(f"[{word}] {result_text(call, shape)}")
    return "\n".join(blocks)


def result_text(call: ToolCall, shape: Shape) -> str:
    return NO_RESULT if call.output is None else cut(call.output, shape.max_tool_output_chars)


def cut(text: str, limit: int) -> str:
    """Head and tail of a long text with a mark between; redaction came before, so no secret is cut in half."""
    if limit <= 0 or len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    return f"{text[:head]}\n[… {len(text) - limit:,} characters left out …]\n{text[len(text) - tail:]}"


def _arguments(call: ToolCall) -> str:
    try:
        return call.input if isinstance(call.input, str) else json.dumps(call.input, ensure_ascii=False)
    except RecursionError:
        return "(nested too deep to be written)"


# --- chat messages ----------------------------------------------------------------------------------------------------


def chat(path: list[Message], shape: Shape) -> list[dict[str, Any]]:
    """Messages in the OpenAI form: system, user, assistant with tool_calls, tool."""
    found: list[dict[str, Any]] = []
    for message in path:
        if message.mark:
            if message.mark == "system" and shape.system and message.text:
                found.append({"role": "system", "content": message.text})
        elif message.role == "user":
            found.append({"role": "user", "content": message.text})
        else:
            found += _assistant(message, shape)
    return found


def _assistant(message: Message, shape: Shape) -> list[dict[str, Any]]:
    made: dict[str, Any] = {"role": "assistant", "content": message.text}
    if shape.thoughts and message.thinking:
        made["thinking"] = message.thinking
    calls = message.calls if shape.tools else []
    if calls:
        made["tool_calls"] = [
            {"id": c.id or f"call_{message.line}_{n}", "type": "function",
             "function": {"name": c.name, "arguments": _arguments(c)}} for n, c in enumerate(calls)
        ]  # fmt: skip
    elif not made["content"]:
        return []
    results = [{"role": "tool", "tool_call_id": c["id"], "content": result_text(call, shape)}
               for c, call in zip(made.get("tool_calls", ()), calls, strict=True)]  # fmt: skip
    return [made, *results]


def _row(where: _Where, key: str, messages: list[dict[str, Any]], about: dict[str, Any], **more: Any) -> dict[str, Any]:
    timestamp = about.pop("timestamp", "")
    return {key: messages, **more, "domain": where.shape.domain, "source": where.shape.source or where.session.kind,
            "sample_id": content_id(messages, more), "timestamp": timestamp, "_metadata": about}  # fmt: skip


def _trajectory(where: _Where) -> Iterator[Made]:
    turns = where.session.turns()
    good = [turn for turn in turns if turn.outcome == OK and turn.ask.text]
    if not turns:
        return
    if not good:
        yield Made(None, "filtered", "session without a finished turn")
        return
    if all(turn.answer.repeated for turn in good):
        yield Made(None, "duplicates", "session that an earlier one holds")
        return
    # Up to the last finished turn: what follows is an error, an interrupt or a log that is still being written.
    path = where.session.path
    places = {id(m): at for at, m in enumerate(path)}
    end = places[id(good[-1].answer)] + 1
    begin = 0 if where.shape.system else places[id(turns[0].ask)]
    messages = chat(path[begin:end], where.shape)
    about = {**where.base, "line": turns[0].ask.line, "turns": len(good), "timestamp": good[-1].answer.timestamp,
             "model": good[-1].answer.model, "repeated_turns": sum(t.answer.repeated for t in good)}  # fmt: skip
    yield Made(_row(where, "messages", messages, about))


def _tools(where: _Where) -> Iterator[Made]:
    for turn in where.session.turns():
        for at, step in enumerate(turn.steps):
            if not step.calls:
                continue
            if step.repeated:
                yield Made(None, "duplicates", "call of an earlier session")
            elif not turn.ask.text or any(call.error for call in step.calls):
                yield Made(None, "filtered", "call: error")
            elif any(call.output is None for call in step.calls):
                yield Made(None, "filtered", "call: no result")
            else:
                before = chat([turn.ask, *turn.steps[:at]], where.shape)
                messages = [*before, _assistant(step, where.shape)[0]]
                about = {**where.base, "line": step.line, "turn": turn.number, "timestamp": step.timestamp,
                         "model": step.model, "tools": sorted({c.name for c in step.calls})}  # fmt: skip
                yield Made(_row(where, "messages", messages, about))


def _preference(where: _Where) -> Iterator[Made]:
    turns = where.session.turns()
    by_ask = {turn.ask.id: turn for turn in turns}
    for branch in where.session.branches:
        lost = turns_of(branch.path)
        kept = by_ask.get(branch.kept.id) if branch.kept is not None else None
        if not lost or lost[0].answer is None or not lost[0].answer.text or lost[0].answer.calls:
            yield Made(None, "filtered", "branch: no answer in it")
        elif kept is None or kept.outcome != OK:
            yield Made(None, "filtered", "branch: nothing better replaced it")
        elif kept.answer.repeated and lost[0].answer.repeated:
            yield Made(None, "duplicates", "branch of an earlier session")
        elif kept.answer.text == lost[0].answer.text:
            yield Made(None, "filtered", "branch: same answer")
        else:
            prompt = [{"role": "user", "content": kept.ask.text}]
            about = {**where.base, "line": kept.ask.line, "rejected_line": lost[0].ask.line,
                     "same_ask": kept.ask.text == lost[0].ask.text, "timestamp": kept.answer.timestamp,
                     "model": kept.answer.model}  # fmt: skip
            yield Made(_row(where, "prompt", prompt, about,
                            chosen=[{"role": "assistant", "content": kept.answer.text}],
                            rejected=[{"role": "assistant", "content": lost[0].answer.text}]))  # fmt: skip

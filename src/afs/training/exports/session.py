"""The canonical session: what every decoder makes and every view reads.

A session is a tree of messages. Its path is the conversation as it stood at the end; messages that were rewound hang
beside it as rejected branches. Tool results are joined to their calls, so a path holds only user asks, marks and
assistant messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Marks of messages that are no speech; "" is speech.
META, COMPACTION, ERROR, INTERRUPT, COMMAND, SYSTEM = "meta", "compaction", "error", "interrupt", "command", "system"
# How a turn ended; only OK turns are imitated.
OK, OPEN, CORRECTED, NO_ANSWER = "ok", "open", "corrected", "no_answer"
_CORRECTION = re.compile(r"(?i)^\s*(?:no\b[,.!]|no$|no, |nope\b|wrong\b|that'?s (?:wrong|not )|revert\b|undo\b|"
                         r"stop\b[.!]?$)")  # fmt: skip


@dataclass(slots=True)
class ToolCall:
    """A call joined with its result; `output` is None for an orphan (no result in the log)."""

    id: str
    name: str
    input: Any
    output: str | None = None
    error: bool = False


@dataclass(slots=True)
class Part:
    """A piece of a message: kind "text", "thinking", "tool_call" or "image"."""

    kind: str
    text: str = ""
    call: ToolCall | None = None


@dataclass(slots=True)
class Message:
    """One message; `line` is its first line in the log, `repeated` that an earlier session holds it too."""

    id: str
    role: str
    parts: list[Part] = field(default_factory=list)
    parent: str | None = None
    mark: str = ""
    timestamp: str = ""
    model: str = ""
    line: int = 0
    last_line: int = 0
    repeated: bool = False

    @property
    def text(self) -> str:
        return "\n".join(p.text for p in self.parts if p.kind == "text" and p.text).strip()

    @property
    def thinking(self) -> str:
        return "\n".join(p.text for p in self.parts if p.kind == "thinking" and p.text).strip()

    @property
    def calls(self) -> list[ToolCall]:
        return [p.call for p in self.parts if p.call is not None]


@dataclass(slots=True)
class Turn:
    """A user's ask and all that followed until the next one."""

    ask: Message
    steps: list[Message]
    number: int = 0
    outcome: str = OK
    compacted: bool = False

    @property
    def answer(self) -> Message | None:
        """The final assistant message; only `outcome == "ok"` makes it one to imitate."""
        return self.steps[-1] if self.steps and self.steps[-1].role == "assistant" else None

    @property
    def calls(self) -> list[ToolCall]:
        return [call for step in self.steps for call in step.calls]


@dataclass(slots=True)
class Branch:
    """A rewound continuation: `path` after the message `fork`, given up for what follows `fork` on the session's path.

    `kept` is the first message of the path that replaced it, None when nothing did.
    """

    fork: str | None
    path: list[Message]
    kept: Message | None = None


@dataclass(slots=True)
class Session:
    """One conversation with an agent.

    Attributes:
        kind: the decoder, for example "claude".
        path: messages on the active path, in order (see the module).
        branches: rewound continuations, never to be imitated.
        parent: id of the session that spawned this one (a sub-agent), "" for a person's session.
        info: cwd, model, version, branch and the like, where the log has them.
        file: the log's path below its root (redacted).
    """

    kind: str
    id: str
    file: str = ""
    path: list[Message] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    children: list[Session] = field(default_factory=list)
    parent: str = ""
    info: dict[str, Any] = field(default_factory=dict)

    def turns(self) -> list[Turn]:
        """The turns of the active path."""
        return turns_of(self.path)

    def walk(self) -> Iterator[Session]:
        """This session, then its sub-agents' sessions."""
        yield self
        for child in self.children:
            yield from child.walk()


def turns_of(path: list[Message]) -> list[Turn]:
    """Cut a path into turns. Messages before the first ask belong to none."""
    turns: list[Turn] = []
    ended = ""
    for message in path:
        if message.role == "user" and not message.mark:
            if turns:
                _close(turns[-1], ended, message)
            turns.append(Turn(message, [], len(turns)))
            ended = ""
        elif not turns:
            continue
        elif message.mark in (ERROR, INTERRUPT):
            ended = message.mark
        elif message.mark == COMPACTION:
            turns[-1].compacted = True
        elif message.role == "assistant" and not message.mark:
            turns[-1].steps.append(message)
            # An error that the agent recovered from does not end the turn; an interrupt does.
            ended = "" if ended == ERROR else ended
    if turns:
        _close(turns[-1], ended, None)
    return turns


def _close(turn: Turn, ended: str, following: Message | None) -> None:
    if ended:
        turn.outcome = ended
    elif not turn.steps:
        turn.outcome = NO_ANSWER
    elif turn.steps[-1].calls:
        turn.outcome = OPEN
    elif not turn.steps[-1].text:
        turn.outcome = NO_ANSWER
    elif following is not None and _CORRECTION.match(following.text[:80]):
        turn.outcome = CORRECTED

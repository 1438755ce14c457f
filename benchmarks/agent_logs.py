"""Made Claude Code logs of any size, the same for a seed: for benchmarks and tests of the exports.

    from benchmarks.agent_logs import make_claude_logs
    make_claude_logs(folder, sessions=1000, megabytes=145)
"""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import orjson

_WORDS = ("the test fails because parser reads file twice then returns wrong value check line import module function "
          "class method result output error warning build run command path index table column token string number "
          "update remove add change fix review commit branch merge server client request response handler").split()
_SECRETS = ('API_KEY="a8f3k2j9x7q1"', "ghp_" + "a1B2c3D4e5" * 4, "jane.doe@example.org", "Bearer abcdef0123456789abcd",
            "postgres://app:hunter2secret@db.local/x")  # fmt: skip


def make_claude_logs(folder: Path | str, sessions: int = 1000, megabytes: float = 145.0, seed: int = 7) -> int:
    """Write `sessions` logs below `folder/projects`, about `megabytes` in all; returns the bytes written.

    Each session has turns of a question, two tool calls with long results, and an answer; one line in 40 holds a
    secret, every line the home folder (as real logs do).
    """
    rng = random.Random(seed)
    share = megabytes * 1e6 / sessions
    total = 0
    for number in range(sessions):
        place = Path(folder) / "projects" / f"-home-jane-src-project{number % 20}"
        place.mkdir(parents=True, exist_ok=True)
        session = str(uuid.UUID(int=rng.getrandbits(128)))
        lines: list[bytes] = []
        size, parent, turn = 0, None, 0
        while size < share:
            for line in _turn(rng, session, parent, number, turn):
                raw = orjson.dumps(line)
                lines.append(raw)
                size += len(raw) + 1
                parent = line["uuid"]
            turn += 1
        (place / f"{session}.jsonl").write_bytes(b"\n".join([*lines, b""]))
        total += size
    return total


def _words(rng: random.Random, count: int) -> str:
    text = " ".join(rng.choices(_WORDS, k=count))
    return f"{text} {rng.choice(_SECRETS)} end" if rng.random() < 1 / 40 else text


def _turn(rng: random.Random, session: str, parent: str | None, number: int, turn: int) -> list[dict]:
    made: list[dict] = []

    def line(kind: str, message: dict, **more: object) -> None:
        made.append({
            "parentUuid": made[-1]["uuid"] if made else parent, "isSidechain": False, "userType": "external",
            "cwd": f"/home/jane/src/project{number % 20}", "sessionId": session, "version": "2.0.1",
            "gitBranch": "main", "type": kind, "message": message, "uuid": str(uuid.UUID(int=rng.getrandbits(128))),
            "timestamp": f"2026-{1 + number % 12:02}-{1 + number % 28:02}T{turn // 60 % 24:02}:{turn % 60:02}:00.000Z",
            **more,
        })  # fmt: skip

    def assistant(block: dict, api_id: str) -> None:
        line("assistant", {"id": api_id, "type": "message", "role": "assistant", "model": "claude-x",
                           "content": [block], "stop_reason": None,
                           "usage": {"input_tokens": 4, "output_tokens": 90}}, requestId=f"req_{api_id}")  # fmt: skip

    line("user", {"role": "user", "content": _words(rng, 30)})
    for step in range(2):
        api_id = f"msg_{rng.getrandbits(64):016x}"
        assistant({"type": "text", "text": _words(rng, 20)}, api_id)
        call = f"toolu_{rng.getrandbits(64):016x}"
        path = f"/home/jane/src/project{number % 20}/module{step}.py"
        assistant({"type": "tool_use", "id": call, "name": "Read", "input": {"file_path": path}}, api_id)
        text = "\n".join(f"{n:>6}\t{_words(rng, 9)}" for n in range(rng.randrange(4, 22)))
        line("user", {"role": "user", "content": [{"tool_use_id": call, "type": "tool_result", "content": text}]},
             toolUseResult={"type": "text", "file": {"filePath": path, "numLines": 20}})  # fmt: skip
    assistant({"type": "text", "text": _words(rng, 80)}, f"msg_{rng.getrandbits(64):016x}")
    return made

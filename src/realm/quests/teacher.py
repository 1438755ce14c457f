"""A teacher that writes: an OpenAI-compatible endpoint that is asked the questions of a quest, and never believed.

    with Teacher(Endpoint("http://127.0.0.1:8765/v1", "pip")) as teacher:
        answers = teacher.answers([[{"role": "user", "content": "Compute: add(①, ①)"}]])

An endpoint may be down, slow, stall in the middle of a sentence, answer with a login page, rubbish or nothing: each
ends in an `Answer` with a reason or in a `TeacherError` that names the address, what came and what to do. Answers are
noted in a file as they come, so that a quest that is interrupted, fails or is tried again asks nothing twice.

The key is read from the environment variable REALM_TEACHER_KEY; it is written nowhere. Torch-free.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

KEY = "REALM_TEACHER_KEY"
MAX_BYTES = 2_000_000  # an answer is some kilobytes; a stream without end is not read to its end
RETRY_S = (1.0, 4.0, 15.0)  # waits before each further try
POLL_S = 0.1
RETRY_AT_MOST_S = 60.0  # of what an endpoint asks for
TRY_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.S)

Message = Mapping[str, str]


class TeacherError(RuntimeError):
    """The endpoint cannot teach now; the text names the address, what came, and the next action."""


@dataclass(frozen=True)
class Endpoint:
    """Where the teacher is. `timeout_s`: for a whole answer, from connecting to its last byte."""

    url: str
    model: str
    timeout_s: float = 120.0
    max_tokens: int = 512
    temperature: float = 0.0
    parallel: int = 4

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TeacherError(f"{self.url!r} is no http or https address; write http://HOST:PORT/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise TeacherError(f"the teacher's address holds a key, a query or a #part; put the key into {KEY} and "
                               "write http://HOST:PORT/v1")  # fmt: skip
        if not self.model.strip():
            raise TeacherError(f"{self.url}: no model is named; add model: to the quest's options")

    @property
    def chat(self) -> str:
        return self.url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"


@dataclass(frozen=True)
class Answer:
    """What came back. `problem`: why it is of no use (empty | cut), None for one that may be looked at."""

    text: str
    problem: str | None = None


class Teacher:
    """A connection to one endpoint. Close it, or use it as a context.

    Args:
        notes: file of the answers so far, or None.
        retry_s: waits before each further try.
    """

    def __init__(self, endpoint: Endpoint, notes: Path | None = None, retry_s: Sequence[float] = RETRY_S) -> None:
        self.endpoint, self._retry_s = endpoint, tuple(retry_s)
        self._leave = threading.Event()
        self._notes = _Notes(notes)
        key = os.environ.get(KEY, "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # A model that does not stream sends its first byte when it has written the last word.
        timeout = httpx.Timeout(endpoint.timeout_s, connect=min(10.0, endpoint.timeout_s))
        self._client = httpx.Client(headers=headers, timeout=timeout)

    def __enter__(self) -> Teacher:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def answers(
        self, questions: Sequence[Sequence[Message]], interrupted: Callable[[], bool] = lambda: False
    ) -> list[Answer] | None:  # fmt: skip
        """One answer per question, in order; None when `interrupted` said so. What came until then is noted.

        Raises:
            TeacherError: the endpoint cannot be asked, or refuses, also after some tries.
        """
        pool = ThreadPoolExecutor(max(1, self.endpoint.parallel), thread_name_prefix="teacher")
        asked = [pool.submit(self.ask, question) for question in questions]
        try:
            for each in asked:
                while not wait([each], POLL_S).done:
                    if interrupted():
                        return None
                each.result()
            return [each.result() for each in asked]
        finally:
            self._leave.set()  # nobody waits for the others any more
            pool.shutdown(cancel_futures=True)
            self._leave.clear()

    def ask(self, messages: Sequence[Message]) -> Answer:
        """One answer, from the notes where this was asked before."""
        body = {"model": self.endpoint.model, "messages": [dict(m) for m in messages], "stream": False,
                "max_tokens": self.endpoint.max_tokens, "temperature": self.endpoint.temperature}  # fmt: skip
        key = hashlib.sha256(orjson.dumps([self.endpoint.chat, body])).hexdigest()
        known = self._notes.get(key)
        if known is None:
            known = _read(self._post(body), self.endpoint)
            self._notes.put(key, known)
        return known

    def _post(self, body: Mapping[str, Any]) -> bytes:
        problem = ""
        for seconds in (0.0, *self._retry_s):
            if self._leave.wait(seconds):
                break
            try:
                status, headers, raw = self._once(body)
            except (httpx.HTTPError, httpx.InvalidURL, _Stalled) as error:
                problem = f"no answer ({type(error).__name__.strip('_')}: {error})"
                continue
            if status == 200:
                return raw
            if status not in TRY_AGAIN:
                raise TeacherError(_refused(status, headers, raw, self.endpoint))
            problem = f"HTTP {status}: {_snippet(raw)}"
            self._leave.wait(_wait_asked(headers))
        tries = len(self._retry_s) + 1
        raise TeacherError(f"{self.endpoint.chat}: {problem or 'not asked'}, {tries} tries; start the teacher or mend "
                           "its address, then retry the quest (its answers so far are kept)")  # fmt: skip

    def _once(self, body: Mapping[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """One request, read within the time and size that an answer may take; httpx alone limits only each read."""
        end = time.monotonic() + self.endpoint.timeout_s
        with self._client.stream("POST", self.endpoint.chat, json=body) as response:
            parts, size = [], 0
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > MAX_BYTES:
                    raise TeacherError(f"{self.endpoint.chat} sent more than {MAX_BYTES:,} bytes for one answer; it is "
                                       "no OpenAI-compatible endpoint, or it streams: use another")  # fmt: skip
                if time.monotonic() > end or self._leave.is_set():
                    raise _Stalled(f"not finished after {self.endpoint.timeout_s:.0f} s")
            return response.status_code, response.headers, b"".join(parts)


class _Stalled(Exception):
    """Bytes came, but no end."""


def _read(raw: bytes, endpoint: Endpoint) -> Answer:
    """The text of a chat completion.

    Raises:
        TeacherError: what came is none.
    """
    try:
        choice = orjson.loads(raw)["choices"][0]
        text = choice["message"]["content"]
        reason = choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        html = raw.lstrip()[:1] == b"<"
        what = "a web page" if html else "no chat completion"
        raise TeacherError(f"{endpoint.chat} answered with {what} ({_snippet(raw)}); it must be the address of an "
                           "OpenAI-compatible API, which mostly ends in /v1") from None  # fmt: skip
    text = _THOUGHT.sub("", text).strip() if isinstance(text, str) else ""
    if reason == "length":
        return Answer(text, "cut")  # half an answer must not be learnt as a whole one
    return Answer(text, None if text else "empty")


def _refused(status: int, headers: httpx.Headers, raw: bytes, endpoint: Endpoint) -> str:
    said = f"{endpoint.chat} refuses with HTTP {status}: {_snippet(raw)}"
    if status in (401, 403):
        return f"{said}. Put its key into the environment variable {KEY} and start the realm again"
    if status == 404:
        known = f"{endpoint.url.rstrip('/')}/models"
        return f"{said}. There is no such address, or no model {endpoint.model!r}: see {known}"
    if 300 <= status < 400:
        return f"{said}. It points to {headers.get('location', 'nowhere')}; write that address if you trust it"
    return f"{said}. Mend the model or the options of the quest"


def _snippet(raw: bytes) -> str:
    text = " ".join(raw[:2000].decode("utf-8", "replace").split())
    return repr(text[:160] + ("…" if len(text) > 160 else "")) if text else "an empty body"


def _wait_asked(headers: httpx.Headers) -> float:
    """Seconds of a Retry-After header; 0 where it says none (a date is passed over: the plain waits do)."""
    try:
        return min(RETRY_AT_MOST_S, max(0.0, float(headers.get("retry-after", 0))))
    except ValueError:
        return 0.0


class _Notes:
    """Answers by the hash of what was asked, one JSON line each; appended, so a kill loses one line at the most."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._lock = path, threading.Lock()
        self._known = dict(self._lines()) if path is not None and path.is_file() else {}

    def _lines(self) -> Iterator[tuple[str, Answer]]:
        for line in self._path.read_bytes().splitlines():
            try:
                row = orjson.loads(line)
                yield row["key"], Answer(row["text"], row["problem"])
            except (ValueError, KeyError, TypeError):
                continue  # the line that a kill cut off; it is asked again

    def get(self, key: str) -> Answer | None:
        return self._known.get(key)

    def put(self, key: str, answer: Answer) -> None:
        with self._lock:
            self._known[key] = answer
            if self._path is None:
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            line = orjson.dumps({"key": key, "text": answer.text, "problem": answer.problem})
            with open(self._path, "ab") as file:
                # A line of its own even behind one that was cut off.
                file.write((b"\n" if file.tell() else b"") + line)

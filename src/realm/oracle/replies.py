"""Answers in OpenAI's shapes: whole objects and stream chunks, from rows. Torch-free."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from realm import db
from realm.oracle.rows import Row, Told


def _number(logprob: float) -> float | None:
    """JSON has no infinity; -9999 is what OpenAI's own interface says for "never"."""
    return None if math.isnan(logprob) else max(logprob, -9999.0)


def _token(model: Any, token: int, logprob: float) -> dict[str, Any]:
    text = model.token_text(token)
    return {"token": text, "logprob": _number(logprob), "bytes": None if "\ufffd" in text else list(text.encode())}


def chat_logprobs(model: Any, told: Sequence[Told]) -> dict[str, Any]:
    """`logprobs` of a chat choice."""
    return {"content": [{**_token(model, t.token, t.logprob),
                         "top_logprobs": [_token(model, *pair) for pair in t.top]} for t in told],
            "refusal": None}  # fmt: skip


def text_logprobs(model: Any, told: Sequence[Told | None], ids: Sequence[int], offset: int = 0) -> dict[str, Any]:
    """`logprobs` of a completion choice: parallel lists; a token without one (the prompt's first) has None.

    Args:
        ids: the tokens, as many as `told`.
        offset: characters before the first token.
    """
    made: dict[str, list] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token, said in zip(ids, told, strict=True):
        text = model.token_text(token)
        made["tokens"].append(text)
        made["text_offset"].append(offset)
        offset += len(text)
        made["token_logprobs"].append(None if said is None else _number(said.logprob))
        # Tokens may share a text (half characters): the likelier one keeps it, so it is written last.
        tops = None if said is None else [(said.token, said.logprob), *reversed(said.top)]
        made["top_logprobs"].append(None if tops is None else {model.token_text(t): _number(lp) for t, lp in tops})
    return made


class Reply:
    """The objects of one answer: `chat` or text, one id and time for all its parts."""

    def __init__(self, name: str, model: Any, request: Any, chat: bool) -> None:
        self.name, self.model, self.request, self.chat = name, model, request, chat
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{db.new_id()}"
        self._created = int(time.time())
        self._begun: set[int] = set()

    def _frame(self, choices: list[dict[str, Any]], chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        # The very weights that answered, also when they were asked for by an alias.
        return {"id": self._id, "object": kind, "created": self._created, "model": self.name,
                "system_fingerprint": self.model.found.id, "choices": choices}  # fmt: skip

    def whole(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The answer at once."""
        made = self._frame([self._chat_choice(r) if self.chat else self._text_choice(r) for r in rows], chunk=False)
        return {**made, "usage": self.usage(rows)}

    def _chat_choice(self, row: Row) -> dict[str, Any]:
        logprobs = chat_logprobs(self.model, row.told) if row.top is not None else None
        return {"index": row.index, "message": {"role": "assistant", "content": row.writer.text, "refusal": None},
                "logprobs": logprobs, "finish_reason": row.finish}  # fmt: skip

    def _text_choice(self, row: Row) -> dict[str, Any]:
        echo = bool(self.request.echo)
        text = (self.model.text(row.prompt) if echo else "") + row.writer.text
        logprobs = None
        if row.top is not None:
            told, ids = [*row.scored, *row.told], row.tokens
            logprobs = text_logprobs(self.model, told, [*row.prompt, *ids] if echo else ids)
        return {"index": row.index, "text": text, "logprobs": logprobs, "finish_reason": row.finish}

    def piece(self, row: Row, text: str, told: list[Told], last: bool) -> list[dict[str, Any]]:
        """The chunks that tell what a row has new; the `last` ones say how it ended."""
        finish = row.finish if last else None
        first = row.index not in self._begun
        self._begun.add(row.index)
        if not self.chat:
            return self._text_piece(row, text, told, first, finish)
        made = []
        if first:
            made.append(self._chunk(row, {"role": "assistant", "content": ""}))
        if text or told:
            made.append(self._chunk(row, {"content": text}, told if row.top is not None else None))
        if finish:
            made.append(self._chunk(row, {}, finish=finish))
        return made

    def _chunk(
        self, row: Row, delta: dict[str, str], told: list[Told] | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": row.index, "delta": delta, "finish_reason": finish,
                  "logprobs": None if told is None else chat_logprobs(self.model, told)}  # fmt: skip
        return self._frame([choice], chunk=True)

    def _text_piece(self, row: Row, text: str, told: list[Told], first: bool,
                    finish: str | None) -> list[dict[str, Any]]:  # fmt: skip
        said: list[Told | None] = list(told)
        ids = [t.token for t in told]
        if first and self.request.echo:
            text = self.model.text(row.prompt) + text
            said, ids = [*row.scored, *said], [*(row.prompt if row.scored else ()), *ids]
        logprobs = text_logprobs(self.model, said, ids) if row.top is not None else None
        return [self._frame([{"index": row.index, "text": text, "logprobs": logprobs, "finish_reason": finish}],
                            chunk=True)]  # fmt: skip

    def usage(self, rows: Sequence[Row]) -> dict[str, int]:
        """Tokens read and written; a prompt that several answers share is counted once."""
        read = sum(len(row.prompt) for row in rows[:: self.request.n])
        written = sum(len(row.tokens) for row in rows)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def last(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The closing chunk with the usage, for clients that asked for it."""
        return [{**self._frame([], chunk=True), "usage": self.usage(rows)}] if self.request.with_usage else []

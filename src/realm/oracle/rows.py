"""One answer being written: what was asked for, and what is there so far. Torch-free, shared between two threads.

The worker thread writes; the request's side only sets `cancelled` and reads once `finish` or `error` is set.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from realm.oracle.errors import OracleError
from realm.oracle.writing import Writer


@dataclass(frozen=True)
class Told:
    """A token with its natural-log probability and the likeliest alternatives, best first: [(token id, logprob)]."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass
class Row:
    """One answer. `top` None: no log probabilities; `score`: tell the prompt's own ones too (`scored`, first None)."""

    index: int
    prompt: list[int]
    limit: int
    temperature: float
    top_p: float
    seed: int | None
    top: int | None
    score: bool
    writer: Writer
    on_piece: Callable[[Row, str, list[Told]], None] | None = None
    cancelled: bool = False
    finish: Literal["stop", "length"] | None = None
    error: OracleError | None = None
    tokens: list[int] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    scored: list[Told | None] = field(default_factory=list)
    rng: random.Random = field(init=False)
    _unsent: list[Told] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Each answer has a stream of its own: it is the same whoever is asked in the same batch.
        self.rng = random.Random(secrets.randbits(64) if self.seed is None else f"{self.seed}/{self.index}")

    @property
    def over(self) -> bool:
        """Nothing more is to be written."""
        return self.cancelled or self.finish is not None or self.error is not None

    def take(self, token: int, told: Told | None, stop_id: int) -> None:
        """The next token that the model wrote."""
        if token == stop_id:
            self.close("stop")
            return
        self.tokens.append(token)
        if told is not None:
            self.told.append(told)
            self._unsent.append(told)
        piece = self.writer.push(token)
        if self.writer.stopped:
            self.close("stop", piece)
        elif len(self.tokens) >= self.limit:
            self.close("length", piece)
        elif piece:
            self._send(piece)

    def close(self, finish: Literal["stop", "length"], piece: str = "") -> None:
        """End the answer with everything that was held back."""
        piece += self.writer.end()
        self.finish = finish
        self._send(piece)

    def fail(self, error: OracleError) -> None:
        """End without an answer."""
        self.error = error
        self._send("")

    def _send(self, piece: str) -> None:
        unsent, self._unsent = self._unsent, []
        if self.on_piece is not None and not self.cancelled:
            self.on_piece(self, piece, unsent)


def rows_for(request: Any, prompts: list[list[int]], model: Any) -> list[Row]:
    """The rows of a request: n for each prompt.

    Raises:
        OracleError: 400, a prompt is empty or leaves no room in the context.
    """
    rows = []
    score = bool(getattr(request, "echo", False)) and request.top is not None
    for prompt in prompts:
        if not prompt:
            raise OracleError(400, "a prompt is empty and this model has no token to begin with; send some text",
                              "invalid_value", "prompt")  # fmt: skip
        wrong = next((token for token in prompt if token >= model.vocabulary), None)
        if wrong is not None:
            raise OracleError(400, f"token id {wrong} is not below the vocabulary's {model.vocabulary}; send ids of "
                              "this model's own tokenizer", "invalid_value", "prompt")  # fmt: skip
        left = model.context - len(prompt)
        wanted = max(1, left) if request.limit is None else request.limit
        if wanted > left:
            raise OracleError(
                400, f"the prompt has {len(prompt):,} tokens and {wanted:,} more are asked for, the context holds "
                f"{model.context:,}; shorten the conversation or lower max_tokens", "context_length_exceeded",
                "messages" if hasattr(request, "messages") else "prompt")  # fmt: skip
        for _ in range(request.n):
            writer = Writer(model.tokenizer, request.stops)
            rows.append(Row(len(rows), prompt, wanted, request.temperature, request.top_p, request.seed, request.top,
                            score, writer))  # fmt: skip
    return rows

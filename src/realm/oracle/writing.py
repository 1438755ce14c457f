"""What a row has written so far: whole characters only, and nothing of a stop sequence. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Writer:
    """Turns token ids into text that may be sent at once.

    A character of several tokens waits until it is whole, and an end that could become a stop sequence waits until it
    is known not to. `stopped` is True once a stop sequence was written; it is no part of the text.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._decoded = ""
        self._sent = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Text that became certain with this token; may be empty."""
        self._ids.append(token)
        piece = self._stream.step(self._tokenizer.backend_tokenizer, token) or ""
        begin = max(0, len(self._decoded) - max(map(len, self._stops), default=0))
        self._decoded += piece
        found = [at for at in (self._decoded.find(stop, begin) for stop in self._stops) if at >= 0]
        if found:
            self._decoded, self.stopped = self._decoded[: min(found)], True
            return self._release(len(self._decoded))
        return self._release(len(self._decoded) - self._held())

    def end(self) -> str:
        """What was still held back, once no more tokens come; half a character shows as the replacement character."""
        if not self.stopped:
            whole = self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if whole.startswith(self._decoded):
                self._decoded = whole
        return self._release(len(self._decoded))

    @property
    def text(self) -> str:
        """Everything released so far."""
        return self._decoded[: self._sent]

    def _held(self) -> int:
        """Length of the longest end that is the beginning of a stop sequence."""
        longest = min(len(self._decoded) - self._sent, max(map(len, self._stops), default=1) - 1)
        for size in range(longest, 0, -1):
            end = self._decoded[-size:]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0

    def _release(self, until: int) -> str:
        piece = self._decoded[self._sent : until]
        self._sent = max(self._sent, until)
        return piece

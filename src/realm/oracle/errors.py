"""What the Oracle refuses, in the shape that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

KIND = "invalid_request_error"


class OracleError(Exception):
    """A request that is not answered. `status` is the HTTP status, `code` one word, `param` the key that is wrong."""

    def __init__(self, status: int, text: str, code: str, param: str | None = None, retry_after: int | None = None):
        super().__init__(text)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        kind = "rate_limit_error" if self.status == 429 else "server_error" if self.status > 429 else KIND
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

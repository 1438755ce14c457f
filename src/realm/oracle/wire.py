"""What may be asked: OpenAI's requests as strict models, and the rules that need no tokenizer.

A key that is not known is an error with the nearest known one; a known key whose effect is not offered here (penalties,
tools) must have its neutral value, so that nothing a client asks for is silently left out. Torch-free.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from realm.oracle.errors import OracleError
from realm.settings import explain

BODY_BYTES = 4_000_000
ROWS_AT_MOST = 128  # answers of one request: prompts × n
STOPS_AT_MOST = 16
COMPARED = (2, 4)
SEED_AT_MOST = 2**63

Stop = Annotated[str, Field(min_length=1, max_length=200)]
Token = Annotated[int, Field(strict=True, ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamOptions(_Strict):
    include_usage: bool = False


class TextFormat(_Strict):
    type: Literal["text"]


class Part(_Strict):
    """One text part of a message's content."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """One turn. `type` is what some evaluation programs add; `name` is not shown to the model."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=1000)]
    name: str | None = None
    type: Literal["text"] | None = None
    reasoning_content: str | None = None

    def plain(self) -> dict[str, str]:
        """The turn as chat templates know it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        made = {"role": "system" if self.role == "developer" else self.role, "content": text}
        return {**made, "reasoning_content": self.reasoning_content} if self.reasoning_content else made


class Sampling(_Strict):
    """What both kinds of request share. `max_tokens` None: as many as fit. Temperature 0 is greedy."""

    n: int = Field(1, ge=1, le=16)
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    stop: Stop | Annotated[list[Stop], Field(max_length=STOPS_AT_MOST)] | None = None
    seed: int | None = Field(None, ge=-SEED_AT_MOST, lt=SEED_AT_MOST)
    max_tokens: int | None = Field(None, ge=0)
    stream: bool = False
    stream_options: StreamOptions | None = None
    # Known, without effect here: only their neutral value is taken.
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    # Known, for the client's own records.
    user: str | None = Field(None, max_length=500)
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    store: Literal[False] | None = None

    @field_validator("frequency_penalty", "presence_penalty", mode="before")
    @classmethod
    def _zero(cls, value: Any) -> Any:
        return 0 if isinstance(value, float) and value == 0 else value

    @field_validator("n", "temperature", "top_p", "stream", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Sampling):
    """Body of POST /v1/chat/completions."""

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1, max_length=2000)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: TextFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None

    @model_validator(mode="after")
    def _agree(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.max_tokens == 0:
            raise ValueError("max_tokens is 0: at least one token must be written")
        return self

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top(self) -> int | None:
        """Alternatives told for each token; None: no log probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Sampling):
    """Body of POST /v1/completions. `prompt` is text or token ids, one or several; `echo` tells the prompt too."""

    model: str = Field(min_length=1)
    prompt: (
        str
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1, max_length=ROWS_AT_MOST)]
        | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1, max_length=ROWS_AT_MOST)]
    )
    max_tokens: int | None = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = False
    best_of: int | None = None
    suffix: Literal[""] | None = None

    @model_validator(mode="after")
    def _agree(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0: at least one token must be written, unless echo tells the prompt")
        if self.best_of not in (None, 1, self.n):
            raise ValueError(f"best_of = {self.best_of}: answers are not ranked here; leave it out")
        if self.n * len(self.prompts) > ROWS_AT_MOST:
            raise ValueError(f"{len(self.prompts)} prompts × n = {self.n} are more than {ROWS_AT_MOST} answers; "
                             "send several requests")  # fmt: skip
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        one = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if one else self.prompt

    @property
    def limit(self) -> int | None:
        return self.max_tokens

    @property
    def top(self) -> int | None:
        return self.logprobs


class CompareRequest(Sampling):
    """Body of POST /oracle/compare: one conversation, two to four models, always streamed."""

    models: list[Annotated[str, Field(min_length=1)]] = Field(min_length=COMPARED[0], max_length=COMPARED[1])
    messages: list[Message] = Field(min_length=1, max_length=2000)
    n: Literal[1] = 1
    logprobs: bool | None = False

    @model_validator(mode="after")
    def _differ(self) -> CompareRequest:
        if len(set(self.models)) < len(self.models):
            raise ValueError("the same model is named twice; compare different ones")
        return self

    def single(self, model: str) -> dict[str, Any]:
        """The body that asks one of the models."""
        body = self.model_dump(exclude={"models", "stream"}, exclude_none=True, exclude_unset=True)
        return {**body, "model": model, "stream": True, "stream_options": {"include_usage": True}}


def parse_json(body: bytes) -> dict[str, Any]:
    """The body as an object.

    Raises:
        OracleError: 400, no JSON or no object.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise OracleError(400, f"the body is not JSON ({error}); send one JSON object", "invalid_json") from error
    if not isinstance(found, dict):
        raise OracleError(400, f"the body is a JSON {type(found).__name__}; send one JSON object", "invalid_json")
    return found


def check(model: type[BaseModel], body: dict[str, Any]) -> Any:
    """The body as a request.

    Raises:
        OracleError: 400, each wrong key with its value and rule.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_url=False)
        lines = [line for item, line in zip(found, explain(error, model, "request").splitlines(), strict=False)
                 if item["type"] != "missing"]  # fmt: skip
        lines += [f"request: {item['loc'][-1]} is missing" for item in found if item["type"] == "missing"]
        words = "; ".join(line if len(line) <= 300 else line[:300] + "…" for line in lines[:5])
        loc = found[0]["loc"]
        raise OracleError(400, words, "invalid_value", str(loc[0]) if loc else None) from error

"""Chat rendering: one function makes token ids and loss mask together, and refuses what it cannot prove.

Two promises, checked on every row (realm-rules §7):

* The mask holds each assistant turn's text and its stop token, nothing else.
* What the hero reads before a trained turn is, token for token, the prompt it will read at inference. Templates such
  as Qwen3's break this in two ways: they put an empty think block only into the last turn, and only when thinking is
  off. Here the block belongs to the prompt (`thinking=False`), and a conversation whose whole text does not start with
  the prompt of every turn is cut into one row per assistant turn, which does; else it is refused with the reason.

Torch-free: the tokenizer is any object with Hugging Face's tokenizer interface, made in `heroes/model.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool")
_SENTINEL = "xyzzy"  # plain letters: no template trims or rewrites them


class RenderError(ValueError):
    """A conversation that cannot be trained on; `code` is one word for counting, the text says why and what to do."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training row: token ids and, for each, whether the loss counts it. Both have the same length, ≥ 2."""

    ids: list[int]
    mask: list[bool]

    @property
    def trained(self) -> int:
        """Tokens under the loss mask, at least 1."""
        return sum(self.mask)


def prompt_text(messages: Sequence[Message], tokenizer: Any, thinking: bool = False) -> str:
    """The text a hero is given so that it answers next: the template with its generation prompt."""
    return _template(messages, tokenizer, thinking, generate=True)


def prompt_ids(messages: Sequence[Message], tokenizer: Any, thinking: bool = False) -> list[int]:
    """Token ids of `prompt_text`; exactly what training rows begin with."""
    return _tokenize(prompt_text(messages, tokenizer, thinking), tokenizer)


def render(
    messages: Sequence[Message], tokenizer: Any, *, max_length: int | None = None, thinking: bool = False
) -> Rendered:
    """One row for the whole conversation, every assistant turn trained.

    Args:
        messages: `{"role", "content"}` each, at least one assistant turn.
        max_length: tokens; a longer row is refused, never cut, because a cut would train on half an answer.

    Raises:
        RenderError: see the codes in this module; none of them is ever silently repaired.
    """
    turns = _check(messages, tokenizer)
    text = _template(messages, tokenizer, thinking, generate=False)
    return _mask_turns(messages, turns, text, tokenizer, max_length, thinking)


def render_turns(
    messages: Sequence[Message], tokenizer: Any, *, max_length: int | None = None, thinking: bool = False
) -> list[Rendered]:
    """Rows for a conversation: one when the template allows it, else one per assistant turn.

    Raises:
        RenderError: not even single turns start with their inference prompt, or another rule is broken.
    """
    try:
        return [render(messages, tokenizer, max_length=max_length, thinking=thinking)]
    except RenderError as error:
        if error.code != "prompt_mismatch" or sum(m["role"] == "assistant" for m in messages) < 2:
            raise
    rows = []
    for i in (i for i, m in enumerate(messages) if m["role"] == "assistant"):
        part = messages[: i + 1]
        text = _template(part, tokenizer, thinking, generate=False)
        rows.append(_mask_turns(part, [i], text, tokenizer, max_length, thinking))
    return rows


def render_rows(
    rows: Iterable[Sequence[Message]], tokenizer: Any, *, max_length: int | None = None, thinking: bool = False
) -> tuple[list[Rendered], list[tuple[int, str, str]]]:
    """Many conversations: (rows that can be trained, [(index, code, reason)] of those that cannot)."""
    kept: list[Rendered] = []
    dropped = []
    for index, messages in enumerate(rows):
        try:
            kept.extend(render_turns(messages, tokenizer, max_length=max_length, thinking=thinking))
        except RenderError as error:
            dropped.append((index, error.code, str(error)))
    return kept, dropped


def stop_id(tokenizer: Any) -> int:
    """Id of the token that ends an assistant turn, learnt from the template itself.

    Not always `eos_token`: Llama's base tokenizers say `<|end_of_text|>` and Gemma's `<eos>` while their templates end
    a turn with `<|eot_id|>` and `<end_of_turn>`.

    Raises:
        RenderError: the template puts no special token after an assistant turn (code "no_stop").
    """
    return _stop_id(_Key(tokenizer))


class _Key:
    """A tokenizer as a cache key: the same object with the same template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._key = (id(tokenizer), tokenizer.chat_template)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._key == other._key


@lru_cache(maxsize=8)
def _stop_id(key: _Key) -> int:
    tokenizer = key.tokenizer
    probe = [{"role": "user", "content": _SENTINEL}, {"role": "assistant", "content": _SENTINEL + "a"}]
    tail = _template(probe, tokenizer, False, generate=False).rpartition(_SENTINEL + "a")[2]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for token in _tokenize(tail, tokenizer):
        if token in special:
            return token
    raise RenderError(
        "no_stop",
        f"the chat template writes {tail!r} after an assistant turn, which holds no special token, so a hero could "
        "never learn to stop; use a template that ends each turn with one",
    )


@lru_cache(maxsize=8)
def _forbidden(key: _Key) -> tuple[str, ...]:
    return tuple(sorted(set(key.tokenizer.all_special_tokens) - {""}))


def _template(messages: Sequence[Message], tokenizer: Any, thinking: bool, generate: bool) -> str:
    if not tokenizer.chat_template:
        raise RenderError("no_template", "the tokenizer has no chat template; give chat.template in the hero's YAML")
    try:
        return _renderer(_Key(tokenizer))(messages, generate, thinking)
    except jinja2.TemplateError as error:
        raise RenderError("template", f"the chat template refuses this conversation: {error}; mend the row") from error


Renderer = Callable[[Sequence[Message], bool, bool], str]


@lru_cache(maxsize=8)
def _renderer(key: _Key) -> Renderer:
    """The template compiled once. `apply_chat_template` copies every message and costs 80 µs a call, this 15 µs.

    Used only where it writes the very text that `apply_chat_template` writes for a probe conversation.
    """
    tokenizer = key.tokenizer

    def library(messages: Sequence[Message], generate: bool, thinking: bool) -> str:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generate, enable_thinking=thinking
        )

    try:
        template = _environment().from_string(_without_spans(tokenizer.chat_template))
    except (jinja2.TemplateError, TypeError):
        return library  # tags of its own, or several named templates
    special = dict(tokenizer.special_tokens_map)

    def compiled(messages: Sequence[Message], generate: bool, thinking: bool) -> str:
        return template.render(messages=messages, tools=None, documents=None, add_generation_prompt=generate,
                               enable_thinking=thinking, **special)  # fmt: skip

    probe = [{"role": "user", "content": f" {_SENTINEL}\n"}, {"role": "assistant", "content": f"{_SENTINEL} "}] * 2
    for messages, generate, thinking in ((probe, False, False), (probe[:3], True, False), (probe[:3], True, True)):
        try:
            if compiled(messages, generate, thinking) != library(messages, generate, thinking):
                return library
        except jinja2.TemplateError:
            return library
    return compiled


def _without_spans(template: str) -> str:
    """`{% generation %}` only marks a span for transformers and writes nothing; the mask is made here. An `if` with the
    same whitespace control stands in, or PIP's own template could not be compiled."""
    return re.sub(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})",
                  lambda found: found[1] + ("endif" if found[2] else "if true") + found[3], template)  # fmt: skip


def _environment() -> jinja2.Environment:
    """Jinja as chat templates expect it (transformers' own settings)."""

    def refuse(text: str) -> None:
        raise jinja2.TemplateError(text)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def _tokenize(text: str, tokenizer: Any) -> list[int]:
    # The template already wrote the special tokens; adding them again would double the first one. The Rust tokenizer
    # is asked directly where there is one: the Python wrapper around it costs five times the work (100 against 20 µs).
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return backend.encode(text, add_special_tokens=False).ids
    return tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]


def _decode(ids: list[int], tokenizer: Any) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _check(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """Indices of the assistant turns, after the checks that need no template."""
    if not messages:
        raise RenderError("empty", "the conversation has no messages; a row needs a user and an assistant turn")
    check_texts(messages, tokenizer)
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    if not turns:
        raise RenderError("no_assistant", "the conversation has no assistant turn, so there is nothing to train on")
    if any(not messages[i]["content"].strip() for i in turns):
        raise RenderError("empty_answer", "an assistant turn is empty; a row needs an answer to train on")
    return turns


def check_texts(messages: Sequence[Message], tokenizer: Any) -> None:
    """Roles, types, and no text that holds a control token: for rows and for what a person asks alike.

    Raises:
        RenderError: role, content, special_token.
    """
    forbidden = _forbidden(_Key(tokenizer))
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RenderError("role", f"message {i} has role {role!r}; a role is one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise RenderError("content", f"message {i} has content of type {type(content).__name__}; it must be text")
        for token in forbidden:
            if token in content:
                raise RenderError(
                    "special_token",
                    f"message {i} holds {token!r}, a control token of this tokenizer, which would forge the "
                    "conversation's structure; remove it from the text",
                )


def _mask_turns(
    messages: Sequence[Message], turns: list[int], text: str, tokenizer: Any, max_length: int | None, thinking: bool
) -> Rendered:
    ids = _tokenize(text, tokenizer)
    mask = [False] * len(ids)
    stop = stop_id(tokenizer)
    for i in turns:
        prompt = _template(messages[:i], tokenizer, thinking, generate=True) if i else ""
        if not i or not text.startswith(prompt):
            raise RenderError("prompt_mismatch", _mismatch(i, prompt, text))
        head = _tokenize(prompt, tokenizer)
        start = len(head)
        if ids[:start] != head:
            raise RenderError(
                "token_boundary",
                f"the answer of message {i} begins with {messages[i]['content'][:8]!r}, which merges with the end of "
                "the prompt into one token that inference would never show; strip the answer's first characters",
            )
        try:
            end = ids.index(stop, start) + 1
        except ValueError:
            raise RenderError(
                "no_stop", f"the template writes no stop token after message {i}; use a template that does"
            ) from None
        _check_answer(i, messages[i], _decode(ids[start : end - 1], tokenizer), thinking)
        mask[start:end] = [True] * (end - start)
    if max_length is not None and len(ids) > max_length:
        raise RenderError(
            "too_long",
            f"the row has {len(ids)} tokens, training_defaults.max_length is {max_length}; shorten the row or raise "
            "max_length (rows are never cut: half an answer teaches a wrong one)",
        )
    return Rendered(ids, mask)


def _check_answer(index: int, message: Message, trained: str, thinking: bool) -> None:
    """What is trained must be what the row says: templates may trim it, but not add to it or drop from it."""
    wanted = message["content"]
    reasoning = message.get("reasoning_content")
    if thinking and isinstance(reasoning, str) and reasoning:
        wanted = f"<think>{reasoning}</think>{wanted}"
    if "".join(trained.split()) != "".join(wanted.split()):
        raise RenderError(
            "altered_answer",
            f"the chat template turned the answer of message {index} into {trained[:80]!r}; "
            + ("with chat.thinking: true every answer needs its reasoning" if thinking else
               "rows with reasoning need chat.thinking: true in the hero's YAML"),
        )  # fmt: skip


def _mismatch(index: int, prompt: str, text: str) -> str:
    if not index:
        return "the conversation begins with an assistant turn, so there is no prompt; put a user turn first"
    at = next((k for k, (a, b) in enumerate(zip(prompt, text, strict=False)) if a != b), min(len(prompt), len(text)))
    return (
        f"the training text of message {index} does not start with its inference prompt: at character {at} the prompt "
        f"has {prompt[at:at + 24]!r}, the text {text[at:at + 24]!r}; the hero would be trained on one thing and asked "
        "another. Rows with reasoning need chat.thinking: true, rows without it chat.thinking: false"
    )

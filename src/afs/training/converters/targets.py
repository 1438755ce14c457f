"""The formats that can be written: each makes its row from a list of messages, and reads the messages back.

A message is `{"role", "content"}` and, in a format that holds it, `"thinking"`. What `make` returns beside the row is
what `read` needs to find the messages again (lengths in characters); it travels in the meta file, never in the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from afs.training.converters.formats import ConversionError

Messages = list[dict[str, str]]
Made = tuple[dict[str, Any], dict[str, Any]]
THINKING = ("none", "separate", "embedded", "special_tokens")
OF_SAMPLE = ["user", "assistant"]
_METADATA = "metadata (domain, source, sample_id, scores and all other keys; kept in the meta file)"
_ITS_OWN_THINKING = "thinking, unless it is embedded or in special tokens"


@dataclass(frozen=True)
class Target:
    """A format to write.

    Attributes:
        keys: keys of an output row, those in brackets only where there is something to hold.
        drops: what the format cannot hold, in words; printed by `--list-formats`.
        separate: whether it has a place of its own for `thinking`.
        thinking: the only policy that the format has, or None for all.
        layout: "file", or "folder" for train/valid/test.jsonl.
        pairs: rows are preference pairs (chosen, rejected), not text to imitate.
    """

    name: str
    title: str
    keys: tuple[str, ...]
    make: Callable[[Messages], Made]
    read: Callable[[dict[str, Any], dict[str, Any]], Messages]
    drops: tuple[str, ...] = (_METADATA,)
    separate: bool = False
    thinking: str | None = None
    layout: str = "file"
    extension: str = ".jsonl"
    pairs: bool = False


# --- chats --------------------------------------------------------------------------------------------------------

def _make_messages(messages: Messages) -> Made:
    return {"messages": messages}, {}


def _read_messages(out: dict[str, Any], _notes: dict[str, Any]) -> Messages:
    return out["messages"]


_FROM = {"system": "system", "user": "human", "assistant": "gpt"}
_ROLE = {name: role for role, name in _FROM.items()}


def _turns(messages: Messages) -> Messages:
    """The messages without a leading system message, checked: user and assistant take turns, the assistant ends.

    This is the rule by which LLaMA-Factory reads ShareGPT and Alpaca files: it drops other rows with a warning.
    """
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    for place, message in enumerate(turns, 1):
        if message["role"] != OF_SAMPLE[(place - 1) % 2]:
            raise ConversionError(
                f"turn {place} is from {message['role']!r}; here user and assistant must take turns and the user "
                "begins (trainers drop other rows); the formats messages and chatml keep it"
            )
    if not turns or len(turns) % 2:
        raise ConversionError("the last turn must be the assistant's; the formats messages and chatml keep such a row")
    return turns


def _make_sharegpt(messages: Messages) -> Made:
    _turns(messages)
    conversations = []
    for message in messages:
        turn = {"from": _FROM[message["role"]], "value": message["content"]}
        if "thinking" in message:
            turn["thinking"] = message["thinking"]
        conversations.append(turn)
    return {"conversations": conversations}, {}


def _read_sharegpt(out: dict[str, Any], _notes: dict[str, Any]) -> Messages:
    messages = []
    for turn in out["conversations"]:
        messages.append({"role": _ROLE[turn["from"]], "content": turn["value"]})
        if "thinking" in turn:
            messages[-1]["thinking"] = turn["thinking"]
    return messages


def _make_sides(messages: Messages) -> Made:
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise ConversionError("a completion must follow a prompt: the last message must be the assistant's answer")
    return {"prompt": messages[:-1], "completion": messages[-1:]}, {}


def _read_sides(out: dict[str, Any], _notes: dict[str, Any]) -> Messages:
    return [*out["prompt"], *out["completion"]]


def _make_alpaca(messages: Messages) -> Made:
    """LLaMA-Factory's keys for chats: `system`, and `history` as pairs of the turns before the last."""
    turns = _turns(messages)
    texts = [turn["content"] for turn in turns]
    if any(turn.get("thinking") for turn in turns[:-1]):
        raise ConversionError("an earlier turn has thinking, which `history` cannot hold; the format messages can")
    out: dict[str, Any] = {"instruction": texts[-2], "input": "", "output": texts[-1]}
    if "thinking" in turns[-1]:
        out["thinking"] = turns[-1]["thinking"]
    # Both keys in every chat row: loaders take the columns of the first rows for those of all.
    out["system"] = messages[0]["content"] if len(turns) < len(messages) else ""
    out["history"] = [[texts[at], texts[at + 1]] for at in range(0, len(texts) - 2, 2)]
    return out, {}


def _read_alpaca(out: dict[str, Any], _notes: dict[str, Any]) -> Messages:
    messages = [{"role": "system", "content": out["system"]}] if out.get("system") else []
    for asked, said in out.get("history", ()):
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    answer = {"role": "assistant", "content": out["output"]}
    if "thinking" in out:
        answer["thinking"] = out["thinking"]
    return [*messages, {"role": "user", "content": out["instruction"]}, answer]


# --- text: a template is what stands before and after each message ---------------------------------------------------

def _frame_chatml(roles: list[str]) -> list[tuple[str, str]]:
    last = len(roles) - 1
    return [(f"<|im_start|>{role}\n", "<|im_end|>" if at == last else "<|im_end|>\n") for at, role in enumerate(roles)]


def _frame_llama3(roles: list[str]) -> list[tuple[str, str]]:
    start = "<|begin_of_text|>"
    return [(f"{start if at == 0 else ''}<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>")
            for at, role in enumerate(roles)]  # fmt: skip


def _frame_mistral(roles: list[str]) -> list[tuple[str, str]]:
    found, opened = [], False
    for at, role in enumerate(roles):
        start = "<s>" if at == 0 else ""
        if role == "system":
            found.append((f"{start}[INST] ", "\n\n"))
        elif role == "user":
            found.append((start if opened else f"{start}[INST] ", " [/INST] "))
        else:
            found.append((start, "</s>"))
        opened = role == "system"
    return found


def _frame_alpaca(roles: list[str]) -> list[tuple[str, str]]:
    heads = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}
    last = len(roles) - 1
    return [(heads[role], "" if at == last else "\n\n") for at, role in enumerate(roles)]


FRAMES = {"chatml": _frame_chatml, "llama3": _frame_llama3, "mistral": _frame_mistral, "alpaca": _frame_alpaca}
_CHAT_RULE = ("mistral", "alpaca")


def _framed(template: str, messages: Messages) -> tuple[list[str], dict[str, Any]]:
    if template in _CHAT_RULE:
        _turns(messages)
    roles = [message["role"] for message in messages]
    frames = _known_frames(template, roles)
    pieces = []
    for (before, after), message in zip(frames, messages, strict=True):
        pieces += (before, message["content"], after)
    notes: dict[str, Any] = {"sizes": [len(message["content"]) for message in messages]}
    if roles != OF_SAMPLE:
        notes["roles"] = roles
    return pieces, notes


_OF_SAMPLE_FRAMES = {name: frame(OF_SAMPLE) for name, frame in FRAMES.items()}


def _known_frames(template: str, roles: list[str]) -> list[tuple[str, str]]:
    return _OF_SAMPLE_FRAMES[template] if roles == OF_SAMPLE else FRAMES[template](roles)


def _unframed(template: str, text: str, notes: dict[str, Any]) -> Messages:
    roles = notes.get("roles", OF_SAMPLE)
    messages, at = [], 0
    for role, (before, after), size in zip(roles, _known_frames(template, roles), notes["sizes"], strict=True):
        at += len(before)
        messages.append({"role": role, "content": text[at : at + size]})
        at += size + len(after)
    return messages


def _make_text(messages: Messages, template: str) -> Made:
    pieces, notes = _framed(template, messages)
    return {"text": "".join(pieces)}, notes


def _read_text(out: dict[str, Any], notes: dict[str, Any], template: str) -> Messages:
    return _unframed(template, out["text"], notes)


def _make_completion(messages: Messages, template: str) -> Made:
    _turns(messages)
    pieces, notes = _framed(template, messages)
    return {"prompt": "".join(pieces[:-2]), "completion": pieces[-2]}, notes


def _read_completion(out: dict[str, Any], notes: dict[str, Any], template: str) -> Messages:
    return _unframed(template, out["prompt"] + out["completion"], notes)


# --- pairs --------------------------------------------------------------------------------------------------------

def _no_pair(_messages: Messages) -> Made:
    raise ConversionError("a preference row needs 'chosen' and 'rejected'; this row has one answer only")


def _read_pair(_out: dict[str, Any], _notes: dict[str, Any]) -> Messages:
    raise ConversionError("a preference pair is no single conversation")


_TEXT_DROPS = (_METADATA, _ITS_OWN_THINKING)

TARGETS = {target.name: target for target in (
    Target("alpaca", "Alpaca: instruction, input, output (chats: system and history)",
           ("instruction", "input", "output", "[thinking]", "[system]", "[history]"), _make_alpaca, _read_alpaca,
           (_METADATA, "thinking of earlier turns", "rows whose roles do not take turns (refused)"), separate=True),
    Target("sharegpt", "ShareGPT: conversations of system, human, gpt", ("conversations",), _make_sharegpt,
           _read_sharegpt, (_METADATA, "rows whose roles do not take turns (refused)"), separate=True),
    Target("messages", "chat messages", ("messages",), _make_messages, _read_messages, separate=True),
    Target("openai", "OpenAI fine-tuning: messages with role and content only", ("messages",), _make_messages,
           _read_messages, _TEXT_DROPS),
    Target("chatml", "chat messages for a ChatML template", ("messages",), _make_messages, _read_messages,
           separate=True),
    Target("chatml_text", "ChatML as text", ("text",), partial(_make_text, template="chatml"),
           partial(_read_text, template="chatml"), _TEXT_DROPS),
    Target("prompt_completion", "TRL: prompt and completion as messages, loss on the completion",
           ("prompt", "completion"), _make_sides, _read_sides, separate=True),
    Target("mlx", "MLX chat: messages, in a folder of train, valid and test.jsonl", ("messages",), _make_messages,
           _read_messages, separate=True, layout="folder"),
    Target("mlx_completion", "MLX completion: prompt and completion as text", ("prompt", "completion"),
           partial(_make_completion, template="alpaca"), partial(_read_completion, template="alpaca"),
           _TEXT_DROPS, layout="folder"),
    Target("llama_cpp", "llama.cpp text (--template chatml, llama3, mistral or alpaca)", ("text",),
           partial(_make_text, template="chatml"), partial(_read_text, template="chatml"), _TEXT_DROPS),
    Target("unsloth_thinking", "messages with the thinking in <think> tags", ("messages",), _make_messages,
           _read_messages, thinking="special_tokens"),
    Target("dpo", "preference pairs: prompt, chosen, rejected", ("prompt", "chosen", "rejected"), _no_pair,
           _read_pair, pairs=True),
    Target("parquet", "Parquet: every field a column, the rest as JSON", (), _make_messages, _read_messages, (),
           separate=True, extension=".parquet"),
)}  # fmt: skip
ALIASES = {"mlx_chat": "mlx", "llama.cpp": "llama_cpp", "unsloth": "unsloth_thinking", "preference": "dpo"}


def with_template(target: Target, template: str) -> Target:
    """The text target with another template.

    Raises:
        ValueError: no such template, or the format has none.
    """
    from dataclasses import replace

    if template not in FRAMES:
        raise ValueError(f"no template {template!r}; known: {', '.join(FRAMES)}")
    if not isinstance(target.make, partial):
        raise ValueError(f"format {target.name!r} has no templates; those with one: "
                         f"{', '.join(n for n, t in TARGETS.items() if isinstance(t.make, partial))}")  # fmt: skip
    return replace(target, make=partial(target.make.func, template=template),
                   read=partial(target.read.func, template=template))  # fmt: skip

"""The formats that can be read: how each is recognised and how it becomes a chat row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant")
# Names for the three roles in ShareGPT files and in chats of several vendors.
_ALIASES = {"system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
            "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant"}  # fmt: skip
# Keys that tell a TrainingSample from an Alpaca row (refinery-rules §1).
_SAMPLE_KEYS = {"domain", "source", "sample_id", "quality_score", "thinking", "teacher_model", "teacher_prompt",
                "timestamp", "kg_entities", "kg_validated", "embedding", "_metadata"}  # fmt: skip
_OPENAI_KEYS = {"tools", "functions", "parallel_tool_calls", "function_call"}


class ConversionError(ValueError):
    """A row that matches a format by its keys but cannot become a chat row; the text says which part and why."""


@dataclass(frozen=True)
class Format:
    """`matches` looks at keys and types only; `convert` may still refuse the row with a ConversionError."""

    name: str
    title: str
    matches: Callable[[dict[str, Any]], bool]
    convert: Callable[[dict[str, Any]], dict[str, Any]]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _with(messages: list[dict[str, str]], row: dict[str, Any], used: set[str]) -> dict[str, Any]:
    """The chat row: `messages` first, then every key of the row that the text did not use."""
    return {"messages": messages, **{k: value for k, value in row.items() if k not in used and k != "messages"}}


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise ConversionError(f"'{key}' must be a text, found {type(value).__name__}")
    return value


def _content(value: Any, where: str) -> str:
    """Text of a message's content: a string, or a list of parts that are all text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = []
        for part in value:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
            else:
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise ConversionError(f"{where} holds a part of type {kind!r}; only text parts can be trained on")
        return "".join(texts)
    raise ConversionError(f"{where} has content of type {type(value).__name__}; it must be a text")


def chat_messages(items: list[Any], role_key: str, content_key: str, name: str) -> list[dict[str, str]]:
    """Messages with the three known roles from a list of turns."""
    messages = []
    for number, item in enumerate(items, 1):
        where = f"{name}[{number}]"
        if not isinstance(item, dict) or not isinstance(item.get(role_key), str):
            raise ConversionError(f"{where} has no '{role_key}'; every message needs one of {', '.join(ROLES)}")
        if item.get("tool_calls") or item.get("function_call"):
            raise ConversionError(f"{where} calls a tool; tool calls cannot be trained on yet")
        role = _ALIASES.get(item[role_key].lower())
        if role is None:
            raise ConversionError(f"{where} has role {item[role_key]!r}; known: {', '.join(sorted(_ALIASES))}")
        messages.append(_message(role, _content(item.get(content_key), where)))
    return messages


# --- messages -----------------------------------------------------------------------------------------------------

def _is_plain(item: Any) -> bool:
    return (isinstance(item, dict) and isinstance(item.get("content"), str) and item.get("role") in ROLES
            and not item.get("tool_calls") and not item.get("function_call"))  # fmt: skip


def _has_messages(row: dict[str, Any]) -> bool:
    return isinstance(row.get("messages"), list)


def _is_openai(row: dict[str, Any]) -> bool:
    if not _has_messages(row):
        return False
    if _OPENAI_KEYS & row.keys():
        return True
    turns = [item for item in row["messages"] if isinstance(item, dict)]
    return any(isinstance(t.get("content"), list) or t.get("role") in ("developer", "tool", "function")
               or t.get("tool_calls") or t.get("function_call") for t in turns)  # fmt: skip


def _from_messages(row: dict[str, Any]) -> dict[str, Any]:
    if all(_is_plain(item) for item in row["messages"]):
        return row
    return {**row, "messages": chat_messages(row["messages"], "role", "content", "messages")}


def _from_openai(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "messages": chat_messages(row["messages"], "role", "content", "messages")}


# --- instruction, prompt, conversation ----------------------------------------------------------------------------

def _is_alpaca(row: dict[str, Any]) -> bool:
    return isinstance(row.get("instruction"), str) and "output" in row


def _is_training_sample(row: dict[str, Any]) -> bool:
    return _is_alpaca(row) and bool(_SAMPLE_KEYS & row.keys())


def _from_instruction(row: dict[str, Any]) -> dict[str, Any]:
    question, extra = _text(row, "instruction"), row.get("input")
    if extra not in (None, ""):
        question = f"{question}\n\n{_text(row, 'input')}"
    messages = [_message("user", question), _message("assistant", _text(row, "output"))]
    used = {"instruction", "input", "output"}
    if isinstance(row.get("history"), list) and row["history"]:
        messages = [*_earlier(row["history"]), *messages]
        used.add("history")
    if isinstance(row.get("system"), str) and row["system"]:
        messages.insert(0, _message("system", row["system"]))
        used.add("system")
    return _with(messages, row, used)


def _earlier(history: list[Any]) -> list[dict[str, str]]:
    """Turns before the last, as LLaMA-Factory keeps them: a list of [question, answer]."""
    messages = []
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ConversionError(f"history[{number}] must be [question, answer], two texts")
        messages += [_message("user", pair[0]), _message("assistant", pair[1])]
    return messages


def _is_sharegpt(row: dict[str, Any]) -> bool:
    turns = row.get("conversations", row.get("conversation"))
    return isinstance(turns, list)


def _from_sharegpt(row: dict[str, Any]) -> dict[str, Any]:
    key = "conversations" if isinstance(row.get("conversations"), list) else "conversation"
    turns = row[key]
    from_value = not turns or not isinstance(turns[0], dict) or "from" in turns[0]
    messages = chat_messages(turns, *(("from", "value") if from_value else ("role", "content")), key)
    used = {key}
    if isinstance(row.get("system"), str) and row["system"] and messages and messages[0]["role"] != "system":
        messages.insert(0, _message("system", row["system"]))
        used.add("system")
    return _with(messages, row, used)


def _is_preference(row: dict[str, Any]) -> bool:
    return "chosen" in row and "rejected" in row


def _refuse_preference(row: dict[str, Any]) -> dict[str, Any]:
    raise ConversionError("a pair to choose from is no text to imitate; it belongs to the school Judge (DPO)")


def _is_prompt(row: dict[str, Any]) -> bool:
    return isinstance(row.get("prompt"), str | list) and any(key in row for key in ("completion", "response"))


def _from_prompt(row: dict[str, Any]) -> dict[str, Any]:
    key = "completion" if "completion" in row else "response"
    sides = []
    for part, role in (("prompt", "user"), (key, "assistant")):
        value = row[part]
        if isinstance(value, list):
            sides += chat_messages(value, "role", "content", part)
        else:
            sides.append(_message(role, _text(row, part)))
    return _with(sides, row, {"prompt", key})


def _is_text(row: dict[str, Any]) -> bool:
    return isinstance(row.get("text"), str)


def _from_text(row: dict[str, Any]) -> dict[str, Any]:
    # An empty question before it: the whole text is under the loss, nothing is invented, and every template renders it.
    return _with([_message("user", ""), _message("assistant", _text(row, "text"))], row, {"text"})


# The order matters: the first that matches is taken (an Alpaca row may also carry "text", a chat row "prompt").
FORMATS = (
    Format("openai", "OpenAI chat", _is_openai, _from_openai),
    Format("messages", "chat messages", _has_messages, _from_messages),
    Format("sharegpt", "ShareGPT conversations", _is_sharegpt, _from_sharegpt),
    Format("preference", "prompt, chosen, rejected", _is_preference, _refuse_preference),
    Format("training_sample", "AFS TrainingSample", _is_training_sample, _from_instruction),
    Format("alpaca", "Alpaca instruction", _is_alpaca, _from_instruction),
    Format("prompt_completion", "prompt and completion", _is_prompt, _from_prompt),
    Format("text", "plain text", _is_text, _from_text),
)

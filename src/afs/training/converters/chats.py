"""Rows that are already conversations (messages, ShareGPT, prompt and completion, text) into another format."""

from __future__ import annotations

from typing import Any

from afs.training.converters import detect, to_messages
from afs.training.converters.convert import Converted, Converter
from afs.training.converters.formats import ConversionError

_THOUGHTS = ("thinking", "reasoning_content")
_TEXT_KEYS = {"messages": ("messages",), "openai": ("messages",), "sharegpt": ("conversations", "conversation"),
              "prompt_completion": ("prompt", "completion", "response"), "text": ("text",),
              "alpaca": ("instruction", "input", "output", "system", "history"),
              "training_sample": ("instruction", "input", "output", "system", "history", "thinking")}  # fmt: skip
_FROM = {"system": "system", "user": "human", "assistant": "gpt"}
_AS_IT_IS = ("messages", "openai")


def convert_chat(converter: Converter, row: dict[str, Any]) -> Converted:
    """A conversation in the converter's format; every key that has no place there is in the record.

    Raises:
        ConversionError: the row has no known format, or the format cannot hold the conversation.
    """
    form = detect(row)
    if form is None:
        keys = ", ".join(sorted(row)[:8]) or "(none)"
        raise ConversionError(f"no known training format; the row has the keys {keys}")
    lost = ""
    source = row
    if form == "preference":
        form, source, lost = "pair", chosen_only(row), "rejected"
    elif form == "openai" and converter.target.name in _AS_IT_IS and converter.system is None:
        return _tools_as_they_are(converter, row)
    chat = to_messages(source, detect(source) or "messages")["messages"]
    if not chat:
        raise ConversionError("the conversation has no message")
    messages, lost_thought = _with_thinking(converter, source, form, chat)
    own_system = messages[0]["role"] == "system"
    if converter.system is not None and not own_system:
        messages = [{"role": "system", "content": converter.system}, *messages]
    out, notes = converter.target.make(messages)
    record = {"from": form, **notes, "keys": list(row)}
    if own_system:
        record["own_system"] = True
    record["kept"] = {key: value for key, value in row.items() if key not in _TEXT_KEYS.get(form, ())}
    # Whatever does not come back exactly (part lists, foreign role names, thinking in words) is kept whole.
    found = _way_back(converter, out, record)
    if found != row or list(found) != list(row):
        record = {"original": row}
    elif not record["kept"]:
        del record["kept"]
    return Converted(out, record, lost or lost_thought)


def _way_back(converter: Converter, out: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    return back_to_chat(converter, out, record) if record["from"] in ("messages", "sharegpt") else {}


def _with_thinking(
    converter: Converter, row: dict[str, Any], form: str, chat: list[dict[str, Any]]
) -> tuple[list[dict[str, str]], str]:
    """Messages of role, content and (in its own place) thinking; and "thinking" when the policy leaves some out."""
    thoughts = _thoughts(row, form, chat)
    messages, lost = [], ""
    for message, thought in zip(chat, thoughts, strict=True):
        made = {"role": message["role"], "content": message["content"]}
        if message["role"] == "assistant":
            if thought and converter.own_key:
                made["thinking"] = thought
            elif thought and (marked := converter.marked(thought, made["content"])) is not None:
                made["content"] = marked
            elif thought:
                lost = "thinking"
            elif converter.own_key and converter.pad:
                made["thinking"] = ""
        messages.append(made)
    return messages, lost


def _thoughts(row: dict[str, Any], form: str, chat: list[dict[str, Any]]) -> list[str]:
    """The thinking of each message: its own key, or the row's for the last answer."""
    turns = row.get("messages") if form in _AS_IT_IS else row.get("conversations", row.get("conversation"))
    found = [""] * len(chat)
    if isinstance(turns, list):
        # A system message that the reader put in front has no turn.
        for at, turn in enumerate(turns, len(chat) - len(turns)):
            if isinstance(turn, dict):
                found[at] = next((turn[k] for k in _THOUGHTS if isinstance(turn.get(k), str) and turn[k]), "")
    own = row.get("thinking")
    if isinstance(own, str) and own and chat[-1]["role"] == "assistant" and not found[-1]:
        found[-1] = own
    return found


def _tools_as_they_are(converter: Converter, row: dict[str, Any]) -> Converted:
    """OpenAI rows with tools, developer messages or parts stay as they are in the formats that have them."""
    thought = any(isinstance(m, dict) and m.get(k) for m in row["messages"] for k in _THOUGHTS)
    if thought and not converter.own_key:
        raise ConversionError("a row with tools and thinking can be written as messages with separate thinking only")
    if not row["messages"]:
        raise ConversionError("the conversation has no message")
    out = {key: row[key] for key in ("messages", "tools", "functions", "parallel_tool_calls", "function_call")
           if key in row}  # fmt: skip
    kept = {key: value for key, value in row.items() if key not in out}
    return Converted(out, {"from": "as_it_is", "keys": list(row), "kept": kept}, "")


def back_to_chat(converter: Converter, out: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The original row of a converted conversation."""
    form, kept = record["from"], record.get("kept", {})
    if form == "as_it_is":
        found = {**out, **kept}
        return {key: found[key] for key in record["keys"]}
    messages = converter.target.read(out, record)
    if converter.system is not None and not record.get("own_system"):
        messages = messages[1:]
    if converter.pad:
        messages = [{k: v for k, v in m.items() if k != "thinking" or v} for m in messages]
    if form == "sharegpt":
        turns = [{"from": _FROM[m["role"]], "value": m["content"],
                  **({"thinking": m["thinking"]} if "thinking" in m else {})} for m in messages]  # fmt: skip
        found = {"conversations": turns, **kept}
    else:
        found = {"messages": messages, **kept}
    keys = [key for key in record["keys"] if key in found]
    return {key: found[key] for key in keys}


def chosen_only(row: dict[str, Any]) -> dict[str, Any]:
    """A preference pair as the conversation that ends in its chosen answer."""
    from afs.training.converters.pairs import pair_of

    pair = pair_of(row)
    prompt, chosen = pair["prompt"], pair["chosen"]
    asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    said = chosen if isinstance(chosen, list) else [{"role": "assistant", "content": chosen}]
    return {"messages": [*asked, *said]}

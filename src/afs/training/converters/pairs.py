"""Preference pairs: prompt, chosen, rejected, as text or as messages (the shapes that TRL's DPOTrainer takes)."""

from __future__ import annotations

from typing import Any

from afs.training.converters.convert import Converted
from afs.training.converters.formats import ConversionError, chat_messages

_KEYS = ("prompt", "chosen", "rejected")


def convert_pair(row: dict[str, Any], system: str | None) -> Converted:
    """A preference row in the one shape; what it holds besides is in the record.

    Raises:
        ConversionError: no 'chosen' or 'rejected', or answers of two kinds.
    """
    out = pair_of(row)
    if system is not None:
        if not isinstance(out["prompt"], list):
            out["prompt"] = [{"role": "user", "content": out["prompt"]}]
            for key in ("chosen", "rejected"):
                out[key] = [{"role": "assistant", "content": out[key]}]
        if out["prompt"][0]["role"] != "system":
            out["prompt"] = [{"role": "system", "content": system}, *out["prompt"]]
    if out == {key: row.get(key) for key in _KEYS}:
        kept = {key: value for key, value in row.items() if key not in _KEYS}
        return Converted(out, {"from": "as_it_is", "keys": list(row), "kept": kept}, "")
    return Converted(out, {"original": row}, "")


def pair_of(row: dict[str, Any]) -> dict[str, Any]:
    """`prompt`, `chosen`, `rejected` of a row in any of the known shapes: TRL's (with or without a prompt of its own),
    LLaMA-Factory's Alpaca shape (instruction, input) and ShareGPT shape (conversations and two answers).

    Raises:
        ConversionError: a part is missing or of another kind than the others.
    """
    for key in ("chosen", "rejected"):
        if row.get(key) is None:
            raise ConversionError(f"a preference row needs 'chosen' and 'rejected'; {key!r} is missing or null")
    chosen, rejected = _answer(row["chosen"], "chosen"), _answer(row["rejected"], "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ConversionError("'chosen' and 'rejected' must both be texts or both be messages")
    if isinstance(row.get("prompt"), str | list):
        prompt = _answer(row["prompt"], "prompt")
    elif isinstance(row.get("conversations"), list):
        prompt = _answer(row["conversations"], "conversations")
    elif isinstance(row.get("messages"), list):
        prompt = _answer(row["messages"], "messages")
    elif isinstance(row.get("instruction"), str):
        extra = row.get("input")
        prompt = f"{row['instruction']}\n\n{extra}" if isinstance(extra, str) and extra else row["instruction"]
    elif isinstance(chosen, list):
        prompt, chosen, rejected = _shared(chosen, rejected)
    else:
        raise ConversionError("a preference row of texts needs a 'prompt'")
    if isinstance(prompt, list) and isinstance(chosen, str):
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    elif isinstance(prompt, str) and isinstance(chosen, list):
        prompt = [{"role": "user", "content": prompt}]
    if not prompt or not chosen or not rejected:
        raise ConversionError("prompt, chosen and rejected must not be empty")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _answer(value: Any, name: str) -> str | list[dict[str, str]]:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        from_value = value and isinstance(value[0], dict) and "from" in value[0]
        return chat_messages(value, *(("from", "value") if from_value else ("role", "content")), name)
    raise ConversionError(f"{name!r} must be a text or messages, found {type(value).__name__}")


def _shared(chosen: list, rejected: list) -> tuple[list, list, list]:
    """The prompt that two whole conversations share (TRL's implicit prompt)."""
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    if not same:
        raise ConversionError("'chosen' and 'rejected' share no first message, so there is no prompt")
    return chosen[:same], chosen[same:], rejected[same:]

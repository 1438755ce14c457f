"""One row into a format and back again: `Converter` joins a target with its options.

    converter = get_converter("sharegpt", cot_mode="special_tokens")
    converter.convert({"instruction": "Q", "output": "A", "thinking": "T"})

A converted row comes with a record of all that the format cannot hold; `back(out, record)` gives the original row,
key for key and in the order of its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from afs import plugins
from afs.generators.base import TrainingSample
from afs.training.converters.formats import ConversionError
from afs.training.converters.targets import ALIASES, TARGETS, THINKING, Messages, Target, with_template

_TEXTS = ["instruction", "output", "input", "thinking"]
_PLAIN = ["instruction", "input", "output"]
_DEFAULTS: dict[str, Any] = {"input": "", "thinking": None}
_EMBEDDED = ("Let me analyze this step by step:\n\n", "\n\nBased on this analysis, here is the solution:\n\n")
_TAGS = ("<think>\n", "\n</think>\n\n")
_MARKS = {"embedded": _EMBEDDED, "special_tokens": _TAGS}
_CHAT_KEYS = frozenset(("messages", "conversations", "conversation", "chosen", "rejected", "system", "history"))


class Converted(NamedTuple):
    """A row in its new format, what it cannot hold, and which text it would lose ("thinking", "rejected" or "")."""

    out: dict[str, Any]
    record: dict[str, Any]
    lost: str


class Converter:
    """A format with its options.

    Args:
        target: the format.
        thinking: what becomes of `thinking`: "none" leaves it out, "separate" keeps it under a key of its own,
            "embedded" writes it before the answer in words, "special_tokens" in <think> tags.
        system: system message for rows that have none; none is ever made up.
        pad: write an empty thinking where a row has none, so that all rows have the same keys.

    Raises:
        ValueError: no such policy, or the format has another one.
    """

    def __init__(self, target: Target, thinking: str = "separate", system: str | None = None, pad: bool = False):
        if thinking not in THINKING:
            raise ValueError(f"no thinking policy {thinking!r}; known: {', '.join(THINKING)}")
        if target.thinking and thinking == "separate":
            thinking = target.thinking
        self.target, self.thinking, self.system, self.pad = target, thinking, system, pad
        self.name, self.title, self.drops = target.name, target.title, target.drops
        self.extension, self.layout, self.lossless = target.extension, target.layout, True
        self.marks = _MARKS.get(thinking)
        self.own_key = thinking == "separate" and target.separate  # thinking travels under a key of its own

    def convert(self, sample: TrainingSample | dict[str, Any]) -> dict[str, Any]:
        """The row of one sample (or of one row in any format that can be read).

        Raises:
            ConversionError: the row cannot be written in this format, or a text holds half a surrogate pair.
        """
        row = sample.to_dict() if isinstance(sample, TrainingSample) else dict(sample)
        out = self.convert_row(row).out
        _check_text(out)
        return out

    convert_sample = convert

    def convert_all(self, samples: Iterable[TrainingSample | dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of many samples."""
        return [self.convert(sample) for sample in samples]

    def convert_file(self, input_path: Path | str, output_path: Path | str | None = None, **options: Any):
        """`afs.training.convert_file` with this converter's options."""
        from afs.training.converters.files import convert_file

        return convert_file(input_path, output_path, converter=self, **options)

    def convert_row(self, row: dict[str, Any]) -> Converted:
        """Convert a parsed row. The row's own mapping is used up: its text keys are taken out.

        Raises:
            ConversionError: the row cannot be written in this format.
        """
        if self.target.pairs:
            from afs.training.converters.pairs import convert_pair

            return convert_pair(row, self.system)
        if type(row.get("instruction")) is str and type(row.get("output")) is str and _CHAT_KEYS.isdisjoint(row):
            return self._sample(row)
        from afs.training.converters.chats import convert_chat

        return convert_chat(self, row)

    def _sample(self, row: dict[str, Any]) -> Converted:
        keys = list(row)
        record: dict[str, Any] = {} if keys[:4] == _TEXTS else {"keys": keys}
        extra, thought = row.get("input"), row.get("thinking")
        if extra is not None and type(extra) is not str:
            raise ConversionError(f"'input' must be a text, found {type(extra).__name__}")
        if thought is not None and type(thought) is not str:
            raise ConversionError(f"'thinking' must be a text or null, found {type(thought).__name__}")
        question, answer = row.pop("instruction"), row.pop("output")
        if extra is not None:
            del row["input"]
        lost, own = "", None
        if thought:
            if self.own_key:
                own = row.pop("thinking")
            elif self.marks:
                before, after = self.marks
                answer = f"{before}{thought}{after}{answer}"
                record["thought"] = len(thought)
                del row["thinking"]
            else:
                lost = "thinking"
        elif self.own_key and self.pad:
            own = ""
        if self.target.name == "alpaca":
            out: dict[str, Any] = {"instruction": question, "input": extra or "", "output": answer}
            if own is not None:
                out["thinking"] = own
            if self.system is not None:
                out["system"] = self.system
        else:
            out = self._chat_of(question, extra, answer, own, record)
        # A plain row needs no record: its texts say all.
        record = {} if keys == _PLAIN and len(record) == 1 and not row else {**record, "kept": row}
        return Converted(out, record, lost)

    def _chat_of(self, question: str, extra: str | None, answer: str, own: str | None, record: dict) -> dict[str, Any]:
        if extra:
            record["input_at"] = len(question)
            question = f"{question}\n\n{extra}"
        said = {"role": "assistant", "content": answer}
        if own is not None:
            said["thinking"] = own
        messages = [{"role": "user", "content": question}, said]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        out, notes = self.target.make(messages)
        if notes:
            record.update(notes)
        return out

    def back(self, out: dict[str, Any], record: dict[str, Any] | None = None) -> dict[str, Any]:
        """The original row; without its record, what the format's own text says.

        Raises:
            ConversionError: the row has no way back without its record.
        """
        record = record or {"keys": None}
        if "original" in record:
            return record["original"]
        if record.get("from", "sample") != "sample":
            from afs.training.converters.chats import back_to_chat

            return back_to_chat(self, out, record)
        texts = self._texts(out, record)
        if record.get("thought"):
            texts["thinking"], texts["output"] = self._unmarked(texts["output"], record["thought"])
        kept = record.get("kept", {})
        # Kept values win: an empty thinking of the row beside the padding of its format.
        found = {**_DEFAULTS, **texts, **kept}
        keys = record.get("keys", [*_TEXTS, *(key for key in kept if key not in _TEXTS)])
        if keys is None:
            keys = [*texts]
        return {key: found[key] for key in keys}

    def _texts(self, out: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
        """instruction, input, output and thinking as they stand in a row of this format."""
        if self.target.name == "alpaca":
            texts = {"instruction": out["instruction"], "input": out["input"], "output": out["output"]}
            if out.get("thinking"):
                texts["thinking"] = out["thinking"]
            return texts
        if "sizes" not in record and isinstance(out.get("text", out.get("prompt")), str):
            raise ConversionError(f"a row of {self.name} has no way back without its record in the meta file")
        messages = self.target.read(out, record)
        if self.system is not None:
            messages = messages[1:]
        if [m["role"] for m in messages] != ["user", "assistant"]:
            raise ConversionError("more than a question and an answer; the way back needs its record in the meta file")
        question, answer = messages
        texts = {"instruction": question["content"], "input": "", "output": answer["content"]}
        if "input_at" in record:
            at = record["input_at"]
            texts["instruction"], texts["input"] = question["content"][:at], question["content"][at + 2 :]
        if answer.get("thinking"):
            texts["thinking"] = answer["thinking"]
        return texts

    def _unmarked(self, answer: str, size: int) -> tuple[str, str]:
        before, after = self.marks or _TAGS
        start = len(before)
        return answer[start : start + size], answer[start + size + len(after) :]

    def marked(self, thought: str, answer: str) -> str | None:
        """The answer with its thinking by this policy; None when the policy does not write it into the answer."""
        return f"{self.marks[0]}{thought}{self.marks[1]}{answer}" if self.marks else None


def _check_text(value: Any) -> None:
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ConversionError(f"a text holds half a surrogate pair (U+{ord(value[error.start]):04X}), which is "
                                      "no character; remove it") from error  # fmt: skip
    elif isinstance(value, dict):
        for part in value.values():
            _check_text(part)
    elif isinstance(value, list):
        for part in value:
            _check_text(part)


# --- the registry -------------------------------------------------------------------------------------------------

_REGISTERED: dict[str, Callable[..., Any]] = {}


def register_converter(name: str, factory: Callable[..., Any], overwrite: bool = False) -> None:
    """Make a format known under a name.

    Args:
        factory: called with `include_cot`, `cot_mode` and further options; gives an object with `convert(sample)`, and
            `drops` (words; "thinking" in them means that its rows lose it) where something gets lost. For
            `--workers` it must be picklable.

    Raises:
        ValueError: the name is taken and `overwrite` is False.
    """
    if not overwrite and name in available_converters():
        raise ValueError(f"a converter {name!r} exists; choose another name or pass overwrite=True")
    _REGISTERED[name] = factory


def available_converters() -> list[str]:
    """Names of all formats that can be written: built in, registered, and from installed packages."""
    return sorted({*TARGETS, *_REGISTERED, *plugins.names("afs.converters")})


def get_converter(
    name: str,
    include_cot: bool = True,
    cot_mode: str = "separate",
    *,
    system: str | None = None,
    template: str | None = None,
    **options: Any,
) -> Any:
    """A converter by name.

    Args:
        include_cot: False leaves the thinking out, whatever `cot_mode` says.
        cot_mode: "none", "separate", "embedded" or "special_tokens".
        template: of a text format: chatml, llama3, mistral or alpaca.

    Raises:
        ValueError: no such format, policy or template; the message names the near ones.
    """
    mode = cot_mode if include_cot else "none"
    if name in _REGISTERED:
        return _REGISTERED[name](include_cot=include_cot, cot_mode=mode, **options)
    known = ALIASES.get(name, name)
    if known in TARGETS:
        as_text = options.pop("as_text", False)
        if options:
            raise ValueError(f"format {name!r} has no option {', '.join(map(repr, options))}; it has system, template")
        target = TARGETS["chatml_text"] if known == "chatml" and as_text else TARGETS[known]
        if template is not None:
            target = with_template(target, template)
        return Converter(target, mode, system)
    if name in plugins.names("afs.converters"):
        return plugins.load("afs.converters", name)(include_cot=include_cot, cot_mode=mode, **options)
    known_names = available_converters()
    near = get_close_matches(name, known_names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no format {name!r}; {hint}known: {', '.join(known_names)}")


def list_formats() -> list[dict[str, Any]]:
    """What `afs training convert --list-formats` shows: name, title, keys of a row, what it drops."""
    own = [{"name": t.name, "title": t.title, "keys": list(t.keys), "drops": list(t.drops), "layout": t.layout}
           for t in TARGETS.values()]  # fmt: skip
    others = [name for name in available_converters() if name not in TARGETS]
    return own + [{"name": name, "title": "from another package", "keys": [], "drops": [], "layout": "file"}
                  for name in others]  # fmt: skip


__all__ = ["Converted", "Converter", "Messages", "available_converters", "get_converter", "list_formats",
           "register_converter"]  # fmt: skip

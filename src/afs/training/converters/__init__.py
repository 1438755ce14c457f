"""Training formats, in and out.

Reading: tell which format a row is in, and turn it into a chat row (`messages`).

    name = detect(row)                 # "alpaca", …, or None
    row = to_messages(row, name)       # {"messages": [{"role", "content"}, …], …}

Keys of the row that are no part of a format's own text stay in the row. A row that is already a good chat row
is returned as the same object, so that its bytes can be copied. A new format is one `Format` in `FORMATS`.

Writing: `afs training convert --input train.jsonl --format sharegpt`, or

    convert_file("train.jsonl", format="sharegpt")         # and convert_back() for the way back
    get_converter("alpaca").convert(sample)

A new format is one `Target` in `targets.TARGETS`, or an entry point of the group `afs.converters`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from afs.training.converters.formats import FORMATS, ROLES, ConversionError, Format

# The writing half is loaded when it is asked for: the readers of rows need the other half only.
_LAZY = {
    **dict.fromkeys(("Converter", "available_converters", "get_converter", "list_formats", "register_converter"),
                    "afs.training.converters.convert"),
    **dict.fromkeys(("ConvertResult", "convert_back", "convert_file", "convert_folder"),
                    "afs.training.converters.files"),
}  # fmt: skip
__all__ = ["FORMATS", "ROLES", "ConversionError", "Format", "detect", "format_names", "is_preference", "to_messages",
           *_LAZY]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def format_names() -> list[str]:
    """Names of the known formats, in the order in which they are tried."""
    return [form.name for form in FORMATS]


def detect(row: dict) -> str | None:
    """Name of the format of this row by its keys and the types of their values, or None."""
    return next((form.name for form in FORMATS if form.matches(row)), None)


def is_preference(name: str | None) -> bool:
    """Whether rows of this format are pairs to choose from (for a DPO school), not text to imitate."""
    return name == "preference"


def to_messages(row: dict, name: str) -> dict:
    """The chat row.

    Raises:
        ConversionError: the row cannot be a chat row; the message names the part and the rule.
        KeyError: no format has this name.
    """
    for form in FORMATS:
        if form.name == name:
            return form.convert(row)
    raise KeyError(f"no training format {name!r}; known: {', '.join(format_names())}")

"""The tables of docs/MODULES.md, made from the models themselves (a test holds the page to them).

    python3 -m realm.guild.modules.reference            # prints them
"""

from __future__ import annotations

import inspect
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from realm.guild.modules import manifest as m
from realm.guild.modules.expression import FUNCTIONS

PARTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("manifest.yaml", m.Manifest), ("primitives", m.Primitives), ("requirements", m.Requirements),
    ("skills[]", m.SkillEntry), ("data[]", m.DataEntry), ("evaluation", m.Evaluation), ("curriculum", m.Curriculum),
    ("skills/<skill>.yaml", m.SkillFile), ("grader", m.Grader), ("levels[]", m.LevelEntry),
    ("levels[].generators[]", m.Generator), ("a variable of type int", m.IntVariable),
    ("a variable of type choice", m.ChoiceVariable), ("a variable of type list", m.ListVariable),
    ("a variable of type string", m.StringVariable),
)  # fmt: skip


def document() -> str:
    """All tables, and the functions of the expression language."""
    parts = [_table(title, model) for title, model in PARTS]
    names = ", ".join(f"`{name}`" for name in sorted(FUNCTIONS))
    return "\n".join([*parts, f"Functions of the expression language: {names}.", ""])


def _table(title: str, model: type[BaseModel]) -> str:
    lines = [f"#### `{title}`" if not title.startswith("a ") else f"#### {title[0].upper()}{title[1:]}", ""]
    if model.__doc__:
        lines += [" ".join(inspect.cleandoc(model.__doc__).split()), ""]
    lines += ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        cells = (f"`{name}`", _kind(field.annotation), _default(field), " ".join((field.description or "").split()))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel) or value in ((), "", None):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        kinds = dict.fromkeys(_kind(part) for part in inner if part is not type(None))
        return " or ".join(kinds)
    if origin is tuple:
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return f"map of name to {_kind(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return re.sub(r"(?<!^)(?=[A-Z])", " ", annotation.__name__).lower()
    words = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return words[annotation]


if __name__ == "__main__":
    print(document(), end="")

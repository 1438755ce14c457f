"""docs/SCHOOLS.md against the program: its commands parse, its options and numbers are the code's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from realm import cli
from realm.quests import sparring, teacher
from realm.schools import mirror, whisper
from realm.vault import shelf

PAGE = (Path(__file__).resolve().parents[1] / "docs/SCHOOLS.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
COMMANDS = sorted(set(re.findall(r"python3 -m training ([^\n`]+)", PAGE)))


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line):
    words = shlex.split(line.split("  #")[0])
    command, context = typer.main.get_command(cli.app), None
    while isinstance(command, click.Group):
        context = click.Context(command, parent=context)
        command = command.get_command(context, words.pop(0))
        assert command is not None, line
    command.make_context(command.name, words, parent=context, resilient_parsing=False)


@pytest.mark.parametrize("name,options", [("mirror", mirror.Options), ("whisper", whisper.Options)])
def test_options_and_defaults(name, options):
    part = re.search(rf"<!-- {name} options -->(.*?)\n(?:\n|#)", PAGE, re.S).group(1)
    told = dict(re.findall(r"`(\w+)` \(([^)]+)\)", part))
    wanted = {key: "needed" if field.is_required() else str(field.default) if field.default not in ("", ()) else "none"
              for key, field in options.model_fields.items()}  # fmt: skip
    assert told == wanted


def test_numbers_and_names():
    for kind in sparring.KINDS:
        assert f"`{kind}`" in PAGE
    for said in (f"expire {sparring.EXPIRES_STEPS:,} steps later", f"chunks of about {shelf.CHUNK_CHARS} characters",
                 f"folder `{shelf.FOLDER}/`", f"`queue/live/QUEST/{sparring.FILE}`",
                 f"`queue/live/QUEST/{whisper.TOLD}`", teacher.KEY,
                 sparring.WRONG, sparring.RIGHT, sparring.VERDICT, sparring.MEND):  # fmt: skip
        assert said in TEXT, said
    assert len(teacher.RETRY_S) + 1 == 4 and "four times in all" in TEXT
    assert (sparring.WANTED, sparring.LIKE) == (0.5, 0.5), "half of the asked; less than half like the golden answer"

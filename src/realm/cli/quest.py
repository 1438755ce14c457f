"""`training quest …`: training data on the board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from realm.cli.common import Json, Refused, open_db, order, say, skill_named, table
from realm.settings import LANES, RealmHome

quest_app = typer.Typer(no_args_is_help=True, help="Training data on the quest board.")

School = Annotated[str | None, typer.Option(help="scribe, mirror, judge, champion or whisper")]
Options = Annotated[list[str] | None, typer.Option(help="an option of the school, KEY=VALUE; may be repeated")]


def parse_options(given: list[str] | None, school: str | None) -> dict[str, Any]:
    """{key: value} of KEY=VALUE words; values are read as YAML (numbers, lists, texts)."""
    import yaml

    if given and school is None:
        raise Refused("options are a school's: name it with --school")
    found = {}
    for word in given or ():
        key, sign, value = word.partition("=")
        if not sign or not key.strip():
            raise Refused(f"option {word!r}: write KEY=VALUE")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise Refused(f"option {word!r}: the value cannot be read; put it in quotes") from error
    return found


@quest_app.command("add")
def quest_add(
    files: Annotated[list[Path], typer.Argument(help=".jsonl files")],
    lane: Annotated[str, typer.Option(help="high, normal or low")] = "normal",
    school: School = None, option: Options = None,
) -> None:  # fmt: skip
    """Copy files into the inbox; the Cleric checks them and reports on the board."""
    from realm.quests.board import BoardError
    from realm.quests.inbox import drop
    from realm.schools import SchoolError

    options = parse_options(option, school)

    if lane not in LANES:
        raise Refused(f"lane {lane!r} is none of {', '.join(LANES)}")
    home = RealmHome()
    open_db(home).dispose()
    for file in files:
        if not file.is_file():
            raise Refused(f"{file} is not a file; nothing was copied from it")
        try:
            print(f"{file} -> {drop(home, file, lane, school, options)}")
        except (BoardError, SchoolError, OSError) as error:
            raise Refused(f"{error}; nothing was copied from {file}") from error


@quest_app.command("list")
def quest_list(as_json: Json = False, all_states: Annotated[bool, typer.Option("--all")] = False) -> None:
    """The board: waiting and running quests first, then the newest finished ones."""
    import sqlalchemy as sa

    from realm import db

    quests = db.quests
    names = ("id", "lane", "state", "kind", "name", "skill", "level", "rows", "attempts", "error")
    columns = [quests.c[name] for name in names]
    order_by = [sa.case((quests.c.state.in_(["training", "queued", "hold"]), 0), else_=1),
                quests.c.created_at.desc()]  # fmt: skip
    engine = open_db(RealmHome())
    with db.read(engine) as connection:
        query = sa.select(*columns).order_by(*order_by).limit(-1 if all_states else 20)
        rows = [dict(row) for row in connection.execute(query).mappings()]
    say(rows, as_json, table([list(row.values()) for row in rows], [c.name for c in columns]))


@quest_app.command("retry")
def quest_retry(quest_id: str, as_json: Json = False) -> None:
    """Queue a failed, refused or skipped quest again."""
    report_of(quest_id)
    order("quest.retry", {"quest_id": quest_id}, as_json)


@quest_app.command("school")
def quest_school(quest_id: str, school: str, option: Options = None, as_json: Json = False) -> None:
    """Give a waiting quest to another school."""
    report_of(quest_id)
    payload = {"quest_id": quest_id, "school": school, "options": parse_options(option, school)}
    order("quest.school", payload, as_json)


@quest_app.command("practise")
def quest_practise(
    skill: Annotated[str, typer.Option(help="Skill whose problems are made.")] = "bin",
    level: Annotated[int | None, typer.Option(help="Level; default: as the curriculum mixes them.")] = None,
    school: School = None, option: Options = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Make a quest of fresh problems of a skill, for the Scribe or another school."""
    payload = {"skill": skill_named(skill).id, **({} if level is None else {"level": level})}
    if school is not None:
        payload |= {"school": school, "options": parse_options(option, school)}
    order("idle.generate", payload, as_json)


@quest_app.command("report")
def quest_report(quest_id: str) -> None:
    """The Cleric's report of one quest as JSON."""
    say(report_of(quest_id), True, "")


def report_of(quest_id: str) -> dict | None:
    """The Cleric's report of a quest, None for one that the realm made itself; an unknown id is refused."""
    import sqlalchemy as sa

    from realm import db

    engine = open_db(RealmHome())
    with db.read(engine) as connection:
        row = connection.execute(sa.select(db.quests.c.report).where(db.quests.c.id == quest_id)).one_or_none()
    if row is None:
        raise Refused(f"no quest {quest_id}; `python3 -m training quest list --all` names them")
    return row.report

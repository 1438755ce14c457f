"""`training module …`: quest modules, shareable packages of practice (docs/MODULES.md)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from realm.cli.common import Json, Refused, say, table
from realm.settings import LANES, RealmHome

module_app = typer.Typer(no_args_is_help=True, help="Quest modules: shareable packages of practice.")


@module_app.command("list")
def module_list(as_json: Json = False) -> None:
    """Installed modules, and those that come with the Realm."""
    from realm.guild.modules import shelf

    home = RealmHome()
    places = [("installed", folder) for folder in shelf.folders(shelf.folder_of(home.root))]
    known = {folder.name for _, folder in places}
    places += [("shipped", folder) for folder in shelf.folders(shelf.shipped()) if folder.name not in known]
    rows = [_line(state, folder) for state, folder in places]
    say(rows, as_json, table([list(r.values()) for r in rows],
                             ["id", "version", "state", "skills", "levels", "drill", "description"]))  # fmt: skip


def _line(state: str, folder: Path) -> dict[str, Any]:
    from realm.guild.modules.manifest import ModuleError
    from realm.guild.modules.shelf import manifest_of

    try:
        manifest = manifest_of(folder)
    except ModuleError as error:
        return {"id": folder.name, "version": "", "state": "broken", "skills": "", "levels": "", "drill": "",
                "description": str(error).split("\n")[0]}  # fmt: skip
    return {"id": manifest.id, "version": manifest.version, "state": state, "skills": len(manifest.skills),
            "levels": sum(entry.max_level for entry in manifest.skills), "drill": "yes" if manifest.drill_mode else "",
            "description": manifest.description}  # fmt: skip


@module_app.command("info")
def module_info(
    module: Annotated[str, typer.Argument(help="Id of a module, or its folder.")], as_json: Json = False
) -> None:
    """What a module teaches, what it needs, and what the active campaign lacks for it."""
    from realm.guild.modules import archive
    from realm.guild.modules.requirements import unmet
    from realm.guild.modules.validate import check

    folder = _folder(module)
    report = check(folder)
    if report.manifest is None:
        raise Refused("\n".join(report.errors))
    manifest, lacking = report.manifest, unmet(report.manifest, _mastered())
    data = {**manifest.model_dump(mode="json"), "folder": str(folder), "threshold_used": manifest.threshold,
            "levels": report.levels, "lacking": lacking, "errors": report.errors, "warnings": report.warnings,
            "sha256": None if report.errors else archive.digest(folder)}  # fmt: skip
    lines = [f"{manifest.name} ({manifest.id} {manifest.version}) by {manifest.author}, {manifest.license}",
             manifest.description, f"folder: {folder}",
             f"threshold: {manifest.threshold:.2f} by the level rule"
             f"{'; a drill: generated practice of one operation' if manifest.drill_mode else ''}"]  # fmt: skip
    for skill_id, levels in report.levels.items():
        rows = [[level["level"], level["train"] or "", level["held"] or "", level["generators"] or "",
                 f"closed: {level['closed']} problems" if level["closed"] else "open"] for level in levels]  # fmt: skip
        lines += ["", skill_id, table(rows, ["level", "rows", "held out", "generators", "kind"])]
    lines += ["", *(lacking or ["The active campaign may use it."])]
    lines += [f"error: {line}" for line in report.errors] + [f"warning: {line}" for line in report.warnings]
    say(data, as_json, "\n".join(lines))


@module_app.command("validate")
def module_validate(
    folder: Annotated[str, typer.Argument(help="A module's folder, or the id of a module.")], as_json: Json = False
) -> None:
    """Everything that is wrong with a module at once; exit code 1 when it cannot be used."""
    from realm.guild.modules.validate import check

    report = check(_folder(folder))
    lines = [f"error: {line}" for line in report.errors] + [f"warning: {line}" for line in report.warnings]
    verdict = "sound" if not report.errors else f"{len(report.errors)} errors; mend them and validate again"
    say({"errors": report.errors, "warnings": report.warnings, "levels": report.levels}, as_json,
        "\n".join([*lines, f"{folder}: {verdict}"]))  # fmt: skip
    raise typer.Exit(1 if report.errors else 0)


@module_app.command("install")
def module_install(
    source: Annotated[str, typer.Argument(help="A folder, a .zip, or the id of a module that is shipped.")],
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of another of the same id.")] = False,
    as_json: Json = False,
) -> None:
    """Install a module into this realm home; its skills are there at once."""
    from realm.guild.modules import archive, shelf
    from realm.guild.modules.manifest import ModuleError

    path = Path(source)
    if not path.exists() and "/" not in source and (shelf.shipped() / source).is_dir():
        path = shelf.shipped() / source
    home = RealmHome()
    try:
        manifest = archive.install(path, shelf.folder_of(home.root), replace)
    except (ModuleError, OSError) as error:
        raise Refused(f"{error}\nnothing was installed") from error
    ids = [manifest.skill_id(entry.id) for entry in manifest.skills]
    say({"id": manifest.id, "version": manifest.version, "skills": ids}, as_json,
        f"{manifest.name} {manifest.version} is installed: {', '.join(ids)}\n"
        f"practise it with `python3 -m training module compose {manifest.id} --rows 200`")  # fmt: skip


@module_app.command("export")
def module_export(
    module: Annotated[str, typer.Argument(help="Id of a module, or its folder.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: <id>-<version>.zip here.")] = None,
    as_json: Json = False,
) -> None:
    """Write a module as a .zip; the same module gives the same bytes."""
    from realm.guild.modules import archive
    from realm.guild.modules.manifest import ModuleError, read_manifest

    folder = _folder(module)
    try:
        manifest = read_manifest(folder)
        target = output or Path(f"{manifest.id}-{manifest.version}.zip")
        sha256 = archive.export(folder, target)
    except (ModuleError, OSError) as error:
        raise Refused(f"{error}\nnothing was exported") from error
    say({"path": str(target), "sha256": sha256}, as_json, f"{target}  sha256 {sha256}")


@module_app.command("remove")
def module_remove(
    module: Annotated[str, typer.Argument(help="Id of an installed module.")],
    force: Annotated[bool, typer.Option("--force", help="Also while quests of it wait on the board.")] = False,
    as_json: Json = False,
) -> None:
    """Move an installed module to the home's trash (`modules/.trash/`)."""
    from realm.guild.modules import archive, shelf
    from realm.guild.modules.manifest import ModuleError

    home = RealmHome()
    waiting = _waiting(home, module)
    if waiting and not force:
        raise Refused(f"module {module}: {waiting} quests of it are on the board; let them end, or use --force")
    try:
        place = archive.remove(shelf.folder_of(home.root), module)
    except (ModuleError, OSError) as error:
        raise Refused(str(error)) from error
    say({"id": module, "trash": str(place)}, as_json, f"{module} is now at {place}; install that folder to undo it")


@module_app.command("compose")
def module_compose(
    parts: Annotated[list[str], typer.Argument(help="Modules with weights: pattern-master=2 carry-drill=1")],
    rows: Annotated[int, typer.Option(help="Rows of the file.")] = 200,
    seed: Annotated[int, typer.Option(help="Another seed draws other rows.")] = 0,
    levels: Annotated[str | None, typer.Option(help="Only these levels: 2 or 1-3.")] = None,
    lane: Annotated[str, typer.Option(help="high, normal or low")] = "normal",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of the inbox.")] = None,
    as_json: Json = False,
) -> None:
    """Mix modules by weight into one training file and drop it into the inbox, where the Cleric gates it."""
    from realm.guild.modules import compose
    from realm.guild.modules.manifest import ModuleError
    from realm.guild.skills import SkillError

    if lane not in LANES:
        raise Refused(f"lane {lane!r} is none of {', '.join(LANES)}")
    if output is not None and output.suffix != ".jsonl":
        raise Refused(f"{output}: a training file ends with .jsonl; name it so")
    weights = _weights(parts)
    home = RealmHome()
    try:
        skills = {name: _skills(home, name) for name in weights}
        _check_requirements(skills)
        with tempfile.TemporaryDirectory() as folder:
            path = output or Path(folder) / f"{'-'.join(weights)[:60]}-{seed}.jsonl"
            made = compose.write(path, skills, weights, rows, seed, _levels(levels))
            place = output or _drop(home, path, lane)
    except (ModuleError, SkillError, OSError) as error:
        raise Refused(f"{error}\nnothing was written") from error
    counts = {skill: dict(wanted) for skill, wanted in made.counts.items()}
    lines = [f"{skill}: " + ", ".join(f"L{level} {count}" for level, count in wanted.items())
             for skill, wanted in counts.items()]  # fmt: skip
    say({"path": str(place), "rows": made.rows, "sha256": made.sha256, "counts": counts}, as_json,
        "\n".join([*lines, f"{made.rows} rows -> {place}"]))  # fmt: skip


def _weights(parts: list[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in parts:
        name, sign, value = part.partition("=")
        try:
            weight = float(value) if sign else 1.0
        except ValueError as error:
            raise Refused(f"{part!r}: write module=weight, such as pattern-master=2") from error
        if name in weights:
            raise Refused(f"module {name!r} is named twice; give it one weight")
        weights[name] = weight
    return weights


def _levels(text: str | None) -> range | None:
    if text is None:
        return None
    low, dash, high = text.partition("-")
    if not low.isdecimal() or dash and not high.isdecimal() or int(high or low) < int(low) or int(low) < 1:
        raise Refused(f"--levels {text!r}: write a level such as 2, or a range such as 1-3")
    return range(int(low), int(high or low) + 1)


def _drop(home: RealmHome, path: Path, lane: str) -> Path:
    from realm.quests.board import BoardError
    from realm.quests.inbox import drop

    try:
        return drop(home, path, lane)
    except BoardError as error:
        raise Refused(str(error)) from error


def _skills(home: RealmHome, module: str) -> list[Any]:
    """The skills of an installed module."""
    from realm.guild.modules import shelf
    from realm.guild.skills import SkillError

    folder = shelf.folder_of(home.root)
    if "/" in module or module.startswith("."):
        raise SkillError(f"module {module!r}: name the module by its id, such as pattern-master")
    if not (folder / module).is_dir() and (shelf.shipped() / module).is_dir():
        raise SkillError(f"module {module!r} is shipped but not installed; `python3 -m training module install "
                         f"{module}` does it")  # fmt: skip
    return shelf.open_module(folder, module)


def _check_requirements(skills: dict[str, list[Any]]) -> None:
    from realm.guild.modules.requirements import unmet

    mastered = _mastered()
    lacking = [line for group in skills.values() for line in unmet(group[0].manifest, mastered)]
    if lacking:
        raise Refused("\n".join(lacking))


def _mastered() -> dict[str, int]:
    """{skill: mastered level} of the active campaign; empty without a realm."""
    home = RealmHome()
    if not home.database.exists():
        return {}
    from realm import db
    from realm.guild import campaigns, progress

    engine = db.connect(home)
    with db.read(engine) as connection:
        campaign = campaigns.active(connection)
        return progress.mastered_levels(connection, campaign["id"]) if campaign else {}


def _waiting(home: RealmHome, module: str) -> int:
    """Quests of a module's skills that are on the board or in battle."""
    if not home.database.exists():
        return 0
    import sqlalchemy as sa

    from realm import db

    table_ = db.quests
    mine = sa.or_(table_.c.skill == f"module:{module}", table_.c.skill.startswith(f"module:{module}/", autoescape=True))
    query = sa.select(sa.func.count()).where(mine, table_.c.state.in_(("queued", "hold", "training")))
    with db.read(db.connect(home)) as connection:
        return int(connection.execute(query).scalar_one())


def _folder(module: str) -> Path:
    """A module's folder from its path or id: installed ones come before shipped ones."""
    from realm.guild.modules import shelf

    path = Path(module)
    if path.is_dir():
        return path
    for place in (shelf.folder_of(RealmHome().root), shelf.shipped()):
        if "/" not in module and not module.startswith(".") and (place / module).is_dir():
            return place / module
    known = sorted({f.name for s in (shelf.folder_of(RealmHome().root), shelf.shipped()) for f in shelf.folders(s)})
    raise Refused(f"{module!r} is no folder and no module; modules: {', '.join(known) or 'none'}")



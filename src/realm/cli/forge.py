"""`training forge …`: the Skill Forge, which makes a skill out of data (docs/FORGE.md)."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from realm.cli.common import Json, Refused, say
from realm.settings import RealmHome

forge_app = typer.Typer(no_args_is_help=True, help="The Skill Forge: data in, a proposed skill with its evidence out.")

Folder = Annotated[Path, typer.Argument(help="Folder that `forge skill` wrote.")]


@forge_app.command("skill")
def forge_skill(
    source: Annotated[Path, typer.Option("--from", help="A JSONL file, or a folder of them.")],
    skill_id: Annotated[str, typer.Option("--id", help="Id of the module; default: the name of the data.")] = "",
    name: Annotated[str, typer.Option(help="Title for people.")] = "",
    out: Annotated[Path | None, typer.Option(help="Default: forge/<id> in the realm home.")] = None,
    hero: Annotated[str | None, typer.Option(help="Who is asked; default: the active campaign's.")] = None,
    no_hero: Annotated[bool, typer.Option("--no-hero", help="Use the structure of the data only.")] = False,
    levels: Annotated[int | None, typer.Option(help="At most so many levels, 1 to 10; default 5.")] = None,
    seed: Annotated[int, typer.Option(help="Of the held-out split.")] = 0,
    trust_answers: Annotated[
        bool, typer.Option("--trust-answers", help="You vouch that the questions determine the answers.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of an earlier proposal.")] = False,
    as_json: Json = False,
) -> None:
    """Propose a skill: levels, held-out questions, grader, primitives, and a rule if one computes the answers.

    Exit code 1 where there is nothing to learn, with the reason. Nothing is installed and nothing is trained.
    """
    from realm.arena import forging
    from realm.guild.forge import ForgeError
    from realm.guild.forge.build import Request, build, check_target, name_of
    from realm.guild.skills import all_skills
    from realm.settings import SettingsError

    home = RealmHome()
    request = Request(source.expanduser(), skill_id, name, levels, seed, trust_answers)
    try:
        module_id = name_of(request)
        target = (out or home.root / "forge" / module_id).expanduser()
        check_target(target, replace)
        check = forging.gate(all_skills(), f"module:{module_id}")
        asked = contextlib.nullcontext() if no_hero else forging.asked_hero(home, hero)
        with asked as one:
            made = build(request, target, one, check, replace)
    except ForgeError as error:
        refused = {"verdict": "refused", "code": error.code, "reason": str(error), "evidence": error.evidence}
        if as_json:
            say(refused, True, "")
            raise typer.Exit(1) from error
        raise Refused(f"no skill was forged ({error.code}): {error}") from error
    except (SettingsError, OSError) as error:
        raise Refused(f"{error}; --no-hero works without a hero") from error
    say({**made, "folder": str(target)}, as_json, summary(made, target))


def summary(made: dict[str, Any], target: Path) -> str:
    """The proposal in some lines."""
    rows, rule = made["source"]["rows"], made["rule"]
    kept = [f"{rows[name]} {word}" for name, word in (("filtered", "filtered"), ("duplicate", "duplicates"),
                                                      ("quarantined", "quarantined")) if rows[name]]  # fmt: skip
    cases = "; ".join(f"{case['wording']} → {case['answer']}" for case in rule["cases"])
    primitives = ", ".join(f"{p['primitive']} {p['confidence']:.2f}" for p in made["primitives"]) or "none recognised"
    return "\n".join((
        f"proposed {made['skill']} in {target}",
        f"rows: {rows['kept']} of {rows['read']}" + (f" ({', '.join(kept)})" if kept else "")
        + f"; {made['rows']['learn']} to learn from, {made['rows']['held_out']} held out",
        f"levels: {len(made['levels']['levels'])} ({made['levels']['why']})",
        f"grader: {made['grader']['chosen']['type']}",
        f"rule: {cases if cases else 'none found, the skill is its rows'}",
        f"primitives: {primitives}",
        f"read {target / 'REPORT.md'}, then: python3 -m training forge accept {target}"))  # fmt: skip


@forge_app.command("accept")
def forge_accept(
    folder: Folder,
    hero: Annotated[str | None, typer.Option(help="Who is trained; default: the active campaign's.")] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps of the segment.")] = 300,
    yes: Annotated[bool, typer.Option("--yes", help="Install without asking, if the gain is real.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of an installed one.")] = False,
    as_json: Json = False,
) -> None:
    """Train a copy of the hero on it for a while; install it when held-out accuracy rose for certain and you agree.

    The running campaign is not touched. Exit code 1 when the skill is not accepted.
    """
    from realm.arena import forging
    from realm.guild.forge import ForgeError
    from realm.settings import SettingsError

    home = RealmHome()

    def tell(text: str) -> None:
        print(text, file=sys.stderr)

    try:
        made = forging.accept(folder.expanduser(), home, hero, steps, tell)
    except (ForgeError, SettingsError, OSError) as error:
        raise Refused(str(error)) from error
    found = made["acceptance"]
    if not found["accepted"]:
        say(made, as_json, f"not accepted: {found['why']}\nread {folder / 'REPORT.md'}; nothing was installed")
        raise typer.Exit(1)
    tell(f"accepted: {found['why']}")
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Install {made['skill']} into {home.root}?", err=True)):
        say({**made, "installed": False}, as_json,
            f"not installed: a person confirms, here at the question or with --yes, or later by `python3 -m training "
            f"module install {folder / made['module']}`")  # fmt: skip
        return
    _install(folder / made["module"], home, replace)
    say({**made, "installed": True}, as_json,
        f"{made['skill']} is installed; `python3 -m training skill levels {made['skill']}` shows it")  # fmt: skip


def _install(module: Path, home: RealmHome, replace: bool) -> None:
    from realm.guild.modules import archive, shelf
    from realm.guild.modules.manifest import ModuleError

    try:
        archive.install(module, shelf.folder_of(home.root), replace)
    except (ModuleError, OSError) as error:
        raise Refused(f"{error}\nnothing was installed") from error


@forge_app.command("report")
def forge_report(folder: Folder, as_json: Json = False) -> None:
    """The report of a proposal: the evidence of every choice, and the acceptance if it was held."""
    from realm.arena import forging
    from realm.guild.forge import ForgeError
    from realm.guild.forge.report import markdown

    try:
        made = forging.read_proposal(folder.expanduser()).report
    except ForgeError as error:
        raise Refused(str(error)) from error
    say(made, as_json, markdown(made))

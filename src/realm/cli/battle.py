"""`training battle …` and `training trial …`: control the running battle, examine the hero."""

from __future__ import annotations

from typing import Annotated

import typer

from realm.cli.common import Json, Refused, order, skill_named

battle_app = typer.Typer(no_args_is_help=True, help="Control the running battle.")
trial_app = typer.Typer(no_args_is_help=True, help="Examine the hero on held-out problems.")


@battle_app.command("pause")
def battle_pause(as_json: Json = False) -> None:
    """Hold the battle after its current optimizer step."""
    order("battle.pause", as_json=as_json)


@battle_app.command("resume")
def battle_resume(as_json: Json = False) -> None:
    """Go on with a paused battle, or leave rest mode after a stop."""
    order("battle.resume", as_json=as_json)


@battle_app.command("stop")
def battle_stop(as_json: Json = False) -> None:
    """Save a checkpoint, put the quest back at the head of the queue and rest."""
    order("battle.stop", as_json=as_json)


@battle_app.command("skip")
def battle_skip(as_json: Json = False) -> None:
    """Save a checkpoint, mark the quest as skipped and go on with the next."""
    order("battle.skip", as_json=as_json)


@trial_app.command("run")
def trial_run(
    skill: Annotated[str, typer.Option(help="Skill to examine.")] = "bin",
    level: Annotated[int | None, typer.Option(help="Level; default: the one in training.")] = None,
    as_json: Json = False,
) -> None:
    """Examine the newest checkpoint after the current battle."""
    chosen = skill_named(skill)
    if level is not None and not 1 <= level <= chosen.max_level:
        raise Refused(f"level {level}: {chosen.id} has levels 1 to {chosen.max_level}; choose one")
    order("trial.run", {"skill": chosen.id, **({} if level is None else {"level": level})}, as_json)

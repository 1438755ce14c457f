"""`training battle …` and `training trial …`: control the running battle, examine the hero."""

from __future__ import annotations

from typing import Annotated

import typer

from realm import db
from realm.cli.common import Json, Refused, open_db, order, say, skill_named, table
from realm.settings import RealmHome

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


@battle_app.command("tokens")
def battle_tokens(
    battle: Annotated[str | None, typer.Argument(help="Battle or run; default: the newest.")] = None,
    row: Annotated[int | None, typer.Option(help="Look at this row of the quest now, from 0.")] = None,
    policy: Annotated[str | None, typer.Option(help="With --row: weigh by this policy of the Oracle's Eye.")] = None,
    as_json: Json = False,
) -> None:
    """Mask, weight, surprisal and entropy of every token of some rows, as the hero saw them."""
    from realm.arena import token_maps
    from realm.state import queries
    from realm.vault.checkpoints import CheckpointError

    if policy is not None and row is None:
        raise Refused("--policy weighs a row anew: name the row too, for example --row 0")
    home = RealmHome()
    engine = open_db(home)
    with db.read(engine) as connection:
        found = queries.battle(connection, battle)
        if found is None:
            raise Refused(f"no battle {battle or 'was fought yet'}; the Battle page and /api/battles/current name them")
        seen = queries.token_maps(connection, found["id"])
    if row is not None:
        try:
            seen = token_maps.look(home, engine, found, row, policy)
        except CheckpointError as error:
            raise Refused(str(error)) from error
    if not seen["rows"] and not as_json:
        raise Refused(f"no token map of battle {found['id']} is kept (they are those of the newest "
                      f"{token_maps.KEPT_BATTLES} battles that trained on text); --row 0 looks anew")  # fmt: skip
    say(seen, as_json, "\n\n".join(_token_table(seen, each) for each in seen["rows"]))


def _token_table(seen: dict, row: dict) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    names = ("text", "trained", "weight", "surprisal", "entropy")
    lines = [[repr(text)[1:-1], "trained" if trained else "masked", *map(number, values)]
             for text, trained, *values in zip(*(row[name] for name in names), strict=True)]  # fmt: skip
    head = f"Row {row['row']} at step {seen['step']}, policy {seen['policy']} (surprisal and entropy in nats)\n"
    return head + table(lines, ["token", "loss", "weight", "surprisal", "entropy"])


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

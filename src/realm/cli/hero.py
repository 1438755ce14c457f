"""`training hero …`: heroes (models) and which of them plays."""

from __future__ import annotations

from typing import Annotated

import typer

from realm.cli.common import Json, Refused, order, say, table
from realm.settings import RealmHome

hero_app = typer.Typer(no_args_is_help=True, help="Heroes (models).")


@hero_app.command("list")
def hero_list(as_json: Json = False) -> None:
    """Heroes that can be used."""
    from realm.heroes.profile import ProfileError, list_profiles

    try:
        known = list_profiles(RealmHome())
    except ProfileError as error:
        raise Refused(str(error)) from error
    rows = [{"id": p.id, "name": p.name, "title": p.rpg_name, "model": p.model.path_or_hub_id,
             "family": p.model.family, "size_b": p.model.size_b} for p in known]  # fmt: skip
    say(rows, as_json, table([list(r.values()) for r in rows], ["id", "name", "title", "model", "family", "size (B)"]))


@hero_app.command("show")
def hero_show(hero_id: str) -> None:
    """The resolved recipe of one hero as JSON."""
    say(hero_named(hero_id).model_dump(mode="json"), True, "")


def hero_named(hero_id: str):
    from realm.heroes.profile import ProfileError, load_profile

    try:
        return load_profile(hero_id, RealmHome())
    except ProfileError as error:
        raise Refused(str(error)) from error


@hero_app.command("use")
def hero_use(
    hero_id: str,
    model: Annotated[str | None, typer.Option(help="Folder or hub id of the weights.")] = None,
    mode: Annotated[str | None, typer.Option(
        help="Memory mode: qlora, lora, galore_8bit, deepspeed, full, adamw.")] = None,  # fmt: skip
    as_json: Json = False,
) -> None:
    """Begin a campaign with another hero, or with other weights or another memory mode, after the current battle."""
    from realm.heroes.modes import mode_keys
    from realm.heroes.profile import ProfileError

    profile = hero_named(hero_id)
    try:
        if mode is not None:
            mode_keys(mode, profile)
    except ProfileError as error:
        raise Refused(str(error)) from error
    said = {key: value for key, value in (("model", model), ("mode", mode)) if value is not None}
    order("hero.use", {"hero_id": profile.id, **said}, as_json)

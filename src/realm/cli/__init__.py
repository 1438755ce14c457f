"""`python3 -m training …` (console script `realm`): thin commands over the realm's own modules, a file per group.

Commands that change the game insert a row into `commands` and wait a moment for the arena's answer; they mean the same
with the services down: the arena takes them up when it starts (contracts A1).
"""

from __future__ import annotations

import gc
import sys

import typer

from realm.cli.battle import battle_app, trial_app
from realm.cli.campaign import campaign_app
from realm.cli.common import Refused
from realm.cli.forge import forge_app
from realm.cli.hero import hero_app
from realm.cli.jobs import jobs_app
from realm.cli.ledger import ledger_app
from realm.cli.module import module_app
from realm.cli.oracle import oracle_app
from realm.cli.passives import passives_app
from realm.cli.primitive import primitive_app
from realm.cli.quest import quest_app
from realm.cli.realm import realm_app
from realm.cli.shelf import shelf_app
from realm.cli.skill import skill_app
from realm.cli.temple import temple_app
from realm.cli.vault import vault_app
from realm.cli.vram import vram_app
from realm.settings import SettingsError, realm_home

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="The Realm of Training: data, battle, held-out trial, level, checkpoint, next quest.",
)  # fmt: skip
app.add_typer(realm_app)
app.add_typer(temple_app)
app.add_typer(vram_app)
for name, group in (("quest", quest_app), ("battle", battle_app), ("trial", trial_app), ("skill", skill_app),
                    ("vault", vault_app), ("hero", hero_app), ("campaign", campaign_app), ("ledger", ledger_app),
                    ("module", module_app), ("forge", forge_app), ("primitive", primitive_app),
                    ("passives", passives_app), ("shelf", shelf_app), ("jobs", jobs_app),
                    ("oracle", oracle_app)):  # fmt: skip
    app.add_typer(group, name=name)


@app.callback()
def attach_home() -> None:
    """The Realm of Training: data, battle, held-out trial, level, checkpoint, next quest."""
    from realm.guild.skills import attach

    attach(realm_home())  # the modules installed there are skills of every command


def main() -> None:
    """Entry point of `python3 -m training` and `realm`."""
    # A command imports, answers and ends: looking for garbage meanwhile is a tenth of its time. `serve` turns it on.
    gc.disable()
    try:
        from realm.db import SchemaError
        from realm.supervise import StartError

        try:
            app()
        except (Refused, SettingsError, StartError, SchemaError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
    finally:
        gc.enable()

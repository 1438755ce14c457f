"""What the groundskeeper clears away beside the Vault's own: things of packages that the Vault may not import."""

from __future__ import annotations

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns, progress
from realm.quests import sparring
from realm.settings import RealmHome
from realm.vault.groundskeeper import Found, Task


def tasks(home: RealmHome) -> tuple[Task, ...]:
    """Tasks that are added to the groundskeeper's own."""
    return (Task("sparring", "sparring rows that show nothing of the hero any more", _stale_sparring),)


def _stale_sparring(home: RealmHome, made: sa.Engine, dry_run: bool) -> list[Found]:
    table = db.campaigns
    with db.read(made) as connection:
        played = connection.execute(sa.select(table.c.id).where(table.c.state != "archived")).scalars().all()
        reached = {key: (campaigns.current_run(connection, key)["id"], progress.step_reached(connection, key))
                   for key in played}  # fmt: skip
    stale = sparring.stale_files(home, reached)
    if not dry_run:
        sparring.delete_stale(home, stale)
    return [Found(file.path, file.bytes, file.reason) for file in stale]

"""`training vault …`: checkpoints."""

from __future__ import annotations

from typing import Annotated

import typer

from realm.cli.common import Json, Refused, open_db, order, say, table
from realm.settings import RealmHome

vault_app = typer.Typer(no_args_is_help=True, help="Checkpoints.")


@vault_app.command("list")
def vault_list(as_json: Json = False) -> None:
    """Checkpoints, newest first."""
    import sqlalchemy as sa

    from realm import db

    c = db.checkpoints.c
    engine = open_db(RealmHome())
    with db.read(engine) as connection:
        query = sa.select(c.id, c.hero_id, c.step, c.bytes, c.state, c.resumable, c.pinned, c.path)
        rows = [dict(row) for row in connection.execute(query.order_by(c.created_at.desc())).mappings()]
    say(rows, as_json, table([list(r.values()) for r in rows],
                             ["id", "hero", "step", "bytes", "state", "resumable", "pinned", "path"]))  # fmt: skip


@vault_app.command("verify")
def vault_verify(
    checkpoint_id: Annotated[str | None, typer.Argument(help="One checkpoint; default: all live ones.")] = None,
    as_json: Json = False,
) -> None:
    """Compare every file of a checkpoint with the ledger and its manifest; exit code 1 when one differs.

    A corrupt checkpoint whose folder was restored is taken into use again.
    """
    import sqlalchemy as sa

    from realm import db
    from realm.vault.checkpoints import verify

    home = RealmHome()
    engine = open_db(home)
    c = db.checkpoints.c
    query = sa.select(c.id, c.path, c.manifest_sha256, c.state)
    query = query.where(c.state == "live" if checkpoint_id is None else c.id == checkpoint_id)
    with db.read(engine) as connection:
        found = connection.execute(query).all()
    if checkpoint_id and not found:
        raise Refused(f"no checkpoint {checkpoint_id}; `python3 -m training vault list` names them")
    results = {row.id: verify(home.root / row.path, row.manifest_sha256) for row in found}
    text = "\n".join(f"{key}  {'ok' if not problems else '; '.join(problems)}" for key, problems in results.items())
    say(results, as_json, text or "no checkpoints yet")
    if checkpoint_id and found[0].state == "corrupt" and not any(results.values()):
        order("vault.revive", {"checkpoint_id": checkpoint_id}, as_json)
    raise typer.Exit(1 if any(results.values()) else 0)

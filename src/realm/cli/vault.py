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


@vault_app.command("rollback")
def vault_rollback(
    checkpoint_id: Annotated[str, typer.Argument(help="The checkpoint to go on from; `vault list` names them.")],
    as_json: Json = False,
) -> None:
    """Go on from an earlier checkpoint, in a new run; nothing is deleted, and files trained since are held.

    Its hashes are verified first. A running battle saves and stops before.
    """
    import sqlalchemy as sa

    from realm import db

    c = db.checkpoints.c
    with db.read(open_db(RealmHome())) as connection:
        known = connection.execute(sa.select(c.id).where(c.id == checkpoint_id)).first()
    if known is None:
        raise Refused(f"no checkpoint {checkpoint_id}; `python3 -m training vault list` names them")
    order("hero.rollback", {"checkpoint_id": checkpoint_id}, as_json, wait_s=60.0)


@vault_app.command("guard")
def vault_guard(as_json: Json = False) -> None:
    """What the collapse guard sees: answers, held-out strain and human text over the last idle quests."""
    from realm import db
    from realm.guild import campaigns, collapse

    with db.read(open_db(RealmHome())) as connection:
        campaign = campaigns.active(connection)
        if campaign is None:
            raise Refused("no campaign is played yet; `python3 -m training start-all` begins one")
        kept = collapse.notes(connection, campaign["id"])
        generations = collapse.history(connection, campaign["id"], kept["generations"])
    verdict = collapse.judge(generations)
    rows = [[g.name, *(_mean(getattr(g, m)) for m in collapse.MEASURES)] for g in generations]
    lines = [table(rows, ["idle quest", *collapse.MEASURES]), f"{verdict.state}: {verdict.reason}",
             *(f"{act['act']}: {act['reason']}" for act in kept["acts"])]  # fmt: skip
    say({"verdict": verdict.to_dict(), "generations": [g.to_dict() for g in generations], "acts": kept["acts"]},
        as_json, "\n".join(lines))  # fmt: skip


def _mean(strata) -> str:
    whole = sum(weight for _, weight in strata.values())
    return f"{sum(value * weight for value, weight in strata.values()) / whole:.3f}" if whole else ""

"""Order of the Deep: every byte of every checkpoint, every page of the database, every blessing computed again."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from realm import db
from realm.temple.audit import audit
from realm.temple.orders.champion import broken
from realm.temple.orders.check import Asked, Check, Order

SHOWN = 10


def _checkpoints(asked: Asked) -> Iterator[Check]:
    table = db.checkpoints
    with db.read(asked.engine) as connection:
        rows = connection.execute(sa.select(table).where(table.c.state == "live")).mappings().all()
    bad = [check for row in rows if (check := broken(asked, f"checkpoint {row['id']}", row)).status != "ok"]
    yield from bad[:SHOWN]
    if len(bad) < len(rows):
        size = sum(row["bytes"] for row in rows)
        yield Check("checkpoints", "ok", f"{len(rows) - len(bad)} of {len(rows)} verified, {size / 1e6:,.1f} MB in all")
    elif not rows:
        yield Check("checkpoints", "skip", "none yet")


def _orphans(asked: Asked) -> Iterator[Check]:
    with db.read(asked.engine) as connection:
        known = set(connection.execute(sa.select(db.checkpoints.c.path)).scalars())
    folders = [path.parent for path in asked.home.vault.glob("*/*/*/manifest.json")]
    found = sorted(folder.relative_to(asked.home.root).as_posix() for folder in folders
                   if not any(part.startswith(".") for part in folder.relative_to(asked.home.vault).parts))  # fmt: skip
    strays = [path for path in found if path not in known]
    if strays:
        yield Check("folders without a row", "warn", f"the ledger knows nothing of {', '.join(strays[:3])}"
                    + (f" and {len(strays) - 3} more" if len(strays) > 3 else ""),
                    "remains of a save that was killed; the groundskeeper removes them: python3 -m training "
                    "groundskeeper")  # fmt: skip
    else:
        yield Check("folders without a row", "ok", f"every one of {len(found)} checkpoint folders is in the ledger")


def _pages(asked: Asked) -> Iterator[Check]:
    with db.read(asked.engine) as connection:
        said = connection.exec_driver_sql("PRAGMA integrity_check(3)").scalars().all()
        broken_links = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(3)
    if said == ["ok"] and not broken_links:
        yield Check("database pages", "ok", "every page and index is whole")
    else:
        words = "; ".join([*(line for line in said if line != "ok"), *(f"row of {link[0]} points nowhere" for link in
                                                                      broken_links)])  # fmt: skip
        yield Check("database pages", "fail", words, f"restore {asked.home.database} from a backup")


def _books(asked: Asked) -> Iterator[Check]:
    """Experience, verdicts, levels and champion of every campaign, from the facts below them."""
    with db.read(asked.engine) as connection:
        names = connection.execute(sa.select(db.campaigns.c.id, db.campaigns.c.name)).all()
    for campaign_id, name in names:
        with db.read(asked.engine) as connection:  # one campaign at a time: no long look keeps the log from shrinking
            report = audit(connection, campaign_id)
        if report.differences:
            first = report.differences[0]
            yield Check(f"ledger of {name}", "fail", f"{len(report.differences)} differences; the first: {first.about}"
                        f", {first.what}: stored {first.stored}, computed {first.found}",
                        f"python3 -m training ledger recompute {campaign_id}")  # fmt: skip
        else:
            yield Check(f"ledger of {name}", "ok", f"{report.blessings} blessings, {report.xp:,.1f} experience, "
                        f"{report.levels} levels and {report.trials} trials computed again")  # fmt: skip
    if not names:
        yield Check("ledger", "skip", "no campaign yet")


DEEP = Order("deep", "Deep", "all orders, every hash, the ledger computed again", False,
             (_checkpoints, _orphans, _pages, _books))  # fmt: skip

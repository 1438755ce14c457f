"""Campaigns: one hero's playthrough. A campaign owns runs, quests, levels, trials, checkpoints and experience.

    campaign_id = ensure_active(connection, profile.id, profile.model_dump(mode="json"))

`lifecycle.py` makes, pauses, archives and restores them; `method.py` says what they play for; `report.py` tells how it
went, from `facts.py` by `climb.py`, `forgetting.py` and `cap.py`. See them with `python3 -m training campaign list`.

A *run* is an unbroken line of optimizer steps; `current_run` is the one that goes on, `parent_checkpoint` where it
goes on from. All functions take a connection; those that write belong inside `db.write`.
"""

from __future__ import annotations

import hashlib
from typing import Any

import sqlalchemy as sa

from realm import db, events

ACTIVE = "campaign"  # key in realm_values
BETWEEN = "between_campaigns"  # true from archiving the active campaign until the next one is chosen
CHOSEN = "campaign:{}"  # of a hero: the campaign it plays when it is its turn


def value(connection: sa.Connection, key: str, default: Any = None) -> Any:
    """One small fact of the realm, or the default."""
    found = connection.execute(sa.select(db.realm_values.c.value).where(db.realm_values.c.key == key)).first()
    return default if found is None else found[0]


def set_value(connection: sa.Connection, key: str, new: Any) -> None:
    """Note one small fact of the realm (arena only)."""
    connection.execute(sa.delete(db.realm_values).where(db.realm_values.c.key == key))
    connection.execute(sa.insert(db.realm_values).values(key=key, value=new))


def seed_of(*parts: object) -> int:
    """A 63-bit seed keyed by the parts (SQLite integers are signed 64 bit)."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def get(connection: sa.Connection, campaign_id: str) -> dict[str, Any]:
    """One campaign. Raises KeyError when there is none with this id."""
    row = connection.execute(sa.select(db.campaigns).where(db.campaigns.c.id == campaign_id)).mappings().one_or_none()
    if row is None:
        raise KeyError(f"no campaign {campaign_id}; `python3 -m training campaign list` names them")
    return dict(row)


def active(connection: sa.Connection) -> dict[str, Any] | None:
    """The campaign that is played now, or None before the first start."""
    campaign_id = value(connection, ACTIVE)
    return get(connection, campaign_id) if campaign_id else None


def ensure_active(connection: sa.Connection, hero_id: str, config: dict[str, Any], seed: int | None = None) -> str:
    """Id of the hero's active campaign, made the active one: the one that was chosen for it (`choose`), else the one it
    played last, else its newest, else its first, which is started. Archived ones are left in peace.

    Args:
        config: the resolved hero profile, kept as the campaign's method.
        seed: root of every seed of the campaign; default: keyed by hero, profile seed and campaign number, so that
            the same realm set up twice plays the same game.
    """
    table = db.campaigns
    found = chosen(connection, hero_id)
    current = value(connection, ACTIVE)
    if found is None:
        campaign_id, name = _start(connection, hero_id, config, seed)
    else:
        campaign_id, name = found["id"], found["name"]
    if current == campaign_id and found is not None and found["state"] == "active":
        return campaign_id
    if current and current != campaign_id:
        was_active = sa.and_(table.c.id == current, table.c.state == "active")
        connection.execute(sa.update(table).where(was_active).values(state="paused"))
    connection.execute(sa.update(table).where(table.c.id == campaign_id).values(state="active"))
    set_value(connection, ACTIVE, campaign_id)
    set_between(connection, False)
    set_value(connection, CHOSEN.format(hero_id), campaign_id)
    events.emit(connection, "campaign", f"Campaign {name} of hero {hero_id} is active", "deed",
                campaign_id=campaign_id, state="active", name=name)  # fmt: skip
    return campaign_id


def chosen(connection: sa.Connection, hero_id: str) -> dict[str, Any] | None:
    """The campaign that the hero plays when it is its turn, or None when it has none that is not archived."""
    table = db.campaigns
    query = sa.select(table).where(table.c.hero_id == hero_id, table.c.state != "archived")
    asked = value(connection, CHOSEN.format(hero_id))
    order = (sa.case((table.c.id == (asked or ""), 0), else_=1), table.c.created_at.desc(), table.c.id.desc())
    row = connection.execute(query.order_by(*order).limit(1)).mappings().first()
    return dict(row) if row else None


def choose(connection: sa.Connection, campaign: dict[str, Any]) -> None:
    """Note which campaign its hero plays from its next turn on; `ensure_active` makes it so."""
    set_value(connection, CHOSEN.format(campaign["hero_id"]), campaign["id"])


def between(connection: sa.Connection) -> bool:
    """Whether the active campaign was archived and no other was chosen since."""
    return bool(value(connection, BETWEEN, False))


def set_between(connection: sa.Connection, new: bool) -> None:
    """Note whether the realm waits for its next campaign; a resting realm then begins none by itself."""
    if between(connection) != new:
        set_value(connection, BETWEEN, new)


def free_name(connection: sa.Connection, hero_id: str) -> str:
    """`<hero>-<n>` with the smallest n above the number of the hero's campaigns that no campaign has (archived ones
    count: a name is never used twice)."""
    table = db.campaigns
    number = connection.execute(sa.select(sa.func.count()).where(table.c.hero_id == hero_id)).scalar_one() + 1
    while named(connection, f"{hero_id}-{number}") is not None:
        number += 1
    return f"{hero_id}-{number}"


def named(connection: sa.Connection, name: str) -> dict[str, Any] | None:
    """The campaign of this name, upper or lower case, or None."""
    query = sa.select(db.campaigns).where(sa.func.lower(db.campaigns.c.name) == name.lower())
    row = connection.execute(query.limit(1)).mappings().first()
    return dict(row) if row else None


def _start(connection: sa.Connection, hero_id: str, config: dict[str, Any], seed: int | None) -> tuple[str, str]:
    table = db.campaigns
    number = connection.execute(sa.select(sa.func.count()).where(table.c.hero_id == hero_id)).scalar_one() + 1
    campaign_id, name = db.new_id(), free_name(connection, hero_id)
    seed = seed_of("campaign", hero_id, config.get("seed", 0), number) if seed is None else seed
    connection.execute(sa.insert(table).values(id=campaign_id, name=name, hero_id=hero_id, state="active",
                                               created_at=db.now(), seed=seed, config=config))  # fmt: skip
    new_run(connection, campaign_id, None, "campaign started")
    return campaign_id, name


def new_run(connection: sa.Connection, campaign_id: str, parent_checkpoint_id: str | None, reason: str) -> str:
    """Begin a new unbroken line of steps, from a checkpoint or from the hero's base weights."""
    run_id = db.new_id()
    connection.execute(sa.insert(db.runs).values(id=run_id, campaign_id=campaign_id, reason=reason,
                                                 parent_checkpoint_id=parent_checkpoint_id, created_at=db.now()))
    return run_id


def current_run(connection: sa.Connection, campaign_id: str) -> dict[str, Any]:
    """The campaign's newest run."""
    query = sa.select(db.runs).where(db.runs.c.campaign_id == campaign_id)
    return dict(connection.execute(query.order_by(db.runs.c.created_at.desc(), db.runs.c.id.desc())).mappings().first())


def lineage(connection: sa.Connection, run_id: str, step: int) -> list[tuple[str, int]]:
    """The line of optimizer steps that ends at `step` of a run: [(run id, last step of it)], newest run first."""
    runs, table = db.runs, db.checkpoints
    line: list[tuple[str, int]] = [(run_id, step)]
    while True:
        query = sa.select(table.c.run_id, table.c.step).join(runs, runs.c.parent_checkpoint_id == table.c.id)
        parent = connection.execute(query.where(runs.c.id == line[-1][0])).first()
        if parent is None:
            return line
        line.append((parent.run_id, parent.step))


def parent_checkpoint(
    connection: sa.Connection, campaign_id: str, states: tuple[str, ...] = ("live",)
) -> dict[str, Any] | None:  # fmt: skip
    """Where the campaign goes on: the newest live checkpoint of its line of steps, else None (base weights).

    Args:
        states: of the checkpoints to look at; with "corrupt" too it is where the campaign would be if all were well.
    """
    table, run = db.checkpoints, current_run(connection, campaign_id)
    run_id, last, in_use = run["id"], None, table.c.state.in_(states)
    while True:
        query = sa.select(table).where(table.c.run_id == run_id, in_use)
        query = query if last is None else query.where(table.c.step <= last)
        row = connection.execute(query.order_by(table.c.step.desc()).limit(1)).mappings().first()
        if row is not None:
            return dict(row)
        query = sa.select(table.c.run_id, table.c.step).join(db.runs, db.runs.c.parent_checkpoint_id == table.c.id)
        parent = connection.execute(query.where(db.runs.c.id == run_id)).first()
        if parent is None:
            return None
        run_id, last = parent

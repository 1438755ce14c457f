"""Orders about jobs: noted in `commands` by CLI and HTTP, carried out by the executor (contracts A1).

The id of the order is the id of the job, so the same idempotency key never makes two. A kind whose queue is full is
refused before anything is noted; waiting orders count as waiting jobs, so sixteen writers cannot pass the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from realm import db
from realm.guild import campaigns
from realm.guild.campaigns import lifecycle
from realm.guild.skills import SkillError, get_skill
from realm.jobs import board, depot, kinds
from realm.jobs.kinds import JobError, Kind
from realm.settings import RealmHome
from realm.state import orders

SUBMIT, CANCEL, RETRY = "job.submit.", "job.cancel", "job.retry"
RETRY_AFTER_S = 30
COMMANDS_AT_ONCE = 50  # in one transaction, so that other writers have their turn
ALIASES = ("latest", "champion")

commands = db.commands


class QueueFull(RuntimeError):
    """So many jobs of the kind wait that another is refused (429); try again after `retry_after` seconds."""

    def __init__(self, kind: Kind, waiting: int) -> None:
        super().__init__(f"{waiting} {kind.name} jobs wait, the limit is {kind.max_pending}; try again in "
                         f"{RETRY_AFTER_S} s, or cancel some: `python3 -m training jobs list`")  # fmt: skip
        self.retry_after = RETRY_AFTER_S


def submit(
    engine: sa.Engine, home: RealmHome, kind: str, payload: Mapping[str, Any], priority: str = "normal",
    key: str | None = None,
) -> str:  # fmt: skip
    """Note the order for a job and return its id. The same key again returns the same id.

    Raises:
        JobError: no such kind, payload, checkpoint, skill or source.
        QueueFull: too many of the kind wait.
        orders.OrderError: the key has the wrong form or was used for something else.
    """
    found = kinds.get(kind)
    if priority not in kinds.PRIORITIES:
        raise JobError("refused", f"priority {priority!r} is none of {', '.join(kinds.PRIORITIES)}")
    with db.read(engine) as connection:
        checked = check(connection, home, found, payload)
    order = {"payload": checked, "priority": priority}
    return orders.give(engine, SUBMIT + kind, order, key, lambda connection: _admit(connection, found))


def check(connection: sa.Connection, home: RealmHome, kind: Kind, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload as it is kept: of the right form, its checkpoints named by id, and everything it names is there.

    Raises:
        JobError: with the value, the rule and the next action.
    """
    values = kinds.parse(kind.name, payload).model_dump(mode="json", exclude_none=True)
    for field in ("checkpoint", "against"):
        if field in values:
            values[field] = _checkpoint(connection, values[field])
    if "skill" in values:
        try:
            skill = get_skill(values["skill"])
        except SkillError as error:
            raise JobError("refused", str(error)) from error
        for level in [values["level"]] if "level" in values else map(int, values["counts"]):
            if not 1 <= level <= skill.max_level:
                raise JobError("refused", f"level {level}: {skill.id} has levels 1 to {skill.max_level}; choose one")
    if "source" in values:
        depot.data_path(connection, home, values["source"])
    if "campaign" in values:
        try:
            values["campaign"] = lifecycle.find(connection, values["campaign"])["id"]
        except ValueError as error:
            raise JobError("refused", str(error)) from error
    return values


def _checkpoint(connection: sa.Connection, name: str) -> str:
    """The id of a checkpoint that is live; `latest` and `champion` are the active campaign's."""
    table = db.checkpoints
    if name in ALIASES:
        campaign = campaigns.value(connection, campaigns.ACTIVE)
        if name == "champion":
            found = campaigns.value(connection, f"champion:{campaign}")
        else:
            query = sa.select(table.c.id).where(table.c.campaign_id == campaign, table.c.state == "live")
            found = connection.execute(query.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(1)).scalar()
        if found is None:
            raise JobError("refused", f"the active campaign has no {name} checkpoint yet; name one of "
                           "`python3 -m training vault list`")  # fmt: skip
        return found
    state = connection.execute(sa.select(table.c.state).where(table.c.id == name)).scalar()
    if state is None:
        raise JobError("refused", f"no checkpoint {name[:80]!r}; `python3 -m training vault list` names them")
    if state != "live":
        raise JobError("refused", f"checkpoint {name} is {state}; choose a live one of `training vault list`")
    return name


def _admit(connection: sa.Connection, kind: Kind) -> None:
    noted = sa.select(sa.func.count()).where(commands.c.state == "pending", commands.c.kind == SUBMIT + kind.name)
    there = sa.select(sa.func.count()).where(board.jobs.c.kind == kind.name, board.jobs.c.state == "pending")
    waiting = connection.execute(noted).scalar_one() + connection.execute(there).scalar_one()
    if waiting >= kind.max_pending:
        raise QueueFull(kind, waiting)


def cancel(engine: sa.Engine, job_id: str, key: str | None = None) -> str:
    """Note that a job is to be cancelled; returns the command's id. JobError when there is no such job."""
    return orders.give(engine, CANCEL, {"job_id": _known(engine, job_id)}, key)


def retry(engine: sa.Engine, job_id: str, key: str | None = None) -> str:
    """Note that a failed or cancelled job is to be tried again; returns the command's id."""
    return orders.give(engine, RETRY, {"job_id": _known(engine, job_id)}, key)


def _known(engine: sa.Engine, job_id: str) -> str:
    with db.read(engine) as connection:
        noted = sa.select(commands.c.id).where(commands.c.id == job_id, commands.c.kind.startswith(SUBMIT))
        if connection.execute(noted).first() is None:
            board.find(connection, job_id)
    return job_id


# --- the executor's side -----------------------------------------------------------------------------------------


def pending(connection: sa.Connection, limit: int = COMMANDS_AT_ONCE) -> list[dict[str, Any]]:
    """Orders about jobs without an answer, oldest first."""
    query = sa.select(commands).where(commands.c.state == "pending", commands.c.kind.startswith("job."))
    query = query.order_by(commands.c.t, commands.c.id).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def work(connection: sa.Connection, answered: Callable[..., None]) -> list[str]:
    """Carry out waiting orders; returns the tokens of attempts that must be ended.

    Args:
        answered: (connection, command, state, result) → writes a command's answer.
    """
    ended = []
    for command in pending(connection):
        connection.exec_driver_sql("SAVEPOINT job_order")
        try:
            token = _carry_out(connection, command)
        except sa.exc.OperationalError:
            raise  # full or locked: the order stays pending until something can be written again
        except Exception as error:
            connection.exec_driver_sql("ROLLBACK TO job_order")
            connection.exec_driver_sql("RELEASE job_order")
            known = isinstance(error, JobError)
            reason = str(error) if known else f"{type(error).__name__}: {error}; see logs/arena.log"
            answered(connection, command, "failed", {"reason": reason})
            continue
        connection.exec_driver_sql("RELEASE job_order")
        answered(connection, command, "done", {"job_id": (command["payload"] or {}).get("job_id", command["id"])})
        ended += [token] if token else []
    return ended


def _carry_out(connection: sa.Connection, command: Mapping[str, Any]) -> str | None:
    payload, kind = command["payload"] or {}, command["kind"]
    if kind.startswith(SUBMIT):
        found = kinds.get(kind.removeprefix(SUBMIT))
        kinds.parse(found.name, payload["payload"])  # who inserts a row by hand is held to the same form
        board.add(connection, command["id"], found, payload["payload"], kinds.PRIORITIES[payload["priority"]])
    elif kind == CANCEL:
        return board.cancel(connection, payload.get("job_id", ""))
    elif kind == RETRY:
        board.retry(connection, payload.get("job_id", ""))
    else:
        raise JobError("refused", f"no order {kind!r} about jobs; known: {SUBMIT}KIND, {CANCEL}, {RETRY}")
    return None

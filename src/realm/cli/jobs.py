"""`training jobs …`: work beside the hero loop, and machines that help (docs/JOBS.md)."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from realm.cli.common import Json, Refused, open_db, say, table
from realm.settings import RealmHome

jobs_app = typer.Typer(no_args_is_help=True, help="Jobs: trials of checkpoints, data, reports, layers; workers.")

POLL_S = 0.1
Priority = Annotated[str, typer.Option(help="high, normal or low")]


@jobs_app.command("submit")
def submit(
    kind: Annotated[str, typer.Argument(help="`jobs kinds` lists them.")],
    values: Annotated[list[str] | None, typer.Argument(help="Fields of the payload as name=value.")] = None,
    payload: Annotated[str, typer.Option(help="The payload as JSON instead.")] = "{}",
    priority: Priority = "normal",
    key: Annotated[str | None, typer.Option(help="Idempotency key; it becomes the job's id.")] = None,
    wait: Annotated[float, typer.Option(help="Wait up to so many seconds for the end.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Note a job; the arena works it. With --wait the exit code is 1 unless it succeeded."""
    from realm.jobs import orders
    from realm.jobs.kinds import JobError
    from realm.state.orders import OrderError

    home = RealmHome()
    engine = open_db(home)
    try:
        job_id = orders.submit(engine, home, kind, _payload(payload, values or []), priority, key)
    except (JobError, OrderError, orders.QueueFull) as error:
        raise Refused(str(error)) from error
    found = _wait(engine, job_id, wait)
    say(found, as_json, _text(found) if wait else f"{kind}: {found['state']} ({job_id})")
    if wait and found["state"] != "succeeded":
        raise typer.Exit(1)


def _payload(text: str, values: list[str]) -> dict[str, Any]:
    try:
        made = json.loads(text)
    except ValueError as error:
        raise Refused(f"--payload is no JSON ({error})") from error
    if not isinstance(made, dict):
        raise Refused(f"--payload is {type(made).__name__}; write an object, such as '{{\"skill\": \"bin\"}}'")
    for value in values:
        name, equals, rest = value.partition("=")
        if not equals:
            raise Refused(f"{value!r}: write name=value, for example skill=bin")
        made[name] = _value(rest)
    return made


def _value(text: str) -> Any:
    """Numbers, true, false, null, lists and objects as JSON; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _wait(engine, job_id: str, wait_s: float) -> dict[str, Any]:
    from realm import db
    from realm.jobs import queries

    deadline = time.monotonic() + wait_s
    while True:
        with db.read(engine) as connection:
            found = queries.one(connection, job_id)
        if found["state"] not in ("pending", "running") or time.monotonic() >= deadline:
            return found
        time.sleep(POLL_S)


@jobs_app.command("kinds")
def list_kinds(as_json: Json = False) -> None:
    """What kinds of job there are."""
    from realm.jobs.kinds import KINDS

    rows = [[k.name, k.school, k.lane, f"{k.timeout_s:.0f} s", k.max_pending, ", ".join(sorted(k.retryable)),
             " ".join(n if f.is_required() else f"[{n}]" for n, f in k.payload.model_fields.items()), k.what]
            for k in KINDS.values()]  # fmt: skip
    facts = [{"kind": k.name, "school": k.school, "lane": k.lane, "timeout_s": k.timeout_s,
              "max_pending": k.max_pending, "retryable": sorted(k.retryable), "anywhere": k.anywhere,
              "payload": k.payload.model_json_schema()} for k in KINDS.values()]  # fmt: skip
    say(facts, as_json, table(rows, ["kind", "school", "lane", "time", "may wait", "tried again after", "payload",
                                     "what"]))  # fmt: skip


@jobs_app.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="pending, running, succeeded, failed or cancelled")] = None,
    kind: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Jobs, newest first, and who works."""
    from realm import db
    from realm.jobs import queries

    if state is not None and state not in queries.STATES:
        raise Refused(f"state {state!r} is none of {', '.join(queries.STATES)}")
    home = RealmHome()
    with db.read(open_db(home)) as connection:
        found = queries.listing(connection, state, kind, None, max(1, limit))
        count, workers = queries.counts(connection), queries.workers(connection, home)
    rows = [[j["id"], j["kind"], j["state"], j["priority"], j["attempts"], j["worker"], _took(j), j["error"] or ""]
            for j in found["jobs"]]  # fmt: skip
    head = ["id", "kind", "state", "priority", "tries", "worker", "took", "error"]
    text = f"{queries.health(count, workers)}\n{table(rows, head) if rows else 'no jobs yet'}"
    say({**found, "counts": count, "workers": workers}, as_json, text)


def _took(job: dict[str, Any]) -> str:
    if job["started_at"] is None or job["finished_at"] is None:
        return ""
    return f"{job['finished_at'] - job['started_at']:.1f} s"


@jobs_app.command("show")
def show(job_id: str, as_json: Json = False) -> None:
    """One job: payload, result, files, and everything that happened to it."""
    found = _find(job_id)
    say(found, as_json, _text(found))


def _find(job_id: str) -> dict[str, Any]:
    from realm import db
    from realm.jobs import queries
    from realm.jobs.kinds import JobError

    try:
        with db.read(open_db(RealmHome())) as connection:
            return queries.one(connection, job_id)
    except JobError as error:
        raise Refused(str(error)) from error


def _text(found: dict[str, Any]) -> str:
    lines = [f"{found['kind']} {found['state']} ({found['id']})", f"payload: {json.dumps(found['payload'])}"]
    if found["error"]:
        lines.append(f"error: {found['error_code']}: {found['error']}")
    if found["result"] is not None:
        lines.append(f"result: {json.dumps(found['result'], indent=1, ensure_ascii=False)}")
    if found["noted"] and found["state"] == "pending":
        lines.append("noted; the arena reads it when it runs (`python3 -m training start-all`)")
    for line in found["trail"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line["t"]))
        more = " ".join(str(part) for part in (line["worker"], line["detail"]) if part)
        lines.append(f"{when}  attempt {line['attempt']}  {line['what']}  {more}".rstrip())
    return "\n".join(lines)


@jobs_app.command("cancel")
def cancel(job_id: str, as_json: Json = False) -> None:
    """Cancel a job, waiting or running."""
    from realm.jobs import orders

    _order(orders.cancel, job_id, as_json)


@jobs_app.command("retry")
def retry(job_id: str, as_json: Json = False) -> None:
    """Let a failed or cancelled job be tried again."""
    from realm.jobs import orders

    _order(orders.retry, job_id, as_json)


def _order(give, job_id: str, as_json: bool) -> None:
    from realm.cli.common import await_command
    from realm.jobs.kinds import JobError

    home = RealmHome()
    engine = open_db(home)
    try:
        command_id = give(engine, job_id)
    except JobError as error:
        raise Refused(str(error)) from error
    await_command(home, engine, command_id, as_json)


@jobs_app.command("worker")
def worker(
    address: Annotated[str | None, typer.Option(help="host:port of the head; without it: --head.")] = None,
    head: Annotated[bool, typer.Option("--head", help="Be the cluster's head, and a worker too.")] = False,
    schools: Annotated[str, typer.Option(help="Schools of this machine, with places: inference=2,forge.")] = "",
    name: Annotated[str | None, typer.Option(help="Shown on the Jobs page; default: the machine's name.")] = None,
    port: Annotated[int, typer.Option(help="Port of the head; not 10002 to 19999, which are Ray's.")] = 6379,
    cpus: Annotated[int | None, typer.Option(help="Processor cores it lends; default: all.")] = None,
) -> None:
    """Lend this machine to the jobs of a realm, until Ctrl-C. Needs the extra `cluster` (Ray).

    Every machine must know the cluster's token: the setting `token`, else run/cluster.token of the head's realm home,
    given to other machines as the environment variable REALM_TOKEN.
    """
    import importlib.util
    import os

    from realm.jobs import cluster

    if head == bool(address):
        raise Refused("say where the head is (--address HOST:PORT), or make this machine the head (--head)")
    if importlib.util.find_spec("ray") is None:
        raise Refused("Ray is not installed; `pip install -e '.[training,cluster]'`")
    words = cluster.worker_command(address, _schools(schools), name, port, cpus)
    os.execve(words[0], words, cluster.ray_environment(RealmHome()))  # signals reach Ray, which ends what it began


def _schools(text: str) -> dict[str, int]:
    from realm.jobs.kinds import KINDS

    known = sorted({kind.school for kind in KINDS.values() if kind.anywhere})
    found = {}
    for part in filter(None, text.split(",")):
        name, _, count = part.partition("=")
        if name not in known or not (count or "1").isdigit() or int(count or 1) < 1:
            raise Refused(f"{part!r}: write a school with its places, for example inference=2; on other machines work "
                          f"{', '.join(known)}")  # fmt: skip
        found[name] = int(count or 1)
    return found or dict.fromkeys(known, 1)

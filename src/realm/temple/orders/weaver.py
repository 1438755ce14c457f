"""Order of the Weaver: processes and services. What was started must live, and each port must answer."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from realm import db, services
from realm.temple.orders.check import Asked, Check, Order

ANSWER_S = 3.0
TAKEN_S = 60.0  # the hero loop takes orders within 100 ms; after this long it hangs
START = "python3 -m training start-all"


def answers(asked: Asked, name: str) -> str | None:
    """None when the service of that name answers HTTP, else why not."""
    settings = asked.home.settings
    line = http.client.HTTPConnection(services.reachable_host(settings), settings.port(name), timeout=ANSWER_S)
    try:
        line.request("GET", "/", headers={"Host": f"localhost:{settings.port(name)}"})
        line.getresponse().read(1)
    except TimeoutError:
        return f"takes the call but gives no answer within {ANSWER_S:.0f} s"
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        line.close()
    return None


def _forget(asked: Asked, name: str) -> Callable[[], str]:
    def mend() -> str:
        if services.noted(asked.home, name) is None:
            (asked.home.run / f"{name}.json").unlink(missing_ok=True)
        return f"removed the stale note run/{name}.json"

    return mend


def _processes(asked: Asked) -> Iterator[Check]:
    home = asked.home
    lives = {name: services.noted(home, name) for name in ("supervisor", *services.PROCESSES)}
    stale = [name for name, process in lives.items() if process is None and (home.run / f"{name}.json").exists()]
    if not any(lives.values()):
        said = f"no process of this realm runs; stale notes of {', '.join(stale)}" if stale else (
            "no process of this realm runs")  # fmt: skip
        yield Check("processes", "warn", said, START)
    for name in services.PROCESSES if any(lives.values()) else ():
        if lives[name] is not None:
            yield Check(f"process {name}", "ok", f"runs as pid {lives[name].pid}")
        elif name in stale or lives["supervisor"] is not None:
            yield Check(f"process {name}", "fail", "has ended", f"read the end of {home.logs / f'{name}.log'}, then "
                        f"{START}", _forget(asked, name) if name in stale else None)  # fmt: skip
        else:
            yield Check(f"process {name}", "warn", "does not run", START)


def _services(asked: Asked) -> Iterator[Check]:
    home = asked.home
    wanted = services.noted(home, "realm") is not None or services.noted(home, "supervisor") is not None
    silent = {s: why for s in services.SERVICES if (why := answers(asked, s.name)) is not None}
    if not wanted and len(silent) == len(services.SERVICES):
        yield Check("services", "skip", "none runs")
        return
    for service in services.SERVICES:
        port = home.settings.port(service.name)
        name, why = f"service {service.name}", silent.get(service)
        if why is None:
            yield Check(name, "ok", f"{service.title} answers on port {port}")
        else:
            yield Check(name, "fail", f"{service.title} on port {port}: {why}", f"{START}; if it stays silent, read "
                        f"{home.logs / f'{service.process}.log'}")  # fmt: skip


def _hero_loop(asked: Asked) -> Iterator[Check]:
    if services.noted(asked.home, "arena") is None:
        yield Check("hero loop", "skip", "does not run")
        return
    table = db.commands
    with db.read(asked.engine) as connection:
        query = sa.select(sa.func.count(), sa.func.min(table.c.t)).where(
            table.c.state == "pending", sa.type_coerce(table.c.result, sa.String).is_(None),
            table.c.t < db.now() - TAKEN_S)  # fmt: skip
        count, oldest = connection.execute(query).one()
    if count:
        yield Check("hero loop", "fail", f"{count} orders were not taken, the oldest for {db.now() - oldest:,.0f} s",
                    f"end it and start again: python3 -m training stop-all, then {START}")  # fmt: skip
    else:
        yield Check("hero loop", "ok", "takes orders")


WEAVER = Order("weaver", "Weaver", "services and processes", False, (_processes, _services, _hero_loop))

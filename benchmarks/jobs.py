"""What a job costs beside its work: on this machine, from the order to the end, with the executor of the arena.

The work is a function that returns at once, so all that is measured is the Realm's: order, claim, thread or process,
result, audit trail, events. The bare peer is the same function given to a thread or a process without a table.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from benchmarks.registry import Options
from benchmarks.table import Row
from realm import db
from realm.jobs import kinds, orders
from realm.jobs.bench import Bench, Result
from realm.jobs.executor import Executor
from realm.settings import RealmHome

BUDGET_MS = 20.0


def nothing(payload: kinds.Payload, bench: Bench) -> Result:
    """No work."""
    return Result({})


@contextmanager
def executing():
    """(engine, home) of a fresh realm with an executor that knows the kind `nothing`."""
    kinds.KINDS["nothing"] = kinds.Kind("nothing", "analytics", kinds.Payload, "benchmarks.jobs:nothing", "thread", 60,
                                        100_000)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="realm-jobs-") as folder:
        home = RealmHome(folder).create()
        db.migrate(home)
        engine, executor = db.connect(home), Executor(home)
        thread = threading.Thread(target=executor.run)
        thread.start()
        try:
            yield engine, home
        finally:
            executor.stop.set()
            thread.join()
            engine.dispose()
            del kinds.KINDS["nothing"]


def wait_for(engine: sa.Engine, jobs: list[str], every_s: float) -> None:
    """Until all of them succeeded."""
    table = db.jobs
    query = sa.select(sa.func.count()).where(table.c.id.in_(jobs[-1:]), table.c.state == "succeeded")
    whole = sa.select(sa.func.count()).where(table.c.state == "succeeded")
    while True:
        with db.read(engine) as connection:
            if connection.execute(query).scalar_one() and (
                len(jobs) == 1 or connection.execute(whole).scalar_one() >= len(jobs)
            ):
                return
        time.sleep(every_s)


def alone(engine: sa.Engine, home: RealmHome, rounds: int) -> list[float]:
    """Seconds from the order to the end, one job after the other."""
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        wait_for(engine, [orders.submit(engine, home, "nothing", {})], 0.001)
        found.append(time.perf_counter() - begun)
    return found


def many(engine: sa.Engine, home: RealmHome, count: int) -> tuple[float, float]:
    """(wall seconds, CPU seconds) per job of `count` jobs ordered at once, orders included."""
    with db.read(engine) as connection:
        before = connection.execute(sa.select(sa.func.count()).select_from(db.jobs)).scalar_one()
    begun, cpu = time.perf_counter(), time.process_time()
    made = [orders.submit(engine, home, "nothing", {}) for _ in range(count)]
    table = db.jobs
    done = sa.select(sa.func.count()).where(table.c.state == "succeeded")
    while True:
        with db.read(engine) as connection:
            if connection.execute(done).scalar_one() >= before + len(made):
                return (time.perf_counter() - begun) / count, (time.process_time() - cpu) / count
        time.sleep(0.02)


def bare_thread() -> float:
    """Seconds of the same function in a pool of threads."""
    with ThreadPoolExecutor(1) as pool:
        begun = time.perf_counter()
        pool.submit(lambda: None).result()
        return time.perf_counter() - begun


def process(engine: sa.Engine, home: RealmHome) -> float:
    """Seconds from the order to the end of a job in a process of its own that finds nothing to do."""
    begun = time.perf_counter()
    wait_for(engine, [orders.submit(engine, home, "sync", {})], 0.005)
    return time.perf_counter() - begun


def bare_process() -> float:
    """Seconds of a Python process that imports what a job's process imports, and ends."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import realm.jobs.child, realm.jobs.vault"], check=True,
                   cwd=Path(__file__).parents[1])  # fmt: skip
    return time.perf_counter() - begun


def run(options: Options) -> list[Row]:
    """One after the other, many at once, and in processes."""
    rounds, count, runs = (30, 200, 2) if options.quick else (200, 1000, 5)
    with executing() as (engine, home):
        alone(engine, home, 5)  # imports, first pages
        single = [1000 * s for s in alone(engine, home, rounds)]
        crowd = [many(engine, home, count) for _ in range(runs)]
        pairs = [(bare_process(), process(engine, home)) for _ in range(runs)]
    limit = f"≤ {BUDGET_MS:.0f} ms"
    ordered = sorted(single)
    return [
        Row("one job alone, order to end, in a thread", tuple(single), "ms", "low", limit, BUDGET_MS),
        Row("… 95th percentile", (ordered[int(0.95 * len(ordered))],), "ms"),
        Row(f"one of {count} jobs ordered at once", tuple(1000 * wall for wall, _ in crowd), "ms", "low", limit,
            BUDGET_MS),
        Row("… its CPU time, order included", tuple(1000 * cpu for _, cpu in crowd), "CPU-ms", "low", limit, BUDGET_MS),
        Row("bare peer: a thread of a pool", tuple(1000 * bare_thread() for _ in range(rounds)), "ms"),
        Row("one job in a process of its own", tuple(1000 * b for _, b in pairs), "ms"),
        Row("… beyond a bare process with the same imports", tuple(1000 * (b - a) for a, b in pairs), "ms", "low",
            limit, BUDGET_MS),
        Row("bare peer: that process", tuple(1000 * a for a, _ in pairs), "ms"),
    ]  # fmt: skip


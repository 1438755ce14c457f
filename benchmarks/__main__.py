"""`python -m benchmarks [NAME…] [--quick] [--json FILE]`: each benchmark in its own process, printed as a table."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks import machine
from benchmarks.registry import BENCHMARKS, Options, by_name, run_named
from benchmarks.table import Row, render

# As the arena starts a battle child: one thread, waiting threads sleep, nothing is fetched.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false",
               "HF_HUB_OFFLINE": "1"}  # fmt: skip


def measure(name: str, options: Options) -> tuple[list[Row], float]:
    """(rows, seconds) of one benchmark, run in a fresh process: what it loads and leaves behind ends with it."""
    begun = time.monotonic()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = pool.submit(run_named, name, options).result()
    return rows, time.monotonic() - begun


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when everything was measured, whether budgets were met or not; 1 when a benchmark broke."""
    known = "\n".join(f"  {b.name:14} {b.about}{'' if b.by_default else ' (only when named)'}" for b in BENCHMARKS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=f"benchmarks:\n{known}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; default: all that run by default")
    parser.add_argument("--quick", action="store_true", help="fewer, smaller rounds: under a minute each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single value to FILE")
    given, more = parser.parse_known_args(arguments)
    try:
        chosen = [by_name(name) for name in given.names] or [b for b in BENCHMARKS if b.by_default]
    except KeyError as error:
        parser.error(error.args[0])
    if more and not (len(chosen) == 1 and chosen[0].takes_more):
        parser.error(f"unknown options: {' '.join(more)}")
    os.environ.update(ENVIRONMENT)
    found = machine.facts()
    print(machine.sentence(found), flush=True)
    results, broken = {}, []
    for benchmark in chosen:
        print(f"\n{benchmark.name}: {benchmark.about}", flush=True)
        try:
            rows, seconds = measure(benchmark.name, Options(given.quick, tuple(more)))
        except Exception:  # the others can still be measured; the exit code tells
            traceback.print_exc()
            broken.append(benchmark.name)
            continue
        results[benchmark.name] = [row.as_json() for row in rows]
        print(render(rows), flush=True)
        lost = sum(row.met == "no" for row in rows)
        print(f"({seconds:.0f} s; load average now {os.getloadavg()[0]:.2f}; {lost} not met)", flush=True)
    if given.json:
        data = {"machine": found, "quick": given.quick, "t": time.time(), "broken": broken, "benchmarks": results}
        given.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        print(f"\nevery value: {given.json}")
    if broken:
        print(f"\nerror: not measured, see above: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""Where the parts of a step run: here, in worker processes, or on Ray. The results are the same bytes.

A step is cut into parts by its input, never by the number of workers, and the results are taken in the parts' order.
So `--workers 1`, `--workers 7` and `--engine ray` write equal files.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

ENGINES = ("local", "ray")


class EngineError(RuntimeError):
    """The chosen engine cannot run here; the message says what to install or start."""


def run_parts(
    function: Callable[[Any], Any], parts: Iterable[Any], workers: int = 1, engine: str = "local"
) -> Iterator[Any]:
    """`function(part)` of every part, in order; at most twice as many parts as workers are under way.

    Args:
        function: a picklable callable (a module's function, or an instance of a module's class).
        workers: processes on this machine; 1 runs in this process. Ray: tasks at a time, 0 = as many as it has CPUs.

    Raises:
        EngineError: no such engine, Ray is not installed, or (while the results are taken) a worker was killed.
        ValueError: fewer than 0 workers.
    """
    if engine not in ENGINES:
        raise EngineError(f"no engine {engine!r}; known: {', '.join(ENGINES)}")
    if workers < 0:
        raise ValueError(f"workers must be 0 (one per CPU) or more, not {workers}")
    if engine == "ray":
        return _on_ray(function, parts, workers)
    workers = workers or os.cpu_count() or 1
    return map(function, parts) if workers == 1 else _in_processes(function, parts, workers)


def _in_processes(function: Callable[[Any], Any], parts: Iterable[Any], workers: int) -> Iterator[Any]:
    from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
    from multiprocessing import get_context

    # Spawn: a fork of a process with threads (progress bar, DuckDB) may inherit a held lock.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending: deque[Any] = deque()
        try:
            for part in parts:
                pending.append(pool.submit(function, part))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenExecutor as error:
            raise EngineError("a worker process ended before its work: killed, or out of memory; run again with fewer "
                              'workers (a script that asks for workers needs `if __name__ == "__main__":`)'
                              ) from error  # fmt: skip
        finally:
            for future in pending:
                future.cancel()


def _on_ray(function: Callable[[Any], Any], parts: Iterable[Any], workers: int) -> Iterator[Any]:
    # Ray Core tasks over our own parts; Ray Data reads JSONL whole and loses the line numbers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise EngineError('--engine ray needs Ray: pip install "realm-of-training[cluster]"') from error
    started = not ray.is_initialized()
    if started:
        # RAY_ADDRESS names a running cluster; without it one starts here and ends with the step. Not by default: Ray
        # would wait for minutes on the last cluster of this machine, if that was killed.
        address = os.environ.get("RAY_ADDRESS") or "local"
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        limit = 2 * (workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
        task, held = ray.remote(_apply), ray.put(function)
        pending: deque[Any] = deque()
        for part in parts:
            pending.append(task.remote(held, part))
            if len(pending) >= limit:
                yield ray.get(pending.popleft())
        while pending:
            yield ray.get(pending.popleft())
    finally:
        if started:
            ray.shutdown()


def _apply(function: Callable[[Any], Any], part: Any) -> Any:
    return function(part)

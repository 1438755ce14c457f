"""How soon: start-all to the first page and the first optimizer step, in a home that never was used; light commands.

Wall-clock seconds, as a person waits for them; the CPU seconds spent by then stand beside them, because only those
compare on a machine that was not quiet.
"""

from __future__ import annotations

import http.client
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks.live_realm import TRAINING_WAIT_S, LiveRealm, cpu_seconds, first_step_at, live_realm
from benchmarks.registry import Options
from benchmarks.table import Row

TAVERN_S, FIRST_STEP_S, STATUS_S = 3.0, 15.0, 0.5
HEAVY = ("torch", "transformers")


@dataclass(frozen=True)
class Start:
    """Seconds after the command was given, and CPU seconds of all processes by then."""

    tavern_s: float
    tavern_cpu_s: float
    step_s: float
    step_cpu_s: float


def start(live: LiveRealm) -> Start:
    """`python -m training start-all`; returns when the first optimizer step is done.

    Raises:
        RuntimeError: start-all failed.
        AssertionError: no step within TRAINING_WAIT_S; the message holds the logs' ends.
    """
    begun, clock = time.time(), time.monotonic()
    before = _children_cpu()
    process = subprocess.Popen([sys.executable, "-m", "training", "start-all"], env=live.environ,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    live.wait("the Tavern answers", lambda: process.poll() or answers(live), timeout=60, every=0.02)
    tavern_s = time.monotonic() - clock
    output, _ = process.communicate(timeout=60)
    if process.returncode:
        raise RuntimeError(f"start-all ended with {process.returncode}: {output.decode()}")
    tavern_cpu_s = sum(cpu_seconds(live).values()) + _children_cpu() - before
    at = live.wait("the first optimizer step", lambda: first_step_at(live), timeout=TRAINING_WAIT_S, every=0.1)
    return Start(tavern_s, tavern_cpu_s, at - begun, sum(cpu_seconds(live).values()) + _children_cpu() - before)


def answers(live: LiveRealm) -> bool:
    """Whether the Tavern's first page comes with status 200."""
    connection = http.client.HTTPConnection("127.0.0.1", live.ports["tavern"], timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False  # not listening yet
    finally:
        connection.close()


def command(live: LiveRealm, *words: str) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of one `python -m training` command; doctor's exit code 1 is an answer too."""
    before, begun = _children_cpu(), time.monotonic()
    done = live.cli(*words, check=False)
    wall = time.monotonic() - begun
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        raise RuntimeError(f"training {' '.join(words)} -> {done.returncode}: {done.stderr}")
    return wall, _children_cpu() - before


def heavy_imports(live: LiveRealm, *words: str) -> list[str]:
    """Which of HEAVY a command imports, from the interpreter's own list of imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "training", *words], env=live.environ,
                          capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)  # fmt: skip
    found = imported(done.stderr)
    if "realm" not in found:
        raise RuntimeError(f"training {' '.join(words)} imported nothing of the realm: {done.stderr[-500:]}")
    return sorted(found & set(HEAVY))


def imported(listing: str) -> set[str]:
    """Top-level packages in what `python -X importtime` prints."""
    return {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in listing.splitlines() if "|" in line}


def _children_cpu() -> float:
    """CPU seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(options: Options, hero_yaml: str = "") -> list[Row]:
    """A fresh home each round; commands are asked while the battle runs, as a person would."""
    rounds, asked = (1, 5) if options.quick else (5, 5)
    starts, status, idle, doctor, heavy = [], [], [], [], []
    for _ in range(rounds):
        with live_realm(hero_yaml) as live:
            starts.append(start(live))
            status += [command(live, "status") for _ in range(asked)]
            doctor.append(command(live, "doctor"))
            heavy = heavy_imports(live, "status")
            live.cli("stop-all")
            idle += [command(live, "status") for _ in range(asked)]
    return [
        Row("start-all → the Tavern's first page", tuple(s.tavern_s for s in starts), "s", "low",
            f"≤ {TAVERN_S} s", TAVERN_S),
        Row("… CPU spent until then, all processes", tuple(s.tavern_cpu_s for s in starts), "CPU-s"),
        Row("start-all → first optimizer step", tuple(s.step_s for s in starts), "s", "low", f"≤ {FIRST_STEP_S} s",
            FIRST_STEP_S),
        Row("… CPU spent until that step, all processes", tuple(s.step_cpu_s for s in starts), "CPU-s"),
        *_command_rows("training status, battle running", status, STATUS_S),
        *_command_rows("training status, realm stopped", idle, STATUS_S),
        Row("training status imports torch", text=", ".join(heavy) or "no", against="must not",
            verdict="no" if heavy else "yes"),
        *_command_rows("training doctor, battle running", doctor, None),
    ]  # fmt: skip


def _command_rows(name: str, times: list[tuple[float, float]], bound: float | None) -> list[Row]:
    wall, cpu = zip(*times, strict=True)
    return [Row(name, wall, "s", "low" if bound else "", f"≤ {bound} s" if bound else "", bound),
            Row(f"{name}, CPU", cpu, "CPU-s")]  # fmt: skip

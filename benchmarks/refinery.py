"""What the refinery's steps cost beside one plain pass over the same file, and who loses rows when input is bad.

    python -m benchmarks refinery [--rows 200000] [--runs 3] [--peer-python PYTHON]

CPU seconds and peak memory are those of a process of its own per step, start-up included. The peer datatrove pins other
versions, so it lives in an environment of its own: `--peer-python` names its interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil

from benchmarks.registry import Options
from benchmarks.table import Row

MB = 1e6
SELECTION, CONVERSION = 1.5, 2.0  # × one orjson read-write pass (refinery-rules §8, contracts D5)
SCORE_CPU_S = 190 / 5  # per million samples of 1.1 GB
NEAR_CPU_S = 35.0  # per GB
HELP_S = 0.25
LOGS_MB, EXPORT_CPU_S = 145.0, 9.0  # contracts D6

PASS = """
import {module} as codec, sys
with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb") as out:
    for line in source:
        row = codec.loads(line)
        row["n"] = 1
        out.write({dump} + b"\\n")
"""
ORJSON = PASS.format(module="orjson", dump="codec.dumps(row)")
STDLIB = PASS.format(module="json", dump="codec.dumps(row, ensure_ascii=False).encode()")
DATATROVE = """
import sys
from pathlib import Path
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
source, target = Path(sys.argv[1]), Path(sys.argv[2])
LocalPipelineExecutor([
    JsonlReader(str(source.parent), glob_pattern=source.name, text_key="output"),
    JsonlWriter(str(target) + ".d", output_filename="${rank}.jsonl", compression=None),
], tasks=1, workers=1, logging_dir=str(target) + ".log").run()
"""
STEPS = {
    "score (no model)": "score_jsonl(IN, OUT)",
    "rehearsal-build, top 30 %": "build_rehearsal([IN], ['v1'], OUT)",
    "rehearsal-mix": "mix_rehearsal(BUFFER, NEW, OUT, rehearsal_ratio=0.1, near=None)",
    "rebalance, four weights": "rebalance_dataset([IN], OUT, weights=dict(alpha=.35, beta=.2, gamma=.25, delta=.2))",
    "rebalance, oversampled": "rebalance_dataset([IN], OUT, weights=dict(alpha=.25, beta=.25, gamma=.25, delta=.25), "
                              "allow_oversample=True)",
    "prepare 80/10/10 by domain": "split_dataset(IN, OUT + '.d', near=None)",
    "dedup, exact": "dedup_jsonl(IN, OUT)",
    "convert alpaca": "convert_file(IN, OUT, format='alpaca')",
    "convert sharegpt": "convert_file(IN, OUT, format='sharegpt')",
    "convert openai": "convert_file(IN, OUT, format='openai')",
    "convert chatml": "convert_file(IN, OUT, format='chatml')",
}  # fmt: skip
CALL = "import sys\nfrom afs.training import {name}\nIN, OUT, BUFFER = sys.argv[1:4]\nNEW = IN + '.new'\n{call}\n"


def _program(call: str) -> str:
    return CALL.format(name=call.partition("(")[0], call=call)


def make_file(path: Path, rows: int, seed: int = 0) -> Path:
    """A deterministic file of samples of about 1.1 KB: four sources, five domains, words of a made language."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(20_000)]
    sources, domains = ("alpha", "beta", "gamma", "delta"), ("asm", "docs", "tool", "chat", "quest")
    with open(path, "wb") as out:
        for n in range(rows):
            out.write(orjson.dumps({
                "instruction": " ".join(rng.choices(words, k=18)), "output": " ".join(rng.choices(words, k=115)),
                "input": "", "thinking": None, "domain": domains[n * 7 % 5], "source": f"{sources[n * 3 % 4]}_{n:07d}",
                "sample_id": f"s{n:07d}", "quality_score": round(rng.random(), 6), "embedding": None,
                "teacher_model": "", "teacher_prompt": "", "timestamp": "", "kg_entities": [], "kg_validated": False,
                "_metadata": {"n": n, "note": "made for a measurement"},
            }) + b"\n")  # fmt: skip
    return path


@dataclass(frozen=True)
class Cost:
    """CPU seconds, wall seconds and peak resident bytes of a process and its children."""

    cpu_s: float
    wall_s: float
    peak: int
    output: str = ""


def cost_of(command: list[str]) -> Cost:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; the message ends with what it printed.
    """
    begun = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    peak, printed = [0], []
    reader = threading.Thread(target=lambda: printed.append(child.stdout.read()))
    reader.start()
    watcher = threading.Thread(target=_watch, args=(child.pid, peak))
    watcher.start()
    reader.join()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    text = b"".join(printed).decode(errors="replace")
    if child.returncode:
        raise RuntimeError(f"{command[:3]} … ended with {child.returncode}: {text[-1500:]}")
    return Cost(usage.ru_utime + usage.ru_stime, time.monotonic() - begun, max(peak[0], usage.ru_maxrss * 1024), text)


def _watch(pid: int, peak: list[int]) -> None:
    try:
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            family = [process, *process.children(recursive=True)]
            peak[0] = max(peak[0], sum(p.memory_info().rss for p in family))
            time.sleep(0.05)
    except psutil.Error:
        return  # it has ended


def run(options: Options) -> list[Row]:
    """The table: plain passes, steps, near duplicates, the failure race."""
    parser = argparse.ArgumentParser(prog="refinery")
    parser.add_argument("--rows", type=int, default=20_000 if options.quick else 200_000)
    parser.add_argument("--runs", type=int, default=1 if options.quick else 3)
    parser.add_argument("--peer-python")
    given = parser.parse_args(options.more)
    with tempfile.TemporaryDirectory(prefix="afs-bench-") as folder:
        place = Path(folder)
        source = make_file(place / "in.jsonl", given.rows)
        make_file(place / "in.jsonl.new", given.rows, seed=7)
        rows = _passes_and_steps(place, source, given)
        rows.append(_near(place, source))
        rows += _planted(place)
        rows += _sources(place, options.quick)
        rows.append(_help())
        rows += _failure_race(place, given.peer_python)
    return rows


def _passes_and_steps(place: Path, source: Path, given: argparse.Namespace) -> list[Row]:
    buffer = place / "buffer.jsonl"
    cost_of([sys.executable, "-c", _program(STEPS["rehearsal-build, top 30 %"]), str(source), str(buffer), ""])
    peers = {"plain pass: orjson": (sys.executable, ORJSON), "plain pass: stdlib json": (sys.executable, STDLIB)}
    if given.peer_python:
        peers["datatrove reader → writer"] = (given.peer_python, DATATROVE)
    costs: dict[str, list[Cost]] = {}
    size = source.stat().st_size
    for turn in range(given.runs):
        for name, (python, program) in peers.items():
            target = place / f"out{turn}{len(name)}"
            costs.setdefault(name, []).append(cost_of([python, "-c", program, str(source), str(target)]))
            target.unlink(missing_ok=True)
        for name, call in STEPS.items():
            target = place / f"out{turn}-{list(STEPS).index(name)}.jsonl"
            command = [sys.executable, "-c", _program(call), str(source), str(target), str(buffer)]
            costs.setdefault(name, []).append(cost_of(command))
            for left in place.glob(f"{target.stem}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    plain = [cost.cpu_s for cost in costs["plain pass: orjson"]]
    found = []
    limit = 100 * MB + 40 * given.rows
    for name, series in costs.items():
        cpu = tuple(cost.cpu_s for cost in series)
        ratios = tuple(mine / base for mine, base in zip(cpu, plain, strict=True))
        if name in peers:
            found.append(Row(f"{name}, {given.rows:,} rows, {size / MB:.0f} MB", cpu, "CPU-s", against="orjson pass",
                             ratios=ratios))  # fmt: skip
            found.append(Row("… peak memory", tuple(c.peak / MB for c in series), "MB"))
            continue
        if name.startswith("score"):
            bound = SCORE_CPU_S * size / 1.1e9
            found.append(Row(name, cpu, "CPU-s", "low", f"≤ {SCORE_CPU_S:.0f} CPU-s per 1.1 GB", bound))
        elif name.startswith("dedup"):
            found.append(Row(name, cpu, "CPU-s", against="orjson pass", ratios=ratios))
        else:
            bound = CONVERSION if name.startswith("convert") else SELECTION
            found.append(Row(name, cpu, "CPU-s", "low", f"≤ {bound} × orjson pass", bound, ratios))
        found.append(Row("… peak memory", tuple(c.peak / MB for c in series), "MB", "low", "≤ 100 MB + 40 B per row",
                         limit / MB))  # fmt: skip
    return found


def _near(place: Path, source: Path) -> Row:
    target = place / "near.jsonl"
    cost = cost_of([sys.executable, "-c", _program("dedup_jsonl(IN, OUT, near=0.8)"), str(source),
                    str(target), ""])  # fmt: skip
    per_gb = cost.cpu_s / (source.stat().st_size / 1e9)
    return Row("near-duplicate clustering, per GB", (per_gb,), "CPU-s", "low", f"≤ {NEAR_CPU_S:.0f} CPU-s per GB",
               NEAR_CPU_S)  # fmt: skip


def _planted(place: Path) -> list[Row]:
    """Recall and precision on near-duplicates that were planted."""
    from afs.training.dedup import measure_planted

    found = measure_planted(place / "planted")
    return [Row("planted near-duplicates found", (found.recall,), "", "high", "≥ 0.9", 0.9),
            Row("… found pairs that were planted", (found.precision,), "", "high", "≥ 0.99", 0.99)]  # fmt: skip


def _sources(place: Path, quick: bool) -> list[Row]:
    """Agent logs with redaction, redaction alone, and a code base, on data made here."""
    from benchmarks.agent_logs import make_claude_logs
    from benchmarks.code_bases import make_code_base

    share = 0.1 if quick else 1.0
    logs, code = place / "logs", place / "code"
    make_claude_logs(logs, sessions=int(1000 * share), megabytes=LOGS_MB * share)
    size = make_code_base(code, 6.4 * share)
    run = [sys.executable, "-c"]
    export = cost_of([*run, "import sys\nfrom afs.training import export_claude_to_jsonl\n"
                      "export_claude_to_jsonl(sys.argv[2], [sys.argv[1]])", str(logs), str(place / "claude.jsonl")])
    redacted = cost_of([*run, _program("redact_jsonl(IN, OUT)"), str(place / "in.jsonl"), str(place / "red.jsonl"), ""])
    oracle = cost_of([*run, "import sys\nfrom afs.oracle.training_generator import OracleTrainingGenerator\n"
                      "OracleTrainingGenerator(sys.argv[1]).write(sys.argv[2])", str(code), str(place / "o.jsonl")])
    speed = (place / "in.jsonl").stat().st_size / MB / redacted.cpu_s
    return [
        Row(f"claude-export with redaction, {LOGS_MB * share:.0f} MB", (export.cpu_s,), "CPU-s", "low",
            f"≤ {EXPORT_CPU_S * share:.1f} CPU-s", EXPORT_CPU_S * share),
        Row("… peak memory", (export.peak / MB,), "MB", "low", "≤ 150 MB", 150.0),
        Row("redact", (speed,), "MB per CPU-s", "high", "≥ 40 MB per CPU-s", 40.0),
        Row("Oracle generator, written", (size / MB / oracle.cpu_s,), "MB of source per CPU-s", "high",
            "≥ 5 MB per CPU-s", 5.0),
    ]  # fmt: skip


def _help() -> Row:
    cost_of([sys.executable, "-m", "afs", "--help"])
    walls = tuple(cost_of([sys.executable, "-m", "afs", "--help"]).wall_s for _ in range(5))
    return Row("afs --help", walls, "s", "low", f"≤ {HELP_S} s", HELP_S)


# --- the failure race -----------------------------------------------------------------------------------------------

BAD = {
    "one malformed line": b'{"instruction": "q", "output": \n',
    "one invalid byte": b'{"instruction":"q\xff","output":"a"}\n',
    "one empty text": b'{"instruction":"","output":""}\n',
}
OURS = ("import sys\nfrom afs.training import convert_file\n"
        "print(convert_file(sys.argv[1], sys.argv[2], format='openai').summary())")  # fmt: skip
DATASETS = ("import sys, datasets\nfound = datasets.load_dataset('json', data_files=sys.argv[1], split='train', "
            "cache_dir=sys.argv[2] + '.cache')\nfound.to_json(sys.argv[2])")  # fmt: skip


def _failure_race(place: Path, peer: str | None) -> list[Row]:
    """A file of 1,000 good rows with one bad row in the middle: how many good rows come out, and who says what."""
    racers = {"refinery": (sys.executable, OURS), "datasets": (sys.executable, DATASETS)}
    if peer:
        racers["datatrove"] = (peer, DATATROVE)
    good = make_file(place / "good.jsonl", 1000, seed=1).read_bytes().splitlines(keepends=True)
    found = []
    for fault, line in BAD.items():
        source = place / f"{fault.replace(' ', '-')}.jsonl"
        source.write_bytes(b"".join(good[:500]) + line + b"".join(good[500:]))
        for name, (python, program) in racers.items():
            target = place / f"{source.stem}-{name}.jsonl"
            done = subprocess.run([python, "-c", program, str(source), str(target)], capture_output=True, text=True)
            kept = _kept(target)
            said = f"{source.name}:501" in done.stdout + done.stderr or ":501" in _quarantine(target)
            text = f"{kept} of 1,000 good rows, exit {done.returncode}, names line 501: {'yes' if said else 'no'}"
            verdict = ("yes" if kept >= 1000 and done.returncode == 0 else "no") if name == "refinery" else ""
            found.append(Row(f"{fault}: {name}", text=text, verdict=verdict))
    found.append(_killed(place, racers["refinery"]))
    return found


def _kept(target: Path) -> int:
    files = [target] if target.is_file() else sorted(Path(f"{target}.d").glob("*.jsonl"))
    return sum(min(path.read_bytes().count(b"\n"), 1000) for path in files)


def _quarantine(target: Path) -> str:
    path = target.with_name(f"{target.stem}.quarantine.jsonl")
    return "".join(f":{json.loads(line)['line']}" for line in path.read_text().splitlines()) if path.exists() else ""


def _killed(place: Path, racer: tuple[str, str]) -> Row:
    source = make_file(place / "long.jsonl", 60_000, seed=2)
    target = place / "long-out.jsonl"
    child = subprocess.Popen([racer[0], "-c", racer[1], str(source), str(target)], stdout=subprocess.DEVNULL)
    while not list(place.glob(".long-out.jsonl.*.part")) and child.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2)
    child.kill()
    child.wait()
    half = "nothing under the final name" if not target.exists() else "a file under the final name"
    subprocess.run([racer[0], "-c", racer[1], str(source), str(target)], check=True, capture_output=True)
    whole = target.read_bytes().count(b"\n") == 60_000
    return Row("killed at half: refinery", text=f"{half}; the next run: {'all' if whole else 'not all'} 60,000 rows",
               verdict="yes" if whole and half.startswith("nothing") else "no")  # fmt: skip

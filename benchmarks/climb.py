"""The climb: does the Guild's way of choosing quests teach more for the same budget than simpler ways?

    python -m benchmarks climb                       runs what is missing, prints the table (hours; resumable)
    python -m benchmarks climb --arms guild --seeds 0 --cpu-minutes 1 --store FOLDER

Every run has the same hero (born from the seed), skills, levels and budget: 2 M tokens (trained under the loss mask,
plus those the hero wrote in trials) or 8 CPU-minutes, whichever is spent first. Open levels only. The result of a run
is one JSON file in `benchmarks/climb_results/`, named by arm and seed, with the hash of the code that made it; a run
whose file is there is not run again (`--again` does). `python -m benchmarks.climb > docs/CLIMB.md` prints the page.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.climb_arms import ARMS
from benchmarks.climb_field import PROBE_N, Purse, Task, opened
from benchmarks.registry import Options
from benchmarks.table import Row

SKILLS = ("bin", "seq_reverse", "mem_recall", "xfm_substitute")
LEVELS = 4  # of each skill: the first open ones
TOKENS = 2_000_000
CPU_MINUTES = 8.0
SEEDS = (0, 1, 2)
LEARNT = 0.80  # accuracy on the fixed probe
LOOK_EVERY = 0.125  # of the budget, between two looks at every level's probe
LOOK_N = 50  # problems of each level's probe that such a look asks; stages and the end ask all 500
ROOT = Path(__file__).resolve().parents[1]
STORE = Path(__file__).with_name("climb_results")
CODE = ("src/realm/arena", "src/realm/guild", "src/realm/heroes", "src/realm/quests", "src/realm/schools", "benchmarks")
FASTER, SAFE, FORGETFUL = 0.7, 0.02, 0.20  # the hypotheses


def code_hash() -> str:
    """sha256 over the sources that decide a run, first 16 hex digits."""
    found = hashlib.sha256()
    for folder in CODE:
        wanted = "climb*.py" if folder == "benchmarks" else "**/*.py"
        for path in sorted((ROOT / folder).glob(wanted)):
            found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def run_one(arm: str, seed: int, tokens: int = TOKENS, cpu_s: float = CPU_MINUTES * 60) -> dict[str, Any]:
    """One run, from birth to an empty purse.

    Returns:
        {"arm", "seed", "curve": [{"tokens", "asked", "cpu_s", "probe": {"skill:level": accuracy}}], "stages":
        [{"task", "tokens", "accuracy", "cpu_s"}], …}: `curve` has a look at every eighth of the budget and the end.
    """
    begun, purse = time.monotonic(), Purse(tokens, cpu_s)
    curve: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []

    def look(field: Any, n: int) -> None:
        probe = {_key(task): accuracy for task, accuracy in field.probe(field.tasks, n).items()}
        curve.append({"tokens": purse.spent, "asked": purse.asked, "cpu_s": round(purse.used_s, 1), "probe": probe})

    with opened(SKILLS, LEVELS, seed, purse) as field:
        for ended in ARMS[arm](field):
            share = max(purse.spent / tokens, purse.used_s / cpu_s)
            for task, accuracy in field.probe(list(dict.fromkeys(ended)), PROBE_N).items():
                stages.append({"task": _key(task), "tokens": purse.spent, "cpu_s": round(purse.used_s, 1),
                               "accuracy": accuracy})  # fmt: skip
            if share >= LOOK_EVERY * (len(curve) + 1):
                look(field, LOOK_N)
        look(field, PROBE_N)
        quests = field.quests
    return {
        "arm": arm, "seed": seed, "code": code_hash(), "skills": list(SKILLS), "levels": LEVELS,
        "budget": {"tokens": tokens, "cpu_s": cpu_s}, "probe_n": PROBE_N, "quests": quests,
        "trained": purse.trained, "asked": purse.asked, "processed": purse.processed,
        "cpu_s": round(purse.used_s, 1), "wall_s": round(time.monotonic() - begun, 1), "curve": curve,
        "stages": stages, "machine": machine.facts(),
    }  # fmt: skip


def _key(task: Task) -> str:
    return f"{task[0]}:{task[1]}"


# --- what a run is worth ---------------------------------------------------------------------------------------------


def total_level(probe: dict[str, float]) -> int:
    """Levels learnt without a gap from each ladder's first, summed over the ladders."""
    found = 0
    for skill in sorted({key.rsplit(":", 1)[0] for key in probe}):
        level = 1
        while probe.get(f"{skill}:{level}", 0.0) >= LEARNT:
            level, found = level + 1, found + 1
    return found


def best_level(run: dict[str, Any]) -> tuple[int, int]:
    """(highest total level at any look, tokens spent when it was first seen)."""
    looks = [(total_level(look["probe"]), look["tokens"]) for look in run["curve"]]
    top = max(level for level, _ in looks)
    return top, next(tokens for level, tokens in looks if level == top)


def tokens_to(run: dict[str, Any], level: int) -> float:
    """Tokens spent at the first look with that total level; infinite when it was never seen."""
    return next((look["tokens"] for look in run["curve"] if total_level(look["probe"]) >= level), math.inf)


def final_accuracy(run: dict[str, Any]) -> float:
    """Mean accuracy over every (skill, level) at the end."""
    return statistics.fmean(run["curve"][-1]["probe"].values())


def forgetting(run: dict[str, Any], peak: bool = False) -> list[float]:
    """R[j][j] − R[T][j] of every task j whose stage ended, both on the fixed probe (contracts B5); with `peak` the
    highest accuracy at any look instead of R[j][j] (biased upwards: a maximum of noisy numbers)."""
    last, first = run["curve"][-1]["probe"], {}
    for stage in run["stages"]:
        first.setdefault(stage["task"], stage["accuracy"])
    if peak:
        first = {task: max([seen, *(look["probe"][task] for look in run["curve"])]) for task, seen in first.items()}
    return [seen - last[task] for task, seen in first.items()]


def bootstrap(values: Sequence[float], draws: int = 2_000) -> tuple[float, float]:
    """95 % interval of the mean, percentile bootstrap (Efron 1979), keyed by the values' number."""
    rng = random.Random(f"climb:{len(values)}")
    means = sorted(statistics.fmean(rng.choices(values, k=len(values))) for _ in range(draws))
    return means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


# --- storing and telling ---------------------------------------------------------------------------------------------


def load(store: Path) -> list[dict[str, Any]]:
    """Every stored run, in the order of the arms and seeds."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(store.glob("*.json"))]
    order = list(ARMS)
    return sorted(found, key=lambda run: (order.index(run["arm"]), run["seed"]))


def _middle(values: Sequence[float], form: str = "{:.2f}") -> str:
    def one(value: float) -> str:
        return "never" if math.isinf(value) else form.format(value)

    return f"{one(statistics.median(values))} ({one(min(values))} – {one(max(values))})"


def _by_arm(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {arm: [run for run in runs if run["arm"] == arm] for arm in ARMS if any(r["arm"] == arm for r in runs)}


def speed_ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[float]:
    """Per seed: tokens ours needed for the best level of theirs / tokens they needed; infinite where it never came."""
    found = []
    for other in theirs:
        mine = next((run for run in ours if run["seed"] == other["seed"]), None)
        if mine is not None:
            level, tokens = best_level(other)
            found.append(tokens_to(mine, level) / tokens)
    return found


def table(runs: list[dict[str, Any]]) -> list[Row]:
    """Medians and ranges per arm, then the hypotheses; a lost one stands like a won one."""
    arms, found = _by_arm(runs), []
    for arm, own in arms.items():
        forgot = [value for run in own for value in forgetting(run)]
        told = "no stage ended" if not forgot else "F_fixed {:.3f} [{:.3f}, {:.3f}] over {} stages".format(
            statistics.fmean(forgot), *bootstrap(forgot), len(forgot))  # fmt: skip
        level = _middle([total_level(r["curve"][-1]["probe"]) for r in own], "{:.0f}")
        best = _middle([best_level(r)[0] for r in own], "{:.0f}")
        accuracy, asked = _middle([final_accuracy(r) for r in own]), _middle([r["asked"] for r in own], "{:,.0f}")
        found.append(Row(f"{arm}: {len(own)} seeds", text=(
            f"total level {level}, best {best}; accuracy {accuracy}; {told}; trial tokens {asked}")))  # fmt: skip
    if "guild" in arms and "uniform" in arms:
        ratios = speed_ratio(arms["guild"], arms["uniform"])
        middle = statistics.median(ratios)
        found.append(Row("guild reaches the uniform mixture's best level", text=f"{_middle(ratios)} × its tokens",
                         against=f"≤ {FASTER}", verdict="yes" if middle <= FASTER else "no"))  # fmt: skip
    for arm, bound, low in (("guild", SAFE, True), ("sequential", FORGETFUL, False)):
        forgot = [value for run in arms.get(arm, []) for value in forgetting(run)]
        if forgot:
            mean = statistics.fmean(forgot)
            held = mean <= bound if low else mean >= bound
            found.append(Row(f"forgetting F_fixed of {arm}", text=f"{mean:.3f}",
                             against=f"{'≤' if low else '≥'} {bound}", verdict="yes" if held else "no"))  # fmt: skip
    return found


def page(runs: list[dict[str, Any]]) -> str:
    """`docs/CLIMB.md`: the method, the table, every run."""
    lines = [_INTRODUCTION.format(skills=", ".join(SKILLS), levels=LEVELS, tokens=TOKENS, minutes=CPU_MINUTES,
                                  probe=PROBE_N, seeds=", ".join(map(str, SEEDS)))]  # fmt: skip
    lines += ["| arm | seeds | total level at the end | best total level | final accuracy | F_fixed [95 %] | F_peak "
              "| trial tokens | tokens | CPU-s |", "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for arm, own in _by_arm(runs).items():
        forgot = [value for run in own for value in forgetting(run)]
        peak = [value for run in own for value in forgetting(run, peak=True)]
        fixed = "—" if not forgot else "{:.3f} [{:.3f}, {:.3f}]".format(statistics.fmean(forgot), *bootstrap(forgot))
        cells = [arm, len(own), _middle([total_level(r["curve"][-1]["probe"]) for r in own], "{:.0f}"),
                 _middle([best_level(r)[0] for r in own], "{:.0f}"), _middle([final_accuracy(r) for r in own]), fixed,
                 f"{statistics.fmean(peak):.3f}" if peak else "—", _middle([r["asked"] for r in own], "{:,.0f}"),
                 _middle([r["trained"] + r["asked"] for r in own], "{:,.0f}"),
                 _middle([r["cpu_s"] for r in own], "{:.0f}")]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    there = {(run["arm"], run["seed"]) for run in runs}
    absent = [f"{arm} {seed}" for arm in ARMS for seed in SEEDS if (arm, seed) not in there]
    if absent:
        lines += ["", f"**Not run yet** (arm and seed): {', '.join(absent)}. What is below rests on the others."]
    lines += ["", "## Hypotheses", "", "| hypothesis | measured | bound | held |", "|---|---|---|---|"]
    lines += [f"| {row.measure} | {row.text} | {row.against} | {row.met} |" for row in table(runs) if row.met]
    lines += ["", _LEVELS_HEAD.format(n=LOOK_N)]
    for arm, own in _by_arm(runs).items():
        for level in range(1, 1 + max((best_level(r)[0] for r in own), default=0)):
            times = [tokens_to(run, level) for run in own]
            lines.append(f"| {arm} | {level} | {_middle(times, '{:,.0f}')} |")
    lines += ["", "## Every run", "", "| arm | seed | code | quests | tokens | CPU-s | accuracy per level at the end |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    for run in runs:
        last = ", ".join(f"{key} {value:.2f}" for key, value in run["curve"][-1]["probe"].items())
        lines.append(f"| {run['arm']} | {run['seed']} | `{run['code']}` | {run['quests']} | "
                     f"{run['trained'] + run['asked']:,} | {run['cpu_s']:.0f} | {last} |")  # fmt: skip
    return "\n".join(lines) + "\n"


_INTRODUCTION = """# The climb: ways of choosing what to practise, for the same budget

This page is printed by `python3 -m benchmarks.climb` from the stored runs in `benchmarks/climb_results/`;
`python3 -m benchmarks climb` runs what is missing (hours on two cores; it goes on where it was).

The embedded hero, born from seeds {seeds}, on {skills}: the first {levels} *open* levels of each, BIN's beginning at
4-bit numbers. A run ends when {tokens:,} tokens (trained under the loss mask, plus those written in trials) or
{minutes:.0f} CPU-minutes are spent, whichever comes first; trials and scores are paid from the same budget. Accuracy
is that on a fixed probe of {probe} problems per level, the same for every arm, free of charge and never used for a
decision. A level counts as learnt at 0.80 there; the total level is the sum over the skills of levels learnt without a
gap. F_fixed is the mean of R[j][j] − R[T][j] over the tasks whose stage ended (an arm's own promotion, or the end of
the task's turn), F_peak takes the highest accuracy at any look instead; the uniform mixture has no stages.

Arms: *sequential* trains one task after the other; *uniform* all tasks in equal shares; *scores* is reasoning-gym's
rule, raising a skill's highest level when the last 20 training scores average above 0.70 and lowering it below 0.10;
*guild* is the game's own curriculum with its trials, level rule and rehearsal; *guild-no-rehearsal* the same without
ever training again what is mastered. Medians (and ranges) over seeds.

How the Guild's curriculum came to this: its first version, one skill per quest and always three levels ahead, needed
1.66 times the uniform mixture's tokens on seed 0. Seed 0 then served to find the present one (skills side by side in
equal shares of text, a new skill's first level alone; two variants between gave 4 and 12 levels); seeds 1 and 2 were
run once, with the present one. The other arms ran before it, with the same trainer; the column *code* tells. The order
of the rows is keyed by ids that differ between runs, so a run repeated is another draw.
"""
_LEVELS_HEAD = """## Tokens to a total level

At the first look (every eighth of the budget, the first {n} problems of each probe) that shows it; "never" within the
budget.

| arm | total level | tokens |
|---|---:|---|"""


def run(options: Options) -> list[Row]:
    """Runs what is missing and prints the table; see the module's text for the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks climb")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", default="0" if options.quick else ",".join(map(str, SEEDS)))
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--cpu-minutes", type=float, default=1.0 if options.quick else CPU_MINUTES)
    parser.add_argument("--store", type=Path, default=None if options.quick else STORE)
    parser.add_argument("--again", action="store_true", help="run again what is stored")
    given = parser.parse_args(options.more)
    fresh = []
    for seed in map(int, given.seeds.split(",")):
        for arm in given.arms.split(","):
            if arm not in ARMS:
                parser.error(f"no arm {arm!r}; known: {', '.join(ARMS)}")
            file = None if given.store is None else given.store / f"{arm}-{seed}.json"
            if file is not None and file.exists() and not given.again:
                continue
            done = run_one(arm, seed, given.tokens, given.cpu_minutes * 60)
            fresh.append(done)
            print(f"  {arm} seed {seed}: total level {total_level(done['curve'][-1]['probe'])}, accuracy "
                  f"{final_accuracy(done):.2f}, {done['trained'] + done['asked']:,} tokens, {done['cpu_s']:.0f} CPU-s",
                  file=sys.stderr, flush=True)  # fmt: skip
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                waiting = file.with_suffix(".new")
                waiting.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
                waiting.replace(file)
    return table(load(given.store) if given.store is not None else fresh)


if __name__ == "__main__":
    print(page(load(STORE)), end="")

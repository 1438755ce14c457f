"""The Oracle's Eye: does weighing tokens teach more than weighing none, on clean and on corrupted answers?

    python -m benchmarks oracle_eye                   runs what is missing, prints the table (half an hour; resumable)
    python -m benchmarks oracle_eye --policies dft --seeds 0 --store FOLDER

A run fine-tunes the embedded hero on one skill with one policy and looks at what it learnt and what it forgot. The
result is one JSON file in `benchmarks/oracle_eye_results/`; a run whose file is there is not run again (`--again`
does). `python -m benchmarks.oracle_eye > docs/ORACLES_EYE.md` prints the page.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.registry import Options
from benchmarks.table import Row

POLICIES = ("uniform", "focal", "entropy", "dft", "eaft", "surprisal")
TASKS = ("learn", "keep")
LABELS = ("clean", "corrupted")
SEEDS = (0, 1, 2)
LEVELS = 4  # of a skill, in equal shares
# Per task: what is trained, for how many steps, how often it is looked at, what was taught before (skill, steps).
TARGET = {"learn": "seq_reverse", "keep": "xfm_substitute"}
STEPS = {"learn": 150, "keep": 40}
LOOK_EVERY = {"learn": 15, "keep": 10}
OLD = {"learn": None, "keep": ("seq_reverse", 120)}
WRONG = 0.10  # of the rows have the answer of another problem
LEARNT = 0.80
LOOK_N, LAST_N = 25, 100  # problems of each level at a look and at the end
PROBE_SEED = 6_006
ROOT = Path(__file__).resolve().parents[1]
STORE = Path(__file__).with_name("oracle_eye_results")
GUIDE = Path(__file__).with_name("oracle_eye_guide.md")
CODE = ("src/realm/schools/scribe.py", "src/realm/schools/oracle_eye.py", "src/realm/heroes/model.py",
        "benchmarks/oracle_eye.py")  # fmt: skip


def code_hash() -> str:
    """sha256 over the sources that decide a run, first 16 hex digits."""
    found = hashlib.sha256()
    for name in CODE:
        found.update(name.encode() + b"\0" + (ROOT / name).read_bytes() + b"\0")
    return found.hexdigest()[:16]


# --- one run ---------------------------------------------------------------------------------------------------------


def problems(skill: str, count: int, seed: int, split: str = "train") -> list[Any]:
    """`count` problems spread over the levels, in a keyed order."""
    from realm.guild.skills import get_skill

    made = get_skill(skill)
    found = [p for level in range(1, LEVELS + 1) for p in made.generate(level, count // LEVELS, seed, split)]
    random.Random(f"{skill}:{seed}:{split}").shuffle(found)
    return found


def corrupted(found: Sequence[Any], seed: int, share: float = WRONG) -> list[list[dict[str, str]]]:
    """Conversations; a `share` of them has the golden answer of another problem of the same level, graded as wrong."""
    from realm.guild.skills import get_skill

    dice, rows = random.Random(f"corrupt:{seed}"), [p.messages for p in found]
    by_level: dict[int, list[Any]] = {}
    for problem in found:
        by_level.setdefault(problem.level, []).append(problem)
    for i in dice.sample(range(len(found)), round(share * len(found))):
        problem = found[i]
        answers = (dice.choice(by_level[problem.level]).golden for _ in range(1000))
        wrong = next(a for a in answers if not get_skill(problem.skill).grade(problem, a).correct)
        rows[i] = [*problem.messages[:-1], {"role": "assistant", "content": wrong}]
    return rows


def learn(hero: Any, rows: list[Any], steps: int, seed: int, quest: str, on_step: Callable[[Any], bool]) -> None:
    """The Scribe's own training, with a fresh optimizer."""
    from realm.schools import scribe

    rendered, dropped = hero.render(rows)
    if dropped:
        raise RuntimeError(f"{len(dropped)} rows were dropped, the first: {dropped[0]}")
    with tempfile.TemporaryDirectory() as scratch:
        segment = scribe.Segment("oracle_eye", quest, seed, 0, steps)
        scribe.train(hero, rendered, segment, scribe.OptimizerState(), Path(scratch), on_step)


@lru_cache(maxsize=1)
def base_hero(task: str, seed: int) -> Any:
    """The hero every policy starts from: born from `seed`, and for the task "keep" taught the old skill without weights
    on clean rows."""
    from realm.heroes.model import Hero, make_embedded
    from realm.heroes.profile import load_profile, parse_profile
    from realm.settings import RealmHome

    values = load_profile("pip").model_dump()
    values["model"]["architecture"]["seed"] = seed
    with tempfile.TemporaryDirectory() as folder:
        profile = parse_profile(values)
        hero = Hero.load(profile, make_embedded(profile, RealmHome(Path(folder))))
    if OLD[task]:
        skill, steps = OLD[task]
        rows = [p.messages for p in problems(skill, steps * profile.rows_per_step, 1_000 + seed)]
        learn(hero, rows, steps, seed, f"base-{task}", lambda facts: True)
    return hero


def accuracy(hero: Any, skill: str, n: int) -> float:
    """On the first n probe problems of every level: the same for every policy, never trained on."""
    from realm.guild.skills import get_skill

    made = get_skill(skill)
    right = []
    for level in range(1, LEVELS + 1):
        asked = made.generate(level, n, PROBE_SEED, "probe")
        answers = hero.answer([p.messages[:-1] for p in asked], made.levels()[level - 1].max_new_tokens)
        right += [made.grade(p, text).correct for p, (text, _) in zip(asked, answers, strict=True)]
    return sum(right) / len(right)


def golden_loss(hero: Any, skill: str) -> float:
    """Plain cross-entropy of the golden answers to the probe problems, in nats per token."""
    from realm.guild.skills import get_skill

    made = get_skill(skill)
    rows, _ = hero.render([p.messages for level in range(1, LEVELS + 1)
                           for p in made.generate(level, LAST_N, PROBE_SEED, "probe")])  # fmt: skip
    return hero.loss(rows)


def run_one(task: str, labels: str, policy: str, seed: int, steps: int | None = None) -> dict[str, Any]:
    """One training; `curve`: accuracies at the looks on 100 problems, its last entry on 400, as `before`; the old
    skill's only where there is one. `loss`: of the target's golden answers at the end, nats per token."""
    from realm.heroes.model import Hero
    from realm.heroes.profile import OracleEye

    base, steps = base_hero(task, seed), steps or STEPS[task]
    begun = time.process_time()
    profile = base.profile.model_copy(update={"oracle_eye": OracleEye(policy=policy)})
    hero = Hero(profile, copy.deepcopy(base.model), base.tokenizer)
    found = problems(TARGET[task], steps * profile.rows_per_step, seed)
    rows = corrupted(found, seed, WRONG if labels == "corrupted" else 0.0)
    effective, trained = [], 0

    def look(step: int, n: int) -> dict[str, Any]:
        old = {"old": accuracy(hero, OLD[task][0], n)} if OLD[task] else {}
        return {"step": step, "target": accuracy(hero, TARGET[task], n), **old}

    def on_step(facts: Any) -> bool:
        nonlocal trained
        trained += facts.trained_tokens
        effective.append(facts.facts.get("effective_tokens", facts.trained_tokens) / facts.trained_tokens)
        if facts.step % LOOK_EVERY[task] == 0 and facts.step < steps:
            curve.append(look(facts.step, LOOK_N))
        return True

    before, curve = look(0, LAST_N), []
    learn(hero, rows, steps, seed, f"{task}-{labels}", on_step)
    curve.append(look(steps, LAST_N))
    return {
        "task": task, "labels": labels, "policy": policy, "seed": seed, "steps": steps, "code": code_hash(),
        "before": before, "curve": curve, "loss": golden_loss(hero, TARGET[task]), "trained_tokens": trained,
        "effective_share": statistics.fmean(effective),
        "cpu_s": round(time.process_time() - begun, 1), "machine": machine.facts(),
    }  # fmt: skip


def name_of(run: dict[str, Any]) -> str:
    return f"{run['task']}-{run['labels']}-{run['policy']}-{run['seed']}"


# --- telling ---------------------------------------------------------------------------------------------------------


def load(store: Path) -> list[dict[str, Any]]:
    """Every stored run, in the order of tasks, labels, policies and seeds."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(store.glob("*.json"))]
    return sorted(found, key=lambda r: (TASKS.index(r["task"]), LABELS.index(r["labels"]),
                                        POLICIES.index(r["policy"]), r["seed"]))  # fmt: skip


def final(run: dict[str, Any]) -> float:
    """Accuracy on the target at the end."""
    return run["curve"][-1]["target"]


def area(run: dict[str, Any], what: str = "target") -> float:
    """Mean accuracy over the looks: what was learnt soon, or kept long, counts more."""
    return statistics.fmean(look[what] for look in run["curve"])


def steps_to(run: dict[str, Any], level: float = LEARNT) -> float:
    """Optimizer steps at the first look with that accuracy; infinite when none has it."""
    return next((look["step"] for look in run["curve"] if look["target"] >= level), math.inf)


@dataclass(frozen=True)
class Measure:
    """What a task is judged by; `sign` 1: more is better, -1: less."""

    about: str
    of: Callable[[dict[str, Any]], float]
    sign: int = 1


MEASURES = {
    "learn": (Measure("mean accuracy over the looks", area), Measure("accuracy at the end", final)),
    "keep": (Measure("old skill, mean accuracy over the looks", lambda run: area(run, "old")),
             Measure("new skill, loss at the end", lambda run: run["loss"], -1)),
}  # fmt: skip


def paired(own: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]], measure: Measure) -> list[float]:
    """own − uniform, seed by seed."""
    of_seed = {run["seed"]: measure.of(run) for run in plain}
    return [measure.of(run) - of_seed[run["seed"]] for run in own if run["seed"] in of_seed]


def verdict(differences: Sequence[float], sign: int = 1) -> str:
    """better | worse | undecided: with so few seeds, only a difference that every one of them shows counts."""
    if len(differences) < len(SEEDS):
        return "too few seeds"
    if min(d * sign for d in differences) > 0:
        return "better"
    return "worse" if max(d * sign for d in differences) < 0 else "undecided"


def _span(values: Sequence[float], form: str = "{:.2f}") -> str:
    def one(value: float) -> str:
        return "never" if math.isinf(value) else form.format(value)

    return f"{one(statistics.median(values))} ({one(min(values))} – {one(max(values))})"


def _cells(runs: list[dict[str, Any]]) -> list[tuple[str, str, str, list[dict[str, Any]]]]:
    keys = itertools.product(TASKS, LABELS, POLICIES)
    return [(*key, own) for key in keys if (own := [r for r in runs if (r["task"], r["labels"], r["policy"]) == key])]


def judged(runs: list[dict[str, Any]]) -> list[tuple[str, str, str, Measure, list[dict[str, Any]], list[float], str]]:
    """(task, labels, policy, measure, its runs, differences from uniform, verdict) of every measure."""
    found = []
    for task, labels, policy, own in _cells(runs):
        plain = [r for r in runs if (r["task"], r["labels"], r["policy"]) == (task, labels, "uniform")]
        for measure in MEASURES[task]:
            apart = paired(own, plain, measure)
            found.append((task, labels, policy, measure, own, apart, verdict(apart, measure.sign)))
    return found


def winners(runs: list[dict[str, Any]]) -> list[str]:
    """Policies that are better by the first measure of every task, on clean and on corrupted answers, and worse by
    none: what a policy must show before it becomes the default."""
    said = {(task, labels, policy, m.about): v for task, labels, policy, m, _, _, v in judged(runs)}
    first = [(task, labels, MEASURES[task][0].about) for task in TASKS for labels in LABELS]
    return [policy for policy in POLICIES[1:]
            if all(said.get((task, labels, policy, about)) == "better" for task, labels, about in first)
            and not any(v == "worse" for (_, _, name, _), v in said.items() if name == policy)]  # fmt: skip


def table(runs: list[dict[str, Any]]) -> list[Row]:
    """A row per task, labels, policy and measure."""
    found = []
    for task, labels, policy, measure, own, apart, said in judged(runs):
        told = _span([measure.of(r) for r in own], "{:.3f}")
        if policy != "uniform":
            told += f"; − uniform {', '.join(f'{d:+.3f}' for d in apart)}: {said}"
        found.append(Row(f"{task}, {labels}, {policy}: {measure.about}, {len(own)} seeds", text=told))
    return found


def page(runs: list[dict[str, Any]]) -> str:
    """`docs/ORACLES_EYE.md`: what the Eye is (`oracle_eye_guide.md`), then what was measured."""
    lines = [GUIDE.read_text(encoding="utf-8").rstrip(), "", _METHOD]
    for task in TASKS:
        lines += [f"### {_TASK_WORDS[task]}", "", _HEAD, "|---|---|---|---|---|---|"]
        for _, labels, policy, measure, own, apart, said in [found for found in judged(runs) if found[0] == task]:
            against = ("—", "—") if policy == "uniform" else (", ".join(f"{d:+.3f}" for d in apart), said)
            cells = [labels, policy, measure.about, _span([measure.of(r) for r in own], "{:.3f}"), *against]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    found = ", ".join(winners(runs)) or "none of these runs shows that of any policy, so the default stays uniform"
    lines += ["### The default", "", f"{_RULE}: {found}.", ""]
    lines += ["### Every run", "", f"| task | answers | policy | seed | accuracy at the end | steps to {LEARNT:.2f} "
              "| old skill, looks | loss | effective share of tokens | CPU-s |",
              "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for r in runs:
        old = " ".join(f"{look['old']:.2f}" for look in r["curve"]) if "old" in r["curve"][0] else "—"
        first = steps_to(r)
        cells = [r["task"], r["labels"], r["policy"], r["seed"], f"{final(r):.3f}",
                 "never" if math.isinf(first) else first, old, f"{r['loss']:.3f}", f"{r['effective_share']:.2f}",
                 f"{r['cpu_s']:.0f}"]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    there = {name_of(run) for run in runs}
    absent = [name for key in _every() if (name := "-".join(map(str, key))) not in there]
    if absent:
        lines += ["", f"**Not run yet**: {', '.join(absent)}."]
    codes = ", ".join(f"`{code}`" for code in sorted({run["code"] for run in runs}))
    lines += ["", f"{len(runs)} runs, {sum(run['cpu_s'] for run in runs) / 60:.0f} CPU-minutes in all, code {codes}."]
    return "\n".join(lines) + "\n"


def _every() -> list[tuple[str, str, str, int]]:
    return [(task, labels, policy, seed) for seed in SEEDS for task in TASKS for policy in POLICIES
            for labels in LABELS]  # fmt: skip


_TASK_WORDS = {"learn": "Learning a first skill", "keep": "Keeping a skill while a second is taught"}
_RULE = ("A policy becomes the default when all seeds show it better than uniform by the first measure of both tasks, "
         "on clean and on corrupted answers, and worse by none")  # fmt: skip
_HEAD = "| answers | policy | measure | median (range) | − uniform, each seed | verdict |"
_METHOD = f"""## What it is worth: measured

Printed by `python3 -m benchmarks.oracle_eye` from the stored runs in `benchmarks/oracle_eye_results/`;
`python3 -m benchmarks oracle_eye` runs what is missing.

The embedded hero, born from seeds {', '.join(map(str, SEEDS))}, with its own recipe (batch 64, Muon).

* *learn*: {STEPS['learn']} steps of {TARGET['learn']}, levels 1 to {LEVELS}, by a hero that knows nothing.
* *keep*: a hero that was taught {OLD['keep'][0]} for {OLD['keep'][1]} steps gets {STEPS['keep']} steps of
  {TARGET['keep']} without any rehearsal.
* *corrupted*: {WRONG:.0%} of the training rows have the answer of another problem.

Accuracy is on {LEVELS * LOOK_N} probe problems at a look and on {LEVELS * LAST_N} at the end, the same for all, never
trained on; loss is plain cross-entropy of the golden answers in nats per token, whatever the policy trained on. A
difference counts as better or worse only where all {len(SEEDS)} seeds show it; chance alone does that in one comparison
of four.
"""


def run(options: Options) -> list[Row]:
    """Runs what is missing and prints the table; see the module's text for the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks oracle_eye")
    parser.add_argument("--policies", default="uniform,dft" if options.quick else ",".join(POLICIES))
    parser.add_argument("--tasks", default="learn" if options.quick else ",".join(TASKS))
    parser.add_argument("--seeds", default="0" if options.quick else ",".join(map(str, SEEDS)))
    parser.add_argument("--steps", type=int, default=20 if options.quick else None)
    parser.add_argument("--store", type=Path, default=None if options.quick else STORE)
    parser.add_argument("--again", action="store_true", help="run again what is stored")
    given = parser.parse_args(options.more)
    unknown = set(given.policies.split(",")) - set(POLICIES) or set(given.tasks.split(",")) - set(TASKS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; policies are {', '.join(POLICIES)}, tasks "
                     f"{', '.join(TASKS)}")  # fmt: skip
    fresh = []
    for task, labels, policy, seed in _every():
        if policy not in given.policies.split(",") or task not in given.tasks.split(",") \
                or str(seed) not in given.seeds.split(","):  # fmt: skip
            continue
        name = name_of({"task": task, "labels": labels, "policy": policy, "seed": seed})
        file = None if given.store is None else given.store / f"{name}.json"
        if file is not None and file.exists() and not given.again:
            continue
        done = run_one(task, labels, policy, seed, given.steps)
        fresh.append(done)
        told = ", ".join(f"{m.about} {m.of(done):.3f}" for m in MEASURES[task])
        print(f"  {name}: {told}, {done['cpu_s']:.0f} CPU-s", file=sys.stderr, flush=True)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            waiting = file.with_suffix(".new")
            waiting.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
            waiting.replace(file)
    return table(load(given.store) if given.store is not None else fresh)


if __name__ == "__main__":
    print(page(load(STORE)), end="")

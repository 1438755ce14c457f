"""What each school adds to the embedded hero: held-out accuracy before and after, at equal training tokens.

    make bench-schools            # or: python benchmarks/schools.py --seeds 0 1 2 --tokens 200000 --json out.json

PIP is brought to the middle of a skill by the Scribe (until about half of the answers are right on the public split);
then every school goes on from those very weights with an optimizer of its own, on the same file of problems, until its
trainer has read the budget of tokens (sampled answers that are trained on count, what a school asks beforehand does
not: `prepare s` shows what it costs). Accuracy is measured on problems of the probe split, which no school ever sees,
greedy, with a 95 % interval over the pooled seeds (Wilson). `stay` is the hero that does nothing. The Whisper's teacher
is the same hero after four budgets of the Scribe (`teacher`); what it cost to make is not counted.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from realm import schools
from realm.guild.levels import wilson
from realm.guild.skills import Problem, get_skill
from realm.heroes.model import Hero, make_embedded
from realm.heroes.profile import load_profile
from realm.schools import chassis
from realm.settings import RealmHome

SKILL, LEVELS = "xfm_substitute", (1, 2, 3)
ROWS_PER_LEVEL, ASKED_PER_LEVEL = 2000, 200
BASE_PIECE, BASE_AT_MOST, HALF = 10, 400, 0.4  # steps of the base between two looks; where it ends
TOKENS, TEACHER_BUDGETS = 200_000, 4


@dataclass
class Line:
    """One school on one seed."""

    school: str
    seed: int
    before: float
    after: float
    asked: int
    steps: int = 0
    tokens: int = 0
    prepare_s: float = 0.0
    train_s: float = 0.0
    facts: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def problems(split: str, count: int, seed: int) -> list[Problem]:
    """`count` distinct problems of each level."""
    found: dict[str, Problem] = {}
    for level in LEVELS:
        for problem in get_skill(SKILL).generate(level, count, seed, split):
            found.setdefault(problem.canonical, problem)
    return list(found.values())


def accuracy(hero: Hero, asked: list[Problem]) -> float:
    """Share of right greedy answers."""
    skill = get_skill(SKILL)
    room = max(skill.levels()[level - 1].max_new_tokens for level in LEVELS)
    answers = hero.answer([problem.messages[:1] for problem in asked], room)
    return sum(skill.grade(p, text).correct for p, (text, _) in zip(asked, answers, strict=True)) / len(asked)


def row(problem: Problem) -> dict[str, Any]:
    """As idle quests write it."""
    return {"messages": problem.messages, "skill": problem.skill, "level": problem.level,
            "canonical": problem.canonical, "id": problem.id}  # fmt: skip


def base(hero: Hero, raw: list[dict[str, Any]], seed: int, scratch: Path) -> int:
    """Bring the hero to the middle of the skill; returns the steps it took."""
    scribe, kept = schools.load("scribe"), chassis.OptimizerState()
    rows, _ = scribe.prepare(hero, raw, chassis.Context(scratch))
    looked, per_step = problems("public", 100, seed), hero.profile.rows_per_step
    for step in range(0, BASE_AT_MOST, BASE_PIECE):
        segment = chassis.Segment("bench", "base", seed, step, BASE_PIECE, step * per_step)
        scribe.train(hero, rows, segment, kept, scratch, lambda facts: True)
        if accuracy(hero, looked) >= HALF:
            return step + BASE_PIECE
    raise SystemExit(f"seed {seed}: the base did not reach {HALF:.0%} in {BASE_AT_MOST} steps")


def attend(name: str, hero: Hero, raw: list[dict[str, Any]], seed: int, start: int, budget: int, home: RealmHome,
           line: Line, options: dict[str, Any] | None = None) -> None:  # fmt: skip
    """Train with one school until it has read the budget."""
    school = schools.load(name)
    folder = Path(tempfile.mkdtemp(dir=home.root))
    context = chassis.Context(
        folder, seed=seed, step=start, campaign_id="bench", run_id="bench", quest_id=f"{name}-{seed}", home=home,
        options=options or {},
        note=lambda kind, text, level, **payload: line.notes.append(text))  # fmt: skip
    clock = time.perf_counter()
    rows, _ = school.prepare(hero, raw, context)
    line.prepare_s = time.perf_counter() - clock

    def on_step(facts: chassis.StepFacts) -> bool:
        line.steps, line.tokens, line.facts = line.steps + 1, line.tokens + facts.tokens, dict(facts.facts)
        return line.tokens < budget

    segment = chassis.Segment("bench", f"{name}-{seed}", seed, start, 100_000, 0)
    school.train(hero, rows, segment, chassis.OptimizerState(), folder, on_step, context)
    line.train_s = time.perf_counter() - clock - line.prepare_s


def measure(names: list[str], seed: int, budget: int) -> list[Line]:
    """All schools from one base."""
    home = RealmHome(Path(tempfile.mkdtemp()) / "home").create()
    profile = load_profile("pip")
    shape = profile.model.architecture.model_copy(update={"seed": seed})
    profile = profile.model_copy(update={"model": profile.model.model_copy(update={"architecture": shape})})
    hero = Hero.load(profile, make_embedded(profile, home))
    raw = [row(problem) for problem in problems("train", ROWS_PER_LEVEL, seed)]
    asked = problems("probe", ASKED_PER_LEVEL, seed)
    start = base(hero, raw, seed, home.run)
    weights, before = copy.deepcopy(hero.model.state_dict()), accuracy(hero, asked)
    lines = [Line("stay", seed, before, before, len(asked))]
    print(f"seed {seed}: {start} steps of the Scribe, then {before:.3f} on {len(asked)} held-out problems", flush=True)
    options = {}
    if "whisper" in names:
        line = Line("teacher", seed, before, before, len(asked))
        attend("scribe", hero, raw, seed, start, TEACHER_BUDGETS * budget, home, line)
        line.after = accuracy(hero, asked)
        lines.append(line)
        hero.save(home.models / "teacher")
        options["whisper"] = {"teacher": "models/teacher"}
    for name in names:
        hero.model.load_state_dict(weights)
        line = Line(name, seed, before, before, len(asked))
        try:
            attend(name, hero, raw, seed, start, budget, home, line, options.get(name))
        except chassis.NothingToLearn as nothing:
            line.notes.append(str(nothing))
        line.after = accuracy(hero, asked)
        lines.append(line)
        print(f"  {name:10} {before:.3f} → {line.after:.3f}   {line.steps} steps, {line.tokens:,} tokens, prepare "
              f"{line.prepare_s:.1f} s, train {line.train_s:.1f} s", flush=True)  # fmt: skip
    return lines


def table(lines: list[Line]) -> str:
    """The pooled table in Markdown."""
    out = ["| School | Before | After | 95 % interval | Per seed | Steps | Tokens | prepare s | train s |",
           "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name in dict.fromkeys(line.school for line in lines):
        mine = [line for line in lines if line.school == name]
        asked = sum(line.asked for line in mine)
        before, after = (sum(getattr(line, key) * line.asked for line in mine) for key in ("before", "after"))
        low, high = wilson(round(after), asked, 1.96)
        mean = {key: sum(getattr(line, key) for line in mine) / len(mine)
                for key in ("steps", "tokens", "prepare_s", "train_s")}  # fmt: skip
        seeds = " ".join(f"{line.after:.2f}" for line in mine)
        out.append(f"| {name} | {before / asked:.3f} | {after / asked:.3f} | {low:.3f}–{high:.3f} | {seeds} | "
                   f"{mean['steps']:.0f} | {mean['tokens']:,.0f} | {mean['prepare_s']:.0f} | {mean['train_s']:.0f} |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--schools", nargs="+", default=[e.id for e in schools.SCHOOLS.values() if e.practice])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    lines = [line for seed in options.seeds for line in measure(options.schools, seed, options.tokens)]
    print(f"\n{SKILL}, levels {LEVELS}, {options.tokens:,} training tokens, {len(options.seeds)} seeds\n")
    print(table(lines))
    if options.json:
        options.json.write_text(json.dumps([vars(line) for line in lines], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""School of Inference: a checkpoint is examined, spars, or answers. Torch comes with `heroes.model`, in a child."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from afs.jsonl import AtomicWriter
from realm.arena import trial
from realm.guild import levels
from realm.guild.skills import get_skill
from realm.heroes.profile import HeroProfile
from realm.jobs import kinds
from realm.jobs.bench import Bench, Result
from realm.jobs.kinds import JobError
from realm.quests import sparring
from realm.vault.checkpoints import MANIFEST

ROWS = "rows.jsonl"
ANSWERS = "answers.jsonl"


def trial_spec(payload: kinds.Eval, seed: int) -> trial.TrialSpec:
    """What is examined; the arena makes the same one when it marks the answers again."""
    skill = get_skill(payload.skill)
    closed = bool(skill.closed(payload.level))
    threshold = levels.CLOSED_THRESHOLD if closed else skill.threshold
    return trial.TrialSpec("job", payload.skill, payload.level, closed, threshold, seed, payload.items)


def evaluate(payload: kinds.Eval, bench: Bench) -> Result:
    """One trial of one checkpoint (`arena/trial.py`), answered and marked here on the problems that were asked."""
    hero, checkpoint = _hero(payload.checkpoint, bench)
    spec = trial_spec(payload, bench.task.seed)
    found = trial.run(spec, get_skill(payload.skill), hero.answer, lambda rows: hero.loss(hero.render(rows)[0]))
    items = [{"problem": item.problem.to_dict(), "response": item.response, "correct": item.correct,
              "reason": item.reason} for item in found.items]  # fmt: skip
    facts = {"items": items, "verdict": found.verdict, "tokens": found.tokens, "loss": found.loss,
             "started_at": found.started_at, "seconds": found.seconds}  # fmt: skip
    return Result({"checkpoint": checkpoint["checkpoint_id"], "step": checkpoint["step"]}, facts)


def spar(payload: kinds.Sparring, bench: Bench) -> Result:
    """Training problems are answered; wrong answers become rows for the Mirror (`quests/sparring.py`)."""
    hero, manifest = _hero(payload.checkpoint, bench)
    problems = get_skill(payload.skill).generate(payload.level, payload.count, bench.task.seed, "train")
    problems = sparring.aimed(problems, (), payload.count)  # none twice
    bouts = sparring.spar(problems, hero.answer, bench.task.seed)
    corner = sparring.Corner(manifest["campaign_id"], manifest["run_id"], manifest["checkpoint_id"], manifest["step"])
    rows = bench.folder / ROWS
    score = sparring.write_rows(rows, sparring.reflections(bouts, corner), sparring.Score.of(bouts))
    sparring.score_path(rows).unlink()  # the same numbers are in the job's result
    return Result({"checkpoint": corner.checkpoint, "step": corner.step, **asdict(score)}, files=(ROWS,))


def answer(payload: kinds.Inference, bench: Bench) -> Result:
    """Greedy answers in order, one line each."""
    hero, checkpoint = _hero(payload.checkpoint, bench)
    given = hero.answer([[{"role": "user", "content": text}] for text in payload.prompts], payload.max_new_tokens)
    with AtomicWriter(bench.folder / ANSWERS) as out:
        for prompt, (text, tokens) in zip(payload.prompts, given, strict=True):
            out.write({"prompt": prompt, "answer": text, "tokens": tokens})
    return Result({"checkpoint": checkpoint["checkpoint_id"], "step": checkpoint["step"], "answers": len(given),
                   "tokens": sum(tokens for _, tokens in given)}, files=(ANSWERS,))  # fmt: skip


def _hero(checkpoint_id: str, bench: Bench) -> tuple[Any, dict[str, Any]]:
    """(the hero at a checkpoint, the checkpoint's manifest); its recipe is the one that the manifest holds."""
    from realm.heroes.model import Hero

    folder = bench.depot.checkpoint(checkpoint_id)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    try:
        profile = HeroProfile.model_validate(manifest["config"]["hero"])
    except (KeyError, TypeError, ValueError) as error:
        raise JobError("refused", f"the manifest of checkpoint {checkpoint_id} holds no recipe of a hero ({error}); "
                       "choose a checkpoint that a battle wrote") from error  # fmt: skip
    return Hero.load(profile, folder), manifest

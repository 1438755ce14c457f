"""The Champion: training by verifiable reward (GRPO, Shao 2024, arXiv 2402.03300, eq. 3) through TRL's GRPOTrainer.

The reward is the skill's own grader. Each optimizer step answers a few prompts several times, by sampling, and moves
towards the answers that were better than their group; a group whose answers are all right or all wrong says nothing.
So prompts are chosen when the quest begins: the pass rate of each is measured, and those nearest to 50 % are kept.
Every optimizer step is one generation batch, drawn with a seed of its own, so a battle resumes exactly at any step.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout functions are marked as experimental

import orjson  # noqa: E402
from datasets import Dataset  # noqa: E402
from torch.utils.data import Sampler  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from afs.jsonl import AtomicWriter  # noqa: E402
from realm import schools  # noqa: E402
from realm.guild.skills import Problem, get_skill  # noqa: E402
from realm.heroes import chat  # noqa: E402
from realm.heroes.model import Hero, generate_batch, sampled  # noqa: E402
from realm.schools import chassis  # noqa: E402
from realm.schools.chassis import Context, Counted, Dropped, OnStep, OptimizerState, Segment  # noqa: E402

FAMILY = "reward"
PROMPTS_FILE = "prompts.json"
KEPT_AT_MOST = 256  # prompts of a quest; of those that were probed, the nearest to 50 %
SILENT_STEPS, SILENT_SHARE = 10, 0.5  # groups without variance: told when they are more than half over ten steps
# TRL's names of what a step tells → ours.
FACTS = {"reward": "reward", "reward_std": "reward_std", "frac_reward_zero_std": "zero_variance",
         "entropy": "entropy", "completions/mean_length": "length", "completions/clipped_ratio": "clipped"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """A problem with its prompt as the hero reads it, the room for an answer in tokens and the pass rate (0…1) that
    was measured when the quest began."""

    problem: Problem
    prompt: list[int]
    room: int
    rate: float


def prepare(hero: Hero, raw: Sequence[Mapping[str, Any]], context: Context) -> tuple[list[Task], list[Dropped]]:
    """Problems whose pass rate is nearest to 50 %; measured once, found again on resume.

    Raises:
        chassis.TrainingError: no row is a problem of a skill.
        chassis.NothingToLearn: every prompt is answered always or never.
        chassis.Interrupted: told to stop meanwhile.
    """
    wanted = hero.profile.schools.champion
    problems = list({p.prompt: p for p in chassis.practice_problems(raw, context, wanted.probed)}.values())
    tasks = [_task(hero, problem) for problem in problems]
    path = context.folder / PROMPTS_FILE
    if path.is_file():
        rates = orjson.loads(path.read_bytes())["rates"]
    else:
        context.phase("measuring pass rates")
        rates = _pass_rates(hero, tasks, context)
        with AtomicWriter(path) as out:
            out.write({"rates": rates})
    informative = sorted((abs(rate - 0.5), i) for i, rate in enumerate(rates) if 0 < rate < 1)
    kept = [i for _, i in informative[:KEPT_AT_MOST]]
    mean = sum(rates) / len(rates)
    if not kept:
        raise chassis.NothingToLearn(
            f"of {len(rates)} prompts each is answered {'never' if mean < 0.5 else 'always'} rightly, so no answer is "
            f"better than another; {'imitation (Scribe) comes first' if mean < 0.5 else 'a higher level would help'}")
    if context.fresh:
        text = (f"Pass rates of {len(rates)} prompts: {mean:.0%} on average, {rates.count(0.0)} never, "
                f"{rates.count(1.0)} always right; the {len(kept)} nearest to 50 % are practised.")  # fmt: skip
        context.note("lesson", text, "info", what="pass rates", probed=len(rates), mean=mean, never=rates.count(0.0),
                     always=rates.count(1.0), kept=len(kept))  # fmt: skip
    return [Task(tasks[i].problem, tasks[i].prompt, tasks[i].room, rates[i]) for i in kept], []


def _task(hero: Hero, problem: Problem) -> Task:
    prompt = chat.prompt_ids(problem.messages[:1], hero.tokenizer, hero.profile.chat.thinking)
    return Task(problem, prompt, get_skill(problem.skill).levels()[problem.level - 1].max_new_tokens, 0.0)


def _pass_rates(hero: Hero, tasks: Sequence[Task], context: Context) -> list[float]:
    times = schools.generations(hero.profile)
    right = [0] * len(tasks)
    # Tasks of like room together, so that a long one does not keep the short ones waiting.
    by_room = sorted(range(len(tasks)), key=lambda i: (tasks[i].room, i))
    for begin in range(0, len(by_room), 128):
        part = by_room[begin : begin + 128]
        seed = chassis.step_seed(context.seed, context.quest_id, begin)
        drawn = [i for i in part for _ in range(times)]
        answers = answer(hero, [tasks[i] for i in drawn], seed, context)
        for i, ids in zip(drawn, answers, strict=True):
            right[i] += reward(tasks[i].problem, hero.tokenizer.decode(ids, skip_special_tokens=True)) >= 1.0
    return [count / times for count in right]


def answer(hero: Hero, tasks: Sequence[Task], seed: int, context: Context | None = None) -> list[list[int]]:
    """Sampled answers with their stop token, where they came to one.

    Raises:
        chassis.Interrupted: told to stop meanwhile; only asked where there is a context.
    """
    stopped = False

    def interrupted() -> bool:
        nonlocal stopped
        stopped = stopped or (context is not None and context.interrupted())
        return stopped

    room = max(task.room for task in tasks)
    pick = sampled(hero.profile.schools.champion.temperature, seed)
    with hero.autocast():
        made = generate_batch(hero.model, hero.tokenizer, [task.prompt for task in tasks], room, pick=pick,
                              interrupted=interrupted, batch_rows=256)  # fmt: skip
    if stopped:
        raise chassis.Interrupted
    stop = chat.stop_id(hero.tokenizer)
    return [ids + [stop] if len(ids) < room else ids for ids in made]


def reward(problem: Problem, text: str) -> float:
    """The grader's score, 0…1."""
    return get_skill(problem.skill).grade(problem, text).score


class _Groups(Sampler):
    """Each step's prompts, `generations` times each, and all of it once per micro-batch: TRL generates for the whole
    step when it sees the first and takes its slices from there."""

    def __init__(self, prompts: chassis.Stream, per_step: int, generations: int, repeat: int) -> None:
        self.prompts, self.per_step, self.generations, self.repeat = prompts, per_step, generations, repeat

    def __iter__(self) -> Iterator[int]:
        step: list[int] = []
        for index in self.prompts:
            step += [index] * self.generations
            if len(step) == self.per_step * self.generations:
                yield from step * self.repeat
                step = []

    def __len__(self) -> int:
        return len(self.prompts) * self.generations * self.repeat


class _ChampionTrainer(GRPOTrainer):
    """GRPOTrainer with the realm's order, answers and grader."""

    hero: Hero
    sampler: Sampler
    context: Context | None
    tokens = trained = 0  # of the present optimizer step
    told = False

    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        return self.sampler

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.tokens += int(inputs["prompt_mask"].sum() + inputs["completion_mask"].sum())
        self.trained += int(inputs["completion_mask"].sum())
        with self.hero.autocast():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def counted(self, logs: Mapping[str, Any]) -> Counted:
        """What this optimizer step read, and begin to count anew. The surrogate's own value says nothing of how good
        the hero is, so its loss is what is missing to the full reward."""
        facts = {ours: float(logs[theirs]) for theirs, ours in FACTS.items() if logs.get(theirs) is not None}
        found = Counted(self.tokens, self.trained, 1.0 - facts["reward"], {**facts, "surrogate": float(logs["loss"])})
        self.tokens = self.trained = 0
        self._watch_variance(facts["zero_variance"])
        return found

    def _watch_variance(self, share: float) -> None:
        self.shares = getattr(self, "shares", deque(maxlen=SILENT_STEPS))
        self.shares.append(share)
        mean = sum(self.shares) / len(self.shares)
        if self.told or self.context is None or len(self.shares) < SILENT_STEPS or mean <= SILENT_SHARE:
            return
        self.told = True
        text = (f"{mean:.0%} of the groups of the last {SILENT_STEPS} steps were all right or all wrong: they teach "
                "nothing. The hero has outgrown these prompts, or cannot do them yet.")  # fmt: skip
        self.context.note("lesson", text, "trouble", what="zero variance", zero_variance=mean)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0


def train(
    hero: Hero, rows: Sequence[Task], segment: Segment, kept: OptimizerState, scratch: Path, on_step: OnStep,
    context: Context | None = None,
) -> None:  # fmt: skip
    """Do the segment's optimizer steps on `hero.model`, in place; see `scribe.train` for the arguments.

    Raises:
        chassis.TrainingError: nan, oom or unsupported.
    """
    if not chassis.begin(kept, hero, segment, rows):
        return
    profile, wanted = hero.profile, hero.profile.schools.champion
    times, per_step = schools.generations(profile), schools.rows_per_step("champion", profile)
    if times < 2:
        raise chassis.TrainingError(
            "unsupported", f"the Champion compares answers in groups of 2 or more: batch_size x gradient_accumulation "
            f"{profile.rows_per_step} and schools.champion.generations {wanted.generations} need a common divisor; 8 "
            "is usual")  # fmt: skip
    config = GRPOConfig(
        **chassis.trl_arguments(profile, segment.steps, scratch), num_generations=times, temperature=wanted.temperature,
        max_completion_length=max(task.room for task in rows), beta=0.0, disable_dropout=False,
    )  # fmt: skip
    by_prompt = {task.problem.prompt: task for task in rows}

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        tasks = [by_prompt[prompt] for prompt in prompts]
        step = segment.start_step + trainer.state.global_step + 1
        answers = answer(hero, tasks, chassis.step_seed(segment.seed, segment.campaign_id, step))
        return {"prompt_ids": [task.prompt for task in tasks], "completion_ids": answers, "logprobs": None}

    def graded(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [reward(by_prompt[prompt].problem, text) for prompt, text in zip(prompts, completions, strict=True)]

    hooks = chassis.StepHooks(segment, per_step, on_step, lambda logs: trainer.counted(logs))
    with chassis.borrowed(hero.model):
        trainer = _ChampionTrainer(
            model=hero.model, reward_funcs=graded, args=config, rollout_func=rollout, callbacks=[hooks],
            train_dataset=Dataset.from_dict({"prompt": [task.problem.prompt for task in rows]}),
            processing_class=copy.deepcopy(hero.tokenizer), optimizers=(kept.optimizer, None),
        )  # fmt: skip
        chassis.drop_reference(hero.model)
        trainer.hero, trainer.context = hero, context
        prompts = chassis.Stream(segment, len(rows), segment.steps * per_step)
        trainer.sampler = _Groups(prompts, per_step, times, profile.training_defaults.gradient_accumulation)
        chassis.run(trainer, hero, segment, kept, FAMILY, wanted.rate)

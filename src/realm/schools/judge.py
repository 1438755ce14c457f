"""The Judge: preference training (DPO, Rafailov 2023, arXiv 2305.18290, eq. 7) through TRL's DPOTrainer.

Pairs come from files (`prompt`, `chosen`, `rejected`) or from sparring: the golden answer to a problem against the
hero's own wrong one. The reference is the hero as it was when the quest began, whatever it is made of (whole weights,
a new adapter, one that was trained before): its log-probabilities are measured once and kept in the quest's folder, so
no second model is loaded and a resumed battle is held to the same reference. At the first step the loss is ln 2.

Beside the preference the chosen answers' own likelihood is raised (Pang 2024, arXiv 2404.19733, eq. 1): where both
answers differ in one sign, as they do in sparring, preference alone lowers both (measured: docs/SCHOOLS.md).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Sampler
from trl import DPOConfig, DPOTrainer

from afs.jsonl import AtomicWriter
from realm.heroes import chat
from realm.heroes.model import IGNORE, Hero, over_labels, pad_rows, plain_head
from realm.quests import sparring
from realm.schools import chassis
from realm.schools.chassis import Context, Counted, Dropped, OnStep, OptimizerState, Segment

FAMILY = "preference"
PAIRS_FILE, REFERENCE_FILE = "pairs.jsonl", "reference.safetensors"
WANTED_PAIRS = 512  # of a sparring session; problems are asked until there are so many
ASKED_AT_ONCE, ASKED_AT_MOST = 512, 4096
# TRL's names of what a step tells → ours.
FACTS = {"rewards/accuracies": "accuracy", "rewards/margins": "margin", "rewards/chosen": "reward_chosen",
         "rewards/rejected": "reward_rejected", "entropy": "entropy"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """Token ids of the prompt and of both answers with their stop token; log-probabilities under the reference."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    ref_chosen: float = math.nan
    ref_rejected: float = math.nan


def prepare(hero: Hero, raw: Sequence[Mapping[str, Any]], context: Context) -> tuple[list[Pair], list[Dropped]]:
    """Pairs with their reference; rows that hold no pair are problems to spar on.

    Raises:
        chassis.TrainingError: no row is a pair or a problem.
        chassis.NothingToLearn: sparring gave no pair.
        chassis.Interrupted: told to stop meanwhile.
    """
    rows = raw if raw and "chosen" in raw[0] else _spar(hero, raw, context)
    pairs, dropped = [], []
    for index, row in enumerate(rows):
        try:
            pairs.append(_render(hero, row))
        except chat.RenderError as error:
            dropped.append((index, error.code, str(error)))
    return _with_reference(hero, pairs, context), dropped


def _spar(hero: Hero, raw: Sequence[Mapping[str, Any]], context: Context) -> list[dict[str, Any]]:
    """Golden answers against the hero's own wrong ones; drawn once, found again on resume."""
    path = context.folder / PAIRS_FILE
    if path.is_file():
        return [orjson.loads(line) for line in path.read_bytes().splitlines()]
    context.phase("sparring for pairs")
    corner = sparring.Corner(context.campaign_id, context.run_id, context.checkpoint_id or "base", context.step)
    problems = chassis.practice_problems(raw, context, ASKED_AT_MOST)
    bouts: list[sparring.Bout] = []
    pairs: list[dict[str, Any]] = []
    for begin in range(0, len(problems), ASKED_AT_ONCE):
        part = problems[begin : begin + ASKED_AT_ONCE]
        bouts += sparring.spar(part, chassis.ask(hero, context), context.seed)
        pairs = sparring.duels(bouts, corner)
        if len(pairs) >= WANTED_PAIRS:
            break
    pairs = pairs or sparring.duels(bouts, corner, near_misses=True)  # it makes no mistakes of its own
    if not pairs:
        raise chassis.NothingToLearn(f"{len(bouts)} problems gave no pair of answers: the Judge needs mistakes to "
                                     "compare with")  # fmt: skip
    with AtomicWriter(path) as out:
        for pair in pairs:
            out.write(pair)
    wrong = sum(not bout.correct for bout in bouts)
    text = f"Sparring: {wrong} of {len(bouts)} answers were wrong; {len(pairs)} pairs to judge."
    context.note("lesson", text, "info", what="sparring", asked=len(bouts), wrong=wrong, pairs=len(pairs))
    return pairs


def _render(hero: Hero, row: Mapping[str, Any]) -> Pair:
    """Both answers behind the prompt as inference shows it.

    Raises:
        chat.RenderError: an answer that cannot be trained on, or two that are one to the hero.
    """
    prompt = _turns(row["prompt"], "user")
    thinking = hero.profile.chat.thinking
    head = chat.prompt_ids(prompt, hero.tokenizer, thinking)
    answers = []
    for key in ("chosen", "rejected"):
        turns = _turns(row[key], "assistant")
        if turns[: len(prompt)] == prompt:  # some files repeat the prompt in front of each answer
            turns = turns[len(prompt) :]
        limit = hero.profile.training_defaults.max_length
        whole = chat.render_turns([*prompt, *turns], hero.tokenizer, max_length=limit, thinking=thinking)[-1]
        end = len(whole.mask) - whole.mask[::-1].index(True)
        if whole.ids[: len(head)] != head:
            raise chat.RenderError("prompt_mismatch", f"the {key} answer does not follow the prompt that inference "
                                   "would show; its last turn must be the assistant's one answer")  # fmt: skip
        answers.append(whole.ids[len(head) : end])
    if answers[0] == answers[1]:
        raise chat.RenderError("same_answers", "chosen and rejected are the same tokens to this hero")
    return Pair(head, *answers)


def _turns(value: Any, role: str) -> list[dict[str, str]]:
    return [{"role": role, "content": value}] if isinstance(value, str) else [dict(turn) for turn in value]


def _with_reference(hero: Hero, pairs: Sequence[Pair], context: Context) -> list[Pair]:
    """The pairs with what the hero of the quest's beginning thinks of both answers."""
    path = context.folder / REFERENCE_FILE
    known = load_file(str(path))["log_probabilities"] if path.is_file() else None
    if known is None or len(known) != len(pairs):
        if not context.fresh:
            text = "What the hero thought when this quest began is lost; it is held to what it thinks now."
            context.note("lesson", text, "trouble", what="reference")
        context.phase("measuring the reference")
        known = torch.stack([log_probabilities(hero, [(p.prompt, p.chosen) for p in pairs]),
                             log_probabilities(hero, [(p.prompt, p.rejected) for p in pairs])], 1)  # fmt: skip
        part = path.with_suffix(".part")
        save_file({"log_probabilities": known.contiguous()}, str(part))
        part.rename(path)
    return [Pair(p.prompt, p.chosen, p.rejected, *values) for p, values in zip(pairs, known.tolist(), strict=True)]


@torch.inference_mode()
def log_probabilities(hero: Hero, rows: Sequence[tuple[list[int], list[int]]], batch_rows: int = 64) -> Tensor:
    """log p(answer | prompt) of each (prompt, answer), summed over the answer's tokens, fp32 [rows], in nats."""
    model, found = hero.model, torch.zeros(len(rows))
    where, plain = next(model.parameters()).device, plain_head(model)
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: (sum(map(len, rows[i])), i))
    for begin in range(0, len(order), batch_rows):
        part = order[begin : begin + batch_rows]
        both = [(torch.tensor(rows[i][0] + rows[i][1]),
                 torch.tensor([IGNORE] * len(rows[i][0]) + rows[i][1])) for i in part]  # fmt: skip
        ids, labels = (tensor.to(where) for tensor in pad_rows(both))
        with hero.autocast():
            nats = torch.cat([losses for (losses,) in over_labels(model, ids, labels, plain, _each)])
        of_row = (labels[:, 1:] != IGNORE).nonzero()[:, 0]
        sums = torch.zeros(len(part), device=where).index_add_(0, of_row, -nats)
        found[torch.tensor(part)] = sums.cpu()
    return found


def _each(logits: Tensor, targets: Tensor) -> tuple[Tensor]:
    return (torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none"),)


def chosen_nats(log_probs: Tensor, completion_mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of the chosen answers: per token, then over the pairs (Pang 2024, eq. 1).

    Args:
        log_probs: [2 x pairs, length - 1] of the next token, chosen first, 0 outside of the answers.
        completion_mask: [2 x pairs, length], 1 on the answers.
    """
    chosen, mask = log_probs.chunk(2)[0].float(), completion_mask[:, 1:].chunk(2)[0]
    return -((chosen * mask).sum(1) / mask.sum(1)).mean()


class _JudgeTrainer(DPOTrainer):
    """DPOTrainer with rows that are tokens already, the realm's order and a reference that was measured before."""

    hero: Hero
    sampler: Sampler
    tokens = trained = 0  # of the present optimizer step
    preference = nats = 0.0  # sums over its micro-batches
    batches = 0

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        return self.sampler

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.tokens += int(inputs["attention_mask"].sum())
        self.trained += int(inputs["completion_mask"].sum())
        heard: list[Tensor] = []

        def listening(**given: Any) -> Any:
            answer = model(**given)
            heard.append(answer.log_probs)
            return answer

        with self.hero.autocast():
            preference = super().compute_loss(listening, inputs)
            nats = chosen_nats(heard[0], inputs["completion_mask"])
        self.preference, self.nats = self.preference + float(preference.detach()), self.nats + float(nats.detach())
        self.batches += 1
        loss = preference + self.hero.profile.schools.judge.likelihood * nats
        return (loss, None) if return_outputs else loss

    def counted(self, logs: Mapping[str, Any]) -> Counted:
        """What this optimizer step read, and begin to count anew; the loss that is told is the preference's alone."""
        facts = {ours: float(logs[theirs]) for theirs, ours in FACTS.items() if logs.get(theirs) is not None}
        facts["chosen_nats"] = self.nats / self.batches
        found = Counted(self.tokens, self.trained, self.preference / self.batches, facts)
        self.tokens = self.trained = self.batches = 0
        self.preference = self.nats = 0.0
        return found

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0


def train(
    hero: Hero, rows: Sequence[Pair], segment: Segment, kept: OptimizerState, scratch: Path, on_step: OnStep,
    context: Context | None = None,
) -> None:  # fmt: skip
    """Do the segment's optimizer steps on `hero.model`, in place; see `scribe.train` for the arguments.

    Raises:
        chassis.TrainingError: nan, oom or unsupported.
    """
    if not chassis.begin(kept, hero, segment, rows):
        return
    profile, wanted = hero.profile, hero.profile.schools.judge
    per_step = profile.rows_per_step
    dataset = Dataset.from_list([{"prompt_ids": r.prompt, "chosen_ids": r.chosen, "rejected_ids": r.rejected,
                                  "ref_chosen_logps": r.ref_chosen, "ref_rejected_logps": r.ref_rejected}
                                 for r in rows])  # fmt: skip
    config = DPOConfig(**chassis.trl_arguments(profile, segment.steps, scratch), beta=wanted.beta, max_length=None,
                       precompute_ref_log_probs=True, disable_dropout=False)  # fmt: skip
    hooks = chassis.StepHooks(segment, per_step, on_step, lambda logs: trainer.counted(logs))
    with chassis.borrowed(hero.model):
        trainer = _JudgeTrainer(
            model=hero.model, args=config, train_dataset=dataset, processing_class=copy.deepcopy(hero.tokenizer),
            callbacks=[hooks], optimizers=(kept.optimizer, None),
        )  # fmt: skip
        chassis.drop_reference(hero.model)
        trainer.hero = hero
        trainer.sampler = chassis.Stream(segment, len(rows), segment.steps * per_step)
        chassis.run(trainer, hero, segment, kept, FAMILY, wanted.rate)

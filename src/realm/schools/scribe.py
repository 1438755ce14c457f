"""The Scribe: supervised fine-tuning on the assistant turns, through transformers' Trainer, resumable bit for bit.

The loss is summed over the optimizer step and divided by the step's trained tokens, so accumulation changes nothing.
What surrounds it (data order, steps, schedule, optimizer state) is `schools/chassis.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainingArguments

from realm.heroes.chat import Rendered
from realm.heroes.model import (
    IGNORE,
    Hero,
    over_labels,
    pad_rows,
    plain_head,
    row_tensors,
    summed_loss,
    weighted_losses,
)
from realm.heroes.profile import HeroProfile, OracleEye
from realm.schools import chassis
from realm.schools.chassis import Context, Counted, Dropped, OnStep, OptimizerState, Segment, TrainingError
from realm.schools.oracle_eye import StepWeights, eye_of, raw_weights

FAMILY = "sft"  # schools of one family share optimizer state
BLOCK_OVERHEAD = 80  # tokens; one more forward and backward of a 3-layer hero costs about 4 ms, a token 50 µs


def prepare(
    hero: Hero, raw: Sequence[Mapping[str, Any]], context: Context | None = None
) -> tuple[list[Rendered], list[Dropped]]:  # fmt: skip
    """Every conversation rendered, its assistant turns under the loss mask."""
    return hero.render([row["messages"] for row in raw])


@dataclass(frozen=True)
class Lesson:
    """Another loss on the same rows, for schools that know more of a token than its label.

    `losses(logits [n, vocabulary], numbers int64 [n])` → (token ids [n], losses to train on [n], their plain
    cross-entropies [n], further facts {name: [n]}). `numbers` are those of the trained tokens, see `numbered`.
    """

    losses: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]]


def numbered(rows: Sequence[Rendered]) -> list[tuple[Tensor, Tensor]]:
    """(ids, labels) of each row as `row_tensors`, but labels count the trained tokens, from 0 on through all rows."""
    pairs, begin = [], 0
    for ids, labels in map(row_tensors, rows):
        on = labels != IGNORE
        labels[on] = torch.arange(begin, begin + int(on.sum()))
        begin += int(on.sum())
        pairs.append((ids, labels))
    return pairs


class _Rows(Dataset):
    """Rows as (ids, labels) tensors, made once: a row is seen many times."""

    def __init__(self, rows: Sequence[Rendered], lesson: Lesson | None = None) -> None:
        self.rows = numbered(rows) if lesson else [row_tensors(row) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.rows[index]


def _collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    ids, labels = pad_rows(rows)
    return {"input_ids": ids, "labels": labels, "lengths": torch.tensor([len(row_ids) for row_ids, _ in rows])}


def blocks(lengths: Sequence[int], overhead: int = BLOCK_OVERHEAD) -> list[list[int]]:
    """Split a micro-batch by length so that least is computed for padding; the gradient is the same sum of rows.

    Exact by dynamic programming over the rows sorted by length: a block costs rows x its longest row + `overhead`,
    both in tokens. On BIN rows of levels 1-4 (mean 56, longest 400 tokens) it saves four fifths of a step.
    """
    by_length = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    sizes = [lengths[i] for i in by_length]
    best, cut = [0], [0]
    for end in range(1, len(sizes) + 1):
        costs = [best[begin] + (end - begin) * sizes[end - 1] + overhead for begin in range(end)]
        cut.append(min(range(end), key=costs.__getitem__))
        best.append(costs[cut[-1]])
    found, end = [], len(sizes)
    while end:
        found.append(by_length[cut[end] : end])
        end = cut[end]
    return found[::-1]


class _ScribeTrainer(Trainer):
    """Trainer with the Scribe's data order and loss; everything else is the library's."""

    hero: Hero
    sampler: Sampler
    plain: bool
    tokens = trained = 0  # of the present optimizer step
    eye: OracleEye | None = None  # None: every token weighs the same, and nothing is computed for it
    weights: StepWeights
    lesson: Lesson | None = None  # None: cross-entropy
    told: dict[str, list[Tensor]]  # the lesson's own facts of the present step

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        return self.sampler

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        ids, labels, lengths = inputs["input_ids"], inputs["labels"], inputs["lengths"].tolist()
        self.tokens, self.trained = self.tokens + sum(lengths), num_items_in_batch
        with self.hero.autocast():
            loss = self._summed(model, ids, labels, lengths) / num_items_in_batch
            if self.eye is not None and self._whole_step:
                loss = loss / self._mean_weight()
        return (loss, None) if return_outputs else loss

    def _summed(self, model: Any, ids: Tensor, labels: Tensor, lengths: list[int]) -> Tensor:
        if model is self.model:
            parts = [(block, max(lengths[i] for i in block)) for block in blocks(lengths)]
            losses = [self._loss(model, ids[b, :n], labels[b, :n], self.plain) for b, n in parts]
            return torch.stack(losses).sum()
        # A wrapper (DDP, FSDP) must be entered once, and by its own forward.
        return self._loss(model, ids, labels, plain=False)

    def _loss(self, model: Any, ids: Tensor, labels: Tensor, plain: bool) -> Tensor:
        if self.lesson is not None:
            sums, weights, losses, facts = zip(*over_labels(model, ids, labels, plain, self._teach), strict=True)
            self.weights.add(torch.cat(weights), torch.cat(losses))
            for part in facts:
                for name, values in part.items():
                    self.told.setdefault(name, []).append(values.detach().float())
            return torch.stack(sums).sum()
        if self.eye is None:
            return summed_loss(model, ids, labels, plain)
        loss, weights, losses = weighted_losses(model, ids, labels, plain, self._weigh)
        self.weights.add(weights, losses)
        return loss

    def _teach(self, logits: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        targets, losses, plain, facts = self.lesson.losses(logits, numbers)
        weights = torch.ones_like(losses) if self.eye is None else self._weigh(logits, targets)
        return (weights * losses).sum(), weights, plain, {"trained_loss": losses, **facts}

    def _weigh(self, logits: Tensor, targets: Tensor) -> Tensor:
        return raw_weights(logits, targets, self.eye)

    @property
    def _whole_step(self) -> bool:
        """Whether one micro-batch of one process is all of the optimizer step, so that its mean weight is known."""
        return self.args.gradient_accumulation_steps == 1 and self.accelerator.num_processes == 1

    def _mean_weight(self) -> Tensor:
        """Of the tokens so far, those of the other processes included; of the whole step before it is clipped."""
        return self.accelerator.reduce(self.weights.total(), "sum") / self.trained

    def _clip_grad_norm(self, model: Any) -> Any:
        """Before the gradient of several micro-batches is clipped it is divided by the step's mean weight: exact,
        because the weights have no gradient, and the same however the step was cut."""
        if self.eye is not None and not self._whole_step:
            mean = self._mean_weight()
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(mean)
        return super()._clip_grad_norm(model)

    def counted(self, logs: Mapping[str, Any]) -> Counted:
        """What this optimizer step read, and begin to count anew. The loss that is told is the plain one under every
        policy of the Oracle's Eye: strain and curves must not look better because other tokens are weighed."""
        found = Counted(self.tokens, int(self.trained))
        if self.eye is not None or self.lesson is not None:
            loss, facts = self.weights.facts()
            told = {name: float(torch.cat(values).double().mean()) for name, values in self.told.items()}
            found = replace(found, loss=loss, facts={**(facts if self.eye is not None else {}), **told})
        self.tokens, self.weights, self.told = 0, StepWeights(), {}
        return found

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # the library walks over all parameters for every micro-batch; nobody reads the number


def _one_batch(profile: HeroProfile) -> bool:
    """Whether an optimizer step is one micro-batch of one process, as far as the recipe and the launcher say."""
    return profile.training_defaults.gradient_accumulation == 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1


def train(
    hero: Hero, rows: Sequence[Rendered], segment: Segment, kept: OptimizerState, scratch: Path, on_step: OnStep,
    context: Context | None = None, lesson: Lesson | None = None,
) -> None:  # fmt: skip
    """Do the segment's optimizer steps on `hero.model`, in place.

    Args:
        lesson: another loss than cross-entropy; the rows, their order and the steps stay the same.
        rows: every row of the quest, rendered; the same list whenever the quest is resumed.
        kept: optimizer of the step before, or empty; holds this segment's optimizer afterwards.
        scratch: folder the Trainer may call its own; nothing is kept there.
        on_step: called at the end of each optimizer step; False ends the segment there.

    Raises:
        TrainingError: nan, oom or unsupported.
    """
    if not chassis.begin(kept, hero, segment, rows):
        return
    profile, model = hero.profile, hero.model
    per_step = profile.rows_per_step
    eye = eye_of(profile, context.options if context else {})
    if eye.policy != "uniform" and profile.deepspeed_config and not _one_batch(profile):
        raise TrainingError(
            "unsupported", f"oracle_eye.policy: {eye.policy} with DeepSpeed, which keeps gradients to itself, needs "
            "one process and gradient_accumulation: 1; set them, or policy: uniform")  # fmt: skip
    hooks = chassis.StepHooks(segment, per_step, on_step, lambda logs: trainer.counted(logs))
    trainer = _ScribeTrainer(
        model=model, args=TrainingArguments(**chassis.arguments(profile, segment.steps, scratch)),
        train_dataset=_Rows(rows, lesson), data_collator=_collate, callbacks=[hooks], optimizers=(kept.optimizer, None),
    )  # fmt: skip
    trainer.hero, trainer.plain, trainer.weights = hero, plain_head(model), StepWeights()
    trainer.lesson, trainer.told = lesson, {}
    trainer.eye = eye if eye.policy != "uniform" else None
    trainer.sampler = chassis.Stream(segment, len(rows), segment.steps * per_step)
    # The loss above is already the share of the whole optimizer step, whatever the model's forward accepts.
    trainer.model_accepts_loss_kwargs = trainer.loss_is_scaled_for_ga = True
    chassis.run(trainer, hero, segment, kept, FAMILY)

"""The Scribe: supervised fine-tuning on the assistant turns, through transformers' Trainer, resumable bit for bit.

What makes A + B = C exact on CPU, whatever the Trainer does around it:

* Data order is a pure function: rows of epoch e are sorted by hash(campaign, quest, e, row); the cursor counts rows.
  One `train()` call sees exactly the rest of the quest, so the Trainer's own resume is never used.
* Randomness (dropout) is keyed: at the start of every optimizer step, after the Trainer has fetched the step's
  batches, the generators are seeded by hash(seed, campaign, step). No generator state has to survive a restart.
* The learning rate is a function of the campaign's step; the optimizer's tensors travel through safetensors.
* The loss is summed over the optimizer step and divided by the step's trained tokens, so accumulation changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from realm.heroes.chat import Rendered
from realm.heroes.model import Hero, pad_rows, plain_head, row_tensors, summed_loss
from realm.heroes.profile import HeroProfile
from realm.schools.muon import muon_adamw

FAMILY = "sft"  # schools of one family share optimizer state
BLOCK_OVERHEAD = 80  # tokens; one more forward and backward of a 3-layer hero costs about 4 ms, a token 50 µs
OPTIMIZER_FILE = "optimizer.safetensors"
# Names of transformers' own optimizer factory (TrainingArguments.optim).
OPTIM = {
    "adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor", "lion_8bit": "lion_8bit", "galore": "galore_adamw", "galore_8bit": "galore_adamw_8bit",
    "apollo": "apollo_adamw",
}  # fmt: skip


class TrainingError(RuntimeError):
    """Training cannot go on; `code`: nan | oom | unsupported. The text says what happened and what to do."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Segment:
    """The part of a quest one `train` call does.

    `start_step`: campaign step before the first optimizer step; `steps`: how many to do; `cursor`: rows of the quest
    that were consumed before (rows may be consumed more than once, the cursor counts on).
    """

    campaign_id: str
    quest_id: str
    seed: int
    start_step: int
    steps: int
    cursor: int = 0


@dataclass(frozen=True)
class StepFacts:
    """What one optimizer step did. `loss` is in nats per trained token; `tokens` are without padding."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    trained_tokens: int
    cursor: int


@dataclass
class OptimizerState:
    """The optimizer kept between quests, and what it belongs to (see `physics`).

    `loaded`: state read from a checkpoint, "parameter|key" → tensor or number, until `train` has made its optimizer.
    """

    optimizer: torch.optim.Optimizer | None = None
    physics: dict[str, Any] = field(default_factory=dict)
    loaded: dict[str, Any] = field(default_factory=dict)


def order(campaign_id: str, quest_id: str, epoch: int, rows: int) -> list[int]:
    """Row indices of one epoch, sorted by hash(campaign, quest, epoch, index): the same on every machine, for ever."""
    head = f"{campaign_id}\x1f{quest_id}\x1f{epoch}\x1f".encode()
    keys = [hashlib.blake2b(head + str(i).encode(), digest_size=8).digest() for i in range(rows)]
    return sorted(range(rows), key=keys.__getitem__)


def stream(campaign_id: str, quest_id: str, rows: int, cursor: int, count: int) -> Iterator[int]:
    """`count` row indices from `cursor` on, epoch after epoch; batches may reach over an epoch's end."""
    epoch, at = divmod(cursor, rows)
    while count > 0:
        part = order(campaign_id, quest_id, epoch, rows)[at : at + count]
        yield from part
        count -= len(part)
        epoch, at = epoch + 1, 0


def step_seed(seed: int, campaign_id: str, step: int) -> int:
    """63-bit seed of one optimizer step."""
    key = f"{seed}\x1f{campaign_id}\x1f{step}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def physics(profile: HeroProfile, model: Any) -> dict[str, Any]:
    """What optimizer state depends on: it carries over only between battles for which all of this is equal."""
    names = "\n".join(f"{n} {tuple(p.shape)}" for n, p in model.named_parameters() if p.requires_grad)
    return {
        "school family": FAMILY, "training_mode": profile.training_mode, "load_in_4bit": profile.load_in_4bit,
        "precision": profile.training_defaults.precision, "optimizer.type": profile.optimizer.type,
        "parameters": hashlib.sha256(names.encode()).hexdigest(),
    }  # fmt: skip


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Which parts of `physics` changed, in words; empty when the optimizer state may be carried over."""
    return [
        f"{key} was {before.get(key)!r}, is {now[key]!r}" if key != "parameters" else "the parameters are others"
        for key in now if before.get(key) != now[key]
    ]  # fmt: skip


class _Rows(Dataset):
    """Rows as (ids, labels) tensors, made once: a row is seen many times."""

    def __init__(self, rows: Sequence[Rendered]) -> None:
        self.rows = [row_tensors(row) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.rows[index]


class _Stream(Sampler):
    """The rest of the quest as one finite sequence, so that the Trainer sees a single epoch."""

    def __init__(self, segment: Segment, rows: int, count: int) -> None:
        self.segment, self.rows, self.count = segment, rows, count

    def __iter__(self) -> Iterator[int]:
        return stream(self.segment.campaign_id, self.segment.quest_id, self.rows, self.segment.cursor, self.count)

    def __len__(self) -> int:
        return self.count


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

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        return self.sampler

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        ids, labels, lengths = inputs["input_ids"], inputs["labels"], inputs["lengths"].tolist()
        self.tokens, self.trained = self.tokens + sum(lengths), num_items_in_batch
        with self.hero.autocast():
            loss = self._summed(model, ids, labels, lengths) / num_items_in_batch
        return (loss, None) if return_outputs else loss

    def _summed(self, model: Any, ids: Tensor, labels: Tensor, lengths: list[int]) -> Tensor:
        if model is self.model:
            parts = [(block, max(lengths[i] for i in block)) for block in blocks(lengths)]
            losses = [summed_loss(model, ids[b, :n], labels[b, :n], self.plain) for b, n in parts]
            return torch.stack(losses).sum()
        # A wrapper (DDP, FSDP) must be entered once, and by its own forward.
        return summed_loss(model, ids, labels, plain=False)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # the library walks over all parameters for every micro-batch; nobody reads the number


class _StepHooks(TrainerCallback):
    """Seeds each optimizer step and hands its facts to the caller, which may end the segment."""

    def __init__(self, segment: Segment, rows_per_step: int, on_step: Callable[[StepFacts], bool]) -> None:
        self.segment, self.rows_per_step, self.on_step = segment, rows_per_step, on_step
        self.trainer: _ScribeTrainer | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.manual_seed(step_seed(self.segment.seed, self.segment.campaign_id, self._step(state) + 1))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> Any:
        if not logs or "loss" not in logs:
            return control
        step, loss, norm = self._step(state), logs["loss"], logs.get("grad_norm", 0.0)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            # A norm that is not finite has already spoilt the weights, although this step's loss is still a number.
            what = "Loss" if not math.isfinite(loss) else "Gradient"
            raise TrainingError("nan", f"{what} became NaN at step {step:,}; lower the learning rate, then resume")
        trainer = self.trainer
        facts = StepFacts(
            step, loss, norm, logs["learning_rate"], trainer.tokens, int(trainer.trained),
            self.segment.cursor + state.global_step * self.rows_per_step,
        )  # fmt: skip
        trainer.tokens = 0
        if not self.on_step(facts):
            control.should_training_stop = True
        return control

    def _step(self, state: Any) -> int:
        return self.segment.start_step + state.global_step


def _arguments(profile: HeroProfile, steps: int, folder: Path) -> TrainingArguments:
    wanted, optimizer = profile.training_defaults, profile.optimizer
    return TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=wanted.batch_size,
        gradient_accumulation_steps=wanted.gradient_accumulation, learning_rate=wanted.learning_rate,
        weight_decay=optimizer.weight_decay, adam_beta1=optimizer.betas[0], adam_beta2=optimizer.betas[1],
        max_grad_norm=wanted.max_grad_norm, optim=OPTIM.get(optimizer.type, "adamw_torch"),
        optim_args=_optim_args(profile), optim_target_modules="all-linear" if _projected(profile) else None,
        activation_checkpointing=wanted.gradient_checkpointing, logging_steps=1, logging_nan_inf_filter=False,
        save_strategy="no", eval_strategy="no", report_to="none", disable_tqdm=True, dataloader_num_workers=0,
        dataloader_pin_memory=False, remove_unused_columns=False, use_cpu=not torch.cuda.is_available(), seed=0,
    )  # fmt: skip


def _projected(profile: HeroProfile) -> bool:
    return profile.optimizer.type in ("galore", "galore_8bit", "apollo")


def _optim_args(profile: HeroProfile) -> str | None:
    if not _projected(profile):
        return None
    wanted = profile.optimizer
    return f"rank={wanted.rank},update_proj_gap={wanted.update_proj_gap},scale={wanted.scale}"


def _schedule(optimizer: torch.optim.Optimizer, warmup: int, start: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm-up then constant over the campaign's steps; the first step of a campaign already moves."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, (start + k + 1) / max(1, warmup)))


def _base_rates(profile: HeroProfile, optimizer: torch.optim.Optimizer) -> None:
    """Put every group back to its base learning rate: a schedule left its last value there."""
    for group in optimizer.param_groups:
        muon = "ns_steps" in group
        group["lr"] = profile.optimizer.matrix_learning_rate if muon else profile.training_defaults.learning_rate
        group.pop("initial_lr", None)


def check_supported(profile: HeroProfile) -> None:
    """Refuse a recipe this school cannot do yet, before anything is loaded.

    Raises:
        TrainingError: unsupported.
    """
    if profile.training_mode != "full" or profile.load_in_4bit:
        raise TrainingError(
            "unsupported",
            f"training_mode: {profile.training_mode}, load_in_4bit: {profile.load_in_4bit}: the Scribe trains whole "
            "models so far; set training_mode: full and load_in_4bit: false in the hero's YAML",
        )


def train(
    hero: Hero, rows: Sequence[Rendered], segment: Segment, kept: OptimizerState, scratch: Path,
    on_step: Callable[[StepFacts], bool],
) -> None:  # fmt: skip
    """Do the segment's optimizer steps on `hero.model`, in place.

    Args:
        rows: every row of the quest, rendered; the same list whenever the quest is resumed.
        kept: optimizer of the step before, or empty; holds this segment's optimizer afterwards.
        scratch: folder the Trainer may call its own; nothing is kept there.
        on_step: called at the end of each optimizer step; False ends the segment there.

    Raises:
        TrainingError: nan, oom or unsupported.
    """
    check_supported(hero.profile)
    if segment.steps <= 0:
        return
    if not rows:
        raise TrainingError("unsupported", "the quest has no rows that can be trained on; see the Cleric's report")
    profile, model = hero.profile, hero.model
    per_step = profile.rows_per_step
    hooks = _StepHooks(segment, per_step, on_step)
    if kept.optimizer is None and profile.optimizer.type == "muon":
        kept.optimizer = muon_adamw(profile, model)
    trainer = _ScribeTrainer(
        model=model, args=_arguments(profile, segment.steps, scratch), train_dataset=_Rows(rows),
        data_collator=_collate, callbacks=[hooks], optimizers=(kept.optimizer, None),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    hooks.trainer, trainer.hero = trainer, hero
    trainer.sampler, trainer.plain = _Stream(segment, len(rows), segment.steps * per_step), plain_head(model)
    # The loss above is already the share of the whole optimizer step, whatever the model's forward accepts.
    trainer.model_accepts_loss_kwargs = trainer.loss_is_scaled_for_ga = True
    if kept.optimizer is None:
        kept.optimizer = trainer.create_optimizer()
    kept.physics = physics(profile, model)
    _restore(kept, model)
    _base_rates(profile, kept.optimizer)
    trainer.lr_scheduler = _schedule(kept.optimizer, profile.training_defaults.warmup_steps, segment.start_step)
    try:
        trainer.train()
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        raise TrainingError("oom", _oom_text(profile, error)) from error
    finally:
        model.eval()


def _out_of_memory(error: BaseException) -> bool:
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _oom_text(profile: HeroProfile, error: BaseException) -> str:
    wanted = profile.training_defaults
    return (
        f"out of memory with batch_size {wanted.batch_size} and max_length {wanted.max_length} ({error}); halve "
        "batch_size and double gradient_accumulation (same result), or lower max_length"
    )


# --- Optimizer state on disk -----------------------------------------------------------------------------------------

def save_optimizer(kept: OptimizerState, model: Any, folder: Path) -> dict[str, Any]:
    """Write `optimizer.safetensors`; returns the JSON part: plain numbers and what the state belongs to."""
    values = dict(kept.loaded)
    if kept.optimizer is not None:
        for name, parameter in model.named_parameters():
            for key, value in kept.optimizer.state.get(parameter, {}).items():
                values[f"{name}|{key}"] = value
    tensors = {name: v.detach().cpu().contiguous() for name, v in values.items() if isinstance(v, Tensor)}
    save_file(tensors, str(folder / OPTIMIZER_FILE))
    numbers = {name: v for name, v in values.items() if not isinstance(v, Tensor)}
    json.dumps(numbers)  # an optimizer that keeps live objects in its state cannot be resumed: fail here, not later
    return {"physics": kept.physics, "numbers": numbers}


def load_optimizer(folder: Path, saved: dict[str, Any]) -> OptimizerState:
    """What `save_optimizer` wrote, bit for bit, step counters included; `train` gives it to the optimizer it makes."""
    loaded = {**load_file(str(folder / OPTIMIZER_FILE)), **saved["numbers"]}
    return OptimizerState(physics=saved["physics"], loaded=loaded)


def _restore(kept: OptimizerState, model: Any) -> None:
    parameters = dict(model.named_parameters())
    for name, value in kept.loaded.items():
        parameter, _, key = name.rpartition("|")
        owner = parameters[parameter]
        if isinstance(value, Tensor) and value.ndim:  # step counters are scalars and stay on the CPU
            value = value.to(owner.device)
        kept.optimizer.state[owner][key] = value
    kept.loaded = {}

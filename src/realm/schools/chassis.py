"""What every school shares around its loss: data order, optimizer steps, schedule, optimizer state, errors.

A school makes its own trainer (a subclass of transformers' Trainer, or one of TRL's) from `arguments` and hands it to
`run`. What makes A + B = C exact on CPU, whatever the Trainer does around it:

* Data order is a pure function: rows of epoch e are sorted by hash(campaign, quest, e, row); the cursor counts rows.
  One `train()` call sees exactly the rest of the quest, so the Trainer's own resume is never used.
* Randomness (dropout, sampling) is keyed: at the start of every optimizer step, after the Trainer has fetched the
  step's batches, the generators are seeded by hash(seed, campaign, step). No generator state has to survive a restart.
* The learning rate is a function of the campaign's step; the optimizer's tensors travel through safetensors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from realm.guild.skills import Problem
from realm.heroes import modes
from realm.heroes.model import Hero, core
from realm.heroes.profile import HeroProfile
from realm.quests.sparring import SparringError, problems_of
from realm.schools.fused import FusedBackward, eight_bit
from realm.schools.muon import muon_adamw
from realm.settings import RealmHome

OPTIMIZER_FILE = "optimizer.safetensors"
PROJECTION = "projector.ortho_matrix"
# Names of transformers' own optimizer factory (TrainingArguments.optim).
OPTIM = {
    "adamw_8bit": "adamw_bnb_8bit", "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor", "lion_8bit": "lion_8bit", "galore": "galore_adamw", "galore_8bit": "galore_adamw_8bit",
    "apollo": "apollo_adamw",
}  # fmt: skip

Dropped = tuple[int, str, str]  # (index of the raw row, one word for counting, the reason in words)


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
    """What one optimizer step did.

    `loss` is what strain is told from: nats per trained token where the school has such a loss, else a number that
    falls to 0 as the hero gets better. `tokens` are without padding; `facts` holds what only this school can tell
    (reward mean, margin, effective tokens ...), plain numbers.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    trained_tokens: int
    cursor: int
    facts: Mapping[str, float] = field(default_factory=dict)


OnStep = Callable[[StepFacts], bool]


@dataclass
class OptimizerState:
    """The optimizer kept between quests, and what it belongs to (see `physics`).

    `loaded`: state read from a checkpoint, "parameter|key" → tensor or number, until `train` has made its optimizer.
    """

    optimizer: torch.optim.Optimizer | None = None
    physics: dict[str, Any] = field(default_factory=dict)
    loaded: dict[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        """Give the optimizer up: one that works inside the backward pass must let go of the parameters."""
        if isinstance(self.optimizer, FusedBackward):
            self.optimizer.close()


@dataclass(frozen=True)
class Context:
    """What a school may use beside the hero and the rows; the battle makes it.

    `folder`: the quest's own folder, which lives as long as the quest is unfinished. What a school works out once at
    the beginning and must find again on resume (live answers, a reference's or a teacher's outputs) is written there;
    `fresh` is True when the quest begins, and then the folder is empty. `step` and `checkpoint_id` say which hero
    `prepare` is given (None: as it was born), `steps` how many optimizer steps are still to be done. `interrupted` is
    asked in long loops: True means that `prepare` should give up by raising `Interrupted`. `options` are the quest's
    own settings for its school. `held_out` is the Cleric's word on a conversation that a school wrote itself: which
    exam it would give away, or None.
    """

    folder: Path
    fresh: bool = True
    seed: int = 0
    step: int = 0
    checkpoint_id: str | None = None
    campaign_id: str = ""
    run_id: str = ""
    quest_id: str = ""
    steps: int = 0
    home: RealmHome | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    interrupted: Callable[[], bool] = lambda: False
    held_out: Callable[[Sequence[Mapping[str, str]]], str | None] = lambda messages: None
    phase: Callable[[str], None] = lambda words: None
    note: Callable[..., None] = lambda kind, text, level, **payload: None


class Interrupted(Exception):
    """`prepare` was told to stop; nothing was trained."""


class NothingToLearn(Exception):
    """The hero can draw nothing from this quest in this school as it stands; the text says why and what would help.

    No failure: the battle goes on to its trials without a step.
    """


class School(Protocol):
    """A module of this package. `realm.schools.load(id)` gives it."""

    FAMILY: str  # schools of one family share optimizer state

    def prepare(
        self, hero: Hero, raw: Sequence[Mapping[str, Any]], context: Context
    ) -> tuple[list[Any], list[Dropped]]:  # fmt: skip
        """The rows to train on, from the rows of the quest's file; the same list whenever the quest is resumed."""
        ...

    def train(
        self, hero: Hero, rows: Sequence[Any], segment: Segment, kept: OptimizerState, scratch: Path, on_step: OnStep,
        context: Context | None = None,
    ) -> None:  # fmt: skip
        """Do the segment's optimizer steps on `hero.model`, in place."""
        ...


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


def physics(profile: HeroProfile, model: Any, family: str) -> dict[str, Any]:
    """What optimizer state depends on: it carries over only between battles for which all of this is equal."""
    names = "\n".join(f"{n} {tuple(p.shape)}" for n, p in model.named_parameters() if p.requires_grad)
    return {
        "school family": family, "training_mode": profile.training_mode, "load_in_4bit": profile.load_in_4bit,
        "precision": profile.training_defaults.precision, "optimizer.type": profile.optimizer.type,
        "parameters": hashlib.sha256(names.encode()).hexdigest(),
    }  # fmt: skip


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Which parts of `physics` changed, in words; empty when the optimizer state may be carried over."""
    return [
        f"{key} was {before.get(key)!r}, is {now[key]!r}" if key != "parameters" else "the parameters are others"
        for key in now if before.get(key) != now[key]
    ]  # fmt: skip


class Stream(Sampler):
    """The rest of the quest as one finite sequence, so that the Trainer sees a single epoch.

    Args:
        rows: of the quest.
        count: how many are still to be drawn.
        repeat: each is given so many times in a row (the answers of one group).
    """

    def __init__(self, segment: Segment, rows: int, count: int, repeat: int = 1) -> None:
        self.segment, self.rows, self.count, self.repeat = segment, rows, count, repeat

    def __iter__(self) -> Iterator[int]:
        drawn = stream(self.segment.campaign_id, self.segment.quest_id, self.rows, self.segment.cursor, self.count)
        return (index for index in drawn for _ in range(self.repeat))

    def __len__(self) -> int:
        return self.count * self.repeat


@dataclass(frozen=True)
class Counted:
    """What a trainer counted in one optimizer step; `loss` replaces the logged one where that says nothing."""

    tokens: int
    trained: int
    loss: float | None = None
    facts: Mapping[str, float] = field(default_factory=dict)


class StepHooks(TrainerCallback):
    """Seeds each optimizer step and hands its facts to the caller, which may end the segment.

    Args:
        rows_per_step: rows of the quest that one optimizer step consumes.
        count: gives what the trainer counted since the last call, from the step's log.
    """

    def __init__(
        self, segment: Segment, rows_per_step: int, on_step: OnStep, count: Callable[[Mapping[str, Any]], Counted]
    ) -> None:  # fmt: skip
        self.segment, self.rows_per_step, self.on_step, self.count = segment, rows_per_step, on_step, count
        self.norm: Callable[[], float] | None = None  # of an optimizer that has freed the gradients already

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.manual_seed(step_seed(self.segment.seed, self.segment.campaign_id, self._step(state) + 1))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> Any:
        if not logs or "loss" not in logs:
            return control
        step, loss = self._step(state), logs["loss"]
        norm = logs.get("grad_norm", 0.0) if self.norm is None else self.norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            # A norm that is not finite has already spoilt the weights, although this step's loss is still a number.
            what = "Loss" if not math.isfinite(loss) else "Gradient"
            raise TrainingError("nan", f"{what} became NaN at step {step:,}; lower the learning rate, then resume")
        counted = self.count(logs)
        facts = StepFacts(
            step, loss if counted.loss is None else counted.loss, norm, logs["learning_rate"], counted.tokens,
            counted.trained, self.segment.cursor + state.global_step * self.rows_per_step, counted.facts,
        )  # fmt: skip
        if not self.on_step(facts):
            control.should_training_stop = True
        return control

    def _step(self, state: Any) -> int:
        return self.segment.start_step + state.global_step


def arguments(profile: HeroProfile, steps: int, folder: Path) -> dict[str, Any]:
    """Arguments of transformers' TrainingArguments, and so of TRL's configurations, for `steps` optimizer steps."""
    wanted, optimizer = profile.training_defaults, profile.optimizer
    return {
        "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": wanted.batch_size,
        "gradient_accumulation_steps": wanted.gradient_accumulation, "learning_rate": wanted.learning_rate,
        "weight_decay": optimizer.weight_decay, "adam_beta1": optimizer.betas[0], "adam_beta2": optimizer.betas[1],
        "max_grad_norm": 0.0 if modes.fused(profile) else wanted.max_grad_norm, "optim": _optim(profile),
        "optim_args": _optim_args(profile), "optim_target_modules": "all-linear" if _projected(profile) else None,
        "deepspeed": str(modes.deepspeed_file(profile, folder.parent.parent)) if profile.deepspeed_config else None,
        "activation_checkpointing": wanted.gradient_checkpointing, "logging_steps": 1, "logging_nan_inf_filter": False,
        "save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "dataloader_num_workers": 0, "dataloader_pin_memory": False, "remove_unused_columns": False,
        "use_cpu": not torch.cuda.is_available(), "seed": 0,
    }  # fmt: skip


def trl_arguments(profile: HeroProfile, steps: int, folder: Path) -> dict[str, Any]:
    """`arguments` for a configuration of TRL, whose defaults differ: checkpointing on, bf16 on, dropout left alone."""
    return arguments(profile, steps, folder) | {"gradient_checkpointing": False, "bf16": False}


@contextmanager
def borrowed(model: Any) -> Iterator[None]:
    """Lend the model to one of TRL's trainers: no dropout (policy and reference must be one function), and
    afterwards the forward that the trainer replaced is gone again."""
    base = core(model)
    had = "forward" in vars(base)
    drops = [(module, name, getattr(module, name)) for module in model.modules()
             for name, kind in (("p", torch.nn.Dropout), ("attention_dropout", torch.nn.Module))
             if isinstance(module, kind) and isinstance(getattr(module, name, None), float)]  # fmt: skip
    try:
        for module, name, _ in drops:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, name, value in drops:
            setattr(module, name, value)
        if not had:
            vars(base).pop("forward", None)


def drop_reference(model: Any) -> None:
    """TRL's trainers copy an adapter as their reference. Ours is measured before (or not needed), and a second adapter
    would go into every checkpoint."""
    if "ref" in getattr(model, "peft_config", {}):
        model.delete_adapter("ref")


def practice_problems(raw: Sequence[Mapping[str, Any]], context: Context, count: int) -> list[Problem]:
    """At most `count` of the problems in a quest's rows, in keyed order (rows of idle quests are sorted by level).

    Raises:
        TrainingError: unsupported, no row is a problem of a skill.
    """
    drawn = order(context.campaign_id, context.quest_id, 0, len(raw))[:count]
    try:
        return problems_of([raw[i] for i in drawn], "the quest's file")
    except SparringError as error:
        raise TrainingError("unsupported", str(error)) from error


def ask(hero: Hero, context: Context) -> Callable[[list[Any], int], list[tuple[str, int]]]:
    """`hero.answer` that gives up with `Interrupted` when the battle is told to stop."""

    def answer(conversations: list[Any], max_new_tokens: int) -> list[tuple[str, int]]:
        stopped = False

        def interrupted() -> bool:
            nonlocal stopped
            stopped = stopped or context.interrupted()
            return stopped

        answers = hero.answer(conversations, max_new_tokens, interrupted)
        if stopped:
            raise Interrupted
        return answers

    return answer
def _optim(profile: HeroProfile) -> str:
    # The fused kernel of torch needs no temporary copy of the weights on a GPU; on a CPU nothing changes.
    plain = "adamw_torch_fused" if torch.cuda.is_available() else "adamw_torch"
    return OPTIM.get(profile.optimizer.type, plain)


def _projected(profile: HeroProfile) -> bool:
    return profile.optimizer.type in modes.PROJECTED


def _optim_args(profile: HeroProfile) -> str | None:
    if not _projected(profile):
        return None
    wanted = profile.optimizer
    return f"rank={wanted.rank},update_proj_gap={wanted.update_proj_gap},scale={wanted.scale}"


def _schedule(
    optimizer: torch.optim.Optimizer, warmup: int, start: int, rate: float = 1.0
) -> torch.optim.lr_scheduler.LambdaLR:  # fmt: skip
    """Warm-up then constant over the campaign's steps; the first step of a campaign already moves."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: rate * min(1.0, (start + k + 1) / max(1, warmup)))


def _base_rates(profile: HeroProfile, optimizer: torch.optim.Optimizer) -> None:
    """Put every group back to its base learning rate: a schedule left its last value there."""
    for group in optimizer.param_groups:
        muon = "ns_steps" in group
        group["lr"] = profile.optimizer.matrix_learning_rate if muon else profile.training_defaults.learning_rate
        group.pop("initial_lr", None)


def begin(kept: OptimizerState, hero: Hero, segment: Segment, rows: Sequence[Any]) -> bool:
    """Before a school makes its trainer: refuse what cannot be trained, and make the optimizers that the Trainer does
    not know. False when the segment has no step.

    Raises:
        TrainingError: unsupported.
    """
    if segment.steps <= 0:
        return False
    if not rows:
        raise TrainingError("unsupported", "the quest has no rows that can be trained on; see the Cleric's report")
    if kept.optimizer is None and hero.profile.optimizer.type == "muon":
        kept.optimizer = muon_adamw(hero.profile, hero.model)
    if kept.optimizer is None and modes.fused(hero.profile):
        kept.optimizer = eight_bit(hero.profile, hero.model)
    return True


def run(
    trainer: Trainer, hero: Hero, segment: Segment, kept: OptimizerState, family: str, rate: float = 1.0
) -> None:  # fmt: skip
    """Train the segment: `trainer` with the realm's schedule and the optimizer that was carried over.

    Args:
        rate: factor of all learning rates; preference and reward training need smaller ones than imitation.
        trainer: made with `arguments`, a `StepHooks` callback and `optimizers=(kept.optimizer, None)`.
        kept: optimizer of the step before, or empty; holds this segment's optimizer afterwards.

    Raises:
        TrainingError: nan or oom.
    """
    profile, model = hero.profile, hero.model
    trainer.remove_callback(PrinterCallback)
    if profile.deepspeed_config:
        _for_deepspeed(trainer, profile, segment, rate)
        kept.optimizer, kept.physics, kept.loaded = None, {}, {}
    else:
        if kept.optimizer is None:
            kept.optimizer = trainer.create_optimizer()
        kept.physics = physics(profile, model, family)
        _restore(kept, model)
        _base_rates(profile, kept.optimizer)
        trainer.lr_scheduler = _schedule(kept.optimizer, profile.training_defaults.warmup_steps, segment.start_step,
                                         rate)  # fmt: skip
    if isinstance(kept.optimizer, FusedBackward):
        for hooks in trainer.callback_handler.callbacks:
            if isinstance(hooks, StepHooks):
                hooks.norm = kept.optimizer.norm
    try:
        trainer.train()
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        raise TrainingError("oom", _oom_text(profile, error)) from error
    finally:
        model.eval()


def _for_deepspeed(trainer: Trainer, profile: HeroProfile, segment: Segment, rate: float) -> None:
    """DeepSpeed makes its own AdamW from its configuration and asks the Trainer for a schedule of it. Its state is
    not carried over: the next quest begins anew, and the battle says so."""
    warmup = profile.training_defaults.warmup_steps

    def create_scheduler(num_training_steps: int, optimizer: Any = None) -> Any:
        trainer.lr_scheduler = _schedule(optimizer, warmup, segment.start_step, rate)
        return trainer.lr_scheduler

    trainer.create_scheduler = create_scheduler


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
                # GaLore keeps its projection in an object; the rest of that is in the parameter's group.
                projection = getattr(value, "ortho_matrix", None)
                values[f"{name}|{key}" if projection is None else f"{name}|{PROJECTION}"] = (
                    value if projection is None else projection)  # fmt: skip
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
        if key == PROJECTION:
            key, value = "projector", _projector(kept.optimizer, owner, value)
        kept.optimizer.state[owner][key] = value
    kept.loaded = {}


def _projector(optimizer: torch.optim.Optimizer, owner: Tensor, matrix: Tensor) -> Any:
    from galore_torch.galore_projector import GaLoreProjector

    group = next(g for g in optimizer.param_groups if any(p is owner for p in g["params"]))
    made = GaLoreProjector(group["rank"], update_proj_gap=group["update_proj_gap"], scale=group["scale"],
                           proj_type=group["proj_type"])  # fmt: skip
    made.ortho_matrix = matrix
    return made

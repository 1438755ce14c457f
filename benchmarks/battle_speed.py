"""Tokens per CPU-second of a battle, against a bare PyTorch loop and TRL's SFTTrainer, at an equal loss curve.

All arms train the shipped hero from the same weights on the same rows in the same order with the same optimizer, in
fp32 on one thread of this process; rounds are interleaved and ratios are paired by round. Counted are CPU seconds from
the end of step 1 to the end of the last step and the tokens between them, padding not counted. Loss curves are compared
in every round: arms that do not train the same must not be compared.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.proving_ground import Ground, battle_worker, ground, open_level, timed_pulse
from benchmarks.registry import Options
from benchmarks.table import Row
from realm.heroes.model import IGNORE, Hero, pad_rows, row_tensors, summed_loss
from realm.schools import chassis, scribe
from realm.schools.muon import muon_adamw

EQUAL = 1e-4  # nats; loss curves further apart than this are not the same training
Batch = list[tuple[Tensor, Tensor]]  # (ids, labels) of each row


@dataclass
class Lap:
    """One arm's run over the quest. `ends`: CPU seconds at each step's end."""

    losses: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def pace(self, tokens: Sequence[int]) -> float:
        """Tokens per CPU-second; `tokens` of each step."""
        return sum(tokens[1:]) / (self.ends[-1] - self.ends[0])


@dataclass(frozen=True)
class Field:
    """What every arm is given. `batches`: the rows of each step in the Scribe's order; `order`: their indices."""

    ground: Ground
    order: list[int]
    batches: list[Batch]

    @property
    def tokens(self) -> list[int]:
        return [sum(len(ids) for ids, _ in batch) for batch in self.batches]


def field_of(where: Ground) -> Field:
    """Rows rendered and ordered as the Scribe does it."""
    hero = Hero.load(where.profile, where.base())
    rows, dropped = hero.render(where.conversations)
    if dropped:
        raise RuntimeError(f"{len(dropped)} rows were dropped; the arms would train on different rows")
    per_step = where.profile.rows_per_step
    order = list(chassis.stream(where.campaign["id"], where.quest["id"], len(rows), 0, where.steps * per_step))
    tensors = [row_tensors(row) for row in rows]
    batches = [[tensors[i] for i in order[at : at + per_step]] for at in range(0, len(order), per_step)]
    return Field(where, order, batches)


# --- The arms --------------------------------------------------------------------------------------------------------


def in_battle(f: Field) -> Lap:
    """The battle child's own code: Scribe, strain, metrics and events into a real database, orders read each step."""
    lap = Lap()
    with battle_worker(f.ground, timed_pulse(lap.ends, [])) as worker:
        lap.losses = f.ground.losses(f.ground.serve(worker))
    return lap


def padded_loss(model: Any, batch: Batch) -> Tensor:
    """What a plain loop does: pad to the longest row, logits of every position, mean over the trained tokens."""
    ids, labels = pad_rows(batch)
    logits = model(input_ids=ids, use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def block_loss(model: Any, batch: Batch) -> Tensor:
    """The Scribe's own arithmetic without its Trainer: blocks of like length, logits of the trained positions only."""
    lengths = [len(ids) for ids, _ in batch]
    parts = [[batch[i] for i in block] for block in scribe.blocks(lengths)]
    trained = sum(int((labels[1:] != IGNORE).sum()) for _, labels in batch)
    return torch.stack([summed_loss(model, *pad_rows(part), plain=True) for part in parts]).sum() / trained


def bare_loop(f: Field, loss_of: Callable[[Any, Batch], Tensor]) -> Lap:
    """Forward, backward, clip, step: a training loop without a Trainer and without a realm."""
    wanted, lap = f.ground.profile.training_defaults, Lap()
    model = Hero.load(f.ground.profile, f.ground.base()).model.train()
    optimizer = _optimizer(f, model)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step, batch in enumerate(f.batches, start=1):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, step / wanted.warmup_steps)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), wanted.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        lap.losses.append(loss.item())
        lap.ends.append(time.process_time())
    return lap


def _optimizer(f: Field, model: Any) -> torch.optim.Optimizer:
    """The hero's own optimizer, for every arm: torch's Muon takes longer, and its bf16 gives another loss curve."""
    profile = f.ground.profile
    if profile.optimizer.type != "muon":
        raise NotImplementedError(f"optimizer {profile.optimizer.type} of the shipped hero has no peer here; add it")
    return muon_adamw(profile, model)


def trl_sft(f: Field, **settings: Any) -> Lap:
    """TRL's SFTTrainer with its defaults and assistant_only_loss; same rows, order, optimizer, batch and precision.

    Its loss is logged at every step, for the curves are compared (its default is every tenth; the cost is below 1 %).

    Args:
        settings: over TRL's defaults.
    """
    import warnings

    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)  # TRL's own default
    profile, lap = f.ground.profile, Lap()

    class Note(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            lap.ends.append(time.process_time())

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            if "loss" in logs:
                lap.losses.append(logs["loss"])

    conversations = f.ground.conversations
    wanted = profile.training_defaults
    hero = Hero.load(profile, f.ground.base())
    optimizer = _optimizer(f, hero.model)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, (k + 1) / wanted.warmup_steps))
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        config = SFTConfig(
            output_dir=folder, max_steps=f.ground.steps, per_device_train_batch_size=wanted.batch_size,
            gradient_accumulation_steps=wanted.gradient_accumulation, max_grad_norm=wanted.max_grad_norm,
            max_length=wanted.max_length, assistant_only_loss=True, bf16=False, use_cpu=True, save_strategy="no",
            report_to="none", disable_tqdm=True, logging_steps=1, train_sampling_strategy="sequential",
            dataloader_pin_memory=False, **settings,
        )  # fmt: skip
        trainer = SFTTrainer(
            hero.model, args=config, processing_class=hero.tokenizer, callbacks=[Note()],
            train_dataset=Dataset.from_list([{"messages": conversations[i]} for i in f.order]),
            optimizers=(optimizer, warm_up),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return lap


# --- The table -------------------------------------------------------------------------------------------------------

SCRIBE = "Scribe in a battle"
PADDED = "bare PyTorch loop, padded to the longest row"


@dataclass(frozen=True)
class Peer:
    """`bound`: the Scribe must reach this many times the peer's pace. `every`: takes part in every n-th round."""

    name: str
    run: Callable[[Field], Lap]
    bound: float
    every: int = 1


# The slow peers take part less often; the close race, where noise could decide, is run most.
PEERS = (
    Peer("bare PyTorch loop with the Scribe's blocks", lambda f: bare_loop(f, block_loss), 0.9),
    Peer(PADDED, lambda f: bare_loop(f, padded_loss), 0.9, every=3),
    Peer("TRL SFTTrainer, its defaults", trl_sft, 1.2, every=3),
    Peer("TRL SFTTrainer, no gradient checkpointing", lambda f: trl_sft(f, gradient_checkpointing=False), 1.2, every=3),
)


def compare(f: Field, rounds: int, name: str) -> list[Row]:
    """The rows of one quest: how fast each arm is, and that all of them train the same."""
    laps: dict[str, dict[int, Lap]] = {SCRIBE: {}, **{peer.name: {} for peer in PEERS}}
    for turn in range(rounds):
        running = [(SCRIBE, in_battle), *[(p.name, p.run) for p in PEERS if turn % p.every == 0]]
        # Every other round runs backwards, so that no arm always follows the same one.
        for arm, run_arm in running if turn % 2 == 0 else reversed(running):
            laps[arm][turn] = run_arm(f)
    lengths = [len(ids) for batch in f.batches for ids, _ in batch]
    trained = sum(int((labels != IGNORE).sum()) for batch in f.batches for _, labels in batch)
    text = (f"{len(f.batches)} steps × {len(f.batches[0])} rows; {statistics.mean(lengths):.0f} tokens a row, longest "
            f"{max(lengths)}, {trained / sum(lengths):.0%} of them trained")  # fmt: skip
    mine = {turn: lap.pace(f.tokens) for turn, lap in laps[SCRIBE].items()}
    unit = "tokens/CPU-s"
    found = [Row(f"{name}: quest", text=text), Row(f"{name}: {SCRIBE}", tuple(mine.values()), unit, "high")]
    for peer in PEERS:
        theirs = {turn: lap.pace(f.tokens) for turn, lap in laps[peer.name].items()}
        ratios = tuple(mine[turn] / pace for turn, pace in theirs.items())
        found.append(Row(f"{name}: {peer.name}", tuple(theirs.values()), unit, "high", f"Scribe ≥ {peer.bound} × this",
                         peer.bound, ratios))  # fmt: skip
    reference = laps[PADDED][0].losses
    for arm in laps:
        apart = tuple(distance(lap.losses, reference) for lap in laps[arm].values())
        if arm != PADDED:
            found.append(Row(f"{name}: loss of {arm}", apart, "nats", "low",
                             f"≤ {EQUAL} from the padded loop", EQUAL))  # fmt: skip
    return found


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Largest difference of two loss curves; not comparable when one has more steps."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def run(options: Options) -> list[Row]:
    """The hero's first quest, and one with an open level in training, which is what most of a campaign is."""
    if options.quick:
        plans = (("first quest", 0, 5, 4),)
    else:
        plans = (("first quest", 0, 8, 7), ("open level", open_level() - 1, 6, 7))
    found = []
    for name, mastered, steps, rounds in plans:
        with ground(steps, mastered) as where:
            found += compare(field_of(where), rounds, name)
    return found

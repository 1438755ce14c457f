"""Trains the discriminator and writes its card.

    afs discriminator train --input training_data/electra.jsonl --output models/electra --base-model tiny

The work lies in `<output>.training` until the model is whole; `--resume` goes on from its last epoch. The model folder
appears at once at the end, with `card.json` and `README.md`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from afs.discriminator.data import Example, load_examples
from afs.discriminator.electra import CARD, WEIGHTS, ASMElectra, encode, pick_device, torch_ready
from afs.discriminator.evaluate import Evaluation, evaluate_model, group_key, leave_one_out
from afs.discriminator.metrics import auc, calibration_error, fit_temperature
from afs.discriminator.tiny import LABELS, make_tiny_base
from afs.jsonl import file_sha256
from afs.step import StepError, UsageError, code_version, expand

TINY = "tiny"
UNKNOWN_WORTH = ("NOT fit for default use: nothing was held out, so nothing is known about it; make data from three or "
                 "more source files")  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """How a discriminator is trained.

    Attributes:
        base_model: a folder, a hub id, or "tiny": a small ELECTRA made from the training text, without any download.
        learning_rate: None takes 5e-5 for a pretrained base and 5e-4 for a tiny one.
        max_length: tokens of a text that are seen.
        max_lines: when scoring, longer code is cut into parts of so many lines.
    """

    base_model: str = "google/electra-base-discriminator"
    epochs: int = 3
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    learning_rate: float | None = None
    warmup_share: float = 0.06
    weight_decay: float = 0.01
    max_length: int = 512
    max_lines: int = 50
    seed: int = 42
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "gradient_accumulation_steps", "max_lines"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(self, name)}")
        if not 8 <= self.max_length <= 512:
            raise UsageError(f"--max-length must be from 8 to 512, ELECTRA's window, not {self.max_length}")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise UsageError(f"--learning-rate must be above 0 and below 1, not {self.learning_rate}")

    @property
    def rate(self) -> float:
        return self.learning_rate or (5e-4 if self.base_model == TINY else 5e-5)


@dataclass(frozen=True)
class TrainReport:
    """The trained model's folder and card; `evaluation` is None when nothing was held out."""

    path: Path
    card: dict[str, Any]
    evaluation: Evaluation | None

    @property
    def default(self) -> bool:
        return self.card["default"]

    def summary(self) -> str:
        lines = [f"discriminator {self.card['version']} in {self.path} ({self.card['seconds']:.0f} s)"]
        lines.append(self.evaluation.summary() if self.evaluation else self.card["verdict"])
        return "\n".join(lines)


def train_discriminator(
    input: Path | str, output: Path | str, *, val: Path | str | None = None, config: TrainConfig | None = None,
    resume: bool = False, force: bool = False, leave_out: bool = False, samples: int = 1000,
) -> TrainReport:  # fmt: skip
    """Train, calibrate on the val rows, judge on the test rows, write the model folder.

    Args:
        input: rows of `afs discriminator data`.
        val: another file whose rows (all of them) are the val rows.
        resume: go on with an unfinished training of the same data and settings.
        force: replace an existing model, and forget an unfinished training.
        leave_out: also train once without each corruption, for the table (as many trainings more as there are kinds).
        samples: bootstrap samples of the intervals.

    Raises:
        UsageError: no data, a model or an unfinished training is in the way, or a base model that does not exist.
        StepError: the training rows lack a class.
    """
    config = config or TrainConfig()
    target = expand(output)
    examples = load_examples(input)
    train = [e for e in examples if e.split == "train"]
    held = load_examples(val) if val else [e for e in examples if e.split == "val"]
    test = [e for e in examples if e.split == "test"]
    if {e.label for e in train} != {0, 1}:
        raise StepError(f"{input} needs real (label 0) and fake (label 1) training rows, it has {len(train)} in all")
    pick_device(config.device)
    work = _workshop(target, {"data": file_sha256(expand(input)), "val": val and file_sha256(expand(val)),
                              "config": asdict(config)}, resume, force)  # fmt: skip
    began = datetime.now(UTC)
    try:
        model = _fit(train, held, config, work / "main")
    except UsageError:
        if not resume:  # nothing was trained: no unfinished training is left in the way
            shutil.rmtree(work)
        raise
    with_both = {e.label for e in held} == {0, 1}
    calibration = _calibrate(model, held) if with_both else {}
    left = leave_one_out(lambda a, b, kind: _fit(a, b, config, work / f"without-{kind}"), train, held, test) \
        if leave_out and test else None  # fmt: skip
    evaluation = None
    if {e.label for e in test} == {0, 1}:
        evaluation = evaluate_model(model, input, samples=samples, seed=config.seed, left_out=left or {})
    card = _card(config, input, examples, train, calibration, left, evaluation, model, began)
    _publish(model, card, target, work)
    return TrainReport(target, card, evaluation)


def _workshop(target: Path, run: dict[str, Any], resume: bool, force: bool) -> Path:
    """The folder of an unfinished training, made or found."""
    work = target.with_name(target.name + ".training")
    note = work / "run.json"
    if (target / CARD).exists() and not force:
        raise UsageError(f"{target} already holds a model; choose another --output, or replace it with --force")
    if target.exists() and not (target / CARD).exists() and any(target.iterdir()):
        raise UsageError(f"{target} holds files that are no discriminator; choose another --output")
    raw = orjson.dumps(run, option=orjson.OPT_INDENT_2)
    if work.exists() and not note.is_file() and (not work.is_dir() or any(work.iterdir())):
        raise UsageError(f"{work}, where the training would lie, holds other files; choose another --output")
    if work.exists() and not force:
        if not resume:
            raise UsageError(f"an unfinished training is in {work}: go on with --resume, or start anew with --force")
        if not note.is_file() or note.read_bytes() != raw:
            raise UsageError(f"the unfinished training in {work} has other data or settings; start anew with --force")
        return work
    if resume and not work.exists():
        raise UsageError(f"nothing to resume: there is no {work}; leave --resume out")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    note.write_bytes(raw)
    return work


# --- fitting --------------------------------------------------------------------------------------------------------


def _load_base(base: str, config: TrainConfig) -> tuple[Any, Any]:
    """Model and tokenizer of the base; a new classification head gets its weights from the seed."""
    torch = torch_ready()
    from transformers import AutoConfig, AutoTokenizer, ElectraForSequenceClassification

    local = expand(base).is_dir()
    name = str(expand(base)) if local else base
    if not local and (base.startswith((".", "/", "~")) or base.count("/") > 1):
        raise UsageError(f"--base-model {base}: no such folder; name a folder, a hub id (owner/name), or tiny")
    try:
        kind = AutoConfig.from_pretrained(name).model_type
        if kind != "electra":
            raise UsageError(f"--base-model {base} is a {kind} model; it must be an ELECTRA (discriminator) model")
        tokenizer = AutoTokenizer.from_pretrained(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = ElectraForSequenceClassification.from_pretrained(name, **LABELS)
    except OSError as error:
        raise UsageError(f"--base-model {base} is neither a model folder nor a hub id that can be reached from here "
                         f"({str(error).splitlines()[0]}); without a network use --base-model tiny or a local "
                         f"folder") from error  # fmt: skip
    return model, tokenizer


def _fit(train: Sequence[Example], val: Sequence[Example], config: TrainConfig, work: Path) -> ASMElectra:
    """Train in `work`, from the last checkpoint there if there is one."""
    torch_ready()
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    base = config.base_model
    if base == TINY:
        base = str(work / "base")
        if not (work / "base" / WEIGHTS).is_file():
            make_tiny_base(base, [e.text for e in train if e.label == 0], seed=config.seed,
                           max_length=config.max_length, device=pick_device(config.device))  # fmt: skip
    model, tokenizer = _load_base(base, config)
    longest = min(config.max_length, model.config.max_position_embeddings)
    device = pick_device(config.device)
    judged = {e.label for e in val} == {0, 1}
    steps = -(-len(train) // (config.batch_size * config.gradient_accumulation_steps)) * config.epochs
    arguments = TrainingArguments(
        output_dir=str(work / "checkpoints"), num_train_epochs=config.epochs, learning_rate=config.rate,
        per_device_train_batch_size=config.batch_size, per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps, weight_decay=config.weight_decay,
        warmup_steps=int(steps * config.warmup_share), seed=config.seed, data_seed=config.seed,
        train_sampling_strategy="group_by_length", save_strategy="epoch", save_total_limit=2,
        eval_strategy="epoch" if judged else "no", load_best_model_at_end=judged, metric_for_best_model="eval_loss",
        logging_strategy="epoch", report_to=[], disable_tqdm=True, use_cpu=device == "cpu", dataloader_num_workers=0,
        dataloader_pin_memory=device != "cpu",
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=_dataset(train, tokenizer, longest),
        eval_dataset=_dataset(val, tokenizer, longest) if judged else None, processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    _quiet(trainer)
    folder = work / "checkpoints"
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    return ASMElectra(trainer.model, tokenizer, device=device, max_length=longest, max_lines=config.max_lines)


def _quiet(trainer: Any) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _dataset(examples: Sequence[Example], tokenizer: Any, longest: int) -> list[dict[str, Any]]:
    ids = encode(tokenizer, [e.text for e in examples], longest)
    return [{"input_ids": row, "attention_mask": [1] * len(row), "labels": e.label}
            for row, e in zip(ids, examples, strict=True)]  # fmt: skip


def _calibrate(model: ASMElectra, val: Sequence[Example]) -> dict[str, float]:
    """Set the model's temperature by the val rows; the errors before and after."""
    labels = [e.label for e in val]
    margins = model.margins([e.text for e in val])
    before = 1 / (1 + np.exp(-np.clip(margins, -50, 50)))
    model.temperature = round(fit_temperature(margins, labels), 6)
    after = 1 / (1 + np.exp(-np.clip(margins / model.temperature, -50, 50)))
    return {"rows": len(val), "auc": auc(margins, labels), "ece_before": calibration_error(before, labels),
            "ece_after": calibration_error(after, labels)}  # fmt: skip


# --- the card -------------------------------------------------------------------------------------------------------


def _card(
    config: TrainConfig, data: Path | str, examples: Sequence[Example], train: Sequence[Example],
    calibration: dict[str, float], left: dict[str, float] | None, evaluation: Evaluation | None, model: ASMElectra,
    began: datetime,
) -> dict[str, Any]:  # fmt: skip
    rows = {split: sum(e.split == split for e in examples) for split in ("train", "val", "test")}
    now = datetime.now(UTC)
    verdict = evaluation.verdict if evaluation else UNKNOWN_WORTH
    return {
        "kind": "afs discriminator", "labels": {"0": "real", "1": "fake"}, "base_model": config.base_model,
        "trained": now.isoformat(timespec="seconds"), "seconds": round((now - began).total_seconds(), 1),
        "default": bool(evaluation and evaluation.default), "verdict": verdict,
        "temperature": model.temperature, "max_length": model.max_length, "max_lines": model.max_lines,
        "calibration": calibration, "config": asdict(config),
        "data": {"name": Path(data).name, "sha256": file_sha256(expand(data)), "rows": rows},
        "evaluation": _plain(evaluation.to_dict()) if evaluation else None, "left_out": left and _plain(left),
        "train_groups": sorted({group_key(e.group) for e in train}), "code": code_version(),
        "packages": {name: metadata.version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
    }  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if value != value else round(value, 6)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _publish(model: ASMElectra, card: dict[str, Any], target: Path, work: Path) -> None:
    """Write everything into the work folder, then let it become the model folder in one rename."""
    made = work / "model"
    shutil.rmtree(made, ignore_errors=True)
    model.model.save_pretrained(made)
    model.tokenizer.save_pretrained(made)
    decisive = [card["temperature"], card["max_length"], card["max_lines"]]
    digest = hashlib.sha256(orjson.dumps(decisive))
    for name in sorted(p.name for p in made.iterdir()):
        digest.update((made / name).read_bytes())
    card["version"] = digest.hexdigest()[:12]
    model.card = card
    (made / CARD).write_bytes(orjson.dumps(card, option=orjson.OPT_INDENT_2))
    (made / "README.md").write_text("\n".join(_readme(card)) + "\n", encoding="utf-8")
    if target.exists():
        # Within the work folder, so that no folder of somebody else is in the way.
        os.replace(target, work / f"replaced-{card['version']}")
    os.replace(made, target)
    shutil.rmtree(work)


def _readme(card: dict[str, Any]) -> Iterator[str]:
    yield from ("---", "library_name: transformers", "pipeline_tag: text-classification", "tags: [65816, assembly]",
                "---", "# 65816 assembly discriminator", "")  # fmt: skip
    yield f"Version {card['version']}, base model `{card['base_model']}`, trained {card['trained']}."
    yield "Label 0 is real assembly, 1 is broken assembly. Scores are P(real), with temperature "
    yield f"{card['temperature']}. Code is cut into parts of {card['max_lines']} lines and {card['max_length']} tokens."
    yield ""
    yield f"**{card['verdict']}.**"
    yield ""
    yield f"Data `{card['data']['name']}`, sha256 `{card['data']['sha256']}`, rows {card['data']['rows']}."
    yield "Broken twins were made from the real ones and are invalid by the opcode table or the project's names; the "
    yield "splits share no source file. Nothing is known about other kinds of mistakes."
    found = card["evaluation"]
    if found:
        kinds = list(found["lines"][0]["by_kind"])
        yield ""
        yield f"Held out: {found['real']} real, {found['fake']} fake, {found['groups']} source files."
        yield ""
        yield f"| scorer | AUC (95 %) | average precision | ECE | {' | '.join(kinds)} |"
        yield "|---" * (4 + len(kinds)) + "|"
        for line in found["lines"]:
            cells = [f"{_cell(line['auc'])} ({_cell(line['low'])}–{_cell(line['high'])})", _cell(line["precision"]),
                     _cell(line["calibration"]), *(_cell(line["by_kind"][kind]) for kind in kinds)]  # fmt: skip
            yield f"| {line['scorer']} | {' | '.join(cells)} |"
            if line["left_out"]:
                yield f"| {line['scorer']}, trained without that kind | | | | " + " | ".join(
                    _cell(line["left_out"].get(kind)) for kind in kinds) + " |"  # fmt: skip


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

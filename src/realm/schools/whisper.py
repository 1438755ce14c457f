"""The Whisper: a hero learns from a teacher (realm-rules §7).

A teacher is another checkpoint, whose whole prediction is learnt, or an OpenAI-compatible endpoint, whose answers are.

* By checkpoint: at each trained token the loss is  hard x CE + (1 - hard) x T^2 x KL(teacher || hero), both softened by
  the temperature T (Hinton 2015, 1503.02531, eq. 4). Both must have one vocabulary, token for token. Of the teacher the
  `top` likeliest tokens are kept and the rest as one more outcome: a lower bound of the KL by the log-sum inequality,
  and the KL itself where `top` is the whole vocabulary. What the teacher said is worked out once, when the quest
  begins, and kept in the quest's folder: a resumed quest reads it and does not load the teacher at all.
* By endpoint: the rows' questions are asked, grounded in the knowledge shelf where it says something about them; an
  answer to a problem of a skill must please its grader. What passes is trained on as the Scribe does. A checkpoint
  answers too, where a row has no answer.

The quest's options: see `Options`. Torch is used for checkpoints only.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from afs.jsonl import AtomicWriter
from realm import db
from realm.guild.skills import get_skill
from realm.heroes.chat import Rendered
from realm.heroes.model import IGNORE, Hero, load_model, load_tokenizer, over_labels, pad_rows, plain_head, row_tensors
from realm.heroes.profile import ProfileError
from realm.quests import sparring
from realm.quests.teacher import Answer, Endpoint, Teacher, TeacherError
from realm.schools import scribe
from realm.schools.chassis import Context, Dropped, Interrupted, OnStep, OptimizerState, Segment, TrainingError
from realm.schools.scribe import Lesson, numbered
from realm.settings import explain
from realm.vault import checkpoints, shelf

FAMILY = scribe.FAMILY  # the optimizer moves the same parameters towards the same answers
SAID, TOLD = "teacher.jsonl", "teacher.safetensors"  # in the quest's folder: its answers, its predictions
EYE = "oracle_eye"  # an option of every school
TEACH = "Answer the last question exactly in the form it asks for, with nothing before or after the answer."
GROUND = "Passages that may help; what they do not say you may know yourself:"
BATCH_ROWS = 32


class Options(BaseModel):
    """The quest's settings for the Whisper."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str = Field(min_length=1, description="id of a checkpoint, folder of a model, or http(s) address")
    temperature: float = Field(2.0, gt=0, le=100, description="softens teacher and hero alike (checkpoints only)")
    hard: float = Field(0.5, ge=0, le=1, description="weight of the row's own answer against the teacher's prediction")
    top: int = Field(32, ge=1, description="tokens of each prediction that are kept")
    model: str = Field("", description="name of the model at the address")
    passages: int = Field(3, ge=0, le=20, description="of the knowledge shelf, for each question")
    max_tokens: int = Field(512, ge=1)
    timeout_s: float = Field(120.0, gt=0)
    parallel: int = Field(4, ge=1, le=64)

    @property
    def writes(self) -> bool:
        """Whether the teacher is an endpoint that writes text."""
        return self.teacher.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Taught(Rendered):
    """A row with what the teacher predicts at its n trained tokens.

    `likely`: int32 [n, top] token ids; `logs`: fp32 [n, top + 1], their log-probabilities at the quest's temperature
    and that of all other tokens together.
    """

    likely: Tensor
    logs: Tensor


def prepare(
    hero: Hero, raw: Sequence[Mapping[str, Any]], context: Context
) -> tuple[list[Rendered], list[Dropped]]:  # fmt: skip
    """The rows with the teacher's predictions, or with its answers; the same whenever the quest is resumed.

    Raises:
        Interrupted: told to stop meanwhile.
        TrainingError: no teacher, one of another vocabulary, or an endpoint that cannot teach.
    """
    options = options_of(context)
    said: Sequence[Mapping[str, Any]] = raw
    dropped: list[Dropped] = []
    if options.writes or not all(map(_answered, raw)):
        said, dropped = _answers(hero, raw, options, context)
    made, lost = hero.render([row["messages"] for row in said])
    dropped.extend((said[index].get("row", index), code, text) for index, code, text in lost)
    return (_predictions(hero, made, options, context) if made and not options.writes else made), dropped


def train(
    hero: Hero, rows: Sequence[Rendered], segment: Segment, kept: OptimizerState, scratch: Path, on_step: OnStep,
    context: Context | None = None,
) -> None:  # fmt: skip
    """The Scribe's steps; where the teacher is a checkpoint, with the loss above."""
    lesson = None
    if rows and isinstance(rows[0], Taught):
        lesson = distillation(rows, options_of(context))
    scribe.train(hero, rows, segment, kept, scratch, on_step, context, lesson)


def options_of(context: Context) -> Options:
    """The options of a quest, checked.

    Raises:
        TrainingError: an unknown or impossible one, or no teacher.
    """
    values = {key: value for key, value in context.options.items() if key != EYE}
    if not values.get("teacher"):
        raise TrainingError("unsupported", "the quest names no teacher; give it one: --option teacher=CHECKPOINT (an "
                            "id, a folder, or an http address with model=NAME)")  # fmt: skip
    try:
        return Options.model_validate(values)
    except ValidationError as error:
        raise TrainingError("unsupported", explain(error, Options, f"options of quest {context.quest_id}")) from error


# --- a teacher that predicts --------------------------------------------------------------------------------------


def soften(logits: Tensor, temperature: float, top: int) -> tuple[Tensor, Tensor]:
    """What is kept of a prediction: (ids of the likeliest tokens, their log-probabilities and that of the rest).

    Args:
        logits: [n, vocabulary].

    Returns:
        int64 [n, top], and fp32 [n, top + 1] whose exponentials add up to 1; the last is -inf where nothing is left.
    """
    logs = torch.log_softmax(logits.float() / temperature, dim=-1)
    kept, ids = logs.topk(min(top, logs.shape[-1]), dim=-1)
    return ids, torch.cat([kept, _rest(logs, ids)], dim=-1)


def _rest(logs: Tensor, ids: Tensor) -> Tensor:
    """Log-probability [n, 1] of all tokens but `ids`; 1 - the sum of theirs would lose a small rest."""
    return logs.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)


def divergence(logits: Tensor, likely: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 x KL(teacher || hero) of each token, fp32 [n], over the kept tokens and the rest as one outcome.

    Args:
        logits: of the hero, [n, vocabulary].
        likely, teacher: what `soften` kept of the teacher.
    """
    logs = torch.log_softmax(logits.float() / temperature, dim=-1)
    there = torch.isfinite(teacher)  # an outcome of probability 0 adds nothing
    rest = _rest(logs, likely) if likely.shape[-1] < logs.shape[-1] else teacher.new_zeros(len(logs), 1)
    hero = torch.cat([logs.gather(-1, likely), rest], dim=-1)
    parts = teacher.exp() * (teacher.masked_fill(~there, 0.0) - hero)
    return temperature**2 * parts.masked_fill(~there, 0.0).sum(-1)


def distillation(rows: Sequence[Taught], options: Options) -> Lesson:
    """The Whisper's loss as a lesson of the Scribe's trainer.

    Labels are numbers of trained tokens, counted through all rows, so that what the teacher said of each is found.
    """
    targets = torch.cat([labels[labels != IGNORE] for _, labels in map(row_tensors, rows)])
    likely, teacher = torch.cat([row.likely for row in rows]), torch.cat([row.logs for row in rows])

    def losses(logits: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        where = numbers.cpu()
        wanted = targets[where].to(logits.device)
        plain = functional.cross_entropy(logits.float(), wanted, reduction="none")
        apart = divergence(logits, likely[where].long().to(logits.device), teacher[where].to(logits.device),
                           options.temperature)  # fmt: skip
        return wanted, options.hard * plain + (1 - options.hard) * apart, plain, {"teacher_divergence": apart}

    return Lesson(losses)


def _predictions(hero: Hero, rows: Sequence[Rendered], options: Options, context: Context) -> list[Taught]:
    path, key = context.folder / TOLD, _key(rows, options)
    if path.is_file():
        kept = _read_kept(path)
        if kept.get("key") != key:
            raise TrainingError("data_changed", f"{path} was made of other rows or options; stop the quest, delete the "
                                "file and go on: the teacher is asked again")  # fmt: skip
        likely, logs = kept["likely"], kept["logs"]
    else:
        likely, logs = _ask_model(hero, rows, options, context)
        tensors = {"likely": likely, "logs": logs, "key": torch.tensor(list(bytes.fromhex(key)), dtype=torch.uint8)}
        _save(tensors, path)
    counts = [row.trained for row in rows]
    return [Taught(row.ids, row.mask, own, said)
            for row, own, said in zip(rows, likely.split(counts), logs.split(counts), strict=True)]  # fmt: skip


def _read_kept(path: Path) -> dict[str, Any]:
    """What `_save` wrote; nothing where the file is no such file any more."""
    try:
        kept: dict[str, Any] = load_file(str(path))
    except SafetensorError:
        return {}
    return kept | {"key": bytes(kept["key"].tolist()).hex()} if {"key", "likely", "logs"} <= set(kept) else {}


def _key(rows: Sequence[Rendered], options: Options) -> str:
    """What the predictions belong to: rows and everything that decided what is kept of them."""
    digest = hashlib.sha256(f"{options.teacher}\x1f{options.temperature}\x1f{options.top}".encode())
    for row in rows:
        digest.update(orjson.dumps([row.ids, row.mask]))
    return digest.hexdigest()


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Whole or not at all: a kill leaves nothing that looks like predictions."""
    temporary = path.with_name(f".{path.name}.part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(temporary))
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def teacher_folder(teacher: str, context: Context) -> Path:
    """Where the weights of a teacher lie: a checkpoint's folder, checked against its manifest, or a folder of its own.

    Raises:
        TrainingError: there is neither.
    """
    own = Path(teacher).expanduser()
    own = own if own.is_absolute() or context.home is None else context.home.root / own
    if (own / "config.json").is_file() or (own / "adapter_config.json").is_file():
        return own
    try:
        engine = db.connect(context.home)
        try:
            return checkpoints.load(context.home, engine, teacher).folder
        finally:
            engine.dispose()
    except checkpoints.CheckpointError as error:
        raise TrainingError("unsupported", f"no teacher {teacher!r}: {error}; it must be the id of a checkpoint "
                            "(`training vault list`) or a folder with a model") from error  # fmt: skip


def check_vocabulary(teacher: Any, hero: Any, name: str) -> None:
    """Refuse a teacher whose tokens are not the hero's, token for token.

    Raises:
        TrainingError: with the first token that differs.
    """
    theirs, own = teacher.get_vocab(), hero.get_vocab()
    if theirs == own:
        return
    both = sorted(set(theirs) | set(own), key=lambda token: (own.get(token, len(own)), token))
    first = next(token for token in both if theirs.get(token) != own.get(token))
    raise TrainingError(
        "unsupported",
        f"teacher {name} has another vocabulary ({len(theirs):,} tokens, the hero {len(own):,}): {first!r} is "
        f"{theirs.get(first, 'missing')} there and {own.get(first, 'missing')} here. Their predictions cannot be "
        "compared; take a teacher of the hero's family, or let it write text (an http address)",
    )


def _load_teacher(hero: Hero, options: Options, context: Context) -> Any:
    """The teacher's model, its vocabulary compared before its weights are read.

    Raises:
        TrainingError: there is no such teacher, it does not fit, or it cannot be read.
    """
    folder = teacher_folder(options.teacher, context)
    try:
        check_vocabulary(load_tokenizer(folder), hero.tokenizer, options.teacher)
        context.phase("loading the teacher")
        return load_model(folder)
    except (ProfileError, SafetensorError, OSError, ValueError) as error:
        raise TrainingError("unsupported", f"teacher {options.teacher} cannot be loaded ({error}); mend its folder or "
                            "name another") from error  # fmt: skip


def _ask_model(
    hero: Hero, rows: Sequence[Rendered], options: Options, context: Context
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What a checkpoint predicts at every trained token of the rows, in their order: as `soften` gives it."""
    model = _load_teacher(hero, options, context)
    shared = min(model.get_output_embeddings().weight.shape[0], hero.model.get_output_embeddings().weight.shape[0])
    pairs, trained = numbered(rows), sum(row.trained for row in rows)
    kept = min(options.top, shared)
    likely, logs = torch.zeros(trained, kept, dtype=torch.int32), torch.zeros(trained, kept + 1)

    def keep(logits: Tensor, numbers: Tensor) -> tuple[()]:
        ids, said = soften(logits[:, :shared], options.temperature, options.top)  # beyond lies padding (Qwen)
        likely[numbers.cpu()], logs[numbers.cpu()] = ids.int().cpu(), said.cpu()
        return ()

    order, plain = sorted(range(len(rows)), key=lambda i: len(rows[i].ids)), plain_head(model)
    where = next(model.parameters()).device
    context.phase("the teacher reads the quest")
    for begin in range(0, len(order), BATCH_ROWS):
        if context.interrupted():
            raise Interrupted
        ids, labels = pad_rows([pairs[i] for i in order[begin : begin + BATCH_ROWS]])
        with torch.no_grad(), hero.autocast():
            over_labels(model, ids.to(where), labels.to(where), plain, keep)
    text = f"The teacher {options.teacher} read {len(rows):,} rows: {trained:,} predictions are kept for the quest"
    context.note("lesson", text, "info", what="teacher", teacher=options.teacher, rows=len(rows), predictions=trained,
                 temperature=options.temperature, top=kept)  # fmt: skip
    return likely, logs


# --- a teacher that writes ----------------------------------------------------------------------------------------


def _answered(row: Mapping[str, Any]) -> bool:
    turns = row.get("messages") or []
    return bool(turns) and turns[-1]["role"] == "assistant"


def _answers(
    hero: Hero, raw: Sequence[Mapping[str, Any]], options: Options, context: Context
) -> tuple[list[dict[str, Any]], list[Dropped]]:  # fmt: skip
    """(rows with the teacher's answers, what was left out): those on disk where the quest goes on."""
    path = context.folder / SAID
    if path.is_file():
        return [orjson.loads(line) for line in path.read_bytes().splitlines()], []
    questions = [_question(row) for row in raw]
    passages = _ground([turns[-1]["content"] for turns in questions], options, context)
    asked = [_dress(turns, found) for turns, found in zip(questions, passages, strict=True)]
    answers = _ask_endpoint(asked, options, context) if options.writes else _ask_to_write(hero, questions, options,
                                                                                          context)  # fmt: skip
    rows, dropped = [], []
    for index, (row, turns, found, answer) in enumerate(zip(raw, questions, passages, answers, strict=True)):
        made = _row(turns, answer, found, options) | {"row": index}
        if problem := _fault(row, made, answer, context):
            dropped.append((index, *problem))
        else:
            rows.append(made)
    with AtomicWriter(path) as out:
        for row in rows:
            out.write(row)
    _tell(answers, dropped, sum(map(bool, passages)), options, context)
    return rows, dropped


def _question(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The turns of a row up to its last question; an answer that the row has is not shown to the teacher."""
    turns = [dict(turn) for turn in row.get("messages") or [{"role": "user", "content": str(row.get("prompt", ""))}]]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    if not turns or not turns[-1]["content"].strip():
        raise TrainingError("unsupported", "a row of the quest has no question to ask the teacher; take it out")
    return turns


def _ground(questions: Sequence[str], options: Options, context: Context) -> list[list[shelf.Passage]]:
    if not (options.writes and options.passages) or context.home is None:
        return [[] for _ in questions]
    found = shelf.open_shelf(context.home)
    return [found.search(question, options.passages) for question in questions]


def _dress(turns: Sequence[Mapping[str, str]], passages: Sequence[shelf.Passage]) -> list[dict[str, str]]:
    """What the teacher reads: the row's turns behind its instruction and the passages; the hero never sees those."""
    told = f"{TEACH}\n\n{GROUND}\n\n{shelf.ground(passages)}" if passages else TEACH
    own = [turn["content"] for turn in turns if turn["role"] == "system"]
    return [{"role": "system", "content": "\n\n".join([*own, told])},
            *(dict(turn) for turn in turns if turn["role"] != "system")]  # fmt: skip


def _ask_endpoint(asked: Sequence[list[dict[str, str]]], options: Options, context: Context) -> list[Answer]:
    notes = None
    try:
        endpoint = Endpoint(options.teacher, options.model, options.timeout_s, options.max_tokens,
                            parallel=options.parallel)  # fmt: skip
        if context.home is not None:
            name = hashlib.sha256(f"{endpoint.chat}\x1f{endpoint.model}".encode()).hexdigest()[:16]
            notes = context.home.queue / "answers" / f"{name}.jsonl"
        context.phase(f"asking the teacher {len(asked):,} questions")
        with Teacher(endpoint, notes) as teacher:
            answers = teacher.answers(asked, _latched(context.interrupted))
    except TeacherError as error:
        raise TrainingError("teacher", str(error)) from error
    if answers is None:
        raise Interrupted
    return answers


def _ask_to_write(
    hero: Hero, questions: Sequence[list[dict[str, str]]], options: Options, context: Context
) -> list[Answer]:  # fmt: skip
    """Greedy answers of a checkpoint, asked as the hero itself is asked."""
    interrupted = _latched(context.interrupted)
    sage = Hero(hero.profile, _load_teacher(hero, options, context), hero.tokenizer)
    context.phase(f"the teacher answers {len(questions):,} questions")
    told = sage.answer(questions, options.max_tokens, interrupted)
    if interrupted():
        raise Interrupted
    return [Answer(text.strip(), "cut" if written >= options.max_tokens else None if text.strip() else "empty")
            for text, written in told]  # fmt: skip


def _latched(interrupted: Callable[[], bool]) -> Callable[[], bool]:
    """Says yes for ever once it said yes: the battle's own answer holds only for the moment."""
    said = False

    def ask() -> bool:
        nonlocal said
        said = said or interrupted()
        return said

    return ask


def _row(
    turns: list[dict[str, str]], answer: Answer, passages: Sequence[shelf.Passage], options: Options
) -> dict[str, Any]:  # fmt: skip
    sources = [{"source": p.source, "first": p.first, "last": p.last} for p in passages]
    return {"messages": [*turns, {"role": "assistant", "content": answer.text}], "origin": "teacher",
            "teacher_model": options.model or options.teacher, "sources": sources}  # fmt: skip


def _fault(
    row: Mapping[str, Any], made: dict[str, Any], answer: Answer, context: Context
) -> tuple[str, str] | None:  # fmt: skip
    """(word, reason) why an answer is not learnt, or None; notes in the row whether a grader has checked it."""
    if answer.problem:
        return f"teacher_{answer.problem}", f"the teacher's answer is {answer.problem}"
    if exam := context.held_out(made["messages"]):
        return "exam", f"question or answer hold a problem of {exam}"
    problem = sparring.problem_in(row)
    made["verified"] = problem is not None
    if problem is not None:
        grade = get_skill(problem.skill).grade(problem, answer.text)
        if not grade.correct:
            return "teacher_wrong", f"the grader of {problem.skill} rejects the teacher's answer ({grade.reason})"
    return None


def _tell(
    answers: Sequence[Answer], dropped: Sequence[Dropped], grounded: int, options: Options, context: Context
) -> None:  # fmt: skip
    refused = Counter(code for _, code, _ in dropped)
    kept = len(answers) - len(dropped)
    why = ", ".join(f"{count} {code.replace('_', ' ')}" for code, count in sorted(refused.items()))
    name = options.model or options.teacher
    text = (f"The teacher {name} answered {len(answers):,} questions ({grounded:,} grounded in the shelf); "
            f"{kept:,} are learnt" + (f", left out: {why}" if why else ""))  # fmt: skip
    level = "trouble" if 2 * kept < len(answers) else "info"
    context.note("lesson", text, level, what="teacher", teacher=options.teacher, model=options.model, kept=kept,
                 asked=len(answers), grounded=grounded, refused=dict(refused))  # fmt: skip

"""ToolBench: conversations in which an assistant calls APIs, as training samples.

    afs training toolbench-export --dataset-dir ~/data/toolbench --output toolbench_train.jsonl --split train

Reads the Parquet files of the Hugging Face copies and the JSON files of the original release
(`toolllama_G123_dfs_train.json`, `…_eval.json`). A conversation becomes a sample when it ends in a final answer; those
that give up, or that are the first steps of a longer one, are counted by reason. Memory: one row group of a Parquet
file, one row of a JSON file.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from afs.generators.base import TrainingSample
from afs.jsonl import BadRow, Counts, read_rows
from afs.step import How, Report, Step, StepError, UsageError
from afs.training.exports.json_rows import array_rows
from afs.training.redaction import Redactor, whole_letters

SPLITS = {"train": {"train", "training"}, "validation": {"validation", "valid", "val", "eval", "dev"}}
"""Split -> words in a file's name that mark it."""
DOMAIN = "toolbench_api"
_NO_ROWS = {"toolenv", "retrieval", "instruction", "test_instruction", "answer"}
"""Folders of the original release that hold other things: API descriptions, retrieval data, bare requests, trees."""
_JSON = (".json", ".json.gz", ".json.zst")
_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
          "function": "function", "tool": "function", "observation": "function"}  # fmt: skip
_ACTION = re.compile(r"(?:^|\n)[ \t]*Action:[ \t]*([^\n]*)\n[ \t]*Action Input:[ \t]*")
_THOUGHT = re.compile(r"^\s*Thought:[ \t]*")
_BEGIN = re.compile(r"\s*\n[ \t]*Begin!\s*$")
_FETCHED = 64
# Control characters (line ends) stand unescaped in the texts of many rows.
_DECODER = json.JSONDecoder(strict=False)


class Turn(NamedTuple):
    """One message; `call` is (name, arguments as text) when the message itself carries a call beside its text."""

    role: str
    text: str
    call: tuple[str, str] | None = None


class Said(NamedTuple):
    """What an assistant's turn says and does: thought, name of the action ("" for none), its input as written."""

    thought: str
    action: str
    input: str


class Conversation(NamedTuple):
    """A row: the turns, the id that the data set gives it, and where it was read."""

    turns: list[Turn]
    task: str


class RowError(ValueError):
    """A row that is no conversation, with the reason."""


class Unfinished(ValueError):
    """A conversation that ends in no answer, with the reason."""


# --- one conversation -----------------------------------------------------------------------------------------------


def turns_of(value: Any) -> list[Turn]:
    """The turns of a conversation in any of its layouts: lists of roles and texts (`{"from": […], "value": […]}`), a
    list of messages (`from`/`value` or `role`/`content`), or either as JSON text.

    Raises:
        RowError: it is none of these.
    """
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise RowError(f"conversation is a text that is no JSON: {error}") from None
    if isinstance(value, dict):
        roles, texts = value.get("from", value.get("role")), value.get("value", value.get("content"))
        if not isinstance(roles, list) or not isinstance(texts, list) or len(roles) != len(texts):
            raise RowError("conversation needs as many roles ('from') as texts ('value')")
        value = [{"from": role, "value": text} for role, text in zip(roles, texts, strict=True)]
    if not isinstance(value, list) or not value:
        raise RowError("no conversation: 'conversations' must be a list of messages")
    return [_turn(message) for message in value]


def _turn(message: Any) -> Turn:
    if not isinstance(message, dict):
        raise RowError(f"a message must be an object, found {type(message).__name__}")
    role = message.get("from", message.get("role"))
    text = message.get("value", message.get("content"))
    if not isinstance(role, str) or role not in _ROLES:
        raise RowError(f"unknown role {role!r}; known: {', '.join(_ROLES)}")
    call = message.get("function_call")
    found = None
    if isinstance(call, dict) and isinstance(call.get("name"), str):
        given = call.get("arguments", "")
        found = call["name"], given if isinstance(given, str) else orjson.dumps(given).decode()
    if text is None and found:
        text = ""
    if not isinstance(text, str):
        raise RowError(f"message of {role!r} has no text")
    return Turn(_ROLES[role], text, found)


def read_step(turn: Turn) -> Said:
    """Thought, action and input of an assistant's turn. The input is everything behind `Action Input:`, nested objects
    and all."""
    if turn.call:
        return Said(_THOUGHT.sub("", turn.text).strip(), turn.call[0].strip(), turn.call[1].strip())
    found = _ACTION.search(turn.text)
    if not found:
        return Said(_THOUGHT.sub("", turn.text).strip(), "", "")
    thought = _THOUGHT.sub("", turn.text[: found.start()]).strip()
    return Said(thought, found.group(1).strip(), turn.text[found.end() :].strip())


def decode(text: str) -> Any:
    """The JSON value at the beginning of a text (line ends in its texts may be raw); else the Python value that the
    whole text is.

    Raises:
        RowError: it is neither.
    """
    try:
        return _DECODER.raw_decode(text)[0]
    except (json.JSONDecodeError, RecursionError) as error:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise RowError(f"input of Finish is no JSON: {error}") from None


def final_answer(step: Said) -> str:
    """The decoded final answer of a `Finish` step; an answer that is no text comes as compact JSON.

    Raises:
        Unfinished: the step is no final answer.
        RowError: its input cannot be decoded.
    """
    if step.action != "Finish":
        raise Unfinished("the last step calls an API: the first steps of a longer conversation" if step.action
                         else "the last turn of the assistant calls nothing")  # fmt: skip
    value = decode(step.input)
    if not isinstance(value, dict):
        raise RowError(f"input of Finish must be an object, found {type(value).__name__}")
    how = value.get("return_type")
    if how != "give_answer":
        raise Unfinished("gave up and restarted" if how == "give_up_and_restart"
                         else f"finished with return_type {str(how)[:40]!r}")  # fmt: skip
    answer = value.get("final_answer")
    if not isinstance(answer, str) and answer is not None:
        try:
            answer = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
        except RecursionError:
            raise RowError("the final answer is nested too deep to be written") from None
    if not answer or not answer.strip():
        raise Unfinished("the final answer is empty")
    # A text that was cut inside an emoji cannot be written as UTF-8.
    return whole_letters(answer.strip())


def to_sample(found: Conversation, source: str, file: str, line: int) -> TrainingSample:
    """The sample of a finished conversation: the user's request, the calls with their results, the final answer.

    Raises:
        Unfinished: it does not end in an answer.
        RowError: it has no user's request, or the answer cannot be decoded.
    """
    last = max((i for i, turn in enumerate(found.turns) if turn.role == "assistant"), default=None)
    if last is None:
        raise Unfinished("no turn of the assistant")
    answer = final_answer(read_step(found.turns[last]))
    asked = [i for i, turn in enumerate(found.turns[:last]) if turn.role == "user"]
    if not asked:
        raise RowError("no user's request before the answer")
    request = _BEGIN.sub("", found.turns[asked[0]].text).strip()
    if not request:
        raise RowError("the user's request is empty")
    thoughts, told, tools = [], [], []
    for turn in found.turns[asked[0] + 1 : last + 1]:
        if turn.role == "assistant":
            step = read_step(turn)
            thoughts.append(step.thought)
            if step.action and step.action != "Finish":
                tools.append(step.action)
                told.append(f"API endpoint: {step.action}\nInput: {step.input}")
            elif not step.action and step.thought:
                told.append(f"Assistant: {step.thought}")
        elif turn.role == "function":
            told.append(f"Result: {turn.text.strip()}")
        else:
            told.append(f"{turn.role.capitalize()}: {turn.text.strip()}")
    system = "\n\n".join(turn.text for turn in found.turns[: asked[0]] if turn.role == "system")
    about = {"task_id": found.task, "tools": list(dict.fromkeys(tools)), "calls": len(tools), "file": file,
             "line": line}  # fmt: skip
    if system:
        about["system"] = system
    return TrainingSample(
        instruction=request, input="\n".join(told), output=answer, domain=DOMAIN, source=source,
        thinking="\n\n".join(t for t in thoughts if t) or None, _metadata=about,
    )  # fmt: skip


# --- files ----------------------------------------------------------------------------------------------------------


def find_files(dataset_dir: Path | str, split: str) -> tuple[list[Path], list[str]]:
    """The files of a split in order, and notes about files that were left alone.

    A file belongs to the split whose word is in its name, or in a folder's name below `dataset_dir`. Parquet comes
    before JSON: where both are, they are copies of one another; among JSON files, those called `toolllama…` come first.

    Raises:
        UsageError: no such split, folder or file.
    """
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}; known: {', '.join(SPLITS)}")
    root = Path(dataset_dir).expanduser()
    if root.is_file():
        return [root], []
    if not root.is_dir():
        raise UsageError(f"{root} does not exist; --dataset-dir names the folder with ToolBench's files")
    every = [Path(folder) / name for folder, folders, names in os.walk(root)
             if _sorted(folders) for name in names
             if name.endswith((".parquet", *_JSON, *_JSONL)) and not name.startswith(".")
             and (Path(folder) / name).is_file()]  # fmt: skip
    mine = sorted(path for path in every if SPLITS[split] & _words(path.relative_to(root)))
    own = [path for path in mine if path.suffix == ".parquet"] or [p for p in mine if p.name.startswith("toolllama")]
    if not mine:
        seen = ", ".join(sorted(str(path.relative_to(root)) for path in every)[:8]) or "no .parquet or .json file"
        raise UsageError(f"no file of the split {split!r} in {root} (a name with "
                         f"{' or '.join(sorted(SPLITS[split]))}); found: {seen}")  # fmt: skip
    notes = []
    if own and len(own) < len(mine):
        notes.append(f"{len(mine) - len(own)} JSON files of the split were left alone beside {own[0].name}; name one "
                     "as --dataset-dir to read it")  # fmt: skip
    return own or mine, notes


def _sorted(folders: list[str]) -> bool:
    """Orders the folders that a walk goes into, without those that hold no conversations."""
    folders[:] = sorted(name for name in folders if name not in _NO_ROWS and not name.startswith("."))
    return True


def _words(path: Path) -> set[str]:
    return {word for word in re.split(r"[^a-z]+", str(path).lower()) if word}


@dataclass
class _Rows:
    """Reads the rows of files; every row is counted, and bad ones are set aside."""

    on_bad: Callable[[BadRow], None]
    counts: Counts = field(default_factory=Counts)

    def of(self, path: Path) -> Iterator[tuple[int, int, bytes, Any]]:
        """(line, byte, raw, value) of each row; of a Parquet file the row's number, 0, and the conversation as JSON."""
        if path.suffix == ".parquet":
            yield from self._parquet(path)
        else:
            read = read_rows if path.name.endswith(_JSONL) else array_rows
            for row in read(path, self.on_bad, self.counts):
                yield row.line, row.offset, row.raw, row.value

    def _parquet(self, path: Path) -> Iterator[tuple[int, int, bytes, Any]]:
        import duckdb

        with duckdb.connect() as db:
            db.execute("SET threads = 1")
            source = "read_parquet($path, file_row_number = true)"
            given = {"path": _literal(path)}
            try:
                columns = [row[0] for row in db.execute(f"DESCRIBE SELECT * FROM {source}", given).fetchall()]
                talk = next((c for c in ("conversations", "messages") if c in columns), None)
                if talk is None:
                    raise StepError(f"{path} has no column 'conversations' or 'messages', only {', '.join(columns)}")
                task = '"id"::VARCHAR' if "id" in columns else "NULL"
                rows = db.execute(f'SELECT file_row_number, {task}, to_json("{talk}")::VARCHAR FROM {source}', given)
                while batch := rows.fetchmany(_FETCHED):
                    for number, name, text in batch:
                        self.counts.read += 1
                        raw = (text or "null").encode()
                        yield number + 1, 0, raw, {"id": name, "conversations": orjson.loads(raw)}
            except duckdb.Error as error:
                raise StepError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _literal(path: Path) -> str:
    """The path so that DuckDB takes none of its characters for a pattern."""
    return re.sub(r"([*?\[\]])", r"[\1]", str(path))


def _conversation(value: dict[str, Any]) -> Conversation:
    found = next((value[key] for key in ("conversations", "messages") if value.get(key) is not None), None)
    if found is None:
        raise RowError("no 'conversations' in this row")
    task = value.get("id")
    return Conversation(turns_of(found), task if isinstance(task, str) else "" if task is None else str(task))


# --- the step -------------------------------------------------------------------------------------------------------


@dataclass
class ToolbenchResult:
    """What an export made; `reasons` counts the conversations that were filtered out."""

    report: Report
    output: Path

    @property
    def exported(self) -> int:
        return self.report.counts.out

    @property
    def reasons(self) -> dict[str, int]:
        return self.report.details["filtered"]

    def summary(self) -> str:
        """The counts, the turns by role, then the reasons."""
        turns = self.report.details["turns"]
        table = [f"{'turns of':10} {'used':>10} {'left out':>10}"]
        table += [f"{role:10} {n['used']:>10,} {n['left out']:>10,}" for role, n in turns.items()]
        lines = [f"filtered out: {n:,} {reason}" for reason, n in self.reasons.items()]
        return "\n".join([self.report.summary(), *table, f"{self.exported:,} samples in {self.output}", *lines])


def export_toolbench_to_jsonl(
    dataset_dir: Path | str,
    output: Path | str,
    split: str = "train",
    limit: int | None = None,
    how: How | None = None,
    redact: bool = False,
) -> ToolbenchResult:
    """Export the finished conversations of a split; `source` is `toolbench_<split>_<number of the row>`.

    Args:
        dataset_dir: folder of the data set, or one file of it.
        limit: samples at most; reading stops when they are found.
        redact: take secrets and e-mail addresses out first. Off by default: the data set is public, and its answers
            are about made-up addresses that must stay.

    Raises:
        UsageError: no such folder, split or file, or the limit is below 1.
        StepError: a file cannot be read, or no conversation is finished.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} must be 1 or more; leave it away for all samples")
    files, notes = find_files(dataset_dir, split)
    output = Path(output).expanduser()
    parameters = {"split": split, "limit": limit, "redact": redact, "names": [path.name for path in files]}
    step = Step("toolbench-export", files, [output], parameters, how=how)
    if not step.current:
        with step:
            step.notes += notes
            _export(step, output, split, limit, Redactor() if redact else None)
    return ToolbenchResult(step.report, output)


def _export(step: Step, output: Path, split: str, limit: int | None, redactor: Redactor | None) -> None:
    rows = _Rows(step.on_bad, step.counts)
    reasons: dict[str, int] = {}
    turns: dict[str, dict[str, int]] = {}
    seen: set[str] = set()
    family = f"toolbench_{split}"
    with step.writer(output) as out:
        for path in step.inputs:
            for line, offset, raw, value in rows.of(path):
                if redactor is not None:
                    value = redactor.redact(value)
                try:
                    number = step.counts.read - 1
                    talk = _conversation(value)
                    sample = to_sample(talk, f"{family}_{number:06}", path.name, line)
                except Unfinished as error:
                    reasons[str(error)] = reasons.get(str(error), 0) + 1
                    step.counts.filtered += 1
                    _tally(turns, talk, "left out")
                    continue
                except RowError as error:
                    step.counts.quarantined += 1
                    step.on_bad(BadRow(str(path), line, offset, len(raw), str(error), raw))
                    continue
                if sample.sample_id in seen:
                    step.counts.duplicates += 1
                    _tally(turns, talk, "left out")
                    continue
                seen.add(sample.sample_id)
                _tally(turns, talk, "used")
                out.write(sample.to_dict())
                step.counts.out += 1
                if limit is not None and step.counts.out >= limit:
                    break
            step.advance(path.stat().st_size)
            if limit is not None and step.counts.out >= limit:
                step.note(f"stopped at --limit {limit}: later rows were not read")
                break
        # Inside the writer's block, so that nothing is written.
        if not step.counts.out:
            why = "; ".join(f"{n:,} {reason}" for reason, n in sorted(reasons.items())) or "no rows"
            raise StepError(f"no finished conversation among {step.counts.read:,} rows ({why}; "
                            f"{step.counts.quarantined:,} bad rows)")  # fmt: skip
    if redactor is not None:
        step.details["redaction"] = redactor.report().to_dict()
        step.note(redactor.report().summary())
    counts = step.counts
    step.by_source[family] = {"read": counts.read, "out": counts.out, "filtered": counts.filtered,
                              "duplicates": counts.duplicates, "quarantined": counts.quarantined}  # fmt: skip
    step.by_domain[DOMAIN] = counts.out
    step.details["turns"] = dict(sorted(turns.items()))
    step.details["filtered"] = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def _tally(turns: dict[str, dict[str, int]], talk: Conversation, fate: str) -> None:
    """Count the turns of a conversation by role and fate."""
    for turn in talk.turns:
        mine = turns.setdefault(turn.role, {"used": 0, "left out": 0})
        mine[fate] += 1

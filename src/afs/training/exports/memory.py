"""Memory entries: `<memory root>/**/*.{jsonl,json,md,txt}`, by default below `~/.context/memory`.

An entry with a question and an answer becomes a sample. Raw notes (content only) are taken with `allow_raw` when one
of their tags is in `allow_raw_tags`; files of plain text have no tags and are taken when that list is empty.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from afs.generators.base import TrainingSample
from afs.step import How
from afs.training.exports import logs
from afs.training.exports.agents import split_options
from afs.training.exports.logs import MAX_LINE, Coverage, Found, LogReader
from afs.training.exports.run import Export, ExportResult, run_export
from afs.training.exports.views import Made

_ASK, _ANSWER = ("instruction", "prompt", "user", "question"), ("output", "response", "assistant", "answer")
_RAW, _TAGS = ("content", "text"), ("tags", "labels", "tag")
_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".md", ".txt")
DEFAULT_INSTRUCTION = "What do you remember about this?"


def context_root() -> Path:
    """`$AFS_CONTEXT_ROOT`, else `~/.context`."""
    return Path(os.environ.get("AFS_CONTEXT_ROOT") or "~/.context").expanduser()


def export_memory_to_jsonl(
    output_path: Path | str,
    memory_root: Path | str | None = None,
    *,
    allow_raw: bool = False,
    allow_raw_tags: tuple[str, ...] | list[str] | None = None,
    include_tags: tuple[str, ...] | list[str] = (),
    exclude_tags: tuple[str, ...] | list[str] = (),
    default_instruction: str = DEFAULT_INSTRUCTION,
    how: How | None = None,
    **options: Any,
) -> ExportResult:
    """Memory entries as samples.

    Args:
        memory_root: default `~/.context/memory`.
        allow_raw: also notes without a question; `default_instruction` is asked then.
        allow_raw_tags: tags that admit a note, default `allow_raw`; an empty list admits all.
        include_tags, exclude_tags: only, or not, entries with one of these tags.

    Raises:
        StepError: no file or no row.
    """
    root = Path(memory_root).expanduser() if memory_root else context_root() / "memory"
    shape, chosen = split_options(options, domain="memory", source="memory")
    coverage = Coverage()
    raw_tags = ["allow_raw"] if allow_raw_tags is None else list(allow_raw_tags)
    settings = {
        "allow_raw": allow_raw, "allow_raw_tags": raw_tags, "include": list(include_tags),
        "exclude": list(exclude_tags), "default_instruction": default_instruction, "domain": shape.domain,
    }  # fmt: skip
    files = logs.readable(logs.walk(root, _wanted, coverage), coverage) if root.is_dir() else []

    def units(reader: LogReader) -> Iterator[Made]:
        for item in files:
            name = reader.name(item.name)
            for line, entry in _entries(reader, item):
                yield _made(reader, entry, name, line, settings, shape.source)

    export = Export("memory-export", files, units, coverage, chosen, settings, [str(root)],
                    "Check it with ls, or name the folder with --memory-root.")  # fmt: skip
    return run_export(export, output_path, how)


def _wanted(name: str) -> bool:
    return name.endswith(_ENDINGS) and not any(part.startswith(".") for part in name.split("/"))


def _entries(reader: LogReader, item: Found) -> Iterator[tuple[int, dict[str, Any]]]:
    """The entries of a file with their line (0 for files that are one entry)."""
    if item.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        for line, value in reader.records(item):
            yield line, value
        return
    reader.begin()
    size = item.path.stat().st_size
    if size > MAX_LINE:
        reader.coverage.problem(item.path, f"{size} bytes in one value, the limit is {MAX_LINE}")
        return
    raw = item.path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        value = orjson.loads(raw) if item.name.endswith(".json") else {"text": raw.decode("utf-8"), "_file": True}
    except (orjson.JSONDecodeError, UnicodeDecodeError) as error:
        reader.coverage.problem(item.path, f"cannot be read as {item.path.suffix[1:]}: {error}")
        return
    value = reader.clean(value)
    found = value.get("entries", value.get("memories", value)) if isinstance(value, dict) else value
    for number, entry in enumerate(found if isinstance(found, list) else [found], 1):
        if isinstance(entry, dict):
            yield number if isinstance(found, list) else 0, entry
        else:
            reader.take(item, number, entry, _refuse)


def _refuse() -> None:
    raise TypeError("an entry must be an object")


def _first(entry: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((entry[k] for k in keys if isinstance(entry.get(k), str) and entry[k].strip()), "")


def _made(
    reader: LogReader, entry: dict[str, Any], name: str, line: int, settings: dict[str, Any], source: str
) -> Made:
    tags = next((entry[k] for k in _TAGS if entry.get(k)), [])
    tags = [tags] if isinstance(tags, str) else tags if isinstance(tags, list) else []
    tags = [tag for tag in tags if isinstance(tag, str)]
    ask, answer = _first(entry, _ASK), _first(entry, _ANSWER)
    kind = "entry" if ask and answer else "note"
    if settings["include"] and not set(tags) & set(settings["include"]):
        return _skip(reader, kind, "no tag of --include-tag")
    if set(tags) & set(settings["exclude"]):
        return _skip(reader, kind, "a tag of --exclude-tag")
    if not (ask and answer):
        raw = answer or _first(entry, _RAW)
        if not raw:
            return _skip(reader, "entry without text", "entry without text")
        if not settings["allow_raw"]:
            return _skip(reader, kind, "note without a question (--allow-raw takes them)")
        if settings["allow_raw_tags"] and not set(tags) & set(settings["allow_raw_tags"]):
            return _skip(reader, kind, "note without a tag of --allow-raw-tag")
        ask, answer = ask or str(entry.get("title") or settings["default_instruction"]), raw
    about = dict(entry["_metadata"]) if isinstance(entry.get("_metadata"), dict) else {}
    about |= {"memory_source_path": name, "memory_tags": tags}
    about |= {"memory_confidence": entry["confidence"]} if isinstance(entry.get("confidence"), int | float) else {}
    about |= {"line": line} if line else {}
    about |= {"memory_id": entry["id"]} if isinstance(entry.get("id"), str) else {}
    score = entry.get("quality_score")
    reader.coverage.count(kind, logs.USED)
    return Made(TrainingSample(
        instruction=ask, output=answer, input=_first(entry, ("input",)), thinking=_first(entry, ("thinking",)) or None,
        domain=_first(entry, ("domain",)) or settings["domain"], source=_first(entry, ("source",)) or source,
        sample_id=_first(entry, ("sample_id",)), timestamp=_first(entry, ("timestamp",)), _metadata=about,
        quality_score=float(score) if isinstance(score, int | float) and not isinstance(score, bool) else 0.0,
    ))  # fmt: skip


def _skip(reader: LogReader, kind: str, reason: str) -> Made:
    reader.coverage.count(kind, logs.SKIPPED)
    return Made(None, "filtered", reason)

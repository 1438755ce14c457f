"""Whole files into a training format, and back: `afs training convert`.

    convert_file("train.jsonl", format="sharegpt")             # train_sharegpt.jsonl, train_sharegpt.jsonl.meta.jsonl
    convert_back("train_sharegpt.jsonl", output="same_as_before.jsonl")

Line n + 1 of the meta file holds what row n of the output cannot; its first line holds the format and its options.
Losing thinking or an answer needs `allow_loss`; losing metadata does not, since the meta file keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afs.engine import run_parts
from afs.generators.base import TrainingSample
from afs.jsonl import AtomicWriter, BadRow, file_stem, open_rows, read_rows
from afs.rows import LineNumbers, parts_of, plain_files
from afs.step import How, Report, Step, StepError, UsageError, add_tallies, expand, read_manifest
from afs.training.converters.convert import Converter, get_converter
from afs.training.converters.fast import SHOWN, Done, PartConverter
from afs.training.converters.formats import ConversionError

META = ".meta.jsonl"
_SPLITS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}
_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")


@dataclass
class ConvertResult:
    """What a conversion did.

    Attributes:
        kept: rows per field that the format cannot hold and that the meta file keeps (fields with a value only).
        lost: rows per text ("thinking", "rejected") that the output does not have; they are in the meta file.
        meta: the meta file, or None when the format holds everything.
    """

    output: Path
    format: str
    kept: dict[str, int]
    lost: dict[str, int]
    meta: Path | None
    report: Report

    @property
    def rows(self) -> int:
        """Rows written."""
        return self.report.counts.out

    def summary(self) -> str:
        """Counts, then the loss report."""
        lines = [self.report.summary(), f"{self.format}: {self.output}"]
        if self.kept:
            listed = ", ".join(f"{name} ({n:,})" for name, n in sorted(self.kept.items()))
            lines.append(f"not in the format, kept in {self.meta}: {listed}")
        lines += [f"not in the output: {name} of {n:,} rows" for name, n in sorted(self.lost.items())]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Foreign:
    """A converter of another package, seen as one of ours: its rows are kept whole, so that there is a way back."""

    inner: Any
    name: str
    extension: str = ".jsonl"
    layout: str = "file"

    def convert_row(self, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
        drops = getattr(self.inner, "drops", ())
        thought = "thinking" in drops and bool(row.get("thinking"))
        sample = TrainingSample.from_dict(row) if {"instruction", "output"} <= row.keys() else row
        return self.inner.convert(sample), {"original": row}, "thinking" if thought else ""

    def back(self, _out: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
        return record["original"]


class _Meta:
    """Numbers the records as they come and makes the file only when one of them says something."""

    def __init__(self, step: Step, path: Path, header: dict[str, Any]) -> None:
        self.step, self.path, self.header = step, path, header
        self.rows, self.writer = 0, None

    def write_bytes(self, block: bytes, rows: int) -> None:
        first = self.rows + 1
        self.rows += rows
        if self.writer is None:
            if len(block) == 2 * rows:  # nothing but "}" on each line
                return
            self.writer = self.step.writer(self.path)
            self.writer.__enter__()
            self.writer.write({"row": 0, **self.header})
            self.writer.write_all([b'{"row":%d}' % n for n in range(1, first)])
        lines = block.split(b"\n")
        lines.pop()
        self.writer.write_all([b'{"row":%d%b' % pair for pair in enumerate(lines, first)])

    def __enter__(self) -> _Meta:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.writer is not None:
            self.writer.__exit__(*error)
        elif error[0] is None and not self.step.how.dry_run:
            self.path.unlink(missing_ok=True)  # of an earlier run; this one has nothing to keep


def convert_file(
    input_path: Path | str,
    output_path: Path | str | None = None,
    format: str = "alpaca",
    thinking: str = "separate",
    system: str | None = None,
    template: str | None = None,
    allow_loss: bool = False,
    how: How | None = None,
    converter: Any = None,
) -> ConvertResult:
    """Convert a JSONL file.

    Args:
        output_path: default `<stem>_<format>.jsonl` beside the input. For the folder layouts (mlx) a name without
            ending is a folder, and the file in it is named by the split: train, valid or test.jsonl.
        thinking: "none", "separate", "embedded" or "special_tokens".
        system: system message of rows that have none; none is added by default.
        allow_loss: accept that the output lacks `thinking` or the rejected answer.
        converter: used instead of `format`, `thinking`, `system` and `template`.

    Raises:
        UsageError: no such format, option, input, or an output that is an input.
        StepError: no row could be converted, or text would be lost without `allow_loss`.
    """
    source = expand(input_path)
    made = _converter(converter, format, thinking, system, template)
    target = _output(source, None if output_path is None else expand(output_path), made)
    parameters = {"format": made.name, "thinking": getattr(made, "thinking", thinking), "template": template,
                  "system": getattr(made, "system", system), "allow_loss": allow_loss}  # fmt: skip
    if made.extension == ".parquet":
        from afs.training.converters.parquet import write_parquet

        return write_parquet(source, target, parameters, how)
    meta = target.with_name(target.name + META)
    if meta.resolve() == source.resolve():
        raise UsageError(f"the meta file {meta} is also the input; choose another output")
    try:
        return _run(source, target, meta, made, parameters, allow_loss, how)
    except _NeedsPaddingError:
        made.pad = True
        return _run(source, target, meta, made, parameters, allow_loss, how)


class _NeedsPaddingError(Exception):
    """Thinking turned up after rows without; written again so that all rows have the same keys."""


def _run(source: Path, target: Path, meta: Path, made: Any, parameters: dict[str, Any], allow_loss: bool,
         how: How | None) -> ConvertResult:  # fmt: skip
    with Step("convert", [source], [target], parameters, how=how) as step:
        if not step.current:
            own_key = isinstance(made, Converter) and made.own_key
            if own_key and not made.pad:
                # Loaders take the columns of the first rows for those of all rows.
                made.pad = _begins_with_thinking(source)
            header = {**parameters, "pad": getattr(made, "pad", False)}
            with step.writer(target) as out, _Meta(step, meta, header) as kept:
                seen = _convert_parts(step, made, allow_loss, out, kept)
                if own_key and seen.thinking and not made.pad:
                    raise _NeedsPaddingError
                _finish(step, source, made, seen, kept)
    return _result(made.name, target, step.report)


def _convert_parts(step: Step, made: Any, allow_loss: bool, out: Any, meta: _Meta) -> Done:
    """All parts in order into the two writers; returns the sums."""
    total, numbers = Done(), LineNumbers()
    function = PartConverter(made, allow_loss)
    with plain_files(step.inputs) as plain:
        parts = parts_of(plain, [str(path) for path in step.inputs])
        for part, done in zip(parts, run_parts(function, parts, step.how.workers, step.how.engine), strict=True):
            for bad in numbers.of(part, done.bad, done.counts):
                step.on_bad(bad)
            step.counts.add(done.counts)
            out.write_bytes(done.out[0], done.counts.out)
            meta.write_bytes(done.records[0], done.counts.out)
            fates = {source: {"read": n, "out": n} for source, n in done.sources.items()}
            for source, n in done.refused_of.items():
                fate = fates.setdefault(source, {"read": 0})
                fate["read"] += n
                fate["quarantined"] = n
            add_tallies(step.by_source, fates)
            for domain, n in done.domains.items():
                step.by_domain[domain] = step.by_domain.get(domain, 0) + n
            total.kept.update(done.kept)
            total.lost.update(done.lost)
            total.refused += done.refused
            total.thinking += done.thinking
            step.advance(part.end - part.start)
    return total


def _converter(given: Any, format: str, thinking: str, system: str | None, template: str | None) -> Any:
    if given is None:
        try:
            given = get_converter(format, cot_mode=thinking, system=system, template=template)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if isinstance(given, Converter):
        return Converter(given.target, given.thinking, given.system)
    return _Foreign(given, getattr(given, "name", format))


def _finish(step: Step, source: Path, made: Any, seen: Done, meta: _Meta) -> None:
    lost, refused = seen.lost, seen.refused
    if refused:
        where = ", ".join(f"{source}:{line_of(source, offset)}" for offset, _ in refused[:SHOWN])
        what = " and ".join(f"{name} of {n:,} rows" for name, n in sorted(lost.items()))
        other = "; --thinking embedded or special_tokens keeps it" if "thinking" in lost else ""
        raise StepError(f"format {made.name} would lose {what} (first: {where}){other}. To accept the loss, "
                        "repeat with --allow-loss; nothing was written")  # fmt: skip
    if not step.counts.out:
        raise StepError(f"no row of {source} could be converted to {made.name}: {step.counts.read:,} read, "
                        f"{step.counts.quarantined:,} refused. `afs training validate` lists the reasons")  # fmt: skip
    step.details |= {"kept": dict(sorted(seen.kept.items())), "lost": dict(sorted(lost.items())),
                     "meta": meta.path.name if meta.writer is not None else None}  # fmt: skip


def _result(name: str, target: Path, report: Report) -> ConvertResult:
    meta = report.details.get("meta")
    return ConvertResult(target, name, report.details.get("kept", {}), report.details.get("lost", {}),
                         target.with_name(meta) if meta else None, report)  # fmt: skip


def _output(source: Path, output: Path | None, made: Any) -> Path:
    if output is None:
        return source.with_name(f"{file_stem(source)}_{made.name}{made.extension}")
    if made.layout == "folder" and (output.is_dir() or not output.suffix):
        return output / f"{_SPLITS.get(file_stem(source), 'train')}.jsonl"
    if output.is_dir():
        return output / f"{file_stem(source)}_{made.name}{made.extension}"
    return output


def convert_folder(folder: Path | str, output: Path | str | None = None, **options: Any) -> list[ConvertResult]:
    """Convert the splits of a folder (train, val, test.jsonl) into a folder `<folder>_<format>`.

    Folder layouts (mlx) name the validation split valid.jsonl; the others keep the names.

    Raises:
        UsageError: the folder holds no split.
    """
    folder = expand(folder)
    files = [path for path in sorted(folder.iterdir()) if path.name.endswith(_ENDINGS)]
    found = [path for path in files if file_stem(path) in _SPLITS]
    if not found:
        raise UsageError(f"{folder} holds no train, val or test.jsonl; name a file, or split it first with "
                         "`afs training prepare`")  # fmt: skip
    made = _converter(options.pop("converter", None), options.get("format", "alpaca"),
                      options.get("thinking", "separate"), options.get("system"), options.get("template"))  # fmt: skip
    where = expand(output) if output is not None else folder.with_name(f"{folder.name}_{made.name}")
    targets: dict[str, Path] = {}
    for path in found:
        name = _SPLITS[file_stem(path)] if made.layout == "folder" else file_stem(path)
        if name in targets:
            raise UsageError(f"{targets[name].name} and {path.name} would both become {name}{made.extension}; move one "
                             f"of them out of {folder}")  # fmt: skip
        targets[name] = path
    # A split may be empty (a test share of 0, few rows); a file that holds nothing is left out.
    return [convert_file(path, where / f"{name}{made.extension}", **options) for name, path in targets.items()
            if path.stat().st_size or len(targets) == 1]  # fmt: skip


def _begins_with_thinking(path: Path) -> bool:
    """Whether any of the first rows has a thinking with text."""
    with open_rows(path) as source:
        block = source.read(1 << 20)
    return re.search(rb'"(thinking|reasoning_content)": ?"[^"]', block) is not None


def line_of(path: Path, offset: int) -> int:
    """1-based line of the row at a byte offset."""
    line, left = 1, offset
    with open_rows(path) as source:
        while left and (block := source.read(min(left, 1 << 20))):
            line, left = line + block.count(b"\n"), left - len(block)
    return line


# --- back -----------------------------------------------------------------------------------------------------------

def convert_back(
    converted: Path | str,
    meta: Path | str | None = None,
    output: Path | str | None = None,
    format: str | None = None,
    how: How | None = None,
) -> Report:
    """Restore the rows that a converted file was made from.

    Args:
        meta: default `<converted>.meta.jsonl`; without one, what the format's own texts say.
        output: default `<stem>_restored.jsonl`.
        format: only needed when there is neither a meta file nor a manifest.

    Raises:
        UsageError: the format is not known from any of them.
        StepError: the two files do not belong together.
    """
    source = expand(converted)
    target = expand(output) if output is not None else source.with_name(f"{file_stem(source)}_restored.jsonl")
    meta_path = expand(meta) if meta is not None else source.with_name(source.name + META)
    if source.suffix == ".parquet":
        from afs.training.converters.parquet import read_parquet

        return read_parquet(source, target, how)
    with_meta = meta_path.exists()
    if meta is not None and not with_meta:
        raise UsageError(f"meta file {meta_path} does not exist; leave it out to restore the texts only")
    header = _header(meta_path) if with_meta else _from_manifest(source, format)
    made = get_converter(header["format"], cot_mode=header["thinking"], system=header["system"],
                         template=header["template"])  # fmt: skip
    if isinstance(made, Converter):
        made.pad = header.get("pad", False)
    else:
        made = _Foreign(made, header["format"])
    inputs = [source, meta_path] if with_meta else [source]
    with Step("convert-back", inputs, [target], {**header, "format": made.name}, how=how, rowless=True) as step:
        if step.current:
            return step.report
        with step.writer(target) as out:
            _restore(step, made, source, meta_path if with_meta else None, out)
        step.counts.out = out.rows
    return step.report


def _restore(step: Step, made: Any, source: Path, meta_path: Path | None, out: AtomicWriter) -> None:
    records = _records(meta_path) if meta_path else None
    for number, row in enumerate(read_rows(source, step.on_bad, step.counts), 1):
        record = None
        if records is not None:
            record = next(records, None)
            if record is None or record.get("row") != number:
                raise StepError(f"{meta_path} has no record of row {number} of {source}; they do not belong together")
            del record["row"]
        try:
            out.write(made.back(row.value, record))
        except (ConversionError, KeyError, TypeError) as error:
            raise StepError(f"{source}:{row.line}: no way back: {error}. Is {source} as `convert` wrote it?") from error
    if records is not None and next(records, None) is not None:
        raise StepError(f"{meta_path} has more records than {source} has rows; they do not belong together")


def _refuse(row: BadRow) -> None:
    raise StepError(f"{row.file}:{row.line}: {row.reason}; a meta file is never edited")


def _records(path: Path) -> Iterator[dict[str, Any]]:
    rows = read_rows(path, _refuse)
    next(rows)
    return (row.value for row in rows)


def _header(path: Path) -> dict[str, Any]:
    first = next(read_rows(path, _refuse), None)
    if first is None or first.value.get("row") != 0 or "format" not in first.value:
        raise UsageError(f"{path} is no meta file of a conversion: its first line must hold the format")
    return {key: first.value.get(key) for key in ("format", "thinking", "system", "template", "pad")}


def _from_manifest(source: Path, format: str | None) -> dict[str, Any]:
    manifest = read_manifest(source.with_name(source.name + ".manifest.json"))
    if manifest is not None and manifest.get("step") == "convert":
        return {"pad": False, **manifest["parameters"]}
    if format is None:
        raise UsageError(f"{source} has neither a meta file nor a manifest; name its format with --format")
    return {"format": format, "thinking": "separate", "system": None, "template": None}

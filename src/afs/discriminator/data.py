"""Training data for the discriminator: routines of real 65816 sources and their broken twins.

    afs discriminator data --sources ~/src/game --output training_data/electra.jsonl

A row is `{"text", "label": 0 real | 1 fake, "corruption", "group", "line", "split", "changes"}`. The group is the
source file: train, val and test never share one, so a routine and its twin never part. Classes and kinds of
corruption are balanced within each split, as far as the sources allow; the report has the counts.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from afs.discriminator.blocks import Block, source_blocks
from afs.discriminator.corrupt import KINDS, Corruption, corrupt
from afs.discriminator.opcodes import split_comment
from afs.jsonl import read_rows
from afs.step import How, Report, Step, StepError, UsageError, expand

SUFFIXES = (".asm", ".s", ".inc", ".65s", ".a65")
SPLITS = ("train", "val", "test")
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class DataReport:
    """What `make_data` wrote; `details` has rows per split, class and corruption, and what was left out and why."""

    report: Report

    @property
    def details(self) -> dict[str, Any]:
        return self.report.details

    def summary(self) -> str:
        return "\n".join([f"discriminator data: {self.report.outputs[0]['rows']:,} rows", *self.report.notes])


@dataclass(frozen=True)
class Source:
    path: Path
    group: str


def find_sources(sources: Sequence[Path | str]) -> tuple[list[Source], Counter[str]]:
    """The assembly files in files and folders, in order, and what was passed over. Links are not followed.

    Raises:
        UsageError: a source does not exist, or none holds an assembly file.
    """
    found, left = [], Counter()
    roots = [expand(source) for source in sources]
    names = Counter(root.resolve().name for root in roots)
    for number, root in enumerate(roots):
        if not root.exists():
            raise UsageError(f"source {root} does not exist; name a file or a folder with {', '.join(SUFFIXES)} files")
        name = root.resolve().name
        name = name if names[name] == 1 else f"{number}:{name}"
        if root.is_file():
            found.append(Source(root, name))
            continue
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for file in sorted(files):
                path = Path(folder) / file
                if path.suffix.lower() not in SUFFIXES:
                    continue
                if path.is_symlink():
                    left["symbolic link"] += 1
                    continue
                if not path.is_file():
                    left["no plain file (a pipe, socket or device)"] += 1
                    continue
                if not os.access(path, os.R_OK):
                    left["file that may not be read"] += 1
                    continue
                found.append(Source(path, f"{name}/{path.relative_to(root).as_posix()}"))
    if not found:
        raise UsageError(f"no assembly file ({', '.join(SUFFIXES)}) in {', '.join(map(str, roots))}")
    return found, left


def make_data(
    sources: Sequence[Path | str],
    output: Path | str,
    fake_ratio: float = 0.5,
    min_lines: int = 3,
    max_lines: int = 50,
    seed: int = 42,
    how: How | None = None,
) -> DataReport:
    """Write real and broken routines as JSONL.

    Args:
        sources: files and folders of assembly.
        fake_ratio: share of broken routines in the output, above 0 and below 1.
        min_lines: instructions that a routine has at least.
        max_lines: lines that a piece has at most.

    Raises:
        UsageError: no source, or a setting out of range.
        StepError: no routine could be used.
    """
    if not 0 < fake_ratio < 1:
        raise UsageError(f"--fake-ratio must be above 0 and below 1, not {fake_ratio}")
    if not 1 <= min_lines <= max_lines:
        raise UsageError(f"--min-lines must be from 1 to --max-lines, not {min_lines} with {max_lines}")
    found, left = find_sources(sources)
    parameters = {"fake_ratio": fake_ratio, "min_lines": min_lines, "max_lines": max_lines,
                  "groups": [s.group for s in found]}  # fmt: skip
    with Step("discriminator-data", [s.path for s in found], [output], parameters, seed=seed, how=how,
              rowless=True) as step:  # fmt: skip
        if step.current:
            return DataReport(step.report)
        reader = _Reader(found, min_lines, max_lines, left)
        known, sizes = reader.survey()
        splits = split_groups(sizes, seed)
        counts: Counter[tuple[str, str]] = Counter()
        with step.writer(output) as out:
            for row in _rows(reader, splits, known, fake_ratio, seed, counts):
                out.write(row)
            if not out.rows:
                why = "; ".join(f"{n:,} {reason}" for reason, n in sorted(left.items())) or "none was found"
                raise StepError(f"no routine of {min_lines} or more instructions could be used: {why}")
        _report(step, splits, counts, left, max_lines)
    return DataReport(step.report)


class _Reader:
    """Reads the files twice: once for words and sizes, once for the routines. Doubles are passed over both times."""

    def __init__(self, sources: list[Source], min_lines: int, max_lines: int, left: Counter[str]) -> None:
        self.sources, self.min_lines, self.max_lines, self.left = sources, min_lines, max_lines, left

    def survey(self) -> tuple[set[str], dict[str, int]]:
        """Every word of the project in lower case, and the routines per group."""
        known: set[str] = set()
        sizes: dict[str, int] = {}
        for source, text in self._texts(self.left):
            known.update(word.lower() for word in _WORD.findall(text))
            sizes[source.group] = 0
        for source, _block in self.blocks(self.left):
            sizes[source.group] += 1
        return known, {group: n for group, n in sizes.items() if n}

    def _texts(self, left: Counter[str]) -> Iterator[tuple[Source, str]]:
        for source in self.sources:
            raw = source.path.read_bytes()
            if b"\0" in raw:
                left["binary file"] += 1
                continue
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError:
                # Comments in another code page; the code itself is ASCII.
                left["file not in UTF-8 (read as Latin-1)"] += 1
                text = raw.decode("latin-1")
            yield source, text

    def blocks(self, left: Counter[str]) -> Iterator[tuple[Source, Block]]:
        seen: set[bytes] = set()
        for source, text in self._texts(Counter()):
            for block in source_blocks(text, self.min_lines, self.max_lines):
                key = _core(block.text)
                if key in seen:
                    left["repeated routine"] += 1
                    continue
                seen.add(key)
                yield source, block


def _core(text: str) -> bytes:
    """A key that is equal for routines that differ in comments, spaces and letter case only."""
    lines = (" ".join(split_comment(line)[0].lower().split()) for line in text.splitlines())
    return hashlib.sha256("\n".join(line for line in lines if line).encode()).digest()[:16]


def split_groups(sizes: dict[str, int], seed: int) -> dict[str, str]:
    """A split for each group: in seeded order, each goes where most rows are wanting. With three or more groups no
    split is empty; with fewer all of them are for training."""
    if len(sizes) < len(SPLITS):
        return dict.fromkeys(sizes, "train")
    total = sum(sizes.values())
    wanting = {split: share * total for split, share in SHARES.items()}
    order = sorted(sizes, key=lambda g: hashlib.sha256(f"{seed}:{g}".encode()).digest())
    found = {}
    for group in order:
        split = max(SPLITS, key=wanting.__getitem__)
        found[group] = split
        wanting[split] -= sizes[group]
    for split in SPLITS:
        if split not in found.values():
            members = Counter(found.values())
            donor = max(SPLITS, key=members.__getitem__)
            found[min((g for g in order if found[g] == donor), key=sizes.__getitem__)] = split
    return found


def _rows(
    reader: _Reader, splits: dict[str, str], known: set[str], fake_ratio: float, seed: int,
    counts: Counter[tuple[str, str]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    per_real = fake_ratio / (1 - fake_ratio)
    owed = dict.fromkeys(SPLITS, 0.0)
    for source, block in reader.blocks(Counter()):
        split = splits[source.group]
        owed[split] += per_real
        wanted = int(owed[split] + 1e-9)
        rng = np.random.default_rng([seed, int.from_bytes(_core(block.text)[:8], "big")])
        twins = _twins(block.text, max(wanted, 1), split, rng, known, counts)
        if not twins:
            owed[split] -= per_real
            reader.left["routine that no corruption applies to"] += 1
            continue
        twins = twins[:wanted]
        owed[split] -= len(twins)
        counts[split, "real"] += 1
        base = {"group": source.group, "line": block.line, "split": split}
        yield {"text": block.text, "label": 0, "corruption": None, **base, "changes": []}
        for twin in twins:
            counts[split, twin.kind] += 1
            yield {"text": twin.text, "label": 1, "corruption": twin.kind, **base,
                   "changes": [list(change) for change in twin.changes]}  # fmt: skip


def _twins(
    text: str, wanted: int, split: str, rng: np.random.Generator, known: set[str], counts: Counter[tuple[str, str]]
) -> list[Corruption]:
    """Broken twins of different kinds, the kinds that the split has fewest of first."""
    found: list[Corruption] = []
    for kind in sorted(KINDS, key=lambda k: (counts[split, k], KINDS.index(k))):
        made = corrupt(text, kind, rng, known)
        if made and all(made.text != other.text for other in found):
            found.append(made)
            if len(found) >= wanted:
                break
    return found


def _report(
    step: Step, splits: dict[str, str], counts: Counter[tuple[str, str]], left: Counter[str], max_lines: int
) -> None:
    files = Counter(splits.values())
    table = {split: {"files": files[split], "real": counts[split, "real"],
                     **{kind: counts[split, kind] for kind in KINDS}} for split in SPLITS}  # fmt: skip
    step.details.update(splits=table, left=dict(sorted(left.items())), max_lines=max_lines)
    for split, row in table.items():
        fakes = sum(row[kind] for kind in KINDS)
        kinds = ", ".join(f"{kind} {row[kind]:,}" for kind in KINDS)
        step.note(f"  {split}: {row['real']:,} real and {fakes:,} fake from {row['files']:,} files ({kinds})")
    if len(splits) < len(SPLITS):
        step.note(f"only {len(splits)} source file(s): all rows are for training, nothing is held out; a model trained "
                  f"on them cannot be judged. Give at least {len(SPLITS)} files")  # fmt: skip
    for reason, n in sorted(left.items()):
        step.note(f"  left out: {n:,} × {reason}")


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """One row: the text, 0 real or 1 fake, the kind of corruption ("" for real ones), the group and the split.

    A real routine and its broken twins have the same `twin`.
    """

    text: str
    label: int
    corruption: str
    group: str
    split: str
    twin: str = ""


def load_examples(path: Path | str) -> list[Example]:
    """The rows of a data file. Rows without group count as one group each, rows without split as training rows.

    Raises:
        UsageError: no such file.
        StepError: a row is bad; the message names file, line and byte.
    """
    path = expand(path)
    if not path.is_file():
        raise UsageError(f"training data {path} does not exist; make it with `afs discriminator data`")

    def refuse(row: Any) -> None:
        raise StepError(f"{row.file}:{row.line} (byte {row.offset}): {row.reason}; make the file anew with "
                        f"`afs discriminator data`")  # fmt: skip

    found = []
    for row in read_rows(path, refuse):
        text, label = row.value.get("text"), row.value.get("label")
        if not isinstance(text, str) or label not in (0, 1):
            raise StepError(f"{path}:{row.line} (byte {row.offset}): a row needs 'text' and 'label' 0 (real) or 1 "
                            f"(fake)")  # fmt: skip
        group = str(row.value.get("group") or f"row {row.line}")
        found.append(Example(text, int(label), row.value.get("corruption") or "", group,
                             str(row.value.get("split") or "train"), f"{group}:{row.value.get('line')}"))  # fmt: skip
    if not found:
        raise StepError(f"{path} has no rows; make it with `afs discriminator data`")
    return found

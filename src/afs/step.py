"""One run of a refinery step: named inputs, atomic outputs, counts that balance, a manifest last.

    with Step("dedup", [source], [target], {"near": 0.8}, how=how) as step:
        if step.current:       # same inputs, parameters, seed and code as the manifest beside the output
            return step.report
        with step.writer(target) as out: ...
        step.counts.out = out.rows
    return step.report

A step either ends with all its outputs and a manifest `<output>.manifest.json`, or leaves what was there before.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import xxhash

from afs.engine import run_parts
from afs.jsonl import (
    MAX_LINE,
    AtomicWriter,
    BadRow,
    ConservationError,
    Counts,
    Quarantine,
    Row,
    file_sha256,
    file_stem,
    read_rows,
)

MANIFEST = ".manifest.json"
FATES = ("out", "filtered", "duplicates", "quarantined")


class UsageError(ValueError):
    """The command was asked for something that cannot be; nothing was read or written (exit code 2)."""


class StepError(RuntimeError):
    """The step failed and its outputs are as before (exit code 1)."""


@dataclass(frozen=True)
class How:
    """How a step runs; none of this changes the bytes that it writes.

    Attributes:
        workers: processes, 0 = one per CPU.
        engine: "local" or "ray".
        strict: the first quarantined row fails the step.
        dry_run: count and report, write nothing.
        force: run even when the outputs are current.
        progress: show a bar with the time left on a terminal.
    """

    workers: int = 1
    engine: str = "local"
    strict: bool = False
    dry_run: bool = False
    force: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UsageError(f"workers must be 0 (one per CPU) or more, not {self.workers}")


@dataclass
class Report:
    """What a step did. `notes` are sentences for a person; `details` are the step's own numbers."""

    step: str
    key: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    parameters: dict[str, Any]
    seed: int | None
    code: str
    counts: Counts
    by_source: dict[str, dict[str, int]]
    by_domain: dict[str, int]
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    quarantine: str | None = None
    current: bool = False
    dry_run: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The manifest's content (without `current` and `dry_run`, which are of this run only)."""
        found = asdict(self)
        del found["current"], found["dry_run"]
        return found

    def summary(self) -> str:
        """The counts as one line, then the notes."""
        c = self.counts
        name = f"{self.step} → {self.outputs[0]['path']}" if self.outputs else self.step
        line = (f"{name}: {c.read:,} in = {c.out:,} out + {c.filtered:,} filtered + {c.duplicates:,} duplicate "
                f"+ {c.quarantined:,} quarantined")  # fmt: skip
        if self.dry_run:
            line += " (dry run: nothing was written)"
        if self.current:
            line = f"{name}: nothing to do, the outputs are current (key {self.key})"
        return "\n".join([line, *self.notes])


@cache
def code_version() -> str:
    """Version of the package and a hash of its source, so that a changed step is never taken for current."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    try:
        version = metadata.version("realm-of-training")
    except metadata.PackageNotFoundError:
        version = "0"
    return f"{version}+{digest.hexdigest()[:12]}"


def content_hash(path: Path) -> str:
    """Hex XXH3-128 of a file's bytes: tells inputs apart at a seventh of SHA-256's cost (outputs carry SHA-256)."""
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as source:
        while block := source.read(1 << 18):
            digest.update(block)
    return digest.hexdigest()


def expand(path: Path | str) -> Path:
    """The path with `~` resolved."""
    return Path(path).expanduser()


def safe_text(text: str) -> str:
    """Text that cannot command a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


class Step:
    """A context manager around one run of a step (see the module).

    Args:
        name: the step's name in manifest and messages.
        inputs: files that are read; `.gz` and `.zst` are fine.
        outputs: files that the step will write, the main one first.
        folder: where `manifest.json` lies, for steps with several outputs; default beside the main output.
        parameters: everything that decides the bytes of the output, JSON values only.
        seed: of every random choice.
        rowless: True for steps whose outputs are no rows of the inputs (conservation is then not checked).
        beside: further files that the step may write or remove.
        afresh: True when the outputs on the disk do not count as current.

    Raises:
        UsageError: an input is missing, is a folder, or is also an output or a file beside one; two outputs are one.
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[Path | str],
        outputs: Sequence[Path | str],
        parameters: dict[str, Any],
        *,
        seed: int | None = None,
        how: How | None = None,
        folder: Path | str | None = None,
        rowless: bool = False,
        beside: Sequence[Path] = (),
        afresh: bool = False,
    ) -> None:
        self.how = how or How()
        self.name, self.seed, self.rowless = name, seed, rowless
        self.inputs = [_input(path) for path in inputs]
        self.outputs = [expand(path) for path in outputs]
        main = self.outputs[0]
        self.manifest = expand(folder) / "manifest.json" if folder else main.with_name(main.name + MANIFEST)
        stem = expand(folder).name if folder else file_stem(main)
        self.quarantine_path = main.with_name(f"{stem}.quarantine.jsonl")
        _refuse_same(self.inputs, self.outputs, [self.quarantine_path, self.manifest, *beside])
        self.parameters = parameters
        self.counts = Counts()
        self.by_source: dict[str, dict[str, int]] = {}
        self.by_domain: dict[str, int] = {}
        self.details: dict[str, Any] = {}
        self.notes: list[str] = []
        self._written: list[AtomicWriter] = []
        self._hashed = [{"path": str(p), "xxh128": content_hash(p), "bytes": p.stat().st_size} for p in self.inputs]
        self.key = self._key()
        self.report: Report | None = None
        self.current = not (afresh or self.how.force or self.how.dry_run) and self._is_current()

    def _key(self) -> str:
        parts = {"step": self.name, "inputs": [f["xxh128"] for f in self._hashed], "parameters": self.parameters,
                 "seed": self.seed, "code": code_version()}  # fmt: skip
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def _is_current(self) -> bool:
        old = read_manifest(self.manifest)
        if old is None or old.get("key") != self.key:
            return False
        if self.how.strict and old["counts"]["quarantined"]:
            return False  # --strict asks for the first bad row
        names = {str(Path(f["path"])) for f in old["outputs"]}
        if not names >= {str(self._called(path)) for path in self.outputs}:
            return False
        for found in old["outputs"]:
            path = self.manifest.parent / found["path"]
            if not path.is_file() or path.stat().st_size != found["bytes"] or file_sha256(path) != found["sha256"]:
                return False
        self.report = Report(**{**old, "counts": Counts(**old["counts"])}, current=True)
        return True

    def _called(self, path: Path) -> str:
        return os.path.relpath(path, self.manifest.parent)

    def __enter__(self) -> Step:
        self._stack = ExitStack()
        self.quarantine = self._stack.enter_context(_Quarantined(self))
        self._bar = _Bar(self.name, sum(f["bytes"] for f in self._hashed), self.how.progress)
        self._stack.enter_context(self._bar)
        return self

    def writer(self, path: Path | str) -> Any:
        """An `AtomicWriter` of one output, listed in the manifest; in a dry run it counts and writes nothing."""
        made = _Counting(expand(path)) if self.how.dry_run else AtomicWriter(expand(path))
        self._written.append(made)
        return made

    def on_bad(self, row: BadRow) -> None:
        """Quarantine a row (with --strict: fail)."""
        if self.how.strict:
            raise StepError(f"{row.file}:{row.line} (byte {row.offset}): {row.reason}; --strict stops at the first "
                            f"bad row. Run without it to set such rows aside")  # fmt: skip
        self.quarantine.add(row)

    def advance(self, size: int) -> None:
        """Bytes of input that are done, for the progress bar."""
        self._bar.advance(size)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None or self.current:
            self._stack.__exit__(kind, error, trace)
            return
        # A step that does not balance keeps its quarantine records but writes no manifest.
        with self._stack:
            if not self.rowless:
                self.counts.check()
                self._check_sources()
        outputs = [{"path": self._called(w.path), "sha256": w.sha256, "bytes": w.bytes, "rows": w.rows}
                   for w in self._written]  # fmt: skip
        kept = self.quarantine.count
        if kept:
            word = "would be" if self.how.dry_run else "are"
            # The name only: a manifest does not depend on the folder it was made in.
            where = self._called(self.quarantine_path)
            self.notes.append(f"{kept:,} bad rows {word} in {where} beside it, with file, line, byte and reason")
        self.report = Report(
            self.name, self.key, self._hashed, outputs, self.parameters, self.seed, code_version(), self.counts,
            dict(sorted(self.by_source.items())), dict(sorted(self.by_domain.items())), self.details, self.notes,
            self._called(self.quarantine_path) if kept else None, dry_run=self.how.dry_run,
        )  # fmt: skip
        if not self.how.dry_run:
            write_manifest(self.manifest, self.report.to_dict())

    def _check_sources(self) -> None:
        for source, fates in self.by_source.items():
            if fates["read"] != sum(fates.get(fate, 0) for fate in FATES):
                raise ConservationError(f"rows of source {source!r} do not balance: {fates}; report a bug")


class _Quarantined(Quarantine):
    """The step's quarantine file: nothing is written in a dry run, and an old one without successor is removed."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.quarantine_path)
        self.dry = step.how.dry_run
        self.keep = step.current

    def add(self, row: BadRow, **more: Any) -> None:
        if self.dry:
            self.count += 1
        else:
            super().add(row, **more)

    def __exit__(self, kind, error, trace) -> None:
        if kind is None and not self.count and not self.dry and not self.keep:
            self.path.unlink(missing_ok=True)
        super().__exit__(kind, error, trace)


class _Counting:
    """The writer of a dry run: same interface as `AtomicWriter`, no file."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.bytes, self.sha256 = path, 0, 0, ""

    def __enter__(self) -> _Counting:
        return self

    def write_raw(self, raw: bytes) -> None:
        self.rows += 1
        self.bytes += len(raw) + 1

    def write_all(self, blocks: list[bytes], rows: int | None = None) -> None:
        self.rows += len(blocks) if rows is None else rows
        self.bytes += sum(map(len, blocks)) + len(blocks)

    def write_bytes(self, block: bytes, rows: int) -> None:
        self.rows += rows
        self.bytes += len(block)

    def write(self, row: dict[str, Any]) -> None:
        self.write_raw(orjson.dumps(row))

    def __exit__(self, *_: Any) -> None:
        return None


class _Bar:
    """A progress bar with the time left, on a terminal's standard error only."""

    def __init__(self, name: str, total: int, wanted: bool) -> None:
        self.name, self.total, self.wanted = name, total, wanted and sys.stderr.isatty()
        self._progress: Any = None

    def __enter__(self) -> _Bar:
        if self.wanted:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
                                      TimeRemainingColumn(), console=Console(stderr=True), transient=True)  # fmt: skip
            self._progress.__enter__()
            self._task = self._progress.add_task(self.name, total=self.total)
        return self

    def advance(self, size: int) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, size)

    def __exit__(self, kind, error, trace) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, trace)


def _input(path: Path | str) -> Path:
    found = expand(path)
    if found.is_dir():
        raise UsageError(f"input {found} is a folder; name a .jsonl file in it")
    if not found.exists():
        raise UsageError(f"input {found} does not exist; check the path (the working folder is {Path.cwd()})")
    return found


def _refuse_same(inputs: list[Path], outputs: list[Path], beside: Sequence[Path]) -> None:
    taken = {path.resolve() for path in inputs}
    written: set[Path] = set()
    for path in outputs:
        found = path.resolve()
        if found.is_dir():
            raise UsageError(f"output {path} is a folder; name a file in it")
        if found in taken:
            raise UsageError(f"output {path} is also an input; choose another name, inputs are never overwritten")
        if found in written:
            raise UsageError(f"two outputs would be {path}; give each its own name")
        written.add(found)
    for path in beside:
        if path.resolve() in taken:
            raise UsageError(f"input {path} is a file that this step writes or removes beside its output; choose "
                             f"another output, inputs are never overwritten")  # fmt: skip
        if path.resolve() in written:
            raise UsageError(f"output {path} is a file that this step writes beside its outputs; choose another name")


def read_manifest(path: Path | str) -> dict[str, Any] | None:
    """A manifest's content; None when there is none or it is not a manifest."""
    try:
        found = orjson.loads(Path(path).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return found if isinstance(found, dict) and "key" in found and "outputs" in found else None


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Written atomically, keys in order, so that equal runs write equal manifests."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with AtomicWriter(path) as out:
        out.write_raw(orjson.dumps(content, option=orjson.OPT_INDENT_2))


# --- steps that look at one row at a time ---------------------------------------------------------------------------


class Mapped(NamedTuple):
    """What became of a row: a fate of `FATES`, the bytes for each channel, and the reason of a quarantined row."""

    fate: str
    channels: dict[str, bytes]
    reason: str = ""


@dataclass
class _PartDone:
    counts: Counts
    bad: list[BadRow]
    blocks: dict[str, tuple[bytes, int]]
    by_source: dict[str, dict[str, int]]
    by_domain: dict[str, int]
    extra: Any


@dataclass(frozen=True)
class _Mapper:
    """Reads one part and applies the transform to batches of its rows; travels to worker processes."""

    transform: Callable[[list[Row]], Iterable[Mapped]]
    batch: int
    max_line: int

    def __call__(self, part: Any) -> _PartDone:
        counts, bad = Counts(), []
        blocks: dict[str, list[bytes]] = {}
        sources: dict[str, dict[str, int]] = {}
        domains: dict[str, int] = {}
        rows = read_rows(part.path, bad.append, counts, self.max_line, part.name, (part.start, part.end))
        for batch in _batches(rows, self.batch):
            for row, done in zip(batch, self.transform(batch), strict=True):
                setattr(counts, done.fate, getattr(counts, done.fate) + 1)
                tally = sources.setdefault(_source(row.value), {"read": 0})
                tally["read"] += 1
                tally[done.fate] = tally.get(done.fate, 0) + 1
                if done.fate == "quarantined":
                    bad.append(BadRow(part.name, row.line, row.offset, len(row.raw), done.reason, row.raw))
                elif done.fate == "out":
                    domain = row.value.get("domain")
                    domain = domain if isinstance(domain, str) else "general"
                    domains[domain] = domains.get(domain, 0) + 1
                for channel, raw in done.channels.items():
                    blocks.setdefault(channel, []).append(raw)
        bad.sort(key=lambda b: b.line)
        joined = {name: (b"\n".join(found) + b"\n", len(found)) for name, found in blocks.items()}
        take = getattr(self.transform, "take_extra", None)
        return _PartDone(counts, bad, joined, sources, domains, take() if take else None)


def _source(value: dict[str, Any]) -> str:
    from afs.rows import family

    source = value.get("source")
    return family(source if isinstance(source, str) else None)


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def map_rows(
    step: Step,
    transform: Callable[[list[Row]], Iterable[Mapped]],
    writers: dict[str, Any],
    *,
    batch: int = 64,
    max_line: int = MAX_LINE,
) -> list[Any]:
    """Run a row-wise transform over all inputs of a step; outputs keep the order of the rows.

    Args:
        transform: picklable; takes a batch of rows and gives one `Mapped` each. A method `take_extra()` may hand back
            what it collected over a part (and forgets it).
        writers: the open writer of each channel.

    Returns:
        What `take_extra` gave for each part, in order.
    """
    from afs.rows import LineNumbers, parts_of, plain_files

    extras = []
    numbers = LineNumbers()
    with plain_files(step.inputs) as plain:
        parts = parts_of(plain, [str(p) for p in step.inputs])
        mapper = _Mapper(transform, batch, max_line)
        done_parts = run_parts(mapper, parts, step.how.workers, step.how.engine)
        for part, done in zip(parts, done_parts, strict=True):
            for bad in numbers.of(part, done.bad, done.counts):
                step.on_bad(bad)
            step.counts.add(done.counts)
            add_tallies(step.by_source, done.by_source)
            for domain, n in done.by_domain.items():
                step.by_domain[domain] = step.by_domain.get(domain, 0) + n
            for channel, (block, rows) in done.blocks.items():
                writers[channel].write_bytes(block, rows)
            extras.append(done.extra)
            step.advance(part.end - part.start)
    return extras


def add_tallies(total: dict[str, dict[str, int]], more: dict[str, dict[str, int]]) -> None:
    """Add counts per source; sources beyond 10,000 are counted together."""
    from afs.rows import MAX_NAMES, OTHER

    for source, fates in more.items():
        name = source if source in total or len(total) < MAX_NAMES else OTHER
        mine = total.setdefault(name, {"read": 0})
        for fate, n in fates.items():
            mine[fate] = mine.get(fate, 0) + n

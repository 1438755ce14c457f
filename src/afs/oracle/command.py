"""The command of the Oracle generator, and the step behind it.

    python3 -m afs.oracle.training_generator --oracle-path ~/src/hobby/oracle-of-secrets --output raw.jsonl
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afs.generators.base import TrainingSample, content_id
from afs.jsonl import ConservationError
from afs.oracle.training_generator import ASSEMBLY, OracleTrainingGenerator
from afs.step import How, Report, Step, StepError, UsageError

GOOD = 0.6
"""The guide's quality filter: samples that score above it are counted apart (contracts D9)."""
_BATCH = 256


@dataclass
class OracleResult:
    """What a run made: samples per kind, and how many of them score above `GOOD`."""

    report: Report
    output: Path

    @property
    def raw(self) -> dict[str, int]:
        """Samples per kind."""
        return self.report.details["raw"]

    @property
    def good(self) -> dict[str, int]:
        """Samples per kind that score above 0.6."""
        return self.report.details["good"]

    def summary(self) -> str:
        """A table of the kinds, then what was left out."""
        details = self.report.details
        lines = [f"{'kind':<14}{'raw':>9}{f'> {GOOD}':>9}"]
        lines += [f"{kind:<14}{n:>9,}{self.good[kind]:>9,}" for kind, n in self.raw.items()]
        lines.append(f"{'total':<14}{sum(self.raw.values()):>9,}{sum(self.good.values()):>9,}")
        state = "are current" if self.report.current else "would be" if self.report.dry_run else "are"
        lines.append(f"{sum(self.raw.values()):,} samples of {details['project']} {state} in {self.output}"
                     f" ({details['files']:,} files, {details['bytes']:,} bytes)")  # fmt: skip
        lines += [f"left out: {count:,} {reason}" for reason, count in details["left_out"].items()]
        return "\n".join([*lines, *self.report.notes])


def generate_oracle(
    oracle_path: Path | str,
    output: Path | str,
    limit: int | None = None,
    *,
    project: str | None = None,
    include_archive: bool = False,
    redact: bool = False,
    how: How | None = None,
) -> OracleResult:
    """Write the samples of a code base, with a manifest and a count per kind.

    Args:
        limit: samples at most, shared over the kinds.
        redact: take secrets, e-mail addresses and home paths out of every sample.

    Raises:
        UsageError: the limit is below 1, or the output is one of the sources.
        StepError: there is not a single sample in the code base.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} must be 1 or more; leave it away for all samples")
    try:
        generator = OracleTrainingGenerator(oracle_path, project, include_archive)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    output = Path(output).expanduser()
    inputs = [path for name in generator.files if os.access(path := generator.oracle_path / name, os.R_OK)]
    # A document's name decides what it is (a memory map, a quest), and a sample names its file.
    parameters = {"names": content_id(generator.files), "limit": limit, "project": generator.project,
                  "include_archive": include_archive, "redact": redact,
                  "generator": type(generator).__qualname__}  # fmt: skip
    step = Step("oracle-generate", inputs, [output], parameters, how=how, rowless=True)
    if not step.current:
        with step:
            _run(step, generator, output, limit, redact)
    return OracleResult(step.report, output)


def _run(step: Step, generator: OracleTrainingGenerator, output: Path, limit: int | None, redact: bool) -> None:
    from afs.training.redaction import Redactor
    from afs.training.scoring import QualityScorer, ScoringConfig

    redactor = Redactor() if redact else None
    # The signals that need a model or an assembler are for `afs training score`; here a first look must do.
    scorer = QualityScorer(ScoringConfig(use_asar=False, use_electra=False))
    raw = dict.fromkeys(generator.hooks(), 0)
    good = dict(raw)
    with step.writer(output) as out:
        for batch in _batches(generator.samples(limit)):
            scores = scorer.score_batch([sample for _, sample in batch], update_samples=False)
            for (kind, sample), score in zip(batch, scores, strict=True):
                row = sample.to_dict()
                out.write(_redacted(redactor, row) if redactor else row)
                raw[kind] += 1
                good[kind] += score.overall > GOOD
                step.by_domain[sample.domain] = step.by_domain.get(sample.domain, 0) + 1
        if not any(raw.values()):
            raise StepError(f"no sample in {generator.oracle_path}, where {len(generator.files)} assembly files and "
                            f"documents were read; name a folder with {', '.join(ASSEMBLY)} files")  # fmt: skip
        for row in generator.problems:
            step.on_bad(row)
    if redactor:
        step.note(redactor.report().summary())
    step.counts.out = step.counts.read = out.rows
    step.details.update(
        raw=raw, good=good, left_out=dict(sorted(generator.left_out.items())), project=generator.project,
        files=len(generator.files), bytes=generator._assembly.bytes + generator._documents.bytes,
        problems=len(generator.problems),
    )  # fmt: skip
    if not generator._document_paths():
        step.note(f"no documents in {generator.docs_path.name}/: the kinds that come from documents are empty")


def _redacted(redactor: Any, row: dict[str, Any]) -> dict[str, Any]:
    """The row without secrets; its id follows the new content."""
    clean = redactor.redact({**row, "sample_id": ""})
    return TrainingSample.from_dict(clean).to_dict()


def _batches(found: Iterator[tuple[str, TrainingSample]]) -> Iterator[list[tuple[str, TrainingSample]]]:
    batch = []
    for item in found:
        batch.append(item)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    from afs.cli import add_run_options

    parser.add_argument("--oracle-path", required=True, help="the code base")
    parser.add_argument("--output", required=True, help="the file to write (.jsonl, .jsonl.gz, .jsonl.zst)")
    parser.add_argument("--limit", type=int, help="samples at most, shared over the kinds")
    parser.add_argument("--project", help="what questions call the code base (default: its README's heading)")
    parser.add_argument("--include-archive", action="store_true", help="read archive and planning folders as well")
    parser.add_argument("--redact", action="store_true", help="take secrets, e-mail addresses and home paths out")
    parser.add_argument("--no-redact", dest="redact", action="store_false", help="the default")
    add_run_options(parser, parallel=False)


def command(args: argparse.Namespace) -> int:
    """Run with parsed options; returns the exit code."""
    from afs.cli import how_of, show

    result = generate_oracle(args.oracle_path, args.output, args.limit, project=args.project,
                             include_archive=args.include_archive, redact=args.redact,
                             how=how_of(args))  # fmt: skip
    return show(args, result)


def main(argv: list[str] | None = None) -> int:
    """`python3 -m afs.oracle.training_generator`."""
    parser = argparse.ArgumentParser(prog="python3 -m afs.oracle.training_generator",
                                     description="Training samples from a 65816 assembly code base.")  # fmt: skip
    add_options(parser)
    args = parser.parse_args(argv)
    try:
        return command(args)
    except UsageError as error:
        print(f"afs: {error}", file=sys.stderr)
        return 2
    except (StepError, ConservationError, OSError, ValueError) as error:
        print(f"afs: {error}", file=sys.stderr)
        return 1

"""One export: find the logs, read and redact them, make the view's rows, account for everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from afs.generators.base import TrainingSample, content_id
from afs.step import How, Report, Step, StepError, UsageError
from afs.training.exports import logs, views
from afs.training.exports.logs import Coverage, Found, LogReader
from afs.training.exports.session import Session
from afs.training.exports.views import VIEWS, Made, Shape
from afs.training.redaction import RedactionReport, Redactor


@dataclass(frozen=True)
class Options:
    """What all exports have in common.

    Attributes:
        limit: rows to write at most; counted after all filters.
        require_quality: leave out samples below `min_quality_score` (view "turns" only); scores are stored either way
            when it is on.
        redact: False writes secrets as they are.
        rules_file: custom redaction rules (TOML).
        max_line: longest line of a log in bytes.
    """

    limit: int | None = None
    require_quality: bool = False
    min_quality_score: float = 0.5
    score_profile: str = "generic"
    enable_asar: bool = False
    redact: bool = True
    rules_file: Path | str | None = None
    max_line: int = logs.MAX_LINE


@dataclass
class ExportResult:
    """What an export did: rows written, records by type and fate, files that could not be used."""

    report: Report
    coverage: Coverage
    redaction: RedactionReport | None = None
    sessions: int = 0

    @property
    def total(self) -> int:
        """Rows written."""
        return self.report.counts.out

    exported = total

    @property
    def problems(self) -> list[dict[str, str]]:
        return self.coverage.problems

    def summary(self) -> str:
        """Counts, the coverage table, what was left out and why."""
        if self.report.current:
            return self.report.summary()
        found = [self.report.summary()]
        if self.coverage.records:
            found.append(self.coverage.table())
        for reason, count in sorted(self.coverage.left_out.items()):
            found.append(f"left out: {count:,} {reason}")
        for kind, count in sorted(self.coverage.files.items()):
            found.append(f"files: {count:,} {kind}")
        for problem in self.coverage.problems[:20]:
            found.append(f"not used: {problem['path']}: {problem['reason']}")
        if len(self.coverage.problems) > 20:
            found.append(f"… and {len(self.coverage.problems) - 20:,} more (all in the manifest)")
        if self.redaction is not None:
            found.append(self.redaction.summary())
        return "\n".join(found)


@dataclass
class Export:
    """The parts of one export. `units` yields what may become rows; it reads through the reader it is given."""

    name: str
    files: list[Found]
    units: Callable[[LogReader], Iterator[Made]]
    coverage: Coverage
    options: Options
    parameters: dict[str, Any]
    looked_in: list[str] = field(default_factory=list)
    hint: str = ""
    sessions: int = 0


def run_export(export: Export, output_path: Path | str, how: How | None = None) -> ExportResult:
    """Write the export's rows.

    Raises:
        UsageError: a bad option.
        StepError: no log was found, or no row came out of them; the output is as before.
    """
    if not export.files:
        places = ", ".join(export.looked_in) or "nowhere"
        raise StepError(f"{export.name}: no data found (looked in {places}). {export.hint}{_trouble(export)}")
    options = export.options
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit {options.limit} must be 1 or more; leave it away for all rows")
    # Redactor and scorer are made before anything is read: a bad rule or profile is an error at once.
    redactor = Redactor(custom=options.rules_file) if options.redact else None
    score = _scorer(options) if options.require_quality else None
    shown = {**asdict(options), "rules_file": None}
    custom = [[rule.name, rule.pattern, rule.contains] for rule in redactor.custom] if redactor else []
    # Names are in the rows, and decide what belongs to which session.
    names = content_id([item.name for item in export.files])
    parameters = {**export.parameters, **shown, "custom": custom, "names": names}
    inputs = [item.path for item in export.files]
    with Step(export.name, inputs, [output_path], parameters, how=how) as step:
        if not step.current:
            reader = LogReader(redactor, step.on_bad, export.coverage, options.max_line)
            with step.writer(output_path) as out:
                _write(export, reader, score, step, out)
                if not out.rows:
                    raise StepError(_nothing(export))
            step.details["coverage"] = export.coverage.to_dict()
            step.details["sessions"] = export.sessions
            if redactor:
                step.details["redaction"] = redactor.report().to_dict()
            if export.coverage.problems:
                step.note(f"{len(export.coverage.problems):,} files or folders could not be used; they are named below "
                          f"and in the manifest")  # fmt: skip
    found = step.report.details
    if step.report.current:
        kept = found["coverage"]
        export.coverage = Coverage(kept["records"], kept["problems"], kept["files"], kept["left_out"])
    return ExportResult(step.report, export.coverage, redactor.report() if redactor else None, found["sessions"])


def _write(export: Export, reader: LogReader, score: Any, step: Step, out: Any) -> None:
    counts, left_out = step.counts, export.coverage.left_out
    limit = export.options.limit
    seen: dict[str, str] = {}
    for made in export.units(reader):
        counts.read += 1
        if made.fate == "out" and score is not None:
            made = _judged(made, score, export.options)
        if made.fate == "out":
            made = _once(made, seen)
        if made.fate == "out" and limit is not None and out.rows >= limit:
            made = Made(None, "filtered", "beyond --limit")
        row = made.row.to_dict() if isinstance(made.row, TrainingSample) else made.row
        if made.fate == "out":
            try:
                out.write(row)
            except (TypeError, RecursionError) as error:  # nested deeper than 254 levels, numbers beyond 64 bits
                made = Made(None, "filtered", f"row that cannot be written as JSON ({error})")
        setattr(counts, made.fate, getattr(counts, made.fate) + 1)
        if made.fate != "out":
            left_out[made.reason] = left_out.get(made.reason, 0) + 1
            continue
        domain = row.get("domain", "general")
        step.by_domain[domain] = step.by_domain.get(domain, 0) + 1
    bad = export.coverage.total(logs.BAD)
    counts.read += bad
    counts.quarantined += bad


def _once(made: Made, seen: dict[str, str]) -> Made:
    """A row that says what an earlier one says is a duplicate ("hi" begins many sessions). One that only has the id of
    an earlier one, given by its source, gets an id from its own content."""
    row = made.row
    if not isinstance(row, TrainingSample):
        given = content = row["sample_id"]
    else:
        given, content = row.sample_id, content_id(row.instruction, row.input, row.output, row.thinking)
        if seen.get(given, content) != content:
            row._metadata["given_sample_id"] = given
            row.sample_id = given = content
    if given in seen:
        return Made(None, "duplicates", "row that says the same as an earlier one")
    seen[given] = content
    return made


def _judged(made: Made, score: Any, options: Options) -> Made:
    if not isinstance(made.row, TrainingSample):
        raise UsageError("--require-quality scores samples; use it with --view turns only")
    value = score(made.row)
    if value is None or value != value:
        return Made(None, "filtered", "no quality signal applies")
    if value < options.min_quality_score:
        return Made(None, "filtered", f"quality below {options.min_quality_score:g}")
    made.row.quality_score = round(value, 6)
    return made


def _scorer(options: Options) -> Callable[[TrainingSample], float]:
    from afs.training.scoring import QualityScorer, ScoringConfig

    config = replace(ScoringConfig.from_profile(options.score_profile), use_asar=options.enable_asar)
    scorer = QualityScorer(config=config)
    return lambda sample: scorer.score(sample).overall


def _nothing(export: Export) -> str:
    reasons = ", ".join(f"{n:,} {why}" for why, n in sorted(export.coverage.left_out.items()))
    return (f"{export.name}: not one row from {len(export.files):,} files ({reasons or 'no unit at all'}; "
            f"{export.coverage.total(logs.BAD):,} bad lines); nothing was written. {export.hint}{_trouble(export)}")


def _trouble(export: Export) -> str:
    return "".join(f"\n  {p['path']}: {p['reason']}" for p in export.coverage.problems[:10])


def session_units(
    export: Export, sessions: Callable[[LogReader], Iterable[Session]], shape: Shape
) -> Callable[[LogReader], Iterator[Made]]:
    """The units of all sessions in one view.

    Raises:
        UsageError: no such view.
    """
    if shape.view not in VIEWS:
        raise UsageError(f"no view {shape.view!r}; known: {', '.join(VIEWS)}")

    def units(reader: LogReader) -> Iterator[Made]:
        for session in sessions(reader):
            export.sessions += 1
            yield from views.rows(session, shape)

    return units


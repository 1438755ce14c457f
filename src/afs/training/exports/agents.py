"""Exports of agent logs: Claude Code, Codex, Gemini CLI.

    export_claude_to_jsonl("claude.jsonl")                       # every log of this user, redacted
    export_codex_to_jsonl("codex.jsonl", roots=["~/old/.codex"], view="trajectory")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from afs.step import How, UsageError
from afs.training.exports import claude, codex, gemini, logs
from afs.training.exports.logs import Coverage
from afs.training.exports.run import Export, ExportResult, Options, run_export, session_units
from afs.training.exports.views import Shape

_SHAPE = {f.name for f in fields(Shape)}
_OPTIONS = {f.name for f in fields(Options)}


def split_options(given: dict[str, Any], **defaults: Any) -> tuple[Shape, Options]:
    """The keyword arguments of an export as (shape, options).

    Raises:
        UsageError: an unknown name.
    """
    if unknown := sorted(set(given) - _SHAPE - _OPTIONS):
        raise UsageError(f"no option {unknown[0]!r}; known: {', '.join(sorted(_SHAPE | _OPTIONS))}")
    both = {**defaults, **{k: v for k, v in given.items() if v is not None}}
    shape = Shape(**{k: v for k, v in both.items() if k in _SHAPE})
    return shape, Options(**{k: v for k, v in both.items() if k in _OPTIONS})


def _export(
    name: str,
    module: Any,
    output_path: Path | str,
    roots: list[Path | str] | None,
    scan_roots: list[Path | str] | None,
    max_scan_depth: int,
    shape: Shape,
    options: Options,
    how: How | None,
) -> ExportResult:
    coverage = Coverage()
    places = logs.expand_roots(roots, module.default_roots(), scan_roots, module.FOLDER, max_scan_depth, coverage)
    looked_in = [str(p) for p in (roots or module.default_roots())] + [str(s) for s in scan_roots or ()]
    found = module.find(places, coverage)
    files = [item for group in found for item in (group if isinstance(group, list) else [group])]
    export = Export(f"{name}-export", files, lambda _: iter(()), coverage, options, asdict(shape), looked_in,
                    "Check the path with ls, or name the folder with --root.")  # fmt: skip
    make: Callable[..., Any] = lambda reader: module.Decoder(reader, coverage).sessions(found)  # noqa: E731
    export.units = session_units(export, make, shape)
    return run_export(export, output_path, how)


def export_claude_to_jsonl(
    output_path: Path | str,
    roots: list[Path | str] | None = None,
    *,
    scan_roots: list[Path | str] | None = None,
    max_scan_depth: int = 4,
    how: How | None = None,
    **options: Any,
) -> ExportResult:
    """Claude Code sessions as training rows.

    Args:
        roots: folders such as `~/.claude`; default `$CLAUDE_CONFIG_DIR`, `~/.claude`, `~/.config/claude`.
        scan_roots: folders in which `.claude` folders are looked for, `max_scan_depth` deep.
        options: fields of `Shape` (view, domain, tools, thoughts, sidechains, max_tool_output_chars, …) and of
            `Options` (limit, redact, rules_file, require_quality, min_quality_score, score_profile, …).

    Raises:
        UsageError: an unknown option.
        StepError: no log or no row.
    """
    shape, chosen = split_options(options, domain="claude", source="claude", thoughts=True)
    return _export("claude", claude, output_path, roots, scan_roots, max_scan_depth, shape, chosen, how)


def export_codex_to_jsonl(
    output_path: Path | str,
    roots: list[Path | str] | None = None,
    *,
    scan_roots: list[Path | str] | None = None,
    max_scan_depth: int = 4,
    how: How | None = None,
    **options: Any,
) -> ExportResult:
    """Codex sessions as training rows; arguments as in `export_claude_to_jsonl`, default `$CODEX_HOME`, `~/.codex`."""
    shape, chosen = split_options(options, domain="codex", source="codex")
    return _export("codex", codex, output_path, roots, scan_roots, max_scan_depth, shape, chosen, how)


def export_gemini_to_jsonl(
    output_path: Path | str,
    roots: list[Path | str] | None = None,
    *,
    scan_roots: list[Path | str] | None = None,
    max_scan_depth: int = 4,
    how: How | None = None,
    **options: Any,
) -> ExportResult:
    """Gemini CLI sessions as training rows; arguments as in `export_claude_to_jsonl`, default `~/.gemini`."""
    shape, chosen = split_options(options, domain="gemini", source="gemini")
    return _export("gemini", gemini, output_path, roots, scan_roots, max_scan_depth, shape, chosen, how)

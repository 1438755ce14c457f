"""The `afs` command. One module per command group; each has `register_parsers(subparsers)`.

Nothing heavy is imported before a command runs: `afs --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

OK, FAILED, USAGE = 0, 1, 2


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from afs.cli import context, discriminator, training

    parser = argparse.ArgumentParser(
        prog="afs", description="The refinery: sources in, clean portable JSONL out.",
        epilog="Exit codes: 0 done, 1 failed (nothing half-written), 2 asked for something that cannot be.",
    )  # fmt: skip
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    context.register_parsers(subparsers)
    training.register_parsers(subparsers)
    discriminator.register_parsers(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    from afs.engine import EngineError
    from afs.jsonl import ConservationError
    from afs.plugins import PluginError
    from afs.step import StepError, UsageError

    args = build_parser().parse_args(argv)
    try:
        return args.func(args)
    except UsageError as error:
        return _fail(args, error, USAGE)
    except (StepError, ConservationError, EngineError, PluginError, OSError, EOFError, ValueError,
            LookupError) as error:  # fmt: skip
        return _fail(args, error, FAILED)
    except KeyboardInterrupt:
        print("stopped; finished outputs stay, nothing half-written is left; the same command goes on", file=sys.stderr)
        return 130


def _fail(args: argparse.Namespace, error: Exception, code: int) -> int:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if getattr(args, "json", False):
        print(json.dumps({"error": text, "kind": type(error).__name__}, ensure_ascii=False))
    print(f"afs: {text}", file=sys.stderr)
    return code


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())


def add_run_options(parser: argparse.ArgumentParser, *, parallel: bool = True) -> None:
    """The options that every step has."""
    group = parser.add_argument_group("how it runs")
    if parallel:
        group.add_argument("--workers", type=int, default=1, metavar="N",
                           help="processes; 0 = one per CPU (the output is the same for any number)")  # fmt: skip
        group.add_argument("--engine", choices=("local", "ray"), default="local", help="where the parts run")
    group.add_argument("--strict", action="store_true", help="fail at the first bad row instead of setting it aside")
    group.add_argument("--dry-run", action="store_true", help="count and report, write nothing")
    group.add_argument("--force", action="store_true", help="run even when the outputs are current")
    group.add_argument("--no-progress", action="store_true", help="no progress bar")
    add_json(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`: one JSON object on standard output instead of text."""
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def how_of(args: argparse.Namespace) -> Any:
    """The `How` that the options ask for."""
    from afs.step import How

    return How(
        workers=getattr(args, "workers", 1), engine=getattr(args, "engine", "local"), strict=args.strict,
        dry_run=args.dry_run, force=args.force, progress=not (args.no_progress or args.json),
    )  # fmt: skip


def show(args: argparse.Namespace, result: Any, more: dict[str, Any] | None = None) -> int:
    """Print a step's result as text, or as its report with --json."""
    if args.json:
        report = result.report
        found = {**report.to_dict(), "current": report.current, "dry_run": report.dry_run, **(more or {})}
        print(json.dumps(_plain(found), ensure_ascii=False))
    else:
        print(result.summary())
    return OK


def _plain(value: Any) -> Any:
    """JSON has no NaN: an absent number is null."""
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def show_data(args: argparse.Namespace, data: Any, text: str) -> int:
    """Print plain data: JSON with --json, else the text."""
    print(json.dumps(_plain(data), ensure_ascii=False, default=str) if args.json else text)
    return OK

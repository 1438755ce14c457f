"""The `afs` command. One module per command group; each has `register_parsers(subparsers)`.

Nothing heavy is imported before a command runs: `afs --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
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

    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    args = argparse.Namespace(json="--json" in words)
    try:
        if not {"-h", "--help"} & set(words):
            _use_settings(parser, _config_file(words))
        args = parser.parse_args(words)
        return args.func(args)
    except UsageError as error:
        return _fail(args, error, USAGE)
    except (StepError, ConservationError, EngineError, PluginError, OSError, EOFError, ValueError,
            LookupError) as error:  # fmt: skip
        return _fail(args, error, FAILED)
    except KeyboardInterrupt:
        print("stopped; finished outputs stay, nothing half-written is left; the same command goes on", file=sys.stderr)
        return 130


def _config_file(words: list[str]) -> str | None:
    """What an export's `--config` names; it has to be known before the options are read."""
    if not any(word.endswith("-export") for word in words[:2]):
        return None
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == "--config":
            return after
        if word.startswith("--config="):
            return word.partition("=")[2]
    return None


_SETTINGS = {"workers": "training.workers", "engine": "training.engine", "seed": "training.seed",
             "score_profile": "training.score_profile", "electra": "models.electra", "registry": "registry.path",
             "context_root": "context.root", "memory_root": "context.memory", "history_root": "context.history",
             }  # fmt: skip
"""Options that take their default from the environment or the configuration file, and the settings they take."""


def _use_settings(parser: argparse.ArgumentParser, file: str | None = None) -> None:
    """Settings of the environment and of `~/.afs/config.toml` become the defaults of the options.

    Raises:
        UsageError: a setting is wrong.
    """
    from afs.config import resolve

    config = resolve(file=file)
    given = {option: config[name] for option, name in _SETTINGS.items() if config.origin(name) != "default"}
    if config.origin("context.root") != "default":
        given["history_root"] = config["context.history"]  # history-export has no --context-root
    quality = "training.min_quality_score"
    for name, command in _commands(parser):
        mine = dict(given)
        if name.endswith("-export") and config.origin(quality) != "default":
            mine["min_quality_score"] = config[quality]
        for action in command._actions:
            if action.dest in mine:
                action.default = mine[action.dest]


def _commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner, found in action.choices.items():
                yield from _commands(found, inner)


def _fail(args: argparse.Namespace, error: Exception, code: int) -> int:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if getattr(args, "json", False):
        print(json.dumps({"error": text, "kind": type(error).__name__}, ensure_ascii=False))
    from afs.step import safe_text

    print(f"afs: {safe_text(text)}", file=sys.stderr)
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
        _print(json.dumps(_plain(found), ensure_ascii=False))
    else:
        from afs.step import safe_text  # names in the data must not command the terminal

        _print(safe_text(result.summary()))
    return OK


def _print(text: str) -> None:
    """Print; a reader that has seen enough (`| head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the end of the process


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
    from afs.step import safe_text

    _print(json.dumps(_plain(data), ensure_ascii=False, default=str) if args.json else safe_text(text))
    return OK

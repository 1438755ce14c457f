"""`afs training …-export`, `codex-history-import`, `snapshot`, `redact`: sources into the refinery."""

from __future__ import annotations

import argparse
import json
from typing import Any

from afs.cli import OK, add_json, add_run_options, how_of, show, show_data

VIEWS = ("turns", "trajectory", "tools", "preference")
_QUALITY = ("limit", "require_quality", "min_quality_score", "score_profile", "enable_asar", "redact", "rules_file")
_LOGS = ("scan_roots", "max_scan_depth", "view", "domain", "tools", "thoughts", "sidechains", "max_tool_output_chars")


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were set, by name; the others keep the defaults of the function."""
    found = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _export(args: argparse.Namespace, function: Any, *names: str, **more: Any) -> int:
    result = function(args.output, **more, **_given(args, *names, *_QUALITY), how=how_of(args))
    return show(args, result, {"exported": result.total, "sessions": result.sessions})


def training_claude_export_command(args: argparse.Namespace) -> int:
    """Claude Code sessions as training rows."""
    from afs.training.exports.agents import export_claude_to_jsonl

    return _export(args, export_claude_to_jsonl, *_LOGS, roots=args.root)


def training_codex_export_command(args: argparse.Namespace) -> int:
    """Codex sessions as training rows."""
    from afs.training.exports.agents import export_codex_to_jsonl

    return _export(args, export_codex_to_jsonl, *_LOGS, "system", roots=args.root)


def training_gemini_export_command(args: argparse.Namespace) -> int:
    """Gemini CLI sessions as training rows."""
    from afs.training.exports.agents import export_gemini_to_jsonl

    return _export(args, export_gemini_to_jsonl, *_LOGS, roots=args.root)


def training_antigravity_export_command(args: argparse.Namespace) -> int:
    """Antigravity tasks as samples."""
    from afs.training.exports.antigravity import export_antigravity_to_jsonl

    return _export(args, export_antigravity_to_jsonl, "db_path", "state_keys", "include_paths_content",
                   "max_path_chars", "domain")  # fmt: skip


def training_memory_export_command(args: argparse.Namespace) -> int:
    """Memory entries as samples."""
    from afs.training.exports.memory import export_memory_to_jsonl

    root = args.memory_root or (f"{args.context_root}/memory" if args.context_root else None)
    return _export(args, export_memory_to_jsonl, "domain", "allow_raw", "allow_raw_tags", "include_tags",
                   "exclude_tags", "default_instruction", memory_root=root)  # fmt: skip


def training_history_export_command(args: argparse.Namespace) -> int:
    """Events of the history as samples."""
    from afs.training.exports.history import export_history_to_jsonl

    return _export(args, export_history_to_jsonl, "domain", "history_root", "tool_domain", "event_types",
                   "include_tools", "include_fs", "include_cli")  # fmt: skip


def training_codex_history_import_command(args: argparse.Namespace) -> int:
    """Codex sessions into the event history."""
    from afs.training.exports.history import import_codex_history

    found = import_codex_history(
        args.history_root, args.root, dry_run=args.dry_run,
        **_given(args, "scan_roots", "max_scan_depth", "tools", "system", "max_tool_output_chars", "limit", "redact",
                 "rules_file"),
    )  # fmt: skip
    return show_data(args, found.to_dict(), found.summary())


def training_snapshot_command(args: argparse.Namespace) -> int:
    """Copy raw agent logs into the backup set."""
    from afs.training.exports.snapshot import snapshot_logs

    roots: dict[str, list[str]] = {}
    for pair in args.root or ():
        kind, mark, path = pair.partition("=")
        roots.setdefault(kind if mark else "logs", []).append(path if mark else pair)
    found = snapshot_logs(args.output, roots or None, dry_run=args.dry_run)
    return show_data(args, found.to_dict(), found.summary())


def training_redact_command(args: argparse.Namespace) -> int:
    """Replace secrets in a JSONL file by typed placeholders."""
    from afs.training.redaction import redact_jsonl

    result = redact_jsonl(args.input, args.output, rules=args.rule, rules_file=args.rules, keep=args.keep or (),
                          report_path=args.report if args.report != "-" else None, how=how_of(args))  # fmt: skip
    if args.report == "-" and not args.json:
        print(json.dumps(result.redaction.to_dict(), ensure_ascii=False))
        return OK
    return show(args, result, {"redaction": result.redaction.to_dict()})


# --- the parsers ------------------------------------------------------------------------------------------------------


def register_parsers(training_sub: argparse._SubParsersAction) -> None:
    """Add the commands to `afs training`."""
    texts = {"claude": ("Claude Code sessions", training_claude_export_command),
             "codex": ("Codex sessions", training_codex_export_command),
             "gemini": ("Gemini CLI sessions", training_gemini_export_command)}  # fmt: skip
    for name, (text, command) in texts.items():
        parser = _command(training_sub, f"{name}-export", f"{text} as training rows", command)
        _log_options(parser, name)
        _quality_options(parser)
    _register_contexts(training_sub)
    _register_raw(training_sub)


def _command(training_sub: argparse._SubParsersAction, name: str, text: str, command: Any) -> argparse.ArgumentParser:
    parser = training_sub.add_parser(name, help=text)
    parser.add_argument("--output", required=True, help="the file to write (.jsonl, .jsonl.gz, .jsonl.zst)")
    parser.add_argument("--domain", help="domain of the rows")
    parser.add_argument("--config", metavar="FILE", help="settings instead of ~/.afs/config.toml")
    parser.set_defaults(func=command)
    return parser


def _root_options(parser: argparse.ArgumentParser, name: str, chars: int) -> None:
    parser.add_argument("--root", action="append", help=f"a .{name} folder (repeat; default: this user's)")
    parser.add_argument("--scan-root", dest="scan_roots", action="append",
                        help=f"folder in which .{name} folders are looked for (repeat)")  # fmt: skip
    parser.add_argument("--max-scan-depth", type=int, help="how many folders deep (default 4)")
    parser.add_argument("--no-tools", dest="tools", action="store_const", const=False, help="without tool calls")
    parser.add_argument("--max-tool-output-chars", type=int, help=f"longest tool result (default {chars})")


def _log_options(parser: argparse.ArgumentParser, name: str) -> None:
    _root_options(parser, name, 2000)
    parser.add_argument("--view", choices=VIEWS, help="what a row is (default turns: ask and final answer)")
    thoughts = parser.add_mutually_exclusive_group()
    thoughts.add_argument("--include-thoughts", dest="thoughts", action="store_const", const=True,
                          help=f"with the model's thinking{' (the default)' if name == 'claude' else ''}")  # fmt: skip
    thoughts.add_argument("--no-thoughts", dest="thoughts", action="store_const", const=False)
    parser.add_argument("--include-sidechains", dest="sidechains", action="store_const", const=True,
                        help="also the sessions of sub-agents")  # fmt: skip
    if name == "codex":
        parser.add_argument("--include-system", dest="system", action="store_const", const=True,
                            help="with system and developer messages (view trajectory)")  # fmt: skip


class _Threshold(argparse.Action):
    """A threshold on the command line asks for the filter, too; one from the configuration does not."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, values)
        if namespace.require_quality is None:
            namespace.require_quality = True


def _quality_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, help="rows to write at most, after all filters")
    quality = parser.add_mutually_exclusive_group()
    quality.add_argument("--require-quality", dest="require_quality", action="store_const", const=True,
                         help="score the samples and leave out low ones")  # fmt: skip
    quality.add_argument("--no-require-quality", dest="require_quality", action="store_const", const=False,
                         help="keep all (the default)")  # fmt: skip
    parser.add_argument("--min-quality-score", type=float, action=_Threshold,
                        help="lowest score that is kept (default 0.5); implies --require-quality")  # fmt: skip
    parser.add_argument("--score-profile", help="generic | dialogue | asm (default generic)")
    parser.add_argument("--enable-asar", action="store_const", const=True, help="with the assembler signal")
    _redaction_options(parser)
    add_run_options(parser, parallel=False)


def _redaction_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-redact", dest="redact", action="store_const", const=False, help="secrets stay")
    parser.add_argument("--redact-rules", dest="rules_file", metavar="FILE", help="redaction rules of your own (TOML)")


def _register_contexts(training_sub: argparse._SubParsersAction) -> None:
    memory = _command(training_sub, "memory-export", "memory entries as samples", training_memory_export_command)
    memory.add_argument("--memory-root", help="default ~/.context/memory")
    memory.add_argument("--context-root", help="default ~/.context")
    memory.add_argument("--allow-raw", action="store_const", const=True, help="also notes without a question")
    memory.add_argument("--allow-raw-tag", dest="allow_raw_tags", action="append", help="tag that admits a note")
    memory.add_argument("--include-tag", dest="include_tags", action="append", help="only entries with it (repeat)")
    memory.add_argument("--exclude-tag", dest="exclude_tags", action="append", help="no entries with it (repeat)")
    memory.add_argument("--default-instruction", help="what is asked for a note")
    _quality_options(memory)

    history = _command(training_sub, "history-export", "events as samples", training_history_export_command)
    history.add_argument("--history-root", help="default ~/.context/history")
    history.add_argument("--tool-domain", help="domain of tool calls (default history_tools)")
    history.add_argument("--event-type", dest="event_types", action="append", help="model | tool | fs | cli (repeat)")
    for name in ("tools", "fs", "cli"):
        history.add_argument(f"--include-{name}", action="store_const", const=True)
    _quality_options(history)

    anti = _command(training_sub, "antigravity-export", "Antigravity tasks", training_antigravity_export_command)
    anti.add_argument("--db-path", help="state.vscdb (default: where this system has it)")
    anti.add_argument("--state-key", dest="state_keys", action="append", help="key in the database (repeat)")
    anti.add_argument("--include-paths-content", action="store_const", const=True, help="with the files to review")
    anti.add_argument("--max-path-chars", type=int, help="longest start of such a file (default 2000)")
    _quality_options(anti)


def _register_raw(training_sub: argparse._SubParsersAction) -> None:
    imported = training_sub.add_parser("codex-history-import", help="Codex sessions into the event history")
    imported.add_argument("--history-root", help="default ~/.context/history")
    _root_options(imported, "codex", 4000)
    imported.add_argument("--include-system", dest="system", action="store_const", const=True,
                          help="with system and developer messages")  # fmt: skip
    imported.add_argument("--limit", type=int, help="events to add at most")
    _redaction_options(imported)
    imported.add_argument("--dry-run", action="store_true", help="count, write nothing")
    add_json(imported)
    imported.set_defaults(func=training_codex_history_import_command)

    snapshot = training_sub.add_parser("snapshot", help="copy raw agent logs before they are deleted")
    snapshot.add_argument("--output", help="the set (default ~/.context/training/raw_logs)")
    snapshot.add_argument("--root", action="append", metavar="[KIND=]PATH", help="folder to copy (repeat)")
    snapshot.add_argument("--dry-run", action="store_true", help="count, write nothing")
    add_json(snapshot)
    snapshot.set_defaults(func=training_snapshot_command)

    redact = training_sub.add_parser("redact", help="replace secrets by typed placeholders")
    redact.add_argument("--input", required=True)
    redact.add_argument("--output", required=True)
    redact.add_argument("--rules", metavar="FILE", help="rules of your own (TOML)")
    redact.add_argument("--rule", action="append", help="only this built-in rule (repeat)")
    redact.add_argument("--keep", action="append", metavar="TEXT", help="leave this text as it is (repeat)")
    redact.add_argument("--report", nargs="?", const="-", metavar="FILE", help="counts as JSON, to FILE or here")
    add_run_options(redact)
    redact.set_defaults(func=training_redact_command)

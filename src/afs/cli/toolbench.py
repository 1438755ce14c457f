"""`afs training toolbench-export`."""

from __future__ import annotations

import argparse

from afs.cli import add_run_options, how_of, show


def training_toolbench_export_command(args: argparse.Namespace) -> int:
    """Export ToolBench's finished conversations."""
    from afs.training.exports.toolbench import export_toolbench_to_jsonl

    result = export_toolbench_to_jsonl(args.dataset_dir, args.output, args.split, args.limit, how_of(args), args.redact)
    return show(args, result)


def register_parsers(training_sub: argparse._SubParsersAction) -> None:
    """Add the command to those of `afs training`."""
    export = training_sub.add_parser("toolbench-export", help="samples from ToolBench's conversations with APIs")
    export.add_argument("--dataset-dir", required=True, help="folder with ToolBench's Parquet or JSON files, or a file")
    export.add_argument("--output", required=True, help="the file to write (.jsonl, .jsonl.gz, .jsonl.zst)")
    export.add_argument("--split", choices=("train", "validation"), default="train")
    export.add_argument("--limit", type=int, help="samples at most")
    export.add_argument("--redact", action="store_true", help="take secrets and e-mail addresses out first")
    add_run_options(export, parallel=False)
    export.set_defaults(func=training_toolbench_export_command)

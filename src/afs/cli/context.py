"""`afs status`, `afs context discover`, `afs config show`."""

from __future__ import annotations

import argparse
from pathlib import Path

from afs.cli import FAILED, OK, add_json, show_data


def status_command(args: argparse.Namespace) -> int:
    """What is configured, found and missing."""
    from afs import config

    found = config.status()
    show_data(args, found.to_dict(), found.summary())
    return OK


def discover_command(args: argparse.Namespace) -> int:
    """Contexts and agent logs below a folder."""
    from afs import config

    found = config.discover(Path(args.path), max_depth=args.max_depth)
    show_data(args, found.to_dict(), found.summary())
    return OK if found else FAILED


def config_show_command(args: argparse.Namespace) -> int:
    """Every setting with its value and where it came from."""
    from afs import config

    resolved = config.resolve()
    return show_data(args, resolved.to_dict(), resolved.summary())


def register_parsers(subparsers: argparse._SubParsersAction) -> None:
    """Add the commands."""
    status = subparsers.add_parser("status", help="what is configured, found and missing")
    add_json(status)
    status.set_defaults(func=status_command)

    context = subparsers.add_parser("context", help="the context folders (~/.context)")
    context_sub = context.add_subparsers(dest="context_command", metavar="COMMAND", required=True)
    discover = context_sub.add_parser("discover", help="find contexts and agent logs below a folder")
    discover.add_argument("--path", default=".", help="folder to look in (default: this one)")
    discover.add_argument("--max-depth", type=int, default=4, help="how many folders deep (default 4)")
    add_json(discover)
    discover.set_defaults(func=discover_command)

    config_parser = subparsers.add_parser("config", help="the settings")
    config_sub = config_parser.add_subparsers(dest="config_command", metavar="COMMAND", required=True)
    show = config_sub.add_parser("show", help="every setting with where it came from")
    add_json(show)
    show.set_defaults(func=config_show_command)

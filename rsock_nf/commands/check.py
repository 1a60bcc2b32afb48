"""``check``: validate a configuration file."""

from __future__ import annotations

import argparse
from pathlib import Path

from rsock_nf.commands.output import say
from rsock_nf.commands.shared import config_argument, loaded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``check``."""
    config_argument(parser, required=True)
    parser.add_argument("--print-log", action="store_true", help=argparse.SUPPRESS)  # how a running instance asks


def run(arguments: argparse.Namespace) -> int:
    """Validate a configuration file."""
    if arguments.print_log:
        return _print_log(arguments.config)
    settings = loaded(arguments.config).settings
    say(f"{settings.path}: valid; instance {settings.name}")
    return 0


def _print_log(path: Path) -> int:
    """For a running instance (``ops.handover``)."""
    import json

    from rsock_nf import config

    log = config.load_log(path)
    say(json.dumps({"level": log.level, "file": str(log.file) if log.file else None}))
    return 0

"""``check``: validate a configuration file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rsock_nf.commands.output import say
from rsock_nf.commands.shared import config_argument, loaded, required_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``check``."""
    config_argument(parser, required=True)
    parser.add_argument("--print-settings", action="store_true", help=argparse.SUPPRESS)  # how a running instance asks


def run(arguments: argparse.Namespace) -> int:
    """Validate a configuration file."""
    path = required_file(arguments)
    if arguments.print_settings:
        return _print_settings(path)
    settings = loaded(path).settings
    say(f"{settings.path}: valid; instance {settings.name}")
    return 0


def _print_settings(path: Path) -> int:
    """For a running instance (``ops.handover``): its pipe is the only reader, for the secret is among them."""
    from rsock_nf import config
    from rsock_nf.ops import handover

    sys.stdout.buffer.write(handover.pack(config.load_again(path)))
    return 0

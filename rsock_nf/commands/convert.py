"""``convert``: print a file of the original as ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from rsock_nf.commands.output import complain, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``convert``."""
    parser.add_argument("file", type=Path, metavar="FILE", help="its JSON file")


def run(arguments: argparse.Namespace) -> int:
    """Print a file of the original as ours."""
    import json

    from rsock_nf import config

    keys, notes = config.convert(arguments.file)
    for line in notes:
        complain(line)
    say(json.dumps(keys, indent=2))
    return 0

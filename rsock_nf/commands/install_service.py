"""``install-service``: have systemd run instances."""

from __future__ import annotations

import argparse

from rsock_nf.commands.output import complain, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``install-service``."""
    parser.add_argument("--print", action="store_true", help="print the unit; touch nothing")


def run(arguments: argparse.Namespace) -> int:
    """Write the unit that runs this very program, and what belongs to it."""
    from rsock_nf.ops.service import install

    if arguments.print:
        say(install.text().rstrip("\n"))
    else:
        install.install(say, lambda line: complain(f"warning: {line}"))
    return 0

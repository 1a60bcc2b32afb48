"""``server``: start a server by the flags of the original's server."""

from __future__ import annotations

import argparse

from rsock_nf.commands import original


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The original's flags."""
    original.add_arguments(parser, "server")


def run(arguments: argparse.Namespace) -> int:
    """Start it."""
    return original.run(arguments)

"""``client``: start a client by the flags of the original's client."""

from __future__ import annotations

import argparse

from rsock_nf.commands import original


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The original's flags."""
    original.add_arguments(parser, "client")


def run(arguments: argparse.Namespace) -> int:
    """Start it."""
    return original.run(arguments)

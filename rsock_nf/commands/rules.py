"""``rules``: print the firewall rules of an instance."""

from __future__ import annotations

import argparse

from rsock_nf.commands.output import say
from rsock_nf.commands.shared import config_argument, loaded, required_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file."""
    config_argument(parser, required=True)


def run(arguments: argparse.Namespace) -> int:
    """Print the firewall rules of an instance."""
    from rsock_nf.ops.rules import rules_for

    say(rules_for(loaded(required_file(arguments), warn=False).settings).rstrip("\n"))
    return 0

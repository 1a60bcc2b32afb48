"""``doctor``: what is in the way of a tunnel on this host."""

from __future__ import annotations

import argparse

from rsock_nf.commands.output import say
from rsock_nf.commands.shared import config_argument, loaded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file."""
    config_argument(parser, required=False)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found out about this host."""
    from rsock_nf.ops import doctor

    findings = doctor.examine(loaded(arguments.config, warn=False).settings if arguments.config else None)
    for finding in findings:
        say(finding)
    return 1 if any(finding.verdict is doctor.Verdict.FAIL for finding in findings) else 0

"""``doctor``: what is in the way of a tunnel, on this host and on the way to the server."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rsock_nf.commands.output import fit_to_terminal, say
from rsock_nf.commands.shared import config_argument, config_file, loaded
from rsock_nf.errors import UnresolvedError

if TYPE_CHECKING:
    from rsock_nf.link.checks import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and how much is wanted."""
    config_argument(parser, required=False)
    parser.add_argument("--local", action="store_true", help="look at this host only; do not dial the server")
    parser.add_argument("-v", "--verbose", action="store_true", help="also what makes no difference")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object, with everything")


def run(arguments: argparse.Namespace) -> int:
    """Print what was found out.  1 = something is in the way."""
    import json

    from rsock_nf.ops.doctor.examination import examine

    def tell(finding: Finding) -> None:
        if not arguments.json and (arguments.verbose or not finding.quiet):
            say(fit_to_terminal(str(finding), sys.stdout))
            sys.stdout.flush()

    settings, unresolved = None, ""
    if path := config_file(arguments):
        try:
            settings = loaded(path, warn=False).settings
        except UnresolvedError as error:
            unresolved = str(error)
    found = examine(settings, unresolved, ask_server=not arguments.local, tell=tell)
    if arguments.json:
        say(json.dumps(found.as_json(), indent=2))
    return 0 if found.well else 1

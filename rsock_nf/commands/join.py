"""``join``: make the client's file of a tunnel from the line that ``init`` printed at the server."""

from __future__ import annotations

import argparse
import sys

from rsock_nf.commands.making import made
from rsock_nf.commands.output import PROGRAM
from rsock_nf.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``join``."""
    parser.add_argument(
        "line",
        nargs="?",
        default="-",
        metavar="LINE",
        help="what `rsock-nf init` printed at the server; nothing, or -: it is read from standard input, and so in no "
        "shell's history",
    )
    parser.add_argument("--name", help="what the tunnel is called here (default: as at the server)")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS:PORT",
        help="where the application sends its datagrams (default 127.0.0.1:30000, a game's 127.0.0.1:27015, or the "
        "next port that is free)",
    )
    parser.add_argument("--force", action="store_true", help="write a file anew that is there")


def run(arguments: argparse.Namespace) -> int:
    """Make the file; print what is to be set in the application."""
    import dataclasses

    from rsock_nf.config.invitation import InvitationError, parse
    from rsock_nf.ops import new_tunnel, outcome
    from rsock_nf.ops.applications import application

    try:
        invitation = parse(_line() if arguments.line == "-" else arguments.line)
    except InvitationError as error:
        raise UsageError(f"the line: {error}") from None
    chosen = application(invitation.application)
    invitation = dataclasses.replace(invitation, name=arguments.name or invitation.name or chosen.tunnel)
    listen = arguments.listen or new_tunnel.free_listen(chosen.listen, invitation.name)
    path = made(invitation, new_tunnel.client_keys(invitation, chosen, listen), "client", force=arguments.force)
    outcome.of_client(path, invitation, chosen, listen)
    return 0


def _line() -> str:
    """The line from standard input; a person is asked for it, and it is not shown."""
    if not sys.stdin.isatty():
        return sys.stdin.read(1 << 16)
    import getpass

    try:
        return getpass.getpass(f"The line that `{PROGRAM} init` printed at the server (not shown): ")
    except EOFError:
        raise UsageError("the line: nothing was given") from None

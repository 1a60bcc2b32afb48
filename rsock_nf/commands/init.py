"""``init``: make the server's file of a new tunnel, and the line that makes the client's."""

from __future__ import annotations

import argparse
import os
import sys

from rsock_nf.commands.making import made
from rsock_nf.commands.output import PROGRAM
from rsock_nf.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``init``."""
    from rsock_nf.core.parameters import Cipher, Kinds
    from rsock_nf.ops.applications import APPLICATIONS

    parser.add_argument(
        "application", choices=[one.name for one in APPLICATIONS], help="what the tunnel is for; custom: anything else"
    )
    parser.add_argument(
        "--public",
        action="append",
        metavar="ADDRESS",
        help="the server's address or name, as clients reach it; may be given again, in order of preference "
        "(default: this host's own, if that is a public one)",
    )
    parser.add_argument("--name", help="what the tunnel is called here (default: wg for wireguard, else as it is)")
    parser.add_argument("--target", metavar="ADDRESS:PORT", help="where the application's server listens")
    parser.add_argument("--ports", help="the tunnel's ports (default 10001-10010, or the next ten that are free)")
    parser.add_argument("--type", choices=[one.value for one in Kinds], default=Kinds.TCP.value, help="(default tcp)")
    parser.add_argument(
        "--cipher", choices=[one.value for one in Cipher], help="(default: none, if the application encrypts by itself)"
    )
    parser.add_argument("--force", action="store_true", help="write a file anew that is there, with a new secret")


def run(arguments: argparse.Namespace) -> int:
    """Make the file; print the line, and what is to be done."""
    from rsock_nf.config.invitation import Invitation
    from rsock_nf.config.values import SECRET_BYTES, parse_ports
    from rsock_nf.core.parameters import Cipher, Kinds
    from rsock_nf.ops import new_tunnel, outcome
    from rsock_nf.ops.applications import application

    chosen = application(arguments.application)
    name = arguments.name or chosen.tunnel
    if arguments.target is None and chosen.port is None:
        raise UsageError('--target: missing: where the application\'s server listens, as "127.0.0.1:9999"')
    try:
        ports = parse_ports(arguments.ports) if arguments.ports else new_tunnel.free_ports(name)
    except ValueError as error:
        raise UsageError(f"--ports: {error}") from None
    invitation = Invitation(
        secret=os.urandom(SECRET_BYTES),
        servers=tuple(arguments.public or [_own_address()]),
        ports=ports,
        kinds=Kinds(arguments.type),
        cipher=Cipher(arguments.cipher) if arguments.cipher else chosen.cipher,
        spread=chosen.spread,
        application=chosen.name,
        name=name,
    )
    target = arguments.target or f"127.0.0.1:{chosen.port}"
    path = made(invitation, new_tunnel.server_keys(invitation, chosen, target), "server", force=arguments.force)
    outcome.of_server(path, invitation, chosen, target, to_terminal=sys.stdout.isatty())
    return 0


def _own_address() -> str:
    """This host's public address.  Raises ``UsageError`` if it has none, or several."""
    from rsock_nf.link import LinkError, host_addresses

    try:
        public = [address for address in host_addresses() if address.is_global]
    except LinkError:
        public = []
    preferred = [address for address in public if address.version == 4] or public
    if len(preferred) != 1:
        has = f"this host has {', '.join(map(str, preferred[:4]))}" if preferred else "this host has no public address"
        raise UsageError(f"--public: missing: the address by which clients reach {PROGRAM} here; {has}")
    return str(preferred[0])

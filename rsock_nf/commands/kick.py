"""``kick``: servers end the sessions of one client."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rsock_nf.commands.output import say
from rsock_nf.errors import InstanceError

if TYPE_CHECKING:
    from rsock_nf.ops.instances.instance import Instance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which client, and of which instance."""
    parser.add_argument("client", help='its name in "clients"')
    parser.add_argument("-n", "--name", help="the instance's name; not given: all that run")


def run(arguments: argparse.Namespace) -> int:
    """End the sessions of one client.  It may come back at once."""
    from rsock_nf.ops.control_socket.ask import ask
    from rsock_nf.ops.instances.running import running_instances

    named = None if arguments.name is None else _instance(arguments.name)
    ended = {one.name: ask(one, "kick", {"client": arguments.client})["ended"] for one in running_instances(named)}
    if not any(ended.values()):
        raise InstanceError(f"no session of {arguments.client}: `rsock-nf status` lists the sessions")
    for name, count in ended.items():
        if count:
            say(f"{name}: ended {count} session{'s' if count != 1 else ''} of {arguments.client}")
    return 0


def _instance(name: str) -> Instance:
    from rsock_nf.config.values import parse_name
    from rsock_nf.ops.instances.instance import Instance

    try:
        return Instance(parse_name(name))
    except ValueError as error:
        raise InstanceError(f"--name: {error}") from None

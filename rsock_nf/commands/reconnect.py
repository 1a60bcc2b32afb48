"""``reconnect``: clients replace every flow, without loss."""

from __future__ import annotations

import argparse

from rsock_nf.commands.output import say
from rsock_nf.commands.shared import instance_arguments, named_instance
from rsock_nf.errors import InstanceError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which instances."""
    instance_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Have one client or all replace every flow, without loss."""
    from rsock_nf.ops.control_socket.ask import ask
    from rsock_nf.ops.instances.running import running_instances

    named = named_instance(arguments)
    dialling = [instance.name for instance in running_instances(named) if ask(instance, "reconnect")["dials"]]
    if not dialling:
        raise InstanceError(f"instance {named.name} is a server: it does not dial" if named else "no client is running")
    for name in dialling:
        say(f"{name}: renews its flows")
    return 0

"""What several commands share: arguments, the configuration file, the instances that are meant."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rsock_nf.commands.output import complain
from rsock_nf.errors import InstanceError

if TYPE_CHECKING:
    from rsock_nf.config.configuration import Configuration
    from rsock_nf.ops.instances.instance import Instance


def config_argument(parser: argparse.ArgumentParser | argparse._MutuallyExclusiveGroup, *, required: bool) -> None:
    """``--config FILE``."""
    parser.add_argument("-c", "--config", type=Path, required=required, metavar="FILE", help="the configuration file")


def instance_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config FILE`` or ``--name NAME``; neither: all instances."""
    which = parser.add_mutually_exclusive_group()
    config_argument(which, required=False)
    which.add_argument("-n", "--name", help="the instance's name")


def loaded(path: Path, *, warn: bool = True, patient: bool = False) -> Configuration:
    """The configuration of that file; with ``warn`` its warnings are told.  Raises ``ConfigurationError``."""
    from rsock_nf import config

    configuration = config.load(path, patient=patient)
    if warn:
        tell(configuration)
    return configuration


def tell(configuration: Configuration) -> None:
    """On standard error: how the original's configuration was understood, and what should be known."""
    for line in configuration.notes:
        complain(line)
    for line in configuration.warnings:
        complain(f"warning: {line}")


def named_instance(arguments: argparse.Namespace) -> Instance | None:
    """The instance that the arguments name; None = they name none."""
    from rsock_nf.ops.instances.instance import Instance

    if arguments.config:
        from rsock_nf.ops.launch import name_of

        return Instance(name_of(arguments.config))
    if arguments.name is None:
        return None
    from rsock_nf.config.values import parse_name

    try:
        return Instance(parse_name(arguments.name))
    except ValueError as error:
        raise InstanceError(f"--name: {error}") from None


def running_instances(named: Instance | None) -> list[Instance]:
    """The named instance, or all that run.  Raises ``InstanceError`` when there is none."""
    from rsock_nf.ops.instances.instance import instances

    found = [instance for instance in ([named] if named else instances()) if instance.is_running()]
    if not found:
        raise InstanceError(f"instance {named.name} is not running" if named else "no instance is running")
    return found


def only_running(named: Instance | None) -> Instance:
    """The named instance, or the only one that runs.  Raises ``InstanceError`` when there is none, or several."""
    running = running_instances(named)
    if len(running) > 1:
        raise InstanceError(f"several instances run: name one of {', '.join(one.name for one in running)}")
    return running[0]


def require_privileges(command: str, remark: str = "", *, backend: str = "auto") -> None:
    """Raises ``InstanceError``: what this process lacks for ``command``."""
    from rsock_nf.ops.privileges import refusal

    reason = refusal(command, backend)
    if reason:
        raise InstanceError(f"{reason}; {remark}" if remark else reason)

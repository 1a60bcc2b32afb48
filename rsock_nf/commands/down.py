"""``down``: stop instances, and remove what dead ones left."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rsock_nf.commands.output import complain, say
from rsock_nf.commands.shared import instance_arguments, named_instance, require_privileges
from rsock_nf.errors import InstanceError

if TYPE_CHECKING:
    from rsock_nf.ops.instances.instance import Instance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which instances."""
    instance_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Stop one instance or all, and remove what dead ones left."""
    named = named_instance(arguments)
    from rsock_nf.ops import launch, privileges
    from rsock_nf.ops.instances.instance import Instance, clear_ended, instances, remove_run_dir
    from rsock_nf.ops.instances.leftovers import clear_all_rules, clear_rules
    from rsock_nf.ops.instances.processes import lost_processes
    from rsock_nf.ops.instances.run_directory import run_dir

    if named:
        found = [named.name]
    else:
        found = sorted({instance.name for instance in instances()} | {lost.name for lost in lost_processes()})
    missing = privileges.missing()
    unprivileged = bool(missing) and all(_without_rules(Instance(name)) for name in found)
    unseen = ""
    if unprivileged:
        unseen = f" (as far as {run_dir()} tells; rules left over can be seen only with {' and '.join(missing)})"
    else:
        require_privileges("down")
    failed = False
    for name in found:
        try:
            say(launch.stop(name, (lambda _: []) if unprivileged else clear_rules, unseen=unseen))
        except InstanceError as error:
            if named:
                raise
            complain(str(error))
            failed = True
    if named:
        return 0
    clear_ended()
    remove_run_dir()
    orphans = [] if unprivileged else clear_all_rules()
    for name in orphans:
        say(f"{name}: was not running; removed the rules that it left")
    if not found and not orphans:
        say(f"nothing was running{unseen}")
    return 1 if failed else 0


def _without_rules(instance: Instance) -> bool:
    """Whether an unprivileged user may end it: it is theirs, so it has no rules (``type: udp``, ``backend: manual``),
    or nothing is left."""
    try:
        return instance.is_own()
    except InstanceError:
        return False

"""Which running instances a command means, when it names one or none."""

from __future__ import annotations

from rsock_nf.errors import InstanceError
from rsock_nf.ops.instances.instance import Instance, instances


def running_instances(named: Instance | None, *, otherwise: str = "") -> list[Instance]:
    """The named instance, or all that run.  Raises ``InstanceError`` when there is none; ``otherwise``: what goes all
    the same.
    """
    found = [instance for instance in ([named] if named else instances()) if instance.is_running()]
    if not found:
        what = f"instance {named.name} is not running" if named else "no instance is running"
        raise InstanceError(f"{what}: {otherwise}" if otherwise else what)
    return found


def only_running(named: Instance | None, *, otherwise: str = "") -> Instance:
    """The named instance, or the only one that runs.  Raises ``InstanceError`` when there is none, or several."""
    running = running_instances(named, otherwise=otherwise)
    if len(running) > 1:
        raise InstanceError(f"several instances run: name one of {', '.join(one.name for one in running)}")
    return running[0]

"""Every instance of this host, and how it is: the snapshots of those that answer, and a word on those that cannot.

    {"name": "edge", "role": "client", "state": "connected", …}        as the instance tells (``runtime.snapshot``)
    {"name": "edge", "state": "crashed", "reason": "…", "pid": 4711}   as seen from outside; it has no "role"

States of the second kind: ``down`` (it does not run, and nothing of it is left), ``crashed``, ``failed`` (it ended by
an error and removed its rules), ``lost`` (it runs, but its directory was deleted), ``silent`` (it does not answer).
"""

from __future__ import annotations

from rsock_nf.errors import ControlError, InstanceError
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances import namespaces
from rsock_nf.ops.instances.instance import Instance, instances
from rsock_nf.ops.instances.processes import lost_processes
from rsock_nf.ops.status import Snapshot


def overview(named: Instance | None, *, find_lost: bool = True) -> list[Snapshot]:
    """Of the named instance, or of every one, by name.

    ``find_lost``: also those whose directory was deleted; that looks at every process of the host.
    Raises ``InstanceError`` when the state directory cannot be read.
    """
    lost = {found.name: found.pid for found in lost_processes()} if find_lost else {}
    names = [named.name] if named else sorted({instance.name for instance in instances()} | lost.keys())
    return [_look(Instance(name), lost.get(name)) for name in names]


def runs(snapshot: Snapshot) -> bool:
    """Whether it is an instance's own word."""
    return "role" in snapshot


def _look(instance: Instance, lost: int | None) -> Snapshot:
    if instance.is_running():
        try:
            answer = ask(instance, "status")
            # Its name is what we call it, whatever its version; the rest is for who reads it (``ops.status``).
            return {**answer, "name": instance.name, "state": str(answer.get("state", "unknown"))}
        except ControlError as error:
            return {"name": instance.name, "state": "silent", "reason": str(error)}
        except InstanceError:
            pass  # it has just ended
    down = f"rsock-nf down --name {instance.name}"
    if lost is not None:
        reason = f"process {lost} runs, but {instance.directory} was deleted: {down}"
        return {"name": instance.name, "state": "lost", "reason": reason, "pid": lost}
    if not instance.exists():
        return {"name": instance.name, "state": "down", "reason": f"instance {instance.name} is not running"}
    record = instance.record()
    if record is None:
        reason = f"{instance.state_path} does not tell when or where; its rules may still stand: {down}"
        return {"name": instance.name, "state": "crashed", "reason": reason}
    about = {"name": instance.name, "pid": record.pid, "config": record.config, "netns": record.netns}
    if record.ended is not None:
        return {**about, "state": "failed", "reason": f"{record.ended} (log: {instance.log_path}; {down} forgets it)"}
    gone = f"process {record.pid} is gone"
    remedy = namespaces.remedy(record.netns, down)
    if remedy is None:
        reason = f"{gone}, and its network namespace with its rules too: {down}"
    else:
        reason = f"{gone}; its rules still stand: {remedy}"
    return {**about, "state": "crashed", "reason": reason}

"""The processes of instances, asked of the kernel instead of the files that they wrote.

An instance's process has its directory open and locked for as long as it lives, and proc(5) shows that also when the
directory was deleted under it: that is how such a process is found again.  Where there is no /proc, none is found.
"""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rsock_nf import trust
from rsock_nf.errors import InstanceError
from rsock_nf.ops.instances.run_directory import run_dir

_PROC = Path("/proc")
_DELETED = " (deleted)"
_INTERVAL = 0.01


@dataclass(frozen=True, slots=True)
class InstanceProcess:
    """A process that holds the lock of an instance's directory."""

    name: str
    """The instance's."""
    pid: int
    deleted: bool
    """The directory was deleted: nobody can talk to the process, and another may take the name."""
    netns: int | None
    """Its network namespace."""


def instance_processes() -> Iterator[InstanceProcess]:
    """Every holder of an instance in ``run_dir()``.  Looks at all open files of the host: some milliseconds."""
    inside = f"{os.path.realpath(run_dir())}/"
    for process in _PROC.glob("[0-9]*"):
        try:
            descriptors = list(os.scandir(process / "fd"))
        except OSError:  # it has ended, or belongs to somebody else
            continue
        for descriptor in descriptors:
            try:
                target = os.readlink(descriptor.path)  # noqa: PTH115 - called for every open file of the host
                if not target.startswith(inside):
                    continue
                # In a mount namespace of one's own, anyone can give a directory this path.
                found = os.stat(descriptor.path)  # noqa: PTH116 - a path of scandir
                if not stat.S_ISDIR(found.st_mode) or not trust.is_trusted_owner(found.st_uid):
                    continue
                name = target.removeprefix(inside).removesuffix(_DELETED)
                locked = re.search(r"FLOCK\s+ADVISORY\s+WRITE", (process / "fdinfo" / descriptor.name).read_text())
                if locked and "/" not in name:
                    netns = (process / "ns" / "net").stat().st_ino
                    yield InstanceProcess(name, int(process.name), target.endswith(_DELETED), netns)
            except OSError:
                continue


def lost_processes() -> list[InstanceProcess]:
    """Those whose directory was deleted, by name."""
    return sorted((found for found in instance_processes() if found.deleted), key=lambda found: found.name)


def end(lost: InstanceProcess, *, grace: float) -> bool:
    """End a process whose directory was deleted: SIGTERM, after ``grace`` seconds SIGKILL.  Whether SIGTERM was enough.

    Raises ``InstanceError`` when it may not be signalled or does not go.
    """
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 2.0)):
        signal_and_wait(lost.pid, number, patience, lambda: lost in instance_processes())
        if lost not in instance_processes():
            return number is signal.SIGTERM
    raise InstanceError(f"instance {lost.name}: process {lost.pid} does not end")


def signal_and_wait(pid: int, number: signal.Signals, timeout: float, still: Callable[[], bool]) -> bool:
    """Signal process ``pid`` if ``still`` says that it is the right one, and wait ``timeout`` seconds for its end.

    Returns whether it was signalled.  Raises ``InstanceError`` when it may not be.
    """
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        return _signal_and_poll(pid, number, timeout, still)
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not still():
            return False
        signal.pidfd_send_signal(process, number)
        select.select([process], [], [], timeout)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise InstanceError(f"process {pid} belongs to another user") from None
    finally:
        os.close(process)
    return True


def _signal_and_poll(pid: int, number: signal.Signals, timeout: float, still: Callable[[], bool]) -> bool:
    """``signal_and_wait`` where processes have no descriptors; a pid could be reused just before the signal."""
    try:
        if not still():
            return False
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise InstanceError(f"process {pid} belongs to another user") from None
    deadline = time.monotonic() + timeout
    while still() and time.monotonic() < deadline:
        time.sleep(_INTERVAL)
    return True


def start_time(pid: int) -> str | None:
    """Of a process: clock ticks since boot (proc(5), stat field 22), elsewhere what ps(1) says; None = nobody tells."""
    try:
        # The second field is the command in parentheses, which may itself hold blanks and parentheses.
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        if (_PROC / "self/stat").exists():
            return None
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    try:
        asked = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return " ".join(asked.stdout.split()) or None

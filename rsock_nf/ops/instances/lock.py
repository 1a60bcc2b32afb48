"""Who holds the ``flock(2)`` on a directory, in the kernel's own words.

proc_locks(5) names process, device and inode.  Where there is no such file (BSD, macOS), nobody can be asked.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_LOCKS = Path("/proc/locks")
_LINE = re.compile(r"\d+: FLOCK +ADVISORY +WRITE (\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ")


def kernel_names_holders() -> bool:
    """Whether ``holder`` can know."""
    return _LOCKS.exists()


def holder(descriptor: int) -> int | None:
    """The process that holds the directory of ``descriptor`` for itself alone; None = nobody, or nobody knows."""
    try:
        text = _LOCKS.read_text()
    except OSError:
        return None
    device, inode = _identity(descriptor)
    for found in _LINE.finditer(text):
        pid, major, minor, number = found.groups()
        if int(number) == inode and (int(major, 16), int(minor, 16)) == device and int(pid) > 0:
            return int(pid) if _has_open(int(pid), descriptor) else None
    return None


def _has_open(pid: int, descriptor: int) -> bool:
    """Whether process ``pid`` has the directory of ``descriptor`` open, as far as we may look.

    A lock outlives the process that took it if a child of that has the descriptor; then the number may be anybody's.
    """
    own = os.fstat(descriptor)
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - names, not paths
    except OSError as error:
        return isinstance(error, PermissionError)
    hidden = False
    for name in names:
        try:
            found = os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116 - a hundred of them
        except OSError as error:  # we may not look, as without CAP_SYS_PTRACE; or it was closed just now
            hidden |= isinstance(error, PermissionError)
            continue
        if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
            return True
    return hidden


def _identity(descriptor: int) -> tuple[tuple[int, int], int]:
    """Device and inode of a file as the lock's line has them.

    On btrfs and overlayfs, stat(2) may tell others.  The kernel's own: proc_pid_fdinfo(5), ``ino`` since Linux 5.14.
    """
    status = os.fstat(descriptor)
    device, inode = (os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino
    try:
        about = dict(re.findall(r"^(\w+):\s+(\d+)$", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE))
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[0] == about.get("mnt_id"):
                major, _, minor = fields[2].partition(":")
                device = int(major), int(minor)
        inode = int(about.get("ino", inode))
    except OSError:
        pass
    return device, inode

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
    device, inode = _device(descriptor), os.fstat(descriptor).st_ino
    for found in _LINE.finditer(text):
        pid, major, minor, number = found.groups()
        if int(number) == inode and (int(major, 16), int(minor, 16)) == device and int(pid) > 0:
            return int(pid)
    return None


def _device(descriptor: int) -> tuple[int, int]:
    """As the kernel numbers the file system: on btrfs, stat(2) tells another number for each subvolume."""
    try:
        mount = re.search(r"^mnt_id:\s+(\d+)$", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE)
        number = mount.group(1) if mount else ""
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[0] == number:
                major, _, minor = fields[2].partition(":")
                return int(major), int(minor)
    except OSError:
        pass
    device = os.fstat(descriptor).st_dev
    return os.major(device), os.minor(device)

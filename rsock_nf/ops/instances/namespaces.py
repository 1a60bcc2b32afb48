"""Network namespaces by number: which one this process is in, and how an operator gets into another.

Rules belong to the namespace in which they were made.  Not here: making namespaces (``netns``, for the laboratory).
"""

from __future__ import annotations

import os
from pathlib import Path

_NAMED = Path("/run/netns")
"""Where ip-netns(8) binds those that have a name."""


def current() -> int | None:
    """The inode of this process's network namespace (namespaces(7)); None where there are none."""
    return _inode(Path("/proc/self/ns/net"))


def way_into(inode: int) -> str | None:
    """The words before a command that run it in that namespace; None = no name and no process of it was found."""
    try:
        named = sorted(_NAMED.iterdir())
    except OSError:
        named = []
    for path in named:
        if _inode(path) == inode:
            return f"ip netns exec {path.name}"
    entries = os.listdir("/proc")  # noqa: PTH208 - names, not paths
    for pid in sorted(int(entry) for entry in entries if entry.isdigit()):
        if _inode(Path(f"/proc/{pid}/ns/net")) == inode:
            return f"nsenter --net --target {pid}"
    return None


def remedy(inode: int | None, command: str) -> str | None:
    """``command`` as it must be typed here to run where a rule of namespace ``inode`` stands; None = that is gone."""
    if inode is None or inode == current():
        return command
    way = way_into(inode)
    return f"{way} {command}" if way else None


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None

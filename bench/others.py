"""What other processes take from the machine during a measurement.

Each measurement notes it.  One that was disturbed is made again, and the less disturbed one counts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

DISTURBED = 0.05
"""Share of the machine: above that, a measurement is made again."""
TRIES = 2
OTHERS = "others"
"""The share, among what was found."""
_TICK = os.sysconf("SC_CLK_TCK")
_CPUS = os.cpu_count() or 1


def calm(
    measure: Callable[[], Mapping[str, float]], own: Callable[[], set[int]], tries: int = TRIES
) -> dict[str, float]:
    """The least disturbed of at most ``tries`` measurements; ``own`` are processes that are no others."""
    found: list[dict[str, float]] = []
    while not found or (found[-1][OTHERS] > DISTURBED and len(found) < tries):
        before, began = used(own()), monotonic()
        seen = measure()
        found.append({**seen, OTHERS: share(before, used(own()), monotonic() - began)})
    return min(found, key=lambda one: one[OTHERS])


def share(before: Mapping[int, float], after: Mapping[int, float], seconds: float) -> float:
    """Of the machine, at most 1: a daemon that ends leaves all that it ever used to its parent."""
    spent = sum(max(now - before.get(pid, 0.0), 0.0) for pid, now in after.items())
    return min(spent / seconds / _CPUS, 1.0)


def used(own: set[int]) -> dict[int, float]:
    """CPU seconds so far of each process but ``own`` and this one, with its ended children (proc(5), fields 14-17)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in own | {os.getpid()}:
            with contextlib.suppress(OSError):  # it has just ended
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found[int(entry.name)] = sum(map(int, fields[11:15])) / _TICK
    return found

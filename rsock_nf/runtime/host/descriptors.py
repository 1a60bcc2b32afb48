"""Where too few descriptors are left: the conversations and held ports of an instance may take all that it may have.

That ends no tunnel.  What is looked at once a second with a file or a socket of its own counts as it was seen last.
"""

from __future__ import annotations

import os
from typing import Final

from rsock_nf.link import NO_DESCRIPTOR, system

NEEDED: Final = 4
"""One flow may need as many at a time: its port's socket, and a lock and two sockets to change rules of iptables."""
TOO_FEW_LEFT: Final = (
    "no descriptor is left, or too few, so no flow and no conversation can begin: raise the limit of open files "
    "(LimitNOFILE= in systemd, ulimit -n)"
)


def too_few_left() -> bool:
    """Whether this process can open less than ``NEEDED`` files at this moment."""
    opened: list[int] = []
    try:
        while len(opened) < NEEDED:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in NO_DESCRIPTOR
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return False


class RulesPlace:
    """Whether the drop rules must be at input now (``System.drops_at_input``), or had to be when that was seen last."""

    def __init__(self) -> None:
        self._at_input = False

    def at_input(self) -> bool:
        """At this moment."""
        try:
            self._at_input = system().drops_at_input()
        except OSError as error:
            if error.errno not in NO_DESCRIPTOR:
                raise
        return self._at_input

"""What an instance gives up, for good, before it reads any packet: first privileges, then system calls."""

from __future__ import annotations

from rsock_nf.ops import privileges, system_calls
from rsock_nf.settings import Settings


def confine(settings: Settings) -> list[str]:
    """Give it up; what is left, in lines for the log.  To be called once, by the process that becomes the instance.

    Raises ``InstanceError`` when it cannot become the user of the settings.
    """
    return [privileges.confine(settings), system_calls.deny()]

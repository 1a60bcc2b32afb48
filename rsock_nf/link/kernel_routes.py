"""``Routes`` where the kernel alone finds the way of each packet, and nothing is followed."""

from __future__ import annotations

from typing import Final

from rsock_nf.core.types import IPAddress
from rsock_nf.link.protocol import Detour, LinkEvent


class KernelRoutes:
    """See ``Routes``.  ``device``: the only one that is used, if there is one."""

    def __init__(self, device: str | None = None) -> None:
        self.devices = (device,) if device is not None else ()

    def fileno(self) -> int:
        """Never readable."""
        return -1

    def events(self) -> list[LinkEvent]:
        """None."""
        return []

    def follow(self, remote: IPAddress, source: IPAddress | None = None) -> None:
        """Nothing: the kernel does."""

    def forget(self, remote: IPAddress, source: IPAddress | None = None) -> None:
        """Nothing."""

    def suspect(self, remote: IPAddress) -> None:
        """Nothing."""

    def unanswered(self, remote: IPAddress) -> None:
        """Nothing."""

    def source_for(self, remote: IPAddress) -> IPAddress | None:  # noqa: ARG002 - as ``Routes`` has it
        """The kernel chooses."""
        return None

    def device_for(self, remote: IPAddress) -> int:  # noqa: ARG002 - as ``Routes`` has it
        """The kernel chooses."""
        return 0

    def path_mtu(self) -> int:
        """Not known."""
        return 0

    def detours(self) -> list[Detour]:
        """None is known."""
        return []

    through_vpn = True
    """It cannot be excluded."""

    def missing(self) -> list[str]:
        """None is known."""
        return []

    def tick(self, now: float) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing is open."""


NO_ROUTES: Final = KernelRoutes()

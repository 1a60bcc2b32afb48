"""A client's way to its server: the source address of its flows, the device that they leave by, and what is wrong.

Flows begin at the source address that the route prefers, or at one of ``addresses``.  When the route prefers another
one, the flows of before are dead, and the client has to dial anew.

A route may lead into a VPN that runs over this tunnel.  ``link`` goes around it, and this part says so.

Not here: how routes are found and followed (``rsock_nf.link``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rsock_nf.core.types import IPAddress
from rsock_nf.link import Detour
from rsock_nf.runtime.host.device import Device
from rsock_nf.runtime.reports.detours import notes, reasons
from rsock_nf.words import detour_text

UNANSWERED = 3.0
"""Seconds without any flow until another way is tried, and from one try to the next."""


def configured_source(addresses: Iterable[IPAddress], version: int) -> IPAddress | None:
    """The one of the configured source addresses that flows of this IP version begin at; None = the route chooses."""
    return next((address for address in addresses if address.version == version), None)


class ServerRoute:
    """See the module.  ``addresses``: the source addresses that are configured."""

    def __init__(self, device: Device, addresses: tuple[IPAddress, ...], log: logging.Logger) -> None:
        self._device = device
        self._addresses = addresses
        self._log = log
        self._used: dict[IPAddress, IPAddress] = {}
        """Server address → the source address of the flows to it."""
        self._told: tuple[Detour, ...] = ()
        self._told_source: tuple[IPAddress, IPAddress] | None = None
        self._down_since: float | None = None

    def follow(self, remotes: Iterable[IPAddress]) -> None:
        """Keep the ways to the server's addresses up to date, on the link that there is now."""
        for remote in remotes:
            self._device.routes.follow(remote)
        for remote, source in self._used.items():
            self._device.routes.follow(remote, source)

    def forget(self, remote: IPAddress) -> None:
        """Nothing goes to this address any more."""
        used = self._used.pop(remote, None)
        if used is not None:
            self._device.routes.forget(remote, used)
        self._device.routes.forget(remote)

    def source_for(self, remote: IPAddress) -> IPAddress | None:
        """The source address of the next flow; None = there is no route."""
        source = self.preferred(remote)
        before = self._used.get(remote)
        if source is None or source == before:
            return source
        if before is not None:
            self._device.routes.forget(remote, before)
        self._used[remote] = source
        self._device.routes.follow(remote, source)
        return source

    def preferred(self, remote: IPAddress) -> IPAddress | None:
        """The source address that the next flow would have; changes nothing."""
        configured = configured_source(self._addresses, remote.version)
        return configured if configured is not None else self._device.routes.source_for(remote)

    def moved(self, remote: IPAddress) -> bool:
        """After news: whether flows to ``remote`` have to begin at another address than those that there are."""
        self._tell_detours()
        source, used = self.preferred(remote), self._used.get(remote)
        if source is None or used is None or source == used:
            return False
        if source.is_link_local and not remote.is_link_local:
            return False  # between two addresses: nobody far away can answer to this one
        if (used, source) != self._told_source:
            self._told_source = used, source
            self._log.info("our address has changed from %s to %s", used, source)
        return True

    def tick(self, now: float, remote: IPAddress, *, connected: bool) -> None:
        """Once a second while flows are wanted.  Without any flow for some seconds, another way is tried."""
        self._tell_detours()
        if connected:
            self._down_since = None
        elif self._down_since is None:
            self._down_since = now
        elif now - self._down_since >= UNANSWERED:
            self._down_since = now
            self._device.routes.unanswered(remote)

    def _tell_detours(self) -> None:
        detours = tuple(self._device.routes.detours())
        for detour in detours:
            if detour not in self._told:
                self._log.log(logging.INFO if detour.used else logging.WARNING, "%s", detour_text(*detour))
        for detour in self._told:
            if detour not in detours and not any(one.remote == detour.remote for one in detours):
                self._log.info("the route to %s no longer leads into %s", detour.remote, detour.avoided)
        self._told = detours

    def notes(self) -> list[str]:
        """What is unusual about the way, for ``status``."""
        return notes(self._told)

    def reasons(self) -> list[str]:
        """Why nothing can be sent, as far as the way is the reason."""
        return reasons(self._told)

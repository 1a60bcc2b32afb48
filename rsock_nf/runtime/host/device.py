"""The network devices of a running instance: with a link (fake TCP), or only as the ways of its UDP sockets.

``LinkedDevice`` reads what happens to the link and tells its owner.  On a system where a link has one device, it opens
the link again when the device comes back, or when the route has moved to another one.  ``PlainDevice`` knows the MTU
and the routes.

Not here: packets (``driver``), and how a link is made (``rsock_nf.link``).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, Protocol

from rsock_firewall import FirewallError
from rsock_nf.link import Link, LinkError, LinkEvent, Match, Routes, Routing, open_link
from rsock_nf.link.kernel_routes import NO_ROUTES
from rsock_nf.runtime.driver import Driver
from rsock_nf.runtime.host.rules import Rules

_LEVELS = {LinkEvent.UP: logging.INFO, LinkEvent.DOWN: logging.WARNING}
"""Of the log lines about the device; of all others: debug."""


class Device(Protocol):
    """What client and server ask of either kind."""

    @property
    def name(self) -> str:
        """The devices that are in use, for people; "" = none is known."""

    @property
    def up(self) -> bool:
        """It can send."""

    @property
    def mtu(self) -> int | None:
        """The largest IP packet in bytes; None = not known, or not open."""

    @property
    def routes(self) -> Routes:
        """The ways of its packets."""

    def link_counters(self) -> dict[str, Any]:
        """The link's, by name; empty without a link."""

    def rematch(self) -> None:
        """Our addresses have changed: receive what comes to the present ones.  Raises ``LinkError``."""

    def tick(self, now: float) -> None:
        """Once a second."""

    def close(self) -> None:
        """Idempotent."""


class Owner(Protocol):
    """What a ``LinkedDevice`` asks of the client or the server that it belongs to."""

    def match(self) -> Match:
        """What the link is to receive now."""

    def routing(self, name: str | None) -> Routing:
        """How the link finds its ways; ``name``: the device that it is opened on, None = any."""

    def wanted_device(self) -> str:
        """The device that this instance belongs on now, where a link has one device."""

    def device_changes(self, name: str) -> None:
        """The link is about to be opened on ``name``, perhaps the same device that has come back."""

    def device_event(self, event: LinkEvent) -> None:
        """UP, DOWN, ADDRESSES or NEXT_HOP."""

    def link_renewed(self) -> None:
        """The link is another one than before."""


class LinkedDevice:
    """A link, on which ``driver`` sends and receives, and the devices below it."""

    def __init__(
        self, name: str | None, link: Link | None, driver: Driver, rules: Rules, owner: Owner, *, log: logging.Logger
    ) -> None:
        """``link``: open already, on the device ``name``; None = on any."""
        self._name = name
        self._link = link
        """None = the device is gone: it is looked for once a second."""
        self._up = True
        self._driver = driver
        self._rules = rules
        self._owner = owner
        self._log = log
        if link is not None:
            self._use(link)

    def _use(self, link: Link) -> None:
        for warning in link.warnings:
            self._log.warning("%s", warning)
        self._driver.use_link(link, self.read_events)

    # -- what happens to it

    def read_events(self) -> None:
        """The link has something to tell."""
        link = self._link
        if link is None:
            return
        events = link.events()
        self._driver.link_changed()
        for event in events:
            self._log.log(_LEVELS.get(event, logging.DEBUG), "device %s (MTU %d): %s", self.name, link.mtu, event.value)
            if event in _LEVELS:
                self._up = event is LinkEvent.UP
            if event is LinkEvent.MTU:
                self._driver.resize(link.mtu, link.max_burst_bytes)
            elif event is LinkEvent.GONE:
                self._log.warning("device %s is gone: waiting for it", self.name)
                self.close()
                return
            elif event is LinkEvent.MOVED:
                wanted = self._owner.wanted_device()
                if wanted != self.name:
                    self._log.info("the route has moved from device %s to %s", self.name, wanted)
                    self._reopen(wanted)
                    return
            else:
                self._owner.device_event(event)
        self._driver.settle()

    def tick(self, now: float) -> None:
        """Neighbours and statistics are looked at; a device that is gone is looked for."""
        if self._link is not None:
            self._link.tick(now)
            self.read_events()
        else:
            self._reopen(self._owner.wanted_device())

    def _reopen(self, name: str) -> None:
        """Rules first, then the link; what fails is tried again in a second."""
        self._owner.device_changes(name)
        self.close()
        self._name = name
        try:
            self._rules.apply()
            link = open_link(self._owner.routing(name), self._owner.match())
        except (LinkError, FirewallError) as error:
            self._log.debug("device %s: %s", name, error)
            return
        self._link, self._up = link, True
        self._use(link)
        self._driver.resize(link.mtu, link.max_burst_bytes)
        self._log.info("using device %s", name)
        self._owner.link_renewed()
        self._driver.settle()

    def close(self) -> None:
        """Close the link.  Idempotent."""
        link, self._link = self._link, None
        if link is not None:
            self._driver.drop_link()
            link.close()

    # -- what is asked of it

    @property
    def up(self) -> bool:
        """See ``Device``."""
        return self._up and self._link is not None

    @property
    def mtu(self) -> int | None:
        """See ``Device``."""
        return self._link.mtu if self._link is not None else None

    @property
    def name(self) -> str:
        """See ``Device``."""
        return ", ".join(self.routes.devices) or self._name or ""

    @property
    def routes(self) -> Routes:
        """See ``Device``."""
        return self._link.routes if self._link is not None else NO_ROUTES

    def link_counters(self) -> dict[str, Any]:
        """See ``Device``."""
        if self._link is None:
            return {}
        counters = self._link.counters()
        return {field.name: getattr(counters, field.name) for field in dataclasses.fields(counters)}

    def rematch(self) -> None:
        """See ``Device``."""
        if self._link is not None:
            self._link.rematch(self._owner.match())


class PlainDevice:
    """No link: there are only UDP sockets.  ``routes`` tell by which device they are to send; it owns them."""

    up = True

    def __init__(
        self,
        mtu: int,
        driver: Driver,
        path_mtu: Callable[[], int],
        routes: Routes,
        *,
        moved: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        """``path_mtu``: the largest IP packet that the routes take now; 0 = they do not tell.

        ``moved`` is called when a way may be another one."""
        self.mtu: int | None = mtu
        self.routes = routes
        self._driver = driver
        self._path_mtu = path_mtu
        self._moved = moved
        self._log = log
        if routes.fileno() >= 0:
            driver.watch(routes.fileno(), self._read_events)

    @property
    def name(self) -> str:
        """See ``Device``."""
        return ", ".join(self.routes.devices)

    def _read_events(self) -> None:
        if self.routes.events():
            self._moved()
            self._driver.settle()

    def tick(self, now: float) -> None:
        """The MTU may have changed.  A route that was just deleted tells none: that is not believed."""
        self.routes.tick(now)
        self._read_events()
        mtu = self._path_mtu()
        if mtu in (0, self.mtu):
            return
        self._log.debug("the carriers' MTU is %d now", mtu)
        self.mtu = mtu
        self._driver.resize(mtu, 0)

    def link_counters(self) -> dict[str, Any]:
        """See ``Device``."""
        return {}

    def rematch(self) -> None:
        """Nothing is filtered."""

    def close(self) -> None:
        """Follow no route any more."""
        if self.routes.fileno() >= 0:
            self._driver.unwatch(self.routes.fileno())
        self.routes.close()

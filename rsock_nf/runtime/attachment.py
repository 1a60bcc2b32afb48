"""How an instance is attached to its host: firewall rules first, then the link, and both as the host changes.

Rules that somebody else removes are put back; a device that goes, comes back, or loses the route to another is
followed.  A tunnel without fake TCP has neither.  What is sent and received there is the ``driver``'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter

from rsock_firewall import Counters, FirewallError, Held, Policy, PortRange, select
from rsock_nf.core.ends.client import Client
from rsock_nf.core.ends.server import Server
from rsock_nf.link import Link, LinkError, LinkEvent, Match, open_link
from rsock_nf.policy import fake_tcp_ports
from rsock_nf.runtime.both_servers import BothServers
from rsock_nf.settings import Settings

_LEVELS = {LinkEvent.UP: logging.INFO, LinkEvent.DOWN: logging.WARNING}
"""Of the log lines about the device; of all others: debug."""
MAX_TROUBLES = 50
"""Different ones that are told apart."""


class Attachment(ABC):
    """See the module.  ``_loop`` and ``core`` are there before anything is attached."""

    core: Client | Server | BothServers
    _loop: asyncio.AbstractEventLoop

    def __init__(self, settings: Settings, log: logging.Logger) -> None:
        self.settings = settings
        self.log = log
        self.device = ""
        self.device_up = True
        self.backend = ""
        self.fake_tcp = bool(fake_tcp_ports(settings))
        self.repairs = 0
        self.troubles = Counter[str]()
        """What failed and may fail again at once, and how often, for the journal: a line each time would fill a disk."""
        self._link: Link | None = None
        self._held: Held | None = None

    # -- rules

    def _install_rules(self, stack: contextlib.ExitStack) -> None:
        firewall = select(self.settings.backend)
        self.backend = firewall.name
        self._inherit(firewall.left_behind(self.settings.name))
        self._held = stack.enter_context(firewall.hold(self._policy()))

    def _watch_rules(self, stack: contextlib.ExitStack) -> None:
        held = self._held
        if held is not None and held.fileno() >= 0:
            descriptor = held.fileno()
            self._loop.add_reader(descriptor, self._repair)
            stack.callback(self._loop.remove_reader, descriptor)

    def _repair(self) -> None:
        try:
            if self._held is not None and self._held.repair():
                self.repairs += 1
                self.log.warning("the firewall rules were changed by somebody else: put back")
        except FirewallError as error:
            self._note_trouble(f"cannot put the firewall rules back: {error}")

    def _note_trouble(self, what: str) -> None:
        """The journal tells it.  Words that vary without end, such as another program's, share a line in the end."""
        room = what in self.troubles or len(self.troubles) < MAX_TROUBLES
        self.troubles[what if room else "other errors"] += 1

    def _apply_policy(self) -> None:
        if self._held is not None:
            self._held.update(self._policy())

    # -- the link

    def _open_link(self) -> None:
        link = open_link(self.device, self._match())
        self._link, self.device_up = link, True
        self._loop.add_reader(link.fileno(), self._link_readable)
        if link.event_fileno() >= 0:
            self._loop.add_reader(link.event_fileno(), self._link_events)

    def _close_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(ValueError, OSError):
                self._loop.remove_reader(link.fileno())
                self._loop.remove_writer(link.fileno())
                self._loop.remove_reader(link.event_fileno())
            link.close()
            self._link_closed()

    def _reopen(self, device: str) -> bool:
        """The link goes to ``device``, which may be the same one come back; rules first.  False = not yet."""
        self._close_link()
        self.device = device
        try:
            self._apply_policy()
            self._open_link()
        except (LinkError, FirewallError) as error:
            self.log.debug("device %s: %s", device, error)
            self._close_link()
            return False
        link = self._link
        if link is not None:
            self.core.receive_mtu(self._now(), link.mtu, link.max_burst_bytes)
        self.log.info("using device %s", device)
        self._link_renewed()
        self._settle()
        return True

    def _link_events(self) -> None:
        link = self._link
        if link is None:
            return
        for event in link.events():
            self.log.log(
                _LEVELS.get(event, logging.DEBUG), "device %s (MTU %d): %s", self.device, link.mtu, event.value
            )
            if event in _LEVELS:
                self.device_up = event is LinkEvent.UP
            if event is LinkEvent.MTU:
                self.core.receive_mtu(self._now(), link.mtu, link.max_burst_bytes)
            elif event is LinkEvent.GONE:
                self.log.warning("device %s is gone: waiting for it", self.device)
                self._close_link()
                return
            elif event is LinkEvent.MOVED:
                device = self._wanted_device()
                if device != self.device:
                    self.log.info("the route has moved from device %s to %s", self.device, device)
                    self._reopen(device)
                    return
            else:
                self._link_event(event)
        self._settle()

    # -- what an operator sees

    @property
    def link(self) -> Link | None:
        """None = not open: it has not started, or its device is gone."""
        return self._link

    def rule_counters(self) -> Counters | None:
        """What the firewall's rules dropped; None = there are none, or somebody changes them at this moment."""
        with contextlib.suppress(FirewallError):
            return self._held.counters() if self._held is not None else None
        return None

    # -- what the driver and the roles define

    @staticmethod
    def _now() -> float:
        return time.monotonic()

    @abstractmethod
    def _policy(self) -> Policy:
        """What the kernel must not see now."""

    @abstractmethod
    def _match(self) -> Match:
        """What the link is to receive."""

    @abstractmethod
    def _wanted_device(self) -> str:
        """The device that this instance belongs on now; the present one when nothing tells of another."""

    @abstractmethod
    def _inherit(self, ports: tuple[PortRange, ...]) -> None:
        """The rules of a killed predecessor cover these local ports."""

    @abstractmethod
    def _link_event(self, event: LinkEvent) -> None:
        """Up, down, addresses or next hop: what is the role's business."""

    @abstractmethod
    def _link_renewed(self) -> None:
        """The link is another one than before."""

    @abstractmethod
    def _link_readable(self) -> None:
        """Packets wait."""

    @abstractmethod
    def _link_closed(self) -> None:
        """What waited for the link waits in vain."""

    @abstractmethod
    def _settle(self) -> None:
        """After anything that was put into the core."""

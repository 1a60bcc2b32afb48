"""What rules, filter and routes of a client cover: the server's addresses, those of today and those of flows that live.

Another address is covered before anything is dialled there: rules first, then the filter, then the routes.  An address
that the server no longer has stays covered as long as it is in use, and ``LINGER`` after that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rsock_firewall import Policy
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.types import IPAddress
from rsock_nf.link import Match, PortSide
from rsock_nf.policy import policy_for
from rsock_nf.runtime.host.descriptors import RulesPlace
from rsock_nf.runtime.host.source_ports import SourcePorts
from rsock_nf.settings import Settings

LINGER = 10.0
"""Seconds in which the last segments of an old flow may still arrive."""


@dataclass(slots=True)
class Cover:
    """What the rules and the link's filter of a client cover at this moment."""

    settings: Settings
    parameters: ClientParameters
    ports: SourcePorts
    device: str | None
    """None = every device."""
    place: RulesPlace = field(default_factory=RulesPlace)

    @property
    def server(self) -> tuple[IPAddress, ...]:
        """The server's addresses that are covered."""
        return self.parameters.server

    @server.setter
    def server(self, addresses: tuple[IPAddress, ...]) -> None:
        self.parameters = dataclasses.replace(self.parameters, server=addresses)
        self.settings = dataclasses.replace(self.settings, tunnel=self.parameters)

    def policy(self) -> Policy:
        """What the kernel must not see."""
        return policy_for(
            self.settings,
            device=self.device,
            local_addresses=(),
            held_ports=self.ports.held_ranges,
            at_input=self.place.at_input(),
        )

    def match(self) -> Match:
        """What the link is to receive."""
        return Match(PortSide.SOURCE, self.server, self.parameters.ports, self.parameters.shard)


class ServerCover:
    """Keeps ``cover`` up to date.

    ``apply`` makes rules and filter say what ``cover`` tells, and raises what they raise.  ``follow`` and ``forget``
    are called with the addresses whose routes are followed from now on, or no longer.
    """

    def __init__(
        self,
        cover: Cover,
        apply: Callable[[], None],
        *,
        follow: Callable[[Iterable[IPAddress]], None],
        forget: Callable[[IPAddress], None],
    ) -> None:
        self._cover = cover
        self._apply = apply
        self._follow = follow
        self._forget = forget
        self._wanted = cover.server
        self._surplus_since: float | None = None

    def extend(self, addresses: Iterable[IPAddress]) -> None:
        """Cover these, too.  Raises ``LinkError`` or ``FirewallError``; then all is as before."""
        self._wanted = tuple(dict.fromkeys(addresses))
        self._set((*self._wanted, *self._cover.server))

    def tick(self, now: float, in_use: Iterable[IPAddress]) -> None:
        """Once a second: give up what is neither wanted nor in use any more.  Raises as ``extend`` does."""
        needed = (*self._wanted, *in_use)
        if set(self._cover.server) <= set(needed):
            self._surplus_since = None
        elif self._surplus_since is None:
            self._surplus_since = now
        elif now - self._surplus_since >= LINGER:
            self._surplus_since = None
            self._set(needed)

    def _set(self, addresses: Iterable[IPAddress]) -> None:
        before, after = self._cover.server, tuple(dict.fromkeys(addresses))
        self._cover.server = after
        if set(before) == set(after):
            return
        try:
            self._apply()
        except Exception:
            self._cover.server = before
            raise
        self._follow(address for address in after if address not in before)
        for address in before:
            if address not in after:
                self._forget(address)

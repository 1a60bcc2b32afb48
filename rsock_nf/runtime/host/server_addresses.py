"""A client's server: when its names have been looked up, rules, filter, routes and endpoint get what was found.

The order matters: rules, filter and routes cover an address before the endpoint dials it.

Not here: when a name is looked up (``names``), and what is covered (``server_cover``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ipaddress import ip_address

from rsock_firewall import FirewallError
from rsock_nf.core.types import HostAddress, IPAddress
from rsock_nf.link import LinkError, own_address
from rsock_nf.runtime.driver import Driver
from rsock_nf.runtime.host.names import Questions, ServerNames
from rsock_nf.runtime.host.server_cover import Cover, ServerCover
from rsock_nf.runtime.host.server_route import ServerRoute
from rsock_nf.runtime.protocols import ClientEndpoint
from rsock_nf.runtime.tunnel import Start


class ServerAddresses:
    """See the module."""

    def __init__(
        self,
        start: Start,
        cover: Cover,
        driver: Driver,
        endpoint: ClientEndpoint,
        route: ServerRoute,
        apply: Callable[[], None],
    ) -> None:
        """``apply`` makes rules and filter say what ``cover`` tells; it raises ``LinkError`` or ``FirewallError``."""
        self._cover = cover
        self._driver = driver
        self._endpoint = endpoint
        self._troubles = start.troubles
        self._covered = ServerCover(cover, apply, follow=route.follow, forget=route.forget)
        self._names = ServerNames(
            cover.settings.server_hosts,
            cover.settings.wire.name,
            Questions(start.loop).ask,
            usable=self._usable,
            found=self._found,
            log=start.log,
        )
        self._move = False
        """Somebody has asked for other flows: an address that the server no longer has is left, though it works."""

    def renew(self, now: float) -> None:
        """All flows are to be replaced: look the names up, too."""
        self._move = True
        self._names.ask(now)

    def tick(self, now: float) -> None:
        """Once a second."""
        role, sessions = self._endpoint.role, self._endpoint.sessions
        flows = [flow for session in sessions for flow in session.flows.values()]
        self._names.tick(now, down=not role.idle and not flows, idle=role.idle)
        in_use = {ip_address(role.remote_text), *(ip_address(flow.key.remote) for flow in flows)}
        with contextlib.suppress(LinkError, FirewallError):  # tried again in a while
            self._covered.tick(now, in_use)

    def reasons(self) -> list[str]:
        """Why the addresses may be old."""
        return self._names.reasons()

    def _usable(self, one: HostAddress) -> bool:
        """Whether the server can be dialled there."""
        address, settings = one.address, self._cover.settings
        if address.is_unspecified or address.is_multicast:
            return False
        if address.version == 6 and address.is_link_local:
            lies_on = one.zone or settings.device
            if lies_on is None or lies_on != settings.device:
                return False
        return not settings.tunnel.kinds.tcp or own_address((address,)) is None

    def _found(self, addresses: tuple[IPAddress, ...]) -> None:
        """The names have been looked up.  Addresses that cannot be covered now come with the next answer."""
        try:
            self._covered.extend(addresses)
        except (LinkError, FirewallError) as error:
            self._troubles.note(f"rules or filter do not name the server's new addresses: {error}")
            return
        self._endpoint.role.use_addresses(self._driver.now(), addresses, move=self._move)
        self._move = False
        self._driver.settle()

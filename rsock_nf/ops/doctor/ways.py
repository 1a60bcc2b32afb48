"""VPNs over this tunnel: whether one has taken the route to a client's server, and whether what comes out of one at a
server gets any further."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from rsock_firewall import FirewallError
from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.types import TransportAddress
from rsock_nf.link import Detour, LinkError, Routing, system
from rsock_nf.link.checks import Finding, Verdict
from rsock_nf.ops.doctor import running
from rsock_nf.settings import Settings
from rsock_nf.words import detour_text

_ACCEPT: Final = {
    "docker": "iptables -I DOCKER-USER -i {device} -j ACCEPT && iptables -I DOCKER-USER -o {device} -j ACCEPT",
    "ufw": "ufw route allow in on {device} && ufw route allow out on {device}",
    "": "have that chain accept what comes from {device}, and what goes there",
}
"""How to have each of them let a VPN through, if its clients are to reach more than this host."""


def taken(settings: Settings | None) -> Detour | None:
    """The VPN that has the route to the server of a client that does not run; one that runs says it by itself."""
    client = settings.tunnel if settings else None
    if settings is None or not isinstance(client, ClientParameters) or settings.device or running.own(settings):
        return None
    listens = tuple(end for end in settings.listen if isinstance(end, TransportAddress))
    routing = Routing(mark=settings.fwmark, listens=listens)
    with contextlib.suppress(LinkError):  # the device's own finding says it
        return next(filter(None, (system().detour(remote, routing) for remote in client.server)), None)
    return None


def route(detour: Detour) -> Finding:
    """What becomes of it."""
    if not detour.over_us:
        text = (
            f"the route to {detour.remote} leads into {detour.avoided}, a VPN that does not seem to be over this tunnel"
        )
        remedy = 'if nothing is answered there, the best route beside it is taken; "device" chooses one at once'
        return Finding(Verdict.OK, "route", f"{text}; {remedy}")
    return Finding(Verdict.OK if detour.used else Verdict.FAIL, "route", detour_text(*detour))


def onward(settings: Settings) -> Iterator[Finding]:
    """Of a server: whether packets that come out of a VPN at its targets are dropped where this host forwards them."""
    tunnels = [tunnel for tunnel in settings.tunnels if isinstance(tunnel, ServerParameters)]
    targets = [target for tunnel in tunnels for target in tunnel.targets]
    with contextlib.suppress(LinkError, FirewallError, OSError):
        if not targets or not system().forwards():
            return
        for device in system().passengers(Routing(applications=lambda: targets)):
            from rsock_firewall.nftables.forwarding import who_drops

            who = who_drops(device)
            if who is not None:
                text = (
                    f"{who or 'a chain'} drops IPv4 that is forwarded and not accepted by a rule: what comes out of "
                    f"{device}, which runs over this tunnel, gets no further than this host"
                )
                yield Finding(Verdict.WARN, "forwarding", text, _ACCEPT[who].format(device=device))

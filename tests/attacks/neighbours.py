"""Garbage in the client's own name: from behind its NAT, and from a host on the server's link."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

from tests.attacks.attack import (
    ALL,
    ALL6,
    RSOCK,
    RSOCK_UDP,
    SEALED,
    SEALED6,
    SEALED_UDP,
    SEALED_UDP6,
    Attack,
    Who,
)  # fmt: skip
from tests.attacks.ground import NEIGHBOUR, PORTS, Done, Ground
from tests.attacks.packets import UDP, Packet

SECONDS = 8.0
RATE = 500.0


def _over_tcp(site: Ground, done: Done, *, link: str) -> None:
    """A handshake, then the same garbage segment for ever, while the client dials anew."""
    due = site.shake_hands(done, (site.nat, 61234), PORTS[0], link=link)
    garbage = replace(due, payload=random.Random(4).randbytes(60)).octets()
    with site.to_server.firing(done, [garbage], RATE, SECONDS, source=link):
        site.renew(done)


def _over_udp(site: Ground, done: Done, *, link: str) -> None:
    chance = random.Random(5)
    packets = [
        Packet((site.nat, 61234), (site.server, port), chance.randbytes(93), UDP).octets()
        for port in PORTS
        for _ in range(20)
    ]
    with site.to_server.firing(done, packets, RATE, SECONDS, source=link):
        site.renew(done)


def _in_the_flows(site: Ground, done: Done, *, link: str) -> None:
    """Garbage with the client's own addresses and ports, and the right sequence numbers."""
    flows = site.newest()
    chance = random.Random(6)
    packets = [
        replace(flow, seq=flow.next_seq, payload=chance.randbytes(200)).octets() for flow in flows for _ in range(20)
    ]
    site.to_server.volley(done, packets, RATE, 4, source=link)


_BUCKET = "the envelope is read before the bucket of the address is asked"
_RSOCK = "what is no frame of the wire's key changes nothing"
NEIGHBOURS = (
    Attack("same_nat_tcp", "one handshake, then a garbage segment 500 times/s; the client reconnects", Who.SAME_NAT,
           partial(_over_tcp, link=""), (SEALED, SEALED6, RSOCK), renews=True, why=_BUCKET, rsock=_RSOCK),
    Attack("same_nat_udp", "garbage datagrams, 500/s; the client reconnects", Who.SAME_NAT,
           partial(_over_udp, link=""), (SEALED_UDP, ALL, SEALED_UDP6, ALL6, RSOCK_UDP), renews=True, why=_BUCKET, rsock=_RSOCK),
    Attack("neighbour_tcp", "as `same_nat_tcp`, from a link address of his own", Who.NEIGHBOUR,
           partial(_over_tcp, link=NEIGHBOUR), (SEALED, SEALED6), renews=True, why=_BUCKET),
    Attack("neighbour_in_flows", "garbage in the client's flows at the right number, 500/s", Who.NEIGHBOUR,
           partial(_in_the_flows, link=NEIGHBOUR), (SEALED, SEALED_UDP, SEALED6, SEALED_UDP6), why="each frame is authenticated"),
)  # fmt: skip

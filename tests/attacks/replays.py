"""Packets that the honest client has sent, once more: unchanged, ahead, into other flows, from other addresses."""

from __future__ import annotations

from dataclasses import replace

from tests.attacks.attack import (
    ALL,
    ALL6,
    RSOCK,
    RSOCK_UDP,
    SEALED,
    SEALED6,
    SEALED_UDP,
    SEALED_UDP6,
    TCP,
    UDP,
    Attack,
    Who,
)  # fmt: skip
from tests.attacks.ground import NEIGHBOUR, PORTS, Done, Ground
from tests.attacks.packets import ACK, PSH, Address, Packet

RECORDED = 2.0
"""Seconds for which the attacker listens."""


def _unchanged(site: Ground, done: Done) -> None:
    recorded = [packet.octets() for packet in site.upward(RECORDED)]
    for _ in range(3):
        site.to_server.send(done, *recorded)


def _to_the_client(site: Ground, done: Done) -> None:
    recorded = [packet.octets() for packet in site.to_client.heard(RECORDED, toward=site.client) if packet.payload]
    for _ in range(3):
        site.to_client.send(done, *recorded)


def _ahead(site: Ground, done: Done) -> None:
    """One recorded segment of each flow, so far ahead that the server's ACK leaves the window of a strict NAT."""
    site.to_server.send(done, *(flow.ahead(4_000_000).octets() for flow in site.newest()))


def _own_flow(site: Ground, done: Done) -> None:
    """Old segments of each flow at the number that is due."""
    recorded = site.upward(RECORDED)
    for flow in site.newest(0.5):
        due = flow.next_seq
        for old in [packet for packet in recorded if packet.source == flow.source][:20]:
            site.to_server.send(done, replace(flow, seq=due, payload=old.payload).octets())
            due = (due + len(old.payload)) % 2**32


def _other_flow(site: Ground, done: Done) -> None:
    """Segments of one flow in another one, whose addresses and numbers they get."""
    recorded, flows = site.upward(RECORDED), site.newest(0.5)
    for one, other in zip(flows, flows[1:] + flows[:1], strict=True):
        due = other.next_seq
        for old in [packet for packet in recorded if packet.source == one.source][:20]:
            site.to_server.send(done, replace(other, seq=due, payload=old.payload).octets())
            due = (due + len(old.payload)) % 2**32


def _other_address(site: Ground, done: Done) -> None:
    """From an address of his own, without and behind a TCP handshake of his own."""
    recorded, source = site.upward(RECORDED), site.outsider()
    site.to_server.send(done, *(replace(packet, source=(source, packet.source[1])).octets() for packet in recorded))
    if recorded[0].protocol != 6:
        return
    for port in PORTS:
        at: Address = (source, 40000 + port)
        due = site.shake_hands(done, at, port, link=NEIGHBOUR)
        for old in recorded[:40]:
            due = replace(due, payload=old.payload, flags=PSH | ACK)
            site.to_server.send(done, due.octets(), source=NEIGHBOUR)
            due = replace(due, seq=due.next_seq)


def _opening(site: Ground) -> list[Packet]:
    """What the client sends when it opens flows."""
    site.to_server.frames()
    assert site.reconnect() is not None, "the client did not reconnect"
    return [packet for packet in site.to_server.heard(toward=site.server) if packet.payload]


def _openings(site: Ground, done: Done) -> None:
    """Joins and confirmations, from their own addresses and from another one."""
    recorded = _opening(site)
    for packet in recorded:
        site.to_server.send(done, packet.octets())
        site.to_server.send(done, replace(packet, source=(site.outsider(), packet.source[1])).octets())


_WINDOW = "the replay window of the flow refuses it, and then nothing moves"
_RSOCK = "this wire authenticates nothing: old segments count, and may move a flow's numbers (SECURITY.md)"
_PLAIN = "without a seal there is no replay window (SECURITY.md)"
REPLAYS = (
    Attack("replay", "all packets of 2 s, unchanged, 3 times", Who.ON_PATH, _unchanged,
           (SEALED, SEALED_UDP, TCP, UDP, SEALED6, SEALED_UDP6, RSOCK, RSOCK_UDP),
           twice=True, flows=10, why=_WINDOW, plain=_PLAIN, rsock=_RSOCK),
    Attack("replay_to_client", "the same toward the client", Who.ON_PATH, _to_the_client,
           (SEALED, SEALED_UDP, SEALED6, SEALED_UDP6),
           why=_WINDOW),
    Attack("replay_ahead", "one old segment in each flow, 4,000,000 ahead", Who.ON_PATH, _ahead,
           (SEALED, TCP, SEALED6, RSOCK),
           twice=True, flows=10, after=8, why=_WINDOW, plain=_PLAIN, rsock=_RSOCK),
    Attack("replay_own_flow", "20 old segments in each flow at the right number", Who.ON_PATH, _own_flow,
           (SEALED, SEALED_UDP, SEALED6, SEALED_UDP6), after=8, why=_WINDOW),
    Attack("replay_other_flow", "20 old segments of each flow in another flow", Who.ON_PATH, _other_flow,
           (SEALED, SEALED_UDP, TCP, UDP, SEALED6, SEALED_UDP6, RSOCK, RSOCK_UDP), twice=True, flows=10, after=8, why="each flow has its own keys, or token", rsock=_RSOCK),
    Attack("replay_other_address", "all packets of 2 s from another address, also behind a handshake", Who.ON_PATH,
           _other_address, (SEALED, SEALED_UDP, ALL, SEALED6, SEALED_UDP6, ALL6), why="an address has no flow before it has opened one"),
    Attack("replay_openings", "joins and confirmations, from their own address and from another", Who.ON_PATH,
           _openings, (SEALED, SEALED_UDP, SEALED6, SEALED_UDP6), renews=True, why="each join's number counts once"),
)  # fmt: skip

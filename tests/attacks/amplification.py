"""How much a server answers to whom has proved nothing: bytes of IP in, and out."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.attacks.attack import ALL
from tests.attacks.ground import NEIGHBOUR, PORTS, Done, Ground, ground
from tests.attacks.packets import ACK, FIN, PSH, RST, SYN, UDP, Address, Packet
from tests.faults.field import Variant
from tests.wire.native import independent_peer as peer

LINUX = bytes.fromhex("020405b40402080a000000010000000001030307")
PATIENCE = 0.4
"""Seconds in which every answer comes."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One kind of packet."""

    what: str
    sent: int
    received: int

    @property
    def is_larger(self) -> bool:
        """The answer is larger than the question."""
        return self.received > self.sent


def _bare(source: Address, server: Address) -> Iterator[tuple[str, Packet]]:
    """Packets without a handshake before them."""
    syn = Packet(source, server, seq=99, flags=SYN)
    yield "SYN without options", syn
    yield "SYN with an MSS", replace(syn, options=LINUX[:4])
    yield "SYN with SACK and window scale", replace(syn, options=bytes.fromhex("0402010101030307"))
    yield "SYN of Linux", replace(syn, options=LINUX)
    yield "SYN with 1,000 B", replace(syn, payload=bytes(1000))
    for name, flags in (
        ("SYN and FIN", SYN | FIN), ("SYN and RST", SYN | RST), ("SYN and ACK", SYN | ACK), ("ACK", ACK),
        ("FIN", FIN | ACK), ("RST", RST), ("no flag", 0), ("FIN, PSH, URG", 41),
    ):  # fmt: skip
        yield f"TCP: {name}", replace(syn, flags=flags)
    yield "TCP: garbage, 93 B", replace(syn, flags=PSH | ACK, payload=os.urandom(93))
    for size in (1, 20, 93, 156, 1400):
        yield f"UDP: garbage, {size:,} B", Packet(source, server, os.urandom(size), UDP)


def _asked(site: Ground, what: str, packet: Packet, *, link: str = "") -> Answered:
    """Send it, and count what comes back to its source."""
    site.to_server.frames()
    site.to_server.send(Done(), packet.octets(), source=link)
    answers = site.to_server.heard(PATIENCE, toward=packet.source[0], keep=True)
    return Answered(what, len(packet.octets()), sum(len(answer.octets()) for answer in answers))


def _openings(site: Ground) -> Iterator[tuple[str, bytes]]:
    """What only somebody with the secret makes, or has recorded."""
    key = json.loads(site.site.tunnel.config("client").read_text())["secret"]
    secret = peer.Secret(base64.b64decode(key))
    session = peer.Session(bytes(32), bytes(32))
    for padding in (0, 63):
        for cipher, name in ((peer.AES_256_GCM, ""), (peer.NONE, " with another cipher")):
            payload = peer.hello(secret, peer.offer(cipher, 1400, None), os.urandom(32), padding)[0]
            yield f"hello{name}, padding {padding} B", payload
        payload = peer.join(secret, session, 77, 1, peer.offer(peer.AES_256_GCM, 1400, None), padding)
        yield f"join of an unknown session, padding {padding} B", payload
    yield "confirmation of nothing", peer.confirmation(secret, session, 77, 1, bytes(16))


def amplification(variant: Variant = ALL) -> list[Answered]:
    """Every kind once, each from an address of its own."""
    found = []
    with ground(variant) as site:
        number = 0

        def source() -> Address:
            nonlocal number
            number += 1
            return site.outsider(number), 50_000 + number

        server = (site.server, PORTS[0])
        for what, packet in _bare(source(), server):
            found.append(_asked(site, what, replace(packet, source=source())))
        for what, payload in _openings(site):
            found.append(_asked(site, f"UDP: {what}", Packet(source(), server, payload, UDP)))
            due = site.shake_hands(Done(), source(), PORTS[1], link=NEIGHBOUR)
            found.append(
                _asked(site, f"TCP, behind a handshake: {what}", replace(due, payload=payload), link=NEIGHBOUR)
            )
        due = site.shake_hands(Done(), source(), PORTS[1], link=NEIGHBOUR)
        garbage = replace(due, payload=os.urandom(93))
        found.append(_asked(site, "TCP, behind a handshake: garbage, 93 B", garbage, link=NEIGHBOUR))
    return found


def rows(*found: list[Answered]) -> tuple[list[str], list[str]]:
    """The table, IPv4 first, and what is not as it should be."""
    versions = ("IPv4", "IPv6")[: len(found)]
    lines = [
        f"| packet of a stranger | {' | '.join(f'{version}: bytes in | out' for version in versions)} |",
        f"|---|{'--:|--:|' * len(found)}",
    ]
    lines += [
        f"| {same[0].what} | {' | '.join(f'{one.sent} | {one.received}' for one in same)} |"
        for same in zip(*found, strict=True)
    ]
    larger = [one for answers in found for one in answers if one.is_larger]
    return lines, [f"amplification: {one.what}: {one.sent} in, {one.received} out" for one in larger]

"""Floods from many sources: SYNs, garbage over TCP and UDP."""

from __future__ import annotations

import random
import struct
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
    TCP,
    UDP,
    Attack,
    Who,
)  # fmt: skip
from tests.attacks.ground import PORTS, Done, Ground
from tests.attacks.packets import ACK, PSH, SYN, Packet
from tests.attacks.packets import UDP as UDP_PROTOCOL

SECONDS = 5.0
SOURCES = 20_000
_SYN_OPTIONS = bytes.fromhex("020405b40402080a000000010000000001030307")
"""Of Linux: MSS, SACK, timestamps, window scale."""


def _syns(site: Ground, done: Done, *, rate: float) -> None:
    chance = random.Random(1)
    packets = [
        Packet(
            site.anyone(chance), (site.server, chance.choice(PORTS)), seq=chance.getrandbits(32), flags=SYN,
            options=_SYN_OPTIONS,
        ).octets()
        for _ in range(SOURCES)
    ]  # fmt: skip
    site.to_server.volley(done, packets, rate, SECONDS)


def _garbage(site: Ground, done: Done, *, protocol: int, size: int, rate: float) -> None:
    chance = random.Random(2)
    packets = [
        Packet(
            site.anyone(chance), (site.server, chance.choice(PORTS)), chance.randbytes(size), protocol,
            seq=chance.getrandbits(32), ack=chance.getrandbits(32), flags=PSH | ACK,
        ).octets()
        for _ in range(SOURCES // 4)
    ]  # fmt: skip
    site.to_server.volley(done, packets, rate, SECONDS)


def _lengths(site: Ground, done: Done) -> None:
    """UDP payloads whose first bytes are as in a frame of each kind."""
    chance = random.Random(3)
    packets = [
        Packet(
            site.anyone(chance), (site.server, chance.choice(PORTS)),
            struct.pack("!I", number) + chance.randbytes(number % 200), UDP_PROTOCOL,
        ).octets()
        for number in range(2000)
    ]  # fmt: skip
    site.to_server.volley(done, packets, 5000, SECONDS)


_COOKIE = "a cookie answers, nothing is stored"
_SHORT = "; SYNs have a queue of their own, and what does not fit is dropped"
_ENVELOPE = "the envelope fails, no answer"
_NO_FRAME = "no frame of the wire's key: no answer"

FLOODS = (
    Attack("syn_5k", "SYNs from 20,000 sources, 5,000/s", Who.OFF_PATH, partial(_syns, rate=5000),
           (SEALED, ALL, SEALED6, ALL6, RSOCK),
           why=_COOKIE),
    Attack("syn_15k", "SYNs from 20,000 sources, 15,000/s", Who.OFF_PATH, partial(_syns, rate=15000), (SEALED, SEALED6),
           why=_COOKIE + _SHORT),
    Attack("garbage_tcp", "TCP segments of 93 B without a handshake, 5,000/s", Who.OFF_PATH,
           partial(_garbage, protocol=6, size=93, rate=5000), (TCP, SEALED, SEALED6, RSOCK), why="no cookie, no answer"),
    Attack("garbage_tcp_large", "the same of 1,400 B", Who.OFF_PATH,
           partial(_garbage, protocol=6, size=1400, rate=5000), (SEALED, SEALED6), why="no cookie, no answer"),
    Attack("garbage_udp", "UDP datagrams of 93 B from 5,000 sources, 5,000/s", Who.OFF_PATH,
           partial(_garbage, protocol=17, size=93, rate=5000), (UDP, SEALED_UDP, SEALED_UDP6, RSOCK_UDP), why=_ENVELOPE, rsock=_NO_FRAME),
    Attack("garbage_udp_large", "the same of 1,400 B", Who.OFF_PATH,
           partial(_garbage, protocol=17, size=1400, rate=5000), (SEALED_UDP, SEALED_UDP6), why="longer than any opening: not read"),
    Attack("garbage_udp_kinds", "UDP datagrams of all lengths to 204 B, 5,000/s", Who.OFF_PATH, _lengths,
           (SEALED_UDP, ALL, SEALED_UDP6, RSOCK_UDP), why=_ENVELOPE, rsock=_NO_FRAME),
)  # fmt: skip

"""Forged TCP, IP and ICMP: what tears down or slows an ordinary TCP connection."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rsock_nf.lab.lab import ROUTER_OUTSIDE_IP, SERVER_IP
from tests.attacks.attack import RSOCK, SEALED, SEALED6, SEALED_UDP, SEALED_UDP6, TCP, Attack, Who
from tests.attacks.ground import PORTS, Done, Ground
from tests.attacks.packets import ACK, FIN, PSH, RST, SYN, URG, Packet, fragment, ip, too_big, unreachable
from tests.faults.frames import TCP as TCP_PROTOCOL

Forge = Callable[[Packet, random.Random], list[bytes]]


def _toward_server(site: Ground, done: Done, *, forge: Forge, times: int = 1) -> None:
    """For the newest packet of each flow, what ``forge`` makes of it; ``times`` over."""
    chance = random.Random(8)
    for _ in range(times):
        for flow in site.newest(0.5):
            due = replace(flow, seq=flow.next_seq, payload=b"")
            site.to_server.send(done, *forge(due, chance))


def _toward_client(site: Ground, done: Done, *, forge: Forge) -> None:
    """The same for the newest packet of each flow toward the client."""
    chance = random.Random(13)
    passed = [packet for packet in site.to_client.heard(1.0, toward=site.client) if packet.payload]
    for flow in {packet.source + packet.destination: packet for packet in passed}.values():
        due = replace(flow, seq=flow.next_seq, payload=b"")
        site.to_client.send(done, *forge(due, chance))


def _flags(flags: int) -> Forge:
    return lambda due, _: [replace(due, flags=flags).octets()]


def _blind(flags: int, count: int) -> Forge:
    """Random sequence numbers, half of them within the window."""

    def forge(due: Packet, chance: random.Random) -> list[bytes]:
        near = [due.ahead(chance.randrange(1000, 60_000)) for _ in range(count // 2)]
        far = [replace(due, seq=chance.getrandbits(32)) for _ in range(count - count // 2)]
        return [replace(one, flags=flags).octets() for one in near + far]

    return forge


def _with_garbage(flags: int) -> Forge:
    return lambda due, chance: [replace(due, flags=flags, payload=chance.randbytes(100)).octets()]


def _zero_windows(due: Packet, _: random.Random) -> list[bytes]:
    return [replace(due, flags=ACK, window=0).octets()] * 20


def _acks(due: Packet, chance: random.Random) -> list[bytes]:
    return [replace(due, flags=ACK, ack=chance.getrandbits(32)).octets() for _ in range(20)]


def _odd(due: Packet, chance: random.Random) -> list[bytes]:
    """Urgent data, all flags, none, broken options, offsets below 5 and past the end, bad checksums, IP lengths."""
    garbage = replace(due, payload=chance.randbytes(40))
    made = [replace(garbage, flags=flags).octets() for flags in (URG | ACK, 0, 0x29, 0xC0 | ACK, SYN, SYN | FIN)]
    made += [replace(garbage, options=options).octets() for options in (b"\2\0\0\0", b"\5\x22\1\1", b"\x1e\xff\0\0")]
    whole = garbage.octets()
    at = len(whole) - len(garbage.transport())
    made += [whole[: at + 12] + bytes([offset << 4]) + whole[at + 13 :] for offset in (0, 1, 4, 15)]
    made += [whole[: at + 16] + b"\xde\xad" + whole[at + 18 :]]
    at = 4 if due.version == 6 else 2
    made += [whole[:at] + struct.pack("!H", length) + whole[at + 2 :] for length in (0, 19, 39, 65535)]
    return made


def _fragments(due: Packet, chance: random.Random) -> list[bytes]:
    """Overlapping and tiny fragments, of which a later one rewrites the ports or the flags."""
    body = replace(due, payload=chance.randbytes(56), flags=PSH | ACK).transport()
    other = replace(due, destination=(due.destination[0], 22), flags=RST | ACK).transport()
    ends = due.source[0], due.destination[0], TCP_PROTOCOL
    return [
        fragment(*ends, body[:24], more=True),
        fragment(*ends, other[8:32], offset=8, more=True),
        fragment(*ends, body[24:], offset=24),
        fragment(*ends, body[:8], more=True),
        fragment(*ends, body[8:], offset=8),
        fragment(*ends, other[:16], more=True),
        fragment(*ends, body[:24], more=True),
        fragment(*ends, body[16:], offset=16),
    ]


def _extension_headers(site: Ground, done: Done) -> None:
    """TCP over IPv6 behind hop-by-hop, destination and routing headers and in fragments: SYN, RST, garbage."""
    chance = random.Random(9)
    source, server = ROUTER_OUTSIDE_IP[6], SERVER_IP[6]
    for flags in (SYN, RST, PSH | ACK):
        for port in PORTS[:4]:
            whole = Packet((source, 61000), (server, port), seq=chance.getrandbits(32), ack=1, flags=flags)
            head = whole.transport()
            bodies = [
                (0, bytes([TCP_PROTOCOL, 0, 1, 4, 0, 0, 0, 0]) + head),
                (60, bytes([TCP_PROTOCOL, 0, 1, 4, 0, 0, 0, 0]) + head),
                (43, bytes([TCP_PROTOCOL, 0, 0, 0, 0, 0, 0, 0]) + head),
                (44, struct.pack("!BBHI", TCP_PROTOCOL, 0, 0, 77) + head),
                (44, struct.pack("!BBHI", TCP_PROTOCOL, 0, 1, 78) + head[:8]),
                (44, struct.pack("!BBHI", TCP_PROTOCOL, 0, 8, 78) + head[8:]),
            ]
            site.to_server.send(done, *(ip(source, server, kind, body) for kind, body in bodies))


def _icmp_blind(site: Ground, done: Done, *, count: int, mtu: int) -> None:
    """Off the path: he knows addresses and ports, and guesses numbers."""
    chance = random.Random(10)
    for flow in site.newest():
        back = Packet(flow.destination, flow.source)
        packets = [too_big(site.outsider(), replace(back, seq=chance.getrandbits(32)), mtu) for _ in range(count)]
        site.to_server.volley(done, packets, 4000, count / 4000)


def _icmp_seen(site: Ground, done: Done) -> None:
    """On the path: the numbers of packets that have just passed."""
    passed = [packet for packet in site.to_server.heard(1.0, toward=site.nat) if packet.payload]
    site.to_server.send(done, *(too_big(site.outsider(), packet, 600) for packet in passed[-200:]))


def _icmp_unreachable(site: Ground, done: Done) -> None:
    """On the path: host, port and protocol unreachable about packets that have just passed."""
    for packet in [packet for packet in site.to_server.heard(1.0, toward=site.nat) if packet.payload][-40:]:
        site.to_server.send(done, *unreachable(site.outsider(), packet))


_RIGHT = "who sees the numbers can end a flow; the client dials another"
FORGED = (
    Attack("rst_blind", "RSTs with wrong numbers, half of them within the window", Who.OFF_PATH,
           partial(_toward_server, forge=_blind(RST, 40)), (TCP, SEALED, SEALED6, RSOCK), why="only the exact number counts"),
    Attack("rst_right", "an RST with the right number for each flow", Who.ON_PATH,
           partial(_toward_server, forge=_flags(RST)), (TCP, SEALED, SEALED6, RSOCK), flows=10, after=8, why=_RIGHT),
    Attack("rst_blind_client", "RSTs with wrong numbers toward the client", Who.OFF_PATH,
           partial(_toward_client, forge=_blind(RST, 40)), (SEALED, SEALED6, RSOCK), why="only the exact number counts"),
    Attack("rst_right_client", "an RST with the right number for each flow, toward the client", Who.ON_PATH,
           partial(_toward_client, forge=_flags(RST)), (SEALED, SEALED6, RSOCK), flows=10, after=8, why=_RIGHT),
    Attack("odd_tcp_client", "as `odd_tcp`, toward the client", Who.ON_PATH, partial(_toward_client, forge=_odd), (SEALED, SEALED6, RSOCK),
           why="malformed: dropped"),
    Attack("fin_right", "a FIN with the right number for each flow", Who.ON_PATH,
           partial(_toward_server, forge=_flags(FIN | ACK)), (SEALED, SEALED6, RSOCK), flows=10, after=8, why=_RIGHT),
    Attack("fin_blind", "FINs with wrong numbers, half of them within the window", Who.OFF_PATH,
           partial(_toward_server, forge=_blind(FIN | ACK, 40)), (SEALED, SEALED6, RSOCK), why="only the exact number counts"),
    Attack("fin_garbage", "a FIN with garbage at the right number, 3 times", Who.ON_PATH,
           partial(_toward_server, forge=_with_garbage(FIN | PSH | ACK), times=3), (SEALED, SEALED6), flows=10, after=8,
           why="garbage is dropped with its FIN"),
    Attack("zero_window", "20 zero windows for each flow, 3 times", Who.ON_PATH,
           partial(_toward_server, forge=_zero_windows, times=3), (SEALED, SEALED6, RSOCK), why="the next ACK repairs it"),
    Attack("acks", "ACKs with random acknowledged numbers, 20 for each flow, 3 times", Who.ON_PATH,
           partial(_toward_server, forge=_acks, times=3), (SEALED, SEALED6, RSOCK), why="out of what is in flight: ignored"),
    Attack("odd_tcp", "at the right number: urgent, no and odd flags, bad options, offsets, checksums, lengths", Who.ON_PATH,
           partial(_toward_server, forge=_odd, times=3), (TCP, SEALED, SEALED6, RSOCK), why="malformed: dropped"),
    Attack("fragments", "overlapping and tiny IP fragments with other ports and an RST", Who.ON_PATH,
           partial(_toward_server, forge=_fragments, times=3), (SEALED, SEALED6, RSOCK), why="fragments are not read"),
    Attack("ipv6_headers", "TCP behind IPv6 extension headers and in fragments: SYN, RST, garbage", Who.OFF_PATH,
           _extension_headers, (SEALED, SEALED6), why="not read; the rules keep the kernel's RST in"),
    Attack("icmp_blind", '1,280 forged "too big" for each flow, MTU 600 (IPv6: 1,280)', Who.OFF_PATH,
           partial(_icmp_blind, count=1280, mtu=600), (SEALED, SEALED6, RSOCK), why="only what is in flight counts, and only starts a probe"),
    Attack("icmp_seen", '200 forged "too big" about packets that he saw', Who.ON_PATH, _icmp_seen, (SEALED, SEALED_UDP, SEALED6, SEALED_UDP6, RSOCK),
           why="a probe of the old size shows that it is false"),
    Attack("icmp_unreachable", 'forged "unreachable", all kinds, about packets that he saw', Who.ON_PATH,
           _icmp_unreachable, (SEALED, SEALED_UDP, SEALED6, SEALED_UDP6, RSOCK), why="ignored on established flows"),
)  # fmt: skip

"""The virtual clock's judge against the kernel's: what nf_conntrack drops as INVALID, the model must call INVALID too.

Two ends that nobody answers for send random segments, mostly right and some wrong, through the strict router.  The
model may be stricter (it is nf_conntrack of before Linux 6.1, see ``tests.core.conntrack``), never more lenient; and
without mistakes both let everything through.
"""

import itertools
import os
import random
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from rsock_nf.lab.lab import CLIENT_IP, DEVICE, ROUTER_OUTSIDE_IP, SERVER_IP, Lab, Router
from tests.core.conntrack import ACK, FIN, PSH, RST, SYN, Tcp, Tracker, parse_tcp
from tests.core.wire import checksummed, make_tcp

CLIENT, SERVER, OUTSIDE = (socket.inet_aton(address[4]) for address in (CLIENT_IP, SERVER_IP, ROUTER_OUTSIDE_IP))
MUTE = "table inet mute { chain arriving { type filter hook prerouting priority -450; meta l4proto tcp drop\n}\n}\n"
"""The ends' kernels see none of it, and so answer nothing; an AF_PACKET socket sees it all."""
PORTS = itertools.count(2000)
"""Each connection has its own: nothing is left of another's."""
OPENING = 4
"""Segments until both ends have shown their scaled windows."""
OPTIONS = {True: b"\x02\x04\x05\xb4\x01\x03\x03\x07", False: b"\x02\x04\x05\xb4"}


class Wire:
    """Both ends' raw sockets; what is sent is through the router when ``send`` returns, or never."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.out, self.tap = {}, {}
        for name, host in (("client", lab.client), ("server", lab.server)):
            host.nft(MUTE)
            raw = host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
            tap = host.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)))
            tap.bind((DEVICE, 0x0800))
            tap.settimeout(5.0)
            self.out[name], self.tap[name] = stack.enter_context(raw), stack.enter_context(tap)

    def send(self, packet: bytes, *, reply: bool) -> None:
        """``packet`` as the client would see it; the server addresses the router."""
        if reply:
            changed = bytearray(packet)
            changed[16:20] = OUTSIDE
            self.out["server"].sendto(checksummed(changed), (socket.inet_ntoa(OUTSIDE), 0))
        else:
            self.out["client"].sendto(packet, (socket.inet_ntoa(SERVER), 0))

    def arrived(self, end: str, sentinel: int) -> set[int]:
        """Identifications of what arrived at ``end``, up to the packet that is let through for certain."""
        seen: set[int] = set()
        while sentinel not in seen:
            packet, address = self.tap[end].recvfrom(65535)
            if address[2] != socket.PACKET_OUTGOING and packet[9] == socket.IPPROTO_TCP:
                seen.add(int.from_bytes(packet[4:6], "big"))
        return seen


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    before = os.sched_getaffinity(0)
    with Lab(Router(), prefix="rsnf-judge") as lab, ExitStack() as stack:
        os.sched_setaffinity(0, {min(before)})  # a packet is forwarded on the CPU that sent it: order is kept
        stack.callback(os.sched_setaffinity, 0, before)
        yield Wire(lab, stack)


class Talk:
    """Two ends that know what is right, and do wrong at times."""

    def __init__(self, rng: random.Random, port: int, *, scale: bool, mistakes: float) -> None:
        self.rng, self.mistakes = rng, mistakes
        self.client, self.server = (CLIENT, port), (SERVER, 10_001)
        self.window = 65535 << (7 if scale else 0)
        self.options = OPTIONS[scale]
        self.next = [rng.getrandbits(32), rng.getrandbits(32)]
        self.opening = [
            self.make(False, SYN, self.options),
            self.make(True, SYN | ACK, self.options),
            self.make(False, ACK),
            self.make(True, ACK),
        ]

    def make(self, reply: bool, flags: int, payload: bytes = b"", *, seq: int = 0, ack: int = 0) -> tuple[bool, bytes]:  # noqa: FBT001
        source, destination = (self.server, self.client) if reply else (self.client, self.server)
        mine, theirs = self.next[reply], self.next[not reply]
        numbers = (mine + seq) & 0xFFFFFFFF, (theirs + ack) & 0xFFFFFFFF if flags & ACK else 0
        window = 64240 if flags & SYN else 65535
        packet = bytearray(make_tcp(source, destination, *numbers, flags, payload, window))
        if flags & SYN:
            packet[32] = (20 + len(payload)) // 4 << 4
            self.next[reply] = (mine + 1) & 0xFFFFFFFF
        elif seq == 0:
            self.next[reply] = (mine + len(payload) + bool(flags & FIN)) & 0xFFFFFFFF
        return reply, bytes(packet)

    def segment(self) -> tuple[bool, bytes]:
        rng = self.rng
        reply, size = rng.random() < 0.5, rng.choice([0, 0, 1, 100, 1400])
        edge = self.window + rng.choice([-2000, -2, -1, 0, 1, 2, 2000, self.window])
        if rng.random() >= self.mistakes:
            return self.make(reply, ACK | (PSH if size else 0), bytes(size))
        flags = rng.choice([ACK, ACK, ACK, PSH | ACK, FIN | ACK, SYN, SYN | ACK, RST | ACK])
        return self.make(
            reply,
            flags,
            self.options if flags & SYN else bytes(size),
            seq=rng.choice([0, 0, 1, edge, -edge, 1 << 31]),
            ack=rng.choice([0, 0, 1, -1, 5000, edge, -edge, 1 << 31]),
        )


def marked(packet: bytes, identification: int) -> bytes:
    changed = bytearray(packet)
    changed[4:6] = identification.to_bytes(2, "big")
    return checksummed(changed)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("mistakes", [0.0, 0.03, 0.3])
def test_the_model_is_never_more_lenient_than_the_kernel(wire: Wire, *, mistakes: float, scale: bool) -> None:
    """150 connections of up to 59 segments, each judged twice."""
    rng = random.Random(f"{mistakes} {scale}")
    tracker, verdicts = Tracker(), Counter[str]()
    for connection in range(150):
        talk = Talk(rng, next(PORTS), scale=scale, mistakes=mistakes)
        told: list[tuple[int, str, Tcp]] = []
        for identification in range(1, 60):
            reply, packet = talk.opening.pop(0) if talk.opening else talk.segment()
            packet = marked(packet, identification)
            tcp = parse_tcp(packet)
            told.append((identification, tracker.judge(connection, tcp), tcp))
            wire.send(packet, reply=reply)
        talk = Talk(rng, next(PORTS), scale=scale, mistakes=0.0)
        for reply, packet in talk.opening[:2]:
            wire.send(marked(packet, 60_000), reply=reply)
        ends = {end: wire.arrived(end, 60_000) for end in ("client", "server")}
        for identification, verdict, tcp in told:  # as long as both know the same
            passed = identification in ends["client" if tcp.source == talk.server else "server"]
            assert passed or verdict, f"the kernel drops packet {identification}, the model does not say why"
            verdicts["INVALID for both" if not passed else "stricter" if verdict else "fine for both"] += 1
            if (passed and (verdict or tcp.kind == "RST")) or (identification > OPENING and tcp.kind == "SYN"):
                break  # what a connection is after that changed from kernel to kernel
    if mistakes:
        assert verdicts["INVALID for both"] > 100
        assert verdicts["fine for both"] > 500
    else:
        assert verdicts.keys() == {"fine for both"}

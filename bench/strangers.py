"""What a stranger's packet costs a server: microseconds of CPU in the core, for docs/wire.md, section 11.

    python -m bench.strangers

No socket and no root: packets are made in memory, and answers are thrown away.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from ipaddress import ip_address

from rsock_nf.core.ends import endpoint
from rsock_nf.core.ends.accepting import Accepting
from rsock_nf.core.ends.endpoint import Endpoint
from rsock_nf.core.parameters import Cipher, Kinds, ServerParameters
from rsock_nf.core.tcp.cookie import Cookie
from rsock_nf.core.tcp.segment import ACK, PSH, HeaderTemplate, build_syn
from rsock_nf.core.types import Carried, Checksum, FlowKey, Packet, TransportAddress
from rsock_nf.wire.native.half_open import MAX_STRANGE
from rsock_nf.wire.native.handshake import NativeHandshake
from rsock_nf.wire.native.hints import Form, Hinted
from rsock_nf.wire.native.opening import Offer
from rsock_nf.wire.native.server import NativeServerWire
from rsock_nf.wire.parameters import KnownClient, NativeParameters

SECRET, COOKIE_KEY = bytes(range(32)), bytes(32)
NOW = 1000.0
SERVER = bytes((192, 0, 2, 2))
CHUNK, CHUNKS = 250, 16
LARGEST_PACKET = 60_000
MANY = 1000
RNG = random.Random(1)


def make_server(known: int = 0) -> Endpoint[Accepting]:
    """A server without sessions.  ``known``: how many clients have secrets of their own; then ``SECRET`` is one's."""
    targets = (TransportAddress(ip_address("192.0.2.9"), 9),)
    parameters = ServerParameters(kinds=Kinds.ALL, targets=targets)
    secrets = [SECRET, *(RNG.randbytes(32) for _ in range(1, known))]
    clients = tuple(KnownClient(f"c{number}", (secret,)) for number, secret in enumerate(secrets))
    wire = NativeServerWire(NativeParameters(b"", clients=clients) if known else NativeParameters(SECRET), COOKIE_KEY)
    return endpoint.server(parameters, wire, RNG.randbytes, mtu=1500, max_burst_bytes=64_000)


def source(at: int, *, udp: bool = False) -> FlowKey:
    """A flow as the server sees it, from another address for each number."""
    return FlowKey(SERVER, 10001, (0xC6330000 + at % 60_000).to_bytes(4, "big"), 1024 + at % 60_000, udp)


def over_udp(at: int, payload: bytes) -> Carried:
    """A datagram on a carrier."""
    return Carried(source(at, udp=True), memoryview(payload), 0)


def over_tcp(at: int, payload: bytes) -> Packet:
    """The first payload behind a handshake that its sender has completed."""
    key = source(at)
    ack = Cookie(COOKIE_KEY).isn(key, 99, NOW) + 1 & 0xFFFFFFFF
    headers = HeaderTemplate(key.reversed()).build(100, ack, PSH | ACK, 65535, len(payload))
    return Packet(memoryview(headers + payload), 0, Checksum.VALID, b"link")


def syn(at: int) -> Packet:
    """A SYN as our client sends it."""
    return Packet(memoryview(build_syn(source(at).reversed(), at, 1460, 7)), 0, Checksum.VALID, b"link")


def hellos(count: int) -> list[bytes]:
    """Recorded hellos."""
    handshake = NativeHandshake(SECRET)
    hinted = Hinted(Form.HOURLY)
    return [handshake.hello(Offer(Cipher.NONE, 1400, 7), RNG.randbytes, hinted=hinted)[0] for _ in range(count)]


def give(server: Endpoint[Accepting], packets: list[Packet | Carried]) -> float:
    """Seconds of CPU for ``packets``, one read each."""
    began = time.process_time()
    for packet in packets:
        if isinstance(packet, Carried):
            server.receive_carried(NOW, [packet])
        else:
            server.receive_packets(NOW, [packet])
    took = time.process_time() - began
    list(server.poll())
    return took


def cost(make: Callable[[int], Packet | Carried], *, busy: bool = False, chunks: int = CHUNKS, known: int = 0) -> float:
    """Microseconds for one packet: the best of several chunks.  ``known``: see ``make_server``."""
    server = make_server(known)
    if busy:
        give(server, [over_udp(at, hello) for at, hello in enumerate(hellos(MAX_STRANGE))])
    size = CHUNK if chunks > 1 else MAX_STRANGE // 2
    parts = [[make(chunk * size + at) for at in range(size)] for chunk in range(chunks)]
    return min(give(server, part) for part in parts) / size * 1e6


def all_of(make: Callable[[int, bytes], Packet | Carried], payloads: list[bytes]) -> Callable[[int], Packet | Carried]:
    """Packets with these payloads in turn."""
    return lambda at: make(at, payloads[at % len(payloads)])


def main() -> None:
    """Print the table."""
    recorded = hellos(1000)
    garbage = {size: RNG.randbytes(size) for size in (20, 93, 156, 1400, 64_000)}
    print(f"{'':<34} {'one secret':>13}   {f'{MANY} clients':>13}")
    print(f"{'packet':<34} {'TCP':>6} {'UDP':>6}   {'TCP':>6} {'UDP':>6}  us")
    print(f"{'SYN':<34} {cost(syn):6.1f}")
    for size, payload in garbage.items():
        row(f"garbage, {size} bytes", [payload], tcp=size < LARGEST_PACKET)
    row("recorded hello, asked for a cookie", recorded, busy=True)
    row("a hello that was answered", recorded[:1])
    row("a new hello", recorded, chunks=1)


def row(name: str, payloads: list[bytes], *, busy: bool = False, chunks: int = CHUNKS, tcp: bool = True) -> None:
    """Print what these payloads cost, over TCP and UDP, at a server with one secret and at one with many."""
    cells = []
    for known in (0, MANY):
        for make in (over_tcp, over_udp):
            counts = tcp or make is over_udp
            cells.append(
                f"{cost(all_of(make, payloads), busy=busy, chunks=chunks, known=known):6.1f}" if counts else ""
            )
    print(f"{name:<34} {cells[0]:>6} {cells[1]:>6}   {cells[2]:>6} {cells[3]:>6}")


if __name__ == "__main__":
    main()

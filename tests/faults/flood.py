"""SYNs or garbage of strangers, from a router that stands next to the server: a process of its own.

    python -m tests.faults.flood syn|garbage DEVICE SERVER_MAC SERVER_ADDRESS PORT RATE

Each comes from another address of 198.18.0.0/15 (RFC 2544).  They leave by a packet socket, so that the router's own
connection tracking does not see them.
"""

import random
import select
import socket
import sys
import time
from ipaddress import ip_address

from rsock_nf.core.types import TransportAddress
from tests.core.conntrack import ACK, PSH, SYN
from tests.core.wire import make_tcp

_SOURCES = 8192
_TURN = 0.005
"""Seconds between two bursts."""


def main(kind: str, device: str, mac: str, server: TransportAddress, rate: int) -> None:
    """Send for ever.  ``rate``: packets a second.  Garbage has the length of a hello."""
    flags, payload = (SYN, b"") if kind == "syn" else (ACK | PSH, bytes(93))
    rng, sock = random.Random(1), socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((device, 0))
    destination, own = bytes.fromhex(mac.replace(":", "")), sock.getsockname()[4]
    frames = []
    for _ in range(_SOURCES):
        source = (0xC6120000 + rng.randrange(1 << 17)).to_bytes(4, "big"), rng.randrange(1024, 65536)
        packet = make_tcp(source, (server.address.packed, server.port), rng.getrandbits(32), 1, flags, payload)
        frames.append(destination + own + b"\x08\x00" + packet)
    sent, began = 0, time.monotonic()
    while True:
        due = int((time.monotonic() - began) * rate)
        for number in range(sent, due):
            sock.send(frames[number % _SOURCES])
        sent = due
        select.select([], [], [], _TURN)


if __name__ == "__main__":
    _, kind, device, mac, address, port, rate = sys.argv
    main(kind, device, mac, TransportAddress(ip_address(address), int(port)), int(rate))

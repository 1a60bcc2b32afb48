"""The client's half of a VPN without encryption, in two programs: one has the TUN device, the other one the UDP socket.

So nothing in /proc connects the device with what comes to the tunnel's local end, and the datagrams are IP packets as
they are.  ``python plain_vpn.py DEVICE HOST PORT`` inside a namespace; it prints ``ready``.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000


def relay(one: int, other: int) -> None:
    """Packets from each descriptor to the other one, until one of them ends."""
    while True:
        for readable in select.select([one, other], [], [])[0]:
            try:
                packet = os.read(readable, 65536)
            except ConnectionRefusedError:
                continue
            if not packet:
                return
            try:
                os.write(other if readable == one else one, packet)
            except OSError:  # the tunnel is away, or the device is down
                continue


def main(device: str, host: str, port: int) -> None:
    """Both programs."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        far.close()
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
        print("ready", flush=True)  # noqa: T201 - to the test
        relay(tun, near.fileno())
    else:
        near.close()
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.connect((host, port))
        relay(udp.fileno(), far.fileno())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

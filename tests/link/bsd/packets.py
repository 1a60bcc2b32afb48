"""Segments between a client and a server, as the core hands them to a link and as a wire shows them."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from rsock_nf.core.tcp.checksum import checksum, pseudo_header_sum
from rsock_nf.core.types import Outgoing, PortRange
from rsock_nf.link import Match, PortSide
from rsock_nf.link.segmentation import cut

CLIENT = {4: ip_address("10.9.0.1"), 6: ip_address("fd09::1")}
SERVER = {4: ip_address("10.9.0.2"), 6: ip_address("fd09::2")}
PORTS = (PortRange(10001, 10010),)
AT_SERVER = Match(PortSide.DESTINATION, tuple(SERVER.values()), PORTS)
AT_CLIENT = Match(PortSide.SOURCE, tuple(SERVER.values()), PORTS)
CLIENT_MAC, SERVER_MAC = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
TO_SERVER = {4: SERVER_MAC + CLIENT_MAC + b"\x08\x00", 6: SERVER_MAC + CLIENT_MAC + b"\x86\xdd"}
"""Ethernet headers."""


def outgoing(version: int, payload: bytes, size: int = 0, ports: tuple[int, int] = (40000, 10001)) -> Outgoing:
    """A burst from client to server, or back when the source port is the server's."""
    source, destination = CLIENT[version].packed, SERVER[version].packed
    if ports[0] < ports[1]:
        source, destination = destination, source
    length = 20 + len(payload)
    pseudo = pseudo_header_sum(source, destination, length)
    tcp = struct.pack("!HHIIBBHHH", *ports, 1000, 1, 0x50, 0x18, 502, pseudo, 0)
    if version == 6:
        ip = struct.pack("!IHBB16s16s", 6 << 28 | 0x12345, length, 6, 64, source, destination)
        return Outgoing(ip + tcp, [payload], len(payload), size)
    header = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0x4000, 64, 6, 0, source, destination))
    struct.pack_into("!H", header, 10, checksum(bytes(header)))
    return Outgoing(bytes(header) + tcp, [payload], len(payload), size)


def segment(version: int, payload: bytes, ports: tuple[int, int] = (40000, 10001)) -> bytes:
    """One complete IP packet."""
    (packet,) = cut(outgoing(version, payload, 0, ports))
    return packet


def payload_of(packet: bytes | memoryview) -> bytes:
    """What a TCP segment without options carries, without the link's padding."""
    data = bytes(packet)
    if data[0] >> 4 == 4:
        return data[40 : struct.unpack_from("!H", data, 2)[0]]
    return data[60 : 40 + struct.unpack_from("!H", data, 4)[0]]

"""IPv4 and IPv6 packets with TCP or UDP, as the attackers read and make them.

They share no code with the tunnel: who attacks a program must not repeat its mistakes.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

from tests.faults.frames import ETHERNET, ICMP, TCP, UDP, Seen, checksum, look

Address: TypeAlias = tuple[str, int]
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
MODULUS = 2**32
ICMPV6, FRAGMENT = 58, 44
QUOTED = 8
"""Bytes of TCP or UDP that an ICMP message quotes here."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet.  What is TCP's alone means nothing with UDP."""

    source: Address
    destination: Address
    payload: bytes = b""
    protocol: int = TCP
    seq: int = 0
    ack: int = 0
    flags: int = PSH | ACK
    window: int = 502
    options: bytes = b""
    """TCP options, a multiple of four bytes."""

    @classmethod
    def read(cls, frame: bytes) -> Self | None:
        """What a frame holds; None = no whole IP packet with TCP or UDP."""
        seen = look(frame) or _look6(frame)
        if seen is None:
            return None
        at = seen.transport
        made = cls(_address(seen.source), _address(seen.destination), frame[seen.payload : seen.end], seen.protocol)
        if seen.protocol == UDP:
            return made
        seq, ack, _, flags, window = struct.unpack_from("!IIBBH", frame, at + 4)
        return replace(made, seq=seq, ack=ack, flags=flags, window=window, options=frame[at + 20 : seen.payload])

    @property
    def next_seq(self) -> int:
        """The sequence number that follows this one."""
        return (self.seq + len(self.payload) + (self.flags & 1) + (self.flags >> 1 & 1)) % MODULUS

    def ahead(self, distance: int) -> Packet:
        """The same with a sequence number ``distance`` bytes ahead."""
        return replace(self, seq=(self.seq + distance) % MODULUS)

    @property
    def version(self) -> int:
        """Of IP."""
        return version(self.source[0])

    def transport(self) -> bytes:
        """Header and payload, without the IP header."""
        ports = struct.pack("!HH", self.source[1], self.destination[1])
        if self.protocol == UDP:
            body, at = ports + struct.pack("!HH", 8 + len(self.payload), 0) + self.payload, 6
        else:
            offset = (20 + len(self.options)) // 4 << 4
            head = struct.pack("!IIBBHHH", self.seq, self.ack, offset, self.flags, self.window, 0, 0)
            body, at = ports + head + self.options + self.payload, 16
        return summed(self.source[0], self.destination[0], self.protocol, body, at)

    def octets(self) -> bytes:
        """The IP packet."""
        return ip(self.source[0], self.destination[0], self.protocol, self.transport())


def version(address: str) -> int:
    """Of IP: 4 or 6."""
    return 6 if ":" in address else 4


def packed(address: str) -> bytes:
    """An address as it is in a header."""
    return socket.inet_pton(socket.AF_INET6 if version(address) == 6 else socket.AF_INET, address)


def summed(source: str, destination: str, protocol: int, body: bytes, at: int) -> bytes:
    """``body`` with its checksum at ``at``, which counts the addresses, too.

    RFC 9293 section 3.1, RFC 8200 section 8.1.
    """
    ends = packed(source) + packed(destination)
    form = "!IHBB" if version(source) == 6 else "!HBB"
    words = (len(body), 0, 0, protocol) if version(source) == 6 else (len(body), 0, protocol)
    body = body[:at] + bytes(2) + body[at + 2 :]
    found = checksum(ends + struct.pack(form, *words) + body) or 0xFFFF
    return body[:at] + found.to_bytes(2) + body[at + 2 :]


def ip(source: str, destination: str, protocol: int, body: bytes) -> bytes:
    """An IP packet."""
    if version(source) == 6:
        return _ipv6(source, destination, protocol, body)
    return _ipv4(source, destination, protocol, body)


def fragment(
    source: str, destination: str, protocol: int, body: bytes, *, offset: int = 0, more: bool = False
) -> bytes:
    """A fragment of an IP packet: ``offset`` in bytes; ``more`` = others follow."""
    if version(source) == 6:
        head = struct.pack("!BBHI", protocol, 0, offset | more, 77)
        return _ipv6(source, destination, FRAGMENT, head + body)
    return _ipv4(source, destination, protocol, body, offset // 8 | (0x2000 if more else 0))


def _ipv4(source: str, destination: str, protocol: int, body: bytes, flags_and_offset: int = 0) -> bytes:
    ends = packed(source) + packed(destination)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 77, flags_and_offset, 64, protocol, 0) + ends
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + body


def _ipv6(source: str, destination: str, following: int, body: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(body), following, 64) + packed(source) + packed(destination) + body


def too_big(source: str, quoted: Packet, mtu: int) -> bytes:
    """From ``source`` for the sender of ``quoted``: "fragmentation needed" (RFC 1191), "packet too big" (RFC 4443)."""
    if quoted.version == 6:
        return _icmp(source, quoted, struct.pack("!BBHI", 2, 0, 0, max(mtu, 1280)))
    return _icmp(source, quoted, struct.pack("!BBHHH", 3, 4, 0, 0, mtu))


def unreachable(source: str, quoted: Packet) -> list[bytes]:
    """The same: "destination unreachable", for every reason that matters."""
    if quoted.version == 6:  # no route, prohibited, address, port, refused; then: unknown next header
        heads = [struct.pack("!BBHI", 1, code, 0, 0) for code in (0, 1, 3, 4, 6)] + [struct.pack("!BBHI", 4, 1, 0, 6)]
    else:  # network, host, protocol, port, prohibited
        heads = [struct.pack("!BBHI", 3, code, 0, 0) for code in (0, 1, 2, 3, 13)]
    return [_icmp(source, quoted, head) for head in heads]


def _icmp(source: str, quoted: Packet, head: bytes) -> bytes:
    whole = quoted.octets()
    body = head + whole[: len(whole) - len(quoted.transport()) + QUOTED]
    if quoted.version == 6:
        return _ipv6(source, quoted.source[0], ICMPV6, summed(source, quoted.source[0], ICMPV6, body, 2))
    return _ipv4(source, quoted.source[0], ICMP, body[:2] + checksum(body).to_bytes(2) + body[4:])


def _look6(frame: bytes) -> Seen | None:
    """As ``look``, for IPv6; addresses and ports are 18 bytes."""
    if frame[12:14] != b"\x86\xdd" or frame[14] >> 4 != 6 or frame[20] not in (TCP, UDP):
        return None
    transport = ETHERNET + 40
    end = transport + int.from_bytes(frame[18:20])
    header = 8 if frame[20] == UDP else (frame[transport + 12] >> 4) * 4
    source = frame[22:38] + frame[transport : transport + 2]
    destination = frame[38:54] + frame[transport + 2 : transport + 4]
    return Seen(frame[20], source, destination, transport, transport + header, end)


def ethernet(source: str, destination: str, packet: bytes) -> bytes:
    """A frame; link addresses as text."""
    kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"
    return _link(destination) + _link(source) + kind + packet


def _link(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def _address(raw: bytes) -> Address:
    family = socket.AF_INET6 if len(raw) == 18 else socket.AF_INET
    return socket.inet_ntop(family, raw[:-2]), int.from_bytes(raw[-2:])


__all__ = [
    "ACK", "ETHERNET", "FIN", "MODULUS", "PSH", "RST", "SYN", "TCP", "UDP", "URG", "Address", "Packet",
    "ethernet", "fragment", "ip", "summed", "too_big", "unreachable", "version",
]  # fmt: skip

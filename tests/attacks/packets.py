"""IPv4 packets with TCP or UDP, as the attackers read and make them.

They share no code with the tunnel: who attacks a program must not repeat its mistakes.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

from tests.faults.frames import ETHERNET, ICMP, TCP, UDP, checksum, look

Address: TypeAlias = tuple[str, int]
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
MODULUS = 2**32


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
        """What a frame holds; None = no whole IPv4 packet with TCP or UDP."""
        seen = look(frame)
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

    def transport(self) -> bytes:
        """Header and payload, without the IP header."""
        ports = struct.pack("!HH", self.source[1], self.destination[1])
        if self.protocol == UDP:
            body, at = ports + struct.pack("!HH", 8 + len(self.payload), 0) + self.payload, 6
        else:
            offset = (20 + len(self.options)) // 4 << 4
            head = struct.pack("!IIBBHHH", self.seq, self.ack, offset, self.flags, self.window, 0, 0)
            body, at = ports + head + self.options + self.payload, 16
        ends = socket.inet_aton(self.source[0]) + socket.inet_aton(self.destination[0])
        found = checksum(ends + struct.pack("!BBH", 0, self.protocol, len(body)) + body) or 0xFFFF
        return body[:at] + found.to_bytes(2) + body[at + 2 :]

    def octets(self) -> bytes:
        """The IP packet."""
        return ipv4(self.source[0], self.destination[0], self.protocol, self.transport())


def ipv4(source: str, destination: str, protocol: int, body: bytes, *, offset: int = 0, more: bool = False) -> bytes:
    """An IP packet, or a fragment of one: ``offset`` in bytes; ``more`` = others follow."""
    fragment = offset // 8 | (0x2000 if more else 0)
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 77, fragment, 64, protocol, 0) + ends
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + body


def too_big(source: str, quoted: Packet, mtu: int) -> bytes:
    """ICMP "fragmentation needed" (RFC 1191 section 4) from ``source`` for the sender of ``quoted``."""
    body = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted.octets()[:28]
    body = body[:2] + checksum(body).to_bytes(2) + body[4:]
    return ipv4(source, quoted.source[0], ICMP, body)


def ethernet(source: str, destination: str, packet: bytes) -> bytes:
    """A frame; link addresses as text."""
    kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"
    return _link(destination) + _link(source) + kind + packet


def _link(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def _address(raw: bytes) -> Address:
    return socket.inet_ntoa(raw[:4]), int.from_bytes(raw[4:])


__all__ = [
    "ACK", "ETHERNET", "FIN", "ICMP", "MODULUS", "PSH", "RST", "SYN", "TCP", "UDP", "URG", "Address", "Packet",
    "ethernet", "ipv4", "too_big",
]  # fmt: skip

"""Ethernet frames with IPv4 and TCP or UDP, as the middlebox sees and makes them.

It shares no code with the tunnel: who spoils and judges a program must not repeat its mistakes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

ETHERNET = 14
IPV4 = b"\x08\x00"
ICMP, TCP, UDP = 1, 6, 17
RST, ACK = 4, 16


@dataclass(frozen=True, slots=True)
class Seen:
    """Where things are in a frame.  Offsets count from the first byte of the frame."""

    protocol: int
    source: bytes
    destination: bytes
    """Address and port, six bytes each."""
    transport: int
    payload: int
    end: int

    @property
    def flow(self) -> tuple[bytes, ...]:
        """The same for both directions."""
        return (bytes([self.protocol]), *sorted((self.source, self.destination)))


def look(frame: bytes) -> Seen | None:
    """What a frame is; None = no whole IPv4 packet with TCP or UDP."""
    if frame[12:14] != IPV4 or frame[14] >> 4 != 4 or frame[23] not in (TCP, UDP):
        return None
    if int.from_bytes(frame[20:22]) & 0x3FFF:  # a fragment
        return None
    transport = ETHERNET + (frame[14] & 15) * 4
    end = ETHERNET + int.from_bytes(frame[16:18])
    header = 8 if frame[23] == UDP else (frame[transport + 12] >> 4) * 4
    source = frame[26:30] + frame[transport : transport + 2]
    destination = frame[30:34] + frame[transport + 2 : transport + 4]
    return Seen(frame[23], source, destination, transport, transport + header, end)


def checksum(data: bytes, start: int = 0) -> int:
    """The Internet checksum (RFC 1071) of ``data``, added to the sum ``start``."""
    padded = data if len(data) % 2 == 0 else data + b"\0"
    total: int = start + sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def flipped(frame: bytes, seen: Seen, bit: int) -> bytes:
    """The frame with bit number ``bit`` of its payload flipped, and with a good checksum."""
    changed = bytearray(frame)
    changed[seen.payload + bit // 8] ^= 1 << bit % 8
    at = seen.transport + (16 if seen.protocol == TCP else 6)
    changed[at : at + 2] = b"\0\0"
    data = bytes(changed[seen.transport : seen.end])
    pseudo = frame[26:34] + struct.pack("!BBH", 0, seen.protocol, len(data))
    changed[at : at + 2] = (checksum(pseudo + data) or 0xFFFF).to_bytes(2)
    return bytes(changed)


def _packet(frame: bytes, source: bytes, destination: bytes, protocol: int, body: bytes) -> bytes:
    """An IPv4 packet with ``body``; link addresses as in ``frame``."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0, source, destination)
    header = header[:10] + checksum(header).to_bytes(2) + header[12:]
    return frame[:ETHERNET] + header + body


def turned(frame: bytes) -> bytes:
    """The frame with its link addresses exchanged: it goes back to where it came from."""
    return frame[6:12] + frame[:6] + frame[12:]


def resets(frame: bytes, seen: Seen) -> tuple[bytes, bytes]:
    """RSTs for a TCP packet: (for its receiver, for its sender).  Both have the right sequence numbers."""
    number, acknowledged = struct.unpack_from("!II", frame, seen.transport + 4)
    flags = frame[seen.transport + 13]
    following = number + seen.end - seen.payload + (flags & 1) + (flags >> 1 & 1)
    ahead = _reset(frame, frame[26:30], frame[30:34], seen.source[4:], seen.destination[4:], number)
    back = turned(frame)
    back = _reset(back, frame[30:34], frame[26:30], seen.destination[4:], seen.source[4:], acknowledged, following)
    return ahead, back


def _reset(
    frame: bytes, source: bytes, destination: bytes, sport: bytes, dport: bytes, number: int, acknowledged: int = 0
) -> bytes:
    flags = RST | (ACK if acknowledged else 0)
    body = struct.pack("!2s2sIIBBHHH", sport, dport, number, acknowledged & 0xFFFFFFFF, 5 << 4, flags, 0, 0, 0)
    pseudo = source + destination + struct.pack("!BBH", 0, TCP, len(body))
    body = body[:16] + checksum(pseudo + body).to_bytes(2) + body[18:]
    return _packet(frame, source, destination, TCP, body)


def too_big(frame: bytes, router: bytes, mtu: int) -> bytes:
    """ICMP "fragmentation needed" (RFC 1191 section 4) for the sender of ``frame``."""
    quoted = frame[ETHERNET : ETHERNET + 28]
    body = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted
    body = body[:2] + checksum(body).to_bytes(2) + body[4:]
    return _packet(turned(frame), router, frame[26:30], ICMP, body)

"""The blocks of a pcapng file, as bytes: draft-ietf-opsawg-pcapng.

    section()  interface()  packet() packet() …  statistics()

Everything is in this host's byte order, which the section's header tells.  Times are nanoseconds since 1970.
"""

from __future__ import annotations

import struct
import sys
from typing import Final

ETHERNET: Final = 1
RAW_IP: Final = 101
"""LINKTYPE_ETHERNET, LINKTYPE_RAW: https://www.tcpdump.org/linktypes.html."""

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER: Final = 0x1A2B3C4D
_UNKNOWN_LENGTH: Final = -1
_END, _COMMENT = 0, 1
_SECTION_OS, _SECTION_PROGRAM = 3, 4
_INTERFACE_NAME, _INTERFACE_DESCRIPTION, _INTERFACE_RESOLUTION = 2, 3, 9
_PACKET_FLAGS: Final = 2
_STATISTICS_RECEIVED, _STATISTICS_DROPPED = 4, 5
_NANOSECONDS: Final = bytes([9])
"""The negative power of ten that a unit of time is."""
_INBOUND, _OUTBOUND = 1, 2


def section(program: str, comment: str) -> bytes:
    """The section header: how a file begins.  ``program``: what wrote it."""
    options = [
        (_COMMENT, comment.encode()),
        (_SECTION_OS, sys.platform.encode()),
        (_SECTION_PROGRAM, program.encode()),
    ]
    return _block(_SECTION, struct.pack("=IHHq", _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH) + _options(options))


def interface(link_type: int, snap: int, name: str, description: str) -> bytes:
    """An interface; the first one has number 0.  ``snap``: the most bytes that are kept of a packet."""
    options = [
        (_INTERFACE_NAME, name.encode()),
        (_INTERFACE_DESCRIPTION, description.encode()),
        (_INTERFACE_RESOLUTION, _NANOSECONDS),
    ]
    return _block(_INTERFACE, struct.pack("=HHI", link_type, 0, snap) + _options(options))


def packet(number: int, when: int, data: bytes, length: int, *, outgoing: bool, comment: str = "") -> bytes:
    """A packet that was seen on interface ``number``: ``data`` is what was kept of its ``length`` bytes."""
    head = struct.pack("=IIIII", number, when >> 32, when & 0xFFFFFFFF, len(data), length)
    options = [(_PACKET_FLAGS, struct.pack("=I", _OUTBOUND if outgoing else _INBOUND))]
    if comment:
        options.append((_COMMENT, comment.encode()))
    return _block(_PACKET, head + _padded(data) + _options(options))


def statistics(number: int, when: int, received: int, dropped: int) -> bytes:
    """The last word about interface ``number``: packets that passed the filter, and those that were lost after it."""
    options = [
        (_STATISTICS_RECEIVED, struct.pack("=Q", received)),
        (_STATISTICS_DROPPED, struct.pack("=Q", dropped)),
    ]
    return _block(_STATISTICS, struct.pack("=III", number, when >> 32, when & 0xFFFFFFFF) + _options(options))


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("=I", 12 + len(body))
    return struct.pack("=I", kind) + size + body + size


def _options(options: list[tuple[int, bytes]]) -> bytes:
    return b"".join(
        struct.pack("=HH", code, len(content)) + _padded(content) for code, content in [*options, (_END, b"")]
    )


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)

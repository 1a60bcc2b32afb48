"""The datagrams of a speed test (docs/wire.md section 7.4).  Numbers are big-endian.

Not here: who sends which, and when (``asking``, ``serving``).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from rsock_nf.core.types import Buffer, Malformed

_ASK: Final = struct.Struct("!BIIHH")
_DATA: Final = struct.Struct("!BII")
_REPORT: Final = struct.Struct("!BIIIIQIB")
ASK_BYTES: Final = 32
"""A question is as long as a report, or longer: who answers sends no more than came."""
LEAST_DATA: Final = _DATA.size
_ASK_TYPE, _DATA_TYPE, _REPORT_TYPE = 1, 2, 3


class Ask(NamedTuple):
    """From the client, ten times a second: how the server is to send, and a request for a report."""

    test: int
    """A random u32."""
    rate: int
    """kbit/s that the server is to send; 0 = none."""
    size: int
    """Bytes of each datagram of those."""
    number: int
    """A u16 that the report repeats."""

    def build(self) -> bytes:
        """The datagram."""
        return _ASK.pack(_ASK_TYPE, *self).ljust(ASK_BYTES, b"\0")


class Data(NamedTuple):
    """What is counted, in either direction."""

    test: int
    number: int
    """From 0 on, one more each time."""

    def build(self, size: int) -> bytes:
        """A datagram of ``size`` bytes."""
        return _DATA.pack(_DATA_TYPE, *self).ljust(size, b"\0")


class Report(NamedTuple):
    """The answer to an ``Ask``."""

    test: int
    number: int
    """Of the ``Ask``."""
    datagrams: int
    """That came from the client in this test."""
    expected: int
    """One more than the highest number among them."""
    octets: int
    """Bytes of them."""
    allowed: int
    """kbit/s that the server allows, each way."""
    busy: bool
    """Another client is testing, or this test has lasted too long: nothing is counted or sent."""

    def build(self) -> bytes:
        """The datagram."""
        return _REPORT.pack(_REPORT_TYPE, *self)


def parse_message(datagram: Buffer) -> Ask | Data | Report:
    """Raises ``Malformed``."""
    try:
        match datagram[0] if len(datagram) else 0:
            case 1:
                return Ask(*_ASK.unpack_from(datagram)[1:])
            case 2:
                return Data(*_DATA.unpack_from(datagram)[1:])
            case 3:
                report = Report._make(_REPORT.unpack_from(datagram)[1:])
                return report._replace(busy=bool(report.busy))
    except struct.error:
        raise Malformed("a message of a speed test is cut off") from None
    raise Malformed("no message of a speed test")

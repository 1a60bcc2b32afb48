"""The server's initial sequence number is a cookie: a keyed hash.  So the server answers a SYN and keeps nothing.

The idea is that of RFC 4987 section 3.6, without its encoding: the whole number is a keyed hash of the flow, the
client's initial sequence number and the time.  The MSS of the SYN is not in it, because the client tells in its
hello which MSS it received.  The ACK that completes the TCP handshake, or the first data, brings the number back
(``ack - 1``).  This proves that its sender got our SYN-ACK.

Not here: authentication.  A cookie proves an address for a minute or two, with 32 bits, and nothing else.
"""

from __future__ import annotations

import hashlib
from typing import Final

from rsock_nf.core.types import FlowKey

PERIOD: Final = 64.0
"""Seconds.  A cookie is valid in the period in which it was made and in the next one: for 64 to 128 seconds."""


class Cookie:
    """The cookies of one server process."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        """``key``: 16 to 32 random bytes, made at start and never told to anybody."""
        if not 16 <= len(key) <= hashlib.blake2s.MAX_KEY_SIZE:
            raise ValueError(f"cookie key of {len(key)} bytes, need 16 to {hashlib.blake2s.MAX_KEY_SIZE}")
        self._key = key

    def isn(self, flow: FlowKey, client_isn: int, now: float) -> int:
        """The initial sequence number, ``0 .. 2**32 - 1``, for the answer to the SYN ``client_isn`` on ``flow``."""
        return self._number(flow, client_isn, int(now // PERIOD))

    def differences(self, flow: FlowKey, client_isn: int, server_isn: int, now: float) -> tuple[int, int]:
        """How ``server_isn`` differs from the number that ``isn`` gives in this period, and gave in the last one:
        exclusive-or.

        0 = it is that number.  A wire may combine a few bits of its own with the number; it reads them from these
        differences.
        """
        period = int(now // PERIOD)
        this, last = (self._number(flow, client_isn, then) ^ server_isn for then in (period, period - 1))
        return this, last

    def check(self, flow: FlowKey, client_isn: int, server_isn: int, now: float) -> bool:
        """Whether ``isn`` returned ``server_isn`` for this flow and client number, in this period or the last."""
        period = int(now // PERIOD)
        return any(self._number(flow, client_isn, then) == server_isn for then in (period, period - 1))

    def _number(self, flow: FlowKey, client_isn: int, period: int) -> int:
        """The hash of all of this.

        Every field has a fixed width, and the two addresses together have 8 or 32 bytes.  So no two different
        inputs give the same text.
        """
        text = b"".join(
            (
                (period & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "big"),
                client_isn.to_bytes(4, "big"),
                flow.local_port.to_bytes(2, "big"),
                flow.remote_port.to_bytes(2, "big"),
                flow.local,
                flow.remote,
            )
        )
        return int.from_bytes(hashlib.blake2s(text, digest_size=4, key=self._key).digest(), "big")

"""The server's initial sequence number as a keyed cookie: a SYN is answered without keeping anything.

The idea of RFC 4987 section 3.6, without its encoding: the whole number is a keyed hash of the flow, the client's
initial sequence number and the time.  The offered MSS need not be in it, because the client states in its hello
what it received.  The ACK that completes the handshake, or the first data, brings the number back (``ack - 1``),
and so proves that its sender got our SYN-ACK.

Not here: who is allowed in.  A cookie proves an address for a minute or two, 32 bits strong, and nothing else.
"""

from __future__ import annotations

import hashlib
from typing import Final

from rsock_nf.core.types import FlowKey

PERIOD: Final = 64.0
"""Seconds.  A cookie is good in the period that it was made in and in the one after: for 64 to 128 seconds."""


class Cookie:
    """The cookies of one server process."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        """``key``: 16 to 32 random bytes, made at start and told nobody."""
        if not 16 <= len(key) <= hashlib.blake2s.MAX_KEY_SIZE:
            raise ValueError(f"cookie key of {len(key)} bytes, need 16 to {hashlib.blake2s.MAX_KEY_SIZE}")
        self._key = key

    def isn(self, flow: FlowKey, client_isn: int, now: float) -> int:
        """The initial sequence number to answer the SYN ``client_isn`` on ``flow`` with, ``0 .. 2**32 - 1``."""
        return self._number(flow, client_isn, int(now // PERIOD))

    def differences(self, flow: FlowKey, client_isn: int, server_isn: int, now: float) -> tuple[int, int]:
        """``server_isn`` exclusive-or what ``isn`` returns in this period, and what it returned in the last one.

        0 = it is that number.  A wire may lay a few bits of its own over the number, and reads them here.
        """
        period = int(now // PERIOD)
        this, last = (self._number(flow, client_isn, then) ^ server_isn for then in (period, period - 1))
        return this, last

    def check(self, flow: FlowKey, client_isn: int, server_isn: int, now: float) -> bool:
        """Whether ``isn`` returned ``server_isn`` for this flow and client number, in this period or the last."""
        return 0 in self.differences(flow, client_isn, server_isn, now)

    def _number(self, flow: FlowKey, client_isn: int, period: int) -> int:
        """All fields have fixed width but the addresses, and those are 8 or 32 bytes together: no two inputs meet."""
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

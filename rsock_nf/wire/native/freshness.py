"""What shows that a sender speaks now, and receives what is sent to its address: cookie and challenge.

A recorded message is genuine, and anybody can send it with any source address.  So the server sends something that
only it can know, and that is good for one address only.  Who has the secret sends it back:

* the **cookie** in a new hello, before the first one has cost a Diffie-Hellman.  The server asks for it while many
  hellos are not confirmed (``half_open``), and keeps nothing for it.
* the **challenge** of an answer in the confirmation, which opens the flow.

Clocks are not compared: those of two hosts may differ by years.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from rsock_nf.core.types import FlowKey

SIZE: Final = 16
"""Bytes of a cookie and of a challenge."""
NO_COOKIE: Final = bytes(SIZE)
"""In a hello: there is none.  In the server's answer: no cookie helps, too many hellos came from this address."""
PERIOD: Final = 64.0
"""Seconds.  A cookie is good in the period in which it was made and in the next one."""


class HelloCookies:
    """The cookies of one server process.  ``key``: 32 random bytes, made at start and never told to anybody."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, now: float, flow: FlowKey) -> bytes:
        """The cookie for a hello on ``flow``."""
        return self._cookie(int(now // PERIOD), flow)

    def check(self, now: float, flow: FlowKey, cookie: bytes) -> bool:
        """Whether ``cookie`` was made for ``flow`` in this period or in the last one."""
        if cookie == NO_COOKIE:
            return False
        period = int(now // PERIOD)
        return any(hmac.compare_digest(cookie, self._cookie(then, flow)) for then in (period, period - 1))

    def _cookie(self, period: int, flow: FlowKey) -> bytes:
        return _mac(self._key, b"cookie", (period & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "big"), flow)


def challenge(seed: bytes, flow: FlowKey, seq: int, ack: int) -> bytes:
    """What the confirmation of one hello or join has to send back on ``flow``, with these numbers.

    ``seed``: 16 random bytes, for this hello or join alone.  ``seq``, ``ack``: the numbers of the confirmation's
    segment; 0 on a UDP carrier.  So a confirmation counts nowhere else.
    """
    return _mac(seed, b"confirm", seq.to_bytes(4, "big") + ack.to_bytes(4, "big"), flow)


def _mac(key: bytes, purpose: bytes, text: bytes, flow: FlowKey) -> bytes:
    """A keyed hash.  Every field has a fixed width, so no two inputs give the same text."""
    ports = bytes((flow.udp,)) + flow.local_port.to_bytes(2, "big") + flow.remote_port.to_bytes(2, "big")
    text = b"".join((text, ports, flow.local, flow.remote))
    return hashlib.blake2s(text, digest_size=SIZE, key=key, person=purpose).digest()

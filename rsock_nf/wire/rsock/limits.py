"""What frames of the original rsock can carry."""

from __future__ import annotations

from typing import Final

from rsock_nf.core.protocols import Limits

MAX_PAYLOAD: Final = 1468
"""Bytes of the longest frame that an original takes: its buffer of 1,500 bytes, less 32 for headers."""
OVERHEAD: Final = {1: 27, 2: 31}
"""Bytes of a frame's head, by version."""
FIRST_CONVERSATION: Final = 2
"""The first number that an original's client uses."""
LIMITS: Final = Limits(
    max_payload=MAX_PAYLOAD,
    bursts=False,
    fragments=False,
    shortest=1,
    opening_bytes=0,
    first_conversation=FIRST_CONVERSATION,
)
"""A frame has no length field, so two frames cannot share a packet.  Its hash needs the first byte of the datagram,
so a datagram cannot be empty."""

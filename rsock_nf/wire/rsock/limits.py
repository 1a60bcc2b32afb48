"""What frames of an original rsock can carry."""

from __future__ import annotations

from typing import Final

from rsock_nf.core.protocols import Limits

MAX_PAYLOAD: Final = 1468
"""Bytes of the longest frame that an original takes: its buffer of 1,500 without 32 of headers."""
FIRST_CONVERSATION: Final = 2
"""As an original's client numbers them."""
LIMITS: Final = Limits(
    max_payload=MAX_PAYLOAD,
    bursts=False,
    fragments=False,
    shortest=1,
    opening_bytes=0,
    first_conversation=FIRST_CONVERSATION,
)
"""A frame has no length, so no two of them may share a packet.  Its hash covers the first byte of the datagram, so there
must be one."""

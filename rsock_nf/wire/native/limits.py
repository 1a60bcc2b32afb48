"""What frames of the native wire can carry."""

from __future__ import annotations

from typing import Final

from rsock_nf.core.protocols import MAX_FRAME, Limits

OVERHEAD: Final = 8
"""Bytes of a frame's header."""
TAG: Final = 16
"""Bytes of the authentication tag at the end of a sealed frame."""
LIMITS: Final = Limits(
    max_payload=MAX_FRAME, bursts=True, fragments=True, shortest=0, opening_bytes=2, first_conversation=None
)
"""An opening frame has two bytes more than a plain one: the index of its target."""

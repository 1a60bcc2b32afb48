"""Whose a session is, as far as a server knows: the name behind the secret, and what that client may have.

The core does not see secrets.  A wire finds out who has authenticated, and says so by an ``Identity``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rsock_nf.core.parameters import NO_LIMITS, ClientLimits


@dataclass(frozen=True, slots=True)
class Identity:
    """See the module.  The defaults are those of a client without a name."""

    name: str = ""
    """Empty = it has none."""
    secret: int = 0
    """Which of two secrets was used: 1 or 2.  0 = there is one."""
    limits: ClientLimits = NO_LIMITS
    tag: bytes = b""
    """Tells secrets apart, and is no secret."""

    @property
    def text(self) -> str:
        """For people: ``alice``, ``alice (second secret)``.  Empty = nothing is known."""
        which = ("", "first secret", "second secret")[self.secret]
        return f"{self.name} ({which})" if self.name and which else self.name or which


ANYBODY: Final = Identity()

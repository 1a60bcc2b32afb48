"""What an attack is, as data: who can do it, what he does, and what it may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tests.attacks.ground import Done, Ground
from tests.faults.field import AES, Variant

Act = Callable[[Ground, Done], None]
TCP, SEALED, UDP, SEALED_UDP, ALL = (
    Variant("tcp"), Variant("tcp", AES), Variant("udp"), Variant("udp", AES), Variant("all", AES),
)  # fmt: skip
SEALED6, SEALED_UDP6, ALL6 = (Variant(kind, AES, version=6) for kind in ("tcp", "udp", "all"))
"""The same over IPv6."""
RSOCK, RSOCK_UDP = Variant("tcp", wire="rsock"), Variant("udp", wire="rsock")
"""The original's wire, with both ends ours.  It is IPv4 only and seals nothing."""


class Who(Enum):
    """Who can do it.  The value is the text of the table."""

    OFF_PATH = "stranger, off the path"
    SAME_NAT = "stranger behind the client's NAT"
    NEIGHBOUR = "neighbour on the server's link"
    ON_PATH = "who reads and sends on the path"
    LOCAL = "user of the same host"
    INSIDER = "holder of the secret"


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack."""

    name: str
    what: str
    who: Who
    act: Act
    """Does it, and adds to ``Done`` what was sent and seen.  It ends by itself."""
    variants: tuple[Variant, ...] = (SEALED,)
    after: float = 4.0
    """Seconds for which the load goes on after it."""
    flows: int = 0
    """So many of the flows may be lost: he can, and they are dialled anew."""
    renews: bool = False
    """The client renews its flows during the attack, so that they do not count as lost."""
    twice: bool = False
    """Where nothing is sealed, the target may get datagrams twice, or forged ones."""
    behind: bool = False
    """On a path with the middlebox of ``tests.faults``."""
    why: str = ""
    """Why it has the effect that it has: what stops it, or why nothing does."""
    plain: str = ""
    """The same where nothing is sealed, if it is different."""
    rsock: str = ""
    """The same on the original's wire, if it is different."""

    def reason(self, variant: Variant) -> str:
        """Why it has the effect that it has on this kind of tunnel."""
        plain = self.plain if variant.cipher == "none" else ""
        return (self.rsock if variant.wire == "rsock" else "") or plain or self.why

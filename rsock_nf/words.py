"""Words that an operator meets in two places, the log and ``status``, and that must be the same there."""

from __future__ import annotations

from typing import Final

STRANGERS: Final = "payloads from strangers"
"""The server's counter of first payloads that do not authenticate."""
NOBODY_LISTENS: Final = "nobody listens there"
"""What a target's ICMP port unreachable means."""

LOOPED: Final = (
    "packets of this tunnel come back to it, and are dropped: a VPN that runs over the tunnel takes the route to "
    '{remote}; add a route to it, or set "device"'
)
"""``LoopGuard`` has found some."""


def who_strangers_are(*, over_udp: bool) -> str:
    """Over UDP no TCP handshake tells a stranger from a client of ours that a NAT has given another address."""
    if over_udp:
        return "another secret, a scan, or over UDP a client whose address has changed"
    return "another secret, or a scan"


def detour_text(remote: object, avoided: str, used: str) -> str:
    """That a VPN which runs over this tunnel has taken the route to ``remote``; ``used``: the device in its place."""
    text = f"the route to {remote} leads into {avoided}, which runs over this tunnel"
    if used:
        return f"{text}: {used} is used instead"
    return f"{text}, and no other device has a route: add one to {remote}"

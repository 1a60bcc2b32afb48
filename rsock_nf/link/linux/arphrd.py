"""The kinds of Linux devices that fake TCP travels on: ARPHRD_*, include/uapi/linux/if_arp.h."""

from __future__ import annotations

from typing import Final

ETHERNET: Final = 1
LOOPBACK: Final = 772
PPP: Final = 512
HEADERLESS: Final = (PPP, 519, 65534)
"""ARPHRD_PPP, RAWIP, NONE (TUN, WireGuard)."""
SUPPORTED: Final = (ETHERNET, LOOPBACK, *HEADERLESS)

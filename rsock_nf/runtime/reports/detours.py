"""Routes that lead into a VPN and are not followed, as lines for an operator."""

from __future__ import annotations

from collections.abc import Iterable

from rsock_nf.link import Detour
from rsock_nf.words import detour_text


def notes(detours: Iterable[Detour]) -> list[str]:
    """Another device is used: what is unusual."""
    return list(dict.fromkeys(detour_text(*detour) for detour in detours if detour.used))


def reasons(detours: Iterable[Detour]) -> list[str]:
    """No other device has a route: why nothing can be sent."""
    return list(dict.fromkeys(detour_text(*detour) for detour in detours if not detour.used))

"""Numbers as people read them: bytes, durations, rates, shares."""

from __future__ import annotations

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_STEPS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def duration(seconds: float) -> str:
    """``"7 s"``, ``"12 min 05 s"``, ``"3 h 07 min"``, ``"2 d 03 h"``."""
    whole = int(seconds)
    for above, name, below, low in _STEPS:
        if whole >= above:
            return f"{whole // above} {name} {whole % above // below:02} {low}"
    return f"{whole} s"


def about(seconds: float) -> str:
    """The same in one unit: ``"7 s"``, ``"12 min"``, ``"3 h"``, ``"2 d"``."""
    whole = int(seconds)
    for above, name, _, _ in _STEPS:
        if whole >= above:
            return f"{whole // above} {name}"
    return f"{whole} s"


def age(seconds: float | None) -> str:
    """The same for a column: ``"7s"``, ``"12m"``, ``"3h"``, ``"2d"``; ``"-"`` = unknown."""
    return "-" if seconds is None else about(seconds).replace(" min", "m").replace(" ", "")


def size(count: float, blank: str = " ") -> str:
    """Bytes, in powers of a thousand and three digits.  ``blank``: what is between number and unit."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    digits = 0 if unit == 0 or count >= 100 else 1 if count >= 10 else 2
    return f"{count:.{digits}f}{blank}{_UNITS[unit]}"


def megabits(bits: float) -> str:
    """Bits a second as Mbit/s, without the unit."""
    return f"{bits / 1e6:.2f}" if bits < 99.995e6 else f"{bits / 1e6:.0f}"


def share(part: float | None) -> str:
    """A share of 1 in per cent; ``"-"`` = unknown."""
    if part is None:
        return "-"
    return f"{part:.1%}" if part < 0.9995 else f"{part:.0%}"


def counted(count: int, noun: str) -> str:
    """``"1 flow"``, ``"2 flows"``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def host_of(peer: str) -> str:
    """The address of a peer, which may have a port: ``"198.51.100.7:40001"``, ``"[2001:db8::1]:40001"``."""
    address, _, port = peer.rpartition(":")
    bare = peer.count(":") > 1 and not peer.startswith("[")
    return peer if bare or not port else (address or peer).strip("[]")

"""The search for the highest rate with little loss.  Pure: it gets a function that tries a rate.

A shared machine takes the CPU away now and then.  So a rate counts as carried if one of two tries loses little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

Found: TypeAlias = Mapping[str, float]
"""One measurement; ``offered`` and ``received`` in datagrams a second, ``lost`` as a share."""

ALLOWED = 0.01
"""Share of the datagrams that may be lost."""
TRIES = 2
STEP = 1.25
"""By which the rate grows or shrinks until it is known on both sides."""
CLOSE = 1.03
"""The search ends when the lowest rate that failed is that much above the highest that was carried."""
SHORT = 0.95
"""A sender that offers less of what was asked for, in both tries, cannot do more."""
LEAST = 1000.0
"""Datagrams a second: whatever fails there has no highest rate."""


def highest_rate(unlimited: Found, attempt: Callable[[float], Found]) -> Found | None:
    """The measurement with the highest rate that was carried; None = none was.

    ``unlimited`` is a measurement with as much load as the sender can.
    """
    if unlimited["lost"] <= ALLOWED:
        return unlimited
    best: Found | None = None
    low, high = 0.0, unlimited["offered"]
    rate = max(unlimited["received"], LEAST)
    while rate >= LEAST and (not low or high / low > CLOSE):
        found = carried(rate, attempt)
        if found is None:
            high = rate
        else:
            low = rate
            best = found if best is None or found["received"] > best["received"] else best
            if found["offered"] < SHORT * rate:
                break
        rate = next_rate(low, high, unlimited["offered"])
    return best


def next_rate(low: float, high: float, ceiling: float) -> float:
    """Step until both sides are known, then halve what is between."""
    if not low:
        return high / STEP
    if high >= ceiling:
        return min(low * STEP, (low + high) / 2)
    return (low + high) / 2


def carried(rate: float, attempt: Callable[[float], Found]) -> Found | None:
    """The try that loses little and received most.  One is enough, if it was offered what was asked for."""
    best: Found | None = None
    for _ in range(TRIES):
        found = attempt(rate)
        if found["lost"] <= ALLOWED:
            best = found if best is None or found["received"] > best["received"] else best
            if found["offered"] >= SHORT * rate:
                break
    return best

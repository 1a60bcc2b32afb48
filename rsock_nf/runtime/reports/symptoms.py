"""Signs that packets go astray, as reasons for an operator: counters of the host that grow and should not.

1. The kernel's own TCP gets packets that are ours: they came to it by a way that our rules or our tap do not cover.
2. Packets cannot be sent: there is no route for them, or the next hop does not answer.
3. What arrives waits too long until it is read: this host has too little CPU time for its load.

A reason appears when a counter has grown by ``LEAST`` within ``WINDOW`` seconds, and goes when it has stopped growing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from rsock_nf.runtime.driver import Driver
from rsock_nf.runtime.host.device import Device
from rsock_nf.runtime.host.rules import Rules
from rsock_nf.sockets.datagrams import DatagramCounters
from rsock_nf.words import TOO_SLOW, arrives_elsewhere, cannot_send

WINDOW = 10.0
"""Seconds."""
LEAST = 5
"""A few are normal: in the moment in which rules or neighbours change."""
PERIOD = 4.0
"""Seconds between two looks at the rules' counters."""
SLOW_PERIOD = 9.0
"""The same for backends that take tens of milliseconds."""


class Growth:
    """How much a counter has grown within the last ``WINDOW`` seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, count: int) -> bool:
        """The counter has this value now.  Returns whether it grows too fast."""
        self._seen.append((now, count))
        while len(self._seen) > 1 and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()
        return count - self._seen[0][1] >= LEAST


class Symptoms:
    """See the module.  ``device``: the only one that the configuration allows; None = any."""

    def __init__(self, device: str | None) -> None:
        self._device = device
        self._guarded = Growth()
        self._unresolved = Growth()
        self._late = Growth()
        self._look_at = 0.0
        self._repairs = 0
        self._astray = ""
        self._unsent = ""
        self._slow = ""

    def tick(  # noqa: PLR0913 - one for each sign
        self,
        now: float,
        *,
        unresolved: int,
        late: int,
        missing: Callable[[], Sequence[str]],
        guarded: Callable[[], int | None],
        repairs: int,
        slow: bool,
    ) -> None:
        """Once a second.

        ``unresolved``: packets that could not be sent so far; ``missing`` tells why.  ``late``: datagrams and packets
        dropped so far because they had waited too long.

        ``guarded``: segments that the kernel's own TCP has got for our ports so far, or answered; None = not known now.
        It is asked seldom, and more seldom if it is ``slow``.  ``repairs``: how often the rules were put back: what
        came to the kernel while they were gone means nothing.
        """
        self._unsent = cannot_send(missing()) if self._unresolved.add(now, unresolved) else ""
        self._slow = TOO_SLOW if self._late.add(now, late) else ""
        if now >= self._look_at:
            self._look_at = now + (SLOW_PERIOD if slow else PERIOD)
            count = guarded()
            if repairs != self._repairs:
                self._repairs, self._guarded = repairs, Growth()
            if count is not None:
                self._astray = arrives_elsewhere(self._device) if self._guarded.add(now, count) else ""

    def reasons(self) -> list[str]:
        """Why traffic is lost, a line for each."""
        return [reason for reason in (self._astray, self._unsent, self._slow) if reason]


class Counting(Protocol):
    """The parts of a side that have counters."""

    @property
    def driver(self) -> Driver:
        """Its data path."""

    @property
    def device(self) -> Device:
        """Its device."""

    @property
    def rules(self) -> Rules | None:
        """Its firewall rules; None = there is no fake TCP."""

    def socket_counters(self) -> list[DatagramCounters]:
        """Of the sockets toward applications or targets."""

    def reached(self) -> int:
        """Segments that have come to the kernel's TCP for our ports: see ``HeldPort``."""


def look_for_symptoms(symptoms: Symptoms, now: float, side: Counting) -> None:
    """Once a second: ask the parts of a side."""
    rules, link = side.rules, side.device.link_counters()

    def guarded() -> int | None:
        counters = rules.counters() if rules is not None else None
        return counters.output_packets + side.reached() if counters is not None else None

    sockets = sum(counters.late for counters in side.socket_counters())
    symptoms.tick(
        now,
        unresolved=link.get("unresolved", 0),
        late=link.get("late", 0) + sockets + side.driver.carriers.late,
        missing=side.device.routes.missing,
        guarded=guarded,
        repairs=rules.repairs if rules is not None else 0,
        slow=rules is not None and rules.backend != "nftables",
    )

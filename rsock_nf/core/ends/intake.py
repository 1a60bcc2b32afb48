"""What is received passes through the pump here.  What the pump returns as *slow* comes out one item after the other.

A slow item may open a flow.  Then the rest of its packet, and what came behind it in the same read, is given to the
pump again (``again``), which has the flow by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from rsock_nf.core.flows.context import Context
from rsock_nf.core.pump.pump import Pump, Slow
from rsock_nf.core.types import Carried, Packet, Run


class Intake:
    """See the module."""

    def __init__(self, context: Context, pump: Pump) -> None:
        self._context = context
        self._pump = pump
        self._slow: deque[Slow] = deque()
        self._given_again: Packet | Carried | None = None

    def packets(self, packets: Iterable[Packet], strangers: int) -> None:
        """Take packets from the link, and of those that belong to no flow at most ``strangers``."""
        self._take(*self._pump.from_link(packets, strangers))

    def carried(self, received: Iterable[Carried], strangers: int) -> None:
        """Take datagrams of UDP carriers; ``strangers`` as with ``packets``."""
        self._take(*self._pump.from_carriers(received, strangers))

    def _take(self, runs: list[Run], slow: list[Slow]) -> None:
        if self._pump.strangers_dropped:
            self._context.counters["strangers' packets while behind"] += self._pump.strangers_dropped
            self._pump.strangers_dropped = 0
        if runs:
            self._context.outbox.deliver(runs)
        if slow:
            self._slow.extend(slow)

    def next(self) -> Slow | None:
        """The next item that the pump could not decide; None = there is none."""
        if self._slow:
            return self._slow.popleft()
        self._given_again = None
        return None

    def put(self, runs: list[Run], slow: list[Slow]) -> None:
        """What was made of the item that ``next`` gave last: it comes out next."""
        self._context.outbox.deliver(runs)
        self._slow.extendleft(reversed(slow))

    def was_given_again(self, received: Packet | Carried) -> bool:
        """Whether the pump has had ``received`` twice."""
        return received is self._given_again

    def again(self, received: Packet | Carried) -> bool:
        """Give ``received`` to the pump again.  False = this was done already, and it came back.

        What the pump cannot decide of it comes out next.
        """
        if received is self._given_again:
            return False
        self._given_again = received
        if isinstance(received, Packet):
            runs, slow = self._pump.from_link([received])
        else:
            runs, slow = self._pump.from_carriers([received])
        self.put(runs, slow)
        return True

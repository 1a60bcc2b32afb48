"""When and where the client dials: one slot for each server port in use, with back-off and jitter.

Of several server addresses the first gets ``SILENT`` seconds, then the next one, and so on: a dead one must not cost
the patience of whoever waits for the tunnel.  Once each has had its turn, back-off decides as with a single one.

With more ports than slots, one that does not answer gives its slot to the next: the server need not serve them all.
When a path comes back, one flow finds out, and the others need not sit out their back-off.

With ``type: all`` there are two slots for each port, one of each kind.  A kind that does not pass (the server does not
serve it, a router blocks it) is dialled less and less often while the other one carries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.table import Flow
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.protocols import Rng

STAGGER = 0.02
"""Seconds between the first dials of two slots."""
FIRST_BACKOFF = 0.5
MAX_BACKOFF = 30.0
MAX_BACKOFF_BESIDE = 300.0
"""Of one kind of carrier while the other one carries."""
STEADY = 10.0
"""A flow that lived this long is replaced at once; a shorter life counts as a failure."""
URGENT = 2.0
"""While datagrams wait and no flow is up, a dial at least this often, whatever the back-off says."""
SILENT = 2.0
"""Seconds without any SYN-ACK or answer after which the next address gets its turn: each port has had two SYNs or three."""


@dataclass(slots=True, eq=False)
class Slot:
    """One server port that a flow should lead to."""

    index: int
    port: int
    stagger: float
    udp: bool = False
    """It is filled by a UDP carrier."""
    flow: Established | None = None
    """The flow that fills it."""
    opening: Flow | None = None
    """A flow on its way to fill it."""
    port_wanted: bool = False
    remote: bytes = b""
    """The server's packed address that the port was asked for."""
    failures: int = 0
    unanswered: bool = False
    """The last dial ended without a SYN-ACK, over UDP without an answer: the whole path was down, or this port is not served."""

    @property
    def resting(self) -> bool:
        """It leads nowhere, and nothing is on its way."""
        return self.flow is None and self.opening is None and not self.port_wanted


class Slots:
    """The slots, and which of the server's addresses is in use."""

    def __init__(self, parameters: ClientParameters, rng: Rng) -> None:
        self._rng = rng
        self._addresses = [address.packed for address in parameters.server]
        self._current = 0
        self._untried = len(self._addresses) - 1
        """Addresses that have not had their turn since the last ``reset``."""
        self._unanswered_since: float | None = None
        """When the first SYN went to the address in use, if no SYN-ACK came since; None = none sent, or one came."""
        ports = [port for span in parameters.ports for port in range(span.first, span.last + 1)]
        count = min(parameters.flows, len(ports))
        # Spread over the whole list when there are more ports than flows.
        chosen = [ports[at * len(ports) // count] for at in range(count)]
        kinds = [udp for udp, wanted in ((False, parameters.carriers.tcp), (True, parameters.carriers.udp)) if wanted]
        self._spare = {udp: deque(sorted(set(ports).difference(chosen))) for udp in kinds}
        """Ports without a slot of that kind, the next to be tried first."""
        self._last_dial = 0.0
        places = [(at * STAGGER, port, udp) for at, port in enumerate(chosen) for udp in kinds]
        self._slots = [Slot(index, port, stagger, udp) for index, (stagger, port, udp) in enumerate(places)]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __getitem__(self, index: int) -> Slot:
        return self._slots[index]

    @property
    def remote(self) -> bytes:
        """The server's packed address in use."""
        return self._addresses[self._current]

    @property
    def remote_text(self) -> str:
        """The same for a person."""
        return str(ip_address(self.remote))

    def sent(self, now: float) -> None:
        """A SYN or a first datagram leaves for the address in use."""
        self._last_dial = now
        if self._unanswered_since is None:
            self._unanswered_since = now

    def answered(self) -> None:
        """A SYN-ACK or an answer came: this address is not a dead one, whatever follows."""
        self._untried = 0

    def pass_over(self, now: float) -> bool:
        """True = the address in use is silent, and another one, untried, takes its place."""
        if not self._untried or self._unanswered_since is None or now - self._unanswered_since < SILENT:
            return False
        self._untried -= 1
        self._next_address()
        return True

    def _next_address(self) -> None:
        self._current = (self._current + 1) % len(self._addresses)
        self._unanswered_since = None

    def failed(self, slot: Slot) -> float:
        """A dial failed: seconds to wait.  When every slot has failed, the next address gets its turn."""
        slot.failures += 1
        spare = self._spare[slot.udp]
        if slot.unanswered and spare:
            spare.append(slot.port)
            slot.port = spare.popleft()
        if all(other.failures and other.flow is None for other in self._slots) and slot is self._slots[0]:
            self._next_address()
        return self._backoff(slot)

    def _backoff(self, slot: Slot) -> float:
        beside = any(other.flow for other in self._slots if other.udp is not slot.udp)
        longest = MAX_BACKOFF_BESIDE if beside else MAX_BACKOFF
        return self._jitter(min(FIRST_BACKOFF * 2 ** min(slot.failures - 1, 10), longest))

    def broken(self, now: float, slot: Slot) -> float:
        """An established flow ended, or should: seconds to wait before its replacement.

        Being established alone clears no failures: somebody may reset every flow as soon as it carries something.
        """
        flow = slot.flow
        if flow is not None and now - flow.since < STEADY:
            slot.failures += 1
            return self._backoff(slot)
        slot.failures = 0
        return 0.0

    def revived(self, up: Slot) -> list[Slot]:
        """A flow is up: the slots of its kind that need not wait any longer, since nobody has answered them."""
        slots = [slot for slot in self._slots if slot.udp is up.udp and slot.flow is None and slot.unanswered]
        for slot in slots:
            slot.failures = 0
        return slots

    def urgent(self, now: float) -> Slot | None:
        """Datagrams wait, no flow is up: a slot to dial now; None = one was dialled a moment ago."""
        if now - self._last_dial < URGENT:
            return None
        resting = [slot for slot in self._slots if slot.resting]
        return min(resting, key=lambda slot: slot.failures, default=None)

    def reset(self) -> None:
        """The server is back, or the path has changed: old failures say nothing."""
        for slot in self._slots:
            slot.failures = 0
        self._untried = len(self._addresses) - 1
        self._unanswered_since = None

    def _jitter(self, seconds: float) -> float:
        return seconds * (0.75 + 0.5 * self._rng(1)[0] / 255)

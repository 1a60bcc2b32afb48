"""When and where the client dials: one slot for each server port in use, with back-off and jitter."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from rsock_nf.core.flow import Flow
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.protocols import Rng

STAGGER = 0.02
"""Seconds between the first dials of two slots."""
FIRST_BACKOFF = 0.5
MAX_BACKOFF = 30.0
STEADY = 10.0
"""A flow that lived this long is replaced at once; a shorter life counts as a failure."""


@dataclass(slots=True, eq=False)
class Slot:
    """One server port that a flow should lead to."""

    index: int
    port: int
    stagger: float
    flow: Flow | None = None
    """Established."""
    dialled: Flow | None = None
    """On its way to be."""
    port_wanted: bool = False
    remote: bytes = b""
    """The server's packed address that the port was asked for."""
    failures: int = 0


class Dialer:
    """The slots, and which of the server's addresses is in use."""

    def __init__(self, parameters: ClientParameters, rng: Rng) -> None:
        self._rng = rng
        self._addresses = [address.packed for address in parameters.server]
        self._current = 0
        ports = [port for span in parameters.ports for port in range(span.first, span.last + 1)]
        count = min(parameters.flows, len(ports))
        # Spread over the whole list when there are more ports than flows.
        chosen = [ports[at * len(ports) // count] for at in range(count)]
        self.slots = [Slot(index, port, index * STAGGER) for index, port in enumerate(chosen)]

    @property
    def remote(self) -> bytes:
        """The server's packed address in use."""
        return self._addresses[self._current]

    @property
    def remote_text(self) -> str:
        """The same for a person."""
        return str(ip_address(self.remote))

    def failed(self, slot: Slot) -> float:
        """A dial failed: seconds to wait.  When every slot has failed, the next address gets its turn."""
        slot.failures += 1
        if all(other.failures and other.flow is None for other in self.slots) and slot is self.slots[0]:
            self._current = (self._current + 1) % len(self._addresses)
        return self._jitter(min(FIRST_BACKOFF * 2 ** min(slot.failures - 1, 10), MAX_BACKOFF))

    def broken(self, now: float, slot: Slot) -> float:
        """An established flow ended, or should: seconds to wait before its replacement.

        Being established alone clears no failures: somebody may reset every flow as soon as it carries something.
        """
        flow = slot.flow
        if flow is not None and now - flow.since < STEADY:
            slot.failures += 1
            return self._jitter(min(FIRST_BACKOFF * 2 ** min(slot.failures - 1, 10), MAX_BACKOFF))
        slot.failures = 0
        return 0.0

    def reset(self) -> None:
        """The server is back, or the path has changed: old failures say nothing."""
        for slot in self.slots:
            slot.failures = 0

    def _jitter(self, seconds: float) -> float:
        return seconds * (0.75 + 0.5 * self._rng(1)[0] / 255)

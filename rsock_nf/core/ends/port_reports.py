"""What became of the dials of each server port: for who wants to know why a tunnel does not come up.

It decides nothing.  Where the client dials next is a matter of ``slots``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from rsock_nf.core.types import FlowKey, Shard


class Outcome(enum.Enum):
    """How far the last dial of a port has come: each further than those before it.  A dial that has just begun leaves
    the word of the one before."""

    DIALLED = "dialled"
    """Nothing came back yet."""
    SILENT = "silent"
    """Nothing came back.  Over UDP: the hello or join was not answered."""
    REFUSED = "refused"
    """An RST, or over UDP an ICMP message that the port is closed."""
    OPEN = "open"
    """TCP: a SYN-ACK came, and nothing of ours was answered yet."""
    UNANSWERED = "unanswered"
    """TCP: a SYN-ACK came, and our hello or join was not answered."""
    RESET = "reset"
    """TCP: a SYN-ACK came, then an RST."""
    ANSWERED = "answered"
    """The server has authenticated itself there, but the flow is not up yet.  Perhaps it turns us away."""
    UP = "up"
    """A flow has carried traffic there."""


@dataclass(slots=True)
class PortReport:
    """Of one port of one address and kind."""

    remote: bytes
    """Packed."""
    port: int
    udp: bool
    outcome: Outcome = Outcome.DIALLED
    took: float | None = None
    """Seconds until the first answer of the last dial that was answered: the SYN-ACK, or over UDP the answer to hello
    or join.  None = it was sent more than once, or no answer came so far."""


class PortReports:
    """See the module.  There are at most as many as the client has dialled ports."""

    def __init__(self) -> None:
        self._reports: dict[tuple[bytes, int, bool], PortReport] = {}

    def __iter__(self) -> Iterator[PortReport]:
        return iter(self._reports.values())

    def keep_only(self, shard: Shard) -> None:
        """Only ports of ``shard`` are dialled from now on: what became of the others says nothing any more."""
        self._reports = {name: report for name, report in self._reports.items() if shard.has(report.port)}

    def of(self, key: FlowKey) -> PortReport:
        """The report of the port to which the flow ``key`` goes."""
        name = key.remote, key.remote_port, key.udp
        return self._reports.setdefault(name, PortReport(*name))

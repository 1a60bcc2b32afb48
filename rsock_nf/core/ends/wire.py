"""What an endpoint asks of a wire in either role: limits, probes, and which packets it believes.

``rsock_nf.wire`` has one folder for each wire.  What only one role asks is in ``dialling.ClientWire`` and
``accepting.ServerWire``.
"""

from __future__ import annotations

from typing import Protocol

from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.table import FlowTable
from rsock_nf.core.flows.watch import Watch
from rsock_nf.core.protocols import Limits
from rsock_nf.core.pump.state import PumpFlow
from rsock_nf.core.tcp.segment import Segment
from rsock_nf.core.types import Outgoing


class Probing(Protocol):
    """How a wire finds out whether established flows still live.

    ``flows.probes`` implements it with numbered probes.
    """

    def begin(self, now: float, flow: Established) -> None:
        """``flow`` carries traffic from now on: set its first PROBE timer."""

    def due(self, now: float, flow: Established) -> None:
        """The PROBE timer of ``flow`` is due."""

    def ask(self, now: float, flow: Established) -> None:
        """Probe ``flow`` now, unless its state forbids it."""

    def ping(self, now: float, flow: Established) -> int:
        """Send a probe on ``flow`` that judges nothing, because an operator asks.  Its answer is told as
        ``PingAnswered``.  Returns its number; 0 = the probes of this wire have none, and nothing was sent.
        """

    def receive(self, now: float, flow: Established, message: object, received: int) -> bool:
        """Control message ``message`` came as frame number ``received`` of ``flow``.

        Returns False if it is not about probes.
        """

    def too_big(self, now: float, flow: Established, size: int) -> None:
        """A router says that at most ``size`` bytes of payload pass.  Anybody can say so."""

    def widened(self, now: float, flow: Established) -> None:
        """The link takes larger segments than before."""

    def sweep(self, now: float, flow: Established) -> None:
        """Once a second while ``flow`` is established."""


class Wire(Protocol):
    """What a wire provides for both roles."""

    name: str
    """What the configuration calls it."""
    limits: Limits

    def probing(self, context: Context, table: FlowTable, watch: Watch) -> Probing:
        """The probes of the endpoint.  Called once, before everything else."""

    def may_tell(self, flow: PumpFlow, message: object) -> bool:
        """Whether control message ``message`` may travel on ``flow`` now."""

    def is_end(self, flow: Established, seq: int) -> bool:
        """Whether an RST or a FIN with sequence number ``seq`` counts: it has the number that the peer would use now.

        Others are ignored and counted (RFC 5961 section 3).  A FIN with a sealed close frame counts in any case.
        ``Openings`` decides about an RST on an opening flow.
        """

    def answer_fin(self, flow: Established, segment: Segment) -> Outgoing | None:
        """The immediate answer to a FIN from outside, whatever happens to the flow.  None = no answer."""

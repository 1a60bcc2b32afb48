"""What an endpoint asks of a wire, whatever its role: limits, probes, and what a peer is believed in.

``rsock_nf.wire`` has one folder for each wire.  What only one role asks is ``dialling.ClientWire`` and
``accepting.ServerWire``.
"""

from __future__ import annotations

from typing import Protocol

from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.table import FlowTable
from rsock_nf.core.flows.watch import Watch
from rsock_nf.core.parameters import Wire as WireName
from rsock_nf.core.protocols import Limits
from rsock_nf.core.pump.state import PumpFlow
from rsock_nf.core.tcp.segment import Segment
from rsock_nf.core.types import Outgoing


class Probing(Protocol):
    """How a wire finds out whether established flows still live.  ``flows.probes`` is the one with numbered probes."""

    def begin(self, now: float, flow: Established) -> None:
        """``flow`` carries traffic from now on: set its first PROBE timer."""

    def due(self, now: float, flow: Established) -> None:
        """Its PROBE timer is due."""

    def ask(self, now: float, flow: Established) -> None:
        """Probe it now, unless its state forbids that."""

    def receive(self, now: float, flow: Established, message: object, received: int) -> bool:
        """A control message came on ``flow``, as its frame number ``received``; False = it is no probe and no answer."""

    def widened(self, now: float, flow: Established) -> None:
        """The link takes larger segments than before."""

    def sweep(self, now: float, flow: Established) -> None:
        """Once a second, while it is established."""


class Wire(Protocol):
    """The part of a wire that both roles have."""

    name: WireName
    limits: Limits

    def probing(self, context: Context, table: FlowTable, watch: Watch) -> Probing:
        """The endpoint's probes; called once, before anything else."""

    def may_tell(self, flow: PumpFlow, message: object) -> bool:
        """Whether control message ``message`` may travel on ``flow`` now."""

    def is_end(self, flow: Established, seq: int) -> bool:
        """Whether an RST or FIN with this sequence number may come from the peer's side (RFC 5961 section 3)."""

    def answer_fin(self, flow: Established, segment: Segment) -> Outgoing | None:
        """What a FIN from outside is answered with at once, apart from what becomes of the flow; None = nothing."""

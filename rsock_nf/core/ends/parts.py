"""The parts of an endpoint that every endpoint has, whatever its role and its wire."""

from __future__ import annotations

from rsock_nf.core.ends.conversations import Conversations
from rsock_nf.core.ends.intake import Intake
from rsock_nf.core.ends.wire import Probing, Wire
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.table import FlowTable
from rsock_nf.core.flows.watch import Watch
from rsock_nf.core.parameters import Common
from rsock_nf.core.protocols import Rng
from rsock_nf.core.pump.pump import Pump
from rsock_nf.core.pump.state import States


class Parts:
    """See the module.  ``initiator``: True for a client.  ``states``: see ``Pump``."""

    def __init__(  # noqa: PLR0913 - what every endpoint is made of
        self,
        parameters: Common,
        wire: Wire,
        rng: Rng,
        *,
        mtu: int,
        max_burst_bytes: int,
        states: States,
        initiator: bool,
    ) -> None:
        burst = max_burst_bytes if wire.limits.bursts else 0
        self.context = Context(parameters, rng, mtu)
        self.pump = Pump(seed=self.context.random(8), max_burst_bytes=burst, spread=parameters.spread, states=states)
        self.intake = Intake(self.context, self.pump)
        self.table = FlowTable(
            self.context, self.pump, wire.may_tell, initiator=initiator, max_payload=wire.limits.max_payload
        )
        self.watch = Watch(self.context, self.table)
        self.probing: Probing = wire.probing(self.context, self.table, self.watch)
        self.conversations = Conversations(self.context, self.pump, fragments=wire.limits.fragments)

"""A session, and the flows that carry its traffic.

A session is a client process and a server process that authenticated each other.  It outlives every flow and every
address of the client.  It owns its flows, by number, and (through the pump's group) its conversations.

A flow is ``Established`` from the client's confirmation, or the server's acceptance, to its end: the pump takes its
segments and owns its sequence numbers, credit and counters.  Here is what the control side knows of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rsock_nf.core.flows.health import Health
from rsock_nf.core.flows.opening import Repeat, describe
from rsock_nf.core.flows.path_mtu import PathMtu
from rsock_nf.core.flows.states import State
from rsock_nf.core.parameters import Cipher, Wire
from rsock_nf.core.protocols import Limits, SessionKeys
from rsock_nf.core.pump.fragments import Reassembly
from rsock_nf.core.pump.replay import ReplayWindow
from rsock_nf.core.pump.state import FlowGroup, PumpFlow
from rsock_nf.core.types import FlowKey


class Established:
    """See the module.  Either role.  CONFIRMING is the first of its states at a client, ESTABLISHED at a server."""

    def __init__(
        self, state: State, session: Session, pump: PumpFlow, *, mss: int, peer_isn: int, slot: int = 0
    ) -> None:
        self.flow_id: int = pump.flow_id
        self.key: FlowKey = pump.key
        self.state = state
        self.session = session
        self.pump = pump
        self.mss = mss
        """What the opening allows one segment to carry."""
        self.peer_isn = peer_isn
        """The peer's initial sequence number: by it a server knows the SYN of this flow when it comes again."""
        self.first_seq = pump.next_seq
        """Of our first byte on the established flow."""
        self.slot = slot
        """Client: which of its slots it fills."""
        self.since = 0.0
        """When it began to carry traffic."""
        self.health = Health()
        self.path = PathMtu()
        self.sick = False
        """It is to be replaced."""
        self.swept_frames = 0
        """The pump's counters at the last sweep: they tell whether there was traffic since."""
        self.repeat: Repeat | None = None
        """The confirmation that opened it, later its closing segment, until that is answered."""

    def __repr__(self) -> str:
        return describe(self.flow_id, self.key, self.state)

    @property
    def usable(self) -> bool:
        """It may carry bulk."""
        return self.pump in self.pump.group.usable

    @property
    def alone(self) -> bool:
        """It is the only one that may carry bulk."""
        return self.pump.group.usable == [self.pump]

    @property
    def heard(self) -> tuple[int, int]:
        """(frames received, highest ACK): what changes while the peer lives."""
        return self.pump.received_frames, self.pump.highest_ack

    @property
    def had_traffic(self) -> bool:
        """More than probes has moved since the last sweep."""
        return self.pump.sent_frames + self.pump.received_frames > self.swept_frames + 4


@dataclass(slots=True, eq=False)
class Session:
    """Either role's end of a session."""

    session_id: int
    keys: SessionKeys
    wire: Wire
    limits: Limits
    cipher: Cipher
    group: FlowGroup
    created: float
    flows: dict[int, Established] = field(default_factory=dict)
    """Flows that carry traffic, by flow id."""
    reassembly: Reassembly = field(default_factory=Reassembly)
    peer: str = ""
    """Server: where the client was last seen."""
    numbers: ReplayWindow = field(default_factory=lambda: ReplayWindow(1024))
    """Server: numbers of flows that were accepted; each is accepted once."""
    used: float = 0.0
    """When it last had a flow or a conversation."""
    alarmed: float = 0.0
    """When one flow's silence last had all of them probed."""

    def usable_payload(self) -> int:
        """The largest TCP payload that passes on every flow in use; 0 = there is none."""
        return min((flow.max_payload for flow in self.group.usable), default=0)

    def largest_datagram(self) -> int | None:
        """Bytes of the largest datagram that travels in one piece; None = no flow carries anything."""
        usable = self.group.usable
        if not usable:
            return None
        return self.usable_payload() - usable[0].codec.overhead - self.limits.opening_bytes

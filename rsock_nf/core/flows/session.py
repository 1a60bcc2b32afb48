"""One session: a client process and a server process that authenticated each other.

It outlives every flow and every address of the client.  It owns its flows, by number, and
(through the pump's group) its conversations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rsock_nf.core.flows.flow import Flow
from rsock_nf.core.parameters import Cipher, Wire
from rsock_nf.core.protocols import SessionKeys
from rsock_nf.core.pump.fragments import Reassembly
from rsock_nf.core.pump.replay import ReplayWindow
from rsock_nf.core.pump.state import FlowGroup


@dataclass(slots=True, eq=False)
class Session:
    """Either role's end of a session."""

    session_id: int
    keys: SessionKeys
    cipher: Cipher
    group: FlowGroup
    created: float
    flows: dict[int, Flow] = field(default_factory=dict)
    """Established flows by flow id."""
    reassembly: Reassembly = field(default_factory=Reassembly)
    peer: str = ""
    """Server: where the client was last seen."""
    numbers: ReplayWindow = field(default_factory=lambda: ReplayWindow(1024))
    """Server: join numbers seen; each is accepted once."""
    wire: Wire = Wire.NATIVE
    lax: bool = False
    """Its peer's ACKs follow nothing: no flow of it waits for credit."""
    used: float = 0.0
    """When it last had a flow or a conversation."""

    alarmed: float = 0.0
    """When one flow's silence last had all of them probed."""

    def usable_payload(self) -> int:
        """The largest TCP payload that passes on every flow in use; 0 = there is none."""
        return min((flow.max_payload for flow in self.group.usable), default=0)

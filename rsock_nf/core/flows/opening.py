"""A flow before it carries traffic: the client's, from SYN to the server's answer.

It owns its sequence numbers.  When the opening is over they are handed to the pump, and an ``Established`` takes the
place of this object (``FlowTable.establish``).
"""

from __future__ import annotations

from dataclasses import dataclass

from rsock_nf.core.flows.health import Health
from rsock_nf.core.flows.states import State
from rsock_nf.core.tcp.segment import ACK, PSH, HeaderTemplate
from rsock_nf.core.tcp.sequence import add
from rsock_nf.core.types import FlowKey, Outgoing


@dataclass(slots=True)
class Repeat:
    """A segment that is sent again, at the same place in sequence space, until it is answered."""

    segment: Outgoing
    since: float
    """When it was sent first."""
    tries: int = 1

    def answered(self, now: float, health: Health) -> None:
        """The answer came: a round-trip time, if the segment was sent once (RFC 6298 section 3)."""
        if self.tries == 1:
            health.sample(max(now - self.since, 0.0))


class Opening:
    """See the module.  ``slot``: which of the client's slots it is to fill."""

    def __init__(self, flow_id: int, key: FlowKey, *, state: State, identification: int, slot: int = 0) -> None:
        self.flow_id = flow_id
        self.key = key
        self.state = state
        self.slot = slot
        self.template = None if key.udp else HeaderTemplate(key, identification)
        """None = a UDP carrier: the kernel makes the headers."""
        self.health = Health()
        self.next_seq = 0
        """Of the next byte that we send."""
        self.received = 0
        """Highest sequence number + length that the peer sent."""
        self.mss = 0
        """The MSS option of the SYN-ACK as it reached us, or what the link takes if that is less."""
        self.scale: int | None = None
        """The window scale of the SYN-ACK; None = it had none."""
        self.window = 0
        """What the peer last advertised, scaled."""
        self.challenge = b""
        """What the server wants to see in the confirmation."""
        self.exchange: object = None
        """What the wire needs to read the answer; opaque to the core."""
        self.repeat: Repeat | None = None

    def __repr__(self) -> str:
        return describe(self.flow_id, self.key, self.state)

    @property
    def peer_isn(self) -> int:
        """The peer's initial sequence number, once its SYN-ACK is here."""
        return add(self.received, -1)

    def segment(self, payload: bytes, *, window: int, flags: int = PSH | ACK) -> Outgoing:
        """The next segment of the opening; on a UDP carrier ``payload`` alone."""
        if self.template is None:
            return Outgoing(b"", [payload], len(payload), 0, carrier=self.key)
        headers = self.template.build(self.next_seq, self.received, flags, window, len(payload))
        self.next_seq = add(self.next_seq, len(payload))
        return Outgoing(headers, [payload] if payload else [], len(payload), 0)


def describe(flow_id: int, key: FlowKey, state: State) -> str:
    """One flow for whoever debugs."""
    kind = "udp" if key.udp else "tcp"
    return f"<{kind} flow {flow_id} {state.value} {key.local_port}→{key.remote_port}>"

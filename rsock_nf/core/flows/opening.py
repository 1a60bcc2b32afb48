"""A flow before it carries traffic: a client's flow, from SYN to the server's answer.

It owns its sequence numbers.  When the opening is over, they are handed to the pump, and an ``Established``
replaces this object (``FlowTable.take_over``).

Not here: what is sent and when (``ends.openings``), and the messages of the wire.
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
    """A segment that is sent again, with the same sequence number, until it is answered."""

    segment: Outgoing
    since: float
    """When it was sent for the first time."""
    tries: int = 1

    def begin_again(self) -> None:
        """The way may be open again: the tries so far were in vain.  The answer still gives no round-trip time."""
        self.tries = min(self.tries, 2)

    def answered(self, now: float, health: Health) -> None:
        """The answer came.  If the segment was sent only once, this is a round-trip time (RFC 6298 section 3)."""
        if self.tries == 1:
            health.sample(max(now - self.since, 0.0))


class Opening:
    """See the module.  ``slot``: the index of the client's slot that this flow is to fill."""

    def __init__(self, flow_id: int, key: FlowKey, *, state: State, identification: int, slot: int = 0) -> None:
        self.flow_id = flow_id
        self.key = key
        self.state = state
        self.slot = slot
        self.template = None if key.udp else HeaderTemplate(key, identification)
        """None on a UDP carrier: there the kernel makes the headers."""
        self.health = Health()
        self.next_seq = 0
        """Sequence number of the next byte that we send."""
        self.received = 0
        """The highest sequence number + length that the peer sent."""
        self.peer_isn = -1
        """The peer's initial sequence number.  -1 = its SYN-ACK has not come, or the carrier is UDP."""
        self.mss = 0
        """The MSS option of the SYN-ACK as it arrived; at most what the link takes."""
        self.scale: int | None = None
        """The window scale of the SYN-ACK.  None = it had no such option."""
        self.window = 0
        """The window that the peer last advertised, in bytes, scaled."""
        self.challenge = b""
        """What the server wants to see again in the confirmation."""
        self.exchange: object = None
        """What the wire needs to read the answer.  The core does not look inside."""
        self.repeat: Repeat | None = None

    def __repr__(self) -> str:
        return describe(self.flow_id, self.key, self.state)

    def segment(self, payload: bytes, *, window: int, flags: int = PSH | ACK) -> Outgoing:
        """The next segment of the opening.  On a UDP carrier it is ``payload`` alone."""
        if self.template is None:
            return Outgoing(b"", [payload], len(payload), 0, carrier=self.key)
        headers = self.template.build(self.next_seq, self.received, flags, window, len(payload))
        self.next_seq = add(self.next_seq, len(payload))
        return Outgoing(headers, [payload] if payload else [], len(payload), 0)


def describe(flow_id: int, key: FlowKey, state: State) -> str:
    """A flow as text, for debugging."""
    kind = "udp" if key.udp else "tcp"
    return f"<{kind} flow {flow_id} {state.value} {key.local_port}→{key.remote_port}>"

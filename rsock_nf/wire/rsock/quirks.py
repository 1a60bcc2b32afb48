"""What both roles of wire rsock forgive an original, and what they believe of a peer.

An original rsock forges segments beside a live kernel socket.  What follows from that:

* its ACKs follow nothing, and its first number may be one too far.  Our own are right.  What is right is asked only of a
  peer of our kind, which sets PSH: an original never does (``judge``);
* its kernel stands where the handshake left it, so its RST and FIN have that number (``is_end``);
* it has no credit to run out of, and sends on through a hole (``take_again``).
"""

from __future__ import annotations

from rsock_nf.core import messages
from rsock_nf.core.ends.intake import Intake
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import State
from rsock_nf.core.pump.pump import Pump
from rsock_nf.core.pump.state import OUR_WINDOW, PumpFlow
from rsock_nf.core.tcp.segment import ACK, FIN, PSH, HeaderTemplate, Segment
from rsock_nf.core.tcp.sequence import add, not_behind
from rsock_nf.core.types import Carried, Outgoing, Packet
from rsock_nf.wire.rsock.frames import RsockCodec, RsockKeys


def may_tell(flow: PumpFlow, message: object, *, initiator: bool) -> bool:
    """See ``Wire``: there are no words for the end of a session.

    A server makes a flow of its first datagram only, so a client says nothing else on a new flow.
    """
    if isinstance(message, messages.CloseSession):
        return False
    return not initiator or bool(flow.sent_frames or flow.received_frames)


def is_end(flow: Established, seq: int) -> bool:
    """See ``Wire``: also where the kernel beside an original stands, right behind its SYN."""
    return seq in (flow.pump.received, add(flow.peer_isn, 1))


def answer_fin(flow: Established, segment: Segment, *, initiator: bool) -> Outgoing | None:
    """See ``Wire``: an original's kernel closes.  It gets the answer that it understands, or it would ask for minutes."""
    if segment.payload or segment.seq != add(flow.peer_isn, 1) or flow.state is not State.ESTABLISHED:
        return None
    # A server's kernel has taken all that we sent; a client's nothing, our ACKs being beyond what it ever said.
    seq = flow.pump.next_seq if initiator else flow.first_seq
    headers = HeaderTemplate(flow.key).build(seq, add(segment.seq, 1), FIN | ACK, OUR_WINDOW, 0)
    return Outgoing(headers, [], 0, 0)


def keys_of(flow: Established) -> RsockKeys:
    """The keys of the flow's session, which are this wire's own."""
    keys = flow.session.keys
    if not isinstance(keys, RsockKeys):
        raise TypeError("keys of another wire")
    return keys


def begin(pump: Pump, flow: Established, *, unheard: bool) -> None:
    """``flow`` carries traffic from now on; ``unheard``: its first frame is still to tell what kind of peer it is of."""
    if not keys_of(flow).believed and not flow.key.udp:
        pump.ignore_window(flow.pump)
    elif isinstance(flow.pump.codec, RsockCodec):
        flow.pump.codec.unheard = unheard


def judge(pump: Pump, flow: Established, *, pushes: bool) -> None:
    """The first frame on a flow is here: no ACK of a peer that does not set PSH means anything."""
    if not pushes:
        keys_of(flow).believed = False
        for other in flow.session.flows.values():
            if not other.key.udp:
                pump.ignore_window(other.pump)


def take_again(
    context: Context, pump: Pump, intake: Intake, flow: Established, segment: Segment, received: Packet | Carried
) -> bool:
    """Whether a payload that the pump could not take is one of this very flow after all; then the pump takes it now.

    It is the first one, or it lies beyond our window.  It names client and flow: 96 bits that nobody knows who cannot
    read the traffic.
    """
    codec = flow.pump.codec
    if not isinstance(codec, RsockCodec) or not codec.open(segment.payload, received.segment_size)[0]:
        return False
    if codec.unheard:
        codec.unheard = False
        if not flow.key.udp:
            judge(pump, flow, pushes=bool(segment.flags & PSH))
    if not flow.key.udp and not flow.pump.in_window(segment.seq):
        if not not_behind(segment.seq, flow.pump.received):
            return False
        context.counters["frames behind a hole"] += 1
        flow.pump.received = segment.seq
    return intake.again(received)

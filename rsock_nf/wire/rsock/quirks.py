"""What both roles of wire ``rsock`` tolerate of an original, and what they believe of a peer.

An original rsock forges segments beside a live kernel socket.  This has consequences:

* its ACKs do not tell what it received, and its first sequence number may be one too far.  Ours are right.  We require
  right ones only of a peer of our own kind.  Such a peer sets PSH; an original never does (``judge``);
* its kernel knows only the sequence numbers of the TCP handshake, so its RST and FIN have those (``is_end``);
* it has no credit, so it goes on sending after a loss, beyond our window (``take_again``);
* 1.x takes all connections between two addresses for one, so its segments have the numbers of another connection
  (``numbers_are_foreign``).

Not here: what a peer of our own kind does.
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
    """See ``Wire``.  This wire has no message for the end of a session, and none for the state of a target.

    An original's server makes a flow only of a datagram.  So a client sends no message on a flow that has carried
    nothing.
    """
    if isinstance(message, messages.CloseSession | messages.TargetState):
        return False
    return not initiator or bool(flow.sent_frames or flow.received_frames)


def is_end(flow: Established, seq: int) -> bool:
    """See ``Wire``.  An RST or FIN with the number right behind the SYN counts too.

    That is where the kernel beside an original is.
    """
    return seq in (flow.pump.received, add(flow.peer_isn, 1))


def answer_fin(flow: Established, segment: Segment, *, initiator: bool) -> Outgoing | None:
    """See ``Wire``.  An original's kernel closes its connection.

    Without the answer that it expects, it would repeat its FIN for minutes.
    """
    if segment.payload or segment.seq != add(flow.peer_isn, 1) or flow.state is not State.ESTABLISHED:
        return None
    # A server's kernel has received all that we sent.  A client's kernel has received nothing: our ACKs are beyond
    # everything that it sent.
    seq = flow.pump.next_seq if initiator else flow.first_seq
    headers = HeaderTemplate(flow.key).build(seq, add(segment.seq, 1), FIN | ACK, OUR_WINDOW, 0)
    return Outgoing(headers, [], 0, 0)


def keys_of(flow: Established) -> RsockKeys:
    """The keys of the flow's session, as keys of this wire."""
    keys = flow.session.keys
    if not isinstance(keys, RsockKeys):
        raise TypeError("keys of another wire")
    return keys


def begin(pump: Pump, flow: Established, *, unheard: bool) -> None:
    """``flow`` carries traffic from now on.

    ``unheard``: its first frame has not come yet, and will show of which kind the peer is.
    """
    if not keys_of(flow).believed and not flow.key.udp:
        pump.ignore_window(flow.pump)
    elif isinstance(flow.pump.codec, RsockCodec):
        flow.pump.codec.unheard = unheard


def judge(pump: Pump, flow: Established, *, pushes: bool) -> None:
    """The first frame on a flow has come.  If the peer does not set PSH, none of its ACKs is believed."""
    if not pushes:
        keys_of(flow).believed = False
        for other in flow.session.flows.values():
            if not other.key.udp:
                pump.ignore_window(other.pump)


def numbers_are_foreign(version: int) -> bool:
    """Whether the sequence numbers of a peer that speaks ``version`` say nothing about the connection.

    The original's releases 1.0 to 1.9 compare addresses and ports so that all connections of two hosts are equal.
    A frame names its client and its flow, so its numbers are not needed.
    """
    return version == 1


def hear(flow: Established, segment: Segment) -> None:
    """The flow is heard once a frame of its own has come."""
    codec = flow.pump.codec
    if isinstance(codec, RsockCodec) and codec.unheard and segment.payload and codec.open(segment.payload, 0)[0]:
        codec.unheard = False


def take_again(
    context: Context, pump: Pump, intake: Intake, flow: Established, segment: Segment, received: Packet | Carried
) -> bool:
    """Take a payload that the pump could not, if it is of this very flow.  Returns whether it is.

    It is the first one of the flow, or it lies beyond our window (version 1: anywhere).  It names client and flow:
    96 bits, which only somebody who can read the traffic knows.
    """
    codec = flow.pump.codec
    if not isinstance(codec, RsockCodec) or not codec.open(segment.payload, received.segment_size)[0]:
        return False
    if codec.unheard:
        codec.unheard = False
        if not flow.key.udp:
            judge(pump, flow, pushes=bool(segment.flags & PSH))
    if not flow.key.udp and not flow.pump.in_window(segment.seq):
        if not numbers_are_foreign(keys_of(flow).layout.version) and not not_behind(segment.seq, flow.pump.received):
            return False
        context.counters["frames behind a hole"] += 1
        flow.pump.received = segment.seq
    return intake.again(received)

"""What the pump knows about flows and conversations: plain state.

The pump and its verbs write it, its owner reads it.  The fast path reads these attributes for every burst, so they
are slots and simple values.

Not here: states, timers and health of a flow (``core.flows``).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, Protocol

from rsock_nf.core.protocols import FlowCodec, Kind
from rsock_nf.core.pump.replay import Replay, ReplayWindow
from rsock_nf.core.tcp.segment import HeaderTemplate
from rsock_nf.core.types import Buffer, FlowKey

_MASK = 0xFFFFFFFF
_HALF = 0x80000000
ENDLESS = 1 << 62
"""The send window of a flow whose credit never ends.  Bytes in flight are always fewer than 2**32."""

OUR_WINDOW = 65535
"""The window field of every segment that we send."""
OUR_SCALE = 7
"""The scale that we offer, as Linux does: 65,535 << 7 is 8 MiB."""


class Handover(NamedTuple):
    """The numbers of a flow when its opening is over.  Of a UDP flow only ``max_payload`` has a meaning."""

    next_seq: int
    """Sequence number of the next byte that we send."""
    received: int
    """The highest received sequence number + length."""
    scale: int | None
    """The window scale of both sides; None = neither scales."""
    window: int
    """The window that the peer last advertised, in bytes, scaled."""
    max_payload: int
    """Largest TCP payload of one segment."""
    identification: int
    """The identification of the next IPv4 header."""


class Headers(Protocol):
    """What the pump asks of the headers of a flow: see ``HeaderTemplate.build``."""

    def build(self, seq: int, ack: int, flags: int, window: int, payload_size: int, segments: int = 1) -> bytes:
        """The headers of one burst."""


class PumpFlow:
    """What the pump knows about one established flow.  The pump and ``Pump``'s verbs write it; the owner reads it."""

    __slots__ = (
        "bad_checksums",
        "bad_frames",
        "bulk_window",
        "burst_bytes",
        "codec",
        "control_counter",
        "control_replay",
        "counter",
        "flow_id",
        "group",
        "highest_ack",
        "key",
        "max_payload",
        "next_seq",
        "out_of_window",
        "receive_window",
        "received",
        "received_bytes",
        "received_frames",
        "replay",
        "replayed",
        "scale",
        "sent",
        "sent_bytes",
        "sent_frames",
        "stalled",
        "template",
        "unacknowledged",
        "window",
        "windowed",
    )

    def __init__(self, group: FlowGroup, flow_id: int, key: FlowKey, codec: FlowCodec, start: Handover) -> None:
        self.group = group
        self.flow_id = flow_id
        self.key = key
        self.codec = codec
        self.template: Headers | None = None if key.udp else HeaderTemplate(key, start.identification)
        self.max_payload = start.max_payload
        """Largest payload of one segment."""
        self.burst_bytes = 0
        """Largest payload of one burst.  0 = single segments only."""
        self.counter = 0
        self.control_counter = 0
        self.replay: Replay = ReplayWindow()
        self.control_replay = ReplayWindow()
        # Sending.  The peer scales its window if and only if we scale ours (RFC 7323 section 2.2).
        self.next_seq = start.next_seq
        self.highest_ack = start.next_seq
        self.scale = start.scale or 0
        self.window = start.window
        """The window that the peer last advertised, in bytes, scaled."""
        self.bulk_window = ENDLESS if key.udp else start.window * 3 // 4
        self.stalled = False
        """Bulk was to leave on this flow, and it had no credit."""
        self.windowed = not key.udp
        """The peer's ACKs and windows limit what we send.  False = credit never ends (UDP carriers,
        ``ignore_window``)."""
        # Receiving.
        self.received = start.received
        """The highest received sequence number + length, modulo 2**32: what we acknowledge."""
        self.receive_window = OUR_WINDOW << self.scale
        self.unacknowledged = 0
        """Payload bytes received since a segment of ours last carried an ACK."""
        self.sent = self.sent_frames = self.sent_bytes = 0
        self.received_frames = self.received_bytes = 0
        self.bad_checksums = self.bad_frames = self.replayed = self.out_of_window = 0

    @property
    def in_flight(self) -> int:
        """Bytes sent and not yet acknowledged."""
        return (self.next_seq - self.highest_ack) & _MASK

    @property
    def window_will_open(self) -> bool:
        """The peer has told its window only in a SYN-ACK, where it is never scaled (RFC 7323 section 2.2)."""
        return self.windowed and self.scale > 0 and self.window <= OUR_WINDOW

    @property
    def acknowledge_at(self) -> int:
        """Received bytes after which an ACK is sent at once: window/16."""
        return self.receive_window >> 4

    def in_window(self, seq: int) -> bool:
        """Whether a segment that begins at ``seq`` is at most one window away from the highest received number."""
        return (seq - self.received + self.receive_window) & _MASK < 2 * self.receive_window

    def acked(self, ack: int, window: int) -> None:
        """Take an ACK.  It counts only up to the highest number that we sent, and changes only the credit."""
        ahead = (ack - self.highest_ack) & _MASK
        if ahead <= (self.next_seq - self.highest_ack) & _MASK:
            self.highest_ack = ack
            self.window = window << self.scale
            if self.windowed:
                self.bulk_window = self.window * 3 // 4
            if ahead:
                self.stalled = False


class Traffic:
    """Datagrams of the application and their bytes, in both directions, without any header of ours."""

    __slots__ = ("received_bytes", "received_datagrams", "sent_bytes", "sent_datagrams")

    def __init__(self) -> None:
        self.sent_datagrams = self.sent_bytes = 0
        self.received_datagrams = self.received_bytes = 0

    def add(self, other: Traffic | PumpConversation) -> None:
        """Count what ``other`` has counted, too."""
        self.sent_datagrams += other.sent_datagrams
        self.sent_bytes += other.sent_bytes
        self.received_datagrams += other.received_datagrams
        self.received_bytes += other.received_bytes


class FlowGroup:
    """The flows of one session, and its conversations by number."""

    __slots__ = (
        "_carriers",
        "_resting",
        "conversations",
        "ended",
        "fit",
        "largest_oversized",
        "no_credit",
        "oversized",
        "owner",
        "patient",
        "usable",
    )

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.fit: list[PumpFlow] = []
        """Flows that may carry bulk if their kind does.  Only ``use`` and ``rest`` change it."""
        self.usable: list[PumpFlow] = []
        """Flows that may carry bulk: those of ``fit`` whose kind does not rest."""
        self._resting: bool | None = None
        self._carriers = 0
        self.conversations: dict[int, PumpConversation] = {}
        self.ended = Traffic()
        """Of the conversations that have ended."""
        self.no_credit = 0
        """Datagrams dropped because no usable flow had credit."""
        self.oversized = 0
        """Datagrams of ours that did not fit one frame: they were cut, or dropped if the wire has no fragments."""
        self.largest_oversized = 0
        """Bytes of the largest of them."""
        self.patient = False
        """Datagrams without credit are handed back instead of dropped, because the windows will open soon."""

    def traffic(self) -> Traffic:
        """Of all conversations, those that have ended too: it only grows."""
        total = Traffic()
        total.add(self.ended)
        for conversation in self.conversations.values():
            total.add(conversation)
        return total

    def use(self, flow: PumpFlow) -> None:
        """From now on ``flow`` may carry bulk, if its kind does.  Does nothing if it may already."""
        if flow not in self.fit:
            self.fit.append(flow)
            self._choose()

    def rest(self, flow: PumpFlow) -> None:
        """``flow`` carries no bulk until ``use`` is called again.  Does nothing if it carries none."""
        if flow in self.fit:
            self.fit.remove(flow)
            self._choose()

    def let_rest(self, udp: bool | None, carriers: int = 0) -> None:  # noqa: FBT001 - a kind
        """Flows of the kind ``udp`` carry no bulk, but for the first ``carriers`` of them.  None = both kinds carry.

        If no flow of the other kind is fit, all flows carry.
        """
        self._resting, self._carriers = udp, carriers
        self._choose()

    def _choose(self) -> None:
        others = [flow for flow in self.fit if flow.key.udp is not self._resting]
        if not others:
            self.usable = list(self.fit)
            return
        tried = [flow for flow in self.fit if flow.key.udp is self._resting]
        self.usable = others + tried[: self._carriers]


class PumpConversation:
    """One conversation: its peer at our end, and its number on the wire."""

    __slots__ = (
        "group",
        "kind",
        "number",
        "peer",
        "pinned",
        "prefix",
        "received_bytes",
        "received_datagrams",
        "sent_bytes",
        "sent_datagrams",
        "target",
    )

    def __init__(self, group: FlowGroup, number: int, peer: Hashable, *, target: int, opening: bool) -> None:
        self.group = group
        self.number = number
        self.peer = peer
        self.target = target
        self.kind = int(Kind.OPENING if opening else Kind.DATA)
        self.prefix = target.to_bytes(2, "big") if opening else b""
        self.pinned: PumpFlow | None = None
        self.sent_datagrams = self.sent_bytes = 0
        self.received_datagrams = self.received_bytes = 0
        """Datagrams of the application and their bytes, in both directions, without any header of ours."""

    def count_sent(self, datagrams: list[Buffer], count: int, size: int) -> None:
        """Count the first ``count`` of ``datagrams`` as sent.  ``size``: see ``Run``."""
        if count:
            self.sent_datagrams += count
            self.sent_bytes += size * (count - 1) + len(datagrams[count - 1])

    def reopen(self) -> None:
        """A new session: the peer does not know the conversation.  Send opening frames until it does."""
        self.kind = int(Kind.OPENING)
        self.prefix = self.target.to_bytes(2, "big")

    def opened(self) -> None:
        """The peer knows the conversation: send plain data frames from now on."""
        self.kind = int(Kind.DATA)
        self.prefix = b""


class States(Protocol):
    """Makes the state of a pump, and is told what the pump has.

    There are two: ``PlainStates``, and one that shares the numbers with a native pump (``rsock_nf.native``).
    """

    def flow(self, group: FlowGroup, flow_id: int, key: FlowKey, codec: FlowCodec, start: Handover) -> PumpFlow:
        """A flow that is about to be established."""

    def group(self, owner: object) -> FlowGroup:
        """The flows of a new session."""

    def conversation(
        self, group: FlowGroup, number: int, peer: Hashable, *, target: int, opening: bool
    ) -> PumpConversation:
        """A new conversation."""

    def has_flow(self, flow: PumpFlow) -> None:
        """From now on the pump takes the segments of ``flow``."""

    def lost_flow(self, flow: PumpFlow) -> None:
        """No longer."""

    def has_conversation(self, conversation: PumpConversation) -> None:
        """From now on the pump takes the datagrams of ``conversation``."""

    def lost_conversation(self, conversation: PumpConversation) -> None:
        """No longer."""


class PlainStates:
    """Plain Python objects, which nobody shares.  See ``States``."""

    def flow(self, group: FlowGroup, flow_id: int, key: FlowKey, codec: FlowCodec, start: Handover) -> PumpFlow:
        """See ``States``."""
        return PumpFlow(group, flow_id, key, codec, start)

    def group(self, owner: object) -> FlowGroup:
        """See ``States``."""
        return FlowGroup(owner)

    def conversation(
        self, group: FlowGroup, number: int, peer: Hashable, *, target: int, opening: bool
    ) -> PumpConversation:
        """See ``States``."""
        return PumpConversation(group, number, peer, target=target, opening=opening)

    def has_flow(self, flow: PumpFlow) -> None:
        """See ``States``."""

    def lost_flow(self, flow: PumpFlow) -> None:
        """See ``States``."""

    def has_conversation(self, conversation: PumpConversation) -> None:
        """See ``States``."""

    def lost_conversation(self, conversation: PumpConversation) -> None:
        """See ``States``."""


PLAIN = PlainStates()
"""It has no state of its own."""

"""The pump: datagrams to bursts and back, for established flows.  It is the fast path, and nothing else.

The way out, ``from_app``: run of datagrams → conversation (by peer) → a usable flow with credit → frames of equal
size → one burst.  Frames of several conversations may share it.  The way in, ``from_link``: packet → flow (by addresses
and ports) → acknowledgement → frames → conversation → run of datagrams.

Only the pump changes the next sequence number, the highest received one, send credit, counters and replay windows
of established flows.  *Every* segment of such a flow leaves through it, control frames and pure ACKs too.

It has no policy.  Its owner decides who opens a flow, which flows are usable, when to probe, and what an unknown
packet means.  The owner changes the pump by its verbs (``put_flow``, ``drop_flow``, ``put_conversation``,
``drop_conversation``, ``send_control``), and gets back as *slow* everything that the pump cannot decide.

It has no clock: its owner compares the counters from time to time.

A flow over a UDP carrier (``key.udp``) has no sequence numbers, no window and no ACKs.  Its credit never ends, its
bursts have no headers, and what it received comes in by ``from_carriers``.  Everything else is the same.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from rsock_nf.core.parameters import Spread
from rsock_nf.core.protocols import Frames, Kind
from rsock_nf.core.pump.state import ENDLESS, OUR_WINDOW, PLAIN, PumpConversation, PumpFlow, States
from rsock_nf.core.tcp.header import IPV4_PLAIN
from rsock_nf.core.tcp.segment import ACK, FIN, PSH, RST, SYN, Segment, parse_segment
from rsock_nf.core.types import Buffer, Carried, Checksum, FlowKey, Malformed, Outgoing, Packet, Run

_MASK = 0xFFFFFFFF
_HALF = 0x80000000
_PSH_ACK = PSH | ACK
_SPECIAL = SYN | FIN | RST

ANY_NUMBER = 1 << 30
"""No limit on strangers."""
_HEADERS = 60
"""The headers of a burst take at most this much: IPv6 + TCP."""
UDP_BURST_BYTES = 65_487
"""UDP payload of one send.  With it the IPv6 packet has at most 65,535 bytes."""

# IPv4 without options + TCP: total length, identification, fragment, ttl, protocol, seq, ack, offset, flags, window.
_V4 = struct.Struct("!2xH2xHxB14xIIBBH")
# IPv6 + TCP: payload length, next header, then the same.
_V6 = struct.Struct("!4xHB37xIIBBH")
_TCP = 6


class SlowFrames(NamedTuple):
    """Authenticated frames that are not plain data of a known conversation."""

    flow: PumpFlow
    frames: Frames
    received: int
    """Frames taken on the flow, up to and including these.  Later frames of the same batch are not counted."""


class SlowPayload(NamedTuple):
    """A payload on a known flow in which nothing authenticated."""

    flow: PumpFlow
    packet: Packet | Carried


Slow: TypeAlias = Packet | Carried | SlowFrames | SlowPayload
"""What the pump cannot decide: a whole packet or datagram (unknown flow, SYN, FIN, RST, anything unusual), or
frames and payloads of a known flow."""


class _Building:
    """A burst that is being built: frames of one kind and size, the last may be shorter; not yet sent."""

    __slots__ = ("closed", "count", "flow", "frame", "kind", "limit", "payload")

    def __init__(self, flow: PumpFlow, kind: int, frame: int, limit: int) -> None:
        self.flow = flow
        self.kind = kind
        self.frame = frame
        self.limit = limit
        """Frames that it may have."""
        self.count = 0
        self.payload: list[Buffer] = []
        self.closed = False
        """Its last frame is shorter: nothing can follow."""

    def room(self) -> int:
        """How many frames may follow."""
        flow = self.flow
        credit = flow.bulk_window - flow.in_flight - self.frame * self.count
        return 0 if self.closed else min(self.limit - self.count, credit // self.frame)


class Pump:
    """See the module.  ``seed`` is for the random choice of flows; ``max_burst_bytes`` is the link's.

    ``states`` makes the state of flows and conversations.
    """

    def __init__(
        self, *, seed: int, max_burst_bytes: int, spread: Spread = Spread.BURST, states: States = PLAIN
    ) -> None:
        self.states = states
        self._flows: dict[bytes, PumpFlow] = {}
        self._carriers: dict[FlowKey, PumpFlow] = {}
        """Flows over UDP carriers."""
        self._conversations: dict[Hashable, PumpConversation] = {}
        self._random = seed | 1
        self._max_burst_bytes = max_burst_bytes
        self._per_datagram = spread is Spread.PACKET
        self._pin = spread is Spread.CONVERSATION
        self._building: _Building | None = None
        self._unacknowledged: dict[PumpFlow, None] = {}
        self.stalled: dict[PumpFlow, None] = {}
        """Flows that had no credit when bulk was to leave, since the owner last emptied this."""
        self.strangers_dropped = 0
        """Packets and datagrams of no established flow that were more than ``strangers`` of a read."""

    # -- verbs of the owner

    def put_flow(self, flow: PumpFlow) -> None:
        """From now on the pump takes the segments of ``flow``.  It carries bulk once it is in ``group.usable``."""
        if flow.key.udp:
            self._carriers[flow.key] = flow
        else:
            self._flows[wire_key(flow.key)] = flow
        self.set_max_payload(flow, flow.max_payload)
        self.states.has_flow(flow)

    def drop_flow(self, flow: PumpFlow) -> None:
        """Forget ``flow``.  Does nothing if the pump does not have it."""
        self.states.lost_flow(flow)
        if self._carriers.get(flow.key) is flow:
            del self._carriers[flow.key]
        elif self._flows.get(wire_key(flow.key)) is flow:
            del self._flows[wire_key(flow.key)]
        self._unacknowledged.pop(flow, None)
        self.stalled.pop(flow, None)
        flow.group.rest(flow)

    def move_flow(self, flow: PumpFlow, key: FlowKey) -> None:
        """``flow``, over a UDP carrier, has these addresses and ports from now on, which no other flow has."""
        self.states.lost_flow(flow)
        del self._carriers[flow.key]
        flow.key = key
        self._carriers[key] = flow
        self.states.has_flow(flow)

    def knows(self, packet: Packet) -> bool:
        """Whether ``packet`` has the addresses and ports of an established flow."""
        data = packet.data
        if data and data[0] == IPV4_PLAIN:
            return bytes(data[12:24]) in self._flows
        return bytes(data[8:44]) in self._flows

    def knows_carrier(self, key: FlowKey) -> bool:
        """Whether there is an established flow with this key over UDP."""
        return key in self._carriers

    def set_max_payload(self, flow: PumpFlow, max_payload: int) -> None:
        """Payloads of up to ``max_payload`` bytes pass on the path of ``flow``."""
        flow.max_payload = max_payload
        if flow.key.udp:
            flow.burst_bytes = UDP_BURST_BYTES
        else:
            flow.burst_bytes = max(self._max_burst_bytes - _HEADERS, max_payload) if self._max_burst_bytes else 0

    def ignore_window(self, flow: PumpFlow) -> None:
        """The peer's ACKs do not tell what it received: from now on they do not limit what we send on ``flow``."""
        flow.windowed = False
        flow.stalled = False
        flow.bulk_window = ENDLESS
        self.stalled.pop(flow, None)

    def set_max_burst_bytes(self, max_burst_bytes: int) -> None:
        """The link now takes bursts of at most this size (0 = single segments)."""
        self._max_burst_bytes = max_burst_bytes
        for flow in self._flows.values():
            self.set_max_payload(flow, flow.max_payload)

    def put_conversation(self, conversation: PumpConversation) -> None:
        """From now on the pump takes datagrams of this conversation's peer, and frames with its number."""
        self._conversations[conversation.peer] = conversation
        conversation.group.conversations[conversation.number] = conversation
        self.states.has_conversation(conversation)

    def drop_conversation(self, conversation: PumpConversation) -> None:
        """Forget ``conversation``.  Does nothing if the pump does not have it."""
        self.states.lost_conversation(conversation)
        if self._conversations.get(conversation.peer) is conversation:
            del self._conversations[conversation.peer]
        if conversation.group.conversations.get(conversation.number) is conversation:
            del conversation.group.conversations[conversation.number]

    def conversation(self, peer: Hashable) -> PumpConversation | None:
        """The conversation of ``peer``; None = it has none."""
        return self._conversations.get(peer)

    def flows(self) -> Iterable[PumpFlow]:
        """Every established flow."""
        return (*self._flows.values(), *self._carriers.values())

    # -- out: the application's datagrams

    def from_app(self, runs: Iterable[Run]) -> tuple[list[Outgoing], list[Run]]:
        """Make bursts of ``runs``: (bursts to send, runs that could not leave).

        A run cannot leave if its peer is unknown, if no flow is usable, if it is too large, or if it must wait for
        credit.
        """
        bursts: list[Outgoing] = []
        slow: list[Run] = []
        conversations = self._conversations
        for run in runs:
            conversation = conversations.get(run.peer)
            if conversation is None:
                slow.append(run)
                continue
            done = self._add(conversation, conversation.kind, conversation.prefix, run.datagrams, run.size, bursts)
            if done < len(run.datagrams):
                slow.append(Run(run.peer, run.datagrams[done:], run.size))
        self._close(bursts)
        return bursts, slow

    def send(
        self,
        conversation: PumpConversation,
        kind: int,
        prefix: bytes,
        datagrams: list[Buffer],
        size: int,
        bursts: list[Outgoing],
    ) -> int:
        """Append bursts for ``datagrams`` (see ``Run``).

        Returns how many datagrams are done: sent, or dropped because no flow has credit.
        """
        done = self._add(conversation, kind, prefix, datagrams, size, bursts)
        self._close(bursts)
        return done

    def _add(
        self,
        conversation: PumpConversation,
        kind: int,
        prefix: bytes,
        datagrams: list[Buffer],
        size: int,
        bursts: list[Outgoing],
    ) -> int:
        """As ``send``, but what follows may join the last burst: that one is not in ``bursts`` yet."""
        group = conversation.group
        usable = group.usable
        if not usable:
            return 0
        frame = size + len(prefix) + usable[0].codec.overhead
        start, n = 0, len(datagrams)
        while start < n:
            building = self._building
            room = self._room_in(building, conversation, kind, frame) if building is not None else 0
            if building is None or not room:
                self._close(bursts)
                flow = self._pick(conversation, frame)
                if flow is None:
                    conversation.count_sent(datagrams, start, size)
                    if group.patient:
                        return start
                    group.no_credit += n - start
                    return n
                if frame > flow.max_payload:
                    conversation.count_sent(datagrams, start, size)
                    return start
                limit = 1 if self._per_datagram else flow.burst_bytes // frame or 1
                building = self._building = _Building(flow, kind, frame, limit)
                room = building.room()
            flow = building.flow
            count = min(room, n - start)
            batch = datagrams if count == n else datagrams[start : start + count]
            building.payload += flow.codec.pack(kind, conversation.number, flow.counter, prefix, batch)
            building.count += count
            building.closed = len(batch[-1]) < size
            flow.counter += count
            flow.sent_frames += count
            start += count
        conversation.count_sent(datagrams, n, size)
        return n

    def _room_in(self, building: _Building, conversation: PumpConversation, kind: int, frame: int) -> int:
        """How many frames of ``conversation`` may follow; 0 = they are not of its kind, size, group or flow."""
        flow = building.flow
        alike = building.frame == frame and building.kind == kind and flow.group is conversation.group
        if not alike or (self._pin and conversation.pinned is not flow):
            return 0
        return building.room()

    def _close(self, bursts: list[Outgoing]) -> None:
        """The burst that is being built leaves."""
        building, self._building = self._building, None
        if building is not None:
            segment_size = building.frame if building.count > 1 else 0
            bursts.append(self._segment(building.flow, building.payload, segment_size, _PSH_ACK, bulk=True))

    def _pick(self, conversation: PumpConversation, frame: int) -> PumpFlow | None:
        """A usable flow with credit for a frame of ``frame`` bytes, chosen at random.  None = no flow has credit."""
        usable = conversation.group.usable
        if self._pin:
            pinned = conversation.pinned
            if pinned is None or pinned not in usable:
                pinned = conversation.pinned = usable[self._next_random() % len(usable)]
            if pinned.bulk_window - pinned.in_flight >= frame:
                return pinned
            self._stall(pinned)
            return None
        first = self._next_random() % len(usable)
        for at in range(first, first + len(usable)):
            flow = usable[at % len(usable)]
            if flow.bulk_window - ((flow.next_seq - flow.highest_ack) & _MASK) >= frame:
                return flow
            self._stall(flow)
        return None

    def _stall(self, flow: PumpFlow) -> None:
        flow.stalled = True
        self.stalled[flow] = None

    def _next_random(self) -> int:
        """A random number to spread load, not to keep secrets: a linear congruential generator (Knuth's MMIX)."""
        self._random = (self._random * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return self._random >> 33

    # -- out: everything else that leaves on an established flow

    def send_control(self, flow: PumpFlow, message: object, *, fin: bool = False) -> Outgoing:
        """One control frame on ``flow``, whether it is usable or not.

        ``message``: one of ``core.messages``, or one of the wire's own.  With ``fin`` (not on UDP) it is the last
        segment that the flow sends.
        """
        payload = flow.codec.pack_control(flow.control_counter, message)
        flow.control_counter += 1
        flow.sent_frames += 1
        burst = self._segment(flow, [payload], 0, FIN | _PSH_ACK if fin else _PSH_ACK)
        if fin:
            flow.next_seq = (flow.next_seq + 1) & _MASK
        return burst

    def acknowledge(self, flow: PumpFlow) -> Outgoing:
        """A pure ACK."""
        return self._segment(flow, [], 0, ACK)

    def _segment(
        self, flow: PumpFlow, payload: Sequence[Buffer], segment_size: int, flags: int, *, bulk: bool = False
    ) -> Outgoing:
        size = sum(map(len, payload))
        if flow.template is None:
            flow.sent += 1
            flow.sent_bytes += size
            return Outgoing(b"", payload, size, segment_size, carrier=flow.key, bulk=bulk)
        seq = flow.next_seq
        flow.next_seq = (seq + size) & _MASK
        flow.unacknowledged = 0
        flow.sent += 1
        flow.sent_bytes += size
        segments = -(-size // segment_size) if segment_size else 1
        headers = flow.template.build(seq, flow.received, flags, OUR_WINDOW, size, segments)
        return Outgoing(headers, payload, size, segment_size, bulk=bulk)

    # -- in: packets

    def from_link(self, packets: Iterable[Packet], strangers: int = ANY_NUMBER) -> tuple[list[Run], list[Slow]]:
        """Take packets: (datagrams to deliver, what the pump cannot decide).  Their buffers point into ``packets``.

        ``strangers``: at most so many of those that belong to no established flow; the others are dropped and counted.
        """
        runs: list[Run] = []
        slow: list[Slow] = []
        for packet in packets:
            data = packet.data
            first = data[0] if len(data) >= 40 else 0
            if first == 0x45:
                flow = self._flows.get(bytes(data[12:24]))
                total, fragment, protocol, seq, ack, offset, flags, window = _V4.unpack_from(data)
                start = 20 + (offset >> 4) * 4
                odd = protocol != _TCP or fragment & 0x3FFF
            elif first >> 4 == 6 and len(data) >= 60:
                flow = self._flows.get(bytes(data[8:44]))
                total, protocol, seq, ack, offset, flags, window = _V6.unpack_from(data)
                total += 40
                start = 40 + (offset >> 4) * 4
                odd = protocol != _TCP
            else:
                slow.append(packet)
                continue
            if flow is None:
                strangers -= 1
                if strangers < 0:
                    self.strangers_dropped += 1
                else:
                    slow.append(packet)
                continue
            if odd or flags & _SPECIAL or not flags & ACK or not start <= total <= len(data):
                slow.append(packet)
                continue
            if packet.checksum == Checksum.VERIFY and not _valid(packet):
                flow.bad_checksums += 1
                continue
            if not flow.in_window(seq):
                flow.out_of_window += 1
                if total > start:
                    slow.append(SlowPayload(flow, packet))  # perhaps a NAT has given its ports to another client
                continue
            if total == start or self._payload(flow, packet, data[start:total], seq, runs, slow):
                flow.acked(ack, window)
        return runs, slow

    def _payload(
        self, flow: PumpFlow, packet: Packet, payload: memoryview, seq: int, runs: list[Run], slow: list[Slow]
    ) -> int:
        """Take the frames of one received packet.

        Returns the offset behind the last frame that was taken: it authenticated, and the replay window accepted it.
        Only such a frame moves the highest received number.  0 = there was none: nothing of the packet counts.
        """
        opened, bad = flow.codec.unpack(payload, packet.segment_size)
        flow.bad_frames += bad
        if not opened:
            slow.append(SlowPayload(flow, packet))
            return 0
        taken = 0
        for frames in opened:
            taken = self._deliver(flow, frames, runs, slow) or taken
        if taken:
            end = (seq + taken) & _MASK
            if (end - flow.received) & _MASK < _HALF:
                flow.received = end
            flow.received_bytes += taken
            flow.unacknowledged += taken
            self._unacknowledged[flow] = None
        return taken

    def from_carriers(self, received: Iterable[Carried], strangers: int = ANY_NUMBER) -> tuple[list[Run], list[Slow]]:
        """The same as ``from_link``, for what UDP carriers received.

        Only an authenticated frame means anything here.  An item without one is returned whole, as slow.
        """
        runs: list[Run] = []
        slow: list[Slow] = []
        for item in received:
            flow = self._carriers.get(item.key)
            if flow is None:
                strangers -= 1
                if strangers < 0:
                    self.strangers_dropped += 1
                else:
                    slow.append(item)
                continue
            opened, bad = flow.codec.unpack(item.data, item.segment_size)
            flow.bad_frames += bad
            if not opened:
                slow.append(SlowPayload(flow, item))
                continue
            self._take_carried(flow, opened, runs, slow)
        return runs, slow

    def take_elsewhere(self, flow: PumpFlow, opened: Iterable[Frames]) -> tuple[list[Run], list[Slow]]:
        """Take authenticated frames of ``flow``, on a UDP carrier, that came from another address than its own."""
        runs: list[Run] = []
        slow: list[Slow] = []
        self._take_carried(flow, opened, runs, slow)
        return runs, slow

    def _take_carried(self, flow: PumpFlow, opened: Iterable[Frames], runs: list[Run], slow: list[Slow]) -> None:
        taken = 0
        for frames in opened:
            taken = self._deliver(flow, frames, runs, slow) or taken
        flow.received_bytes += taken

    def _deliver(self, flow: PumpFlow, frames: Frames, runs: list[Run], slow: list[Slow]) -> int:
        """Pass authenticated frames through the replay window, to their conversation or to the slow path.

        Returns the offset behind the last frame that the window accepted; 0 = it accepted none.
        """
        if frames.counter >= 0:
            window = flow.control_replay if frames.kind == Kind.CONTROL else flow.replay
            count = len(frames.datagrams)
            fresh = window.accept_run(frames.counter, count)
            if fresh != (1 << count) - 1:
                flow.replayed += count - fresh.bit_count()
                if not fresh:
                    return 0
                frames = _only(fresh, frames, flow.codec.overhead)
        flow.received_frames += len(frames.datagrams)
        if frames.kind == Kind.DATA:
            conversation = flow.group.conversations.get(frames.conversation)
            if conversation is not None:
                datagrams = frames.datagrams
                conversation.received_datagrams += len(datagrams)
                conversation.received_bytes += frames.size * (len(datagrams) - 1) + len(datagrams[-1])
                if conversation.kind:
                    conversation.opened()
                runs.append(Run(conversation.peer, datagrams, frames.size))
                return frames.end
        slow.append(SlowFrames(flow, frames, flow.received_frames))
        return frames.end

    def receive_final(self, flow: PumpFlow, packet: Packet, segment: Segment) -> tuple[list[Run], list[Slow]]:
        """Take a segment of ``flow`` with FIN, which the owner has checked: its frames, as ``from_link`` does."""
        runs: list[Run] = []
        slow: list[Slow] = []
        if not flow.in_window(segment.seq):
            flow.out_of_window += 1
            return runs, slow
        if not segment.payload or self._payload(flow, packet, segment.payload, segment.seq, runs, slow):
            flow.acked(segment.ack, segment.window)
        return runs, slow

    def finish(self, flow: PumpFlow) -> Outgoing:
        """A FIN+ACK without payload: the answer to the peer's FIN."""
        burst = self._segment(flow, [], 0, FIN | ACK)
        flow.next_seq = (flow.next_seq + 1) & _MASK
        return burst

    def take_unacknowledged(self, *, all_of_them: bool) -> list[Outgoing]:
        """Pure ACKs for flows that have received at least window/16 since their last segment left.

        ``all_of_them``: for every flow that has received anything.
        """
        acks = []
        for flow in list(self._unacknowledged):
            if not flow.unacknowledged:
                del self._unacknowledged[flow]  # another segment has carried the ACK meanwhile
            elif all_of_them or flow.unacknowledged >= flow.acknowledge_at:
                acks.append(self.acknowledge(flow))
                del self._unacknowledged[flow]
        return acks

    @property
    def owes_acknowledgements(self) -> bool:
        """Some flow has received bytes that we have not acknowledged."""
        return bool(self._unacknowledged)


def _valid(packet: Packet) -> bool:
    """Whether the checksums of ``packet``, which nobody has verified yet, are right."""
    try:
        parse_segment(packet)
    except Malformed:
        return False
    return True


def _only(fresh: int, frames: Frames, overhead: int) -> Frames:
    """Those of ``frames`` whose bit in ``fresh`` is set; at least one is.  ``overhead``: bytes of a frame beside its
    datagram.
    """
    datagrams = frames.datagrams
    refused_behind = datagrams[fresh.bit_length() :]
    end = frames.end - sum(len(datagram) + overhead for datagram in refused_behind)
    return frames._replace(datagrams=[d for i, d in enumerate(datagrams) if fresh >> i & 1], end=end)


def wire_key(key: FlowKey) -> bytes:
    """The key of a flow as a received packet has it: source, destination, source port, destination port."""
    return key.remote + key.local + key.remote_port.to_bytes(2, "big") + key.local_port.to_bytes(2, "big")

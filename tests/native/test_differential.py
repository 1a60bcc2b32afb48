"""The native pump against the Python pump, which is its specification.

Both get the same packets, the same datagrams and the same changes of their tables, in any order.  What they send and
deliver, what they leave to the slow path, and every number of every flow has to be the same.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rsock_nf.core import messages
from rsock_nf.core.parameters import Cipher, Spread
from rsock_nf.core.protocols import FlowCodec, Kind
from rsock_nf.core.pump.pump import Pump, SlowFrames, SlowPayload
from rsock_nf.core.pump.state import OUR_WINDOW, PLAIN, FlowGroup, Handover, PumpConversation, PumpFlow, States
from rsock_nf.core.types import Buffer, Carried, Checksum, FlowKey, Outgoing, Packet, Run
from rsock_nf.native.states import SharedConversation, SharedFlow
from rsock_nf.wire.native.epochs import KeyRing
from rsock_nf.wire.native.frames import flow_codec
from tests.core.conntrack import ACK, FIN, PSH, RST, SYN
from tests.core.wire import checksummed
from tests.native.hot_end import Engine

ADDRESSES = {4: (b"\x0a\0\0\x01", b"\xc0\0\x02\x02"), 6: (bytes(15) + b"\1", bytes(15) + b"\2")}
FLOWS = 3
NUMBERS = (5, 6, 7)
"""The conversations; number 9 is never open."""
COUNTED = [
    "next_seq",
    "highest_ack",
    "received",
    "window",
    "scale",
    "receive_window",
    "bulk_window",
    "unacknowledged",
    "windowed",
    "stalled",
    "max_payload",
    "burst_bytes",
    "counter",
    "control_counter",
    "sent",
    "sent_frames",
    "sent_bytes",
    "received_frames",
    "received_bytes",
    "bad_checksums",
    "bad_frames",
    "replayed",
    "out_of_window",
]
SPOKEN = ("kind", "prefix", "sent_datagrams", "sent_bytes", "received_datagrams", "received_bytes")


@dataclass
class Side:
    """One of the two pumps, with flows and conversations of its own."""

    pump: Pump
    group: FlowGroup
    flows: list[PumpFlow]
    conversations: dict[int, PumpConversation]


def make_side(states: States, cipher: Cipher, keys: Sequence[FlowKey], *, spread: Spread, initiator: bool) -> Side:
    pump = Pump(seed=3, max_burst_bytes=64_000, spread=spread, states=states)
    group = states.group(None)
    flows = []
    for flow_id, key in enumerate(keys):
        codec = flow_codec(cipher, KeyRing(cipher, b"k" * 32), flow_id, initiator=initiator)
        start = Handover(0, 0, None, 0, 1460, 0) if key.udp else Handover(5000, 1000, 7, OUR_WINDOW << 7, 1460, 65_530)
        flow = states.flow(group, flow_id, key, codec, start)
        pump.put_flow(flow)
        group.use(flow)
        flows.append(flow)
    side = Side(pump, group, flows, {})
    for number in NUMBERS:
        open_conversation(side, number, opening=initiator)
    return side


def open_conversation(side: Side, number: int, *, opening: bool) -> None:
    made = side.pump.states.conversation(side.group, number, f"peer {number}", target=1, opening=opening)
    side.pump.put_conversation(made)
    side.conversations[number] = made


datagram = st.sampled_from([0, 1, 40, 300, 1200, 1400, 1436]).map(os.urandom)
frame = st.tuples(
    st.sampled_from([Kind.DATA, Kind.DATA, Kind.DATA, Kind.DATA, Kind.OPENING, Kind.FRAGMENT, Kind.CONTROL]),
    st.sampled_from([5, 5, 5, 6, 7, 9]),
    st.sampled_from([0, 20, 300, 300, 300, 1000]),
    st.integers(1, 6),
)
"""Kind, conversation, size of each datagram, and how many of them."""


said = st.tuples(
    st.sampled_from(NUMBERS),
    st.sampled_from([1, 100, 100, 1200, 1200, 1436, 1452, 1453]),
    st.one_of(st.integers(1, 3), st.integers(1, 90)),
    st.sampled_from([0, 0, 0, 1, 50, 100]),
)
"""Conversation, size of each datagram, how many, and by how much the last is shorter."""


class Differential(RuleBasedStateMachine):
    """See the module."""

    @initialize(
        cipher=st.sampled_from([Cipher.NONE, Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305]),
        family=st.sampled_from([4, 6]),
        udp=st.booleans(),
        spread=st.sampled_from(list(Spread)),
        initiator=st.booleans(),
    )
    def begin(self, *, cipher: Cipher, family: int, udp: bool, spread: Spread, initiator: bool) -> None:
        near, far = ADDRESSES[family]
        keys = [FlowKey(near, 40_000 + at, far, 10_001 + at, udp) for at in range(FLOWS)]
        self.udp, self.cipher = udp, cipher
        self.engine = Engine(spread)
        self.plain = make_side(PLAIN, cipher, keys, spread=spread, initiator=initiator)
        self.hot = make_side(self.engine.states, cipher, keys, spread=spread, initiator=initiator)
        self.peer: list[FlowCodec] = [
            flow_codec(cipher, KeyRing(cipher, b"k" * 32), flow_id, initiator=not initiator) for flow_id in range(FLOWS)
        ]
        self.counters = [0] * FLOWS
        self.control_counters = [0] * FLOWS
        self.seqs = [1000] * FLOWS
        self.seed = 77

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()

    # -- in

    def payload(self, at: int, frames: list[Any], back: int) -> tuple[bytes, int]:
        """The peer's frames, as one payload; the counters of data go ``back`` so many.

        Also: the size of each frame, if all but the last have one size, else 0."""
        codec = self.peer[at]
        built: list[bytes] = []
        for kind, number, size, count in frames:
            if kind is Kind.CONTROL:
                built.append(codec.pack_control(self.control_counters[at], messages.Probe(self.control_counters[at])))
                self.control_counters[at] += 1
                continue
            prefix = b"\0\1" if kind is Kind.OPENING else b""
            datagrams = [os.urandom(size) for _ in range(count)]
            first = max(self.counters[at] - back, 0)
            for index, one in enumerate(datagrams):
                built.append(b"".join(codec.pack(kind, number, first + index, prefix, [one])))
            self.counters[at] = max(self.counters[at], first + count)
        sizes = [len(one) for one in built]
        equal = sizes[0] if set(sizes[:-1]) <= {sizes[0]} and sizes[-1] <= sizes[0] else 0
        return b"".join(built), equal if len(built) > 1 else 0

    @rule(
        at=st.integers(0, FLOWS - 1),
        frames=st.lists(frame, min_size=1, max_size=4),
        back=st.sampled_from([0, 0, 0, 0, 1, 5, 9000]),
        ahead=st.sampled_from([0, 0, 0, 0, 0, 3, 9000]),
        merged=st.booleans(),
        lost=st.sampled_from([0, 0, 0, 1000, -1000, 20_000_000]),
        acked=st.sampled_from([0, 0, 1, -1, 5_000_000]),
        flags=st.sampled_from([PSH | ACK] * 9 + [FIN | ACK, SYN | ACK, RST | ACK, PSH]),
        checksum=st.sampled_from(list(Checksum)),
        spoil=st.sampled_from([None] * 8 + [0, 8, 30, -1]),
        options=st.sampled_from([b"", b"", b"", b"\1\1\1\1"]),
    )
    def arrives(
        self,
        at: int,
        frames: list[Any],
        back: int,
        ahead: int,
        merged: bool,  # noqa: FBT001 - a drawn value
        lost: int,
        acked: int,
        flags: int,
        checksum: Checksum,
        spoil: int | None,
        options: bytes,
    ) -> None:
        """A packet, or a message of a carrier: frames of any kind, perhaps seen before, spoiled, or out of place."""
        self.counters[at] += ahead
        payload, equal = self.payload(at, frames, back)
        if spoil is not None:
            changed = bytearray(payload)
            changed[spoil % len(changed)] ^= 0x40
            payload = bytes(changed)
        segment_size = equal if merged else 0
        flow = self.plain.flows[at]
        if self.udp:
            self.compare_in(Carried(flow.key, memoryview(payload), segment_size))
            return
        seq = self.seqs[at] + lost & 0xFFFFFFFF
        self.seqs[at] = self.seqs[at] + len(payload) & 0xFFFFFFFF
        key = flow.key
        ack = flow.next_seq + (acked if acked < 0 else -acked) & 0xFFFFFFFF
        packet = segment(key, seq, ack, flags, 60_000, payload, options)
        if checksum is Checksum.VERIFY and spoil == 8:  # not mended by whoever spoiled it
            broken = bytearray(packet)
            broken[-1] ^= 1
            packet = bytes(broken)
        self.compare_in(Packet(memoryview(packet), segment_size, checksum, bytes(18)))

    @rule(at=st.integers(0, FLOWS - 1), acked=st.sampled_from([0, 1, 500, 100_000, -1]), window=st.integers(0, 65_535))
    def acknowledged(self, at: int, acked: int, window: int) -> None:
        """A pure ACK."""
        flow = self.plain.flows[at]
        if not self.udp:
            key = flow.key
            ack = flow.next_seq - acked & 0xFFFFFFFF
            packet = segment(key, self.seqs[at], ack, ACK, window)
            self.compare_in(Packet(memoryview(packet), 0, Checksum.VERIFY, bytes(18)))

    def compare_in(self, item: Packet | Carried) -> None:
        if isinstance(item, Packet):
            runs, slow = self.plain.pump.from_link([item])
            mine = ([], []) if self.engine.packet(item) else self.hot.pump.from_link([item])
        else:
            runs, slow = self.plain.pump.from_carriers([item])
            mine = ([], []) if self.engine.carried(item) else self.hot.pump.from_carriers([item])
        assert by_peer(self.engine.delivered() + mine[0]) == by_peer(runs)
        assert [shape(one) for one in mine[1]] == [shape(one) for one in slow]
        # The native pump acknowledges at once, the other one when its owner asks.
        acks = self.plain.pump.take_unacknowledged(all_of_them=False)
        assert wire(self.engine.sent() + self.hot.pump.take_unacknowledged(all_of_them=False)) == wire(acks)

    # -- out

    @rule(said=st.lists(said, min_size=1, max_size=5))
    def says(self, said: list[tuple[int, int, int, int]]) -> None:
        """Applications send datagrams, each of one size; its last may be shorter."""
        runs = []
        for number, size, count, shorter in said:
            datagrams: list[Buffer] = [os.urandom(size) for _ in range(count - 1)]
            datagrams.append(os.urandom(max(size - shorter, 0)))
            runs.append(Run(f"peer {number}", datagrams, size))
        self.seed += 1
        self.plain.pump._random = self.seed
        self.engine.lib.hot_random(self.engine.c, self.seed)
        bursts, slow = self.plain.pump.from_app(runs)
        waiting: list[Run] = []
        for at, run in enumerate(runs):
            conversation = self.hot.conversations.get(int(str(run.peer).split()[1]))
            if conversation is None:  # it is left, and those behind it go on
                waiting.append(run)
                continue
            done = self.engine.send(conversation, run) if isinstance(conversation, SharedConversation) else 0
            if done < len(run.datagrams):
                waiting += [Run(run.peer, run.datagrams[done:], run.size), *runs[at + 1 :]]
                break
        self.engine.flush()
        mine = self.engine.sent()
        self.hot.pump._random = self.engine.lib.hot_random(self.engine.c, 0)
        more, left = self.hot.pump.from_app(waiting)
        assert wire(mine + more) == wire(bursts)
        assert flat(left) == flat(slow)

    @rule(at=st.integers(0, FLOWS - 1))
    def controls(self, at: int) -> None:
        """A control frame leaves between data."""
        one, other = (side.pump.send_control(side.flows[at], messages.Probe(9)) for side in (self.plain, self.hot))
        assert wire([one]) == wire([other])

    @rule()
    def acknowledges_all(self) -> None:
        """The timer of ACKs is due."""
        self.engine.acknowledge()
        mine = self.engine.sent() + self.hot.pump.take_unacknowledged(all_of_them=True)
        assert sorted(wire(mine)) == sorted(wire(self.plain.pump.take_unacknowledged(all_of_them=True)))

    # -- tables

    @rule(at=st.integers(0, FLOWS - 1), usable=st.booleans())
    def rests(self, at: int, usable: bool) -> None:  # noqa: FBT001 - a drawn value
        for side in (self.plain, self.hot):
            (side.group.use if usable else side.group.rest)(side.flows[at])

    @rule(at=st.integers(0, FLOWS - 1), size=st.sampled_from([300, 1252, 1460]))
    def shrinks(self, at: int, size: int) -> None:
        for side in (self.plain, self.hot):
            side.pump.set_max_payload(side.flows[at], size)

    @rule(size=st.sampled_from([0, 9000, 64_000]))
    def link_changes(self, size: int) -> None:
        for side in (self.plain, self.hot):
            side.pump.set_max_burst_bytes(size)

    @rule(number=st.sampled_from(NUMBERS), opening=st.booleans())
    def conversation_again(self, number: int, opening: bool) -> None:  # noqa: FBT001 - a drawn value
        for side in (self.plain, self.hot):
            if number in side.conversations:
                side.pump.drop_conversation(side.conversations.pop(number))
            else:
                open_conversation(side, number, opening=opening)

    @rule(at=st.integers(0, FLOWS - 1))
    def flow_again(self, at: int) -> None:
        """The pump loses a flow, and gets it again."""
        for side in (self.plain, self.hot):
            side.pump.drop_flow(side.flows[at])
            side.pump.put_flow(side.flows[at])
            side.group.use(side.flows[at])

    # -- what always holds

    @invariant()
    def numbers_are_the_same(self) -> None:
        if not hasattr(self, "engine"):
            return
        for one, other in zip(self.plain.flows, self.hot.flows, strict=True):
            assert isinstance(other, SharedFlow)
            assert {name: getattr(one, name) for name in COUNTED} == {name: getattr(other, name) for name in COUNTED}
        assert self.plain.conversations.keys() == self.hot.conversations.keys()
        for number, conversation in self.plain.conversations.items():
            twin = self.hot.conversations[number]
            assert [getattr(conversation, name) for name in SPOKEN] == [getattr(twin, name) for name in SPOKEN]
        assert self.plain.group.no_credit == self.hot.group.no_credit


def segment(
    key: FlowKey, seq: int, ack: int, flags: int, window: int, payload: bytes = b"", options: bytes = b""
) -> bytes:
    """A packet of the peer's, with right checksums."""
    offset = 20 + len(options) << 2
    tcp = struct.pack("!HHIIBBHHH", key.remote_port, key.local_port, seq, ack, offset, flags, window, 0, 0) + options
    size = len(tcp) + len(payload)
    if len(key.local) == 4:
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + size, 7, 0x4000, 60, 6, 0, key.remote, key.local)
    else:
        ip = struct.pack("!IHBB16s16s", 6 << 28, size, 6, 60, key.remote, key.local)
    return checksummed(bytearray(ip + tcp + payload))


def flat(runs: Sequence[Run]) -> list[tuple[object, bytes]]:
    return [(run.peer, bytes(one)) for run in runs for one in run.datagrams]


def by_peer(runs: Sequence[Run]) -> list[tuple[object, bytes]]:
    """In order for each peer: each has a socket of its own."""
    return sorted(flat(runs), key=lambda one: str(one[0]))


def wire(bursts: Sequence[Outgoing]) -> list[tuple[bytes, int, object]]:
    """Every byte that leaves, and how it is cut."""
    return [
        (
            burst.headers + b"".join(burst.payload),
            burst.segment_size if burst.segment_size < burst.payload_size else 0,
            burst.carrier,
        )
        for burst in bursts
    ]


def shape(item: object) -> object:
    """What a slow item is, without the objects that belong to one side."""
    if isinstance(item, SlowFrames):
        frames = item.frames
        return (
            "frames",
            item.flow.flow_id,
            frames.kind,
            frames.conversation,
            frames.counter,
            list(map(bytes, frames.datagrams)),
            item.received,
        )
    if isinstance(item, SlowPayload):
        return "payload", item.flow.flow_id
    return type(item).__name__


TestDifferential = Differential.TestCase
TestDifferential.settings = settings(max_examples=300, stateful_step_count=40)


def test_the_flow_of_a_conversation_is_chosen_once_though_its_first_datagram_is_too_large() -> None:
    """C pins it, and leaves the datagram to Python.  The flow of the next conversation is another choice."""
    state = Differential()
    state.begin(cipher=Cipher.AES_256_GCM, family=4, udp=False, spread=Spread.CONVERSATION, initiator=False)
    try:
        state.says(said=[(7, 1, 1, 0)])
        state.says(said=[(5, 1452, 1, 0), (6, 1, 1, 0)])
        state.numbers_are_the_same()
    finally:
        state.teardown()

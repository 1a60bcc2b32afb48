"""An endpoint with the native pump in front, on a virtual clock: what C decides never reaches Python.

C sends and delivers through sockets.  Here both are socket pairs of this process, which are read after each call.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from rsock_nf.core.ends.endpoint import Endpoint
from rsock_nf.core.outbox import Deliver, Output, Transmit
from rsock_nf.core.parameters import Spread
from rsock_nf.core.pump.state import States
from rsock_nf.core.types import Carried, Checksum, Outgoing, Packet, Run
from rsock_nf.native.library import Library, load
from rsock_nf.native.states import SharedConversation, SharedFlow, SharedStates

VNET = struct.Struct("=BBHHHH")
ETHERNET = bytes(14)
FROM_ETHERNET = struct.pack("=HHiHBB8x", socket.AF_PACKET, 0, 1, 1, 0, 6)
"""struct sockaddr_ll of an Ethernet device."""
_FLAGS = {Checksum.VERIFY: 0, Checksum.PARTIAL: 1, Checksum.VALID: 2}


def library() -> Library:
    """The compiled module; a test that needs it fails without it."""
    found = load()
    assert isinstance(found, Library), found
    return found


class Engine:
    """The native engine without a loop: packets, runs and carried datagrams are given to it, and what it sends and
    delivers is read."""

    def __init__(self, spread: Spread = Spread.BURST, seed: int = 7) -> None:
        self.ffi, self.lib = library().ffi, library().lib
        self._cold, other = socket.socketpair()
        other.close()
        self.c = self.ffi.gc(self.lib.hot_new(self._cold.fileno(), seed), self.lib.hot_free)
        self._left = self.lib.hot_left_of(self.c)
        self._wire = _Pair()
        self._homes: dict[int, tuple[SharedConversation, _Pair, Any]] = {}
        self.states = SharedStates(library(), self.c, spread)
        self.states.flow_ready = self._flow_ready
        self.states.conversation_ready = self._conversation_ready
        self.states.conversation_gone = self._conversation_gone
        self.taken = 0
        """Packets, datagrams and carried messages that never reached Python."""

    def use_spread(self, spread: Spread) -> None:
        """How datagrams are spread over flows."""
        self.lib.hot_set_spread(self.c, spread is Spread.PACKET, spread is Spread.CONVERSATION)

    def close(self) -> None:
        """Idempotent."""
        self._cold.close()
        self._wire.close()
        for _, pair, _ in self._homes.values():
            pair.close()

    def _flow_ready(self, flow: SharedFlow) -> None:
        if not flow.key.udp:  # bursts of the others come back as those that could not be sent
            way = flow.c.way
            way.fd, way.mtu, way.max_burst, way.link_bytes = self._wire.ours.fileno(), 65_535, 65_535, len(ETHERNET)
            self.lib.hot_set_way(self.c, flow.c)

    def _conversation_ready(self, conversation: SharedConversation) -> None:
        pair = _Pair()
        source = self.ffi.new("hot_source *")
        source.fd = pair.ours.fileno()
        conversation.c.out, conversation.c.single_from = source, 1  # a socket pair cannot cut runs
        self._homes[id(conversation)] = conversation, pair, source

    def _conversation_gone(self, conversation: SharedConversation) -> None:
        conversation.c.out = self.ffi.NULL
        home = self._homes.pop(id(conversation), None)
        if home is not None:
            while self.lib.hot_next_dirty(self.c) != self.ffi.NULL:
                pass
            home[1].close()

    def packet(self, packet: Packet) -> bool:
        """Give it a packet; False = it is Python's."""
        vnet = VNET.pack(_FLAGS[packet.checksum], 0, 0, packet.segment_size, 0, 0)
        data = vnet + ETHERNET + bytes(packet.data)
        self.lib.hot_forget_left(self.c)
        taken = bool(self.lib.hot_take_packet(self.c, data, len(data), FROM_ETHERNET))
        self.taken += taken
        return taken

    def carried(self, item: Carried) -> bool:
        """Give it what came on a carrier; False = it is Python's."""
        flow = next((flow for flow in self.states.flows.values() if flow.key == item.key), None)
        if flow is None:
            return False
        data = bytes(item.data)
        self.lib.hot_forget_left(self.c)
        taken = bool(self.lib.hot_take_carried(self.c, flow.c, data, len(data), item.segment_size))
        self.taken += taken
        return taken

    def send(self, conversation: SharedConversation, run: Run) -> int:
        """Give it datagrams; how many of them it has taken.  They leave with ``flush``, at the latest."""
        kept = [self.ffi.from_buffer(bytes(datagram)) for datagram in run.datagrams]
        pieces = self.ffi.new("hot_piece[]", len(kept))
        for piece, data in zip(pieces, kept, strict=True):
            piece.data, piece.length = self.ffi.cast("uint8_t *", data), len(data)
        done = int(self.lib.hot_send_run(self.c, conversation.c, pieces, len(kept), run.size))
        self.taken += done
        return done

    def flush(self) -> None:
        """Send the burst that is being built, as at the end of a round."""
        self.lib.hot_flush(self.c)

    def acknowledge(self) -> None:
        """Send the ACKs that are owed."""
        self.lib.hot_acknowledge(self.c)

    def sent(self) -> list[Outgoing]:
        """What left since the last call, in order."""
        bursts = []
        for message in self._wire.read():
            _, kind, _, segment_size, _, _ = VNET.unpack_from(message)
            packet = message[VNET.size + len(ETHERNET) :]
            headers = 40 if packet[0] >> 4 == 4 else 60
            payload = packet[headers:]
            bursts.append(
                Outgoing(packet[:headers], [payload] if payload else [], len(payload), segment_size * bool(kind))
            )
        bursts += [self._left_burst(self._left.bursts[index]) for index in range(self._left.burst_count)]
        self.lib.hot_forget_left(self.c)
        return bursts

    def _left_burst(self, burst: Any) -> Outgoing:
        whole = bytes(self.ffi.buffer(burst.data, burst.header_bytes + burst.payload_bytes))
        flow = self.states.flows[int(self.ffi.cast("uintptr_t", burst.flow))]
        payload = whole[burst.header_bytes :]
        carrier = flow.key if flow.key.udp else None
        return Outgoing(
            whole[: burst.header_bytes], [payload] if payload else [], len(payload), burst.segment_size, carrier=carrier
        )

    def delivered(self) -> list[Run]:
        """What was delivered since the last call: each datagram as a run of its own."""
        return [
            Run(conversation.peer, [datagram], len(datagram))
            for conversation, pair, _ in list(self._homes.values())
            for datagram in pair.read()
        ]


class _Pair:
    """Two connected sockets that keep the bounds of messages."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.ours, self._theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 20)

    def read(self) -> list[bytes]:
        messages = []
        while True:
            try:
                messages.append(self._theirs.recv(1 << 17))
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()


class HotEnd:
    """An endpoint whose packets and datagrams C gets first.  Everything else is the endpoint's."""

    open: ClassVar[list[HotEnd]] = []
    """All since ``close_all``."""

    def __init__(self, make: Callable[[States], Endpoint[Any]]) -> None:
        self.engine = Engine()
        self.open.append(self)
        self._inner = make(self.engine.states)
        self.engine.use_spread(self._inner.role.parameters.spread)
        self._outputs: list[Output] = []

    @classmethod
    def close_all(cls) -> None:
        """Close the sockets of every end."""
        while cls.open:
            cls.open.pop().engine.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _collect(self) -> None:
        delivered, sent = self.engine.delivered(), self.engine.sent()
        if delivered:
            self._outputs.append(Deliver(delivered))
        if sent:
            self._outputs.append(Transmit(sent))

    def receive_packets(self, now: float, packets: Iterable[Packet], *, behind: bool = False) -> None:
        """See ``Endpoint``."""
        for packet in packets:
            if not self.engine.packet(packet):
                self._inner.receive_packets(now, [packet], behind=behind)
                self._outputs += self._inner.poll()
            self._collect()
        self.engine.acknowledge()
        self._collect()

    def receive_carried(self, now: float, received: Iterable[Carried], *, behind: bool = False) -> None:
        """See ``Endpoint``."""
        for item in received:
            if not self.engine.carried(item):
                self._inner.receive_carried(now, [item], behind=behind)
                self._outputs += self._inner.poll()
            self._collect()

    def receive_datagrams(self, now: float, runs: Iterable[Run]) -> None:
        """See ``Endpoint``."""
        for run in runs:
            conversation = self._inner.pump.conversation(run.peer)
            done = self.engine.send(conversation, run) if isinstance(conversation, SharedConversation) else 0
            self.engine.flush()
            self._collect()
            if done < len(run.datagrams):
                self._inner.receive_datagrams(now, [Run(run.peer, run.datagrams[done:], run.size)])
                self._outputs += self._inner.poll()

    def poll(self) -> list[Output]:
        """See ``Endpoint``."""
        outputs, self._outputs = self._outputs, []
        return outputs + self._inner.poll()

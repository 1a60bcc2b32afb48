"""Two servers as one, on ports of their own: what arrives is told apart by its local port, nothing else.

Offers the driver's verbs (``node.Node``, ``server.Server``) over a native server and one of wire rsock.  Conversations are
told apart by their peer, which wire rsock marks; its targets stand behind the native ones, and their indices with them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Self, TypeVar

from rsock_nf.core.events import ConversationOpened, Event, Follow, Forget
from rsock_nf.core.flows.session import Session
from rsock_nf.core.outbox import Deliver, Output, Transmit
from rsock_nf.core.tcp.icmp import parse_too_big
from rsock_nf.core.tcp.segment import parse_segment
from rsock_nf.core.types import Carried, Malformed, Packet, PortRange, Run
from rsock_nf.wire.native.server import NativeServer
from rsock_nf.wire.rsock.server import RsockServer, is_rsock_peer

_TCP = 6
_V4_PORT, _V6_PORT = 22, 42
"""Where the destination port stands behind an IP header without options."""

Received = TypeVar("Received", Packet, Carried)


class BothServers:
    """See the module.  ``ports``: wire rsock's; ``offset``: how many targets the native server has."""

    def __init__(self, native: NativeServer, rsock: RsockServer, ports: tuple[PortRange, ...], offset: int) -> None:
        self.native = native
        self.rsock = rsock
        self._both = (native, rsock)
        self._ports = frozenset(port for span in ports for port in range(span.first, span.last + 1))
        self._offset = offset
        self._followed = Counter[bytes]()
        """Remote addresses, by how many of the two want them followed."""

    # -- in

    def receive_packets(self, now: float, packets: Iterable[Packet]) -> None:
        """See ``Node``."""
        for server, share in self._apart(packets, _local_port):
            server.receive_packets(now, share)

    def receive_carried(self, now: float, received: Iterable[Carried]) -> None:
        """See ``Node``."""
        for server, share in self._apart(received, lambda carried: carried.key.local_port):
            server.receive_carried(now, share)

    def _apart(
        self, received: Iterable[Received], local_port: Callable[[Received], int]
    ) -> list[tuple[NativeServer | RsockServer, list[Received]]]:
        """Each server with its share, in order; neither is called for nothing."""
        native: list[Received] = []
        rsock: list[Received] = []
        for item in received:
            (rsock if local_port(item) in self._ports else native).append(item)
        shares: list[tuple[NativeServer | RsockServer, list[Received]]] = [(self.native, native), (self.rsock, rsock)]
        return [(server, share) for server, share in shares if share]

    def receive_datagrams(self, now: float, runs: Iterable[Run]) -> None:
        """See ``Node``."""
        native: list[Run] = []
        rsock: list[Run] = []
        for run in runs:
            (rsock if is_rsock_peer(run.peer) else native).append(run)
        if native:
            self.native.receive_datagrams(now, native)
        if rsock:
            self.rsock.receive_datagrams(now, rsock)

    def receive_mtu(self, now: float, mtu: int, max_burst_bytes: int) -> None:
        """See ``Node``."""
        for server in self._both:
            server.receive_mtu(now, mtu, max_burst_bytes)

    def handle_timeout(self, now: float) -> None:
        """See ``Node``."""
        for server in self._both:
            server.handle_timeout(now)

    def stop(self, now: float) -> None:
        """See ``Server``."""
        for server in self._both:
            server.stop(now)

    def socket_refused(self, now: float, peer: object, reason: str) -> None:
        """See ``Server``."""
        (self.rsock if is_rsock_peer(peer) else self.native).socket_refused(now, peer, reason)

    # -- out

    def next_timeout(self) -> float | None:
        """See ``Node``."""
        return min((due for server in self._both if (due := server.next_timeout()) is not None), default=None)

    def poll(self) -> list[Output]:
        """See ``Node``: the native server's first."""
        return [*self._told(self.native), *self._told(self.rsock)]

    @property
    def role(self) -> Self:
        """See ``Node``."""
        return self

    def _told(self, server: NativeServer | RsockServer) -> Iterator[Output]:
        for output in server.poll():
            if isinstance(output, Transmit | Deliver):
                yield output
            elif (event := self._tell(output, second=server is self.rsock)) is not None:
                yield event

    def _tell(self, event: Event, *, second: bool) -> Event | None:
        """What the driver is to hear of it; an address is followed as long as either wants it."""
        match event:
            case ConversationOpened(target=target) if second:
                return dataclasses.replace(event, target=target + self._offset)
            case Follow(remote=remote):
                self._followed[remote] += 1
                return event if self._followed[remote] == 1 else None
            case Forget(remote=remote):
                self._followed[remote] -= 1
                return event if self._followed[remote] == 0 else None
            case _:
                return event

    # -- looking

    @property
    def closing(self) -> bool:
        """See ``Flows``."""
        return self.native.closing or self.rsock.closing

    @property
    def sessions(self) -> Mapping[tuple[int, int], Session]:
        """By (0 = native, 1 = wire rsock) and session id."""
        found = [((at, number), one) for at, server in enumerate(self._both) for number, one in server.sessions.items()]
        return dict(found)

    @property
    def counters(self) -> Counter[str]:
        """What either has dropped or ignored."""
        return self.native.counters + self.rsock.counters

    def followed(self) -> list[bytes]:
        """See ``Server``."""
        return sorted({*self.native.followed(), *self.rsock.followed()})


def _local_port(packet: Packet) -> int:
    """Our port in a TCP segment, or in the segment that an ICMP message is about; 0 = none can be made out."""
    data = packet.data
    if len(data) >= 60 and data[0] >> 4 == 6 and data[6] == _TCP:
        return data[_V6_PORT] << 8 | data[_V6_PORT + 1]
    if len(data) >= 40 and data[0] == 0x45 and data[9] == _TCP:
        return data[_V4_PORT] << 8 | data[_V4_PORT + 1]
    try:
        return parse_segment(packet).key.local_port
    except Malformed:
        pass
    try:
        return parse_too_big(packet).key.local_port
    except Malformed:
        return 0

"""Several servers on one link, each with ports of its own: what arrives is told apart by its local port, nothing else.

Offers the verbs of one server endpoint over any number of them.  Each must be free to name its peers as it likes, so
that this module puts the number of the endpoint before a peer on the way out, and takes it off on the way in.  Their
targets are numbered one endpoint after the other.

Not here: what the endpoints are (``endpoints``).
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, Self, TypeVar

from rsock_nf.core.ends.crowding import Crowd
from rsock_nf.core.ends.top_sources import TopSources
from rsock_nf.core.events import ConversationClosed, ConversationOpened, Event, Follow, Forget
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.outbox import Deliver, Output, Transmit
from rsock_nf.core.parameters import ServerParameters
from rsock_nf.core.tcp.header import (
    DESTINATION_PORT,
    IPV4_HEADER,
    IPV4_PLAIN,
    IPV4_PROTOCOL,
    IPV6_HEADER,
    IPV6_NEXT_HEADER,
    TCP,
    TCP_HEADER,
)
from rsock_nf.core.tcp.icmp import parse_too_big
from rsock_nf.core.tcp.segment import parse_segment
from rsock_nf.core.types import Carried, FlowKey, Malformed, Packet, PortRange, Run
from rsock_nf.runtime.protocols import ServerEndpoint

_PORT_4, _PORT_6 = IPV4_HEADER + DESTINATION_PORT, IPV6_HEADER + DESTINATION_PORT
_LEAST_4, _LEAST_6 = IPV4_HEADER + TCP_HEADER, IPV6_HEADER + TCP_HEADER

Received = TypeVar("Received", Packet, Carried)


class Branch(NamedTuple):
    """One of the endpoints."""

    endpoint: ServerEndpoint
    ports: tuple[PortRange, ...]
    """Its own; the first branch also gets what belongs to no port of any branch, and counts it."""
    first_target: int
    """Where its targets begin in the list of all targets."""


class Demultiplexer:
    """See the module."""

    def __init__(self, branches: Sequence[Branch]) -> None:
        self._branches = tuple(branches)
        self._index_of = {
            port: index
            for index, branch in enumerate(branches)
            for span in branch.ports
            for port in range(span.first, span.last + 1)
        }
        self._followed = Counter[tuple[bytes, bytes]]()
        """Remote addresses, by how many endpoints want them followed."""

    # -- in

    def receive_packets(self, now: float, packets: Iterable[Packet], *, behind: bool = False) -> None:
        """Each endpoint gets its share, in order; none is called for nothing."""
        for index, share in self._shares(packets, local_port):
            self._branches[index].endpoint.receive_packets(now, share, behind=behind)

    def receive_carried(self, now: float, received: Iterable[Carried], *, behind: bool = False) -> None:
        """As ``receive_packets``."""
        for index, share in self._shares(received, lambda carried: carried.key.local_port):
            self._branches[index].endpoint.receive_carried(now, share, behind=behind)

    def knows(self, packet: Packet) -> bool:
        """Any of them."""
        return any(branch.endpoint.knows(packet) for branch in self._branches)

    def knows_carrier(self, key: FlowKey) -> bool:
        """Any of them."""
        return any(branch.endpoint.knows_carrier(key) for branch in self._branches)

    def _shares(
        self, received: Iterable[Received], port_of: Callable[[Received], int]
    ) -> list[tuple[int, list[Received]]]:
        shares: list[list[Received]] = [[] for _ in self._branches]
        for item in received:
            shares[self._index_of.get(port_of(item), 0)].append(item)
        return [(index, share) for index, share in enumerate(shares) if share]

    def receive_datagrams(self, now: float, runs: Iterable[Run]) -> None:
        """Each endpoint gets the runs of its own peers."""
        shares: list[list[Run]] = [[] for _ in self._branches]
        for run in runs:
            index, peer = _split(run.peer)
            shares[index].append(Run(peer, run.datagrams, run.size))
        for branch, share in zip(self._branches, shares, strict=True):
            if share:
                branch.endpoint.receive_datagrams(now, share)

    def receive_mtu(self, now: float, mtu: int, max_burst_bytes: int) -> None:
        """All of them."""
        for branch in self._branches:
            branch.endpoint.receive_mtu(now, mtu, max_burst_bytes)

    def ping(self, now: float, flow: Established) -> int:
        """The endpoint of this flow.  Of several wires, one has pings: so their numbers differ."""
        return self._branches[self._index_of.get(flow.key.local_port, 0)].endpoint.ping(now, flow)

    def handle_timeout(self, now: float) -> None:
        """All of them."""
        for branch in self._branches:
            branch.endpoint.handle_timeout(now)

    # -- the server's role

    @property
    def role(self) -> Self:
        """This object has the verbs of a server's role, too."""
        return self

    def stop(self, now: float) -> None:
        """All of them."""
        for branch in self._branches:
            branch.endpoint.role.stop(now)

    def socket_refused(self, now: float, peer: Hashable, reason: str) -> None:
        """The endpoint of this peer."""
        index, inner = _split(peer)
        self._branches[index].endpoint.role.socket_refused(now, inner, reason)

    def tell_target(self, now: float, target: int, *, refuses: bool) -> None:
        """The endpoint whose target it is."""
        branch = max(
            (branch for branch in self._branches if branch.first_target <= target), key=lambda one: one.first_target
        )
        branch.endpoint.role.tell_target(now, target - branch.first_target, refuses=refuses)

    @property
    def strangers(self) -> TopSources:
        """Of all of them."""
        return functools.reduce(TopSources.merged, (branch.endpoint.role.strangers for branch in self._branches))

    def followed(self) -> list[tuple[bytes, bytes]]:
        """What any of them follows."""
        return sorted({ends for branch in self._branches for ends in branch.endpoint.role.followed()})

    def want_keys(self, now: float) -> None:
        """All of them."""
        for branch in self._branches:
            branch.endpoint.role.want_keys(now)

    def use_parameters(self, now: float, of_each_wire: Sequence[ServerParameters]) -> None:
        """Each its own.  The first one has as many targets as before."""
        for branch, parameters in zip(self._branches, of_each_wire, strict=True):
            branch.endpoint.role.use_parameters(now, [parameters])

    def use_secrets(self, now: float, secrets: object) -> None:
        """The first one."""
        self._branches[0].endpoint.role.use_secrets(now, secrets)

    def kick(self, now: float, name: str) -> int:
        """Of all of them."""
        return sum(branch.endpoint.role.kick(now, name) for branch in self._branches)

    def crowds(self, now: float) -> list[Crowd]:
        """One for each endpoint, in the order of their numbers."""
        return [crowd for branch in self._branches for crowd in branch.endpoint.role.crowds(now)]

    # -- out

    def next_timeout(self) -> float | None:
        """The earliest."""
        due = [branch.endpoint.next_timeout() for branch in self._branches]
        return min((when for when in due if when is not None), default=None)

    def poll(self) -> list[Output]:
        """What each has to do, one endpoint after the other."""
        found: list[Output] = []
        for index, branch in enumerate(self._branches):
            for output in branch.endpoint.poll():
                if isinstance(output, Transmit):
                    found.append(output)
                elif isinstance(output, Deliver):
                    runs = [Run((index, run.peer), run.datagrams, run.size) for run in output.runs]
                    found.append(Deliver(runs))
                elif (event := self._as_told_outside(output, index)) is not None:
                    found.append(event)
        return found

    def _as_told_outside(self, event: Event, index: int) -> Event | None:
        """An address is followed as long as any endpoint wants it."""
        match event:
            case ConversationOpened(peer=peer, target=target):
                first = self._branches[index].first_target
                return dataclasses.replace(event, peer=(index, peer), target=target + first)
            case ConversationClosed(peer=peer):
                return dataclasses.replace(event, peer=(index, peer))
            case Follow(remote=remote, local=local):
                self._followed[remote, local] += 1
                return event if self._followed[remote, local] == 1 else None
            case Forget(remote=remote, local=local):
                self._followed[remote, local] -= 1
                return event if self._followed[remote, local] == 0 else None
            case _:
                return event

    # -- looking

    @property
    def branches(self) -> tuple[Branch, ...]:
        """In the order of their numbers."""
        return self._branches

    @property
    def closing(self) -> bool:
        """Any of them."""
        return any(branch.endpoint.closing for branch in self._branches)

    @property
    def sessions(self) -> list[Session]:
        """Of all of them."""
        return [session for branch in self._branches for session in branch.endpoint.sessions]

    @property
    def counters(self) -> Counter[str]:
        """Summed."""
        total = Counter[str]()
        for branch in self._branches:
            total.update(branch.endpoint.counters)
        return total


def _split(peer: Hashable) -> tuple[int, Hashable]:
    if not isinstance(peer, tuple):
        raise TypeError(f"not a peer of several endpoints: {peer!r}")
    return peer[0], peer[1]


def local_port(packet: Packet) -> int:
    """Our port in a TCP segment, or in the segment that an ICMP message is about; 0 = none can be made out."""
    data = packet.data
    if len(data) >= _LEAST_6 and data[0] >> 4 == 6 and data[IPV6_NEXT_HEADER] == TCP:
        return data[_PORT_6] << 8 | data[_PORT_6 + 1]
    if len(data) >= _LEAST_4 and data[0] == IPV4_PLAIN and data[IPV4_PROTOCOL] == TCP:
        return data[_PORT_4] << 8 | data[_PORT_4 + 1]
    try:
        return parse_segment(packet).key.local_port
    except Malformed:
        pass
    try:
        return parse_too_big(packet).key.local_port
    except Malformed:
        return 0

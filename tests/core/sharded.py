"""A server that is several processes, each with a shard of the ports, in the place of the one server of a ``Pair``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from rsock_nf.core.ends.accepting import Accepting
from rsock_nf.core.ends.endpoint import Endpoint
from rsock_nf.core.flows.session import Session
from rsock_nf.core.types import Carried, Packet, Run, Shard
from tests.core.pair import Pair


class Workers:
    """What ``Pair`` asks of its server, of several.  ``dead``: the numbers of those that get nothing and do nothing."""

    def __init__(self, nodes: Iterable[Endpoint[Accepting]]) -> None:
        self.nodes = list(nodes)
        self.dead: set[int] = set()
        self.translated: Callable[[int], int] = lambda port: port
        """The number that a port has at the server."""

    @property
    def living(self) -> list[Endpoint[Accepting]]:
        return [node for number, node in enumerate(self.nodes) if number not in self.dead]

    @property
    def sessions(self) -> list[list[Session]]:
        """Of each."""
        return [node.role.sessions for node in self.nodes]

    def receive_packets(self, now: float, packets: list[Packet]) -> None:
        for packet in packets:
            self._give(now, _destination(packet), packet)

    def receive_carried(self, now: float, packets: list[Carried]) -> None:
        for packet in packets:
            self._give(now, packet.key.local_port, packet)

    def _give(self, now: float, port: int, packet: Packet | Carried) -> None:
        number = self.translated(port) % len(self.nodes)
        if number in self.dead:
            return
        if isinstance(packet, Packet):
            self.nodes[number].receive_packets(now, [packet])
        else:
            self.nodes[number].receive_carried(now, [packet])

    def receive_datagrams(self, now: float, runs: list[Run]) -> None:
        for run in runs:
            owner = next(node for node in self.nodes if run.peer[0] in node.role.sessions_by_id)  # type: ignore[index]
            owner.receive_datagrams(now, [run])

    def next_timeout(self) -> float | None:
        return min((due for node in self.living if (due := node.next_timeout()) is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        for node in self.living:
            due = node.next_timeout()
            if due is not None and due <= now:
                node.handle_timeout(now)

    def poll(self) -> Iterable[Any]:
        return list(chain.from_iterable(node.poll() for node in self.living))

    @property
    def _context(self) -> Any:
        return self

    @property
    def outbox(self) -> list[Any]:
        return [None for node in self.living if len(node._context.outbox)]


def sharded(count: int, **options: Any) -> tuple[Pair, Workers]:
    """A pair whose server is ``count`` processes."""
    pair = Pair(**options)
    whole = pair._server_parameters
    nodes = []
    for number in range(count):
        pair._server_parameters = dataclasses.replace(whole, shard=Shard(number, count))
        nodes.append(pair._make_server())
    workers = Workers(nodes)
    pair.server = workers  # type: ignore[assignment]
    return pair, workers


def _destination(packet: Packet) -> int:
    data = packet.data
    at = (data[0] & 15) * 4 if data[0] >> 4 == 4 else 40
    return int.from_bytes(data[at + 2 : at + 4], "big")

"""One server and any number of clients on a virtual clock: bursts pass whole, nothing is lost, and nothing is judged.

For amounts: a thousand clients, or a million datagrams.  ``pair`` has the wire that cuts, loses and judges.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from rsock_nf.core.ends import endpoint
from rsock_nf.core.ends.dialling import Dialling
from rsock_nf.core.ends.endpoint import Endpoint
from rsock_nf.core.events import CarrierWanted, ConversationClosed, ConversationOpened, PortWanted
from rsock_nf.core.outbox import Deliver, Transmit
from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.types import Carried, Checksum, FlowKey, Outgoing, Packet, Run
from rsock_nf.wire.native.client import NativeClientWire
from rsock_nf.wire.native.server import NativeServerWire
from rsock_nf.wire.parameters import NativeParameters
from tests.core.pair import SECRET, SERVER_ADDRESS, START, TARGETS

_BURST = 64_000


class Arrived(NamedTuple):
    """Datagrams that reached a target."""

    peer: Hashable
    datagrams: list[bytes]


class Many:
    """See the module.  Parameters as in ``Pair``.  Every datagram is counted, by end; ``keep``: and kept."""

    def __init__(
        self,
        count: int,
        *,
        client: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        keep: bool = True,
    ) -> None:
        self.now = START
        self._rng = random.Random(1)
        self._keep = keep
        parameters = ServerParameters(**{"targets": TARGETS, **(server or {})})
        wire = NativeServerWire(NativeParameters(SECRET), self._rng.randbytes(32))
        self.server = endpoint.server(parameters, wire, self._rng.randbytes, mtu=1500, max_burst_bytes=_BURST)
        self.clients = [self._client(client or {}) for _ in range(count)]
        self._of: dict[bytes, Endpoint[Dialling]] = {}
        """By the client's address."""
        self._ports: dict[bytes, set[int]] = {}
        """The UDP ports of each client's address."""
        self._public: dict[bytes, tuple[bytes, int]] = {}
        """The address by which the server sees a client, and what it adds to the ports, where it is another."""
        self.at_target: list[Arrived] = []
        self.at_app: list[Arrived] = []
        self.counted: Counter[str] = Counter()
        self.sockets: set[Hashable] = set()
        self._port = 1024

    def _client(self, parameters: dict[str, Any]) -> Endpoint[Dialling]:
        whole = ClientParameters(**{"server": (SERVER_ADDRESS[4],), **parameters})
        wire = NativeClientWire(NativeParameters(SECRET))
        return endpoint.client(whole, wire, self._rng.randbytes, mtu=1500, max_burst_bytes=_BURST)

    def up(self, at: int) -> None:
        """Client number ``at`` starts; returns when its session stands."""
        client = self.clients[at]
        client.role.start(self.now)
        self.settle(client, at)
        for _ in range(50):
            if all(slot.flow for slot in client.role.slots):
                return
            self.run(0.05, client)
        raise AssertionError(client.role.reason)

    def run(self, seconds: float, *clients: Endpoint[Dialling]) -> None:
        """Time passes, for the server and these clients."""
        self.now += seconds
        for client in clients:
            due = client.next_timeout()
            if due is not None and due <= self.now:
                client.handle_timeout(self.now)
                self.settle(client)
        self.server.handle_timeout(self.now)
        self.settle()

    def move(self, at: int, public: bytes, ports: int = 0) -> None:
        """From now on the server sees client number ``at``, over UDP, at this packed address, and the client's ports
        plus ``ports``.
        """
        (local,) = [local for local, client in self._of.items() if client is self.clients[at]]
        self._public[local] = public, ports

    def say(self, at: int, peer: Hashable, datagrams: Sequence[bytes]) -> None:
        """An application of client ``at`` sends datagrams of one size."""
        client = self.clients[at]
        client.receive_datagrams(self.now, [Run(peer, list(datagrams), len(datagrams[0]))])
        self.settle(client)

    def reply(self, peer: Hashable, datagrams: Sequence[bytes]) -> None:
        """A target answers."""
        self.server.receive_datagrams(self.now, [Run(peer, list(datagrams), len(datagrams[0]))])
        self.settle()

    def settle(self, client: Endpoint[Dialling] | None = None, at: int = -1) -> None:
        """Pass on what ``client`` and the server want to send, until there is nothing."""
        waiting = [client] if client is not None else []
        while waiting or len(self.server._context.outbox):
            for node in waiting:
                self._take(node, at)
            waiting = self._take_server()

    def _take(self, client: Endpoint[Dialling], at: int) -> None:
        for output in client.poll():
            if isinstance(output, Transmit):
                self._pass(self.server, output.bursts)
            elif isinstance(output, Deliver):
                self._count("app", self.at_app, output.runs)
            elif isinstance(output, PortWanted | CarrierWanted):
                self._port += 1
                number = self.clients.index(client) if at < 0 else at
                local = (0x0A000000 + number).to_bytes(4, "big")
                self._of[local] = client
                if isinstance(output, CarrierWanted):
                    key = FlowKey(local, self._port % 60_000 + 1024, output.remote, output.port, udp=True)
                    self._ports.setdefault(local, set()).add(key.local_port)
                    client.role.receive_carrier(self.now, output.request, key)
                else:
                    client.role.receive_port(self.now, output.request, local, self._port % 60_000 + 1024)
                self._take(client, number)

    def _take_server(self) -> list[Endpoint[Dialling]]:
        reached: dict[int, Endpoint[Dialling]] = {}
        for output in self.server.poll():
            if isinstance(output, Transmit):
                for burst in output.bursts:
                    to = self._inside(burst.carrier) if burst.carrier else None
                    client = self._of.get(to.remote if to else burst.headers[16:20])
                    if client is not None:
                        self._pass(client, [burst._replace(carrier=to)])
                        reached[id(client)] = client
            elif isinstance(output, Deliver):
                self._count("target", self.at_target, output.runs)
            elif isinstance(output, ConversationOpened):
                self.sockets.add(output.peer)
            elif isinstance(output, ConversationClosed):
                self.sockets.remove(output.peer)
        return list(reached.values())

    def _outside(self, key: FlowKey) -> FlowKey:
        """A client's own addresses and ports as the server sees them: what the server calls remote is translated."""
        public, ports = self._public.get(key.remote, (key.remote, 0))
        return key._replace(remote=public, remote_port=key.remote_port + ports)

    def _inside(self, key: FlowKey) -> FlowKey | None:
        """The reverse of ``_outside``; None = nobody is there any more."""
        for local, (public, ports) in self._public.items():
            if public == key.remote and key.remote_port - ports in self._ports[local]:
                return key._replace(remote=local, remote_port=key.remote_port - ports)
        return None if key.remote in self._public else key

    def _pass(self, node: Endpoint[Any], bursts: Sequence[Outgoing]) -> None:
        for burst in bursts:
            data = memoryview(burst.headers + b"".join(burst.payload))
            if burst.carrier:
                key = burst.carrier.reversed()
                key = self._outside(key) if node is self.server else key
                node.receive_carried(self.now, [Carried(key, data, burst.segment_size)])
            else:
                node.receive_packets(self.now, [Packet(data, burst.segment_size, Checksum.VALID, b"link")])

    def _count(self, where: str, kept: list[Arrived], runs: Sequence[Run]) -> None:
        for run in runs:
            self.counted[where] += len(run.datagrams)
            if self._keep:
                kept.append(Arrived(run.peer, [bytes(one) for one in run.datagrams]))

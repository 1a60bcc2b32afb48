"""What waits for a full UDP carrier, or comes too late for it: who is told, what is kept, what is dropped.

The sockets are stand-ins.
"""

from __future__ import annotations

import asyncio
import os
from ipaddress import ip_address
from typing import cast

from rsock_nf.core.outbox import Output, Transmit
from rsock_nf.core.types import FlowKey, Outgoing, TransportAddress
from rsock_nf.runtime.carriers import MAX_WAITING, Carriers
from rsock_nf.runtime.driver import Driver
from rsock_nf.runtime.unread import Unread
from rsock_nf.sockets.carriers import ServerCarrier
from rsock_nf.sockets.datagrams import DatagramCounters
from tests.runtime import parts

KEY = FlowKey(bytes([192, 0, 2, 1]), 10001, bytes([198, 51, 100, 7]), 5555, udp=True)


class Full:
    """Takes ``room`` bursts, then none until it has room again; its descriptor, of a pipe, is always writable."""

    def __init__(self, endpoint: TransportAddress, room: int) -> None:
        self.endpoint = endpoint
        self.room = room
        self.taken: list[bytes] = []
        self.counters = DatagramCounters()
        self.receive_drops = 0
        self._ends = os.pipe()

    def fileno(self) -> int:
        return self._ends[1]

    def send(self, burst: Outgoing) -> bool:
        if not self.room:
            return False
        self.room -= 1
        self.taken.append(b"".join(burst.payload))
        return True

    def close(self) -> None:
        for end in self._ends:
            os.close(end)


def burst(text: bytes | bytearray, key: FlowKey | None = KEY) -> Outgoing:
    return Outgoing(b"", [memoryview(text)], len(text), 1, carrier=key)


def test_order_is_kept_and_the_application_waits() -> None:
    async def scene() -> None:
        told: list[str] = []
        freed = asyncio.Event()

        def free() -> None:
            told.append("free")
            freed.set()

        carriers = Carriers(
            asyncio.get_running_loop(),
            lambda _: None,
            blocked=lambda: told.append("blocked"),
            free=free,
            unread=Unread(),
            known=lambda _: True,
        )
        full = Full(TransportAddress(ip_address("0.0.0.0"), 10001), 1)
        asyncio.get_running_loop().add_reader = lambda *_: None  # type: ignore[method-assign]
        carriers.add(cast("ServerCarrier", full))
        buffer = bytearray(b"2nd")
        elsewhere = burst(b"tcp", None)
        assert carriers.send([burst(b"1st"), burst(buffer), elsewhere]) == [elsewhere]
        buffer[:] = b"---"  # a receive buffer is used again
        assert carriers.waiting
        assert carriers.send([burst(b"3rd")]) == []
        assert told == ["blocked"]
        for _ in range(3):
            await asyncio.sleep(0)
        assert full.taken == [b"1st"], "still full"
        full.room = 10
        await asyncio.wait_for(freed.wait(), 5)
        assert full.taken == [b"1st", b"2nd", b"3rd"]
        assert told == ["blocked", "free"]
        full.room = 0
        carriers.send([burst(b"many") for _ in range(MAX_WAITING + 3)])
        assert carriers.dropped == 3 * 4
        carriers.close()
        assert told == ["blocked", "free", "blocked", "free"]
        assert not carriers.waiting

    asyncio.run(scene())


def test_a_burst_whose_socket_has_gone_is_counted() -> None:
    async def scene() -> None:
        carriers = Carriers(
            asyncio.get_running_loop(),
            lambda _: None,
            blocked=lambda: None,
            free=lambda: None,
            unread=Unread(),
            known=lambda _: True,
        )
        assert carriers.send([burst(b"late")]) == []
        assert carriers.counters()["dropped"] == 4
        carriers.drop(KEY)

    asyncio.run(scene())


def test_a_burst_for_the_last_carrier_never_reaches_the_link() -> None:
    """Flows of both kinds that die together: the socket of the last one is closed before its last word is sent."""
    elsewhere = burst(b"tcp", None)
    sent: list[Outgoing] = []

    def send(bursts: list[Outgoing]) -> int:
        sent.extend(bursts)
        return len(bursts)

    outputs: list[list[Output]] = [[Transmit([burst(b"late"), elsewhere])], []]
    endpoint = parts.endpoint()
    endpoint.poll = lambda: outputs.pop(0)
    loop = cast("asyncio.AbstractEventLoop", parts.Loop())
    driver = Driver(
        loop, endpoint, deliver=lambda _: None, handle=lambda _: None, carrier_refused=lambda _: None, has_carriers=True
    )
    driver.use_link(parts.link(send=send), lambda: None)
    driver.settle()
    assert sent == [elsewhere]
    assert driver.carriers.dropped == 4

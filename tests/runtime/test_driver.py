"""The data path: what waits for a full link, who is read meanwhile, and that whatever goes in is drained."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest

from rsock_nf.core.events import SessionDown
from rsock_nf.core.outbox import Deliver, Output, Transmit
from rsock_nf.core.types import Checksum, Outgoing, Packet, Run
from rsock_nf.link.waiting_time import BEHIND
from rsock_nf.runtime.driver import BATCH, MAX_BACKLOG, ROUNDS, STRANGERS, UNREAD_FIRST, Driver
from rsock_nf.sockets.source import Source
from tests.runtime import parts

RUN = Run("peer", [b"datagram"], 8)
SOURCE = 7
"""A descriptor."""


class Scene:
    """A driver between an endpoint that wants what it is told to want, and a link that takes ``room`` bursts."""

    def __init__(self) -> None:
        self.loop = parts.Loop()
        self.wanted: list[list[Output]] = []
        self.told: list[Any] = []
        self.sent: list[Outgoing] = []
        self.room = 1000
        self.endpoint = parts.endpoint()
        self.endpoint.poll = lambda: self.wanted.pop(0) if self.wanted else []
        self.endpoint.receive_packets = self.receive_packets
        self.endpoint.receive_datagrams = lambda _, runs: self.told.append(("runs", len(runs)))
        self.driver = Driver(
            cast("Any", self.loop),
            self.endpoint,
            deliver=self.told.append,
            handle=self.told.append,
            carrier_refused=self.told.append,
            has_carriers=False,
        )
        self.driver.use_link(parts.link(send=self.send, receive=lambda _: self.packets.pop(0)), lambda: None)
        self.packets: list[list[Packet]] = []
        self.driver.add_source(Source(SOURCE, lambda: [RUN]))
        self.driver.start_reading()

    def receive_packets(self, _: float, packets: list[Packet], *, behind: bool) -> None:
        self.told.append(("packets while behind" if behind else "packets", len(packets)))

    def send(self, bursts: list[Outgoing]) -> int:
        taken = bursts[: self.room]
        self.sent += taken
        self.room -= len(taken)
        return len(taken)

    def call(self, callbacks: dict[int, Any], descriptor: int) -> None:
        callback, *arguments = callbacks[descriptor]
        callback(*arguments)


def test_everything_is_done_in_the_order_in_which_it_arose() -> None:
    scene = Scene()
    gone, burst = SessionDown(1, "over"), parts.burst()
    scene.wanted = [[gone, Deliver([RUN])], [Transmit([burst])], [Deliver([])]]
    scene.packets = [[Packet(memoryview(b"ip"), 0, Checksum.VALID, b"")]]
    scene.call(scene.loop.read, 100)
    assert scene.told == [("packets", 1), gone, [RUN]]
    assert scene.sent == [burst]
    assert len(scene.wanted) == 1, "it is asked again after an event only"


def test_a_full_link_keeps_order_and_the_sources_wait() -> None:
    scene = Scene()
    bursts = [parts.burst(size) for size in (1, 2, 3, 4)]
    scene.room = 1
    scene.wanted = [[Transmit(bursts[:2])], [Transmit(bursts[2:])]]
    scene.driver.settle()
    scene.driver.settle()
    assert SOURCE not in scene.loop.read
    scene.call(scene.loop.written, 100)
    assert scene.sent == bursts[:1], "still full"
    scene.room = 10
    scene.call(scene.loop.written, 100)
    assert [burst.payload_size for burst in scene.sent] == [1, 2, 3, 4]
    assert scene.loop.written == {}
    scene.call(scene.loop.read, SOURCE)
    assert scene.told == [("runs", 1)]


def test_probes_leave_before_bulk_that_waits() -> None:
    scene = Scene()
    bulk, probe = parts.burst(1400)._replace(bulk=True), parts.burst(40)
    scene.room = 1
    scene.wanted = [[Transmit([bulk, bulk])], [Transmit([bulk, probe])]]
    scene.driver.settle()
    scene.driver.settle()
    scene.room = 10
    scene.call(scene.loop.written, 100)
    assert [burst.payload_size for burst in scene.sent] == [1400, 40, 1400, 1400]


def test_what_waits_is_sent_when_the_full_socket_is_closed_with_its_device() -> None:
    """Before: nobody told the driver, and it waited for ever for a descriptor that was closed."""
    scene = Scene()
    full = [200]
    scene.driver.use_link(parts.link(send=scene.send, write_fileno=lambda: full[0]), lambda: None)
    scene.room = 0
    scene.wanted = [[Transmit([parts.burst()])]]
    scene.driver.settle()
    scene.driver.link_changed()
    assert list(scene.loop.written) == [200], "nothing has changed"
    full[0] = 100
    scene.room = 10
    scene.driver.link_changed()
    assert len(scene.sent) == 1
    assert scene.loop.written == {}
    assert SOURCE in scene.loop.read


def test_what_finds_no_room_is_counted() -> None:
    scene = Scene()
    scene.room = 0
    scene.wanted = [[Transmit([parts.burst()] * (MAX_BACKLOG + 3))]]
    scene.driver.settle()
    assert scene.driver.backlog_dropped == 3


@pytest.mark.parametrize("finished", [True, False])
def test_a_link_that_goes_lets_the_sources_go(finished: bool) -> None:  # noqa: FBT001
    """What waited for it is dropped; at the end nothing is read again."""
    scene = Scene()
    scene.room = 0
    scene.wanted = [[Transmit([parts.burst()])]]
    scene.driver.settle()
    if finished:
        scene.driver.finish()
    scene.driver.drop_link()
    assert scene.loop.written == {}
    assert list(scene.loop.read) == ([] if finished else [SOURCE])


def test_a_source_that_is_added_while_the_link_is_full_is_read_later() -> None:
    scene = Scene()
    scene.room = 0
    scene.wanted = [[Transmit([parts.burst()])]]
    scene.driver.settle()
    scene.driver.add_source(Source(8, list))
    assert 8 not in scene.loop.read
    scene.room = 10
    scene.call(scene.loop.written, 100)
    assert {SOURCE, 8} <= scene.loop.read.keys()
    scene.driver.remove_source(8)
    assert 8 not in scene.loop.read


def test_a_timer_waits_until_what_has_arrived_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that waits in a buffer is no missing answer.  But a flood does not stop the timers."""
    scene, now = Scene(), [100.0]
    monkeypatch.setattr(Driver, "now", staticmethod(lambda: now[0]))

    def soon(_: float, callback: Any) -> Timer:
        scene.told.append("soon")
        return Timer(callback)

    scene.loop.call_later = soon  # type: ignore[attr-defined]
    scene.endpoint.handle_timeout = lambda at: scene.told.append(("timeout", at))
    scene.endpoint.next_timeout = lambda: None
    arrived, wrote = os.pipe()
    scene.driver._unread.add(arrived)
    scene.driver._timeout()
    assert scene.told == [("timeout", 100.0)]
    os.write(wrote, b"a packet")
    scene.told.clear()
    scene.driver._timeout()
    assert scene.told == ["soon"], "it is unread"
    os.read(arrived, 100)
    scene.driver._timeout()
    assert scene.told == ["soon", ("timeout", 100.0)]
    os.write(wrote, b"more and more")
    scene.told.clear()
    for _ in range(3):
        scene.driver._timeout()
        now[0] += UNREAD_FIRST / 2
    assert scene.told == ["soon", "soon", ("timeout", 100.0 + UNREAD_FIRST)]
    os.close(arrived)
    os.close(wrote)


class Timer:
    """What call_at returns."""

    def __init__(self, callback: Any) -> None:
        self.callback = callback

    def cancel(self) -> None:
        pass


def test_the_endpoint_is_told_that_packets_have_waited() -> None:
    scene = Scene()
    link = parts.link(receive=lambda _: scene.packets.pop(0) if scene.packets else [], waited=BEHIND)
    scene.driver.use_link(link, lambda: None)
    scene.packets = [[Packet(memoryview(b""), 0, Checksum.VALID, b"")]]
    scene.call(scene.loop.read, link.fileno())
    assert scene.told == [("packets while behind", 1)]


def test_the_link_is_read_once_in_each_round() -> None:
    scene = Scene()
    full = [Packet(memoryview(b""), 0, Checksum.VALID, b"")] * BATCH
    scene.packets = [full, full]
    scene.call(scene.loop.read, 100)
    assert scene.told == [("packets", BATCH)]
    scene.call(scene.loop.read, 100)
    assert scene.packets == []


def test_a_link_that_is_behind_is_read_before_more_is_taken_from_the_application() -> None:
    """Before: 32 packets were read for 512 datagrams of the application, and what flows live by waited for a second."""
    scene = Scene()
    packets = [Packet(memoryview(b""), 0, Checksum.VALID, b"")]
    link = parts.link(send=scene.send, receive=lambda _: packets, waited=BEHIND)
    scene.driver.use_link(link, lambda: None)
    many = [Run("peer", [b"datagram"] * BATCH, 8)]
    scene.driver.add_source(Source(8, lambda: many))
    scene.call(scene.loop.read, link.fileno())
    assert scene.told == [("packets while behind", 1)] * ROUNDS
    scene.told.clear()
    scene.call(scene.loop.read, 8)
    assert scene.told == [("runs", 1)], "one read"
    scene.told.clear()
    link.waited = 0.0  # type: ignore[misc]
    scene.driver._behind_at -= 1.0
    scene.call(scene.loop.read, link.fileno())
    scene.call(scene.loop.read, 8)
    assert scene.told == [("packets", 1), *[("runs", 1)] * ROUNDS]


def test_strangers_with_a_queue_of_their_own_are_read_a_few_at_a_time() -> None:
    scene = Scene()
    asked: list[int] = []

    def receive_strangers(budget: int) -> list[Packet]:
        asked.append(budget)
        return [Packet(memoryview(b""), 0, Checksum.VALID, b"")] * budget

    link = parts.link(strangers_fileno=lambda: 107, receive_strangers=receive_strangers)
    scene.driver.use_link(link, lambda: None)
    scene.call(scene.loop.read, 107)
    assert asked == [STRANGERS]
    assert scene.told == [("packets", STRANGERS)]
    scene.driver.drop_link()
    assert 107 not in scene.loop.read

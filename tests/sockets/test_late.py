"""What has waited too long in a receive buffer is dropped; a peer that floods does not push the others out."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from rsock_nf.core.types import TransportAddress
from rsock_nf.link import system
from rsock_nf.link.waiting_time import LATE, LOST, SMALL, WaitingTime
from rsock_nf.sockets.carriers import ClientCarrier, ServerCarrier
from rsock_nf.sockets.datagrams import Listener, TargetSocket
from tests.netns.judges import wait_until

HERE = TransportAddress(ip_address("127.0.0.1"), 0)
SOME = (LATE + LOST) / 2


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that everything has waited; there is no grace."""
    told = [0.0]
    monkeypatch.setattr(WaitingTime, "read", lambda _, *, full: told[0] * (full or True))
    return told


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener(HERE)
    yield made
    made.close()


def sender(listener: Listener | ServerCarrier) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.connect(("127.0.0.1", listener.local.port))
    return made


def test_a_flood_does_not_push_others_out_of_a_late_read(waited: list[float], listener: Listener) -> None:
    waited[0] = SOME
    with sender(listener) as flood, sender(listener) as quiet:
        for number in range(60):
            flood.send(b"f%03d" % number)
            if number % 20 == 0:
                quiet.send(b"q%03d" % number)
        runs = listener.receive()
    got = [bytes(datagram) for run in runs for datagram in run.datagrams]
    assert [one for one in got if one[:1] == b"q"] == [b"q000", b"q020", b"q040"]
    assert len(got) == 3
    assert (listener.counters.received, listener.counters.late) == (3, 60)


def test_what_is_not_late_is_kept_whole(waited: list[float], listener: Listener) -> None:
    waited[0] = LATE / 2
    with sender(listener) as flood:
        for _ in range(60):
            flood.send(b"datagram")
        assert sum(len(run.datagrams) for run in listener.receive()) == 60
    assert listener.counters.late == 0


def test_what_nobody_can_use_any_more_is_dropped_whole(waited: list[float], listener: Listener) -> None:
    waited[0] = LOST
    with sender(listener) as old:
        for _ in range(60):
            old.send(b"datagram")
        assert listener.receive() == []
        waited[0] = 0.0
        old.send(b"new")
        (run,) = listener.receive()
    assert [bytes(datagram) for datagram in run.datagrams] == [b"new"]
    assert listener.counters.late == 60


def test_a_target_is_no_exception(waited: list[float]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
        target.bind(("127.0.0.1", 0))
        asked = TargetSocket(TransportAddress(ip_address("127.0.0.1"), target.getsockname()[1]))
        waited[0] = SOME
        for _ in range(40):
            target.sendto(b"answer", ("127.0.0.1", asked.local.port))
        assert asked.receive("peer") == []
        assert asked.counters.late == 40
        asked.close()


def test_a_carrier_keeps_what_may_be_control(waited: list[float]) -> None:
    server = ServerCarrier(HERE)
    client = ClientCarrier(TransportAddress(ip_address("127.0.0.1"), server.local.port))
    waited[0] = SOME
    with sender(server) as peer:
        for size in (SMALL, SMALL + 1, 40, 1400):
            peer.send(bytes(size))
        assert [len(item.data) for item in server.receive()] == [SMALL, 40]
        waited[0] = LOST
        peer.send(bytes(40))
        assert server.receive() == []
    assert (server.counters.late, server.counters.received) == (3, 2)
    client.close()
    server.close()


def test_strangers_make_room_before_a_flow(waited: list[float]) -> None:
    """Before: a client's bulk was the cause, because each of many strangers had sent less."""
    server = ServerCarrier(HERE)
    with ExitStack() as stack:
        client, *strangers = [stack.enter_context(sender(server)) for _ in range(20)]
        server.known = lambda key: key.remote_port == client.getsockname()[1]
        waited[0] = SOME
        client.send(bytes(1400))
        for stranger in strangers:
            stranger.send(bytes(SMALL + 1))
        (kept,) = server.receive()
        assert len(kept.data) == 1400
        for _ in range(20):
            client.send(bytes(1400))
        strangers[0].send(bytes(SMALL + 1))
        assert server.receive() == [], "the flow is the cause itself"
    server.close()


def test_after_a_standstill_nothing_old_is_read(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stand-in, and less than one read of datagrams.  Before: the last one was young, so all were delivered."""
    monkeypatch.setattr("rsock_nf.link.waiting_time.LOST", 0.2)
    with sender(listener) as peer:

        def some(name: bytes, seconds: float) -> None:
            for number in range(10):
                peer.send(name + b" %d" % number)
            sent = time.monotonic()
            wait_until(lambda: time.monotonic() > sent + seconds, "the clock")

        def nothing_old_is_read() -> bool:
            """Stamps are kept a moment after the socket was opened (net_enable_timestamp)."""
            some(b"old", 0.25)
            some(b"new", 0.0)
            got = []
            while runs := listener.receive():
                got += [bytes(datagram)[:3] for run in runs for datagram in run.datagrams]
            return b"old" not in got

        wait_until(nothing_old_is_read, "old datagrams to be dropped")
        assert listener.counters.late >= 10


def test_the_kernel_tells_how_long_a_datagram_has_waited(listener: Listener) -> None:
    """No stand-in: SIOCGSTAMPNS on a real socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made, sender(listener) as peer:
        made.bind(("127.0.0.1", 0))
        udp = system().udp
        udp.waited(made)  # stamps are kept from now on, or a moment later (net_enable_timestamp)
        peer.connect(made.getsockname())

        def told_after_a_while() -> bool:
            peer.send(b"datagram")
            sent = time.monotonic()
            wait_until(lambda: time.monotonic() > sent + 0.05, "the clock")
            made.recv(100)
            return 0.05 <= udp.waited(made) < 10

        wait_until(told_after_a_while, "a stamp")

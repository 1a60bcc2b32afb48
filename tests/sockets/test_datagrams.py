"""The application's sockets: what goes in comes out, whole and in order, however the kernel packed it."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import select
import socket
import time
from collections.abc import Hashable, Iterator
from ipaddress import ip_address
from typing import TypeVar

import pytest

from rsock_nf.core.types import Buffer, Run, TransportAddress
from rsock_nf.lab.netns import Namespace
from rsock_nf.link import LinkError
from rsock_nf.sockets.buffers import ReceiveBuffers
from rsock_nf.sockets.datagrams import UDP_MAX_SEGMENTS, Listener, TargetSocket

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
WILDCARD = {4: "0.0.0.0", 6: "::"}
SOL_UDP, UDP_SEGMENT = 17, 103
LARGEST = 65_507
PATIENCE = 10.0
LOCAL_ROUTES = ("ip", "-6", "route", "show", "table", "local")

_serial = itertools.count()


def settle(here: Namespace, *addresses: str) -> None:
    """Wait until the kernel takes packets to its own IPv6 ``addresses``.

    Their local routes come from a work queue, a moment after ``ip`` has returned (net/ipv6/addrconf.c,
    addrconf_dad_work), and a socket connected before keeps a route that leads nowhere.
    """
    ends = time.monotonic() + PATIENCE
    while not all(f"local {address} dev" in here.run(LOCAL_ROUTES).stdout for address in addresses):
        assert time.monotonic() < ends, f"{addresses} have no local routes"


def endpoint(address: str, port: int = 0, scope: str = "") -> TransportAddress:
    return TransportAddress(ip_address(address), port, scope)


def check_contract(run: Run) -> None:
    sizes = [len(datagram) for datagram in run.datagrams]
    assert sizes
    assert all(size == run.size for size in sizes[:-1])
    assert sizes[-1] <= run.size
    assert len(sizes) == 1 or sizes[-1] > 0, "empty datagrams go alone"


def take(sock: Listener | TargetSocket, count: int, peer: Hashable = "me") -> list[tuple[Hashable, bytes]]:
    """Datagrams as (peer, content) until there are ``count``."""
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLIN)
    found: list[tuple[Hashable, bytes]] = []
    while len(found) < count:
        assert poller.poll(PATIENCE * 1000), f"{len(found)} of {count} came"
        for run in sock.receive() if isinstance(sock, Listener) else sock.receive(peer):
            check_contract(run)
            found.extend((run.peer, bytes(datagram)) for datagram in run.datagrams)
    assert len(found) == count
    return found


def contents(sock: Listener | TargetSocket, count: int) -> list[bytes]:
    return [data for _, data in take(sock, count)]


def run_of(datagrams: list[bytes], peer: Hashable = None) -> Run:
    buffers: list[Buffer] = list(datagrams)
    return Run(peer, buffers, len(datagrams[0]))


Socket = TypeVar("Socket", Listener, TargetSocket)


class Keep:
    """Closes at the end of a test what it opened, however that ends."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()

    def __call__(self, opened: Socket) -> Socket:
        return self.stack.enter_context(contextlib.closing(opened))


@pytest.fixture
def keep() -> Iterator[Keep]:
    made = Keep()
    with made.stack:
        yield made


@pytest.fixture(params=[4, 6])
def pair(request: pytest.FixtureRequest, keep: Keep) -> tuple[Listener, TargetSocket]:
    listener = keep(Listener(endpoint(LOOPBACK[request.param])))
    return listener, keep(TargetSocket(listener.local))


@pytest.fixture
def here() -> Iterator[Namespace]:
    made = Namespace(f"rsnf-dg-{os.getpid()}-{next(_serial)}")
    yield made
    made.close()


# -- in


@pytest.mark.parametrize("size", [0, 1, 2, 1200, 1472, 9000, 65_000, 65_487, LARGEST])
def test_every_size_both_ways(pair: tuple[Listener, TargetSocket], size: int) -> None:
    listener, connected = pair
    data = random.Random(size).randbytes(size)
    connected.send([run_of([data])])
    ((peer, received),) = take(listener, 1)
    assert received == data
    listener.send([run_of([data], peer)])
    assert take(connected, 1, "its name") == [("its name", data)]


def test_mixed_sizes_keep_their_order(pair: tuple[Listener, TargetSocket]) -> None:
    listener, connected = pair
    rng = random.Random(7)
    sizes = [0, 5, 5, 4, 5, 6, 6, 0, 0, 1, *(rng.choice((0, 1, 40, 1200, 1200, 1200, 1201)) for _ in range(100))]
    sent = [rng.randbytes(size) for size in sizes]
    for data in sent:
        connected.send([run_of([data])])
    received = take(listener, len(sent))
    assert [data for _, data in received] == sent
    peer = received[0][0]
    for data in sent:
        listener.send([run_of([data], peer)])
    assert contents(connected, len(sent)) == sent


def test_equal_datagrams_make_one_run(pair: tuple[Listener, TargetSocket]) -> None:
    listener, connected = pair
    with socket.socket(connected._family, socket.SOCK_DGRAM) as plain:
        plain.connect(listener._socket.getsockname())
        for number in range(20):
            plain.send(bytes([number]) * 1200)
        plain.send(b"short")
        plain.send(b"next")
        runs = listener.receive()
        assert [(len(run.datagrams), run.size) for run in runs] == [(21, 1200), (1, 4)]
        for number in range(64):
            plain.send(bytes([number]) * 1200)
        (run,) = listener.receive()
        assert [bytes(data) for data in run.datagrams] == [bytes([number]) * 1200 for number in range(64)]
        assert listener.receive() == []


def test_a_gso_sender_is_cut_as_it_was(pair: tuple[Listener, TargetSocket]) -> None:
    listener, connected = pair
    data = random.Random(1).randbytes(40 * 1200 + 7)
    with socket.socket(connected._family, socket.SOCK_DGRAM) as plain:
        plain.connect(listener._socket.getsockname())
        plain.sendmsg([data], [(SOL_UDP, UDP_SEGMENT, (1200).to_bytes(2, "little"))])
        plain.send(b"alone")
    first, second = listener.receive()
    check_contract(first)
    assert (len(first.datagrams), first.size, len(first.datagrams[-1])) == (41, 1200, 7)
    assert b"".join(first.datagrams) == data
    assert (second.peer, [bytes(each) for each in second.datagrams]) == (first.peer, [b"alone"])


def test_of_large_merged_messages_few_are_read_at_once(pair: tuple[Listener, TargetSocket]) -> None:
    """A read brings what a cache holds, not 64 times 64 KiB; small messages come by 64 again."""
    listener, connected = pair
    segments, size = 40, 1200
    ancillary = [(SOL_UDP, UDP_SEGMENT, size.to_bytes(2, "little"))]
    with socket.socket(connected._family, socket.SOCK_DGRAM) as plain:
        plain.connect(listener._socket.getsockname())
        for number in range(16):
            plain.sendmsg([bytes([number]) * size * segments], ancillary)
        first = listener.receive()
        assert len(first) == 16, "one read before its sizes are known"
        for number in range(16):
            plain.sendmsg([bytes([number]) * size * segments], ancillary)
        reads = []
        while runs := listener.receive():
            reads.append([run.datagrams[0][0] for run in runs])
        assert reads == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15]]
        for _ in range(65):
            plain.send(b"small")
        assert [sum(len(run.datagrams) for run in listener.receive()) for _ in range(3)] == [5, 60, 0]


@pytest.mark.parametrize("address", [LOOPBACK[4], WILDCARD[4]])
def test_interleaved_peers_stay_apart(address: str, keep: Keep) -> None:
    listener = keep(Listener(endpoint(address)))
    peers = [keep(TargetSocket(endpoint(LOOPBACK[4], listener.local.port))) for _ in range(3)]
    order = random.Random(3).choices(range(3), k=60)
    for number, who in enumerate(order):
        peers[who].send([run_of([bytes([who, number])])])
    received = take(listener, 60)
    assert [data for _, data in received] == [bytes([who, number]) for number, who in enumerate(order)]
    names = {data[0]: peer for peer, data in received}
    assert all(names[data[0]] == peer for peer, data in received)
    assert len(set(names.values())) == 3
    for who, name in names.items():
        listener.send([run_of([bytes([who])] * 3, name)])
    for who, sock in enumerate(peers):
        assert contents(sock, 3) == [bytes([who])] * 3


def test_a_stranger_cannot_speak_for_the_target(pair: tuple[Listener, TargetSocket]) -> None:
    listener, connected = pair
    with socket.socket(connected._family, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"forged", connected._socket.getsockname())
    connected.send([run_of([b"hello"])])
    ((peer, _),) = take(listener, 1)
    listener.send([run_of([b"answer"], peer)])
    assert contents(connected, 1) == [b"answer"]


def test_buffers_of_ones_own_are_not_overwritten_by_others(pair: tuple[Listener, TargetSocket], keep: Keep) -> None:
    listener, connected = pair
    alone = keep(TargetSocket(listener.local, buffers=ReceiveBuffers()))
    for sock in (connected, alone):
        sock.send([run_of([b"hello"])])
    for peer, _ in take(listener, 2):
        listener.send([run_of([repr(peer).encode()], peer)])
    (kept,) = alone.receive("alone")
    before = bytes(kept.datagrams[0])
    take(connected, 1)
    assert bytes(kept.datagrams[0]) == before


# -- out


def test_long_runs_are_cut(pair: tuple[Listener, TargetSocket]) -> None:
    listener, connected = pair
    cases = [(1, 300), (100, 65), (1200, 200), (1023, 64), (1024, 65), (30_000, 5), (65_487, 3), (LARGEST, 2)]
    for size, count in cases:
        sent = [random.Random(number).randbytes(size) for number in range(count)]
        sent[-1] = sent[-1][: max(1, size // 2)]
        connected.send([run_of(sent)])
        received = take(listener, count)
        assert [data for _, data in received] == sent, (size, count)
        listener.send([run_of(sent, received[0][0])])
        assert contents(connected, count) == sent, (size, count)
    assert connected.counters.sent == listener.counters.received == sum(count for _, count in cases)
    assert connected.counters.send_errors == connected.counters.send_full == connected.counters.sent_singly == 0


def test_a_run_is_one_system_call(pair: tuple[Listener, TargetSocket]) -> None:
    """Loopback keeps what one sendmsg made together: as many buffers are filled as calls were made."""
    listener, connected = pair
    connected.send([run_of([bytes(1000)] * UDP_MAX_SEGMENTS), run_of([bytes(500)] * 3)])
    assert listener._buffers.reader.read(listener.fileno()) == 2


def test_empty_datagrams_survive(pair: tuple[Listener, TargetSocket]) -> None:
    listener, connected = pair
    connected.send([run_of([b"", b"", b""]), run_of([b"ab", b"ab", b""])])
    assert contents(listener, 6) == [b"", b"", b"", b"ab", b"ab", b""]


def test_a_dead_port_costs_nothing(pair: tuple[Listener, TargetSocket], keep: Keep) -> None:
    """Every second send on it gets ECONNREFUSED; once somebody has the port again, not one datagram is lost."""
    listener, connected = pair
    where = listener.local
    listener.close()
    for number in range(10):
        connected.send([run_of([bytes([number])])])
        connected.send([run_of([bytes(100)] * 4)])
    assert connected.receive("me") == []
    assert connected.counters.refused >= 10
    assert connected.counters.sent == 50
    connected.send([run_of([b"leaves an error behind"])])
    again = keep(Listener(where))
    sent = [bytes([number]) for number in range(10)]
    connected.send([run_of(sent)])
    assert contents(again, 10) == sent


@pytest.mark.parametrize("version", [4, 6])
def test_segments_above_the_mtu_go_singly(here: Namespace, version: int, keep: Keep) -> None:
    address = {4: "10.96.0.1", 6: "fd96::1"}
    here.ip(
        "link set lo mtu 1300",
        "address add 10.96.0.1/32 dev lo",
        "address add fd96::1/128 dev lo nodad",
    )
    settle(here, "fd96::1")
    listener = keep(here.call(lambda: Listener(endpoint(address[version]))))
    connected = keep(here.call(lambda: TargetSocket(listener.local)))
    small, large = [bytes([number]) * 1000 for number in range(9)], [bytes([number]) * 1400 for number in range(9)]
    connected.send([run_of(small)])
    connected.send([run_of(large)])
    assert contents(listener, 18) == small + large
    assert connected.counters.sent_singly == 9
    connected.send([run_of(large)])
    connected.send([run_of(small)])
    received = take(listener, 18)
    assert [data for _, data in received] == large + small
    assert (connected.counters.sent_singly, connected.counters.sent, connected.counters.send_errors) == (18, 36, 0)
    listener.send([run_of(large, received[0][0])])
    assert contents(connected, 9) == large


def test_an_unreachable_peer_is_counted_and_stays_no_single_destination(here: Namespace, keep: Keep) -> None:
    connected = keep(here.call(lambda: TargetSocket(endpoint("127.0.0.1", 9))))
    here.ip("link set lo down", "address flush dev lo")
    connected.send([run_of([bytes(100)] * 4), run_of([bytes(100)])])
    assert (connected.counters.sent, connected.counters.send_errors) == (0, 5)
    assert connected._single_from == {}


def test_a_full_buffer_is_a_counted_drop(here: Namespace, keep: Keep) -> None:
    here.ip("link add eth0 type veth peer name eth1", "link set eth0 up", "link set eth1 up")
    here.ip("address add 10.96.0.1/24 dev eth0", "neigh add 10.96.0.2 lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
    here.run(["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "8kbit", "burst", "2000", "limit", "1000000"])
    connected = keep(here.call(lambda: TargetSocket(endpoint("10.96.0.2", 9))))
    connected._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    for _ in range(100):
        connected.send([run_of([bytes(1000)])])
    counters = connected.counters
    assert counters.send_full > 0
    assert (counters.sent + counters.send_full, counters.send_errors) == (100, 0)


# -- which address answers


@pytest.mark.parametrize(
    ("bound", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.0.0.2"), ("::", "::1"), ("::", "127.0.0.3"), ("::", "127.0.0.1")],
)
def test_answers_come_from_the_address_that_was_asked(bound: str, asked: str, keep: Keep) -> None:
    """A connected socket hears nobody else, so that the answer arrives proves it."""
    listener = keep(Listener(endpoint(bound)))
    connected = keep(TargetSocket(endpoint(asked, listener.local.port)))
    connected.send([run_of([b"one"] * 5), run_of([b"zero"])])
    received = take(listener, 6)
    peer = received[0][0]
    assert {each for each, _ in received} == {peer}
    listener.send([run_of([b"burst"] * 5, peer), run_of([b"single"], peer)])
    assert contents(connected, 6) == [b"burst"] * 5 + [b"single"]
    assert listener.describe(peer) == f"{connected.local} via {asked}"


def test_one_sender_who_asks_two_of_our_addresses_is_two_peers(keep: Keep) -> None:
    listener = keep(Listener(endpoint("0.0.0.0")))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as app:
        app.settimeout(PATIENCE)
        app.bind(("127.0.0.1", 0))
        for address in ("127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.1"):
            app.sendto(address.encode(), (address, listener.local.port))
        received = take(listener, 4)
        assert len({peer for peer, _ in received}) == 2
        for peer, data in received:
            listener.send([run_of([data], peer)])
            echoed, source = app.recvfrom(100)
            assert (echoed.decode(), source[0]) == (data.decode(), data.decode())


@pytest.mark.parametrize("bound", ["fd96::1", "::"])
def test_of_many_ipv6_addresses_the_one_that_was_asked_answers(here: Namespace, bound: str, keep: Keep) -> None:
    here.ip(*(f"address add fd96::{last}/128 dev lo nodad" for last in (1, 2, 3)))
    settle(here, "fd96::1", "fd96::2", "fd96::3")
    listener = keep(here.call(lambda: Listener(endpoint(bound))))
    for asked in ("fd96::1",) if bound == "fd96::1" else ("fd96::2", "fd96::1", "fd96::3"):
        connected = keep(here.call(lambda asked=asked: TargetSocket(endpoint(asked, listener.local.port))))  # type: ignore[misc]
        connected.send([run_of([b"?"] * 3)])
        ((peer, _), *_) = take(listener, 3)
        listener.send([run_of([b"!"] * 3, peer)])
        assert contents(connected, 3) == [b"!"] * 3


def test_link_local_answers(here: Namespace, keep: Keep) -> None:
    here.ip("link add eth0 type veth peer name eth1", "link set eth0 up", "link set eth1 up")
    here.ip("address add fe80::a/64 dev eth0 nodad")
    settle(here, "fe80::a")
    listener = keep(here.call(lambda: Listener(endpoint("::"))))
    connected = keep(here.call(lambda: TargetSocket(endpoint("fe80::a", listener.local.port, "eth0"))))
    connected.send([run_of([b"?"] * 3)])
    ((peer, _), *_) = take(listener, 3)
    listener.send([run_of([b"!"] * 3, peer)])
    assert contents(connected, 3) == [b"!"] * 3
    assert here.call(lambda: listener.describe(peer)) == f"[fe80::a%eth0]:{connected.local.port} via fe80::a"


def test_the_table_of_peers_is_bounded(monkeypatch: pytest.MonkeyPatch, keep: Keep) -> None:
    monkeypatch.setattr("rsock_nf.sockets.datagrams._REMEMBERED", 4)
    listener = keep(Listener(endpoint(LOOPBACK[4])))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as app:
        app.settimeout(PATIENCE)
        app.bind(("127.0.0.1", 0))
        app.sendto(b"x", (LOOPBACK[4], listener.local.port))
        ((peer, _),) = take(listener, 1)
        assert isinstance(peer, bytes)
        strangers = [peer[:2] + port.to_bytes(2) + peer[4:] for port in range(1, 30)]
        listener.send([run_of([b"y"], each) for each in [peer, *strangers, peer]])
        assert len(listener._destinations) == 4
        assert app.recv(10) == app.recv(10) == b"y"


# -- opening


def test_buffers_are_large(pair: tuple[Listener, TargetSocket]) -> None:
    for sock in pair:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            assert sock._socket.getsockopt(socket.SOL_SOCKET, option) == 2 * (8 << 20)  # the kernel doubles it


def test_opening_errors_are_one_line(here: Namespace, keep: Keep) -> None:
    taken = keep(Listener(endpoint(LOOPBACK[4])))
    port = taken.local.port
    with pytest.raises(
        LinkError, match=rf"^cannot listen on 127.0.0.1:{port}: address in use; `ss -uanp sport = :{port}`"
    ):
        Listener(endpoint(LOOPBACK[4], port))
    taken.close()
    with pytest.raises(LinkError, match=r"^cannot listen on 203.0.113.5:7: not an address of this host; `ip address`"):
        Listener(endpoint("203.0.113.5", 7))
    with pytest.raises(LinkError, match=r"^cannot listen on \[fe80::1%nope\]:7: no such device nope$"):
        Listener(endpoint("fe80::1", 7, "nope"))
    with pytest.raises(
        LinkError, match=r"^cannot open a socket toward \[fe80::1\]:7: a link-local address needs its device"
    ):
        TargetSocket(endpoint("fe80::1", 7))
    with pytest.raises(LinkError, match=r"^cannot open a socket toward 203.0.113.5:7: Network is unreachable$"):
        here.call(lambda: TargetSocket(endpoint("203.0.113.5", 7)))


def test_closing_twice(pair: tuple[Listener, TargetSocket]) -> None:
    for sock in pair:
        sock.close()
        sock.close()


def test_a_foreign_peer_is_a_bug(pair: tuple[Listener, TargetSocket]) -> None:
    with pytest.raises(ValueError, match=r"not a peer of a listener"):
        pair[0].send([run_of([b"x"], "nobody")])

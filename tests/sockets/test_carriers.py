"""UDP carriers: a burst arrives as it was sent, from whom it was sent, and what does not fit is counted."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP

from rsock_nf.core.types import Carried, FlowKey, Outgoing, PortRange, TransportAddress
from rsock_nf.lab.netns import Namespace
from rsock_nf.link import LinkError, abroad
from rsock_nf.link.linux.rtnetlink import RouteQuestion, RouteSocket
from rsock_nf.sockets.carriers import ClientCarrier, ServerCarrier, count_datagrams, route_mtu, serve_ports
from tests.netns.judges import wait_until

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
ANY = {4: "0.0.0.0", 6: "::"}
PATIENCE = 10.0
_serial = itertools.count()


def endpoint(address: str, port: int = 0, scope: str = "") -> TransportAddress:
    return TransportAddress(ip_address(address), port, scope)


def burst(key: FlowKey, data: bytes, size: int = 0, pieces: int = 1) -> Outgoing:
    """``data`` as a codec gives it: in several buffers."""
    step = -(-len(data) // pieces) or 1
    return Outgoing(b"", [data[at : at + step] for at in range(0, len(data), step)], len(data), size, carrier=key)


def take(carrier: ServerCarrier | ClientCarrier, datagrams: int) -> list[Carried]:
    """What comes until there are so many datagrams, with buffers of their own."""
    poller = select.poll()
    poller.register(carrier.fileno(), select.POLLIN)
    found: list[Carried] = []
    while count_datagrams(found) < datagrams:
        assert poller.poll(PATIENCE * 1000), f"{count_datagrams(found)} of {datagrams} came"
        found += [item._replace(data=memoryview(bytes(item.data))) for item in carrier.receive()]
    return found


def cut(items: list[Carried]) -> list[bytes]:
    """The datagrams in them."""
    out: list[bytes] = []
    for item in items:
        size = item.segment_size or len(item.data) or 1
        out += [bytes(item.data[at : at + size]) for at in range(0, len(item.data) or 1, size)]
    return out


Socket = TypeVar("Socket", ServerCarrier, ClientCarrier)


class Keep:
    """Closes at the end of a test what it opened, however that ends."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def __call__(self, opened: Socket) -> Socket:
        return self._stack.enter_context(contextlib.closing(opened))


@pytest.fixture
def keep() -> Iterator[Keep]:
    with contextlib.ExitStack() as stack:
        yield Keep(stack)


@pytest.fixture(params=[(4, False), (4, True), (6, False), (6, True)], ids=["v4", "v4-any", "v6", "v6-any"])
def pair(request: pytest.FixtureRequest, keep: Keep) -> tuple[ServerCarrier, ClientCarrier]:
    version, anywhere = request.param
    port = keep(ServerCarrier(endpoint((ANY if anywhere else LOOPBACK)[version])))
    bound = port.local.port
    port.close()
    port = keep(ServerCarrier(endpoint((ANY if anywhere else LOOPBACK)[version], bound)))
    return port, keep(ClientCarrier(endpoint(LOOPBACK[version], bound)))


@pytest.fixture
def here() -> Iterator[Namespace]:
    made = Namespace(f"rsnf-ca-{os.getpid()}-{next(_serial)}")
    yield made
    made.close()


def test_a_burst_is_one_buffer_at_either_end(pair: tuple[ServerCarrier, ClientCarrier]) -> None:
    port, dialled = pair
    data = bytes(range(250)) * 40
    assert dialled.send(burst(dialled.key, data, 1000, pieces=7))
    (there,) = take(port, 10)
    assert there == Carried(dialled.key.reversed(), memoryview(data), 1000)
    assert port.send(burst(there.key, data[:-600], 1000))
    (back,) = take(dialled, 10)
    assert back == Carried(dialled.key, memoryview(data[:-600]), 1000)
    assert dialled.counters.sent == port.counters.received == 10
    assert port.counters.sent == dialled.counters.received == 10


def test_several_flows_are_told_apart(pair: tuple[ServerCarrier, ClientCarrier], keep: Keep) -> None:
    port, first = pair
    flows = [
        first,
        *(keep(ClientCarrier(endpoint(str(ip_address(first.key.remote)), first.key.remote_port))) for _ in range(3)),
    ]
    for turn in range(5):
        for number, flow in enumerate(flows):
            assert flow.send(burst(flow.key, bytes([number, turn])))
    received = take(port, 20)
    by_key = {flow.key.reversed(): number for number, flow in enumerate(flows)}
    assert [bytes([by_key[item.key]]) + bytes(item.data[1:]) for item in received] == [
        bytes(item.data) for item in received
    ]
    for item in received[:4]:
        assert port.send(burst(item.key, b"for " + bytes(item.data)))
    for number, flow in enumerate(flows):
        assert cut(take(flow, 1)) == [b"for " + bytes([number, 0])]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 200), st.integers(0, 19_999), st.integers(1, 9))
def test_any_burst_arrives_as_it_is_cut(size: int, count: int, shorter: int, pieces: int) -> None:
    """More than 64 datagrams or 65,507 bytes are several sends."""
    count = min(count, 400_000 // size or 1)
    data = os.urandom(size * count - min(shorter, size - 1))
    port, dialled = PAIRED
    assert dialled.send(burst(dialled.key, data, size if count > 1 else 0, pieces))
    received = take(port, count)
    assert b"".join(cut(received)) == data
    assert {len(one) for one in cut(received)[:-1]} <= {size}
    assert dialled.counters.sent_singly == dialled.counters.send_errors == 0


def _paired() -> tuple[ServerCarrier, ClientCarrier]:
    first = ServerCarrier(endpoint(LOOPBACK[4]))
    where = first.local
    first.close()
    return ServerCarrier(where), ClientCarrier(where)


PAIRED = _paired()


@pytest.mark.parametrize("version", [4, 6])
def test_an_answer_leaves_from_the_address_that_was_asked(here: Namespace, version: int, keep: Keep) -> None:
    """A connected socket hears nobody else."""
    here.ip("link set lo up", "address add fd96::1/128 dev lo nodad", "address add fd96::2/128 dev lo nodad")
    port = keep(here.call(lambda: ServerCarrier(endpoint(ANY[version], 10001))))
    asked = {4: ["127.0.0.1", "127.0.0.2", "127.9.9.9"], 6: ["::1", "fd96::1", "fd96::2"]}[version]
    for address in asked:
        dialled = keep(here.call(lambda address=address: ClientCarrier(endpoint(address, 10001))))  # type: ignore[misc]
        dialled.send(burst(dialled.key, b"who are you?"))
        (item,) = take(port, 1)
        assert item.key.local == ip_address(address).packed
        assert port.send(burst(item.key, b"I am I" * 10, 6))
        assert cut(take(dialled, 10)) == [b"I am I"] * 10


def test_link_local_addresses(here: Namespace, keep: Keep) -> None:
    here.ip(
        "link add eth0 type veth peer name eth1", "link set eth0 addrgenmode none", "link set eth1 addrgenmode none"
    )
    here.ip("link set eth0 up", "link set eth1 up", "link set lo up")
    here.ip("address add fe80::95/64 dev eth0 nodad", "address add fe80::96/64 dev eth1 nodad")
    port = keep(here.call(lambda: ServerCarrier(endpoint("::", 10001))))
    dialled = keep(here.call(lambda: ClientCarrier(endpoint("fe80::96", 10001, "eth1"))))
    dialled.send(burst(dialled.key, b"near"))
    (item,) = take(port, 1)
    assert port.send(burst(item.key, b"as near"))
    assert cut(take(dialled, 1)) == [b"as near"]


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_above_the_mtu_is_counted_and_never_fragmented(here: Namespace, version: int, keep: Keep) -> None:
    here.ip("link set lo mtu 1300", "link set lo up", "address add fd96::1/128 dev lo nodad")
    address = {4: "127.0.0.1", 6: "fd96::1"}[version]
    port = keep(here.call(lambda: ServerCarrier(endpoint(ANY[version], 10001))))
    dialled = keep(here.call(lambda: ClientCarrier(endpoint(address, 10001))))
    assert here.call(lambda: dialled.mtu) == 1300
    assert here.call(lambda: route_mtu([ip_address(address)], None)) == 1300
    fits = 1300 - {4: 28, 6: 48}[version]
    assert dialled.send(burst(dialled.key, bytes(fits + 1)))
    assert dialled.send(burst(dialled.key, bytes((fits + 1) * 5), fits + 1))
    assert dialled.counters.too_big == 6
    assert dialled.send(burst(dialled.key, bytes(fits * 5), fits))
    assert len(cut(take(port, 5))) == 5
    assert dialled.counters.sent == 5
    assert dialled.counters.sent_singly == 0


@pytest.mark.parametrize("version", [4, 6])
def test_a_route_that_goes_has_no_mtu(here: Namespace, version: int, keep: Keep) -> None:
    """The kernel puts a device of 68 bytes in its place."""
    here.ip(
        "link add eth0 type veth peer name eth1",
        "link set eth0 addrgenmode none",
        "link set eth0 up",
        "link set eth1 up",
    )
    here.ip("address add 10.96.0.1/24 dev eth0", "address add fd96::1/64 dev eth0 nodad")
    far = {4: "10.96.0.2", 6: "fd96::2"}[version]
    dialled = keep(here.call(lambda: ClientCarrier(endpoint(far, 10001))))
    assert here.call(lambda: dialled.mtu) == 1500
    here.ip("link del eth0")
    assert here.call(lambda: dialled.mtu) == 0
    assert here.call(lambda: route_mtu([ip_address(far)], None)) == 0


def test_what_icmp_says_of_a_path_is_told_once_and_changes_no_mtu(here: Namespace, keep: Keep) -> None:
    """Anybody can say it: this quotes an echo reply that was never sent, and names no port (net/ipv4/icmp.c)."""
    here.ip("link add eth0 type veth peer name eth1", "link set eth0 up", "link set eth1 up", "link set lo up")
    here.ip("address add 10.96.0.1/24 dev eth0")
    dialled = keep(here.call(lambda: ClientCarrier(endpoint("10.96.0.2", 10001))))
    assert dialled.too_big() == 0
    quoted = bytes(IP(src="10.96.0.1", dst="10.96.0.2", len=1400, flags="DF") / ICMP(type=0))
    forged = IP(src="198.51.100.66", dst="10.96.0.1") / ICMP(type=3, code=4, nexthopmtu=600) / quoted
    with here.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(bytes(forged), ("10.96.0.1", 0))
    wait_until(lambda: "mtu 600" in here.run(["ip", "route", "get", "10.96.0.2"]).stdout, "the kernel to believe it")
    assert here.call(lambda: dialled.mtu) == 1500
    assert here.call(lambda: route_mtu([ip_address("10.96.0.2")], None)) == 1500
    with here.call(lambda: contextlib.closing(RouteSocket())) as kernel:
        assert kernel.route(RouteQuestion(ip_address("10.96.0.2"))).mtu == 0
    assert dialled.too_big() == 600
    assert dialled.too_big() == 0


@pytest.mark.parametrize(("version", "documentation"), [(4, "192.0.2.0/24"), (6, "2001:db8::/32")])
def test_the_route_abroad_is_found_where_documentation_prefixes_lead_nowhere(
    here: Namespace, version: int, documentation: str
) -> None:
    here.ip("link add eth0 mtu 1400 type veth peer name eth1", "link set eth0 up", "link set eth1 up")
    here.ip("address add 10.96.0.1/24 dev eth0", "address add fd96::1/64 dev eth0 nodad")
    assert here.call(lambda: route_mtu(abroad(), None)) == 0
    gateway = {4: "10.96.0.2", 6: "fd96::2"}[version]
    here.ip(f"route add default via {gateway}", f"route add blackhole {documentation}")
    assert here.call(lambda: route_mtu(abroad(), None)) == 1400


def test_a_device_without_checksum_offload_gets_single_datagrams(here: Namespace, keep: Keep) -> None:
    """UDP_SEGMENT is refused there (EIO), and not asked for again."""
    here.ip("link add eth0 type veth peer name eth1", "link set eth0 up", "link set eth1 up", "link set lo up")
    here.ip("address add 10.96.0.1/24 dev eth0", "neigh add 10.96.0.2 lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
    here.run(["ethtool", "-K", "eth0", "tx", "off"])
    dialled = keep(here.call(lambda: ClientCarrier(endpoint("10.96.0.2", 10001))))
    assert dialled.send(burst(dialled.key, bytes(1000 * 10), 1000))
    assert dialled.send(burst(dialled.key, bytes(1000 * 10), 1000))
    assert dialled.counters.sent == 20
    assert dialled.counters.sent_singly in (0, 20), "some kernels make the checksum themselves"


SO_MARK = 36  # asm-generic/socket.h


@pytest.mark.parametrize("version", [4, 6])
def test_both_ends_carry_the_mark(version: int, keep: Keep) -> None:
    where = endpoint(LOOPBACK[version])
    served = keep(ServerCarrier(where, mark=51820))
    dialled = keep(ClientCarrier(served.local, mark=51820))
    for carrier in (served, dialled):
        assert carrier._socket.getsockopt(socket.SOL_SOCKET, SO_MARK) == 51820


@pytest.mark.parametrize("version", [4, 6])
def test_a_flow_that_is_steered_leaves_by_the_other_device(here: Namespace, version: int, keep: Keep) -> None:
    """A VPN takes the route; the flow keeps its address and its device."""
    far, near = ("198.51.100.9", "10.96.0.1") if version == 4 else ("2001:db8:9::9", "fd96::1")
    gateway = "10.96.0.2" if version == 4 else "fd96::2"
    here.ip(
        "link add eth1 type veth peer name far1",
        "address add 10.96.0.1/24 dev eth1",
        "address add fd96::1/64 dev eth1 nodad",
        "link set eth1 up",
        "link set far1 up",
        f"neigh add {gateway} lladdr 02:00:00:00:00:02 dev eth1 nud permanent",
        f"route add {far} via {gateway} dev eth1 metric 500",
    )
    dialled = keep(here.call(lambda: ClientCarrier(endpoint(far, 10001))))
    assert str(ip_address(dialled.key.local)) == near
    here.ip("tuntap add vpn0 mode tun", "link set vpn0 up", f"route add {far} dev vpn0 metric 1")
    index = here.call(lambda: socket.if_nametoindex("eth1"))
    before = _sent(here, "eth1")
    dialled.steer(index)
    assert dialled.send(burst(dialled.key, b"steered"))
    wait_until(lambda: _sent(here, "eth1") > before, "a packet on eth1")


def _sent(here: Namespace, device: str) -> int:
    return int(here.run(["cat", f"/sys/class/net/{device}/statistics/tx_packets"]).stdout)


def test_a_full_socket_waits(pair: tuple[ServerCarrier, ClientCarrier], monkeypatch: pytest.MonkeyPatch) -> None:
    port, dialled = pair
    monkeypatch.setattr(dialled, "_transmit", lambda *_: errno.EAGAIN)
    assert not dialled.send(burst(dialled.key, b"one"))
    assert not dialled.send(burst(dialled.key, bytes(100), 10))
    assert dialled.counters.sent == dialled.counters.send_full == 0
    monkeypatch.undo()
    assert dialled.send(burst(dialled.key, bytes(100), 10))
    assert len(cut(take(port, 10))) == 10


def test_nobody_has_the_port(pair: tuple[ServerCarrier, ClientCarrier]) -> None:
    port, dialled = pair
    port.close()
    assert not dialled.refused()
    assert dialled.send(burst(dialled.key, b"hello?"))
    poller = select.poll()
    poller.register(dialled.fileno(), select.POLLIN)
    assert poller.poll(PATIENCE * 1000)
    assert dialled.receive() == []
    assert dialled.refused()
    assert not dialled.refused(), "told once"


def test_a_strangers_datagram_does_not_reach_a_client(pair: tuple[ServerCarrier, ClientCarrier]) -> None:
    port, dialled = pair
    family = socket.AF_INET if len(dialled.key.local) == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"forged", (str(ip_address(dialled.key.local)), dialled.key.local_port))
    dialled.send(burst(dialled.key, b"x"))
    (item,) = take(port, 1)
    port.send(burst(item.key, b"answer"))
    assert cut(take(dialled, 1)) == [b"answer"]


def test_source_ports_come_from_the_range(here: Namespace, keep: Keep) -> None:
    here.ip("link set lo up", "address add 10.96.0.7/32 dev lo")

    def dial() -> ClientCarrier:
        return ClientCarrier(
            endpoint("127.0.0.1", 10001),
            source=ip_address("10.96.0.7"),
            ports=[PortRange(7000, 7001), PortRange(7010, 7010)],
        )

    dialled = [keep(here.call(dial)) for _ in range(3)]
    assert {one.key.local_port for one in dialled} == {7000, 7001, 7010}
    assert {one.key.local for one in dialled} == {ip_address("10.96.0.7").packed}
    with pytest.raises(LinkError, match=r"cannot open a UDP flow to 127\.0\.0\.1:10001: address in use") as caught:
        here.call(dial)
    assert "\n" not in str(caught.value)


def test_every_port_or_none(here: Namespace) -> None:
    """A port that somebody has is one clear line, and no socket stays behind."""
    here.ip("link set lo up")
    foreign = here.socket(socket.AF_INET, socket.SOCK_DGRAM)
    foreign.bind(("127.0.0.1", 10003))
    ranges = [PortRange(10001, 10004)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(LinkError, match=r"cannot serve UDP on 0\.0\.0\.0:10003: address in use") as caught:
        here.call(lambda: serve_ports(ranges))
    assert "\n" not in str(caught.value)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    foreign.close()
    served = here.call(lambda: serve_ports(ranges))
    assert len(served) == 8, "each on IPv4 and IPv6"
    some = here.call(lambda: serve_ports([PortRange(20000, 20001)], [ip_address("127.0.0.1")]))
    assert [str(one.endpoint) for one in some] == ["127.0.0.1:20000", "127.0.0.1:20001"]
    for one in (*served, *some):
        one.close()


def test_merged_datagrams_of_a_foreign_sender(keep: Keep) -> None:
    """What another program's UDP_SEGMENT made is told with its size too, an odd last one and all."""
    port = keep(ServerCarrier(endpoint(LOOPBACK[4])))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendmsg([bytes(350)], [(17, 103, struct.pack("@H", 100))], 0, ("127.0.0.1", port.local.port))
        (item,) = take(port, 4)
        assert item.segment_size == 100
        assert [len(one) for one in cut([item])] == [100, 100, 100, 50]
        stranger.sendto(b"", ("127.0.0.1", port.local.port))
        (empty,) = take(port, 1)
        assert (len(empty.data), empty.segment_size) == (0, 0)


@pytest.mark.parametrize("told", [errno.EMSGSIZE, errno.ECONNREFUSED, errno.EHOSTUNREACH])
@pytest.mark.parametrize("size", [0, 500])
def test_what_icmp_said_of_an_earlier_datagram_costs_nothing(told: int, size: int) -> None:
    """The kernel reports it with the next call, which then sends nothing (net/ipv4/udp.c)."""
    server = ServerCarrier(endpoint("127.0.0.1"))
    client = ClientCarrier(server.local)

    class Told:
        """The socket, with an error that waits."""

        errors: ClassVar = [told]

        def __getattr__(self, name: str) -> Any:
            if name in ("send", "sendmsg") and self.errors:
                raise OSError(self.errors.pop(), "told by ICMP")
            return getattr(real, name)

    real, client._socket = client._socket, cast("Any", Told())
    assert client.send(burst(client.key, bytes(1000), size))
    assert client.counters.too_big == client.counters.send_errors == client.counters.sent_singly == 0
    wait_until(lambda: sum(len(item.data) for item in server.receive()) == 1000, "the burst")
    client.close()
    server.close()

"""The packet link over real devices: veth pairs, TUN and loopback in namespaces of their own.  Needs root."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest

from rsock_nf.core.tcp.checksum import checksum, pseudo_header_sum
from rsock_nf.core.types import Buffer, Checksum, IPAddress, Outgoing, Packet, PortRange
from rsock_nf.lab.netns import Namespace
from rsock_nf.link import LinkError, LinkEvent, Match, PortSide, Routing
from rsock_nf.link.linux import arphrd
from rsock_nf.link.linux.af_packet import PacketLink
from rsock_nf.link.linux.mmsg import BatchReader
from rsock_nf.link.linux.sender import MAX_PACKET_BYTES, Sender
from rsock_nf.link.linux.tap import INDEX

PORTS = (PortRange(10001, 10010),)
CLIENT = {4: ip_address("10.9.0.1"), 6: ip_address("fd09::1")}
SERVER = {4: ip_address("10.9.0.2"), 6: ip_address("fd09::2")}
TO_SERVER = Match(PortSide.DESTINATION, tuple(SERVER.values()), PORTS)
TO_CLIENT = Match(PortSide.SOURCE, tuple(SERVER.values()), PORTS)
ETHERTYPE = {4: b"\x08\x00", 6: b"\x86\xdd"}
BLIND = "table inet t { chain c { type filter hook input priority -300; meta l4proto tcp drop; }; }"
"""The hosts' own TCP must not answer with RSTs."""
SHAPE = ("tc", "qdisc", "replace", "dev", "v0", "root", "tbf", "rate", "8kbit", "burst", "2000", "limit")
"""A shaper that holds nearly everything up to a limit of bytes: what it queues stays charged to the socket."""
PATIENCE = 5.0


@dataclass
class Host:
    """A namespace with one end of the wire, and the links that were opened in it."""

    namespace: Namespace
    links: list[PacketLink]
    far_index: int = 0
    """The index of the neighbour's device."""

    def open(
        self, match: Match, device: str | None = "v0", receive_buffer: int = 16 << 20, mark: int = 0
    ) -> PacketLink:
        link = self.namespace.call(lambda: PacketLink(Routing(device, mark), match, receive_buffer=receive_buffer))
        self.links.append(link)
        opened = link._open  # the socket of a device that comes into use: this thread is in another namespace

        def open_inside(ifindex: int) -> Sender | None:
            return self.namespace.call(lambda: opened(ifindex))

        link._open = open_inside  # type: ignore[method-assign]
        return link

    def run(self, *argv: str) -> str:
        return self.namespace.run(list(argv)).stdout

    def index(self, device: str = "v0") -> int:
        return int(self.run("cat", f"/sys/class/net/{device}/ifindex"))

    def mac(self, device: str = "v0") -> bytes:
        return bytes.fromhex(self.run("cat", f"/sys/class/net/{device}/address").strip().replace(":", ""))

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.namespace.close()


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """A client and a server joined by a veth."""
    made: list[Host] = []
    try:
        client = Host(Namespace(f"rsnf-link-{os.getpid()}-c"), [])
        made.append(client)
        server = Host(Namespace(f"rsnf-link-{os.getpid()}-s"), [])
        made.append(server)
        client.namespace.ip(f"link add v0 type veth peer name v0 netns {server.namespace.name}")
        for host, addresses in ((client, CLIENT), (server, SERVER)):
            host.namespace.ip(
                f"addr add {addresses[4]}/24 dev v0", f"addr add {addresses[6]}/64 dev v0 nodad", "link set v0 up"
            )
            host.namespace.nft(BLIND)
        client.far_index, server.far_index = server.index(), client.index()
        yield client, server
    finally:
        for host in made:
            host.close()


@pytest.fixture
def lone() -> Iterator[Host]:
    host = Host(Namespace(f"rsnf-link-{os.getpid()}-l"), [])
    try:
        yield host
    finally:
        host.close()


# -- packets ----------------------------------------------------------------------------------------


def outgoing(
    version: int, payload: bytes, size: int, *, ports: tuple[int, int] = (40000, 10001), **fields: int
) -> Outgoing:
    """A burst from client to server, or back when the source port is the server's; ``fields``: flags, seq."""
    source, destination = CLIENT[version].packed, SERVER[version].packed
    if ports[0] < ports[1]:
        source, destination = destination, source
    length = 20 + len(payload)
    pseudo = pseudo_header_sum(source, destination, length)
    tcp = struct.pack("!HHIIBBHHH", *ports, fields.get("seq", 1000), 1, 0x50, fields.get("flags", 0x18), 502, pseudo, 0)
    if version == 4:
        ip = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0x4000, 64, 6, 0, source, destination))
        struct.pack_into("!H", ip, 10, checksum(bytes(ip)))
    else:
        ip = bytearray(struct.pack("!IHBB16s16s", 6 << 28 | 0x12345, length, 6, 64, source, destination))
    pieces: list[Buffer] = [payload[: len(payload) // 3], memoryview(payload)[len(payload) // 3 :]]
    return Outgoing(bytes(ip) + tcp, pieces, len(payload), size)


def toward(host: Host, burst: Outgoing) -> Outgoing:
    """``burst`` as an answer to a packet from ``host``: no next hop is looked up."""
    received = bytes(6) + host.mac() + ETHERTYPE[burst.headers[0] >> 4]
    return burst._replace(reply_to=INDEX.pack(host.far_index) + received)


def text(length: int) -> bytes:
    return bytes(n * 31 + (n >> 8) & 0xFF for n in range(length))


def payload_of(data: bytes) -> bytes:
    ip = 20 if data[0] >> 4 == 4 else 40
    end = struct.unpack_from("!H", data, 2)[0] if ip == 20 else 40 + struct.unpack_from("!H", data, 4)[0]
    return data[ip + 20 : end]


def collect(link: PacketLink, wanted: int) -> list[tuple[bytes, int, Checksum, bytes]]:
    """Copies of what arrives until ``wanted`` payload bytes are there."""
    got: list[tuple[bytes, int, Checksum, bytes]] = []
    size = 0
    while size < wanted:
        assert select.select([link.fileno()], [], [], PATIENCE)[0], f"{size} of {wanted} bytes arrived"
        packets: list[Packet] = link.receive(64)
        got += [(bytes(p.data), p.segment_size, p.checksum, p.link_header) for p in packets]
        size = sum(len(payload_of(data)) for data, *_ in got)
    return got


def assert_checksums(data: bytes) -> None:
    """Every field as scapy would fill it in."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6

    layers: Any = (IP if data[0] >> 4 == 4 else IPv6)(data)
    again = layers.copy()
    del again[TCP].chksum
    if data[0] >> 4 == 4:
        del again.chksum
    assert bytes(again) == data


# -- bursts over a veth -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_a_burst_arrives_whole(hosts: tuple[Host, Host], version: int) -> None:
    client, server = hosts
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    payload = text(44 * 1400 - 100)
    received = INDEX.pack(client.index()) + client.mac() + server.mac() + ETHERTYPE[version]
    assert near.send([outgoing(version, payload, 1400)._replace(reply_to=received)]) == 1
    ((data, size, state, link_header),) = collect(far, len(payload))
    assert payload_of(data) == payload
    assert (size, state) == (1400, Checksum.PARTIAL)
    assert link_header == INDEX.pack(server.index()) + server.mac() + client.mac() + ETHERTYPE[version]
    sender, receiver = near.counters(), far.counters()
    assert (sender.sent_packets, sender.sent_segments, sender.sent_bytes) == (1, 44, len(data))
    assert (receiver.received_packets, receiver.received_bytes, receiver.receive_drops) == (1, len(data), 0)
    # ... and the answer goes back by the link header it came with.
    answer = outgoing(version, b"answer", 0, ports=(10001, 40000))._replace(reply_to=link_header)
    assert far.send([answer]) == 1
    assert payload_of(collect(near, 6)[0][0]) == b"answer"


@pytest.mark.parametrize("version", [4, 6])
def test_a_device_without_offload_makes_segments_with_right_checksums(hosts: tuple[Host, Host], version: int) -> None:
    client, server = hosts
    client.run("ethtool", "-K", "v0", "tx", "off", "tso", "off", "gso", "off")
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    payload = text(10 * 1400 - 99)
    assert near.send([toward(server, outgoing(version, payload, 1400))]) == 1
    got = collect(far, len(payload))
    assert len(got) == 10
    assert b"".join(payload_of(data) for data, *_ in got) == payload
    for data, size, state, _ in got:
        assert (size, state) == (0, Checksum.VERIFY)
        assert_checksums(data)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [0, 700, 900])
def test_a_single_segment(hosts: tuple[Host, Host], version: int, size: int) -> None:
    client, server = hosts
    client.run("ethtool", "-K", "v0", "tx", "off")
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    assert near.send([toward(server, outgoing(version, text(700), size))]) == 1
    ((data, segment_size, _, _),) = collect(far, 700)
    assert segment_size == 0
    assert_checksums(data)


def test_many_bursts_in_one_call_arrive_in_order(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    bursts = [toward(server, outgoing(4 + n % 2 * 2, bytes([n]) * 2000, 1000)) for n in range(50)]
    assert near.send(bursts) == 50
    assert [payload_of(data)[0] for data, *_ in collect(far, 100_000)] == list(range(50))


SO_MARK = 36  # asm-generic/socket.h


def test_packets_carry_the_mark(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    client.namespace.nft(
        "table netdev m { chain c { type filter hook egress device v0 priority 0; meta mark 51820 counter; }; }"
    )
    near, far = client.open(TO_CLIENT, mark=51820), server.open(TO_SERVER)
    near.send([toward(server, outgoing(4, b"marked", 0))])
    collect(far, 6)
    assert only_sender(near)._socket.getsockopt(socket.SOL_SOCKET, SO_MARK) == 51820
    assert "counter packets 1 " in client.run("nft", "list", "table", "netdev", "m")


def test_budget_and_validity(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    assert far.receive(10) == []
    near.send([toward(server, outgoing(4, bytes([n]), 0)) for n in range(5)])
    assert [len(far.receive(3)), len(far.receive(3)), len(far.receive(3))] == [3, 2, 0]


def test_the_filter_hides_what_is_not_ours(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    near.send([toward(server, outgoing(4, b"x", 0, ports=(40000, port))) for port in (10000, 10001, 10011)])
    assert [data[22:24] for data, *_ in collect(far, 1)] == [struct.pack("!H", 10001)]
    far.rematch(Match(PortSide.DESTINATION, (SERVER[4],), (PortRange(10011, 10011),)))
    near.send([toward(server, outgoing(4, b"x", 0, ports=(40000, port))) for port in (10001, 10011)])
    assert [data[22:24] for data, *_ in collect(far, 1)] == [struct.pack("!H", 10011)]
    assert far.counters().received_packets == 2


def test_own_packets_are_not_received(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near = client.open(TO_SERVER)  # a filter that our own packets match
    far = server.open(TO_SERVER)
    near.send([toward(server, outgoing(4, b"x", 0))])
    collect(far, 1)
    assert near.receive(8) == []


@pytest.mark.parametrize(("flags", "merged"), [(0x10, True), (0x18, False)], ids=["ack", "psh-on-each"])
def test_gro_merges_what_carries_no_psh(hosts: tuple[Host, Host], flags: int, merged: bool) -> None:  # noqa: FBT001
    client, server = hosts
    client.run("ethtool", "-K", "v0", "tso", "off")
    server.run("ethtool", "-K", "v0", "gro", "on")
    for name, value in (("gro_flush_timeout", 50_000), ("napi_defer_hard_irqs", 2)):
        server.run("sh", "-c", f"echo {value} > /sys/class/net/v0/{name}")
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    singles = [toward(server, outgoing(4, text(1000), 0, seq=1000 * n, flags=flags)) for n in range(20)]
    assert near.send(singles) == 20
    got = collect(far, 20_000)
    if merged:
        assert len(got) < 10
        assert {size for data, size, *_ in got if len(payload_of(data)) > 1000} == {1000}
    else:
        assert [len(payload_of(data)) for data, *_ in got] == [1000] * 20
    assert b"".join(payload_of(data) for data, *_ in got) == text(1000) * 20


# -- next hops ----------------------------------------------------------------------------------------


def resolve(link: PacketLink, remote: IPAddress, ready: Callable[[], bool]) -> None:
    """Follow ``remote`` and serve the link's events until ``ready``."""
    link.routes.follow(remote)
    now = 0.0
    while not ready():
        select.select([link.event_fileno()], [], [], 0.2)
        link.events()
        link.tick(now := now + 1.0)
        assert now < 50, f"{remote} is not resolved"


@pytest.mark.parametrize("version", [4, 6])
def test_next_hop_is_resolved(hosts: tuple[Host, Host], version: int) -> None:
    client, server = hosts
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    burst = outgoing(version, b"hello", 0)
    assert near.send([burst]) == 1
    assert near.counters().unresolved == 1

    def sent() -> bool:
        near.send([burst])
        return near.counters().sent_packets == 1

    resolve(near, SERVER[version], sent)
    collect(far, 5)
    assert near.routes.source_for(SERVER[version]) == CLIENT[version]


# -- sizes and refusals -------------------------------------------------------------------------------


def test_what_does_not_fit_is_not_sent(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    too_big = [
        outgoing(4, text(1461), 0),  # one segment of 1,501 bytes
        outgoing(4, text(6000), 3000),  # the kernel would take this one
        outgoing(6, text(1441 * 2), 1441),
        outgoing(4, text(65_000), 1400),  # IP length fits, the frame is above what devices take
    ]
    fits = [outgoing(4, text(1460), 0), outgoing(4, text(2920), 1460), outgoing(6, text(2880), 1440)]
    assert near.send([toward(server, b) for b in too_big + fits]) == 7
    got = collect(far, 1460 + 2920 + 2880)
    assert [len(payload_of(data)) for data, *_ in got] == [1460, 2920, 2880]
    assert near.counters().too_big == 4
    largest = MAX_PACKET_BYTES - 40
    assert near.send([toward(server, outgoing(4, text(largest), 1400))]) == 1
    assert len(collect(far, largest)) == 1


def test_a_smaller_mtu_is_told(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near = client.open(TO_CLIENT)
    assert near.mtu == 1500
    client.namespace.ip("link set v0 mtu 1300")
    assert near.send([toward(server, outgoing(4, text(1400), 0))]) == 1
    assert near.counters().too_big == 1
    assert LinkEvent.MTU in near.events()
    assert near.mtu == 1300


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOMEM])
def test_gso_goes_off_only_when_the_first_segment_alone_is_taken(hosts: tuple[Host, Host], error: int) -> None:
    client, server = hosts
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    near.routes.follow(SERVER[4])
    near.send([toward(server, outgoing(4, b"x", 0))])
    sender = only_sender(near)
    accepted = sender._emit
    refuse_all = True

    def without_gso(frame: bytes, headers: bytes) -> None:
        if refuse_all or frame[1]:  # gso_type
            raise OSError(error, os.strerror(error))
        accepted(frame, headers)

    sender._emit = without_gso  # type: ignore[method-assign]
    before = near.max_burst_bytes
    burst = toward(server, outgoing(4, text(5000), 1400))
    assert near.send([burst]) == 1
    near.events()
    counters = near.counters()
    assert (near.max_burst_bytes, counters.send_errors + counters.send_full) == (before, 1)
    refuse_all = False
    assert near.send([burst, burst]) == 2
    assert LinkEvent.MTU in near.events()
    assert near.max_burst_bytes == 0
    got = collect(far, 10_001)[1:]
    assert b"".join(payload_of(data) for data, *_ in got) == text(5000) * 2
    assert [len(payload_of(data)) for data, *_ in got] == [1400, 1400, 1400, 800] * 2
    for data, *_ in got:
        assert_checksums(data)
    assert near.counters().sent_segments == 9


def test_a_device_whose_bursts_get_lost_gets_none(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    near.routes.follow(SERVER[4])
    near.send([toward(server, outgoing(4, b"x", 0))])
    sender = only_sender(near)
    veth = near.routes.host.get(sender.ifindex)
    assert veth is not None
    sender.follow(veth)
    assert sender.max_burst_bytes > 0
    sender.follow(veth._replace(kind="ppp", link_type=arphrd.PPP))
    assert near.send([toward(server, outgoing(4, text(5000), 1400))]) == 1
    got = collect(far, 5001)[1:]
    assert [(len(payload_of(data)), size) for data, size, *_ in got] == [(1400, 0), (1400, 0), (1400, 0), (800, 0)]


def only_sender(link: PacketLink) -> Sender:
    (sender,) = link._senders.values()
    return sender


def test_a_full_send_buffer_stops_and_a_full_queue_drops(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near = client.open(TO_CLIENT)
    near.send([toward(server, outgoing(4, b"x", 0))])
    only_sender(near)._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    client.run(*SHAPE, "10000000")
    bursts = [toward(server, outgoing(4, text(1400), 0))] * 500
    done = near.send(bursts)
    assert 0 < done < 500
    assert near.counters().sent_packets == done + 1
    assert not select.select([], [near.write_fileno()], [], 0)[1]
    client.run("tc", "qdisc", "del", "dev", "v0", "root")  # drops the queue
    assert select.select([], [near.write_fileno()], [], PATIENCE)[1]
    client.run(*SHAPE, "3000")
    assert near.send(bursts) == 500
    counters = near.counters()
    assert counters.send_full > 400
    assert counters.send_full + counters.sent_packets == done + 501


def test_a_burst_cut_in_software_is_never_sent_twice(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near = client.open(TO_CLIENT)
    near.send([toward(server, outgoing(4, b"x", 0))])
    only_sender(near).max_burst_bytes = 0
    only_sender(near)._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
    client.run(*SHAPE, "10000000")
    burst = toward(server, outgoing(4, text(44 * 1400), 1400))
    assert near.send([burst, burst]) == 1
    counters = near.counters()
    assert 0 < counters.sent_segments < 44
    assert counters.send_full == 1


def test_a_full_receive_buffer_is_counted_once(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    far.tap._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    near.send([toward(server, outgoing(4, text(1400), 0))] * 100)
    kept = 0
    while packets := far.receive(64):
        kept += len(packets)
    assert 0 < kept < 100
    for _ in range(2):  # reading PACKET_STATISTICS resets it
        assert far.counters().receive_drops == 100 - kept


def test_truncated_packets_are_counted(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    far.tap._reader = BatchReader(4, 200, names=20)
    near.send([toward(server, outgoing(4, text(size), 0)) for size in (100, 500, 101)])
    got = collect(far, 201)
    assert [len(payload_of(data)) for data, *_ in got] == [100, 101]
    assert far.counters().truncated == 1


# -- what happens to the device -----------------------------------------------------------------------


def events_until(link: PacketLink, true: Callable[[], bool]) -> set[LinkEvent]:
    """Serve the link's events until ``true``; all of them."""
    found = set(link.events())
    while not true():
        assert select.select([link.event_fileno()], [], [], PATIENCE)[0], f"nothing came of it; so far {found}"
        found.update(link.events())
    return found


def test_down_up_and_deleted(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER)
    burst = toward(server, outgoing(4, b"x", 0))
    assert near.send([burst]) == 1
    client.namespace.ip("link set v0 down")
    assert near.receive(8) == []
    assert near.send([burst]) == 1
    assert near.counters().send_errors == 1
    assert LinkEvent.DOWN in near.events()
    assert not near.up
    client.namespace.ip("link set v0 up")
    assert LinkEvent.UP in events_until(near, lambda: near.up)
    assert near.send([burst]) == 1
    collect(far, 2)
    client.namespace.ip("link delete v0")
    assert near.send([burst]) == 1
    assert LinkEvent.DOWN in near.events()
    assert near.send([burst]) == 1
    assert near.counters().send_errors == 3


def test_a_named_device_that_is_made_anew_is_used_again(hosts: tuple[Host, Host]) -> None:
    """It has another index then: the filter has to name that one."""
    client, server = hosts
    far = server.open(TO_SERVER)
    client.namespace.ip("link delete v0")
    far.events()
    client.namespace.ip(
        f"link add v0 type veth peer name v0 netns {server.namespace.name}", f"addr add {CLIENT[4]}/24 dev v0",
        "link set v0 up",
    )  # fmt: skip
    server.namespace.ip(f"addr add {SERVER[4]}/24 dev v0", "link set v0 up")
    assert LinkEvent.UP in events_until(far, lambda: far.up)
    near = client.open(TO_CLIENT)
    server.far_index = client.index()
    near.send([toward(server, outgoing(4, b"x", 0))])
    collect(far, 1)


def test_close_is_idempotent_and_keeps_the_counters(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    near = client.open(TO_CLIENT)
    near.send([toward(server, outgoing(4, b"x", 0))])
    near.close()
    near.close()
    assert near.counters().sent_packets == 1


# -- other devices ------------------------------------------------------------------------------------

TUNSETIFF, TUNSETLINK, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x400454CD, 0x1, 0x1000


@pytest.fixture
def tun(lone: Host) -> Iterator[int]:
    """The descriptor of a TUN device ``t0`` with the client's addresses."""

    def make() -> int:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", b"t0", IFF_TUN | IFF_NO_PI))
        return descriptor

    descriptor = lone.namespace.call(make)
    try:
        lone.namespace.ip(f"addr add {CLIENT[4]}/24 dev t0", f"addr add {CLIENT[6]}/64 dev t0", "link set t0 up")
        yield descriptor
    finally:
        os.close(descriptor)


def read_tcp(descriptor: int) -> bytes:
    """The next TCP packet out of a TUN device."""
    while True:
        assert select.select([descriptor], [], [], PATIENCE)[0]
        packet = os.read(descriptor, 65536)
        if packet[9 if packet[0] >> 4 == 4 else 6] == 6:
            return packet


@pytest.mark.parametrize("version", [4, 6])
def test_tun(lone: Host, tun: int, version: int) -> None:
    link = lone.open(TO_CLIENT, "t0")
    link.routes.follow(SERVER[version])
    payload = text(5000)
    assert link.send([outgoing(version, payload, 1400), outgoing(version, b"single", 0)]) == 2
    packets = [read_tcp(tun) for _ in range(5)]
    assert b"".join(payload_of(p) for p in packets) == payload + b"single"
    for packet in packets:
        assert_checksums(packet)
    answer = outgoing(version, b"answer", 0, ports=(10001, 40000))
    os.write(tun, answer.headers + b"answer")
    ((data, size, state, link_header),) = collect(link, 6)
    assert (payload_of(data), size, state) == (b"answer", 0, Checksum.VERIFY)
    assert link_header == INDEX.pack(lone.index("t0"))


@pytest.mark.parametrize("version", [4, 6])
def test_loopback(lone: Host, version: int) -> None:
    for address in (CLIENT, SERVER):
        lone.namespace.ip(f"addr add {address[version]} dev lo")
    link = lone.open(TO_SERVER, "lo")
    link.routes.follow(SERVER[version])
    payload = text(30_000)
    assert link.send([outgoing(version, payload, 1400)]) == 1
    ((data, size, _, _),) = collect(link, len(payload))
    assert (payload_of(data), size) == (payload, 1400)


# -- every device, each packet once ----------------------------------------------------------------------


def bridge(server: Host) -> None:
    server.namespace.ip("link add br0 type bridge", "link set v0 master br0", "addr flush dev v0", "link set br0 up")
    server.namespace.ip(*(f"addr add {address} dev br0" for address in (f"{SERVER[4]}/24", f"{SERVER[6]}/64 nodad")))


def macvlan(server: Host) -> None:
    """Beside its parent, which has its own link address: packets come to either."""
    server.namespace.ip("link add m0 link v0 type macvlan mode bridge", "addr flush dev v0", "link set m0 up")
    server.namespace.ip(f"addr add {SERVER[4]}/24 dev m0")


@pytest.mark.parametrize("layout", [None, bridge, macvlan], ids=["plain", "bridge", "macvlan"])
def test_each_packet_once_on_whatever_device_it_comes(
    hosts: tuple[Host, Host], layout: Callable[[Host], None] | None
) -> None:
    client, server = hosts
    mac = server.mac()
    if layout is not None:
        layout(server)
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER, None)
    received = INDEX.pack(client.index()) + client.mac() + mac + ETHERTYPE[4]
    for number in range(5):
        near.send([outgoing(4, bytes([number]), 0)._replace(reply_to=received)])
    got = collect(far, 5)
    assert [payload_of(data) for data, *_ in got] == [bytes([number]) for number in range(5)]
    assert far.receive(8) == []


def test_a_macvlan_takes_its_own_packets_once(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    macvlan(server)
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER, None)
    received = INDEX.pack(client.index()) + client.mac() + server.mac("m0") + ETHERTYPE[4]
    near.send([outgoing(4, bytes([number]), 0)._replace(reply_to=received) for number in range(5)])
    assert len(collect(far, 5)) == 5
    assert far.receive(8) == []


def test_packets_for_another_host_are_not_taken(hosts: tuple[Host, Host]) -> None:
    client, server = hosts
    server.run("ip", "link", "set", "v0", "promisc", "on")
    near, far = client.open(TO_CLIENT), server.open(TO_SERVER, None)
    other = INDEX.pack(client.index()) + bytes(6) + bytes.fromhex("020000000099") + ETHERTYPE[4]
    near.send([outgoing(4, b"other", 0)._replace(reply_to=other), toward(server, outgoing(4, b"ours", 0))])
    assert [payload_of(data) for data, *_ in collect(far, 4)] == [b"ours"]


@pytest.mark.parametrize("version", [4, 6])
def test_a_server_with_a_thousand_addresses(hosts: tuple[Host, Host], version: int) -> None:
    """A filter cannot name so many.  What is for another host, and only forwarded here, is still not taken."""
    client, server = hosts
    others = [ip_address(f"10.{100 + number // 256}.{number % 256}.1") for number in range(1000)]
    near = client.open(TO_CLIENT)
    far = server.open(Match(PortSide.DESTINATION, (*others, SERVER[version]), PORTS), None)
    near.send([toward(server, outgoing(version, b"ours", 0))])
    assert [payload_of(data) for data, *_ in collect(far, 4)] == [b"ours"]
    far.rematch(Match(PortSide.DESTINATION, tuple(others), PORTS))
    near.send([toward(server, outgoing(version, b"other", 0))])
    assert select.select([far.fileno()], [], [], PATIENCE)[0]
    assert far.receive(8) == []


def test_an_answer_leaves_by_the_device_that_brought_the_question(hosts: tuple[Host, Host]) -> None:
    """The link knows no way to the client at all."""
    client, server = hosts
    near, far = client.open(TO_CLIENT, None), server.open(TO_SERVER, None)
    received = INDEX.pack(client.index()) + client.mac() + server.mac() + ETHERTYPE[4]
    near.send([outgoing(4, b"question", 0)._replace(reply_to=received)])
    ((_, _, _, link_header),) = collect(far, 8)
    assert far.send([outgoing(4, b"answer", 0, ports=(10001, 40000))._replace(reply_to=link_header)]) == 1
    assert payload_of(collect(near, 6)[0][0]) == b"answer"
    assert far.counters().unresolved == 0


# -- opening ------------------------------------------------------------------------------------------


def test_missing_device(lone: Host) -> None:
    with pytest.raises(LinkError, match=r"^nope0: no such device"):
        lone.open(TO_CLIENT, "nope0")
    with pytest.raises(LinkError, match=r"not a device name"):
        lone.open(TO_CLIENT, "a-name-of-sixteen")


def test_device_that_is_down(lone: Host) -> None:
    lone.namespace.ip("link add d0 type veth peer name d1")
    with pytest.raises(LinkError, match=r"^d0: the device is down: ip link set d0 up$"):
        lone.open(TO_CLIENT, "d0")


def test_unknown_kind_of_device(lone: Host, tun: int) -> None:
    lone.namespace.ip("link set t0 down")
    fcntl.ioctl(tun, TUNSETLINK, 801)  # ARPHRD_IEEE80211
    lone.namespace.ip("link set t0 up")
    with pytest.raises(LinkError, match=r"^t0: link type 801 is not supported"):
        lone.open(TO_CLIENT, "t0")


def test_nothing_to_match(lone: Host) -> None:
    with pytest.raises(LinkError, match=r"^lo: a filter needs"):
        lone.open(Match(PortSide.SOURCE, (), PORTS), "lo")


OPEN_LO = (
    "from ipaddress import ip_address\n"
    "from rsock_nf.core.types import PortRange\n"
    "from rsock_nf.link import LinkError, Match, PortSide, Routing, open_link\n"
    "try: link = open_link(Routing('lo'), Match(PortSide.SOURCE, (ip_address('127.0.0.9'),), (PortRange(1, 1),)))\n"
    "except LinkError as error: print(error)\n"
    "else: print('open'); link.close()\n"
)


@pytest.mark.parametrize(
    ("without", "says"),
    [
        ("-net_raw", "lo: no permission for a packet socket: run as root or grant CAP_NET_RAW\n"),
        ("-net_admin", "open\n"),  # with buffers as large as sysctl allows
    ],
)
def test_missing_privilege(without: str, says: str) -> None:
    argv = ["setpriv", "--bounding-set", without, sys.executable, "-c", OPEN_LO]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (result.stdout, result.stderr) == (says, "")

"""The bpf link against a simulated device of each system: how it is opened, what a buffer gives, what a write makes."""

from __future__ import annotations

import dataclasses
import select
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from rsock_nf.core.types import Checksum, PortRange
from rsock_nf.link import LinkError, LinkEvent, Match, PortSide
from rsock_nf.link.bsd.abi import Abi, load
from rsock_nf.link.bsd.bpf_device import BpfLink
from rsock_nf.link.kernel_routes import KernelRoutes
from tests.link.bsd.packets import (
    AT_CLIENT,
    AT_SERVER,
    CLIENT_MAC,
    SERVER,
    SERVER_MAC,
    TO_SERVER,
    outgoing,
    payload_of,
    segment,
)
from tests.link.bsd.simulated import BUSY_NODES, KERNELS, LAST_NODE, LINK_BYTES, SimulatedBpf, SocketWire

SYSTEMS = tuple(KERNELS)
ALL_MODELS = [
    ("freebsd", "i386"),
    ("freebsd", "arm"),
    ("netbsd", "i386"),
    ("openbsd", "arm"),
    *((s, "lp64") for s in SYSTEMS),
]


class Host:
    """A simulated host, the link on it, and the far end of its wire."""

    def __init__(self, abi: Abi, dlt: str = "DLT_EN10MB") -> None:
        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.far.setblocking(False)
        self.near = near
        self.kernel = SimulatedBpf(abi, SocketWire(near), dlt=dlt)
        self.links: list[BpfLink] = []

    def open(self, match: Match | None = AT_SERVER, device: str = "em0") -> BpfLink:
        link = BpfLink(device, match, abi=self.kernel.abi, syscalls=self.kernel)
        self.links.append(link)
        return link

    def arrives(self, *frames: bytes) -> None:
        for frame in frames:
            self.far.send(frame)

    def left(self) -> list[bytes]:
        """What went out on the wire."""
        found = []
        while True:
            try:
                found.append(self.far.recv(1 << 18))
            except BlockingIOError:
                return found

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    made: list[Host] = []
    yield made
    for host in made:
        host.close()


@pytest.fixture(params=SYSTEMS)
def host(request: pytest.FixtureRequest, hosts: list[Host]) -> Host:
    hosts.append(Host(load(request.param)))
    return hosts[0]


class NoHops(KernelRoutes):
    """``NextHopSource`` of a link that only answers."""

    mtu = 1500
    up = True

    def look_again(self) -> None: ...
    def header(self, remote: bytes) -> None: ...


def frames(count: int, size: int = 100, version: int = 4) -> list[bytes]:
    return [TO_SERVER[version] + segment(version, bytes([n % 256]) * size) for n in range(count)]


def readable(link: BpfLink) -> bool:
    return bool(select.select([link.fileno()], [], [], 0)[0])


# -- opening ----------------------------------------------------------------------------------------------


def test_ioctls_come_in_the_order_that_bpf_wants(host: Host) -> None:
    host.open()
    log = host.kernel.log
    order = ["BIOCSBLEN", "BIOCSETIF", "BIOCGDLT", "BIOCSETF"]
    assert [name for name in log if name in order] == order
    assert {"BIOCIMMEDIATE", "BIOCSHDRCMPLT", "BIOCVERSION"} < set(log)
    (device,) = host.kernel._devices.values()
    assert device.incoming_only
    assert device.keep_source
    assert not device.blocking
    assert device.size == min(host.kernel.clamp, host.kernel.abi["BPF_MAXBUFSIZE"])


def test_a_client_locks_its_filter_and_a_server_may_change_it(host: Host) -> None:
    host.open(AT_CLIENT)
    can_lock = host.kernel.abi.system != "macos"
    assert ("BIOCLOCK" in host.kernel.log) is can_lock
    if can_lock:
        with pytest.raises(LinkError, match="locked"):
            host.links[0].rematch(AT_SERVER)
    host.links.pop().close()
    host.kernel.log.clear()
    server = host.open(AT_SERVER)
    assert "BIOCLOCK" not in host.kernel.log
    host.arrives(TO_SERVER[4] + segment(4, b"old"))
    host.kernel.poll(server.fileno(), select.POLLIN, 0)
    server.rematch(Match(PortSide.DESTINATION, (SERVER[4],), (PortRange(10011, 10011),)))
    host.arrives(TO_SERVER[4] + segment(4, b"old"), TO_SERVER[4] + segment(4, b"new", (40000, 10011)))
    kept = [] if host.kernel.abi.system == "netbsd" else [b"old"]  # which has no BIOCSETFNR
    assert [payload_of(packet.data) for packet in server.receive(64)] == [*kept, b"new"]


def test_a_kernel_older_than_its_headers_has_no_filter_change_without_a_flush(host: Host) -> None:
    link = host.open()
    host.kernel.lacks.add("BIOCSETFNR")
    link.rematch(Match(PortSide.DESTINATION, (SERVER[4],), (PortRange(10011, 10011),)))
    host.arrives(TO_SERVER[4] + segment(4, b"old"), TO_SERVER[4] + segment(4, b"new", (40000, 10011)))
    assert [payload_of(packet.data) for packet in link.receive(64)] == [b"new"]


def test_a_kernel_without_a_lock_gets_a_client_with_a_warning(host: Host) -> None:
    """NetBSD before 10."""
    host.kernel.lacks.add("BIOCLOCK")
    client, server = host.open(AT_CLIENT), host.open(AT_SERVER)
    has_lock = host.kernel.abi.system != "macos"
    warning = "em0: this kernel cannot lock a client's filter (no BIOCLOCK): the tunnel works without it"
    assert client.warnings == ((warning,) if has_lock else ())
    assert server.warnings == ()
    host.arrives(TO_SERVER[4] + segment(4, b"x", (10001, 40000)))
    assert [payload_of(packet.data) for packet in client.receive(64)] == [b"x"]


def test_a_lock_that_is_refused_for_another_reason_is_an_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    if host.kernel.abi.system == "macos":
        return
    _refuses(host, monkeypatch, "BIOCLOCK", "EPERM")
    with pytest.raises(LinkError, match=r"^em0: cannot be set up for bpf: "):
        host.open(AT_CLIENT)
    assert host.kernel._devices == {}


def test_an_ioctl_may_answer_with_any_kind_of_bytes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = host.kernel.ioctl

    def as_bytearray(descriptor: int, request: int, argument: bytes | int) -> bytearray | int:
        answer = real(descriptor, request, argument)
        return answer if isinstance(answer, int) else bytearray(answer)

    monkeypatch.setattr(host.kernel, "ioctl", as_bytearray)
    link = host.open()
    host.arrives(*frames(3))
    assert len(link.receive(64)) == 3


def test_a_system_without_clones_is_searched_for_a_free_node(hosts: list[Host]) -> None:
    host = Host(load("macos"))
    hosts.append(host)
    for _ in range(BUSY_NODES, LAST_NODE + 1):
        host.open()
    host.kernel.opened.clear()
    with pytest.raises(LinkError, match=rf"em0: all {LAST_NODE + 1} bpf devices are in use"):
        host.open()
    assert host.kernel.opened == ["/dev/bpf", *(f"/dev/bpf{n}" for n in range(LAST_NODE + 2))]  # ENXIO ends the search


def test_what_cannot_be_opened_says_why_and_leaves_nothing_open(host: Host) -> None:
    with pytest.raises(LinkError, match=r"^em9: no such interface"):
        host.open(device="em9")
    with pytest.raises(LinkError, match="not an interface name"):
        host.open(device="x" * 16)
    many = tuple(PortRange(100 * n, 100 * n + 50) for n in range(1, 301))
    with pytest.raises(LinkError, match="bpf takes 512"):
        host.open(Match(PortSide.DESTINATION, tuple(SERVER.values()), many))
    host.kernel.dlt = "DLT_PPP"
    host.kernel.abi = Abi(host.kernel.abi.system, {**host.kernel.abi.numbers, "DLT_PPP": 9})
    with pytest.raises(LinkError, match="link type 9 is not supported"):
        host.open()
    assert host.kernel._devices == {}


@pytest.mark.parametrize(
    ("error", "words"), [("EACCES", "run as root"), ("ENOENT", "kernel with bpf"), ("EIO", "cannot be opened")]
)
def test_a_node_that_does_not_open(host: Host, monkeypatch: pytest.MonkeyPatch, error: str, words: str) -> None:
    def refuse(path: str, flags: int) -> int:  # noqa: ARG001
        raise host.kernel._error(error)

    monkeypatch.setattr(host.kernel, "open", refuse)
    with pytest.raises(LinkError, match=words):
        host.open()


@pytest.mark.parametrize("request_name", ["BIOCVERSION", "BIOCGDLT"])
def test_an_ioctl_that_no_system_should_refuse(host: Host, monkeypatch: pytest.MonkeyPatch, request_name: str) -> None:
    _refuses(host, monkeypatch, request_name, "EINVAL")
    with pytest.raises(LinkError, match=r"^em0: cannot be set up for bpf: "):
        host.open()
    assert host.kernel._devices == {}


def _refuses(host: Host, monkeypatch: pytest.MonkeyPatch, request_name: str, error: str) -> None:
    ioctl = host.kernel.ioctl

    def refuse(descriptor: int, request: int, argument: bytes | int = 0) -> bytes | int:
        if request == host.kernel.abi[request_name]:
            raise host.kernel._error(error)
        return ioctl(descriptor, request, argument)

    monkeypatch.setattr(host.kernel, "ioctl", refuse)


def test_another_major_version_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        host.kernel, "abi", Abi(host.kernel.abi.system, {**host.kernel.abi.numbers, "BPF_MAJOR_VERSION": 2})
    )
    kernel = host.kernel
    with pytest.raises(LinkError, match=r"version 2\.1, 1\.1 is wanted"):
        BpfLink("em0", AT_SERVER, abi=kernel.abi.system, syscalls=kernel)


def test_without_a_match_nothing_is_received(host: Host) -> None:
    link = host.open(None)
    host.arrives(*frames(3))
    assert link.receive(64) == []
    link.rematch(AT_SERVER)
    host.arrives(*frames(3))
    assert len(link.receive(64)) == 3


# -- in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("system", "model"), ALL_MODELS)
@pytest.mark.parametrize("dlt", LINK_BYTES)
@pytest.mark.parametrize("version", [4, 6])
def test_packets_of_every_link_type_come_whole(
    hosts: list[Host], system: str, model: str, dlt: str, version: int
) -> None:
    abi = load(system, model)
    hosts.append(host := Host(abi, dlt))
    link = host.open()
    header = link_header(abi, dlt, version)
    host.arrives(*[header + segment(version, bytes([n]) * n) for n in range(50)])
    packets = link.receive(64)
    assert [payload_of(packet.data) for packet in packets] == [bytes([n]) * n for n in range(50)]
    assert {packet.link_header for packet in packets} == {header}
    assert {(packet.segment_size, packet.checksum) for packet in packets} == {(0, Checksum.VERIFY)}
    counters = link.counters()
    assert (counters.received_packets, counters.truncated, counters.receive_drops) == (50, 0, 0)
    assert counters.received_bytes == sum(len(packet.data) for packet in packets)


def link_header(abi: Abi, dlt: str, version: int) -> bytes:
    """DLT_NULL has the address family in the host's byte order, DLT_LOOP in the network's (bpf(4),
    pcap-linktype(7))."""
    if dlt == "DLT_EN10MB":
        return TO_SERVER[version]
    family = abi["AF_INET" if version == 4 else "AF_INET6"]
    return {"DLT_NULL": struct.pack("=I", family), "DLT_LOOP": struct.pack("!I", family), "DLT_RAW": b""}[dlt]


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_dlt_null_in_either_byte_order(byteorder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A big-endian host's DLT_NULL; ours is little-endian."""
    from rsock_nf.link.bpf_filter import null_layout
    from rsock_nf.link.bsd import bpf_descriptor

    abi = load("freebsd")
    monkeypatch.setattr(sys, "byteorder", byteorder)
    monkeypatch.setattr(bpf_descriptor, "null_layout", lambda family, order=byteorder: null_layout(family, order))
    host = Host(abi, "DLT_NULL")
    try:
        link = host.open()
        for version, family in ((4, 2), (6, 28)):
            header = family.to_bytes(4, byteorder)  # type: ignore[arg-type]
            host.arrives(header + segment(version, b"x"))
            assert [packet.link_header for packet in link.receive(64)] == [header]
            assert link.send([outgoing(version, b"y", 0, (10001, 40000))]) == 1
            assert host.left()[0][:4] == header
    finally:
        host.close()


@pytest.mark.parametrize(
    ("system", "dlt", "hdrlen"),
    [
        ("freebsd", "DLT_EN10MB", 26),  # these three were read on real kernels
        ("freebsd", "DLT_NULL", 28),
        ("netbsd", "DLT_EN10MB", 34),
        ("openbsd", "DLT_EN10MB", 30),
        ("macos", "DLT_EN10MB", 18),
    ],
)
def test_the_simulated_kernel_pads_as_the_real_ones(hosts: list[Host], system: str, dlt: str, hdrlen: int) -> None:
    hosts.append(host := Host(load(system), dlt))
    link = host.open()
    host.arrives(link_header(host.kernel.abi, dlt, 4) + segment(4, b"x"))
    buffer = host.kernel.read(link.fileno(), link._bpf.buffer_bytes)
    assert struct.unpack_from("=H", buffer, host.kernel.abi["offsetof(struct bpf_hdr, bh_hdrlen)"]) == (hdrlen,)


@pytest.mark.parametrize("unit", [4, 8, 16, 64, 256])
def test_any_alignment(hosts: list[Host], unit: int) -> None:
    numbers = load("freebsd").numbers
    hosts.append(host := Host(Abi("freebsd", {**numbers, "BPF_WORDALIGN(1)": unit})))
    link = host.open()
    sent = [TO_SERVER[4] + segment(4, bytes(n)) for n in (1, 2, 3, 17, 300, 0, 64)]
    host.arrives(*sent)
    assert [bytes(packet.link_header + packet.data) for packet in link.receive(64)] == sent


def test_an_idle_device_gives_nothing_and_is_not_readable(host: Host) -> None:
    link = host.open()
    assert not readable(link)
    assert link.receive(64) == []
    assert link.events() == []
    host.arrives(*frames(2))
    assert readable(link)
    assert len(link.receive(64)) == 2
    assert not readable(link)
    assert link.receive(64) == []


def test_a_whole_buffer_comes_at_once_whatever_the_budget(host: Host) -> None:
    """What was left in our hands would not make the device readable."""
    link = host.open()
    host.kernel.poll(link.fileno(), select.POLLIN, 0)
    for _ in range(20):
        host.arrives(*frames(10))
        host.kernel.poll(link.fileno(), select.POLLIN, 0)
    assert len(link.receive(64)) == 200
    assert not readable(link)


def test_full_buffers_drop_and_the_drops_are_counted(host: Host) -> None:
    host.kernel.clamp = 4096
    link = host.open()
    for _ in range(4):
        host.arrives(*frames(10, size=1000))
        host.kernel.poll(link.fileno(), select.POLLIN, 0)
    got = [len(link.receive(64)) for _ in range(3)]
    assert got == [3, 3, 0]
    assert link.counters().receive_drops == 40 - 6
    link.tick(0.0)
    assert link.counters().receive_drops == 40 - 6  # bs_drop is a sum already
    link.rematch(AT_SERVER)  # on NetBSD it starts the kernel's count anew
    assert link.counters().receive_drops == 40 - 6


def test_a_counter_that_wraps(host: Host) -> None:
    link = host.open()
    (device,) = host.kernel._devices.values()
    device.dropped = (1 << 32) - 1
    before = link.counters().receive_drops
    device.dropped = (1 << 32) + 9
    assert link.counters().receive_drops == before + 10
    if host.kernel.abi["sizeof(struct bpf_stat)"] > 8:  # NetBSD's is uint64_t
        device.dropped += 1 << 33
        assert link.counters().receive_drops == before + 10 + (1 << 33)


def test_a_packet_above_the_buffer_is_truncated_and_counted(host: Host) -> None:
    host.kernel.clamp = 2048
    link = host.open()
    host.arrives(TO_SERVER[4] + segment(4, bytes(3000)), *frames(1))
    assert [len(payload_of(packet.data)) for packet in link.receive(64) + link.receive(64)] == [100]
    assert link.counters().truncated == 1


def test_our_own_packets_do_not_come_back(host: Host) -> None:
    link = host.open(AT_CLIENT)
    assert link.send([outgoing(4, b"x")._replace(reply_to=bytes(14))]) == 1
    assert len(host.left()) == 1
    own = outgoing(4, b"x", 0, (10001, 40000))._replace(reply_to=bytes(14))  # would pass the filter
    assert link.send([own]) == 1
    assert link.receive(64) == []


def test_merged_segments_stay_one_packet_whose_checksum_is_nobodys_business(host: Host) -> None:
    """LRO: above the MTU, the field as the first segment had it."""
    link = host.open()
    host.arrives(TO_SERVER[4] + segment(4, bytes(5000)))
    (packet,) = link.receive(64)
    assert (packet.segment_size, packet.checksum, len(payload_of(packet.data))) == (0, Checksum.VALID, 5000)


@pytest.mark.parametrize("version", [4, 6])
def test_a_checksum_that_was_left_to_a_nic_is_not_verified(host: Host, version: int) -> None:
    """From the same machine: the field holds the pseudo-header's sum."""
    link = host.open()
    burst = outgoing(version, b"partial")
    host.arrives(TO_SERVER[version] + burst.headers + b"partial", TO_SERVER[version] + segment(version, b"whole!!"))
    assert [packet.checksum for packet in link.receive(64)] == [Checksum.PARTIAL, Checksum.VERIFY]


# -- out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_a_burst_is_written_as_segments_with_right_checksums(host: Host, version: int) -> None:
    link = host.open()
    payload = bytes(range(256)) * 20
    answer = outgoing(version, payload, 1400, (10001, 40000))._replace(reply_to=TO_SERVER[version])
    assert link.send([answer]) == 1
    written = host.left()
    assert b"".join(payload_of(frame[14:]) for frame in written) == payload
    for frame in written:
        assert frame[:12] == CLIENT_MAC + SERVER_MAC  # the received header, reversed, and our MAC kept
        assert_checksums(frame[14:])
    counters = link.counters()
    assert (counters.sent_packets, counters.sent_segments) == (1, 4)
    assert counters.sent_bytes == sum(len(frame) - 14 for frame in written)


def assert_checksums(data: bytes) -> None:
    """Every field as scapy would fill it in."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6

    again = (IP if data[0] >> 4 == 4 else IPv6)(data)
    del again[TCP].chksum
    if data[0] >> 4 == 4:
        del again.chksum
    assert bytes(again) == data


@pytest.mark.parametrize("dlt", ["DLT_NULL", "DLT_LOOP", "DLT_RAW"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_link_without_next_hops_needs_none(hosts: list[Host], system: str, dlt: str) -> None:
    hosts.append(host := Host(load(system), dlt))
    link = host.open()
    for version in (4, 6):
        assert link.send([outgoing(version, b"x", 0, (10001, 40000))]) == 1
        header = link_header(host.kernel.abi, dlt, version)
        (frame,) = host.left()
        assert frame[: len(header)] == header
        assert payload_of(frame[len(header) :]) == b"x"


def test_on_ethernet_an_unknown_next_hop_is_counted(host: Host) -> None:
    link = host.open()
    assert link.send([outgoing(4, b"x")]) == 1
    assert link.counters().unresolved == 1
    assert host.left() == []


def test_what_does_not_fit_is_not_written(host: Host) -> None:
    link = host.open()
    burst = outgoing(4, bytes(3000), 1461)._replace(reply_to=TO_SERVER[4])
    fits = outgoing(4, bytes(3000), 1460)._replace(reply_to=TO_SERVER[4])
    assert link.send([burst, fits]) == 2
    assert link.counters().too_big == 1
    assert len(host.left()) == 3
    host.kernel.mtu = 1400  # lowered under our hands: EMSGSIZE, and the rest of the burst is not tried
    assert link.send([fits]) == 1
    assert link.counters().too_big == 2
    assert host.left() == []


class JumboHops(NoHops):
    mtu = 9000


@pytest.mark.parametrize(("system", "mtu"), [("freebsd", 9000), ("netbsd", 2032), ("openbsd", 9000), ("macos", 9000)])
def test_the_mtu_is_what_bpf_writes(hosts: list[Host], system: str, mtu: int) -> None:
    hosts.append(host := Host(load(system)))
    host.kernel.mtu = 9000
    link = BpfLink("em0", AT_SERVER, abi=host.kernel.abi, syscalls=host.kernel, next_hops=JumboHops())
    host.links.append(link)
    assert link.mtu == mtu
    for size in (mtu - 40, mtu - 39):
        link.send([outgoing(4, bytes(size))._replace(reply_to=TO_SERVER[4])])
    assert [len(frame) for frame in host.left()] == [mtu + 14]
    assert link.counters().too_big == 1
    host.arrives(TO_SERVER[4] + segment(4, bytes(8000)))  # not merged: the interface's own size
    assert [packet.checksum for packet in link.receive(64)] == [Checksum.VERIFY]
    assert link.events() == []
    assert link.mtu == mtu


def test_a_frame_that_bpf_has_no_room_for_is_no_lost_interface(host: Host) -> None:
    link = host.open()
    host.kernel.kernel = dataclasses.replace(host.kernel.kernel, largest=1000)
    link.send([outgoing(4, bytes(1400))._replace(reply_to=TO_SERVER[4])])
    assert link.counters().send_errors == 1
    assert link.events() == []


def test_a_full_queue_is_a_counted_drop(host: Host) -> None:
    link = host.open()
    host.kernel.queue_full = True
    assert link.send([outgoing(4, b"x")._replace(reply_to=TO_SERVER[4])] * 3) == 3
    assert link.counters().send_full == 3


# -- what happens to the interface ---------------------------------------------------------------------------


def test_a_write_while_the_interface_is_down_is_news_and_works_again(host: Host) -> None:
    link = host.open()
    packet = outgoing(4, b"x")._replace(reply_to=TO_SERVER[4])
    host.kernel.up = False
    link.send([packet])
    assert link.events() == [LinkEvent.DOWN]
    link.send([packet])
    assert link.events() == []
    assert link.counters().send_errors == 2
    host.kernel.up = True
    link.send([packet])
    assert link.events() == [LinkEvent.UP]
    link.send([packet])
    assert link.events() == []
    assert len(host.left()) == 2


def test_an_interface_that_goes_wakes_nobody_and_is_found_by_whoever_asks(host: Host) -> None:
    link = host.open()
    host.arrives(*frames(1))
    host.kernel.poll(link.fileno(), select.POLLIN, 0)
    host.kernel.detach()
    assert not readable(link)
    assert link.events() == []
    assert link.receive(64) == []
    assert link.events() == ([] if host.kernel.abi.system == "netbsd" else [LinkEvent.GONE])
    link.tick(0.0)
    assert link.events() == [LinkEvent.GONE]
    link.send([outgoing(4, b"x")._replace(reply_to=TO_SERVER[4])])
    assert link.events() == [LinkEvent.GONE]
    assert link.counters().send_errors == 1
    link.close()
    link.close()
    link.tick(1.0)
    assert link.fileno() == -1
    assert link.counters().send_errors == 1
    with pytest.raises(LinkError, match="no such interface"):
        host.open()
    host.kernel.present = True
    host.open()


def test_only_freebsds_poll_reports_that_the_interface_is_gone(host: Host) -> None:
    link = host.open()
    host.kernel.detach()
    found = host.kernel.poll(link.fileno(), select.POLLIN, 0)
    assert found == (select.POLLIN | select.POLLHUP if host.kernel.abi.system == "freebsd" else 0)


def test_an_interface_that_is_made_anew_at_once_is_another_one(host: Host) -> None:
    """FreeBSD gives it the same index again, so that the routing tables look as before."""
    link = host.open()
    host.kernel.detach()
    host.kernel.present = True
    host.arrives(*frames(1))
    assert not readable(link)
    link.tick(0.0)
    assert link.events() == [LinkEvent.GONE]
    link.close()
    assert len(host.open().receive(64)) == 1


def test_an_unknown_system_and_an_unknown_cpu_are_refused() -> None:
    with pytest.raises(LinkError, match="plan9: not one of the systems"):
        load("plan9")
    with pytest.raises(LinkError, match="macos on i386"):
        load("macos", "i386")


def test_counters_are_a_snapshot(host: Host) -> None:
    link = host.open()
    before = link.counters()
    host.arrives(*frames(1))
    link.receive(64)
    assert dataclasses.asdict(before)["received_packets"] == 0
    assert link.counters().received_packets == 1

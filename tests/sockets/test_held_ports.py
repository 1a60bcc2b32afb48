"""Held ports are nobody else's, and free again when let go."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from rsock_nf.core.types import PortRange, Shard
from rsock_nf.lab.lab import DEVICE, Lab
from rsock_nf.link import LinkError
from rsock_nf.link.linux.system import Linux
from rsock_nf.sockets.held_ports import HeldPort, hold_any, hold_port, hold_ports

WILDCARD = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def bind_error(family: socket.AddressFamily, address: str, port: int, *options: int) -> int:
    """errno of a foreign bind and listen, 0 when both succeed."""
    with socket.socket(family, socket.SOCK_STREAM) as other:
        for option in options:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            other.bind((address, port))
            other.listen()
        except OSError as error:
            return error.errno or -1
    return 0


@pytest.fixture
def held() -> Iterator[HeldPort]:
    with hold_any() as port:
        yield port


@pytest.fixture
def free_run(worker_id: str) -> PortRange:
    """Four adjacent ports outside the ephemeral range that nobody has, and that no other worker looks at."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    worker = int(worker_id.removeprefix("gw")) if worker_id != "master" else 0
    for first in range(low - 40 - 4 * (worker % 10), 1024, -40):
        span = PortRange(first, first + 3)
        try:
            for port in hold_ports([span]):
                port.close()
        except LinkError:
            continue
        return span
    raise AssertionError("no four adjacent ports are free")


@pytest.mark.parametrize("family", WILDCARD)
@pytest.mark.parametrize("options", [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)])
def test_a_foreign_bind_or_listen_fails(held: HeldPort, family: socket.AddressFamily, options: tuple[int, ...]) -> None:
    assert bind_error(family, WILDCARD[family], held.port, *options) == errno.EADDRINUSE
    assert bind_error(family, LOOPBACK[family], held.port, *options) == errno.EADDRINUSE


def test_a_second_hold_names_port_and_remedy(held: HeldPort) -> None:
    with pytest.raises(
        LinkError,
        match=rf"^port {held.port} is in use; `ss -tanp sport = :{held.port}` or `rsock-nf status` tells by whom$",
    ):
        hold_port(held.port)


def test_closing_gives_it_back_at_once(held: HeldPort) -> None:
    held.close()
    held.close()
    assert bind_error(socket.AF_INET, "0.0.0.0", held.port) == 0
    hold_port(held.port).close()


def test_it_accepts_nobody(held: HeldPort) -> None:
    with socket.socket() as caller:
        caller.setblocking(False)
        assert caller.connect_ex(("127.0.0.1", held.port)) == errno.EINPROGRESS
        state = subprocess.run(["ss", "-Htan", f"dport = :{held.port}"], capture_output=True, text=True, check=True)
        assert state.stdout.split()[0] == "SYN-SENT", "no SYN-ACK, no RST"


def test_ephemeral_choice_passes_held_ports_by() -> None:
    """In a namespace with four ephemeral ports, all held but one, every connect gets that one."""
    program = """
import pathlib, socket
from rsock_nf.core.types import PortRange, Shard
from rsock_nf.link import LinkError
from rsock_nf.sockets.held_ports import hold_any, hold_ports
pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40003")
three = hold_ports([PortRange(40000, 40001), PortRange(40003, 40003)])
with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    assert one.getsockname()[1] == 40002
last = hold_any()
assert last.port == 40002
try:
    hold_any()
except LinkError as error:
    print(error)
"""
    result = subprocess.run(
        ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" -c "$1"', sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "no ephemeral TCP port is free; see net.ipv4.ip_local_port_range\n"


def test_ranges_are_held_whole(free_run: PortRange) -> None:
    held = hold_ports([free_run])
    assert [port.port for port in held] == list(range(free_run.first, free_run.last + 1))
    assert all(bind_error(socket.AF_INET, "127.0.0.1", port.port) == errno.EADDRINUSE for port in held)
    for port in held:
        port.close()


def test_ranges_are_held_all_or_nothing(free_run: PortRange) -> None:
    with hold_port(free_run.last), pytest.raises(LinkError, match=rf"^port {free_run.last} is in use"):
        hold_ports([free_run])
    for port in range(free_run.first, free_run.last + 1):
        assert bind_error(socket.AF_INET, "0.0.0.0", port) == 0


def test_any_of_a_range_begins_at_a_random_one_and_tries_them_all(free_run: PortRange) -> None:
    held = [hold_any((free_run,), rng=lambda size: bytes([0] * (size - 1) + [2])) for _ in range(4)]
    assert [port.port - free_run.first for port in held] == [2, 3, 0, 1]
    with pytest.raises(LinkError, match=f"^all 4 ports of {free_run} are in use"):
        hold_any((free_run,))
    for port in held:
        port.close()


def test_a_connection_counts_as_in_use() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as caller,
        pytest.raises(LinkError, match="is in use"),
    ):
        hold_port(caller.getsockname()[1])


def test_without_ipv6_it_is_held_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def ipv4_only(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, kind)

    with monkeypatch.context() as patch:
        patch.setattr("rsock_nf.sockets.held_ports.socket.socket", ipv4_only)
        held = hold_any()
    with held:
        assert bind_error(socket.AF_INET, "127.0.0.1", held.port) == errno.EADDRINUSE
        assert bind_error(socket.AF_INET6, "::1", held.port) == 0


@pytest.mark.parametrize(("ours", "theirs"), [("127.0.0.1", "127.0.0.2"), ("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
def test_only_the_named_addresses_are_held(free_run: PortRange, ours: str, theirs: str) -> None:
    """A web site beside a tunnel: whoever comes first."""
    port, other = free_run.first, ip_address(theirs)
    family = socket.AF_INET if other.version == 4 else socket.AF_INET6
    own = socket.AF_INET if ip_address(ours).version == 4 else socket.AF_INET6
    with hold_port(port, [ip_address(ours)]):
        assert bind_error(family, theirs, port) == 0
        assert bind_error(own, ours, port, socket.SO_REUSEADDR) == errno.EADDRINUSE
        assert bind_error(own, WILDCARD[own], port, socket.SO_REUSEADDR) == errno.EADDRINUSE
    with socket.create_server((theirs, port), family=family), hold_port(port, [ip_address(ours)]):
        pass


def test_an_address_that_the_host_does_not_have_yet(free_run: PortRange) -> None:
    absent = [ip_address("192.0.2.77"), ip_address("2001:db8::77")]
    with hold_port(free_run.first, absent):
        assert bind_error(socket.AF_INET, "127.0.0.1", free_run.first) == 0


def test_where_a_socket_cannot_wait_for_an_address_every_address_is_held(
    free_run: PortRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Linux, "allow_absent_address", lambda _self, _sock: None)
    with hold_port(free_run.first, [ip_address("192.0.2.77")]):
        assert bind_error(socket.AF_INET, "127.0.0.1", free_run.first) == errno.EADDRINUSE


def test_a_link_local_address_is_held(free_run: PortRange) -> None:
    """It can only be bound together with its device.  Before: "cannot be held: Invalid argument"."""
    with hold_port(free_run.first, [ip_address("fe80::1")]):
        assert bind_error(socket.AF_INET6, "::", free_run.first) == errno.EADDRINUSE
        assert bind_error(socket.AF_INET, "127.0.0.1", free_run.first) == 0


def test_who_listens_on_every_address_is_told_apart(free_run: PortRange) -> None:
    with socket.create_server(("0.0.0.0", free_run.first)), pytest.raises(LinkError) as refused:
        hold_ports([free_run], [ip_address("127.0.0.1"), ip_address("::1")])
    assert str(refused.value) == (
        f"port {free_run.first} is in use on 127.0.0.1, ::1; `ss -tanp sport = :{free_run.first}` or `rsock-nf status` "
        "tells by whom; who listens on every address (*, 0.0.0.0, [::]) has it, too: have it listen on other addresses "
        "only"
    )
    for port in hold_ports([free_run], [ip_address("127.0.0.1")]):
        port.close()


@pytest.mark.parametrize("addresses", [False, True])
def test_the_kernel_answers_no_segment_to_a_held_port(addresses: bool) -> None:  # noqa: FBT001
    """Without any rule, over IPv4 and IPv6: the second line, if somebody flushes the rules."""
    flags = ("S", "A", "PA", "FA", "SA")
    with Lab(None) as lab:
        near = [ip_address(lab.server_ip[version]) for version in (4, 6)]
        mac = lab.server.run(["cat", f"/sys/class/net/{DEVICE}/address"]).stdout.strip()
        wire = lab.client.socket(socket.AF_PACKET, socket.SOCK_RAW)
        wire.bind((DEVICE, 3))  # ETH_P_ALL
        wire.settimeout(30)

        def ask(port: int, kind: str) -> None:
            for ip in (
                IP(src=lab.client_ip[4], dst=lab.server_ip[4]),
                IPv6(src=lab.client_ip[6], dst=lab.server_ip[6]),
            ):
                wire.send(bytes(Ether(dst=mac) / ip / TCP(sport=5555, dport=port, flags=kind, seq=1, ack=9)))

        with lab.server.call(lambda: hold_port(10001, near if addresses else ())):
            for kind in flags:
                ask(10001, kind)
            ask(10002, "S")  # nobody has this one: once it has answered, the others would have, too
            answers: list[tuple[int, bool]] = []
            while len({one for one in answers if one[0] == 10002}) < 2:
                packet = Ether(wire.recv(2000))
                if TCP in packet and packet[TCP].dport == 5555:
                    answers.append((packet[TCP].sport, IP in packet))
        assert [one for one in answers if one[0] == 10001] == []


@pytest.mark.parametrize("of", [2, 3, 4, 16])
def test_a_port_of_a_shard_whichever_the_kernel_prefers(of: int) -> None:
    """It prefers odd ports as long as there are any."""
    for number in range(of):
        held = [hold_any((), Shard(number, of)) for _ in range(20)]
        assert [port.port % of for port in held] == [number] * 20
        assert len({port.port for port in held}) == 20
        for port in held:
            port.close()

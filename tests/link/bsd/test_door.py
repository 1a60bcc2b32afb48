"""What the door gives on each system, and what the BSDs' file does without a kernel of theirs."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, POINTER, c_int, c_size_t, c_uint, c_void_p, memmove
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import link
from rsock_nf.core.types import TransportAddress
from rsock_nf.link import LinkError, Routing, system
from rsock_nf.link.bsd.abi import Abi, load
from rsock_nf.link.bsd.bpf_descriptor import KernelCalls
from rsock_nf.link.bsd.routing import Interface, KernelRouting
from rsock_nf.link.bsd.system import Bsd
from rsock_nf.link.checks import Verdict
from rsock_nf.link.linux.system import Linux
from rsock_nf.ops import privileges
from rsock_nf.ops.instances.processes import signal_and_wait
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE, run_dir
from rsock_nf.sockets import held_ports as local_ports
from rsock_nf.sockets.refusals import why_not
from tests.link.bsd.packets import AT_SERVER
from tests.link.bsd.simulated import KERNELS, SimulatedBpf, SocketWire
from tests.link.bsd.simulated_routing import HandMade, SimulatedRouting, Way

EM0 = Interface(2, "em0", 0x41, 1500, 0, b"\2\0\0\0\0\1", ())


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def become(name: str) -> None:
        monkeypatch.setattr(sys, "platform", name)
        system.cache_clear()

    yield become
    monkeypatch.undo()
    system.cache_clear()


@pytest.mark.parametrize(
    ("name", "abi"), [("freebsd14", "freebsd"), ("netbsd10", "netbsd"), ("openbsd7", "openbsd"), ("darwin", "macos")]
)
def test_the_door_takes_the_systems_own_file(platform: Callable[[str], None], name: str, abi: str) -> None:
    platform(name)
    found = system()
    assert isinstance(found, Bsd)
    assert found._abi.system == abi
    assert found.run_directory == Path("/var/run")
    assert found.run_directory_groups == (1,)


def test_the_run_directory_and_the_privileges_are_the_systems(
    platform: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    assert isinstance(system(), Linux)
    assert run_dir() == Path("/run/rsock-nf")
    assert "CAP_NET_RAW" in privileges.needed()
    platform("freebsd14")
    assert run_dir() == Path("/var/run/rsock-nf")
    assert privileges.needed() == "root"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert privileges.refusal("up") == "up needs root: run it as root"


@pytest.mark.parametrize("name", ["freebsd14", "netbsd10", "openbsd7", "darwin"])
def test_error_messages_name_the_systems_own_commands(platform: Callable[[str], None], name: str) -> None:
    platform(name)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            LinkError, match=rf"^port {port} is in use; `(sockstat|fstat|lsof) .*{port}` or `rsock-nf status`"
        ):
            local_ports.hold_port(port)
    assert why_not("bind", TransportAddress(ip_address("192.0.2.1"), 1), OSError(errno.EADDRNOTAVAIL, "")).endswith(
        "`ifconfig -a` lists them"
    )


def test_an_unknown_system_is_refused(platform: Callable[[str], None]) -> None:
    platform("sunos5")
    with pytest.raises(LinkError, match=r"^sunos5: only Linux, FreeBSD"):
        link.default_device()


WITHOUT_LINUX = """
import sys
sys.platform = "freebsd14"
for absent in ("pyroute2", "iptc", "rsock_nf.link.linux.mmsg", "rsock_nf.link.linux.rtnetlink",
"rsock_nf.link.linux.af_packet"):
    sys.modules[absent] = None
import rsock_nf.cli, rsock_nf.daemon, rsock_nf.runtime, rsock_nf.ops.doctor, rsock_nf.ops.launch, rsock_nf.ops.rules
from rsock_nf.link import system
from rsock_nf.sockets.buffers import ReceiveBuffers
assert type(system().udp.reader(1, 10, names=0, ancillary=0)).__name__ == "MessageReader"
ReceiveBuffers()
"""


def test_nothing_of_linux_is_imported_elsewhere() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_LINUX], check=True)


COMMANDS = """
import asyncio, subprocess, sys, sysconfig  # which look at sys.platform themselves
sysconfig.get_config_vars()
sys.platform = sys.argv[1]
for absent in ("pyroute2", "iptc", "rsock_nf.link.linux.mmsg", "rsock_nf.link.linux.rtnetlink",
"rsock_nf.link.linux.af_packet"):
    sys.modules[absent] = None
from rsock_nf import cli
from rsock_nf.ops.instances import namespaces
namespaces.current = lambda: None
for line in sys.argv[2:]:
    try:
        status = cli.main(line.split())
    except SystemExit as ended:
        status = ended.code
    print(f"-- {status}", flush=True)
"""


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("freebsd14", "pfctl -a rsock-nf/edge -f -"),
        ("openbsd7", "block drop in quick on em0 inet proto tcp from any to 192.0.2.1 port 10001:10010"),
        ("netbsd10", "block in final on em0 family inet4 proto tcp from any to 192.0.2.1 port 10001-10010"),
        ("darwin", "pfctl -a com.apple/rsock-nf.edge -f -"),
    ],
)
def test_the_command_line_elsewhere(tmp_path: Path, name: str, rule: str) -> None:
    """Everything that needs no kernel of theirs; nor is pfctl or ipfw there."""
    file = tmp_path / "edge.json"
    secret = base64.b64encode(bytes(range(32))).decode()
    keys = {"role": "server", "target": "127.0.0.1:9", "secret": secret, "device": "em0", "addresses": "192.0.2.1"}
    file.write_text(json.dumps({**keys, "backend": "manual", "cipher": "aes-256-gcm"}))
    file.chmod(0o600)
    sockets = tmp_path / "sockets.json"
    client = {"role": "client", "server": "192.0.2.9", "secret": secret, "cipher": "aes-256-gcm"}
    sockets.write_text(json.dumps({**client, "listen": "unix:/" + 103 * "x"}))
    sockets.chmod(0o600)
    lines = ["--help", "genkey", f"check -c {file}", f"rules -c {file}", "status", "down", f"down -c {file}", "demo"]
    lines.insert(3, f"check -c {sockets}")
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, name, *lines],
        env={**os.environ, RUN_DIR_VARIABLE: str(tmp_path / "run")},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert re.findall(r"(?m)^-- (.*)$", done.stdout) == ["0", "0", "0", "2", "0", "1", "0", "0", "1"], done.stderr
    assert rule in done.stdout
    assert "too long for a socket: at most 103 bytes" in done.stderr
    assert "unexpected" not in done.stderr
    assert done.stderr.splitlines()[-1] == "rsock-nf demo: network namespaces are needed, which only Linux has"


# -- opening a link -----------------------------------------------------------------------------------


class Host:
    """A host of one system with a single interface, em0."""

    def __init__(self, name: str) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.bpf = SimulatedBpf(name, SocketWire(self.near))
        self.tables = HandMade([EM0])
        self.routing = SimulatedRouting(name, self.tables)
        self.system = Bsd(name, bpf=self.bpf, routing=self.routing)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture(params=KERNELS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with contextlib.closing(Host(request.param)) as made:
        yield made


def test_a_link_that_is_refused_leaves_nothing_open(host: Host) -> None:
    with pytest.raises(LinkError, match="em9: no such interface"):
        host.system.open_link(Routing("em9"), AT_SERVER, 1 << 20)
    host.tables.links[0] = Interface(2, "em0", 0x40, 1500, 0, b"\2\0\0\0\0\1", ())
    with pytest.raises(LinkError, match="em0: the interface is down, or has no carrier: ifconfig em0 up"):
        host.system.open_link(Routing("em0"), AT_SERVER, 1 << 20)
    host.tables.links[0] = EM0
    host.bpf.present = False
    with pytest.raises(LinkError, match="em0: no such interface"):
        host.system.open_link(Routing("em0"), AT_SERVER, 1 << 20)
    assert (host.routing.sockets, host.bpf._devices) == ([], {})
    host.bpf.present = True
    host.tables.links[0] = Interface(2, "em0", 0x41, 1800, 0, b"\2\0\0\0\0\1", ())
    opened = host.system.open_link(Routing("em0"), AT_SERVER, 1 << 20)
    assert opened.mtu == 1800
    opened.close()
    assert (host.routing.sockets, host.bpf._devices) == ([], {})


def test_a_kind_of_interface_that_bpf_cannot_send_on_is_refused(host: Host) -> None:
    """NetBSD's DLT_NULL: bpf_movein() hands the interface the four bytes and no address family."""
    host.bpf.dlt = "DLT_NULL"
    if host.bpf.abi.system == "netbsd":
        with pytest.raises(LinkError, match=r"^em0: this system's bpf\(4\) sends on Ethernet only"):
            host.system.open_link(Routing("em0"), AT_SERVER, 1 << 20)
        assert (host.routing.sockets, host.bpf._devices) == ([], {})
        assert [found.verdict for found in host.system.examine_device("em0", tap=True)] == [Verdict.OK, Verdict.FAIL]
    else:
        host.system.open_link(Routing("em0"), AT_SERVER, 1 << 20).close()


def test_a_host_without_routing_sockets_is_a_finding(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(host.routing, "open", refuse)
    (found,) = host.system.examine_device("em0", tap=True)
    assert found.verdict is Verdict.FAIL
    assert "no routing socket" in found.text


def test_the_mtu_of_a_route_is_its_interfaces(host: Host) -> None:
    remote = ip_address("192.0.2.1")
    assert host.system.route_mtu(remote) == 0
    host.tables.ways[None] = Way(EM0, None, None)
    assert host.system.route_mtu(remote) == 1500


def test_without_a_routing_socket_no_mtu_is_known(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for while the tunnel carries: nothing of it may end because of that."""

    def refuse() -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(host.routing, "open", refuse)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(("127.0.0.1", 9))
        assert host.system.udp.route_mtu(asked) == 0


def test_the_doctor_looks_at_the_interface_and_attaches_to_it(host: Host) -> None:
    assert [found.verdict for found in host.system.examine_host()] == [Verdict.OK]
    device, bpf = host.system.examine_device("em0", tap=True)
    assert (device.verdict, device.text) == (Verdict.OK, "em0, MTU 1500")
    assert (bpf.verdict, bpf.text) == (Verdict.OK, "can be attached to em0, with two buffers of 512 KiB")
    assert len(host.system.examine_device("em0", tap=False)) == 1
    host.bpf.present = False
    assert host.system.examine_device("em0", tap=True)[-1].verdict is Verdict.FAIL
    (missing,) = host.system.examine_device("em9", tap=True)
    assert "no such interface" in missing.text
    host.tables.links[0] = Interface(2, "em0", 0x41, 1000, 0, b"\2\0\0\0\0\1", ())
    assert host.system.examine_device("em0", tap=False)[0].verdict is Verdict.WARN
    host.tables.links[0] = Interface(2, "em0", 0, 1500, 0, b"\2\0\0\0\0\1", ())
    assert host.system.examine_device("em0", tap=True)[0].text.startswith("em0 is down")
    assert (host.routing.sockets, host.bpf._devices) == ([], {})


# -- real calls, as far as Linux has them -----------------------------------------------------------------


def test_the_kernels_own_calls() -> None:
    calls = KernelCalls()
    descriptor = calls.open("/dev/null", os.O_RDWR)
    assert calls.write(descriptor, b"x") == 1
    assert calls.read(descriptor, 10) == b""
    assert calls.poll(descriptor, select.POLLIN, 0) == select.POLLIN
    near, far = socket.socketpair()
    with near, far:
        calls.set_blocking(near.fileno(), False)
        with pytest.raises(BlockingIOError):
            calls.read(near.fileno(), 1)
        far.send(b"four")
        waiting = calls.ioctl(near.fileno(), 0x541B, bytes(4))  # FIONREAD
        assert waiting == (4).to_bytes(4, sys.byteorder)
    calls.close(descriptor)


class Libc:
    """A sysctl(3) over a table that grows between the question for its size and the one for itself."""

    def __init__(self, tables: list[bytes]) -> None:
        self._tables = tables
        self.names: list[list[int]] = []
        signature = CFUNCTYPE(
            c_int, POINTER(c_int), c_uint, c_void_p, POINTER(c_size_t), c_void_p, c_size_t, use_errno=True
        )
        self.sysctl: Any = signature(self._sysctl)

    def _sysctl(self, name: Any, length: int, old: int | None, size: Any, new: Any, new_size: int) -> int:  # noqa: ARG002
        import ctypes

        self.names.append(name[:length])
        if old is None:
            size[0] = len(self._tables[0])
            return 0
        table = self._tables.pop(0) if len(self._tables) > 1 else self._tables[0]
        if size[0] < len(self._tables[0]):
            ctypes.set_errno(12)  # ENOMEM
            return -1
        memmove(old, table, len(table))
        size[0] = len(table)
        return 0


def test_a_table_that_grows_is_read_again() -> None:
    routing = KernelRouting(load("freebsd"))
    libc = Libc([b"small", b"L" * 5000])
    routing._libc = libc  # type: ignore[assignment]
    assert routing.sysctl((4, 17, 0, 0, 3, 0)) == b"L" * 5000
    assert libc.names[0] == [4, 17, 0, 0, 3, 0]


@pytest.mark.parametrize("known", [True, False])
def test_a_routing_socket_is_asked_to_tell_of_overruns(known: bool) -> None:  # noqa: FBT001 - a case
    """By an option that stands in for SO_RERROR, or one that this kernel does not know, as an older one."""
    option = socket.SO_KEEPALIVE if known else 9999
    numbers = {**load("netbsd").numbers, "PF_ROUTE": socket.AF_UNIX, "SO_RERROR": option}
    with KernelRouting(Abi("netbsd", numbers)).open() as made:
        assert not made.getblocking()
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == known


@pytest.mark.parametrize("version", [4, 6])
def test_touching_a_neighbour_sends_it_an_empty_datagram(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from rsock_nf.link.bsd import routing as bsd_routing

    family, host = (socket.AF_INET, "127.0.0.1") if version == 4 else (socket.AF_INET6, "::1")
    with socket.socket(family, socket.SOCK_DGRAM) as discard:
        discard.bind((host, 0))
        discard.settimeout(5)
        monkeypatch.setattr(bsd_routing, "_DISCARD", discard.getsockname()[1])
        KernelRouting.touch(ip_address(host), 1)
        assert discard.recv(10) == b""


# -- what is left of the host -------------------------------------------------------------------------------


def test_where_ipv6_sockets_never_take_ipv4_a_port_is_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_ipv6(holder_socket: socket.socket) -> bool:
        holder_socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return False

    monkeypatch.setattr(local_ports, "_takes_ipv4", only_ipv6)
    held = local_ports.hold_port(0)
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with socket.socket(family) as other, pytest.raises(OSError, match="in use"):
            other.bind((address, held.port))
    held.close()
    local_ports.hold_port(held.port).close()


def test_a_process_without_a_descriptor_is_signalled_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with subprocess.Popen(["sleep", "100"]) as process:
        assert not signal_and_wait(process.pid, signal.SIGTERM, 5, lambda: False)
        assert process.poll() is None
        assert signal_and_wait(process.pid, signal.SIGTERM, 5, lambda: process.poll() is None)
        assert process.returncode == -signal.SIGTERM
    assert not signal_and_wait(process.pid, signal.SIGTERM, 5, lambda: True)

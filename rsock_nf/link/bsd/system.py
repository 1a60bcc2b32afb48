"""What FreeBSD, NetBSD, OpenBSD and macOS provide: /dev/bpf, routing sockets, plain UDP."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Collection, Sequence
from pathlib import Path
from pwd import struct_passwd
from typing import Final

from rsock_nf.core.types import IPAddress, PortRange
from rsock_nf.link.bsd import checks as bsd_checks
from rsock_nf.link.bsd import routes as bsd_routes
from rsock_nf.link.bsd.abi import load
from rsock_nf.link.bsd.bpf_device import BpfLink, KernelCalls, SystemCalls
from rsock_nf.link.bsd.next_hop import NextHops
from rsock_nf.link.bsd.routing import KernelRouting, RouteSocket, RoutingCalls
from rsock_nf.link.bsd.udp import PlainUdp, destination_option
from rsock_nf.link.checks import Finding, Verdict
from rsock_nf.link.kernel_routes import NO_ROUTES
from rsock_nf.link.protocol import (
    AbsentError,
    Detour,
    Link,
    LinkError,
    Match,
    Remedies,
    Route,
    Routes,
    Routing,
    Watch,
    Watched,
)
from rsock_nf.link.udp import UdpSystem


def _remedies(port: str, ports: str, unix: str, ephemeral: str) -> Remedies:
    return Remedies(port, port, ports, unix, "ifconfig -a", ephemeral, "root")


REMEDIES: Final = {
    "freebsd": _remedies("sockstat -p {port}", "sockstat -P tcp", "sockstat -u", "net.inet.ip.portrange.first"),
    "netbsd": _remedies("sockstat -p {port}", "sockstat", "fstat {path}", "net.inet.ip.anonportmin"),
    "openbsd": _remedies("fstat | grep {port}", "fstat", "fstat {path}", "net.inet.ip.porthifirst"),
    "macos": _remedies("lsof -nP -i :{port}", "lsof -nP -iTCP", "lsof {path}", "net.inet.ip.portrange.first"),
}


class Bsd:
    """See ``System``.  The system calls are arguments; by default they are those of the kernel that this process runs
    on."""

    run_directory = Path("/var/run")
    run_directory_groups: tuple[int, ...] = (1,)  # daemon, on macOS
    has_capabilities = False
    socket_path_bytes = 103
    has_native_path = False
    has_workers = False
    taps_every_device = False

    def __init__(self, name: str, *, bpf: SystemCalls | None = None, routing: RoutingCalls | None = None) -> None:
        self._abi = load(name)
        self._bpf = bpf
        self.remedies = REMEDIES[name]
        self.config_directory = Path("/usr/local/etc" if name in {"freebsd", "macos"} else "/etc")
        self._routing = routing or KernelRouting(self._abi)
        self.udp: UdpSystem = PlainUdp(destination_option(self._abi), self._abi.numbers, self.route_mtu)

    def open_link(self, routing: Routing, match: Match, receive_buffer: int) -> Link:
        """See ``open_link``.  A mark has no meaning here."""
        device = routing.device
        if device is None:
            raise LinkError("a link needs the name of an interface on this system")
        with contextlib.ExitStack() as undo:
            next_hops = NextHops(device, undo.enter_context(contextlib.closing(self._kernel())))
            if not next_hops.up:
                raise AbsentError(f"{device}: the interface is down, or has no carrier: ifconfig {device} up")
            link = BpfLink(
                device, match, abi=self._abi, syscalls=self._bpf, next_hops=next_hops, receive_buffer=receive_buffer
            )
            undo.callback(link.close)
            if not link.sends:
                raise LinkError(bsd_checks.receives_only(device))
            undo.pop_all()
        return link

    @staticmethod
    def open_routes(routing: Routing) -> Routes:  # noqa: ARG004 - as ``System`` has it
        """See ``open_routes``: the kernel finds the way of each datagram."""
        return NO_ROUTES

    @staticmethod
    def open_watch(watched: Watched, device: str | None, snap: int) -> Watch:  # noqa: ARG004 - as ``System`` has it
        """See ``open_watch``: there is none here."""
        raise LinkError(f"capture is for Linux; here: tcpdump -i {device or 'DEVICE'} -w FILE port PORT")

    def route_to(self, remote: IPAddress, mark: int) -> Route:  # noqa: ARG002 - as ``System`` has it
        """See ``route_to``."""
        with contextlib.closing(self._kernel()) as kernel:
            return bsd_routes.route_to(kernel, remote)

    def default_device(self, version: int | None) -> str | None:
        """See ``default_device``."""
        with contextlib.closing(self._kernel()) as kernel:
            return bsd_routes.default_device(kernel, version)

    def device_addresses(self, device: str) -> tuple[IPAddress, ...]:
        """See ``device_addresses``."""
        with contextlib.closing(self._kernel()) as kernel:
            return bsd_routes.device_addresses(kernel, device)

    def host_addresses(self) -> tuple[IPAddress, ...]:
        """See ``host_addresses``."""
        with contextlib.closing(self._kernel()) as kernel:
            return tuple(
                dict.fromkeys(one for device in kernel.interfaces() for one in bsd_routes.usable(kernel, device))
            )

    def route_mtu(self, remote: IPAddress) -> int:
        """The MTU of the interface that packets to ``remote`` leave by, bytes; 0 = there is no route.  Raises
        ``OSError``."""
        with contextlib.closing(RouteSocket(self._abi, self._routing)) as kernel:
            route = kernel.route(remote)
            return next((one.mtu for one in kernel.interfaces() if route and one.index == route.index), 0)

    def allow_absent_address(self, sock: socket.socket) -> None:
        """See ``System.allow_absent_address``: nothing; IP_BINDANY is not on every system."""

    def keep_silent(self, sock: socket.socket) -> None:
        """See ``System.keep_silent``: nothing; a socket has no filter there."""

    @staticmethod
    def forwards() -> bool:
        """See ``System.forwards``.  pf translates before it filters; ``firewall/README.md`` has the limit of ipfw."""
        return False

    @staticmethod
    def drops_at_input() -> bool:
        """See ``System.drops_at_input``: these packet filters have no such choice."""
        return False

    @staticmethod
    def ephemeral_ports() -> tuple[PortRange, ...]:
        """See ``System.ephemeral_ports``: not asked for."""
        return ()

    def examine_host(self) -> list[Finding]:
        """See ``System.examine_host``."""
        return bsd_checks.examine_host(self._abi)

    def effective_capabilities(self) -> frozenset[str] | None:
        """See ``System.effective_capabilities``: there are none, and ``has_capabilities`` says so."""
        return None

    @staticmethod
    def become(account: struct_passwd, names: Collection[str]) -> None:
        """See ``System.become``."""
        if names:
            raise OSError(errno.ENOTSUP, 'only root may do what it takes here, but for "type": "udp"')
        os.setgroups(os.getgrouplist(account.pw_name, account.pw_gid))
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)

    def keep_privileges(self, names: Collection[str]) -> str:  # noqa: ARG002 - there are none to choose from
        """See ``System.keep_privileges``: root's cannot be given up one by one."""
        return ""

    def examine_device(self, device: str, *, tap: bool) -> list[Finding]:
        """See ``System.examine_device``."""
        try:
            kernel = self._kernel()
        except LinkError as error:
            return [Finding(Verdict.FAIL, "device", str(error))]
        with contextlib.closing(kernel):
            return list(bsd_checks.examine_device(self._abi, self._bpf or KernelCalls(), kernel, device, tap=tap))

    @staticmethod
    def passengers(routing: Routing) -> list[str]:
        """See ``System.passengers``: not looked for."""
        del routing
        return []

    @staticmethod
    def detour(remote: IPAddress, routing: Routing) -> Detour | None:
        """See ``System.detour``: routes are followed as they are."""
        del remote, routing
        return None

    @staticmethod
    def examine_surroundings(chosen: str, udp_ports: Sequence[PortRange]) -> list[Finding]:
        """See ``System.examine_surroundings``: not looked at."""
        del chosen, udp_ports
        return []

    def _kernel(self) -> RouteSocket:
        try:
            return RouteSocket(self._abi, self._routing)
        except OSError as error:
            raise LinkError(f"no routing socket can be had: {error.strerror}") from None

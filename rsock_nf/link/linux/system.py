"""What Linux provides: AF_PACKET, netlink, UDP_GRO and UDP_SEGMENT."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection, Sequence
from pathlib import Path
from pwd import struct_passwd
from typing import Final

from rsock_nf.core.types import IPAddress, PortRange
from rsock_nf.link.checks import Finding
from rsock_nf.link.linux import port_use
from rsock_nf.link.linux.socket_filter import REFUSE_ALL, attach_filter
from rsock_nf.link.protocol import Detour, Link, Match, Remedies, Route, Routes, Routing, Watch, Watched
from rsock_nf.link.udp import UdpSystem

_FREEBIND, _FREEBIND6 = 15, 78  # IP_FREEBIND, IPV6_FREEBIND: include/uapi/linux/in.h, in6.h

REMEDIES: Final = Remedies(
    tcp_port="ss -tanp sport = :{port}",
    udp_port="ss -uanp sport = :{port}",
    tcp_ports="ss -tan",
    unix_socket="ss -xlp src {path}",
    addresses="ip address",
    ephemeral_ports="net.ipv4.ip_local_port_range",
    low_ports="root or CAP_NET_BIND_SERVICE",
)


class Linux:
    """See ``System``.  The imports are late, because pyroute2 takes 0.3 s to import."""

    run_directory = Path("/run")
    config_directory = Path("/etc")
    run_directory_groups: tuple[int, ...] = ()
    has_capabilities = True
    socket_path_bytes = 107
    has_native_path = True
    has_workers = True
    taps_every_device = True
    remedies = REMEDIES

    @property
    def udp(self) -> UdpSystem:
        """See ``System.udp``."""
        from rsock_nf.link.linux.udp import UDP

        return UDP

    @staticmethod
    def open_link(routing: Routing, match: Match, receive_buffer: int) -> Link:
        """See ``open_link``."""
        from rsock_nf.link.linux.af_packet import PacketLink

        return PacketLink(routing, match, receive_buffer=receive_buffer)

    @staticmethod
    def open_routes(routing: Routing) -> Routes:
        """See ``open_routes``."""
        from rsock_nf.link.linux.ways import Ways

        return Ways(routing)

    @staticmethod
    def open_watch(watched: Watched, device: str | None, snap: int) -> Watch:
        """See ``open_watch``."""
        from rsock_nf.link.linux.watch import PacketWatch

        return PacketWatch(watched, device, snap)

    @staticmethod
    def route_to(remote: IPAddress, mark: int) -> Route:
        """See ``route_to``."""
        from rsock_nf.link.linux import routes

        return routes.route_to(remote, mark)

    @staticmethod
    def host_addresses() -> tuple[IPAddress, ...]:
        """See ``host_addresses``."""
        from rsock_nf.link.linux import routes

        return routes.host_addresses()

    @staticmethod
    def default_device(version: int | None) -> str | None:
        """See ``default_device``."""
        from rsock_nf.link.linux import routes

        return routes.default_device(version)

    @staticmethod
    def device_addresses(device: str) -> tuple[IPAddress, ...]:
        """See ``device_addresses``."""
        from rsock_nf.link.linux import routes

        return routes.device_addresses(device)

    @staticmethod
    def allow_absent_address(sock: socket.socket) -> None:
        """See ``System.allow_absent_address``: IP_FREEBIND (ip(7)); for IPv6 since Linux 4.15."""
        ipv4 = sock.family == socket.AF_INET
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP if ipv4 else socket.IPPROTO_IPV6, _FREEBIND if ipv4 else _FREEBIND6, 1)

    @staticmethod
    def keep_silent(sock: socket.socket) -> None:
        """See ``System.keep_silent``: a listener whose filter refuses everything.

        The kernel finds it for every segment to the port, and drops what its filter refuses without an answer
        (net/ipv4/tcp_ipv4.c, ``tcp_v4_rcv``: ``tcp_filter``).  If the socket only had the port, it would answer with
        RST."""
        with contextlib.suppress(OSError):  # no filter, no listener: it would accept connections
            attach_filter(sock, REFUSE_ALL)
            sock.listen(0)

    @staticmethod
    def forwards() -> bool:
        """See ``System.forwards``."""
        return port_use.forwards()

    @staticmethod
    def drops_at_input() -> bool:
        """See ``System.drops_at_input``."""
        return port_use.forwards() or port_use.filters_bridged()

    @staticmethod
    def ephemeral_ports() -> tuple[PortRange, ...]:
        """See ``System.ephemeral_ports``."""
        return port_use.ephemeral_ports()

    @staticmethod
    def examine_host() -> list[Finding]:
        """See ``System.examine_host``."""
        from rsock_nf.link.linux import checks as linux_checks

        return linux_checks.examine_host()

    @staticmethod
    def effective_capabilities() -> frozenset[str] | None:
        """See ``System.effective_capabilities``."""
        from rsock_nf.link.linux import capabilities

        sets = capabilities.capability_sets()
        return frozenset(capabilities.named(sets["CapEff"])) if sets else None

    @staticmethod
    def become(account: struct_passwd, names: Collection[str]) -> None:
        """See ``System.become``."""
        from rsock_nf.link.linux import capabilities

        capabilities.bound(names)
        capabilities.become(account)
        capabilities.keep_only(names)
        capabilities.hide_memory()  # from other processes of that user

    @staticmethod
    def keep_privileges(names: Collection[str]) -> str:
        """See ``System.keep_privileges``."""
        from rsock_nf.link.linux import capabilities

        if capabilities.capability_sets().get("CapPrm"):  # without any, one's own processes may look: they do anyway
            capabilities.hide_memory()
        capabilities.forbid_new_privileges()
        capabilities.bound(names)
        capabilities.keep_only(names)
        left = capabilities.named(capabilities.capability_sets().get("CapPrm", 0))
        return " ".join(name for name in names if name in left) or "none"

    @staticmethod
    def examine_device(device: str, *, tap: bool) -> list[Finding]:
        """See ``System.examine_device``."""
        from rsock_nf.link.linux import checks as linux_checks

        return linux_checks.examine_device(device, tap=tap)

    @staticmethod
    def passengers(routing: Routing) -> list[str]:
        """See ``System.passengers``."""
        from rsock_nf.link.linux import route_choice

        return route_choice.passengers(routing)

    @staticmethod
    def detour(remote: IPAddress, routing: Routing) -> Detour | None:
        """See ``System.detour``."""
        from rsock_nf.link.linux import route_choice

        return route_choice.detour(remote, routing)

    @staticmethod
    def examine_surroundings(chosen: str, udp_ports: Sequence[PortRange]) -> list[Finding]:
        """See ``System.examine_surroundings``."""
        from rsock_nf.link.linux import surroundings

        return surroundings.examine(chosen, udp_ports)

"""Routing sockets and tables of a simulated kernel: ``SimulatedRouting`` is the ``calls`` of a ``RouteSocket``.

What it knows comes from a ``Tables``, one made by hand or the Linux host's own; how it says it is the system's, encoded
here a second time from the layouts of the table.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, Protocol

from rsock_nf.core.types import IPAddress
from rsock_nf.link.bsd.abi import Abi, aligned, load
from rsock_nf.link.bsd.routing import Interface, KernelRouting


@dataclass(frozen=True)
class Way:
    """The route to one destination."""

    interface: Interface
    gateway: IPAddress | None
    source: IPAddress | None
    flags: tuple[str, ...] = ()
    """Of RTF_*, beside those that follow from the rest."""


class Tables(Protocol):
    """What a kernel knows."""

    def interfaces(self) -> list[Interface]: ...
    def way(self, remote: IPAddress) -> Way | None: ...
    def neighbours(self, version: int) -> list[tuple[int, IPAddress, bytes]]: ...
    def touch(self, neighbour: IPAddress, index: int) -> None: ...


@dataclass
class HandMade:
    """Tables by hand; a way by longest match is not needed here: destination or None = default."""

    links: list[Interface] = field(default_factory=list)
    ways: dict[str | None, Way] = field(default_factory=dict)
    known: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, bytes] = field(default_factory=dict)
    """Neighbours that answer when they are touched."""
    touched: list[str] = field(default_factory=list)
    flags: dict[str, int] = field(default_factory=dict)

    def interfaces(self) -> list[Interface]:
        return self.links

    def way(self, remote: IPAddress) -> Way | None:
        return self.ways.get(str(remote), self.ways.get(None))

    def neighbours(self, version: int) -> list[tuple[int, IPAddress, bytes]]:
        from ipaddress import ip_address

        found = [(self.links[-1].index, ip_address(text), mac) for text, mac in self.known.items()]
        return [entry for entry in found if entry[1].version == version]

    def touch(self, neighbour: IPAddress, index: int) -> None:  # noqa: ARG002
        self.touched.append(str(neighbour))
        if str(neighbour) in self.answers:
            self.known[str(neighbour)] = self.answers[str(neighbour)]


class LinuxTables:
    """The tables of the Linux network namespace that this process is in, under BSD's words."""

    def __init__(self) -> None:
        from rsock_nf.link.linux.rtnetlink import RouteSocket

        self._kernel = RouteSocket()

    def interfaces(self) -> list[Interface]:
        addresses = self._kernel.addresses()
        found = []
        for index, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                link = self._kernel.device(index=index)
                own = tuple(a.address for a in addresses if a.ifindex == index)
                mac = link.address if link.link_type == 1 else b""
                found.append(Interface(index, name, link.flags & 0xFFFF, link.mtu, 0, mac, own))
        return found

    def way(self, remote: IPAddress) -> Way | None:
        from rsock_nf.link.linux.rtnetlink import RouteQuestion

        try:
            route = self._kernel.route(RouteQuestion(remote))
        except OSError:
            return None
        link = next(one for one in self.interfaces() if one.index == route.ifindex)
        return Way(link, route.gateway, route.source)

    def neighbours(self, version: int) -> list[tuple[int, IPAddress, bytes]]:
        from pyroute2.netlink.rtnl.ndmsg import ndmsg

        from rsock_nf.link.linux.rtnetlink import parse_neighbour

        request: Any = ndmsg()
        request["family"] = socket.AF_INET if version == 4 else socket.AF_INET6
        found = [parse_neighbour(raw) for raw in self._kernel._dump(request, 30)]  # RTM_GETNEIGH
        return [(one.ifindex, one.address, one.lladdr) for one in found if one.lladdr]

    @staticmethod
    def touch(neighbour: IPAddress, index: int) -> None:
        KernelRouting.touch(neighbour, index)


class _RoutingSocket(socket.socket):
    """Our end of a pair; what is sent is answered at once, as by a kernel."""

    owner: SimulatedRouting
    far: socket.socket

    def send(self, data: Any, flags: int = 0) -> int:  # noqa: ARG002
        self.owner.asked(self, bytes(data))
        return len(data)

    def close(self) -> None:
        if self in self.owner.sockets:
            self.owner.sockets.remove(self)
            self.far.close()
        super().close()


class SimulatedRouting:
    """``RoutingCalls``."""

    def __init__(self, system: str | Abi, tables: Tables) -> None:
        self.abi = load(system) if isinstance(system, str) else system
        self.tables = tables
        self.sockets: list[_RoutingSocket] = []

    # -- calls

    def open(self) -> socket.socket:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        made = _RoutingSocket(fileno=near.detach())
        made.owner, made.far = self, far
        made.setblocking(False)
        far.setblocking(False)
        self.sockets.append(made)
        return made

    def sysctl(self, name: Sequence[int]) -> bytes:
        abi = self.abi
        assert (name[0], name[1], name[2]) == (abi["CTL_NET"], abi["PF_ROUTE"], 0)
        if name[4] == abi["NET_RT_IFLIST"]:
            assert name[5] == 0
            return b"".join(self.interface_messages(one) for one in self.tables.interfaces())
        assert name[4] == abi["NET_RT_FLAGS"]
        assert name[5] == 0x400
        version = 4 if name[3] == abi["AF_INET"] else 6
        return b"".join(self._neighbour(*entry) for entry in self.tables.neighbours(version))

    def touch(self, neighbour: IPAddress, index: int) -> None:
        self.tables.touch(neighbour, index)

    def address_flags(self, interface: str, address: IPv6Address) -> int:  # noqa: ARG002
        return self.tables.flags.get(str(address), 0) if isinstance(self.tables, HandMade) else 0

    # -- inside the kernel

    def asked(self, asker: _RoutingSocket, request: bytes) -> None:
        """RTM_GET: the answer goes to every routing socket; ESRCH to the asker where there is no route."""
        abi = self.abi
        assert request[2:4] == bytes((abi["RTM_VERSION"], abi["RTM_GET"]))
        (sequence,) = struct.unpack_from("=i", request, abi["offsetof(struct rt_msghdr, rtm_seq)"])
        at = abi["sizeof(struct rt_msghdr)"]
        ipv6 = request[at + 1] == abi["AF_INET6"]
        raw = request[at + 8 : at + 24] if ipv6 else request[at + 4 : at + 8]
        remote = _from_kernel(raw)
        way = self.tables.way(remote)
        if way is None:
            raise OSError(abi["ESRCH"], "ESRCH")
        flags = abi["RTF_UP"] | (abi["RTF_GATEWAY"] if way.gateway else 0)
        flags |= sum(abi[flag] for flag in way.flags)
        sockaddrs = {
            "RTA_DST": self.sockaddr(remote),
            "RTA_GATEWAY": self.sockaddr(way.gateway) if way.gateway else self.sockaddr_dl(way.interface),
            "RTA_NETMASK": b"",
            "RTA_IFP": self.sockaddr_dl(way.interface),
        }
        if way.source is not None:
            sockaddrs["RTA_IFA"] = self.sockaddr(way.source)
        self.tell(self.rt_message("RTM_GET", way.interface.index, flags, sequence, sockaddrs), first=asker)

    def tell(self, message: bytes, first: _RoutingSocket | None = None) -> None:
        """Every routing socket hears it; ``first`` in any case."""
        for one in list(self.sockets):
            if one is first:
                one.far.send(message)
            else:
                with contextlib.suppress(OSError):  # full; or closed in this moment
                    one.far.send(message)

    def announce(self, kind: str, index: int = 0, neighbour: IPAddress | None = None) -> None:
        """A message about which nothing but its kind matters, or its neighbour."""
        if neighbour is not None:
            flags = self.abi["RTF_UP"] | self.abi["RTF_HOST"] | 0x400
            self.tell(self.rt_message(kind, index, flags, 0, {"RTA_DST": self.sockaddr(neighbour, index)}))
        elif kind == "RTM_IFANNOUNCE":
            self.tell(struct.pack("=HBB20x", 24, self.abi["RTM_VERSION"], self.abi[kind]))
        elif kind == "RTM_IFINFO":
            self.tell(self._message("if", "ifm", kind, index, {}, {}))
        else:
            self.tell(self.rt_message(kind, index, 0, 0, {}))

    def rt_message(self, kind: str, index: int, flags: int, sequence: int, sockaddrs: dict[str, bytes]) -> bytes:
        fields = {"flags": flags, "pid": os.getpid(), "seq": sequence, "errno": 0}
        return self._message("rt", "rtm", kind, index, fields, sockaddrs)

    def interface_messages(self, link: Interface) -> bytes:
        abi = self.abi
        sockaddrs = {"RTA_IFP": self.sockaddr_dl(link)}
        made = bytearray(self._message("if", "ifm", "RTM_IFINFO", link.index, {"flags": link.flags}, sockaddrs))
        at = abi["offsetof(struct if_msghdr, ifm_data.ifi_mtu)"]
        wide = abi["sizeof(((struct if_msghdr *)0)->ifm_data.ifi_mtu)"]
        made[at : at + wide] = link.mtu.to_bytes(wide, "little")
        if link.link_state:
            made[abi["offsetof(struct if_msghdr, ifm_data.ifi_link_state)"]] = link.link_state
        for address in link.addresses:
            sockaddrs = {"RTA_NETMASK": b"", "RTA_IFA": self.sockaddr(address)}
            made += self._message("ifa", "ifam", "RTM_NEWADDR", link.index, {}, sockaddrs)
        return bytes(made)

    def _neighbour(self, index: int, address: IPAddress, mac: bytes) -> bytes:
        link = Interface(index, "", 0, 0, 0, mac, ())
        flags = self.abi["RTF_UP"] | self.abi["RTF_HOST"] | 0x400
        sockaddrs = {"RTA_DST": self.sockaddr(address, index), "RTA_GATEWAY": self.sockaddr_dl(link)}
        return self.rt_message("RTM_GET", index, flags, 0, sockaddrs)

    def _message(
        self, struct_name: str, prefix: str, kind: str, index: int, fields: dict[str, int], sockaddrs: dict[str, bytes]
    ) -> bytes:
        abi = self.abi
        unit = {"netbsd": 8, "macos": 4}.get(abi.system, abi["sizeof(long)"])
        body = b"".join(one.ljust(aligned(len(one), unit) or unit, b"\0") for one in sockaddrs.values())
        header = bytearray(abi[f"sizeof(struct {struct_name}_msghdr)"])
        struct.pack_into("=HBB", header, 0, len(header) + len(body), abi["RTM_VERSION"], abi[kind])
        if f"offsetof(struct {struct_name}_msghdr, {prefix}_hdrlen)" in abi:
            struct.pack_into("=H", header, 4, len(header))
        struct.pack_into("=H", header, abi[f"offsetof(struct {struct_name}_msghdr, {prefix}_index)"], index)
        for name, value in {**fields, "addrs": sum(abi[name] for name in sockaddrs)}.items():
            struct.pack_into("=i", header, abi[f"offsetof(struct {struct_name}_msghdr, {prefix}_{name})"], value)
        return bytes(header) + body

    def sockaddr(self, address: IPAddress, index: int = 0) -> bytes:
        if address.version == 4:
            return struct.pack("=BBH4s8x", 16, self.abi["AF_INET"], 0, address.packed)
        packed = address.packed
        scope = getattr(address, "scope_id", None)
        number = int(scope) if scope and scope.isdigit() else index
        if packed[:2] == b"\xfe\x80" and number:
            packed = packed[:2] + number.to_bytes(2, "big") + packed[4:]
        return struct.pack("=BBHI16sI", 28, self.abi["AF_INET6"], 0, 0, packed, 0)

    def sockaddr_dl(self, link: Interface) -> bytes:
        at = self.abi["offsetof(struct sockaddr_dl, sdl_data)"]
        name = link.name.encode()
        made = bytearray(max(self.abi["sizeof(struct sockaddr_dl)"], at + len(name) + len(link.address)))
        made[0], made[1] = len(made), self.abi["AF_LINK"]
        struct.pack_into("=H", made, 2, link.index)
        made[5], made[6] = len(name), len(link.address)
        made[at : at + len(name) + len(link.address)] = name + link.address
        return bytes(made)


class LinuxNews:
    """What happens to interfaces, addresses and routes of this Linux network namespace, told on routing sockets at
    once.

    It is the kernel's part that acts by itself, so it has a thread.
    """

    _GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
    """Links; addresses and routes of both families."""

    def __init__(self, routing: SimulatedRouting) -> None:
        self._routing = routing
        announced = "RTM_IFANNOUNCE" if "RTM_IFANNOUNCE" in routing.abi else "RTM_DELADDR"
        self._kinds = {16: "RTM_IFINFO", 17: announced, 20: "RTM_NEWADDR", 21: "RTM_DELADDR"}
        self._kinds |= {24: "RTM_ADD", 25: "RTM_DELETE"}
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._netlink.bind((0, self._GROUPS))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # an overrun
                data = self._netlink.recv(1 << 16)
                while data:
                    length, kind = struct.unpack_from("=IH", data)
                    if kind in self._kinds:
                        self._routing.announce(self._kinds[kind])
                    data = data[aligned(length, 4) :]


def _from_kernel(raw: bytes) -> IPAddress:
    from ipaddress import ip_address

    if raw[:2] != b"\xfe\x80" or len(raw) == 4:
        return ip_address(raw)
    plain = IPv6Address(raw[:2] + bytes(2) + raw[4:])
    scope = int.from_bytes(raw[2:4], "big")
    return IPv6Address(f"{plain}%{scope}") if scope else plain

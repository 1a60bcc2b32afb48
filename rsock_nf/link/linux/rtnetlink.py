"""Questions to the kernel's routing tables, and its news, over NETLINK_ROUTE.

It turns the parts of rtnetlink's messages that ``ways``, ``devices``, ``neighbours`` and ``routes`` need into small
values.  The socket is
``rsock_firewall.netlink``; pyroute2's message classes encode and decode.  A request never waits for the network.

Layouts: include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour}.h, rtnetlink(7).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, NamedTuple

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from rsock_firewall.netlink import NETLINK_ROUTE, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkSocket, Request
from rsock_nf.core.types import IPAddress
from rsock_nf.link.linux.buffers import enlarge_receive

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
_RTM_GETLINK: Final = 18
_RTM_GETADDR: Final = 22
_RTM_GETROUTE: Final = 26
_RTM_GETNEIGH: Final = 30

NEWS_GROUPS: Final = (1, 3, 5, 7, 8, 9, 11, 19, 32)
"""RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, NEXTHOP"""

IFF_UP: Final = 0x1
IFF_LOOPBACK: Final = 0x8
IFF_RUNNING: Final = 0x40
IFF_NOARP: Final = 0x80

NUD_REACHABLE: Final = 0x02
NUD_STALE: Final = 0x04
NUD_DELAY: Final = 0x08
NUD_PROBE: Final = 0x10
NUD_FAILED: Final = 0x20
NUD_NOARP: Final = 0x40
NUD_PERMANENT: Final = 0x80
_NTF_USE: Final = 0x01
_RTM_F_FIB_MATCH: Final = 0x2000
NTF_EXT_LEARNED: Final = 0x10

IFA_F_TEMPORARY: Final = 0x01  # on IPv4 the same bit means "secondary"
IFA_F_DADFAILED: Final = 0x08
IFA_F_DEPRECATED: Final = 0x20
IFA_F_TENTATIVE: Final = 0x40
SCOPE_GLOBAL: Final = 0
SCOPE_HOST: Final = 254
RTN_UNICAST: Final = 1
RTN_LOCAL: Final = 2

_NEWS_BUFFER: Final = 1 << 20
_DUMPS: Final = 9


class Device(NamedTuple):
    """What we read of RTM_NEWLINK."""

    ifindex: int
    name: str
    flags: int
    link_type: int
    """ARPHRD_*"""
    mtu: int
    address: bytes
    kind: str = ""
    """IFLA_INFO_KIND: ``bridge``, ``vlan``, ``tun``, ``wireguard`` and so on; "" for hardware."""
    port_of: str = ""
    """IFLA_INFO_SLAVE_KIND: the kind of its master, ``bridge``, ``bond``, ``vrf`` and so on; "" = it has none."""
    lower: int = 0
    """IFLA_LINK: the index of the device below a VLAN or macvlan; 0 = it has none."""

    @property
    def up(self) -> bool:
        """The administrator set it up, and it has a carrier or is of a kind without one."""
        return self.flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING


class DeviceAddress(NamedTuple):
    """RTM_NEWADDR."""

    ifindex: int
    address: IPAddress
    scope: int
    flags: int


class Neighbour(NamedTuple):
    """RTM_NEWNEIGH."""

    ifindex: int
    address: IPAddress
    state: int
    flags: int
    lladdr: bytes
    """The link address; b"" = not known."""


class RouteQuestion(NamedTuple):
    """What the kernel is asked for: the route of a packet to ``remote``."""

    remote: IPAddress
    source: IPAddress | None = None
    """RTA_SRC: the packet's source address.  Rules such as ``ip rule add from`` look at it.  None = not chosen yet."""
    mark: int = 0
    """RTA_MARK.  Rules such as ``ip rule add fwmark`` look at it."""
    ifindex: int = 0
    """RTA_OIF: only routes out of this device; 0 = any."""


class RouteEntry(NamedTuple):
    """The entry of a routing table that a packet would use."""

    prefix_bits: int
    metric: int
    """Of two entries with one prefix, the kernel takes the one with the lower metric."""


class RouteReply(NamedTuple):
    """What RTM_GETROUTE answers for one destination; of a multipath route, the path that the kernel chose."""

    ifindex: int
    gateway: IPAddress | None
    """None = on-link.  May be IPv6 for an IPv4 destination (RTA_VIA, RFC 5549)."""
    source: IPAddress | None
    kind: int
    """RTN_*"""
    mtu: int = 0
    """RTAX_MTU, bytes, as the routing table has it; 0 = it sets none.

    What ICMP said is left out.  It expires, and anybody can say it."""


class RouteSocket:
    """A NETLINK_ROUTE socket; raises ``OSError`` as the kernel says.

    ``groups``: multicast groups (RTNLGRP_*) whose news it reads.
    """

    def __init__(self, groups: Iterable[int] = ()) -> None:
        self._netlink = NetlinkSocket(NETLINK_ROUTE, groups)

    def enlarge(self) -> None:
        """Make room for a burst of news.  Without the privilege the buffer stays small; overruns are handled anyway."""
        enlarge_receive(self._netlink.socket, _NEWS_BUFFER)

    def fileno(self) -> int:
        """Readable when news wait."""
        return self._netlink.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._netlink.close()

    def news(self) -> tuple[list[bytes], bool]:
        """Messages that wait, a bounded number; and whether some were lost because we were too slow (ENOBUFS)."""
        return self._netlink.news()

    # -- requests

    def device(self, name: str = "", index: int = 0) -> Device:
        """One device, by name or index.  Raises ``OSError`` (ENODEV)."""
        request = ifinfmsg()
        request["index"] = index
        request["attrs"] = [["IFLA_IFNAME", name]] if name else []
        return parse_device(self._ask(request, _RTM_GETLINK))

    def addresses(self) -> list[DeviceAddress]:
        """The addresses of all devices, in the kernel's order."""
        return [parse_address(raw) for raw in self._dump(ifaddrmsg(), _RTM_GETADDR)]

    def devices(self) -> list[Device]:
        """All devices of the namespace."""
        return [parse_device(raw) for raw in self._dump(ifinfmsg(), _RTM_GETLINK)]

    def route(self, question: RouteQuestion) -> RouteReply:
        """How such a packet would go.  Raises ``OSError``.

        With ``ifindex`` and no route out of that device, IPv4 answers that every address is on-link there: see
        ``entry``.
        """
        return _parse_route(self._ask(_route_request(question), _RTM_GETROUTE))

    def entry(self, question: RouteQuestion) -> RouteEntry:
        """The entry of the routing table behind ``route``'s answer (RTM_F_FIB_MATCH, since Linux 4.13).

        Raises ``OSError`` (EHOSTUNREACH) if the answer has no entry behind it: the kernel only assumed that the address
        is on-link (net/ipv4/route.c, ``ip_route_output_key_hash_rcu``).
        """
        request = _route_request(question)
        request["flags"] = _RTM_F_FIB_MATCH
        return _parse_entry(self._ask(request, _RTM_GETROUTE))

    def neighbour(self, index: int, address: IPAddress) -> Neighbour:
        """The kernel's entry for a neighbour.  Raises ``OSError`` (ENOENT)."""
        return parse_neighbour(self._ask(_neighbour(index, address), _RTM_GETNEIGH))

    def use_neighbour(self, index: int, address: IPAddress, flags: int = 0) -> None:
        """NTF_USE: the kernel resolves or checks the neighbour as if it had sent a packet to it.  The outcome comes as
        news.

        ``flags``: those that the entry has.  An entry with NTF_EXT_LEARNED would lose that flag if it were not
        repeated.
        """
        request = _neighbour(index, address)
        request["flags"] = _NTF_USE | flags & NTF_EXT_LEARNED
        self._ask(request, RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE)

    def probe_neighbour(self, index: int, address: IPAddress) -> None:
        """Set the entry to NUD_PROBE: the kernel sends unicast probes at once, without the 5 s of NUD_DELAY.

        With neither NLM_F_REPLACE nor NDA_LLADDR the entry keeps its link address and flags (net/core/neighbour.c,
        ``neigh_add``).  Raises ``OSError`` when there is no entry, or one without a link address.
        """
        request = _neighbour(index, address)
        request["state"] = NUD_PROBE
        self._ask(request, RTM_NEWNEIGH, NLM_F_ACK)

    def _ask(self, request: Request, kind: int, flags: int = 0) -> bytes:
        """The answer, or the acknowledgement."""
        return self._netlink.ask(_typed(request, kind, flags))

    def _dump(self, request: Request, kind: int) -> list[bytes]:
        """Every object.  If they change again and again while they are read, the last reading is taken."""
        return self._netlink.dump(_typed(request, kind), _DUMPS)[0]


def _typed(request: Request, kind: int, flags: int = 0) -> Request:
    request["header"]["type"] = kind
    request["header"]["flags"] = NLM_F_REQUEST | flags
    return request


def _decoded(kind: Any, message: bytes) -> Any:
    decoded = kind(message)
    decoded.decode()
    return decoded


def _route_request(question: RouteQuestion) -> Request:
    remote, source, mark, ifindex = question
    request = rtmsg()
    request["family"] = _family(remote)
    request["dst_len"] = remote.max_prefixlen
    request["attrs"] = [["RTA_DST", _plain(remote)]]
    if source is not None:
        request["src_len"] = source.max_prefixlen
        request["attrs"].append(["RTA_SRC", _plain(source)])
    if mark:
        request["attrs"].append(["RTA_MARK", mark])
    if ifindex:
        request["attrs"].append(["RTA_OIF", ifindex])
    return request


def parse_device(message: bytes) -> Device:
    """RTM_NEWLINK, RTM_DELLINK."""
    link = _decoded(ifinfmsg, message)
    about = link.get_attr("IFLA_LINKINFO")
    return Device(
        link["index"],
        link.get_attr("IFLA_IFNAME") or "",
        link["flags"],
        link["ifi_type"],
        link.get_attr("IFLA_MTU") or 0,
        _link_address(link.get_attr("IFLA_ADDRESS")),
        (about.get_attr("IFLA_INFO_KIND") if about else None) or "",
        (about.get_attr("IFLA_INFO_SLAVE_KIND") if about else None) or "",
        link.get_attr("IFLA_LINK") or 0,
    )


def parse_address(message: bytes) -> DeviceAddress:
    """RTM_NEWADDR, RTM_DELADDR.  IFA_ADDRESS is the peer's on a point-to-point device, IFA_LOCAL ours."""
    found = _decoded(ifaddrmsg, message)
    own = found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS")
    flags = found.get_attr("IFA_FLAGS")
    return DeviceAddress(found["index"], ip_address(own), found["scope"], found["flags"] if flags is None else flags)


def parse_neighbour(message: bytes) -> Neighbour:
    """RTM_NEWNEIGH, RTM_DELNEIGH of an IP family."""
    entry = _decoded(ndmsg, message)
    address = ip_address(entry.get_attr("NDA_DST"))
    return Neighbour(
        entry["ifindex"], address, entry["state"], entry["flags"], _link_address(entry.get_attr("NDA_LLADDR"))
    )


def device_key(message: bytes) -> tuple[int, int]:
    """Address family and device index of an undecoded link, address or neighbour message.

    Most messages are not about our device, and need not be decoded.  The three structs have both at the same place. A
    link message with another family than AF_UNSPEC is a bridge's about its port; a neighbour message with a family
    that is not IP's is about no IP neighbour.
    """
    return message[16], int(struct.unpack_from("=i", message, 20)[0])


def _parse_route(message: bytes) -> RouteReply:
    route = _decoded(rtmsg, message)
    gateway = route.get_attr("RTA_GATEWAY")
    if gateway is None and (via := route.get_attr("RTA_VIA")) is not None:
        gateway = via["addr"]
    source = route.get_attr("RTA_PREFSRC")
    metrics = route.get_attr("RTA_METRICS")
    learned = (route.get_attr("RTA_CACHEINFO") or {}).get("rta_expires")
    return RouteReply(
        route.get_attr("RTA_OIF") or 0,
        ip_address(gateway) if gateway else None,
        ip_address(source) if source else None,
        route["type"],
        (metrics.get_attr("RTAX_MTU") if metrics and not learned else None) or 0,
    )


def _parse_entry(message: bytes) -> RouteEntry:
    route = _decoded(rtmsg, message)
    return RouteEntry(route["dst_len"], route.get_attr("RTA_PRIORITY") or 0)


def _neighbour(index: int, address: IPAddress) -> Request:
    request = ndmsg()
    request["family"] = _family(address)
    request["ifindex"] = index
    request["attrs"] = [["NDA_DST", _plain(address)]]
    return request


def _link_address(text: str | None) -> bytes:
    return bytes.fromhex(text.replace(":", "")) if text else b""


def _plain(address: IPAddress) -> str:
    """The address without its scope: netlink names the device by index."""
    return str(IPv6Address(address.packed)) if address.version == 6 else str(address)


def _family(address: IPAddress) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6

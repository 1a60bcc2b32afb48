"""Routing messages of FreeBSD, NetBSD, OpenBSD and macOS: it builds RTM_GET, and parses those that arrive.

Pure functions over bytes, for one system's layout.  The socket is in ``routing``.

A message is a header, whose layout ``abi`` knows, and sockaddrs in the order of the bits in ``rtm_addrs``, each
padded: to sizeof(long) on FreeBSD and OpenBSD, to 8 bytes on NetBSD, to 4 on macOS.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from rsock_nf.core.types import IPAddress
from rsock_nf.link.bsd.abi import Abi, aligned

_U16, _I32 = struct.Struct("=H"), struct.Struct("=i")
_SOCKADDR_UNIT: Final = {"netbsd": 8, "macos": 4}
"""Where it is not sizeof(long): RT_ROUNDUP of NetBSD's net/route.h, ROUNDUP32 of macOS's rtsock.c."""
_VERSION_AND_KIND: Final = struct.Struct("=HBB")
"""What every message begins with: length, version, kind."""
_LINK_LOCAL: Final = 0xFE80


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """struct sockaddr_dl."""

    index: int
    name: str
    address: bytes
    """b"" = none, or not resolved."""


Address: TypeAlias = IPAddress | LinkAddress


@dataclass(frozen=True, slots=True)
class Message:
    """What we read of one routing message."""

    kind: int
    """RTM_*"""
    index: int
    """Of the interface."""
    flags: int
    """RTF_*, or IFF_* of an RTM_IFINFO."""
    addresses: dict[int, Address]
    """By RTA_*; those of other families are left out."""
    pid: int = 0
    sequence: int = 0
    error: int = 0
    mtu: int = 0
    """RTM_IFINFO: bytes."""
    link_state: int = 0
    """RTM_IFINFO: LINK_STATE_*; 0 = unknown."""


class Messages:
    """Builds and parses the messages of one system."""

    def __init__(self, abi: Abi) -> None:
        self.abi = abi
        self._unit = _SOCKADDR_UNIT.get(abi.system) or abi["sizeof(long)"]
        address_kinds = (abi["RTM_NEWADDR"], abi["RTM_DELADDR"])
        self._headers = {abi["RTM_IFINFO"]: ("if", "ifm"), **dict.fromkeys(address_kinds, ("ifa", "ifam"))}
        """Kinds whose header is not struct rt_msghdr, and the prefix of its members."""

    def get(self, remote: IPAddress, pid: int, sequence: int) -> bytes:
        """RTM_GET of the route to ``remote``; its interface and our address on it are asked for, too."""
        abi = self.abi
        interface = bytearray(abi["sizeof(struct sockaddr_dl)"])
        interface[0], interface[1] = len(interface), abi["AF_LINK"]
        body = b"".join(self._padded(one) for one in (self._sockaddr(remote), bytes(interface)))
        header = bytearray(abi["sizeof(struct rt_msghdr)"])
        _VERSION_AND_KIND.pack_into(header, 0, len(header) + len(body), abi["RTM_VERSION"], abi["RTM_GET"])
        if "offsetof(struct rt_msghdr, rtm_hdrlen)" in abi:
            _U16.pack_into(header, abi["offsetof(struct rt_msghdr, rtm_hdrlen)"], len(header))
        for member, value in (
            ("flags", abi["RTF_UP"] | abi["RTF_HOST"]),
            ("addrs", abi["RTA_DST"] | abi["RTA_IFP"]),
            ("pid", pid),
            ("seq", sequence),
        ):
            _I32.pack_into(header, abi[f"offsetof(struct rt_msghdr, rtm_{member})"], value)
        return bytes(header) + body

    def parse(self, data: bytes) -> Iterator[Message]:
        """The messages in ``data``, which a read or a sysctl returned.  A message that is cut off or has another
        version is skipped."""
        at = 0
        while at + _VERSION_AND_KIND.size <= len(data):
            length, version, kind = _VERSION_AND_KIND.unpack_from(data, at)
            if not _VERSION_AND_KIND.size <= length <= len(data) - at:
                return
            if version == self.abi["RTM_VERSION"]:
                message = self._message(kind, data[at : at + length])
                if message is not None:
                    yield message
            at += length

    def _message(self, kind: int, data: bytes) -> Message | None:
        abi = self.abi
        if kind == abi.numbers.get("RTM_IFANNOUNCE"):  # has no sockaddrs; which interface it was is looked up
            return Message(kind, 0, 0, {})
        struct_name, prefix = self._headers.get(kind, ("rt", "rtm"))
        struct_name += "_msghdr"
        size = abi[f"sizeof(struct {struct_name})"]
        if len(data) < size:
            return None

        def member(name: str, layout: struct.Struct = _I32) -> int:
            (value,) = layout.unpack_from(data, abi[f"offsetof(struct {struct_name}, {prefix}_{name})"])
            return int(value)

        if f"offsetof(struct {struct_name}, {prefix}_hdrlen)" in abi:
            size = member("hdrlen", _U16)
        found = self._addresses(member("addrs"), data[size:])
        index = member("index", _U16)
        if struct_name == "ifa_msghdr":
            return Message(kind, index, 0, found)
        if struct_name == "if_msghdr":
            wide = abi["sizeof(((struct if_msghdr *)0)->ifm_data.ifi_mtu)"]
            at = abi["offsetof(struct if_msghdr, ifm_data.ifi_mtu)"]
            mtu = int.from_bytes(data[at : at + wide], sys.byteorder)
            return Message(kind, index, member("flags"), found, mtu=mtu, link_state=self._link_state(data))
        return Message(kind, index, member("flags"), found, member("pid"), member("seq"), member("errno"))

    def _link_state(self, data: bytes) -> int:
        at = self.abi.numbers.get("offsetof(struct if_msghdr, ifm_data.ifi_link_state)")
        if at is None:  # macOS has none
            return 0
        return int.from_bytes(
            data[at : at + self.abi["sizeof(((struct if_msghdr *)0)->ifm_data.ifi_link_state)"]], sys.byteorder
        )

    def _addresses(self, bits: int, data: bytes) -> dict[int, Address]:
        found: dict[int, Address] = {}
        for bit in (1 << n for n in range(31)):
            if not bits & bit or not data:
                continue
            length = data[0]
            address = self._address(data[:length])
            if address is not None and bit != self.abi["RTA_NETMASK"]:
                found[bit] = address
            data = data[aligned(length, self._unit) or self._unit :]
        return found

    def _address(self, sockaddr: bytes) -> Address | None:
        """Parse a sockaddr of sa_len bytes; None when it is too short for its family."""
        abi = self.abi
        if len(sockaddr) < 2:
            return None
        family = sockaddr[1]
        if family == abi["AF_INET"] and len(sockaddr) >= 8:
            return IPv4Address(sockaddr[4:8])
        if family == abi["AF_INET6"] and len(sockaddr) >= 24:
            return _ipv6(sockaddr)
        start = abi["offsetof(struct sockaddr_dl, sdl_data)"]
        if family == abi["AF_LINK"] and len(sockaddr) >= start:
            (index,) = _U16.unpack_from(sockaddr, abi["offsetof(struct sockaddr_dl, sdl_index)"])
            name_bytes = sockaddr[abi["offsetof(struct sockaddr_dl, sdl_nlen)"]]
            address_bytes = sockaddr[abi["offsetof(struct sockaddr_dl, sdl_alen)"]]
            name = sockaddr[start : start + name_bytes].decode(errors="replace")
            return LinkAddress(index, name, sockaddr[start + name_bytes : start + name_bytes + address_bytes])
        return None

    def _sockaddr(self, address: IPAddress) -> bytes:
        abi = self.abi
        if isinstance(address, IPv4Address):
            return struct.pack("=BBH4s8x", abi["sizeof(struct sockaddr_in)"], abi["AF_INET"], 0, address.packed)
        index = _scope_index(address)
        packed = address.packed
        if index and packed[0] == 0xFE and packed[1] & 0xC0 == 0x80:
            # The kernel's own form of a scoped address (KAME), as route(8) sends it; FreeBSD also reads the member.
            packed = packed[:2] + index.to_bytes(2, "big") + packed[4:]
            index = index if abi.system == "freebsd" else 0
        return struct.pack("=BBHI16sI", abi["sizeof(struct sockaddr_in6)"], abi["AF_INET6"], 0, 0, packed, index)

    def _padded(self, sockaddr: bytes) -> bytes:
        return sockaddr.ljust(aligned(len(sockaddr), self._unit), b"\0")


def _scope_index(address: IPv6Address) -> int:
    """The interface of a scoped address; 0 = none, or none that is there."""
    if not address.scope_id:
        return 0
    if address.scope_id.isdigit():
        return int(address.scope_id)
    try:
        return socket.if_nametoindex(address.scope_id)
    except OSError:
        return 0


def _ipv6(sockaddr: bytes) -> IPv6Address:
    """A struct sockaddr_in6, perhaps without its last members; the kernel hides a scope in bytes 2 and 3 (KAME)."""
    packed = sockaddr[8:24]
    if int.from_bytes(packed[:2]) & 0xFFC0 != _LINK_LOCAL:
        return IPv6Address(packed)
    scope = int.from_bytes(packed[2:4]) or (
        int.from_bytes(sockaddr[24:28], sys.byteorder) if len(sockaddr) >= 28 else 0
    )
    plain = IPv6Address(packed[:2] + bytes(2) + packed[4:])
    return IPv6Address(f"{plain}%{scope}") if scope else plain

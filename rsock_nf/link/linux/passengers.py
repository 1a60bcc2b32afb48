"""Which devices carry their packets over this tunnel: a VPN on top of it, whose program sends to one of our sockets.

A route into such a device leads in a circle: our packet becomes the VPN's datagram, which comes to us and becomes our
packet again.  So ``ways`` goes around such devices.

A device of kind ``tun`` belongs to a program, which has /dev/net/tun open: OpenVPN, wireguard-go.  That program runs
over this tunnel if it also has a UDP socket whose address is an application's of ours, or one that is connected to a
local end of ours.  A device of kind ``wireguard`` belongs to the kernel, which tells its UDP port and its peers.

It reads /proc of other programs, so it sees only those that this process may look at: root's.
Formats: proc(5); drivers/net/tun.c, tun_chr_show_fdinfo; net/ipv4/udp.c, udp4_seq_show.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from rsock_nf.core.types import IPAddress, TransportAddress
from rsock_nf.link.linux.devices import Devices
from rsock_nf.link.linux.rtnetlink import Device
from rsock_nf.link.linux.wireguard import Ends, wireguard_sockets
from rsock_nf.link.protocol import Routing

_PROC: Final = Path("/proc")
_TUN: Final = "/dev/net/tun"


class UdpSocket(NamedTuple):
    """One line of /proc/net/udp."""

    local: tuple[IPAddress, int]
    remote: tuple[IPAddress, int]
    """All zeros: it is not connected."""
    inode: int


FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
"""Seconds from one look at a device that carries nothing of ours to the next: each time twice as many.  A look reads
the descriptors of all processes, which takes 10 ms and more."""


@dataclass(slots=True)
class _Look:
    """What was found out about a device."""

    ends: frozenset[TransportAddress]
    """The applications at that time."""
    carries: bool
    again_at: float
    pause: float


class Passengers:
    """See the module.  It looks at a device again when other applications talk to us, and after some time."""

    def __init__(self, routing: Routing, devices: Devices, clock: Callable[[], float] = time.monotonic) -> None:
        self._routing = routing
        self._devices = devices
        self._clock = clock
        self._known: dict[tuple[int, str], _Look] = {}

    def carries(self, device: Device) -> bool:
        """Whether the packets of ``device`` come to us.  Once found, it stays so."""
        now = self._clock()
        key = (device.ifindex, device.name)
        before = self._known.get(key)
        if before is not None and (before.carries or now < before.again_at):
            return before.carries
        ends = frozenset(self._routing.applications())
        if before is not None and before.ends == ends and now < before.again_at + LONGEST_PAUSE:
            return False
        pause = min(2 * before.pause, LONGEST_PAUSE) if before is not None else FIRST_PAUSE
        found = self._look(device, ends)
        self._known[key] = _Look(ends, found, now + pause, pause)
        return found

    def _look(self, device: Device, ends: frozenset[TransportAddress]) -> bool:
        if device.kind == "wireguard":
            return self._is_ours(wireguard_sockets(device.name), ends)
        inodes = sockets_of_tun(device.name)
        return self._is_ours([(one.local, one.remote) for one in udp_sockets() if one.inode in inodes], ends)

    def _is_ours(self, sockets: Iterable[Ends], ends: frozenset[TransportAddress]) -> bool:
        """Whether one of the sockets talks to us.

        A socket on all addresses is not that of another host's application with the same port, and what it sends to
        another host does not come to us, though we listen on all addresses there: 51820 is everybody's port."""
        here = [end for end in ends if self._is_here(end.address)]
        return any(
            any(_same(local, end) for end in here)
            or (self._is_here(remote[0]) and any(_same(remote, end) for end in self._routing.listens))
            for local, remote in sockets
        )

    def _is_here(self, address: IPAddress) -> bool:
        """Whether it is an address of this host, or may be one."""
        plain = _mapped(address)
        return plain.is_loopback or plain.is_unspecified or self._devices.has(plain)


def _same(found: tuple[IPAddress, int], end: TransportAddress) -> bool:
    """Whether a socket's address is ``end``; either may stand for all addresses."""
    address, port = found
    either = address.is_unspecified or end.address.is_unspecified or address == end.address
    return port == end.port and port != 0 and (either or _mapped(address) == end.address)


def _mapped(address: IPAddress) -> IPAddress:
    """The IPv4 address in an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2)."""
    return getattr(address, "ipv4_mapped", None) or address


def sockets_of_tun(name: str) -> frozenset[int]:
    """The inodes of all sockets of the programs that serve the tun device ``name``."""
    return frozenset(inode for process in _processes() if _serves(process, name) for inode in _socket_inodes(process))


def _processes() -> list[Path]:
    with contextlib.suppress(OSError), os.scandir(_PROC) as entries:
        return [Path(entry.path) for entry in entries if entry.name.isdigit()]
    return []


def _links(process: Path) -> list[tuple[str, str]]:
    """A process's descriptors, and what each is.  None of a process that has ended, or that may not be looked at."""
    found = []
    with contextlib.suppress(OSError), os.scandir(process / "fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                found.append((entry.name, os.readlink(entry.path)))  # noqa: PTH115 - a thousand of them
    return found


def _serves(process: Path, name: str) -> bool:
    for descriptor, target in _links(process):
        if target == _TUN:
            with contextlib.suppress(OSError):
                lines = (process / "fdinfo" / descriptor).read_text().splitlines()
                if f"iff:\t{name}" in lines:
                    return True
    return False


def _socket_inodes(process: Path) -> Iterator[int]:
    for _, target in _links(process):
        if target.startswith("socket:["):
            yield int(target[len("socket:[") : -1])


def udp_sockets() -> list[UdpSocket]:
    """All UDP sockets of this network namespace."""
    found: list[UdpSocket] = []
    for table in ("udp", "udp6"):
        with contextlib.suppress(OSError):  # a host without IPv6
            lines = (_PROC / "thread-self/net" / table).read_text().splitlines()[1:]
            found += [
                UdpSocket(_address(words[1]), _address(words[2]), int(words[9])) for words in map(str.split, lines)
            ]
    return found


def _address(text: str) -> tuple[IPAddress, int]:
    """``0100007F:7530``: the address as 32-bit words in host byte order, and the port."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    return ip_address(struct.pack(f"={len(words)}I", *words)), int(port, 16)

"""Where packets enter and leave: the protocol ``Link``, and the door ``open_link``.

One of the two places where the operating system is chosen: ``system`` takes the file that knows it, ``linux`` or ``bsd``,
and ``open_link`` and the functions beside it ask that.  Nothing else in ``rsock_nf`` knows which one it runs on.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from rsock_nf.core.types import IPAddress, Outgoing, Packet, PortRange

if TYPE_CHECKING:
    from rsock_nf.link.checks import Finding
    from rsock_nf.link.remedies import Remedies
    from rsock_nf.link.udp import UdpSystem


class PortSide(enum.Enum):
    """Which end of a *received* segment carries the server's port."""

    DESTINATION = "destination"
    """We are the server."""
    SOURCE = "source"
    """We are the client."""


@dataclass(frozen=True, slots=True)
class Match:
    """Which received packets are ours: TCP with an address and a port on the given side, and the ICMP
    "fragmentation needed" / ICMPv6 "packet too big" about segments that we sent."""

    side: PortSide
    addresses: tuple[IPAddress, ...]
    """Server: our own addresses (destination of what we receive); client: the server's (source)."""
    ports: tuple[PortRange, ...]
    """The server's ports."""


class LinkEvent(enum.Enum):
    """What happened to the link since the last look."""

    UP = "up"
    DOWN = "down"
    MTU = "mtu"
    """``Link.mtu`` or ``Link.max_burst_bytes`` changed."""
    ADDRESSES = "addresses"
    """The device's addresses changed."""
    NEXT_HOP = "next-hop"
    """The route to a followed destination changed (gateway or source address)."""
    MOVED = "moved"
    """The route to a followed destination leads out of another device now; ``route_to`` tells which."""
    GONE = "gone"
    """The device was deleted or renamed."""


@dataclass(slots=True)
class LinkCounters:
    """Since the link was opened."""

    received_packets: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    """Bursts as handed to the kernel."""
    sent_segments: int = 0
    sent_bytes: int = 0
    receive_drops: int = 0
    """Dropped by the kernel because our receive buffer was full (PACKET_STATISTICS tp_drops; BIOCGSTATS bs_drop)."""
    truncated: int = 0
    """Received larger than our buffer."""
    send_full: int = 0
    """ENOBUFS: dropped because the device queue was full."""
    too_big: int = 0
    """Not sent: a frame with its headers above the MTU."""
    unresolved: int = 0
    """Not sent: no route or neighbour yet."""
    send_errors: int = 0
    """Not sent: anything else."""


class Link(Protocol):
    """One device, as far as our flows are concerned.  Non-blocking throughout."""

    device: str
    mtu: int
    """Largest IP packet, bytes."""
    max_burst_bytes: int
    """Largest IP packet length of a burst; 0 = this link takes single segments only."""

    def fileno(self) -> int:
        """Readable when packets wait."""

    def event_fileno(self) -> int:
        """Readable when ``events`` has something; -1 = never."""

    def receive(self, budget: int) -> list[Packet]:
        """At most ``budget`` packets; empty when none waits.  Buffers are valid until the next call.

        A link whose kernel hands out a whole buffer at once (/dev/bpf) gives all of it, however many packets that is:
        ``fileno`` tells nothing of what has been read already.
        """

    def send(self, bursts: Sequence[Outgoing]) -> int:
        """Send; how many of ``bursts`` are done with (sent, or dropped and counted).

        Less than ``len(bursts)`` means that the send buffer is full: wait until ``fileno`` is writable.
        """

    def rematch(self, match: Match) -> None:
        """Receive what ``match`` describes from now on (our addresses changed), without a gap.

        Raises ``LinkError`` when it cannot be expressed as one filter.
        """

    def follow(self, remote: IPAddress) -> None:
        """Resolve the next hop to ``remote`` now and keep it fresh until ``forget``; never blocks."""

    def forget(self, remote: IPAddress) -> None:
        """Stop following ``remote``."""

    def suspect(self, remote: IPAddress) -> None:
        """Flows to ``remote`` went silent: make the kernel re-check the neighbour at once."""

    def source_for(self, remote: IPAddress) -> IPAddress | None:
        """The source address that the route to ``remote`` prefers; None = no route."""

    def events(self) -> list[LinkEvent]:
        """What happened since the last call; reads the event descriptor empty."""

    def tick(self, now: float) -> None:
        """About once a second while traffic flows: neighbours are re-checked, statistics read."""

    def counters(self) -> LinkCounters:
        """A snapshot."""

    def close(self) -> None:
        """Idempotent."""


class LinkError(Exception):
    """The link cannot be opened or used: one line that names the device and the remedy."""


class Route(NamedTuple):
    """How packets to one destination leave this host."""

    device: str
    source: IPAddress | None
    gateway: IPAddress | None
    """None = on-link."""
    local: bool
    """The destination is an address of this host: ``device`` is the loopback device, or the address's own."""


class System(Protocol):
    """What an operating system brings: one file each."""

    run_directory: Path
    """Where files go that do not outlive a reboot."""
    has_capabilities: bool
    """Privileges come one by one (capabilities(7)), not as root only."""
    socket_path_bytes: int
    """The longest path of a Unix-domain socket: one less than sun_path."""

    @property
    def remedies(self) -> Remedies:
        """What error messages send their reader to."""

    @property
    def udp(self) -> UdpSystem:
        """How its UDP sockets are read and written."""

    def open_link(self, device: str, match: Match, receive_buffer: int) -> Link:
        """See ``open_link``."""

    def route_to(self, remote: IPAddress) -> Route:
        """See ``route_to``."""

    def default_device(self, version: int | None) -> str | None:
        """See ``default_device``."""

    def device_addresses(self, device: str) -> tuple[IPAddress, ...]:
        """See ``device_addresses``."""

    def examine_host(self) -> list[Finding]:
        """What of the kernel a tunnel over fake TCP needs."""

    def examine_device(self, device: str, *, tap: bool) -> list[Finding]:
        """The state of ``device``; with ``tap``, whether fake TCP can be seen there."""


_BSD = {"freebsd": "freebsd", "netbsd": "netbsd", "openbsd": "openbsd", "darwin": "macos"}


@functools.cache
def system() -> System:
    """The one that this process runs on.  Raises ``LinkError`` when it is none that we know."""
    name = sys.platform.rstrip("0123456789")  # freebsd14
    if name == "linux":
        from rsock_nf.link.linux.system import Linux

        return Linux()
    if name in _BSD:
        from rsock_nf.link.bsd.system import Bsd

        return Bsd(_BSD[name])
    raise LinkError(f"{sys.platform}: only Linux, FreeBSD, NetBSD, OpenBSD and macOS are known")


def open_link(device: str, match: Match, *, receive_buffer: int = 32 << 20) -> Link:
    """Open the link of this operating system on ``device``.

    Raises ``LinkError`` when the device does not exist, is down, is of an unknown kind, or the privilege is missing.
    """
    with _in_one_line(f"{device}: the link cannot be opened"):
        return system().open_link(device, match, receive_buffer)


def route_to(remote: IPAddress) -> Route:
    """How packets to ``remote`` leave this host.  Raises ``LinkError`` when there is no route."""
    with _in_one_line(f"the way to {remote} cannot be asked for"):
        return system().route_to(remote)


def device_to(remotes: Sequence[IPAddress]) -> str:
    """The device toward the first of ``remotes``, of which there is one at least, that any route leads to.

    Raises ``LinkError`` about the first of them when there is no such route.
    """
    refusals = []
    for remote in remotes:
        try:
            return route_to(remote).device
        except LinkError as error:
            refusals.append(error)
    raise refusals[0]


OWN_ADDRESS: Final = "is an address of this host: client and server need two hosts, or two network namespaces"
"""What people are told of ``own_address``."""


def own_address(remotes: Sequence[IPAddress]) -> IPAddress | None:
    """The first of ``remotes`` that is this host's: what it sends there passes no device."""
    for remote in remotes:
        with contextlib.suppress(LinkError):  # no route
            if route_to(remote).local:
                return remote
    return None


def default_device(version: int | None = None) -> str | None:
    """The device that packets to the world leave by, for IP ``version`` or for either, IPv4 first.

    Without such a route: the only device that has an address of global scope.  None = there is none, or several.
    Raises ``LinkError`` when the kernel cannot be asked.
    """
    with _in_one_line("the default route cannot be asked for"):
        return system().default_device(version)


def device_addresses(device: str) -> tuple[IPAddress, ...]:
    """Its addresses of global scope (the loopback device: of host scope too), lasting and usable ones first.

    Raises ``LinkError`` when there is no such device.
    """
    with _in_one_line(f"{device}: its addresses cannot be asked for"):
        return system().device_addresses(device)


_ABROAD: Final = {4: ("192.0.2.1", "1.1.1.1"), 6: ("2001:db8::1", "2606:4700:4700::1111")}


def abroad(version: int | None = None) -> list[IPAddress]:
    """Destinations outside every local network, to ask the routing table about; nothing is sent to them.

    Of IP ``version`` or of either, IPv4 first.  Two of each, because some hosts blackhole the prefixes that are reserved
    for documentation (RFC 5737, RFC 3849).
    """
    return [ip_address(probe) for each in ((version,) if version else (4, 6)) for probe in _ABROAD[each]]


@contextlib.contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """A system's file names what it knows of; anything else that its kernel refuses is a ``LinkError``, too."""
    try:
        yield
    except OSError as error:
        raise LinkError(f"{what}: {error.strerror or error}") from error

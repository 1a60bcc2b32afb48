"""What a link is, and what an operating system has to provide: protocols and plain values, no system call.

``Link`` is the network as far as our flows are concerned.  ``System`` is everything that differs between operating
systems.  The rooms ``linux`` and ``bsd`` have one each, and ``rsock_nf.link.system`` chooses one.
"""

from __future__ import annotations

import enum
import errno
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from pwd import struct_passwd
from typing import Final, NamedTuple, Protocol

from rsock_nf.core.types import ALL_PORTS, IPAddress, Outgoing, Packet, PortRange, Shard, TransportAddress
from rsock_nf.link.checks import Finding
from rsock_nf.link.udp import UdpSystem

NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)
"""What system calls say when this process, or the host, can open no more files."""


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
    """On the server: our own addresses, the destinations of what we receive.  On the client: the server's addresses,
    the sources of what we receive."""
    ports: tuple[PortRange, ...]
    """The server's ports."""
    shard: Shard = ALL_PORTS
    """Of our own ports, be it the server's or a client's: the others are another process's."""


@dataclass(frozen=True, slots=True)
class Watched:
    """Whose packets are watched, as ``Watch`` shows them: those to and from the server's end, on either host."""

    addresses: tuple[IPAddress, ...]
    """The server's; empty = any."""
    tcp: tuple[PortRange, ...]
    """The server's ports of fake TCP."""
    udp: tuple[PortRange, ...]
    """The server's ports of flows over UDP."""


class Seen(NamedTuple):
    """A packet as it crossed a device of this host."""

    when: int
    """Nanoseconds since 1970, by the kernel."""
    device: str
    outgoing: bool
    ethernet: bool
    """``data`` begins with an Ethernet header; else with that of IP."""
    data: bytes
    """What was captured of it."""
    length: int
    """Bytes that it has: more than there are in ``data`` if it was cut off."""


class Watch(Protocol):
    """Looks on, for ``rsock-nf capture``: packets of a tunnel in both directions.  Non-blocking."""

    def fileno(self) -> int:
        """Readable when packets wait."""

    def read(self, budget: int) -> list[Seen]:
        """At most ``budget`` packets; empty when none waits."""

    def drops(self) -> int:
        """How many packets found the buffer full, since the beginning."""

    def close(self) -> None:
        """Idempotent."""


def _none() -> Collection[TransportAddress]:
    return ()


@dataclass(frozen=True, slots=True)
class Routing:
    """What the kernel's routing tables are asked for, beside the destination."""

    device: str | None = None
    """The only device that may be used; None = any."""
    mark: int = 0
    """The firewall mark that our packets have (SO_MARK, socket(7)): rules such as ``ip rule add fwmark`` look at it."""
    listens: tuple[TransportAddress, ...] = ()
    """Client: the local ends.  A VPN whose program sends there runs over this tunnel."""
    applications: Callable[[], Collection[TransportAddress]] = _none
    """The sockets that this tunnel exchanges datagrams with now: a client's applications, a server's targets."""


class Detour(NamedTuple):
    """The route to a destination leads into a VPN, and is not followed."""

    remote: IPAddress
    avoided: str
    """The VPN's device."""
    used: str
    """The device that is used instead; "" = no other one has a route."""
    over_us: bool
    """The VPN runs over this tunnel.  False = that is not known."""


class LinkEvent(enum.Enum):
    """What happened to the link since the last look."""

    UP = "up"
    DOWN = "down"
    MTU = "mtu"
    """``Link.mtu`` or ``Link.max_burst_bytes`` changed."""
    ADDRESSES = "addresses"
    """Addresses of some device changed; of a link with one device: of that device."""
    NEXT_HOP = "next-hop"
    """The route to a followed destination changed (device, gateway or source address)."""
    MOVED = "moved"
    """A link with one device: the route to a followed destination leads out of another device now."""
    GONE = "gone"
    """A link with one device: that device was deleted or renamed."""


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
    late: int = 0
    """Packets dropped by us because they had waited too long in the receive buffer (``waiting_time``)."""
    dropped_syns: int = 0
    """SYNs of strangers that found their queue full, or had waited too long in it."""
    send_full: int = 0
    """ENOBUFS: dropped because the device queue was full."""
    too_big: int = 0
    """Not sent: a frame with its headers above the MTU."""
    unresolved: int = 0
    """Not sent: no route or neighbour yet."""
    send_errors: int = 0
    """Not sent: anything else."""


class Routes(Protocol):
    """The ways to the destinations that are followed, kept up to date.  Non-blocking throughout."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices by which packets leave; while there is no route, those by which they left."""

    def fileno(self) -> int:
        """Readable when ``events`` has something; -1 = never."""

    def events(self) -> list[LinkEvent]:
        """What happened since the last call.  Reads everything from the descriptor."""

    def follow(self, remote: IPAddress, source: IPAddress | None = None) -> None:
        """Find the way of packets from ``source`` (None = not chosen yet) to ``remote``, and keep it up to date until
        ``forget``.  Never blocks."""

    def forget(self, remote: IPAddress, source: IPAddress | None = None) -> None:
        """Stop following it."""

    def suspect(self, remote: IPAddress) -> None:
        """Flows to ``remote`` went silent: make the kernel check the next hop at once."""

    def unanswered(self, remote: IPAddress) -> None:
        """Nothing that is sent to ``remote`` is answered.  If the way leads through somebody's VPN, try another one."""

    def source_for(self, remote: IPAddress) -> IPAddress | None:
        """The source address for packets to ``remote``; None = no route."""

    def device_for(self, remote: IPAddress) -> int:
        """The index of the device that a UDP socket has to send by toward ``remote``; 0 = the one that the kernel
        chooses."""

    def path_mtu(self) -> int:
        """The largest IP packet that every way and its device takes, bytes; 0 = not known."""

    def detours(self) -> list[Detour]:
        """The followed destinations whose route leads into a VPN that is not used."""

    @property
    def through_vpn(self) -> bool:
        """Packets leave by the device of some VPN now, as far as the system tells.  It may be one that runs over this
        tunnel and is not recognised."""

    def missing(self) -> list[str]:
        """The followed destinations that packets cannot be sent to now: a line for each, with the reason."""

    def tick(self, now: float) -> None:
        """Call it about once a second while traffic flows."""

    def close(self) -> None:
        """Idempotent."""


class Link(Protocol):
    """The network, as far as our flows are concerned.  Non-blocking throughout."""

    @property
    def up(self) -> bool:
        """At least one of them is up."""

    @property
    def mtu(self) -> int:
        """Largest IP packet that every one of them takes, bytes."""

    @property
    def max_burst_bytes(self) -> int:
        """Largest IP packet length of a burst; 0 = this link takes single segments only."""

    @property
    def waited(self) -> float:
        """Seconds that the last packet of ``receive`` has waited in the kernel, at least.  0 = the queue was short, or
        the system does not tell."""

    warnings: tuple[str, ...]
    """What this kernel lacks, though the link works without it: lines for the log."""

    @property
    def routes(self) -> Routes:
        """The ways of its packets.  Their events are among those of ``events``."""

    def fileno(self) -> int:
        """Readable when packets wait."""

    def write_fileno(self) -> int:
        """Writable when there is room again, after ``send`` has found a full send buffer."""

    def event_fileno(self) -> int:
        """Readable when ``events`` has something; -1 = never."""

    def receive(self, budget: int) -> list[Packet]:
        """At most ``budget`` packets; empty when none waits.  Buffers are valid until the next call.

        /dev/bpf gives a whole buffer at a time.  Such a link returns all packets in it, however many: ``fileno`` does
        not become readable for packets that have already been read.
        """

    def serve_first(self, known: Callable[[Packet], bool]) -> None:
        """``known`` tells whose packets have waited too long last: those of others are dropped before them."""

    def strangers_fileno(self) -> int:
        """Readable when SYNs wait that have a queue of their own; -1 = they come by ``receive``."""

    def receive_strangers(self, budget: int) -> list[Packet]:
        """As ``receive``, for the queue of ``strangers_fileno``."""

    def send(self, bursts: Sequence[Outgoing]) -> int:
        """Send ``bursts``.  Returns how many are done: sent, or dropped and counted.

        Less than ``len(bursts)`` means that the send buffer is full: wait until ``write_fileno`` is writable.
        """

    def rematch(self, match: Match) -> None:
        """Receive what ``match`` describes from now on, without a gap.  For a server whose addresses changed.

        Raises ``LinkError`` when one filter cannot express it.
        """

    def events(self) -> list[LinkEvent]:
        """What happened since the last call.  Reads everything from the event descriptor."""

    def tick(self, now: float) -> None:
        """Call it about once a second while traffic flows: it checks next hops and reads statistics."""

    def counters(self) -> LinkCounters:
        """A snapshot."""

    def close(self) -> None:
        """Idempotent."""


class LinkError(Exception):
    """The link cannot be opened or used.  The text is one line that names the device and the remedy."""


class AbsentError(LinkError):
    """A device, a route or an address is not there, or not up.  It may appear later."""


class Route(NamedTuple):
    """How packets to one destination leave this host."""

    device: str
    source: IPAddress | None
    gateway: IPAddress | None
    """None = on-link."""
    local: bool
    """The destination is an address of this host: ``device`` is the loopback device, or the address's own."""


@dataclass(frozen=True, slots=True)
class Remedies:
    """What error messages send their reader to: command lines, without the backquotes, and names of settings."""

    tcp_port: str
    """Shows which process has TCP port ``{port}``."""
    udp_port: str
    """Shows which process has UDP port ``{port}``."""
    tcp_ports: str
    """Shows which processes have TCP ports."""
    unix_socket: str
    """Shows which process has the Unix-domain socket ``{path}``."""
    addresses: str
    """Lists the host's addresses."""
    ephemeral_ports: str
    """The setting of their range."""
    low_ports: str
    """What a process needs to bind ports below 1024."""


class System(Protocol):
    """What an operating system has to provide."""

    run_directory: Path
    """The directory for files that need not survive a reboot."""
    run_directory_groups: tuple[int, ...]
    """The groups of the system's own, by number, that may write it."""
    config_directory: Path
    """The directory for the configuration of programs that do not come with the system."""
    has_capabilities: bool
    """Privileges can be granted one by one (capabilities(7)), not only all of root's together."""
    socket_path_bytes: int
    """The longest path of a Unix-domain socket: one less than sun_path."""

    @property
    def remedies(self) -> Remedies:
        """What error messages send their reader to."""

    @property
    def udp(self) -> UdpSystem:
        """How its UDP sockets are read and written."""

    has_native_path: bool
    """The native data path can take the place of this system's link and UDP sockets."""
    has_workers: bool
    """Processes can share what comes to an instance: packets by a remainder in the filter, and the datagrams of
    applications by what the kernel makes of their sources (SO_REUSEPORT)."""
    taps_every_device: bool
    """A link without a device takes packets from every device, and sends by the one that the route names.  Otherwise
    each link has one device."""

    def open_link(self, routing: Routing, match: Match, receive_buffer: int) -> Link:
        """See ``open_link``."""

    def open_routes(self, routing: Routing) -> Routes:
        """See ``open_routes``."""

    def open_watch(self, watched: Watched, device: str | None, snap: int) -> Watch:
        """See ``open_watch``."""

    def route_to(self, remote: IPAddress, mark: int) -> Route:
        """See ``route_to``."""

    def host_addresses(self) -> tuple[IPAddress, ...]:
        """See ``host_addresses``."""

    def default_device(self, version: int | None) -> str | None:
        """See ``default_device``."""

    def device_addresses(self, device: str) -> tuple[IPAddress, ...]:
        """See ``device_addresses``."""

    def allow_absent_address(self, sock: socket.socket) -> None:
        """Let ``sock`` bind an address that this host does not have now, where the system can."""

    def keep_silent(self, sock: socket.socket) -> None:
        """Have the kernel answer no segment to the port of ``sock``, a bound TCP socket, where the system can."""

    def forwards(self) -> bool:
        """Whether this host forwards packets now, so that its packet filter may translate connections of others.

        False where the packet filter lets those pass anyway, or where that cannot be told.
        Raises ``OSError`` (``NO_DESCRIPTOR``) when it cannot be looked up at this moment.
        """

    def drops_at_input(self) -> bool:
        """Whether the drop rules must be at input now.

        Either this host forwards, and what it translates for others has to pass; or bridged packets pass the packet
        filter, so a rule in prerouting would drop ours on a port of the bridge, before our tap on the bridge.
        Raises ``OSError`` as ``forwards``.
        """

    def ephemeral_ports(self) -> tuple[PortRange, ...]:
        """The ports that the kernel gives to outgoing connections; empty = not known."""

    def examine_host(self) -> list[Finding]:
        """Whether the kernel has what a tunnel over fake TCP needs."""

    def effective_capabilities(self) -> frozenset[str] | None:
        """Those of this thread that a tunnel may want, by name; None = that is not known."""

    def become(self, account: struct_passwd, names: Collection[str]) -> None:
        """Be this user, for good, and keep what the capabilities of these names allow.

        Called by root, in a process without threads.  Raises ``OSError`` when it may not, or when they cannot be kept.
        """

    def keep_privileges(self, names: Collection[str]) -> str:
        """Give up, for this thread and those that it starts, every privilege but the capabilities of these names.

        Also what this process executes gains none by it, and where it had any, its memory is hidden from others.
        What is left, in words; "" where the system has no such thing.  Raises ``OSError`` when it is not to be had.
        """

    def examine_device(self, device: str, *, tap: bool) -> list[Finding]:
        """The state of ``device``; with ``tap`` also whether fake TCP can be received there."""

    def passengers(self, routing: Routing) -> list[str]:
        """The devices of VPNs that run over a tunnel with these ends.  Empty = none is seen, or that is not known."""

    def detour(self, remote: IPAddress, routing: Routing) -> Detour | None:
        """What becomes of a route to ``remote`` that leads into a VPN; None = it does not, or that is not known.

        ``Detour.used`` is the VPN's own device if that is taken: nothing shows that it runs over this tunnel.
        Raises ``LinkError`` when the routes cannot be asked for.
        """

    def examine_surroundings(self, chosen: str, udp_ports: Sequence[PortRange]) -> list[Finding]:
        """What other programs and settings of the host do to a tunnel.

        ``chosen``: the device of UDP flows that need not be that of their route; "" = there are none.  ``udp_ports``:
        on which clients come in over UDP."""


_ABROAD: Final = {4: ("192.0.2.1", "1.1.1.1"), 6: ("2001:db8::1", "2606:4700:4700::1111")}


def abroad(version: int | None = None) -> list[IPAddress]:
    """Destinations outside every local network, to ask the routing table about; nothing is sent to them.

    Of IP ``version`` or of either, IPv4 first.  Two of each, because some hosts blackhole the prefixes that are
    reserved for documentation (RFC 5737, RFC 3849).
    """
    return [ip_address(probe) for each in ((version,) if version else (4, 6)) for probe in _ABROAD[each]]

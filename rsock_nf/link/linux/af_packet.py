"""The link on Linux: AF_PACKET sockets, and the ways that packets take.

It has three parts.  ``tap`` receives, on every device.  ``ways`` knows by which device, to which next hop and from
which address packets leave.  ``sender`` sends on one device: there is one for each device that is in use.

``send`` brings them together: for each burst it looks up the path, and gives the burst to the sender of that device.
An answer to a stranger needs no path: it leaves by the device and the neighbour that brought the question.

It is no TCP: it looks at nothing behind the IP header, and keeps no state of flows.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rsock_nf.core.types import Outgoing, Packet
from rsock_nf.link.bpf_filter import Syns
from rsock_nf.link.ethernet import ETHERNET_MTU, ethernet_answer
from rsock_nf.link.linux import arphrd
from rsock_nf.link.linux import rtnetlink as rtnl
from rsock_nf.link.linux.devices import Devices
from rsock_nf.link.linux.sender import MAX_PACKET_BYTES, Sender
from rsock_nf.link.linux.tap import INDEX, Tap
from rsock_nf.link.linux.ways import Ways
from rsock_nf.link.protocol import AbsentError, LinkCounters, LinkError, LinkEvent, Match, PortSide, Routing

_IPV4: Final = 4
STRANGERS_BUFFER: Final = 128 << 10
"""Bytes to ask for; about 300 SYNs."""
_NO_DEVICE: Final = 0x7FFFFFFF
"""No device has this index."""


class PacketLink:
    """``Link`` over AF_PACKET.  ``routing.device`` = None takes packets from every device.

    ``receive_buffer``: see ``Tap``.  Raises ``LinkError``.
    """

    def __init__(self, routing: Routing, match: Match, *, receive_buffer: int) -> None:
        self._routing = routing
        self._match = match
        self._counters = LinkCounters()
        self._strangers_counters = LinkCounters()
        self._senders: dict[int, Sender] = {}
        """By device."""
        self._full: Sender | None = None
        """The sender whose buffer was full when something was last sent."""
        self._changes = 0
        """How often senders or the filter have changed."""
        self._idle_mtu = (-1, 0)
        """The revision of ``routes`` at which the MTU without a way was asked for, and that MTU."""
        self.warnings: tuple[str, ...] = ()
        self._refuse_device(routing.device)
        with contextlib.ExitStack() as undo:
            self.routes = undo.enter_context(contextlib.closing(Ways(routing)))
            if routing.device is not None:
                _check(self.routes.host, routing.device)
            self._seen = self._where()
            only, hidden = self._seen
            serves = match.side is PortSide.DESTINATION
            with _named(routing.device):
                self.tap = undo.enter_context(
                    contextlib.closing(
                        Tap(
                            match,
                            self._counters,
                            only=only,
                            hidden=hidden,
                            receive_buffer=receive_buffer,
                            syns=Syns.LEFT if serves else Syns.TAKEN,
                        )
                    )
                )
                self._strangers = self._open_strangers(only, hidden) if serves else None
            undo.pop_all()
        self.mtu = self._read_mtu()
        self.max_burst_bytes = self._read_burst()

    def _open_strangers(self, only: int, hidden: Sequence[int]) -> Tap:
        """SYNs wait in a small queue of their own: what does not fit, the kernel drops, and flows do not notice."""
        return Tap(
            self._match,
            self._strangers_counters,
            only=only,
            hidden=hidden,
            receive_buffer=STRANGERS_BUFFER,
            syns=Syns.ALONE,
        )

    @staticmethod
    def _refuse_device(name: str | None) -> None:
        if name is not None and not 0 < len(name.encode()) < 16:
            raise LinkError(f"{name}: not a device name (1 to 15 bytes)")

    @property
    def up(self) -> bool:
        """See ``Link``."""
        return self.routes.up

    # -- in

    def fileno(self) -> int:
        """The tap: readable when packets wait."""
        return self.tap.fileno()

    def receive(self, budget: int) -> list[Packet]:
        """See ``Link``: at most 32 packets."""
        return self.tap.receive(budget)

    @property
    def waited(self) -> float:
        """See ``Link``."""
        return self.tap.waited

    def serve_first(self, known: Callable[[Packet], bool]) -> None:
        """See ``Link``."""
        self.tap.known = known

    def strangers_fileno(self) -> int:
        """See ``Link``."""
        return -1 if self._strangers is None else self._strangers.fileno()

    def receive_strangers(self, budget: int) -> list[Packet]:
        """See ``Link``."""
        return [] if self._strangers is None else self._strangers.receive(budget)

    def _taps(self) -> list[Tap]:
        return [self.tap] if self._strangers is None else [self.tap, self._strangers]

    def rematch(self, match: Match) -> None:
        """See ``Link``."""
        self._match = match
        self._changes += 1
        only, hidden = self._seen
        with _named(self._routing.device):
            for tap in self._taps():
                tap.rematch(match, only=only, hidden=hidden)

    def _where(self) -> tuple[int, list[int]]:
        """The only device that packets are taken from (0 = any), and those that are left out."""
        name = self._routing.device
        if name is None:
            return 0, self.routes.host.hidden()
        device = self.routes.host.named(name)
        return (device.ifindex if device is not None else _NO_DEVICE), []

    # -- out

    def write_fileno(self) -> int:
        """See ``Link``: the socket whose send buffer was full."""
        return self._full.fileno() if self._full is not None else self.tap.fileno()

    def send(self, bursts: Sequence[Outgoing]) -> int:
        """See ``Link``.  Bursts larger than the device takes are cut in software."""
        path, senders = self.routes.path, self._senders
        for done, burst in enumerate(bursts):
            headers = burst.headers
            if burst.reply_to:
                ifindex, link = INDEX.unpack_from(burst.reply_to)[0], ethernet_answer(burst.reply_to[INDEX.size :])
            else:
                found = path(headers[12:20] if headers[0] >> 4 == _IPV4 else headers[8:40])
                if found is None:
                    self._counters.unresolved += 1
                    continue
                ifindex, link = found
            sender = senders.get(ifindex) or self._open(ifindex)
            if sender is None:
                self._counters.send_errors += 1
            elif sender.fits(burst) and not sender.send(burst, link):
                if len(senders) > 1:  # the other devices have to go on
                    self._counters.send_full += 1
                    continue
                self._full = sender
                return done
        return len(bursts)

    @property
    def ways_revision(self) -> int:
        """It grows when a packet may have to leave by another socket, or with another link header, than before."""
        return self._changes + self.routes.paths_revision

    def sender(self, ifindex: int) -> Sender | None:
        """What sends on this device; None = it is gone, or down."""
        return self._senders.get(ifindex) or self._open(ifindex)

    def add(self, counts: LinkCounters) -> None:
        """Somebody else has sent and received on the sockets of this link, and has counted that."""
        ours = self._counters
        for field in dataclasses.fields(counts):
            setattr(ours, field.name, getattr(ours, field.name) + getattr(counts, field.name))

    def _open(self, ifindex: int) -> Sender | None:
        """A sender for a device that comes into use; None = it has just gone, or is down."""
        device = self.routes.host.get(ifindex)
        if device is None or device.link_type not in arphrd.SUPPORTED:
            return None
        with contextlib.suppress(OSError):
            self._senders[ifindex] = sender = Sender(device, self._counters, self._routing.mark)
            return sender
        return None

    # -- sizes

    def _read_mtu(self) -> int:
        return self.routes.path_mtu() or self._read_idle_mtu()

    def _read_idle_mtu(self) -> int:
        """Of the named device, or of the default route's."""
        if self._idle_mtu[0] != self.routes.revision:
            name = self._routing.device or self.routes.default_device()
            device = self.routes.host.named(name) if name is not None else None
            self._idle_mtu = self.routes.revision, device.mtu if device is not None else ETHERNET_MTU
        return self._idle_mtu[1]

    def _read_burst(self) -> int:
        used = {device.ifindex for device in self.routes.in_use()}
        known = [sender.max_burst_bytes for index, sender in self._senders.items() if index in used]
        return min(known, default=MAX_PACKET_BYTES)

    # -- what happens

    def event_fileno(self) -> int:
        """Readable when the kernel told something about devices, routes or neighbours."""
        return self.routes.fileno()

    def events(self) -> list[LinkEvent]:
        """See ``Link``."""
        found = dict.fromkeys(self.routes.events())
        self._follow_devices()
        mtu, burst = self._read_mtu(), self._read_burst()
        if (mtu, burst) != (self.mtu, self.max_burst_bytes):
            self.mtu, self.max_burst_bytes = mtu, burst
            found[LinkEvent.MTU] = None
        return list(found)

    def _follow_devices(self) -> None:
        """Senders of devices that are gone, renamed or have changed are closed; the filter names the devices that there
        are now."""
        devices = self.routes.host
        for ifindex, sender in list(self._senders.items()):
            device = devices.get(ifindex)
            if device is None or device.name != sender.name or not device.up or sender.lost:
                del self._senders[ifindex]
                sender.close()
                self._changes += 1
                self._full = None if self._full is sender else self._full
            else:
                before = sender.mtu, sender.max_burst_bytes
                sender.follow(device)
                self._changes += (sender.mtu, sender.max_burst_bytes) != before
        seen = self._where()
        if seen != self._seen:
            old, self._seen = self._seen, seen
            try:
                self.rematch(self._match)
            except LinkError:  # more devices than a filter can name: the filter of before stays, and is tried again
                self._seen = old

    def tick(self, now: float) -> None:
        """See ``Link``."""
        self.routes.tick(now)
        for tap in self._taps():
            tap.read_statistics()

    def counters(self) -> LinkCounters:
        """See ``Link``."""
        for tap in self._taps():
            tap.read_statistics()
        ours, strangers = self._counters, self._strangers_counters
        return dataclasses.replace(
            ours,
            received_packets=ours.received_packets + strangers.received_packets,
            received_bytes=ours.received_bytes + strangers.received_bytes,
            dropped_syns=strangers.receive_drops + strangers.late,
        )

    def close(self) -> None:
        """See ``Link``."""
        for tap in self._taps():
            tap.close()
        for sender in self._senders.values():
            sender.close()
        self._senders.clear()
        self.routes.close()


def _check(devices: Devices, name: str) -> None:
    """Raise ``LinkError`` unless the device is up, and of a kind that we know."""
    device = devices.named(name)
    if device is None or not device.flags & rtnl.IFF_UP:  # ``Ways`` has found it a moment ago
        raise AbsentError(f"{name}: the device is down: ip link set {name} up")
    if device.link_type not in arphrd.SUPPORTED:
        raise LinkError(
            f"{name}: link type {device.link_type} is not supported, only Ethernet, loopback, and devices "
            "without link header"
        )


@contextlib.contextmanager
def _named(device: str | None) -> Iterator[None]:
    """Name the device in a ``LinkError``, where there is one."""
    try:
        yield
    except LinkError as error:
        raise type(error)(f"{device}: {error}" if device is not None else str(error)) from None

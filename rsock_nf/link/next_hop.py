"""The destinations that a link follows, and the next hops that lead to them: what is the same on every system.

A link *follows* a destination: it asks the kernel for the route to it, and again whenever something changes, so that a
link header is ready when a packet is to be sent.  ``linux.next_hop`` and ``bsd.next_hop`` add how the kernel is asked,
how it is made to resolve a neighbour, and what its news mean.  There is no system call in this file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from rsock_nf.core.types import IPAddress
from rsock_nf.link.ethernet import ETHERTYPE
from rsock_nf.link.protocol import LinkEvent

RECHECK: Final = 15.0
"""Seconds after which the kernel is made to check a next hop again, while traffic flows."""
RETRY: Final = 1.0
"""The same for a next hop that is not resolved."""


class Way(NamedTuple):
    """How packets to a destination go now."""

    ifindex: int = 0
    """The device that the route leads out of, ours or another; 0 = no route."""
    next_hop: IPAddress | None = None
    """The next hop on our device; None = our device has no route."""
    source: IPAddress | None = None
    """Our address, where the route leads out of our device."""


_NOWHERE: Final = Way()


@dataclass(slots=True)
class Followed:
    """One destination."""

    remote: IPAddress
    way: Way = _NOWHERE


@dataclass(slots=True)
class Entry:
    """One next hop on our device; a system adds what else its kernel tells of a neighbour."""

    address: IPAddress
    lladdr: bytes = b""
    """The last one that was known.  It is kept while the kernel has none: a packet to an old address may arrive, a
    packet that is not sent cannot."""
    asked: float | None = None
    """``now`` of the last tick that made the kernel check it."""

    def is_due(self, now: float, *, resolved: bool) -> bool:
        """Whether the kernel has to check it again.  If so, it counts as asked at ``now``.

        The first call says no, because ``follow`` has just asked."""
        if self.asked is None:
            self.asked = now
            return False
        due = now - self.asked >= (RECHECK if resolved else RETRY)
        if due:
            self.asked = now
        return due


_EntryT = TypeVar("_EntryT", bound=Entry)


class FollowedDestinations(ABC, Generic[_EntryT]):
    """The followed destinations of one device.  After ``LinkEvent.GONE`` it follows nothing."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._followed: dict[bytes, Followed] = {}
        self._entries: dict[bytes, _EntryT] = {}
        self._headers: dict[bytes, bytes] = {}
        self._pending: dict[LinkEvent, None] = {}
        """Events that ``follow`` found; the next ``events`` tells of them."""
        self._gone = False

    # -- what each system adds

    @property
    @abstractmethod
    def _ifindex(self) -> int:
        """Of our device."""

    @property
    @abstractmethod
    def address(self) -> bytes:
        """The device's link address; b"" on header-less links."""

    @property
    @abstractmethod
    def _resolves(self) -> bool:
        """Whether the kernel asks the link for neighbours here."""

    @abstractmethod
    def _look_up(self, remote: IPAddress) -> Way:
        """Ask the kernel for the route."""

    @abstractmethod
    def _exists(self, ifindex: int) -> bool:
        """Whether another device is still there."""

    @abstractmethod
    def _enter(self, hop: IPAddress) -> None:
        """Make an entry for next hop ``hop`` from what the kernel knows, and make the kernel resolve it."""

    @abstractmethod
    def _is_second_choice(self, address: IPAddress) -> bool:
        """Whether a source address is better avoided though the route prefers it: a temporary one (RFC 8981), for
        example."""

    @abstractmethod
    def _lasting(self, version: int) -> Sequence[IPAddress]:
        """Our device's addresses of global scope that are neither temporary nor deprecated or tentative, best first."""

    # -- destinations

    def header(self, remote: bytes) -> bytes | None:
        """The link header for a packed destination address; b"" on header-less links, None = not resolved."""
        return self._headers.get(remote)

    def follow(self, remote: IPAddress) -> None:
        """Resolve ``remote`` now, and again whenever something changes, until ``forget``.

        A route that leads out of another device already is ``MOVED`` in the next ``events``.
        """
        if remote.packed in self._followed or self._gone:
            return
        self._followed[remote.packed] = followed = Followed(remote)
        event = self._resolve(followed)
        if event is LinkEvent.MOVED:
            self._pending[event] = None

    def forget(self, remote: IPAddress) -> None:
        """Stop following ``remote``."""
        self._followed.pop(remote.packed, None)
        self._headers.pop(remote.packed, None)
        self._drop_unused()

    def source_for(self, remote: IPAddress) -> IPAddress | None:
        """The source address that the route prefers, but no temporary one (RFC 8981); None = no route."""
        followed = self._followed.get(remote.packed)
        return (self._look_up(remote) if followed is None else followed.way).source

    def _entry_of(self, remote: IPAddress) -> _EntryT | None:
        followed = self._followed.get(remote.packed)
        if followed is None or followed.way.next_hop is None:
            return None
        return self._entries.get(followed.way.next_hop.packed)

    # -- resolving

    def _resolve(self, followed: Followed) -> LinkEvent | None:
        """Ask for the route again; returns what changed."""
        before, followed.way = followed.way, self._look_up(followed.remote)
        hop = followed.way.next_hop
        if hop is not None and self._resolves and hop.packed not in self._entries:
            self._enter(hop)
        self._render(followed)
        if followed.way == before:
            return None
        elsewhere = followed.way.ifindex not in {0, self._ifindex, before.ifindex}
        return LinkEvent.MOVED if elsewhere and self._exists(followed.way.ifindex) else LinkEvent.NEXT_HOP

    def _resolve_all(self, found: dict[LinkEvent, None]) -> None:
        for followed in self._followed.values():
            event = self._resolve(followed)
            if event is not None:
                found[event] = None
        self._drop_unused()

    def _choose_source(self, remote: IPAddress, preferred: IPAddress | None) -> IPAddress | None:
        """``preferred``, unless it is a second choice and the device has a lasting address; one in the same /64 comes
        first."""
        if preferred is not None and not self._is_second_choice(preferred):
            return preferred
        lasting = self._lasting(remote.version)
        if preferred is None:
            return lasting[0] if lasting else None
        return next(
            (one for one in lasting if one.packed[:8] == preferred.packed[:8]), lasting[0] if lasting else preferred
        )

    def _render(self, followed: Followed) -> None:
        """Store its link header, where ``header`` finds it."""
        key = followed.remote.packed
        lladdr = self._lladdr(followed.way.next_hop)
        if lladdr is None:
            self._headers.pop(key, None)
        else:
            self._headers[key] = self._link_header(lladdr, followed.remote.version)

    def _lladdr(self, hop: IPAddress | None) -> bytes | None:
        entry = self._entries.get(hop.packed) if hop is not None else None
        return (entry.lladdr or None) if entry else None

    def _link_header(self, lladdr: bytes, version: int) -> bytes:
        """Ethernet's."""
        return lladdr + self.address + ETHERTYPE[version]

    def _drop_unused(self) -> None:
        used = {one.way.next_hop.packed for one in self._followed.values() if one.way.next_hop is not None}
        for key in self._entries.keys() - used:
            del self._entries[key]

    def _lose_device(self, found: dict[LinkEvent, None]) -> None:
        """The device was deleted or renamed."""
        self._gone = True
        self._followed.clear()
        self._entries.clear()
        self._headers.clear()
        found[LinkEvent.GONE] = None

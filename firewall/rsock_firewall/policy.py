"""What is to be dropped, in words that every backend can spell; and the protocols that backends fulfil.

Not here: how a rule is written (``nft_text``, ``pf_text`` and their like) or installed.  Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Protocol, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DEVICE = re.compile(r"[^\s/\"\\\x00-\x1f]{1,15}")  # dev_valid_name(), net/core/dev.c, less what would need quoting


class FirewallError(Exception):
    """One line: what cannot be done to this host's rules, why, and what would help."""


def unprivileged() -> FirewallError:
    """What Linux refuses whoever has no power over the network."""
    return FirewallError("changing firewall rules needs root or CAP_NET_ADMIN")


class Ports(Protocol):
    """Anything with a first and a last TCP port, both included."""

    @property
    def first(self) -> int:
        """The lowest."""

    @property
    def last(self) -> int:
        """The highest."""


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """TCP ports ``first`` to ``last``, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        """As nft, ipfw and npf spell it: ``443`` or ``10001-10010``."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Policy:
    """The inbound traffic that we own, and that the kernel must not see.

    A packet is ours if every part that is given matches: device, local and remote address, local and
    remote port.  An empty ``local_addresses``, ``remote_addresses`` or ``remote_ports`` matches anything;
    an empty ``local_ports`` matches *nothing* (a client holds no ports until it dials).
    Raises ``FirewallError`` when it contradicts itself.
    """

    name: str
    """The instance: letters, digits, ``_``, ``-``, ``.``; at most 64."""
    device: str | None
    """The device that the packet socket is bound to; None = any."""
    local_addresses: tuple[IPAddress, ...]
    """Empty = any, forwarded traffic included: name them wherever they are known."""
    local_ports: tuple[Ports, ...]
    """Server: its ports.  Client: the source ports that it holds now."""
    remote_addresses: tuple[IPAddress, ...] = ()
    """Client: the server's addresses."""
    remote_ports: tuple[Ports, ...] = ()
    """Client: the server's ports."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.device is not None and not _DEVICE.fullmatch(self.device):
            raise FirewallError(f"device: {self.device!r} is not the name of a network device")
        for ports in (*self.local_ports, *self.remote_ports):
            if not 1 <= ports.first <= ports.last <= 65535:
                raise FirewallError(f"ports: {ports.first}-{ports.last} is not a range within 1-65535")
        if not list(_address_pairs(self)):
            raise FirewallError(f"instance {self.name}: local and remote addresses have no address family in common")


class Counters(NamedTuple):
    """Since the rules were installed; summed over all rules and both address families."""

    inbound_packets: int = 0
    """Kept from the kernel's TCP; what GRO merged counts once."""
    inbound_bytes: int = 0
    """Their IP lengths, summed."""
    output_packets: int = 0
    """Segments of the kernel's own TCP (RSTs) that the output guard stopped: more than a few ask for an explanation."""
    output_bytes: int = 0

    def plus(self, other: Counters) -> Counters:
        """The sums, field by field."""
        return Counters(*(a + b for a, b in zip(self, other, strict=True)))


class CountedRule(Protocol):
    """A rule of ours as the system's own tool lists it."""

    @property
    def direction(self) -> str:
        """``in`` or ``out``."""

    @property
    def packets(self) -> int:
        """What it dropped."""

    @property
    def octets(self) -> int:
        """Their IP lengths, summed."""


class Held(Protocol):
    """Rules that stand, and that go when this is released."""

    def update(self, policy: Policy) -> None:
        """Replace the policy in one atomic step: traffic that both old and new own is never seen by the kernel."""

    def fileno(self) -> int:
        """Readable when somebody (we included) changed the host's rules: call ``repair``.  -1 = poll ``repair``."""

    def repair(self) -> bool:
        """See whether our rules still stand and put them back at once if not.  True = they had to be."""

    def counters(self) -> Counters:
        """What our rules counted.

        Of iptables: without what arrived while they were replaced, and, while another iptables command is at work, as at
        the last look.
        """

    def release(self) -> None:
        """Remove exactly what was installed.  Idempotent; ``__exit__`` calls it."""


class Firewall(Protocol):
    """One way to install a policy.  Every method that touches the host raises ``FirewallError``."""

    name: str
    """``nftables``, ``iptables``, ``pf``, ``ipfw`` or ``manual``."""

    def probe(self) -> None:
        """Raise ``FirewallError``, one clear line, if this backend cannot work here.  Changes nothing."""

    def hold(self, policy: Policy) -> AbstractContextManager[Held]:
        """Install the policy, taking over what a killed predecessor of the same name left.

        For a ``with`` statement or an ``ExitStack``; whoever lets go of the context manager lets go of the rules.
        """

    def clear(self, name: str) -> bool:
        """Remove what an instance left, without any memory of it; True if there was something."""

    def clear_all(self) -> list[str]:
        """``clear`` every instance in this network namespace; the names of those removed."""

    def left_behind(self, name: str) -> tuple[PortRange, ...]:
        """The local ports that the rules of a killed instance still cover: its peers may send to them for a while."""

    def render(self, policy: Policy) -> str:
        """The exact rules as text that the system's own tool loads."""


class Drop(NamedTuple):
    """One rule: TCP with this source and destination is dropped.  None = matches anything."""

    source: IPAddress | None
    source_ports: str | None
    """``local_ports`` or ``remote_ports``: which of the policy's sets."""
    destination: IPAddress | None
    destination_ports: str | None

    @property
    def version(self) -> int | None:
        """4 or 6; None = both."""
        address = self.source or self.destination
        return address.version if address else None


def check_name(name: str) -> str:
    """The name itself, if it can name an instance; else ``FirewallError``."""
    if not _NAME.fullmatch(name):
        raise FirewallError(f"name: {name!r} must be 1 to 64 letters, digits, '_', '-' or '.'")
    return name


def check_update(held: Policy, wanted: Policy) -> None:
    """Raise ``FirewallError`` if ``wanted`` is another instance's: what is installed is known by that name."""
    if wanted.name != held.name:
        raise FirewallError(f"instance {held.name} cannot become {wanted.name}: hold a policy of its own")


def tally(rules: Iterable[CountedRule]) -> Counters:
    """The sums of each direction."""
    sums = {"in": [0, 0], "out": [0, 0]}
    for rule in rules:
        sums[rule.direction][0] += rule.packets
        sums[rule.direction][1] += rule.octets
    return Counters(*sums["in"], *sums["out"])


def inbound(policy: Policy) -> list[Drop]:
    """What comes in for us: from the remote, to our local address and ports."""
    far = "remote_ports" if policy.remote_ports else None
    return [Drop(remote, far, local, "local_ports") for local, remote in _address_pairs(policy)]


def outbound(policy: Policy) -> list[Drop]:
    """The output guard: what the kernel's own TCP would answer.

    Covers a packet that reached the kernel around our rule (another device, a moment without rules).
    Our own segments leave through AF_PACKET, which does not pass this hook.
    """
    return [Drop(rule.destination, rule.destination_ports, rule.source, rule.source_ports) for rule in inbound(policy)]


def merged(ranges: Iterable[Ports]) -> tuple[PortRange, ...]:
    """Sorted, with *overlapping* ranges merged (an interval set refuses overlaps with EEXIST).

    Adjacent ones stay apart: a port that comes or goes next to another must not touch the other's element.
    """
    result: list[PortRange] = []
    for ports in sorted(PortRange(ports.first, ports.last) for ports in ranges):
        if result and ports.first <= result[-1].last:
            result[-1] = PortRange(result[-1].first, max(result[-1].last, ports.last))
        else:
            result.append(ports)
    return tuple(result)


def _address_pairs(policy: Policy) -> Iterator[tuple[IPAddress | None, IPAddress | None]]:
    for local in _unscoped(policy.local_addresses):
        for remote in _unscoped(policy.remote_addresses):
            if local is None or remote is None or local.version == remote.version:
                yield local, remote


def _unscoped(addresses: tuple[IPAddress, ...]) -> Sequence[IPAddress | None]:
    """Without repetition, and without the ``%device`` of a link-local address: packets do not carry it."""
    return list(dict.fromkeys(type(address)(address.packed) for address in addresses)) or [None]

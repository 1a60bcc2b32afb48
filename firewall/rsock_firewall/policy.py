"""What is to be dropped, independent of any backend; and the protocols that backends fulfil.

How a rule is written is in each backend's ``text``, how it is installed in its ``backend``.  Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Protocol, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}(/[0-9]{1,3})?")
_DEVICE = re.compile(r"[^\s/\"\\\x00-\x1f]{1,15}")  # dev_valid_name(), net/core/dev.c, less what would need quoting


class FirewallError(Exception):
    """One line: what cannot be done to this host's rules, why, and what to do about it."""


def unprivileged() -> FirewallError:
    """The error when a process on Linux lacks the privilege."""
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
    """The inbound traffic that is ours, and that the kernel must not see.

    A packet is ours if every part that is given matches: device, local and remote address, local and
    remote port.  An empty ``local_addresses``, ``remote_addresses`` or ``remote_ports`` matches anything;
    an empty ``local_ports`` matches *nothing* (a client holds no ports until it dials).
    Raises ``FirewallError`` when it contradicts itself.
    """

    name: str
    """The instance: letters, digits, ``_``, ``-``, ``.``; at most 64.  If it is several processes, ``/`` and the number
    of one follow."""
    device: str | None
    """The device that the packet socket is bound to; None = any."""
    local_addresses: tuple[IPAddress, ...]
    """Empty = any, which includes forwarded traffic: name them wherever they are known."""
    local_ports: tuple[Ports, ...]
    """Server: its ports.  Client: the source ports that it holds now."""
    remote_addresses: tuple[IPAddress, ...] = ()
    """Client: the server's addresses."""
    remote_ports: tuple[Ports, ...] = ()
    """Client: the server's ports."""
    at_input: bool = False
    """The host forwards, and may translate the addresses of connections of others: drop only what would reach this
    host's own TCP.  On Linux only: pf translates before it filters; ipfw and npf take no notice."""

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
    """Dropped before the kernel's TCP; what GRO merged counts once."""
    inbound_bytes: int = 0
    """Their IP lengths, summed."""
    output_packets: int = 0
    """Segments of the kernel's own TCP (RSTs) that the output guard dropped.  If there are more than a few, packets
    reach the kernel in some other way."""
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
    """Rules that are installed, and that are removed by ``release``."""

    def update(self, policy: Policy) -> None:
        """Replace the policy in one atomic step: the kernel never sees traffic that belongs to both the old and the
        new one."""

    def fileno(self) -> int:
        """Readable when somebody (we included) changed the host's rules: call ``repair``.  -1 = poll ``repair``."""

    def repair(self) -> bool:
        """Check that our rules are still there, and put them back at once if not.  True = they had to be put back."""

    def counters(self) -> Counters:
        """What our rules counted.

        With iptables, what arrives while rules are replaced is not counted.  While another iptables command is at work,
        the counts are those of the last call.
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

        For a ``with`` statement or an ``ExitStack``: the rules are removed when the context ends.
        """

    def clear(self, name: str) -> bool:
        """Remove what an instance left.  It needs no memory of the instance but its name.  True if there was
        something."""

    def clear_all(self) -> list[str]:
        """``clear`` every instance in this network namespace; returns their names."""

    def left_behind(self, name: str) -> tuple[PortRange, ...]:
        """The local ports that the rules of a killed instance still cover: its peers may send to them for a while."""

    def obstacles(self, policy: Policy) -> list[str]:
        """What somebody else has set up that may keep the rules of ``policy`` from working: lines for an operator.  It
        is looked for where rules of others can come before ours (pf).  Changes nothing."""

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
        raise FirewallError(
            f"name: {name!r} must be 1 to 64 letters, digits, '_', '-' or '.', or that with '/1' behind it"
        )
    return name


def check_update(held: Policy, wanted: Policy) -> None:
    """Raise ``FirewallError`` if ``wanted`` is for another instance: rules are found again by the instance's name."""
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

    It is for packets that reached the kernel though they are ours: by another device, or in a moment without rules.
    Our own segments leave through AF_PACKET, which does not pass this hook.
    """
    return [Drop(rule.destination, rule.destination_ports, rule.source, rule.source_ports) for rule in inbound(policy)]


def merged(ranges: Iterable[Ports]) -> tuple[PortRange, ...]:
    """The ranges in order, with *overlapping* ones merged: an interval set of nf_tables refuses overlaps (EEXIST).

    Adjacent ranges stay separate, so that a port can be added or removed without a change of its neighbour's element.
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
    """Each address once, and without the ``%device`` of a link-local address, which packets do not carry."""
    return list(dict.fromkeys(type(address)(address.packed) for address in addresses)) or [None]

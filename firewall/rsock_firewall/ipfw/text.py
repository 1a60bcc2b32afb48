"""A policy as ipfw(8) rules: what ``ipfw`` adds, and the text that ``ipfw FILE`` takes.

Every rule of ours has a comment with the instance's name, by which it is found again.  It is in set 31, the only set
that ``ipfw flush``, and so ``service ipfw restart``, leaves alone.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rsock_firewall.policy import Drop, FirewallError, IPAddress, Policy, PortRange, inbound, merged, outbound

SET = 31
NUMBERS = range(1, 100)
"""The numbers of our rules. rc.firewall and most administrators begin at 100."""
COMMENT = "rsock-nf:"
"""Followed by the instance's name, and ``:in`` or ``:out``; ipfw takes 80 characters."""
RANGES = 15
"""Port ranges in one rule: newer releases take more, older ones do not."""

_DEVICE = re.compile(r"(?!(any|table)$)[A-Za-z0-9_.-]+")  # ipfw takes other words and characters as patterns


class Rule(NamedTuple):
    """One rule, as ``ipfw list`` writes it, without number and set."""

    body: str
    direction: str
    """``in`` or ``out``."""
    name: str

    @property
    def words(self) -> list[str]:
        """The arguments of ``ipfw add`` behind number and set."""
        return [*self.body.split(), "//", f"{COMMENT}{self.name}:{self.direction}"]


def rules(policy: Policy) -> list[Rule]:
    """The rules, in order; none for a policy without local ports."""
    device = f" recv {_device(policy.device)}" if policy.device else ""
    local, remote = _chunks(merged(policy.local_ports)), _chunks(merged(policy.remote_ports)) or [""]
    pairs = [(ours, theirs) for ours in local for theirs in remote]
    result = [
        Rule(f"{_match(drop, theirs, ours, source='any', destination='me')} in{device}", "in", policy.name)
        for drop in inbound(policy)
        for ours, theirs in pairs
    ]
    result += [
        Rule(f"{_match(drop, ours, theirs, source='me', destination='any')} out tcpflags rst", "out", policy.name)
        for drop in outbound(policy)
        for ours, theirs in pairs
    ]
    return result


def render(policy: Policy) -> str:
    """What ``ipfw -q FILE`` takes (an absolute path)."""
    number = first_number(policy.name)
    added = [f"add {number} set {SET} {' '.join(rule.words)}" for rule in rules(policy)]
    return "\n".join(["# ipfw -q FILE", *added, ""])


def first_number(name: str) -> int:
    """The number with which an instance begins its search for a free one.  Two that start at the same moment should get
    different ones."""
    return NUMBERS[zlib.crc32(name.encode()) % len(NUMBERS)]


def local_ports(body: str) -> Iterator[PortRange]:
    """The destination ports of an inbound rule, as ``ipfw list`` writes them."""
    found = re.search(r" to \S+ (?:dst-port )?(\d[\d,-]*)", body)
    for text in found[1].split(",") if found else ():
        first, _, last = text.partition("-")
        yield PortRange(int(first), int(last or first))


def _device(name: str) -> str:
    if not _DEVICE.fullmatch(name):
        raise FirewallError(f"device: {name!r} cannot be named in an ipfw rule")
    return name


def _chunks(ranges: Sequence[PortRange]) -> list[str]:
    return [",".join(map(str, ranges[start : start + RANGES])) for start in range(0, len(ranges), RANGES)]


def _match(drop: Drop, source_ports: str, destination_ports: str, *, source: str, destination: str) -> str:
    words = [
        "deny tcp from",
        _end(drop.source, drop, source),
        source_ports,
        "to",
        _end(drop.destination, drop, destination),
    ]
    if destination_ports:
        words += ["dst-port", destination_ports]
    return " ".join(word for word in words if word)


def _end(address: IPAddress | None, drop: Drop, default: str) -> str:
    """``me`` is any address of this host, of either family; so forwarded traffic is never ours."""
    if address:
        return str(address)
    return "me6" if default == "me" and drop.version == 6 else default

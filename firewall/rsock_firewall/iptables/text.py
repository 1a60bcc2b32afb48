"""A policy as iptables rules: the data that ``backend`` installs, and the text that iptables-restore takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rsock_firewall.policy import Drop, Policy, PortRange, inbound, merged, outbound

IN_PREFIX, OUT_PREFIX = "RSOCK_NF_", "RSOCK_NFO_"
NAME_SPACE = 28 - len(OUT_PREFIX)
"""A chain's name has at most 28 characters (XT_EXTENSION_MAXNAMELEN less its NUL)."""
COMMENT = "rsock-nf "
"""The comment on the jumps, followed by the instance's name.  The chain's own name may be a hash."""
ANYTHING = Drop(None, None, None, None)


class Place(NamedTuple):
    """A table of one address family in which an instance may have its chains."""

    version: int
    """4 or 6."""
    table: str
    """``raw`` (before connection tracking) or ``mangle``."""

    @property
    def hooks(self) -> tuple[str, str]:
        """The chains from which ours are called: for what comes in, and for what goes out."""
        return ("PREROUTING" if self.table == "raw" else "INPUT"), "OUTPUT"


@dataclass(frozen=True, slots=True)
class Line:
    """One rule, as ``iptables-save`` writes it."""

    chain: str
    target: str
    device: str | None = None
    drop: Drop = ANYTHING
    source_ports: PortRange | None = None
    destination_ports: PortRange | None = None
    comment: str | None = None

    def __str__(self) -> str:
        bits = 32 if self.drop.version == 4 else 128
        words = [
            f"-{'A' if self.comment is None else 'I'} {self.chain}",
            f"-s {self.drop.source}/{bits}" if self.drop.source else "",
            f"-d {self.drop.destination}/{bits}" if self.drop.destination else "",
            f"-i {self.device}" if self.device else "",
            "-p tcp",
            "-m tcp" if self.source_ports or self.destination_ports else "",
            f"--sport {spelt(self.source_ports)}" if self.source_ports else "",
            f"--dport {spelt(self.destination_ports)}" if self.destination_ports else "",
            f'-m comment --comment "{self.comment}"' if self.comment else "",
            f"-j {self.target}",
        ]
        return " ".join(word for word in words if word)


def chain_names(name: str) -> tuple[str, str]:
    """The inbound and the output chain of an instance; a long name becomes a hash."""
    short = name if len(name) <= NAME_SPACE else hashlib.sha256(name.encode()).hexdigest()[:NAME_SPACE]
    return IN_PREFIX + short, OUT_PREFIX + short


def lines(policy: Policy, version: int) -> list[Line]:
    """The rules of one address family, one for each pair of port ranges: the match ``multiport`` fails in some
    releases."""
    chains = chain_names(policy.name)
    sets = {"local_ports": merged(policy.local_ports), "remote_ports": merged(policy.remote_ports), None: (None,)}
    result = []
    for chain, drops in zip(chains, (inbound(policy), outbound(policy)), strict=True):
        result += [
            Line(chain, "DROP", None, drop, source, destination)
            for drop in drops
            if drop.version in (None, version)
            for source in sets[drop.source_ports]
            for destination in sets[drop.destination_ports]
        ]
    comment = COMMENT + policy.name
    entry, leaving = Place(version, _table(policy)).hooks
    jumps = [Line(entry, chains[0], policy.device, comment=comment), Line(leaving, chains[1], comment=comment)]
    return result + jumps


def places(policy: Policy) -> list[Place]:
    """Where the policy needs rules."""
    return [Place(version, _table(policy)) for version in _families(policy)]


def _table(policy: Policy) -> str:
    """On a host that forwards: ``mangle``, because ``raw`` sees no packet after its address was translated back."""
    return "mangle" if policy.at_input else "raw"


def _families(policy: Policy) -> list[int]:
    """The address families that the policy needs rules in.  A policy for any address gets IPv6 rules where the kernel
    has IPv6."""
    versions = {drop.version for drop in inbound(policy)}
    if versions == {None}:
        return [4, 6] if Path("/proc/thread-self/net/if_inet6").exists() else [4]
    return sorted(version for version in versions if version)


def render(policy: Policy) -> str:
    """What ``iptables-restore --noflush`` and ``ip6tables-restore --noflush`` take, under a heading for each."""
    text = []
    for version, table in places(policy):
        text += [f"# IPv{version}: {'iptables' if version == 4 else 'ip6tables'}-restore --noflush", f"*{table}"]
        text += [f":{chain} - [0:0]" for chain in chain_names(policy.name)]
        text += [*map(str, lines(policy, version)), "COMMIT"]
    return "\n".join([*text, ""])


def spelt(ports: PortRange) -> str:
    """As ``--sport`` and ``--dport`` take it."""
    return str(ports.first) if ports.first == ports.last else f"{ports.first}:{ports.last}"

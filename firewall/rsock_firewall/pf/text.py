"""A policy as pf.conf(5) rules: what ``backend`` loads into an anchor, and the text that an operator can load by hand.

Every rule has a label with its direction and its local ports.  ``pfctl -s labels`` prints labels with bare numbers, and
rules with different labels are not merged by pfctl's optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rsock_firewall.policy import Drop, FirewallError, IPAddress, Policy, PortRange, inbound, merged, outbound

LABEL = "rsock-nf"
"""Ours begin with it: ``rsock-nf:in:10001-10010``, ``rsock-nf:out:10001-10010``; on macOS a token may follow."""

# A driver's name and unit, perhaps a VLAN.  Anything else may be a word of the grammar, and is quoted.
_PLAIN_DEVICE = re.compile(r"(?!inet6$)[a-z]+[0-9]+(\.[0-9]+)?")


def lines(policy: Policy, token: str | None = None) -> list[str]:
    """The rules in order; none for a policy without local ports.

    ``token``: what ``pfctl -E`` gave.  It is kept in the labels, so that ``clear`` can give it back and needs no other
    memory.
    """
    local, remote = merged(policy.local_ports), merged(policy.remote_ports) or (None,)
    pairs = [(ours, theirs) for ours in local for theirs in remote]
    rules = []
    for drop in inbound(policy):
        for ours, theirs in pairs:
            where = f"in quick{_on(policy.device)}"
            rules.append(f"block drop {where}{_match(drop, theirs, ours)} {_label('in', ours, token)}")
    for drop in outbound(policy):
        for ours, theirs in pairs:
            rules.append(f"block drop out quick{_match(drop, ours, theirs)} flags R/R {_label('out', ours, token)}")
    return rules


def render(policy: Policy, anchor: str, token: str | None = None) -> str:
    """The anchor's ruleset, as ``pfctl -a ANCHOR -f -`` takes it."""
    return "\n".join([f"# pfctl -a {anchor} -f -", *lines(policy, token), ""])


def read_label(label: str) -> tuple[str, PortRange, str | None] | None:
    """Direction (``in`` or ``out``), local ports and token of a label of ours; None if it is somebody else's."""
    match = re.fullmatch(rf"{LABEL}:(in|out):(\d+)-(\d+)(?::(\d+))?", label)
    return (match[1], PortRange(int(match[2]), int(match[3])), match[4]) if match else None


def _label(direction: str, ours: PortRange, token: str | None) -> str:
    ports = f"{ours.first}-{ours.last}"
    return f'label "{":".join([LABEL, direction, ports, *([token] if token else [])])}"'


def _on(device: str | None) -> str:
    if device is None:
        return ""
    return f" on {device}" if _PLAIN_DEVICE.fullmatch(device) else f' on "{device}"'


def _match(drop: Drop, source_ports: PortRange | None, destination_ports: PortRange | None) -> str:
    family = {4: " inet", 6: " inet6", None: ""}[drop.version]
    source = "".join(_end(drop.source, source_ports))
    destination = "".join(_end(drop.destination, destination_ports))
    return f"{family} proto tcp from {source} to {destination}"


def _end(address: IPAddress | None, ports: PortRange | None) -> Iterator[str]:
    yield str(address) if address else "any"
    if ports:
        yield f" port = {ports.first}" if ports.first == ports.last else f" port {ports.first}:{ports.last}"


def check_anchor_name(name: str, longest: int) -> None:
    """Refuse a name of more than ``longest`` characters, before pfctl does."""
    if len(name) > longest:
        raise FirewallError(f"name: {name!r} is too long for a pf anchor: at most {longest} characters here")

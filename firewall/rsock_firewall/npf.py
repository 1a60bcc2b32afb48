"""A policy as npf.conf(5) rules, for NetBSD.  Text only: rsock-nf does not change npf.

npf's rules are in groups of npf.conf, and a packet belongs to the first group that fits it. A group of our own would
take all traffic of the device away from the operator's groups.  So these rules belong at the head of an existing group,
and only the operator can decide which.
"""

from __future__ import annotations

from rsock_firewall.policy import Drop, IPAddress, Policy, PortRange, inbound, merged, outbound


def render(policy: Policy) -> str:
    """Rules for the head of the group that has the device, or of each group."""
    where = f"npf.conf's group for {policy.device}" if policy.device else "each group of npf.conf"
    return "\n".join([f"# at the head of {where}, then: npfctl reload", *_lines(policy), ""])


def _lines(policy: Policy) -> list[str]:
    local, remote = merged(policy.local_ports), merged(policy.remote_ports) or (None,)
    pairs = [(ours, theirs) for ours in local for theirs in remote]
    device = f" on {policy.device}" if policy.device else ""
    return [
        *(f"block in final{device}{_match(d, theirs, ours)}" for d in inbound(policy) for ours, theirs in pairs),
        *(
            f"block out final{_match(d, ours, theirs, flags=' flags R/R')}"
            for d in outbound(policy)
            for ours, theirs in pairs
        ),
    ]


def _match(drop: Drop, source_ports: PortRange | None, destination_ports: PortRange | None, flags: str = "") -> str:
    family = {4: " family inet4", 6: " family inet6", None: ""}[drop.version]
    source, destination = _end(drop.source, source_ports), _end(drop.destination, destination_ports)
    return f"{family} proto tcp{flags} from {source} to {destination}"


def _end(address: IPAddress | None, ports: PortRange | None) -> str:
    text = str(address) if address else "any"
    return f"{text} port {ports}" if ports else text

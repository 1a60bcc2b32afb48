"""A policy as nft text.  ``backend`` installs the same rules by netlink; a test compares what the kernel then has."""

from __future__ import annotations

from collections.abc import Iterable

from rsock_firewall.policy import Drop, Policy, Ports, inbound, merged, outbound

TABLE_PREFIX = "rsock_nf_"
PRIORITY = -300
"""Before conntrack (-200) and everything that an administrator usually writes (NF_IP_PRI_RAW)."""
INBOUND = ("ingress", "prerouting", "input")
"""The chains that may have the inbound rules; a table needs one of them."""
COMMENTS = dict.fromkeys(INBOUND, "rsock-nf: ours") | {"output": "rsock-nf: no RST by the kernel"}
"""By chain.  ``clear`` recognizes our rules by them."""
SETS = ("local_ports", "remote_ports")
"""The sets that a table may have."""


def port_sets(policy: Policy) -> dict[str, tuple[Ports, ...]]:
    """The named sets of a policy's table, in order."""
    sets = {"local_ports": policy.local_ports}
    return sets | {"remote_ports": policy.remote_ports} if policy.remote_ports else sets


def chains(policy: Policy, *, ingress: bool) -> dict[str, list[Drop]]:
    """The table's chains, each named after its hook, and their rules.

    ``ingress``: the kernel has the inet family's ingress hook (Linux >= 5.10).
    """
    return {_inbound_chain(policy, ingress=ingress): inbound(policy), "output": outbound(policy)}


def _inbound_chain(policy: Policy, *, ingress: bool) -> str:
    """On a host that forwards: ``input``.

    There the answers to translated connections of others have their own addresses back, and go on to the forward hook.
    In prerouting after conntrack they could be told apart, too. But with bridge-nf-call-iptables=1 a drop there comes
    before the tap on a bridge.
    """
    if policy.at_input:
        return "input"
    return "ingress" if ingress and policy.device else "prerouting"


def named_in_rules(policy: Policy, chain: str) -> str | None:
    """The device that the rules of ``chain`` match.  An ingress chain has its device in its hook."""
    return policy.device if chain in ("prerouting", "input") else None


def render(policy: Policy, *, ingress: bool = True) -> str:
    """The table as ``nft -f`` takes it."""
    lines = [f"table inet {TABLE_PREFIX}{policy.name} {{"]
    for name, ranges in port_sets(policy).items():
        lines += [f"\tset {name} {{", "\t\ttype inet_service", "\t\tflags interval", *_elements(ranges), "\t}"]
    for chain, drops in chains(policy, ingress=ingress).items():
        device = f' device "{policy.device}"' if chain == "ingress" else ""
        lines += [f"\tchain {chain} {{", f"\t\ttype filter hook {chain}{device} priority {PRIORITY}; policy accept;"]
        iifname = f'iifname "{policy.device}" ' if named_in_rules(policy, chain) else ""
        lines += [f'\t\t{iifname}{_match(drop)} counter drop comment "{COMMENTS[chain]}"' for drop in drops]
        lines += ["\t}"]
    return "\n".join([*lines, "}", ""])


def _elements(ranges: Iterable[Ports]) -> list[str]:
    texts = ", ".join(map(str, merged(ranges)))
    return [f"\t\telements = {{ {texts} }}"] if texts else []


def _match(drop: Drop) -> str:
    ip = "ip6" if drop.version == 6 else "ip"
    words = [
        f"{ip} saddr {drop.source}" if drop.source else "",
        f"{ip} daddr {drop.destination}" if drop.destination else "",
        f"tcp sport @{drop.source_ports}" if drop.source_ports else "",
        f"tcp dport @{drop.destination_ports}" if drop.destination_ports else "",
    ]
    return " ".join(word for word in words if word)

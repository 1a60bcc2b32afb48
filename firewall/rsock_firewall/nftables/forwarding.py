"""What the rules of others do with packets that this host forwards.  It reads, and changes nothing.

A tunnel's own packets are not forwarded.  What comes out of a VPN behind the tunnel may be: then Docker's and ufw's
policy, which drops what no rule accepts, decides.  Rules of iptables are seen where iptables is the one that uses
nf_tables.  Sources: include/uapi/linux/netfilter/nf_tables.h, and the names that Docker and ufw give their chains.
"""

from __future__ import annotations

import contextlib
from typing import Final

from rsock_firewall.nftables import messages as nf
from rsock_firewall.nftables.sockets import NfSocket

_FORWARD: Final = 2  # NF_INET_FORWARD
_OWNERS: Final = {"DOCKER-USER": "docker", "ufw-before-forward": "ufw"}
"""A chain that shows who has set the policy, in the order in which they are looked for."""


def who_drops(device: str) -> str | None:
    """Who drops IPv4 packets that come in by ``device`` and are forwarded: ``docker``, ``ufw``, "" for somebody else.

    None = nobody does by the policy of a chain, or a rule of that table names the device.  Raises ``FirewallError``.
    """
    with contextlib.closing(NfSocket()) as kernel:
        chains = kernel.dump(nf.all_chains())
        for chain in chains:
            hook = chain.get_attr("NFTA_CHAIN_HOOK")
            if hook is None or hook.get_attr("NFTA_HOOK_HOOKNUM") != _FORWARD:
                continue
            family, table = chain["nfgen_family"], chain.get_attr("NFTA_CHAIN_TABLE")
            if family not in {nf.NFPROTO_INET, nf.NFPROTO_IPV4} or chain.get_attr("NFTA_CHAIN_POLICY") != nf.NF_DROP:
                continue
            if any(_names(rule, device) for rule in kernel.dump(nf.all_rules(family, table))):
                continue
            here = {one.get_attr("NFTA_CHAIN_NAME") for one in chains if one.get_attr("NFTA_CHAIN_TABLE") == table}
            return next((owner for name, owner in _OWNERS.items() if name in here), "")
    return None


def _names(rule: nf.Message, device: str) -> bool:
    """Whether a rule compares anything with the name of the device: exactly, or as ``wg+`` does."""
    for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS") or ():
        if expression.get_attr("NFTA_EXPR_NAME") != "cmp":
            continue
        data = expression.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_CMP_DATA")
        value = bytes(data.get_attr("NFTA_DATA_VALUE") or b"") if data is not None else b""
        exact = value.endswith(b"\0")
        name = value.rstrip(b"\0").decode(errors="replace")
        if name and (name == device if exact else len(name) > 1 and device.startswith(name)):
            return True
    return False

"""Which rules the kernel has in an instance's table, and whether they are those of a policy.

It asks by netlink, and never reads the text of the ``nft`` tool.  It changes nothing.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from rsock_firewall.nftables import messages as nf
from rsock_firewall.nftables import text
from rsock_firewall.nftables.counters import count
from rsock_firewall.nftables.sockets import NfSocket
from rsock_firewall.policy import Counters, Policy, PortRange, merged


class Hook(NamedTuple):
    """The hook of a base chain."""

    number: int
    priority: int
    device: str | None
    policy: int


@dataclass(frozen=True, slots=True)
class Installed:
    """What the kernel has under one table's name."""

    flags: int
    hooks: dict[str, Hook]
    """By chain."""
    sets: dict[str, list[PortRange]]
    rules: list[tuple[str, int]]
    """(chain, handle).  A rule never changes under its handle, and handles are not used twice."""
    counted: Counters
    foreign: bool
    """It holds a rule that rsock-nf did not write."""

    def takes_chains_of(self, policy: Policy, *, ingress: bool) -> bool:
        """Whether chains of the policy can be put beside those that are there: no chain has another hook there."""
        wanted = hooks_of(policy, ingress=ingress)
        same_hooks = all(self.hooks[chain] == wanted[chain] for chain in self.hooks.keys() & wanted.keys())
        return same_hooks and list(self.sets) == list(text.port_sets(policy))

    def same_shape(self, policy: Policy, *, ingress: bool) -> bool:
        """Whether the policy fits into the chains and sets that are there.  There is no gap only if the base chains are
        kept."""
        return self.hooks == hooks_of(policy, ingress=ingress) and list(self.sets) == list(text.port_sets(policy))

    def stands_for(self, policy: Policy, *, ingress: bool) -> bool:
        """Whether all rules of the policy are there.  The expressions in the rules are not read."""
        wanted = {chain: len(drops) for chain, drops in text.chains(policy, ingress=ingress).items()}
        return (
            self.same_shape(policy, ingress=ingress)
            and not self.foreign
            and all(self.sets[name] == list(merged(ports)) for name, ports in text.port_sets(policy).items())
            and Counter(chain for chain, _ in self.rules) == wanted
        )


def hooks_of(policy: Policy, *, ingress: bool) -> dict[str, Hook]:
    """The base chains that a policy asks for."""
    return {
        chain: Hook(nf.HOOKS[chain], text.PRIORITY, policy.device if chain == "ingress" else None, nf.NF_ACCEPT)
        for chain in text.chains(policy, ingress=ingress)
    }


def read(netlink: NfSocket, table: str) -> Installed | None:
    """The table of that name; None if there is none.  Raises ``FirewallError``."""
    found = netlink.get(nf.get_table(table))
    if found is None:
        return None
    hooks = {name: _read_hook(chain) for name in nf.HOOKS if (chain := netlink.get(nf.get_chain(table, name)))}
    sets = {
        name: _ranges(netlink.dump(nf.get_elements(table, name)))
        for name in text.SETS
        if netlink.get(nf.get_set(table, name)) is not None
    }
    rules: list[tuple[str, int]] = []
    foreign = False
    for rule in netlink.dump(nf.get_rules(table)):
        chain = str(rule.get_attr("NFTA_RULE_CHAIN"))
        rules.append((chain, int(rule.get_attr("NFTA_RULE_HANDLE"))))
        foreign |= rule.get_attr("NFTA_RULE_USERDATA") != text.COMMENTS.get(chain, "")
    flags = int(found.get_attr("NFTA_TABLE_FLAGS") or 0)
    return Installed(flags, hooks, sets, rules, count(netlink, table) or Counters(), foreign)


def _read_hook(chain: nf.Message) -> Hook:
    hook = chain.get_attr("NFTA_CHAIN_HOOK")
    if hook is None:
        return Hook(-1, 0, None, 0)
    number, priority = hook.get_attr("NFTA_HOOK_HOOKNUM"), hook.get_attr("NFTA_HOOK_PRIORITY")
    return Hook(number, priority, hook.get_attr("NFTA_HOOK_DEV"), chain.get_attr("NFTA_CHAIN_POLICY"))


def _ranges(messages: list[nf.Message]) -> list[PortRange]:
    """The intervals of a set from its elements, which come in any order."""
    edges = []
    for message in messages:
        for element in message.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS") or ():
            key = element.get_attr("NFTA_SET_ELEM_KEY").get_attr("NFTA_DATA_VALUE")
            end = bool(element.get_attr("NFTA_SET_ELEM_FLAGS"))
            edges.append((int(struct.unpack("!H", key)[0]), not end))  # at one port an end sorts before a start
    result: list[PortRange] = []
    for port, starts in sorted(edges):
        if starts:
            result.append(PortRange(port, 65535))
        elif result:  # an end without a start (nft writes one at 0) means nothing
            result[-1] = PortRange(result[-1].first, port - 1)
    return result

"""The iptables backend, for kernels without nf_tables: legacy xtables.

Two chains of our own in the ``raw`` table of each address family, and a jump to each at the head of PREROUTING and
OUTPUT.  Every change is atomic within a family.  Legacy tables have no owner: after somebody else's flush the rules are
missing until ``repair``.

The way of a change through this room: ``text`` says what the rules are, ``backend`` when they are installed,
``raw_table`` reads and replaces a table.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from rsock_firewall.held import Carry, HeldRules, Why, until_exit
from rsock_firewall.iptables import raw_table, text
from rsock_firewall.iptables.raw_table import (
    counted,
    destination_ports,
    fingerprint,
    instances,
    loaded_families,
    lock,
    make_rule,
    open_table,
    replace_rules,
)
from rsock_firewall.iptables.text import COMMENT, Line, chain_names, families, lines
from rsock_firewall.policy import Counters, FirewallError, Held, Policy, PortRange, check_name, merged

UPDATE_WAIT = 0.5
"""Seconds to wait for another iptables command while traffic waits, too."""


class Iptables:
    """See ``policy.Firewall``."""

    name = "iptables"

    def probe(self) -> None:
        """Read the IPv4 raw table and build a rule; the kernel may load ``iptable_raw`` for that, nothing else
        changes."""
        with open_table(4):
            make_rule(4, Line("PREROUTING", "DROP", destination_ports=PortRange(1, 1), comment=COMMENT))

    def hold(self, policy: Policy) -> AbstractContextManager[Held]:
        """See ``policy.Firewall.hold``.  Nothing tells whether another live daemon has the same name."""
        return until_exit(lambda: HeldRules(policy, IptablesRules(policy.name)))

    def clear(self, name: str) -> bool:
        """See ``policy.Firewall.clear``."""
        chains = chain_names(check_name(name))
        removed = [replace_rules(version, chains, []) for version in loaded_families()]
        return any(gone is not None for gone in removed)

    def clear_all(self) -> list[str]:
        """See ``policy.Firewall.clear_all``."""
        return sorted(name for name in instances() if self.clear(name))

    def left_behind(self, name: str) -> tuple[PortRange, ...]:
        """See ``policy.Firewall.left_behind``."""
        chain, _ = chain_names(check_name(name))
        found: list[PortRange] = []
        for version in loaded_families():
            with open_table(version) as table:
                found += destination_ports(table, chain)
        return merged(found)

    def obstacles(self, policy: Policy) -> list[str]:  # noqa: ARG002 - as ``Firewall`` has it
        """None is looked for."""
        return []

    def render(self, policy: Policy) -> str:
        """See ``policy.Firewall.render``."""
        return text.render(policy)


class IptablesRules:
    """See ``held.Rules``."""

    def __init__(self, name: str) -> None:
        self._chains = chain_names(name)
        self._policy: Policy | None = None
        self._installed: dict[int, list[str]] = {}
        """By address family: the fingerprint of the rules that we installed."""

    def install(self, policy: Policy, why: Why, carry: Carry) -> None:
        """See ``held.Rules.install``.  One commit for each family; if the second fails, the first is undone.

        What arrives while a table is replaced is not counted.  Raises ``Busy``, with nothing changed, when another
        iptables command does not end in time.
        """
        before = self._policy
        with lock.held({Why.START: raw_table.LOCK_WAIT, Why.UPDATE: UPDATE_WAIT, Why.REPAIR: 0.0}[why]):
            try:
                self._replace(policy, carry)
            except FirewallError:
                if why is Why.UPDATE and before is not None:
                    self._replace(before, carry)
                raise
        self._policy = policy

    def _replace(self, policy: Policy, carry: Carry) -> None:
        wanted = families(policy)
        for version in wanted:
            self._installed.setdefault(version, [])
            carry(replace_rules(version, self._chains, lines(policy, version)) or Counters())
            self._installed[version] = fingerprint(version, self._chains)
        for version in [version for version in self._installed if version not in wanted]:
            carry(replace_rules(version, self._chains, []) or Counters())
            del self._installed[version]

    def stand(self) -> bool:
        """See ``held.Rules.stand``.  Raises ``Busy`` at once while another iptables command is at work."""
        with lock.held(0):
            return all(fingerprint(version, self._chains) == mine for version, mine in self._installed.items())

    def counted(self) -> Counters:
        """See ``held.Rules.counted``.  Raises ``Busy`` at once while another iptables command is at work."""
        total = Counters()
        with lock.held(0):
            for version in self._installed:
                with open_table(version) as table:
                    total = total.plus(counted(table, self._chains))
        return total

    def remove(self) -> None:
        """See ``held.Rules.remove``."""
        for version in list(self._installed):
            replace_rules(version, self._chains, [])
            del self._installed[version]

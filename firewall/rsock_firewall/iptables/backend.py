"""The iptables backend, for kernels without nf_tables: legacy xtables.

Two chains of our own in the ``raw`` table of each address family, and a jump to each at the head of PREROUTING and
OUTPUT; on a host that forwards, in the ``mangle`` table, with INPUT and OUTPUT.  Every change is atomic within a
table.  Legacy tables have no owner: after somebody else's flush the rules are
missing until ``repair``.

The way of a change through this room: ``text`` says what the rules are, ``backend`` when they are installed,
``tables`` reads and replaces a table.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from rsock_firewall.held import Carry, HeldRules, Why, until_exit
from rsock_firewall.iptables import tables, text
from rsock_firewall.iptables.tables import (
    counted,
    destination_ports,
    fingerprint,
    instances,
    loaded_places,
    lock,
    make_rule,
    open_table,
    replace_rules,
)
from rsock_firewall.iptables.text import COMMENT, Line, Place, chain_names, lines, places
from rsock_firewall.policy import Counters, FirewallError, Held, Policy, PortRange, check_name, merged

UPDATE_WAIT = 0.5
"""Seconds to wait for another iptables command while traffic waits, too."""


class Iptables:
    """See ``policy.Firewall``."""

    name = "iptables"

    def probe(self) -> None:
        """Read the IPv4 raw table and build a rule; the kernel may load ``iptable_raw`` for that, nothing else
        changes."""
        with open_table(Place(4, "raw")):
            make_rule(4, Line("PREROUTING", "DROP", destination_ports=PortRange(1, 1), comment=COMMENT))

    def hold(self, policy: Policy) -> AbstractContextManager[Held]:
        """See ``policy.Firewall.hold``.  Nothing tells whether another live daemon has the same name."""
        return until_exit(lambda: HeldRules(policy, IptablesRules(policy.name)))

    def clear(self, name: str) -> bool:
        """See ``policy.Firewall.clear``."""
        chains = chain_names(check_name(name))
        removed = [replace_rules(place, chains, []) for place in loaded_places()]
        return any(gone is not None for gone in removed)

    def clear_all(self) -> list[str]:
        """See ``policy.Firewall.clear_all``."""
        return sorted(name for name in instances() if self.clear(name))

    def left_behind(self, name: str) -> tuple[PortRange, ...]:
        """See ``policy.Firewall.left_behind``."""
        chain, _ = chain_names(check_name(name))
        found: list[PortRange] = []
        for place in loaded_places():
            with open_table(place) as table:
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
        self._installed: dict[Place, list[str]] = {}
        """By table: the fingerprint of the rules that we installed."""

    def install(self, policy: Policy, why: Why, carry: Carry) -> None:
        """See ``held.Rules.install``.  One commit for each table; if a later one fails, the earlier ones are undone.

        What arrives while a table is replaced is not counted.  Raises ``Busy``, with nothing changed, when another
        iptables command does not end in time.
        """
        before = self._policy
        with lock.held({Why.START: tables.LOCK_WAIT, Why.UPDATE: UPDATE_WAIT, Why.REPAIR: 0.0}[why]):
            if why is Why.START:  # a killed predecessor may have other tables
                self._installed = {place: [] for place in loaded_places()}
            try:
                self._replace(policy, carry)
            except FirewallError:
                if why is Why.UPDATE and before is not None:
                    self._replace(before, carry)
                raise
        self._policy = policy

    def _replace(self, policy: Policy, carry: Carry) -> None:
        """The tables that have no rules any more come last: both apply in between."""
        wanted = places(policy)
        for place in wanted:
            self._installed.setdefault(place, [])
            carry(replace_rules(place, self._chains, lines(policy, place.version)) or Counters())
            self._installed[place] = fingerprint(place, self._chains)
        for place in [place for place in self._installed if place not in wanted]:
            carry(replace_rules(place, self._chains, []) or Counters())
            del self._installed[place]

    def stand(self) -> bool:
        """See ``held.Rules.stand``.  Raises ``Busy`` at once while another iptables command is at work."""
        with lock.held(0):
            return all(fingerprint(place, self._chains) == mine for place, mine in self._installed.items())

    def counted(self) -> Counters:
        """See ``held.Rules.counted``.  Raises ``Busy`` at once while another iptables command is at work."""
        total = Counters()
        with lock.held(0):
            for place in self._installed:
                with open_table(place) as table:
                    total = total.plus(counted(table, self._chains))
        return total

    def remove(self) -> None:
        """See ``held.Rules.remove``."""
        for place in list(self._installed):
            replace_rules(place, self._chains, [])
            del self._installed[place]

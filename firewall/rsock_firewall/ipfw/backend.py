"""The ipfw backend, for FreeBSD hosts where ipfw is the packet filter in use.

Our rules have a comment with the instance's name, a number below 100, and set 31. ipfw(8) adds one rule at a time.  So
a change first adds the new rules under a free number, and then deletes the old number: the kernel never sees traffic
that belongs to both. ipfw has no owner and no events; ``repair`` finds out that somebody changed our rules.

The way of a change through this room: ``text`` says what the rules are, ``backend`` when they are installed, ``tool``
runs ipfw(8).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress

from rsock_firewall.command import NoTool, Run, run
from rsock_firewall.held import Carry, HeldRules, Why, until_exit
from rsock_firewall.ipfw import text
from rsock_firewall.ipfw.text import NUMBERS
from rsock_firewall.ipfw.tool import Listed, NoIpfw, Tool
from rsock_firewall.policy import Counters, FirewallError, Held, Policy, PortRange, check_name, merged, tally


class Ipfw:
    """See ``policy.Firewall``."""

    name = "ipfw"

    def __init__(self, *, run: Run = run) -> None:
        self._tool = Tool(run)

    def probe(self) -> None:
        """Whether ipfw is there and switched on.  Changes nothing."""
        self._tool.listed()
        self._tool.check_switches()

    def hold(self, policy: Policy) -> AbstractContextManager[Held]:
        """See ``policy.Firewall.hold``.  Nothing tells whether another live daemon has the same name."""
        return until_exit(lambda: HeldRules(policy, IpfwRules(self._tool, policy.name)))

    def clear(self, name: str) -> bool:
        """See ``policy.Firewall.clear``."""
        with suppress(NoIpfw, NoTool):
            return self._tool.delete(check_name(name))
        return False

    def clear_all(self) -> list[str]:
        """See ``policy.Firewall.clear_all``."""
        with suppress(NoIpfw, NoTool):
            names = sorted({rule.name for rule in self._tool.listed() if rule.name})
            return [name for name in names if self._tool.delete(name)]
        return []

    def left_behind(self, name: str) -> tuple[PortRange, ...]:
        """See ``policy.Firewall.left_behind``."""
        ours = self._tool.ours(check_name(name))
        return merged(ports for rule in ours if rule.direction == "in" for ports in text.local_ports(rule.body))

    def obstacles(self, policy: Policy) -> list[str]:  # noqa: ARG002 - as ``Firewall`` has it
        """None: our numbers come before those of ``rc.firewall``."""
        return []

    def render(self, policy: Policy) -> str:
        """See ``policy.Firewall.render``."""
        return text.render(policy)


class IpfwRules:
    """See ``held.Rules``."""

    def __init__(self, tool: Tool, name: str) -> None:
        self._tool = tool
        self._name = name
        self._installed: list[tuple[int, str]] = []
        """What ipfw lists of us, to be compared with what it lists later."""

    def install(self, policy: Policy, why: Why, carry: Carry) -> None:
        """See ``held.Rules.install``.  After a failure, what was added is deleted."""
        if why is Why.START:
            self._tool.check_switches()
        rules = text.rules(policy)
        before = self._tool.listed()
        old = sorted({rule.number for rule in before if rule.name == self._name})
        number = _free_number(self._name, {rule.number for rule in before}) if rules else 0
        try:
            for rule in rules:
                self._tool.add(number, rule)
        except FirewallError:
            self._tool.delete_number(number, self._name)
            raise
        # they counted until now
        counted = tally(rule for rule in self._tool.ours(self._name) if rule.number in old)
        for replaced in old:
            self._tool.delete_number(replaced, self._name)
        self._installed = _fingerprint(self._tool.ours(self._name))
        carry(counted)

    def stand(self) -> bool:
        """See ``held.Rules.stand``.  Raises ``FirewallError`` when ipfw is switched off."""
        self._tool.check_switches()
        return _fingerprint(self._tool.ours(self._name)) == self._installed

    def counted(self) -> Counters:
        """See ``held.Rules.counted``."""
        return tally(self._tool.ours(self._name))

    def remove(self) -> None:
        """See ``held.Rules.remove``."""
        self._tool.delete(self._name)


def _free_number(name: str, taken: set[int]) -> int:
    first = NUMBERS.index(text.first_number(name))
    numbers: list[int] = [*NUMBERS[first:], *NUMBERS[:first]]
    for number in numbers:
        if number not in taken:
            return number
    raise FirewallError(f"ipfw has no free rule number from {NUMBERS[0]} to {NUMBERS[-1]}")


def _fingerprint(rules: list[Listed]) -> list[tuple[int, str]]:
    return [(rule.number, rule.body) for rule in rules]

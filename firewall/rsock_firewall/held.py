"""Holding rules in a packet filter that has neither owners nor events: pf, ipfw, legacy iptables.

``HeldRules`` is ``policy.Held`` for all three: it takes over, updates, repairs, counts and releases.  It has a part,
``Rules``, that knows the packet filter. nf_tables has owners and events, so the nftables backend has a ``Held`` of its
own.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeAlias

from rsock_firewall.policy import Counters, FirewallError, Held, Policy, check_update

Carry: TypeAlias = Callable[[Counters], None]
"""Takes the counts of rules that are being replaced."""


class Busy(FirewallError):  # noqa: N818 - what it says, not what went wrong
    """Another program is changing the packet filter.  Nothing was done; the same call may succeed later."""


class Why(enum.Enum):
    """Why rules are installed."""

    START = "start"
    """We start; a killed predecessor may have left rules of the same name."""
    UPDATE = "update"
    """The policy changed."""
    REPAIR = "repair"
    """Somebody else changed the rules."""


class Rules(Protocol):
    """The rules of one instance in a packet filter.  Every method raises ``FirewallError``."""

    def install(self, policy: Policy, why: Why, carry: Carry) -> None:
        """Replace whatever the instance has by the rules of ``policy``.  A failure leaves the rules that were there."""

    def stand(self) -> bool:
        """Whether the packet filter still has what ``install`` put there."""

    def counted(self) -> Counters:
        """What the rules that are there have counted."""

    def remove(self) -> None:
        """Remove the instance's rules, whoever installed them."""


class HeldRules:
    """See ``policy.Held``.  Takes over what a killed predecessor left."""

    def __init__(self, policy: Policy, rules: Rules) -> None:
        self._policy = policy
        self._rules = rules
        self._carried = Counters()
        """The counts of rules that have been replaced."""
        self._last = Counters()
        """What ``counters`` said last."""
        self._released = False
        try:
            self._install(policy, Why.START)
        except BaseException:
            with suppress(FirewallError):  # the first reason is the one to tell
                self.release()
            raise

    def update(self, policy: Policy) -> None:
        """See ``policy.Held.update``.  A failure leaves the old rules."""
        check_update(self._policy, policy)
        if policy != self._policy:
            self._install(policy, Why.UPDATE)

    def fileno(self) -> int:
        """-1: these packet filters do not tell about changes."""
        return -1

    def repair(self) -> bool:
        """See ``policy.Held.repair``.  Waits for nobody: False while another program changes the packet filter."""
        try:
            if self._rules.stand():
                return False
            self._install(self._policy, Why.REPAIR)
        except Busy:
            return False
        return True

    def counters(self) -> Counters:
        """See ``policy.Held.counters``.  While another program changes the packet filter: what was known last."""
        with suppress(Busy):
            # When somebody else removes a rule, its count is lost.  No total falls below what was known before.
            self._last = Counters(*map(max, self._carried.plus(self._rules.counted()), self._last))
        return self._last

    def release(self) -> None:
        """See ``policy.Held.release``."""
        if not self._released:
            self._rules.remove()
            self._released = True

    def _install(self, policy: Policy, why: Why) -> None:
        self._rules.install(policy, why, self._carry)
        self._policy = policy
        self._carried = Counters(*map(max, self._carried, self._last))  # a foreign flush may have removed counts

    def _carry(self, counted: Counters) -> None:
        self._carried = self._carried.plus(counted)


@contextmanager
def until_exit(make: Callable[[], Held]) -> Iterator[Held]:
    """What ``Firewall.hold`` returns: ``make`` installs the rules on entry, and they are released on exit."""
    held = make()
    try:
        yield held
    finally:
        held.release()

"""The ipfw backend, for FreeBSD hosts where ipfw is the packet filter in use.

Rules of ours have a comment with the instance's name, numbers below 100, and set 31.  ipfw(8) adds one rule at a time:
a change adds the new rules under a free number first and then deletes the old number, so that traffic that both own is
never seen by the kernel.  ipfw has no owner and no events: ``repair`` notices a foreign change when it is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from rsock_firewall import ipfw_text
from rsock_firewall.command import NoTool, Run, run
from rsock_firewall.ipfw_text import COMMENT, NUMBERS, SET, Rule
from rsock_firewall.policy import (
    Counters,
    FirewallError,
    Held,
    Policy,
    PortRange,
    check_name,
    check_update,
    merged,
    tally,
)

IPFW, SYSCTL = "/sbin/ipfw", "/sbin/sysctl"
SWITCHES = ("net.inet.ip.fw.enable", "net.inet6.ip6.fw.enable")


class NoIpfw(FirewallError):  # noqa: N818 - what it says, not what went wrong
    """This kernel has no ipfw; so nothing of ours can be in it."""


class Listed(NamedTuple):
    """A rule that the kernel has."""

    number: int
    packets: int
    octets: int
    set: int
    body: str
    """Without number, counters, set and comment."""
    name: str
    """The instance's; empty = somebody else's rule."""
    direction: str


class Ipfw:
    """See ``policy.Firewall``."""

    name = "ipfw"

    def __init__(self, *, run: Run = run) -> None:
        self._tool = Tool(run)

    def probe(self) -> None:
        """Whether ipfw is there and switched on.  Changes nothing."""
        self._tool.listed()
        self._tool.check_switches()

    @contextmanager
    def hold(self, policy: Policy) -> Iterator[Held]:
        """See ``policy.Firewall.hold``.  Nothing tells whether another live daemon has the same name."""
        held = IpfwHeld(self._tool, policy)
        try:
            yield held
        finally:
            held.release()

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
        return merged(ports for rule in ours if rule.direction == "in" for ports in ipfw_text.local_ports(rule.body))

    def render(self, policy: Policy) -> str:
        """See ``policy.Firewall.render``."""
        return ipfw_text.render(policy)

    def counters(self, name: str) -> Counters:
        """See ``policy.Firewall.counters``; since the last update that changed the rules."""
        ours = self._tool.ours(check_name(name))
        if not ours:
            raise FirewallError(f"there is no ipfw rule with the comment {COMMENT}{name}")
        return tally(ours)


class IpfwHeld:
    """See ``policy.Held``."""

    def __init__(self, tool: Tool, policy: Policy) -> None:
        self._tool = tool
        self._policy = policy
        self._carried = Counters()
        """Counted by rules that were replaced since."""
        self._installed: list[tuple[int, str]] = []
        """What ipfw lists of us, to be compared with what it lists later."""
        self._released = False
        try:
            tool.check_switches()
            self._install(policy)
        except BaseException:
            with suppress(FirewallError):  # the first reason is the one to tell
                self.release()
            raise

    def update(self, policy: Policy) -> None:
        """See ``policy.Held.update``.  A failure takes away what was added; the old rules stay."""
        check_update(self._policy, policy)
        if policy != self._policy:
            self._install(policy)

    def fileno(self) -> int:
        """-1: ipfw tells nobody of changes."""
        return -1

    def repair(self) -> bool:
        """See ``policy.Held.repair``."""
        self._tool.check_switches()
        if _fingerprint(self._tool.ours(self._policy.name)) == self._installed:
            return False
        self._install(self._policy)
        return True

    def counters(self) -> Counters:
        """See ``policy.Held.counters``."""
        return self._carried.plus(tally(self._tool.ours(self._policy.name)))

    def release(self) -> None:
        """See ``policy.Held.release``."""
        if not self._released:
            self._tool.delete(self._policy.name)
            self._released = True

    def _install(self, policy: Policy) -> None:
        rules = ipfw_text.rules(policy)
        before = self._tool.listed()
        old = sorted({rule.number for rule in before if rule.name == policy.name})
        number = _free_number(policy.name, {rule.number for rule in before}) if rules else 0
        try:
            for rule in rules:
                self._tool.add(number, rule)
        except FirewallError:
            self._tool.delete_number(number, policy.name)
            raise
        # they counted until now
        carried = self._carried.plus(tally(rule for rule in self._tool.ours(policy.name) if rule.number in old))
        for replaced in old:
            self._tool.delete_number(replaced, policy.name)
        self._installed = _fingerprint(self._tool.ours(policy.name))
        self._carried = carried
        self._policy = policy


class Tool:
    """ipfw(8) and sysctl(8), a method for each thing that we ask them.  Every one raises ``FirewallError``, one line."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def check_switches(self) -> None:
        """The filter looks at packets only where its sysctls say so; a kernel without IPv6 has only the first."""
        for switch in SWITCHES:
            done = self._run([SYSCTL, "-n", switch], "")
            if done.code == 0 and done.output.strip() == "0":
                raise FirewallError(f"ipfw is switched off; try: sysctl {switch}=1")

    def listed(self) -> list[Listed]:
        """Every rule, ours and others', with counters."""
        return [rule for line in self._output("-a", "-S", "list").splitlines() if (rule := _parse(line))]

    def ours(self, name: str) -> list[Listed]:
        """The rules of one instance."""
        return [rule for rule in self.listed() if rule.name == name and rule.set == SET]

    def add(self, number: int, rule: Rule) -> None:
        """Add one rule behind those of the same number."""
        self._output("-q", "add", str(number), "set", str(SET), *rule.words)

    def delete(self, name: str) -> bool:
        """Delete every rule of an instance; True if there were any."""
        numbers = sorted({rule.number for rule in self.ours(name)})
        for number in numbers:
            self.delete_number(number, name)
        return bool(numbers)

    def delete_number(self, number: int, name: str) -> None:
        """Delete the rules of that number in our set, if any are the instance's.

        Another instance that took the same number in the same moment loses its rules, and puts them back (``repair``).
        """
        owners = {rule.name for rule in self.listed() if rule.number == number and rule.set == SET}
        if "" in owners:
            raise FirewallError(f"ipfw set {SET} has a rule {number} that rsock-nf did not write: see ipfw -S list")
        if name in owners:
            self._output("-q", "set", str(SET), "delete", str(number))

    def _output(self, *arguments: str) -> str:
        done = self._run([IPFW, *arguments], "")
        if done.code == 0:
            return done.output
        reason = (done.errors.strip().splitlines() or [f"exit code {done.code}"])[0].removeprefix("ipfw: ")
        if "Operation not permitted" in reason or "Permission denied" in reason:
            raise FirewallError("changing firewall rules needs root; as root: kern.securelevel forbids any change")
        if "Protocol not available" in reason:
            raise NoIpfw(f"this kernel has no ipfw ({reason})")
        raise FirewallError(f"ipfw {' '.join(arguments)}: {reason}")


def _parse(line: str) -> Listed | None:
    """A line of ``ipfw -a -S list``: number, packets, bytes, set, rule, perhaps a comment; None for other headings."""
    found = re.fullmatch(r"(?:# DISABLED )?(\d+)\s+(\d+)\s+(\d+)\s+set (\d+)\s+(.*?)(?: // (.*))?\s*", line)
    if found is None:
        return None
    comment = re.fullmatch(rf"{COMMENT}([A-Za-z0-9_.-]+):(in|out)", found[6] or "")
    name, direction = (comment[1], comment[2]) if comment else ("", "")
    return Listed(int(found[1]), int(found[2]), int(found[3]), int(found[4]), found[5], name, direction)


def _free_number(name: str, taken: set[int]) -> int:
    first = NUMBERS.index(ipfw_text.first_number(name))
    numbers: list[int] = [*NUMBERS[first:], *NUMBERS[:first]]
    for number in numbers:
        if number not in taken:
            return number
    raise FirewallError(f"ipfw has no free rule number from {NUMBERS[0]} to {NUMBERS[-1]}")


def _fingerprint(rules: list[Listed]) -> list[tuple[int, str]]:
    return [(rule.number, rule.body) for rule in rules]

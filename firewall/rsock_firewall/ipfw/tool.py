"""ipfw(8) and sysctl(8): one method for each thing that we ask them, and what their answers mean.

When to do what is decided in ``backend``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rsock_firewall.command import Run
from rsock_firewall.ipfw.text import COMMENT, SET, Rule
from rsock_firewall.policy import FirewallError

IPFW, SYSCTL = "/sbin/ipfw", "/sbin/sysctl"
SWITCHES = ("net.inet.ip.fw.enable", "net.inet6.ip6.fw.enable")


class NoIpfw(FirewallError):  # noqa: N818 - what it says, not what went wrong
    """This kernel has no ipfw, so there cannot be any rules of ours in it."""


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


class Tool:
    """ipfw(8) and sysctl(8), a method for each thing that we ask them.  Every one raises ``FirewallError``, one
    line."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def check_switches(self) -> None:
        """Raise ``FirewallError`` if a sysctl switches ipfw off.  A kernel without IPv6 has only the first."""
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

        Another instance that took the same number at the same moment loses its rules, too; its ``repair`` puts them
        back.
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

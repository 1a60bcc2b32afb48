"""The manual backend: it prints the rules, and touches nothing.

It is for hosts whose packet filter is managed by something else: configuration management, or a cloud's firewall.  The
operator loads the rules, replaces them when they change, and removes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rsock_firewall import npf
from rsock_firewall.nftables import text as nft_text
from rsock_firewall.pf import text as pf_text
from rsock_firewall.pf.pfctl import Dialect
from rsock_firewall.policy import Counters, Held, Policy, PortRange, check_name


def _print(text: str) -> None:
    sys.stderr.write(f"{text}\n")


@dataclass(frozen=True, slots=True)
class Language:
    """The language of rules on this system, and what an operator does with them."""

    render: Callable[[Policy], str]
    load: str
    """How the text is loaded."""
    replace: Callable[[str], str]
    """By instance: the heading of rules that replace others."""
    remove: Callable[[str], str]
    """By instance."""


NFT = Language(
    nft_text.render,
    "nft -f",
    lambda name: f"in one nft -f:\ndelete table inet {nft_text.TABLE_PREFIX}{name}",
    lambda name: f"nft delete table inet {nft_text.TABLE_PREFIX}{name}",
)
NPF = Language(
    npf.render,
    "npfctl reload",
    lambda _: "in npf.conf:",
    lambda name: f"the rules of instance {name} in npf.conf",
)


def pf_language(dialect: Dialect) -> Language:
    """Of a system with pf: an anchor as the pf backend has it."""
    return Language(
        lambda policy: pf_text.render(policy, dialect.prefix + policy.name),
        f"pfctl, in an anchor that the main ruleset calls: {dialect.call}",
        lambda name: f"by pfctl -a {dialect.prefix}{name} -f -:",
        lambda name: f"pfctl -a {dialect.prefix}{name} -F rules",
    )


class Manual:
    """See ``policy.Firewall``.  ``notice`` gets the rules whenever they should change; by default it prints to
    stderr."""

    name = "manual"

    def __init__(self, notice: Callable[[str], None] = _print, language: Language = NFT) -> None:
        self._notice = notice
        self._language = language

    def probe(self) -> None:
        """Works everywhere."""

    @contextmanager
    def hold(self, policy: Policy) -> Iterator[Held]:
        """Say what to load now and, at the end, what to remove."""
        self._notice(f"# load these rules now ({self._language.load}); nobody else will:\n{self.render(policy)}")
        held = ManualHeld(policy, self._notice, self._language)
        try:
            yield held
        finally:
            held.release()

    def clear(self, name: str) -> bool:
        """False: this backend installs nothing, so there is nothing to remove."""
        check_name(name)
        return False

    def clear_all(self) -> list[str]:
        """Empty, for the same reason."""
        return []

    def left_behind(self, name: str) -> tuple[PortRange, ...]:
        """See ``policy.Firewall.left_behind``: what an operator installed is not looked at."""
        check_name(name)
        return ()

    def obstacles(self, policy: Policy) -> list[str]:  # noqa: ARG002 - as ``Firewall`` has it
        """None: where the rules are is the operator's choice."""
        return []

    def render(self, policy: Policy) -> str:
        """In the system's own language."""
        return self._language.render(policy)


class ManualHeld:
    """See ``policy.Held``."""

    def __init__(self, policy: Policy, notice: Callable[[str], None], language: Language) -> None:
        self._policy = policy
        self._notice = notice
        self._language = language
        self._released = False

    def update(self, policy: Policy) -> None:
        """Say what to load instead."""
        if policy != self._policy:
            heading = self._language.replace(self._policy.name)
            self._notice(f"# replace the rules by these, {heading}\n{self._language.render(policy)}")
        self._policy = policy

    def fileno(self) -> int:
        """-1: nothing to watch."""
        return -1

    def repair(self) -> bool:
        """False: nothing to put back."""
        return False

    def counters(self) -> Counters:
        """Zero."""
        return Counters()

    def release(self) -> None:
        """Say what to remove."""
        if not self._released:
            self._released = True
            self._notice(f"# no longer needed: {self._language.remove(self._policy.name)}")

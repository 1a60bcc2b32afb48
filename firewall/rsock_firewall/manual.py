"""The manual backend: says what the rules would be, and touches nothing.

For hosts whose packet filter belongs to somebody else (configuration management, a cloud's firewall).
Whoever asks for it loads the rules, keeps them in step, and removes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rsock_firewall import nft_text
from rsock_firewall.policy import Counters, Held, Policy, PortRange, check_name


def _print(text: str) -> None:
    sys.stderr.write(f"{text}\n")


class Manual:
    """See ``policy.Firewall``.  ``notice`` gets the rules whenever they should change; by default it prints to stderr."""

    name = "manual"

    def __init__(self, notice: Callable[[str], None] = _print) -> None:
        self._notice = notice

    def probe(self) -> None:
        """Works everywhere."""

    @contextmanager
    def hold(self, policy: Policy) -> Iterator[Held]:
        """Say what to load now and, at the end, what to remove."""
        self._notice(f"# load these rules now (nft -f); nobody else will:\n{self.render(policy)}")
        held = ManualHeld(policy, self._notice)
        try:
            yield held
        finally:
            held.release()

    def clear(self, name: str) -> bool:
        """False: nothing of ours was ever here."""
        check_name(name)
        return False

    def clear_all(self) -> list[str]:
        """Empty, for the same reason."""
        return []

    def left_behind(self, name: str) -> tuple[PortRange, ...]:
        """See ``policy.Firewall.left_behind``: what an operator installed is not looked at."""
        check_name(name)
        return ()

    def render(self, policy: Policy) -> str:
        """For ``nft -f``."""
        return nft_text.render(policy)

    def counters(self, name: str) -> Counters:
        """Zero: the rules are not ours to read."""
        check_name(name)
        return Counters()


class ManualHeld:
    """See ``policy.Held``."""

    def __init__(self, policy: Policy, notice: Callable[[str], None]) -> None:
        self._policy = policy
        self._notice = notice
        self._released = False

    def update(self, policy: Policy) -> None:
        """Say what to load instead."""
        if policy != self._policy:
            table = f"inet {nft_text.TABLE_PREFIX}{self._policy.name}"
            text = f"# replace the rules by these, in one nft -f:\ndelete table {table}\n{nft_text.render(policy)}"
            self._notice(text)
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
            self._notice(f"# no longer needed: nft delete table inet {nft_text.TABLE_PREFIX}{self._policy.name}")

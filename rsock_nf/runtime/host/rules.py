"""The firewall rules of a running instance: installed before its sockets open, updated, and repaired.

Not here: what the rules say (``policy``), and how a backend installs them (``rsock_firewall``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Self

from rsock_firewall import Counters, Firewall, FirewallError, Held, Policy
from rsock_nf.runtime.reports.troubles import Troubles


class Rules:
    """Rules that are installed.  ``policy`` tells what they must cover now."""

    def __init__(
        self,
        backend: str,
        held: Held,
        policy: Callable[[], Policy],
        *,
        at_input: bool = False,
        log: logging.Logger,
        troubles: Troubles,
    ) -> None:
        self.backend = backend
        self.repairs = 0
        """How often they were put back."""
        self._held = held
        self._policy = policy
        self._at_input = at_input
        """What the installed rules do, or were last asked to do."""
        self._log = log
        self._troubles = troubles

    @classmethod
    def install(
        cls,
        firewall: Firewall,
        policy: Callable[[], Policy],
        stack: contextlib.ExitStack,
        *,
        log: logging.Logger,
        troubles: Troubles,
    ) -> Self:
        """Install them; ``stack`` removes them.  Raises ``FirewallError``."""
        first = policy()
        held = stack.enter_context(firewall.hold(first))
        for obstacle in firewall.obstacles(first):
            log.warning("%s", obstacle)
        spares = first.at_input
        return cls(firewall.name, held, policy, at_input=spares, log=log, troubles=troubles)

    def apply(self) -> None:
        """Make them say what ``policy`` tells now.  Raises ``FirewallError``; then they are as before."""
        self._held.update(self._policy())

    def watch(self, loop: asyncio.AbstractEventLoop, stack: contextlib.ExitStack) -> None:
        """Repair them at once when the backend reports a change, until ``stack`` ends it."""
        descriptor = self._held.fileno()
        if descriptor >= 0:
            loop.add_reader(descriptor, self.repair)
            stack.callback(loop.remove_reader, descriptor)

    def tick(self) -> None:
        """Once a second: see whether the host forwards now; a backend that reports no changes is asked."""
        self._follow_forwarding()
        if self._held.fileno() < 0:
            self.repair()

    def _follow_forwarding(self) -> None:
        """A VPN or container engine may have switched it on or off.  What fails is tried again."""
        forwards = self._policy().at_input
        if forwards == self._at_input:
            return
        try:
            self.apply()
        except FirewallError as error:
            self._troubles.note(f"the firewall rules cannot follow that this host forwards: {error}")
            return
        self._at_input = forwards
        what = "forwards now: rules spare translated" if forwards else "no longer forwards: rules do not spare"
        self._log.info("this host %s connections of others", what)

    def repair(self) -> None:
        """Put back what somebody else has changed."""
        try:
            if self._held.repair():
                self.repairs += 1
                self._log.warning("the firewall rules were changed by somebody else: put back")
        except FirewallError as error:
            self._troubles.note(f"cannot put the firewall rules back: {error}")

    def counters(self) -> Counters | None:
        """What the rules dropped; None = somebody changes them at this moment."""
        with contextlib.suppress(FirewallError):
            return self._held.counters()
        return None

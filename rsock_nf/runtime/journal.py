"""What a running instance logs of itself once a second, beside the events that are logged as they come.

At the usual levels: why it carries nothing, and targets that refuse, both rarely.  At ``debug`` also what changed since
the last look: conversations, the application's MTU, counters of oddities.  Never a secret, a key or payload.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from rsock_nf.runtime.snapshot import application_mtu

if TYPE_CHECKING:
    from rsock_nf.runtime.driver import Driver

REMINDER = 60.0
"""Seconds from one line about a target that refuses to the next."""
LONGEST_PAUSE = 300.0
"""Seconds from one line about why nothing is carried to the next, if the reason changes; the first pause is 2 s."""


class Journal:
    """See the module.  One for each ``Driver``, which calls ``tick``."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._reason = ""
        self._reason_due = 0.0
        self._pause = 2.0
        self._refused: dict[str, int] = {}
        self._refusals_due: dict[str, float] = {}
        self._conversations: dict[tuple[int, int], str] = {}
        self._mtus: dict[int, int | None] = {}
        self._counters = Counter[str]()

    def tick(self, driver: Driver, now: float) -> None:
        """Look, and log what is new."""
        self._note_reason(driver.reason, now)
        self._note_refusals(driver.refusals(), now)
        if self._log.isEnabledFor(logging.DEBUG):
            self._trace(driver)

    def _note_reason(self, reason: str, now: float) -> None:
        """Each time it changes; but flows fail one by one, each with a reason of its own, so ever more rarely."""
        if not reason:
            self._reason, self._reason_due, self._pause = "", 0.0, 2.0
        elif reason != self._reason and now >= self._reason_due:
            self._log.warning("%s", reason)
            self._reason, self._reason_due = reason, now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _note_refusals(self, refusals: dict[str, int], now: float) -> None:
        """Of each target once, and again every minute while it lasts."""
        for target, count in refusals.items():
            if count > self._refused.get(target, 0) and now >= self._refusals_due.get(target, 0.0):
                self._log.warning("target %s: nobody listens there (refused so far: %d)", target, count)
                self._refused[target] = count
                self._refusals_due[target] = now + REMINDER

    def _trace(self, driver: Driver) -> None:
        debug = self._log.debug
        conversations = {
            (session.session_id, conversation.number): driver.describe(conversation.peer)
            for session in driver.sessions
            for conversation in session.group.conversations.values()
        }
        for key in conversations.keys() - self._conversations.keys():
            debug("session %016x: conversation %d begins: %s", *key, conversations[key])
        for key in self._conversations.keys() - conversations.keys():
            debug("session %016x: conversation %d has ended: %s", *key, self._conversations[key])
        self._conversations = conversations
        mtus = {session.session_id: application_mtu(session) for session in driver.sessions}
        for session_id, mtu in mtus.items():
            if mtu is not None and mtu != self._mtus.get(session_id):
                debug("session %016x: MTU for the application is %d", session_id, mtu)
        self._mtus = mtus
        counters = Counter(driver.core.counters)
        for name, count in (counters - self._counters).items():
            debug("counted %d more: %s", count, name)
        self._counters = counters

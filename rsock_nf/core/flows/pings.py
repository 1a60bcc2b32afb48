"""Round trips that an operator asks for: numbered probes beside those that judge a flow.

Their answers are told as events, and change nothing.  The other end answers them as any probe.
"""

from __future__ import annotations

from rsock_nf.core.events import PingAnswered
from rsock_nf.core.flows.context import Context

MOST = 1024
"""Pings that may wait for their answers; of more, the oldest is forgotten."""
_FIRST = 0x2000_0000
_NUMBERS = 0x2000_0000
"""Pings have so many numbers from ``_FIRST`` on.  The probes of a flow never reach them; those of a search for a path's
MTU, and those that follow a client to another address, have higher ones."""


class Pings:
    """See the module.  The numbers are those of one endpoint, whatever the flow."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sent: dict[int, float] = {}
        """By number: when it left.  The oldest first."""
        self._count = 0

    def next(self, now: float) -> int:
        """A ping leaves now: its number."""
        number = _FIRST + self._count % _NUMBERS
        self._count += 1
        if len(self._sent) >= MOST:
            del self._sent[next(iter(self._sent))]
        self._sent[number] = now
        return number

    def answered(self, now: float, number: int) -> bool:
        """Tell that ping ``number`` was answered.  Returns False if ``number`` is that of no ping.

        A second answer, of another flow, tells nothing.
        """
        sent = self._sent.pop(number, None)
        if sent is not None:
            self._context.outbox.tell(PingAnswered(number, max(now - sent, 0.0)))
        return _FIRST <= number < _FIRST + _NUMBERS

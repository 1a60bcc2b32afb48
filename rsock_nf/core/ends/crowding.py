"""Room for conversations at a server: which one ends when there are ``max_conversations``, and what is kept of it.

The client is not told.  For it the conversation goes on: its next datagram opens the conversation again, with the same
number and the same target, which are kept here.  So nothing is lost, and nothing has to be agreed on.

Not here: which conversation makes room (``silence``).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from rsock_nf.core.ends.conversations import Conversations
from rsock_nf.core.flows.session import Session
from rsock_nf.core.pump.state import PumpConversation

KEPT = 4
"""For each conversation that there may be, so many are remembered that made room.  The first are forgotten first: a
client is told that such a conversation has ended when it sends plain data."""
CROWDED = 10.0
"""Seconds without one that makes room, after which that is no reason any more."""


class Crowd(NamedTuple):
    """What an operator is told when conversations make room."""

    limit: int
    """``max_conversations``."""
    made_room: int
    """How many conversations have made room so far."""
    peer: str
    """The client's address and port, of the session whose conversation was the last to make room."""
    now: bool
    """Conversations made room in the last ``CROWDED`` seconds."""

    @property
    def reason(self) -> str:
        """What is wrong, and the remedy.  Empty = nothing."""
        if not self.now:
            return ""
        full = f"conversations: {self.limit} of {self.limit} in use"
        return f"{full}: answered or silent ones make room; raise max_conversations"


class Crowding:
    """See the module.  ``limit``: ``max_conversations``."""

    def __init__(self, limit: int, conversations: Conversations) -> None:
        self._limit = limit
        self._conversations = conversations
        self._made_room = 0
        self._peer = ""
        self._last: float | None = None
        """When a conversation made room for the last time."""
        self._targets: OrderedDict[tuple[int, int], int] = OrderedDict()
        """(session id, number) of a conversation that made room → the index of its target."""

    @property
    def full(self) -> bool:
        """No conversation begins before another one ends."""
        return len(self._conversations) >= self._limit

    def needed(self, now: float, session: Session) -> PumpConversation | None:
        """The conversation that is to end before another one of ``session`` begins.  None = there is room.

        It belongs to a session with the most conversations.
        """
        if not self.full:
            return None
        leaving = self._conversations.to_go(now, session.group)
        owner = leaving.group.owner
        if not isinstance(owner, Session):
            raise TypeError(f"a conversation of {owner!r}")
        self._made_room += 1
        self._peer, self._last = owner.peer, now
        self._targets[owner.session_id, leaving.number] = leaving.target
        if len(self._targets) > KEPT * self._limit:
            self._targets.popitem(last=False)
        return leaving

    def take(self, session: Session, number: int) -> int | None:
        """The target of a conversation that made room, and now ends at the client, too, or opens again.

        None = it did not make room, or it is forgotten.
        """
        return self._targets.pop((session.session_id, number), None)

    def crowd(self, now: float) -> Crowd:
        """What an operator is told."""
        crowded = self._last is not None and now - self._last < CROWDED
        return Crowd(self._limit, self._made_room, self._peer, crowded)

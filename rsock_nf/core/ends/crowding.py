"""Room for conversations at a server: which one ends when there are ``max_conversations``, and what is kept of it.

The client is not told.  For it the conversation goes on: its next datagram opens the conversation again, with the same
number and the same target, which are kept here.  So nothing is lost, and nothing has to be agreed on.

Not here: which conversation makes room (``silence``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
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
    """``max_conversations``, of the server or of a client."""
    made_room: int
    """How many conversations have made room so far."""
    peer: str
    """The client's address and port, of the session whose conversation was the last to make room."""
    now: bool
    """Conversations made room in the last ``CROWDED`` seconds."""
    whose: str = ""
    """The name of the client whose own limit it is.  Empty = it is the server's."""

    @property
    def reason(self) -> str:
        """What is wrong, and the remedy.  Empty = nothing."""
        if not self.now:
            return ""
        of, its = (f" of {self.whose}", "its ") if self.whose else ("", "")
        full = f"conversations{of}: {self.limit} of {self.limit} in use"
        return f"{full}: answered or silent ones make room; raise {its}max_conversations"


class Crowding:
    """See the module.  ``limit``: ``max_conversations``."""

    def __init__(self, limit: int, conversations: Conversations) -> None:
        self._limit = limit
        self._conversations = conversations
        self._made_room = 0
        self._full = limit, ""
        """The limit that was reached last, and whose it is."""
        self._peer = ""
        self._last: float | None = None
        """When a conversation made room for the last time."""
        self._targets: OrderedDict[tuple[int, int], int] = OrderedDict()
        """(session id, number) of a conversation that made room → the index of its target."""

    def use_limit(self, limit: int) -> None:
        """From now on there may be ``limit`` conversations.  Those that are too many end when the next one begins."""
        self._limit = limit
        self._full = limit, ""

    def needed(self, now: float, session: Session, sessions: Iterable[Session]) -> PumpConversation | None:
        """A conversation that is to end before another one of ``session`` begins.  None = there is room.

        After a limit was lowered there may be several: ask until there is room.
        It belongs to a session with the most conversations.  If the client has a limit of its own, and has reached it,
        it is one of the client's.  ``sessions``: all of the server's.
        """
        whose = session.identity
        most = whose.limits.max_conversations
        own = [one for one in sessions if one.identity.name == whose.name] if most is not None else []
        if most is not None and sum(len(one.group.conversations) for one in own) >= most:
            fullest = max(own, key=lambda one: (len(one.group.conversations), one is session))
            leaving = self._conversations.to_go_of(now, fullest.group)
            self._full = most, whose.name
        elif len(self._conversations) >= self._limit:
            leaving = self._conversations.to_go(now, session.group)
            self._full = self._limit, ""
        else:
            return None
        owner = leaving.group.owner
        if not isinstance(owner, Session):
            raise TypeError(f"a conversation of {owner!r}")
        self._made_room += 1
        self._peer, self._last = owner.peer, now
        self._targets[owner.session_id, leaving.number] = leaving.target
        while len(self._targets) > KEPT * self._limit:
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
        limit, whose = self._full
        return Crowd(limit, self._made_room, self._peer, crowded, whose)

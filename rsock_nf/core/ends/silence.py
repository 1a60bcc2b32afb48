"""Which conversation makes room for another: whose, and which.

A session with the most conversations gives way.  Of its conversations, one goes that has nothing left to say: it is
brief, and has as many answers as questions.  If there is none, the one goes that is nearest to its end: it has used up
the largest part of the time for which it may be silent.  So an answered question goes before one that waits for its
answer, and before a VPN that is silent for a while.

Nothing here is called for a datagram.  Whether a conversation has moved is seen when somebody looks: once a second, and
before it would make room.  A conversation that is passed over has moved since the last look.  So making room costs
little more than the datagrams did that moved them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, TypeAlias

from rsock_nf.core.pump.state import FlowGroup, PumpConversation

BRIEF = 2
"""A conversation is brief if at most this many datagrams went each way: a name's IPv4 and IPv6 address, for example."""
BRIEF_SILENCE = 30.0
"""Seconds after which a silent brief conversation ends.  Connection tracking of Linux gives a UDP exchange that never
became a stream the same time (nf_conntrack_proto_udp.c, ``udp_timeouts``)."""
SCAN_AGAIN = 0.1
"""Seconds from one search for answered questions to the next, while more than a thousand begin in a second."""


class _Seen(NamedTuple):
    moved: int
    """Datagrams in both directions."""
    since: float
    """When that number was seen to change."""


_Queue: TypeAlias = OrderedDict[PumpConversation, _Seen]


class Silence:
    """The conversations of one group.  ``duration``: seconds of silence after which one ends that is not brief."""

    def __init__(self, duration: float) -> None:
        # Each in the order of time.
        self._answered: _Queue = OrderedDict()
        """Brief ones with as many answers as questions."""
        self._asking: _Queue = OrderedDict()
        """The other brief ones."""
        self._grown: _Queue = OrderedDict()
        self._brief_silence = min(BRIEF_SILENCE, duration)
        self._duration = duration
        self._active = False
        self._scanned = 0.0

    def use_duration(self, duration: float) -> None:
        """From now on ``duration`` is another one."""
        self._brief_silence = min(BRIEF_SILENCE, duration)
        self._duration = duration

    def __len__(self) -> int:
        return len(self._answered) + len(self._asking) + len(self._grown)

    def put(self, now: float, conversation: PumpConversation) -> None:
        """``conversation`` begins: its first datagram is about to move."""
        self._asking[conversation] = _Seen(1, now)
        self._active = True

    def remove(self, conversation: PumpConversation) -> bool:
        """``conversation`` has ended.  Returns False if it is not here."""
        queues = self._answered, self._asking, self._grown
        return any(queue.pop(conversation, None) is not None for queue in queues)

    def look(self, now: float) -> tuple[bool, list[PumpConversation]]:
        """(whether anything has moved since the last call, the conversations that have been silent for too long)."""
        self._scan(now)
        active, self._active = self._active, False
        over: list[PumpConversation] = []
        for queue, allowed in (
            (self._answered, self._brief_silence),
            (self._asking, self._brief_silence),
            (self._grown, self._duration),
        ):
            for conversation, seen in queue.items():
                if now - seen.since < allowed:
                    break
                over.append(conversation)
        return active, over

    def to_go(self, now: float) -> PumpConversation:
        """The one that makes room.  There must be one."""
        if not self._answered and now - self._scanned >= SCAN_AGAIN:
            self._scan(now)
        if self._first(now, self._answered) is None:
            self._first(now, self._asking)  # some of these may have their answers by now
        answered = self._first(now, self._answered)
        if answered is not None:
            return answered
        asking, grown = self._first(now, self._asking), self._first(now, self._grown)
        if asking is None or grown is None:
            found = asking or grown
            if found is None:
                raise LookupError("no conversation")
            return found
        part_of_asking = (now - self._asking[asking].since) / self._brief_silence
        part_of_grown = (now - self._grown[grown].since) / self._duration
        return asking if part_of_asking >= part_of_grown else grown

    def _scan(self, now: float) -> None:
        """Look at every conversation."""
        self._scanned = now
        for queue in (self._answered, self._asking, self._grown):
            for conversation, seen in list(queue.items()):
                moved = conversation.sent_datagrams + conversation.received_datagrams
                if moved != seen.moved:
                    self._note(now, conversation, moved)

    def _first(self, now: float, queue: _Queue) -> PumpConversation | None:
        """The first of ``queue`` that has not moved since the last look.  None = there is none."""
        while queue:
            conversation, seen = next(iter(queue.items()))
            moved = conversation.sent_datagrams + conversation.received_datagrams
            if moved == seen.moved:
                return conversation
            self._note(now, conversation, moved)
        return None

    def _note(self, now: float, conversation: PumpConversation, moved: int) -> None:
        """``conversation`` was seen to have moved: it goes to the end of its queue."""
        self._active = True
        sent, received = conversation.sent_datagrams, conversation.received_datagrams
        if sent > BRIEF or received > BRIEF:
            queue = self._grown
        else:
            queue = self._answered if sent == received > 0 else self._asking
        if conversation not in queue:
            self.remove(conversation)
        queue[conversation] = _Seen(moved, now)
        queue.move_to_end(conversation)


class Most:
    """How many conversations each group has, and which group has the most.  No verb takes a search."""

    def __init__(self) -> None:
        self._count: dict[FlowGroup, int] = {}
        self._with: dict[int, dict[FlowGroup, None]] = {}
        """Count → the groups that have so many."""
        self._most = 0

    def add(self, group: FlowGroup, step: int) -> None:
        """``group`` has one more (``step`` 1) or one less (``step`` -1)."""
        count = self._count.pop(group, 0)
        self._with.get(count, {}).pop(group, None)
        if not self._with.get(count):
            self._with.pop(count, None)
        count += step
        if count:
            self._count[group] = count
            self._with.setdefault(count, {})[group] = None
        if self._most not in self._with or count > self._most:  # counts change by one, and so does the largest
            self._most = count

    def gives_way(self, asking: FlowGroup) -> FlowGroup:
        """Whose conversation makes room for one of ``asking``: that of a group with the most, of ``asking`` if it can.

        So no group loses one to another while it has at most its share: the limit, divided by the number of groups.
        """
        groups = self._with[self._most]
        return asking if asking in groups else next(iter(groups))

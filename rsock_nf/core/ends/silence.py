"""Which conversation makes room for another: the session's with the most, and of these the one nearest to its end.

A conversation may be silent for a time: ``duration``, or ``BRIEF_SILENCE`` if it is brief.  Who has used up the largest
part of that time is nearest to its end.  So an answered DNS question goes long before a VPN that is silent for a while.

Nothing here is called for a datagram.  Whether a conversation has moved is seen when somebody looks: once a second, and
before it would make room.  Each conversation that is passed over has moved since the last look.  So making room costs no
more than the datagrams did that moved them.
"""

from __future__ import annotations

from collections import OrderedDict

from rsock_nf.core.pump.state import FlowGroup, PumpConversation

BRIEF = 2
"""A conversation is brief if at most this many datagrams went each way: a name's IPv4 and IPv6 address, for example."""
BRIEF_SILENCE = 30.0
"""Seconds after which a silent brief conversation ends.  Connection tracking of Linux gives a UDP exchange that never
became a stream the same time (nf_conntrack_proto_udp.c, ``udp_timeouts``)."""


class Silence:
    """The conversations of one group.  ``duration``: seconds of silence after which one ends that is not brief."""

    def __init__(self, duration: float) -> None:
        self._brief: OrderedDict[PumpConversation, tuple[int, float]] = OrderedDict()
        """Conversation → (datagrams in both directions, when that number was seen to change), in the order of time."""
        self._grown: OrderedDict[PumpConversation, tuple[int, float]] = OrderedDict()
        self._queues = (self._brief, min(BRIEF_SILENCE, duration)), (self._grown, duration)

    def __len__(self) -> int:
        return len(self._brief) + len(self._grown)

    def put(self, now: float, conversation: PumpConversation) -> None:
        """``conversation`` begins: its first datagram is about to move."""
        self._brief[conversation] = 1, now

    def remove(self, conversation: PumpConversation) -> bool:
        """``conversation`` has ended.  Returns False if it is not here."""
        return any(queue.pop(conversation, None) is not None for queue, _ in self._queues)

    def look(self, now: float) -> tuple[bool, list[PumpConversation]]:
        """(whether anything has moved since the last look, the conversations that have been silent for too long)."""
        active = False
        over = []
        for queue, allowed in self._queues:
            for conversation, (count, since) in list(queue.items()):
                moved = _moved(conversation)
                if moved != count:
                    active = True
                    self._note(now, conversation, moved)
                elif now - since >= allowed:
                    over.append(conversation)
        return active, over

    def nearest_to_end(self, now: float) -> PumpConversation:
        """The one that has used up the largest part of the silence that it may have.  There must be one."""
        found: tuple[float, PumpConversation] | None = None
        for queue, allowed in self._queues:
            first = self._longest_silent(now, queue)
            if first is not None:
                conversation, since = first
                part = (now - since) / allowed
                if found is None or part > found[0]:
                    found = part, conversation
        if found is None:
            raise LookupError("no conversation")
        return found[1]

    def _longest_silent(
        self, now: float, queue: OrderedDict[PumpConversation, tuple[int, float]]
    ) -> tuple[PumpConversation, float] | None:
        """(the first of ``queue`` that has not moved since the last look, since when).  None = the queue is empty."""
        while queue:
            conversation, (count, since) = next(iter(queue.items()))
            moved = _moved(conversation)
            if moved == count:
                return conversation, since
            self._note(now, conversation, moved)
        return None

    def _note(self, now: float, conversation: PumpConversation, moved: int) -> None:
        """``conversation`` was seen to have moved: it goes to the end of its queue."""
        brief = conversation.sent_datagrams <= BRIEF and conversation.received_datagrams <= BRIEF
        queue = self._brief if brief else self._grown
        if conversation in queue:
            queue[conversation] = moved, now
            queue.move_to_end(conversation)
        else:  # it is no longer brief
            self._brief.pop(conversation, None)
            queue[conversation] = moved, now


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
        """Whose conversation makes room for one of ``asking``: that of a group with the most, if it can ``asking``'s own.

        So no group loses one to another while it has at most its share: the limit, divided by the number of groups.
        """
        groups = self._with[self._most]
        return asking if asking in groups else next(iter(groups))


def _moved(conversation: PumpConversation) -> int:
    return conversation.sent_datagrams + conversation.received_datagrams

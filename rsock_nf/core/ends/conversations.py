"""The conversations of an endpoint in either role: which exist, when they last moved, and large datagrams.

A datagram that does not fit a segment is cut into fragments here, and joined here.  The fast path (``pump``) has
the same conversations, and moves their ordinary datagrams.
"""

from __future__ import annotations

from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.session import Session
from rsock_nf.core.flows.timers import SWEEP, Timer
from rsock_nf.core.protocols import Frames, Kind
from rsock_nf.core.pump.fragments import parse_fragment, split
from rsock_nf.core.pump.pump import Pump
from rsock_nf.core.pump.state import FlowGroup, PumpConversation
from rsock_nf.core.types import Buffer, Malformed, Outgoing, Run


class Conversations:
    """See the module.  ``fragments``: whether the wire can carry a datagram in pieces."""

    def __init__(self, context: Context, pump: Pump, *, fragments: bool) -> None:
        self._context = context
        self._pump = pump
        self._fragments = fragments
        self._moved: dict[PumpConversation, tuple[int, float]] = {}
        """For every conversation: (datagrams in both directions, when that number last changed)."""
        self._next_fragment = context.random(4)

    def __len__(self) -> int:
        return len(self._moved)

    def __contains__(self, conversation: object) -> bool:
        return conversation in self._moved

    def put(self, now: float, conversation: PumpConversation) -> None:
        """``conversation`` begins."""
        self._pump.put_conversation(conversation)
        self._moved[conversation] = (0, now)
        self._context.deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)

    def end(self, conversation: PumpConversation) -> None:
        """``conversation`` ends.  Does nothing if it has ended already."""
        self._moved.pop(conversation, None)
        self._pump.drop_conversation(conversation)

    def sweep(self, now: float) -> tuple[list[FlowGroup], list[PumpConversation]]:
        """(groups with traffic since the last sweep, conversations without any for ``duration``)."""
        active: dict[FlowGroup, None] = {}
        over: list[PumpConversation] = []
        for conversation, (count, since) in list(self._moved.items()):
            moved = conversation.sent_datagrams + conversation.received_datagrams
            if moved != count:
                self._moved[conversation] = (moved, now)
                active[conversation.group] = None
            elif now - since >= self._context.parameters.duration:
                over.append(conversation)
        return list(active), over

    # -- datagrams larger than a segment

    def send_large(self, now: float, conversation: PumpConversation, run: Run) -> None:
        """Send datagrams that do not fit a segment, as fragments if the wire has them."""
        group = conversation.group
        if not group.usable:
            return
        if not self._fragments:
            self._context.counters["datagrams too large"] += len(run.datagrams)
            return
        room = min(flow.max_payload for flow in group.usable) - group.usable[0].codec.overhead
        bursts: list[Outgoing] = []
        for datagram in run.datagrams:
            self._next_fragment += 1
            parts = split(datagram, room, self._next_fragment, conversation.target)
            if parts is None:
                self._context.counters["datagrams too large"] += 1
                continue
            self._send_fragments(conversation, datagram, list(parts), bursts)
        self._context.outbox.send(bursts)
        self._context.deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)

    def _send_fragments(
        self, conversation: PumpConversation, datagram: Buffer, parts: list[Buffer], bursts: list[Outgoing]
    ) -> None:
        """Count it as one datagram, and only if all of its fragments have left."""
        before = conversation.sent_datagrams, conversation.sent_bytes
        self._pump.send(conversation, Kind.FRAGMENT, b"", parts, len(parts[0]), bursts)
        all_left = conversation.sent_datagrams == before[0] + len(parts)
        conversation.sent_datagrams, conversation.sent_bytes = before
        if all_left:
            conversation.count_sent([datagram], 1, len(datagram))

    def receive_fragment(self, now: float, session: Session, number: int, body: Buffer) -> Frames | None:
        """Take a fragment of conversation ``number``, and deliver the datagram that it completes.

        If that conversation is not open, the datagram is returned as an opening frame instead.
        """
        try:
            fragment = parse_fragment(body)
        except Malformed:
            self._context.counters["malformed fragments"] += 1
            return None
        datagram = session.reassembly.receive(now, number, fragment)
        self._context.deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)
        if datagram is None:
            return None
        known = session.group.conversations.get(number)
        if known is None:
            opening = fragment.target.to_bytes(2, "big") + datagram
            return Frames(Kind.OPENING, number, -1, [opening], len(opening), 0)
        self.deliver(known, [datagram], len(datagram))
        return None

    def deliver(self, conversation: PumpConversation, datagrams: list[Buffer], size: int) -> None:
        """Deliver datagrams that did not come through the pump.  Sizes as in ``Run``."""
        conversation.received_datagrams += len(datagrams)
        conversation.received_bytes += sum(map(len, datagrams))
        self._context.outbox.deliver([Run(conversation.peer, datagrams, size)])

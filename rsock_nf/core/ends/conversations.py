"""The conversations of an endpoint in either role: which exist, which end, and large datagrams.

A datagram that does not fit a segment is cut into fragments here, and joined here.  The fast path (``pump``) has
the same conversations, and moves their ordinary datagrams.
"""

from __future__ import annotations

from rsock_nf.core.ends.silence import Most, Silence
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
        self._silence: dict[FlowGroup, Silence] = {}
        """Of the groups that have conversations."""
        self._most = Most()
        self._count = 0
        self._next_fragment = context.random(4)

    def __len__(self) -> int:
        return self._count

    def use_duration(self, duration: float) -> None:
        """The seconds for which a conversation may be silent have changed."""
        for silence in self._silence.values():
            silence.use_duration(duration)

    def put(self, now: float, conversation: PumpConversation) -> None:
        """``conversation`` begins."""
        self._pump.put_conversation(conversation)
        silence = self._silence.get(conversation.group)
        if silence is None:
            silence = self._silence[conversation.group] = Silence(self._context.parameters.duration)
        silence.put(now, conversation)
        self._most.add(conversation.group, 1)
        self._count += 1
        self._context.deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)

    def end(self, conversation: PumpConversation) -> None:
        """``conversation`` ends.  Does nothing if it has ended already."""
        silence = self._silence.get(conversation.group)
        if silence is not None and silence.remove(conversation):
            self._count -= 1
            conversation.group.ended.add(conversation)
            self._most.add(conversation.group, -1)
            if not len(silence):
                del self._silence[conversation.group]
        self._pump.drop_conversation(conversation)

    def to_go(self, now: float, group: FlowGroup) -> PumpConversation:
        """The conversation that makes room for another one of ``group``.  There must be one."""
        return self._silence[self._most.gives_way(group)].to_go(now)

    def to_go_of(self, now: float, group: FlowGroup) -> PumpConversation:
        """The conversation of ``group`` that makes room for another one.  There must be one."""
        return self._silence[group].to_go(now)

    def sweep(self, now: float) -> tuple[list[FlowGroup], list[PumpConversation]]:
        """(groups with traffic since the last sweep, conversations that have been silent for too long)."""
        groups: list[FlowGroup] = []
        ended: list[PumpConversation] = []
        for group, silence in self._silence.items():
            active, over = silence.look(now)
            ended += over
            if active:
                groups.append(group)
        return groups, ended

    # -- datagrams larger than a segment

    def send_large(self, now: float, conversation: PumpConversation, run: Run) -> None:
        """Send datagrams that do not fit a segment, as fragments if the wire has them."""
        group = conversation.group
        if not group.usable:
            return
        room = min(flow.max_payload for flow in group.usable) - group.usable[0].codec.overhead
        self._count_oversized(group, run, room)
        if not self._fragments:
            self._context.counters["datagrams too large"] += len(run.datagrams)
            return
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

    @staticmethod
    def _count_oversized(group: FlowGroup, run: Run, room: int) -> None:
        """Only an opening frame was too small for the others: once the conversation is open they fit."""
        sizes = [len(datagram) for datagram in run.datagrams if len(datagram) > room]
        if sizes:
            group.oversized += len(sizes)
            group.largest_oversized = max(group.largest_oversized, *sizes)

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

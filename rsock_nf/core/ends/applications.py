"""The client's conversations: one for each sending application; datagrams that wait; what the server refuses.

Not here: the numbers of conversations (``numbers``), their expiry and their fragments (``conversations``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

from rsock_nf.core import messages
from rsock_nf.core.ends.numbers import SPACE, Numbers
from rsock_nf.core.ends.parts import Parts
from rsock_nf.core.ends.waiting import Waiting
from rsock_nf.core.events import OwnRefused
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.protocols import Limits
from rsock_nf.core.pump.state import FlowGroup, PumpConversation
from rsock_nf.core.types import Outgoing, OwnPeer, Run

_REFUSALS: dict[int, str] = {
    messages.RefusalReason.NO_TARGET: "it has no target {target} (counted from 0)",
    messages.RefusalReason.LIMIT: "it has as many as it allows (max_conversations)",
    messages.RefusalReason.SOCKET: "it could not open a socket toward its target",
}

MAX_CONVERSATIONS = SPACE // 2
"""The most conversations of a client.  So half of the numbers can rest after their conversations."""
REFUSAL_LASTS = 60.0
"""Seconds for which a refusal is told.  If the server still refuses, the next datagram of that local end shows it, and
soon after it the server tells of a target again."""


class Refusal(NamedTuple):
    """The server did not serve the last conversation of a local end."""

    text: str
    when: float


class Applications:
    """See the module.  ``limits``: the wire's.  ``expire``: ends a conversation, and tells the server."""

    def __init__(
        self,
        parameters: ClientParameters,
        parts: Parts,
        group: FlowGroup,
        limits: Limits,
        expire: Callable[[float, PumpConversation], None],
    ) -> None:
        self._parameters = parameters
        self._context = parts.context
        self._pump = parts.pump
        self._conversations = parts.conversations
        self._group = group
        self._has_opening_frames = limits.opening_bytes > 0
        self._expire = expire
        self._refusals: dict[int, Refusal] = {}
        """By local end."""
        self._refusing: dict[int, float] = {}
        """Targets at which nobody listens, as the server says, and when it last said so."""
        first = limits.first_conversation
        self.numbers = Numbers(parts.context.random(2) if first is None else first)
        self.waiting = Waiting()
        """Datagrams that wait for a flow, or for a flow's first credit."""

    def __len__(self) -> int:
        return len(self._conversations)

    # -- datagrams

    def send(self, now: float, runs: Iterable[Run]) -> bool:
        """Send what applications sent.  True = there is no flow, and datagrams wait for one."""
        bursts, slow = self._pump.from_app(runs)
        self._context.outbox.send(bursts)
        if not slow:
            return False
        waiting = [self._send_slow(now, run) for run in slow]
        return any(waiting)

    def _send_slow(self, now: float, run: Run) -> bool:
        """Send a run that the pump could not: a new peer, no usable flow, no credit, or large datagrams."""
        conversation = self._pump.conversation(run.peer) or self._open(now, run.peer)
        if conversation is None:
            self._context.counters["no conversation number free"] += len(run.datagrams)
            return False
        if not self._group.usable:
            self.waiting.put(now, run)
            return True
        self._send_whole(now, conversation, run)
        return False

    def _send_whole(self, now: float, conversation: PumpConversation, run: Run) -> None:
        """Send datagrams that fit one frame of every usable flow.

        Those that wait for credit are kept.  The rest goes as fragments.
        """
        usable = self._group.usable
        room = min(flow.max_payload for flow in usable) - usable[0].codec.overhead - len(conversation.prefix)
        done = 0
        if run.size <= room:
            bursts: list[Outgoing] = []
            kind, prefix = conversation.kind, conversation.prefix
            done = self._pump.send(conversation, kind, prefix, run.datagrams, run.size, bursts)
            self._context.outbox.send(bursts)
        if done == len(run.datagrams):
            return
        rest = Run(run.peer, run.datagrams[done:], run.size)
        if self._group.patient and run.size <= room:
            self.waiting.put(now, rest)
        else:
            self._conversations.send_large(now, conversation, rest)

    # -- conversations

    def of(self, peer: Hashable) -> PumpConversation | None:
        """The conversation of ``peer``; None = it has none."""
        return self._pump.conversation(peer)

    def _open(self, now: float, peer: Hashable) -> PumpConversation | None:
        """Open a new conversation for ``peer``.  None = no number is free.

        If the wire has opening frames, the first datagrams travel in them.
        """
        if len(self) >= MAX_CONVERSATIONS:
            self._expire(now, self._conversations.to_go(now, self._group))
        number = self.numbers.take(now)
        if number is None:
            return None
        target = peer.target if isinstance(peer, OwnPeer) else self._parameters.targets[local_end(peer)]
        opening = self._has_opening_frames
        conversation = self._pump.states.conversation(self._group, number, peer, target=target, opening=opening)
        self._conversations.put(now, conversation)
        return conversation

    def forget(self, now: float, conversation: PumpConversation) -> None:
        """The conversation has ended here.  Its number is not used again for some time."""
        self.numbers.give_back(now, conversation.number)
        self._conversations.end(conversation)

    # -- what the server says

    def opened(self, number: int) -> None:
        """The server has opened the conversation."""
        conversation = self._group.conversations.get(number)
        if conversation is not None:
            conversation.opened()
            if not isinstance(conversation.peer, OwnPeer):
                self._refusals.pop(local_end(conversation.peer), None)

    def refused(self, now: float, number: int, code: int) -> None:
        """The server does not serve the conversation."""
        conversation = self._group.conversations.get(number)
        if conversation is None:  # we know already
            return
        if isinstance(conversation.peer, OwnPeer):
            self._context.outbox.tell(OwnRefused(conversation.peer))
        else:
            self._refusals[local_end(conversation.peer)] = Refusal(self._why_refused(conversation, code), now)
        self.forget(now, conversation)

    def _why_refused(self, conversation: PumpConversation, code: int) -> str:
        reason = _REFUSALS.get(code, f"reason {code}").format(target=conversation.target)
        end, names = local_end(conversation.peer), self._parameters.local_ends
        whose = f" of {names[end]}" if end < len(names) else ""
        return f"the server refuses the conversations{whose}: {reason}"

    def target_state(self, now: float, target: int, *, refuses: bool) -> bool:
        """The server says whether nobody listens at a target.  True = it refused, as we know, and answers again."""
        if refuses and target in self._parameters.targets:
            self._refusing[target] = now
        return not refuses and self._refusing.pop(target, None) is not None

    @property
    def refusal(self) -> str:
        """What the server or a target refuses now, as text for people; empty = nothing."""
        several = len(set(self._parameters.targets)) > 1
        which = [f"target {target} (counted from 0)" if several else "target" for target in sorted(self._refusing)]
        of_targets = [f"the server's {target} refuses: nobody listens there" for target in which]
        return "; ".join([*(refusal.text for refusal in self._refusals.values()), *of_targets])

    def forget_old_refusals(self, now: float) -> bool:
        """Nobody has asked again: perhaps the server would not refuse now.  Returns whether one was forgotten."""
        old = [end for end, refusal in self._refusals.items() if now - refusal.when >= REFUSAL_LASTS]
        for end in old:
            del self._refusals[end]
        silent = [target for target, when in self._refusing.items() if now - when >= REFUSAL_LASTS]
        for target in silent:
            del self._refusing[target]
        return bool(old or silent)

    def forget_refusals(self) -> None:
        """The session ended: the next server may not refuse."""
        self._refusals.clear()
        self._refusing.clear()


def local_end(peer: Hashable) -> int:
    """The index of the local end of ``peer``: a driver with several local ends puts it first in ``peer``."""
    return peer[0] if isinstance(peer, tuple) and peer and isinstance(peer[0], int) else 0

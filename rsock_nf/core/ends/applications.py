"""The client's conversations: one for each application that sends, what waits for a flow, what the server refuses."""

from __future__ import annotations

from collections.abc import Hashable

from rsock_nf.core import messages
from rsock_nf.core.ends.conversations import Conversations
from rsock_nf.core.ends.numbers import Numbers
from rsock_nf.core.ends.waiting import Waiting
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.pump.state import FlowGroup, PumpConversation

_REFUSALS: dict[int, str] = {
    messages.RefusalReason.NO_TARGET: "it has no target {target} (counted from 0)",
    messages.RefusalReason.LIMIT: "it has as many as it allows (max_conversations)",
    messages.RefusalReason.SOCKET: "it could not open a socket toward its target",
}


class Applications:
    """See the module.  ``first``: the number of the first conversation."""

    def __init__(
        self, parameters: ClientParameters, conversations: Conversations, group: FlowGroup, first: int
    ) -> None:
        self._parameters = parameters
        self._conversations = conversations
        self._group = group
        self._refusals: dict[int, str] = {}
        """Why the server refused the last conversation, for each local end where it did."""
        self.numbers = Numbers(first, 2 * parameters.duration)
        self.waiting = Waiting()
        """Datagrams that wait for a flow, or for its first credit."""

    def __len__(self) -> int:
        return len(self._conversations)

    def open(self, now: float, peer: Hashable, *, opening: bool) -> PumpConversation | None:
        """A new conversation for ``peer``; None = no number is free.

        ``opening``: the wire has opening frames, and the first datagrams travel in them.
        """
        number = self.numbers.take(now)
        if number is None:
            return None
        target = self._parameters.targets[local_end(peer)]
        conversation = PumpConversation(self._group, number, peer, target=target, opening=opening)
        self._conversations.put(now, conversation)
        return conversation

    def forget(self, now: float, conversation: PumpConversation) -> None:
        """It ended here; its number rests."""
        self.numbers.give_back(now, conversation.number)
        self._conversations.end(conversation)

    # -- the server's word

    def opened(self, number: int) -> None:
        """The server has the conversation."""
        conversation = self._group.conversations.get(number)
        if conversation is not None:
            conversation.opened()
            self._refusals.pop(local_end(conversation.peer), None)

    def refused(self, now: float, number: int, code: int) -> None:
        """The server does not serve the conversation."""
        conversation = self._group.conversations.get(number)
        if conversation is not None:  # else it is known
            self._refusals[local_end(conversation.peer)] = self._why_refused(conversation, code)
            self.forget(now, conversation)

    def _why_refused(self, conversation: PumpConversation, code: int) -> str:
        reason = _REFUSALS.get(code, f"reason {code}").format(target=conversation.target)
        end, names = local_end(conversation.peer), self._parameters.local_ends
        whose = f" of {names[end]}" if end < len(names) else ""
        return f"the server refuses the conversations{whose}: {reason}"

    @property
    def refusal(self) -> str:
        """What is refused now, for people; empty = nothing."""
        return "; ".join(self._refusals.values())

    def forget_refusals(self) -> None:
        """The session ended: the next server may think otherwise."""
        self._refusals.clear()


def local_end(peer: Hashable) -> int:
    """Which local socket: a driver with several says so in ``peer``'s first item."""
    return peer[0] if isinstance(peer, tuple) and peer and isinstance(peer[0], int) else 0

"""The client, whatever the wire: gives the application's datagrams to conversations, wants flows, and sleeps.

``start`` has flows dialled (``dialling``); the first that is up finds the datagrams that waited.  No conversation for
``idle_timeout`` → every flow closes, and the next datagram starts over.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable

from rsock_nf.core import messages
from rsock_nf.core.ends.dialling import Dialling
from rsock_nf.core.ends.numbering import Numbering
from rsock_nf.core.ends.waiting import Waiting
from rsock_nf.core.events import SessionDown, SessionUp
from rsock_nf.core.flows.flow import Action, Flow, Input, State
from rsock_nf.core.flows.session import Session
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.protocols import Frames, Kind, Rng
from rsock_nf.core.pump.state import OUR_WINDOW, PumpConversation
from rsock_nf.core.tcp.segment import ACK
from rsock_nf.core.types import Outgoing, Run


class Client(Dialling):
    """See the module."""

    def __init__(self, parameters: ClientParameters, rng: Rng, *, mtu: int, max_burst_bytes: int) -> None:
        super().__init__(parameters, rng, mtu=mtu, max_burst_bytes=max_burst_bytes)
        self._config = parameters
        self._refusal = ""
        """Why the server refuses conversations, if it does: further flows do not make that good."""
        self._refusals: dict[int, str] = {}
        """The same for each local socket whose last conversation was refused."""
        self._waiting = Waiting()
        self._numbers = Numbering(self._random16(), 2 * parameters.duration)
        self._unused_since = 0.0

    # -- the driver's verbs

    def start(self, now: float) -> None:
        """Dial; also wakes an idle client."""
        if self._active:
            return
        self._active = True
        self._unused_since = now
        if not self.group.usable:
            self.reason = self._nothing_heard
        for slot in self._dialer.slots:
            self._deadlines.set(Timer.DIAL, slot, now + slot.stagger)
        self._deadlines.set_if_unset(Timer.SWEEP, None, now + 1.0)

    def stop(self, now: float) -> None:
        """The process ends: tell the server, close every flow.  Send what ``poll`` gives, then go."""
        if self.session:
            for _ in range(2):  # a lost one costs the server only time
                self._tell(self.session, messages.CloseSession())
        self._close_flows(now, "this side ends")

    def reconnect(self, now: float) -> None:
        """Give up every flow and dial anew: same session, same conversations."""
        self._sleep(now, "all are dialled anew")
        self._dialer.reset()
        self.start(now)

    @property
    def idle(self) -> bool:
        """Nothing to carry: flows are closed on purpose."""
        return not self._active

    @abstractmethod
    def _session_begins(self) -> None:
        """Conversations may be older than the session."""

    def _act(self, now: float, flow: Flow, action: Action, reason: str) -> None:
        match action:
            case Action.WAIT_TURN:
                self._deadlines.cancel(Timer.RETRANSMIT, flow)
                self._outbox.send([flow.segment(b"", window=OUR_WINDOW, flags=ACK)])
                self._turns(now)
            case Action.OPEN:
                self._open(now, flow)
            case _:
                super()._act(now, flow, action, reason)

    def _open(self, now: float, flow: Flow) -> None:
        """The server is ready on this flow: it carries traffic."""
        session = flow.session
        if session is None or (self.session is not None and self.session is not session):
            self._step(now, flow, Input.CLOSE)  # a second hello came through as well
            slot = self._dialer.slots[flow.slot]
            slot.dialled = None
            self._redial(now, slot, 0.0)
            return
        self._deadlines.cancel(Timer.RETRANSMIT, flow)
        self.reason = self._refusal
        self._refused_until = 0.0
        if self.session is None:
            self.session = session
            self._session_begins()
            self._outbox.tell(SessionUp(session.session_id, self._dialer.remote_text))
        self._establish(now, flow)
        slot = self._dialer.slots[flow.slot]
        previous, slot.flow, slot.dialled = slot.flow, flow, None
        if previous is not None:
            self._step(now, previous, Input.CLOSE, "another has taken its place")
        for other in self._dialer.revived(slot):
            if other.resting:
                self._hasten(Timer.DIAL, other, now + other.stagger)
            elif other.dialled is not None and other.dialled.state in (State.SYN_SENT, State.JOIN_SENT):
                self._hasten(Timer.RETRANSMIT, other.dialled, now + other.stagger)
        self._turns(now)
        for run in self._waiting.take(now):
            self.receive_datagrams(now, [run])
        self._tell_given_up(flow)

    def _tell_given_up(self, flow: Flow) -> None:
        """A first flow after silence: what was given up meanwhile, the server may still answer on.

        Where a flow is called by its ports (wire rsock), a new one may have the name of one that was given up.
        """
        while self._given_up and flow.pump and flow.session and self._knows(flow.pump):
            flow_id = self._given_up.popleft()
            if flow_id not in flow.session.flows:
                self._outbox.send([self.pump.send_control(flow.pump, messages.FlowDown(flow_id))])

    def _control(self, now: float, flow: Flow, session: Session, message: messages.Control, received: int) -> None:
        match message:
            case messages.Ready():
                pass
            case messages.FlowDown(flow_id=flow_id) if flow_id == flow.flow_id and self.group.usable == [flow.pump]:
                self._turned_sick(now, flow)  # it still carries what it carries, until there is another
            case messages.Opened(conversation=number):
                conversation = self.group.conversations.get(number)
                if conversation is not None:
                    conversation.opened()
                    self._refusals.pop(_local_end(conversation.peer), None)
                    self._tell_refusals()
            case messages.Refused(conversation=number, reason=code):
                self.counters["conversations refused"] += 1
                conversation = self.group.conversations.get(number)
                if conversation is not None:  # else it is known
                    self._refusals[_local_end(conversation.peer)] = self._why_refused(conversation, code)
                    self._tell_refusals()
                    self._forget_conversation(now, conversation)
            case messages.CloseConversation(conversation=number):
                conversation = self.group.conversations.get(number)
                if conversation is not None:
                    self._forget_conversation(now, conversation)
            case _:
                super()._control(now, flow, session, message, received)

    def _why_refused(self, conversation: PumpConversation, code: int) -> str:
        reason = _REFUSALS.get(code, f"reason {code}").format(target=conversation.target)
        end = _local_end(conversation.peer)
        whose = f" of {self._config.local_ends[end]}" if end < len(self._config.local_ends) else ""
        return f"the server refuses the conversations{whose}: {reason}"

    def _tell_refusals(self) -> None:
        told, self._refusal = self._refusal, "; ".join(self._refusals.values())
        if self._refusal or self.reason == told:
            self.reason = self._refusal

    # -- the way down

    def _session_closed(self, now: float, session: Session) -> None:
        """The server said goodbye."""
        if session is self.session:
            self._lose_session(now, "the server ended the session", Input.CLOSE)

    def _lose_session(self, now: float, reason: str, event: Input = Input.DEAD) -> None:
        """Conversations stay; flows of the session are worthless: ``event`` is what becomes of them."""
        session, self.session = self.session, None
        if session is None:
            return
        self.reason, self._refusal = reason, ""
        self._refusals.clear()
        self._given_up.clear()
        self._outbox.tell(SessionDown(session.session_id, reason))
        carrying = (State.CONFIRMING, State.ESTABLISHED, State.DEMOTED)
        for flow in [flow for flow in self._flows.values() if flow.session is session and flow.state in carrying]:
            self._step(now, flow, event, reason)
        for flow in [flow for flow in self._flows.values() if flow.state is State.JOIN_SENT]:
            self._step(now, flow, Input.TURNED_AWAY, reason)
        if self._active:
            self._dialer.reset()
            for slot in self._dialer.slots:
                self._hasten(Timer.DIAL, slot, now + slot.stagger)

    def _close_flows(self, now: float, reason: str) -> None:
        self._active = False
        for flow in list(self._flows.values()):
            self._step(now, flow, Input.CLOSE, reason)

    def _sleep(self, now: float, reason: str) -> None:
        """No flows until the next datagram."""
        self._close_flows(now, reason)
        for slot in self._dialer.slots:
            slot.port_wanted = False
            self._deadlines.cancel(Timer.DIAL, slot)

    # -- conversations

    def _slow_run(self, now: float, run: Run) -> None:
        """A new peer, no flow to carry it, or a datagram larger than a segment."""
        conversation = self.pump.conversation(run.peer)
        if conversation is None:
            conversation = self._new_conversation(now, run)
            if conversation is None:
                self.counters["no conversation number free"] += len(run.datagrams)
                return
        if not self.group.usable:
            self._waiting.put(now, run)
            self.start(now)
            urgent = self._dialer.urgent(now)
            if urgent is not None:
                self._hasten(Timer.DIAL, urgent, now)
            return
        done = 0
        if run.size <= self._room(conversation):
            kind, prefix = conversation.kind, conversation.prefix
            bursts: list[Outgoing] = []
            done = self.pump.send(conversation, kind, prefix, run.datagrams, run.size, bursts)
            self._outbox.send(bursts)
        if done < len(run.datagrams):
            self._send_large(now, conversation, Run(run.peer, run.datagrams[done:], run.size))

    def _room(self, conversation: PumpConversation) -> int:
        """The largest datagram that fits one frame on every usable flow."""
        usable = self.group.usable
        return min(flow.max_payload for flow in usable) - usable[0].codec.overhead - len(conversation.prefix)

    def _new_conversation(self, now: float, run: Run) -> PumpConversation | None:
        number = self._numbers.take(now)
        if number is None:
            return None
        target = self._target(run.peer)
        conversation = PumpConversation(self.group, number, run.peer, target=target, opening=True)
        self._put_conversation(now, conversation)
        return conversation

    def _target(self, peer: Hashable) -> int:
        """Which of the server's targets."""
        return self._config.targets[_local_end(peer)]

    def _expire_conversation(self, now: float, conversation: PumpConversation) -> None:
        if self.session:
            self._tell(self.session, messages.CloseConversation(conversation.number))
        self._forget_conversation(now, conversation)

    def _forget_conversation(self, now: float, conversation: PumpConversation) -> None:
        self._numbers.give_back(now, conversation.number)
        self._end_conversation(conversation)

    def _unknown_data(self, now: float, session: Session, frames: Frames) -> None:  # noqa: ARG002 - as the base has it
        """The server still sends on a conversation that ended here."""
        self.counters["data for no conversation"] += len(frames.datagrams)
        if frames.kind == Kind.DATA and self._numbers.has_ended(frames.conversation):
            self._tell(session, messages.CloseConversation(frames.conversation))

    # -- the rest

    def _sweep(self, now: float) -> None:
        super()._sweep(now)
        if self.session:
            self.session.reassembly.expire(now)
        self._waiting.expire(now)
        if self._moved:
            self._unused_since = now
        elif self._active and 0 < self._config.idle_timeout <= now - self._unused_since:
            self._sleep(now, "nothing is left to carry")
        if self._active:
            self._pass_over(now)
            self._deadlines.set_if_unset(Timer.SWEEP, None, now + 1.0)


def _local_end(peer: Hashable) -> int:
    """Which local socket: a driver with several says so in ``peer``'s first item."""
    return peer[0] if isinstance(peer, tuple) and peer and isinstance(peer[0], int) else 0


_REFUSALS: dict[int, str] = {
    messages.RefusalReason.NO_TARGET: "it has no target {target} (counted from 0)",
    messages.RefusalReason.LIMIT: "it has as many as it allows (max_conversations)",
    messages.RefusalReason.SOCKET: "it could not open a socket toward its target",
}

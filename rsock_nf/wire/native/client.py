"""The client of the native wire: who may have a session, flow by flow.

Of the flows that look established (``TCP_UP``) one says hello, the others wait; once there is a session they join it.
An answer carries a challenge, its confirmation opens the flow: hello or join → answer → confirmation → ready.
"""

from __future__ import annotations

from rsock_nf.core import messages
from rsock_nf.core.ends.client import Client
from rsock_nf.core.ends.dialling import MESSAGE_RETRY
from rsock_nf.core.flows.flow import Action, Flow, Input, State
from rsock_nf.core.flows.session import Session
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.protocols import Gone, Handshake, Offer, Rng, Status
from rsock_nf.core.pump.state import OUR_WINDOW
from rsock_nf.core.tcp.segment import Segment
from rsock_nf.core.types import Malformed

_MASK = 0xFFFFFFFF


class NativeClient(Client):
    """See the module."""

    def __init__(
        self, parameters: ClientParameters, handshake: Handshake, rng: Rng, *, mtu: int, max_burst_bytes: int
    ) -> None:
        super().__init__(parameters, rng, mtu=mtu, max_burst_bytes=max_burst_bytes)
        self._handshake = handshake
        self._answered_joins = True
        """Joins do not go unanswered; two in a row that do mean that the session is lost."""

    def _retransmit(self, now: float, flow: Flow) -> None:
        if flow.state is State.HELLO_SENT and flow.tries > 1:  # one may be lost, or its answer
            self._note_silence(now, flow)
        super()._retransmit(now, flow)
        if flow.state is State.HELLO_SENT:
            self._turns(now, another_hello=True)

    def _note_silence(self, now: float, flow: Flow) -> None:
        """Hellos are not answered.  Of a UDP port that is all there is to say: a SYN-ACK, or a refusal, says more."""
        if self.group.usable or (flow.key.udp and (self._open_ports() or self._lately_refused(now))):
            return
        same = "are secret, wire and version of rsock-nf the same on both sides?"
        if flow.key.udp:
            where = f"{self._dialer.remote_text} UDP port {flow.key.remote_port}"
            self.reason = f"{where} leaves our hellos unanswered: is UDP open on the way, and {same}"
        else:
            self.reason = f"{self._open_port(flow)}, but leaves our hellos unanswered: {same}"

    def _open_port(self, flow: Flow) -> str:
        return f"{self._dialer.remote_text} port {flow.key.remote_port} is open"

    def _unanswered(self, now: float, flow: Flow) -> None:
        if flow.key.udp:
            pass  # a path that is down looks the same; a server that has lost the session says so
        elif flow.state in (State.JOIN_SENT, State.CONFIRMING) and self.session and not self.group.usable:
            if not self._answered_joins:
                self._lose_session(now, "joins are not answered")
            self._answered_joins = False
        super()._unanswered(now, flow)

    def _opening(self, now: float, flow: Flow, segment: Segment) -> None:
        if segment.payload and flow.state in (State.HELLO_SENT, State.JOIN_SENT) and segment.seq == flow.received:
            self._answer(now, flow, segment)

    def _session_begins(self) -> None:
        """A new server knows none of our conversations."""
        for conversation in self.group.conversations.values():
            conversation.reopen()

    def _turns(self, now: float, *, another_hello: bool = False) -> None:
        """Flows that wait: they join when there is a session, else one of them says hello."""
        waiting = [flow for flow in self._flows.values() if flow.state is State.TCP_UP]
        if self.session:
            for flow in waiting:
                self._step(now, flow, Input.SAY_JOIN)
            return
        asking = [flow.key.udp for flow in self._flows.values() if flow.state in (State.HELLO_SENT, State.CONFIRMING)]
        if waiting and (another_hello or not asking):
            # Of the kind that asks less, if there are both: the path may block the other.
            self._step(now, min(waiting, key=lambda flow: asking.count(flow.key.udp)), Input.SAY_HELLO)

    def _answer(self, now: float, flow: Flow, segment: Segment) -> None:
        """To a hello or a join; what is not the answer is ignored, as if it had not come."""
        payload = segment.payload
        try:
            if flow.state is State.JOIN_SENT:
                if self.session is None:
                    return
                join = bytes(flow.repeat.payload[0]) if flow.repeat else b""
                challenge = self._handshake.read_join_answer(self.session.keys, flow.flow_id, join, payload)
                if isinstance(challenge, Gone):
                    self._turned_away(now, flow, "the server was restarted")
                    return
                session = self.session
            else:
                answer, keys = self._handshake.read_answer(flow.pending, payload)
                if answer.status is not Status.WELCOME:
                    self._turned_away(now, flow, _refusal(answer.status, answer.cipher.value))
                    return
                session = Session(answer.session_id, keys, self._config.cipher, self.group, now)
                challenge = answer.challenge
        except Malformed:
            self.counters["answers that are none"] += 1
            return
        flow.window = segment.window << (flow.scale or 0)
        flow.received = (segment.seq + len(payload)) & _MASK
        flow.session = session
        flow.pending = challenge
        flow.repeat_answered(now)
        self._dialer.answered()
        self._dialer.slots[flow.slot].unanswered = False
        self._step(now, flow, Input.ANSWER)

    def _turned_away(self, now: float, flow: Flow, reason: str) -> None:
        self.reason = reason
        if flow.state is State.JOIN_SENT:
            self._lose_session(now, reason)  # which turns away every flow that was joining
        else:
            self._step(now, flow, Input.TURNED_AWAY, reason)

    def _act(self, now: float, flow: Flow, action: Action, reason: str) -> None:
        match action:
            case Action.HELLO:
                message, flow.pending = self._handshake.hello(self._offer(flow), self._rng)
                self._repeat(now, flow, flow.segment(message, window=OUR_WINDOW), MESSAGE_RETRY)
                if not flow.key.udp and self.reason == self._nothing_heard:
                    self.reason = f"{self._open_port(flow)}, no answer to our hello yet"
            case Action.JOIN if self.session:
                message = self._handshake.join(
                    self.session.keys, self.session.session_id, flow.flow_id, self._offer(flow), self._rng
                )
                self._repeat(now, flow, flow.segment(message, window=OUR_WINDOW), MESSAGE_RETRY)
            case Action.CONFIRM if flow.session and isinstance(flow.pending, bytes):
                keys = flow.session.keys
                message = self._handshake.confirm(keys, flow.session.session_id, flow.flow_id, flow.pending)
                self._repeat(now, flow, flow.segment(message, window=OUR_WINDOW), MESSAGE_RETRY)
                self._pump_flow(flow, flow.session)
            case _:
                super()._act(now, flow, action, reason)

    def _offer(self, flow: Flow) -> Offer:
        return Offer(self._config.cipher, flow.mss, flow.scale)

    def _open(self, now: float, flow: Flow) -> None:
        self._answered_joins = True
        super()._open(now, flow)

    def _control(self, now: float, flow: Flow, session: Session, message: messages.Control, received: int) -> None:
        if flow.state is State.CONFIRMING:
            self._step(now, flow, Input.READY)  # whatever it says, the server has the flow; its Ready may be lost
        super()._control(now, flow, session, message, received)


def _refusal(status: Status, cipher: str) -> str:
    if status is Status.CIPHER:
        return f'the server uses cipher {cipher}: set "cipher": "{cipher}" on this side too'
    return "the server has as many sessions as it allows (max_sessions)"

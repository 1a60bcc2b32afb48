"""The client: dials flows, opens sessions, gives the application's datagrams to conversations.

The way up: ``start`` → a port for each slot (``PortWanted``) → SYN → SYN-ACK → the first flow
says hello, the others wait and then join → confirmation → traffic.  The way down: no
conversation for ``idle_timeout`` → every flow closes, and the next datagram starts over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from rsock_nf.core import messages
from rsock_nf.core.dialer import Dialer, Slot
from rsock_nf.core.events import PortReleased, PortWanted, SessionDown, SessionUp
from rsock_nf.core.flow import Action, Flow, Input, State
from rsock_nf.core.node import Node
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.protocols import Frames, Gone, Handshake, Kind, Offer, Rng, Status
from rsock_nf.core.pump import OUR_SCALE, OUR_WINDOW, FlowGroup, PumpConversation, SlowPayload
from rsock_nf.core.segment import ACK, DEFAULT_MSS, RST, SYN, FlowKey, Segment, build_syn, parse_syn_options
from rsock_nf.core.session import Session
from rsock_nf.core.timers import Timer
from rsock_nf.core.types import Malformed, Outgoing, Packet, Run
from rsock_nf.core.waiting import Waiting

_MASK = 0xFFFFFFFF
SYN_RETRY = 0.5
"""Seconds until the first retransmission; doubled each time."""
SYN_TRIES = 4
MESSAGE_RETRY = 0.4
MESSAGE_TRIES = 4


class Client(Node):
    """See the module.  Where it dials: ``parameters.server`` (the addresses, in that order) and ``parameters.ports``."""

    initiator = True

    def __init__(
        self, parameters: ClientParameters, handshake: Handshake, rng: Rng, *, mtu: int, max_burst_bytes: int
    ) -> None:
        super().__init__(parameters, handshake, rng, mtu=mtu, max_burst_bytes=max_burst_bytes)
        self._config = parameters
        self.session: Session | None = None
        self.group = FlowGroup(self)
        """One group for the life of the process: conversations outlive sessions."""
        self.reason = "not started"
        """Why there is no session, for ``status`` and ``up``."""
        self._dialer = Dialer(parameters, rng)
        self._waiting = Waiting()
        self._next_flow = 0
        self._next_conversation = int.from_bytes(rng(2), "big")
        self._unused_numbers = 0x10000
        """Conversation numbers, from ``_next_conversation`` on, that no conversation has had yet."""
        self._ended: OrderedDict[int, float] = OrderedDict()
        """Conversation number → when it ended, the first to end first."""
        self._active = False
        """Flows are wanted."""
        self._unused_since = 0.0
        self._answered_joins = True
        """Joins do not go unanswered; two in a row that do mean that the session is lost."""

    # -- the driver's verbs

    def start(self, now: float) -> None:
        """Dial; also wakes an idle client."""
        if self._active:
            return
        self._active = True
        self._unused_since = now
        if not self.group.usable:
            self.reason = f"dialling {self._dialer.remote_text}, no answer yet"
        for slot in self._dialer.slots:
            self._deadlines.set(Timer.DIAL, slot, now + slot.stagger)
        self._deadlines.set_if_unset(Timer.SWEEP, None, now + 1.0)

    def stop(self, now: float) -> None:
        """The process ends: tell the server, close every flow.  Send what ``poll_transmit`` gives, then go."""
        if self.session:
            for _ in range(2):  # a lost one costs the server only time
                self._tell(self.session, messages.CloseSession())
        self._close_flows(now, "this side ends")

    def reconnect(self, now: float) -> None:
        """Give up every flow and dial anew: same session, same conversations."""
        self._sleep(now, "all are dialled anew")
        self._dialer.reset()
        self.start(now)

    def receive_port(self, now: float, request: int, local: bytes, port: int) -> None:
        """The port that ``PortWanted`` asked for is held, and the firewall knows: the SYN may leave."""
        slot = self._dialer.slots[request]
        if not self._active or slot.dialled is not None or not slot.port_wanted:
            self._events.append(PortReleased(port))
            return
        slot.port_wanted = False
        if slot.remote != self._dialer.remote:  # another address has got its turn meanwhile
            self._events.append(PortReleased(port))
            self._dial(slot)
            return
        key = FlowKey(local, port, slot.remote, slot.port)
        flow = Flow(self._number(), key, state=State.SYN_SENT, identification=self._random16(), slot=request)
        slot.dialled = flow
        self._flows[key] = flow
        isn = int.from_bytes(self._rng(4), "big")
        flow.next_seq = (isn + 1) & _MASK
        headers = build_syn(key, isn, self._link_payload(key), OUR_SCALE, flow.template.identification)
        flow.template.identification = (flow.template.identification + 1) & 0xFFFF
        self._dialer.sent(now)
        self._repeat(now, flow, Outgoing(headers, [], 0, 0), SYN_RETRY)

    def port_refused(self, now: float, request: int, reason: str) -> None:
        """No port can be held now: try again later."""
        slot = self._dialer.slots[request]
        slot.port_wanted = False
        self.reason = reason
        self._deadlines.set(Timer.DIAL, slot, now + self._dialer.failed(slot))

    @property
    def remote_text(self) -> str:
        """The server's address in use."""
        return self._dialer.remote_text

    @property
    def idle(self) -> bool:
        """Nothing to carry: flows are closed on purpose."""
        return not self._active

    # -- dialling

    def _number(self) -> int:
        self._next_flow += 1
        return self._next_flow

    def _random16(self) -> int:
        return int.from_bytes(self._rng(2), "big")

    def _dial(self, slot: Slot) -> None:
        if self._active and slot.dialled is None and not slot.port_wanted:
            slot.port_wanted = True
            slot.remote = self._dialer.remote
            self._events.append(PortWanted(slot.index, slot.remote))

    def _repeat(self, now: float, flow: Flow, segment: Outgoing, after: float) -> None:
        flow.repeat = segment
        flow.repeat_since = now
        flow.tries = 1
        self._out.append(segment)
        self._deadlines.set(Timer.RETRANSMIT, flow, now + after)

    def _retransmit(self, now: float, flow: Flow) -> None:
        if flow.state is State.CLOSING:
            super()._retransmit(now, flow)
            return
        syn = flow.state is State.SYN_SENT
        if flow.repeat is None or flow.tries >= (SYN_TRIES if syn else MESSAGE_TRIES):
            self._unanswered(now, flow)
            return
        self._out.append(flow.repeat)
        self._deadlines.set(Timer.RETRANSMIT, flow, now + (SYN_RETRY if syn else MESSAGE_RETRY) * 2**flow.tries)
        flow.tries += 1
        if flow.state is State.HELLO_SENT:
            self._turns(now, another_hello=True)

    def _unanswered(self, now: float, flow: Flow) -> None:
        """A SYN, hello, join or confirmation has been sent often enough."""
        if flow.state is State.SYN_SENT:
            self.reason = f"no answer from {self._dialer.remote_text} on port {flow.key.remote_port}"
        elif flow.state is State.HELLO_SENT:
            self.reason = (
                f"{self._dialer.remote_text} port {flow.key.remote_port} is open, but does not answer our hello: "
                "is the secret the same on both sides?"
            )
        elif flow.state in (State.JOIN_SENT, State.CONFIRMING) and self.session and not self.group.usable:
            if not self._answered_joins:
                self._lose_session(now, "joins are not answered")
            self._answered_joins = False
        self._step(now, flow, Input.UNANSWERED)

    def _pass_over(self, now: float) -> None:
        """No session, and not one SYN-ACK from the address in use: give the next one its turn."""
        reason = f"no answer from {self._dialer.remote_text}"
        if self.session is not None or not self._dialer.pass_over(now):
            return
        self.reason = reason
        for slot in self._dialer.slots:
            flow, slot.dialled = slot.dialled, None
            if flow is not None:
                self._step(now, flow, Input.UNANSWERED, reason)
            self._deadlines.set(Timer.DIAL, slot, now + slot.stagger)

    # -- the handshake

    def _handshaking(self, now: float, flow: Flow, segment: Segment) -> None:
        """A segment of a flow that the pump does not have yet."""
        if segment.flags & RST:
            # RFC 9293 section 3.10.7.3: in SYN-SENT only what acknowledges our SYN counts.
            exact = segment.ack == flow.next_seq if flow.state is State.SYN_SENT else segment.seq == flow.received
            if exact:
                self.reason = f"{self._dialer.remote_text} refuses port {flow.key.remote_port} (RST)"
                self._step(now, flow, Input.RESET)
        elif flow.state is State.SYN_SENT:
            if segment.flags & (SYN | ACK) == SYN | ACK and segment.ack == flow.next_seq:
                self._syn_ack(now, flow, segment)
        elif segment.flags & SYN:
            self._out.append(flow.segment(b"", window=OUR_WINDOW, flags=ACK))  # our ACK was lost
        elif segment.payload and flow.state in (State.HELLO_SENT, State.JOIN_SENT) and segment.seq == flow.received:
            self._answer(now, flow, segment)

    def _syn_ack(self, now: float, flow: Flow, segment: Segment) -> None:
        try:
            options = parse_syn_options(segment.options)
        except Malformed:
            self.counters["malformed SYN-ACKs"] += 1
            return
        flow.mss = min(options.mss or DEFAULT_MSS, self._link_payload(flow.key))
        flow.scale = None if options.window_scale is None else min(options.window_scale, 14)
        flow.window = segment.window
        flow.received = (segment.seq + 1) & _MASK
        flow.repeat_answered(now)
        self._dialer.answered()
        self._step(now, flow, Input.SYN_ACK)

    def _turns(self, now: float, *, another_hello: bool = False) -> None:
        """Flows that wait: they join when there is a session, else one of them says hello."""
        waiting = [flow for flow in self._flows.values() if flow.state is State.TCP_UP]
        for flow in waiting:
            if self.session:
                self._step(now, flow, Input.SAY_JOIN)
            elif another_hello or not any(
                other.state is State.HELLO_SENT or (other.state is State.CONFIRMING) for other in self._flows.values()
            ):
                self._step(now, flow, Input.SAY_HELLO)
                return

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
        self._step(now, flow, Input.ANSWER)

    def _turned_away(self, now: float, flow: Flow, reason: str) -> None:
        self.reason = reason
        if flow.state is State.JOIN_SENT:
            self._lose_session(now, reason)  # which turns away every flow that was joining
        else:
            self._step(now, flow, Input.TURNED_AWAY, reason)

    def _act(self, now: float, flow: Flow, action: Action, reason: str) -> None:
        match action:
            case Action.WAIT_TURN:
                self._deadlines.cancel(Timer.RETRANSMIT, flow)
                self._out.append(flow.segment(b"", window=OUR_WINDOW, flags=ACK))
                self._turns(now)
            case Action.HELLO:
                message, flow.pending = self._handshake.hello(self._offer(flow), self._rng)
                self._repeat(now, flow, flow.segment(message, window=OUR_WINDOW), MESSAGE_RETRY)
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
            case Action.OPEN:
                self._open(now, flow)
            case _:
                super()._act(now, flow, action, reason)

    def _offer(self, flow: Flow) -> Offer:
        return Offer(self._config.cipher, flow.mss, flow.scale)

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
        self._answered_joins = True
        self.reason = ""
        if self.session is None:
            self.session = session
            for conversation in list(self.group.conversations.values()):
                conversation.reopen()
            self._events.append(SessionUp(session.session_id, self._dialer.remote_text))
        self._establish(now, flow)
        slot = self._dialer.slots[flow.slot]
        previous, slot.flow, slot.dialled = slot.flow, flow, None
        if previous is not None:
            self._step(now, previous, Input.CLOSE, "another has taken its place")
        self._turns(now)
        for run in self._waiting.take(now):
            self.receive_datagrams(now, [run])

    def _control(self, now: float, flow: Flow, session: Session, message: messages.Control, received: int) -> None:
        if flow.state is State.CONFIRMING:
            self._step(now, flow, Input.READY)  # whatever it says, the server has the flow; its Ready may be lost
        match message:
            case messages.Ready():
                pass
            case messages.FlowDown(flow_id=flow_id) if flow_id == flow.flow_id and self.group.usable == [flow.pump]:
                self._turned_sick(now, flow)  # it still carries what it carries, until there is another
            case messages.Opened(conversation=number):
                conversation = self.group.conversations.get(number)
                if conversation is not None:
                    conversation.opened()
            case messages.Refused(conversation=number, reason=code):
                self.reason = f"the server refuses a conversation: {_REFUSALS.get(code, f'reason {code}')}"
                self.counters["conversations refused"] += 1
                conversation = self.group.conversations.get(number)
                if conversation is not None:
                    self._forget_conversation(now, conversation)
            case messages.CloseConversation(conversation=number):
                conversation = self.group.conversations.get(number)
                if conversation is not None:
                    self._forget_conversation(now, conversation)
            case _:
                super()._control(now, flow, session, message, received)

    # -- the way down

    def _discard(self, now: float, flow: Flow, reason: str) -> None:
        super()._discard(now, flow, reason)
        self._events.append(PortReleased(flow.key.local_port))
        slot = self._dialer.slots[flow.slot]
        if slot.dialled is flow:
            slot.dialled = None
            self._redial(now, slot, self._dialer.failed(slot))
        self._turns(now)

    def _left_established(self, now: float, flow: Flow, reason: str) -> None:
        super()._left_established(now, flow, reason)
        slot = self._dialer.slots[flow.slot]
        if slot.flow is flow:
            after = self._dialer.broken(now, slot)
            slot.flow = None
            if slot.dialled is None:
                self._redial(now, slot, after)
        if not self.group.usable and self._active and not self.reason:
            self.reason = f"every flow is down, the last because {reason}"

    def _redial(self, now: float, slot: Slot, after: float) -> None:
        if self._active:
            self._deadlines.set(Timer.DIAL, slot, now + after)

    def _turned_sick(self, now: float, flow: Flow) -> None:
        """Make before break: another flow is dialled for the slot, and takes the place of this one."""
        slot = self._dialer.slots[flow.slot]
        if slot.flow is flow and slot.dialled is None:
            self._redial(now, slot, self._dialer.broken(now, slot))

    def _session_closed(self, now: float, session: Session) -> None:
        """The server said goodbye."""
        if session is self.session:
            self._lose_session(now, "the server ended the session", Input.CLOSE)

    def _lose_session(self, now: float, reason: str, event: Input = Input.DEAD) -> None:
        """Conversations stay; flows of the session are worthless: ``event`` is what becomes of them."""
        session, self.session = self.session, None
        if session is None:
            return
        self.reason = reason
        self._events.append(SessionDown(session.session_id, reason))
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
            return
        done = 0
        if run.size <= self._room(conversation):
            kind, prefix = conversation.kind, conversation.prefix
            done = self.pump.send(conversation, kind, prefix, run.datagrams, run.size, self._out)
        if done < len(run.datagrams):
            self._send_large(now, conversation, Run(run.peer, run.datagrams[done:], run.size))

    def _room(self, conversation: PumpConversation) -> int:
        """The largest datagram that fits one frame on every usable flow."""
        usable = self.group.usable
        return min(flow.max_payload for flow in usable) - usable[0].codec.overhead - len(conversation.prefix)

    def _new_conversation(self, now: float, run: Run) -> PumpConversation | None:
        """Numbers go round; one is not used again within 2 × ``duration`` of its end."""
        number = self._free_number(now)
        if number is None:
            return None
        target = self._target(run.peer)
        conversation = PumpConversation(self.group, number, run.peer, target=target, opening=True)
        self._put_conversation(now, conversation)
        return conversation

    def _free_number(self, now: float) -> int | None:
        """One that was never used, else the one that ended first: a flood of new peers must not cost a search each."""
        if self._unused_numbers:
            self._unused_numbers -= 1
            number = self._next_conversation
            self._next_conversation = (number + 1) & 0xFFFF
            return number
        if not self._ended:
            return None
        number, ended = next(iter(self._ended.items()))
        if ended + 2 * self._config.duration > now:
            return None
        del self._ended[number]
        return number

    def _target(self, peer: Hashable) -> int:
        """Which of the server's targets: a driver with several sockets says so in ``peer``'s first item."""
        index = peer[0] if isinstance(peer, tuple) and peer and isinstance(peer[0], int) else 0
        return self._config.targets[index]

    def _expire_conversation(self, now: float, conversation: PumpConversation) -> None:
        if self.session:
            self._tell(self.session, messages.CloseConversation(conversation.number))
        self._forget_conversation(now, conversation)

    def _forget_conversation(self, now: float, conversation: PumpConversation) -> None:
        self._ended[conversation.number] = now
        self._end_conversation(conversation)

    def _unknown_data(self, now: float, session: Session, frames: Frames) -> None:  # noqa: ARG002 - as the base has it
        """The server still sends on a conversation that ended here."""
        self.counters["data for no conversation"] += len(frames.datagrams)
        if frames.kind == Kind.DATA and frames.conversation in self._ended:
            self._tell(session, messages.CloseConversation(frames.conversation))

    # -- the rest

    def _timeout(self, now: float, timer: Timer, key: Hashable) -> None:
        if timer is Timer.DIAL and isinstance(key, Slot):
            self._dial(key)
        else:
            super()._timeout(now, timer, key)

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

    def _stranger(self, now: float, packet: Packet, segment: Segment) -> None:  # noqa: ARG002 - as the base has it
        self.counters["segments of no flow"] += 1

    def _odd(self, now: float, flow: Flow, packet: Packet, segment: Segment) -> None:  # noqa: ARG002
        """On an established flow: a SYN-ACK that came again means that our ACK was lost."""
        if segment.flags & SYN and flow.pump:
            self._out.append(self.pump.acknowledge(flow.pump))
        else:
            self.counters["odd segments"] += 1

    def _unopened(self, now: float, item: SlowPayload) -> None:  # noqa: ARG002
        """Forged, damaged, or an answer that came twice."""
        self.counters["payloads that do not authenticate"] += 1


_REFUSALS: dict[int, str] = {
    messages.RefusalReason.NO_TARGET: "it has no such target",
    messages.RefusalReason.LIMIT: "it has as many as it allows (max_conversations)",
    messages.RefusalReason.SOCKET: "it could not open a socket toward its target",
}


def _refusal(status: Status, cipher: str) -> str:
    if status is Status.CIPHER:
        return f'the server uses cipher {cipher}: set "cipher": "{cipher}" on this side too'
    return "the server has as many sessions as it allows (max_sessions)"

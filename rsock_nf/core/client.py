"""The client, whatever the wire: dials flows, gives the application's datagrams to conversations, sleeps.

The way up: ``start`` → a port for each slot (``PortWanted``) → SYN → SYN-ACK → what the wire asks for
(``native_client``) → traffic.  Over UDP: a socket (``CarrierWanted``) → what the wire asks for → traffic.  The way down: no conversation for ``idle_timeout`` → every flow closes, and the next
datagram starts over.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable

from rsock_nf.core import messages
from rsock_nf.core.dialer import Dialer, Slot
from rsock_nf.core.events import CarrierReleased, CarrierWanted, PortReleased, PortWanted, SessionDown, SessionUp
from rsock_nf.core.flow import Action, Flow, Input, State
from rsock_nf.core.node import Node
from rsock_nf.core.numbering import Numbering
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.protocols import Frames, Kind, Rng
from rsock_nf.core.pump_state import OUR_SCALE, OUR_WINDOW, FlowGroup, PumpConversation, PumpFlow
from rsock_nf.core.segment import ACK, DEFAULT_MSS, RST, SYN, FlowKey, Segment, build_syn, parse_syn_options
from rsock_nf.core.session import Session
from rsock_nf.core.timers import Timer
from rsock_nf.core.types import Malformed, Outgoing, Run
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

    def __init__(self, parameters: ClientParameters, rng: Rng, *, mtu: int, max_burst_bytes: int) -> None:
        super().__init__(parameters, rng, mtu=mtu, max_burst_bytes=max_burst_bytes)
        self._config = parameters
        self.session: Session | None = None
        self.group = FlowGroup(self)
        """One group for the life of the process: conversations outlive sessions."""
        self.reason = "not started"
        """Why there is no session, for ``status`` and ``up``."""
        self._refusal = ""
        """Why the server refused the last conversation, if none was opened since: further flows do not make that good."""
        self._dialer = Dialer(parameters, rng)
        self._waiting = Waiting()
        self._next_flow = 0
        self._numbers = Numbering(self._random16(), 2 * parameters.duration)
        self._active = False
        """Flows are wanted."""
        self._unused_since = 0.0

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
        key = FlowKey(local, port, slot.remote, slot.port)
        if not self._still_wanted(slot, key):
            return
        flow = self._new_flow(slot, key, State.SYN_SENT)
        isn = int.from_bytes(self._rng(4), "big")
        flow.next_seq = (isn + 1) & _MASK
        if flow.template is not None:
            identification = flow.template.identification
            flow.template.identification = (identification + 1) & 0xFFFF
            headers = build_syn(key, isn, self._link_payload(key), OUR_SCALE, identification)
            self._dialer.sent(now)
            self._repeat(now, flow, Outgoing(headers, [], 0, 0), SYN_RETRY)

    def receive_carrier(self, now: float, request: int, key: FlowKey) -> None:
        """The socket that ``CarrierWanted`` asked for is open, and is ``key``: it may speak at once."""
        slot = self._dialer.slots[request]
        if not self._still_wanted(slot, key):
            return
        flow = self._new_flow(slot, key, State.TCP_UP)
        flow.mss = self._link_payload(key)
        self._dialer.sent(now)
        self._turns(now)

    def _still_wanted(self, slot: Slot, key: FlowKey) -> bool:
        """``slot`` waits for the port or socket that ``key`` names; else that is given back."""
        if not self._active or slot.dialled is not None or not slot.port_wanted:
            self._release(key)
            return False
        slot.port_wanted = False
        if slot.remote != self._dialer.remote:  # another address has got its turn meanwhile
            self._release(key)
            self._dial(slot)
            return False
        return True

    def _new_flow(self, slot: Slot, key: FlowKey, state: State) -> Flow:
        flow = Flow(self._number(), key, state=state, identification=self._random16(), slot=slot.index)
        slot.dialled = flow
        self._flows[key] = flow
        return flow

    def _release(self, key: FlowKey) -> None:
        self._events.append(CarrierReleased(key) if key.udp else PortReleased(key.local_port))

    def carrier_refused(self, now: float, key: FlowKey) -> None:
        """ICMP said that nobody has the server's port.  Anybody may say so: a flow that stands is asked by a probe, no more."""
        flow = self._flows.get(key)
        if flow is None or flow.pump is not None:
            self.counters["ICMP port unreachable on live carriers"] += 1
            if flow is not None and flow.state is State.ESTABLISHED and not flow.health.waiting:
                self._hasten(Timer.PROBE, flow, now)
            return
        self._dialer.slots[flow.slot].unanswered = True
        self.reason = f"{self._dialer.remote_text} refuses UDP port {key.remote_port} (ICMP port unreachable)"
        self._step(now, flow, Input.RESET)

    def port_refused(self, now: float, request: int, reason: str) -> None:
        """No port can be held, or no socket opened, now: try again later."""
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
            if slot.udp:
                self._events.append(CarrierWanted(slot.index, slot.remote, slot.port))
            else:
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

    def _unanswered(self, now: float, flow: Flow) -> None:
        """A SYN, hello, join or confirmation has been sent often enough."""
        if flow.state is State.SYN_SENT or (flow.key.udp and flow.state is not State.CONFIRMING):
            self._dialer.slots[flow.slot].unanswered = True
        if flow.state is State.SYN_SENT:
            self.reason = f"no answer from {self._dialer.remote_text} on port {flow.key.remote_port}"
        self._step(now, flow, Input.UNANSWERED)

    def _pass_over(self, now: float) -> None:
        """No session, and not one answer from the address in use: give the next one its turn."""
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
        else:
            self._opening(now, flow, segment)

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
        self._dialer.slots[flow.slot].unanswered = False
        self._step(now, flow, Input.SYN_ACK)

    @abstractmethod
    def _session_begins(self) -> None:
        """Conversations may be older than the session."""

    @abstractmethod
    def _turns(self, now: float) -> None:
        """Flows that look established (``TCP_UP``): what they do next."""

    @abstractmethod
    def _opening(self, now: float, flow: Flow, segment: Segment) -> None:
        """A segment without SYN and RST of a flow that looks established and carries no traffic yet."""

    def _act(self, now: float, flow: Flow, action: Action, reason: str) -> None:
        match action:
            case Action.WAIT_TURN:
                self._deadlines.cancel(Timer.RETRANSMIT, flow)
                self._out.append(flow.segment(b"", window=OUR_WINDOW, flags=ACK))
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
        if self.session is None:
            self.session = session
            self._session_begins()
            self._events.append(SessionUp(session.session_id, self._dialer.remote_text))
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
                    self.reason = "" if self.reason == self._refusal else self.reason
                    self._refusal = ""
            case messages.Refused(conversation=number, reason=code):
                self._refusal = f"the server refuses a conversation: {_REFUSALS.get(code, f'reason {code}')}"
                self.reason = self._refusal
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
        self._release(flow.key)
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
        if not self.group.usable and self._active:
            self._hasten_others(now, slot)
        if not self.group.usable and self._active and not self.reason:
            self.reason = f"every flow is down, the last because {reason}"

    def _hasten_others(self, now: float, slot: Slot) -> None:
        """The last flow is gone: slots of the other kind have waited long, because there were flows, and need not now."""
        for other in self._dialer.slots:
            if other.udp is not slot.udp and self._deadlines.get(Timer.DIAL, other) is not None:
                self._hasten(Timer.DIAL, other, now + other.stagger)

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
        self.reason, self._refusal = reason, ""
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
            urgent = self._dialer.urgent(now)
            if urgent is not None:
                self._hasten(Timer.DIAL, urgent, now)
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
        number = self._numbers.take(now)
        if number is None:
            return None
        target = self._target(run.peer)
        conversation = PumpConversation(self.group, number, run.peer, target=target, opening=True)
        self._put_conversation(now, conversation)
        return conversation

    def _target(self, peer: Hashable) -> int:
        """Which of the server's targets: a driver with several sockets says so in ``peer``'s first item."""
        index = peer[0] if isinstance(peer, tuple) and peer and isinstance(peer[0], int) else 0
        return self._config.targets[index]

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

    def _stranger(self, now: float, segment: Segment, link_header: bytes) -> None:  # noqa: ARG002 - as the base has it
        self.counters["segments of no flow"] += 1

    def _odd(self, now: float, flow: Flow, segment: Segment, link_header: bytes) -> None:  # noqa: ARG002
        """On an established flow: a SYN-ACK that came again means that our ACK was lost."""
        if segment.flags & SYN and flow.pump:
            self._out.append(self.pump.acknowledge(flow.pump))
        else:
            self.counters["odd segments"] += 1

    def _unopened(self, now: float, pump: PumpFlow, segment: Segment, link_header: bytes) -> None:  # noqa: ARG002
        """Forged, damaged, or an answer that came twice."""
        self.counters["payloads that do not authenticate"] += 1


_REFUSALS: dict[int, str] = {
    messages.RefusalReason.NO_TARGET: "it has no such target",
    messages.RefusalReason.LIMIT: "it has as many as it allows (max_conversations)",
    messages.RefusalReason.SOCKET: "it could not open a socket toward its target",
}

"""How a client's flows come to be, whatever the wire, and how others take their place.

The way up: a slot's turn (``dialer``) → a port (``PortWanted``) → SYN → SYN-ACK → what the wire asks for → traffic.  Over
UDP a socket (``CarrierWanted``) takes the place of port and handshake.  A flow that ends, or turns sick, gives its slot to
the next one.  When flows are wanted at all, and what they carry, is the ``client``'s business.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Hashable

from rsock_nf.core.ends.dialer import MAX_BACKOFF, Dialer, Slot
from rsock_nf.core.ends.node import Node
from rsock_nf.core.events import CarrierReleased, CarrierWanted, PortReleased, PortWanted
from rsock_nf.core.flows.flow import Flow, Input, State
from rsock_nf.core.flows.session import Session
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.core.protocols import Rng
from rsock_nf.core.pump.state import OUR_SCALE, OUR_WINDOW, FlowGroup, PumpFlow
from rsock_nf.core.tcp.segment import ACK, DEFAULT_MSS, RST, SYN, Segment, build_syn, parse_syn_options
from rsock_nf.core.types import FlowKey, Malformed, Outgoing

_MASK = 0xFFFFFFFF
SYN_RETRY = 0.5
"""Seconds until the first retransmission; doubled each time, up to ``MAX_RETRY``."""
MAX_RETRY = 2.0
SYN_TRIES = 4
MAX_GIVEN_UP = 64
MESSAGE_RETRY = 0.4
MESSAGE_TRIES = 4


class Dialling(Node):
    """See the module.  Where it dials: ``parameters.server`` (the addresses, in that order) and ``parameters.ports``."""

    initiator = True

    def __init__(self, parameters: ClientParameters, rng: Rng, *, mtu: int, max_burst_bytes: int) -> None:
        super().__init__(parameters, rng, mtu=mtu, max_burst_bytes=max_burst_bytes)
        self.session: Session | None = None
        self.group = FlowGroup(self)
        """One group for the life of the process: conversations outlive sessions."""
        self.reason = "not started"
        """Why there is no session, for ``status`` and ``up``."""
        self._dialer = Dialer(parameters, rng)
        self._active = False
        """Flows are wanted."""
        self._refused_address = ""
        self._refused_until = 0.0
        """So long what the server refused says more than the silence of others: hosts send ICMP errors rarely."""
        self._next_flow = 0
        self._given_up: deque[int] = deque(maxlen=MAX_GIVEN_UP)
        """Flows that fell silent: perhaps the server could not be told, and still sends on them."""

    # -- the driver's verbs

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
        self._outbox.tell(CarrierReleased(key) if key.udp else PortReleased(key.local_port))

    def carrier_refused(self, now: float, key: FlowKey) -> None:
        """ICMP said that nobody has the server's port.  Anybody may say so: a flow that stands is asked by a probe, no more."""
        flow = self._flows.get(key)
        if flow is None or flow.pump is not None:
            self.counters["ICMP port unreachable on live carriers"] += 1
            if flow is not None and flow.state is State.ESTABLISHED and not flow.health.waiting:
                self._hasten(Timer.PROBE, flow, now)
            return
        self._dialer.slots[flow.slot].unanswered = True
        self._refused(now, f"UDP port {key.remote_port} (ICMP port unreachable)")
        self._step(now, flow, Input.RESET)

    def _refused(self, now: float, what: str) -> None:
        """Only while nothing is carried: a kind that the server does not serve says nothing of the other."""
        if not self.group.usable:
            self.reason = f"{self._dialer.remote_text} refuses {what}"
            self._refused_address, self._refused_until = self._dialer.remote_text, now + MAX_BACKOFF

    def _lately_refused(self, now: float) -> bool:
        """The address in use said so, and no flow has stood since: that tells more than silence."""
        return now < self._refused_until and self._refused_address == self._dialer.remote_text

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
    def _nothing_heard(self) -> str:
        """The ``reason`` of the first moments."""
        return f"dialling {self._dialer.remote_text}, no answer yet"

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
                self._outbox.tell(CarrierWanted(slot.index, slot.remote, slot.port))
            else:
                self._outbox.tell(PortWanted(slot.index, slot.remote))

    def _repeat(self, now: float, flow: Flow, segment: Outgoing, after: float) -> None:
        flow.repeat = segment
        flow.repeat_since = now
        flow.tries = 1
        self._outbox.send([segment])
        self._deadlines.set(Timer.RETRANSMIT, flow, now + after)

    def _retransmit(self, now: float, flow: Flow) -> None:
        if flow.state is State.CLOSING:
            super()._retransmit(now, flow)
            return
        syn = flow.state is State.SYN_SENT
        if flow.repeat is None or flow.tries >= (SYN_TRIES if syn else MESSAGE_TRIES):
            self._unanswered(now, flow)
            return
        self._outbox.send([flow.repeat])
        after = (SYN_RETRY if syn else MESSAGE_RETRY) * 2**flow.tries
        self._deadlines.set(Timer.RETRANSMIT, flow, now + min(after, MAX_RETRY))
        flow.tries += 1

    def _unanswered(self, now: float, flow: Flow) -> None:
        """A SYN, hello, join or confirmation has been sent often enough."""
        if flow.state is State.SYN_SENT or (flow.key.udp and flow.state is not State.CONFIRMING):
            self._dialer.slots[flow.slot].unanswered = True
        if flow.state is State.SYN_SENT and not self.group.usable and not self._open_ports():
            self.reason = f"no answer from {self._dialer.remote_text} on port {flow.key.remote_port}"
        self._step(now, flow, Input.UNANSWERED)

    def _open_ports(self) -> bool:
        """Whether flows that nothing was heard on but a SYN-ACK wait for more: that tells more than another port's silence."""
        return any(not flow.key.udp and flow.state in (State.TCP_UP, State.HELLO_SENT) for flow in self._flows.values())

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
                hint = "it was open: are secret and wire the server's?"
                if flow.state is State.SYN_SENT:
                    hint = "does the server run, with this port?"
                self._refused(now, f"port {flow.key.remote_port} (RST): {hint}")
                self._step(now, flow, Input.RESET)
        elif flow.state is State.SYN_SENT:
            if segment.flags & (SYN | ACK) == SYN | ACK and segment.ack == flow.next_seq:
                self._syn_ack(now, flow, segment)
        elif segment.flags & SYN:
            self._outbox.send([flow.segment(b"", window=OUR_WINDOW, flags=ACK)])  # our ACK was lost
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
    def _turns(self, now: float) -> None:
        """Flows that look established (``TCP_UP``): what they do next."""

    @abstractmethod
    def _opening(self, now: float, flow: Flow, segment: Segment) -> None:
        """A segment without SYN and RST of a flow that looks established and carries no traffic yet."""

    # -- a flow ends, another takes its place

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
        if flow.state in (State.CLOSED, State.DEMOTED):
            self._given_up.append(flow.flow_id)
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

    # -- the rest

    def _timeout(self, now: float, timer: Timer, key: Hashable) -> None:
        if timer is Timer.DIAL and isinstance(key, Slot):
            self._dial(key)
        else:
            super()._timeout(now, timer, key)

    def _stranger(self, now: float, segment: Segment, link_header: bytes) -> None:  # noqa: ARG002 - as the base has it
        self.counters["segments of no flow"] += 1

    def _odd(self, now: float, flow: Flow, segment: Segment, link_header: bytes) -> None:  # noqa: ARG002
        """On an established flow: a SYN-ACK that came again means that our ACK was lost."""
        if segment.flags & SYN and flow.pump:
            self._outbox.send([self.pump.acknowledge(flow.pump)])
        else:
            self.counters["odd segments"] += 1

    def _unopened(self, now: float, pump: PumpFlow, segment: Segment, link_header: bytes) -> None:  # noqa: ARG002
        """Forged, damaged, or an answer that came twice."""
        self.counters["payloads that do not authenticate"] += 1

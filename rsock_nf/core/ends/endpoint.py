"""One end of a tunnel: the verbs for the driver, and the parts behind them.

The driver gives what it reads to ``receive_*``, and calls ``handle_timeout`` when ``next_timeout`` is due.  Then it
does what ``poll`` gives, in that order, and sleeps again.

A packet's way in: pump → (what the pump could not decide) ``_slow`` → the flow's table of states, or the role →
actions, which ``FlowTable.settle`` runs from a queue.  An endpoint consists of

* ``Pump``: segments of established flows, datagrams to bursts and back;
* ``Intake``: passes what is received through the pump, and gives one slow item after the other;
* ``FlowTable``: which flows exist, their states, and the queue of actions;
* ``Watch`` and the wire's ``Probing``: whether flows still live;
* ``Conversations``: which exist, their expiry, their fragments;
* a role, ``Dialling`` or ``Accepting``;
* a wire, which the role and the endpoint ask.

Not here: sockets, clocks, and the bytes of frames and messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from rsock_nf.core import messages
from rsock_nf.core.ends.accepting import Accepting, ServerWire, link_header
from rsock_nf.core.ends.dialling import ClientWire, Dialling
from rsock_nf.core.ends.parts import Parts
from rsock_nf.core.ends.wire import Wire
from rsock_nf.core.flows.opening import Opening
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import Action, Input, State
from rsock_nf.core.flows.table import Flow, Pending
from rsock_nf.core.flows.timers import SWEEP, Timer
from rsock_nf.core.flows.watch import ACTIVE_PROBE
from rsock_nf.core.outbox import Output
from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.protocols import Frames, Kind, Rng
from rsock_nf.core.pump.pump import ANY_NUMBER, Slow, SlowFrames, SlowPayload
from rsock_nf.core.pump.state import PLAIN, PumpConversation, PumpFlow, States
from rsock_nf.core.tcp.header import overhead
from rsock_nf.core.tcp.icmp import parse_too_big, plateau_below
from rsock_nf.core.tcp.segment import ACK, FIN, RST, SYN, Segment, carried_segments, parse_segment
from rsock_nf.core.tcp.sequence import add, distance, not_behind
from rsock_nf.core.types import Carried, FlowKey, Malformed, Packet, Run

ACK_DELAY = 0.02
"""Seconds for which received bytes wait for a segment that carries their ACK."""

_OPENING = (Action.WAIT_TURN, Action.HELLO, Action.JOIN, Action.CONFIRM, Action.OPEN)
LATE_FINS = 8
"""FINs that a flow answers after it has closed.  A peer sends fewer; answers that answer each other have an end."""


class Role(Protocol):
    """What an endpoint asks of its role: of a client (``Dialling``) or a server (``Accepting``)."""

    @property
    def strangers_while_behind(self) -> int:
        """How many packets of no established flow are taken of a read that has waited; the others are dropped."""

    @property
    def sessions(self) -> list[Session]:
        """The sessions that exist."""

    def send(self, now: float, runs: Iterable[Run]) -> None:
        """Send what applications or targets sent."""

    def received(self, now: float) -> None:
        """A read is done, and everything that came with it has been handled."""

    def stranger(self, now: float, segment: Segment, received: Packet | Carried) -> None:
        """A segment that belongs to no flow.  On a UDP carrier: a datagram that belongs to no flow."""

    def receive_opening(self, now: float, opening: Opening, segment: Segment) -> None:
        """A segment of a flow that the pump does not have yet."""

    def odd(self, now: float, flow: Established, segment: Segment, reply_to: bytes) -> None:
        """A segment that does not belong on an established flow, for example one with SYN."""

    def unopened(self, now: float, flow: Established, segment: Segment, received: Packet | Carried) -> None:
        """A payload came on ``flow`` in which nothing authenticates, or which is out of window."""

    def unknown_data(self, now: float, session: Session, frames: Frames) -> None:
        """Authenticated data came for a conversation that is not open."""

    def control(self, now: float, flow: Established, message: object) -> bool:
        """A control message that perhaps only this role understands.  False = this role does not."""

    def end_conversation(self, now: float, conversation: PumpConversation) -> None:
        """The peer says that ``conversation`` has ended."""

    def expire(self, now: float, conversation: PumpConversation) -> None:
        """``conversation`` has been silent for too long: end it."""

    def session_closed(self, now: float, session: Session) -> None:
        """The peer says that it ends the session."""

    def perform(self, now: float, flow: Flow, action: Action) -> None:
        """Run an action of an opening."""

    def replace(self, now: float, flow: Established) -> None:
        """``flow`` should be replaced: it loses too much, or its counters run out."""

    def all_silent(self, now: float, flow: Established) -> None:
        """No flow of a session answers; ``flow`` is one of them."""

    def heard_again(self, now: float, flow: Established) -> None:
        """After that, ``flow`` has answered."""

    def vacate(self, now: float, flow: Established, reason: str) -> None:
        """``flow`` carries no traffic any more, whatever its new state is."""

    def discarded(self, now: float, flow: Flow) -> None:
        """``flow`` is no longer in the table."""

    def repeat(self, now: float, flow: Flow) -> None:
        """A segment of an opening was not answered in time."""

    def timeout(self, now: float, timer: Timer, key: Hashable) -> None:
        """A timer is due that only this role has."""

    def sweep(self, now: float) -> None:
        """Once a second while there are flows or conversations."""


R = TypeVar("R", bound=Role)


def client(
    parameters: ClientParameters,
    wire: ClientWire,
    rng: Rng,
    *,
    mtu: int,
    max_burst_bytes: int,
    states: States = PLAIN,
) -> Endpoint[Dialling]:
    """The endpoint of a client.

    ``mtu`` and ``max_burst_bytes``: bytes, of the link.  ``rng``: ``os.urandom``, or a seeded function in tests.
    ``states``: see ``Pump``.
    """
    parts = Parts(parameters, wire, rng, mtu=mtu, max_burst_bytes=max_burst_bytes, states=states, initiator=True)
    return Endpoint(parts, wire, Dialling(parameters, wire, parts))


def server(
    parameters: ServerParameters,
    wire: ServerWire,
    rng: Rng,
    *,
    mtu: int,
    max_burst_bytes: int,
    states: States = PLAIN,
) -> Endpoint[Accepting]:
    """The endpoint of a server.  See ``client``."""
    parts = Parts(parameters, wire, rng, mtu=mtu, max_burst_bytes=max_burst_bytes, states=states, initiator=False)
    return Endpoint(parts, wire, Accepting(parameters, wire, parts))


class Endpoint(Generic[R]):
    """See the module.  Every verb takes ``now``: seconds on one steady clock."""

    def __init__(self, parts: Parts, wire: Wire, role: R) -> None:
        self.role = role
        self.pump = parts.pump
        self.flows = parts.table
        self.conversations = parts.conversations
        self._wire = wire
        self._context = parts.context
        self._intake = parts.intake
        self._watch = parts.watch
        self._probing = parts.probing
        self._limits = wire.limits
        self.flows.perform = self._perform
        self._watch.all_silent, self._watch.heard_again = role.all_silent, role.heard_again

    # -- the driver's verbs

    def receive_packets(self, now: float, packets: Iterable[Packet], *, behind: bool = False) -> None:
        """Packets came from the link.

        Their buffers may be used again when this returns and what ``poll`` gives has been done.
        ``behind``: they have waited, so the established flows come first (``strangers_while_behind`` of the role).
        """
        self._intake.packets(packets, self.role.strangers_while_behind if behind else ANY_NUMBER)
        self._take_in(now)
        if self.pump.owes_acknowledgements:
            self._context.outbox.send(self.pump.take_unacknowledged(all_of_them=False))
            self._context.deadlines.set_if_unset(Timer.ACKNOWLEDGE, None, now + ACK_DELAY)

    def receive_carried(self, now: float, received: Iterable[Carried], *, behind: bool = False) -> None:
        """UDP carriers received something.  Buffers and ``behind`` as with ``receive_packets``."""
        self._intake.carried(received, self.role.strangers_while_behind if behind else ANY_NUMBER)
        self._take_in(now)

    def knows(self, packet: Packet) -> bool:
        """Whether ``packet`` seems to be of an established flow: it says so, and nothing is checked."""
        return self.pump.knows(packet)

    def knows_carrier(self, key: FlowKey) -> bool:
        """Whether this is an established flow over UDP."""
        return self.pump.knows_carrier(key)

    def receive_datagrams(self, now: float, runs: Iterable[Run]) -> None:
        """Applications or targets sent datagrams."""
        self.role.send(now, runs if not self._limits.shortest else self._long_enough(runs))
        self._settle(now)

    def receive_mtu(self, now: float, mtu: int, max_burst_bytes: int) -> None:
        """The link's MTU or burst size changed."""
        wider = mtu > self._context.mtu
        self._context.mtu = mtu
        self.pump.set_max_burst_bytes(max_burst_bytes if self._limits.bursts else 0)
        for flow in self.flows.established():
            if flow.path.reduce(now, self.flows.ceiling(flow)):
                self.pump.set_max_payload(flow.pump, flow.path.size)
            elif wider:
                self._probing.widened(now, flow)
        self._settle(now)

    def ping(self, now: float, flow: Established) -> int:
        """Ask the other end for an answer on ``flow``.  See ``Probing.ping``."""
        return self._probing.ping(now, flow) if flow.state is State.ESTABLISHED else 0

    def handle_timeout(self, now: float) -> None:
        """Do what is due at ``now``."""
        for timer, key in self._context.deadlines.due(now):
            self._timeout(now, timer, key)
            self._settle(now)

    def next_timeout(self) -> float | None:
        """When ``handle_timeout`` is to be called next.  None = never."""
        return self._context.deadlines.next()

    def poll(self) -> list[Output]:
        """Everything that is to be done, in the order in which it arose."""
        return self._context.outbox.take()

    # -- looking

    @property
    def sessions(self) -> list[Session]:
        """The sessions that exist.  A client has at most one."""
        return self.role.sessions

    @property
    def closing(self) -> bool:
        """Some flow waits for the answer to its FIN or close frame."""
        return self.flows.closing

    @property
    def counters(self) -> Counter[str]:
        """What was dropped or ignored, by reason."""
        return self._context.counters

    # -- what verbs end with

    def _take_in(self, now: float) -> None:
        """Handle what the pump could not decide, item by item.

        An item may need the flow that the one before it has opened.
        """
        while (item := self._intake.next()) is not None:
            self._slow(now, item)
            self._settle(now)
        self.role.received(now)
        self._settle(now)

    def _settle(self, now: float) -> None:
        self.flows.settle()
        if self.pump.stalled:
            self._probe_stalled(now)

    def _probe_stalled(self, now: float) -> None:
        """Probe the flows that had no credit for bulk.

        The ACK of a probe also acknowledges what was lost before it, and so frees credit.
        """
        for pump in self.pump.stalled:
            flow = self.flows.of(pump)
            if flow is not None and not flow.health.waiting:
                self._probing.ask(now, flow)
        self.pump.stalled.clear()

    def _long_enough(self, runs: Iterable[Run]) -> Iterable[Run]:
        """The same runs without the datagrams that are too short for the wire."""
        shortest = self._limits.shortest
        for run in runs:
            if len(run.datagrams[-1]) >= shortest and run.size >= shortest:
                yield run
                continue
            datagrams = [datagram for datagram in run.datagrams if len(datagram) >= shortest]
            self.counters["empty datagrams"] += len(run.datagrams) - len(datagrams)
            if datagrams:
                yield run._replace(datagrams=datagrams)

    # -- in: what the pump could not decide

    def _slow(self, now: float, item: Slow) -> None:
        if isinstance(item, SlowFrames):
            self._frames(now, item)
        elif isinstance(item, SlowPayload):
            self._unopened(now, item)
        elif isinstance(item, Carried):
            self._carried(now, item)
        else:
            self._packet(now, item)

    def _unopened(self, now: float, item: SlowPayload) -> None:
        """A payload on a known flow in which nothing authenticated."""
        received = item.packet
        if isinstance(received, Carried):
            segments = carried_segments(received)
        else:
            try:
                segments = [parse_segment(received)]
            except Malformed:
                self.counters["malformed packets"] += 1
                return
        for segment in segments:
            flow = self.flows.of(item.flow)
            if flow is None:  # an earlier segment has put another flow in its place
                self._intake.again(received)
                return
            self.role.unopened(now, flow, segment, received)
            self.flows.settle()
            if self._intake.was_given_again(received):  # all of it
                return

    def _carried(self, now: float, received: Carried) -> None:
        """Datagrams on a UDP carrier whose flow the pump does not have (yet)."""
        for segment in carried_segments(received):
            flow = self.flows.get(segment.key)
            if flow is None:
                self.role.stranger(now, segment, received)
            elif isinstance(flow, Opening):
                self.role.receive_opening(now, flow, segment)
            else:  # an earlier datagram has opened the flow
                self._intake.again(received)
                return
            self.flows.settle()

    def _packet(self, now: float, packet: Packet) -> None:
        """A whole packet: of a flow that is not established, or with SYN, FIN or RST, or an ICMP message about size."""
        try:
            segment = parse_segment(packet)
        except Malformed:
            self._too_big(now, packet)
            return
        flow = self.flows.get(segment.key)
        if flow is None:
            self.role.stranger(now, segment, packet)
        elif isinstance(flow, Opening):
            self.role.receive_opening(now, flow, segment)
        elif segment.flags & RST:
            self._reset(now, flow, segment)
        elif segment.flags & FIN:
            self._fin(now, flow, packet, segment)
        elif segment.flags & (SYN | ACK) != ACK or not self._intake.again(packet):
            self.role.odd(now, flow, segment, link_header(packet))

    def _too_big(self, now: float, packet: Packet) -> None:
        """An ICMP message about a live flow and a segment that is in flight.  Others are counted and dropped."""
        try:
            claim = parse_too_big(packet)
        except Malformed:
            self.counters["malformed packets"] += 1
            return
        flow = self.flows.get(claim.key)
        if not isinstance(flow, Established) or not _is_in_flight(flow.pump, claim.inner_seq):
            self.counters["ICMP for nothing of ours"] += 1
            return
        headers = overhead(len(flow.key.local), udp=False)
        self._probing.too_big(now, flow, (claim.mtu or plateau_below(flow.path.size + headers)) - headers)

    def _reset(self, now: float, flow: Established, segment: Segment) -> None:
        """An RST came.  Only one with a sequence number that counts (``Wire.is_end``) is acted on.

        It demotes an established flow, and ends one that is closing.
        """
        if self._wire.is_end(flow, segment.seq):
            self.flows.step(now, flow, Input.RESET, "a RST came from outside")
        else:
            self.counters["RST out of sequence"] += 1

    def _fin(self, now: float, flow: Established, packet: Packet, segment: Segment) -> None:
        """A FIN came.

        If a sealed close frame comes with it, the peer closes the flow.  Without one, either it answers our own
        FIN, or a middlebox made it.
        """
        expected = self._wire.is_end(flow, segment.seq)
        answer = self._wire.answer_fin(flow, segment)
        if answer is not None:
            self._context.outbox.send([answer])
        if self._takes_close_frame(now, flow, packet, segment):
            # Frames behind the FIN in this batch have moved ``received`` already.
            end = add(segment.seq, len(segment.payload) + 1)
            if not_behind(end, flow.pump.received):
                flow.pump.received = end
            self.flows.step(now, flow, Input.PEER_CLOSE, "the other side closed it")
        elif flow.state is State.LINGERING and flow.closes_answered >= LATE_FINS:
            self.counters["FIN after the last answer"] += 1
        elif flow.state is State.LINGERING:
            flow.closes_answered += 1
            own = flow.repeat.segment if flow.repeat and flow.pump.in_flight else None
            if own is not None and own.payload_size <= len(segment.payload):
                self._context.outbox.send([own])  # our own FIN did not arrive
            else:  # one answer, not larger than a FIN that may be forged
                self._context.outbox.send([self.pump.acknowledge(flow.pump)])
        elif segment.payload or not expected:
            self.counters["FIN out of sequence"] += 1
        elif flow.state is State.CLOSING:
            flow.pump.received = add(flow.pump.received, 1)
            self.flows.step(now, flow, Input.FIN)
        else:
            self.flows.step(now, flow, Input.RESET, "a FIN came from outside")

    def _takes_close_frame(self, now: float, flow: Established, packet: Packet, segment: Segment) -> bool:
        """Take the frames of a segment with FIN.  Returns whether a sealed close frame is among them."""
        runs, slow = self.pump.receive_final(flow.pump, packet, segment)
        self._context.outbox.deliver(runs)
        closes = [self._frames(now, item) for item in slow if isinstance(item, SlowFrames)]
        return any(closes)

    # -- in: frames

    def _frames(self, now: float, item: SlowFrames) -> bool:
        """Handle authenticated frames that are not plain data.  Returns True for a close frame."""
        frames = item.frames
        flow = self.flows.of(item.flow)
        if flow is None:
            return False
        if frames.kind == Kind.CONTROL:
            return self._control_frame(now, flow, item)
        if frames.kind == Kind.FRAGMENT:
            for body in frames.datagrams:
                whole = self.conversations.receive_fragment(now, flow.session, frames.conversation, body)
                if whole is not None:
                    self.role.unknown_data(now, flow.session, whole)
        else:
            self.role.unknown_data(now, flow.session, frames)
        return False

    def _control_frame(self, now: float, flow: Established, item: SlowFrames) -> bool:
        try:
            message = item.flow.codec.read_control(item.frames.datagrams[0])
        except Malformed:
            self.counters["malformed control messages"] += 1
            return False
        if isinstance(message, messages.CloseFlow):
            if flow.key.udp:
                self.flows.peer_closes(now, flow)
            return True
        if not self.role.control(now, flow, message) and not self._probing.receive(now, flow, message, item.received):
            self._control(now, flow.session, message)
        return False

    def _control(self, now: float, session: Session, message: object) -> None:
        """Handle a control message that both roles understand."""
        match message:
            case messages.FlowDown(flow_id=flow_id):
                down = session.flows.get(flow_id)
                if down is not None:
                    self.flows.step(now, down, Input.DEAD, "the peer gave it up")
            case messages.CloseConversation(conversation=number):
                conversation = session.group.conversations.get(number)
                if conversation is not None:
                    self.role.end_conversation(now, conversation)
            case messages.CloseSession():
                self.role.session_closed(now, session)
            case _:
                self.counters["unexpected control messages"] += 1

    # -- actions and timers

    def _perform(self, pending: Pending) -> None:
        now, flow, action, reason = pending
        if action in _OPENING:
            self.role.perform(now, flow, action)
        elif action is Action.DISCARD:
            self.flows.discard(flow)
            self.role.discarded(now, flow)
        elif isinstance(flow, Opening):
            raise AssertionError(f"{action} of {flow}")
        elif action is Action.REPLACE:
            self.role.replace(now, flow)
        elif action is Action.VACATE:
            self.role.vacate(now, flow, reason)
        else:
            self.flows.perform_closing(now, flow, action)

    def _timeout(self, now: float, timer: Timer, key: Hashable) -> None:
        match timer, key:
            case Timer.ACKNOWLEDGE, _:
                self._context.outbox.send(self.pump.take_unacknowledged(all_of_them=True))
            case Timer.PROBE, Established() as flow:
                self._probing.due(now, flow)
            case Timer.RETRANSMIT, Established(state=State.CLOSING) as flow:
                self.flows.repeat_close(now, flow)
            case Timer.RETRANSMIT, (Established() | Opening()) as flow:
                self.role.repeat(now, flow)
            case Timer.RETIRE, Established() as flow:
                self._retire(now, flow)
            case Timer.FORGET, Established() as flow:
                self.flows.step(now, flow, Input.EXPIRE)
            case Timer.LISTEN, Session() as session:
                self._watch.listen(now, session)
            case Timer.SWEEP, _:
                self._sweep(now)
            case _:
                self.role.timeout(now, timer, key)

    def _retire(self, now: float, flow: Established) -> None:
        """Another flow has taken the place of ``flow``: close it.

        If it does not answer, a NAT may have forgotten it, and would find its FIN INVALID.  Then it only is forgotten.
        """
        if flow.health.unanswered:
            self.flows.tell_others(flow, messages.FlowDown(flow.flow_id))
            self.flows.step(now, flow, Input.DEAD, "another has taken its place")
        else:
            self.flows.step(now, flow, Input.CLOSE, "another has taken its place")

    def _sweep(self, now: float) -> None:
        """Once a second while there are flows or conversations: which had traffic, which have ended."""
        active, over = self.conversations.sweep(now)
        for conversation in over:
            self.role.expire(now, conversation)
        for flow in self.flows.established():
            if flow.state is State.ESTABLISHED:
                self._probing.sweep(now, flow)
                if flow.had_traffic and not flow.health.waiting:
                    # The first traffic after a silence: do not wait until the next keepalive to probe the flow.
                    self._context.deadlines.hasten(Timer.PROBE, flow, now + ACTIVE_PROBE)
                flow.swept_frames = flow.pump.sent_frames + flow.pump.received_frames
            if flow.pump.received_frames != flow.swept_received:
                flow.swept_received = flow.pump.received_frames
                flow.session.heard_at = now
        for group in active:
            self._watch.sample(now, group)
        if len(self.flows) or len(self.conversations):
            self._context.deadlines.set(Timer.SWEEP, None, now + SWEEP)
        self.role.sweep(now)


def _is_in_flight(pump: PumpFlow, seq: int) -> bool:
    """Whether a segment that begins at ``seq`` was sent and is not acknowledged (RFC 5927 section 4).

    An original rsock acknowledges nothing that we sent.  There, the window is the bound.
    """
    return 0 < distance(seq, pump.next_seq) <= min(pump.in_flight, max(pump.window, 1))

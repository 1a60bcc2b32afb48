"""The client's role: it dials flows, opens them with the help of the wire, replaces them, and closes them when idle.

The way up: a slot's turn (``slots``) → a port (``PortWanted``) → SYN → SYN-ACK → what the wire asks for → traffic.
Over UDP a socket (``CarrierWanted``) takes the place of port and TCP handshake.  If a flow ends, turns sick or is
renewed (``renewals``), another one is dialled for its slot.  The first flow that is up sends the datagrams that waited
(``applications``).  After ``idle_timeout`` without a conversation every flow closes; the next datagram starts dialling
again.

Not here: the steps of one opening (``openings``), back-off and the choice of ports and addresses (``slots``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Protocol

from rsock_nf.core import messages
from rsock_nf.core.ends.applications import Applications
from rsock_nf.core.ends.openings import Openings
from rsock_nf.core.ends.parts import Parts
from rsock_nf.core.ends.port_reports import Outcome, PortReport
from rsock_nf.core.ends.reasons import Reasons
from rsock_nf.core.ends.renewals import Renewals
from rsock_nf.core.ends.slots import SHARD_SILENT, Slot, Slots
from rsock_nf.core.ends.wire import Wire
from rsock_nf.core.events import (
    CarrierReleased,
    CarrierWanted,
    FlowsDieAt,
    PortReleased,
    PortWanted,
    SessionDown,
    SessionUp,
    TargetAnswers,
)
from rsock_nf.core.flows.opening import Opening
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import Action, Input, State
from rsock_nf.core.flows.table import Flow
from rsock_nf.core.flows.timers import SWEEP, Timer
from rsock_nf.core.parameters import ClientParameters, adopt
from rsock_nf.core.protocols import Frames
from rsock_nf.core.pump.pump import ANY_NUMBER
from rsock_nf.core.pump.state import PumpConversation, PumpFlow
from rsock_nf.core.tcp.header import overhead
from rsock_nf.core.tcp.segment import SYN, Segment
from rsock_nf.core.types import ALL_PORTS, Carried, FlowKey, IPAddress, OwnPeer, Packet, Run, Shard

MAX_GIVEN_UP = 64


class ClientWire(Wire, Protocol):
    """What the client's role asks of a wire.  ``dialling`` is the role that asks."""

    def initial_number(self, dialling: Dialling) -> int:
        """The initial sequence number of the next SYN, ``0 .. 2**32 - 1``.  Nobody may be able to guess it."""

    def take_turns(self, now: float, dialling: Dialling) -> None:
        """Flows have come to TCP_UP, or may go on from there: decide what each of them does next."""

    def perform(self, now: float, dialling: Dialling, opening: Opening, action: Action) -> None:
        """Send a hello, a join or a confirmation."""

    def answer(self, now: float, dialling: Dialling, opening: Opening, segment: Segment) -> None:
        """A segment without SYN and RST came on an opening flow."""

    def before_repeat(self, now: float, dialling: Dialling, flow: Flow) -> None:
        """A segment of the opening will now be sent again, or has been sent as often as is allowed."""

    def after_repeat(self, now: float, dialling: Dialling, flow: Flow) -> None:
        """The segment was sent again, or the flow was given up."""

    def unanswered(self, now: float, dialling: Dialling, flow: Flow) -> None:
        """A SYN or a message of the opening was sent as often as is allowed.  After this call the flow is given up."""

    def opened(self, now: float, dialling: Dialling, flow: Established, *, first: bool) -> None:
        """``flow`` carries traffic from now on.  ``first``: it is the first flow of its session."""

    def ended(self, now: float, dialling: Dialling, flow: Established, reason: str) -> None:
        """``flow`` carries no traffic any more."""

    def unopened(
        self, now: float, dialling: Dialling, flow: Established, segment: Segment, received: Packet | Carried
    ) -> None:
        """A payload came on ``flow`` in which nothing authenticates, or which is out of window."""

    def unknown_data(self, now: float, dialling: Dialling, session: Session, frames: Frames) -> None:
        """Authenticated data came for a conversation that is not open."""

    def want_keys(self, now: float, session: Session) -> None:
        """Renew the keys of ``session`` soon."""

    def control(self, now: float, dialling: Dialling, flow: Established, message: object) -> bool:
        """A control message that the role does not know.  False = it is not one of the wire's own."""

    def dismissed(self) -> None:
        """The server ends the session: perhaps it does not want this client any more."""

    def use_parameters(self, now: float, dialling: Dialling, parameters: object) -> None:
        """The wire's parameters have changed."""

    def sweep(self, now: float, dialling: Dialling) -> None:
        """Once a second while flows are wanted."""


class Dialling:
    """See the module.  It dials ``parameters.ports`` at ``parameters.server``, the addresses in that order."""

    strangers_while_behind = ANY_NUMBER
    """What belongs to no established flow is of one that opens: nobody else may send to its ports."""

    def __init__(self, parameters: ClientParameters, wire: ClientWire, parts: Parts) -> None:
        self.parameters = parameters
        self.context = parts.context
        self.table = parts.table
        self.intake = parts.intake
        self.conversations = parts.conversations
        self.group = parts.pump.states.group(self)
        """One group as long as the process lives: conversations outlive sessions."""
        self.session: Session | None = None
        self.slots = Slots(parameters, parts.context.rng)
        self.why = Reasons(self.slots, self.group)
        self.openings = Openings(parts, self.slots, self.why)
        self.applications = Applications(parameters, parts, self.group, wire.limits, self.expire)
        self.renewals = Renewals(self.slots, parts.context.rng, parameters.flow_age)
        self._wire = wire
        self._probing = parts.probing
        self._active = False
        """Whether flows are wanted."""
        self._unused_since = 0.0
        self._flowless_since = 0.0
        """Until when some flow was up, or could not be."""
        self._given_up: deque[int] = deque(maxlen=MAX_GIVEN_UP)
        """Flows that were given up.  Perhaps the server could not be told, and still sends on them."""

    # -- the driver's verbs

    def peers(self) -> list[Hashable]:
        """The applications that it has conversations with."""
        peers = [conversation.peer for conversation in self.group.conversations.values()]
        return [peer for peer in peers if not isinstance(peer, OwnPeer)]

    def hang_up(self, now: float, peer: OwnPeer) -> None:
        """End the conversation of this client's own process, if there is one."""
        conversation = self.applications.of(peer)
        if conversation is not None:
            self.expire(now, conversation)

    def ports(self) -> list[PortReport]:
        """What became of the last dial of each server port, as far as it was dialled."""
        return list(self.openings.reports)

    def use_parameters(self, now: float, parameters: ClientParameters) -> None:
        """Follow ``parameters`` as far as a running endpoint can (``adopt``)."""
        self.parameters = self.context.parameters = parameters = adopt(self.parameters, parameters)
        self.conversations.use_duration(parameters.duration)
        self.renewals.use_max_age(now, parameters.flow_age)

    def use_secrets(self, now: float, secrets: object) -> None:
        """Another secret from now on.  ``secrets``: the wire's parameters.  The session goes on."""
        self._wire.use_parameters(now, self, secrets)

    def start(self, now: float) -> None:
        """Begin to dial.  This also wakes an idle client."""
        if self._active:
            return
        self._active = True
        self._unused_since = self._flowless_since = now
        self.why.dialling()
        for slot in self.slots:
            self.context.deadlines.set(Timer.DIAL, slot, now + slot.stagger)
        self.context.deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)

    def stop(self, now: float) -> None:
        """The process ends: tell the server and close every flow.  Send what ``poll`` gives before you exit."""
        if self.session:
            for _ in range(2):  # one may be lost; if both are, the server only loses time
                self.table.tell(self.session, messages.CloseSession())
        self._close_flows(now, "this side ends")

    def reconnect(self, now: float) -> None:
        """The flows lead nowhere any more: close every flow and dial anew, with the same session and conversations."""
        self.sleep(now, "all are dialled anew")
        self.slots.reset()
        self.start(now)

    def renew(self, now: float) -> None:
        """Replace every flow by another one, a few at a time, while traffic goes on.

        If no flow is up, dial anew at once."""
        if not self.group.usable:
            self.reconnect(now)
            return
        for slot in self.slots:
            if slot.resting:
                slot.failures = 0
                self.context.deadlines.hasten(Timer.DIAL, slot, now + slot.stagger)
        self.renewals.all()
        self._renew(now)

    def want_keys(self, now: float) -> None:
        """The host may have gone back to an earlier state: renew the session's keys soon."""
        if self.session:
            self._wire.want_keys(now, self.session)

    def hurry(self, now: float) -> None:
        """The way to the server may be open again: dial at once what waits for its next turn."""
        if not self._active:
            return
        for slot in self.slots:
            self._hurry(now, slot, (State.SYN_SENT, State.HELLO_SENT, State.JOIN_SENT))

    def _hurry(self, now: float, slot: Slot, states: Collection[State]) -> None:
        """Dial ``slot`` soon, or say again soon what was not answered, if its opening is in one of ``states``."""
        opening = slot.opening
        if slot.resting:
            self.context.deadlines.hasten(Timer.DIAL, slot, now + slot.stagger)
        elif opening is not None and opening.state in states:
            if opening.repeat is not None:
                opening.repeat.begin_again()
            self.context.deadlines.hasten(Timer.RETRANSMIT, opening, now + slot.stagger)

    def use_addresses(self, now: float, addresses: Sequence[IPAddress], *, move: bool = False) -> None:
        """The server's addresses are these from now on, in order of preference; at least one.

        If the server no longer has the address in use, the client dials the first of ``addresses`` at once: with
        ``move`` in any case, and the flows that are up go on until others have taken their place; without it, once no
        flow is up.  Session and conversations stay.
        """
        self.slots.use_addresses([address.packed for address in addresses])
        if move or not self.group.usable:
            self._leave_old_address(now)
            self.table.settle()

    def receive_port(self, now: float, request: int, local: bytes, port: int) -> None:
        """The port that ``PortWanted`` asked for is held, and the firewall covers it: send the SYN."""
        slot = self.slots[request]
        key = FlowKey(local, port, slot.remote, slot.port)
        if self._still_wanted(slot, key):
            self.openings.dial(now, slot, key, self._wire.initial_number(self))

    def receive_carrier(self, now: float, request: int, key: FlowKey) -> None:
        """The socket that ``CarrierWanted`` asked for is open; its flow is ``key``.  It may send at once."""
        slot = self.slots[request]
        if self._still_wanted(slot, key):
            self.openings.dial(now, slot, key)
            self._wire.take_turns(now, self)
            self.table.settle()

    def port_refused(self, now: float, request: int, reason: str) -> None:
        """No port can be held, or no socket can be opened, now: try again later."""
        slot = self.slots[request]
        slot.port_wanted = False
        slot.kept_back = True
        if not self.group.usable:
            self.why.tell(reason)
        self.context.deadlines.set(Timer.DIAL, slot, now + self.slots.failed(slot))

    def carrier_refused(self, now: float, key: FlowKey) -> None:
        """An ICMP message says that the server's port is closed.

        Anybody can send such a message.  So an established flow is only probed.
        """
        flow = self.table.get(key)
        if isinstance(flow, Opening):
            self.openings.port_unreachable(now, flow)
            self.table.settle()
            return
        self.context.counters["ICMP port unreachable on live carriers"] += 1
        if flow is not None and flow.state is State.ESTABLISHED and not flow.health.waiting:
            self.context.deadlines.hasten(Timer.PROBE, flow, now)

    def carrier_too_big(self, now: float, key: FlowKey, mtu: int) -> None:
        """ICMP says that at most ``mtu`` bytes of an IP packet pass.  Anybody can say so: a padded probe finds out."""
        flow = self.table.get(key)
        if isinstance(flow, Established):
            self._probing.too_big(now, flow, mtu - overhead(len(key.local), udp=True))

    @property
    def reason(self) -> str:
        """Why no traffic is carried, for ``status`` and ``up``; empty = traffic is carried."""
        return self.why.text

    @property
    def hopeless(self) -> bool:
        """``reason`` will not go away by itself, as a wrong secret does not."""
        return self.why.hopeless

    @property
    def turned_away(self) -> bool:
        """``reason`` is what the server has said, who does not serve us."""
        return self.why.turned_away

    @property
    def idle(self) -> bool:
        """There is nothing to carry, so all flows are closed."""
        return not self._active

    @property
    def remote_text(self) -> str:
        """The server's address that is in use, as text."""
        return self.slots.remote_text

    @property
    def sessions(self) -> list[Session]:
        """The session, if there is one."""
        return [self.session] if self.session else []

    # -- dialling

    def _still_wanted(self, slot: Slot, key: FlowKey) -> bool:
        """Whether ``slot`` still waits for the port or socket that ``key`` names.  If not, it is given back."""
        if not self._active or slot.opening is not None or not slot.port_wanted:
            self._release(key)
            return False
        slot.port_wanted = False
        if slot.remote != self.slots.remote or slot.port != key.remote_port:  # meanwhile another one is in use
            self._release(key)
            self._dial(slot)
            return False
        return True

    def _release(self, key: FlowKey) -> None:
        self.context.outbox.tell(CarrierReleased(key) if key.udp else PortReleased(key.local_port))

    def _dial(self, slot: Slot) -> None:
        if self._active and slot.opening is None and not slot.port_wanted:
            slot.port_wanted = True
            slot.remote = self.slots.remote
            if slot.udp:
                self.context.outbox.tell(CarrierWanted(slot.index, slot.remote, slot.port))
            else:
                self.context.outbox.tell(PortWanted(slot.index, slot.remote))

    def _redial(self, now: float, slot: Slot, after: float) -> None:
        if self._active:
            self.context.deadlines.set(Timer.DIAL, slot, now + after)

    # -- a flow is opened

    def exchange(self, now: float, opening: Opening, reason: str) -> None:
        """The wire cannot use this flow, though the server answers: dial another one for its slot at once."""
        slot = self.slots[opening.slot]
        self.table.step(now, opening, Input.UNANSWERED, reason)
        if slot.opening is opening:
            slot.opening = None
            self._redial(now, slot, 0.0)

    def receive_opening(self, now: float, opening: Opening, segment: Segment) -> None:
        """A segment of a flow that the pump does not have yet."""
        if not self.openings.receive(now, opening, segment):
            self._wire.answer(now, self, opening, segment)

    def repeat(self, now: float, flow: Flow) -> None:
        """A SYN, hello, join or confirmation was not answered in time: send it again, or give up."""
        self._wire.before_repeat(now, self, flow)
        if not self.openings.repeat(now, flow):
            self._wire.unanswered(now, self, flow)
            self.openings.give_up(now, flow)
        self._wire.after_repeat(now, self, flow)

    def _pass_over(self, now: float) -> None:
        """No flow is up, and nothing has come from the address in use: try the next address."""
        reason = f"no answer from {self.remote_text}"
        if self.group.usable or not self.slots.pass_over(now):
            return
        self.why.tell(reason)
        self._dial_all(now, reason)

    def _leave_shard(self, now: float) -> None:
        """The session is known at some of the ports only, and there is no flow: perhaps others pass."""
        if self.group.usable or self.session is None or self.slots.shard == ALL_PORTS:
            self._flowless_since = now
        elif now - self._flowless_since >= SHARD_SILENT:
            self._flowless_since = now
            self.lose_session(now, "no answer from the ports at which the server knows the session")

    def _leave_old_address(self, now: float) -> None:
        """Leave the address in use if the server no longer has it."""
        reason = f"{self.remote_text} is no longer an address of the server"
        if self.slots.leave_old() and self._active:
            self.why.dialling()
            self._dial_all(now, reason)

    def _dial_all(self, now: float, reason: str) -> None:
        """Another address is in use: give up what is being opened, because of ``reason``, and dial."""
        for slot in self.slots:
            flow, slot.opening = slot.opening, None
            if flow is not None:
                self.table.step(now, flow, Input.UNANSWERED, reason)
            self.context.deadlines.set(Timer.DIAL, slot, now + slot.stagger)

    # -- actions

    def perform(self, now: float, flow: Flow, action: Action) -> None:
        """Run an action of an opening."""
        if isinstance(flow, Established):
            if action is not Action.OPEN:
                raise AssertionError(f"{action} of an established flow")
            self._open(now, flow)
        elif action is Action.WAIT_TURN:
            self.context.deadlines.cancel(Timer.RETRANSMIT, flow)
            self.openings.acknowledge(flow)
            self._wire.take_turns(now, self)
        else:
            self._wire.perform(now, self, flow, action)

    def _open(self, now: float, flow: Established) -> None:
        """The server is ready on this flow: it carries traffic from now on."""
        slot = self.slots[flow.slot]
        first = self.session is None
        if not first and self.session is not flow.session:
            self.table.step(now, flow, Input.CLOSE)  # two hellos were answered, and another session is in use
            slot.opening = None
            self._redial(now, slot, 0.0)
            return
        self.context.deadlines.cancel(Timer.RETRANSMIT, flow)
        self.openings.reports.of(flow.key).outcome = Outcome.UP
        self.why.flow_up()
        if first:
            self.session = flow.session
            self.context.outbox.tell(SessionUp(flow.session.session_id, self.remote_text))
            self._use_shard(now, _shard_of(flow), slot)
        self.table.carry(now, flow)
        self._probing.begin(now, flow)
        self.group.patient = all(_will_say_its_window(pump) for pump in self.group.usable)
        self._wire.opened(now, self, flow, first=first)
        self._fill(now, slot, flow)
        self._wire.take_turns(now, self)
        self._send_waiting(now)
        self._tell_given_up(flow)

    def _use_shard(self, now: float, shard: Shard, up: Slot | None = None) -> None:
        """The session is known at the ports of ``shard``: give up what is being opened to others, and dial there.

        ``up``: the slot whose flow has just come up."""
        for slot in self.slots.use_shard(shard):
            if slot is up or isinstance(slot.opening, Established):  # ``_open`` sees to a flow of another session
                continue
            flow, slot.opening = slot.opening, None
            if flow is not None:
                self.table.step(now, flow, Input.UNANSWERED)
            slot.failures, slot.unanswered = 0, False
            if self._active and slot.flow is None:
                self.context.deadlines.hasten(Timer.DIAL, slot, now + slot.stagger)
        self.openings.reports.keep_only(shard)

    def _fill(self, now: float, slot: Slot, flow: Established) -> None:
        """Put ``flow`` into its slot.  The slot's previous flow closes; slots that got no answer dial again at once."""
        previous, slot.flow, slot.opening = slot.flow, flow, None
        if previous is not None:
            self._retire(now, previous)
        self.renewals.opened(now, slot)
        self._renew(now)
        for other in self.slots.revived(slot):
            self._hurry(now, other, (State.SYN_SENT, State.JOIN_SENT))

    def _retire(self, now: float, flow: Established) -> None:
        """Another flow has taken the place of ``flow``: send nothing on it any more, and close it when all has
        arrived."""
        flow.retired = True
        if not flow.alone:  # over UDP, wire rsock may have to prove the other one first
            self.group.rest(flow.pump)
        self.context.deadlines.set(Timer.RETIRE, flow, now + flow.health.rto)

    def _tell_given_up(self, flow: Established) -> None:
        """The first flow after a silence: the server may still send on flows that were given up meanwhile.  Tell it.

        A wire may name flows by their ports.  Then a new flow can have the name of one that was given up, and is
        not named.
        """
        while self._given_up and self.table.may_tell(flow.pump, messages.FlowDown(self._given_up[0])):
            flow_id = self._given_up.popleft()
            if flow_id not in flow.session.flows:
                self.context.outbox.send([self.table.pump.send_control(flow.pump, messages.FlowDown(flow_id))])

    # -- a flow ends, another takes its place

    def replace(self, now: float, flow: Established) -> None:
        """Dial another flow for the slot of ``flow``.  ``flow`` stays until the other one is up."""
        slot = self.slots[flow.slot]
        if self._nothing_dialled_for(slot, flow):
            self._redial(now, slot, self.slots.broken(now, slot))

    def all_silent(self, now: float, flow: Established) -> None:
        """No flow answers: dial another one, before it is certain that they are dead."""
        slot = self.slots[flow.slot]
        if self._nothing_dialled_for(slot, flow):
            slot.rescues = flow
            self._redial(now, slot, 0.0)

    def _nothing_dialled_for(self, slot: Slot, flow: Established) -> bool:
        """``flow`` fills ``slot``, and no other flow is dialled in its place."""
        dialled = slot.opening is not None or slot.port_wanted
        return slot.flow is flow and not dialled and self.context.deadlines.get(Timer.DIAL, slot) is None

    def heard_again(self, now: float, flow: Established) -> None:
        """The flows were only late: give up what was dialled in their place, unless it is nearly up."""
        for slot in self.slots:
            rescued, slot.rescues = slot.rescues, None
            if rescued is None or slot.flow is not rescued or isinstance(slot.opening, Established):
                continue
            if self.renewals.is_under_way(slot):
                continue
            opening, slot.opening, slot.port_wanted = slot.opening, None, False
            self.context.deadlines.cancel(Timer.DIAL, slot)
            if opening is not None:
                self.table.step(now, opening, Input.UNANSWERED)

    def _renew(self, now: float) -> None:
        """Dial for the slots whose flow is to be renewed."""
        for slot in self.renewals.take(now):
            if slot.opening is None and not slot.port_wanted:
                self.slots.another_port(slot)
                self._redial(now, slot, 0.0)

    def vacate(self, now: float, flow: Established, reason: str) -> None:
        """``flow`` carries no traffic any more: dial another one for its slot."""
        self._wire.ended(now, self, flow, reason)
        slot = self.slots[flow.slot]
        if slot.flow is flow:
            after = self.slots.broken(now, slot)
            slot.flow = None
            if slot.opening is None:
                self._redial(now, slot, after)
        if flow.state in (State.CLOSED, State.DEMOTED):
            self._given_up.append(flow.flow_id)
            age = self.renewals.died(now, flow) if flow.session is self.session else 0.0
            if age:
                self.context.outbox.tell(FlowsDieAt(age))
        if self.group.usable or not self._active:
            return
        for other in self.slots:  # the other kind was dialled rarely because this one had flows; now dial it
            if other.udp is not slot.udp and self.context.deadlines.get(Timer.DIAL, other) is not None:
                self.context.deadlines.hasten(Timer.DIAL, other, now + other.stagger)
        self.why.flows_down(reason)
        self.slots.give_turns()
        self._leave_old_address(now)

    def discarded(self, now: float, flow: Flow) -> None:
        """``flow`` is no longer in the table."""
        self._release(flow.key)
        slot = self.slots[flow.slot]
        if slot.opening is flow:
            slot.opening = None
            self._redial(now, slot, self.slots.failed(slot))
        self._wire.take_turns(now, self)

    # -- what comes in

    def stranger(self, now: float, segment: Segment, received: Packet | Carried) -> None:
        """A segment that belongs to no flow.  It is counted and dropped."""
        self.context.counters["segments of no flow"] += 1

    def odd(self, now: float, flow: Established, segment: Segment, link_header: bytes) -> None:
        """A segment that does not belong on an established flow.  A repeated SYN-ACK means that our ACK was lost."""
        if segment.flags & SYN:
            self.context.outbox.send([self.table.pump.acknowledge(flow.pump)])
        else:
            self.context.counters["odd segments"] += 1

    def unopened(self, now: float, flow: Established, segment: Segment, received: Packet | Carried) -> None:
        """A payload came on ``flow`` in which nothing authenticates, or which is out of window."""
        self._wire.unopened(now, self, flow, segment, received)

    def received(self, now: float) -> None:
        """A read is done.  Once the server has advertised its window, send what waits for credit."""
        if self.group.patient and any(_has_said_its_window(pump) for pump in self.group.usable):
            self.group.patient = False
            self._send_waiting(now)

    def control(self, now: float, flow: Established, message: object) -> bool:
        """A control message.  False = it is not for this role."""
        if flow.state is State.CONFIRMING:
            # Any control message shows that the server has the flow.  Its Ready may be lost.
            self.table.step(now, flow, Input.READY)
            self.table.settle()
        match message:
            case messages.Ready():
                pass
            case messages.SeenAs(address=address):
                flow.session.seen_as = address
            case messages.FlowDown(flow_id=flow_id) if flow_id == flow.flow_id and flow.alone:
                self.table.step(now, flow, Input.SICK)  # it goes on as well as it can until another flow is up
            case messages.Opened(conversation=number):
                self.applications.opened(number)
                self.why.set_lasting(self.applications.refusal)
            case messages.Refused(conversation=number, reason=code):
                self.context.counters["conversations refused"] += 1
                self.applications.refused(now, number, code)
                self.why.set_lasting(self.applications.refusal)
            case messages.TargetState(target=target, refuses=refuses):
                if self.applications.target_state(now, target, refuses=bool(refuses)):
                    self.context.outbox.tell(TargetAnswers(target))
                self.why.set_lasting(self.applications.refusal)
            case _:
                return self._wire.control(now, self, flow, message)
        return True

    def probe_soon(self, now: float, session: Session) -> None:
        """Probe a usable flow now, so that the server hears something."""
        for pump in session.group.usable:
            flow = self.table.of(pump)
            if flow is not None and not flow.health.waiting:
                self.context.deadlines.hasten(Timer.PROBE, flow, now)
                return

    def unknown_data(self, now: float, session: Session, frames: Frames) -> None:
        """Authenticated data came for a conversation that is not open."""
        self._wire.unknown_data(now, self, session, frames)

    # -- the way down

    def session_closed(self, now: float, session: Session) -> None:
        """The server says that it ends the session."""
        if session is self.session:
            self._wire.dismissed()
            self.lose_session(now, "the server ended the session", Input.CLOSE)

    def gone(self, now: float, opening: Opening, reason: str) -> None:
        """The server says on ``opening`` that it does not know the session.  This also turns away all flows that join.

        But if the session is known at some of the ports only, and lives at another one, then the ports have other
        numbers at the server, and from now on that one is used alone.
        """
        others = [pump.key.remote_port for pump in self.group.usable if pump.key.remote_port != opening.key.remote_port]
        if others and self.slots.shard != ALL_PORTS:
            self._use_shard(now, _one_port(others[0]))
            self.table.settle()
        else:
            self.lose_session(now, reason)

    def lose_session(self, now: float, reason: str, event: Input = Input.DEAD) -> None:
        """The session is lost.  Its conversations stay; its flows get the input ``event``."""
        session, self.session = self.session, None
        if session is None:
            return
        self.why.session_lost(reason)
        self.applications.forget_refusals()
        self._given_up.clear()
        self.context.outbox.tell(SessionDown(session.session_id, reason))
        carrying = (State.CONFIRMING, State.ESTABLISHED, State.DEMOTED)
        for flow in self.table.established():
            if flow.session is session and flow.state in carrying:
                self.table.step(now, flow, event, reason)
        for opening in self.table.opening(State.JOIN_SENT):
            self.table.step(now, opening, Input.TURNED_AWAY, reason)
        self._use_shard(now, ALL_PORTS)
        self.table.settle()
        if self._active:
            self.slots.reset()
            for slot in self.slots:
                self.context.deadlines.hasten(Timer.DIAL, slot, now + slot.stagger)

    def _close_flows(self, now: float, reason: str) -> None:
        self._active = False
        for flow in self.table:
            self.table.step(now, flow, Input.CLOSE, reason)
        self.table.settle()

    def sleep(self, now: float, reason: str) -> None:
        """Have no flows until the next datagram."""
        self._close_flows(now, reason)
        for slot in self.slots:
            slot.port_wanted = False
            self.context.deadlines.cancel(Timer.DIAL, slot)

    # -- datagrams of applications

    def send(self, now: float, runs: Iterable[Run]) -> None:
        """Send what applications sent."""
        if self.applications.send(now, runs):
            self.start(now)
            urgent = self.slots.urgent(now)
            if urgent is not None:
                self.context.deadlines.hasten(Timer.DIAL, urgent, now)

    def _send_waiting(self, now: float) -> None:
        """One by one, so that a small datagram does not overtake a large one of its application."""
        for run in self.applications.waiting.take(now):
            self.send(now, [run])

    def expire(self, now: float, conversation: PumpConversation) -> None:
        """``conversation`` has been silent for too long, or makes room: end it."""
        if self.session:
            self.table.tell(self.session, messages.CloseConversation(conversation.number))
        self.applications.forget(now, conversation)

    def end_conversation(self, now: float, conversation: PumpConversation) -> None:
        """The server says that ``conversation`` has ended."""
        self.applications.forget(now, conversation)

    # -- the rest

    def timeout(self, now: float, timer: Timer, key: Hashable) -> None:
        """A timer is due that only this role has."""
        if timer is not Timer.DIAL or not isinstance(key, Slot):
            raise AssertionError(f"timer {timer} of {key!r}")
        self._dial(key)

    def sweep(self, now: float) -> None:
        """Once a second: end what is unused, and pass over a silent address."""
        if self.session:
            self.session.reassembly.expire(now)
        self.applications.waiting.expire(now)
        if self.applications.forget_old_refusals(now):
            self.why.set_lasting(self.applications.refusal)
        if len(self.applications):
            self._unused_since = now
        elif self._active and 0 < self.parameters.idle_timeout <= now - self._unused_since:
            self.sleep(now, "nothing is left to carry")
        if self._active:
            self._wire.sweep(now, self)
            self._pass_over(now)
            self._leave_shard(now)
            self._renew(now)
            self.context.deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)


def _shard_of(flow: Established) -> Shard:
    """At which ports the server knows the session of ``flow``, as far as can be told."""
    shard, port = flow.session.shard, flow.key.remote_port
    if shard.has(port):
        return shard
    return _one_port(port)  # it has another number at the server, for it is translated on the way


def _one_port(port: int) -> Shard:
    return Shard(port, 1 << 16)


def _will_say_its_window(pump: PumpFlow) -> bool:
    """Whether the server's window will soon be larger than what its SYN-ACK could tell."""
    return pump.window_will_open and not _has_said_its_window(pump)


def _has_said_its_window(pump: PumpFlow) -> bool:
    """Whether the server has acknowledged something on it, and so advertised its window, or credit never ends on it."""
    return not pump.windowed or pump.in_flight < pump.sent_bytes

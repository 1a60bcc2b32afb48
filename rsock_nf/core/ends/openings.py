"""How a client opens one flow: SYN, SYN-ACK, the wire's messages, and repetitions.

Not here: when and where a client dials (``dialling``, ``slots``), and the bytes of the messages (the wire).
"""

from __future__ import annotations

from rsock_nf.core.ends.parts import Parts
from rsock_nf.core.ends.port_reports import Outcome, PortReports
from rsock_nf.core.ends.reasons import Reasons
from rsock_nf.core.ends.slots import Slot, Slots
from rsock_nf.core.flows.opening import Opening, Repeat
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import Input, State
from rsock_nf.core.flows.table import Flow
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.pump.state import OUR_SCALE, OUR_WINDOW
from rsock_nf.core.tcp.segment import ACK, DEFAULT_MSS, RST, SYN, Segment, build_syn, parse_syn_options
from rsock_nf.core.tcp.sequence import add
from rsock_nf.core.types import FlowKey, Malformed, Outgoing

SYN_RETRY = 0.5
"""Seconds until the first repetition.  They double each time, up to ``MAX_RETRY``."""
MAX_RETRY = 2.0
SYN_TRIES = 4
MESSAGE_RETRY = 0.4
MESSAGE_TRIES = 4
_FORGET = 0.95
"""What a packet counts of the one after it: about the last 20 count."""


class Tally:
    """How many of the last packets that open flows were answered, repetitions included."""

    def __init__(self) -> None:
        self._sent = self._answered = 0.0

    def sent(self) -> None:
        """One leaves."""
        self._sent = self._sent * _FORGET + 1
        self._answered *= _FORGET

    def answered(self) -> None:
        """The answer to one came."""
        self._answered += 1

    @property
    def lost(self) -> int:
        """Per cent that were not answered; 0 to 100."""
        return round(100 * max(1 - self._answered / self._sent, 0.0)) if self._sent else 0


class Openings:
    """See the module."""

    def __init__(self, parts: Parts, slots: Slots, why: Reasons) -> None:
        self._context = parts.context
        self._table = parts.table
        self._slots = slots
        self._why = why
        self._next_flow = 0
        self.tally = Tally()
        self.reports = PortReports()

    # -- out

    def dial(self, now: float, slot: Slot, key: FlowKey, isn: int = 0) -> Opening:
        """Begin a flow.  Over TCP the SYN leaves, with number ``isn``.  Over UDP nothing does yet: the flow waits for
        its turn.
        """
        self._next_flow += 1
        identification = self._context.random(2)
        state = State.TCP_UP if key.udp else State.SYN_SENT
        number = identification if key.udp else add(identification, 1)  # the SYN uses the first number
        opening = Opening(self._next_flow, key, state=state, identification=number, slot=slot.index)
        slot.opening = opening
        self.reports.of(key)
        self._table.put(opening)
        self._slots.sent(now)
        if key.udp:
            opening.mss = self._table.link_payload(key)
        else:
            opening.next_seq = add(isn, 1)
            headers = build_syn(key, isn, self._table.link_payload(key), OUR_SCALE, identification)
            self.send_repeatedly(now, opening, Outgoing(headers, [], 0, 0), SYN_RETRY)
        return opening

    def acknowledge(self, opening: Opening) -> None:
        """Send an ACK without payload."""
        self._context.outbox.send([opening.segment(b"", window=OUR_WINDOW, flags=ACK)])

    def say(self, now: float, opening: Opening, message: bytes) -> None:
        """Send a message of the wire, and repeat it until it is answered."""
        self.send_repeatedly(now, opening, opening.segment(message, window=OUR_WINDOW), MESSAGE_RETRY)

    def confirm(self, now: float, opening: Opening, session: Session, message: bytes) -> None:
        """Send the confirmation, which ends the opening.  From now on the pump has the flow."""
        segment = opening.segment(message, window=OUR_WINDOW)
        flow = self.take_over(opening, session)
        self.send_repeatedly(now, flow, segment, MESSAGE_RETRY)

    def take_over(self, opening: Opening, session: Session) -> Established:
        """The opening is over: give the flow to the pump."""
        flow = self._table.take_over(opening, session)
        self._slots[flow.slot].opening = flow
        return flow

    def ready(self) -> None:
        """A confirmation was answered."""
        self.tally.answered()

    def send_repeatedly(self, now: float, flow: Flow, segment: Outgoing, after: float) -> None:
        """Send a segment of the opening.  Repeat it, first after ``after`` seconds, until it is answered."""
        flow.repeat = Repeat(segment, now)
        self.tally.sent()
        self._context.outbox.send([segment])
        self._context.deadlines.set(Timer.RETRANSMIT, flow, now + after)

    def repeat(self, now: float, flow: Flow) -> bool:
        """Send a SYN, hello, join or confirmation again.  False = it was sent as often as is allowed."""
        syn = flow.state is State.SYN_SENT
        repeat = flow.repeat
        if repeat is None or repeat.tries >= (SYN_TRIES if syn else MESSAGE_TRIES):
            return False
        self.tally.sent()
        self._context.outbox.send([repeat.segment])
        after = (SYN_RETRY if syn else MESSAGE_RETRY) * 2**repeat.tries
        self._context.deadlines.set(Timer.RETRANSMIT, flow, now + min(after, MAX_RETRY))
        repeat.tries += 1
        return True

    def give_up(self, now: float, flow: Flow) -> None:
        """The opening was not answered: give the flow up."""
        syn = flow.state is State.SYN_SENT
        silent = syn or (flow.key.udp and flow.state is not State.CONFIRMING)
        self.reports.of(flow.key).outcome = Outcome.SILENT if silent else Outcome.UNANSWERED
        if silent:
            self._slots[flow.slot].unanswered = True
        if syn and not self.open_ports():
            self._why.silent_port(flow.key.remote_port)
        self._table.step(now, flow, Input.UNANSWERED)

    def open_ports(self) -> bool:
        """Whether some flow has a SYN-ACK, but no answer yet.  That says more than the silence of another port."""
        return any(not opening.key.udp for opening in self._table.opening(State.TCP_UP, State.HELLO_SENT))

    # -- in

    def receive(self, now: float, opening: Opening, segment: Segment) -> bool:
        """A segment of a flow that the pump does not have yet.  False = the wire is to read it."""
        if segment.flags & RST:
            self._reset(now, opening, segment)
        elif opening.state is State.SYN_SENT:
            if segment.flags & (SYN | ACK) == SYN | ACK and segment.ack == opening.next_seq:
                self._syn_ack(now, opening, segment)
        elif segment.flags & SYN:
            self.acknowledge(opening)  # our ACK was lost
        else:
            return False
        return True

    def _reset(self, now: float, opening: Opening, segment: Segment) -> None:
        """An RST.  In SYN_SENT it counts only if it acknowledges our SYN (RFC 9293 section 3.10.7.3)."""
        syn_sent = opening.state is State.SYN_SENT
        if segment.ack != opening.next_seq if syn_sent else segment.seq != opening.received:
            return
        self.reports.of(opening.key).outcome = Outcome.REFUSED if syn_sent else Outcome.RESET
        hint = "does the server run, with this port?" if syn_sent else "it was open: are secret and wire the server's?"
        self._slots[opening.slot].unanswered |= syn_sent
        self._why.refused(now, f"port {opening.key.remote_port} (RST): {hint}")
        self._table.step(now, opening, Input.RESET)

    def _syn_ack(self, now: float, opening: Opening, segment: Segment) -> None:
        try:
            options = parse_syn_options(segment.options)
        except Malformed:
            self._context.counters["malformed SYN-ACKs"] += 1
            return
        opening.mss = min(options.mss or DEFAULT_MSS, self._table.link_payload(opening.key))
        opening.scale = options.window_scale
        opening.window = segment.window
        opening.peer_isn = segment.seq
        opening.received = add(segment.seq, 1)
        self.heard(now, opening, Outcome.OPEN)
        self._table.step(now, opening, Input.SYN_ACK)

    def heard(self, now: float, opening: Opening, outcome: Outcome = Outcome.ANSWERED) -> None:
        """A SYN-ACK or an answer came on ``opening``."""
        self.tally.answered()
        report = self.reports.of(opening.key)
        report.outcome = outcome
        if outcome is Outcome.OPEN or opening.key.udp:
            report.took = now - opening.repeat.since if opening.repeat and opening.repeat.tries == 1 else None
        if opening.repeat:
            opening.repeat.answered(now, opening.health)
        self._slots.answered(self._slots[opening.slot])

    def turned_away(self, opening: Opening) -> None:
        """The server has authenticated itself on ``opening``, and does not serve us."""
        self.reports.of(opening.key).outcome = Outcome.ANSWERED

    def port_unreachable(self, now: float, opening: Opening) -> None:
        """An ICMP message says that the server's UDP port is closed."""
        self._slots[opening.slot].unanswered = True
        self.reports.of(opening.key).outcome = Outcome.REFUSED
        self._why.refused(now, f"UDP port {opening.key.remote_port} (ICMP port unreachable)")
        self._table.step(now, opening, Input.RESET)

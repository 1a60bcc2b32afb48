"""How a client of wire ``rsock`` opens flows: a flow carries traffic as soon as the TCP handshake is done.

There is no hello: every frame names its client and its flow.  An original's server makes a flow of the first
datagram on it, so a datagram goes first.  There is one session as long as the process lives.

The window of a SYN-ACK is never scaled, so there is little credit for the first datagrams.  Those without credit
wait until the server has acknowledged something.  (On the native wire they wait for the answer to the hello.)

An original's server acknowledges numerically: its ACK begins at its own first number and follows ours only if ours
is larger.  If it is not, a NAT with connection tracking judges each frame of the server INVALID and does not translate
it.  So our first number is high, a flow whose SYN-ACK shows a higher one is exchanged for another, and a flow is
replaced before its numbers begin again at 0 (``keepalive``).

Not here: what else we tolerate of an original (``quirks``).
"""

from __future__ import annotations

from rsock_nf.core import messages
from rsock_nf.core.ends.dialling import Dialling
from rsock_nf.core.ends.wire import Probing
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.opening import Opening
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import Action, Input, State
from rsock_nf.core.flows.table import Flow, FlowTable
from rsock_nf.core.flows.watch import Watch
from rsock_nf.core.protocols import Frames
from rsock_nf.core.pump.state import PumpFlow
from rsock_nf.core.tcp.segment import RST, Segment
from rsock_nf.core.tcp.sequence import add
from rsock_nf.core.types import Carried, Outgoing, Packet
from rsock_nf.wire.parameters import RsockParameters, WireName
from rsock_nf.wire.rsock import quirks
from rsock_nf.wire.rsock.frames import RsockFormat
from rsock_nf.wire.rsock.keepalive import SILENT, KeepAlives
from rsock_nf.wire.rsock.limits import LIMITS

FIRST_NUMBER = 0xE0000000
"""The top 4 bits of a client's first number.  The other 28 are random."""
MAX_AHEAD = 2 + 0xFFFF
"""How far the first number of a server of our kind is ahead of the client's, at most (``server``)."""
MAX_EXCHANGED = 4
"""Flows in a row that are exchanged because of the server's number.  About one in eleven has a higher one than ours.
So with the next one, something else is the reason, for example a router that changes the numbers."""


class RsockClientWire:
    """See the module, and ``ClientWire``.  ``client_id``: 64 random bits, not 0."""

    name = WireName.RSOCK.value
    limits = LIMITS

    def __init__(self, parameters: RsockParameters, client_id: int) -> None:
        self._format = RsockFormat(parameters.key)
        self._version = parameters.version
        self._client_id = client_id
        self._heard = False
        """Whether a frame of the server has ever come."""
        self._beginning: Session | None = None
        """A session whose first flow will open now."""
        self._exchanged = 0
        """How many flows in a row were exchanged."""

    def probing(self, context: Context, table: FlowTable, watch: Watch) -> Probing:
        """See ``Wire``."""
        self._keepalives = KeepAlives(context, table, watch, initiator=True)
        return self._keepalives

    def may_tell(self, flow: PumpFlow, message: object) -> bool:
        """See ``Wire``, and ``quirks``."""
        return quirks.may_tell(flow, message, initiator=True)

    def is_end(self, flow: Established, seq: int) -> bool:
        """See ``Wire``, and ``quirks``: which RST or FIN counts."""
        return quirks.is_end(flow, seq)

    def answer_fin(self, flow: Established, segment: Segment) -> Outgoing | None:
        """See ``Wire``, and ``quirks``.  A close frame may be the first frame on a flow: the pump must open it."""
        quirks.hear(flow, segment)
        return quirks.answer_fin(flow, segment, initiator=True)

    # -- the way up

    def initial_number(self, dialling: Dialling) -> int:
        """See ``ClientWire``.  It is high: see the module."""
        return FIRST_NUMBER | dialling.context.random(4) >> 4

    def take_turns(self, now: float, dialling: Dialling) -> None:
        """See ``ClientWire``.  No flow has to wait."""
        for opening in dialling.table.opening(State.TCP_UP):
            if self._is_behind(opening):
                dialling.context.outbox.send([opening.segment(b"", window=0, flags=RST)])  # its kernel has accepted it
                dialling.exchange(now, opening, "the server's numbers are ahead of ours")
                continue
            session = dialling.session or self._beginning or self._session(now, dialling)
            self._beginning = None if dialling.session else session
            opening.flow_id = self._format.flow_id(opening.key, self._version)
            names = {flow.flow_id for flow in dialling.table.established() if flow.session is session and _is_up(flow)}
            if opening.flow_id in names:
                # A UDP flow may have the same name as a TCP flow from the same port.  Dial it again from another
                # port.
                dialling.table.step(now, opening, Input.UNANSWERED, "its name is taken")
            else:
                dialling.table.step(now, dialling.openings.take_over(opening, session), Input.READY)

    def _is_behind(self, opening: Opening) -> bool:
        """Whether an original's ACKs would not follow our numbers on this flow, and another one may be better."""
        ahead = opening.peer_isn - add(opening.next_seq, -1)  # numerically, as it compares them itself
        if opening.key.udp or ahead <= MAX_AHEAD or self._exchanged >= MAX_EXCHANGED:
            self._exchanged = 0
            return False
        self._exchanged += 1
        return True

    def _session(self, now: float, dialling: Dialling) -> Session:
        keys = self._format.keys(self._client_id, self._version)
        cipher = dialling.parameters.cipher
        return Session(self._client_id, keys, self.name, self.limits, cipher, dialling.group, now)

    def perform(self, now: float, dialling: Dialling, opening: Opening, action: Action) -> None:
        """See ``ClientWire``.  This wire has no messages of an opening."""
        raise AssertionError(f"{action} of {opening}")

    def answer(self, now: float, dialling: Dialling, opening: Opening, segment: Segment) -> None:
        """See ``ClientWire``.  No flow waits for an answer, so nothing is expected here."""
        dialling.context.counters["odd segments"] += 1

    def before_repeat(self, now: float, dialling: Dialling, flow: Flow) -> None:
        """See ``ClientWire``.  Does nothing."""

    def after_repeat(self, now: float, dialling: Dialling, flow: Flow) -> None:
        """See ``ClientWire``.  Does nothing."""

    def unanswered(self, now: float, dialling: Dialling, flow: Flow) -> None:
        """See ``ClientWire``.  Does nothing."""

    # -- flows that carry traffic

    def opened(self, now: float, dialling: Dialling, flow: Established, *, first: bool) -> None:
        """See ``ClientWire``.  The first frame of the peer will show of which kind it is."""
        if first:
            self._beginning = None
        quirks.begin(dialling.table.pump, flow, unheard=True)

    def ended(self, now: float, dialling: Dialling, flow: Established, reason: str) -> None:
        """See ``ClientWire``.  If it was the last one that carried, others do that did not answer yet."""
        if dialling.session is not None:
            self._keepalives.carry_anyway(dialling.session)
        if reason == SILENT:
            self._tell_silence(dialling)

    def want_keys(self, now: float, session: Session) -> None:
        """See ``ClientWire``.  There are no keys of a session."""

    def control(self, now: float, dialling: Dialling, flow: Established, message: object) -> bool:
        """See ``ClientWire``.  There is none."""
        return False

    def dismissed(self) -> None:
        """See ``ClientWire``.  Nothing follows from it."""

    def use_parameters(self, now: float, dialling: Dialling, parameters: object) -> None:
        """See ``ClientWire``.  The key does not change while the client runs."""

    def sweep(self, now: float, dialling: Dialling) -> None:
        """See ``ClientWire``.  Tell early that nothing is answered."""
        if dialling.session and any(flow.health.unanswered for flow in dialling.session.flows.values()):
            self._tell_silence(dialling)

    def _tell_silence(self, dialling: Dialling) -> None:
        """A request is not answered.  A wrong key is known only by silence: this wire has no message for it."""
        if not self._heard:
            asked = "are ports, wire, hash and rsock_version those of the server?"
            dialling.why.set_lasting(f"{dialling.remote_text} answers no frame: {asked}")

    def unopened(
        self, now: float, dialling: Dialling, flow: Established, segment: Segment, received: Packet | Carried
    ) -> None:
        """See ``ClientWire``.  It may be the first frame on a flow, or the first one after lost frames."""
        context, pump, intake = dialling.context, dialling.table.pump, dialling.intake
        if not quirks.take_again(context, pump, intake, flow, segment, received):
            context.counters["payloads of no frame"] += 1
        elif not self._heard:
            self._heard = True
            dialling.why.set_lasting("")

    def unknown_data(self, now: float, dialling: Dialling, session: Session, frames: Frames) -> None:
        """See ``ClientWire``.  The server sends on a conversation that is not ours, or not any more: tell it."""
        dialling.context.counters["data for no conversation"] += len(frames.datagrams)
        dialling.table.answer(now, session, messages.CloseConversation(frames.conversation))


def _is_up(flow: Established) -> bool:
    """Whether the flow carries traffic, or will at once."""
    return flow.state in (State.TCP_UP, State.ESTABLISHED)

"""How a client of wire ``rsock`` opens flows: a flow carries traffic as soon as the TCP handshake is done.

There is no hello: every frame names its client and its flow.  An original's server makes a flow of the first
datagram on it, so a datagram goes first.  There is one session as long as the process lives.

The window of a SYN-ACK is never scaled, so there is little credit for the first datagrams.  Those without credit
wait until the server has acknowledged something.  (On the native wire they wait for the answer to the hello.)

Not here: what we tolerate of an original (``quirks``).
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
from rsock_nf.core.tcp.segment import Segment
from rsock_nf.core.types import Carried, Outgoing, Packet
from rsock_nf.wire.parameters import RsockParameters, WireName
from rsock_nf.wire.rsock import quirks
from rsock_nf.wire.rsock.frames import RsockFormat
from rsock_nf.wire.rsock.keepalive import SILENT, KeepAlives
from rsock_nf.wire.rsock.limits import LIMITS


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

    def probing(self, context: Context, table: FlowTable, watch: Watch) -> Probing:
        """See ``Wire``."""
        return KeepAlives(context, table, watch, initiator=True)

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

    def take_turns(self, now: float, dialling: Dialling) -> None:
        """See ``ClientWire``.  No flow has to wait."""
        for opening in dialling.table.opening(State.TCP_UP):
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
        """See ``ClientWire``.  A wrong key is known only by silence: this wire has no message for it."""
        if not self._heard and reason == SILENT:
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
        dialling.table.tell(session, messages.CloseConversation(frames.conversation))


def _is_up(flow: Established) -> bool:
    """Whether the flow carries traffic, or will at once."""
    return flow.state in (State.TCP_UP, State.ESTABLISHED)

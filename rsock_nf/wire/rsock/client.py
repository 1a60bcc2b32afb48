"""The client of wire rsock: a flow carries traffic as soon as it looks established.

There is no hello: client and flow are named in every frame.  An original's server makes a flow of the first
datagram on it, so nothing else goes first (``RsockNode``).  One session for the life of the process.

The window of a SYN-ACK is never scaled, so the first datagrams find little credit.  What they leave over waits until
the server has acknowledged something, as on the native wire all of them wait for the hello's answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from rsock_nf.core import messages
from rsock_nf.core.ends.client import Client
from rsock_nf.core.ends.numbering import Numbering
from rsock_nf.core.flows.flow import Flow, Input, State
from rsock_nf.core.flows.session import Session
from rsock_nf.core.parameters import ClientParameters, Wire
from rsock_nf.core.protocols import Frames, OpenFormat, Rng
from rsock_nf.core.pump.state import PumpConversation, PumpFlow
from rsock_nf.core.tcp.segment import Segment
from rsock_nf.core.types import Carried, Packet, Run
from rsock_nf.wire.rsock.node import SILENT, RsockNode

_MASK = 0xFFFFFFFF
FIRST_CONVERSATION = 2
"""As an original's client numbers them."""


class RsockClient(RsockNode, Client):
    """See the module."""

    def __init__(self, parameters: ClientParameters, form: OpenFormat, rng: Rng, *, mtu: int) -> None:
        super().__init__(parameters, rng, mtu=mtu, max_burst_bytes=0)
        self._format = form
        self._version = parameters.rsock_version
        self._undecided: dict[PumpFlow, Session] = {}
        self.group.patient = True
        self._numbers = Numbering(FIRST_CONVERSATION, 2 * parameters.duration)
        self._heard = False
        """A frame of the server's has come, ever."""
        self._client_id = int.from_bytes(rng(8), "big") or 1

    def _turns(self, now: float) -> None:
        """Nobody has to wait."""
        for flow in [flow for flow in self._flows.values() if flow.state is State.TCP_UP]:
            if flow.state is State.TCP_UP:  # still: a flow that opens, or is turned away, comes back here
                session = self.session or self._new_session(now)
                flow.flow_id = self._format.flow_id(flow.key, self._version)
                flow.isn = (flow.received - 1) & _MASK
                if flow.flow_id in session.flows:
                    # A UDP flow may be called like a TCP flow from the same port: dialled again, from another one.
                    self._step(now, flow, Input.UNANSWERED, "its name is taken")
                    continue
                self._pump_flow(flow, session)
                self._step(now, flow, Input.READY)

    def receive_packets(self, now: float, packets: Iterable[Packet]) -> None:
        """See ``Node``."""
        super().receive_packets(now, packets)
        self._hear()
        if self.group.patient and any(_heard_of(pump) for pump in self.group.usable):
            self.group.patient = False
            self.receive_datagrams(now, self._waiting.take(now))

    def receive_carried(self, now: float, received: Iterable[Carried]) -> None:
        """See ``Node``."""
        super().receive_carried(now, received)
        self._hear()

    def _hear(self) -> None:
        """The first frame of the server's ends what there was to say about its silence."""
        if self._heard or self.session is None:
            return
        self._heard = any(flow.pump and flow.pump.received_frames for flow in self.session.flows.values())
        if self._heard and self._refusal:
            self.reason = "" if self.reason == self._refusal else self.reason
            self._refusal = ""

    def _left_established(self, now: float, flow: Flow, reason: str) -> None:
        """Nothing on this wire says that the key is wrong: silence is all there is."""
        if not self._heard and reason == SILENT:
            self._refusal = f"{self._dialer.remote_text} answers no frame: are ports, wire, hash and rsock_version those of the server?"
            self.reason = self._refusal
        super()._left_established(now, flow, reason)

    def _open(self, now: float, flow: Flow) -> None:
        if not self.group.usable:
            self.group.patient = True
        super()._open(now, flow)

    def _send_large(self, now: float, conversation: PumpConversation, run: Run) -> None:
        """Also what is to wait for credit comes here."""
        if self.group.patient and run.size <= self._room(conversation):
            self._waiting.put(now, run)
        else:
            super()._send_large(now, conversation, run)

    def _new_session(self, now: float) -> Session:
        keys = self._format.keys(self._client_id, self._version)
        return Session(self._client_id, keys, self._config.cipher, self.group, now, wire=Wire.RSOCK)

    def _session_begins(self) -> None:
        """A server makes a conversation of any datagram."""

    def _new_conversation(self, now: float, run: Run) -> PumpConversation | None:
        conversation = super()._new_conversation(now, run)
        if conversation is not None:
            conversation.opened()
        return conversation

    def _opening(self, now: float, flow: Flow, segment: Segment) -> None:  # noqa: ARG002 - as the base has it
        raise AssertionError("a flow that looks established is")

    def _unknown_data(self, now: float, session: Session, frames: Frames) -> None:  # noqa: ARG002 - as the base has it
        """The server still sends on a conversation that is not, or no longer, ours."""
        self.counters["data for no conversation"] += len(frames.datagrams)
        self._tell(session, messages.CloseConversation(frames.conversation))

    def _unopened(self, now: float, pump: PumpFlow, segment: Segment, link_header: bytes) -> None:  # noqa: ARG002
        if not self._rejoins(now, pump, segment):
            self.counters["payloads of no frame"] += 1


def _heard_of(pump: PumpFlow) -> bool:
    """The server has acknowledged some of it, and said its window; or it is known that it never will."""
    return pump.unlimited or pump.in_flight < pump.sent_bytes

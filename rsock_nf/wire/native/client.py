"""How a client of the native wire opens flows: hello or join → answer → confirmation → ready.

A busy server answers the first hello by a cookie, and the client says hello anew, with the cookie, on the same flow.
One of the flows in TCP_UP says hello, and the others wait.  Once there is a session, they join it.  The answer
carries a challenge, which the confirmation sends back.

Not here: the bytes of these messages (``handshake``), and their repetition (``ends.openings``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rsock_nf.core import messages
from rsock_nf.core.ends.dialling import Dialling
from rsock_nf.core.ends.slots import Slot, Slots
from rsock_nf.core.ends.wire import Probing
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.opening import Opening, Repeat
from rsock_nf.core.flows.probes import Probes
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import Action, Input, State
from rsock_nf.core.flows.table import Flow, FlowTable
from rsock_nf.core.flows.watch import Watch
from rsock_nf.core.protocols import Frames, Kind, SessionKeys
from rsock_nf.core.pump.state import PumpFlow
from rsock_nf.core.tcp.segment import Segment
from rsock_nf.core.tcp.sequence import add
from rsock_nf.core.types import Carried, FlowKey, Malformed, Outgoing, Packet
from rsock_nf.wire.native.freshness import NO_COOKIE
from rsock_nf.wire.native.handshake import NativeHandshake, hint_of, native_keys
from rsock_nf.wire.native.hints import Form, Hinted, hour_of, no_clock
from rsock_nf.wire.native.limits import LIMITS
from rsock_nf.wire.native.opening import Answer, CookieMessage, Gone, Offer, Status
from rsock_nf.wire.native.rekeying import MAX_TRIES, Rekeyed, RekeyWanted
from rsock_nf.wire.parameters import NativeParameters, WireName

MEANT_HELLOS = 5
MEANT_PORTS = 3
"""So many hellos without an answer, on so many ports, are no accident (``Silence``)."""
LATE = 1.3
"""A hello counts as unanswered after so many round trips of its flow's SYN."""
SLOW_ROUND_TRIP = 2.0
"""Seconds.  Where a SYN had to be repeated, its round trip is not known: it is taken for this."""
_LIMITED = (
    "the server takes no more hellos from this client's address for now (20 a second): do many clients share it? "
    "It is tried again"
)


class Silence:
    """Whether a server that accepts connections leaves hellos unanswered on purpose: it does so when the secret is
    wrong.  One hello may be lost, and several too; but not those of several ports, while every SYN is answered."""

    def __init__(self) -> None:
        self._hellos: dict[int, dict[FlowKey, int]] = {}
        """By port, how many of each flow were not answered in time; of no more flows than it takes to tell."""

    def note(self, now: float, flow: Flow, repeat: Repeat, slots: Slots) -> None:
        """The hellos of ``flow`` so far have no answer; it is about to be repeated.  Those to an address that the
        server has no more do not count."""
        for port, of_port in list(self._hellos.items()):
            self._hellos[port] = {key: tries for key, tries in of_port.items() if slots.has_address(key.remote)}
        round_trip = SLOW_ROUND_TRIP if flow.health.srtt is None else flow.health.srtt
        if not flow.key.udp and now - repeat.since >= LATE * round_trip:
            of_port = self._hellos.setdefault(flow.key.remote_port, {})
            if flow.key in of_port or len(of_port) < MEANT_HELLOS:
                of_port[flow.key] = repeat.tries

    def is_meant(self, slots: Iterable[Slot]) -> bool:
        """Enough hellos on enough ports were not answered.  ``slots``: the client's."""
        ports = {slot.port for slot in slots if not slot.udp}
        told = sum(sum(of_port.values()) for of_port in self._hellos.values())
        silent = sum(map(bool, self._hellos.values()))
        return silent >= min(MEANT_PORTS, len(ports)) and told >= MEANT_HELLOS


class NativeClientWire:
    """See the module, and ``ClientWire``.  ``time_of_day``: what the host's clock says, in seconds since 1970."""

    name = WireName.NATIVE.value
    limits = LIMITS

    def __init__(self, parameters: NativeParameters, time_of_day: Callable[[], float] = no_clock) -> None:
        self._time_of_day = time_of_day
        self._handshake = NativeHandshake(parameters.secret)
        self._form = Form.HOURLY
        """Of the hints: the form that the server answered last; until it answers, that of the next hello."""
        self._answered_joins = True
        """Whether the last join was answered.  When a second one in a row is not, the session counts as lost."""
        self._ever_answered = False
        """Whether something with the secret ever came from the server: then the secret is right."""
        self._silence = Silence()

    def probing(self, context: Context, table: FlowTable, watch: Watch) -> Probing:
        """See ``Wire``."""
        return Probes(context, table, watch)

    def may_tell(self, flow: PumpFlow, message: object) -> bool:
        """See ``Wire``.  Always: the server knows every usable flow, and every message."""
        return True

    def is_end(self, flow: Established, seq: int) -> bool:
        """See ``Wire``.  An RST or FIN must have the next number in sequence."""
        return seq == flow.pump.received

    def answer_fin(self, flow: Established, segment: Segment) -> Outgoing | None:
        """See ``Wire``.  There is none besides what the table of states asks for."""
        return None

    # -- the way up

    def initial_number(self, dialling: Dialling) -> int:
        """See ``ClientWire``.  It is random."""
        return dialling.context.random(4)

    def take_turns(self, now: float, dialling: Dialling) -> None:
        """See ``ClientWire``.  If there is a session, waiting flows join it; if not, one of them says hello."""
        self._take_turns(now, dialling, another_hello=False)

    def _take_turns(self, now: float, dialling: Dialling, *, another_hello: bool) -> None:
        waiting = dialling.table.opening(State.TCP_UP)
        if dialling.session:
            for opening in waiting:
                dialling.table.step(now, opening, Input.SAY_JOIN)
            return
        asking = [flow.key.udp for flow in dialling.table if flow.state in (State.HELLO_SENT, State.CONFIRMING)]
        if waiting and (another_hello or not asking):
            # Prefer the kind of flow on which fewer hellos were sent: the path may block the other kind.
            dialling.table.step(now, min(waiting, key=lambda flow: asking.count(flow.key.udp)), Input.SAY_HELLO)

    def perform(self, now: float, dialling: Dialling, opening: Opening, action: Action) -> None:
        """See ``ClientWire``."""
        session = dialling.session
        match action:
            case Action.HELLO:
                self._say_hello(now, dialling, opening)
            case Action.JOIN if session:
                offer, rng = self._offer(dialling, opening), dialling.context.rng
                message = self._handshake.join(session.keys, session.session_id, opening.flow_id, offer, rng)
                opening.exchange = message
                dialling.openings.say(now, opening, self._hinted(message))
            case Action.CONFIRM if isinstance(opening.exchange, Session):
                session = opening.exchange
                number, challenge = opening.flow_id, opening.challenge
                message = self._handshake.confirm(session.keys, session.session_id, number, challenge)
                dialling.openings.confirm(now, opening, session, self._hinted(message))
            case _:
                raise AssertionError(f"{action} of {opening}")

    def _say_hello(self, now: float, dialling: Dialling, opening: Opening) -> None:
        hinted = self._hint_of_now()
        self._form = self._form.other  # for the next hello, should this one not be answered
        offer, rng = self._offer(dialling, opening), dialling.context.rng
        message, opening.exchange = self._handshake.hello(offer, rng, hinted=hinted)
        dialling.openings.say(now, opening, message)
        if not opening.key.udp and dialling.why.text == dialling.why.nothing_heard:
            dialling.why.tell(f"{_open_port(dialling, opening)}, no answer to our hello yet")

    def _hint_of_now(self) -> Hinted:
        return Hinted(self._form, hour_of(self._time_of_day()))

    def _hinted(self, message: bytes) -> bytes:
        return self._handshake.hints.attach(message, self._hint_of_now())

    @staticmethod
    def _offer(dialling: Dialling, opening: Opening) -> Offer:
        return Offer(dialling.parameters.cipher, opening.mss, opening.scale)

    def answer(self, now: float, dialling: Dialling, opening: Opening, segment: Segment) -> None:
        """See ``ClientWire``.  It may be the answer to a hello or a join; anything else is ignored."""
        asked = opening.state in (State.HELLO_SENT, State.JOIN_SENT)
        if not asked or not segment.payload or segment.seq != opening.received:
            return
        try:
            if opening.state is State.JOIN_SENT:
                session = self._read_join_answer(now, dialling, opening, segment)
            else:
                session = self._read_answer(now, dialling, opening, segment)
        except Malformed:
            dialling.context.counters["answers that are none"] += 1
            return
        if session is None:
            return
        self._heard(now, dialling, opening, segment)
        opening.exchange = session
        dialling.table.step(now, opening, Input.ANSWER)

    def _heard(self, now: float, dialling: Dialling, opening: Opening, segment: Segment) -> None:
        """An answer has authenticated.  What follows stands behind it.  (On a UDP carrier there are no numbers.)"""
        if not opening.key.udp:
            opening.window = segment.window << (opening.scale or 0)
            opening.received = add(segment.seq, len(segment.payload))
        self._ever_answered = True
        self._silence = Silence()
        dialling.openings.heard(now, opening)

    def _read_answer(self, now: float, dialling: Dialling, opening: Opening, segment: Segment) -> Session | None:
        """Read the answer to a hello: a session.  None = the server turns us away, or wants a hello with a cookie,
        which is then said.  Raises ``Malformed``.
        """
        read = self._handshake.read_answer(opening.exchange, segment.payload)
        hinted = hint_of(opening.exchange)
        if hinted is not None:
            self._form = hinted.form
        if isinstance(read, CookieMessage):
            self._heard(now, dialling, opening, segment)
            self._say_hello_again(now, dialling, opening, read)
            return None
        answer, challenge, keys = read
        if answer.status is not Status.WELCOME:
            dialling.openings.turned_away(opening)
            dialling.why.turned_away_by(_refusal(answer.status, answer.cipher.value))
            if answer.status is Status.CIPHER:
                dialling.why.give_no_hope()
            dialling.table.step(now, opening, Input.TURNED_AWAY, dialling.why.text)
            return None
        opening.challenge = challenge
        return self._session(now, dialling, answer, keys)

    def _say_hello_again(self, now: float, dialling: Dialling, opening: Opening, wanted: CookieMessage) -> None:
        """Say a new hello with the server's cookie, or give the flow up if the server wants none at present."""
        if wanted.cookie == NO_COOKIE:
            dialling.why.turned_away_by(_LIMITED)
            dialling.table.step(now, opening, Input.TURNED_AWAY, _LIMITED)
            return
        offer, rng = self._offer(dialling, opening), dialling.context.rng
        hinted = self._hint_of_now()
        message, opening.exchange = self._handshake.hello(offer, rng, wanted.cookie, wanted.place, hinted=hinted)
        dialling.openings.say(now, opening, message)

    def _session(self, now: float, dialling: Dialling, answer: Answer, keys: SessionKeys) -> Session:
        cipher, group = dialling.parameters.cipher, dialling.group
        return Session(answer.session_id, keys, self.name, self.limits, cipher, group, now, shard=answer.shard)

    def _read_join_answer(self, now: float, dialling: Dialling, opening: Opening, segment: Segment) -> Session | None:
        """Read the answer to a join: the session that it joins.  None = that session is gone.  Raises ``Malformed``."""
        session, join = dialling.session, opening.exchange
        if session is None or not isinstance(join, bytes):
            return None
        challenge = self._handshake.read_join_answer(session.keys, opening.flow_id, join, segment.payload)
        if isinstance(challenge, Gone):
            dialling.gone(now, opening, "the server was restarted")
            return None
        opening.challenge = challenge
        return session

    # -- slow answers

    def before_repeat(self, now: float, dialling: Dialling, flow: Flow) -> None:
        """See ``ClientWire``.  When a second hello is not answered, ``status`` tells it."""
        repeat = flow.repeat
        if flow.state is not State.HELLO_SENT or repeat is None:
            return
        self._silence.note(now, flow, repeat, dialling.slots)
        if repeat.tries > 1:  # a single hello, or its answer, may be lost
            self._note_silence(now, dialling, flow)

    def after_repeat(self, now: float, dialling: Dialling, flow: Flow) -> None:
        """See ``ClientWire``.  After a hello without an answer, another flow says hello too."""
        if flow.state is State.HELLO_SENT:
            self._take_turns(now, dialling, another_hello=True)

    def _note_silence(self, now: float, dialling: Dialling, flow: Flow) -> None:
        """Tell that hellos are not answered.  If the server ever answered, the secret is right, and the path loses.

        Over UDP a SYN-ACK on another flow, or a refusal, is the better reason.
        """
        udp = flow.key.udp
        if dialling.group.usable or (udp and (dialling.openings.open_ports() or dialling.why.lately_refused(now))):
            return
        if self._ever_answered:
            port, lost = f"{'UDP ' * udp}port {flow.key.remote_port}", dialling.openings.tally.lost
            told = "answers our hellos no more: the path loses"
            dialling.why.tell(f"{dialling.remote_text} {port} {told} {lost} % of what opens flows, there and back")
            return
        same = "are secret, wire and version of rsock-nf the same on both sides?"
        if udp:
            where = f"{dialling.remote_text} UDP port {flow.key.remote_port}"
            dialling.why.tell(f"{where} leaves our hellos unanswered: is UDP open on the way, and {same}")
        else:
            dialling.why.tell(f"{_open_port(dialling, flow)}, but leaves our hellos unanswered: {same}")
            # While a SYN is not answered either, the path may lose both.
            if self._silence.is_meant(dialling.slots) and not dialling.table.opening(State.SYN_SENT):
                dialling.why.give_no_hope()

    def unanswered(self, now: float, dialling: Dialling, flow: Flow) -> None:
        """See ``ClientWire``.  Over TCP, joins without an answer mean that the session is lost.

        Over UDP they do not: a dead path looks the same, and a server that has lost the session says so.  But if the
        server answers a join, and nothing that authenticates follows, the two have different keys.
        """
        lost = (State.CONFIRMING,) if flow.key.udp else (State.JOIN_SENT, State.CONFIRMING)
        if flow.state not in lost or not dialling.session or dialling.group.usable:
            return
        if not self._answered_joins:
            dialling.lose_session(now, "joins are not answered")
        self._answered_joins = False

    def dismissed(self) -> None:
        """See ``ClientWire``.  If hellos are not answered from now on, the secret may not be valid any more."""
        self._ever_answered = False

    # -- another secret

    def use_parameters(self, now: float, dialling: Dialling, parameters: object) -> None:
        """See ``ClientWire``.  The session goes on, with new flows: they show the server that we have the new secret.

        What the old secret has asked, the new one cannot understand the answer to.
        """
        if not isinstance(parameters, NativeParameters):
            raise TypeError("parameters of another wire")
        self._handshake = NativeHandshake(parameters.secret)
        self._form, self._ever_answered, self._silence = Form.HOURLY, False, Silence()
        for opening in dialling.table.opening(State.HELLO_SENT, State.JOIN_SENT):
            dialling.table.step(now, opening, Input.TURNED_AWAY, "the secret has changed")
        dialling.table.settle()
        dialling.renew(now)
        dialling.hurry(now)

    # -- flows that carry traffic

    def opened(self, now: float, dialling: Dialling, flow: Established, *, first: bool) -> None:
        """See ``ClientWire``.  The server of a new session knows none of our conversations: they are opened again."""
        self._answered_joins = True
        dialling.openings.ready()
        asking = native_keys(flow.session.keys).asking
        if first:
            asking.start(now, flow.session.session_id)
        elif flow.alone:  # no flow was up for a while: go on with fresh keys
            asking.hasten(now)
            self._ask(now, dialling, flow.session)
        if first:
            for conversation in dialling.group.conversations.values():
                conversation.reopen()

    def ended(self, now: float, dialling: Dialling, flow: Established, reason: str) -> None:
        """See ``ClientWire``.  Without a flow nobody sweeps, and nothing is on its way."""
        if not dialling.group.usable:
            native_keys(flow.session.keys).ring.forget_old()

    def unopened(
        self, now: float, dialling: Dialling, flow: Established, segment: Segment, received: Packet | Carried
    ) -> None:
        """See ``ClientWire``.  The payload is forged or damaged, or an answer that came twice."""
        del now, flow, segment, received
        dialling.context.counters["payloads that do not authenticate"] += 1

    def unknown_data(self, now: float, dialling: Dialling, session: Session, frames: Frames) -> None:
        """See ``ClientWire``.  If the server still sends on a conversation that ended here, it is told."""
        dialling.context.counters["data for no conversation"] += len(frames.datagrams)
        if frames.kind == Kind.DATA and dialling.applications.numbers.has_ended(frames.conversation):
            dialling.table.answer(now, session, messages.CloseConversation(frames.conversation))

    # -- rekeys

    def want_keys(self, now: float, session: Session) -> None:
        """See ``ClientWire``.  The next sweep asks for them."""
        native_keys(session.keys).asking.hasten(now)

    def control(self, now: float, dialling: Dialling, flow: Established, message: object) -> bool:
        """See ``ClientWire``.  The answer to a rekey: the server is to hear the new epoch at once."""
        if isinstance(message, RekeyWanted):
            self.want_keys(now, flow.session)
            return True
        if not isinstance(message, Rekeyed):
            return False
        try:
            if native_keys(flow.session.keys).asking.answered(now, message):
                dialling.probe_soon(now, flow.session)
        except Malformed:
            dialling.context.counters["malformed control messages"] += 1
        return True

    def sweep(self, now: float, dialling: Dialling) -> None:
        """See ``ClientWire``.  Rekey when it is time."""
        if dialling.session:
            self._rekey(now, dialling, dialling.session)

    def _rekey(self, now: float, dialling: Dialling, session: Session) -> None:
        keys = native_keys(session.keys)
        keys.ring.sweep(now)
        if not session.group.usable:
            return
        if keys.asking.tries >= MAX_TRIES:
            dialling.lose_session(now, "the server does not renew keys: is its rsock-nf of the same version?")
        elif not self._ask(now, dialling, session) and keys.asking.unheard:
            dialling.probe_soon(now, session)

    @staticmethod
    def _ask(now: float, dialling: Dialling, session: Session) -> bool:
        """Ask for the next epoch, if it is time.  Returns whether it was."""
        question = native_keys(session.keys).asking.question(now, dialling.context.rng)
        if question is not None:
            dialling.table.tell(session, question)
        return question is not None


def _open_port(dialling: Dialling, flow: Flow) -> str:
    return f"{dialling.remote_text} port {flow.key.remote_port} is open"


def _refusal(status: Status, cipher: str) -> str:
    if status is Status.CIPHER:
        return f'the server uses cipher {cipher}: set "cipher": "{cipher}" on this side too'
    return "the server has as many sessions as it allows (max_sessions)"

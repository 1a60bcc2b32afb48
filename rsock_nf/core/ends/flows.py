"""A node's flows: the pump that carries their traffic, the table that moves them, the probes that watch them.

Whatever happens to a flow is an ``Input``; the transition table tells the next state and the ``Action`` (``_step``,
``_act``).  While it is established it is probed (``_probe_due``), and judged by the answers (``_judge``).
Where packets come from, and what is in them, is the business of ``node``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable

from rsock_nf.core import messages
from rsock_nf.core.events import FlowClosed, FlowOpened, FlowSick, Suspect
from rsock_nf.core.flows.flow import TRANSITIONS, Action, Flow, Input, State
from rsock_nf.core.flows.session import Session
from rsock_nf.core.flows.timers import Deadlines, Timer
from rsock_nf.core.outbox import Outbox
from rsock_nf.core.parameters import Common
from rsock_nf.core.protocols import MAX_FRAME, Rng
from rsock_nf.core.pump.pump import Pump
from rsock_nf.core.pump.state import FlowGroup, Handover, PumpFlow
from rsock_nf.core.types import FlowKey, Outgoing

ACTIVE_PROBE = 1.0
"""A flow with traffic is probed this often."""
SWEEP = 1.0
LINGER = 3.0
"""A closed flow answers late FINs this long."""
DEMOTED = 2.0
"""A demoted flow still receives this long."""
CLOSE_RETRY = 0.5
CLOSE_TRIES = 3
SICK_LOSS = 0.1
"""A flow is sick when it loses this share more than twice the median of its session's flows."""
REPLACE_AT = 2**31
"""Sealed data frames sent on a flow after which it is replaced: their counter, the nonce, has 32 bits."""
END_AT = 3 * 2**30
BLACK_HOLE_LOSS = 0.5
"""From this loss on it may be that only small frames pass: the path's MTU is confirmed again."""
MIN_HEALTHY = 3
"""With fewer flows than this there is nothing to compare: none is called sick."""


class Flows(ABC):
    """See the module.  ``rng``: ``os.urandom``, or a seeded one in tests."""

    initiator = False

    def __init__(self, parameters: Common, rng: Rng, *, mtu: int, max_burst_bytes: int) -> None:
        self._parameters = parameters
        self._rng = rng
        self._mtu = mtu
        seed = int.from_bytes(rng(8), "big")
        self.pump = Pump(seed=seed, max_burst_bytes=max_burst_bytes, spread=parameters.spread)
        self._deadlines = Deadlines()
        self._flows: dict[FlowKey, Flow] = {}
        """Every flow that exists, established or not."""
        self._outbox = Outbox()
        self._suspected = 0.0
        self.counters: Counter[str] = Counter()
        """What was dropped or ignored, by reason."""

    @property
    def closing(self) -> bool:
        """Some flow waits for the answer to its FIN."""
        return any(flow.state is State.CLOSING for flow in self._flows.values())

    # -- the flow's table

    def _step(self, now: float, flow: Flow, event: Input, reason: str = "") -> bool:
        """Apply one input; False = the flow's state has no use for it."""
        row = TRANSITIONS[flow.state].get(event)
        if row is None:
            self.counters[f"{event.value} in {flow.state.value}"] += 1
            return False
        was_established = flow.state is State.ESTABLISHED
        flow.state, action = row
        if was_established and flow.state is not State.ESTABLISHED:
            self._left_established(now, flow, reason or event.value)
        self._act(now, flow, action, reason or event.value)
        return True

    def _act(self, now: float, flow: Flow, action: Action, reason: str) -> None:
        """Actions that both roles know; the client adds those of its handshake."""
        pump = flow.pump
        match action:
            case Action.DISCARD:
                self._discard(now, flow, reason)
            case Action.DEMOTE:
                self._tell_others(flow, messages.FlowDown(flow.flow_id))
                self._deadlines.set(Timer.FORGET, flow, now + DEMOTED)
            case Action.SEND_FIN if pump:
                flow.repeat = self._close_frame(flow, pump)
                flow.tries = 1
                self._outbox.send([flow.repeat])
                self._deadlines.set(Timer.RETRANSMIT, flow, now + CLOSE_RETRY)
            case Action.SEND_FIN_ACK if pump:
                flow.repeat = None if flow.key.udp else self.pump.finish(pump)
                self._outbox.send([flow.repeat or self._close_frame(flow, pump)])
                self._deadlines.set(Timer.FORGET, flow, now + LINGER)
            case Action.SEND_LAST_ACK if pump:
                if not flow.key.udp:
                    self._outbox.send([self.pump.acknowledge(pump)])
                self._deadlines.cancel(Timer.RETRANSMIT, flow)
                self._deadlines.set(Timer.FORGET, flow, now + LINGER)
            case _:
                pass

    def _close_frame(self, flow: Flow, pump: PumpFlow) -> Outgoing:
        """On a UDP carrier it is made anew each time: a repeated counter would be dropped as a replay."""
        return self.pump.send_control(pump, messages.CloseFlow(), fin=not flow.key.udp)

    def _peer_closes(self, now: float, flow: Flow) -> None:
        """A close frame on a UDP carrier: the peer's own, or its answer to ours."""
        if flow.state is State.CLOSING:
            self._step(now, flow, Input.FIN)
        elif flow.state is not State.LINGERING:
            self._step(now, flow, Input.PEER_CLOSE, "the other side closed it")
        elif flow.pump and flow.repeat is None:  # we answered, and that was lost; who closed first answers nothing
            self._outbox.send([self._close_frame(flow, flow.pump)])

    def _establish(self, now: float, flow: Flow) -> None:
        """The flow carries traffic from now on."""
        pump, session = flow.pump, flow.session
        if pump is None or session is None:
            return
        flow.since = now
        flow.path.start(pump.max_payload)
        session.flows[flow.flow_id] = flow
        session.used = now
        session.group.usable.append(pump)
        self._deadlines.set(Timer.PROBE, flow, now)
        self._deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)
        self._outbox.tell(FlowOpened(flow.flow_id, flow.key))

    def _left_established(self, now: float, flow: Flow, reason: str) -> None:
        """It carries no traffic any more, however it goes on."""
        if flow.pump and flow.pump in flow.pump.group.usable:
            flow.pump.group.usable.remove(flow.pump)
        if flow.session:
            flow.session.flows.pop(flow.flow_id, None)
            flow.session.used = now
        self._deadlines.cancel(Timer.PROBE, flow)
        orderly = flow.state in (State.CLOSING, State.LINGERING)
        self._outbox.tell(FlowClosed(flow.flow_id, flow.key, reason, orderly))

    def _discard(self, now: float, flow: Flow, reason: str) -> None:  # noqa: ARG002 - the client needs both
        """Forget everything about ``flow``."""
        if self._flows.get(flow.key) is flow:
            del self._flows[flow.key]
        if flow.pump:
            self.pump.drop_flow(flow.pump)
        self._deadlines.cancel_all(flow)

    def _pump_flow(self, flow: Flow, session: Session) -> PumpFlow:
        """Hand the flow's sequence numbers over to the pump, which takes its segments from now on."""
        flow.session = session
        max_payload = self._ceiling(flow)
        codec = session.keys.codec(flow.flow_id, initiator=self.initiator)
        identification = flow.template.identification if flow.template else 0
        start = Handover(flow.next_seq, flow.received, flow.scale, flow.window, max_payload, identification)
        flow.pump = PumpFlow(session.group, flow.flow_id, flow.key, codec, start)
        self.pump.put_flow(flow.pump)
        return flow.pump

    def _link_payload(self, key: FlowKey) -> int:
        """The largest payload of one segment that the link takes."""
        ip = 40 if len(key.local) == 16 else 20
        return min(self._mtu - ip - (8 if key.udp else 20), MAX_FRAME)

    def _tell(self, session: Session, message: messages.Control, avoid: Flow | None = None) -> None:
        """Send a control message on some usable flow that has credit left: whoever needs it asks again."""
        flows = [
            flow
            for flow in session.group.usable
            if (avoid is None or flow is not avoid.pump) and flow.in_flight < flow.bulk_window and self._knows(flow)
        ]
        if flows:
            flow = flows[int.from_bytes(self._rng(2), "big") % len(flows)]
            self._outbox.send([self.pump.send_control(flow, message)])

    def _knows(self, flow: PumpFlow) -> bool:  # noqa: ARG002 - on the native wire a usable flow is confirmed
        """The peer knows ``flow``, whatever is said on it."""
        return True

    def _tell_others(self, flow: Flow, message: messages.Control) -> None:
        if flow.session:
            self._tell(flow.session, message, avoid=flow)

    # -- probes

    def _send_probe(self, now: float, flow: Flow) -> None:
        pump = flow.pump
        if pump is None or flow.state is not State.ESTABLISHED:
            return
        padding = 0
        if not flow.path.confirmed and not flow.health.unanswered:
            empty = pump.codec.control_size(messages.Probe(0))
            padding = max(flow.path.size - empty, 0)
        number = flow.health.probe_sent(now, pump.sent_frames + 1, (pump.received_frames, pump.highest_ack))
        if padding:
            flow.path.probe_sent(number)
        self._outbox.send([self.pump.send_control(pump, messages.Probe(number, padding))])
        self._deadlines.set(Timer.PROBE, flow, now + flow.health.rto)

    def _answer_probe(self, flow: Flow, session: Session, answer: messages.ProbeAnswer) -> None:
        if flow.pump is None or flow.state not in (State.ESTABLISHED, State.CONFIRMING):
            return  # behind our FIN there is no sequence space; a demoted flow sends nothing
        self._outbox.send([self.pump.send_control(flow.pump, answer)])
        if flow.pump not in session.group.usable:
            self._tell(session, answer, avoid=flow)

    def _probe_answered(self, now: float, flow: Flow | None, number: int | None, received: int | None) -> None:
        if flow is None or flow.pump is None or number is None:
            return
        if flow.path.larger_passed(now, number):
            self.pump.set_max_payload(flow.pump, flow.path.size)
            return
        if not flow.health.answered(now, number, received):
            return
        usable = flow.pump.group.usable
        if flow.state is State.ESTABLISHED and not flow.sick and flow.pump not in usable:
            usable.append(flow.pump)
        if flow.path.answered(now, number):
            self.pump.set_max_payload(flow.pump, flow.path.size)
        self._judge(now, flow)
        if not flow.path.confirmed:
            self._deadlines.set(Timer.PROBE, flow, now)
            return
        self._try_larger(now, flow, flow.pump)
        active = flow.pump.sent_frames + flow.pump.received_frames > flow.swept_frames + 4
        self._deadlines.set(Timer.PROBE, flow, now + (ACTIVE_PROBE if active else self._keepalive()))

    def _try_larger(self, now: float, flow: Flow, pump: PumpFlow) -> None:
        """Where more might pass than is used, ask the path, beside the flow's ordinary probes."""
        probe = flow.path.larger(now, self._ceiling(flow))
        if probe is not None and flow.state is State.ESTABLISHED:
            number, size = probe
            padding = size - pump.codec.control_size(messages.Probe(0))
            self._outbox.send([self.pump.send_control(pump, messages.Probe(number, padding))])

    def _widened(self, now: float, flow: Flow) -> None:
        flow.path.widened(now)
        if flow.state is State.ESTABLISHED and not flow.health.waiting:
            self._hasten(Timer.PROBE, flow, now)

    def _ceiling(self, flow: Flow) -> int:
        """The largest TCP payload that handshake and link allow."""
        return min(flow.mss, self._link_payload(flow.key))

    def _keepalive(self) -> float:
        """The period of an idle flow, give or take 20 %."""
        return self._parameters.keepalive * (0.8 + 0.4 * self._rng(1)[0] / 255)

    def _probe_due(self, now: float, flow: Flow) -> None:
        """The next probe, or the last one is overdue."""
        pump = flow.pump
        if pump and flow.health.waiting and flow.health.overdue(now, (pump.received_frames, pump.highest_ack)):
            self._tell_others(flow, messages.FlowDown(flow.flow_id))
            self._step(now, flow, Input.DEAD, "probes are not answered")
            return
        self._suspect(now, flow)
        if (
            flow.health.unanswered
            and flow.pump
            and flow.pump in flow.pump.group.usable
            and len(flow.pump.group.usable) > 1
        ):
            flow.pump.group.usable.remove(flow.pump)  # until it answers: the others carry the bulk meanwhile
        self._send_probe(now, flow)

    def _suspect(self, now: float, flow: Flow) -> None:
        """Several flows that go silent at once: perhaps their neighbour has moved."""
        session = flow.session
        if flow.health.unanswered != 1 or session is None:
            return
        if now - session.alarmed > 1.0:
            # What silenced one may have silenced all, and an idle one would find out in ten seconds only.
            session.alarmed = now
            for other in session.flows.values():
                if not other.health.waiting:
                    self._hasten(Timer.PROBE, other, now)
        if not flow.key.udp and now - self._suspected > 1.0:
            # A UDP carrier's next hop is the kernel's own business.
            silent = [other for other in session.flows.values() if other.health.unanswered and not other.key.udp]
            if len(silent) > 1:
                self._suspected = now
                self._outbox.tell(Suspect(flow.key.remote))

    def _watch(self, now: float, group: FlowGroup) -> None:
        """Something moves, perhaps too little on each flow to have it watched: probe one of them, as a sample.

        If all are dead at once (a NAT has forgotten them), that one finds out, and ``_suspect`` asks the others.
        """
        flows = [flow for pump in group.usable if (flow := self._flows.get(pump.key)) is not None]
        due = [self._deadlines.get(Timer.PROBE, flow) or now for flow in flows]
        if flows and min(due) > now + ACTIVE_PROBE:
            self._hasten(Timer.PROBE, flows[int.from_bytes(self._rng(2), "big") % len(flows)], now)

    def _probe_stalled(self, now: float) -> None:
        """Bulk found these flows without credit: a probe's ACK jumps over what was lost."""
        for pump in self.pump.stalled:
            flow = self._flows.get(pump.key)
            if flow is not None and not flow.health.waiting:
                self._send_probe(now, flow)
        self.pump.stalled.clear()

    def _judge(self, now: float, flow: Flow) -> None:
        """Take a flow out of use that loses much more than its peers do: it does not come back, another is dialled for it."""
        session = flow.session
        if session is None or flow.pump is None or flow.state is not State.ESTABLISHED:
            return
        if flow.path.confirmed and flow.health.loss > BLACK_HOLE_LOSS:
            flow.path.start(flow.path.size)  # RFC 8899 section 4.3: is it still true?
        median = min(_median_loss(session, udp=udp) for udp in (False, True))
        usable = session.group.usable
        sick = len(session.flows) >= MIN_HEALTHY and flow.health.loss > SICK_LOSS + 2 * median
        if sick and not flow.sick and flow.pump in usable and len(usable) > 1:
            usable.remove(flow.pump)
            flow.sick = True
            text = f"loses {flow.health.loss:.0%} of what we send on it, half of the flows lose less than {median:.0%}"
            self._outbox.tell(FlowSick(flow.flow_id, flow.key, text))
            self._turned_sick(now, flow)

    def _worn_out(self, now: float, flow: Flow, pump: PumpFlow) -> None:
        """Its counters will run out: it is replaced long before, and ends in any case before one could come twice."""
        if pump.counter >= END_AT:
            self._step(now, flow, Input.DEAD, "its counters have run out")
        elif pump.counter >= REPLACE_AT and not flow.sick:
            flow.sick = True
            text = "has used up half of its counters"
            self._outbox.tell(FlowSick(flow.flow_id, flow.key, text))
            self._turned_sick(now, flow)

    def _retransmit(self, now: float, flow: Flow) -> None:
        """A closing segment was not answered; the client also repeats its handshake."""
        if flow.tries >= CLOSE_TRIES or flow.repeat is None:
            self._step(now, flow, Input.UNANSWERED)
            return
        flow.tries += 1
        if flow.key.udp and flow.pump:
            flow.repeat = self._close_frame(flow, flow.pump)
        self._outbox.send([flow.repeat])
        self._tell_others(flow, messages.FlowDown(flow.flow_id))  # perhaps nothing arrives on it any more
        self._deadlines.set(Timer.RETRANSMIT, flow, now + CLOSE_RETRY * flow.tries)

    def _hasten(self, timer: Timer, key: Hashable, when: float) -> None:
        armed = self._deadlines.get(timer, key)
        if armed is None or armed > when:
            self._deadlines.set(timer, key, when)

    @abstractmethod
    def _turned_sick(self, now: float, flow: Flow) -> None:
        """``flow`` should be replaced: it loses too much, or its counters run out."""


def _median_loss(session: Session, *, udp: bool) -> float:
    """Of the session's flows of one kind, 1 if it has none: where a path throttles one kind, the other is the measure."""
    losses = sorted(flow.health.loss for flow in session.flows.values() if flow.key.udp is udp)
    return losses[len(losses) // 2] if losses else 1.0

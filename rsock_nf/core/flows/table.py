"""An endpoint's flows: which exist, how they move from state to state, and what is done about it.

``step`` gives a flow an input and moves it along the transition table.  It keeps what must always agree with the
states (which flows carry traffic), and puts the row's actions into a queue.  ``settle`` runs the queue: handlers of
packets, timers and verbs call it, actions never do.  So no action runs inside a transition, or inside another action.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from rsock_nf.core import messages
from rsock_nf.core.events import FlowClosed, FlowOpened
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.opening import Opening, Repeat
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import TRANSITIONS, Action, Input, State
from rsock_nf.core.flows.timers import SWEEP, Timer
from rsock_nf.core.protocols import MAX_FRAME
from rsock_nf.core.pump.pump import Pump
from rsock_nf.core.pump.state import Handover, PumpFlow
from rsock_nf.core.tcp.header import overhead
from rsock_nf.core.types import FlowKey, Outgoing

LINGER = 3.0
"""Seconds that a closed flow answers late FINs."""
DEMOTED = 2.0
"""Seconds that a demoted flow still receives."""
CLOSE_RETRY = 0.5
CLOSE_TRIES = 3

Flow: TypeAlias = Opening | Established


class Pending(NamedTuple):
    """An action that waits for ``settle``."""

    now: float
    flow: Flow
    action: Action
    reason: str


class FlowTable:
    """See the module.  ``max_payload``: the largest payload of one segment that the wire allows.

    ``perform`` runs one action; ``may_tell`` asks the wire whether a message may travel on a flow now.  Both are set by
    the endpoint when it is put together.
    """

    perform: Callable[[Pending], None]
    may_tell: Callable[[PumpFlow, object], bool]

    def __init__(self, context: Context, pump: Pump, *, initiator: bool, max_payload: int = MAX_FRAME) -> None:
        self._context = context
        self.pump = pump
        self._initiator = initiator
        self._max_payload = max_payload
        self._flows: dict[FlowKey, Flow] = {}
        self._queue: deque[Pending] = deque()
        self._settling = False

    # -- looking

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[Flow]:
        """Every flow that exists; it may change while one iterates."""
        return iter(list(self._flows.values()))

    def get(self, key: FlowKey) -> Flow | None:
        """The flow with these addresses and ports."""
        return self._flows.get(key)

    def established(self) -> list[Established]:
        """Every flow that the pump has, whatever its state."""
        return [flow for flow in self._flows.values() if isinstance(flow, Established)]

    def opening(self, *states: State) -> list[Opening]:
        """Flows on their way up, in one of ``states``."""
        return [flow for flow in self._flows.values() if isinstance(flow, Opening) and flow.state in states]

    def of(self, pump: PumpFlow) -> Established | None:
        """The flow that the pump calls ``pump``; None = another one has its addresses and ports by now."""
        flow = self._flows.get(pump.key)
        return flow if isinstance(flow, Established) and flow.pump is pump else None

    @property
    def closing(self) -> bool:
        """Some flow waits for the answer to its FIN."""
        return any(flow.state is State.CLOSING for flow in self._flows.values())

    # -- moving

    def step(self, now: float, flow: Flow, event: Input, reason: str = "") -> bool:
        """Apply one input; False = the flow's state has no use for it."""
        row = TRANSITIONS[flow.state].get(event)
        if row is None:
            self._context.counters[f"{event.value} in {flow.state.value}"] += 1
            return False
        reason = reason or event.value
        carried = flow.state is State.ESTABLISHED
        flow.state, actions = row
        if carried and flow.state is not State.ESTABLISHED and isinstance(flow, Established):
            self._left(now, flow, reason)
        self._queue += [Pending(now, flow, action, reason) for action in actions]
        return True

    def settle(self) -> None:
        """Run the actions that wait, and those that they lead to."""
        if self._settling:
            raise AssertionError("an action must not run actions")
        self._settling = True
        try:
            while self._queue:
                self.perform(self._queue.popleft())
        finally:
            self._settling = False

    def put(self, flow: Flow) -> None:
        """A flow begins."""
        self._flows[flow.key] = flow

    def discard(self, flow: Flow) -> None:
        """Forget everything about ``flow``."""
        if self._flows.get(flow.key) is flow:
            del self._flows[flow.key]
        if isinstance(flow, Established):
            self.pump.drop_flow(flow.pump)
        self._context.deadlines.cancel_all(flow)

    # -- carrying

    def hand_over(self, session: Session, flow_id: int, key: FlowKey, mss: int, start: Handover) -> PumpFlow:
        """Give a flow's sequence numbers to the pump, which takes its segments from now on."""
        codec = session.keys.codec(flow_id, initiator=self._initiator)
        start = start._replace(max_payload=min(mss, self.link_payload(key)))
        pump = PumpFlow(session.group, flow_id, key, codec, start)
        self.pump.put_flow(pump)
        return pump

    def take_over(self, opening: Opening, session: Session) -> Established:
        """A client's opening is over: the pump has the flow, and an ``Established`` is in the place of ``opening``."""
        identification = opening.template.identification if opening.template else 0
        start = Handover(opening.next_seq, opening.received, opening.scale, opening.window, 0, identification)
        pump = self.hand_over(session, opening.flow_id, opening.key, opening.mss, start)
        isn, slot = opening.peer_isn, opening.slot
        flow = Established(opening.state, session, pump, mss=opening.mss, peer_isn=isn, slot=slot)
        flow.health = opening.health
        self._context.deadlines.cancel_all(opening)
        self._flows[flow.key] = flow
        return flow

    def carry(self, now: float, flow: Established) -> None:
        """``flow``, whose state is ESTABLISHED, carries traffic from now on."""
        flow.since = now
        flow.path.start(flow.pump.max_payload)
        flow.session.flows[flow.flow_id] = flow
        flow.session.used = now
        flow.session.group.use(flow.pump)
        self._context.deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)
        self._context.outbox.tell(FlowOpened(flow.flow_id, flow.key))

    def _left(self, now: float, flow: Established, reason: str) -> None:
        """It carries no traffic any more, however it goes on."""
        flow.pump.group.rest(flow.pump)
        flow.session.flows.pop(flow.flow_id, None)
        flow.session.used = now
        self._context.deadlines.cancel(Timer.PROBE, flow)
        orderly = flow.state in (State.CLOSING, State.LINGERING)
        self._context.outbox.tell(FlowClosed(flow.flow_id, flow.key, reason, orderly))

    def link_payload(self, key: FlowKey) -> int:
        """The largest payload of one segment that link and wire take."""
        return min(self._context.mtu - overhead(len(key.local), udp=key.udp), self._max_payload)

    def ceiling(self, flow: Established) -> int:
        """The largest payload of one segment that opening, link and wire allow."""
        return min(flow.mss, self.link_payload(flow.key))

    # -- telling the peer

    def tell(self, session: Session, message: object, avoid: Established | None = None) -> None:
        """Send a control message on some usable flow that has credit left: whoever needs it asks again."""
        flows = [
            flow
            for flow in session.group.usable
            if (avoid is None or flow is not avoid.pump)
            and flow.in_flight < flow.bulk_window
            and self.may_tell(flow, message)
        ]
        if flows:
            flow = flows[self._context.random(2) % len(flows)]
            self._context.outbox.send([self.pump.send_control(flow, message)])

    def tell_others(self, flow: Established, message: object) -> None:
        """The same, on another flow than the one that it is about."""
        self.tell(flow.session, message, avoid=flow)

    # -- closing

    def peer_closes(self, now: float, flow: Established) -> None:
        """A close frame on a UDP carrier: the peer's own, or its answer to ours."""
        if flow.state is State.CLOSING:
            self.step(now, flow, Input.FIN)
        elif flow.state is not State.LINGERING:
            self.step(now, flow, Input.PEER_CLOSE, "the other side closed it")
        elif flow.repeat is None:  # we answered, and that was lost; who closed first answers nothing
            self._context.outbox.send([self._close_frame(flow)])

    def perform_closing(self, now: float, flow: Established, action: Action) -> None:
        """The actions of a flow's end, which both roles have."""
        deadlines, outbox = self._context.deadlines, self._context.outbox
        match action:
            case Action.DEMOTE:
                self.tell_others(flow, messages.FlowDown(flow.flow_id))
                deadlines.set(Timer.FORGET, flow, now + DEMOTED)
            case Action.SEND_FIN:
                flow.repeat = Repeat(self._close_frame(flow), now)
                outbox.send([flow.repeat.segment])
                deadlines.set(Timer.RETRANSMIT, flow, now + CLOSE_RETRY)
            case Action.SEND_FIN_ACK:
                flow.repeat = None if flow.key.udp else Repeat(self.pump.finish(flow.pump), now)
                outbox.send([flow.repeat.segment if flow.repeat else self._close_frame(flow)])
                deadlines.set(Timer.FORGET, flow, now + LINGER)
            case Action.SEND_LAST_ACK:
                if not flow.key.udp:
                    outbox.send([self.pump.acknowledge(flow.pump)])
                deadlines.cancel(Timer.RETRANSMIT, flow)
                deadlines.set(Timer.FORGET, flow, now + LINGER)
            case _:
                raise AssertionError(f"{action} is no action of a flow's end")

    def repeat_close(self, now: float, flow: Established) -> None:
        """The closing segment was not answered."""
        repeat = flow.repeat
        if repeat is None or repeat.tries >= CLOSE_TRIES:
            self.step(now, flow, Input.UNANSWERED)
            return
        repeat.tries += 1
        if flow.key.udp:
            repeat.segment = self._close_frame(flow)
        self._context.outbox.send([repeat.segment])
        self.tell_others(flow, messages.FlowDown(flow.flow_id))  # perhaps nothing arrives on it any more
        self._context.deadlines.set(Timer.RETRANSMIT, flow, now + CLOSE_RETRY * repeat.tries)

    def _close_frame(self, flow: Established) -> Outgoing:
        """On a UDP carrier it is made anew each time: a repeated counter would be dropped as a replay."""
        return self.pump.send_control(flow.pump, messages.CloseFlow(), fin=not flow.key.udp)

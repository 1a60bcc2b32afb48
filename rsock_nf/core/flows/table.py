"""The flows of an endpoint: which exist, how they move from state to state, and the queue of actions.

``step`` gives an input to a flow and moves it along the transition table.  It keeps the list of flows that carry
traffic in step with the states, and puts the actions of the row into a queue.  ``settle`` runs the queue.  Handlers
of packets, timers and verbs call ``settle``; actions never do.  So no action runs inside a transition, or inside
another action.

Not here: the segments that a flow sends while it carries traffic (``pump``), and the openings (``ends.openings``).
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
"""Seconds for which a closed flow still answers late FINs."""
DEMOTED = 2.0
"""Seconds for which a demoted flow still receives."""
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

    ``may_tell`` asks the wire whether a message may travel on a flow now.  ``perform`` runs one action; the endpoint,
    which knows who does what, sets it when it is made.
    """

    perform: Callable[[Pending], None]

    def __init__(
        self,
        context: Context,
        pump: Pump,
        may_tell: Callable[[PumpFlow, object], bool],
        *,
        initiator: bool,
        max_payload: int = MAX_FRAME,
    ) -> None:
        self.may_tell = may_tell
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
        """Every flow that exists.  The table may change during the iteration."""
        return iter(list(self._flows.values()))

    def get(self, key: FlowKey) -> Flow | None:
        """The flow with these addresses and ports; None = there is none."""
        return self._flows.get(key)

    def established(self) -> list[Established]:
        """Every flow that the pump has, in whatever state."""
        return [flow for flow in self._flows.values() if isinstance(flow, Established)]

    def opening(self, *states: State) -> list[Opening]:
        """The opening flows that are in one of ``states``."""
        return [flow for flow in self._flows.values() if isinstance(flow, Opening) and flow.state in states]

    def of(self, pump: PumpFlow) -> Established | None:
        """The flow to which ``pump`` belongs.  None = it ended, or another one has its addresses and ports now."""
        flow = self._flows.get(pump.key)
        return flow if isinstance(flow, Established) and flow.pump is pump else None

    @property
    def closing(self) -> bool:
        """Some flow waits for the answer to its FIN or close frame."""
        return any(flow.state is State.CLOSING for flow in self._flows.values())

    # -- moving

    def step(self, now: float, flow: Flow, event: Input, reason: str = "") -> bool:
        """Give ``flow`` an input.  Returns False if the table has no row for it in the flow's state."""
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
        """Run the queued actions, and those that they add to the queue."""
        if self._settling:
            raise AssertionError("an action must not run actions")
        if not self._queue:
            return  # as after nearly every batch
        self._settling = True
        try:
            while self._queue:
                self.perform(self._queue.popleft())
        finally:
            self._settling = False

    def put(self, flow: Flow) -> None:
        """Add a flow to the table."""
        self._flows[flow.key] = flow

    def move(self, flow: Established, key: FlowKey) -> None:
        """``flow``, over UDP, has these addresses and ports from now on, which no other flow has."""
        del self._flows[flow.key]
        self.pump.move_flow(flow.pump, key)
        flow.key = key
        self._flows[key] = flow

    def discard(self, flow: Flow) -> None:
        """Remove ``flow`` from the table and the pump, and cancel its timers."""
        if self._flows.get(flow.key) is flow:
            del self._flows[flow.key]
        if isinstance(flow, Established):
            self.pump.drop_flow(flow.pump)
        self._context.deadlines.cancel_all(flow)

    # -- carrying

    def hand_over(self, session: Session, flow_id: int, key: FlowKey, mss: int, start: Handover) -> PumpFlow:
        """Give a flow's sequence numbers to the pump.  From now on the pump takes its segments."""
        codec = session.keys.codec(flow_id, initiator=self._initiator)
        start = start._replace(max_payload=min(mss, self.link_payload(key)))
        pump = self.pump.states.flow(session.group, flow_id, key, codec, start)
        self.pump.put_flow(pump)
        return pump

    def take_over(self, opening: Opening, session: Session) -> Established:
        """A client's opening is over: give the flow to the pump, and put an ``Established`` in the place of
        ``opening``.
        """
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
        """``flow`` is in state ESTABLISHED: from now on it carries traffic."""
        flow.since = now
        if flow.pump.max_payload > (ceiling := self.ceiling(flow)):  # the link became narrower during the opening
            self.pump.set_max_payload(flow.pump, ceiling)
        flow.path.start(flow.pump.max_payload)
        flow.session.flows[flow.flow_id] = flow
        flow.session.used = now
        flow.session.group.use(flow.pump)
        self._context.deadlines.set_if_unset(Timer.SWEEP, None, now + SWEEP)
        self._context.outbox.tell(FlowOpened(flow.flow_id, flow.key))

    def _left(self, now: float, flow: Established, reason: str) -> None:
        """``flow`` has left state ESTABLISHED: it carries no traffic any more, whatever its new state is."""
        flow.pump.group.rest(flow.pump)
        if flow.session.flows.pop(flow.flow_id, None) is not None:
            flow.session.ended[flow.key.udp].add(flow)
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
        """Send a control message on some usable flow that has credit.

        The message may be lost: a caller that needs an answer asks again.
        """
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

    def answer(self, now: float, session: Session, message: object) -> None:
        """As ``tell``, where a frame of the peer asks for it: at most ``ANSWERS`` a second."""
        if session.answers.take(now):
            self.tell(session, message)
        else:
            self._context.counters["answers above a session's rate"] += 1

    def tell_others(self, flow: Established, message: object) -> None:
        """Send a control message about ``flow`` on another flow than itself."""
        self.tell(flow.session, message, avoid=flow)

    # -- closing

    def peer_closes(self, now: float, flow: Established) -> None:
        """A close frame came on a UDP carrier: the peer's own, or its answer to ours."""
        if flow.state is State.CLOSING:
            self.step(now, flow, Input.FIN)
        elif flow.state is not State.LINGERING:
            self.step(now, flow, Input.PEER_CLOSE, "the other side closed it")
        elif flow.repeat is None and flow.closes_answered < CLOSE_TRIES:
            # Our answer was lost.  If we closed first, there is nothing to answer.  And if each end takes the other's
            # frame for the first one, each answer would be answered again, for ever: so there is a limit.
            flow.closes_answered += 1
            self._context.outbox.send([self._close_frame(flow)])

    def perform_closing(self, now: float, flow: Established, action: Action) -> None:
        """Run an action of a flow's end.  Both roles have the same ones."""
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
        """The closing segment was not answered: send it again, or give up."""
        repeat = flow.repeat
        if repeat is None or repeat.tries >= CLOSE_TRIES:
            self.step(now, flow, Input.UNANSWERED)
            return
        repeat.tries += 1
        if flow.key.udp:
            repeat.segment = self._close_frame(flow)
        self._context.outbox.send([repeat.segment])
        self.tell_others(flow, messages.FlowDown(flow.flow_id))  # perhaps nothing passes on this flow any more
        self._context.deadlines.set(Timer.RETRANSMIT, flow, now + CLOSE_RETRY * repeat.tries)

    def _close_frame(self, flow: Established) -> Outgoing:
        """A close frame; over TCP with FIN.

        On a UDP carrier each repetition is a new frame: a repeated counter would be dropped as a replay.
        """
        return self.pump.send_control(flow.pump, messages.CloseFlow(), fin=not flow.key.udp)

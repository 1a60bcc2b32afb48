"""A server's flows over UDP follow their clients: a NAT has given one another port, or the client is elsewhere now.

Frames do not name their flow.  So a payload from an unknown address is tried on some of the flows at the port to which
it came.  If a frame of a flow authenticates that is newer than all before, the flow may have moved:

    client, elsewhere → frame → a probe to the new address → its answer from there → the flow has the new address

Until that answer the old address stays in use.  So nobody can move a flow who copies a frame to another address: the
answer would have to come from there.  What came meanwhile is taken, as on any flow.

Not here: flows over TCP, which a NAT ends.  Which frame is whose (``FlowCodec.may_open`` and ``unpack``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from rsock_nf.core import messages
from rsock_nf.core.ends.intake import Intake
from rsock_nf.core.ends.wire import Probing
from rsock_nf.core.events import FlowMoved
from rsock_nf.core.flows.allowance import Allowance
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.path_mtu import PLATEAUS
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import Input, State
from rsock_nf.core.flows.table import FlowTable
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.protocols import Kind
from rsock_nf.core.pump.pump import Slow, SlowFrames
from rsock_nf.core.tcp.segment import Segment
from rsock_nf.core.types import FlowKey, Malformed

TRIALS = 16
"""On so many flows of the same client address one payload is tried, at most, and on as many of any address.  The next
payload is tried on others."""
TRIED_A_SECOND = 300
"""Payloads that are tried on flows of the same client address, and as many on others.  A trial takes 1 to 4
microseconds, so strangers get 1 to 4 % of a core by them."""
PROVE_WITHIN = 3.0
"""Seconds.  A new address that has not proved itself until then begins anew."""
ASK_AGAIN = 0.2
"""Seconds after which a new address is probed again, if frames still come from there."""
UNPROVED_SHARE = 3
"""An address that has not proved itself gets at most so many bytes for each that came from there (RFC 9000 section
8.1)."""
_FIRST_NUMBER = 3 << 30
"""Probes of a new address have random numbers from here on: those of a flow and of the search for its largest segment
do not reach them."""


Place: TypeAlias = tuple[bytes, int] | tuple[bytes, int, bytes]
"""Our address and port, and perhaps the client address."""


@dataclass(slots=True, eq=False)
class Move:
    """A flow that perhaps has another address now.  Bytes of payload, times in seconds."""

    flow: Established
    key: FlowKey
    """With the new address."""
    number: int
    """Of the probe that the new address has to answer."""
    since: float
    asked: float = -math.inf
    received: int = 0
    sent: int = 0


class Flows:
    """Flows by where a payload of theirs may come to.  Those that were tried last are tried again last."""

    def __init__(self) -> None:
        self._at: dict[Place, dict[Established, None]] = {}

    def add(self, flow: Established) -> None:
        """``flow`` may move."""
        for place in _places(flow.key):
            self._at.setdefault(place, {})[flow] = None

    def remove(self, flow: Established) -> None:
        """``flow`` has ended, or gets another key."""
        for place in _places(flow.key):
            flows = self._at.get(place, {})
            flows.pop(flow, None)
            if not flows:
                self._at.pop(place, None)

    def turn(self, place: Place) -> list[Established]:
        """At most ``TRIALS`` of the flows there.  It is the turn of the others next."""
        flows = self._at.get(place, {})
        chosen = list(islice(flows, TRIALS))
        if len(flows) > TRIALS:
            for flow in chosen:
                del flows[flow]
                flows[flow] = None
        return chosen

    def __contains__(self, place: Place) -> bool:
        return place in self._at


def _places(key: FlowKey) -> tuple[Place, Place]:
    """(our port, our port as seen from this client address)."""
    return (key.local, key.local_port), (key.local, key.local_port, key.remote)


class Moves:
    """See the module."""

    def __init__(self, context: Context, table: FlowTable, intake: Intake, probing: Probing) -> None:
        self._context = context
        self._table = table
        self._intake = intake
        self._probing = probing
        self._flows = Flows()
        self._moves: dict[Established, Move] = {}
        self._elsewhere: dict[FlowKey, Move] = {}
        """The same, by new key."""
        self._near, self._far = Allowance(TRIED_A_SECOND), Allowance(TRIED_A_SECOND)

    def begin(self, flow: Established) -> None:
        """``flow`` carries traffic from now on."""
        if flow.key.udp:
            self._flows.add(flow)

    def end(self, flow: Established) -> None:
        """``flow`` has ended."""
        self._flows.remove(flow)
        self._forget(flow)

    # -- from elsewhere

    def receive(self, now: float, segment: Segment) -> bool:
        """A payload came from an unknown address, or from that of a flow of which nothing in it authenticates.

        Returns whether it is of a flow with another address.
        """
        move = self._elsewhere.get(segment.key)
        if move is not None and self._take(now, move.flow, segment):
            return True
        anywhere, there = _places(segment.key)  # most NATs change the port alone, so flows of this address come first
        return self._try(now, segment, there, self._near) or self._try(now, segment, anywhere, self._far)

    def _try(self, now: float, segment: Segment, place: Place, allowance: Allowance) -> bool:
        """Try the payload on the next flows at ``place``."""
        if place not in self._flows:
            return False
        if not allowance.take(now):
            self._context.counters["payloads of no flow that were not tried"] += 1
            return False
        for flow in self._flows.turn(place):
            if flow.pump.codec.may_open(segment.payload) and self._take(now, flow, segment):
                return True
        return False

    def _take(self, now: float, flow: Established, segment: Segment) -> bool:
        """Take the payload, if it is of ``flow``.

        Data without a seal is not taken from elsewhere, but has the address prove itself.
        """
        if flow.state is not State.ESTABLISHED or flow.key == segment.key:
            return False
        opened, _ = flow.pump.codec.unpack(segment.payload, 0)
        if not opened:
            return False
        sealed = [frames for frames in opened if frames.counter >= 0]
        before = _newest(flow)
        runs, slow = self._table.pump.take_elsewhere(flow.pump, sealed)
        if _newest(flow) != before or not sealed:
            self._ask(now, flow, segment, known=bool(sealed))
        move = self._moves.get(flow)
        if move is not None and move.key == segment.key:
            slow = [item for item in slow if not self._proves(now, move, item)]
        self._intake.put(runs, slow)
        return True

    def _ask(self, now: float, flow: Established, segment: Segment, *, known: bool) -> None:
        """Have the address from which ``segment`` came prove itself.

        ``known``: the client of ``flow`` made what came.  If not, an address that is being proved has precedence.
        """
        move = self._moves.get(flow)
        if move is None or now - move.since > PROVE_WITHIN or (known and move.key != segment.key):
            self._forget(flow)
            move = Move(flow, segment.key, _FIRST_NUMBER | self._context.random(4) >> 2, now)
            self._moves[flow] = self._elsewhere[segment.key] = move
        if move.key != segment.key:
            return
        move.received += len(segment.payload)
        if now - move.asked >= ASK_AGAIN and self._send(move, messages.Probe(move.number)):
            move.asked = now

    def _send(self, move: Move, message: messages.Control) -> bool:
        """Send to the new address, if enough came from there."""
        pump = move.flow.pump
        size = pump.codec.control_size(message)
        if move.sent + size > UNPROVED_SHARE * move.received:
            return False
        move.sent += size
        self._context.outbox.send([self._table.pump.send_control(pump, message)._replace(carrier=move.key)])
        return True

    def _proves(self, now: float, move: Move, item: Slow) -> bool:
        """Whether this, from the new address, is the answer to our probe.  A probe from there is answered there."""
        flow = move.flow
        if not isinstance(item, SlowFrames) or item.frames.kind != Kind.CONTROL:
            return False
        try:
            message = flow.pump.codec.read_control(item.frames.datagrams[0])
        except Malformed:
            return False  # who reads it next counts it
        if isinstance(message, messages.ProbeAnswer) and message.number == move.number:
            self._follow(now, move)
            return True
        if isinstance(message, messages.Probe) and flow.session.probe_answers.take(now):
            self._send(move, messages.ProbeAnswer(message.number, flow.flow_id, item.received & 0xFFFFFFFF))
        return False  # it is answered at the old address, too: perhaps the client is there

    # -- the new address has proved itself

    def _follow(self, now: float, move: Move) -> None:
        """``move.flow`` has the new key from now on.  A flow that had it before has lost its client."""
        flow, old = move.flow, move.flow.key
        self._forget(flow)
        other = self._table.get(move.key)
        if other is not None:
            self._table.step(now, other, Input.DEAD, "its addresses and ports were used again")
            self._table.settle()
        self._flows.remove(flow)
        self._table.move(flow, move.key)
        self._flows.add(flow)
        flow.session.peer = str(move.key.remote_address)
        self._context.outbox.tell(FlowMoved(flow.flow_id, old, move.key))
        self._probe(now, flow)

    def _probe(self, now: float, flow: Established) -> None:
        """Probes that went to the old address say nothing; and the new path may take less."""
        flow.health.clear()
        if flow.welcome:
            flow.pump.group.use(flow.pump)
        self._probing.too_big(now, flow, PLATEAUS[-1])
        self._context.deadlines.hasten(Timer.PROBE, flow, now)

    def _forget(self, flow: Established) -> None:
        move = self._moves.pop(flow, None)
        if move is not None and self._elsewhere.get(move.key) is move:
            del self._elsewhere[move.key]


def _newest(flow: Established) -> tuple[int, int]:
    """The highest counters of control and other frames.  They only grow."""
    return flow.pump.control_replay.highest, flow.pump.replay.highest

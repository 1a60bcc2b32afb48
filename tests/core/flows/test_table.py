"""The flow table alone: what agrees with the states at once, and what waits for ``settle``."""

from __future__ import annotations

import random

import pytest

from rsock_nf.core.events import FlowClosed, FlowOpened
from rsock_nf.core.flows.context import Context
from rsock_nf.core.flows.opening import Opening
from rsock_nf.core.flows.session import Established, Session
from rsock_nf.core.flows.states import Action, Input, State
from rsock_nf.core.flows.table import FlowTable, Pending
from rsock_nf.core.flows.timers import Timer
from rsock_nf.core.parameters import Cipher, ClientParameters
from rsock_nf.core.pump.pump import Pump
from rsock_nf.core.pump.state import FlowGroup
from rsock_nf.core.types import FlowKey
from rsock_nf.wire.native.handshake import NativeKeys
from rsock_nf.wire.native.limits import LIMITS

KEY = FlowKey(b"\x0a\0\0\x01", 40_000, b"\xc0\0\x02\x02", 10_001)


class Bench:
    """A table, and what it has done."""

    def __init__(self) -> None:
        self.context = Context(ClientParameters(), random.Random(1).randbytes, 1500)
        self.table = FlowTable(self.context, Pump(seed=1, max_burst_bytes=0), lambda *_: True, initiator=True)
        self.performed: list[Pending] = []
        self.table.perform = self.performed.append
        keys = NativeKeys.derive(Cipher.NONE, bytes(32), bytes(32))
        self.session = Session(1, keys, "native", LIMITS, Cipher.NONE, FlowGroup(None), 0.0)

    def opening(self, state: State = State.CONFIRMING) -> Opening:
        opening = Opening(7, KEY, state=state, identification=0)
        opening.mss = 1400
        self.table.put(opening)
        return opening

    def established(self) -> Established:
        flow = self.table.take_over(self.opening(), self.session)
        self.table.step(1.0, flow, Input.READY)
        self.table.settle()
        self.table.carry(1.0, flow)
        self.context.outbox.take()
        self.performed.clear()
        return flow


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_pump_has_a_flow_from_its_take_over_on(bench: Bench) -> None:
    opening = bench.opening()
    bench.context.deadlines.set(Timer.RETRANSMIT, opening, 2.0)
    flow = bench.table.take_over(opening, bench.session)
    assert bench.table.get(KEY) is flow
    assert list(bench.table.pump.flows()) == [flow.pump]
    assert (flow.flow_id, flow.state, flow.pump.max_payload) == (7, State.CONFIRMING, 1400)
    assert not flow.usable
    assert bench.context.deadlines.next() is None, "timers of the opening are over"


def test_a_flow_that_carries_is_usable_and_told(bench: Bench) -> None:
    flow = bench.table.take_over(bench.opening(), bench.session)
    bench.table.step(1.0, flow, Input.READY)
    assert not bench.performed
    bench.table.settle()
    assert [pending.action for pending in bench.performed] == [Action.OPEN]
    bench.table.carry(1.0, flow)
    assert flow.usable
    assert bench.session.flows == {7: flow}
    assert bench.session.largest_datagram() == 1400 - flow.pump.codec.overhead
    assert bench.context.outbox.take() == [FlowOpened(7, KEY)]


def test_a_flow_that_leaves_established_rests_at_once(bench: Bench) -> None:
    """Whoever sends before the actions run must not choose it."""
    flow = bench.established()
    bench.context.deadlines.set(Timer.PROBE, flow, 2.0)
    bench.table.step(3.0, flow, Input.DEAD, "silence")
    assert not flow.usable
    assert not bench.session.flows
    assert bench.session.largest_datagram() is None
    assert bench.context.deadlines.get(Timer.PROBE, flow) is None
    assert bench.context.outbox.take() == [FlowClosed(7, KEY, "silence", orderly=False)]
    assert not bench.performed
    bench.table.settle()
    assert [(pending.action, pending.reason) for pending in bench.performed] == [
        (Action.VACATE, "silence"),
        (Action.DISCARD, "silence"),
    ]


def test_actions_that_arise_from_actions_run_after_them(bench: Bench) -> None:
    flow = bench.established()
    done: list[Action] = []

    def perform(pending: Pending) -> None:
        done.append(pending.action)
        if pending.action is Action.VACATE:
            bench.table.step(2.0, flow, Input.EXPIRE)

    bench.table.perform = perform
    bench.table.step(2.0, flow, Input.RESET)
    bench.table.settle()
    assert done == [Action.VACATE, Action.DEMOTE, Action.DISCARD]


def test_an_input_without_a_row_is_counted_and_does_nothing(bench: Bench) -> None:
    flow = bench.established()
    assert not bench.table.step(2.0, flow, Input.SYN_ACK)
    bench.table.settle()
    assert (flow.state, bench.performed) == (State.ESTABLISHED, [])
    assert bench.context.counters["SYN-ACK in established"] == 1


def test_a_discarded_flow_leaves_the_place_of_its_successor_alone(bench: Bench) -> None:
    old = bench.established()
    new = bench.table.take_over(bench.opening(), bench.session)
    bench.table.discard(old)
    assert bench.table.get(KEY) is new
    assert list(bench.table.pump.flows()) == [new.pump]

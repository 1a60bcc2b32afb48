"""Which flows are renewed, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from rsock_nf.core.ends.renewals import AT_ONCE, JITTER, Renewals
from rsock_nf.core.ends.slots import Slot
from rsock_nf.core.flows.session import Established
from rsock_nf.core.flows.states import State


def a_flow() -> Established:
    return cast(Established, SimpleNamespace(state=State.ESTABLISHED))


def slots(count: int) -> list[Slot]:
    return [Slot(index, 1000 + index, 0.0, flow=a_flow()) for index in range(count)]


def renewals(found: list[Slot], max_age: float = 0.0, jitter: int = 127) -> Renewals:
    made = Renewals(found, lambda count: bytes([jitter]) * count, max_age)
    for slot in found:
        made.opened(0.0, slot)
    return made


def replace(made: Renewals, now: float, slot: Slot) -> Established:
    """Returns the flow that it had."""
    old = slot.flow
    assert old is not None
    slot.flow = a_flow()
    made.opened(now, slot)
    return old


def test_by_default_no_flow_is_renewed() -> None:
    assert renewals(slots(3)).take(1e9) == []


@pytest.mark.parametrize(("jitter", "age"), [(0, 100 * (1 - JITTER)), (255, 100 * (1 + JITTER))])
def test_the_age_varies(jitter: int, age: float) -> None:
    found = slots(1)
    made = renewals(found, 100.0, jitter)
    assert made.take(age - 0.1) == []
    assert made.take(age + 0.1) == found


def test_old_flows_are_renewed_one_at_a_time() -> None:
    found = slots(5)
    made = renewals(found, 100.0)
    renewed: list[Slot] = []
    for _ in range(5):
        (slot,) = made.take(150.0)
        assert made.take(150.0) == [], "the other one is not there yet"
        renewed.append(slot)
        old = replace(made, 150.0, slot)
        assert made.take(150.0) == [], "the old one has not closed"
        old.state = State.CLOSING
    assert set(renewed) == set(found)
    assert made.take(150.0) == [], "all are young"


def test_all_are_renewed_a_few_at_a_time() -> None:
    found = slots(10)
    made = renewals(found)
    made.all()
    begun = made.take(1.0)
    assert len(begun) == AT_ONCE
    seen = list(begun)
    while begun:
        assert made.take(1.0) == []
        replace(made, 1.0, begun.pop())
        more = made.take(1.0)
        assert len(more) <= 1
        begun += more
        seen += more
    assert seen == found


def test_a_flow_that_ends_meanwhile_holds_nobody_up() -> None:
    found = slots(6)
    made = renewals(found)
    made.all()
    for slot in made.take(1.0):
        slot.flow = None
    found[3].flow = None
    assert made.take(1.0) == found[4:]


def test_the_second_command_names_the_flows_anew() -> None:
    found = slots(4)
    made = renewals(found)
    made.all()
    first = made.take(1.0)
    made.all()
    assert made.take(1.0) == [], "three are under way"
    for slot in first:
        replace(made, 1.0, slot)
    assert made.take(1.0) == [found[3]], "they are new already"


def test_the_record_of_a_flow_does_not_outlive_its_slots_next_one() -> None:
    found: list[Any] = slots(1)
    made = renewals(found, 100.0)
    replace(made, 90.0, found[0])
    assert made.take(150.0) == []
    assert made.take(190.0) == found

"""When flows are renewed because flows die at a certain age."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from rsock_nf.core.ends.renewals import BEFORE, Renewals
from rsock_nf.core.flows.states import State


class Slot:
    udp = False

    def __init__(self, since: float) -> None:
        self.flow: Any = flow(since)


def flow(since: float) -> Any:
    return SimpleNamespace(
        since=since, state=State.ESTABLISHED, key=SimpleNamespace(udp=False), pump=SimpleNamespace(received_frames=1)
    )


def test_the_age_counts_from_the_birth_of_a_flow() -> None:
    """Flows that live when the age is learnt have lived a part of it already."""
    old, new = Slot(110.0), Slot(160.0)
    renewals: Any = Renewals(cast("Any", [old, new]), bytes, 0.0)
    learnt = [renewals.died(now, flow(now - 50.0)) for now in (130.0, 170.0)]
    assert learnt[-1] > 0
    assert renewals.take(170.0) == [old], "it is 60 s old, and flows die with 50"
    assert renewals.take(160.0 + learnt[-1] * BEFORE[0]) == [new]


def test_the_configured_age_is_not_counted_anew() -> None:
    one = Slot(100.0)
    renewals: Any = Renewals(cast("Any", [one]), lambda size: bytes([128] * size), 60.0)
    renewals.opened(100.0, one)
    for now in (130.0, 150.0):
        renewals.died(now, flow(now - 500.0))
    assert renewals.take(162.0) == [one]

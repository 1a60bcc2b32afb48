"""The clock of the day and the monotonic clock move apart when a machine wakes, or goes back to a snapshot."""

from __future__ import annotations

import pytest

from rsock_nf.runtime.host.clock_jumps import JUMP, ClockJumps


@pytest.mark.parametrize("by", [JUMP + 0.1, 3600.0, -JUMP - 0.1, -86400.0])
def test_a_jump_is_told_once(by: float) -> None:
    wall = 1_800_000_000.0
    clocks = ClockJumps(lambda: wall)
    assert not clocks.jumped(50.0), "the first look has nothing to compare with"
    wall += 1.0
    assert not clocks.jumped(51.0)
    wall += 1.0 + by
    assert clocks.jumped(52.0)
    wall += 1.0
    assert not clocks.jumped(53.0)


def test_a_late_look_and_a_slewed_clock_are_no_jump() -> None:
    wall, now = 1_800_000_000.0, 50.0
    clocks = ClockJumps(lambda: wall)
    for step in (1.0, 0.9, 30.0, 1.1):
        wall += step * 1.0005
        now += step
        assert not clocks.jumped(now)

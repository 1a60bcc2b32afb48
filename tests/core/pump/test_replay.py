"""The replay window at its edges."""

import sys

import pytest

from rsock_nf.core.pump.replay import SIZE, ReplayWindow


def test_wide_enough_for_a_burst_of_the_smallest_frames() -> None:
    assert SIZE >= 65535 // 9
    assert SIZE >= 4096


def test_each_counter_once() -> None:
    window = ReplayWindow()
    assert window.highest == -1
    assert window.accept(0)
    assert not window.accept(0)
    assert window.accept_run(1, 44) == (1 << 44) - 1
    assert window.accept_run(1, 44) == 0
    assert window.highest == 44


def test_oldest_counter_and_the_one_before() -> None:
    window = ReplayWindow()
    window.accept(SIZE)
    assert window.accept(1)
    assert not window.accept(0)
    window.accept(10 * SIZE)
    assert window.accept(9 * SIZE + 1)
    assert not window.accept(9 * SIZE)


def test_run_partly_seen_partly_too_old() -> None:
    window = ReplayWindow(8)
    window.accept(10)  # the window is 3 .. 10
    window.accept(5)
    assert window.accept_run(1, 12) == 0b1101_1110_1100  # not 1 and 2, 5, 10
    assert window.highest == 12


def test_only_what_authenticated_is_accepted() -> None:
    window = ReplayWindow()
    assert window.accept_mask(100, 0b0101) == 0b0101
    assert window.highest == 102
    assert window.accept_run(100, 4) == 0b1010


def test_empty_run_changes_nothing() -> None:
    window = ReplayWindow()
    assert window.accept_run(10 * SIZE, 0) == 0
    assert window.highest == -1
    assert window.accept(0)


@pytest.mark.parametrize("far", [1 << 31, (1 << 64) - 1])
def test_a_jump_costs_no_memory(far: int) -> None:
    window = ReplayWindow()
    window.accept_run(0, 100)
    assert window.accept_run(far, 44) == (1 << 44) - 1
    assert sys.getsizeof(window._seen) < SIZE // 4
    assert window.accept(far - 1)
    assert window.highest == far + 43
    assert not window.accept(99)


def test_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="0 counters"):
        ReplayWindow(0)

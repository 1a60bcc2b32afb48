"""What counts as late: the kernel's stamp, but never more than the time since the queue was last empty."""

from __future__ import annotations

import pytest

from rsock_nf.link.waiting_time import (
    AGAIN,
    BEHIND,
    GRACE,
    LATE,
    LOST,
    MANY,
    SMALL,
    WaitingTime,
    may_be_control,
    not_the_cause,
)


class Scene:
    def __init__(self) -> None:
        self.now, self.age, self.asked = 100.0, 0.0, 0
        self.waiting = WaitingTime(self.told, lambda: self.now)
        self.asked = 0  # the first question switches the stamps on

    def told(self) -> float:
        self.asked += 1
        return self.age

    def read(self, after: float, *, full: bool) -> float:
        self.now += after
        return self.waiting.read(full=full)


def test_stamps_are_switched_on_before_the_first_read() -> None:
    asked = iter([0.0])
    WaitingTime(asked.__next__)
    assert list(asked) == []


def test_a_queue_that_is_emptied_again_and_again_is_not_asked() -> None:
    scene = Scene()
    scene.age = 5.0
    assert [scene.read(BEHIND / 2, full=False) for _ in range(20)] == [0.0] * 20
    assert scene.asked == 0


def test_a_standing_queue_is_as_late_as_the_stamp_says() -> None:
    scene = Scene()
    assert [scene.read(LATE / 4, full=True) for _ in range(3)] == [0.0] * 3
    scene.age = LATE + 0.05
    assert scene.read(LATE, full=True) == 0.0, "grace"
    assert scene.read(1.1 * GRACE, full=True) == LATE + 0.05
    scene.age = LATE / 2
    assert scene.read(0.01, full=True) == 0.0
    scene.age = LATE
    assert scene.read(0.6 * LATE, full=True) == LATE, "no grace again"
    scene.read(0.01, full=False)  # emptied
    assert scene.read(0.01, full=True) == 0.0
    scene.age = LATE
    assert scene.read(AGAIN + LATE, full=True) == 0.0, "it is a new queue"


def test_who_is_behind_is_told_before_anything_is_late() -> None:
    scene = Scene()
    scene.age = BEHIND
    assert scene.read(BEHIND / 2, full=True) == 0.0
    assert scene.waiting.waited == 0.0
    assert scene.read(BEHIND, full=True) == 0.0
    assert scene.waiting.waited == BEHIND
    scene.read(0.01, full=False)  # emptied
    scene.read(0.01, full=True)
    assert scene.waiting.waited == 0.0


def test_who_has_nothing_to_read_is_not_behind() -> None:
    """Before: a server on which nothing came any more took two SYNs of each read, until something came."""
    scene = Scene()
    scene.age = BEHIND
    scene.read(2 * BEHIND, full=True)
    scene.now += AGAIN / 2
    assert scene.waiting.waited == BEHIND
    scene.now += AGAIN / 2
    assert scene.waiting.waited == 0.0


def test_after_a_standstill_no_read_is_kept_that_may_hold_something_old() -> None:
    """The kernel tells the age of the last message only.  Before: of few messages in 3 s, all were kept."""
    scene = Scene()
    assert scene.waiting.limit == MANY
    scene.now += 3.0
    limits, lost = [], []
    for age in (3.0, 2.5, 1.5, 0.1):
        scene.age = age
        limits.append(scene.waiting.limit)
        lost.append(scene.waiting.read(full=True) >= LOST)
    assert limits == [1, 2, 4, 8]
    assert lost == [True] * 4, "the last read may begin with something of 1.5 s"
    assert scene.waiting.limit == MANY, "what is left has come after it"
    assert scene.read(0.01, full=True) == 0.0


def test_an_idle_queue_costs_one_small_read() -> None:
    scene = Scene()
    scene.now += 100.0
    assert scene.waiting.limit == 1
    scene.age = 0.001
    assert scene.read(0.0, full=True) == 0.0
    assert scene.waiting.limit == MANY


def test_a_queue_that_stands_for_long_is_read_in_large_parts() -> None:
    scene = Scene()
    scene.age = 2.0
    assert [scene.read(2.0, full=True) for _ in range(10)] == [2.0] * 10
    assert scene.waiting.limit == MANY


def test_a_host_that_stood_still_for_a_moment_loses_nothing() -> None:
    scene = Scene()
    scene.age = 0.6
    assert [scene.read(0.6, full=True), *(scene.read(0.001, full=True) for _ in range(20))] == [0.0] * 21
    assert scene.read(0.001, full=False) == 0.0


def test_what_came_while_the_process_stood_still_for_long_is_late_though_the_queue_is_short() -> None:
    scene = Scene()
    scene.age = 19.0
    assert scene.read(20.0, full=False) == 19.0


@pytest.mark.parametrize("full", [False, True])
def test_a_clock_that_is_set_makes_nothing_older_than_the_empty_queue(full: bool) -> None:  # noqa: FBT001
    scene = Scene()
    scene.waiting.empty()
    scene.age = 3600.0
    assert scene.read(0.3, full=full) == 0.0
    assert scene.read(3.0, full=full) == pytest.approx(3.0 if not full else 3.3)


@pytest.mark.parametrize(
    ("size", "segment_size", "expected"),
    [
        (SMALL, 0, True), (SMALL + 1, 0, False), (0, 0, True),
        (10 * 1400, 1400, False), (10 * 1400 + 60, 1400, True), (10 * 1400 + 700, 1400, False), (640, 64, True),
    ],
)  # fmt: skip
def test_a_probe_is_seen_though_it_is_merged_with_bulk(size: int, segment_size: int, expected: bool) -> None:  # noqa: FBT001
    assert may_be_control(size, segment_size) is expected


def test_who_fills_a_queue_is_told_from_who_does_not() -> None:
    flood = [("flood", 1)] * 60
    assert not_the_cause([*flood, ("a", 1), ("b", 2)]) == {"a", "b"}
    assert not_the_cause(flood) == set()
    assert not_the_cause([*flood, *[("another", 1)] * 60]) == set()
    assert not_the_cause([]) == set()


def test_many_small_strangers_make_nobody_else_the_cause() -> None:
    """Before: each stranger was a sender, and half of an equal share was less than one datagram of the client's."""
    assert not_the_cause([("client", 1200)], strangers=31) == {"client"}
    assert not_the_cause([("client", 1200)] * 31, strangers=1) == set(), "one stranger takes the blame of nobody"

"""What an instance says while it waits for its host."""

from __future__ import annotations

from rsock_nf.ops.waiting import FIRST_REMINDER, LONG_PAUSE, SHORT_PAUSE, Waiting


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_reason_is_told_at_once_and_then_ever_more_seldom() -> None:
    clock, told = Clock(), []
    waiting = Waiting(lambda line: told.append((clock.now - 1000.0, line)), clock)
    for _ in range(500):
        waiting.note("no route to 203.0.113.5")
        clock.now += 1.0
    assert [when for when, _ in told] == [0.0, 60.0, 180.0, 420.0]
    assert told[0][1] == "waiting: no route to 203.0.113.5"
    waiting.note("eth0: the device is down")
    assert told[-1][1] == "waiting: eth0: the device is down"
    assert waiting.reason == "eth0: the device is down"


def test_tries_are_frequent_at_first() -> None:
    clock = Clock()
    waiting = Waiting(lambda _: None, clock)
    waiting.note("no route")
    assert waiting.pause == SHORT_PAUSE
    clock.now += FIRST_REMINDER
    assert waiting.pause == LONG_PAUSE

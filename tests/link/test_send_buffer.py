"""A send buffer holds what the device takes in a tenth of a second."""

from __future__ import annotations

import pytest

from rsock_nf.link.send_buffer import FIRST, LEAST, MOST, QUEUE, SendBuffer


class Device:
    """Takes ``rate`` bytes a second out of a buffer that is filled again whenever it is half empty.

    ``idle``: seconds that the sender takes to come back.
    """

    def __init__(self, rate: float, idle: float = 0.0) -> None:
        self.now, self.held, self.rate, self.idle = 100.0, 0.0, rate, idle
        self.buffer = SendBuffer(lambda _: None, lambda: int(self.held), lambda: self.now)

    def fill_and_wait(self) -> None:
        self.held = max(self.held, self.buffer.size)
        self.buffer.full()
        took = max(self.buffer.size / 2 / self.rate, self.idle)
        self.now += took
        self.held = max(self.held - took * self.rate, 0.0)
        if self.buffer.was_full:
            self.buffer.fit()


@pytest.mark.parametrize("megabits", [4, 20, 100, 1000])
def test_a_full_buffer_is_as_long_as_the_queue_may_be(megabits: float) -> None:
    device = Device(megabits * 1e6 / 8)
    for _ in range(20):
        device.fill_and_wait()
    assert device.buffer.size / device.rate == pytest.approx(QUEUE, rel=0.1)


def test_its_size_has_bounds() -> None:
    fast, slow = Device(1e10), Device(1e4)
    for _ in range(20):
        fast.fill_and_wait()
        slow.fill_and_wait()
    assert (fast.buffer.size, slow.buffer.size) == (MOST, LEAST)


def test_a_sender_that_is_late_is_no_slow_device() -> None:
    """Before it comes back, a fast device has taken everything: that tells nothing of its speed but that it is fast."""
    device = Device(1e9, idle=0.05)
    for _ in range(20):
        device.fill_and_wait()
    assert device.buffer.size == MOST


def test_a_buffer_that_is_still_full_is_not_judged() -> None:
    device = Device(1e6)
    device.held = FIRST
    device.buffer.full()
    device.held = FIRST * 0.9
    device.now += 5.0
    device.buffer.fit()
    assert (device.buffer.was_full, device.buffer.size) == (True, FIRST)


def test_a_system_that_tells_nothing_gets_the_largest() -> None:
    buffer = SendBuffer(lambda _: None, lambda: 0)
    for _ in range(20):
        buffer.full()
        buffer.fit()
    assert buffer.size == MOST

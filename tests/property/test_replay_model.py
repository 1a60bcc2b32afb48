"""The replay window against the simplest thing that could be right: a set of all counters, and the highest."""

from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core.pump.replay import ReplayWindow


class Model:
    def __init__(self, size: int) -> None:
        self.size, self.accepted = size, set[int]()

    def accept(self, counter: int) -> bool:
        if counter in self.accepted or counter <= max(self.accepted, default=-1) - self.size:
            return False
        self.accepted.add(counter)
        return True

    def accept_mask(self, first: int, run: int) -> int:
        return sum(1 << i for i in range(run.bit_length()) if run >> i & 1 and self.accept(first + i))


sizes = st.sampled_from([1, 2, 7, 64, 100])
# Steps relative to the highest so far, so that most of them land in or near the window.
steps = st.lists(st.tuples(st.integers(-150, 150), st.integers(0, (1 << 130) - 1)), max_size=30)
runs = st.lists(st.tuples(st.integers(-150, 150), st.integers(0, 130)), max_size=30)


def same(window: ReplayWindow, model: Model) -> None:
    assert window.highest == max(model.accepted, default=-1)


@given(sizes, st.integers(0, 1 << 40), steps)
def test_any_mask(size: int, start: int, taken: list[tuple[int, int]]) -> None:
    window, model = ReplayWindow(size), Model(size)
    for step, run in [(0, 1), *taken]:
        first = max(0, max(model.accepted, default=start) + step)
        assert window.accept_mask(first, run) == model.accept_mask(first, run)
        same(window, model)


@given(sizes, runs)
def test_any_run_from_the_start(size: int, taken: list[tuple[int, int]]) -> None:
    window, model = ReplayWindow(size), Model(size)
    for step, count in taken:
        first = max(0, max(model.accepted, default=0) + step)
        assert window.accept_run(first, count) == model.accept_mask(first, (1 << count) - 1)
        same(window, model)


@given(sizes, st.lists(st.integers(0, 300), max_size=200))
def test_single_counters(size: int, counters: list[int]) -> None:
    window, model = ReplayWindow(size), Model(size)
    assert [window.accept(counter) for counter in counters] == [model.accept(counter) for counter in counters]
    same(window, model)

"""The judge of the two kinds alone: what counts as worse, and the way from rest over trials back to traffic."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core.flows.kinds import (
    CALM,
    CLEAN,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MARGIN,
    STEP,
    Count,
    KindJudge,
    Outcome,
    Standing,
    Tally,
    is_slower,
    loses_more,
    total,
)

COUNTS = st.lists(st.integers(0, 2000).flatmap(lambda sent: st.builds(Count, st.just(sent), st.integers(0, sent))))
FLOWS = 10
RATE = 50
"""Frames a second on each kind."""


class Bench:
    """A judge, and two kinds that lose what they are told to."""

    def __init__(self) -> None:
        self.judge = KindJudge()
        self.now = 100.0
        self.loss = {False: 0.0, True: 0.0}
        self.rtt = {False: 0.02, True: 0.02}
        self.flows = {False: FLOWS, True: FLOWS}
        self.limit = float("inf")
        """Of UDP frames a second: what is more is lost."""
        self.outcomes: list[tuple[float, Outcome]] = []
        self._rng = random.Random(5)

    def _carrying(self, udp: bool) -> int:  # noqa: FBT001 - a kind
        return self.judge.carriers if self.judge.resting is udp else self.flows[udp]

    def run(self, seconds: float) -> None:
        """A look every quarter of a second.  A resting kind has one probe a second."""
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            carrying = {udp: self._carrying(udp) for udp in (False, True)}
            for udp in (False, True):
                frames = 2 * RATE * carrying[udp] // (sum(carrying.values()) or 1) // 4 or int(self.now % 1 == 0)
                loss = max(self.loss[udp], 1 - self.limit / 4 / max(frames, 1) if udp else 0.0)
                for _ in range(frames):
                    arrived = int(self._rng.random() >= loss)
                    self.judge.note(self.now, self._rng.randrange(carrying[udp] or 1), 1, arrived, udp=udp)
            standings = {udp: Standing(self.flows[udp], self.flows[udp], self.rtt[udp]) for udp in (False, True)}
            outcome = self.judge.judge(self.now, standings)
            if outcome is not None:
                self.outcomes.append((self.now, outcome))

    def rested(self) -> bool | None:
        """The kind that rests now."""
        return self.judge.resting

    def rests(self) -> list[float]:
        """When a kind began to rest."""
        return [when for when, outcome in self.outcomes if outcome is Outcome.RESTS]


@given(COUNTS, COUNTS)
def test_never_is_each_worse_than_the_other(one: list[Count], other: list[Count]) -> None:
    assert not (loses_more(one, other) and loses_more(other, one))
    assert not loses_more(one, one)
    if loses_more(one, other):
        assert total(one).share >= total(other).share + MARGIN


@given(st.lists(st.tuples(st.floats(0, 300), st.integers(0, 5), st.integers(0, 100), st.integers(0, 120))))
def test_a_tally_counts_what_it_was_told(notes: list[tuple[float, int, int, int]]) -> None:
    tally = Tally()
    notes.sort()
    for when, flow, sent, arrived in notes:
        tally.note(when, flow, sent, arrived)
    if not notes:
        return
    last = notes[-1][0]
    kept = [note for note in notes if int(note[0]) >= int(last) - CLEAN]
    assert total(tally.counts(0)).sent == sum(note[2] for note in kept)
    assert all(0 <= count.lost <= count.sent for count in tally.counts(last - 10))
    tally.clear()
    assert tally.counts(0) == []


@given(
    st.lists(
        st.tuples(
            *(st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0]),) * 2,
            *(st.sampled_from([0.001, 0.02, 0.5]),) * 2,
            *(st.sampled_from([0, 1, 3, 10]),) * 2,
        ),
        max_size=8,
    )
)
def test_whatever_happens_something_carries(weather: list[tuple[float, float, float, float, int, int]]) -> None:
    bench = Bench()
    for tcp_loss, udp_loss, tcp_rtt, udp_rtt, tcp, udp in weather:
        bench.loss, bench.rtt = {False: tcp_loss, True: udp_loss}, {False: tcp_rtt, True: udp_rtt}
        bench.flows = {False: tcp, True: udp}
        bench.run(40)
        resting = bench.rested()
        if resting is not None:
            assert bench.flows[not resting], "the kind that carries has no flow"
            assert bench.judge.carriers <= max(bench.flows[resting], 1) or not bench.flows[resting]
            assert bench.judge.text(bench.now)
            assert FIRST_PAUSE <= bench.judge._pause <= LONGEST_PAUSE


@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize("loss", [0.03, 0.14, 0.2, 1.0])
def test_the_kind_that_loses_more_rests_within_ten_seconds(loss: float, *, udp: bool) -> None:
    bench = Bench()
    bench.run(60)
    assert bench.outcomes == []
    bench.loss[udp] = loss
    bench.run(10)
    assert bench.rested() is udp
    assert len(bench.outcomes) == 1


def test_equal_loss_is_no_reason() -> None:
    bench = Bench()
    bench.loss = {False: 0.2, True: 0.21}
    bench.run(600)
    assert bench.outcomes == []


def test_one_bad_flow_does_not_condemn_its_kind() -> None:
    good, bad = [Count(50, 0)] * 10, [*[Count(50, 0)] * 9, Count(50, 25)]
    assert total(bad).share > MARGIN
    assert not loses_more(bad, good)
    assert loses_more([Count(50, 4)] * 10, good)
    assert loses_more([Count(50, 25)], good), "a kind with one flow is that flow"


def test_a_kind_that_is_clean_again_returns_within_ninety_seconds() -> None:
    bench = Bench()
    bench.loss[True] = 0.2
    bench.run(30)
    bench.loss[True] = 0.0
    bench.run(90)
    assert bench.rested() is None
    assert [outcome for _, outcome in bench.outcomes[:2]] == [Outcome.RESTS, Outcome.TRIED]
    assert bench.outcomes[-1][1] is Outcome.CARRIES
    assert bench.outcomes[1][0] - bench.outcomes[0][0] > CLEAN
    assert bench.judge.text(bench.now) == ""


def test_while_its_probes_are_lost_it_is_not_tried() -> None:
    bench = Bench()
    bench.loss[True] = 0.2
    bench.run(1800)
    assert [outcome for _, outcome in bench.outcomes] == [Outcome.RESTS]


def test_a_policer_is_tried_ever_more_rarely() -> None:
    """Its probes always look clean: it lets 30 frames a second through."""
    bench = Bench()
    bench.limit = 30
    bench.run(3600)
    rests = bench.rests()
    pauses = [int(later - sooner) for sooner, later in itertools.pairwise(rests)]
    assert 5 <= len(pauses) <= 9
    assert all(later >= sooner - 2 * STEP for sooner, later in itertools.pairwise(pauses))
    assert LONGEST_PAUSE <= pauses[-1] < LONGEST_PAUSE + 60
    assert Outcome.CARRIES not in {outcome for _, outcome in bench.outcomes}


def test_after_a_calm_time_the_first_pause_is_used_again() -> None:
    bench = Bench()
    for calm, pause in [(0.0, FIRST_PAUSE), (10.0, 2 * FIRST_PAUSE), (CALM + 1, FIRST_PAUSE)]:
        bench.loss[True] = 0.0
        bench.run(calm)
        bench.loss[True] = 0.2
        bench.run(20)
        assert bench.rested() is True
        assert bench.judge._pause == pause
        bench.loss[True] = 0.0
        while bench.rested() is not None:
            bench.run(1)


def test_the_slower_kind_rests_if_the_loss_is_alike() -> None:
    bench = Bench()
    bench.rtt[True] = 0.2
    bench.run(10)
    assert bench.rested() is True
    assert bench.judge.text(bench.now).startswith("UDP flows rest: their RTT is 200 ms, TCP flows 20 ms; next try in")
    bench.run(600)
    assert len(bench.outcomes) == 1, "while it is slower it is not tried"
    bench.rtt[True] = 0.02
    bench.run(90)
    assert bench.rested() is None


def test_loss_comes_before_time() -> None:
    bench = Bench()
    bench.rtt[True] = 0.2
    bench.loss[False] = 0.1
    bench.run(10)
    assert bench.rested() is False


def test_small_differences_of_time_do_not_matter() -> None:
    fast, near, slow = Standing(1, 1, 0.001), Standing(1, 1, 0.009), Standing(1, 1, 0.012)
    assert not is_slower(near, fast)
    assert is_slower(slow, fast)
    assert not is_slower(Standing(1, 1, None), fast)


def test_the_kinds_change_places_when_the_other_one_becomes_worse() -> None:
    bench = Bench()
    bench.loss[True] = 0.05
    bench.run(20)
    assert bench.rested() is True
    bench.loss[False] = 0.5
    bench.run(20)
    assert bench.rested() is False
    assert "TCP flows rest" in bench.judge.text(bench.now)


def test_a_kind_that_is_alone_carries() -> None:
    bench = Bench()
    bench.loss[True] = 0.2
    bench.run(10)
    bench.flows[False] = 0
    bench.run(1)
    assert bench.rested() is None

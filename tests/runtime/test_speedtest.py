"""The parts of a speed test: its messages, its rate, what is sent and counted, and what a server answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core.types import Malformed, Run
from rsock_nf.runtime.speedtest.asking import Direction
from rsock_nf.runtime.speedtest.messages import ASK_BYTES, LEAST_DATA, Ask, Data, Report, parse_message
from rsock_nf.runtime.speedtest.pace import FIRST, Pace
from rsock_nf.runtime.speedtest.serving import LONGEST, SILENCE, SpeedServer
from rsock_nf.runtime.speedtest.stream import RUN, TICK, Receiver, Sender

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))


@given(
    st.one_of(
        st.builds(Ask, u32, u32, u16, u16),
        st.builds(Data, u32, u32),
        st.builds(Report, u32, u32, u32, u32, u64, u32, st.booleans()),
    )
)
def test_a_message_survives_its_bytes(message: Ask | Data | Report) -> None:
    datagram = message.build(LEAST_DATA) if isinstance(message, Data) else message.build()
    assert parse_message(datagram) == message
    assert parse_message(memoryview(datagram)) == message
    if not isinstance(message, Data):
        assert len(datagram) <= ASK_BYTES, "an answer is no longer than its question"


@given(st.binary(max_size=40))
def test_any_bytes_parse_or_are_malformed(datagram: bytes) -> None:
    try:
        parse_message(datagram)
    except Malformed:
        assert len(datagram) < ASK_BYTES or datagram[0] not in (1, 2, 3)


def run_of(pace: Pace, path: float, steps: int) -> list[float]:
    """The rates of a path that carries ``path`` bit/s and loses the rest."""
    rates = []
    for _ in range(steps):
        rates.append(pace.rate)
        arrived = min(pace.rate, path)
        pace.measured(arrived, 1 - arrived / pace.rate)
    return rates


@pytest.mark.parametrize("path", [1e6, 37e6, 940e6])
def test_the_rate_finds_that_of_the_path(path: float) -> None:
    rates = run_of(Pace(10e9), path, 40)
    assert not Pace(10e9, searching=False).searching
    assert all(0.85 * path < rate < 1.1 * path for rate in rates[20:])


def test_the_rate_never_exceeds_what_is_allowed() -> None:
    pace = Pace(2e6)
    assert pace.rate == 2e6 < FIRST
    assert max(run_of(pace, 1e9, 20)) == 2e6
    assert not pace.searching


def test_only_the_steps_after_the_search_count() -> None:
    direction = Direction(trips=[1.0, None])
    direction.add((1.0, 125_000.0, 0.0), searching=True)
    direction.add((1.0, 500_000.0, 0.5), searching=True)
    assert not direction.as_json()["settled"]
    assert direction.as_json()["bits_per_second"] == 4_000_000, (
        "the search has not ended: the last step is all there is"
    )
    direction.add((1.0, 250_000.0, 0.0), searching=False)
    direction.add((3.0, 750_000.0, 0.04), searching=False)
    assert direction.as_json() == {
        "bits_per_second": 2_000_000,
        "loss": 0.03,
        "settled": True,
        "rtt_ms": [1.0, None],
    }
    assert Direction().as_json()["bits_per_second"] == 0


def test_a_sender_sends_at_its_rate_and_makes_up_for_little() -> None:
    sender, receiver = Sender(7, 0.0), Receiver()
    sent = [run for tick in range(1, 201) for run in sender.burst(tick * TICK, 1e6, 1000, held=False)]
    datagrams = [datagram for run in sent for datagram in run]
    assert len(datagrams) == pytest.approx(1000, abs=2)
    assert {len(datagram) for datagram in datagrams} == {1000}
    for datagram in datagrams[:10] + datagrams[20:]:
        message = parse_message(datagram)
        assert isinstance(message, Data)
        receiver.count(message.number, len(datagram))
    assert (receiver.expected, receiver.datagrams) == (len(datagrams), len(datagrams) - 10)
    late = sender.burst(100.0, 100e6, 1000, held=False)
    assert sum(map(len, late)) == pytest.approx(4 * TICK * 100e3, abs=2), "not a hundred seconds' worth"
    assert max(map(len, late)) == RUN
    assert sender.burst(200.0, 100e6, 1000, held=True) == []


class Endpoint:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, bytes]] = []

    def receive_datagrams(self, now: float, runs: list[Run]) -> None:
        del now
        self.sent += [(run.peer, bytes(datagram)) for run in runs for datagram in run.datagrams]


class Bench:
    """A server of tests on an event loop whose time is set by hand."""

    def __init__(self, allowed: int) -> None:
        self.now = 100.0
        self.endpoint = Endpoint()
        self.later: list[Any] = []
        loop = SimpleNamespace(
            call_soon=lambda call, *arguments: call(*arguments),
            call_later=self.call_later,
        )
        driver = SimpleNamespace(now=lambda: self.now, settle=lambda: None, congested=False)
        self.server = SpeedServer(cast("Any", loop), cast("Any", self.endpoint), cast("Any", driver), allowed)

    def call_later(self, delay: float, call: Any) -> Any:
        del delay
        self.later.append(call)
        return SimpleNamespace(cancel=self.later.clear)

    def ask(self, peer: str, test: int, rate: int, size: int = 1000) -> Report:
        assert self.server.take([Run(peer, [Ask(test, rate, size, 1).build()], ASK_BYTES)]) == []
        told, datagram = self.endpoint.sent.pop()
        report = parse_message(datagram)
        assert told == peer
        assert isinstance(report, Report)
        return report

    def tick(self, ticks: int) -> int:
        """How many bytes were sent meanwhile."""
        before = len(self.endpoint.sent)
        for _ in range(ticks):
            self.now += TICK
            calls, self.later = self.later, []
            for call in calls:
                call()
        return sum(len(datagram) for _, datagram in self.endpoint.sent[before:])


def test_a_server_sends_what_it_is_asked_for_but_no_more_than_it_allows_and_stops_without_questions() -> None:
    bench = Bench(allowed=8)
    bench.server.opened("a")
    assert bench.tick(20) == 0, "nobody has asked"
    report = bench.ask("a", 5, 4_000)
    assert (report.test, report.allowed, report.busy) == (5, 8_000, False)
    assert bench.tick(20) == pytest.approx(50_000, abs=2000)
    bench.ask("a", 5, 4_000_000)
    assert bench.tick(20) == pytest.approx(100_000, abs=2000)
    bench.tick(int(SILENCE / TICK))
    assert bench.tick(100) == 0
    assert bench.later == [], "no timer is left"
    bench.ask("a", 5, 4_000, size=65_535)
    bench.tick(20)
    assert max(len(datagram) for _, datagram in bench.endpoint.sent) == 1500


def test_a_server_counts_what_comes_and_serves_one_at_a_time_for_a_minute() -> None:
    bench = Bench(allowed=8)
    bench.server.opened("a")
    bench.server.opened("b")
    bench.ask("a", 5, 0)
    others = [Run("c", [b"of an application"], 17)]
    data = [Data(5, number).build(100) for number in (0, 1, 4)]
    assert bench.server.take([Run("a", list(data), 100), *others]) == others
    report = bench.ask("a", 5, 0)
    assert (report.datagrams, report.expected, report.octets) == (3, 5, 300)
    assert bench.ask("b", 6, 8_000).busy
    assert bench.tick(20) == 0
    bench.server.take([Run("b", [Data(6, 0).build(100)], 100), Run("a", [b"", b"\1garbage"], 8)])
    bench.now += 2.0
    assert not bench.ask("b", 6, 8_000).busy, "the first one has gone"
    assert bench.ask("b", 6, 8_000).datagrams == 0
    for _ in range(int(LONGEST)):
        bench.now += 1.0
        bench.ask("b", 6, 8_000)
    assert bench.ask("b", 6, 8_000).busy
    bench.server.closed("b")
    assert not bench.server.has("b")
    assert bench.tick(20) == 0
    bench.server.close()

"""What a client may move in a second: token buckets at the sockets toward targets."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.core.identity import ANYBODY, Identity
from rsock_nf.core.parameters import ClientLimits
from rsock_nf.core.types import Run, TransportAddress
from rsock_nf.runtime.host.rates import BURST, LEAST_BURST, Bucket, ClientRate, LimitedSocket, Rates
from rsock_nf.runtime.host.targets import Targets

MEGABIT = 1e6
ALICE = Identity("alice", limits=ClientLimits(rate=8 * MEGABIT))


def passed(bucket: Bucket, now: float, *sizes: int) -> int:
    return sum(len(one) for one in bucket.passing(now, [bytes(size) for size in sizes]))


def test_a_full_bucket_at_first_then_the_rate() -> None:
    bucket = Bucket(8 * MEGABIT)
    assert passed(bucket, 100.0, *[1000] * 1000) == 250_000 == MEGABIT * BURST
    assert passed(bucket, 100.0, 1000) == 0
    assert passed(bucket, 100.1, *[1000] * 1000) == pytest.approx(100_000, abs=1000)
    assert passed(bucket, 900.0, *[1000] * 1000) == pytest.approx(250_000, abs=1000), "it does not save up more"
    assert 2400 <= bucket.dropped <= 2404


def test_a_read_passes_whole_however_small_the_rate() -> None:
    assert passed(Bucket(8000), 1.0, *[1400] * 64) == 64 * 1400 < LEAST_BURST


def test_small_datagrams_pass_where_large_ones_do_not() -> None:
    bucket = Bucket(8000)
    assert passed(bucket, 1.0, LEAST_BURST - 10) == LEAST_BURST - 10
    assert bucket.passing(1.0, [b"x" * 20, b"y" * 5, b"", b"z" * 6]) == [b"y" * 5, b""]


def test_another_rate_does_not_fill_the_bucket() -> None:
    bucket = Bucket(8 * MEGABIT)
    passed(bucket, 1.0, *[1000] * 250)
    bucket.use(80 * MEGABIT)
    assert passed(bucket, 1.0, 1000) == 0
    assert passed(bucket, 1.01, *[1000] * 1000) == 100_000


@given(
    st.floats(8000, 1e9),
    st.lists(st.tuples(st.floats(0, 3), st.lists(st.integers(0, 65507), max_size=64)), max_size=30),
)
def test_never_more_than_the_rate_and_one_burst(rate: float, reads: list[tuple[float, list[int]]]) -> None:
    bucket, now, total = Bucket(rate), 5.0, 0
    for pause, sizes in reads:
        now += pause
        total += passed(bucket, now, *sizes)
        assert total <= (now - 5.0) * rate / 8 + max(rate / 8 * BURST, LEAST_BURST) + 1


def test_sessions_of_a_client_share_its_buckets_and_others_have_none() -> None:
    rates = Rates()
    assert rates.of(ANYBODY) is None
    assert rates.of(Identity("bob")) is None
    first = rates.of(ALICE)
    assert first is not None
    assert rates.of(Identity("alice", 2, ALICE.limits)) is first
    assert rates.of(Identity("carol", limits=ALICE.limits)) is not first
    slower = rates.of(Identity("alice", limits=ClientLimits(rate=MEGABIT)))
    assert slower is first
    assert first.rate == MEGABIT


class Inner:
    """A socket that brings the same runs at each read, and remembers what is sent."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self.sent: list[Run] = []

    def receive(self, _: object) -> list[Run]:
        return self.runs

    def send(self, runs: list[Run]) -> None:
        self.sent += runs


def test_each_way_has_a_bucket_of_its_own() -> None:
    run = Run("peer", [bytes(1000)] * 200, 1000)
    inner, rate = Inner([run]), ClientRate(8 * MEGABIT)
    limited = LimitedSocket(cast("Any", inner), rate, clock=lambda: 1.0)
    limited.send([run, run])
    assert [len(one.datagrams) for one in inner.sent] == [200, 50]
    assert limited.receive("peer") == [run]
    assert [len(one.datagrams) for one in limited.receive("peer")] == [50]
    assert limited.receive("peer") == []
    assert rate.dropped == 150 + 150 + 200


def test_a_conversation_gets_a_limit_and_loses_it_and_keeps_its_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
        target.bind(("127.0.0.1", 0))
        targets = Targets([TransportAddress(ip_address("127.0.0.1"), target.getsockname()[1])])
        source = targets.open("peer", 0)
        assert source.counters is not None
        rate = ClientRate(8 * MEGABIT)
        limited = targets.limit("peer", rate)
        assert (limited.descriptor, limited.counters) == (source.descriptor, None), "the native path leaves it"
        assert targets.rate("peer") is rate
        targets.send([Run("peer", [bytes(1000)] * 300, 1000)])
        assert rate.to_targets.dropped == 50
        assert targets.limit("peer", None).counters is not None
        assert targets.rate("peer") is None
        assert len(targets) == 1
        assert targets.counters()[1].sent == 250
        targets.close_all()

"""A cookie holds for its flow, its client number and its time, and for nothing else."""

import pytest

from rsock_nf.core.tcp.cookie import PERIOD, Cookie
from rsock_nf.core.types import FlowKey

FLOW = FlowKey(bytes([198, 51, 100, 7]), 10001, bytes([192, 0, 2, 1]), 40000)
COOKIE = Cookie(bytes(range(32)))
START = 100 * PERIOD


def test_good_for_the_rest_of_its_period_and_the_next() -> None:
    isn = COOKIE.isn(FLOW, 7, START + 10)
    assert COOKIE.isn(FLOW, 7, START + PERIOD - 0.001) == isn
    for now in (START + 10, START + PERIOD, START + 2 * PERIOD - 0.001):
        assert COOKIE.check(FLOW, 7, isn, now)
    for now in (START - 0.001, START + 2 * PERIOD, START + 1000 * PERIOD):
        assert not COOKIE.check(FLOW, 7, isn, now)


@pytest.mark.parametrize(
    "other",
    [
        FLOW._replace(local=bytes([198, 51, 100, 8])),
        FLOW._replace(local_port=10002),
        FLOW._replace(remote=bytes([192, 0, 2, 2])),
        FLOW._replace(remote_port=40001),
        FLOW.reversed(),
        FlowKey(bytes(12) + FLOW.local, 10001, bytes(12) + FLOW.remote, 40000),
    ],
)
def test_not_for_another_flow(other: FlowKey) -> None:
    assert not COOKIE.check(other, 7, COOKIE.isn(FLOW, 7, START), START)


def test_not_for_another_number_or_key() -> None:
    isn = COOKIE.isn(FLOW, 7, START)
    assert not COOKIE.check(FLOW, 8, isn, START)
    assert not COOKIE.check(FLOW, 7, isn ^ 1, START)
    assert not Cookie(bytes(32)).check(FLOW, 7, isn, START)


@pytest.mark.parametrize("bits", range(16))
def test_bits_laid_over_the_number_are_read_in_both_periods(bits: int) -> None:
    isn = COOKIE.isn(FLOW, 7, START) ^ bits
    assert COOKIE.differences(FLOW, 7, isn, START)[0] == bits
    assert COOKIE.differences(FLOW, 7, isn, START + PERIOD)[1] == bits
    assert COOKIE.check(FLOW, 7, isn, START) == (bits == 0)
    assert bits not in COOKIE.differences(FLOW, 7, isn, START + 2 * PERIOD)
    assert bits not in COOKIE.differences(FLOW, 8, isn, START)


def test_a_check_costs_two_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may send ACKs: each is asked for its cookie."""
    made: list[int] = []
    number = Cookie._number

    def counted(cookie: Cookie, flow: FlowKey, client_isn: int, period: int) -> int:
        made.append(period)
        return number(cookie, flow, client_isn, period)

    monkeypatch.setattr(Cookie, "_number", counted)
    assert not COOKIE.check(FLOW, 7, 12345, START)
    assert len(made) == 2


def test_numbers_spread_over_all_bits() -> None:
    numbers = [COOKIE.isn(FLOW._replace(remote_port=port), 7, START) for port in range(4096)]
    assert len(set(numbers)) > 4090
    for bit in range(32):
        ones = sum(number >> bit & 1 for number in numbers)
        assert 1848 < ones < 2248  # 6 standard deviations of 32 around 2,048


@pytest.mark.parametrize("size", [0, 15, 33])
def test_key_size(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes"):
        Cookie(bytes(size))

"""The search for the highest rate: against a carrier whose capacity is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.search import ALLOWED, CLOSE, Found, highest_rate

OFFERED = 300_000.0
"""What the sender can at most."""


def measured(rate: float, received: float) -> Found:
    return {"offered": rate, "received": received, "lost": 1 - received / rate}


def noted(attempt: Callable[[float], Found], tried: list[float]) -> Callable[[float], Found]:
    """The same; ``tried`` gets each rate."""

    def note(rate: float) -> Found:
        tried.append(rate)
        return attempt(rate)

    return note


def carrier(capacity: float, overloaded: float | None = None) -> Callable[[float], Found]:
    """It carries ``capacity``; of more than that it carries ``overloaded``."""

    def attempt(rate: float) -> Found:
        rate = min(rate, OFFERED)
        return measured(rate, rate if rate <= capacity else (overloaded or capacity))

    return attempt


@pytest.mark.parametrize("capacity", [2_000, 30_000, 126_000, 216_000, 290_000])
@pytest.mark.parametrize("collapse", [1.0, 0.5])
def test_the_capacity_is_found_also_where_overload_takes_half_of_it(capacity: float, collapse: float) -> None:
    attempt = carrier(capacity, capacity * collapse)
    found = highest_rate(attempt(OFFERED), attempt)
    assert found is not None
    assert capacity / CLOSE <= found["received"] <= capacity
    assert found["lost"] <= ALLOWED


def test_a_carrier_that_loses_nothing_of_all_that_is_offered_needs_no_search() -> None:
    tried: list[float] = []
    attempt = carrier(OFFERED)
    found = highest_rate(attempt(OFFERED), noted(attempt, tried))
    assert found is not None
    assert (found["received"], tried) == (OFFERED, [])


def test_one_unlucky_try_does_not_count() -> None:
    carries, tries = carrier(200_000), [0]

    def attempt(rate: float) -> Found:
        tries[0] += 1
        return measured(rate, rate * 0.9) if tries[0] % 2 else carries(rate)

    found = highest_rate(carries(OFFERED), attempt)
    assert found is not None
    assert found["received"] >= 200_000 / CLOSE


def test_a_sender_that_cannot_do_more_ends_the_search() -> None:
    """With less load the sender has less of the processor: the carrier could do more than is offered."""

    def attempt(rate: float) -> Found:
        return measured(min(rate, 100_000), min(rate, 100_000))

    found = highest_rate(measured(OFFERED, 150_000), attempt)
    assert found is not None
    assert found["received"] == 100_000


def test_nothing_is_carried() -> None:
    assert highest_rate(measured(OFFERED, 0), lambda rate: measured(rate, 0)) is None


def test_the_search_is_short() -> None:
    for capacity in range(10_000, 290_000, 7_000):
        tried: list[float] = []
        attempt = carrier(capacity, capacity * 0.6)
        highest_rate(attempt(OFFERED), noted(attempt, tried))
        assert len(tried) <= 16, capacity


def test_a_sender_that_was_held_up_once_tries_again() -> None:
    """Another process took its processor for a moment: nothing was lost, but little was offered."""
    carries, tries = carrier(200_000), [0]

    def attempt(rate: float) -> Found:
        tries[0] += 1
        return carries(rate * 0.6 if tries[0] == 1 else rate)

    found = highest_rate(carries(OFFERED), attempt)
    assert found is not None
    assert found["received"] >= 200_000 / CLOSE

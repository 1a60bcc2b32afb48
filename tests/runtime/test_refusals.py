"""When a target refuses, when that is over, and when clients are told."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from rsock_nf.core.types import TransportAddress
from rsock_nf.runtime.host.refusals import SETTLED, TELL_AGAIN, Counts, Refusals

ONE, TWO = (TransportAddress(ip_address("127.0.0.1"), port) for port in (9999, 9998))


class Host:
    """A target, and the refusals that are seen of it."""

    def __init__(self) -> None:
        self.refusals = Refusals()
        self.refused = self.answers = 0
        self.looks = 0

    def second(self, now: float, *, refused: int = 0, answers: int = 0) -> list[tuple[int, bool]]:
        """So many refusals and answers come; what clients are told then."""
        self.refused += refused
        self.answers += answers
        if self.refusals.needs_a_look(self.refused):
            self.looks += 1
            self.refusals.look(now, {ONE: Counts(self.refused, self.answers), TWO: Counts(0, 0)})
        return self.refusals.due(now, [TWO, ONE])

    def refuses(self) -> list[bool]:
        return [target.refuses for target in self.refusals.all()]


def test_a_target_refuses_until_it_answers() -> None:
    host = Host()
    assert host.second(0.0, answers=100) == []
    assert host.second(1.0, refused=3) == []
    assert host.second(2.0) == [(1, True)]
    assert host.refuses() == [True]
    assert host.second(3.0, answers=1) == []
    assert host.second(1.0 + SETTLED) == [(1, False)]
    assert host.refuses() == [False]
    assert host.second(9.0, answers=1) == []
    (target,) = host.refusals.all()
    assert (target.address, target.refused, target.refused_at) == ("127.0.0.1:9999", 3, 1.0)
    assert [host.second(20.0, refused=1), host.second(21.0)] == [[], [(1, True)]], "and again"


def test_silence_is_no_answer() -> None:
    host = Host()
    host.second(0.0, refused=1, answers=5)
    assert [told for now in range(1, 60) for told in host.second(float(now))] == [(1, True)]
    assert host.refuses() == [True]


def test_clients_are_told_again_while_it_goes_on_and_only_then() -> None:
    host = Host()
    told = [now for now in range(60) if host.second(float(now), refused=1)]
    assert told == list(range(1, 60, int(TELL_AGAIN)))
    assert [now for now in range(60, 120) if host.second(float(now))] == [61], "the last ones, which were not told"


def test_a_target_that_changes_its_mind_is_told_of_seldom() -> None:
    host = Host()
    told = [now for now in range(240) if host.second(float(now), refused=now % 8 == 0, answers=now % 8 > 1)]
    assert 240 / 16 <= len(told) <= 2 * 240 / TELL_AGAIN + 2


def test_who_refuses_some_and_answers_others_does_not_refuse() -> None:
    """A program with a connected socket for each conversation has closed one."""
    host = Host()
    assert [host.second(float(now), refused=1, answers=1) for now in range(30)] == [[]] * 30
    assert host.refuses() == [False]


def test_without_refusals_nothing_is_looked_at() -> None:
    host = Host()
    for now in range(10):
        host.second(float(now), answers=5)
    assert host.looks == 0
    host.second(10.0, refused=1)
    host.second(11.0)
    host.second(10.0 + SETTLED, answers=1)
    before = host.looks
    host.second(20.0, answers=1)
    assert host.looks == before == 3


def test_an_address_that_is_a_target_no_more_is_forgotten() -> None:
    host = Host()
    host.second(0.0, refused=1)
    host.refusals.look(1.0, {TWO: Counts(1, 0)})
    assert [target.address for target in host.refusals.all()] == ["127.0.0.1:9998"]


@pytest.mark.parametrize("numbers", [1, 3])
def test_each_number_of_an_address_is_told(numbers: int) -> None:
    host = Host()
    host.second(0.0)
    for now in (1.0, 2.0):
        host.refusals.look(now, {ONE: Counts(1, 0)})
    assert host.refusals.due(2.0, [ONE] * numbers) == [(number, True) for number in range(numbers)]

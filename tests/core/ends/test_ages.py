"""At which age something on the way ends flows."""

from __future__ import annotations

from rsock_nf.core.ends.ages import LONGEST, REMEMBERED, Ages


def test_flows_that_die_at_once_tell_nothing() -> None:
    ages = Ages()
    assert not any(ages.died(100.0 + at / 10, 30.0) for at in range(10))
    assert not ages.limit(101.0)


def test_the_same_age_at_another_time_tells_it() -> None:
    ages = Ages()
    ages.died(100.0, 31.0)
    assert ages.died(140.0, 32.5)
    assert ages.limit(141.0) == 31.0
    assert not ages.died(140.1, 32.5), "no news"
    assert ages.limit(139.0 + REMEMBERED * 31.0) == 31.0
    assert not ages.limit(141.0 + REMEMBERED * 31.0)


def test_no_age_is_remembered_for_longer_than_an_hour() -> None:
    ages = Ages()
    ages.died(1000.0, 900.0)
    assert ages.died(2000.0, 900.0)
    assert ages.limit(1999.0 + LONGEST) == 900.0
    assert not ages.limit(2001.0 + LONGEST)


def test_an_age_that_was_forgotten_is_known_again_with_the_next_death() -> None:
    ages = Ages()
    ages.died(100.0, 31.0)
    ages.died(140.0, 32.5)
    assert ages.died(141.0 + REMEMBERED * 31.0, 31.5)


def test_other_ages_and_short_lives_tell_nothing() -> None:
    ages = Ages()
    for now, age in ((100.0, 30.0), (200.0, 60.0), (300.0, 120.0), (310.0, 2.0), (320.0, 2.0)):
        assert not ages.died(now, age)

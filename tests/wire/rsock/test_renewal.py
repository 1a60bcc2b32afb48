"""As tests/core/test_renewal.py, over the original's wire."""

from __future__ import annotations

import pytest

from rsock_nf.core.parameters import Kinds
from tests.core.renewing import AGED, ROUGH, by_command, one_at_a_time, under_load
from tests.wire.rsock.pair import RsockPair


@pytest.mark.parametrize("kinds", Kinds)
def test_the_command_loses_nothing(kinds: Kinds) -> None:
    with RsockPair(kinds=kinds, conditions=ROUGH) as pair:
        by_command(pair)


@pytest.mark.parametrize("kinds", Kinds)
def test_a_full_path_loses_nothing_either(kinds: Kinds) -> None:
    with RsockPair(kinds=kinds, conditions=ROUGH, client={"flows": 4}) as pair:
        under_load(pair)


@pytest.mark.parametrize("kinds", Kinds)
def test_old_flows_are_renewed_one_at_a_time(kinds: Kinds) -> None:
    with RsockPair(kinds=kinds, client=AGED) as pair:
        one_at_a_time(pair)

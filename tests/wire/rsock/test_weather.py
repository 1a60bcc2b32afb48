"""Any weather, over wire rsock."""

from __future__ import annotations

import random

import pytest

from rsock_nf.core.parameters import Kinds
from rsock_nf.core.types import PortRange
from tests.core.weather import conditions, goes_through
from tests.wire.rsock.pair import RsockPair


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kinds", Kinds)
def test_after_any_weather_it_carries_again_and_leaves_nothing(kinds: Kinds, seed: int) -> None:
    rng = random.Random(f"rsock {kinds.value} {seed}")
    client, options = conditions(kinds, rng)
    server = {"kinds": kinds, "ports": (PortRange(10001, 10010),)}
    client["rsock_version"] = rng.choice([1, 2])
    goes_through(RsockPair(seed, client=client, server=server, **options), rng)

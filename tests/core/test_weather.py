"""Any weather, over the native wire."""

from __future__ import annotations

import random

import pytest

from rsock_nf.core.parameters import Cipher, Kinds
from tests.core.pair import Pair
from tests.core.weather import conditions, goes_through


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kinds", Kinds)
def test_after_any_weather_it_carries_again_and_leaves_nothing(kinds: Kinds, seed: int) -> None:
    rng = random.Random(f"native {kinds.value} {seed}")
    client, options = conditions(kinds, rng)
    cipher = rng.choice([Cipher.NONE, Cipher.AES_256_GCM])
    goes_through(Pair(seed, client=client, kinds=kinds, cipher=cipher, **options), rng)

"""The short form of ``make faults``: nothing is misdelivered, nothing sealed is flipped or doubled, and it recovers.

How long it takes is in docs/reliability.md: a busy machine tells nothing of it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.field import AES, Variant
from tests.faults.measure import measure
from tests.faults.scenarios import BY_NAME, SCENARIOS

TCP, SEALED, UDP, ALL = Variant(), Variant("tcp", AES), Variant("udp", AES), Variant("all", AES)
SHORT = [
    ("bad_all", ALL), ("corrupt_2", SEALED), ("duplicate_all", UDP), ("resets_2s", SEALED), ("nat_flush", UDP),
    ("nat_other_address", ALL), ("server_killed", SEALED), ("client_stopped", ALL), ("nft_flush_server", TCP),
    ("address_changed", TCP), ("syn_flood", TCP),
]  # fmt: skip


@pytest.mark.parametrize(("name", "variant"), SHORT, ids=[f"{name}-{kind.name}" for name, kind in SHORT])
def test_a_fault_harms_nothing_for_good(name: str, variant: Variant) -> None:
    scenario = replace(BY_NAME[name], seconds=min(BY_NAME[name].seconds, 4.0), after=8.0, rate=200)
    outcome = measure(scenario, variant)
    assert outcome.offences() == []
    assert outcome.up.sent > 500
    assert outcome.down.sent > 500


def test_the_table_has_sixty_faults_with_names_of_their_own() -> None:
    assert len(SCENARIOS) >= 60
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)

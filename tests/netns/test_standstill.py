"""SIGSTOP, then SIGCONT: what has become too old for anybody is not delivered, whichever end stood still."""

from __future__ import annotations

import time

import pytest

from rsock_nf.lab.tunnel import Role
from rsock_nf.link.waiting_time import LOST
from tests.faults.field import AES, Variant, field
from tests.netns.judges import wait_until

STANDSTILL = 2.0
"""Seconds: longer than ``LOST``, and shorter than the time after which flows are given up."""
RATE = 20
"""Datagrams a second each way: so few that one read takes all of them."""
PATIENCE = 0.5
"""Seconds for the rest of the way, on a busy machine."""


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_nothing_old_is_delivered(kind: str, role: Role) -> None:
    """Before: all that had come within two seconds was delivered, because the last of it was young."""
    with field(Variant(kind, AES), rate=RATE, direct=True, prefix="rsss") as site:
        site.all_flows()
        ways = site.load.directions()
        with site.stopped(role):
            began = time.monotonic()
            wait_until(lambda: time.monotonic() > began + STANDSTILL, "the clock")
        ended = time.monotonic()
        wait_until(lambda: all(any(sent > ended for sent, _ in way.delays) for way in ways), "the load to go on")
        oldest = [max(delay for sent, delay in way.delays if sent > began - 0.1) for way in ways]
        assert max(oldest) < LOST + PATIENCE
        site.all_flows()

"""A device that is slower than the application: no queue of seconds stands before probes and their answers."""

from __future__ import annotations

import json
import time

import pytest

from rsock_nf.lab.lab import DEVICE
from tests.netns.conftest import FLOWS, Build, Site
from tests.netns.judges import flood, wait_until
from tests.netns.test_carriers import OPEN, flows, of_type

RATE = 20e6
"""Bits a second that pass."""
OFFERED = 6_000
"""Datagrams of 1,200 bytes a second: three times what passes."""
LONGEST = 1.2
"""Seconds of bulk in the device's queue.  Much more than we want, because the machine may be busy."""


def queued(site: Site) -> float:
    """Seconds that the device needs for what waits for it."""
    (told,) = json.loads(site.lab.client.run(["tc", "-j", "-s", "qdisc", "show", "dev", DEVICE]).stdout)
    return float(told["backlog"]) * 8 / RATE


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_bulk_does_not_stand_in_the_way_of_probes(build: Build, kind: str) -> None:
    """Before: 8 MiB of each socket stood there, 4 s and more, and flows were given up although they carried."""
    site = build(OPEN, **of_type(kind))
    wait_until(lambda: flows(site) == {kind: FLOWS}, "every flow")
    site.carries(200)
    # Its queue takes more than all send buffers, so that they are what fills.
    slow = f"tc qdisc add dev {DEVICE} root tbf rate {RATE:.0f} burst 128kb limit 64mb"
    site.lab.client.run(slow.split())
    waits: list[float] = []

    def watch() -> None:
        until = time.monotonic() + 7
        while time.monotonic() < until:
            waits.append(queued(site))

    found = flood(site.lab, 8, rate=OFFERED, during=watch)
    assert max(waits) < LONGEST
    assert sum(waits) > 0, "the device was the bottleneck"
    assert found.received > 0.5 * 8 * RATE / 8 / 1200
    assert site.tunnel.log("client").count("has ended") == 0

"""Load through the strict stateful NAT: nothing INVALID, no RST, whatever happens on the way."""

from __future__ import annotations

import time

import pytest

from rsock_nf.lab.lab import Router
from tests.netns.conftest import FLOWS, Build
from tests.netns.judges import flood, flood_both_ways, tracked_flows

pytestmark = [pytest.mark.alone, pytest.mark.slow]

KINDS = {
    "plain": Router(),
    "maxseg-1400": Router(maxseg=1400),
    "no-wscale": Router(strip_wscale=True),
}
SHORT = 3.0
"""Seconds of a load whose router differs from the plain one only in the handshake."""
LEAST = 2_000
"""Datagrams a second that must arrive at full load, on a machine that does other things too: a tunnel that stalls has
far less."""
RATE = 4_000
"""Datagrams a second that such a machine carries without loss."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_one_way_at_full_load(share: Build, kind: str, version: int, soak: float) -> None:
    soak = soak if kind == "plain" else min(soak, SHORT)
    site = share(KINDS[kind], version=version)
    dialled = site.all_flows()
    with site.watch() as wires:
        found = flood(site.lab, soak)
    site.no_offence()
    assert wires.resets() == 0
    assert found.received > LEAST * soak
    assert found.duplicates == 0
    assert len(dialled) == FLOWS
    assert tracked_flows(site.lab) == dialled  # none died of the load


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_two_way_load(share: Build, kind: str, version: int, soak: float) -> None:
    soak = soak if kind == "plain" else min(soak, SHORT)
    site = share(KINDS[kind], version=version)
    dialled = site.all_flows()
    with site.watch() as wires:
        found = flood_both_ways(site.lab, soak, rate=2 * RATE)
    site.no_offence()
    assert wires.resets() == 0
    assert found["received"] > LEAST * soak
    assert tracked_flows(site.lab) == dialled


def test_full_load_with_iptables(build: Build) -> None:
    """Legacy tables have no owner and no ingress hook; what passes the router must be the same."""
    both = {"backend": "iptables"}
    site = build(client=both, server=both)
    dialled = site.all_flows()
    for host in (site.lab.client, site.lab.server):
        assert "-A RSOCK_NF_" in host.run(["iptables-legacy-save", "-t", "raw"]).stdout
    with site.watch() as wires:
        found = flood(site.lab, SHORT)
    site.no_offence()
    assert wires.resets() == 0
    assert found.received > LEAST * SHORT
    assert found.duplicates == 0
    assert tracked_flows(site.lab) == dialled


@pytest.mark.parametrize("version", [4, 6])
def test_a_black_hole_of_one_flow_at_full_load(share: Build, version: int) -> None:
    """The tracker sees the flow's segments pass and nothing come back: who runs out of the window is INVALID for
    ever."""
    site = share(KINDS["plain"], version=version)
    before = site.all_flows()

    def swallow() -> None:
        time.sleep(1)  # well into the load
        with site.lab.black_hole("tcp sport 10003"), site.lab.black_hole("tcp dport 10003"):
            time.sleep(5)

    with site.watch() as wires:
        found = flood(site.lab, 7, during=swallow)
    assert site.lab.counters()["blackholed"] > 0
    site.no_offence()
    assert wires.resets() == 0
    assert found.received > LEAST * 7
    kept = before - {flow for flow in before if flow[1] == "10003"}
    assert len(kept) == FLOWS - 1
    assert kept <= tracked_flows(site.lab)  # nobody else's flow died of it


def test_a_flow_that_loses_everything_is_avoided_within_two_seconds(build: Build) -> None:
    """One flow in ten for 5 of 7 s would be 7 % of the datagrams, for 2 s 2.9 %: the probe of an active flow is due
    after a second at the latest, and overdue after 200 ms, more on a busy machine."""
    site = build()

    def swallow() -> None:
        time.sleep(0.5)
        with site.lab.black_hole("tcp dport 10003"):
            time.sleep(5)

    found = flood(site.lab, 7, rate=RATE, during=swallow)
    assert 0 < found.lost < 0.029
    site.no_offence()


def test_random_loss_on_the_way_costs_no_more_than_it_takes(build: Build) -> None:
    site = build(Router(loss=5), up=False)
    for host in (site.lab.client, site.lab.server):
        site.lab.offload(host, tso=False)  # the router then loses segments, not whole bursts
    with site.tunnel, site.watch() as wires:
        found = flood(site.lab, 5, rate=RATE)
        assert 0.03 < found.lost < 0.08
        assert found.duplicates == 0
        site.no_offence()
    assert wires.resets() == 0

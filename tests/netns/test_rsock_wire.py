"""Wire rsock between our own ends: what holds for the native wire in front of a strict stateful NAT holds for it
too."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rsock_nf.lab.lab import Router
from tests.netns.conftest import FLOWS, Build
from tests.netns.judges import flood, flood_both_ways, tracked_flows, wait_until

RSOCK: dict[str, Any] = {"wire": "rsock", "hash": "between us", "secret": None}
BOTH: dict[str, Any] = {"client": RSOCK, "server": RSOCK}
KINDS = {"plain": Router(), "maxseg-1400": Router(maxseg=1400), "no-wscale": Router(strip_wscale=True)}
LEAST = 1_000
"""Datagrams a second that must arrive on a machine that does other things too: this wire has no bursts."""


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_load_in_either_direction(build: Build, kind: str) -> None:
    site = build(KINDS[kind], **BOTH)
    dialled = site.all_flows()
    with site.watch() as wires:
        one_way = flood(site.lab, 3)
        both_ways = flood_both_ways(site.lab, 3, rate=2_000)
    site.no_offence()
    assert wires.resets() == 0
    assert one_way.received > LEAST * 3
    assert one_way.duplicates == 0
    assert both_ways["received"] > LEAST * 3
    assert len(dialled) == FLOWS
    assert tracked_flows(site.lab) == dialled  # none died of the load


@pytest.mark.alone
def test_a_black_hole_of_one_flow_under_load(build: Build) -> None:
    """The tracker sees its segments pass and nothing come back: who runs out of the window is INVALID for ever."""
    site = build(**BOTH)
    before = site.all_flows()

    def swallow() -> None:
        time.sleep(0.5)
        with site.lab.black_hole("tcp sport 10003"), site.lab.black_hole("tcp dport 10003"):
            time.sleep(5.5)

    found = flood(site.lab, 7, rate=2_000, during=swallow)
    assert site.lab.counters()["blackholed"] > 0
    site.no_offence()
    # A tenth of 5.5 of 7 s would be 7.9 %; its keepalive is due after two seconds at the latest, and overdue after one
    # more.
    assert found.lost < 0.06
    assert before - {flow for flow in before if flow[1] == "10003"} <= tracked_flows(site.lab)


def test_a_killed_server_is_found_again(build: Build) -> None:
    """It answers frames of connections that it does not know with RST, in window, as only who knows the key can see."""
    site = build(**BOTH)
    site.carries(500)
    site.kill("server")
    site.tunnel.up("server")
    application = site.application()
    site.target()
    began = time.monotonic()
    while application.ping(5).lost:
        assert time.monotonic() - began < 5
    assert site.lab.invalid() == 0


@pytest.mark.parametrize("kind", ["udp", "all"])
def test_udp_carriers(build: Build, kind: str) -> None:
    options = {**RSOCK, "type": kind, "keepalive": 1}
    site = build(Router(block_udp=False), client=options, server=options)
    wanted = 2 * FLOWS if kind == "all" else FLOWS

    def flows() -> list[Any]:
        (session,) = site.tunnel.status("client")["sessions"]
        return list(session["flows"])

    wait_until(lambda: len(flows()) == wanted, "every flow to be up")
    site.carries()
    wait_until(lambda: all(flow["rtt_ms"] for flow in flows()), "every flow to answer a keepalive")
    counters = site.lab.counters()
    assert counters["invalid"] == counters["refused"] == site.lab.rsts() == 0
    assert (counters["tcp_inside"] > 0) is (kind == "all")


def test_the_type_may_change_between_restarts(build: Build) -> None:
    site = build(Router(block_udp=False), up=False, **BOTH)
    for kind in ("tcp", "udp", "all", "tcp"):
        for role in ("server", "client"):
            site.tunnel.rewrite(role, type=kind)
        with site.tunnel:
            site.carries(500)
    assert site.lab.invalid() == site.lab.rsts() == 0


def test_status_names_wire_and_usable_size(build: Build) -> None:
    site = build(**BOTH)
    site.carries(100)
    for role in ("client", "server"):
        status = site.tunnel.status(role)
        (session,) = status["sessions"]
        assert (session["wire"], session["mtu"]) == ("rsock", 1500 - 40 - 31)
        assert session["flows"]


def test_another_key_gets_nothing(build: Build) -> None:
    site = build(client={**RSOCK, "hash": "guessed"}, server=RSOCK)
    site.target()
    assert site.application().ping(5).returned == 0
    assert site.tunnel.status("server")["sessions"] == []
    site.no_offence()

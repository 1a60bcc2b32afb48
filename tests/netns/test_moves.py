"""Ends that restart, addresses that change, trackers that forget: the conversation goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rsock_nf.lab.traffic import Application, EchoTarget
from rsock_nf.lab.tunnel import Role, Tunnel
from tests.netns.conftest import FLOWS, Site
from tests.netns.judges import tracked_flows, wait_until

RECOVERY = 5.0
"""Seconds, at most, under traffic."""


@contextmanager
def traffic(site: Site) -> Iterator[None]:
    """Another conversation that never rests, so that silence is noticed."""
    stop = threading.Event()
    with Application(site.lab) as application:

        def talk() -> None:
            while not stop.is_set():
                application.exchange_for(0.2, window=16)

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def works_again(application: Application, seconds: float = RECOVERY) -> None:
    wait_until(lambda: application.ping(1).returned == 1, "an answer", seconds)


def test_a_killed_server_comes_back_under_traffic(site: Site) -> None:
    application = site.application()
    target = site.target()
    assert application.ping(5).returned == 5
    old = set(target.peers)
    with site.watch() as wires, traffic(site):
        site.kill("server")
        site.tunnel.up("server")
        works_again(application)
    assert target.peers - old  # a new session: the target sees new source ports
    assert target.corrupted == 0
    assert application.exchange(2000).lost == 0
    assert wires.resets() == 0


def test_a_server_that_was_stopped_and_started_under_traffic(site: Site) -> None:
    application = site.application()
    site.target()
    assert application.ping(5).returned == 5
    with traffic(site):
        site.tunnel.down("server")
        site.tunnel.up("server")
        works_again(application)
    assert application.exchange(2000).lost == 0


@pytest.mark.parametrize("version", [4, 6])
def test_the_client_gets_another_address(build: Callable[..., Site], version: int) -> None:
    """The same session, the same conversation, the same UDP source port toward the target."""
    site = build(version=version)
    application = site.application()
    target = site.target()
    assert application.ping(5).returned == 5
    before = set(target.peers)
    session = site.tunnel.status("server")["sessions"][0]["id"]
    with site.watch() as wires:
        site.lab.renumber_client(version, "10.77.1.77" if version == 4 else "fd77:1::77")
        works_again(application, 3 * RECOVERY)
    assert target.peers == before
    assert site.tunnel.status("server")["sessions"][0]["id"] == session
    assert application.exchange(2000).lost == 0
    assert wires.resets() == 0
    assert site.lab.invalid() == 0


def test_a_tracker_that_forgets_everything(site: Site) -> None:
    """A NAT that reboots: whatever flows were, are INVALID now; new ones are dialled, from the same session."""
    application = site.application()
    target = site.target()
    assert application.ping(5).returned == 5
    # A SYN that is under way would be tracked again, with the same ports.
    wait_until(lambda: len(site.tunnel.status("client")["sessions"][0]["flows"]) == FLOWS, "every flow to be up")
    before, peers = site.all_flows(), set(target.peers)
    with traffic(site):
        site.lab.router.run(["conntrack", "-F"])
        works_again(application, 2 * RECOVERY)
    assert peers <= target.peers
    assert target.corrupted == 0
    wait_until(lambda: application.exchange(200).lost == 0, "both directions to avoid the old flows", RECOVERY)
    wait_until(lambda: len(tracked_flows(site.lab)) >= len(before), "as many flows as before")
    assert tracked_flows(site.lab).isdisjoint(before)
    # A flow that was dialled as the tracker forgot closes a moment later, by a FIN that nobody tracks.
    wait_until(lambda: ports_of_flows(site) <= {port for port, _ in tracked_flows(site.lab)}, "old flows to be closed")
    invalid = site.lab.invalid()
    assert application.exchange(2000).lost == 0
    assert site.lab.invalid() == invalid


def ports_of_flows(site: Site) -> set[str]:
    """The client's ports of all flows that either end has."""
    ends: dict[Role, str] = {"client": "local", "server": "remote"}
    return {
        flow[end].rpartition(":")[2]
        for role, end in ends.items()
        for session in site.tunnel.status(role)["sessions"]
        for flow in session["flows"]
    }


def test_one_server_for_both_families_and_several_clients(build: Callable[..., Site]) -> None:
    """Two clients on one host, one by IPv4 and one by IPv6, each an instance of its own."""
    site = build()
    second = Tunnel(
        site.lab,
        site.tunnel.directory / "second",
        version=6,
        client={"name": "second", "listen": "127.0.0.1:30001", "secret": _secret(site)},
    )
    site.stack.callback(second.down, "client")
    second.up("client")
    site.target()
    with Application(site.lab) as one, Application(site.lab, ("127.0.0.1", 30001)) as two:
        assert one.exchange(1000).lost == 0
        assert two.exchange(1000).lost == 0
    assert len(site.tunnel.status("server")["sessions"]) == 2
    site.no_offence()


def test_no_target_then_a_target(site: Site) -> None:
    """ECONNREFUSED at the server closes nothing."""
    application = site.application()
    assert application.ping(3).returned == 0
    with EchoTarget(site.lab):
        works_again(application)
        assert application.exchange(500).lost == 0


@pytest.mark.parametrize("spread", ["packet", "conversation"])
def test_other_ways_to_spread(build: Callable[..., Site], spread: str) -> None:
    site = build(client={"spread": spread}, server={"spread": spread})
    site.carries()
    site.no_offence()


@pytest.mark.parametrize("cipher", ["aes-256-gcm", "chacha20-poly1305"])
def test_sealed(build: Callable[..., Site], cipher: str) -> None:
    site = build(client={"cipher": cipher}, server={"cipher": cipher})
    site.carries()
    site.no_offence()


def test_idle_flows_close_and_wake_with_the_next_datagram(build: Callable[..., Site]) -> None:
    site = build(client={"duration": 1, "idle_timeout": 1}, server={"duration": 1})
    application = site.application()
    site.target()
    assert application.ping(5).returned == 5
    with site.watch() as wires:
        wait_until(lambda: not site.tunnel.status("client")["sessions"] or not flows(site), "the flows to close", 15)
        found = application.ping(3)
        assert found.returned >= 2  # the first one waited for the flows
    assert wires.resets() == 0
    site.no_offence()


def flows(site: Site) -> list[object]:
    """The client's."""
    return [flow for session in site.tunnel.status("client")["sessions"] for flow in session["flows"]]


def _secret(site: Site) -> str:
    return str(json.loads(site.tunnel.config("server").read_text())["secret"])

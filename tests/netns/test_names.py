"""Host names whose addresses change: the tunnel follows, and nobody has to do anything.

The resolver is the real dnsmasq.  The kernel's own ``ping`` is not asked: what counts is an application's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.lab.lab import DEVICE, ROUTER_OUTSIDE_IP, Router
from rsock_nf.lab.traffic import Application, EchoTarget
from tests.netns.conftest import Site
from tests.netns.judges import wait_until
from tests.netns.resolver import ETC, Resolver, resolver

FOLLOWED = 10.0
"""Seconds, at most, from a change until an application has its answer again."""
OPEN = Router(block_udp=False)
OLD, NEW = "10.77.2.2", "10.77.2.50"
SIX = "fd77:2::2"
Named = Callable[..., tuple[Site, Resolver]]


@pytest.fixture
def named(build: Callable[..., Site], tmp_path: Path) -> Iterator[Named]:
    """``named(["10.77.2.2"], client={...})``: a tunnel whose client knows its server as srv.test."""
    with ExitStack() as stack:

        def make(
            addresses: list[str], *, client: dict[str, Any] | None = None, **options: Any
        ) -> tuple[Site, Resolver]:
            site = build(OPEN, up=False, client={"server": "srv.test", **(client or {})}, **options)
            dns = stack.enter_context(resolver(site.lab.client, tmp_path))
            dns.name(srv=addresses)
            dns.start()
            stack.enter_context(site.tunnel.standing())
            return site, dns

        yield make


def move_server(site: Site, old: str, new: str) -> None:
    """As a provider does that gives a host another address, and nobody the old one."""
    site.lab.router.nft(f"add rule inet lab trouble ip daddr {old} drop; add rule inet lab trouble ip saddr {old} drop")
    site.lab.server.ip(
        f"addr del {old}/24 dev {DEVICE}",
        f"addr add {new}/24 dev {DEVICE}",
        f"route replace default via {ROUTER_OUTSIDE_IP[4]}",
    )


def answered(application: Application, within: float = FOLLOWED) -> None:
    wait_until(lambda: application.ping(1).returned == 1, "an answer", within)


RSOCK: dict[str, Any] = {"wire": "rsock", "hash": "between us", "secret": None}


@pytest.mark.parametrize(
    "keys",
    [{"type": "tcp"}, {"type": "udp"}, {"type": "all"}, {"backend": "iptables"}, RSOCK],
    ids=["tcp", "udp", "all", "iptables", "rsock"],
)
def test_a_server_that_moves_is_followed(named: Named, keys: dict[str, Any]) -> None:
    site, dns = named([OLD], client=keys, server=keys)
    application = site.application()
    site.target()
    answered(application)
    session = site.tunnel.status("client")["sessions"][0]["id"]
    move_server(site, OLD, NEW)
    dns.name(srv=[NEW])
    answered(application, 2 * FOLLOWED)
    assert site.tunnel.status("client")["sessions"][0]["id"] == session
    assert f"server srv.test: {NEW} now (was {OLD})" in site.tunnel.log("client")
    assert application.exchange(500).lost == 0


def test_a_name_that_follows_late_is_asked_for_again(named: Named) -> None:
    site, dns = named([OLD])
    application = site.application()
    site.target()
    answered(application)
    move_server(site, OLD, NEW)
    wait_until(
        lambda: application.ping(1).returned == 0 and site.tunnel.status("client")["state"] == "connecting", "loss"
    )
    asked = dns.questions()
    wait_until(lambda: dns.questions() > asked, "a question")
    dns.name(srv=[NEW])
    answered(application)


def test_while_traffic_is_carried_nothing_is_asked(named: Named) -> None:
    site, dns = named([OLD])
    application = site.application()
    site.target()
    answered(application)
    wait_until(lambda: site.tunnel.status("client")["state"] == "connected", "flows")
    asked = dns.questions()
    assert application.exchange_for(3.0, window=16).lost == 0
    assert dns.questions() == asked


def test_a_resolver_that_is_dead_leaves_the_old_address_in_use(named: Named) -> None:
    site, dns = named([OLD])
    application = site.application()
    site.target()
    answered(application)
    dns.stop()
    with site.lab.black_hole("ip daddr 10.77.2.2"):
        wait_until(lambda: "cannot be looked up" in site.tunnel.status("client")["reason"], "the reason")
        wait_until(lambda: f"still using {OLD}" in site.tunnel.log("client"), "the warning")
        application.ping(1)
    answered(application)
    assert site.tunnel.status("client")["reason"] == ""


def test_a_resolver_behind_the_tunnel_cannot_be_asked_while_the_tunnel_is_down(named: Named) -> None:
    """As with DNS inside a VPN over the tunnel.  It comes back without an answer, and then there is one."""
    tunnels = [{"listen": "127.0.0.1:30000"}, {"listen": "127.0.0.2:53", "target": 1}]
    site, dns = named(
        [OLD],
        client={"listen": None, "tunnels": tunnels},
        server={"target": None, "targets": ["127.0.0.1:9999", "127.0.0.1:53"]},
    )
    with resolver(site.lab.server, site.tunnel.directory) as inside:
        inside.name(srv=[OLD])
        inside.start()
        (ETC / site.lab.client.name / "resolv.conf").write_text("nameserver 127.0.0.2\n")
        application = site.application()
        site.target()
        answered(application)
        outside = dns.questions()
        with site.lab.black_hole(f"ip daddr {OLD}"):
            wait_until(lambda: "cannot be looked up" in site.tunnel.status("client")["reason"], "the reason")
        answered(application)
        wait_until(lambda: inside.questions() > 0, "a question through the tunnel")
        assert site.tunnel.status("client")["sessions"][0]["peer"] == OLD
        assert dns.questions() == outside


@pytest.mark.parametrize(("dead", "alive"), [("ipv6", OLD), ("ipv4", SIX)])
def test_a_family_that_dies_gives_way_to_the_other(named: Named, dead: str, alive: str) -> None:
    site, _ = named([OLD, SIX])
    application = site.application()
    site.target()
    answered(application)
    with site.lab.black_hole(f"meta nfproto {dead}"):
        wait_until(lambda: application.ping(1).returned == 1, "an answer", 2 * FOLLOWED)
        assert site.tunnel.status("client")["sessions"][0]["peer"] == alive


def test_reconnect_moves_to_the_address_that_the_name_has_now(named: Named) -> None:
    """Although the old one still works."""
    site, dns = named([OLD])
    application = site.application()
    site.target()
    answered(application)
    site.lab.server.ip(f"addr add {NEW}/24 dev {DEVICE}")
    dns.name(srv=[NEW])
    site.tunnel.command("client", "reconnect")

    def moved() -> bool:
        sessions = site.tunnel.status("client")["sessions"]
        flows = [flow for session in sessions for flow in session["flows"]]
        return bool(flows) and all(flow["remote"].startswith(f"{NEW}:") for flow in flows)

    wait_until(moved, f"flows to {NEW}")
    answered(application)


def test_a_client_that_slept_finds_the_server(named: Named) -> None:
    site, dns = named([OLD], client={"idle_timeout": 1, "duration": 2})
    application = site.application()
    site.target()
    answered(application)
    wait_until(lambda: site.tunnel.status("client")["state"] == "idle", "sleep")
    move_server(site, OLD, NEW)
    dns.name(srv=[NEW])
    answered(application)


# -- a server's target

AT_HOME, MOVED = "10.88.0.2", "10.88.0.3"


@pytest.fixture
def container(build: Callable[..., Site], tmp_path: Path) -> Iterator[tuple[Site, Resolver]]:
    """A server whose target is app.test, a container with an address of its own."""
    site = build(up=False, server={"target": "app.test:9999"})
    site.lab.server.ip(f"addr add {AT_HOME}/32 dev lo")
    with resolver(site.lab.server, tmp_path) as dns:
        dns.name(app=[AT_HOME])
        dns.start()
        with site.tunnel.standing():
            yield site, dns


@pytest.mark.parametrize("death", ["refuses", "is silent", "has no address"])
def test_a_target_that_moves_is_followed(container: tuple[Site, Resolver], death: str) -> None:
    """The old conversation too: its application has sent nothing else."""
    site, dns = container
    application = site.application()
    with EchoTarget(site.lab, (AT_HOME, 9999)):
        answered(application)
    if death == "is silent":
        drop = f"ip daddr {AT_HOME} drop"
        site.lab.server.nft(f"table ip dead {{\nchain in {{\ntype filter hook input priority 0\n{drop}\n}}\n}}")
    site.lab.server.ip(f"addr add {MOVED}/32 dev lo")
    if death == "has no address":
        site.lab.server.ip(f"addr del {AT_HOME}/32 dev lo")
    with EchoTarget(site.lab, (MOVED, 9999)):
        dns.name(app=[MOVED])
        answered(application, 2 * FOLLOWED)
        answered(site.application(), 2.0)
        assert f"target app.test: {MOVED} now (was {AT_HOME})" in site.tunnel.log("server")
        asked = dns.questions()
        assert application.exchange(200).lost == 0
        assert dns.questions() == asked, "a target that answers is not asked for"


def test_a_target_whose_resolver_is_dead_keeps_its_address(container: tuple[Site, Resolver]) -> None:
    site, dns = container
    application = site.application()
    dns.stop()
    wait_until(
        lambda: (
            application.ping(1).returned == 0 and "target app.test cannot be looked up" in site.tunnel.log("server")
        ),
        "the warning",
    )
    with EchoTarget(site.lab, (AT_HOME, 9999)):
        answered(application)

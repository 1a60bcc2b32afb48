"""A VPN on top of the tunnel, as people set it up, default route included: nothing has to be configured for it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rsock_nf.lab.lab import Lab, Router
from rsock_nf.lab.traffic import Application, EchoTarget
from rsock_nf.lab.tunnel import LISTEN
from tests.e2e.vpn import INNER, VPNS, leads_into, ping
from tests.evidence import watched
from tests.netns.asked import AskedTunnel
from tests.netns.judges import wait_until

STORM = 300
"""Datagrams at the local end: far more than the pings of a test make, far fewer than a loop makes in a second."""


@contextlib.contextmanager
def tunnel_between(directory: Path, version: int, types: str) -> Iterator[tuple[Lab, AskedTunnel]]:
    common = {"type": types}
    with (
        Lab(Router(block_udp=types == "tcp")) as lab,
        watched(lab, directory),
        AskedTunnel(lab, directory, version=version, client=common, server=common) as tunnel,
    ):
        yield lab, tunnel


@pytest.fixture
def directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="rsnf-") as made:
        yield Path(made)


def carries(lab: Lab) -> bool:
    return all(ping(lab.client, INNER["server"][version], 3) == 3 for version in (4, 6))


@pytest.mark.parametrize("types", ["tcp", "udp", "all"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("full", [False, True], ids=["split", "full"])
@pytest.mark.parametrize("vpn", VPNS)
def test_a_vpn_over_the_tunnel(directory: Path, vpn: str, full: bool, version: int, types: str) -> None:  # noqa: FBT001
    """Whichever starts first: the VPN comes up over the tunnel, then the tunnel's client starts anew under the VPN."""
    with tunnel_between(directory, version, types) as (lab, tunnel), VPNS[vpn](lab, directory, full=full) as device:
        server = lab.server_ip[version]
        assert (leads_into(lab.client, server) == device) is full, "the premise"
        wait_until(lambda: carries(lab), "pings through the VPN", 20)
        assert tunnel.status("client")["sockets"]["received"] < STORM
        if full:
            (note,) = tunnel.status("client")["notes"]
            assert (
                note == f"the route to {server} leads into {device}, which runs over this tunnel: eth0 is used instead"
            )
        tunnel.end("client")
        tunnel.up("client")
        wait_until(lambda: carries(lab), "pings after a start under the VPN", 20)
        assert tunnel.status("client")["sockets"]["received"] < STORM
        counters = lab.counters()
        assert (counters["invalid"], lab.rsts(), counters["udp_refused"]) == (0, 0, 0)


@pytest.mark.parametrize("types", ["tcp", "udp"])
def test_from_cable_to_wlan_under_a_vpn_that_takes_every_route(directory: Path, types: str) -> None:
    with tunnel_between(directory, 4, types) as (lab, tunnel), VPNS["wg-quick"](lab, directory, full=True):
        wait_until(lambda: carries(lab), "pings through the VPN", 20)
        lab.router.ip(
            f"link add wlan type veth peer name wlan0 netns {lab.client.name}",
            "address add 10.78.1.1/24 dev wlan",
            "link set wlan up",
        )
        lab.router.nft('insert rule inet lab passing iifname "wlan" accept')
        lab.client.ip(
            "address add 10.78.1.2/24 dev wlan0",
            "link set wlan0 up",
            "route add default via 10.78.1.1 dev wlan0 metric 600",
        )
        lab.client.ip("link set eth0 down")
        wait_until(lambda: carries(lab), "pings over the other device", 20)
        assert tunnel.status("client")["link"]["device"] == "wlan0"
        lab.client.ip("link set eth0 up", "route add default via 10.77.1.1 dev eth0 metric 100")
        wait_until(lambda: tunnel.status("client")["link"]["device"] == "eth0", "the better route", 10)
        wait_until(lambda: carries(lab), "pings over the first device", 20)
        assert tunnel.status("client")["sockets"]["received"] < 2 * STORM


def test_a_vpn_that_leaves_no_other_route_is_the_reason(directory: Path) -> None:
    with tunnel_between(directory, 4, "tcp") as (lab, tunnel), VPNS["wg-quick"](lab, directory, full=True) as device:
        wait_until(lambda: carries(lab), "pings through the VPN", 20)
        lab.client.ip("route del default")
        said = (
            f"the route to {lab.server_ip[4]} leads into {device}, which runs over this tunnel, and no other device has "
            f"a route: add one to {lab.server_ip[4]}"
        )
        wait_until(lambda: said in tunnel.status("client")["reason"], "the reason", 10)
        wait_until(lambda: said in tunnel.log("client"), "a line in the log", 10)
        assert tunnel.status("client")["sockets"]["received"] < STORM
        lab.client.ip("route add default via 10.77.1.1 dev eth0")
        wait_until(lambda: carries(lab), "pings with the route", 20)
        assert tunnel.status("client")["reason"] == ""


@pytest.mark.parametrize("types", ["tcp", "udp"])
@pytest.mark.parametrize("first", ["vpn", "tunnel"])
def test_a_vpn_that_cannot_be_recognised_by_its_program(directory: Path, first: str, types: str) -> None:
    """Its packets come back to us as they are: they are dropped.  Nothing is answered, so another way is tried."""
    with tunnel_between(directory, 4, types) as (lab, tunnel):
        server = lab.server_ip[4]
        if first == "vpn":
            tunnel.end("client")
        program = lab.client.popen(
            [sys.executable, str(Path(__file__).with_name("plain_vpn.py")), "plain0", *map(str, LISTEN)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        lab.client.ip(
            "address add 10.99.0.2/24 dev plain0",
            "link set plain0 up",
            "route add 0.0.0.0/1 dev plain0",
            "route add 128.0.0.0/1 dev plain0",
        )
        assert leads_into(lab.client, server) == "plain0", "the premise"
        with Application(lab) as application, EchoTarget(lab):
            if first == "vpn":
                tunnel.up("client", "--timeout", "30")
                said = f"a VPN that runs over the tunnel takes the route to {server}"
                wait_until(lambda: said in tunnel.log("client"), "the log to tell", 10)
                assert tunnel.status("client")["looped"] > 0
            assert application.exchange(500).lost == 0
        assert tunnel.status("client")["link"]["device"] == "eth0"
        (note,) = tunnel.status("client")["notes"]
        assert note == f'the route to {server} leads into plain0, a VPN: eth0 is used instead; set "device" to choose'
        assert tunnel.status("client")["sockets"]["received"] < 2 * STORM + 500
        told = tunnel.command("client", "doctor", "--config", str(tunnel.config("client"))).stdout
        assert "MTU: 1500 on the way out" in told, "of eth0, not of the VPN"
        tunnel.end("client")  # whose VPN stays
        told = tunnel.command("client", "doctor", "--config", str(tunnel.config("client")), check=False).stdout
        assert "fail  " not in told.lower(), told


@pytest.mark.parametrize("types", ["tcp", "udp"])
def test_a_client_that_may_not_look_at_other_programs(directory: Path, types: str) -> None:
    """As under the systemd unit: the VPN cannot be recognised, and still nothing has to be configured."""
    with tunnel_between(directory, 6, types) as (lab, tunnel):
        tunnel.end("client")
        tunnel.prefix = ("setpriv", "--bounding-set=-sys_ptrace")
        tunnel.up("client")
        with VPNS["OpenVPN"](lab, directory, full=True) as device:
            wait_until(lambda: carries(lab), "pings through the VPN", 20)
            tunnel.end("client")
            tunnel.up("client", "--timeout", "30")
            wait_until(lambda: carries(lab), "pings after a start under the VPN", 20)
            (note,) = tunnel.status("client")["notes"]
            assert f"leads into {device}, a VPN: eth0 is used instead" in note
            assert tunnel.status("client")["sockets"]["received"] < STORM

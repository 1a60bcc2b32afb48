"""A host with more uses than the tunnel: the exit of a VPN, a web site on the same port."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rsock_nf.lab.lab import DEVICE, ROUTER_OUTSIDE_IP
from rsock_nf.lab.netns import Namespace
from tests.netns.conftest import Site
from tests.netns.judges import wait_until

PORTS = "40000-40999"
"""Within net.ipv4.ip_local_port_range."""
MASQUERADE = f"""
table inet nat {{ chain post {{ type nat hook postrouting priority srcnat; oifname "{DEVICE}" masquerade; }}; }}
"""
BEHIND = {4: "10.77.9.2", 6: "fd77:9::2"}
GATEWAY = {4: "10.77.9.1", 6: "fd77:9::1"}


def forward(site: Site) -> None:
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        site.lab.server.sysctl(key, "1")


@contextmanager
def somebody_behind(site: Site) -> Iterator[Namespace]:
    """A user of the VPN whose exit is the server, and a web server outside: the router."""
    server = site.lab.server
    behind = Namespace(f"{site.lab.name}-behind")
    try:
        server.ip(f"link add vpn type veth peer name {DEVICE} netns {behind.name}", "link set vpn up")
        behind.ip(f"link set {DEVICE} up")
        for version, length in ((4, 24), (6, 64)):
            server.ip(f"addr add {GATEWAY[version]}/{length} dev vpn")
            behind.ip(f"addr add {BEHIND[version]}/{length} dev {DEVICE}", f"route add default via {GATEWAY[version]}")
        server.nft(MASQUERADE)
        site.lab.router.popen([sys.executable, "-m", "http.server", "8080", "--bind", "::"])
        wait_until(lambda: ":8080" in site.lab.router.run(["ss", "-Hltn"]).stdout, "the web server")
        yield behind
    finally:
        behind.close()


def fetched(behind: Namespace, port: int, version: int, *, patience: int = 10) -> str:
    """The status of a page outside, fetched from that source port; 000 = there was no answer."""
    url = f"http://[{ROUTER_OUTSIDE_IP[6]}]:8080/" if version == 6 else f"http://{ROUTER_OUTSIDE_IP[4]}:8080/"
    words = ["curl", "-s", "-m", str(patience), "-o", "/dev/null", "-w", "%{http_code}", "--local-port", str(port), url]
    return behind.run(words, check=False).stdout


def entries_of_ours(site: Site) -> list[str]:
    """What connection tracking on the server has of flows: they come to our ports."""
    tracked = site.lab.server.read("nf_conntrack").splitlines()
    return [line for line in tracked if f"src={ROUTER_OUTSIDE_IP[4]}" in line.partition("dport=")[0]]


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_the_exit_of_a_vpn(build: Callable[..., Site], backend: str) -> None:
    """Masquerading keeps source ports, ours too.  Nobody who uses them notices the tunnel, nor does the tunnel."""
    server = {"backend": backend, "ports": PORTS, "on_probe": "closed"}
    site = build(up=False, server=server, client={"ports": PORTS})
    forward(site)
    with somebody_behind(site) as behind, site.watch() as wires, site.tunnel:
        target, application = site.target(), site.application()
        for version, port in ((4, 40006), (6, 40123), (4, 40998), (6, 40999)):
            found = application.exchange(300)
            assert (found.lost, target.corrupted) == (0, 0)
            assert fetched(behind, port, version) == "200", port
        assert entries_of_ours(site) == []
        assert wires.resets() == 0
    assert "this host forwards" in site.tunnel.log("server")
    site.no_offence()


def test_a_host_that_begins_to_forward_while_the_tunnel_runs(build: Callable[..., Site]) -> None:
    site = build(up=False, server={"ports": PORTS}, client={"ports": PORTS})
    with somebody_behind(site) as behind, site.watch() as wires, site.tunnel:
        application = site.application()
        site.target()
        assert application.exchange(300).lost == 0
        forward(site)
        found = application.exchange_for(3)
        assert found.lost == 0
        wait_until(lambda: "forwards now" in site.tunnel.log("server"), "the rules to follow")
        assert fetched(behind, 40006, 4) == "200"
        assert application.exchange(300).lost == 0
        site.lab.server.sysctl("net.ipv4.ip_forward", "0")
        site.lab.server.sysctl("net.ipv6.conf.all.forwarding", "0")
        wait_until(lambda: "no longer forwards" in site.tunnel.log("server"), "the rules to follow")
        assert application.exchange(300).lost == 0
        assert wires.resets() == 0
    site.no_offence()

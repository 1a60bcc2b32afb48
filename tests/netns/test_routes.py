"""Hosts as people have them: policy routing, two devices on one network, bridges, macvlan.

Each is a set-up in which the kernel's own TCP works; so has the tunnel to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from rsock_nf.lab.lab import Lab
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.tunnel import Role
from tests.netns.conftest import Site
from tests.netns.judges import wait_until

UPLINK = {4: ("10.78.1.2", "10.78.1.1", 24), 6: ("fd78:1::2", "fd78:1::1", 64)}
"""A second uplink: the host's address, the router's, the prefix."""
DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}


def second_uplink(lab: Lab, host: Namespace, version: int, *, router_device: str = "uplink") -> None:
    """eth1 of ``host`` leads to the router.  Only packets from its address take it, by a rule and a table of its
    own."""
    address, gateway, bits = UPLINK[version]
    lab.router.ip(
        f"link add {router_device} type veth peer name eth1 netns {host.name}",
        f"address add {gateway}/{bits} dev {router_device} {'nodad' if version == 6 else ''}",
        f"link set {router_device} up",
    )
    lab.router.nft(f'insert rule inet lab passing iifname "{router_device}" accept')
    lab.router.nft(f'insert rule inet lab passing oifname "{router_device}" accept')
    host.ip(
        f"address add {address}/{bits} dev eth1 {'nodad' if version == 6 else ''}",
        "link set eth1 up",
        f"route add {DEFAULT[version]} via {gateway} dev eth1 table 100",
    )
    host.run(["ip", f"-{version}", "rule", "add", "from", address, "lookup", "100"])


def carries(site: Site) -> None:
    site.carries(500)
    counters = site.lab.counters()
    assert counters["invalid"] == 0
    assert site.lab.rsts() == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("how", ["addresses", "device", "both"])
def test_a_client_on_its_second_uplink(build: Callable[..., Site], version: int, how: str) -> None:
    """Multi-WAN: only a rule about the source address leads to eth1's gateway."""
    address = UPLINK[version][0]
    keys = {"addresses": {"addresses": address}, "device": {"device": "eth1"}}
    chosen = {**keys["addresses"], **keys["device"]} if how == "both" else keys[how]
    site = build(up=False, version=version, client=chosen)
    second_uplink(site.lab, site.lab.client, version)
    if how == "device":  # without the source the kernel must find the device's table by another rule
        site.lab.client.run(["ip", f"-{version}", "rule", "add", "oif", "eth1", "lookup", "100"])
    with site.tunnel.standing():
        carries(site)
        flows = site.tunnel.status("client")["sessions"][0]["flows"]
        assert all(address in flow["local"] for flow in flows)
        assert site.tunnel.status("client")["link"]["counters"]["unresolved"] == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("chosen", [{}, {"device": "eth1"}], ids=["any", "eth1"])
def test_a_server_on_its_second_uplink(build: Callable[..., Site], version: int, chosen: dict[str, str]) -> None:
    """A cloud host's second NIC: answers to its address have to leave by it."""
    site = build(up=False, version=version, server=chosen, client={"server": UPLINK[version][0]})
    second_uplink(site.lab, site.lab.server, version)
    site.lab.router.nft('add rule inet lab translate oifname "uplink" masquerade')
    with site.tunnel.standing():
        carries(site)
        assert site.tunnel.status("server")["link"]["counters"]["unresolved"] == 0


def test_a_device_without_a_route_is_the_reason(build: Callable[..., Site]) -> None:
    """Before: an ARP request for the far address, for ever, and "no answer"."""
    site = build(up=False, client={"device": "eth1"})
    site.lab.client.ip(
        "link add eth1 type veth peer name nowhere",
        "link set nowhere up",
        "address add 10.79.0.1/24 dev eth1",
        "link set eth1 up",
    )
    site.tunnel.up("server")
    try:
        result = site.tunnel.command(
            "client", "up", "--config", str(site.tunnel.config("client")), "--timeout", "3", check=False
        )
        assert f"no route to {site.lab.server_ip[4]}" in result.stderr
    finally:
        site.tunnel.end("server")


@contextlib.contextmanager
def two_devices_on_one_network(lab: Lab, host: Namespace, inside: str, address: str) -> Iterator[str]:
    """A docked laptop: eth0 by cable, wlan0 by radio, both on the router's network; yields wlan0's link address."""
    lab.router.ip(
        "link add lan type bridge",
        f"link add port type veth peer name wlan0 netns {host.name}",
        f"address flush dev {inside}",
        f"link set {inside} master lan",
        "link set port master lan",
        "link set port up",
        "link set lan up",
        f"address add {address}/24 dev lan",
    )
    host.ip("link set wlan0 up")
    yield host.run(["cat", "/sys/class/net/wlan0/address"]).stdout.strip()


@pytest.mark.parametrize("role", ["client", "server"])
def test_packets_that_come_by_the_other_device(build: Callable[..., Site], role: str) -> None:
    """ARP flux: the router has learnt the other card's link address.  The kernel's TCP does not care."""
    site = build(up=False)
    lab = site.lab
    host = lab.client if role == "client" else lab.server
    inside, router_address, own, other = (
        ("inside", "10.77.1.1", "10.77.1.2", "10.77.1.22")
        if role == "client"
        else ("outside", "10.77.2.1", "10.77.2.2", "10.77.2.22")
    )
    with two_devices_on_one_network(lab, host, inside, router_address) as lladdr:
        host.ip(f"address add {other}/24 dev wlan0", f"route add default via {router_address} dev wlan0 metric 600")
        # the lab's rules name the devices that are ports of a bridge now
        lab.router.nft(
            'insert rule inet lab passing iifname "lan" accept\ninsert rule inet lab passing oifname "lan" accept'
        )
        if role == "server":
            lab.router.nft('add rule inet lab translate oifname "lan" masquerade')
        lab.router.ip(f"neigh replace {own} lladdr {lladdr} dev lan nud permanent")
        with site.tunnel.standing():
            site.carries(500)
            assert site.tunnel.status(role)["firewall"]["guarded"] == 0  # type: ignore[arg-type]
            assert lab.rsts() == 0
            lab.router.ip(f"neigh del {own} dev lan")  # and by its own again
            site.carries(500)


def says_everywhere(site: Site, role: Role, text: str) -> None:
    """``status``, the log and ``doctor`` say it, within ten seconds and the time that a command takes."""
    wait_until(lambda: text in site.tunnel.status(role)["reason"], "the reason", 15)
    wait_until(lambda: text in site.tunnel.log(role), "a line in the log", 5)
    said = site.tunnel.command(role, "doctor", "--config", str(site.tunnel.config(role)), check=False)
    assert f"instance {role}: " in said.stdout
    assert text in said.stdout


def test_packets_that_come_by_another_device_than_the_configured_one(build: Callable[..., Site]) -> None:
    site = build(up=False, client={"device": "eth0"})
    lab = site.lab
    with two_devices_on_one_network(lab, lab.client, "inside", "10.77.1.1") as lladdr:
        lab.router.nft('insert rule inet lab passing iifname "lan" accept')
        with site.tunnel.standing():
            lab.router.ip(f"neigh replace {lab.client_ip[4]} lladdr {lladdr} dev lan nud permanent")
            says_everywhere(site, "client", "packets for our ports come in by another device than eth0")
            own = lab.client.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
            lab.router.ip(f"neigh replace {lab.client_ip[4]} lladdr {own} dev lan nud permanent")
            wait_until(lambda: site.tunnel.status("client")["reason"] == "", "the reason to go", 40)
            site.carries(500)


def test_a_next_hop_that_does_not_answer_is_the_reason(site: Site) -> None:
    """At the server, where every client is silent otherwise."""
    site.carries(100)
    site.lab.server.ip("route replace 10.77.2.1/32 via 10.77.2.99")
    says_everywhere(site, "server", f"packets cannot be sent to 10.77.2.1 from {site.lab.server_ip[4]}")


def bridged(host: Namespace, lab: Lab) -> None:
    """br0 over eth0 with the host's addresses, as Proxmox and OpenWrt have it."""
    addresses = lab.server_ip
    host.ip("link add br0 type bridge", "link set eth0 master br0", "address flush dev eth0", "link set br0 up")
    host.ip(
        f"address add {addresses[4]}/24 dev br0",
        f"address add {addresses[6]}/64 dev br0 nodad",
        "route replace default via 10.77.2.1",
        "route replace ::/0 via fd77:2::1",
    )


def macvlan(host: Namespace, lab: Lab) -> None:
    """The address is on a macvlan beside its parent; the router knows the parent's link address."""
    mac = host.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    host.ip("link add mv0 link eth0 type macvlan mode bridge", "address flush dev eth0", "link set mv0 up")
    host.ip(f"address add {lab.server_ip[4]}/24 dev mv0", "route add default via 10.77.2.1")
    lab.router.ip(f"neigh replace {lab.server_ip[4]} lladdr {mac} dev outside nud permanent")


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
@pytest.mark.parametrize("layout", [bridged, macvlan])
def test_devices_above_devices(
    build: Callable[..., Site], layout: Callable[[Namespace, Lab], None], backend: str
) -> None:
    site = build(up=False, server={"backend": backend})
    layout(site.lab.server, site.lab)
    with site.tunnel.standing():
        carries(site)
        status = site.tunnel.status("server")
        assert status["firewall"]["guarded"] == 0
        flows = status["sessions"][0]["flows"]
        assert sum(flow["replayed"] + flow["bad_frames"] + flow["out_of_window"] for flow in flows) == 0, "twice"


def test_asymmetric_routing(build: Callable[..., Site]) -> None:
    """What the client sends leaves by eth0; what comes for it arrives by eth1."""
    site = build(up=False)
    lab = site.lab
    lab.router.ip(
        f"link add back type veth peer name eth1 netns {lab.client.name}",
        "address add 10.78.1.1/24 dev back",
        "link set back up",
        f"route add {lab.client_ip[4]}/32 dev back",
    )
    lab.router.nft('insert rule inet lab passing oifname "back" accept')
    for scope in ("all", "inside"):
        lab.router.sysctl(f"net.ipv4.conf.{scope}.rp_filter", "0")
    for scope in ("all", "eth0"):
        lab.client.sysctl(f"net.ipv4.conf.{scope}.rp_filter", "0")
    lab.client.ip("link set eth1 up")
    with site.tunnel.standing():
        site.carries(500)
        wait_until(lambda: site.tunnel.status("client")["link"]["device"] == "eth0", "packets to leave by eth0")
        assert site.tunnel.status("client")["firewall"]["guarded"] == 0

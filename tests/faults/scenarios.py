"""The faults, as data: what happens, for how long, and to which kinds of tunnel.

A fault is a context: it begins when the context is entered, and is taken away when it is left.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from rsock_nf.lab.lab import DEFAULT_ROUTE, DEVICE, OUTSIDE, PREFIX_LENGTH, ROUTER_INSIDE_IP
from rsock_nf.lab.tunnel import Role
from tests.faults.field import AES, ELSEWHERE, PLAIN_TCP, VARIANTS, Field, Variant
from tests.faults.frames import TCP, UDP
from tests.faults.spoilt import Hostility, Spoil, Spoilt
from tests.netns.judges import LOAD, make_load_programs, wait_until

Fault = Callable[[Field], AbstractContextManager[Any]]
MAIN = (PLAIN_TCP, Variant("tcp", AES), Variant("udp", AES), Variant("all"))
"""One of each kind, sealed and not."""
MAIN_AND_UDP = (*MAIN, Variant("udp"))
TCP_ONLY = (PLAIN_TCP, Variant("tcp", AES))
UDP_ONLY = (Variant("udp"), Variant("udp", AES))
ALL_ONLY = (Variant("all"), Variant("all", AES))


@dataclass(frozen=True, slots=True)
class Bounds:
    """What ``make faults`` asserts on an idle machine.  None = nothing."""

    out: float | None = None
    """Seconds for which more than half was lost after the fault was taken away, in either direction."""
    flows: float | None = None
    """Seconds after the fault until every flow carries."""
    lost: int | None = None
    """Datagrams lost in both directions together."""
    delay: float | None = None
    """99th percentile of the seconds under way, of what was sent during the fault.  With it, no flow may be lost."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault."""

    name: str
    what: str
    fault: Fault
    seconds: float = 5.0
    """For which the fault lasts."""
    after: float = 6.0
    """For which the load goes on after it."""
    variants: tuple[Variant, ...] = (PLAIN_TCP,)
    bounds: Bounds = Bounds()
    stays: bool = False
    """The path cannot be better after it (dead ports, for example): fewer flows or some loss are no failure."""
    rate: float = 300
    sizes: tuple[int, int] = (200, 1200)
    direct: bool = False
    """Without the middlebox, which is too slow for the load."""


def _spoil(**spoil: Any) -> Fault:
    return lambda site: site.path.spoil(Spoilt.both(**spoil))


def _up(**spoil: Any) -> Fault:
    return lambda site: site.path.spoil(Spoilt(up=Spoil(**spoil)))


def _down(**spoil: Any) -> Fault:
    return lambda site: site.path.spoil(Spoilt(down=Spoil(**spoil)))


def _flows(**hostility: Any) -> Fault:
    return lambda site: site.path.spoil(Spoilt(flows=Hostility(**hostility)))


def _moment(name: str, what: str, act: Callable[[Field], Any], *, times: int = 1, **details: Any) -> Scenario:
    """A fault that is a moment: nothing has to be taken away.  ``times``: as fast as it can be done."""

    @contextlib.contextmanager
    def fault(site: Field) -> Iterator[None]:
        for _ in range(times):
            act(site)
        yield

    return Scenario(name, what, fault, 0.0, 10.0, **details)


# -- faults that need more than a line


def _flush_nat(site: Field) -> None:
    site.conntrack("-F")


def _other_port(site: Field) -> None:
    """The NAT forgets, and gives every flow another port."""
    chain = "inet lab translate"
    site.lab.router.nft(f'flush chain {chain}\nadd rule {chain} oifname "outside" masquerade random')
    site.conntrack("-F")


def _other_public_address(site: Field) -> None:
    """The NAT forgets, and has another public address."""
    site.lab.router.ip("addr add 10.77.2.9/24 dev outside")
    chain = "inet lab translate"
    site.lab.router.nft(f'flush chain {chain}\nadd rule {chain} oifname "outside" snat ip to 10.77.2.9')
    site.conntrack("-F")


def _renumber(site: Field) -> None:
    site.lab.renumber_client(4, "10.77.1.77")


def _other_device(site: Field) -> None:
    """The route to the server moves to another device; the old one stays, and leads nowhere.

    The second way joins the router beside the path, which nothing spoils.
    """
    site.lab.router.ip(f"link add second type veth peer name eth1 netns {site.lab.client.name}", "link set second up")
    site.lab.router.ip("addr add 10.77.3.1/24 dev second")
    site.lab.router.nft('insert rule inet lab passing iifname "second" accept')
    site.lab.client.ip("link set eth1 up", "addr add 10.77.3.2/24 dev eth1")
    site.lab.client.ip(f"route replace {DEFAULT_ROUTE[4]} via 10.77.3.1")


def _renamed(site: Field) -> None:
    """The client's device gets another name, as udev gives one."""
    host = site.lab.client
    host.ip(f"link set {DEVICE} down", f"link set {DEVICE} name wan0", "link set wan0 up")
    host.ip(f"route replace {DEFAULT_ROUTE[4]} via {ROUTER_INSIDE_IP[4]}")


@contextlib.contextmanager
def _address_gone(site: Field) -> Iterator[None]:
    """The client's address goes and comes back, as between two DHCP leases."""
    host, address = site.lab.client, f"{site.lab.client_ip[4]}/{PREFIX_LENGTH[4]} dev {DEVICE}"
    host.ip(f"addr del {address}")
    try:
        yield
    finally:
        host.ip(f"addr add {address}", f"route replace {DEFAULT_ROUTE[4]} via {ROUTER_INSIDE_IP[4]}")


def _flush_rules(role: Role) -> Callable[[Field], Any]:
    return lambda site: site.run(role, "nft", "flush", "ruleset")


def _flush_raw(site: Field) -> None:
    for role in ("client", "server"):
        for command in ("iptables", "iptables-legacy"):
            site.run(role, command, "-t", "raw", "-F", check=False)
            site.run(role, command, "-F", check=False)


def _docker(site: Field) -> None:
    """The rules that a container engine makes."""
    for role in ("client", "server"):
        for rule in (
            "-t nat -N DOCKER",
            "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            "-t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE",
            "-P FORWARD DROP",
            "-N DOCKER-USER",
            "-I FORWARD -j DOCKER-USER",
        ):
            site.run(role, "iptables", *rule.split(), check=False)


def _input_drop(site: Field) -> None:
    """Both hosts admit only what belongs to a connection that they know."""
    for role in ("client", "server"):
        site.host(role).nft(
            "table inet strict { chain input { type filter hook input priority 0; policy drop;\n"
            'iifname "lo" accept\nct state established,related accept\nct state invalid drop\n}\n}'
        )


@contextlib.contextmanager
def _flood(site: Field, *, share: float, role: Role) -> Iterator[None]:
    """Another application of the client's host sends all that it can, and one end has little CPU."""
    argv = [LOAD, "send", "-h", ELSEWHERE[0], "-p", str(ELSEWHERE[1]), "-s", "1200", "-t", "8", "-r", "60000"]
    make_load_programs()
    with site.starved(share, [role]):
        flood = site.lab.client.popen(argv, stdout=subprocess.DEVNULL)
        yield
        assert flood.wait(timeout=60) == 0, "the other application did not flood"


@contextlib.contextmanager
def _strangers(site: Field, *, kind: str, share: float, rate: int) -> Iterator[None]:
    """Strangers send SYNs or garbage, and the server has little CPU."""
    (link,) = json.loads(site.lab.server.run(["ip", "-j", "link", "show", DEVICE]).stdout)
    argv = [sys.executable, "-m", "tests.faults.flood", kind, OUTSIDE, link["address"], site.lab.server_ip[4], "10001"]
    with site.starved(share, ["server"]):
        flood = site.lab.router.popen([*argv, str(rate)])
        try:
            yield
        finally:
            flood.kill()
            flood.wait()


def _gateway_exchanged(site: Field) -> None:
    """The router's card is exchanged: the next hop has another link address."""
    site.lab.router.ip("link set inside down", "link set inside address 02:00:00:77:01:09", "link set inside up")
    site.lab.client.ip(f"neigh flush dev {DEVICE}")


def _reconnect(site: Field) -> None:
    site.tunnel.command("client", "reconnect", "--config", str(site.tunnel.config("client")))


def _wait_for_flows(site: Field) -> None:
    """Several faults after one another, each only when all is well again."""
    wait_until(lambda: site.flows() >= site.variant.flows, "every flow", 30)


def _flush_nat_again(site: Field) -> None:
    for _ in range(3):
        site.conntrack("-F")
        _wait_for_flows(site)


SEALED_AND_NOT = (PLAIN_TCP, Variant("udp", AES))

SCENARIOS = (
    _moment("nothing", "no fault: what the harness loses by itself", lambda _: None, variants=VARIANTS,
             bounds=Bounds(out=0, lost=0)),
    # -- the path loses and spoils
    Scenario("loss_1", "1 % of the packets lost", _spoil(loss=0.01)),
    Scenario("loss_5", "5 % lost", _spoil(loss=0.05)),
    Scenario("loss_20", "20 % lost", _spoil(loss=0.2), 8, variants=MAIN),
    Scenario("loss_40", "40 % lost", _spoil(loss=0.4), 10, bounds=Bounds(out=2)),
    Scenario("loss_70", "70 % lost", _spoil(loss=0.7), 15, 10),
    Scenario("loss_up_40", "40 % lost, client to server only", _up(loss=0.4), 10),
    Scenario("loss_down_40", "40 % lost, server to client only", _down(loss=0.4), 10),
    Scenario("outage_1s", "nothing passes for 1 s", _spoil(loss=1), 1, variants=MAIN, bounds=Bounds(out=1)),
    Scenario("outage_3s", "nothing passes for 3 s", _spoil(loss=1), 3, bounds=Bounds(out=1)),
    Scenario("outage_20s", "nothing passes for 20 s", _spoil(loss=1), 20, 8, variants=MAIN,
             bounds=Bounds(out=2, flows=5)),
    Scenario("outage_up", "nothing passes from the client for 5 s", _up(loss=1), 5),
    Scenario("outage_down", "nothing passes from the server for 5 s", _down(loss=1), 5),
    Scenario("duplicate_20", "20 % arrives twice", _spoil(duplicate=0.2), variants=MAIN, bounds=Bounds(lost=0)),
    Scenario("duplicate_all", "everything arrives twice", _spoil(duplicate=1.0), variants=MAIN),
    Scenario("corrupt_2", "a bit of 2 % of the payloads flipped, the checksum good", _spoil(corrupt=0.02),
             variants=VARIANTS),
    Scenario("reorder_30", "30 % held back for up to 40 ms", _spoil(reorder=0.3), variants=MAIN,
             bounds=Bounds(lost=0)),
    Scenario("delay_100", "round trip 100 ms longer", _spoil(delay=0.05), bounds=Bounds(lost=0)),
    Scenario("delay_1000", "round trip 1 s longer, at once", _spoil(delay=0.5), 8),
    Scenario("delay_2000", "round trip 2 s longer, at once", _spoil(delay=1.0), 10, variants=TCP_ONLY),
    Scenario("jitter", "50 ms each way, and up to 80 ms more", _spoil(delay=0.05, jitter=0.08), variants=TCP_ONLY),
    Scenario("bad_all", "5 % lost, 5 % twice, 20 % late, 40 ms and 20 ms of jitter",
             _spoil(loss=0.05, duplicate=0.05, reorder=0.2, delay=0.04, jitter=0.02), 8, variants=MAIN),
    # -- the path is narrow
    Scenario("rate_small", "125 kB/s each way, 20 kB queue: 0.6 of what is offered", _spoil(rate=125e3, queue=20_000), 10),
    Scenario("rate_bloat", "125 kB/s each way, 1 MB queue", _spoil(rate=125e3, queue=1_000_000), 15, 15,
             variants=SEALED_AND_NOT),
    Scenario("rate_enough", "400 kB/s each way: more than is offered", _spoil(rate=4e5, queue=30_000)),
    Scenario("mtu_icmp", "path MTU 1,300, and ICMP says so", _spoil(mtu=1300, icmp=True), 15, sizes=(200, 1400),
             variants=MAIN),
    Scenario("mtu_black_hole", "path MTU 1,300, and nothing says so", _spoil(mtu=1300), 15, sizes=(200, 1400),
             variants=MAIN),
    Scenario("mtu_black_hole_up", "the same, client to server only", _up(mtu=1300), 15, sizes=(200, 1400)),
    Scenario("mtu_black_hole_down", "the same, server to client only", _down(mtu=1300), 15, sizes=(200, 1400)),
    Scenario("mtu_600", "path MTU 600, and nothing says so", _spoil(mtu=600), 15, sizes=(200, 1400)),
    # -- single flows and ports
    Scenario("port_dead", "packets of one server port dropped", _flows(ports=(10003,)), 10, stays=True, variants=MAIN),
    Scenario("ports_dead_5", "packets of 5 of 10 server ports dropped", _flows(ports=tuple(range(10001, 10006))), 15,
             stays=True),
    Scenario("lifetime_10", "each flow is dropped silently when it is 10 s old", _flows(lifetime=10), 25,
             variants=(PLAIN_TCP, Variant("udp"))),
    Scenario("resets_2s", "every packet answered with RSTs for 2 s", _flows(reset=True), 2, variants=TCP_ONLY,
             bounds=Bounds(out=3)),
    Scenario("dpi_1500", "a box resets each flow after 1,500 packets with payload", _flows(packets=1500), 20,
             variants=TCP_ONLY),
    Scenario("udp_blocked", "UDP dropped", _flows(protocols=(UDP,)), 10, stays=True, variants=ALL_ONLY),
    Scenario("tcp_blocked", "TCP dropped", _flows(protocols=(TCP,)), 10, stays=True, variants=ALL_ONLY),
    # -- the NAT
    _moment("nat_flush", "the NAT forgets every connection", _flush_nat, variants=MAIN,
             bounds=Bounds(out=2, flows=3)),
    _moment("nat_flush_3", "three times, each when all is well again", _flush_nat_again, variants=TCP_ONLY),
    _moment("nat_other_port", "the NAT forgets, and gives other ports", _other_port, variants=MAIN_AND_UDP,
             bounds=Bounds(out=3)),
    _moment("nat_other_address", "the NAT forgets, and has another address", _other_public_address, variants=MAIN_AND_UDP,
             bounds=Bounds(out=3)),
    Scenario("router_reboot", "the router's link down for 10 s, its state lost", Field.router_down, 10, 8,
             variants=MAIN, bounds=Bounds(out=3, flows=5)),
    _moment("gateway_exchanged", "the gateway has another link address", _gateway_exchanged),
    # -- the client's host
    Scenario("link_down_client", "the client's device down for 10 s", partial(Field.link_down, role="client"), 10, 8,
             variants=MAIN, bounds=Bounds(out=3, flows=3)),
    Scenario("link_down_2s", "the client's device down for 2 s", partial(Field.link_down, role="client"), 2),
    _moment("address_changed", "the client has another address", _renumber, variants=MAIN,
             bounds=Bounds(out=1)),
    Scenario("address_gone", "the client's address goes for 5 s", _address_gone),
    _moment("other_device", "the route moves to another device", _other_device, variants=MAIN),
    _moment("device_renamed", "the client's device gets another name", _renamed),
    # -- the server's host
    Scenario("link_down_server", "the server's device down for 10 s", partial(Field.link_down, role="server"), 10, 8),
    # -- the daemons
    Scenario("server_killed", "server: kill -9, and up", partial(Field.killed, role="server"), 0, variants=MAIN,
             bounds=Bounds(out=3)),
    Scenario("client_killed", "client: kill -9, and up", partial(Field.killed, role="client"), 0, variants=MAIN,
             bounds=Bounds(out=3)),
    Scenario("server_down_20s", "server: down in order for 20 s", partial(Field.end_down, role="server"), 20, 8,
             bounds=Bounds(out=3, flows=5)),
    Scenario("server_restart", "server: down and up", partial(Field.end_down, role="server"), 0, variants=TCP_ONLY),
    Scenario("client_restart", "client: down and up", partial(Field.end_down, role="client"), 0),
    Scenario("server_stopped", "server: SIGSTOP for 10 s", partial(Field.stopped, role="server"), 10, 8, variants=MAIN),
    Scenario("client_stopped", "client: SIGSTOP for 10 s", partial(Field.stopped, role="client"), 10, 8, variants=MAIN),
    _moment("reconnect", "rsock-nf reconnect", _reconnect, variants=MAIN, bounds=Bounds(lost=0)),
    # -- too little CPU
    Scenario("starved_client", "client: 10 % of a core", lambda site: site.starved(0.1, ["client"]), 15,
             variants=SEALED_AND_NOT),
    Scenario("starved_server", "server: 10 % of a core", lambda site: site.starved(0.1, ["server"]), 15),
    *(
        Scenario(f"starved_both_{share}", f"3,000 datagrams/s each way, both ends {share} % of a core",
                 partial(Field.starved, share=share / 100, roles=("client", "server")), 15, 10, rate=3000, direct=True,
                 variants=SEALED_AND_NOT, bounds=Bounds(delay=0.5))
        for share in (8, 15, 25)
    ),
    Scenario("flood_client", "another application floods the client, which has 20 % of a core",
             partial(_flood, share=0.2, role="client"), 8, 8, direct=True, bounds=Bounds(delay=0.5)),
    Scenario("flood_server", "the same, and the server has 20 % of a core",
             partial(_flood, share=0.2, role="server"), 8, 8, direct=True, bounds=Bounds(delay=0.5)),
    Scenario("syn_flood", "18,000 SYNs/s of strangers at the server, which has 20 % of a core",
             partial(_strangers, kind="syn", share=0.2, rate=18_000), 15, 10, variants=TCP_ONLY, direct=True,
             bounds=Bounds(lost=100, flows=1)),
    Scenario("garbage_flood", "the same with garbage as long as a hello",
             partial(_strangers, kind="garbage", share=0.2, rate=18_000), 15, 10, variants=TCP_ONLY, direct=True),
    # -- firewalls
    _moment("nft_flush_client", "client: nft flush ruleset, 20 times", _flush_rules("client"), times=20, variants=TCP_ONLY,
             bounds=Bounds(lost=0)),
    _moment("nft_flush_server", "server: nft flush ruleset, 20 times", _flush_rules("server"), times=20, variants=TCP_ONLY,
             bounds=Bounds(lost=0)),
    _moment("iptables_flush", "iptables -F and -t raw -F on both hosts, 5 times", _flush_raw, times=5,
             bounds=Bounds(lost=0)),
    _moment("docker_rules", "rules of a container engine on both hosts", _docker),
    _moment("input_drop", "INPUT: policy drop on both hosts", _input_drop),
)  # fmt: skip
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

"""UDP carriers, alone and beside fake TCP, through the strict NAT; and paths that let only one of the two kinds
pass."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import Counter
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP

from rsock_nf.lab.lab import DEVICE, INSIDE, OUTSIDE, ROUTER_INSIDE_IP, Lab, Router
from rsock_nf.lab.netns import CommandFailed, Namespace
from rsock_nf.lab.tunnel import Role
from tests.netns.conftest import FLOWS, STRICT, Build, Site
from tests.netns.judges import flood, host_state, wait_until
from tests.netns.test_moves import RECOVERY, traffic, works_again

OPEN = Router(block_udp=False)
LEAST = 2_000
"""Datagrams a second at full load, on a machine that does other things too."""


def of_type(kind: str, other: str | None = None) -> dict[str, dict[str, str]]:
    """Configurations: the client's type, and the server's."""
    return {"client": {"type": kind}, "server": {"type": other or kind}}


def flows(site: Site, role: Role = "client") -> Counter[str]:
    """How many of each type stand."""
    sessions = site.tunnel.status(role)["sessions"]
    return Counter(flow["type"] for session in sessions for flow in session["flows"] if flow["state"] == "established")


def packets(lab: Lab, device: str) -> tuple[int, int]:
    """(packets, bytes) that the router received on a device; a merged burst is one packet."""
    (told,) = json.loads(lab.router.run(["ip", "-j", "-s", "link", "show", "dev", device]).stdout)
    return told["stats64"]["rx"]["packets"], told["stats64"]["rx"]["bytes"]


def overflows(host: Namespace) -> int:
    """Datagrams that found the receive buffer of any UDP socket full, either family."""
    heading, values = (line.split() for line in host.read("snmp").splitlines() if line.startswith("Udp:"))
    ipv6 = dict(line.split() for line in host.read("snmp6").splitlines())
    return int(values[heading.index("RcvbufErrors")]) + int(ipv6["Udp6RcvbufErrors"])


def carried_losses(end: dict[str, Any]) -> int:
    """Datagrams that this end has dropped itself, and counted."""
    carriers, link = end["carriers"], end["link"]["counters"]
    without_credit = sum(session["no_credit"] for session in end["sessions"])
    return int(carriers["dropped"] + carriers["send_full"] + link.get("send_full", 0) + without_credit)


def no_tcp(lab: Lab) -> None:
    counters = lab.counters()
    assert counters["tcp_inside"] == counters["tcp_outside"] == 0


@pytest.mark.alone
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["udp", "all"])
def test_through_the_strict_nat(build: Build, kind: str, version: int) -> None:
    site = build(OPEN, version=version, **of_type(kind))
    expected = {"udp": {"udp": FLOWS}, "all": {"udp": FLOWS, "tcp": FLOWS}}[kind]
    wait_until(lambda: flows(site) == expected, "every flow")
    site.carries(5000)
    before, overflowed = packets(site.lab, INSIDE), overflows(site.lab.server)
    found = flood(site.lab, 3)
    after = packets(site.lab, INSIDE)
    assert found.received > LEAST * 3
    assert found.duplicates == 0
    assert (after[1] - before[1]) / (after[0] - before[0]) > 6000, "bursts cross the router whole"
    client, server = site.tunnel.status("client"), site.tunnel.status("server")
    for end in (client, server):
        assert end["type"] == kind
        carriers = end["carriers"]
        assert not any(carriers[key] for key in ("send_errors", "too_big", "sent_singly", "refused", "receive_errors"))
    # Of what the client has read from the application nothing is missing that nobody counted.
    missing = client["sockets"]["received"] - 5000 - found.received
    counted = carried_losses(client) + overflows(site.lab.server) - overflowed
    assert (
        missing == counted
        if kind == "udp"
        else 0 <= missing <= counted + 64 * server["link"]["counters"]["receive_drops"]
    )
    assert server["carriers"]["receive_drops"] <= overflows(site.lab.server)
    counters = site.lab.counters()
    assert counters["invalid"] == counters["refused"] == 0
    assert site.lab.rsts() == 0


def test_udp_alone_touches_neither_rules_nor_packet_sockets(build: Build) -> None:
    site = build(OPEN, up=False, **of_type("udp"))
    before = {role: host_state(site.host(role)) for role in ("client", "server")}
    with site.tunnel:
        site.carries(500)
        for host in (site.lab.client, site.lab.server):
            assert host.run(["nft", "list", "ruleset"]).stdout == ""
            assert len(host.read("packet").splitlines()) == 1, "a heading, and no socket"
        no_tcp(site.lab)
        assert "no rules" in site.tunnel.command("client", "status", "--flows").stdout
        for role in ("client", "server"):
            told = site.tunnel.command(role, "rules", "--config", str(site.tunnel.config(role))).stdout
            assert told.startswith("#")
            assert "no rules are needed" in told
            assert "FAIL" not in site.tunnel.command(role, "doctor", "--config", str(site.tunnel.config(role))).stdout
    assert {role: host_state(site.host(role)) for role in ("client", "server")} == before


@pytest.mark.parametrize("version", [4, 6])
def test_udp_is_blocked_and_tcp_carries(build: Build, version: int) -> None:
    site = build(STRICT, version=version, **of_type("all"))
    site.carries()
    wait_until(lambda: flows(site) == {"tcp": FLOWS}, "every flow")
    assert site.lab.counters()["udp_refused"] > 0
    assert site.tunnel.status("client")["reason"] == ""


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_is_blocked_and_udp_carries(build: Build, version: int) -> None:
    site = build(OPEN, up=False, version=version, **of_type("all"))
    with site.lab.black_hole("meta l4proto tcp"), site.tunnel:
        site.carries()
        wait_until(lambda: flows(site) == {"udp": FLOWS}, "every flow")


@pytest.mark.parametrize("blocked", ["udp", "tcp"])
def test_one_kind_is_blocked_under_traffic(build: Build, blocked: str) -> None:
    """The conversation goes on, over the other kind; the target notices nothing."""
    site = build(OPEN, **of_type("all"))
    wait_until(lambda: flows(site) == {"udp": FLOWS, "tcp": FLOWS}, "every flow")
    application = site.application()
    target = site.target()
    assert application.ping(5).returned == 5
    peers = set(target.peers)
    with traffic(site):
        assert len(target.peers) <= len(peers) + 1
        with site.lab.black_hole(f"meta l4proto {blocked}"):
            wait_until(
                lambda: flows(site)[blocked] == 0 and flows(site, "server")[blocked] == 0, "both ends to notice", 15
            )
            assert application.exchange(1000).lost == 0
            assert flows(site) == {{"udp": "tcp", "tcp": "udp"}[blocked]: FLOWS}
    assert peers <= target.peers
    assert target.corrupted == 0
    assert site.lab.invalid() == 0


@pytest.mark.slow
@pytest.mark.parametrize("policed", ["udp", "tcp"])
def test_one_kind_is_policed_and_the_other_carries(build: Build, policed: str) -> None:
    """50 packets a second pass.  After 15 s the tunnel is no worse than the other kind alone, by 1 %."""
    site = build(OPEN, **of_type("all"))
    wait_until(lambda: flows(site) == {"udp": FLOWS, "tcp": FLOWS}, "every flow")
    target, application = site.target(), site.application()
    with site.lab.black_hole(f"meta l4proto {policed} limit rate over 50/second"):
        application.exchange_evenly(1_500, 100)
        arrived = len(target.seen)
        found = application.exchange_evenly(1_000, 100)
        assert len(target.seen) - arrived >= 990
        assert found.returned >= 990
        for role in ("client", "server"):
            (session,) = site.tunnel.status(role)["sessions"]
            assert session["resting"]["type"] == policed
        shown = site.tunnel.command("client", "status").stdout
    assert f"{policed.upper()} flows rest: they lose " in shown
    assert f"{policed.upper()} flows rest: they lose " in site.tunnel.log("client")
    assert "will be replaced" not in site.tunnel.log("client")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_reconnect_loses_nothing(build: Build, kind: str, version: int) -> None:
    """Every three seconds, six times, at 400 a second, through the strict NAT."""
    site = build(STRICT if kind == "tcp" else OPEN, version=version, **of_type(kind))
    wait_until(lambda: flows(site) == {kind: FLOWS}, "every flow")
    target, application = site.target(), site.application()
    assert application.ping(5).returned == 5
    ports = [local_ports(site)]
    done = threading.Event()

    def reconnect() -> None:
        while len(ports) <= 6 and not done.wait(3.0):
            site.tunnel.command("client", "reconnect")
            ports.append(local_ports(site) - ports[-1])

    thread = threading.Thread(target=reconnect)
    thread.start()
    try:
        found = application.exchange_evenly(9_600, 400)
    finally:
        done.set()
        thread.join()
    assert (found.lost, found.corrupted, target.corrupted) == (0, 0, 0)
    assert len(target.peers) == 1, "the same conversation"
    wait_until(lambda: flows(site) == flows(site, "server") == {kind: FLOWS}, "the old flows to close")
    assert len(ports) == 7
    assert not ports[0] & local_ports(site)
    counters = site.lab.counters()
    assert counters["invalid"] == counters["refused"] == 0
    assert site.lab.rsts() == 0


def local_ports(site: Site) -> set[str]:
    """The source address and port of each flow of the client."""
    return {flow["local"] for session in site.tunnel.status("client")["sessions"] for flow in session["flows"]}


def test_types_change_between_restarts_of_either_end(build: Build) -> None:
    """Whatever both serve is used; the kind that one of them does not know is dialled in vain, and quietly."""
    site = build(OPEN, **of_type("tcp", "all"))
    steps: list[tuple[Role, str, dict[str, int]]] = [
        ("client", "udp", {"udp": FLOWS}),
        ("client", "all", {"udp": FLOWS, "tcp": FLOWS}),
        ("server", "tcp", {"tcp": FLOWS}),
        ("server", "udp", {"udp": FLOWS}),
    ]
    site.carries(500)
    for role, kind, expected in steps:
        site.tunnel.down(role)
        site.tunnel.rewrite(role, type=kind)
        site.tunnel.up(role)
        wait_until(lambda expected=expected: flows(site) == expected, f"{expected} after {role} {kind}", 30)  # type: ignore[misc]
        site.carries(500)
        assert site.tunnel.status("client")["reason"] == ""
    assert site.lab.invalid() == 0


def test_a_client_of_the_wrong_type_says_so(build: Build) -> None:
    site = build(OPEN, up=False, **of_type("udp", "tcp"))
    site.stack.callback(site.tunnel.down, "server")
    site.tunnel.up("server")
    with pytest.raises(CommandFailed, match=r"refuses UDP port \d+ \(ICMP port unreachable\)"):
        site.tunnel.up("client", "--timeout", "8")
    assert site.tunnel.pids("client") == []


@pytest.mark.parametrize("kind", ["udp", "all"])
def test_a_udp_port_that_is_taken_is_named_and_nothing_is_left(build: Build, kind: str) -> None:
    site = build(OPEN, up=False, **of_type(kind))
    before = host_state(site.lab.server)
    foreign = site.lab.server.socket(socket.AF_INET, socket.SOCK_DGRAM)
    foreign.bind(("0.0.0.0", 10004))
    with pytest.raises(CommandFailed, match=r"cannot serve UDP on 0\.0\.0\.0:10004: address in use"):
        site.tunnel.up("server")
    doctor = site.tunnel.command("server", "doctor", "--config", str(site.tunnel.config("server")), check=False).stdout
    assert "FAIL  UDP ports: cannot serve UDP on 0.0.0.0:10004" in doctor
    foreign.close()
    assert host_state(site.lab.server) == before


def test_udp_needs_no_privilege(build: Build) -> None:
    """Neither to start nor to stop: the capabilities are gone."""
    site = build(OPEN, up=False, **of_type("udp"))
    setpriv = ["setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw"]

    def command(role: Role, *words: str) -> str:
        argv = [*setpriv, sys.executable, "-m", "rsock_nf", *words, "--config", str(site.tunnel.config(role))]
        said: str = site.host(role).run(argv, env=site.tunnel.environment(role), timeout=30).stdout
        return said

    roles: tuple[Role, Role] = ("server", "client")
    for role in roles:
        site.stack.callback(site.tunnel.down, role, check=False)
        assert "up" in command(role, "up")
    site.carries(500)
    site.lab.server.ip("route del default")
    assert "FAIL" not in command("server", "doctor"), "a server of UDP needs no device"
    for role in roles:
        assert "stopped" in command(role, "down")
        assert site.tunnel.pids(role) == []


@pytest.mark.parametrize("kind", ["udp", "all"])
def test_a_killed_server_comes_back_under_traffic(build: Build, kind: str) -> None:
    site = build(OPEN, **of_type(kind))
    application = site.application()
    target = site.target()
    assert application.ping(5).returned == 5
    with traffic(site):
        site.kill("server")
        site.tunnel.up("server")
        works_again(application)
    assert application.exchange(2000).lost == 0
    assert target.corrupted == 0


@pytest.mark.parametrize("version", [4, 6])
def test_the_client_gets_another_address(build: Build, version: int) -> None:
    """The same session, the same conversation, the same UDP source port toward the target.

    The client is told by its kernel: it does not wait until its probes are unanswered.
    """
    site = build(OPEN, version=version, **of_type("udp"))
    application = site.application()
    target = site.target()
    assert application.ping(5).returned == 5
    before = set(target.peers)
    session = site.tunnel.status("server")["sessions"][0]["id"]
    old, new = site.lab.client_ip[version], "10.77.1.77" if version == 4 else "fd77:1::77"
    site.lab.renumber_client(version, new)
    works_again(application, 3 * RECOVERY)
    assert f"our address has changed from {old} to {new}" in site.tunnel.log("client")
    assert target.peers == before
    assert site.tunnel.status("server")["sessions"][0]["id"] == session
    wait_until(lambda: application.exchange(500).lost == 0, "both directions to avoid the old flows", 3 * RECOVERY)


def test_a_tracker_that_forgets_everything(build: Build) -> None:
    """A NAT that reboots gives other ports: the server hears from strangers who know its secret."""
    site = build(OPEN, **of_type("udp"))
    application = site.application()
    target = site.target()
    assert application.ping(5).returned == 5
    peers = set(target.peers)
    with traffic(site):
        site.lab.router.run(["conntrack", "-F"])
        works_again(application, 2 * RECOVERY)
    assert peers <= target.peers
    wait_until(lambda: application.exchange(500).lost == 0, "both directions to avoid the old flows", 3 * RECOVERY)


@pytest.mark.parametrize("cipher", ["none", "aes-256-gcm"])
def test_the_servers_flows_follow_a_client_behind_a_nat_that_forgets(build: Build, cipher: str) -> None:
    """It gives other ports, and then another address: the same flows go on, and the client notices nothing."""
    both = {"type": "udp", "cipher": cipher}
    site = build(OPEN, client=both, server=both)
    application, target = site.application(), site.target()
    wait_until(lambda: flows(site)["udp"] == FLOWS, "every flow to be up")
    assert application.ping(5).returned == 5

    def at_server() -> dict[int, str]:
        found = site.tunnel.status("server")["sessions"][0]["flows"]
        return {flow["id"]: flow["remote"] for flow in found}

    chain = "inet lab translate"
    site.lab.router.ip("addr add 10.77.2.9/24 dev outside")
    for translation in ("masquerade random", "snat ip to 10.77.2.9"):
        before, peers = at_server(), set(target.peers)
        site.lab.router.nft(f'flush chain {chain}\nadd rule {chain} oifname "outside" {translation}')
        site.lab.router.run(["conntrack", "-F"])
        with traffic(site):
            moved = lambda before=before: set(at_server().values()).isdisjoint(before.values())  # noqa: E731
            wait_until(moved, "every flow to have another address")
        assert at_server().keys() == before.keys(), "the same flows"
        assert application.exchange(2000).lost == 0
        assert len(target.peers - peers) == 1, "that of the traffic: no conversation began anew"
    assert not [line for line in site.tunnel.log("client").splitlines() if "has ended" in line]


def test_the_path_takes_less_than_the_link(build: Build) -> None:
    """The probes find it, for the kernel sets DF and reads no ICMP; until then datagrams of full size are lost."""
    site = build(OPEN, up=False, **of_type("udp"))
    site.lab.set_mtu(1300, outside_only=True)
    with site.tunnel:
        wait_until(lambda: site.tunnel.status("client")["mtu"] <= 1300 - 28 - 8, "the MTU of the path", 20)
        site.carries(500)
        assert site.lab.counters()["invalid"] == 0


def test_a_forged_icmp_message_changes_no_mtu(build: Build) -> None:
    """Blind, from anywhere: the client's kernel believes it for ten minutes; we only try whether it is so."""
    site = build(OPEN, **of_type("udp"))
    server, client = site.lab.server_ip[4], site.lab.client_ip[4]
    wait_until(lambda: flows(site)["udp"] == FLOWS, "every flow to be up")
    before = site.tunnel.status("client")["mtu"]
    quoted = bytes(IP(src=client, dst=server, len=1400, flags="DF") / ICMP(type=0))
    forged = IP(src="198.51.100.66", dst=client) / ICMP(type=3, code=4, nexthopmtu=600) / quoted
    with site.lab.router.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(bytes(forged), (client, 0))
    route = ["ip", "route", "get", server]
    wait_until(lambda: "mtu 600" in site.lab.client.run(route).stdout, "the kernel to believe it")
    seen: set[int] = set()
    application, target = site.application(), site.target()
    for _ in range(30):  # three seconds: whoever asks the kernel does so once a second
        assert application.exchange_for(0.1, window=8).lost == 0
        seen.add(site.tunnel.status("client")["mtu"])
    assert seen == {before}
    assert target.corrupted == 0


def test_it_falls_asleep_and_wakes(build: Build) -> None:
    site = build(OPEN, client={"type": "all", "duration": 2, "idle_timeout": 1}, server={"type": "all", "duration": 2})
    site.carries(200)
    wait_until(lambda: bool(site.tunnel.status("client")["state"] == "idle"), "it to fall asleep", 20)
    wait_until(lambda: not flows(site, "server"), "the server's flows to end")
    wait_until(lambda: site.tunnel.status("client")["carriers"]["sockets"] == 0, "the last close frames")
    idle = site.tunnel.status("client")
    assert (idle["mtu"], idle["mtu_computed"]) == (1500 - 40 - 8, True), "computed, for both kinds"
    asleep = packets(site.lab, OUTSIDE)[1]
    application = site.application()
    site.target()
    works_again(application)
    assert packets(site.lab, OUTSIDE)[1] > asleep
    assert application.exchange(200).lost == 0


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_the_clients_link_was_down_for_ten_seconds(build: Build, kind: str) -> None:
    """Every flow is back within three seconds, not one."""
    site = build(OPEN, **of_type(kind))
    site.target()
    application = site.application()
    wait_until(lambda: flows(site)[kind] == FLOWS, "every flow")
    assert application.ping(5).returned == 5
    site.lab.client.ip(f"link set {DEVICE} down")
    application.exchange_for(10.0, window=4)
    wait_until(lambda: not flows(site), "the flows to be given up", 20)
    site.lab.client.ip(f"link set {DEVICE} up", f"route replace default via {ROUTER_INSIDE_IP[4]}")
    with traffic(site):
        assert wait_until(lambda: flows(site)[kind] == FLOWS, "every flow again", 20) < 3.0
    works_again(application)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_path_that_becomes_smaller_and_says_nothing(build: Build, kind: str) -> None:
    """Large packets vanish at the router, both ways, and everything small passes: both ends find out, and say so.

    The router's devices take less than the hosts'.  What the veth driver does not drop, the router would tell by ICMP.
    """
    site = build(OPEN, **of_type(kind))
    site.target()
    application = site.application()
    assert application.exchange_evenly(20, 100, size=1400).returned == 20
    note = f"the path out carries segments of 1240 bytes at most, not {1460 if kind == 'tcp' else 1472}"

    def told(role: Role) -> bool:
        sessions = site.tunnel.status(role)["sessions"]
        return any(note in session["notes"] for session in sessions)

    silent = "table ip silent {\nchain out {\ntype filter hook output priority 0;\nip protocol icmp drop\n}\n}"
    site.lab.router.nft(silent)
    site.lab.router.ip(f"link set {INSIDE} mtu 1300", f"link set {OUTSIDE} mtu 1300")
    wait_until(
        lambda: application.exchange_evenly(20, 100, size=300).returned > 0 and told("client") and told("server"),
        "both ends to notice",
    )
    wait_until(lambda: application.exchange_evenly(20, 100, size=1400).returned == 20, "large ones to pass")
    assert f"{note}: set WireGuard: MTU = " in site.tunnel.log("client")
    assert note in site.tunnel.command("client", "status").stdout

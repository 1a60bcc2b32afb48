"""What the tunnel does to its host: what it says, no more, and nothing when it has gone, however it went."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from functools import partial

import pytest

from rsock_nf.lab.lab import DEVICE
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.traffic import Application, EchoTarget
from rsock_nf.lab.tunnel import Role
from tests.netns.conftest import Site
from tests.netns.judges import differences, host_state, tracked_flows, wait_until

ROLES: tuple[Role, Role] = ("server", "client")
STATEFUL_FIREWALL = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        ct state established,related accept
        meta l4proto ipv6-icmp accept
    }
    chain output { type filter hook output priority filter; policy accept; ct state invalid counter drop; }
}
"""


def states(site: Site) -> dict[Role, dict[str, str]]:
    return {role: host_state(site.host(role)) for role in ROLES}


def rules_of(host: Namespace) -> str:
    """As nft lists them, without what changes by itself: counts, the table's owner, the client's ports of the day."""
    listed = host.run(["nft", "list", "ruleset"]).stdout
    listed = re.sub(r"counter packets \d+ bytes \d+", "counter", listed)
    listed = re.sub(r"# progname .*|\tflags (owner|persist).*", "", listed)
    listed = re.sub(r"(?s)(set local_ports \{[^}]*?)\n\t\telements = \{[^}]*\}", r"\1", listed)
    return "\n".join(line.rstrip() for line in listed.splitlines() if line.strip())


def unchanged(site: Site, before: dict[Role, dict[str, str]]) -> bool:
    """Whether both hosts are as they were; says what is not."""
    found = {role: differences(before[role], host_state(site.host(role))) for role in ROLES}
    assert found == {role: [] for role in ROLES}
    return True


def complaints(said: subprocess.CompletedProcess[str]) -> list[str]:
    """The error lines, without the warnings that a start always gives."""
    return [line for line in said.stderr.splitlines() if not line.startswith("rsock-nf: warning")]


def has_rules(site: Site, role: Role) -> bool:
    return "drop" in site.host(role).run(["nft", "list", "ruleset"]).stdout


def has_ended(site: Site, role: Role) -> bool:
    return not site.tunnel.pids(role)


def test_a_stateful_host_firewall_with_policy_drop_does_not_notice(build: Callable[..., Site]) -> None:
    """Ingress comes before everything: neither the chains nor the tracker of the host see a packet of ours."""
    site = build(up=False)
    for role in ROLES:
        site.host(role).nft(STATEFUL_FIREWALL)
    with site.tunnel, site.watch() as wires:
        site.carries()
        for role in ROLES:
            host = site.host(role)
            assert [line for line in host.read("nf_conntrack").splitlines() if " tcp " in line] == []
            connections = {line.split()[0] for line in host.run(["ss", "-Htan"]).stdout.splitlines()}
            assert connections == {"LISTEN"}, "only the held ports"
            assert "counter packets 0" in host.run(["nft", "list", "chain", "inet", "filter", "output"]).stdout
    site.no_offence()
    assert wires.resets() == 0


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_down_restores_the_host_byte_for_byte(build: Callable[..., Site], backend: str) -> None:
    both = {"backend": backend}
    site = build(up=False, client=both, server=both)
    for role in ROLES:
        site.host(role).nft(STATEFUL_FIREWALL.replace("policy drop", "policy accept"))
        host_state(site.host(role))  # loads the raw tables, so that they are listed before and after
    with site.watch() as wires:
        before = states(site)
        with site.tunnel:
            site.carries()
            during = states(site)
        after = states(site)
    touched, untouched = ("nft", "iptables") if backend == "nftables" else ("iptables", "nft")
    for role in ROLES:
        assert during[role][touched] != before[role][touched]
        for name in (untouched, "sysctls", "links", "addresses", "routes"):
            assert during[role][name] == before[role][name], name
        added = set(during[role]["tcp"].splitlines()) - set(before[role]["tcp"].splitlines())
        assert {line.split()[0] for line in added} == {"LISTEN"}, "only the held ports, which never answer"
        assert differences(before[role], after[role]) == []
    site.no_offence()
    assert wires.resets() == 0


def test_the_rules_are_those_that_the_rules_command_printed(build: Callable[..., Site]) -> None:
    site = build(up=False)
    expected = {}
    for role in ROLES:
        host = site.host(role)
        assert rules_of(host) == ""
        host.nft(site.tunnel.command(role, "rules", "--config", str(site.tunnel.config(role))).stdout)
        expected[role] = rules_of(host)
        host.run(["nft", "flush", "ruleset"])
    with site.tunnel:
        for role in ROLES:
            assert "hook prerouting" in expected[role]
            assert rules_of(site.host(role)) == expected[role]


def test_flushing_the_ruleset_during_traffic_breaks_nothing(shared_site: Site) -> None:
    site = shared_site
    with site.watch() as wires, EchoTarget(site.lab) as target, Application(site.lab) as application:
        returned = 0
        for _ in range(5):
            for role in ROLES:
                site.host(role).run(["nft", "flush", "ruleset"])
            found = application.exchange(1000)
            returned += found.returned
        assert (returned, target.corrupted) == (5000, 0)
        for role in ROLES:
            wait_until(partial(has_rules, site, role), "the rules to be back")
    site.no_offence()
    assert wires.resets() == 0


def test_flushing_the_raw_tables_during_traffic_breaks_nothing(build: Callable[..., Site]) -> None:
    """The kernel tells nobody of it.  Until we look, the sockets that hold the ports keep it silent."""
    both = {"backend": "iptables"}
    site = build(client=both, server=both)
    dialled = site.all_flows()
    with site.watch() as wires, EchoTarget(site.lab) as target, Application(site.lab) as application:
        returned = 0
        for _ in range(5):
            for role in ROLES:
                for command in ("iptables-legacy", "ip6tables-legacy"):
                    site.host(role).run([command, "--wait", "-t", "raw", "-F"])
            returned += application.exchange(1000).returned
        assert (returned, target.corrupted) == (5000, 0)
    site.no_offence()
    assert wires.resets() == 0
    assert tracked_flows(site.lab) == dialled


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_it_cleanly(build: Callable[..., Site], number: signal.Signals) -> None:
    site = build(up=False)
    with site.watch() as wires:
        before = states(site)
        site.tunnel.up("server")
        site.tunnel.up("client")
        site.carries(200)
        for role in ("client", "server"):
            (pid,) = site.tunnel.pids(role)
            os.kill(pid, number)
            wait_until(partial(has_ended, site, role), f"the {role} to end")
        assert unchanged(site, before)
    assert wires.resets() == 0


def test_down_after_kill_leaves_nothing(build: Callable[..., Site]) -> None:
    site = build(up=False)
    with site.watch() as wires:
        before = states(site)
        site.tunnel.up("server")
        site.tunnel.up("client")
        site.carries(200)
        for role in ROLES:
            site.kill(role)
            assert has_rules(site, role)  # the kernel stays blind
        for role in ROLES:
            site.tunnel.down(role)
            site.tunnel.down(role)  # twice in a row
        assert unchanged(site, before)
    assert wires.resets() == 0


@pytest.mark.parametrize("role", ROLES)
def test_up_after_kill_takes_over(build: Callable[..., Site], role: Role) -> None:
    site = build(up=False)
    with site.watch() as wires:
        before = states(site)
        with site.tunnel:
            site.carries(200)
            site.kill(role)
            site.tunnel.up(role)
            if role == "server":  # the client notices by itself; the next test measures how soon
                with EchoTarget(site.lab), Application(site.lab) as application:
                    wait_until(lambda: application.ping(1).returned == 1, "the client to come back")
            site.carries()
            # Until here: the server knows nothing of the client's death, and its farewell on the dead one's flows
            # comes when the new one's rules are gone.
            assert wires.resets() == 0
        assert unchanged(site, before)


def test_a_wrong_secret_gets_nothing(build: Callable[..., Site]) -> None:
    site = build(up=False)
    before = states(site)
    other = site.tunnel.command("client", "genkey").stdout.strip()
    site.tunnel.rewrite("client", secret=other)
    with EchoTarget(site.lab) as target, Application(site.lab) as application:
        site.tunnel.up("server")
        said = site.tunnel.command(
            "client", "up", "--config", str(site.tunnel.config("client")), "--timeout", "8", check=False
        )
        assert said.returncode == 1
        assert len(complaints(said)) == 1
        assert "is open, but leaves our hellos unanswered: are secret, wire and version" in said.stderr
        assert other not in said.stderr + site.tunnel.log("server") + site.tunnel.log("client")
        assert application.ping(1).returned == 0
        assert target.seen == set()
        wait_until(lambda: "that do not authenticate" in site.tunnel.log("server"), "the server to log strangers")
        assert "that do not authenticate" in site.tunnel.command("server", "status").stdout
        site.tunnel.down("server")
    assert unchanged(site, before)
    site.no_offence()


def test_a_port_that_is_taken_is_named_and_nothing_is_left(build: Callable[..., Site]) -> None:
    site = build(up=False)
    taken = site.lab.server.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.bind(("0.0.0.0", 10005))
    taken.listen()
    before = states(site)
    said = site.tunnel.command("server", "up", "--config", str(site.tunnel.config("server")), check=False)
    assert said.returncode == 1
    assert "10005" in complaints(said)[0]
    assert len(complaints(said)) == 1
    assert unchanged(site, before)


def test_nobody_answers_where_no_server_is(build: Callable[..., Site]) -> None:
    """The server's kernel refuses (RST): `up` says so, or that nobody answered, and undoes everything."""
    site = build(up=False)
    before = states(site)
    said = site.tunnel.command(
        "client", "up", "--config", str(site.tunnel.config("client")), "--timeout", "2", check=False
    )
    assert said.returncode == 1
    assert len(complaints(said)) == 1
    assert unchanged(site, before)


def test_a_target_that_nobody_serves_is_named_in_status_and_log(shared_site: Site) -> None:
    site = shared_site
    with Application(site.lab) as application:
        application.ping(3)  # nobody answers: there is no target
    wait_until(lambda: "nobody listens there" in site.tunnel.log("server"), "the server to log the dead target")
    assert "WARNING target 127.0.0.1:9999: nobody listens there" in site.tunnel.log("server")
    said = site.tunnel.command("server", "status").stdout
    assert "  target    127.0.0.1:9999: nobody listens there: refused " in said
    status = site.tunnel.status("server")
    assert status["refused_by"]["127.0.0.1:9999"] == status["sockets"]["refused"] > 0
    refuses = "the server's target refuses: nobody listens there"
    wait_until(lambda: site.tunnel.status("client")["reason"] == refuses, "the client to be told")
    wait_until(lambda: f"WARNING {refuses}" in site.tunnel.log("client"), "the client to log it")
    with Application(site.lab) as application, EchoTarget(site.lab):
        wait_until(lambda: application.ping(1).returned == 1, "an answer")
        wait_until(lambda: not site.tunnel.status("server")["refused_by"], "the server to see it")
        wait_until(lambda: site.tunnel.status("client")["reason"] == "", "the client to be told")
    assert "nobody listens there" not in site.tunnel.command("server", "status").stdout
    wait_until(lambda: "target 127.0.0.1:9999 answers again" in site.tunnel.log("server"), "the server to log it")
    wait_until(lambda: "the server's target 0 answers again" in site.tunnel.log("client"), "the client to log it")
    assert site.tunnel.log("client").count("answers again") == 1
    (target,) = site.tunnel.status("server")["targets"]
    assert (target["refuses"], target["refused"] > 0) == (False, True), "the count stays"


def test_a_device_that_is_down_is_told_in_status_and_log(site: Site) -> None:
    site.lab.server.ip(f"link set {DEVICE} down")
    wait_until(lambda: f"WARNING device {DEVICE} (MTU 1500): down" in site.tunnel.log("server"), "the log to tell")
    assert f"  link      {DEVICE}, MTU 1500, down" in site.tunnel.command("server", "status").stdout
    site.lab.server.ip(f"link set {DEVICE} up")
    wait_until(lambda: f"INFO    device {DEVICE} (MTU 1500): up" in site.tunnel.log("server"), "the log to tell")
    assert site.tunnel.status("server")["link"]["up"] is True


def test_an_address_that_is_not_the_servers_is_told(build: Callable[..., Site]) -> None:
    """The public address of a host behind a NAT, say: nothing arrives with it."""
    site = build(up=False)
    site.tunnel.rewrite("server", addresses=[site.lab.server_ip[4], "192.0.2.77"])
    site.tunnel.up("server")
    assert "WARNING addresses: 192.0.2.77 is not an address of this host" in site.tunnel.log("server")
    assert f"addresses: {site.lab.server_ip[4]} is not" not in site.tunnel.log("server")


def test_a_server_on_the_same_host_is_refused(build: Callable[..., Site]) -> None:
    """What a host sends to itself passes no device: such a tunnel would dial for ever."""
    site = build(up=False)
    before = states(site)
    address = site.lab.client_ip[4]
    site.tunnel.rewrite("client", server=address)
    said = site.tunnel.command("client", "up", "--config", str(site.tunnel.config("client")), check=False)
    assert said.returncode == 1
    assert complaints(said) == [
        f"rsock-nf: server: {address} is an address of this host: client and server need two hosts, or two network namespaces"
    ]
    assert unchanged(site, before)


def test_a_second_up_changes_nothing(shared_site: Site) -> None:
    site = shared_site
    for role in ROLES:
        again = site.tunnel.command(role, "up", "--config", str(site.tunnel.config(role)))
        assert len(again.stdout.strip().splitlines()) <= 1
    site.carries(200)
    assert len(site.tunnel.pids("client")) == len(site.tunnel.pids("server")) == 1

"""``doctor`` and ``ping``, where something is really wrong, and where nothing is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.config.values import format_secret
from rsock_nf.lab.lab import Router
from rsock_nf.lab.tunnel import LISTEN, TARGET, Role
from tests.link.linux.test_passengers import start
from tests.netns.conftest import STRICT, Build, Site
from tests.netns.judges import differences, host_state, wait_until

OPEN = Router(strict=False, block_udp=False)
SERVER = "10.77.2.2"
ALL_TCP = f"{SERVER}, TCP ports 10001-10010"


def examined(site: Site, role: Role = "client", *words: str) -> tuple[int, list[str]]:
    """Exit status and lines of ``doctor``."""
    argv = ["doctor", "--config", str(site.tunnel.config(role)), *words]
    found = site.tunnel.command(role, *argv, check=False)
    assert found.stderr == ""
    return found.returncode, found.stdout.splitlines()


def told(lines: list[str], *beginnings: str) -> list[str]:
    """Those of the lines that begin so; each beginning has one."""
    found = [[line for line in lines if line.startswith(beginning)] for beginning in beginnings]
    assert [len(one) for one in found] == [1] * len(beginnings), "\n".join(lines)
    return [line for one in found for line in one]


@contextmanager
def serving(site: Site) -> Iterator[None]:
    """The server is up, and the client's host is as before at the end."""
    before = host_state(site.lab.client)
    site.tunnel.up("server")
    try:
        yield
        assert differences(before, host_state(site.lab.client)) == []
    finally:
        site.tunnel.end("server")


def test_all_is_well(build: Build) -> None:
    site = build(STRICT, up=False)
    with serving(site):
        status, lines = examined(site)
        assert status == 0, "\n".join(lines)
        up, secret, path, loss, _ = told(
            lines,
            f"ok    server: {ALL_TCP}: up (SYN-ACK after ",
            "ok    secret: ",
            "ok    path MTU: ",
            "ok    loss: TCP: 0 of 100 round trips lost; RTT ",
            f"ok    listen: {LISTEN[0]}:{LISTEN[1]} is free",
        )
        assert up.endswith(" ms)")
        assert secret.endswith("the server has the same one; wire native, cipher none")
        assert path.endswith("TCP: packets of 1500 bytes pass out, of 1500 in")
        assert loss.endswith("(min / avg / max)")
        assert not [line for line in lines if "gro" in line or "iptables" in line], "no noise"
        assert site.tunnel.status("server")["sessions"] == [], "its session was closed in order"
        assert site.lab.invalid() == 0
        assert [line for line in examined(site, "client", "--local")[1] if "server: " in line] == []


def test_both_kinds_and_a_blocked_one(build: Build) -> None:
    site = build(OPEN, up=False, client={"type": "all"}, server={"type": "all"})
    with serving(site):
        status, lines = examined(site)
        assert status == 0
        told(lines, f"ok    server: {ALL_TCP}: up", f"ok    server: {SERVER}, UDP ports 10001-10010: up")
        told(
            lines,
            "ok    loss: TCP: 0 of 100",
            "ok    loss: UDP: 0 of 100",
            "ok    path MTU: UDP: packets of 1500 bytes",
        )
        with site.lab.black_hole("meta l4proto udp"):
            status, lines = examined(site)
        assert status == 0, "TCP carries"
        (line,) = told(
            lines, f"warn  server: {SERVER}, UDP ports 10001-10010: no answer to a hello: open these UDP ports"
        )
        assert line.endswith("rsock-nf status")


def test_no_server_runs_and_nobody_answers(build: Build) -> None:
    site = build(OPEN, up=False)
    before = host_state(site.lab.client)
    status, lines = examined(site)
    assert status == 1
    told(lines, f"FAIL  server: {ALL_TCP}: refused (RST): on the server: rsock-nf up --config FILE")
    with site.lab.black_hole("tcp dport 10001-10010"):
        status, lines = examined(site)
    assert status == 1
    told(lines, f"FAIL  server: {ALL_TCP}: no answer to a SYN: open these TCP ports in the firewall")
    assert [line for line in lines if "secret: " in line] == [], "nothing is known of it"
    assert differences(before, host_state(site.lab.client)) == []


def test_a_closed_port_a_wrong_secret_and_another_cipher(build: Build) -> None:
    site = build(OPEN, up=False)
    with serving(site):
        with site.lab.black_hole("tcp dport 10003"):
            status, lines = examined(site)
        assert status == 0
        told(lines, f"ok    server: {SERVER}, TCP ports 10001-10002,10004-10010: up")
        told(lines, f"warn  server: {SERVER}, TCP port 10003: no answer to a SYN: open these TCP ports")
        site.tunnel.rewrite("client", cipher="aes-256-gcm")
        status, lines = examined(site)
        assert status == 1
        told(lines, 'FAIL  secret: the server uses cipher none: set "cipher": "none" on this side too')
        site.tunnel.rewrite("client", cipher="none", secret=format_secret(os.urandom(32)))
        status, lines = examined(site)
        assert status == 1
        (line,) = told(lines, "FAIL  secret: ")
        assert "is open, but leaves our hellos unanswered: are secret, wire and version" in line
        told(lines, f"ok    server: {SERVER}, TCP ports ")


def test_a_narrow_path(build: Build) -> None:
    site = build(STRICT, up=False)
    site.lab.set_mtu(1300, outside_only=True)
    with serving(site):
        status, lines = examined(site)
        assert status == 0
        (line,) = told(
            lines, "warn  path MTU: TCP: packets of 1300 bytes pass out, of 1300 in; the link here takes 1500: "
        )
        assert line.endswith("set WireGuard: MTU = 1220; OpenVPN: mssfix 1252; others: datagrams of at most 1252 bytes")


def test_listen_is_taken_and_the_target_refuses(build: Build) -> None:
    site = build(OPEN, up=False)
    taken = site.lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(LISTEN)
    status, lines = examined(site, "client", "--local")
    taken.close()
    assert status == 1
    told(
        lines,
        f"FAIL  listen: cannot listen on {LISTEN[0]}:{LISTEN[1]}: address in use; `ss -uanp sport = :{LISTEN[1]}`",
    )
    status, lines = examined(site, "server")
    assert status == 0, "the application may come later"
    told(lines, f"warn  target: {TARGET[0]}:{TARGET[1]}: nobody listens there: start the application's server")
    site.target()
    status, lines = examined(site, "server")
    assert status == 0, "\n".join(lines)
    told(lines, f"ok    target: {TARGET[0]}:{TARGET[1]} does not refuse datagrams (UDP tells no more)")


def test_a_unix_socket_is_looked_at_and_nothing_is_made(build: Build, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "app.sock"
    site = build(OPEN, up=False, client={"listen": f"unix:{path}"})
    told(examined(site, "client", "--local")[1], f"ok    listen: unix:{path} is free")
    assert not path.exists()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        holder.bind(str(path))
        status, lines = examined(site, "client", "--local")
        assert status == 1
        told(lines, f"FAIL  listen: cannot listen on unix:{path}: in use; `")
    told(examined(site, "client", "--local")[1], f"ok    listen: unix:{path} is free")
    assert path.exists(), "what a dead process left is left to `up`"
    tmp_path.chmod(0o777)
    status, lines = examined(site, "client", "--local")
    assert status == 1
    (line,) = told(lines, f"FAIL  listen: cannot listen on unix:{path}: ")
    assert "chmod" in line


def test_a_vpn_over_this_tunnel_has_the_route_to_the_server(build: Build) -> None:
    site = build(OPEN, up=False)
    site.tunnel.up("server")
    start(site.lab.client, "tq0", toward=f"{LISTEN[0]}:{LISTEN[1]}")
    site.lab.client.ip("link set tq0 up", f"route add {SERVER}/32 dev tq0")
    status, lines = examined(site)
    assert status == 0, "\n".join(lines)
    (line,) = told(lines, f"ok    route: the route to {SERVER} leads into tq0, which runs over this tunnel: ")
    assert line.endswith("is used instead")
    told(lines, "ok    secret: ")
    assert not [line for line in lines if "device" in line and "tq0" in line], "nothing goes there"
    site.lab.client.ip("route delete default")
    status, lines = examined(site)
    assert status == 1
    told(lines, f"FAIL  route: the route to {SERVER} leads into tq0, which runs over this tunnel, and no other")


def test_what_comes_out_of_a_vpn_at_the_server_goes_no_further_beside_docker(build: Build) -> None:
    site = build(OPEN, up=False)
    host = site.lab.server
    port = start(host, "tq0")
    site.tunnel.rewrite("server", target=f"127.0.0.1:{port}")
    host.sysctl("net.ipv4.ip_forward", "1")
    for words in ("-P FORWARD DROP", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER"):
        host.run(["iptables-nft", *words.split()])
    status, lines = examined(site, "server")
    assert status == 0, "\n".join(lines)
    (line,) = told(lines, "warn  forwarding: docker drops IPv4 that is forwarded and not accepted by a rule: ")
    assert "iptables -I DOCKER-USER -i tq0 -j ACCEPT" in line
    host.run(["iptables-nft", "-I", "DOCKER-USER", "-i", "tq0", "-j", "ACCEPT"])
    assert [line for line in examined(site, "server")[1] if "forwarding" in line] == []


def test_the_running_instance_is_asked_and_no_second_session_is_made(share: Build) -> None:
    site = share(STRICT)
    site.all_flows()
    before = site.tunnel.status("server")["sessions"]
    status, lines = examined(site)
    assert status == 0, "\n".join(lines)
    told(lines, f"ok    server: {ALL_TCP}: up", "ok    loss: TCP: 0 of 100 round trips lost")
    told(lines, f"ok    listen: {LISTEN[0]}:{LISTEN[1]}: held by this instance, which is running")
    after = site.tunnel.status("server")["sessions"]
    assert [one["id"] for one in after] == [one["id"] for one in before]
    found = json.loads(
        site.tunnel.command("client", "doctor", "-c", str(site.tunnel.config("client")), "--json").stdout
    )
    assert found["well"] is True
    assert {"verdict": "ok", "subject": "secret"}.items() <= next(
        one.items() for one in found["findings"] if one["subject"] == "secret"
    )
    assert {port["outcome"] for port in found["dialled"]} == {"up"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(build: Build, number: signal.Signals) -> None:
    site = build(OPEN, up=False)
    before = host_state(site.lab.client)
    with site.lab.black_hole("tcp dport 10001-10010"):
        argv = [sys.executable, "-m", "rsock_nf", "doctor", "--config", str(site.tunnel.config("client"))]
        process = site.lab.client.popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=site.tunnel.environment("client")
        )
        wait_until(lambda: "doctor" in site.lab.client.run(["nft", "list", "tables"]).stdout, "its rules")
        os.kill(process.pid, number)
        _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (128 + number, "")
    assert differences(before, host_state(site.lab.client)) == []


def pinged(site: Site, role: Role, *words: str) -> Any:
    """The object that ``ping --json`` prints."""
    return json.loads(site.tunnel.command(role, "ping", "--json", "-i", "0.02", *words, check=False).stdout)


def test_ping_through_the_tunnel(share: Build) -> None:
    site = share(STRICT)
    site.all_flows()
    said = site.tunnel.command("client", "ping", "client", "-c", "3", "-i", "0.02").stdout.splitlines()
    assert len(said) == 6
    for number, line in enumerate(said[:3], 1):
        assert line.startswith(f"from {SERVER}:100")
        assert f": seq={number} flow=" in line
        assert line.endswith(" ms")
    assert said[3] == "--- client ping statistics ---"
    assert said[4].startswith("3 sent, 3 answered, 0% loss, time ")
    assert said[5].startswith("rtt min/avg/max/mdev = ")
    table = site.tunnel.command("client", "ping", "-c", "2", "-i", "0.02", "--flows").stdout.splitlines()
    head = table.index("--- client ping statistics ---") + 1
    assert table[head].split() == ["flow", "type", "remote", "sent", "loss", "min", "avg", "max", "ms"]
    assert len(table[head + 1 : -2]) == 10
    assert max(map(len, table)) <= 80
    for role in ("client", "server"):
        found = pinged(site, role, "--flows", "-c", "2")
        assert (found["name"], found["sent"], found["answered"], found["loss"]) == (role, 20, 20, 0)
        assert len(found["flows"]) == 10
        spread = found["rtt_ms"]
        assert 0 < spread["min"] <= spread["avg"] <= spread["max"]


def test_ping_wakes_a_client_that_is_idle_and_tells_what_is_lost(build: Build) -> None:
    site = build(STRICT, client={"idle_timeout": 1})
    wait_until(lambda: site.tunnel.status("client")["state"] == "idle", "idleness")
    assert pinged(site, "client", "-c", "2")["answered"] == 2
    with site.lab.black_hole("meta l4proto tcp"):
        found = site.tunnel.command("client", "ping", "-c", "2", "-i", "0.02", "-W", "0.2", check=False)
        assert found.returncode == 1
        assert f"no answer from {SERVER}:" in found.stdout
        assert "2 sent, 0 answered, 100% loss" in found.stdout
    site.tunnel.end("client")
    gone = site.tunnel.command("client", "ping", "client", check=False)
    assert (gone.returncode, gone.stderr) == (1, "rsock-nf: instance client is not running\n")


def speedtest(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    return site.tunnel.command("client", "speedtest", "--seconds", "1", *words, check=False)


def test_a_speed_test_through_the_tunnel(build: Build) -> None:
    site = build(STRICT, server={"speedtest": 20})
    site.all_flows()
    found = json.loads(speedtest(site, "--json").stdout)
    assert (found["name"], found["allowed_bits_per_second"], found["datagram_bytes"]) == ("client", 20_000_000, 1450)
    for direction in ("down", "up"):
        assert 1e6 < found[direction]["bits_per_second"] < 22e6
        assert found[direction]["under_load"]["answered"] > 0
    assert found["idle"]["answered"] == 10
    wait_until(lambda: site.tunnel.status("server")["sessions"][0]["conversations"] == 0, "its conversation to end")
    site.carries(500)
    at_server = site.tunnel.command("server", "speedtest", check=False)
    assert at_server.stderr == "rsock-nf: instance server: speedtest: server is a server: run it at a client\n"


def test_a_server_that_allows_no_speed_test(share: Build) -> None:
    site = share(STRICT)
    site.all_flows()
    refused = speedtest(site)
    assert refused.returncode == 1
    assert refused.stderr == (
        "rsock-nf: instance client: speed test: the server does not allow speed tests: "
        'set "speedtest": MBITS in its file\n'
    )
    assert site.tunnel.status("client")["reason"] == "", "no application was refused"

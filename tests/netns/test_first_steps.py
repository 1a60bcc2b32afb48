"""The first ten minutes: ``init`` at the server, its line to ``join`` at the client, ``up`` by name on both,
traffic."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from rsock_nf.lab.lab import ROUTER_OUTSIDE_IP, SERVER_IP
from rsock_nf.lab.tunnel import LISTEN, TARGET, Role
from tests.netns.conftest import Site
from tests.netns.judges import wait_until

Build = Callable[..., Site]


class Hosts:
    """Both hosts as new ones: each with its own directory of configuration files, which is empty."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def run(self, role: Role, *words: str, line: str = "", status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """A command there, with ``line`` on its standard input; ``status``: its exit status, None = any."""
        argv = [sys.executable, "-m", "rsock_nf", *words]
        pipe = subprocess.PIPE
        process = self.site.host(role).popen(
            argv, env=self._environment(role), stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        done = subprocess.CompletedProcess(argv, 0, *process.communicate(line, timeout=60))
        assert status in (None, process.returncode), done.stderr
        return done

    def start(self, role: Role, *words: str) -> subprocess.Popen[bytes]:
        """A command that goes on."""
        argv = [sys.executable, "-m", "rsock_nf", *words]
        null = subprocess.DEVNULL
        return self.site.host(role).popen(argv, env=self._environment(role), stdout=null, stderr=null)

    def _environment(self, role: Role) -> dict[str, str]:
        directory = self.site.tunnel.directory / f"etc-{role}"
        return {**self.site.tunnel.environment(role), "RSOCK_NF_CONFIG_DIR": str(directory)}


@pytest.fixture
def hosts(build: Build) -> Hosts:
    return Hosts(build(up=False))


@pytest.fixture
def line(hosts: Hosts) -> str:
    target = "{}:{}".format(*TARGET)
    return hosts.run("server", "init", "custom", "--public", SERVER_IP[4], "--target", target, "--name", "vpn").stdout


def test_from_nothing_to_traffic(hosts: Hosts, line: str) -> None:
    told = hosts.run("client", "join", "-", line=line).stdout
    assert "Send the application's datagrams to {}:{}.".format(*LISTEN) in told
    assert hosts.run("server", "up", "vpn").stdout == "vpn: up: TCP ports 10001-10010\n"
    said = hosts.run("client", "up", "vpn").stdout
    seen = re.escape(ROUTER_OUTSIDE_IP[4])
    assert re.fullmatch(
        rf"vpn: up: \d+/10 flows(, RTT [\d.]+ ms)?, the server sees you as {seen}, WireGuard MTU \d+\n", said
    ), said
    hosts.site.carries(200)
    (session,) = json.loads(hosts.run("client", "status", "vpn", "--json").stdout)["sessions"]
    assert session["seen_as"] == ROUTER_OUTSIDE_IP[4]
    assert hosts.run("client", "down", "vpn").stdout == "vpn: stopped\n"
    assert hosts.run("server", "down", "vpn").stdout == "vpn: stopped\n"
    hosts.site.no_offence()


def test_a_wrong_secret_ends_up_at_once_and_wait_goes_on(hosts: Hosts, line: str) -> None:
    hosts.run("client", "join", line.strip())
    hosts.run(
        "server", "init", "custom", "--public", SERVER_IP[4], "--target", "127.0.0.1:9", "--name", "vpn", "--force"
    )
    hosts.run("server", "up", "vpn")
    said = hosts.run("client", "up", "vpn", "--timeout", "600", status=1).stderr
    assert re.search(r"instance vpn does not come up: .* leaves our hellos unanswered: are secret, wire and", said)
    waiting = hosts.start("client", "up", "--wait", "vpn")
    try:
        wait_until(lambda: status_of(hosts).get("hopeless") is True, "the reason", 60)
        assert waiting.poll() is None
    finally:
        waiting.terminate()
        waiting.wait(30)
    hosts.run("server", "down", "vpn")


def status_of(hosts: Hosts) -> dict[str, Any]:
    found = json.loads(hosts.run("client", "status", "vpn", "--json", status=None).stdout)
    assert isinstance(found, dict)
    return found

"""Boot without network: ``up --foreground`` and ``up --wait`` wait for what the host does not have yet, and say so."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.lab.lab import CLIENT_IP, DEVICE, ROUTER_INSIDE_IP, ROUTER_OUTSIDE_IP, SERVER_IP
from rsock_nf.lab.tunnel import Role
from tests.netns.conftest import Site
from tests.netns.judges import wait_until
from tests.netns.resolver import ETC, resolver

Build = Callable[..., Site]
DOWN = f"link set {DEVICE} down"


class Waiting:
    """``rsock-nf up WORDS`` of one end, which waits."""

    def __init__(self, site: Site, role: Role, *words: str) -> None:
        self.site = site
        self.role: Role = role
        self._output = site.tunnel.directory / f"up-{role}.txt"
        command = [sys.executable, "-m", "rsock_nf", "up", *words, "--config", str(site.tunnel.config(role))]
        with self._output.open("w") as output:
            self.process = site.host(role).popen(
                command, env=site.tunnel.environment(role), stdout=output, stderr=subprocess.STDOUT
            )

    def says(self, text: str, seconds: float = 30) -> None:
        try:
            wait_until(lambda: text in self.text(), repr(text), seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it says: {self.text()}") from None

    def text(self) -> str:
        return self._output.read_text()

    def state(self) -> str:
        with contextlib.suppress(Exception):  # it is not there yet
            return str(self.site.tunnel.status(self.role)["state"])
        return ""

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


def files(site: Site, role: Role) -> list[Path]:
    """What it left, but logs."""
    found = [path for path in (site.tunnel.directory / f"run-{role}").rglob("*") if not path.is_dir()]
    return [path for path in found if "log" not in path.name]


def tables(site: Site, role: Role) -> str:
    return site.host(role).run(["nft", "list", "tables"]).stdout


@pytest.fixture
def dark(build: Build, tmp_path: Path) -> Iterator[Callable[..., tuple[Site, Any]]]:
    """A site whose server stands, and whose client has no device that is up, hence no route, and no resolver."""
    with contextlib.ExitStack() as stack:

        def make(**client: Any) -> tuple[Site, Any]:
            site = build(up=False, client={"server": "srv.test", **client})
            dns = stack.enter_context(resolver(site.lab.client, tmp_path))
            dns.name(srv=[SERVER_IP[4]])
            site.tunnel.up("server")
            stack.callback(site.tunnel.end, "server")
            site.lab.client.ip(DOWN, f"addr flush dev {DEVICE}")
            return site, dns

        yield make


@pytest.mark.parametrize("kinds", ["tcp", "udp"])
def test_a_client_waits_for_resolver_and_device_and_route_one_after_another(
    dark: Callable[..., tuple[Site, Any]], kinds: str
) -> None:
    site, dns = dark(type=kinds)
    waiting = Waiting(site, "client", "--foreground")
    waiting.says("waiting: cannot resolve srv.test: ")
    wait_until(lambda: waiting.state() == "waiting", "the state")
    assert "cannot resolve srv.test" in site.tunnel.status("client")["reason"]
    dns.start()
    waiting.says(f"waiting: no route to {SERVER_IP[4]}")
    site.lab.client.ip(f"link set {DEVICE} up")
    site.lab.client.ip(f"addr add {CLIENT_IP[4]}/24 dev {DEVICE}")
    assert waiting.process.poll() is None
    site.lab.client.ip(f"route add default via {ROUTER_INSIDE_IP[4]}")
    if kinds == "tcp":
        wait_until(lambda: waiting.state() == "connected", "the tunnel")
        site.carries(200)
    else:
        wait_until(lambda: waiting.state() == "connecting", "dialling: the router lets no UDP pass")
    assert waiting.end() == 0
    assert files(site, "client") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_and_nothing_is_left(
    dark: Callable[..., tuple[Site, Any]], number: signal.Signals
) -> None:
    site, _ = dark()
    waiting = Waiting(site, "client", "--foreground")
    waiting.says("waiting: ")
    assert waiting.end(number) == 0
    assert files(site, "client") == []
    assert "rsock" not in tables(site, "client")


def test_a_signal_ends_the_wait_for_a_resolver_that_hangs(dark: Callable[..., tuple[Site, Any]]) -> None:
    site, _ = dark()
    site.lab.client.ip(
        f"link set {DEVICE} up",
        f"addr add {CLIENT_IP[4]}/24 dev {DEVICE}",
        f"route add default via {ROUTER_INSIDE_IP[4]}",
    )
    resolv = ETC / site.lab.client.name / "resolv.conf"
    resolv.write_text(f"nameserver {SERVER_IP[4]}\noptions timeout:30\n")  # the router drops UDP
    waiting = Waiting(site, "client", "--foreground")
    waiting.says("waiting: cannot resolve srv.test: the resolver does not answer")
    wait_until(lambda: waiting.state() == "waiting", "the state")
    assert waiting.end() == 0
    assert files(site, "client") == []


def test_the_terminal_is_told_although_the_log_is_a_file(dark: Callable[..., tuple[Site, Any]]) -> None:
    site, _ = dark(log={"file": "client.log"})
    waiting = Waiting(site, "client", "--foreground")
    waiting.says("rsock-nf: waiting: cannot resolve srv.test: ")
    assert waiting.end() == 0


def test_in_the_background_up_returns_when_it_is_up(dark: Callable[..., tuple[Site, Any]]) -> None:
    site, dns = dark()
    waiting = Waiting(site, "client", "--wait")
    waiting.says("rsock-nf: waiting: cannot resolve srv.test: ")
    dns.start()
    waiting.says(f"rsock-nf: waiting: no route to {SERVER_IP[4]}")
    site.lab.client.ip(f"link set {DEVICE} up")
    site.lab.client.ip(f"addr add {CLIENT_IP[4]}/24 dev {DEVICE}", f"route add default via {ROUTER_INSIDE_IP[4]}")
    assert waiting.process.wait(60) == 0
    last = waiting.text().splitlines()[-1]
    assert re.match(rf"client: up: \d+/10 flows, .*the server sees you as {ROUTER_OUTSIDE_IP[4]}, ", last), last
    site.carries(200)
    site.tunnel.end("client")


def test_a_wait_with_a_limit_ends_with_the_reason(dark: Callable[..., tuple[Site, Any]]) -> None:
    site, dns = dark()
    dns.start()
    done = site.tunnel.command(
        "client", "up", "--wait", "--timeout", "3", "--config", str(site.tunnel.config("client")), check=False
    )
    assert done.returncode == 1
    assert f"is not up within 3 s: no route to {SERVER_IP[4]}" in done.stderr
    assert files(site, "client") == []


def test_without_wait_it_fails_at_once_and_names_the_option(dark: Callable[..., tuple[Site, Any]]) -> None:
    site, dns = dark()
    up = ("up", "--config", str(site.tunnel.config("client")))
    for missing in ("cannot resolve", "no route to"):
        done = site.tunnel.command("client", *up, check=False)
        assert done.returncode == 1
        assert missing in done.stderr
        assert "`rsock-nf up --wait` waits for it" in done.stderr
        dns.start()
    assert files(site, "client") == []


@pytest.mark.parametrize("key", ["device", "addresses"])
def test_a_device_and_an_address_are_waited_for(dark: Callable[..., tuple[Site, Any]], key: str) -> None:
    value: Any = {"device": "late0", "addresses": [CLIENT_IP[4]]}[key]
    site, _ = dark(server=SERVER_IP[4], **{key: value})
    site.lab.client.ip(f"link set {DEVICE} up", f"addr add 10.77.1.9/24 dev {DEVICE}")
    site.lab.client.ip(f"route add default via {ROUTER_INSIDE_IP[4]}")
    waiting = Waiting(site, "client", "--foreground")
    waiting.says({"device": "waiting: late0: no such device", "addresses": f"{CLIENT_IP[4]} is not an address"}[key])
    if key == "device":
        site.lab.client.ip(f"link set {DEVICE} down", f"link set {DEVICE} name late0")
        waiting.says("late0: the device is down")
        site.lab.client.ip("link set late0 up", f"route add default via {ROUTER_INSIDE_IP[4]}")
    else:
        site.lab.client.ip(f"addr add {CLIENT_IP[4]}/24 dev {DEVICE}")
    wait_until(lambda: waiting.state() == "connected", "the tunnel")
    assert waiting.end() == 0


def test_a_server_waits_for_its_address(build: Build) -> None:
    site = build(up=False, server={"addresses": [SERVER_IP[4]], "type": "udp"}, client={"type": "udp"})
    site.lab.server.ip(f"addr del {SERVER_IP[4]}/24 dev {DEVICE}")
    waiting = Waiting(site, "server", "--foreground")
    waiting.says(f"waiting: cannot serve UDP on {SERVER_IP[4]}")
    site.lab.server.ip(f"addr add {SERVER_IP[4]}/24 dev {DEVICE}", f"route replace default via {ROUTER_OUTSIDE_IP[4]}")
    wait_until(lambda: waiting.state() == "serving", "the server")
    assert waiting.end() == 0


def test_a_server_waits_for_the_name_of_its_target(build: Build, tmp_path: Path) -> None:
    site = build(up=False, server={"target": "app.test:9999"})
    with resolver(site.lab.server, tmp_path) as dns:
        dns.start()
        waiting = Waiting(site, "server", "--foreground")
        waiting.says("waiting: cannot resolve app.test: ")
        dns.name(app=["127.0.0.1"])
        wait_until(lambda: waiting.state() == "serving", "the server")
        site.tunnel.up("client")
        site.carries(200)
        site.tunnel.end("client")
        assert waiting.end() == 0


def test_what_can_only_be_wrong_is_an_error_at_once(dark: Callable[..., tuple[Site, Any]]) -> None:
    site, _ = dark()
    site.tunnel.rewrite("client", server="x" * 64 + ".test")
    done = site.tunnel.command(
        "client", "up", "--foreground", "--config", str(site.tunnel.config("client")), check=False
    )
    assert done.returncode == 2
    assert files(site, "client") == []
